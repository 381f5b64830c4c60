/**
 * The catalog that is always there: what was last known of every server is listed the moment the gateway listens,
 * changes reach exactly those whose tools they change, and long lists come in pages that lose nothing.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { createDiskCache, type CachedServer, type CacheStore } from '../src/catalog/disk-cache.js'
import { createViews } from '../src/catalog/view.js'
import type { ServerConfig } from '../src/config/schema.js'
import { SwitchboardError } from '../src/errors.js'
import type { Link } from '../src/upstream/link.js'
import { KeptOffer } from '../src/upstream/kept-offer.js'
import { start as startHttpModern } from './fixtures/http-modern.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import { start as startRawModern } from './fixtures/raw-modern.mjs'
import { start as startSseLegacy } from './fixtures/sse-legacy.mjs'
import type { RawHttp, RawModern } from './fixtures/types.d.mts'
import { bearer, envelope, modern, openSession } from './helpers/http.js'
import { connectClient, openStream, startScripted, type Stream } from './helpers/matrix.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const adminKey = `keys: { admin: { secret: "\${ADMIN}", allow: "*" } }`
const inputSchema = { type: 'object', properties: {} }
const toolsNamed = (names: readonly string[]) => names.map(name => ({ name, description: `Tool ${name}`, inputSchema }))

let dir: string
const open: { close(): unknown }[] = []

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'switchboard-catalog-'))
})
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
  rmSync(dir, { recursive: true, force: true })
})

/** Ends it after the test, unless the test does. */
function keep<T extends { close(): unknown }>(each: T): T {
  open.push(each)
  return each
}

/** A gateway over the state directory of this test. */
async function startOver(servers: object, keys = adminKey): Promise<TestGateway> {
  const yaml = `servers: ${JSON.stringify(servers)}\n${keys}\n`
  return keep(await startTestGateway(yaml, { stateDir: dir }))
}

/** Runs a gateway until every server has listed its tools, and ends it. */
async function learn(servers: object): Promise<void> {
  const gateway = await startOver(servers)
  for (const id of Object.keys(servers)) await gateway.until(id)
  await gateway.close()
}

async function listed(url: string, secret = secrets.ADMIN, path = '/mcp'): Promise<any[]> {
  const session = await openSession(url, secret, { path })
  return (await session.rpc('tools/list')).json.result.tools
}

const names = (tools: readonly any[]) => tools.map(({ name }) => name as string)

/** A stdio server that can be taken away: the program behind the same command is gone. */
function removableProgram(name: string) {
  const file = join(dir, name)
  writeFileSync(file, `await import(${JSON.stringify(pathToFileURL(fixture('stdio-legacy.mjs')).href)})\n`)
  return { file, remove: () => rmSync(file) }
}

describe('a gateway that is started again', () => {
  test('with every server dead listens at once, lists everything as before, and says why a call fails (§6.10)', async () => {
    const program = removableProgram('files.mjs')
    const sse = keep(await startSseLegacy())
    const http = keep(await startHttpModern())
    const servers = {
      files: { command: process.execPath, args: [program.file] },
      old: { url: sse.url, transport: 'sse' },
      web: { url: http.url }
    }
    const first = await startOver(servers)
    for (const id of Object.keys(servers)) await first.until(id)
    const before = await listed(first.url)
    const modernBefore = (await modern(first.url, secrets.ADMIN, 'tools/list')).json.result.tools
    expect(new Set(names(before).map(name => name.split('__')[0]))).toEqual(new Set(['files', 'old', 'web']))
    await first.close()
    await Promise.all([sse.close(), http.close()])
    program.remove()

    const begun = performance.now()
    const second = await startOver(servers)
    const after = await listed(second.url)
    // The bound is 500 ms for a process; here it is asserted with a margin of five.
    expect(performance.now() - begun).toBeLessThan(2500)
    expect(JSON.stringify(after)).toBe(JSON.stringify(before))
    expect((await modern(second.url, secrets.ADMIN, 'tools/list')).json.result.tools).toEqual(modernBefore)

    for (const id of Object.keys(servers)) {
      const { result } = (await modern(second.url, secrets.ADMIN, 'tools/call', { name: `${id}__echo` })).json
      expect(result).toMatchObject({
        isError: true,
        _meta: { 'switchboard/error': { code: -31503, server: id, dispatched: false } }
      })
      expect(result.content[0].text).toContain(`Server "${id}"`)
    }
    expect(names(await listed(second.url))).toEqual(names(before))
  })

  test('lists a server that takes 5 s to start at once, and a call to it waits and succeeds', async () => {
    const slow = (ms: number) => ({
      slow: {
        command: process.execPath,
        args: [fixture('raw-stdio.mjs'), '--mode', 'slow-start'],
        env: { START_MS: String(ms) }
      }
    })
    await learn(slow(0))
    const gateway = await startOver(slow(5000))
    const begun = performance.now()
    expect(names(await listed(gateway.url))).toContain('slow__echo')
    expect(performance.now() - begun).toBeLessThan(2500)
    expect(gateway.gateway.status()[0]?.state).toBe('starting')
    const { json } = await modern(gateway.url, secrets.ADMIN, 'tools/call', {
      name: 'slow__echo',
      arguments: { message: 'worth the wait' }
    })
    expect(json.result).toMatchObject({ content: [{ text: 'worth the wait' }] })
    expect(json.result.isError).toBeUndefined()
    expect(performance.now() - begun).toBeGreaterThan(4500)
  })

  test('has forgotten the tools of a server whose command or url is another, and only those', async () => {
    const web = keep(await startRawHttp())
    const same = keep(await startRawModern())
    const raw = fixture('raw-stdio.mjs')
    await learn({
      program: { command: process.execPath, args: [raw] },
      web: { url: web.url },
      same: { url: same.url }
    })
    await Promise.all([web.close(), same.close()])
    const gateway = await startOver({
      program: { command: process.execPath, args: [raw, '--mode', 'exit-at-start'] },
      web: { url: `${web.url}/v2` },
      same: { url: same.url }
    })
    const tools = names(await listed(gateway.url))
    expect(tools).toContain('same__echo')
    expect(tools.filter(name => !name.startsWith('same__'))).toEqual([])
  })

  test('keeps the last complete list when a server breaks off in the middle of its pages', async () => {
    let whole = true
    const server = keep(
      await startScripted('legacy', (method, params) => {
        if (method !== 'tools/list') return { error: { code: -32601, message: 'Method not found' } }
        if (params?.cursor === undefined)
          return { result: { tools: toolsNamed(whole ? ['a', 'b'] : ['a', 'new']), nextCursor: 'two' } }
        return whole ? { result: { tools: toolsNamed(['c']) } } : { error: { code: -32603, message: 'disk full' } }
      })
    )
    const servers = { paged: { url: server.url, transport: 'http' } }
    const complete = ['paged__a', 'paged__b', 'paged__c']
    await learn(servers)
    whole = false
    const second = await startOver(servers)
    await second.until('paged')
    expect(names(await listed(second.url))).toEqual(complete)
    expect(second.gateway.status()[0]?.problem).toContain('disk full')
    await second.close()
    await server.close()
    const third = await startOver(servers)
    expect(names(await listed(third.url))).toEqual(complete)
  })

  test('does not serve a list that was left behind damaged, and starts all the same', async () => {
    const web = keep(await startRawHttp())
    const servers = { web: { url: web.url } }
    await learn(servers)
    await web.close()
    writeFileSync(join(dir, 'state', 'catalog.json'), readFileSync(join(dir, 'state', 'catalog.json')).subarray(0, 99))
    const gateway = await startOver(servers)
    expect(await listed(gateway.url)).toEqual([])
  })
})

describe('what is kept on disk of a server', () => {
  const day = 24 * 3600 * 1000
  const config = { id: 'files', command: 'node', args: ['server.mjs'] } as unknown as ServerConfig
  const offer = { tools: toolsNamed(['echo']), capabilities: { tools: {} }, instructions: 'Be brief.' }
  const entry = (at: number): CachedServer => ({
    offer,
    confirmed: at,
    verdict: { era: 'legacy', transport: 'stdio', at }
  })
  let files: Map<string, Buffer>
  let store: CacheStore

  beforeEach(() => {
    files = new Map()
    store = {
      read: name => files.get(name),
      write: (name, bytes) => void files.set(name, Buffer.from(bytes))
    }
    const cache = createDiskCache(store, () => 0)
    cache.put(config, entry(0))
    cache.flush()
  })

  const later = (ms: number) => createDiskCache(store, () => ms)

  test('is dropped when 30 days have passed since the server confirmed it', () => {
    expect(later(30 * day).get(config)?.offer).toEqual(offer)
    expect(later(30 * day + 1).get(config)).toBeUndefined()
  })

  test('counts from the last confirmation, also of a list that did not change', () => {
    const cache = later(29 * day)
    cache.put(config, { ...entry(29 * day), offer })
    cache.flush()
    expect(later(58 * day).get(config)?.offer).toEqual(offer)
  })

  test('includes what it speaks, for a day', () => {
    expect(later(day - 1).get(config)?.verdict).toMatchObject({ era: 'legacy', transport: 'stdio' })
    expect(later(day + 1).get(config)).toEqual({ offer, confirmed: 0 })
  })

  test.each([
    ['command', { ...config, command: 'deno' }],
    ['arguments', { ...config, args: ['server.mjs', '--all'] }],
    ['url', { ...config, url: 'http://127.0.0.1:1/mcp' }]
  ])('belongs to its %s', (_, changed) => {
    expect(later(0).get(changed)).toBeUndefined()
  })

  test.each([
    '',
    '[]',
    '{"version":1,"servers":{}}',
    '{"version":2,"servers":{"files":{"digest":"","confirmed":0,"offer":{"tools":[1]}}}}',
    '{"version":2'
  ])('is nothing when the file says %j', text => {
    files.set('catalog.json', Buffer.from(text))
    expect(later(0).get(config)).toBeUndefined()
  })
})

describe('clients with an open stream', () => {
  let web: RawHttp
  let gateway: TestGateway
  const streams: Record<string, Stream> = {}

  const keys = `
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: { web: [echo] } }
  other: { secret: "\${OTHER}", allow: { calm: "*" } }
`
  const told = (stream: Stream) =>
    stream.messages.filter(({ method }) => method === 'notifications/tools/list_changed').length
  const count = () => Object.fromEntries(Object.entries(streams).map(([name, stream]) => [name, told(stream)]))
  const nobody = {
    'admin, 2025': 0,
    'admin, 2026': 0,
    'admin, SSE': 0,
    'admin, only calm': 0,
    'developer, 2025': 0,
    'developer, 2026': 0,
    'other, 2025': 0
  }

  async function listenModern(secret: string): Promise<Stream> {
    const body = {
      jsonrpc: '2.0',
      id: 'sub',
      method: 'subscriptions/listen',
      params: { notifications: { toolsListChanged: true }, _meta: envelope }
    }
    const headers = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'subscriptions/listen' }
    const stream = await openStream(`${gateway.url}/mcp`, { ...bearer(secret), ...headers }, body)
    await stream.until(1)
    return stream
  }

  async function listenLegacy(secret: string, path = '/mcp'): Promise<Stream> {
    const session = await openSession(gateway.url, secret, { path })
    await session.rpc('tools/list')
    return openStream(gateway.url + path, session.headers)
  }

  beforeEach(async () => {
    web = keep(await startRawHttp())
    const calm = keep(await startRawModern())
    gateway = await startOver({ web: { url: web.url }, calm: { url: calm.url } }, keys)
    await gateway.until('web')
    await gateway.until('calm')
    await waitFor(() => web.streams.size === 1, 'the stream to the server')
    streams['admin, 2025'] = await listenLegacy(secrets.ADMIN)
    streams['admin, 2026'] = await listenModern(secrets.ADMIN)
    streams['admin, SSE'] = await openStream(`${gateway.url}/sse`, bearer(secrets.ADMIN))
    streams['admin, only calm'] = await listenLegacy(secrets.ADMIN, '/mcp?servers=calm')
    streams['developer, 2025'] = await listenLegacy(secrets.DEVELOPER)
    streams['developer, 2026'] = await listenModern(secrets.DEVELOPER)
    streams['other, 2025'] = await listenLegacy(secrets.OTHER)
    for (const stream of Object.values(streams)) keep(stream)
  })

  const fetches = () => web.requests.filter(({ message }) => message?.method === 'tools/list').length
  /** The server says its list has changed; resolves when the gateway has fetched it and had time to tell. */
  async function changed(): Promise<void> {
    const before = fetches()
    web.notify()
    await waitFor(() => fetches() > before, 'the list to be fetched again', 8000)
    await new Promise(resolve => setTimeout(resolve, 200))
  }

  test('are told of a new tool only if their key sees it (§6.34)', async () => {
    web.tools.push(...toolsNamed(['fresh']))
    await changed()
    await expect
      .poll(count, { timeout: 5000 })
      .toEqual({ ...nobody, 'admin, 2025': 1, 'admin, 2026': 1, 'admin, SSE': 1 })

    web.tools = web.tools.map(tool => (tool.name === 'echo' ? { ...tool, description: 'Says it again.' } : tool))
    await changed()
    await expect.poll(count, { timeout: 5000 }).toEqual({
      ...nobody,
      'admin, 2025': 2,
      'admin, 2026': 2,
      'admin, SSE': 2,
      'developer, 2025': 1,
      'developer, 2026': 1
    })
  })

  test('are told once of many changes that come together', async () => {
    const before = fetches()
    for (let i = 0; i < 20; i++) {
      web.tools.push(...toolsNamed([`burst_${i}`]))
      web.notify()
    }
    await waitFor(() => fetches() > before, 'the list to be fetched again', 8000)
    await new Promise(resolve => setTimeout(resolve, 2500))
    expect(fetches()).toBe(before + 1)
    expect(count()['admin, 2025']).toBe(1)
  })

  test('hear nothing when the list that was fetched again is the same, be it in another order', async () => {
    const before = names(await listed(gateway.url))
    await changed()
    web.tools.reverse()
    await changed()
    expect(count()).toEqual(nobody)
    expect(names(await listed(gateway.url))).toEqual(before)
  })

  test('hear nothing of a server that comes and goes with the same tools', async () => {
    const { port } = web
    for (let round = 0; round < 2; round++) {
      await web.close()
      await gateway.until('web', 'down')
      web = keep(await startRawHttp({ port }))
      await gateway.until('web')
    }
    expect(count()).toEqual(nobody)
    expect(Object.values(streams).every(stream => !stream.ended())).toBe(true)
  })
})

describe('a client of 2025 that had no stream when the tools changed', () => {
  let web: RawHttp
  let gateway: TestGateway
  beforeEach(async () => {
    web = keep(await startRawHttp())
    gateway = await startOver({ web: { url: web.url } })
    await gateway.until('web')
    await waitFor(() => web.streams.size === 1, 'the stream to the server')
  })

  const grow = async (name: string) => {
    web.tools.push(...toolsNamed([name]))
    web.notify()
    await waitFor(() => gateway.gateway.catalog().byPublicName(`web__${name}`) !== undefined, 'the new catalog', 8000)
  }
  const streamOf = async ({ headers }: { headers: Record<string, string> }) =>
    keep(await openStream(`${gateway.url}/mcp`, headers))
  const quiet = () => new Promise(resolve => setTimeout(resolve, 300))

  test('is told as soon as it opens one, and only if it has not listed since', async () => {
    const behind = await openSession(gateway.url, secrets.ADMIN)
    const current = await openSession(gateway.url, secrets.ADMIN)
    await behind.rpc('tools/list')
    await grow('fresh')
    await current.rpc('tools/list')
    const [told, notTold] = [await streamOf(behind), await streamOf(current)]
    expect(await told.until(1)).toEqual([{ jsonrpc: '2.0', method: 'notifications/tools/list_changed' }])
    await quiet()
    expect(notTold.messages).toEqual([])

    told.close()
    await behind.rpc('tools/list')
    const again = await streamOf(behind)
    await quiet()
    expect(again.messages).toEqual([])
  })

  test('goes on with its session after a restart of the gateway, and is told at once to list anew (§6.56)', async () => {
    const session = await openSession(gateway.url, secrets.ADMIN)
    await session.rpc('tools/list')
    await gateway.close()
    gateway = await startOver({ web: { url: web.url } })
    const stream = await streamOf(session)
    expect(stream.status).toBe(200)
    expect(await stream.until(1)).toEqual([{ jsonrpc: '2.0', method: 'notifications/tools/list_changed' }])
    await gateway.until('web')
    const headers = session.headers
    const called = await (
      await fetch(`${gateway.url}/mcp`, {
        method: 'POST',
        headers: { ...headers, 'content-type': 'application/json', accept: 'application/json, text/event-stream' },
        body: JSON.stringify({
          jsonrpc: '2.0',
          id: 9,
          method: 'tools/call',
          params: { name: 'web__echo', arguments: { message: 'as if nothing had happened' } }
        })
      })
    ).json()
    expect(called).toMatchObject({ id: 9, result: { content: [{ text: 'as if nothing had happened' }] } })
  })
})

describe('how long a list of 2026-07-28 may be kept', () => {
  let server: RawModern
  let gateway: TestGateway
  beforeEach(async () => {
    server = await startRawModern()
    onTestFinished(() => server.close())
  })

  async function ttl(method = 'tools/list') {
    const { result } = (await modern(gateway.url, secrets.ADMIN, method)).json
    expect(result.cacheScope).toBe('private')
    expect(Number.isInteger(result.ttlMs)).toBe(true)
    return result.ttlMs as number
  }

  test('is said honestly: above 0, at most a minute, and not longer than its servers say', async () => {
    server.ttlMs = 5000
    gateway = await startOver({ up: { url: server.url } })
    await gateway.until('up')
    expect(await ttl()).toBeGreaterThan(0)
    expect(await ttl()).toBeLessThanOrEqual(5000)
    expect(await ttl('server/discover')).toBeGreaterThan(0)
    expect(await ttl('server/discover')).toBeLessThanOrEqual(60_000)
  })

  test('is never more than a minute, however long a server promises', async () => {
    server.ttlMs = 24 * 3600 * 1000
    gateway = await startOver({ up: { url: server.url } })
    await gateway.until('up')
    expect(await ttl()).toBe(60_000)
    await server.close()
    await modern(gateway.url, secrets.ADMIN, 'tools/call', { name: 'up__echo' })
    await gateway.until('up', 'down')
    expect(await ttl()).toBeGreaterThan(0)
    expect(await ttl()).toBeLessThan(60_000)
  })
})

describe('the list of a server is asked for', () => {
  const minute = 60_000
  let asked: number[]
  let tools: unknown[]
  let fails: boolean
  let failure: Error
  let list: KeptOffer
  const changes: boolean[] = []
  const problems: (string | undefined)[] = []
  const gone: string[] = []

  interface Nature {
    readonly era?: 'legacy' | 'modern'
    readonly hears?: boolean
    readonly listChanged?: boolean
    readonly ttlMs?: number
    /** The server agrees to a subscription. */
    readonly subscribes?: boolean
  }

  /** A connection to a server of that nature, made of nothing but answers. */
  function linkTo({ era = 'legacy', hears = false, listChanged = false, ttlMs, subscribes = false }: Nature): Link {
    return {
      info: { era, version: '', capabilities: { tools: { listChanged } }, serverInfo: {} },
      hears,
      close: () => Promise.resolve(),
      request(method, _params, leg) {
        if (method === 'subscriptions/listen') {
          leg.onNotification?.({
            jsonrpc: '2.0',
            method: 'notifications/subscriptions/acknowledged',
            params: { notifications: subscribes ? { toolsListChanged: true } : {} }
          })
          return new Promise(() => {})
        }
        asked.push(Date.now())
        if (fails) return Promise.reject(failure)
        return Promise.resolve({ result: { tools, ...(ttlMs !== undefined && { ttlMs }) } })
      }
    }
  }

  async function follow(nature: Nature): Promise<void> {
    await list.follow(linkTo(nature))
    asked.length = 0
  }
  const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms)

  beforeEach(() => {
    vi.useFakeTimers()
    asked = []
    tools = toolsNamed(['echo'])
    fails = false
    failure = new Error('it is ill')
    changes.length = problems.length = gone.length = 0
    list = new KeptOffer({
      server: 'kept',
      identity: { name: 'switchboard', version: '0' },
      limits: { timeoutMs: 15_000, listItems: 10_000, listPages: 100 },
      onFetched: changed => changes.push(changed),
      onProblem: problem => problems.push(problem),
      onGone: reason => gone.push(reason)
    })
  })
  afterEach(() => {
    list.leave()
    vi.useRealTimers()
  })

  test('every minute, more or less, if it never tells of changes', async () => {
    await follow({})
    const begun = Date.now()
    for (let i = 0; i < 60; i++) {
      list.used()
      await pass(minute)
    }
    const gaps = asked.map((at, i) => at - (asked[i - 1] ?? begun))
    expect(asked.length).toBeGreaterThanOrEqual(50)
    expect(asked.length).toBeLessThanOrEqual(75)
    expect(Math.min(...gaps)).toBeGreaterThanOrEqual(0.8 * minute)
    expect(Math.max(...gaps)).toBeLessThanOrEqual(1.2 * minute)
    expect(new Set(gaps).size).toBeGreaterThan(10)
    expect(changes.slice(1)).not.toContain(true)
  })

  test('and what has changed meanwhile is told', async () => {
    await follow({})
    tools = toolsNamed(['echo', 'fresh'])
    await pass(1.2 * minute)
    expect(changes).toEqual([true, true])
    expect(list.offer.tools).toHaveLength(2)
  })

  test('no longer when nobody has read the list for ten minutes, and again when somebody does', async () => {
    await follow({})
    await pass(11 * minute)
    const before = asked.length
    await pass(60 * minute)
    expect(asked.length - before).toBeLessThanOrEqual(1)
    const idle = asked.length
    list.used()
    await pass(2000)
    expect(asked.length).toBe(idle + 1)
  })

  test('only every ten minutes if it tells of changes', async () => {
    await follow({ hears: true, listChanged: true })
    for (let i = 0; i < 61; i++) {
      list.used()
      await pass(minute)
    }
    expect(asked.length).toBe(6)
  })

  test('every minute if it would tell but its stream is not to be had', async () => {
    await follow({ hears: false, listChanged: true })
    await pass(1.2 * minute)
    expect(asked.length).toBe(1)
  })

  test('when a modern server says that its list has aged', async () => {
    await follow({ era: 'modern', ttlMs: 5000 })
    await pass(4999)
    expect(asked.length).toBe(0)
    await pass(1)
    expect(asked.length).toBe(1)
  })

  test('not more often than every two seconds, whatever a modern server says of its age', async () => {
    await follow({ era: 'modern', ttlMs: 1 })
    await pass(20_000)
    expect(asked.length).toBeGreaterThan(5)
    expect(asked.length).toBeLessThanOrEqual(10)
  })

  test('only every ten minutes if a modern server has agreed to tell', async () => {
    await follow({ era: 'modern', listChanged: true, subscribes: true })
    for (let i = 0; i < 21; i++) {
      list.used()
      await pass(minute)
    }
    expect(asked.length).toBe(2)
  })

  test('every minute if a modern server did not agree to tell', async () => {
    await follow({ era: 'modern', listChanged: true, subscribes: false })
    await pass(1.2 * minute)
    expect(asked.length).toBe(1)
  })

  test('once for a hundred notifications in a row, and at most every two seconds', async () => {
    await follow({ hears: true, listChanged: true })
    await pass(5000)
    for (let i = 0; i < 100; i++) {
      list.notified({ jsonrpc: '2.0', method: 'notifications/tools/list_changed' })
      await pass(1)
    }
    await pass(250)
    expect(asked.length).toBe(1)
    list.notified({ jsonrpc: '2.0', method: 'notifications/tools/list_changed' })
    await pass(1000)
    expect(asked.length).toBe(1)
    await pass(1000)
    expect(asked.length).toBe(2)
  })

  test('less and less often while it answers with errors, and the last list stays', async () => {
    await follow({ hears: true, listChanged: true })
    fails = true
    list.notified({ jsonrpc: '2.0', method: 'notifications/tools/list_changed' })
    for (let i = 0; i < 5; i++) {
      list.used()
      await pass(minute)
    }
    expect(asked.length).toBeGreaterThanOrEqual(5)
    expect(asked.length).toBeLessThanOrEqual(15)
    expect(list.offer.tools).toEqual(tools)
    expect(problems.at(-1)).toContain('it is ill')
    fails = false
    await pass(2 * minute)
    expect(problems.at(-1)).toBeUndefined()
  })

  test('in vain if it cannot be reached at all: its owner hears of it, and the last list stays', async () => {
    await follow({ era: 'modern', ttlMs: 5000 })
    fails = true
    failure = new SwitchboardError('upstream_down', 'nothing listens at its address')
    await pass(5000)
    expect(gone).toEqual(['nothing listens at its address'])
    expect(list.offer.tools).toEqual(tools)
  })

  test('no longer when its connection is gone, and the last list stays', async () => {
    await follow({})
    list.leave()
    await pass(60 * minute)
    expect(asked).toEqual([])
    expect(list.offer.tools).toEqual(tools)
  })
})

describe('1,200 tools over three servers', () => {
  const count = 400
  const keys = `
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: { two: [ "tool_1*" ] } }
`
  const wireNames = Array.from({ length: count }, (_, i) => `tool_${i}`)
  const all = ['one', 'two', 'three'].flatMap(id => wireNames.map(name => `${id}__${name}`))
  let servers: { one: RawHttp; two: RawModern; three: RawHttp }
  let gateway: TestGateway

  beforeEach(async () => {
    servers = {
      one: keep(await startRawHttp()),
      two: keep(await startRawModern()),
      three: keep(await startRawHttp())
    }
    for (const server of Object.values(servers)) server.tools = toolsNamed(wireNames)
    const config = Object.entries(servers).map(([id, { url }]) => [id, { url }])
    gateway = await startOver(Object.fromEntries(config) as object, keys)
    for (const id of Object.keys(servers)) await gateway.until(id)
  })

  /** One `tools/list` of either era. */
  type List = (params?: object) => Promise<any>

  async function lister(era: string, secret = secrets.ADMIN): Promise<List> {
    if (era === 'modern') return async params => (await modern(gateway.url, secret, 'tools/list', params)).json
    const session = await openSession(gateway.url, secret)
    return async params => (await session.rpc('tools/list', params)).json
  }

  async function walk(list: List): Promise<string[][]> {
    const pages: string[][] = []
    for (let cursor: string | undefined; ;) {
      const { result } = await list(cursor === undefined ? {} : { cursor })
      pages.push(names(result.tools))
      if (result.nextCursor === undefined) return pages
      cursor = result.nextCursor
    }
  }

  test.each(['legacy', 'modern'])('are walked page by page in order, each once, in the %s era (§6.22)', async era => {
    const pages = await walk(await lister(era))
    expect(pages.map(page => page.length)).toEqual([500, 500, 200])
    expect(pages.flat()).toEqual(all)
  })

  test('are all found by real clients that follow cursors', async () => {
    for (const kind of ['v2 legacy', 'v2 pinned'] as const) {
      const client = keep(await connectClient(kind, gateway.url, secrets.ADMIN))
      expect(names(await client.listTools())).toEqual(all)
    }
  })

  test('are fewer for a key that sees fewer, and one page if they fit on one', async () => {
    const pages = await walk(await lister('modern', secrets.DEVELOPER))
    expect(pages).toEqual([all.filter(name => name.startsWith('two__tool_1'))])
  })

  test.each(['legacy', 'modern'])(
    'are not begun anew in the %s era when a cursor is none of ours (§6.21)',
    async era => {
      const list = await lister(era)
      const own = (await list()).result.nextCursor as string
      const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
      const [{ k, a, r }] = [JSON.parse(Buffer.from(own, 'base64url').toString())]
      const foreign = [
        'garbage',
        '',
        'page-2',
        own.slice(0, -4),
        encode({}),
        encode(null),
        encode({ k: 'prompts', a, r }),
        encode({ k, a, r: -1 }),
        encode({ k, a: ['one'], r }),
        7,
        null
      ]
      for (const cursor of foreign) {
        const { error } = await list({ cursor })
        expect({ cursor, code: error?.code }).toEqual({ cursor, code: -32602 })
      }
      expect((await list({ cursor: own })).result.tools).toHaveLength(500)
    }
  )

  test('lose none when the tool at which a page ended goes away between two pages', async () => {
    const list = await lister('legacy')
    const first = (await list()).result
    const last = names(first.tools).at(-1) as string
    expect(last).toBe('two__tool_99')
    servers.two.tools = servers.two.tools.filter(({ name }) => name !== 'tool_99')
    servers.two.notify()
    await waitFor(() => gateway.gateway.catalog().byPublicName(last) === undefined, 'the new catalog', 8000)
    const rest = await walk(params => list({ cursor: first.nextCursor, ...params }))
    expect([...names(first.tools), ...rest.flat()]).toEqual(all)
  })

  test('are shown by one and the same view to keys that may the same', async () => {
    await gateway.close()
    gateway = await startOver(
      { two: { url: servers.two.url } },
      `
keys:
  admin: { secret: "\${ADMIN}", allow: { two: [ "tool_1*", "!tool_13" ] } }
  developer: { secret: "\${DEVELOPER}", allow: { two: { tools: [ "!tool_13", "tool_1*" ] } } }
  other: { secret: "\${OTHER}", allow: { two: [ "tool_1*" ] } }
`
    )
    const views = createViews(gateway.gateway.catalog())
    const scope = { key: '*', servers: undefined, plain: false }
    const view = (id: string) => views.view(gateway.gateway.keys().byId(id)?.policy as never, scope)
    expect(view('developer')).toBe(view('admin'))
    expect(view('other')).not.toBe(view('admin'))
    expect(view('developer').page('modern', undefined)).toBe(view('admin').page('modern', undefined))
  })
})

test('a page ends before half a megabyte, and no tool is lost at its end', async () => {
  const web = keep(await startRawHttp())
  web.tools = Array.from({ length: 12 }, (_, i) => ({
    name: `tool_${i}`,
    description: 'x'.repeat(100_000),
    inputSchema
  }))
  const gateway = await startOver({ web: { url: web.url } })
  await gateway.until('web')
  const found: string[] = []
  for (let cursor: string | undefined; ;) {
    const { text, json } = await modern(
      gateway.url,
      secrets.ADMIN,
      'tools/list',
      cursor === undefined ? {} : { cursor }
    )
    expect(text.length).toBeLessThan(600 * 1024)
    found.push(...names(json.result.tools))
    cursor = json.result.nextCursor
    if (cursor === undefined) break
  }
  expect(found).toEqual(web.tools.map(({ name }) => `web__${name}`))
})
