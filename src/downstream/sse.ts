/**
 * The doors of HTTP+SSE, for clients of 2024-11-05: `GET /sse` opens the conversation and brings every answer, messages
 * are posted to the address its first event names. The conversation is the stream: when it closes, its calls end.
 */
import { randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Scope } from '../catalog/sight.js'
import { SwitchboardError, toSwitchboardError } from '../errors.js'
import type { Key } from '../policy/keys.js'
import type { Exchange } from '../parties.js'
import { Cancellation } from '../wire/cancellation.js'
import {
  serialiseAnswer,
  classifyMessage,
  type Answer,
  type RpcId,
  type RpcNotification,
  type RpcRequest
} from '../wire/json-rpc.js'
import type { ClientFacts } from '../wire/leg.js'
import { changeKinds } from '../wire/lists.js'
import { Running } from '../wire/slots.js'
import type { Caller } from './caller.js'
import type { ReadJson } from './body.js'
import { EventStream, type StreamTerms } from './event-stream.js'
import { traceOf } from './exchange.js'
import { applyCancelled, askingFor, unsubscribeAll, type Conversation, type InFlight, type Legacy } from './legacy.js'
import { changeNotice, type Listeners } from './listeners.js'
import type { LiveState } from './live-state.js'
import { commonHeaders, replyRefusal, unreadBody } from './reply.js'

export interface SseDoor {
  handleGet(caller: Caller, req: IncomingMessage, res: ServerResponse): void
  handlePost(caller: Caller, sessionId: string | undefined, req: IncomingMessage, res: ServerResponse): Promise<void>
  /** The log levels its clients have set. */
  levels(): Iterable<string>
  close(): void
}

interface SseConversation extends Conversation {
  readonly keyId: string
  readonly scope: Scope
  readonly stream: EventStream
  readonly inFlight: InFlight
  client: ClientFacts
}

/** One request of such a conversation: everything about it goes out on the one stream. */
class SseExchange implements Exchange {
  readonly era = 'legacy'
  readonly cancellation = new Cancellation()
  readonly #stream: EventStream
  #done = false

  constructor(
    readonly id: RpcId,
    readonly key: Key,
    readonly scope: Scope,
    readonly client: ClientFacts,
    readonly logLevel: string,
    readonly headers: Readonly<Record<string, string>>,
    stream: EventStream
  ) {
    this.#stream = stream
  }

  notify(notification: RpcNotification): void {
    if (!this.#done && !this.#stream.full) this.#stream.send(JSON.stringify(notification))
  }

  finish(answer: Answer): void {
    if (this.#done) return
    this.#done = true
    this.#stream.answer(serialiseAnswer(this.id, answer))
  }

  /** A cancelled request is not answered (2024-11-05, Cancellation). */
  cancel(reason: string): void {
    if (this.#done) return
    this.#done = true
    this.cancellation.cancel(new SwitchboardError('cancelled', reason))
  }
}

export interface SseOptions {
  readonly legacy: Legacy
  readonly listeners: Listeners
  readonly held: LiveState
  readonly readJson: ReadJson
  readonly terms: StreamTerms
}

export function createSse({ legacy, listeners, held, readJson, terms }: SseOptions): SseDoor {
  const conversations = new Map<string, SseConversation>()

  function handleGet({ key, scope }: Caller, _req: IncomingMessage, res: ServerResponse): void {
    const sessionId = randomBytes(16).toString('base64url')
    const inFlight: InFlight = new Running()
    const remove = listeners.add({
      key,
      scope,
      changes: changeKinds,
      tell: change => stream.send(JSON.stringify(changeNotice(change)))
    })
    const leave = held.hold(key, () => {
      remove()
      // Its calls are being answered, on this stream.
      setImmediate(() => stream.end())
    })
    const stream = new EventStream(res, terms, {
      onClose: () => {
        remove()
        leave()
        conversations.delete(sessionId)
        unsubscribeAll(conversation)
        for (const [, exchange] of [...inFlight]) exchange.cancel('the client closed its stream')
      }
    })
    stream.sendEvent('endpoint', `/messages?sessionId=${sessionId}`)
    const conversation: SseConversation = {
      keyId: key.id,
      scope,
      stream,
      inFlight,
      client: { capabilities: {} },
      logLevel: undefined,
      subscriptions: new Map(),
      tell: notification => stream.send(JSON.stringify(notification))
    }
    conversations.set(sessionId, conversation)
  }

  async function handlePost(
    { key }: Caller,
    sessionId: string | undefined,
    req: IncomingMessage,
    res: ServerResponse
  ): Promise<void> {
    let id: RpcId | undefined
    try {
      if (sessionId === undefined)
        throw new SwitchboardError(
          'session_required',
          'The sessionId is missing: open GET /sse first and post to the address its "endpoint" event names.'
        )
      const conversation = conversations.get(sessionId)
      if (!conversation || conversation.keyId !== key.id)
        throw new SwitchboardError('session_not_found', 'Session not found. Open GET /sse again.')
      const classified = classifyMessage(await readJson(req))
      if (classified.kind === 'invalid') {
        id = classified.id
        throw new SwitchboardError('invalid_request', `Not a JSON-RPC 2.0 message: ${classified.reason}.`)
      }
      if (classified.kind === 'request') {
        id = classified.message.id
        if (conversation.inFlight.has(id))
          throw new SwitchboardError(
            'invalid_request',
            `Request id ${JSON.stringify(id)} belongs to a request that is still running.`
          )
        void answer(conversation, key, classified.message, traceOf(req) ?? {})
      }
      if (classified.kind === 'notification' && classified.message.method === 'notifications/cancelled') {
        applyCancelled(conversation.inFlight, classified.message.params)
      }
      res.writeHead(202, { ...commonHeaders, 'content-type': 'text/plain' })
      res.end('Accepted')
    } catch (thrown) {
      const error = toSwitchboardError(thrown)
      if (error.code === 'cancelled') res.destroy()
      else replyRefusal(res, error, id, unreadBody(req))
    }
  }

  async function answer(
    conversation: SseConversation,
    key: Key,
    message: RpcRequest,
    trace: Record<string, string>
  ): Promise<void> {
    const { scope, stream, inFlight } = conversation
    if (message.method === 'initialize') {
      const { client, result } = legacy.initialize({ key, scope }, message.params)
      conversation.client = client
      return stream.answer(serialiseAnswer(message.id, { result }))
    }
    const { client, logLevel } = askingFor(conversation.client, conversation)
    const exchange = new SseExchange(message.id, key, scope, client, logLevel, trace, stream)
    inFlight.set(message.id, exchange)
    try {
      exchange.finish(await legacy.dispatch(exchange, message, conversation))
    } finally {
      inFlight.take(message.id)
    }
  }

  return {
    handleGet,
    handlePost,
    *levels() {
      for (const { logLevel } of conversations.values()) if (logLevel !== undefined) yield logLevel
    },
    close() {
      for (const { stream } of conversations.values()) stream.end()
    }
  }
}
