/**
 * Streams have byte budgets and stall limits: clients that stop reading, servers that never stop sending, clients that hang
 * up at any moment. The ids are those of the security reference; where the design has other numbers, those hold.
 */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import { start as startRawModern } from './fixtures/raw-modern.mjs'
import { neighbour, type Neighbour } from './helpers/neighbour.js'
import { attackFrom, type Attack, type BeginOptions } from './helpers/attack.js'
import { bearer, envelope, openSession } from './helpers/http.js'
import { openStream } from './helpers/matrix.js'
import {
  fixture,
  secrets,
  startTestGateway,
  waitFor,
  type TestGateway,
  type TestGatewayOptions
} from './helpers/with-gateway.js'
import { collectGarbage } from './helpers/memory.js'

const mib = 1024 * 1024

let folder: string
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'switchboard-streams-'))))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const newLedger = () => openLedger(join(folder, `${randomUUID()}.ledger`))
const healthy = { command: process.execPath, args: [fixture('raw-stdio.mjs')], era: 'legacy' }

/**
 * A stdio server with the tools `flood` (progress of 64 KiB each until `bytes` are sent or it is cancelled, then, after
 * `ms`, its answer) and `big` (an answer of so many bytes). It notes `sent`, `cancelled` and `answered`.
 */
function flooding(ledger: { readonly path?: string | undefined }): Record<string, unknown> {
  const file = join(folder, `${randomUUID()}.mjs`)
  writeFileSync(
    file,
    `
    import { appendFileSync } from 'node:fs'
    import { createInterface } from 'node:readline'
    const note = line => appendFileSync(${JSON.stringify(ledger.path)}, line + '\\n')
    const send = message => new Promise(resolve => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\\n', resolve))
    process.stdout.on('error', () => process.exit(0))
    const cancelled = new Set()
    const tools = ['flood', 'big'].map(name => ({ name, inputSchema: { type: 'object' } }))
    const results = {
      initialize: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'x', version: '1' } },
      'tools/list': { tools }
    }
    async function call(id, { name, arguments: { bytes, ms = 0 }, _meta }) {
      const message = 'x'.repeat(64 * 1024)
      const progressToken = _meta?.progressToken
      for (let sent = 0; name === 'flood' && sent < bytes && !cancelled.has(id); sent += message.length)
        await send({ method: 'notifications/progress', params: { progressToken, progress: sent + 1, message } })
      if (name === 'flood') note('sent')
      await new Promise(resolve => setTimeout(resolve, ms))
      if (cancelled.has(id)) return
      note('answered')
      await send({ id, result: { content: [{ type: 'text', text: name === 'big' ? 'x'.repeat(bytes) : 'done' }] } })
    }
    createInterface({ input: process.stdin }).on('line', line => {
      const { id, method, params } = JSON.parse(line)
      if (method === 'notifications/cancelled') { note('cancelled'); cancelled.add(params.requestId) }
      if (id === undefined) return
      if (results[method]) return send({ id, result: results[method] })
      call(id, params)
    }).on('close', () => process.exit(0))
    `
  )
  return { command: process.execPath, args: [file], era: 'legacy' }
}

async function start(servers: Record<string, object>, limits: object = {}, pace: TestGatewayOptions['pace'] = {}) {
  const gateway = await startTestGateway(
    `servers: ${JSON.stringify(servers)}
limits: ${JSON.stringify(limits)}
keys: { admin: { secret: "\${ADMIN}", allow: "*" }, other: { secret: "\${OTHER}", allow: "*" } }
`,
    { pace }
  )
  onTestFinished(() => gateway.close())
  for (const id of Object.keys(servers)) await gateway.until(id)
  return gateway
}

/** A client that writes one request and from then on reads only what it is told to. */
function deaf(url: string, request: string): { socket: Socket; closed(): boolean; read: () => number } {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname, () => socket.write(request))
  socket.pause()
  socket.on('error', () => {})
  let closed = false
  let bytes = 0
  socket.on('close', () => (closed = true))
  socket.on('data', chunk => (bytes += chunk.length))
  socket.pause()
  onTestFinished(() => void socket.destroy())
  return { socket, closed: () => closed, read: () => bytes }
}

function written(url: string, method: string, path: string, headers: Record<string, string>, body?: object): string {
  const text = body === undefined ? '' : JSON.stringify(body)
  const all = {
    host: new URL(url).host,
    'content-type': 'application/json',
    accept: 'application/json, text/event-stream',
    'content-length': String(Buffer.byteLength(text)),
    ...headers
  }
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}`)
  return `${method} ${path} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n${text}`
}

type At = Pick<Attack, 'url' | 'key'>

function modernCall({ url, key }: At, name: string, args: object, progressToken?: string): string {
  const _meta = { ...envelope, ...(progressToken !== undefined && { progressToken }) }
  return written(
    url,
    'POST',
    '/mcp',
    {
      ...bearer(key),
      'mcp-protocol-version': '2026-07-28',
      'mcp-method': 'tools/call',
      'mcp-name': name
    },
    { jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name, arguments: args, _meta } }
  )
}

function legacyCall(url: string, headers: Record<string, string>, name: string, args: object, token?: string): string {
  const params = { name, arguments: args, ...(token !== undefined && { _meta: { progressToken: token } }) }
  return written(url, 'POST', '/mcp', headers, { jsonrpc: '2.0', id: 1, method: 'tools/call', params })
}

const onlooker = (gateway: TestGateway) =>
  neighbour(gateway.url, secrets.OTHER, { name: 'healthy__echo', arguments: { message: 'well' } })

async function unharmed(by: Neighbour): Promise<void> {
  const { calls, errors, p99 } = await by.leave()
  console.log(`beside it: ${calls} calls, p99 ${p99.toFixed(0)} ms`)
  expect(calls).toBeGreaterThan(0)
  expect(errors).toEqual([])
  // 250 ms are allowed.
  expect(p99).toBeLessThan(1250)
}

/** What this process holds on to, the gateway in it. */
function held(): number {
  collectGarbage()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

const slow = (gateway: TestGateway) => gateway.logged('stream.slow_consumer')

attackFrom(
  'T12',
  'of a client that stops reading 1 MiB waits at most, after the stall it is cut off and its call cancelled in the server',
  async begin => {
    const ledger = newLedger()
    const attacked = await begin({ servers: { flooding: flooding(ledger) }, limits: { stall_timeout: 2 } })
    const { gateway, url } = attacked
    const before = held()
    const client = deaf(url, modernCall(attacked, 'flooding__flood', { bytes: 200 * mib, ms: 60_000 }, 'p'))
    let most = 0
    const watch = setInterval(() => (most = Math.max(most, held() - before)), 1000)
    await waitFor(() => slow(gateway).length === 1, 'the client to be cut off', 25_000)
    clearInterval(watch)
    const [{ waiting, seconds, path } = {}] = slow(gateway)
    expect(path).toBe('/mcp')
    expect(waiting).toBeGreaterThan(0)
    // The budget and the message that went beyond it.
    expect(waiting).toBeLessThan(mib + 128 * 1024)
    expect(seconds).toBeGreaterThanOrEqual(2)
    expect(seconds).toBeLessThan(10)
    await waitFor(() => ledger.count('cancelled') === 1, 'the server to be told', 500)
    client.socket.resume()
    await waitFor(() => client.closed(), 'its connection to be closed')
    console.log(`held besides: ${(most / mib).toFixed(1)} MiB at most`)
    // 5 MB are allowed.
    expect(most).toBeLessThan(25 * mib)
    expect(ledger.count('answered')).toBe(0)
  }
)

attackFrom('T12', 'a client that stops reading one large answer is cut off, too', async begin => {
  const ledger = newLedger()
  const attacked = await begin({ servers: { flooding: flooding(ledger) }, limits: { stall_timeout: 1 } })
  const { gateway, url } = attacked
  const client = deaf(url, modernCall(attacked, 'flooding__big', { bytes: 24 * mib }))
  await waitFor(() => slow(gateway).length === 1, 'the client to be cut off')
  expect(slow(gateway)[0]?.waiting).toBeGreaterThan(mib)
  client.socket.resume()
  await waitFor(() => client.closed(), 'its connection to be closed')
  expect(client.read()).toBeLessThan(24 * mib)
})

attackFrom('T12', 'but a client that reads slowly gets all of a large answer, however long that takes', async begin => {
  const attacked = await begin({ servers: { flooding: flooding(newLedger()) }, limits: { stall_timeout: 1 } })
  const { gateway, url } = attacked
  const client = deaf(url, modernCall(attacked, 'flooding__big', { bytes: 24 * mib }))
  const begun = performance.now()
  while (client.read() < 24 * mib && !client.closed()) {
    client.socket.resume()
    await new Promise(resolve => client.socket.once('data', resolve))
    client.socket.pause()
    await sleep(5)
  }
  expect(client.read()).toBeGreaterThan(24 * mib)
  console.log(`read in ${((performance.now() - begun) / 1000).toFixed(1)} s`)
  expect(performance.now() - begun).toBeGreaterThan(1000)
  expect(slow(gateway)).toEqual([])
})

attackFrom(
  'T12',
  'a conversation over SSE that is not read: its stream is cut off and all its calls are cancelled',
  async begin => {
    const ledger = newLedger()
    const attacked = await begin({ servers: { flooding: flooding(ledger) }, limits: { stall_timeout: 1 } })
    const { gateway, url, key } = attacked
    const { socket } = deaf(url, written(url, 'GET', '/sse', bearer(key)))
    const endpoint = await new Promise<string>(resolve => {
      socket.resume()
      let text = ''
      socket.on('data', function read(chunk) {
        text += chunk.toString()
        const found = /data: (\/messages\S+)/.exec(text)
        if (!found) return
        socket.off('data', read)
        resolve(found[1] as string)
      })
    })
    socket.pause()
    const call = {
      jsonrpc: '2.0',
      id: 1,
      method: 'tools/call',
      params: { name: 'flooding__flood', arguments: { bytes: 200 * mib, ms: 60_000 }, _meta: { progressToken: 1 } }
    }
    const posted = deaf(url, written(url, 'POST', endpoint, bearer(key), call))
    await waitFor(() => slow(gateway).length === 1, 'the client to be cut off', 25_000)
    posted.socket.destroy()
    expect(slow(gateway)[0]).toMatchObject({ path: '/sse' })
    expect(slow(gateway)[0]?.waiting).toBeLessThan(mib + 128 * 1024)
    await waitFor(() => ledger.count('cancelled') === 1, 'the server to be told', 500)
  }
)

attackFrom('T12', 'two large answers at once on one stream of SSE are no reason to end it', async begin => {
  const attacked = await begin({ servers: { flooding: flooding(newLedger()) }, limits: { stall_timeout: 1 } })
  const { url, key } = attacked
  const stream = await openStream(`${url}/sse`, bearer(key))
  onTestFinished(() => stream.close())
  await waitFor(() => /data: \/messages/.test(stream.text()), 'the endpoint')
  const endpoint = /data: (\/messages\S+)/.exec(stream.text())?.[1] as string
  const call = (id: number) => ({
    jsonrpc: '2.0',
    id,
    method: 'tools/call',
    params: { name: 'flooding__big', arguments: { bytes: 3 * mib } }
  })
  for (const id of [1, 2, 3, 4]) deaf(url, written(url, 'POST', endpoint, bearer(key), call(id)))
  expect((await stream.until(4)).map(({ id }) => id).toSorted()).toEqual([1, 2, 3, 4])
})

attackFrom(
  'T12',
  'a client of 2025 that stops reading is cut off, its call goes on, and its answer waits for it to come back',
  async begin => {
    const ledger = newLedger()
    const attacked = await begin({ servers: { flooding: flooding(ledger) }, limits: { stall_timeout: 1 } })
    const { gateway, url, key } = attacked
    const session = await openSession(url, key)
    const args = { bytes: 40 * mib, ms: 8000 }
    const client = deaf(url, legacyCall(url, session.headers, 'flooding__flood', args, 'p'))
    await waitFor(() => slow(gateway).length === 1, 'the client to be cut off', 25_000)
    await waitFor(() => ledger.count('answered') === 1, 'the answer')
    expect(ledger.count('cancelled')).toBe(0)
    let text = ''
    client.socket.on('data', chunk => (text += chunk.toString()))
    client.socket.resume()
    await waitFor(() => client.closed(), 'its connection to be closed')
    const last = [...text.matchAll(/^id: (\S+)$/gm)].at(-1)?.[1] as string
    const stream = await openStream(`${url}/mcp`, { ...session.headers, 'last-event-id': last })
    await waitFor(() => stream.ended(), 'the end of its stream')
    expect(stream.messages.at(-1)).toMatchObject({ id: 1, result: { content: [{ text: 'done' }] } })
  }
)

describe('a server that never stops telling', () => {
  it('is passed on so many times a second, and its answer all the same', async () => {
    const gateway = await start({ flooding: flooding(newLedger()), healthy }, { notifications_per_second: 20 })
    const by = onlooker(gateway)
    const session = await openSession(gateway.url, secrets.ADMIN)
    const begun = performance.now()
    const { messages } = await session.rpc('tools/call', {
      name: 'flooding__flood',
      arguments: { bytes: 100 * mib },
      _meta: { progressToken: 'p' }
    })
    const seconds = (performance.now() - begun) / 1000
    expect(messages.at(-1)).toMatchObject({ result: { content: [{ text: 'done' }] } })
    const told = messages.slice(0, -1)
    console.log(`${told.length} of 1600 in ${seconds.toFixed(1)} s`)
    expect(told.length).toBeGreaterThanOrEqual(20)
    expect(told.length).toBeLessThanOrEqual(20 * Math.ceil(seconds + 1))
    const values = told.map(({ params }) => params.progress as number)
    expect(values).toEqual(values.toSorted((a, b) => a - b))
    await unharmed(by)
  })
})

/** Shortened: an answer becomes a stream after 400 ms, which then is kept alive every 300 ms. */
const pace = { commitMs: 400, keepAliveMs: 300 }
const comments = (text: string) => text.split('\n: keep-alive').length - 1
const moments: [string, (text: string, ms: number) => boolean][] = [
  ['before its answer became a stream', (text, ms) => text === '' && ms > 100],
  ['after that', text => comments(text) === 1],
  ['after a sign of life on it', text => comments(text) === 2]
]

type Begin = (options: BeginOptions) => Promise<Attack>
const kinds = ['stdio', 'HTTP 2025', 'HTTP 2026'] as const

async function beginPair(begin: Begin, kind: (typeof kinds)[number], pace?: TestGatewayOptions['pace']) {
  const more = pace === undefined ? {} : { pace }
  if (kind === 'stdio') {
    const noted = newLedger()
    const raw = { ...healthy, env: { LEDGER: noted.path } }
    return { noted, ...(await begin({ servers: { raw }, ...more })) }
  }
  const server = await (kind === 'HTTP 2025' ? startRawHttp() : startRawModern())
  onTestFinished(() => server.close())
  return { noted: server.ledger, ...(await begin({ servers: { raw: { url: `${server.url}/mcp` } }, ...more })) }
}
const placesOf = ({ gateway }: Attack) => gateway.gateway.status().find(({ id }) => id === 'raw')

/** Leaves as soon as what has come of the answer, or how long that has taken, is as it must be. */
async function hangUp(request: string, { url }: At, when: (text: string, ms: number) => boolean) {
  let text = ''
  const begun = performance.now()
  const client = deaf(url, request)
  client.socket.on('data', chunk => (text += chunk.toString())).resume()
  await waitFor(() => when(text, performance.now() - begun), 'the moment to leave', 30_000)
  client.socket.destroy()
  return text
}

for (const kind of kinds) {
  for (const [moment, when] of moments) {
    attackFrom(
      'T14',
      `a client of 2026 that hangs up ${moment}: a server over ${kind} is told at once`,
      async begin => {
        const { noted, ...attacked } = await beginPair(begin, kind, pace)
        const { gateway, print } = attacked
        const request = modernCall(attacked, 'raw__slow', { ms: 20_000, nonce: 'n' })
        await hangUp(request, attacked, when)
        const begun = performance.now()
        await waitFor(() => noted.count('cancelled n') === 1, 'the server to be told', 500)
        print('told after ms', performance.now() - begun)
        const audited = () => gateway.logged('call').filter(({ server }) => server === 'raw')
        await waitFor(() => audited().at(-1)?.outcome === 'cancelled', 'the line in the log', 500)
        expect(placesOf(attacked)).toMatchObject({ running: 0, waiting: 0 })
      }
    )

    attackFrom(
      'T14',
      `a client of 2025 that hangs up ${moment}: its call over ${kind} goes on until it is taken back`,
      async begin => {
        const { noted, ...attacked } = await beginPair(begin, kind, pace)
        const { url, key } = attacked
        const session = await openSession(url, key)
        const request = legacyCall(url, session.headers, 'raw__slow', { ms: 20_000, nonce: 'n' })
        await hangUp(request, attacked, when)
        await sleep(500)
        expect(noted.count('cancelled n')).toBe(0)
        expect(placesOf(attacked)).toMatchObject({ running: 1 })
        await session.notify('notifications/cancelled', { requestId: 1 })
        await waitFor(() => noted.count('cancelled n') === 1, 'the server to be told', 500)
      }
    )
  }
}

for (const seconds of process.env.REAL_TIME ? [1, 11, 25] : []) {
  attackFrom(
    'T14',
    `in real time (REAL_TIME=1), a client that hangs up after ${seconds} s: the server is told at once`,
    async begin => {
      const { noted, ...attacked } = await beginPair(begin, 'HTTP 2025')
      const request = modernCall(attacked, 'raw__slow', { ms: 60_000, nonce: 'n' })
      const text = await hangUp(request, attacked, (_, ms) => ms > seconds * 1000)
      expect(text.includes('text/event-stream')).toBe(seconds > 10)
      await waitFor(() => noted.count('cancelled n') === 1, 'the server to be told', 500)
    },
    { timeout: 60_000 }
  )
}
