/**
 * Conversations of the 2025 era over `/mcp`: how a session opens, who may use its id, its stream, its end, and what
 * becomes of a call whose client goes away or changes its mind.
 */
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { request } from 'undici'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { bearer, envelope, openSession, post, raw, send } from './helpers/http.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const dir = mkdtempSync(join(tmpdir(), 'switchboard-sessions-'))
const ledger = openLedger(join(dir, 'ledger'))
let gateway: TestGateway
let url: string

beforeAll(async () => {
  gateway = await startTestGateway(`
servers:
  alpha:
    command: node
    args: [${fixture('raw-stdio.mjs')}]
    env: { LEDGER: ${ledger.path} }
    aliases: [first]
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: { alpha: [echo] } }
`)
  url = gateway.url
  await gateway.until('alpha')
})
afterAll(async () => {
  await gateway.close()
  rmSync(dir, { recursive: true, force: true })
})

const open = (options?: { version?: string; path?: string }) => openSession(url, secrets.ADMIN, options)

const initializeBody = (params: object = {}) => ({
  jsonrpc: '2.0',
  id: 0,
  method: 'initialize',
  params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'test', version: '1' }, ...params }
})

let calls = 0
/** A call that runs for `ms`, or until it is cancelled: its params, and the nonce under which the ledger knows it. */
function slowCall(ms = 20_000) {
  const nonce = `call-${++calls}`
  return { nonce, params: { name: 'alpha__slow', arguments: { ms, nonce } } }
}

const noted = (line: string) => waitFor(() => ledger.count(line) === 1, `"${line}" in the ledger`, 5000)

interface Stream {
  readonly status: number
  readonly type: string
  readonly text: () => string
  /** How it ended; undefined as long as it is open. */
  readonly ended: () => 'cleanly' | 'broken' | undefined
  close(): void
}

async function openStream(headers: Record<string, string>, path = '/mcp'): Promise<Stream> {
  const { statusCode, headers: replied, body } = await request(url + path, {
    method: 'GET',
    headers: { accept: 'text/event-stream', ...headers },
    headersTimeout: 0,
    bodyTimeout: 0
  }) // prettier-ignore
  let text = ''
  let ended: 'cleanly' | 'broken' | undefined
  body.on('data', (chunk: Buffer) => (text += chunk.toString()))
  body.once('end', () => (ended = 'cleanly'))
  body.once('error', () => (ended ??= 'broken'))
  return {
    status: statusCode,
    type: String(replied['content-type']),
    text: () => text,
    ended: () => ended,
    close: () => body.destroy()
  }
}

/** One request by hand, with its connection closed afterwards: all bytes that came back, without the date. */
async function bytesOf(method: string, headers: Record<string, string>, body?: object): Promise<string> {
  const text = body === undefined ? '' : JSON.stringify(body)
  const lines = Object.entries({
    host: new URL(url).host,
    ...(body && { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)) }),
    connection: 'close',
    ...headers
  }).map(([name, value]) => `${name}: ${value}`)
  const received = await raw(url, [`${method} /mcp HTTP/1.1`, ...lines, '', text].join('\r\n'))
  return received.replace(/^date: .*\r\n/im, '')
}

describe('initialize', () => {
  test.each(['2025-11-25', '2025-06-18', '2025-03-26', '2024-11-05'])('agrees to %s (§6.48)', async version => {
    const { opened } = await open({ version })
    expect(opened.status).toBe(200)
    expect(opened.json).toMatchObject({ jsonrpc: '2.0', id: 0, result: { protocolVersion: version } })
  })

  test.each(['1999-01-01', '2026-07-28', '2030-01-01', '', 'latest', 20251125, null, undefined])(
    'that asks for %s gets the newest of the 2025 era, never 2026 (§6.48)',
    async protocolVersion => {
      const { status, json } = await post(`${url}/mcp`, initializeBody({ protocolVersion }), bearer(secrets.ADMIN))
      expect([status, json.result?.protocolVersion]).toEqual([200, '2025-11-25'])
    }
  )

  test('without any params works', async () => {
    const { status, json } = await post(`${url}/mcp`, { jsonrpc: '2.0', id: 1, method: 'initialize' }, bearer(secrets.ADMIN)) // prettier-ignore
    expect([status, json.result?.protocolVersion]).toEqual([200, '2025-11-25'])
  })

  test('gives an id of visible ASCII characters, the gateway as server, and tools as capability', async () => {
    const { id, opened } = await open()
    expect(id).toMatch(/^[!-~]{20,2048}$/)
    expect(opened.json.result.capabilities).toHaveProperty('tools')
    expect(opened.json.result.serverInfo).toMatchObject({ name: 'switchboard', title: 'switchboard' })
    expect(opened.json.result).not.toHaveProperty('resultType')
  })

  test('gives every client an id of its own', async () => {
    const ids = await Promise.all(Array.from({ length: 50 }, async () => (await open()).id))
    expect(new Set(ids).size).toBe(50)
  })

  test('from a client that declares very much still gives an id that proxies let through', async () => {
    const capabilities = { experimental: Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`x${i}`, {}])) }
    const clientInfo = { name: 'n'.repeat(50_000), version: '1', icons: [{ src: 'data:'.padEnd(10_000, 'x') }] }
    const opened = await post(`${url}/mcp`, initializeBody({ capabilities, clientInfo }), bearer(secrets.ADMIN))
    const id = String(opened.headers['mcp-session-id'])
    expect(id.length).toBeLessThanOrEqual(2048)
    const ping = { jsonrpc: '2.0', id: 1, method: 'ping' }
    expect((await post(`${url}/mcp`, ping, { ...bearer(secrets.ADMIN), 'mcp-session-id': id })).status).toBe(200)
  })

  test('with a stale session id is fine: a client that lost its session opens a new one', async () => {
    for (const stale of ['gone', (await open()).id]) {
      const opened = await post(`${url}/mcp`, initializeBody(), { ...bearer(secrets.ADMIN), 'mcp-session-id': stale })
      expect(opened.status).toBe(200)
      expect(opened.headers['mcp-session-id']).not.toBe(stale)
    }
  })
})

describe('a session id', () => {
  const ping = { jsonrpc: '2.0', id: 7, method: 'ping' }

  test('is needed for everything but initialize: without one 400, under the id of the request (§6.49)', async () => {
    for (const method of ['ping', 'tools/list', 'tools/call', 'no/such']) {
      const { status, json } = await post(`${url}/mcp`, { jsonrpc: '2.0', id: 'q', method }, bearer(secrets.ADMIN))
      expect([method, status, json.id, json.error.code]).toEqual([method, 400, 'q', -32600])
      expect(json.error.message).toContain('initialize')
    }
    const notification = { jsonrpc: '2.0', method: 'notifications/initialized' }
    expect((await post(`${url}/mcp`, notification, bearer(secrets.ADMIN))).status).toBe(400)
    expect((await post(`${url}/mcp`, { jsonrpc: '2.0', id: 1, result: {} }, bearer(secrets.ADMIN))).status).toBe(400)
  })

  test('is not guessed when it is missing, even if only one session is open', async () => {
    const alone = await startTestGateway('servers: {}\nkeys: { admin: { secret: "${ADMIN}", allow: "*" } }')
    try {
      await openSession(alone.url, secrets.ADMIN)
      expect((await post(`${alone.url}/mcp`, ping, bearer(secrets.ADMIN))).status).toBe(400)
    } finally {
      await alone.close()
    }
  })

  test('that is unknown, forged, cut, ended or of another key is 404, byte for byte the same (§6.27, §6.29, §6.49)', async () => {
    const { id } = await open()
    const ended = await open()
    expect((await send('DELETE', `${url}/mcp`, ended.headers)).status).toBeLessThan(300)
    const foreign = (await openSession(url, secrets.DEVELOPER)).id
    const flip = (text: string, at: number) => text.slice(0, at) + (text[at] === 'A' ? 'B' : 'A') + text.slice(at + 1)
    const ids = {
      unknown: 'b6f5b0d1-3f1e-4c5e-9f0a-4a9d6d0a5e11',
      empty: '',
      blank: ' ',
      cut: id.slice(0, -1),
      'cut short': id.slice(0, 20),
      longer: `${id}A`,
      'with a flipped bit at its end': flip(id, id.length - 2),
      'with a flipped bit in its middle': flip(id, Math.floor(id.length / 2)),
      'of another case': id.toUpperCase(),
      huge: 'x'.repeat(8000),
      ended: ended.id,
      foreign
    }
    for (const [method, body] of [['POST', ping], ['GET'], ['DELETE']] as const) {
      const answers = new Map<string, string[]>()
      for (const [what, sessionId] of Object.entries(ids)) {
        const bytes = await bytesOf(method, { ...bearer(secrets.ADMIN), 'mcp-session-id': sessionId }, body)
        answers.set(bytes, [...(answers.get(bytes) ?? []), what])
      }
      const [[bytes] = ['']] = answers
      expect([method, [...answers.values()]]).toEqual([method, [Object.keys(ids)]])
      expect(bytes).toMatch(/^HTTP\/1\.1 404 /)
      expect(bytes).toContain('"code":-32001')
    }
  })

  test('of another key is 404 on POST, GET and DELETE, and its owner notices nothing (§6.27)', async () => {
    const mine = await open()
    const stream = await openStream(mine.headers)
    const { nonce, params } = slowCall(1000)
    const running = mine.rpc('tools/call', params)
    await noted(`started ${nonce}`)
    const stolen = { ...mine.headers, ...bearer(secrets.DEVELOPER) }
    expect((await post(`${url}/mcp`, ping, stolen)).status).toBe(404)
    const cancel = { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 1 } }
    expect((await post(`${url}/mcp`, cancel, stolen)).status).toBe(404)
    expect((await send('GET', `${url}/mcp`, stolen)).status).toBe(404)
    expect((await send('DELETE', `${url}/mcp`, stolen)).status).toBe(404)
    expect((await running).json.result.content[0].text).toBe('waited 1000 ms')
    expect(stream.ended()).toBeUndefined()
    expect((await mine.rpc('ping')).status).toBe(200)
    stream.close()
  })

  test('that was ended by DELETE is 404 from then on, also for a second DELETE (§6.49)', async () => {
    const session = await open()
    expect((await session.rpc('ping')).status).toBe(200)
    expect((await send('DELETE', `${url}/mcp`, session.headers)).status).toBeLessThan(300)
    expect((await session.rpc('ping')).status).toBe(404)
    expect((await session.notify('notifications/initialized')).status).toBe(404)
    expect((await send('GET', `${url}/mcp`, session.headers)).status).toBe(404)
    expect((await send('DELETE', `${url}/mcp`, session.headers)).status).toBe(404)
  })

  test('serves /mcp, /mcp/, /mcp/<server> and its alias, wherever it was opened', async () => {
    const paths = ['/mcp', '/mcp/', '/mcp/alpha', '/mcp/alpha/', '/mcp/first', '/mcp?servers=alpha']
    for (const opened of ['/mcp', '/mcp/alpha']) {
      const session = await open({ path: opened })
      for (const path of paths) {
        const { status, json } = await session.rpc('tools/list', {}, { path })
        expect([path, status]).toEqual([path, 200])
        const names = json.result.tools.map(({ name }: { name: string }) => name)
        expect([path, names]).toEqual([path, expect.arrayContaining([/^\/mcp\/[a-z]/.test(path) ? 'echo' : 'alpha__echo'])]) // prettier-ignore
      }
      expect((await send('DELETE', `${url}/mcp/alpha`, session.headers)).status).toBeLessThan(300)
      expect((await session.rpc('ping')).status).toBe(404)
    }
  })

  test('works before the client has said that it is initialized', async () => {
    const session = await open()
    expect((await session.rpc('tools/call', { name: 'alpha__echo', arguments: { message: 'early' } })).json.result.content[0].text).toBe('early') // prettier-ignore
    expect((await session.notify('notifications/initialized')).status).toBe(202)
  })
})

describe('the MCP-Protocol-Version header', () => {
  const list = { jsonrpc: '2.0', id: 1, method: 'tools/list' }

  test('may be missing: the version of the session holds (§6.50)', async () => {
    for (const version of ['2025-11-25', '2025-03-26']) {
      const { headers } = await open({ version })
      const { 'mcp-protocol-version': _, ...without } = headers
      expect((await post(`${url}/mcp`, list, without)).status).toBe(200)
      expect((await post(`${url}/mcp`, { jsonrpc: '2.0', method: 'notifications/initialized' }, without)).status).toBe(
        202
      )
      const stream = await openStream(without)
      expect(stream.status).toBe(200)
      stream.close()
      expect((await send('DELETE', `${url}/mcp`, without)).status).toBeLessThan(300)
    }
  })

  test('may name another version of the era than the session', async () => {
    const { headers } = await open({ version: '2025-11-25' })
    expect((await post(`${url}/mcp`, list, { ...headers, 'mcp-protocol-version': '2025-03-26' })).status).toBe(200)
  })

  test.each(['1999-01-01', '2025-11-26', 'latest', '', '2025-11-25, 2025-06-18'])(
    '"%s" is 400 (§6.50)',
    async version => {
      const session = await open()
      const headers = { ...session.headers, 'mcp-protocol-version': version }
      const { status, json } = await post(`${url}/mcp`, list, headers)
      expect([status, json.error.code, json.id]).toEqual([400, -32600, 1])
      expect(json.error.message).toContain('2025-11-25')
      expect((await post(`${url}/mcp`, { jsonrpc: '2.0', method: 'notifications/initialized' }, headers)).status).toBe(
        400
      )
      expect((await send('GET', `${url}/mcp`, headers)).status).toBe(400)
      expect((await send('DELETE', `${url}/mcp`, headers)).status).toBe(400)
      expect((await session.rpc('ping')).status).toBe(200)
    }
  )
})

describe('requests in a session', () => {
  test('ping is answered with nothing', async () => {
    const { status, json } = await (await open()).rpc('ping', undefined, { id: 'p' })
    expect([status, json]).toEqual([200, { jsonrpc: '2.0', id: 'p', result: {} }])
  })

  test.each(['no/such', 'server/discover', 'subscriptions/listen', 'toString', '__proto__'])(
    'an unknown method (%s) is -32601 with HTTP 200',
    async method => {
      const { status, json } = await (await open()).rpc(method, {}, { id: 4 })
      expect([status, json.id, json.error.code]).toEqual([200, 4, -32601])
    }
  )

  test('a second initialize opens another session and leaves the first alone', async () => {
    const session = await open()
    const again = await post(`${url}/mcp`, initializeBody(), session.headers)
    expect(again.status).toBe(200)
    expect(again.headers['mcp-session-id']).not.toBe(session.id)
    expect((await session.rpc('ping')).status).toBe(200)
  })

  test.each<[string, object]>([
    ['a notification', { method: 'notifications/initialized' }],
    ['a notification nobody knows', { method: 'notifications/vendor/unheard', params: { a: 1 } }],
    ['an answer to a question nobody asked (§6.53)', { id: 'gw:1', result: { action: 'accept' } }],
    ['an error as answer (§6.53)', { id: 99, error: { code: -1, message: 'no' } }]
  ])('%s is 202 without a body', async (_, message) => {
    const { headers } = await open()
    const { status, text, headers: replied } = await post(`${url}/mcp`, { jsonrpc: '2.0', ...message }, headers)
    expect([status, text]).toEqual([202, ''])
    expect(replied['content-type']).toBeUndefined()
  })

  test('an id that is still in use is 400, and the running request is not disturbed', async () => {
    const session = await open()
    const { nonce, params } = slowCall(500)
    const running = session.rpc('tools/call', params, { id: 5 })
    await noted(`started ${nonce}`)
    const { status, json } = await session.rpc('ping', {}, { id: 5 })
    expect([status, json.error.code, json.id]).toEqual([400, -32600, 5])
    expect((await session.rpc('ping', {}, { id: '5' })).status).toBe(200)
    expect((await (await open()).rpc('ping', {}, { id: 5 })).status).toBe(200)
    expect((await running).json.result.content[0].text).toBe('waited 500 ms')
    expect((await session.rpc('ping', {}, { id: 5 })).status).toBe(200)
  })

  test('an id keeps its JSON type in the answer', async () => {
    const session = await open()
    for (const id of [0, -1, Number.MAX_SAFE_INTEGER, '', '0', 'ä"\\\u2028']) {
      expect((await session.rpc('ping', {}, { id })).json.id).toBe(id)
      const call = { name: 'alpha__echo', arguments: { message: 'x' } }
      expect((await session.rpc('tools/call', call, { id })).json.id).toBe(id)
    }
  })
})

describe('the stream of a session', () => {
  test('opens at once, with a comment in it', async () => {
    const { headers } = await open()
    const stream = await openStream(headers)
    expect([stream.status, stream.type]).toEqual([200, 'text/event-stream'])
    await waitFor(() => stream.text() !== '', 'the first bytes', 2000)
    expect(stream.text()).toMatch(/^:.*\n\n(id: \S+\ndata: \n\n)?$/)
    expect(stream.ended()).toBeUndefined()
    stream.close()
  })

  test('is replaced by a second one: the first ends cleanly, the second stays', async () => {
    const { headers } = await open()
    const first = await openStream(headers)
    const second = await openStream(headers, '/mcp/alpha')
    expect([first.status, second.status]).toEqual([200, 200])
    await waitFor(() => first.ended() === 'cleanly', 'the end of the first stream', 2000)
    await new Promise(resolve => setTimeout(resolve, 100))
    expect(second.ended()).toBeUndefined()
    second.close()
  })

  test('does not touch the stream of another session', async () => {
    const [one, other] = [await openStream((await open()).headers), await openStream((await open()).headers)]
    await new Promise(resolve => setTimeout(resolve, 100))
    expect([one.ended(), other.ended()]).toEqual([undefined, undefined])
    one.close()
    other.close()
  })

  test('can be opened again after its client went away', async () => {
    const { headers } = await open()
    for (let i = 0; i < 3; i++) {
      const stream = await openStream(headers)
      expect(stream.status).toBe(200)
      stream.close()
    }
  })

  test('is opened afresh for any Last-Event-ID: nothing is kept, nothing fails', async () => {
    const { headers } = await open()
    for (const lastEventId of ['1', 'forged', '-1', 'x'.repeat(5000)]) {
      const stream = await openStream({ ...headers, 'last-event-id': lastEventId })
      expect(stream.status).toBe(200)
      await waitFor(() => stream.text() !== '', 'the first bytes', 2000)
      expect(stream.text()).not.toContain('data: {')
      stream.close()
    }
  })

  test('is not there for HEAD, which leaves an open one alone', async () => {
    const { headers } = await open()
    const stream = await openStream(headers)
    const { status } = await send('HEAD', `${url}/mcp`, headers)
    await new Promise(resolve => setTimeout(resolve, 100))
    expect(stream.ended()).toBeUndefined()
    expect(status).toBe(405)
    stream.close()
  })

  test('ends cleanly when the session is ended', async () => {
    const { headers } = await open()
    const stream = await openStream(headers)
    expect((await send('DELETE', `${url}/mcp`, headers)).status).toBeLessThan(300)
    await waitFor(() => stream.ended() === 'cleanly', 'the end of the stream', 2000)
  })

  test('ends cleanly when the gateway closes', async () => {
    const other = await startTestGateway('servers: {}\nkeys: { admin: { secret: "${ADMIN}", allow: "*" } }')
    const { headers } = await openSession(other.url, secrets.ADMIN)
    const { statusCode, body } = await request(`${other.url}/mcp`, { method: 'GET', headers, bodyTimeout: 0 })
    expect(statusCode).toBe(200)
    const ended = once(body.resume(), 'end')
    await other.close()
    await ended
  })
})

/** Starts a call and hangs up as soon as the server has it. */
async function hangUpDuring(nonce: string, body: object, headers: Record<string, string>): Promise<void> {
  const req = httpRequest(`${url}/mcp`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...headers }
  })
  req.on('error', () => {})
  req.end(JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', ...body }))
  await noted(`started ${nonce}`)
  req.destroy()
}

describe('a client that changes its mind', () => {
  test('cancels a running call: its request ends as an empty stream, and the server is told (§6.51)', async () => {
    const session = await open()
    const { nonce, params } = slowCall()
    const running = session.rpc('tools/call', params, { id: 'mine' })
    await noted(`started ${nonce}`)
    const cancelled = await session.notify('notifications/cancelled', { requestId: 'mine', reason: 'changed my mind' })
    expect([cancelled.status, cancelled.text]).toEqual([202, ''])
    const { status, headers, messages } = await running
    expect([status, messages]).toEqual([200, []])
    expect(headers['content-type']).toBe('text/event-stream')
    await noted(`cancelled ${nonce}`)
    expect(gateway.logged('call').at(-1)).toMatchObject({ tool: 'slow', outcome: 'cancelled' })
  })

  test('cancels a call that is already a stream: it just ends', async () => {
    const session = await open()
    const { nonce, params } = slowCall()
    const running = session.rpc('tools/call', params, { id: 1, headers: { accept: 'text/event-stream' } })
    await noted(`started ${nonce}`)
    await session.notify('notifications/cancelled', { requestId: 1 })
    const { status, messages } = await running
    expect([status, messages]).toEqual([200, []])
    await noted(`cancelled ${nonce}`)
  })

  test('may use the id again after cancelling it', async () => {
    const session = await open()
    const { nonce, params } = slowCall()
    const running = session.rpc('tools/call', params, { id: 1 })
    await noted(`started ${nonce}`)
    await session.notify('notifications/cancelled', { requestId: 1 })
    await running
    const { status, json } = await session.rpc('ping', {}, { id: 1 })
    expect([status, json.result]).toEqual([200, {}])
  })

  test('cancels only its own: the id as a string, another session or a finished call mean nothing', async () => {
    const session = await open()
    const other = await open()
    await session.rpc('ping', {}, { id: 2 })
    const { nonce, params } = slowCall(700)
    const running = session.rpc('tools/call', params, { id: 1 })
    await noted(`started ${nonce}`)
    for (const requestId of ['1', 2, 'never heard of', null, {}, undefined])
      expect((await session.notify('notifications/cancelled', { requestId })).status).toBe(202)
    expect((await session.notify('notifications/cancelled')).status).toBe(202)
    expect((await other.notify('notifications/cancelled', { requestId: 1 })).status).toBe(202)
    expect((await running).json.result.content[0].text).toBe('waited 700 ms')
    expect(ledger.count(`cancelled ${nonce}`)).toBe(0)
  })

  test('ends its session during a call: the call is cancelled and its request ends', async () => {
    const session = await open()
    const { nonce, params } = slowCall()
    const running = session.rpc('tools/call', params)
    await noted(`started ${nonce}`)
    expect((await send('DELETE', `${url}/mcp`, session.headers)).status).toBeLessThan(300)
    const { status, messages } = await running
    expect([status, messages]).toEqual([200, []])
    await noted(`cancelled ${nonce}`)
  })
})

describe('a client whose connection drops during a call', () => {
  test('has not cancelled it in the 2025 era: the call runs to its end (§6.51)', async () => {
    const session = await open()
    const { nonce, params } = slowCall(700)
    await hangUpDuring(nonce, { params }, session.headers)
    await noted(`finished ${nonce}`)
    expect(ledger.count(`cancelled ${nonce}`)).toBe(0)
    await waitFor(() => gateway.logged('call').at(-1)?.outcome === 'ok', 'the line in the log', 2000)
    expect((await session.rpc('ping')).status).toBe(200)
  })

  test('can still cancel it in the 2025 era', async () => {
    const session = await open()
    const { nonce, params } = slowCall()
    await hangUpDuring(nonce, { params }, session.headers)
    await session.notify('notifications/cancelled', { requestId: 1 })
    await noted(`cancelled ${nonce}`)
  })

  test.each([
    ['plain answer', 'application/json'],
    ['stream', 'text/event-stream']
  ])('has cancelled it in 2026-07-28, be it a %s (§6.43)', async (_, accept) => {
    const { nonce, params } = slowCall()
    await hangUpDuring(
      nonce,
      { params: { ...params, _meta: envelope } },
      {
        ...bearer(secrets.ADMIN),
        accept,
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': 'tools/call',
        'mcp-name': 'alpha__slow'
      }
    )
    await noted(`cancelled ${nonce}`)
    expect(ledger.count(`finished ${nonce}`)).toBe(0)
    await waitFor(() => gateway.logged('call').at(-1)?.outcome === 'cancelled', 'the line in the log', 2000)
  })
})
