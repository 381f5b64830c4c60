/**
 * Clients that send as slowly as they can (T13). The limits are the parser's own; here they are shortened on their way
 * into it, with ATTACK_FULL they are the real ones.
 */
import type * as Http from 'node:http'
import { connect, type Socket } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { expect, vi } from 'vitest'
import { attack, type Attack } from './helpers/attack.js'
import { parseReply } from './helpers/raw.js'
import { waitFor } from './helpers/with-gateway.js'

const seen = vi.hoisted(() => ({ limits: [] as Http.ServerOptions[], most: [] as number[] }))
const isFull = process.env.ATTACK_FULL !== undefined
const short = { headersTimeout: 600, requestTimeout: 1200, connectionsCheckingInterval: 100 }
const most = isFull ? 2000 : 60

vi.mock('node:http', async original => {
  const http = await original<typeof Http>()
  return {
    ...http,
    createServer(options: Http.ServerOptions, listener: Http.RequestListener) {
      // The fixtures make servers as well, without limits of their own.
      if (typeof options !== 'object') return http.createServer(options)
      seen.limits.push(options)
      const server = http.createServer({ ...options, ...(process.env.ATTACK_FULL === undefined && short) }, listener)
      const set = (value: number) => {
        seen.most.push(value)
        Object.defineProperty(server, 'maxConnections', { value: most, writable: true })
      }
      Object.defineProperty(server, 'maxConnections', { set, get: () => undefined, configurable: true })
      return server
    }
  }
})

interface Dripping {
  readonly status: number
  readonly closed: boolean
  readonly ms: number
}

/** Sends `head` at once, then a byte each `everyMs`, until the other side ends it. */
function drip(url: string, head: string, everyMs: number) {
  const begun = performance.now()
  let timer: NodeJS.Timeout | undefined
  const socket: Socket = connect(Number(new URL(url).port), '127.0.0.1', () => {
    socket.write(head)
    timer = setInterval(() => socket.write('x'), everyMs)
  })
  const connected = new Promise(resolve => socket.once('connect', resolve).once('error', resolve))
  let received = ''
  socket.on('data', chunk => (received += chunk.toString('latin1')))
  const end = new Promise<Dripping>(resolve => {
    const done = () => {
      clearInterval(timer)
      socket.destroy()
      resolve({ status: parseReply(received).status, closed: true, ms: performance.now() - begun })
    }
    socket.once('end', done).once('error', done).once('close', done)
  })
  return { end, connected, socket }
}

const head = ({ url, key }: Attack, more: string) =>
  `POST /mcp HTTP/1.1\r\nHost: ${new URL(url).host}\r\nAuthorization: Bearer ${key}\r\n${more}`
const body = 'Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{'

attack(
  'T13',
  'who sends headers or a body a byte at a time is ended with 408 in time',
  async attacked => {
    const { url, print } = attacked
    expect(seen.limits.at(-1)).toMatchObject({
      maxHeaderSize: 16 * 1024,
      headersTimeout: 10_000,
      requestTimeout: 30_000,
      connectionsCheckingInterval: 1000
    })
    const limits = isFull ? { ...seen.limits.at(-1) } : short
    const { headersTimeout = 0, requestTimeout = 0, connectionsCheckingInterval = 0 } = limits
    const everyMs = isFull ? 1000 : 50
    const margin = connectionsCheckingInterval * 5 + 1000
    const [headers, nothing, sent, chunked] = await Promise.all([
      drip(url, head(attacked, 'X-Slow: '), everyMs).end,
      drip(url, '', 1e6).end,
      drip(url, head(attacked, body), everyMs).end,
      drip(
        url,
        head(attacked, 'Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n'),
        everyMs
      ).end
    ])
    print('ms until slow headers, no headers, a slow body, slow chunks were ended', [headers, nothing, sent, chunked].map(({ ms }) => ms.toFixed(0)).join(', ')) // prettier-ignore
    for (const slow of [headers, nothing]) {
      expect(slow.status).toBe(408)
      expect(slow.ms).toBeGreaterThanOrEqual(headersTimeout - 50)
      expect(slow.ms).toBeLessThan(headersTimeout + margin)
    }
    for (const slow of [sent, chunked]) {
      expect(slow.status).toBe(408)
      expect(slow.ms).toBeGreaterThanOrEqual(requestTimeout - 50)
      expect(slow.ms).toBeLessThan(requestTimeout + margin)
    }
  },
  { timeout: isFull ? 90_000 : 30_000 }
)

attack(
  'T13',
  'as many slow clients as there is room for leave the others alone; one more is turned away, and the process stays',
  async attacked => {
    const { url, gateway, print } = attacked
    expect(seen.most.at(-1)).toBe(2000)
    // The bystander has its connections, and one waits for the end of the test.
    const taken: ReturnType<typeof drip>[] = []
    while (taken.length < most - 20) {
      // More at once than wait to be accepted would be tried again by the kernel, seconds later.
      const some = Array.from({ length: Math.min(100, most - 20 - taken.length) }, () => drip(url, head(attacked, body), 400)) // prettier-ignore
      taken.push(...some)
      await Promise.all(some.map(({ connected }) => connected))
    }
    await pause(isFull ? 2000 : 300)
    const begun = performance.now()
    const beyond = Array.from({ length: 40 }, () => drip(url, head(attacked, body), 400))
    const refused = await Promise.race([...beyond.map(({ end }) => end), pause(5000)])
    print('ms until a connection beyond was ended', performance.now() - begun)
    expect(refused).toMatchObject({ status: NaN, closed: true })
    await waitFor(() => gateway.logged('connections.refused').length > 0, 'a line in the log')
    expect(gateway.logged('connections.refused').length).toBeLessThan(3)
    for (const { socket } of [...taken, ...beyond]) socket.destroy()
  },
  { timeout: isFull ? 90_000 : 30_000 }
)
