/** Whole HTTP answers written to the Node response: one shape for results, acknowledgements and refusals alike. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { errorTable, type ErrorCode, type SwitchboardError } from '../errors.js'
import { serialiseAnswer, serialisePieces, type Answer, type RpcId } from '../wire/json-rpc.js'

/** On every response: nothing here may be cached or guessed at. */
export const commonHeaders = {
  'cache-control': 'no-store',
  'x-content-type-options': 'nosniff'
} as const

const jsonHeaders = [...Object.entries(commonHeaders).flat(), ...['content-type', 'application/json', 'content-length']]

export type ReplyHeaders = Readonly<Record<string, string>>

export function replyJson(res: ServerResponse, status: number, body: Buffer | string, headers?: ReplyHeaders): void {
  if (res.headersSent || res.destroyed) return
  res.writeHead(status, jsonHead(Buffer.byteLength(body), headers))
  res.end(body)
}

/** A flat list: Node takes it as it is, an object it first takes apart. */
function jsonHead(length: number, headers: ReplyHeaders | undefined): string[] {
  const head = [...jsonHeaders, String(length)]
  for (const name in headers) head.push(name, headers[name] as string)
  return head
}

/** Serialises an answer. @returns what writes it. */
export function readyAnswer(
  res: ServerResponse,
  id: RpcId,
  answer: Answer,
  status = 200,
  headers?: ReplyHeaders
): () => void {
  const pieces = serialisePieces(id, answer) ?? [serialiseAnswer(id, answer)]
  let length = 0
  for (const piece of pieces) length += Buffer.byteLength(piece)
  return () => {
    if (res.headersSent || res.destroyed) return
    res.writeHead(status, jsonHead(length, headers))
    const last = pieces.length - 1
    for (let i = 0; i < last; i++) res.write(pieces[i])
    res.end(pieces[last])
  }
}

export function replyAnswer(res: ServerResponse, id: RpcId, answer: Answer, status?: number): void {
  readyAnswer(res, id, answer, status)()
}

/** 202 for what needs no answer (2025-11-25, Streamable HTTP: Sending Messages). */
export function replyAccepted(res: ServerResponse): void {
  if (res.headersSent || res.destroyed) return
  res.writeHead(202, { ...commonHeaders, 'content-length': 0 })
  res.end()
}

/**
 * Refuses a request before it is dispatched: the error's HTTP status, a JSON-RPC error as body. `id` stands in it only
 * if it was readable.
 */
export function replyRefusal(res: ServerResponse, error: SwitchboardError, id?: RpcId, headers?: ReplyHeaders): void {
  const { retryAfterMs } = error.facts
  replyJson(res, error.http, refusalBody(error, id), {
    ...(retryAfterMs !== undefined && { 'retry-after': String(Math.ceil(retryAfterMs / 1000)) }),
    ...headers
  })
}

export function refusalBody(error: SwitchboardError, id?: RpcId): string {
  return JSON.stringify({ jsonrpc: '2.0', ...(id !== undefined && { id }), error: error.toRpc() })
}

/** A JSON-RPC error answer with the code and default sentence of a row of the table. */
export function errorAnswer(code: ErrorCode, message?: string, data?: Record<string, unknown>): Answer {
  const { rpc, say } = errorTable[code]
  return { error: { code: rpc, message: message ?? say, ...(data && { data }) } }
}

/** A body that was not read to its end makes the connection unusable for what follows: a large one is not waited for. */
export function unreadBody({ headers, readableEnded }: IncomingMessage): ReplyHeaders {
  if (readableEnded) return {}
  const { 'content-length': length, 'transfer-encoding': chunked } = headers
  return (length !== undefined && Number(length) > 64 * 1024) || chunked !== undefined ? { connection: 'close' } : {}
}
