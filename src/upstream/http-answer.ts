/** What the end of one HTTP request means for the JSON-RPC request in it: its answer, or why there is none. */
import { SwitchboardError } from '../errors.js'
import { nestsTooDeep, tooDeep } from '../wire/json-bytes.js'
import {
  answerOf,
  classifyMessage,
  idAnswered,
  isObject,
  readResult,
  type Answer,
  type Message,
  type RpcError
} from '../wire/json-rpc.js'
import type { HttpEnd } from './http-call.js'

/** What the meaning of a response depends on. */
export interface Asked {
  readonly server: string
  readonly id: number
  readonly method: string
  /** The session it was sent in. */
  readonly session: string | undefined
}

/** Seconds to wait for that a server may ask of a client; a larger number is not passed on. */
const longestWait = 86_400

/** The server no longer knows our session: the request provably did not run. */
export class SessionLost extends Error {}

/** What a response that did not answer on a stream means. */
export function outcomeOf(end: HttpEnd, asked: Asked): Answer | Error {
  const { server, id, method, session } = asked
  if (end.kind === 'failed') {
    return httpFailure(server, end.dispatched ? 'upstream_broke' : 'upstream_down', end.reason, end.dispatched)
  }
  const { status, headers, body } = end
  if (status === 200) {
    const deep = nestsTooDeep(body)
    const answer = deep ? undefined : answerIn(body.toString(), id)
    if (answer) return answer
    if (body.length > 0) return noAnswer(server, deep ? tooDeep : undefined)
    return httpFailure(server, 'upstream_garbage', 'its response ended without the answer', true)
  }
  if (session !== undefined && lostByStatus(status, body))
    return new SessionLost('it does not know the session it has just opened')
  if (status === 401 || status === 403) {
    return httpFailure(
      server,
      'upstream_refused',
      `it rejected the gateway's credentials (HTTP ${status}); check "headers" in servers.yaml`,
      false,
      status
    )
  }
  if (status === 429) {
    const seconds = Number(single(headers['retry-after']))
    return new SwitchboardError('upstream_overloaded', 'it answered HTTP 429 (too many requests)', {
      server,
      dispatched: false,
      ...(seconds > 0 && seconds <= longestWait && { retryAfterMs: seconds * 1000 })
    })
  }
  if (status >= 300 && status < 400) {
    return httpFailure(
      server,
      'upstream_garbage',
      `it answered with a redirect (HTTP ${status}), which is never followed; correct "url" in servers.yaml`,
      false,
      status
    )
  }
  const error = errorIn(body)
  // Whether another transport is worth a try depends on the status of this very answer.
  if (error && method !== 'initialize') return { error }
  return httpFailure(server, 'upstream_garbage', `it answered HTTP ${status}`, status >= 500 || status < 300, status)
}

/** The answer to request `id` if the text is that. */
function answerIn(text: string, id: number): Answer | undefined {
  const raw = readResult(text)
  if (raw?.id === id) return raw
  const message = parseMessage(text)
  if (message.kind !== 'response' || message.message.id !== id) return undefined
  return answerOf(message.message)
}

/** An error of the gateway's own about one HTTP upstream. */
export function httpFailure(
  server: string,
  code: 'upstream_died' | 'upstream_broke' | 'upstream_down' | 'upstream_garbage' | 'upstream_refused',
  reason: string,
  dispatched: boolean,
  status?: number
): SwitchboardError {
  return new SwitchboardError(code, reason, { server, dispatched, ...(status !== undefined && { data: { status } }) })
}

/** What was to be the answer is none, or cannot be used. */
export function noAnswer(server: string, reason?: string): SwitchboardError {
  const said = `its response was not the answer${reason === undefined ? '' : `: ${reason}`}`
  return httpFailure(server, 'upstream_garbage', said, true)
}

/** One event of a stream. */
export function parseMessage(
  text: string
): Message | (Message & { readonly kind: 'invalid'; readonly answers: unknown }) {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return { kind: 'invalid', reason: 'not JSON' }
  }
  const message = nestsTooDeep(text) ? ({ kind: 'invalid', reason: tooDeep } as const) : classifyMessage(value)
  return message.kind === 'invalid' ? { ...message, answers: idAnswered(value) } : message
}

export const single = (value: string | string[] | undefined): string | undefined =>
  Array.isArray(value) ? value[0] : value

/**
 * Servers say "I lost your session" in many ways: 404; 400 or 401 with a text that speaks of the session; or an answer
 * with JSON-RPC error -32001 or -32600 that does. Such a request was refused before it ran, so it may be sent again.
 */
function lostByStatus(status: number, body: Buffer): boolean {
  if (status === 404) return true
  return (status === 400 || status === 401) && /session/i.test(body.subarray(0, 4096).toString())
}

export function speaksOfLostSession({ code, message }: RpcError): boolean {
  return (code === -32001 || code === -32600) && /session/i.test(message)
}

/** The JSON-RPC error of an HTTP error response; its id may be null when the server could not read ours. */
function errorIn(body: Buffer): RpcError | undefined {
  try {
    const value: unknown = nestsTooDeep(body) ? undefined : JSON.parse(body.toString())
    if (!isObject(value) || !isObject(value.error)) return undefined
    const { code, message } = value.error
    return Number.isInteger(code) && typeof message === 'string' ? (value.error as unknown as RpcError) : undefined
  } catch {
    return undefined
  }
}
