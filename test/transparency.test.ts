/**
 * What passes through the gateway as if it were not there, and what it adds of its own: names, the doors of 2024, limits
 * and codes. What the matrix and the tests of single parts show is not repeated here.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createSessions } from '../src/downstream/sessions.js'
import { errorTable } from '../src/errors.js'
import { createSealer } from '../src/wire/sealing.js'
import { start as startHttpLegacy } from './fixtures/http-legacy.mjs'
import { openLedger } from './fixtures/ledger.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import { start as startRawModern } from './fixtures/raw-modern.mjs'
import { start as startSseLegacy } from './fixtures/sse-legacy.mjs'
import { bigNumbersOnTheWire } from './fixtures/tools.mjs'
import type { RawHttp } from './fixtures/types.d.mts'
import { bearer, modern, openSession, post, raw } from './helpers/http.js'
import { openStream, serverKinds, startPair, type Stream } from './helpers/matrix.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const inputSchema = { type: 'object', properties: {} }

let gateway: TestGateway
const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

/** Ends it after the test, unless the test does. */
function keep<T extends { close(): unknown }>(each: T): T {
  open.push(each)
  return each
}

/** A gateway with an `admin` that may everything, and a `developer` that may what `granted` says. */
async function startWith(servers: object, granted: Record<string, string[]> = {}): Promise<TestGateway> {
  const keys = {
    admin: { secret: '${ADMIN}', allow: '*' },
    developer: { secret: '${DEVELOPER}', allow: granted }
  }
  gateway = keep(await startTestGateway(`servers: ${JSON.stringify(servers)}\nkeys: ${JSON.stringify(keys)}\n`))
  for (const id of Object.keys(servers)) await gateway.until(id)
  return gateway
}

const eras = ['legacy', 'modern'] as const
type Era = (typeof eras)[number]
type Send = (method: string, params?: Record<string, any>, path?: string) => ReturnType<typeof post>

/** Requests of one client of that era. */
async function clientOf(era: Era, url = gateway.url, secret = secrets.ADMIN): Promise<Send> {
  if (era === 'modern') return (method, params, path = '/mcp') => modern(url, secret, method, params, { path })
  const session = await openSession(url, secret)
  return (method, params, path = '/mcp') => session.rpc(method, params, { path })
}

const textOf = (reply: { json: any }) => reply.json.result.content[0].text as string
const namesOf = (reply: { json: any }) => reply.json.result.tools.map((tool: any) => tool.name) as string[]

describe('numbers', () => {
  const numbers = JSON.parse(bigNumbersOnTheWire) as Record<string, number>

  test.each(serverKinds)('of a %s server reach clients of both eras with their value (§6.5)', async kind => {
    const { gateway, server } = await startPair(kind)
    keep(server)
    keep(gateway)
    for (const era of eras) {
      const send = await clientOf(era, gateway.url)
      const { json, text } = await send('tools/call', { name: 'up__big_integer', arguments: {} })
      expect(json.result.structuredContent).toEqual({ ...numbers, minus_zero: expect.closeTo(0) })
      expect(text).toContain('9007199254740991')
      // The text item is a string: of it, every digit passes.
      expect(json.result.content[0].text).toBe(bigNumbersOnTheWire)

      const args = { ...numbers, minus_zero: 0 }
      const reply = await send('tools/call', { name: 'up__args', arguments: args })
      expect(JSON.parse(textOf(reply)).params.arguments).toEqual(args)
    }
  })
})

describe('structured content that is no object', () => {
  test.each([
    ['array', '[1,"zwei",null]'],
    ['scalar', '7'],
    ['null', 'null']
  ])('reaches clients of 2026 bit by bit: %s (§6.3)', async (tool, json) => {
    const server = keep(await startRawModern())
    await startWith({ up: { url: server.url } })
    const reply = await modern(gateway.url, secrets.ADMIN, 'tools/call', { name: `up__${tool}` })
    expect(reply.text).toContain(`"structuredContent":${json}`)
    expect(textOf(reply)).toBe(json)
  })
})

describe('the definition of a tool', () => {
  const definition = {
    name: 'odd',
    description: 'Grüße \u2028 "quoted" \\ 🌍',
    inputSchema: {
      $defs: { size: { enum: [1, 2.5, 'groß', null, { a: [] }] } },
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      'x-first': { z: 1, a: 2 },
      type: 'object',
      required: [],
      properties: { z: { $ref: '#/$defs/size' }, a: true, list: { type: 'array', items: false, minItems: 0 } },
      allOf: [{ if: { required: ['a'] }, then: { maxProperties: 3 } }],
      unevaluatedProperties: { not: {} }
    },
    outputSchema: { properties: {}, type: 'object', additionalProperties: { type: ['string', 'null'] } },
    annotations: { readOnlyHint: false, 'x-vendor': { deep: [[[1]]] } },
    icons: [{ src: 'data:,', sizes: ['any'], theme: 'dark', 'x-vendor': 1 }],
    _meta: { 'vendor.example/a': { b: null } },
    'x-top': [0.1, 1e21]
  }
  const servers = { raw2025: startRawHttp, raw2026: startRawModern }

  test.each(Object.entries(servers))(
    'of a server (%s) is listed byte by byte, but for its name, to clients of both eras (§6.1)',
    async (_, start) => {
      const server = keep(await start())
      server.tools = [definition]
      await startWith({ up: { url: server.url } })
      const { name, ...rest } = definition
      for (const era of eras) {
        const send = await clientOf(era)
        const { text } = await send('tools/list')
        expect(text).toContain(`"name":"up__${name}"`)
        for (const member of Object.entries(rest))
          expect(text).toContain(JSON.stringify(Object.fromEntries([member])).slice(1, -1))
      }
    }
  )
})

describe('names', () => {
  const dir = mkdtempSync(join(tmpdir(), 'switchboard-names-'))
  afterAll(() => rmSync(dir, { recursive: true, force: true }))
  const oddServer = {
    odd: { command: process.execPath, args: [fixture('raw-stdio.mjs'), '--mode', 'bad-names'] }
  }

  test('however odd become names that every client takes, each of which calls its own tool (§6.11, §6.12)', async () => {
    await startWith(oddServer)
    const [entries, folded] = [gateway.gateway.catalog().entries.tools, new Set<string>()]
    expect(entries.some(({ wireName }) => wireName === 'double__underscore')).toBe(true)
    expect(entries.some(({ wireName }) => wireName.length === 128)).toBe(true)
    for (const era of eras) {
      const send = await clientOf(era)
      const names = namesOf(await send('tools/list'))
      expect(names).toHaveLength(entries.length)
      for (const name of names) {
        expect(name).toMatch(/^[A-Za-z_][A-Za-z0-9_-]{0,45}$/)
        folded.add(name.toLowerCase().replaceAll('-', '_'))
      }
      expect(folded.size).toBe(entries.length)
      for (const { publicName, wireName } of entries)
        expect(textOf(await send('tools/call', { name: publicName }))).toBe(`called ${wireName}`)
    }
  })

  test('that had to be cut are the same in another gateway, whatever other servers it has (§6.10, §6.12)', async () => {
    await startWith(oddServer)
    const first = namesOf(await (await clientOf('modern'))('tools/list'))
    const web = keep(await startRawHttp())
    await startWith({ aaa: { url: web.url }, ...oddServer })
    const second = namesOf(await (await clientOf('modern'))('tools/list'))
    expect(second.filter(name => name.startsWith('odd__'))).toEqual(first)
  })

  test('that two servers share lead each to its own server (§6.13)', async () => {
    const ledgers = ['one', 'two'].map(id => openLedger(join(dir, id)))
    const program = (ledger: { path: string | undefined }) => ({
      command: process.execPath,
      args: [fixture('raw-stdio.mjs')],
      env: { LEDGER: ledger.path }
    })
    await startWith({ one: program(ledgers[0] as never), two: program(ledgers[1] as never) })
    for (const era of eras) {
      const send = await clientOf(era)
      for (const [i, id] of ['one', 'two'].entries()) {
        const nonce = `${era} ${id}`
        expect(textOf(await send('tools/call', { name: `${id}__count`, arguments: { nonce } }))).toBe('1')
        expect(ledgers.map(ledger => ledger.count(`called ${nonce}`))).toEqual(i === 0 ? [1, 0] : [0, 1])
      }
    }
  })
})

describe('the bare name of a tool, as an app in a client uses it (§6.17)', () => {
  const withApp = (names: string[]) =>
    names.map(name => ({ name, inputSchema, _meta: { ui: { resourceUri: `ui://${name}` } } }))

  async function startApps(): Promise<void> {
    const [one, two, plain] = [keep(await startRawHttp()), keep(await startRawHttp()), keep(await startRawHttp())]
    one.tools = withApp(['echo', 'shared', 'only_one'])
    two.tools = withApp(['shared', 'only_two'])
    plain.tools = [{ name: 'only_plain', inputSchema }]
    const servers = { one: { url: one.url }, two: { url: two.url }, plain: { url: plain.url } }
    await startWith(servers, { one: ['echo'], two: ['shared'] })
  }
  const answerTo = async (era: Era, name: string, secret = secrets.ADMIN) =>
    (await (await clientOf(era, gateway.url, secret))('tools/call', { name })).json

  test.each(eras)('calls the tool in the %s era if one server alone has it (§6.17)', async era => {
    await startApps()
    expect((await answerTo(era, 'only_one')).result).toMatchObject({ content: [{ text: 'called only_one' }] })
    expect((await answerTo(era, 'only_two')).result).toMatchObject({ content: [{ text: 'called only_two' }] })
    // What the key does not see does not make a name ambiguous.
    expect((await answerTo(era, 'shared', secrets.DEVELOPER)).result).toMatchObject({
      content: [{ text: 'called shared' }]
    })
  })

  test.each(eras)(
    'is unknown in the %s era if it is ambiguous, denied, or of a server without apps (§6.17)',
    async era => {
      await startApps()
      for (const [name, secret] of [
        ['shared', secrets.ADMIN],
        ['only_plain', secrets.ADMIN],
        ['only_one', secrets.DEVELOPER]
      ] as const)
        expect((await answerTo(era, name, secret)).error).toEqual({ code: -32602, message: `Unknown tool: ${name}` })
    }
  )

  test.each(eras)('is the name of every tool at the door of its server, in the %s era (§6.17)', async era => {
    await startApps()
    const send = await clientOf(era)
    expect(namesOf(await send('tools/list', {}, '/mcp/plain'))).toEqual(['only_plain'])
    expect(textOf(await send('tools/call', { name: 'only_plain' }, '/mcp/plain'))).toBe('called only_plain')
  })
})

describe('a server that rejects the credentials of the gateway', () => {
  test.each(['unauthorized', 'forbidden'])(
    'with "%s" never makes a client believe that its own key is wrong (§6.33)',
    async mode => {
      const server = keep(await startRawHttp())
      await startWith({ up: { url: server.url } })
      server.behave['tools/call'] = mode
      for (const era of eras) {
        const send = await clientOf(era)
        const { status, headers, json } = await send('tools/call', { name: 'up__echo' })
        expect(status).toBe(200)
        expect(headers).not.toHaveProperty('www-authenticate')
        expect(json.result).toMatchObject({ isError: true, _meta: { 'switchboard/error': { code: -31502 } } })
        expect(json.result.content[0].text).toContain("the gateway's credentials")
      }
    }
  )
})

describe('the doors of 2024', () => {
  let server: RawHttp
  let stream: Stream
  let endpoint: string
  beforeEach(async () => {
    server = keep(await startRawHttp())
    await startWith({ one: { url: server.url } }, { one: ['echo'] })
    stream = keep(await openStream(`${gateway.url}/sse`, bearer(secrets.ADMIN)))
    await waitFor(() => stream.text().includes('\n\nevent: endpoint\n'), 'the endpoint')
    endpoint = /^event: endpoint\ndata: (.*)$/m.exec(stream.text())?.[1] ?? ''
  })
  const say = (message: object, headers = bearer(secrets.ADMIN), to = endpoint) =>
    openStream(gateway.url + to, headers, { jsonrpc: '2.0', ...message })
  const slow = (id: number | string, nonce: string) =>
    say({ id, method: 'tools/call', params: { name: 'one__slow', arguments: { ms: 20_000, nonce } } })

  test('name the address for messages first, take them with 202, and answer on the stream (§6.57)', async () => {
    expect(stream.headers['content-type']).toBe('text/event-stream')
    expect(stream.text()).toMatch(/^(?:: .*\n\n)?event: endpoint\n/)
    expect(endpoint).toMatch(/^\/messages\?sessionId=[\w-]{20,}$/)
    const params = { protocolVersion: '2024-11-05', capabilities: {}, clientInfo: { name: 'old', version: '1' } }
    expect((await say({ id: 0, method: 'initialize', params })).status).toBe(202)
    expect((await say({ method: 'notifications/initialized' })).status).toBe(202)
    expect((await say({ id: 'two', method: 'tools/list' })).status).toBe(202)
    const [opened, listed] = await stream.until(2)
    expect(opened).toMatchObject({ id: 0, result: { protocolVersion: '2024-11-05', capabilities: { tools: {} } } })
    expect(listed.id).toBe('two')
    expect(listed.result.tools.length).toBeGreaterThan(0)
    expect(listed.result).not.toHaveProperty('ttlMs')
  })

  test('end the calls of a client whose stream closes, inside the server (§6.57)', async () => {
    await slow(1, 'gone')
    await waitFor(() => server.ledger.count('started gone') === 1, 'the call to run', 5000)
    stream.close()
    await waitFor(() => server.ledger.count('cancelled gone') === 1, 'its end', 1000)
    await waitFor(async () => (await say({ id: 2, method: 'ping' })).status === 404, 'the end of the conversation')
  })

  test('end one call when the client takes it back, and answer it no more (§6.57)', async () => {
    await slow(1, 'taken back')
    await waitFor(() => server.ledger.count('started taken back') === 1, 'the call to run', 5000)
    await say({ method: 'notifications/cancelled', params: { requestId: 1 } })
    await waitFor(() => server.ledger.count('cancelled taken back') === 1, 'its end', 1000)
    await say({ id: 2, method: 'ping' })
    expect(await stream.until(1)).toEqual([{ jsonrpc: '2.0', id: 2, result: {} }])
    await pause(200)
    expect(stream.messages).toHaveLength(1)
  })

  test('take messages only with the key that opened the stream, at the address it was given (§6.57)', async () => {
    const ping = { id: 1, method: 'ping' }
    expect((await say(ping, {} as never)).status).toBe(401)
    expect((await say(ping, bearer(secrets.DEVELOPER))).status).toBe(404)
    expect((await say(ping, bearer(secrets.ADMIN), `${endpoint}x`)).status).toBe(404)
    expect((await say(ping, bearer(secrets.ADMIN), '/messages')).status).toBe(400)
    expect(stream.messages).toEqual([])
  })
})

describe('a hundred clients with equal request ids and progress tokens over one connection', () => {
  test.each(['SSE legacy', 'stdio modern'] as const)('to a %s server each hear their own (§6.58)', async kind => {
    const { gateway, server } = await startPair(kind)
    keep(server)
    keep(gateway)
    const sessions = await Promise.all(Array.from({ length: 100 }, () => openSession(gateway.url, secrets.ADMIN)))
    const replies = await Promise.all(
      sessions.map((session, i) => {
        const wantsProgress = i % 2 === 0
        const message = `mine ${i}`
        return session.rpc(
          'tools/call',
          wantsProgress
            ? { name: 'up__progress', arguments: { gap: 1 }, _meta: { progressToken: 'same' } }
            : { name: 'up__echo', arguments: { message }, _meta: { progressToken: 'same' } },
          { id: 1 }
        )
      })
    )
    for (const [i, { messages, json }] of replies.entries()) {
      expect(json).toMatchObject({
        id: 1,
        result: { content: [{ text: i % 2 === 0 ? 'done after 3 steps' : `mine ${i}` }] }
      })
      const progress = messages.slice(0, -1).map(({ params }) => [params.progressToken, params.progress])
      expect(progress).toEqual(i % 2 === 0 ? [1, 2, 3].map(step => ['same', step]) : [])
    }
  })
})

describe('limits', () => {
  let server: RawHttp
  beforeAll(async () => {
    server = await startRawHttp()
  })
  afterAll(() => server.close())

  test('a body that is too large is 413 before it has been sent (§6.66)', async () => {
    await startWith({ one: { url: server.url } })
    const head = (length: string) =>
      [
        'POST /mcp HTTP/1.1',
        `Host: ${new URL(gateway.url).host}`,
        `Authorization: Bearer ${secrets.ADMIN}`,
        'Content-Type: application/json',
        length,
        '',
        ''
      ].join('\r\n')
    expect(await raw(gateway.url, head('Content-Length: 1000000000'))).toMatch(/^HTTP\/1\.1 413 /)
    const endless = `${(5 * 1024 * 1024).toString(16)}\r\n${' '.repeat(5 * 1024 * 1024)}\r\n`
    expect(await raw(gateway.url, head('Transfer-Encoding: chunked') + endless)).toMatch(/^HTTP\/1\.1 413 /)
  })

  test('a call too many is refused with the time after which to come again: over HTTP 429 with Retry-After (§6.66)', async () => {
    await startWith({ one: { url: server.url, concurrency: 1, queue: 1 } })
    const send = await clientOf('modern')
    const slow = (nonce: string) => send('tools/call', { name: 'one__slow', arguments: { ms: 1500, nonce } })
    const running = slow('running')
    await waitFor(() => server.ledger.count('started running') === 1, 'the first call to run', 5000)
    const waiting = slow('waiting')
    await waitFor(() => gateway.gateway.status()[0]?.waiting === 1, 'the second call to wait', 5000)

    const { json } = await send('tools/call', { name: 'one__echo' })
    expect(json.result).toMatchObject({
      isError: true,
      _meta: { 'switchboard/error': { code: -31429, dispatched: false, retryAfterMs: expect.any(Number) } }
    })
    const { status, headers } = await post(
      `${gateway.url}/tools/one__echo`,
      { arguments: {} },
      { ...bearer(secrets.ADMIN), accept: 'application/json' }
    )
    expect(status).toBe(429)
    expect(Number(headers['retry-after'])).toBeGreaterThan(0)
    for (const reply of await Promise.all([running, waiting])) expect(textOf(reply)).toBe('waited 1500 ms')
  })

  test('one key cannot take all places: what is too much for it leaves others alone (§6.66)', async () => {
    await startWith({ one: { url: server.url, concurrency: 200 } }, { one: ['echo'] })
    const abort = new AbortController()
    const nonce = 'flood'
    const flood = Array.from({ length: 100 }, () =>
      fetch(`${gateway.url}/tools/one__slow`, {
        method: 'POST',
        signal: abort.signal,
        headers: { ...bearer(secrets.ADMIN), 'content-type': 'application/json' },
        body: JSON.stringify({ arguments: { ms: 20_000, nonce } })
      }).catch(() => undefined)
    )
    await waitFor(() => server.ledger.count(`started ${nonce}`) === 100, 'a hundred calls to run')
    const call = { name: 'one__echo', arguments: { message: 'me too' } }
    const { json } = await modern(gateway.url, secrets.ADMIN, 'tools/call', call)
    expect(json.result).toMatchObject({ isError: true, _meta: { 'switchboard/error': { code: -31429 } } })
    expect(textOf(await modern(gateway.url, secrets.DEVELOPER, 'tools/call', call))).toBe('me too')
    abort.abort()
    await Promise.all(flood)
    await waitFor(() => server.ledger.count(`cancelled ${nonce}`) === 100, 'all of them to end')
  })
})

test('a session id is refused once it is 30 days old, also by a gateway that has never seen it (§6.30)', () => {
  const sealer = createSealer({ secrets: [Buffer.alloc(32, 7)] })
  const day = 24 * 3600 * 1000
  let now = 0
  const sessions = () => keep(createSessions({ sealer, now: () => now }))
  const { id } = sessions().open('admin', '2025-11-25', { capabilities: {} })
  now = 30 * day
  expect(sessions().find(id, 'admin')).toMatchObject({ keyId: 'admin', version: '2025-11-25', revived: true })
  now = 30 * day + 1
  expect(sessions().find(id, 'admin')).toBeUndefined()
})

test('every code of our own lies outside of what JSON-RPC and MCP reserve (§6.70)', () => {
  const standard = [-32700, -32600, -32601, -32602, -32603]
  const ofMcp = [-32020, -32021, -32022]
  // Session not found: the one code that clients of 2025 know by heart.
  const known = [...standard, ...ofMcp, -32001]
  for (const { rpc } of Object.values(errorTable)) {
    if (known.includes(rpc)) continue
    expect(rpc).toBeGreaterThan(-32000)
    expect(rpc).toBeLessThan(-31399)
  }
})

test('an unknown member beside method and params does no harm, in either direction (§6.1)', async () => {
  const server = keep(await startHttpLegacy())
  const old = keep(await startSseLegacy())
  const rawServer = keep(await startRawModern())
  await startWith({ one: { url: server.url }, old: { url: old.url, transport: 'sse' }, two: { url: rawServer.url } })
  const { headers } = await openSession(gateway.url, secrets.ADMIN)
  for (const name of ['one__echo', 'old__echo', 'two__top_level']) {
    const body = { jsonrpc: '2.0', id: 1, 'x-top': { any: 'thing' }, method: 'tools/call', params: { name } }
    const { json } = await post(`${gateway.url}/mcp`, body, headers)
    expect(json).toMatchObject({ id: 1, result: { content: [{ type: 'text' }] } })
  }
})
