/**
 * One downstream request over HTTP until its final answer. The answer is one JSON body unless something has to be said
 * before it, the client takes nothing but a stream, or ten seconds have passed: then the response becomes a stream of
 * events. That commitment is made as late as possible, because a status cannot be taken back.
 *
 * Invariant: exactly one final answer is written, or none after the request was cancelled by its client.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Scope } from '../catalog/sight.js'
import { SwitchboardError } from '../errors.js'
import type { Key } from '../policy/keys.js'
import type { Exchange } from '../parties.js'
import { Cancellation } from '../wire/cancellation.js'
import type { Wait, Waiting } from '../wire/deadlines.js'
import type { Era } from '../wire/era.js'
import { serialiseAnswer, type Answer, type RpcId, type RpcNotification } from '../wire/json-rpc.js'
import type { ClientFacts } from '../wire/leg.js'
import { EventStream, type StreamTerms } from './event-stream.js'
import type { Replay } from './replay.js'
import { readyAnswer, type ReplyHeaders } from './reply.js'

export interface ExchangeOptions {
  readonly id: RpcId
  readonly key: Key
  readonly era: Era
  readonly client: ClientFacts
  readonly scope: Scope
  readonly logLevel: string | undefined
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly terms: StreamTerms
  /** Headers for the answer, whichever form it takes. */
  readonly replyHeaders?: ReplyHeaders
  /** Makes what keeps a stream for a client that loses its connection; absent where there is no coming back. */
  readonly resumable?: Resumable
}

export interface Resumable {
  readonly replay: () => Replay
  /** Whether streams begin with an empty event, and may be paused. */
  readonly primed: boolean
  /** The answer has become a stream. */
  readonly onStream: (stream: EventStream) => void
}

const traceHeaders = ['traceparent', 'tracestate', 'baggage'] as const

export class HttpExchange implements Exchange, Waiting {
  readonly id: RpcId
  readonly key: Key
  readonly era: Era
  readonly client: ClientFacts
  readonly scope: Scope
  readonly logLevel: string | undefined
  readonly cancellation = new Cancellation()
  readonly headers?: Readonly<Record<string, string>>
  readonly #req: IncomingMessage
  readonly #res: ServerResponse
  readonly #terms: StreamTerms
  readonly #replyHeaders: ReplyHeaders | undefined
  readonly #resumable: Resumable | undefined
  readonly #takesStream: boolean
  readonly #commit: Wait | undefined
  #stream: EventStream | undefined
  #done = false

  constructor(options: ExchangeOptions) {
    const { id, key, era, client, scope, logLevel, req, res, terms, replyHeaders, resumable } = options
    this.id = id
    this.key = key
    this.era = era
    this.client = client
    this.scope = scope
    this.logLevel = logLevel
    this.#req = req
    this.#res = res
    this.#terms = terms
    this.#replyHeaders = replyHeaders
    this.#resumable = resumable
    const trace = traceOf(req)
    if (trace) this.headers = trace
    const accept = req.headers.accept?.toLowerCase()
    this.#takesStream = accept !== undefined && accept.includes('text/event-stream')
    res.on('close', () => this.#closed())
    if (this.#takesStream) {
      if (!accept?.includes('application/json') && !accept?.includes('*/*')) this.#commitToStream()
      else this.#commit = terms.commits.begin(this)
    }
  }

  get paramHeaders(): Readonly<Record<string, string>> {
    const mirrored: Record<string, string> = {}
    const { headers } = this.#req
    for (const name in headers) {
      const value = headers[name]
      if (name.startsWith('mcp-param-') && typeof value === 'string') mirrored[name] = value
    }
    return mirrored
  }

  notify(notification: RpcNotification): void {
    if (this.#done || !this.#takesStream) return
    this.#commitToStream()
    if (!this.#stream?.full) this.#stream?.send(JSON.stringify(notification))
  }

  /** The server has closed its stream for a while: so is ours, where the client knows how to come back (SEP-1699). */
  pause(retryMs: number): void {
    if (this.#done || !this.#resumable?.primed || !this.#takesStream) return
    this.#commitToStream()
    this.#stream?.pause(retryMs)
  }

  /** Writes the final answer. @param status for an answer that is still a plain response. */
  finish(answer: Answer, status = 200): void {
    if (this.#done) return
    this.#done = true
    this.#decide()
    if (this.#stream) this.#stream.end(serialiseAnswer(this.id, answer))
    // It leaves with all that this turn of the event loop makes ready: see docs/decisions.md.
    else setImmediate(readyAnswer(this.#res, this.id, answer, status, this.#replyHeaders))
  }

  /**
   * The client has taken its request back: the call is cancelled upstream and gets no answer, but its HTTP request
   * must end, which it does as an empty stream.
   */
  cancel(reason: string): void {
    if (this.#done) return
    this.#done = true
    this.#decide()
    this.cancellation.cancel(new SwitchboardError('cancelled', reason))
    if (!this.#stream && !this.#res.headersSent && !this.#res.destroyed)
      this.#stream = new EventStream(this.#res, this.#terms)
    this.#stream?.end()
  }

  /** There has been no answer for so long that the response becomes a stream. */
  expired(): void {
    this.#commitToStream()
  }

  /** What becomes of the response is decided, or no longer matters. */
  #decide(): void {
    if (this.#commit) this.#terms.commits.end(this.#commit)
  }

  #commitToStream(): void {
    if (this.#stream || this.#done || this.#res.destroyed) return
    this.#decide()
    const { replay, primed = false, onStream } = this.#resumable ?? {}
    this.#stream = new EventStream(this.#res, this.#terms, {
      ...(this.#replyHeaders && { headers: this.#replyHeaders }),
      ...(replay && { replay: replay(), primed })
    })
    onStream?.(this.#stream)
  }

  /** A closed response cancels a modern request; a legacy one goes on without a reader (2025-11-25, Cancellation). */
  #closed(): void {
    this.#decide()
    if (this.#done) return
    if (this.era === 'modern') {
      this.#done = true
      this.cancellation.cancel(new SwitchboardError('cancelled', 'the client closed the connection'))
    }
  }
}

/** The trace context of a request (W3C Trace Context, Baggage): the only headers that travel on. */
export function traceOf({ headers }: IncomingMessage): Record<string, string> | undefined {
  let trace: Record<string, string> | undefined
  for (const name of traceHeaders) {
    const value = headers[name]
    if (typeof value === 'string') (trace ??= {})[name] = value
  }
  return trace
}
