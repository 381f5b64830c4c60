/** Servers that do as a test says, over HTTP in this process and over stdio in one of their own. */
import { randomUUID } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createTlsServer, type Server as TlsServer, type ServerOptions } from 'node:https'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'

export interface EvilRequest {
  readonly verb: string
  readonly headers: IncomingMessage['headers']
  readonly message: any
}

export interface Evil {
  readonly url: string
  readonly requests: EvilRequest[]
  /** Nonces of the calls that arrived. */
  readonly arrivals: () => string[]
  /** Sends a message on every stream that was opened with GET. */
  tell(message: object | string): void
  /** Shows another certificate from now on, and ends the connections made with the old one. */
  swap(tls: ServerOptions): void
}

/** Answers the request itself and returns true, or leaves it to the usual ways of a server of 2025. */
export type Behaviour = (request: EvilRequest, res: ServerResponse) => boolean | void

const tool = (name: string) => ({ name, description: name, inputSchema: { type: 'object' } })
export const usualTools = [tool('do')]

/** A server of 2025 over Streamable HTTP with the tool `do`, which answers with its nonce. @param tls speaks https. */
export async function startEvil(behave: Behaviour = () => false, tls?: ServerOptions): Promise<Evil> {
  const requests: EvilRequest[] = []
  const streams = new Set<ServerResponse>()
  const handle = async (req: IncomingMessage, res: ServerResponse) => {
    let body = ''
    for await (const chunk of req.setEncoding('utf8')) body += chunk
    const request = {
      verb: req.method ?? '',
      headers: req.headers,
      message: body === '' ? undefined : JSON.parse(body)
    }
    requests.push(request)
    if (behave(request, res)) return
    const { id, method } = request.message ?? {}
    if (request.verb === 'GET') {
      res.writeHead(200, { 'content-type': 'text/event-stream' }).write(': open\n\n')
      streams.add(res)
      res.on('close', () => streams.delete(res))
    } else if (id === undefined) res.writeHead(202).end()
    else replyJson(res, { jsonrpc: '2.0', id, ...usualAnswer(method as string, request.message.params) })
  }
  const listener = (req: IncomingMessage, res: ServerResponse) => void handle(req, res).catch(() => res.destroy())
  const server = tls ? createTlsServer(tls, listener) : createServer(listener)
  const url = `http${tls ? 's' : ''}://127.0.0.1:${await listening(server)}/mcp`
  return {
    url,
    requests,
    arrivals: () =>
      requests.flatMap(({ message }) =>
        message?.method === 'tools/call' ? [message.params.arguments.nonce as string] : []
      ),
    tell: message => {
      for (const stream of streams) sendEvent(stream, message)
    },
    swap: tls => {
      ;(server as TlsServer).setSecureContext(tls)
      server.closeAllConnections()
    }
  }
}

/** Listens on a free port of loopback until the test ends. */
export async function listening(server: Server): Promise<number> {
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(async () => {
    server.closeAllConnections()
    await new Promise(resolve => server.close(resolve))
  })
  return (server.address() as AddressInfo).port
}

export function replyJson(res: ServerResponse, message: object | string): void {
  const text = typeof message === 'string' ? message : JSON.stringify(message)
  res.writeHead(200, { 'content-type': 'application/json' }).end(text)
}

export function openEvents(res: ServerResponse): void {
  res.writeHead(200, { 'content-type': 'text/event-stream' })
}

export function sendEvent(res: ServerResponse, message: object | string): void {
  res.write(`data: ${typeof message === 'string' ? message : JSON.stringify(message)}\n\n`)
}

function usualAnswer(method: string, params: any): object {
  switch (method) {
    case 'initialize':
      return { result: { protocolVersion: '2025-11-25', capabilities: { tools: { listChanged: true } }, serverInfo: { name: 'evil', version: '1' } } } // prettier-ignore
    case 'ping':
      return { result: {} }
    case 'tools/list':
      return { result: { tools: usualTools } }
    case 'tools/call':
      return { result: { content: [{ type: 'text', text: String(params.arguments.nonce) }] } }
    default:
      return { error: { code: -32601, message: 'Method not found' } }
  }
}

export interface EvilProgram {
  /** As in servers.yaml. */
  readonly config: Record<string, unknown>
  readonly arrivals: () => string[]
}

/**
 * A server of 2025 over stdio. `behave` is the source of a function `(message, write, usual) => boolean`: `write` takes a
 * text or an object as a line, `usual` is what would be answered; true leaves it at what was written.
 */
export function evilProgram(behave = '() => false', config: Record<string, unknown> = {}): EvilProgram {
  const folder = mkdtempSync(join(tmpdir(), 'switchboard-evil-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const file = join(folder, `${randomUUID()}.mjs`)
  const ledger = join(folder, 'ledger')
  writeFileSync(
    file,
    `
    import { appendFileSync } from 'node:fs'
    import { createInterface } from 'node:readline'
    const usualTools = ${JSON.stringify(usualTools)}
    const usualAnswer = ${usualAnswer.toString()}
    const write = line => process.stdout.write((typeof line === 'string' ? line : JSON.stringify(line)) + '\\n')
    const behave = ${behave}
    createInterface({ input: process.stdin }).on('line', line => {
      const message = JSON.parse(line)
      const { id, method, params } = message
      if (method === 'tools/call') appendFileSync(${JSON.stringify(ledger)}, params.arguments.nonce + '\\n')
      const usual = { jsonrpc: '2.0', id, ...(id === undefined ? {} : usualAnswer(method, params)) }
      if (!behave(message, write, usual) && id !== undefined) write(usual)
    }).on('close', () => process.exit(0))
    `
  )
  return {
    config: { command: process.execPath, args: [file], era: 'legacy', ...config },
    arrivals: () => (existsSync(ledger) ? readFileSync(ledger, 'utf8').split('\n').filter(Boolean) : [])
  }
}
