/**
 * One JSON-RPC request over Streamable HTTP: a POST whose response, JSON or a stream of events, holds the answer. It is
 * settled exactly once: by its answer, by what the response means instead, by its cancellation or by its link.
 */
import type { Pool } from 'undici'
import { nestsTooDeep } from '../wire/json-bytes.js'
import { answerOf, readResult, type Answer, type Json, type Message } from '../wire/json-rpc.js'
import type { Leg } from '../wire/leg.js'
import { Aside } from './noise.js'
import {
  httpFailure,
  noAnswer,
  outcomeOf,
  parseMessage,
  SessionLost,
  single,
  speaksOfLostSession,
  type Asked
} from './http-answer.js'
import { httpCall, type HeaderMap, type HttpCall, type HttpCallOptions, type HttpEnd } from './http-call.js'

/** After the answer, a well-behaved server ends the stream; another is cut off after this. */
const lingerMs = 5000
/** How long a broken connection waits for the news of its process. */
const obituaryMs = 250

/**
 * Coming back to a stream that ended early: when, unless the server says when; how often without hearing anything new,
 * where one that was held open for long was no vain attempt; and at most how often although it always has something.
 */
const resume = {
  afterMs: 1000,
  shortestMs: 100,
  longestMs: 30_000,
  attempts: 3,
  patientMs: 10_000,
  everyMs: 1000
}

/** What a link hears of its requests. One for all of them: closures for each would cost every call. */
export interface PostOwner {
  /** `initialize` was answered; the session is undefined if the server keeps none. */
  opened(session: string | undefined): void
  /** The headers of a GET that goes on after that event; undefined when its session is gone. */
  resuming(post: Post, lastEvent: string): HttpCallOptions['headers'] | undefined
  /** A message that stands beside the answer on the request's own stream. */
  heard(post: Post, message: Message): void
  cancelled(post: Post, reason: Error): void
  settled(post: Post, outcome: Answer | Error): void
}

export interface PostOptions extends Asked, Pick<HttpCallOptions, 'path' | 'headers' | 'body' | 'maxBytes'> {
  readonly owner: PostOwner
  readonly params: Json | undefined
  readonly leg: Leg
  /** Whether its era lets a stream be resumed. */
  readonly resumable: boolean
  /** Its session was lost before: another is not tried. */
  readonly again: boolean
  /** We run the process behind it: its end is reported a little after the connection breaks. */
  readonly supervised: boolean
  readonly resolve: (answer: Answer | Promise<Answer>) => void
  readonly reject: (error: Error) => void
}

export class Post implements HttpCallOptions {
  readonly asked: PostOptions
  readonly method = 'POST'
  readonly maxBytes: number
  readonly path: string
  readonly headers: HttpCallOptions['headers']
  readonly body: string | undefined
  /** Its place among those in flight. */
  slot = -1
  /** Its stream is one that was asked for again: a server may have opened any other in its place. */
  isResumed = false
  #call: HttpCall | undefined
  #release: (() => void) | undefined
  #settled = false
  #pool: Pool | undefined
  #lastEvent: string | undefined
  #retryMs = resume.afterMs
  #attempts = 0
  #resumedAt = -Infinity
  #aside: Aside | undefined

  constructor(options: PostOptions) {
    this.asked = options
    this.path = options.path
    this.headers = options.headers
    this.body = options.body
    this.maxBytes = options.maxBytes
  }

  /** Sends it with all that this turn of the event loop makes ready: see docs/decisions.md. */
  send(pool: Pool): void {
    const { leg, owner } = this.asked
    this.#pool = pool
    setImmediate(() => this.#leave(pool))
    this.#release = leg.cancellation.onCancel(reason => {
      // What has not left needs not be called back.
      if (this.#call) owner.cancelled(this, reason)
      this.fail(reason)
    })
  }

  #leave(pool: Pool): void {
    if (this.#settled) return
    this.#call = httpCall(pool, this)
    if (!this.#settled) this.asked.leg.onSent?.(true)
  }

  /** Whether the server may have seen it. */
  get hasLeft(): boolean {
    return this.#call !== undefined
  }

  fail(error: Error): void {
    if (this.#settled) return
    this.#call?.abort()
    this.#settle(error)
  }

  onHead(status: number, headers: HeaderMap): void {
    const { method, owner } = this.asked
    if (method === 'initialize' && status === 200) owner.opened(single(headers['mcp-session-id']))
  }

  onRetry(ms: number): void {
    this.#retryMs = Math.min(Math.max(ms, resume.shortestMs), resume.longestMs)
  }

  onEvent(data: string, event: { readonly id?: string }): void {
    const { id, owner, server } = this.asked
    if (event.id !== undefined && event.id !== this.#lastEvent) {
      this.#lastEvent = event.id
      this.#attempts = 0
    }
    // An event without data only says where to come back to.
    if (data === '') return this.#heard(0)
    const raw = nestsTooDeep(data) ? undefined : readResult(data)
    if (raw?.id === id) this.#answered(raw)
    else {
      const message = parseMessage(data)
      if ('answers' in message && message.answers === id) return this.fail(noAnswer(server, message.reason))
      if (message.kind !== 'response' || message.message.id !== id) {
        owner.heard(this, message)
        return this.#heard(data.length)
      }
      this.#answered(answerOf(message.message))
    }
    setTimeout(() => this.#call?.abort(), lingerMs).unref()
  }

  /** Something came that is not the answer; nothing else bounds how much, for the socket is always read. */
  #heard(bytes: number): void {
    const reason = (this.#aside ??= new Aside()).spend(bytes)
    if (reason === undefined) return
    this.#call?.abort()
    if (this.#settled) return
    const { owner, server } = this.asked
    const error = httpFailure(server, 'upstream_garbage', reason, true)
    owner.cancelled(this, error)
    this.fail(error)
  }

  onEnd(end: HttpEnd): void {
    if (this.#settled || this.#resumes(end)) return
    this.#lose(end)
  }

  #lose(end: HttpEnd): void {
    const outcome = outcomeOf(end, this.asked)
    if (!(outcome instanceof Error)) this.#answered(outcome)
    // Its process is about to be reported dead, with the real reason; that then settles this request.
    else if (end.kind === 'failed' && end.dispatched && this.asked.supervised)
      setTimeout(() => this.fail(outcome), obituaryMs)
    else this.fail(outcome)
  }

  /** The rest of a stream was asked for in vain. The call itself had been sent, whatever became of the question. */
  #losesRest(end: HttpEnd): void {
    const { server, supervised } = this.asked
    const why = end.kind === 'failed' ? end.reason : `it answered HTTP ${end.status}`
    const code = end.kind === 'failed' ? 'upstream_broke' : 'upstream_garbage'
    const error = httpFailure(
      server,
      code,
      `its stream ended without the answer, and could not be resumed: ${why}`,
      true
    )
    if (end.kind === 'failed' && supervised) setTimeout(() => this.fail(error), obituaryMs)
    else this.fail(error)
  }

  /**
   * A server of 2025 may close the stream before the answer and be asked for the rest with the last event's id
   * (2025-11-25, Streamable HTTP: Resumability). The call's own deadline goes on.
   */
  #resumes(end: HttpEnd): boolean {
    const { resumable, leg, owner, supervised } = this.asked
    const lastEvent = this.#lastEvent
    const broken = end.kind === 'failed' ? end.dispatched && !supervised : end.status === 200
    if (!resumable || lastEvent === undefined || !broken || this.#attempts++ >= resume.attempts) return false
    leg.onPause?.(this.#retryMs)
    const now = performance.now()
    const wait = Math.max(this.#retryMs, this.#resumedAt + resume.everyMs - now)
    this.#resumedAt = now + wait
    const timer = setTimeout(() => {
      if (this.#settled || !this.#pool) return
      const headers = owner.resuming(this, lastEvent)
      // Another session knows nothing of this stream.
      if (!headers) return this.#lose(end)
      this.isResumed = true
      const begun = performance.now()
      this.#call = httpCall(this.#pool, {
        method: 'GET',
        path: this.path,
        headers,
        maxBytes: this.maxBytes,
        onRetry: ms => this.onRetry(ms),
        onEvent: (data, event) => this.onEvent(data, event),
        onEnd: after => {
          if (performance.now() - begun > resume.patientMs) this.#attempts = 0
          if (this.#settled || this.#resumes(after)) return
          if (after.kind === 'complete' && after.status === 200) this.#lose(after)
          else this.#losesRest(after)
        }
      })
    }, wait)
    timer.unref()
    return true
  }

  #answered(answer: Answer): void {
    if (answer.error && this.asked.session !== undefined && speaksOfLostSession(answer.error))
      this.fail(new SessionLost(answer.error.message))
    else this.#settle(answer)
  }

  #settle(outcome: Answer | Error): void {
    if (this.#settled) return
    this.#settled = true
    this.#release?.()
    this.asked.owner.settled(this, outcome)
  }
}
