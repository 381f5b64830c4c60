/** Servers that leave what they were sent without an answer, talk or ask to be asked again without end (U3, U17). */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { openSse } from '../src/upstream/sse-link.js'
import { Cancellation } from '../src/wire/cancellation.js'
import { modern, type Reply } from './helpers/http.js'
import { secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

type Message = { readonly id?: number; readonly method?: string }

/** A server of 2025 over HTTP: `answer` gets what is neither handshake nor list. */
async function serve(answer: (message: Message, req: IncomingMessage, res: ServerResponse) => void) {
  let waiting = 0
  const server = createServer((req, res) => {
    waiting++
    res.on('close', () => waiting--)
    let body = ''
    req.on('data', (part: Buffer) => (body += part.toString()))
    req.on('end', () => {
      const message = JSON.parse(body || '{}') as Message
      const results: Record<string, object> = {
        initialize: {
          protocolVersion: '2025-11-25',
          capabilities: { tools: {} },
          serverInfo: { name: 'x', version: '1' }
        },
        'tools/list': { tools: [{ name: 'work', inputSchema: { type: 'object' } }] }
      }
      const result = results[message.method ?? '']
      if (!result) return answer(message, req, res)
      res.writeHead(200, { 'content-type': 'application/json', 'mcp-session-id': 's' })
      res.end(JSON.stringify({ jsonrpc: '2.0', id: message.id, result }))
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    /** Requests that neither have their answer nor were given up. */
    waiting: () => waiting
  }
}

async function start(url: string, options: object = {}) {
  const one = { url: `${url}/mcp`, transport: 'http', era: 'legacy', ...options }
  const gateway = await startTestGateway(
    `servers: { odd: ${JSON.stringify(one)} }\nkeys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`
  )
  onTestFinished(() => gateway.close())
  await gateway.until('odd')
  return () => modern(gateway.url, secrets.ADMIN, 'tools/call', { name: 'odd__work' })
}

const problemOf = ({ json }: Reply) => json.result?._meta?.['switchboard/error']

describe('U3: a server that answers nothing', () => {
  it('keeps no request open of calls that have timed out, nor of what told it so', async () => {
    let cancelled = 0
    const { url, waiting } = await serve(({ method }, _req, res) => {
      if (method === 'notifications/cancelled') cancelled++
      if (method === 'notifications/initialized') res.writeHead(202).end()
    })
    const call = await start(url, { timeout: 0.5, connect_timeout: 1 })
    const before = waiting()
    for (let round = 0; round < 3; round++) {
      const replies = await Promise.all(Array.from({ length: 10 }, call))
      expect(new Set(replies.map(reply => problemOf(reply).code as number))).toEqual(new Set([-31504]))
    }
    await waitFor(() => cancelled >= 30, 'the server to be told of each')
    await waitFor(() => waiting() === before, 'all of them to be given up', 5000)
    expect(cancelled).toBe(30)
  })

  it('nor over SSE of messages it never accepts', async () => {
    const { url, waiting } = await serve((message, req, res) => {
      if (req.method !== 'GET') return
      res.writeHead(200, { 'content-type': 'text/event-stream' }).write('event: endpoint\ndata: /messages\n\n')
    })
    const options = { server: 's', url: `${url}/sse`, headers: {}, connectTimeoutMs: 1000, messageBytes: 65_536 }
    const link = await openSse({ ...options, acceptTimeoutMs: 200 }, { onNotification() {}, onLost() {} })
    onTestFinished(() => link.close())
    for (let i = 0; i < 10; i++) link.notify('notifications/x')
    await waitFor(() => waiting() === 11, 'them to be sent')
    // What was not accepted in time is no failure of its request: its answer may still come on the stream.
    const cancellation = new Cancellation()
    const request = link.request('ping', {}, { cancellation, client: { capabilities: {} }, wantsProgress: false })
    await waitFor(() => waiting() === 1, 'all but the stream to be given up', 3000)
    cancellation.cancel(new Error('enough'))
    await expect(request).rejects.toThrow('enough')
  })
})

describe('U3: a server that never stops talking', () => {
  const params = { level: 'debug', data: 'x'.repeat(16_000) }
  const chunk = `data: ${JSON.stringify({ jsonrpc: '2.0', method: 'notifications/message', params })}\n\n`

  /** Writes for as long as somebody reads. @param told counts how much, in bytes. */
  function talk(res: ServerResponse, told: { bytes: number }): void {
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    const more = () => {
      told.bytes += chunk.length
      if (!res.destroyed) res.write(chunk, () => setImmediate(more))
    }
    more()
  }

  it('beside its answer has its call ended after 64 MiB within a minute, and the next call works', async () => {
    const told = { bytes: 0 }
    let cancelled = 0
    let calls = 0
    const { url, waiting } = await serve(({ id, method }, req, res) => {
      if (method === 'notifications/cancelled') cancelled++
      if (method !== 'tools/call') return res.writeHead(req.method === 'GET' ? 405 : 202).end()
      if (calls++ === 0) return talk(res, told)
      res.writeHead(200, { 'content-type': 'application/json' })
      res.end(JSON.stringify({ jsonrpc: '2.0', id, result: { content: [{ type: 'text', text: 'fine' }] } }))
    })
    const call = await start(url)
    const reply = await call()
    expect(problemOf(reply)).toMatchObject({ code: -31502, dispatched: true })
    expect(reply.json.result.content[0].text).toContain('more than 64 MiB of messages beside its answer')
    await waitFor(() => waiting() === 0 && cancelled === 1, 'its stream to be closed and the server to be told')
    expect(told.bytes).toBeLessThan(100 * 1024 * 1024)
    expect((await call()).json.result.content[0].text).toBe('fine')
  })

  it('on its own stream is listened to again only a while later', async () => {
    const told = { bytes: 0 }
    const opened: number[] = []
    const { url } = await serve((_message, req, res) => {
      if (req.method !== 'GET') return res.writeHead(202).end()
      opened.push(performance.now())
      talk(res, told)
      res.on('close', () => opened.push(performance.now()))
    })
    await start(url)
    await waitFor(() => opened.length >= 3, 'it to be left and opened again')
    const [, left = 0, again = 0] = opened
    expect(again - left).toBeGreaterThan(800)
  })
})

describe('an event stream that does not begin', () => {
  it.each<[string, (gateway: TestGateway) => Promise<void>]>([
    ['the gateway ends', gateway => gateway.close()],
    ['its server is removed', gateway => Promise.resolve(void gateway.apply('servers: {}\nkeys: {}\n'))]
  ])('is given up at once when %s', async (_when, end) => {
    const { url, waiting } = await serve((_message, _req, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' }).write(':\n\n')
    })
    const odd = { url: `${url}/sse`, transport: 'sse' }
    const gateway = await startTestGateway(`servers: { odd: ${JSON.stringify(odd)} }\n`)
    onTestFinished(() => gateway.close())
    await waitFor(() => waiting() === 1, 'it to be asked')
    const begun = performance.now()
    await end(gateway)
    await waitFor(() => waiting() === 0, 'it to be given up', 2000)
    // Its connect timeout is 10 s.
    expect(performance.now() - begun).toBeLessThan(2000)
  })
})

describe('U17: a server that closes its stream and wants to be asked again at once', () => {
  it('is asked once a second, although each time it has something new', async () => {
    let asked = 0
    const { url } = await serve(({ method }, req, res) => {
      if (req.method !== 'GET' && method !== 'tools/call') return res.writeHead(202).end()
      if (method !== 'tools/call' && req.headers['last-event-id'] === undefined) return res.writeHead(405).end()
      asked++
      res.writeHead(200, { 'content-type': 'text/event-stream' })
      res.end(`retry: 0\nid: ${asked}\ndata:\n\n`)
    })
    const call = await start(url, { timeout: 4 })
    const reply = call()
    await sleep(3500)
    // The call itself, once at once, then once a second.
    expect(asked).toBeGreaterThanOrEqual(3)
    expect(asked).toBeLessThanOrEqual(6)
    expect(problemOf(await reply)).toMatchObject({ code: -31504, dispatched: true })
  })
})
