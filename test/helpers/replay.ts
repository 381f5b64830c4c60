/**
 * The clients of today as they are on the wire, each as it was recorded: its headers, its handshake, the order of its
 * requests, what it adds to a call. A test replays one and judges the answers; nothing here does.
 */
import { request } from 'undici'
import { bearer, envelope, modern, type Reply } from './http.js'
import { openStream, type Stream } from './matrix.js'

/** One thing a client does: a request, the notification `initialized`, or what it does with its session. */
export type Step =
  | 'initialize'
  | 'notifications/initialized'
  | 'GET'
  | 'DELETE'
  | 'ping'
  | 'logging/setLevel'
  | 'prompts/list'
  | 'resources/list'
  | 'tools/list'
  | 'tools/call'

export interface Client {
  readonly name: string
  readonly userAgent: string
  readonly clientInfo: { readonly name: string; readonly version: string }
  readonly capabilities: object
  /** The version its `initialize` asks for. */
  readonly version: string
  /** Whether it repeats that version in a header afterwards. */
  readonly sendsVersion: boolean
  /** What it writes into `_meta` of a call. */
  readonly meta?: { readonly progressToken?: string | number; readonly [member: string]: unknown }
  /** What it accepts, where that is not the usual. */
  readonly accept?: string
  /** Whether it repeats the method in `Mcp-Method`. */
  readonly sendsMethod?: boolean
  /** What it does from its first `initialize` to its exit. */
  readonly steps: readonly Step[]
}

const handshake = ['initialize', 'notifications/initialized'] as const
const elicitation = { form: {}, url: {} }
const ui = { 'io.modelcontextprotocol/ui': { mimeTypes: ['text/html;profile=mcp-app'] } }

export const claudeCode: Client = {
  name: 'Claude Code',
  userAgent: 'claude-code/2.1.329 (sdk-cli)',
  clientInfo: { name: 'claude-code', version: '2.1.329' },
  capabilities: { roots: { listChanged: true }, elicitation },
  version: '2025-11-25',
  sendsVersion: true,
  meta: { progressToken: 5, 'claudecode/toolUseId': 'toolu_01A' },
  steps: [...handshake, 'GET', 'tools/list', 'prompts/list', 'resources/list', 'tools/call']
}

export const copilotCli: Client = {
  name: 'Copilot CLI',
  userAgent: 'copilot-cli/1.0.102',
  clientInfo: { name: 'copilot-cli', version: '1.0.102' },
  capabilities: { sampling: {}, elicitation },
  version: '2025-11-25',
  sendsVersion: true,
  meta: { progressToken: 2 },
  steps: [...handshake, 'GET', 'tools/list', 'tools/call', 'DELETE']
}

export const codex: Client = {
  name: 'Codex',
  userAgent: 'codex-mcp-client/0.169.0',
  clientInfo: { name: 'codex-mcp-client', version: '0.169.0' },
  capabilities: { elicitation },
  version: '2025-06-18',
  sendsVersion: true,
  meta: {
    progressToken: 0,
    'x-codex-turn-metadata': { session_id: 's', turn_id: 't', model: 'gpt' },
    threadId: '019a',
    callId: 'call_1'
  },
  steps: [...handshake, 'GET', 'tools/list', 'tools/call', 'DELETE']
}

export const geminiCli: Client = {
  name: 'Gemini CLI',
  userAgent: 'node',
  clientInfo: { name: 'gemini-cli-mcp-client', version: '0.61.0' },
  capabilities: { roots: { listChanged: true } },
  version: '2025-06-18',
  sendsVersion: false,
  meta: { progressToken: 'gemini-4f1c' },
  steps: [...handshake, 'GET', 'prompts/list', 'tools/list', 'resources/list', 'tools/call']
}

export const opencode: Client = {
  name: 'opencode',
  userAgent: 'opencode/1.18.33',
  clientInfo: { name: 'opencode', version: '1.18.33' },
  capabilities: { roots: {} },
  version: '2025-11-25',
  sendsVersion: true,
  meta: { progressToken: 2 },
  steps: [...handshake, 'GET', 'tools/list', 'tools/call']
}

export const qwenCode: Client = {
  name: 'Qwen Code',
  userAgent: 'undici',
  clientInfo: { name: 'qwen-cli-mcp-client-gw', version: '0.24.4' },
  capabilities: { roots: {}, extensions: ui },
  version: '2025-11-25',
  sendsVersion: true,
  meta: { progressToken: 4 },
  steps: [...handshake, 'GET', 'prompts/list', 'resources/list', 'tools/list', 'tools/call', 'DELETE']
}

export const cline: Client = {
  name: 'Cline',
  userAgent: 'Bun/1.3.13',
  clientInfo: { name: '@cline/core', version: '3.0.65' },
  capabilities: {},
  version: '2025-11-25',
  sendsVersion: true,
  steps: [...handshake, 'GET', 'tools/list', 'tools/call']
}

export const continueCli: Client = {
  name: 'Continue',
  userAgent: 'node',
  clientInfo: { name: 'continue-cli-client', version: '1.5.47' },
  capabilities: {},
  version: '2025-11-25',
  sendsVersion: true,
  steps: [...handshake, 'GET', 'tools/list', 'tools/call']
}

export const vsCode: Client = {
  name: 'VS Code',
  userAgent: 'code-server/1.139.1',
  clientInfo: { name: 'code-server', version: '1.139.1' },
  capabilities: {
    roots: { listChanged: true },
    sampling: {},
    elicitation,
    tasks: { list: {}, cancel: {}, requests: { elicitation: { create: {} }, sampling: { createMessage: {} } } },
    extensions: ui
  },
  version: '2025-11-25',
  sendsVersion: false,
  accept: 'text/event-stream, application/json',
  meta: { progressToken: '0b0e7c0e-5f1d-4d83-9c8a-1d0a6b6f3c55' },
  steps: [
    'initialize',
    'GET',
    'logging/setLevel',
    'notifications/initialized',
    'prompts/list',
    'tools/list',
    'tools/call'
  ]
}

export const inspector: Client = {
  name: 'Inspector',
  userAgent: 'node',
  clientInfo: { name: 'inspector-cli', version: '2.12.0' },
  capabilities: {
    roots: { listChanged: true },
    extensions: { 'io.modelcontextprotocol/tasks': {}, 'io.modelcontextprotocol/skills': {} }
  },
  version: '2025-11-25',
  sendsVersion: true,
  steps: [...handshake, 'GET', 'logging/setLevel', 'tools/list', 'tools/call']
}

export const mcpRemote: Client = {
  name: 'mcp-remote',
  userAgent: 'undici',
  clientInfo: { name: 'claude-ai (via mcp-remote 0.15.1)', version: '0.1.0' },
  capabilities: {},
  version: '2025-11-25',
  sendsVersion: true,
  sendsMethod: true,
  steps: [...handshake, 'GET', 'tools/list', 'tools/call']
}

export const clients: readonly Client[] = [
  claudeCode,
  codex,
  geminiCli,
  opencode,
  copilotCli,
  qwenCode,
  cline,
  continueCli,
  vsCode,
  inspector,
  mcpRemote
]

export interface Call {
  readonly name: string
  readonly arguments?: object
}

/** A client's conversation of the 2025 era. */
export interface Conversation {
  readonly client: Client
  /** As `initialize` gave it, or as it was kept from before. */
  readonly sessionId: string | undefined
  request(method: string, params?: object, options?: RequestOptions): Promise<Reply>
  /** Calls a tool as this client does, with what it writes into `_meta`. */
  call(call: Call, options?: RequestOptions): Promise<Reply>
  notify(method: string, params?: object): Promise<Reply>
  /** Opens its stream; closed by `close`. */
  stream(): Promise<Stream>
  delete(): Promise<Reply>
  /** Headers of its next POST. */
  headers(method: string): Record<string, string>
  close(): void
}

export interface RequestOptions {
  readonly id?: string | number
  /** Another Accept than its own; null: none at all. */
  readonly accept?: string | null
}

/** @param sessionId the session it goes on with, having opened it before. */
export function converse(client: Client, url: string, secret: string, sessionId?: string): Conversation {
  const streams: Stream[] = []
  let id = sessionId
  let next = 0

  const headers = (method: string): Record<string, string> => ({
    ...bearer(secret),
    'content-type': 'application/json',
    accept: client.accept ?? 'application/json, text/event-stream',
    'user-agent': client.userAgent,
    ...(client.sendsMethod && { 'mcp-method': method }),
    ...(id !== undefined && { 'mcp-session-id': id }),
    ...(id !== undefined && client.sendsVersion && { 'mcp-protocol-version': client.version })
  })
  const streamHeaders = (): Record<string, string> => {
    const { 'content-type': _type, 'mcp-method': _method, accept: _accept, ...rest } = headers('')
    return rest
  }
  const send = async (message: { method: string }, accept?: string | null): Promise<Reply> => {
    const { accept: own, ...rest } = headers(message.method)
    return exchange('POST', `${url}/mcp`, {
      headers: { ...rest, ...(accept !== null && { accept: accept ?? own ?? '' }) },
      body: JSON.stringify({ jsonrpc: '2.0', ...message })
    })
  }

  return {
    client,
    get sessionId() {
      return id
    },
    async request(method, params, { id: requestId = next++, accept } = {}) {
      if (method === 'initialize') {
        const { version: protocolVersion, capabilities, clientInfo } = client
        params ??= { protocolVersion, capabilities, clientInfo }
      }
      const reply = await send({ id: requestId, method, ...(params && { params }) } as { method: string }, accept)
      const opened = reply.headers['mcp-session-id']
      if (method === 'initialize' && typeof opened === 'string') id = opened
      return reply
    },
    call({ name, arguments: args = {} }, options) {
      const params = { name, arguments: args, ...(client.meta && { _meta: client.meta }) }
      return this.request('tools/call', params, options)
    },
    notify: (method, params) => send({ method, ...(params && { params }) }),
    async stream() {
      const stream = await openStream(`${url}/mcp`, streamHeaders())
      streams.push(stream)
      return stream
    },
    delete: () => exchange('DELETE', `${url}/mcp`, { headers: streamHeaders() }),
    headers,
    close() {
      for (const stream of streams) stream.close()
    }
  }
}

/** Does all the steps of a client in their order. @returns what each was answered; of a stream, its head. */
export async function replay(
  conversation: Conversation,
  call: Call,
  steps: readonly Step[] = conversation.client.steps
): Promise<Map<Step, Pick<Reply, 'status' | 'headers' | 'json'>>> {
  const answers = new Map<Step, Pick<Reply, 'status' | 'headers' | 'json'>>()
  for (const step of steps) answers.set(step, await take(conversation, step, call))
  return answers
}

async function take(conversation: Conversation, step: Step, call: Call) {
  switch (step) {
    case 'GET': {
      const { status, headers } = await conversation.stream()
      return { status, headers, json: undefined }
    }
    case 'DELETE':
      return conversation.delete()
    case 'notifications/initialized':
      return conversation.notify(step)
    case 'logging/setLevel':
      return conversation.request(step, { level: 'debug' })
    case 'tools/call':
      return conversation.call(call)
    default:
      return conversation.request(step)
  }
}

/** A request of 2026-07-28 as that client sends it: no session, an envelope of its own, its own User-Agent. */
export function modernAs(
  { clientInfo, capabilities, userAgent, meta }: Client,
  url: string,
  secret: string,
  method: string,
  params: Record<string, unknown> = {},
  headers: Record<string, string> = {}
): Promise<Reply> {
  const own = envelopeOf({ clientInfo, capabilities })
  const _meta = { ...own, ...(method === 'tools/call' && meta) }
  return modern(url, secret, method, { ...params, _meta }, { headers: { 'user-agent': userAgent, ...headers } })
}

/** Its `subscriptions/listen`, which stays open. */
export function listenAs(client: Client, url: string, secret: string): Promise<Stream> {
  const method = 'subscriptions/listen'
  const headers = {
    ...bearer(secret),
    'user-agent': client.userAgent,
    'mcp-protocol-version': '2026-07-28',
    'mcp-method': method
  }
  const params = { notifications: { toolsListChanged: true }, _meta: envelopeOf(client) }
  return openStream(`${url}/mcp`, headers, { jsonrpc: '2.0', id: 'listen', method, params })
}

function envelopeOf({ clientInfo, capabilities }: Pick<Client, 'clientInfo' | 'capabilities'>) {
  return {
    ...envelope,
    'io.modelcontextprotocol/clientInfo': clientInfo,
    'io.modelcontextprotocol/clientCapabilities': capabilities
  }
}

/** Any request with exactly these headers, and the whole answer. */
export async function exchange(
  method: 'GET' | 'POST' | 'DELETE',
  url: string,
  { headers, body = null }: { readonly headers: Record<string, string>; readonly body?: string | null }
): Promise<Reply> {
  const response = await request(url, { method, headers, body, headersTimeout: 0, bodyTimeout: 0 })
  const text = await response.body.text()
  const isStream = String(response.headers['content-type']).startsWith('text/event-stream')
  const messages: any[] = isStream
    ? text
        .split('\n')
        .filter(line => line.startsWith('data: {'))
        .map(line => JSON.parse(line.slice(6)))
    : text === ''
      ? []
      : [JSON.parse(text)]
  return { status: response.statusCode, headers: response.headers, text, json: messages.at(-1), messages }
}
