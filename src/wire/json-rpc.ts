/**
 * JSON-RPC 2.0 messages as MCP uses them: shapes, structural checks, and the bytes of an answer. Payloads are never
 * validated here or anywhere on the call path: unknown members pass through by reference.
 */

export type RpcId = string | number
export type ProgressToken = string | number
export type Json = Record<string, unknown>

export interface RpcRequest {
  readonly jsonrpc: '2.0'
  readonly id: RpcId
  readonly method: string
  readonly params?: Json
}

export interface RpcNotification {
  readonly jsonrpc: '2.0'
  readonly method: string
  readonly params?: Json
}

export interface RpcError {
  readonly code: number
  readonly message: string
  readonly data?: unknown
}

export interface RpcResponse {
  readonly jsonrpc: '2.0'
  readonly id: RpcId
  readonly result?: Json
  readonly error?: RpcError
}

/** How a request ended: a result, a JSON-RPC error, or a result already serialised, in pieces that nobody need join. */
export type Answer =
  | {
      readonly result: Json
      /** Exactly `result` as JSON, if it is at hand: it then need not be written again. */
      readonly text?: string
      readonly error?: undefined
      readonly pieces?: undefined
    }
  | { readonly error: RpcError; readonly text?: undefined; readonly result?: undefined; readonly pieces?: undefined }
  | {
      readonly pieces: readonly Buffer[]
      readonly text?: undefined
      readonly result?: undefined
      readonly error?: undefined
    }

export type Message =
  | { readonly kind: 'request'; readonly message: RpcRequest }
  | { readonly kind: 'notification'; readonly message: RpcNotification }
  | { readonly kind: 'response'; readonly message: RpcResponse }
  | { readonly kind: 'invalid'; readonly reason: string; readonly id?: RpcId }

export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Ids are strings of at most 256 characters or safe integers: a larger number would come back rounded. */
export function isRpcId(value: unknown): value is RpcId {
  return typeof value === 'string' ? value.length <= 256 : Number.isSafeInteger(value)
}

/** Sorts a parsed value into request, notification, response or invalid; looks at the envelope only (JSON-RPC 2.0, 4 and 5). */
export function classifyMessage(value: unknown): Message {
  if (!isObject(value)) return { kind: 'invalid', reason: 'expected a JSON object' }
  const { id } = value
  const readable = isRpcId(id) ? { id } : undefined
  if (value.jsonrpc !== '2.0') return { kind: 'invalid', reason: 'expected "jsonrpc": "2.0"', ...readable }
  if (typeof value.method === 'string') {
    if (value.params !== undefined && !isObject(value.params)) {
      return { kind: 'invalid', reason: 'expected "params" to be an object', ...readable }
    }
    if (id === undefined) return { kind: 'notification', message: value as unknown as RpcNotification }
    if (!readable)
      return { kind: 'invalid', reason: 'expected "id" to be a string of at most 256 characters or a safe integer' }
    return { kind: 'request', message: value as unknown as RpcRequest }
  }
  if (value.method !== undefined) return { kind: 'invalid', reason: 'expected "method" to be a string', ...readable }
  if (!readable) return { kind: 'invalid', reason: 'expected "method", or the "id" of an answer' }
  const hasError =
    isObject(value.error) && Number.isInteger(value.error.code) && typeof value.error.message === 'string'
  if (hasError === isObject(value.result)) {
    return { kind: 'invalid', reason: 'expected an answer to have either "result" or "error"', ...readable }
  }
  return { kind: 'response', message: value as unknown as RpcResponse }
}

/** The id of the request that a message is meant to answer, even if it is no answer that can be used. */
export function idAnswered(value: unknown): unknown {
  return isObject(value) && value.method === undefined ? value.id : undefined
}

/** What a response that was classified as one answers. */
export function answerOf({ result, error }: Pick<RpcResponse, 'result' | 'error'>): Answer {
  return error ? { error } : { result: result as Json }
}

/** An answer with the text its server wrote for the result. */
export interface RawResult {
  readonly id: number
  readonly result: Json
  readonly text: string
}

const idBefore = /^\{"jsonrpc":"2\.0","id":(0|[1-9]\d{0,14}),"result":/
const resultFirst = '{"result":'
const idAfter = /,"jsonrpc":"2\.0","id":(0|[1-9]\d{0,14})\}$/
const longestTail = 64

/**
 * Reads an answer that is written as nearly every server writes it: nothing but version, id and result, in one of two
 * orders, without spaces. What stands between the two ends is then parsed by itself, and if that is one JSON value, it is
 * the result: neither another nor the same member can stand beside it. Anything else is undefined, to be read in full.
 */
export function readResult(message: string): RawResult | undefined {
  const whole = message.endsWith('\n') ? message.slice(0, -1) : message
  const head = idBefore.exec(whole)
  const tail = head || !whole.startsWith(resultFirst) ? undefined : idAfter.exec(whole.slice(-longestTail))
  const found = head ?? tail
  if (!found || !whole.endsWith('}')) return undefined
  const text = head ? whole.slice(head[0].length, -1) : whole.slice(resultFirst.length, -found[0].length)
  // Line breaks are legal between tokens, but an event of a stream ends at one.
  if (!text.startsWith('{') || text.includes('\n') || text.includes('\r')) return undefined
  try {
    const result: unknown = JSON.parse(text)
    return isObject(result) ? { id: Number(found[1]), result, text } : undefined
  } catch {
    return undefined
  }
}

/**
 * The serialised response to `id`. A string where there are no bytes yet: Node sends it with its head in one write, which
 * costs half of what two buffers do.
 */
export function serialiseAnswer(id: RpcId | null, answer: Answer): Buffer | string {
  const head = `{"jsonrpc":"2.0","id":${JSON.stringify(id)},`
  if (answer.pieces) return Buffer.concat([Buffer.from(`${head}"result":`), ...answer.pieces, closing])
  if (answer.error) return `${head}"error":${JSON.stringify(answer.error)}}`
  return `${head}"result":${answer.text ?? JSON.stringify(answer.result)}}`
}

/** The same in pieces where it is too large to be joined: undefined where one string is better. */
export function serialisePieces(id: RpcId | null, { pieces, text }: Answer): readonly (Buffer | string)[] | undefined {
  const large = pieces ?? (text !== undefined && text.length > largeText ? [text] : undefined)
  return large && [`{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":`, ...large, closing]
}

/** Joining a text of that length costs more than writing it by itself, and as much memory again. */
const largeText = 256 * 1024
const closing = Buffer.from('}')
