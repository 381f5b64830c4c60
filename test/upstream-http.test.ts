/** Servers over Streamable HTTP as they really behave: lost sessions, refusals, redirects, cut streams, restarts. */
import { createServer } from 'node:http'
import { createHash } from 'node:crypto'
import type { AddressInfo } from 'node:net'
import { request } from 'undici'
import { describe, expect, it, onTestFinished } from 'vitest'
import { start as startHttpLegacy } from './fixtures/http-legacy.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import type { Mode, RawHttp, Recorded } from './fixtures/types.d.mts'
import { bearer, modern, openSession, post, type Reply } from './helpers/http.js'
import { secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

async function start(servers: Record<string, object>) {
  const gateway = await startTestGateway(
    `servers: ${JSON.stringify(servers)}\nkeys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`
  )
  onTestFinished(() => gateway.close())
  return gateway
}

/** A gateway with the one server `remote`, which is ready. `prepare` may change it before it is reached. */
async function startRemote(options: Record<string, unknown> = {}, prepare: (server: RawHttp) => void = () => {}) {
  const server = await startRawHttp()
  onTestFinished(() => server.close())
  prepare(server)
  const gateway = await start({ remote: { url: server.url, ...options } })
  await gateway.until('remote')
  return { server, gateway }
}

const call = (gateway: TestGateway, tool: string, args: object = {}, meta?: object) =>
  modern(gateway.url, secrets.ADMIN, 'tools/call', {
    name: `remote__${tool}`,
    arguments: args,
    ...(meta && { _meta: meta })
  })

const listed = async (gateway: TestGateway): Promise<string[]> =>
  (await modern(gateway.url, secrets.ADMIN, 'tools/list')).json.result.tools.map(({ name }: { name: string }) => name)

const textOf = ({ json }: Reply): string => json.result.content[0].text
const problemOf = ({ json }: Reply) => json.result?._meta?.['switchboard/error']
const calls = ({ requests }: RawHttp): Recorded[] => requests.filter(({ message }) => message?.method === 'tools/call')
const streams = ({ requests }: RawHttp): Recorded[] => requests.filter(({ verb }) => verb === 'GET')
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

/** A failed call is a result that a model can act on, over an HTTP exchange that went well. */
function expectFailure(reply: Reply, problem: object, text: RegExp) {
  expect(reply.status).toBe(200)
  expect(reply.json.result.isError).toBe(true)
  expect(problemOf(reply)).toMatchObject({ server: 'remote', ...problem })
  expect(textOf(reply)).toContain('"remote"')
  expect(textOf(reply)).toMatch(text)
}

/** An address through which `target` is reached, without its stream; its answers arrive `delayOf(body)` ms late. */
async function startSlowLine(target: string, delayOf: (body: string) => number): Promise<string> {
  const line = createServer((req, res) => {
    void (async () => {
      if (req.method === 'GET') return res.writeHead(405).end()
      const { host: _host, connection: _connection, 'content-length': _length, ...headers } = req.headers
      let body = ''
      for await (const chunk of req) body += String(chunk)
      const answer = await request(target, { method: req.method as 'POST', headers, body: body || null })
      const text = await answer.body.text()
      await pause(delayOf(body))
      const { 'content-type': type, 'mcp-session-id': session } = answer.headers
      res.writeHead(answer.statusCode, {
        ...(type && { 'content-type': type }),
        ...(session && { 'mcp-session-id': session })
      })
      return res.end(text)
    })()
  })
  await new Promise<void>(resolve => line.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => new Promise<void>(resolve => line.close(() => resolve())))
  return `http://127.0.0.1:${(line.address() as AddressInfo).port}/mcp`
}

describe('a server that has lost the session', () => {
  const dialects = ['404', '404-empty', '400-32000', '400-32001', '200-32600', '401']

  it.each(dialects.flatMap(lost => ['json', 'sse'].map(answer => [lost, answer] as const)))(
    'and says so as %s, answering as %s: twenty calls share one new initialize, and no client notices (§6.68)',
    async (lost, answer) => {
      const { server, gateway } = await startRemote({ concurrency: 50 })
      expect(server.initializes).toBe(1)
      Object.assign(server.behave, { lost, answer })
      server.forgetSessions()
      const messages = Array.from({ length: 20 }, (_, i) => `message ${i}`)
      const replies = await Promise.all(messages.map(message => call(gateway, 'echo', { message })))
      expect(replies.map(textOf)).toEqual(messages)
      expect(replies.some(({ json }) => json.result.isError)).toBe(false)
      expect(server.initializes).toBe(2)
      expect(server.called).toBe(20)
      expect(gateway.gateway.status()).toMatchObject([{ state: 'ready', restarts: 0 }])
    }
  )

  it('and says so late: a call refused after the new initialize does not cause another (§6.68)', async () => {
    const server = await startRawHttp()
    onTestFinished(() => server.close())
    const slow = await startSlowLine(server.url, body => (body.includes('late') ? 500 : 0))
    const gateway = await start({ remote: { url: slow } })
    await gateway.until('remote')
    server.forgetSessions()
    const late = call(gateway, 'echo', { message: 'late' })
    expect(textOf(await call(gateway, 'echo', { message: 'on time' }))).toBe('on time')
    expect(textOf(await late)).toBe('late')
    expect(server.initializes).toBe(2)
    expect(server.called).toBe(2)
  })

  it('over and over: each time one new initialize, and never a failed call', async () => {
    const { server, gateway } = await startRemote()
    for (let round = 1; round <= 5; round++) {
      server.forgetSessions()
      expect(textOf(await call(gateway, 'echo', { message: `round ${round}` }))).toBe(`round ${round}`)
      expect(server.initializes).toBe(1 + round)
    }
    await pause(1500)
    expect(server.initializes).toBe(6)
    expect(server.sessions.size).toBe(6 - 5)
  })

  it('and refuses the new one as well: the call fails with a sentence, and nothing spins', async () => {
    const { server, gateway } = await startRemote()
    server.behave['tools/call'] = 'lost'
    expectFailure(await call(gateway, 'echo'), { code: -31502, dispatched: false }, /session/)
    expect(server.initializes).toBe(2)
    expect(calls(server)).toHaveLength(2)
    delete server.behave['tools/call']
    expect(textOf(await call(gateway, 'echo', { message: 'well again' }))).toBe('well again')
  })

  it('and cannot open a new one for a while: the next call after that opens it', async () => {
    const { server, gateway } = await startRemote()
    server.behave.initialize = 'error'
    server.behave.get = '405'
    server.forgetSessions()
    const failed = await call(gateway, 'echo', { message: 'too early' })
    expect(failed.json.result?.isError).toBe(true)
    // The call itself was refused before it ran, whatever became of the new initialize.
    expect.soft(problemOf(failed)).toMatchObject({ server: 'remote', dispatched: false })
    expect(server.called).toBe(0)
    delete server.behave.initialize
    const reply = await call(gateway, 'echo', { message: 'now' })
    expect(reply.json.error).toBeUndefined()
    expect(textOf(reply)).toBe('now')
  })

  it('and hangs in the new initialize: the call ends at its own limit', async () => {
    const { server, gateway } = await startRemote({ timeout: 1, connect_timeout: 8 })
    server.behave.initialize = 'hang'
    server.forgetSessions()
    const begun = performance.now()
    const [first, second] = await Promise.all([call(gateway, 'echo'), pause(200).then(() => call(gateway, 'echo'))])
    expect(performance.now() - begun).toBeLessThan(5000)
    for (const reply of [first, second]) expectFailure(reply, { dispatched: false }, /\b1 s\b/)
  })

  it('because it was restarted on the same port: the next call succeeds', async () => {
    const { server, gateway } = await startRemote()
    expect(textOf(await call(gateway, 'echo', { message: 'before' }))).toBe('before')
    await server.close()
    const restarted = await startRawHttp({ port: server.port })
    onTestFinished(() => restarted.close())
    expect(textOf(await call(gateway, 'echo', { message: 'after' }))).toBe('after')
    expect(restarted.initializes).toBe(1)
    expect(restarted.called).toBe(1)
  })

  it('because it was restarted with other tools: they are offered soon', async () => {
    const { server, gateway } = await startRemote()
    await server.close()
    const restarted = await startRawHttp({ port: server.port })
    onTestFinished(() => restarted.close())
    restarted.tools.push({ name: 'brand_new', inputSchema: { type: 'object' } })
    expect(textOf(await call(gateway, 'echo', { message: 'after' }))).toBe('after')
    await waitFor(async () => (await listed(gateway)).includes('remote__brand_new'), 'the new tool', 10_000)
  })
})

describe('a call that the server refuses or spoils is an error result with its reason, never an error of the gateway', () => {
  it.each<[Mode, object, RegExp]>([
    ['unauthorized', { code: -31502, dispatched: false }, /credentials.*401/],
    ['forbidden', { code: -31502, dispatched: false }, /credentials.*403/],
    ['rate-limited', { code: -31429, dispatched: false, retryAfterMs: 7000 }, /429.*try again in 7 s/],
    ['error', { code: -31502, dispatched: true }, /HTTP 500/],
    ['unavailable', {}, /HTTP 503/],
    ['method-not-allowed', { code: -31502 }, /HTTP 405/],
    ['html', { code: -31502, dispatched: true }, /not the answer/],
    ['garbage', { code: -31502, dispatched: true }, /not the answer/],
    ['cut', { code: -31502, dispatched: true }, /ended without the answer/],
    ['destroy', { code: -31502, dispatched: true }, /connection to it broke.*may or may not have run/],
    ['destroy-after-call', { code: -31502, dispatched: true }, /connection to it broke.*may or may not have run/]
  ])('%s', async (mode, problem, text) => {
    const { server, gateway } = await startRemote()
    server.behave['tools/call'] = mode
    expectFailure(await call(gateway, 'echo', { message: 'lost' }), problem, text)
    expect(calls(server)).toHaveLength(1)
    delete server.behave['tools/call']
    expect(textOf(await call(gateway, 'echo', { message: 'next' }))).toBe('next')
    expect(server.initializes).toBe(1)
  })

  it.each(['hang', 'comments'])('%s: it ends at its limit and the server is told', async mode => {
    const { server, gateway } = await startRemote({ timeout: 1 })
    server.behave['tools/call'] = mode
    const begun = performance.now()
    expectFailure(await call(gateway, 'echo'), { code: -31504, dispatched: true }, /\b1 s\b/)
    expect(performance.now() - begun).toBeLessThan(6000)
    const cancelled = () => server.requests.filter(({ message }) => message?.method === 'notifications/cancelled')
    await waitFor(() => cancelled().length === 1, 'the server to be told')
    expect(cancelled()[0]?.message.params.requestId).toBe(calls(server)[0]?.message.id)
  })

  it('in a session of the 2025 era it is the same, and the session goes on', async () => {
    const { server, gateway } = await startRemote()
    const session = await openSession(gateway.url, secrets.ADMIN)
    server.behave['tools/call'] = ['unauthorized', 'error']
    for (const text of [/401/, /HTTP 500/]) {
      const reply = await session.rpc('tools/call', { name: 'remote__echo', arguments: {} })
      expectFailure(reply, { code: -31502 }, text)
      expect(reply.headers).not.toHaveProperty('www-authenticate')
    }
    const reply = await session.rpc('tools/call', { name: 'remote__echo', arguments: { message: 'on' } })
    expect(textOf(reply)).toBe('on')
  })
})

describe('a redirect is never followed', () => {
  async function startTrap() {
    const seen: unknown[] = []
    const trap = createServer((req, res) => {
      seen.push({ url: req.url, headers: req.headers })
      res.end()
    })
    trap.on('connection', () => seen.push('connection'))
    await new Promise<void>(resolve => trap.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => new Promise<void>(resolve => trap.close(() => resolve())))
    return { seen, location: `http://127.0.0.1:${(trap.address() as AddressInfo).port}/mcp` }
  }
  const credentials = { headers: { Authorization: 'Bearer upstream-secret', 'X-Api-Key': 'upstream-key' } }

  it.each([301, 302, 303, 307, 308])('%i in answer to a call', async status => {
    const { seen, location } = await startTrap()
    const { server, gateway } = await startRemote(credentials)
    server.behave['tools/call'] = { mode: 'redirect', status, location }
    expectFailure(await call(gateway, 'echo'), { code: -31502, dispatched: false }, new RegExp(`redirect.*${status}`))
    delete server.behave['tools/call']
    expect(textOf(await call(gateway, 'echo', { message: 'next' }))).toBe('next')
    expect(seen).toEqual([])
  })

  it('in answer to everything, from the first request on', async () => {
    const { seen, location } = await startTrap()
    const server = await startRawHttp()
    onTestFinished(() => server.close())
    server.behave['*'] = { mode: 'redirect', status: 307, location }
    const gateway = await start({ remote: { url: server.url, ...credentials } })
    await gateway.until('remote', 'down')
    expect(gateway.gateway.status()[0]?.problem).toMatch(/redirect.*307.*"url"/)
    await pause(300)
    expect(seen).toEqual([])
  })

  it('in answer to the stream, a notification or the end of the session', async () => {
    const { seen, location } = await startTrap()
    const redirect = { mode: 'redirect', status: 302, location }
    const { server, gateway } = await startRemote(credentials, ({ behave }) =>
      Object.assign(behave, { GET: redirect, DELETE: redirect, 'notifications/initialized': redirect })
    )
    await waitFor(() => streams(server).length > 0, 'the stream to be asked for')
    expect(textOf(await call(gateway, 'echo', { message: 'works' }))).toBe('works')
    await gateway.close()
    expect(server.requests.some(({ verb }) => verb === 'DELETE')).toBe(true)
    expect(seen).toEqual([])
  })
})

describe('a call is sent again only where that does no harm', () => {
  const annotated = ({ tools }: RawHttp) => {
    tools.push(
      { name: 'read', inputSchema: { type: 'object' }, annotations: { readOnlyHint: true } },
      { name: 'set', inputSchema: { type: 'object' }, annotations: { idempotentHint: true } },
      { name: 'append', inputSchema: { type: 'object' }, annotations: { readOnlyHint: false, title: 'Append' } }
    )
  }

  it('by default never, whatever the tool says of itself', async () => {
    const { server, gateway } = await startRemote({}, annotated)
    for (const [i, tool] of ['read', 'set', 'append', 'count'].entries()) {
      server.behave['tools/call'] = ['destroy']
      expectFailure(await call(gateway, tool), { code: -31502, dispatched: true }, /may or may not have run/)
      expect(calls(server)).toHaveLength(i + 1)
    }
    expect(server.called).toBe(0)
  })

  it.each(['read', 'set'])('with `retry: annotated` the tool "%s" once', async tool => {
    const { server, gateway } = await startRemote({ retry: 'annotated' }, annotated)
    server.behave['tools/call'] = ['destroy-after-call']
    expect(textOf(await call(gateway, tool))).toBe(`called ${tool}`)
    expect(calls(server)).toHaveLength(2)
    server.behave['tools/call'] = 'destroy'
    expectFailure(await call(gateway, tool), { code: -31502, dispatched: true }, /broke/)
    expect(calls(server)).toHaveLength(4)
  })

  it.each(['append', 'count'])('with `retry: annotated` never the tool "%s", which promises nothing', async tool => {
    const { server, gateway } = await startRemote({ retry: 'annotated' }, annotated)
    server.behave['tools/call'] = ['destroy-after-call']
    expectFailure(await call(gateway, tool, { nonce: 'n' }), { code: -31502, dispatched: true }, /broke/)
    expect(calls(server)).toHaveLength(1)
    expect(server.called).toBe(1)
  })

  it('when nothing listened, because it was not delivered', async () => {
    const { server, gateway } = await startRemote()
    await server.close()
    const refused = await call(gateway, 'count', { nonce: 'n' })
    expectFailure(refused, { code: -31503, dispatched: false }, /connection refused.*not sent/)
    const restarted = await startRawHttp({ port: server.port })
    onTestFinished(() => restarted.close())
    expect(textOf(await call(gateway, 'count', { nonce: 'n' }))).toBe('1')
  })
})

describe('the stream for what belongs to no call', () => {
  it('may be refused with 405: calls work and it is not asked for again', async () => {
    const { server, gateway } = await startRemote({}, ({ behave }) => (behave.get = '405'))
    expect(textOf(await call(gateway, 'echo', { message: 'works' }))).toBe('works')
    await pause(2500)
    expect(streams(server)).toHaveLength(1)
    expect(server.initializes).toBe(1)
  })

  it('may be refused with 404: calls work, and the session is not opened over and over', async () => {
    const { server, gateway } = await startRemote({}, ({ behave }) => (behave.get = '404'))
    expect(textOf(await call(gateway, 'echo', { message: 'works' }))).toBe('works')
    await pause(2500)
    expect(server.initializes).toBeLessThanOrEqual(3)
    expect(streams(server).length).toBeLessThanOrEqual(4)
    expect(textOf(await call(gateway, 'echo', { message: 'still' }))).toBe('still')
  })

  it('may be closed each time: calls work, and it is asked for ever more rarely', async () => {
    const { server, gateway } = await startRemote({}, ({ behave }) => (behave.get = 'close'))
    for (let i = 0; i < 13; i++) {
      expect(textOf(await call(gateway, 'echo', { message: `${i}` }))).toBe(`${i}`)
      await pause(500)
    }
    // At once, then after 1 s, 2 s, 4 s.
    expect(streams(server).length).toBeLessThanOrEqual(5)
    expect(server.initializes).toBe(1)
  }, 40_000)

  it('comes back when it broke, and then tells changes again', async () => {
    const { server, gateway } = await startRemote()
    await waitFor(() => server.streams.size === 1, 'the stream')
    for (const stream of server.streams) stream.destroy()
    await waitFor(() => server.streams.size === 1 && streams(server).length === 2, 'the stream again')
    server.tools.push({ name: 'late', inputSchema: { type: 'object' } })
    server.notify()
    await waitFor(async () => (await listed(gateway)).includes('remote__late'), 'the new tool')
  })

  it('tells that the list has changed: it is fetched anew', async () => {
    const { server, gateway } = await startRemote()
    await waitFor(() => server.streams.size === 1, 'the stream')
    expect(await listed(gateway)).not.toContain('remote__late')
    server.tools.push({ name: 'late', inputSchema: { type: 'object' } })
    server.tools = server.tools.filter(({ name }: { name: string }) => name !== 'hologram')
    server.notify()
    await waitFor(async () => (await listed(gateway)).includes('remote__late'), 'the new tool')
    expect(await listed(gateway)).not.toContain('remote__hologram')
    expect(textOf(await call(gateway, 'late'))).toBe('called late')
    expect((await call(gateway, 'hologram')).json.error).toMatchObject({ code: -32602 })
  })

  it('may tell changes without pause: they are seen all the same, and the list is not fetched each time', async () => {
    const { server, gateway } = await startRemote()
    await waitFor(() => server.streams.size === 1, 'the stream')
    const fetches = () => server.requests.filter(({ message }) => message?.method === 'tools/list').length
    const before = fetches()
    server.tools.push({ name: 'late', inputSchema: { type: 'object' } })
    const storm = setInterval(() => server.notify(), 20)
    onTestFinished(() => clearInterval(storm))
    await waitFor(async () => (await listed(gateway)).includes('remote__late'), 'the new tool during the storm', 8000)
    await pause(2000)
    expect(fetches() - before).toBeLessThanOrEqual(6)
  })
})

describe('what reaches the server', () => {
  it('never a header of the client, always the configured ones and the trace context (§6.31)', async () => {
    const { server, gateway } = await startRemote({
      headers: { Authorization: 'Bearer upstream-secret', 'X-Tenant': 'homelab' }
    })
    const trace = {
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
      tracestate: 'vendor=1',
      baggage: 'user=7'
    }
    const own = {
      cookie: 'sid=client-cookie',
      'x-forwarded-for': '203.0.113.9',
      'x-client-secret': 'client-header',
      origin: gateway.url,
      ...trace
    }
    const params = { name: 'remote__args', arguments: {}, _meta: { traceparent: trace.traceparent } }
    const legacy = await openSession(gateway.url, secrets.ADMIN)
    const replies = [
      await modern(gateway.url, secrets.ADMIN, 'tools/call', params, { headers: own }),
      await legacy.rpc('tools/call', params, { headers: own }),
      await post(
        `${gateway.url}/mcp`,
        { jsonrpc: '2.0', id: 1, method: 'tools/call', params },
        { 'x-api-key': secrets.ADMIN, ...own, 'mcp-session-id': legacy.id }
      )
    ]
    for (const reply of replies) {
      const { params, headers } = JSON.parse(textOf(reply))
      expect(headers).toMatchObject({ authorization: 'Bearer upstream-secret', 'x-tenant': 'homelab', ...trace })
      expect(headers['mcp-session-id']).not.toBe(legacy.id)
      expect(params._meta).toEqual({ traceparent: trace.traceparent })
      for (const name of ['cookie', 'x-api-key', 'x-forwarded-for', 'x-client-secret', 'origin']) {
        expect(headers).not.toHaveProperty(name)
      }
    }
    const everything = JSON.stringify(server.requests)
    for (const secret of [secrets.ADMIN, 'client-cookie', 'client-header', legacy.id]) {
      expect(everything).not.toContain(secret)
    }
  })

  it('trace headers only in the call that brought them', async () => {
    const { server, gateway } = await startRemote()
    const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    const params = { name: 'remote__echo', arguments: {} }
    await modern(gateway.url, secrets.ADMIN, 'tools/call', params, { headers: { traceparent } })
    await call(gateway, 'echo')
    expect(calls(server).map(({ headers }) => headers.traceparent)).toEqual([traceparent, undefined])
  })

  it('the negotiated version and the session on every request after initialize, and a goodbye at the end', async () => {
    const { server, gateway } = await startRemote()
    await call(gateway, 'echo')
    await waitFor(() => streams(server).length === 1, 'the stream')
    const [session] = server.sessions
    await gateway.close()
    const opened = server.requests.findIndex(({ message }) => message?.method === 'initialize')
    const afterwards = server.requests.slice(opened + 1)
    expect(afterwards.length).toBeGreaterThanOrEqual(5)
    for (const { headers } of afterwards) {
      expect(headers).toMatchObject({ 'mcp-protocol-version': '2025-11-25', 'mcp-session-id': session })
    }
    expect(afterwards.filter(({ verb }) => verb === 'DELETE')).toHaveLength(1)
    expect(server.sessions.size).toBe(0)
  })

  it('the key of a client is refused by the gateway itself, not asked of the server', async () => {
    const { server, gateway } = await startRemote()
    const params = { name: 'remote__echo', arguments: {} }
    const reply = await post(
      `${gateway.url}/mcp`,
      { jsonrpc: '2.0', id: 1, method: 'tools/call', params },
      bearer('nobody')
    )
    expect(reply.status).toBe(401)
    expect(calls(server)).toEqual([])
  })
})

describe('large answers', () => {
  it('a result of 20 MB in one event arrives whole', async () => {
    const server = await startHttpLegacy()
    onTestFinished(() => server.close())
    const gateway = await start({ remote: { url: server.url } })
    await gateway.until('remote')
    const bytes = 20 * 1024 * 1024
    const text = textOf(await call(gateway, 'big', { bytes }))
    const digest = (value: string) => createHash('sha256').update(value).digest('hex')
    expect(text.length).toBe(bytes)
    expect(digest(text)).toBe(digest('0123456789abcdef'.repeat(bytes / 16)))
  })

  it('a result beyond the limit of 32 MiB fails that call with a sentence, and the next call works', async () => {
    const server = await startHttpLegacy()
    onTestFinished(() => server.close())
    const gateway = await start({ remote: { url: server.url } })
    await gateway.until('remote')
    const reply = await call(gateway, 'big', { bytes: 33 * 1024 * 1024 })
    expectFailure(reply, { code: -31502, dispatched: true }, /more than 32 MiB/)
    expect(textOf(await call(gateway, 'echo', { message: 'next' }))).toBe('next')
  })
})
