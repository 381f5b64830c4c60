/** Requests as clients send them, with everything of the answer kept. */
import { connect } from 'node:net'
import { request } from 'undici'

export interface Reply {
  readonly status: number
  readonly headers: Record<string, string | string[] | undefined>
  readonly text: string
  /** The JSON body, or the last message of an event stream. */
  readonly json: any
  /** All messages of an event stream, else the one body. */
  readonly messages: any[]
}

export const bearer = (secret: string) => ({ authorization: `Bearer ${secret}` })

/** POSTs a JSON body. */
export async function post(url: string, body: unknown, headers: Record<string, string> = {}): Promise<Reply> {
  const {
    statusCode,
    headers: replied,
    body: stream
  } = await request(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
    headersTimeout: 0,
    bodyTimeout: 0
  })
  return readReply(statusCode, replied, await stream.text())
}

export async function send(
  method: 'GET' | 'DELETE' | 'PUT' | 'OPTIONS' | 'HEAD',
  url: string,
  headers: Record<string, string> = {}
): Promise<Reply> {
  const { statusCode, headers: replied, body } = await request(url, { method, headers })
  return readReply(statusCode, replied, await body.text())
}

function readReply(status: number, headers: Reply['headers'], text: string): Reply {
  const messages = String(headers['content-type']).startsWith('text/event-stream')
    ? text
        .split('\n')
        .filter(line => line.startsWith('data: {'))
        .map(line => JSON.parse(line.slice(6)))
    : text === ''
      ? []
      : [JSON.parse(text)]
  return { status, headers, text, json: messages.at(-1), messages }
}

/** A 2025-era conversation by hand. */
export async function openSession(url: string, secret: string, { version = '2025-11-25', path = '/mcp' } = {}) {
  const opened = await post(
    url + path,
    {
      jsonrpc: '2.0',
      id: 0,
      method: 'initialize',
      params: { protocolVersion: version, capabilities: {}, clientInfo: { name: 'test', version: '1' } }
    },
    bearer(secret)
  )
  const id = String(opened.headers['mcp-session-id'])
  const headers = { ...bearer(secret), 'mcp-session-id': id, 'mcp-protocol-version': version }
  let next = 1
  return {
    id,
    opened,
    headers,
    rpc: (
      method: string,
      params?: unknown,
      extra: { id?: string | number; path?: string; headers?: Record<string, string> } = {}
    ) =>
      post(
        url + (extra.path ?? path),
        { jsonrpc: '2.0', id: extra.id ?? next++, method, params },
        { ...headers, ...extra.headers }
      ),
    notify: (method: string, params?: unknown) => post(url + path, { jsonrpc: '2.0', method, params }, headers)
  }
}

/** A 2026-07-28 request by hand: envelope and mirrored headers as the specification wants them. */
export function modern(
  url: string,
  secret: string,
  method: string,
  params: Record<string, any> = {},
  options: { id?: string | number; path?: string; headers?: Record<string, string> } = {}
) {
  const name = params.name ?? params.uri
  const body = {
    jsonrpc: '2.0',
    id: options.id ?? 1,
    method,
    params: { ...params, _meta: { ...envelope, ...params._meta } }
  }
  return post(url + (options.path ?? '/mcp'), body, {
    ...bearer(secret),
    'mcp-protocol-version': '2026-07-28',
    'mcp-method': method,
    ...(name !== undefined && { 'mcp-name': String(name) }),
    ...options.headers
  })
}

export const envelope = {
  'io.modelcontextprotocol/protocolVersion': '2026-07-28',
  'io.modelcontextprotocol/clientCapabilities': {},
  'io.modelcontextprotocol/clientInfo': { name: 'test', version: '1' }
}

/** Writes bytes to a socket and returns all that comes back until it closes or `ms` have passed. */
export function raw(url: string, bytes: string | Buffer, ms = 3000): Promise<string> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => socket.write(bytes))
    let received = ''
    const timer = setTimeout(() => socket.destroy(), ms)
    socket.on('data', chunk => (received += chunk.toString('latin1')))
    socket.on('close', () => {
      clearTimeout(timer)
      resolve(received)
    })
    socket.on('error', error => (received === '' ? reject(error) : undefined))
  })
}
