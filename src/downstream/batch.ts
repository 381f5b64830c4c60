/**
 * JSON-RPC batches, which 2025-03-26 alone has: several messages in one POST, each authorised, counted and answered by
 * itself. The answers are one JSON array, or events as they come once something has to be said before them.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { SwitchboardError } from '../errors.js'
import type { Exchange } from '../parties.js'
import { Cancellation } from '../wire/cancellation.js'
import { classifyMessage, serialiseAnswer, type RpcId, type RpcRequest } from '../wire/json-rpc.js'
import type { Caller } from './caller.js'
import { EventStream, type StreamTerms } from './event-stream.js'
import { traceOf } from './exchange.js'
import { applyCancelled, askingFor, type Legacy } from './legacy.js'
import { replyAccepted, replyJson } from './reply.js'
import type { Session } from './sessions.js'

export const batchVersion = '2025-03-26'

export interface BatchOptions {
  readonly legacy: Legacy
  readonly session: Session
  readonly caller: Caller
  readonly maxMessages: number
  readonly terms: StreamTerms
  /** Called with the method of each request that was answered. */
  readonly onAnswered: (method: string) => void
}

/**
 * Answers a batch of a session.
 * @throws SwitchboardError when anything about it is not as it must be: then nothing of it was begun.
 */
export async function handleBatch(
  { legacy, session, caller, maxMessages, terms, onAnswered }: BatchOptions,
  items: readonly unknown[],
  req: IncomingMessage,
  res: ServerResponse
): Promise<void> {
  const { requests, cancels } = sorted(items, session, maxMessages)
  for (const params of cancels) applyCancelled(session.inFlight, params)
  if (requests.length === 0) return replyAccepted(res)

  const accept = req.headers.accept?.toLowerCase() ?? ''
  const takesStream = accept.includes('text/event-stream')
  const answers: string[] = []
  let stream: EventStream | undefined
  if (takesStream && !accept.includes('application/json') && !accept.includes('*/*'))
    stream = new EventStream(res, terms)
  const trace = traceOf(req)
  // Like every answer that takes its time, it becomes a stream that can be kept alive.
  const commit = terms.commits.begin({
    expired() {
      if (takesStream && !res.destroyed) stream ??= new EventStream(res, terms)
    }
  })

  const run = async (request: RpcRequest): Promise<void> => {
    const cancellation = new Cancellation()
    const exchange: Exchange = {
      ...caller,
      ...askingFor(session.client, session),
      era: 'legacy',
      cancellation,
      ...(trace && { headers: trace }),
      notify(notification) {
        if (!takesStream || cancellation.reason || res.destroyed) return
        stream ??= new EventStream(res, terms)
        if (!stream.full) stream.send(JSON.stringify(notification))
      }
    }
    const cancel = (reason: string) => cancellation.cancel(new SwitchboardError('cancelled', reason))
    session.inFlight.set(request.id, { cancel })
    try {
      const answer = await legacy.dispatch(exchange, request, session)
      onAnswered(request.method)
      // What was cancelled is not answered (2025-03-26, Cancellation).
      if (cancellation.reason) return
      const text = serialiseAnswer(request.id, answer).toString()
      if (stream) stream.answer(text)
      else answers.push(text)
    } finally {
      session.inFlight.take(request.id)
    }
  }
  await Promise.all(requests.map(run)).finally(() => terms.commits.end(commit))
  // An array without answers is no batch (JSON-RPC 2.0, section 6).
  if (answers.length === 0 && !res.destroyed) stream ??= new EventStream(res, terms)
  if (!stream) return replyJson(res, 200, `[${answers.join(',')}]`)
  for (const answer of answers) stream.answer(answer)
  stream.end()
}

function sorted(
  items: readonly unknown[],
  session: Session,
  maxMessages: number
): { requests: readonly RpcRequest[]; cancels: readonly RpcRequest['params'][] } {
  const bad = (why: string) => new SwitchboardError('invalid_request', `Not a batch that can be answered: ${why}.`)
  if (items.length === 0) throw bad('it is empty')
  if (items.length > maxMessages) throw bad(`it has ${items.length} messages, and ${maxMessages} are the most`)
  const requests: RpcRequest[] = []
  const cancels: RpcRequest['params'][] = []
  const ids = new Set<RpcId>()
  for (const [i, item] of items.entries()) {
    const classified = classifyMessage(item)
    if (classified.kind === 'invalid') throw bad(`message ${i + 1} is no JSON-RPC message: ${classified.reason}`)
    const { message } = classified
    if (classified.kind === 'notification' && classified.message.method === 'notifications/cancelled')
      cancels.push(classified.message.params)
    if (classified.kind !== 'request') continue
    const { id, method } = message as RpcRequest
    if (method === 'initialize') throw bad('initialize must stand alone')
    if (ids.has(id) || session.inFlight.has(id)) throw bad(`the id ${JSON.stringify(id)} is in use already`)
    ids.add(id)
    requests.push(message as RpcRequest)
  }
  return { requests, cancels }
}
