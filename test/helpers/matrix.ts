/**
 * Both ends of a gateway: every kind of client before it, every kind of server behind it, and one behaviour run over all
 * pairs of them. What ran is counted and printed as one table when the file is done; a pair is left out only for a reason,
 * which stands in that table.
 */
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as v2 from '@modelcontextprotocol/client'
import { Client as V1Client } from '@modelcontextprotocol/sdk/client/index.js'
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js'
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { request } from 'undici'
import { afterAll, describe, test } from 'vitest'
import { start as startHttpLegacy } from '../fixtures/http-legacy.mjs'
import { start as startHttpModern } from '../fixtures/http-modern.mjs'
import { openLedger } from '../fixtures/ledger.mjs'
import { start as startSseLegacy } from '../fixtures/sse-legacy.mjs'
import type { Fixture, Ledger } from '../fixtures/types.d.mts'
import { bearer } from './http.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './with-gateway.js'

export type Era = 'legacy' | 'modern'

export const clientKinds = ['v1 over HTTP', 'v1 over SSE', 'v2 legacy', 'v2 auto', 'v2 pinned'] as const
export type ClientKind = (typeof clientKinds)[number]

export const serverKinds = ['stdio legacy', 'stdio modern', 'SSE legacy', 'HTTP legacy', 'HTTP modern'] as const
export type ServerKind = (typeof serverKinds)[number]

/** A real SDK client, connected to a gateway. */
export interface Caller {
  readonly era: Era
  /** Every message the gateway sent it, as its transport read it, before the client looked at it. */
  readonly received: any[]
  /** Every message it sent. */
  readonly sent: any[]
  /** How often it was told that the tools have changed. */
  told(): number
  listTools(): Promise<any[]>
  callTool(
    name: string,
    args?: Record<string, unknown>,
    options?: { signal?: AbortSignal; timeout?: number; onprogress?: () => void }
  ): Promise<any>
  /** The gateway's whole message in answer to that call, whatever the client thinks of it. */
  answerTo(name: string, args?: Record<string, unknown>, more?: Record<string, unknown>): Promise<any>
  close(): Promise<void>
}

/** The client's own doings behind one face: the two SDKs name the same things alike, but their types differ. */
interface SdkClient {
  connect(transport: any): Promise<void>
  listTools(): Promise<{ tools: any[] }>
  callTool(params: any, ...more: any[]): Promise<any>
  close(): Promise<void>
}

/** Connects an SDK client of that kind. @param path the door, for the kinds that use `/mcp`. */
export async function connectClient(kind: ClientKind, url: string, secret: string, path = '/mcp'): Promise<Caller> {
  const who = { name: kind.replaceAll(' ', '-'), version: '1.0.0' }
  const requestInit = { headers: bearer(secret) }
  const listChanged = { tools: { autoRefresh: false, debounceMs: 0, onChanged: () => {} } }
  const isV1 = kind === 'v1 over HTTP' || kind === 'v1 over SSE'
  const mode = kind === 'v2 auto' ? 'auto' : kind === 'v2 pinned' ? { pin: '2026-07-28' } : 'legacy'
  const client: SdkClient = isV1
    ? new V1Client(who, { listChanged })
    : new v2.Client(who, { listChanged, versionNegotiation: { mode } })
  const transport =
    kind === 'v1 over SSE'
      ? new SSEClientTransport(new URL('/sse', url), { requestInit })
      : kind === 'v1 over HTTP'
        ? new StreamableHTTPClientTransport(new URL(path, url), { requestInit })
        : new v2.StreamableHTTPClientTransport(new URL(path, url), { requestInit })

  const received: any[] = []
  const sent: any[] = []
  transport.onmessage = (message: unknown) => void received.push(message)
  const send = transport.send.bind(transport) as (...args: unknown[]) => Promise<void>
  transport.send = (...args: unknown[]) => {
    sent.push(args[0])
    return send(...args)
  }
  await client.connect(transport)

  const callTool: Caller['callTool'] = (name, args = {}, options) => {
    const params = { name, arguments: args }
    return isV1 ? client.callTool(params, undefined, options) : client.callTool(params, options)
  }
  return {
    era: kind === 'v2 auto' || kind === 'v2 pinned' ? 'modern' : 'legacy',
    received,
    sent,
    told: () => received.filter(({ method }) => method === 'notifications/tools/list_changed').length,
    listTools: async () => (await client.listTools()).tools,
    callTool,
    async answerTo(name, args = {}, more = {}) {
      const before = sent.length
      // What the client's own schemas refuse has come over the wire nevertheless.
      await client.callTool({ name, arguments: args, ...more }).catch(() => {})
      const { id } = sent.slice(before).find(({ method }) => method === 'tools/call')
      return received.find(message => message.id === id && message.method === undefined)
    },
    close: () => client.close()
  }
}

/** A fixture server and how the gateway is to reach it. */
export interface Server {
  readonly era: Era
  readonly ledger: Ledger
  /** Its entry in servers.yaml. */
  readonly entry: object
  /** Ends it in the midst of whatever it does. */
  kill(gateway: TestGateway): Promise<void>
  /** Brings it back where it was; a process is started again by the gateway. */
  revive(): Promise<void>
  close(): Promise<void>
}

const starts = { 'SSE legacy': startSseLegacy, 'HTTP legacy': startHttpLegacy, 'HTTP modern': startHttpModern }

export async function startServer(kind: ServerKind): Promise<Server> {
  const dir = mkdtempSync(join(tmpdir(), 'switchboard-ledger-'))
  const ledger = openLedger(join(dir, 'ledger'))
  const era = kind.endsWith('modern') ? 'modern' : 'legacy'
  if (kind === 'stdio legacy' || kind === 'stdio modern') {
    const program = fixture(kind === 'stdio legacy' ? 'stdio-legacy.mjs' : 'stdio-modern.mjs')
    return {
      era,
      ledger,
      entry: { command: process.execPath, args: [program], env: { LEDGER: ledger.path } },
      kill(gateway) {
        process.kill(Number(gateway.gateway.status().find(({ pid }) => pid !== undefined)?.pid), 'SIGKILL')
        return Promise.resolve()
      },
      revive: () => Promise.resolve(),
      close() {
        rmSync(dir, { recursive: true, force: true })
        return Promise.resolve()
      }
    }
  }
  const options = { ledger: ledger.path as string }
  let running: Fixture = await starts[kind](options)
  const { port, url } = running
  return {
    era,
    ledger,
    entry: { url, ...(kind === 'SSE legacy' && { transport: 'sse' }) },
    kill: () => running.close(),
    async revive() {
      running = await starts[kind]({ ...options, port })
    },
    async close() {
      await running.close()
      rmSync(dir, { recursive: true, force: true })
    }
  }
}

/** The second key of every matrix gateway sees these tools of the server `up` and nothing else. */
export const granted = ['echo', 'slow']

/** A gateway with the one server `up`, an `admin` that may everything and a `developer` that may what is `granted`. */
export async function startPair(kind: ServerKind): Promise<{ gateway: TestGateway; server: Server }> {
  const server = await startServer(kind)
  try {
    const gateway = await startTestGateway(`
servers: ${JSON.stringify({ up: server.entry })}
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: { up: [${granted.join(', ')}] } }
`)
    await gateway.until('up')
    return { gateway, server }
  } catch (error) {
    await server.close()
    throw error
  }
}

export interface Cell {
  readonly clientKind: ClientKind
  readonly serverKind: ServerKind
  readonly gateway: TestGateway
  readonly server: Server
  /** A client of this cell's kind, closed with the cell. */
  readonly connect: (secret?: string) => Promise<Caller>
}

export interface MatrixOptions {
  /** Every cell gets a gateway and a server of its own, because the behaviour changes or kills them. */
  readonly alone?: boolean
  /** Why a pair is left out. */
  readonly skip?: (client: ClientKind, server: ServerKind) => string | undefined
}

interface Row {
  readonly title: string
  readonly ran: Map<ServerKind, number>
  readonly skipped: string[]
}

const rows: Row[] = []
const shared = new Map<ServerKind, ReturnType<typeof startPair>>()

/** One behaviour as a test for every pair of client and server; five run at a time. */
export function describeMatrix(
  title: string,
  behaves: (cell: Cell) => Promise<void>,
  { alone = false, skip }: MatrixOptions = {}
): void {
  if (rows.length === 0) afterAll(finish)
  const row: Row = { title: title.replace(/ \(§.*\)$/, ''), ran: new Map(), skipped: [] }
  rows.push(row)

  describe(title, () => {
    for (const serverKind of serverKinds) {
      for (const clientKind of clientKinds) {
        const reason = skip?.(clientKind, serverKind)
        if (reason !== undefined) {
          row.skipped.push(`${clientKind} × ${serverKind}: ${reason}`)
          test.skip(`${clientKind} × ${serverKind}: ${reason}`, () => {})
          continue
        }
        test.concurrent(`${clientKind} × ${serverKind}`, async () => {
          row.ran.set(serverKind, (row.ran.get(serverKind) ?? 0) + 1)
          const callers: Caller[] = []
          const pair = alone ? await startPair(serverKind) : await sharedPair(serverKind)
          try {
            await behaves({
              clientKind,
              serverKind,
              ...pair,
              async connect(secret = secrets.ADMIN) {
                const caller = await connectClient(clientKind, pair.gateway.url, secret)
                callers.push(caller)
                return caller
              }
            })
          } finally {
            await Promise.all(callers.map(caller => caller.close()))
            if (alone) await endPair(pair)
          }
        })
      }
    }
  })
}

function sharedPair(kind: ServerKind): ReturnType<typeof startPair> {
  const pair = shared.get(kind) ?? startPair(kind)
  shared.set(kind, pair)
  return pair
}

async function endPair({ gateway, server }: { gateway: TestGateway; server: Server }): Promise<void> {
  await gateway.close()
  await server.close()
}

async function finish(): Promise<void> {
  await Promise.all([...shared.values()].map(async pair => endPair(await pair)))
  const width = Math.max(...rows.map(({ title }) => title.length))
  const line = (title: string, cells: readonly unknown[]) =>
    [title.padEnd(width), ...cells.map((cell, i) => String(cell).padStart(serverKinds[i]?.length ?? 7))].join('  ')
  const counts = rows.map(({ ran }) => serverKinds.map(kind => ran.get(kind) ?? 0))
  const skipped = rows.flatMap(row => row.skipped.map(reason => `  skipped: ${row.title}, ${reason}`))
  const total = counts.flat().reduce((sum, count) => sum + count, 0)
  console.log(
    [
      line(`cells (of ${clientKinds.length} clients)`, [...serverKinds, 'skipped']),
      ...rows.map((row, i) => line(row.title, [...(counts[i] ?? []), row.skipped.length])),
      `${total} cells ran, ${skipped.length} skipped`,
      ...skipped
    ].join('\n')
  )
}

/** An event stream read by hand. */
export interface Stream {
  readonly status: number
  readonly headers: Record<string, string | string[] | undefined>
  /** The JSON-RPC messages so far. */
  readonly messages: any[]
  /** All bytes so far: comments are only here. */
  text(): string
  /** Whether the other side has ended it in good order. */
  ended(): boolean
  /** Waits until so many messages have come. */
  until(count: number): Promise<any[]>
  close(): void
}

/** Opens a stream by GET, or by POST with a body, and reads it as it comes. */
export async function openStream(url: string, headers: Record<string, string>, body?: unknown): Promise<Stream> {
  const response = await request(url, {
    method: body === undefined ? 'GET' : 'POST',
    headers: {
      accept: body === undefined ? 'text/event-stream' : 'application/json, text/event-stream',
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...headers
    },
    body: body === undefined ? null : JSON.stringify(body),
    headersTimeout: 0,
    bodyTimeout: 0
  })
  const messages: any[] = []
  let text = ''
  let parsed = 0
  let ended = false
  response.body.setEncoding('utf8')
  response.body.on('data', (chunk: string) => {
    text += chunk
    for (let end = text.indexOf('\n', parsed); end !== -1; end = text.indexOf('\n', parsed)) {
      const line = text.slice(parsed, end)
      parsed = end + 1
      if (line.startsWith('data: {')) messages.push(JSON.parse(line.slice(6)))
    }
  })
  response.body.once('end', () => (ended = true))
  response.body.on('error', () => {})
  return {
    status: response.statusCode,
    headers: response.headers,
    messages,
    text: () => text,
    ended: () => ended,
    async until(count) {
      await waitFor(() => messages.length >= count, `${count} messages on the stream, has ${messages.length}`)
      return messages
    },
    close: () => void response.body.destroy()
  }
}

/** What a scripted server answers: a result, a JSON-RPC error, or an HTTP status with nothing else. */
export type Scripted = { readonly result: object } | { readonly error: object } | { readonly status: number }

export interface ScriptedServer {
  readonly url: string
  readonly requests: { readonly message: any; readonly headers: IncomingHttpHeaders }[]
  close(): Promise<void>
}

/**
 * The smallest Streamable HTTP server of either era: it opens conversations by itself, everything else is `answer`'s.
 * For answers no SDK would give.
 */
export async function startScripted(
  era: Era,
  answer: (method: string, params: any) => Scripted
): Promise<ScriptedServer> {
  const requests: ScriptedServer['requests'] = []

  async function handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
    let body = ''
    for await (const chunk of req) body += String(chunk)
    if (req.method !== 'POST') return void res.writeHead(405).end()
    const message = JSON.parse(body) as { id?: unknown; method: string; params?: any }
    requests.push({ message, headers: req.headers })
    if (message.id === undefined) return void res.writeHead(202).end()
    const said = opening(era, message.method, message.params) ?? answer(message.method, message.params)
    if ('status' in said) return void res.writeHead(said.status).end()
    res.writeHead(200, { 'content-type': 'application/json' })
    res.end(JSON.stringify({ jsonrpc: '2.0', id: message.id, ...said }))
  }

  const http = createServer((req, res) => void handle(req, res))
  http.listen(0, '127.0.0.1')
  await once(http, 'listening')
  const { port } = http.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}/mcp`,
    requests,
    close: () =>
      new Promise(resolve => {
        http.close(() => resolve())
        http.closeAllConnections()
      })
  }
}

function opening(era: Era, method: string, params: any): Scripted | undefined {
  const serverInfo = { name: 'scripted', version: '1.0.0' }
  if (era === 'modern' && method === 'server/discover')
    return { result: { resultType: 'complete', supportedVersions: ['2026-07-28'], capabilities: { tools: {} } } }
  if (era === 'legacy' && method === 'server/discover') return { error: { code: -32601, message: 'Method not found' } }
  if (era === 'legacy' && method === 'initialize')
    return { result: { protocolVersion: params.protocolVersion, capabilities: { tools: {} }, serverInfo } }
  return undefined
}
