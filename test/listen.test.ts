/**
 * 2026-07-28 on both sides: subscriptions of clients, how it is found out which era and transport a server speaks, the
 * headers that mirror a request, and what of one era is said how in the other.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { start as startHttpModern } from './fixtures/http-modern.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import { start as startRawModern } from './fixtures/raw-modern.mjs'
import { start as startSseLegacy } from './fixtures/sse-legacy.mjs'
import type { RawFixture, RawModern } from './fixtures/types.d.mts'
import { bearer, envelope, modern, openSession } from './helpers/http.js'
import { connectClient, openStream, startScripted, type Stream } from './helpers/matrix.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const adminKey = `keys: { admin: { secret: "\${ADMIN}", allow: "*" } }`
const inputSchema = { type: 'object', properties: {} }
const subscriptionId = 'io.modelcontextprotocol/subscriptionId'
const capabilitiesKey = 'io.modelcontextprotocol/clientCapabilities'

let dir: string
let gateway: TestGateway
const open: { close(): unknown }[] = []

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'switchboard-listen-'))
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

/** A gateway over the state directory of this test, with one server `up`. */
async function startUp(entry: object, { keys = adminKey, ready = true } = {}): Promise<TestGateway> {
  const yaml = `servers: ${JSON.stringify({ up: entry })}\n${keys}\n`
  gateway = keep(await startTestGateway(yaml, { stateDir: dir }))
  if (ready) await gateway.until('up')
  return gateway
}

type Params = Record<string, any>
type Headers = Record<string, string>

/** `tools/call` of 2026-07-28. */
const call = (
  name: string,
  args: Params = {},
  { meta = {}, headers = {} }: { meta?: Params; headers?: Headers } = {}
) => modern(gateway.url, secrets.ADMIN, 'tools/call', { name, arguments: args, _meta: meta }, { headers })

/** `tools/call` of 2025-11-25. */
async function callLegacy(name: string, args: Params = {}, headers: Headers = {}) {
  const session = await openSession(gateway.url, secrets.ADMIN)
  return session.rpc('tools/call', { name, arguments: args }, { headers })
}

async function listOf(era: 'legacy' | 'modern', secret = secrets.ADMIN): Promise<any[]> {
  if (era === 'modern') return (await modern(gateway.url, secret, 'tools/list')).json.result.tools
  return (await (await openSession(gateway.url, secret)).rpc('tools/list')).json.result.tools
}

const names = (tools: readonly any[]) => tools.map(({ name }) => name as string)
const textOf = ({ json }: { json: any }) => json.result.content[0].text as string
const methods = ({ requests }: RawFixture) =>
  requests.map(({ verb, message }) => (message?.method as string | undefined) ?? verb)
const count = (server: RawFixture, method: string) => methods(server).filter(each => each === method).length

describe('a subscription of a client', () => {
  let server: RawModern
  beforeEach(async () => {
    server = keep(await startRawModern())
    await startUp({ url: server.url })
  })

  async function listen(notifications: unknown, id: string | number = 'sub-1'): Promise<Stream> {
    const body = { jsonrpc: '2.0', id, method: 'subscriptions/listen', params: { notifications, _meta: envelope } }
    const headers = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'subscriptions/listen' }
    return keep(await openStream(`${gateway.url}/mcp`, { ...bearer(secrets.ADMIN), ...headers }, body))
  }

  async function change(): Promise<void> {
    const before = count(server, 'tools/list')
    server.tools.push({ name: `fresh_${before}`, inputSchema })
    server.notify()
    await waitFor(() => count(server, 'tools/list') > before, 'the list to be fetched again', 8000)
    await new Promise(resolve => setTimeout(resolve, 200))
  }

  test('is acknowledged first, with what is honoured of what was asked for (§6.44)', async () => {
    const stream = await listen({
      toolsListChanged: true,
      promptsListChanged: true,
      resourcesListChanged: true,
      'x-test/holograms': true
    })
    expect(stream.status).toBe(200)
    expect(stream.headers).toMatchObject({ 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' })
    const [first] = await stream.until(1)
    expect(first).toEqual({
      jsonrpc: '2.0',
      method: 'notifications/subscriptions/acknowledged',
      params: { notifications: { toolsListChanged: true }, _meta: { [subscriptionId]: 'sub-1' } }
    })
  })

  test.each(['sub-1', '7', '', 7, 0, Number.MAX_SAFE_INTEGER])(
    'says with every message that it belongs to %j, in that type (§6.44)',
    async id => {
      const stream = await listen({ toolsListChanged: true }, id)
      await stream.until(1)
      await change()
      await stream.until(2)
      await gateway.close()
      await waitFor(() => stream.ended(), 'the end of the stream')
      expect(stream.messages.map(({ method }) => method)).toEqual([
        'notifications/subscriptions/acknowledged',
        'notifications/tools/list_changed',
        undefined
      ])
      for (const { params, result } of stream.messages) expect((params ?? result)._meta[subscriptionId]).toBe(id)
      expect(stream.messages[2].id).toBe(id)
    }
  )

  test.each([{}, { toolsListChanged: false }, { promptsListChanged: true }, { toolsListChanged: 'yes' }])(
    'to %j hears nothing of tools (§6.44)',
    async wanted => {
      const stream = await listen(wanted)
      expect((await stream.until(1))[0].params.notifications).toEqual({})
      await change()
      expect(stream.messages).toHaveLength(1)
    }
  )

  test.each([undefined, null, 7, ['toolsListChanged']])('to %j is -32602', async wanted => {
    const { json } = await modern(gateway.url, secrets.ADMIN, 'subscriptions/listen', { notifications: wanted })
    expect(json.error.code).toBe(-32602)
  })

  test('begins with a comment, so that every proxy passes it on and keeps it (§6.44)', async () => {
    const stream = await listen({ toolsListChanged: true })
    await stream.until(1)
    expect(stream.text()).toMatch(/^: /)
  })

  test('ends with its result when the gateway shuts down (§6.44)', async () => {
    const stream = await listen({ toolsListChanged: true })
    const client = await connectClient('v2 pinned', gateway.url, secrets.ADMIN)
    await stream.until(1)
    await waitFor(() => client.received.some(({ method }) => /acknowledged/.test(String(method))), 'acknowledged')
    await gateway.close()
    await waitFor(() => stream.ended(), 'the end of the stream')
    expect(stream.messages.at(-1)).toEqual({
      jsonrpc: '2.0',
      id: 'sub-1',
      result: { resultType: 'complete', _meta: { [subscriptionId]: 'sub-1' } }
    })
    expect(client.received.at(-1)).toMatchObject({ result: { resultType: 'complete' } })
    await client.close()
  })

  test('costs nothing more once the client has closed it', async () => {
    const openStreams = async () => {
      const metrics = await fetch(`${gateway.url}/metrics`, { headers: bearer(secrets.ADMIN) })
      return Number(/^switchboard_streams (\d+)$/m.exec(await metrics.text())?.[1])
    }
    expect(await openStreams()).toBe(0)
    const streams = await Promise.all([1, 2, 3].map(id => listen({ toolsListChanged: true }, id)))
    expect(await openStreams()).toBe(3)
    for (const stream of streams) stream.close()
    await waitFor(async () => (await openStreams()) === 0, 'the listeners to be gone', 5000)
  })

  test('is nothing that a client of 2025 may ask for', async () => {
    const session = await openSession(gateway.url, secrets.ADMIN)
    const { json } = await session.rpc('subscriptions/listen', { notifications: { toolsListChanged: true } })
    expect(json.error.code).toBe(-32601)
  })

  test('at the door of one server speaks of that server only', async () => {
    await gateway.close()
    const other = keep(await startRawHttp())
    const yaml = `servers: ${JSON.stringify({ up: { url: server.url }, other: { url: other.url } })}\n${adminKey}\n`
    gateway = keep(await startTestGateway(yaml, { stateDir: dir }))
    await gateway.until('up')
    await gateway.until('other')
    const body = {
      jsonrpc: '2.0',
      id: 1,
      method: 'subscriptions/listen',
      params: { notifications: { toolsListChanged: true }, _meta: envelope }
    }
    const headers = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'subscriptions/listen' }
    const stream = keep(await openStream(`${gateway.url}/mcp/other`, { ...bearer(secrets.ADMIN), ...headers }, body))
    await stream.until(1)
    await waitFor(() => server.streams.size === 1, 'the subscription of the gateway')
    await change()
    expect(stream.messages).toHaveLength(1)
  })
})

describe('which era a server speaks', () => {
  const catalogFile = () => join(dir, 'state', 'catalog.json')
  const stored = () => JSON.parse(readFileSync(catalogFile(), 'utf8')).servers.up
  const probes = (server: RawFixture) => count(server, 'server/discover')
  const status = () => gateway.gateway.status()[0]

  test('is found out once: a server of 2025 is not asked again after a restart', async () => {
    const server = keep(await startRawHttp())
    await startUp({ url: server.url })
    expect(methods(server)[0]).toBe('server/discover')
    expect(probes(server)).toBe(1)
    expect(status()).toMatchObject({ era: 'legacy', transport: 'http' })
    await gateway.close()
    expect(stored().verdict).toMatchObject({ era: 'legacy', transport: 'http', at: expect.any(Number) })

    await startUp({ url: server.url })
    expect(probes(server)).toBe(1)
    expect(count(server, 'initialize')).toBe(2)
  })

  test('is found out once: a server of 2026 is never sent an initialize', async () => {
    const server = keep(await startRawModern())
    await startUp({ url: server.url })
    await gateway.close()
    expect(stored().verdict).toMatchObject({ era: 'modern', transport: 'http' })
    await startUp({ url: server.url })
    expect(status()).toMatchObject({ era: 'modern' })
    expect(probes(server)).toBe(2)
    expect(count(server, 'initialize')).toBe(0)
  })

  test.each(['stdio-legacy.mjs', 'stdio-modern.mjs'])(
    'is found out of a program (%s) in a process of its own, which is ended, and only the first time',
    async program => {
      const ledger = openLedger(join(dir, 'ledger'))
      const entry = { command: process.execPath, args: [fixture(program)], env: { LEDGER: ledger.path } }
      const pids = () => ledger.lines().map(line => Number(line.split(' ')[1]))
      await startUp(entry)
      expect(pids()).toHaveLength(2)
      expect(status()).toMatchObject({ era: program.slice(6, -4), pid: pids()[1] })
      expect(() => process.kill(pids()[0] as number, 0)).toThrow()
      await gateway.close()
      await startUp(entry)
      expect(pids()).toHaveLength(3)
    }
  )

  test.each([
    ['exits when it is asked', 'exit-on-discover'],
    ['never answers the question', 'silent-discover']
  ])('is 2025 for a program that %s', async (_, mode) => {
    const args = [fixture('raw-stdio.mjs'), '--mode', mode]
    await startUp({ command: process.execPath, args, connect_timeout: 1 })
    expect(status()).toMatchObject({ era: 'legacy', restarts: 0 })
    expect(textOf(await call('up__echo', { message: 'alive' }))).toBe('alive')
  })

  test('is asked again when the answer is older than a day', async () => {
    const server = keep(await startRawHttp())
    await startUp({ url: server.url })
    await gateway.close()
    const file = JSON.parse(readFileSync(catalogFile(), 'utf8'))
    file.servers.up.verdict.at -= 25 * 3600 * 1000
    writeFileSync(catalogFile(), JSON.stringify(file))
    await startUp({ url: server.url })
    expect(probes(server)).toBe(2)
  })

  test('is dated when it was found out, not when it was last used', async () => {
    const server = keep(await startRawHttp())
    await startUp({ url: server.url })
    await gateway.close()
    const file = JSON.parse(readFileSync(catalogFile(), 'utf8'))
    const found = (file.servers.up.verdict.at -= 20 * 3600 * 1000)
    file.servers.up.confirmed -= 20 * 3600 * 1000
    writeFileSync(catalogFile(), JSON.stringify(file))
    await startUp({ url: server.url })
    await gateway.close()
    expect(stored().confirmed).toBeGreaterThan(found)
    expect(stored().verdict.at).toBe(found)
  })

  test.each([
    ['2025', '2026', startRawHttp, startRawModern],
    ['2026', '2025', startRawModern, startRawHttp]
  ])('is found out anew when a server of %s has become one of %s at the same address', async (_, _to, old, fresh) => {
    const before = keep(await old())
    await startUp({ url: before.url })
    const was = status()?.era
    await gateway.close()
    await before.close()
    keep(await fresh({ port: before.port }))
    await startUp({ url: before.url })
    expect(status()?.era).not.toBe(was)
    expect(textOf(await call('up__echo', { message: 'moved on' }))).toBe('moved on')
  })

  test.each([
    ['unauthorized', /credentials|401/],
    ['forbidden', /credentials|403/],
    ['error', /500/],
    ['unavailable', /503/],
    ['rate-limited', /429/],
    ['redirect', /redirect/],
    ['destroy', /broke/],
    ['hang', /server\/discover/]
  ])('stays open when the question is answered by: %s', async (mode, reason) => {
    const server = keep(await startRawModern())
    server.behave['server/discover'] = mode
    await startUp({ url: server.url, connect_timeout: 1 }, { ready: false })
    await gateway.until('up', 'down')
    expect(status()?.problem).toMatch(reason)
    expect(status()?.era).toBeUndefined()
    expect(count(server, 'initialize')).toBe(0)
    expect(count(server, 'GET')).toBe(0)
    delete server.behave['server/discover']
    await gateway.until('up')
    expect(textOf(await call('up__echo', { message: 'in the end' }))).toBe('in the end')
    expect(status()).toMatchObject({ era: 'modern' })
  })

  test('is 2026 when the question is refused in the words of 2026: it is not sent an initialize', async () => {
    for (const mode of ['unsupported', 'mismatch', 'capability']) {
      const server = keep(await startRawModern())
      server.behave['server/discover'] = mode
      await startUp({ url: server.url }, { ready: false })
      await gateway.until('up', 'down')
      expect(count(server, 'initialize')).toBe(0)
      await gateway.close()
    }
  })

  test('is not asked for when servers.yaml says it', async () => {
    const old = keep(await startRawHttp())
    await startUp({ url: old.url, era: 'legacy' })
    expect(probes(old)).toBe(0)
    await gateway.close()

    const fresh = keep(await startRawModern())
    await startUp({ url: fresh.url, era: 'modern' })
    expect(count(fresh, 'initialize')).toBe(0)
  })

  test.each([
    ['modern', startRawHttp, /era: legacy|does not speak 2026-07-28/],
    ['legacy', startRawModern, /-32022|400/]
  ])('is believed when servers.yaml says %s, and the status says that it is not so', async (era, start, reason) => {
    const server = keep(await start())
    await startUp({ url: server.url, era }, { ready: false })
    await gateway.until('up', 'down')
    expect(status()?.problem).toMatch(reason)
    expect(count(server, era === 'modern' ? 'initialize' : 'server/discover')).toBe(0)
  })

  test('a url without a transport falls back to HTTP+SSE, and the second time goes there at once', async () => {
    const server = keep(await startSseLegacy())
    await startUp({ url: server.url })
    expect(status()).toMatchObject({ era: 'legacy', transport: 'sse' })
    expect(textOf(await call('up__echo', { message: 'over SSE' }))).toBe('over SSE')
    await gateway.close()
    expect(stored().verdict).toMatchObject({ era: 'legacy', transport: 'sse' })
    await startUp({ url: server.url })
    expect(status()).toMatchObject({ transport: 'sse' })
  })

  test('with `transport: http` never falls back to HTTP+SSE', async () => {
    const server = keep(await startSseLegacy())
    await startUp({ url: server.url, transport: 'http' }, { ready: false })
    await gateway.until('up', 'down')
    expect(server.ledger.count('stream')).toBe(0)
    expect(status()?.problem).toContain('404')
  })

  test('and a server of 2026 that goes away while nobody calls it is shown as down', async () => {
    const server = keep(await startRawModern())
    await startUp({ url: server.url })
    await waitFor(() => server.streams.size === 1, 'the subscription of the gateway')
    await server.close()
    await gateway.until('up', 'down')
    expect(names(await listOf('modern'))).toContain('up__echo')
  })

  test('and its list is followed by a subscription, which is opened again when it ends', async () => {
    const server = keep(await startRawModern())
    await startUp({ url: server.url })
    await waitFor(() => server.streams.size === 1, 'the subscription of the gateway')
    for (const graceful of [true, false]) {
      server.endStreams({ graceful })
      await waitFor(() => server.streams.size === 0, 'its end', 5000)
      server.tools.push({ name: `while_away_${graceful}`, inputSchema })
      await waitFor(() => server.streams.size === 1, 'the next subscription', 8000)
      // What changed in between is not missed.
      await waitFor(
        () => gateway.gateway.catalog().byPublicName(`up__while_away_${graceful}`) !== undefined,
        'the tool that came in between',
        8000
      )
    }
    expect(status()).toMatchObject({ state: 'ready', restarts: 0 })
  })
})

describe('headers towards a server of 2026', () => {
  let server: RawModern
  const regional = (headers: Headers, args: Params = { region: 'eu-west' }) => call('up__regional', args, { headers })
  const mirrored = (reply: { json: any }) => JSON.parse(textOf(reply)) as Headers

  beforeEach(async () => {
    server = keep(await startRawModern())
    await startUp(
      { url: server.url },
      {
        keys: `
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: { up: [echo] } }
`
      }
    )
  })

  test('name method, tool and version as the body does, whichever era the client speaks (§6.7, §6.45)', async () => {
    for (const reply of [
      await call('up__args', { a: 1 }),
      await callLegacy('up__args', { a: 1 }),
      await callLegacy('up__args', { a: 1 }, { 'mcp-name': 'up__echo', 'mcp-method': 'tools/list' })
    ]) {
      const { params, headers } = JSON.parse(textOf(reply))
      expect(headers).toMatchObject({
        'mcp-method': 'tools/call',
        'mcp-name': 'args',
        'mcp-protocol-version': params._meta['io.modelcontextprotocol/protocolVersion']
      })
      expect(params.name).toBe('args')
      expect(params._meta[capabilitiesKey]).toEqual({})
    }
    for (const { headers, message } of server.requests) {
      expect(headers['mcp-protocol-version']).toBe('2026-07-28')
      expect(headers['mcp-method']).toBe(message.method)
      expect(message.params._meta).toMatchObject({
        'io.modelcontextprotocol/protocolVersion': '2026-07-28',
        [capabilitiesKey]: expect.any(Object)
      })
    }
  })

  test('a tool whose name no header can carry is named in base64', async () => {
    server.tools.push({ name: 'größe ändern', inputSchema })
    server.notify()
    const grown = () => gateway.gateway.catalog().entries.tools.find(({ wireName }) => wireName === 'größe ändern')
    await waitFor(() => grown() !== undefined, 'the new list', 8000)
    const listed = grown()?.publicName as string
    expect(listed).toMatch(/^[A-Za-z_][A-Za-z0-9_-]*$/)
    expect(textOf(await call(listed))).toBe('called größe ändern')
    const { headers } = server.requests.at(-1) as { headers: Headers }
    expect(headers['mcp-name']).toBe(`=?base64?${Buffer.from('größe ändern').toString('base64')}?=`)
  })

  test('mirror the arguments anew, for clients of either era (§6.45)', async () => {
    const args = { region: 'größe', limit: 42, strict: false, query: 'not mirrored' }
    const expected = {
      'mcp-param-region': `=?base64?${Buffer.from('größe').toString('base64')}?=`,
      'mcp-param-limit': '42',
      'mcp-param-strict': 'false'
    }
    const sent = {
      'mcp-param-region': '=?base64?Z3LDtsOfZQ==?=',
      'mcp-param-limit': '42.0',
      'mcp-param-strict': 'false'
    }
    expect(mirrored(await regional(sent, args))).toEqual(expected)
    expect(mirrored(await callLegacy('up__regional', args))).toEqual(expected)
    expect(mirrored(await callLegacy('up__regional', { region: 'eu', limit: null }))).toEqual({
      'mcp-param-region': 'eu'
    })
  })

  test('pass on what they do not know, from a client of 2026 (§6.45)', async () => {
    const reply = await regional({ 'mcp-param-region': 'eu-west', 'mcp-param-shard': '7' })
    expect(mirrored(reply)).toEqual({ 'mcp-param-region': 'eu-west', 'mcp-param-shard': '7' })
  })

  test.each<[string, Headers, Params?]>([
    ['are missing', {}],
    ['say something else', { 'mcp-param-region': 'us-east' }],
    ['differ in case', { 'mcp-param-region': 'EU-WEST' }],
    ['are no valid base64', { 'mcp-param-region': '=?base64?%%%?=' }],
    ['have another number', { 'mcp-param-region': 'eu', 'mcp-param-limit': '43' }, { region: 'eu', limit: 42 }]
  ])('that %s are refused from a client of 2026 with 400 and -32020 (§6.45)', async (_, headers, args) => {
    const before = count(server, 'tools/call')
    const { status, json } = await regional(headers, args)
    expect([status, json.error.code]).toEqual([400, -32020])
    expect(count(server, 'tools/call')).toBe(before)
  })

  test('are not looked at before it is clear that the key may see the tool (§6.23, §6.45)', async () => {
    const { status, json } = await modern(gateway.url, secrets.DEVELOPER, 'tools/call', {
      name: 'up__regional',
      arguments: { region: 'eu' }
    })
    expect([status, json.error]).toEqual([200, { code: -32602, message: 'Unknown tool: up__regional' }])
  })

  test('are mirrored by a real client by itself', async () => {
    const client = keep(await connectClient('v2 pinned', gateway.url, secrets.ADMIN))
    await client.listTools()
    const result = await client.callTool('up__regional', { region: 'ap-south', limit: 3 })
    expect(JSON.parse(result.content[0].text)).toEqual({ 'mcp-param-region': 'ap-south', 'mcp-param-limit': '3' })
  })

  test('are checked by a real server that checks them', async () => {
    await gateway.close()
    const real = keep(await startHttpModern())
    await startUp({ url: real.url })
    const { json } = await callLegacy('up__regional', { region: 'eu' })
    expect(json.result.structuredContent).toEqual({ region: 'eu', header: 'eu' })
  })

  test('that the server refuses, because its schema has changed, are made anew once, and the call runs once', async () => {
    const [schema] = server.tools.filter(({ name }) => name === 'regional')
    schema.inputSchema.properties.query['x-mcp-header'] = 'Query'
    const lists = count(server, 'tools/list')
    const reply = await callLegacy('up__regional', { region: 'eu', query: 'new' })
    expect(mirrored(reply)).toEqual({ 'mcp-param-region': 'eu', 'mcp-param-query': 'new' })
    expect(count(server, 'tools/list')).toBe(lists + 1)
    expect(count(server, 'tools/call')).toBe(2)
  })

  test('that the server refuses again are our fault, and the client is told so without -32020', async () => {
    server.behave['tools/call'] = 'mismatch'
    for (const reply of [await callLegacy('up__echo'), await call('up__echo')]) {
      expect(reply.status).toBe(200)
      expect(reply.json.result).toMatchObject({ isError: true, _meta: { 'switchboard/error': { code: -31502 } } })
    }
    expect(count(server, 'tools/call')).toBe(4)
  })

  test('a trace passes in headers and in _meta, and nothing else of the client does (§6.4, §6.31)', async () => {
    const trace = {
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
      tracestate: 'vendor=1',
      baggage: 'user=eins'
    }
    const secret = { cookie: 'session=1', 'x-custom': 'no', 'last-event-id': '7' }
    for (const reply of [
      await call('up__args', {}, { headers: { ...trace, ...secret }, meta: { traceparent: trace.traceparent } }),
      await callLegacy('up__args', {}, { ...trace, ...secret })
    ]) {
      const { headers } = JSON.parse(textOf(reply))
      expect(headers).toMatchObject(trace)
      for (const name of [...Object.keys(secret), 'authorization', 'mcp-session-id', 'origin'])
        expect(headers).not.toHaveProperty(name)
    }
    const { params } = JSON.parse(textOf(await call('up__args', {}, { meta: trace })))
    expect(params._meta).toMatchObject(trace)
  })
})

describe('a tool whose x-mcp-header is not valid', () => {
  const tools = [
    { name: 'fine', inputSchema },
    { name: 'nested', inputSchema: { type: 'object', properties: { a: { type: 'object', 'x-mcp-header': 'A' } } } },
    {
      name: 'token',
      inputSchema: { type: 'object', properties: { a: { type: 'string', 'x-mcp-header': 'no token' } } }
    },
    {
      name: 'twice',
      inputSchema: {
        type: 'object',
        properties: { a: { type: 'string', 'x-mcp-header': 'A' }, b: { type: 'string', 'x-mcp-header': 'a' } }
      }
    }
  ]

  test('is left out if its server speaks 2026 over HTTP, for clients of either era, and the log says why (§6.45)', async () => {
    const server = keep(await startRawModern())
    server.tools = tools
    await startUp({ url: server.url })
    expect(names(await listOf('modern'))).toEqual(['up__fine'])
    expect(names(await listOf('legacy'))).toEqual(['up__fine'])
    expect((await call('up__token')).json.error).toMatchObject({ code: -32602, message: 'Unknown tool: up__token' })
    expect(gateway.logged('catalog.finding').map(({ tool }) => tool)).toEqual(['nested', 'token', 'twice'])
  })

  test('is shown if its server speaks 2025', async () => {
    const server = keep(await startRawHttp())
    server.tools = tools
    await startUp({ url: server.url })
    expect(names(await listOf('legacy'))).toHaveLength(tools.length)
  })

  test('stays left out after a restart at which the era had to be found out again (§6.45)', async () => {
    const server = keep(await startRawModern())
    server.tools = tools
    await startUp({ url: server.url })
    await gateway.close()
    const file = join(dir, 'state', 'catalog.json')
    const state = JSON.parse(readFileSync(file, 'utf8'))
    delete state.servers.up.verdict
    writeFileSync(file, JSON.stringify(state))
    await startUp({ url: server.url })
    expect(names(await listOf('modern'))).toEqual(['up__fine'])
  })
})

describe('errors of a server, in the words of the era of the client', () => {
  /** A server that answers every call with this error. */
  async function failing(era: 'legacy' | 'modern', error: object): Promise<void> {
    const tools = [{ name: 'fail', inputSchema }]
    const server = keep(
      await startScripted(era, method => (method === 'tools/list' ? { result: { tools } } : { error }))
    )
    await startUp({ url: server.url, transport: 'http' })
  }
  const both = async () => ({
    legacy: (await callLegacy('up__fail')).json,
    modern: (await call('up__fail')).json
  })

  test.each(['legacy', 'modern'] as const)(
    'resource not found (-32002, server of the %s era) is -32602 for 2026 and stays for 2025 (§6.70)',
    async era => {
      const error = { code: -32002, message: 'Resource not found', data: { uri: 'file:///a' } }
      await failing(era, error)
      const { legacy, modern } = await both()
      expect(legacy.error).toEqual(error)
      expect(modern.error).toEqual({ ...error, code: -32602 })
    }
  )

  test('a missing capability (-32021) stays for 2026, and is -32603 with its data for 2025', async () => {
    const data = { requiredCapabilities: { elicitation: { form: {} } } }
    const error = { code: -32021, message: 'Missing capability', data }
    await failing('modern', error)
    const { legacy, modern } = await both()
    expect(legacy.error).toEqual({ ...error, code: -32603 })
    expect(modern.error).toEqual(error)
  })

  test.each([-32020, -32022])('%d speaks of our own request: no client is shown it', async code => {
    await failing('modern', { code, message: 'Unsupported protocol version', data: { supported: ['2027-01-01'] } })
    for (const reply of Object.values(await both())) {
      expect(reply.error).toBeUndefined()
      expect(reply.result).toMatchObject({ isError: true, _meta: { 'switchboard/error': { code: -31502 } } })
      expect(JSON.stringify(reply)).not.toContain(String(code))
    }
  })

  test('a URL to be visited first (-32042) is never shown to 2026, which does not know it (§6.70)', async () => {
    const data = {
      elicitations: [{ mode: 'url', elicitationId: 'e1', url: 'https://example.com/login', message: 'Log in' }]
    }
    await failing('legacy', { code: -32042, message: 'URL elicitation required', data })
    const { modern } = await both()
    expect(modern.error?.code).not.toBe(-32042)
    expect(modern.error?.code).toBe(-32021)
  })

  test('any other error passes as it is, with members that nobody knows (§6.1)', async () => {
    const error = { code: -32011, message: 'odd', data: [1, { two: null }], 'x-vendor': { depth: 'error' } }
    for (const era of ['legacy', 'modern'] as const) {
      await failing(era, error)
      const { legacy, modern } = await both()
      expect(legacy.error).toEqual(error)
      expect(modern.error).toEqual(error)
      await gateway.close()
      rmSync(join(dir, 'state'), { recursive: true })
    }
  })

  test('a method that a server of 2026 does not know is -32601, not an answer of ours', async () => {
    const server = keep(await startRawModern())
    await startUp({ url: server.url })
    server.behave['tools/call'] = 'not-found'
    expect((await callLegacy('up__echo')).json.error).toMatchObject({ code: -32601 })
    expect((await call('up__echo')).json.error).toMatchObject({ code: -32601 })
  })

  test('a tool that the server no longer knows: its list is fetched again, the call is not repeated', async () => {
    const server = keep(await startRawModern())
    server.tools.push({ name: 'ghost', inputSchema })
    await startUp({ url: server.url })
    server.tools.pop()
    expect((await call('up__ghost')).json.error).toMatchObject({ code: -32602 })
    expect(count(server, 'tools/call')).toBe(1)
    await waitFor(() => gateway.gateway.catalog().byPublicName('up__ghost') === undefined, 'the list without it', 8000)
  })
})

describe('results of other types than complete', () => {
  const tasks = { 'io.modelcontextprotocol/tasks': {} }
  const vendor = { 'vendor.example/portals': {} }
  const declare = (extensions: Params) => ({ meta: { [capabilitiesKey]: { extensions } } })
  let server: RawModern
  beforeEach(async () => {
    server = keep(await startRawModern())
    server.capabilities = { extensions: { ...tasks, ...vendor } }
    await startUp({ url: server.url })
  })
  const refused = (reply: { json: any }, type: string) => {
    expect(reply.json.result).toMatchObject({ isError: true, _meta: { 'switchboard/error': { code: -31502 } } })
    expect(textOf(reply)).toContain(type)
    expect(reply.json.result).not.toHaveProperty('taskId')
    if (reply.json.result.resultType !== undefined) expect(reply.json.result.resultType).toBe('complete')
  }

  test('a task passes whole to a client that declared tasks, and to no other (§6.9)', async () => {
    const { json } = await call('up__task', {}, declare(tasks))
    expect(json.result).toMatchObject({
      resultType: 'task',
      taskId: expect.any(String),
      status: 'working',
      pollIntervalMs: 1000,
      'x-vendor': { depth: 'task' }
    })
    refused(await call('up__task'), '"task"')
    refused(await call('up__task', {}, declare(vendor)), '"task"')
    refused(await callLegacy('up__task'), '"task"')
  })

  test('a type of the future passes to a client that shares an extension with the server (§6.9)', async () => {
    const { json } = await call('up__future', {}, declare(vendor))
    expect(json.result).toMatchObject({ resultType: 'x-test/future', portal: { opens: 'later' } })
    refused(await call('up__future'), 'x-test/future')
    refused(await call('up__future', {}, declare({ 'vendor.example/other': {} })), 'x-test/future')
    refused(await callLegacy('up__future'), 'x-test/future')
  })

  test('are not provoked: the server hears of an extension only if client and server both have it (§6.9)', async () => {
    const heard = async (extensions?: Params) => {
      const { params } = JSON.parse(textOf(await call('up__args', {}, extensions && declare(extensions))))
      return params._meta[capabilitiesKey].extensions
    }
    expect(await heard()).toBeUndefined()
    expect(await heard({ 'vendor.example/other': {} })).toBeUndefined()
    expect(await heard({ ...tasks, 'vendor.example/other': {} })).toEqual(tasks)
    const { params } = JSON.parse(textOf(await callLegacy('up__args')))
    expect(params._meta[capabilitiesKey]).not.toHaveProperty('extensions')
  })

  test('none at all is complete, for a client of 2026 (§6.8)', async () => {
    expect((await call('up__no_result_type')).json.result.resultType).toBe('complete')
    expect((await callLegacy('up__no_result_type')).json.result).not.toHaveProperty('resultType')
  })

  test('a question to the person reaches no client that did not say it can ask (§6.47)', async () => {
    for (const reply of [await call('up__ask'), await callLegacy('up__ask')]) refused(reply, 'input_required')
  })
})

describe('a tool whose output is no object', () => {
  const outputSchema = {
    type: 'array',
    items: { anyOf: [{ $ref: '#/$defs/row' }, { $ref: 'https://example.com/other.json' }] },
    $defs: { row: { type: ['integer', 'string', 'null'] }, self: { $ref: '#' } }
  }
  let server: RawModern
  beforeEach(async () => {
    server = keep(await startRawModern())
    server.tools = [{ name: 'array', inputSchema, outputSchema }]
    await startUp({ url: server.url })
  })

  test('is shown as it is to clients of 2026, and gives them what it gives (§6.3)', async () => {
    const [tool] = await listOf('modern')
    expect(JSON.stringify(tool.outputSchema)).toBe(JSON.stringify(outputSchema))
    expect((await call('up__array')).json.result.structuredContent).toEqual([1, 'zwei', null])
  })

  test('is shown to clients of 2025 as the member `result` of an object, references moved along, and gives that', async () => {
    const [tool] = await listOf('legacy')
    expect(tool.outputSchema).toEqual({
      type: 'object',
      properties: {
        result: {
          type: 'array',
          items: { anyOf: [{ $ref: '#/properties/result/$defs/row' }, { $ref: 'https://example.com/other.json' }] },
          $defs: { row: { type: ['integer', 'string', 'null'] }, self: { $ref: '#/properties/result' } }
        }
      },
      required: ['result']
    })
    const { result } = (await callLegacy('up__array')).json
    expect(result.structuredContent).toEqual({ result: [1, 'zwei', null] })
    expect(result.content).toEqual([{ type: 'text', text: '[1,"zwei",null]' }])
  })

  test('passes the checks of a real client of 2025', async () => {
    server.tools = [
      {
        name: 'array',
        inputSchema,
        outputSchema: { type: 'array', items: { $ref: '#/$defs/row' }, $defs: { row: {} } }
      }
    ]
    server.notify()
    const shown = () => gateway.gateway.catalog().byPublicName('up__array')?.bytes('modern', false)
    await waitFor(() => shown()?.includes('example.com') === false, 'the new list', 8000)
    const client = keep(await connectClient('v1 over HTTP', gateway.url, secrets.ADMIN))
    await client.listTools()
    expect((await client.callTool('up__array')).structuredContent).toEqual({ result: [1, 'zwei', null] })
  })
})
