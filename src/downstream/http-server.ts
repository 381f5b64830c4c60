/**
 * The Node server under the doors: its parser's limits, and an end in order. Nobody's answer is cut: listening stops
 * first, idle connections are ended, open responses say that they are the last on theirs and are waited for.
 */
import { readFileSync } from 'node:fs'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import { Server as TcpServer, type AddressInfo, type Socket } from 'node:net'
import { getRequestListener } from '@hono/node-server'
import { reasonOf, SwitchboardError } from '../errors.js'
import type { Log } from '../observe/log.js'
import { Slots } from '../wire/slots.js'
import { refusal } from './app.js'
import { createStallWatch, type CutOff } from './stall.js'

export interface HttpServerOptions {
  readonly fetch: Parameters<typeof getRequestListener>[0]
  /** Takes the request itself, or returns false. */
  readonly direct: (req: IncomingMessage, res: ServerResponse) => boolean
  /** Whether these headers hold a key that works. */
  readonly knows: (headers: IncomingHttpHeaders) => boolean
  readonly limits: HttpLimits
  /** Ends the connection of a client that does not read. */
  readonly cutOff: CutOff
  readonly log: Log
}

/** Times in seconds. None but the last concerns a response, so streams that are read may live for days. */
export interface HttpLimits {
  readonly headerBytes: number
  readonly headerTimeout: number
  readonly requestTimeout: number
  readonly connections: number
  readonly stallTimeout: number
}

export interface HttpServer {
  /** @returns `http://host:port`. @throws SwitchboardError when the address cannot be had, saying what to do. */
  listen(host: string, port: number): Promise<string>
  /** Takes no new connection, ends idle ones a moment later, and lets every open response be the last on its connection. */
  stopListening(): void
  /** Resolves when no response is open any more, or at `deadline` (ms of the monotonic clock, which nobody sets). */
  answered(deadline: number): Promise<void>
  /** Cuts what is left. */
  close(): Promise<void>
}

/** Longer than the idle time of common proxies, so that it is they who close. */
const keepAliveTimeout = 75_000
/** What was sent before its sender could know of the end is still told that it was not taken. */
const lastRequestsMs = 20
/** Connections that are too many make room of idle ones at most, and are told of, this often. */
const crowd = { roomMs: 100, toldMs: 10_000 }

export function createHttpServer({ fetch, direct, knows, limits, cutOff, log }: HttpServerOptions): HttpServer {
  const sockets = new Set<Socket>()
  const open = new Slots<ServerResponse>()
  const stalls = createStallWatch({ open, stallMs: limits.stallTimeout * 1000, cutOff })
  let stopped = false
  let quiet: Promise<void> | undefined

  const listener = getRequestListener(fetch, {
    overrideGlobalObjects: false,
    autoCleanupIncoming: false,
    // A Host or target that is none cannot even become a request.
    errorHandler: error => {
      log.info({ event: 'refused', reason: reasonOf(error) })
      return refusal(new SwitchboardError('forbidden_host'), { connection: 'close' })
    }
  })
  const answer = (req: IncomingMessage, res: ServerResponse) => {
    const slot = open.add(res)
    res.on('close', () => open.remove(slot))
    if (stopped) res.shouldKeepAlive = false
    if (!direct(req, res)) void listener(req, res)
  }
  const server = createServer(
    {
      maxHeaderSize: limits.headerBytes,
      // Node wants it no longer than the whole.
      headersTimeout: Math.min(limits.headerTimeout, limits.requestTimeout) * 1000,
      requestTimeout: limits.requestTimeout * 1000,
      connectionsCheckingInterval: 1000,
      keepAliveTimeout
    },
    answer
  )
  // Too many are counted and refused by the guard; Node would drop them in silence.
  server.maxHeadersCount = 0
  // A client that asks before it sends its body is told to go on only with a key that works.
  server.on('checkContinue', (req: IncomingMessage, res: ServerResponse) => {
    if (knows(req.headers)) res.writeContinue()
    answer(req, res)
  })
  server.on('connection', socket => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })

  // At most half of what the process may open: the rest is for servers and files.
  const most = Math.min(limits.connections, Math.ceil((descriptorLimit() ?? Infinity) / 2))
  server.maxConnections = most
  const last = { room: -Infinity, told: -Infinity }
  let turnedAway = 0
  server.on('drop', () => {
    turnedAway++
    const now = performance.now()
    if (now - last.room >= crowd.roomMs) {
      last.room = now
      server.closeIdleConnections()
    }
    if (now - last.told < crowd.toldMs) return
    last.told = now
    log.warn({ event: 'connections.refused', most, connections: turnedAway })
    turnedAway = 0
  })

  const endIdle = () => {
    const busy = new Set([...open].map(res => res.socket))
    for (const socket of sockets) if (!busy.has(socket)) socket.end()
  }

  return {
    listen: (host, port) =>
      new Promise((resolve, reject) => {
        const fail = (error: NodeJS.ErrnoException) => {
          reject(new SwitchboardError('internal', listenFailure(error, host, port), { cause: error }))
        }
        server.once('error', fail)
        server.listen(port, host, () => {
          server.off('error', fail)
          server.on('error', error => log.error({ event: 'fault', reason: reasonOf(error) }))
          const { port: actual } = server.address() as AddressInfo
          resolve(`http://${reachable(host)}:${actual}`)
        })
      }),

    stopListening() {
      stopped = true
      quiet = new Promise(resolve => setTimeout(resolve, lastRequestsMs)).then(endIdle)
      // The HTTP server's own `close` destroys connections whose last answer is still on its way.
      TcpServer.prototype.close.call(server)
      for (const res of open) res.shouldKeepAlive = false
    },

    async answered(deadline) {
      await quiet
      while (open.size > 0 && performance.now() < deadline) await new Promise(resolve => setTimeout(resolve, 10))
    },

    async close() {
      server.close()
      server.closeAllConnections()
      for (const socket of sockets) socket.destroy()
      stalls.close()
      while (sockets.size > 0) await new Promise(resolve => setImmediate(resolve))
    }
  }
}

/** How many files and sockets the process may have open; undefined where the system does not say. */
function descriptorLimit(): number | undefined {
  try {
    const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
    return soft === undefined ? undefined : Number(soft)
  } catch {
    return undefined
  }
}

function listenFailure({ code, message }: NodeJS.ErrnoException, host: string, port: number): string {
  if (code === 'EADDRINUSE') {
    return `The address ${host}:${port} is already in use. Stop the program that has it, or choose another port: "listen: { port: … }" in servers.yaml, or --port.`
  }
  if (code === 'EADDRNOTAVAIL') return `This machine has no address ${host}. Correct "listen.host" in servers.yaml.`
  return `Cannot listen on ${host}:${port} (${code ?? message}).`
}

/** The host under which this machine reaches an address it listens at. */
function reachable(host: string): string {
  if (host === '0.0.0.0' || host === '::') return '127.0.0.1'
  return host.includes(':') ? `[${host.replace(/[[\]]/g, '')}]` : host
}
