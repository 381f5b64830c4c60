/**
 * One stream of server-sent events to a client: a comment at once so that the head is on its way, one every 15 s so
 * that proxies keep it, and an end exactly once. What waits behind a client that does not read is bounded: what may be
 * missed is left out, what may not ends the connection, and an answer is written all the same, since there is but one.
 *
 * With a replay it outlives its connection: what is sent while nobody reads is kept, and a client that comes back goes on
 * where it was.
 */
import type { ServerResponse } from 'node:http'
import type { Deadlines } from '../wire/deadlines.js'
import { sseComment, sseEvent, sseMessage } from '../wire/sse-format.js'
import type { Replay } from './replay.js'
import { commonHeaders, type ReplyHeaders } from './reply.js'
import type { CutOff } from './stall.js'

/** What holds for every stream of a gateway. */
export interface StreamTerms {
  /** Bytes that may wait behind a client that does not read. */
  readonly maxWaiting: number
  readonly keepAliveMs: number
  /** Until a response without an answer becomes a stream, so that it can be kept alive. */
  readonly commits: Deadlines
  readonly cutOff: CutOff
}

export interface EventStreamOptions {
  readonly headers?: ReplyHeaders
  /** The client is gone or the stream has ended; called once for each connection. */
  readonly onClose?: () => void
  /** Keeps what is sent, and gives every message an id. */
  readonly replay?: Replay
  /** Begins with an empty event, so that a client that hears nothing else can come back (2025-11-25 and newer). */
  readonly primed?: boolean
}

const keepAlive = sseComment('keep-alive')

export class EventStream {
  readonly #replay: Replay | undefined
  readonly #terms: StreamTerms
  #res: ServerResponse
  #timer: NodeJS.Timeout | undefined
  #overAt: number | undefined
  /** The last event that was given to a connection. */
  #sent: string | undefined

  constructor(res: ServerResponse, terms: StreamTerms, { headers, onClose, replay, primed }: EventStreamOptions = {}) {
    this.#res = res
    this.#replay = replay
    this.#terms = terms
    this.#attach(res, headers, onClose)
    if (primed) this.#sendKept('')
  }

  /** Whether somebody reads it. */
  get open(): boolean {
    return !this.#res.writableEnded && !this.#res.destroyed
  }

  /** Whether so much waits for its reader that nothing more should be sent that can be missed. */
  get full(): boolean {
    return this.open && this.#res.writableLength > this.#terms.maxWaiting
  }

  /** Which stream an event id speaks of; undefined for one that cannot be resumed. */
  get nonce(): string | undefined {
    return this.#replay?.nonce
  }

  /** Sends a serialised JSON-RPC message. Nothing of them may be missed: a stream that is full ends. */
  send(json: Buffer | string): void {
    if (this.#replay) this.#sendKept(json)
    else this.#write(sseMessage(json))
  }

  /** Sends an answer on a stream that goes on, however much waits already. */
  answer(json: Buffer | string): void {
    if (this.open) this.#res.write(sseMessage(json))
  }

  /** Sends a named event, however much waits already. */
  sendEvent(name: string, data: string): void {
    if (this.open) this.#res.write(sseEvent(name, data))
  }

  /** Ends the stream, after a last message if there is one. */
  end(json?: Buffer | string): void {
    clearInterval(this.#timer)
    if (this.#overAt !== undefined) return
    const last = json === undefined ? undefined : (this.#replay?.push(json) ?? { json })
    this.#overAt = performance.now()
    if (!this.open) return
    if (!last) return void this.#res.end()
    if ('id' in last) this.#sent = last.id
    this.#res.end(sseMessage(last.json, 'id' in last ? last.id : undefined))
  }

  /** Ends the connection but not the stream: the client is to come back after so many milliseconds (SEP-1699). */
  pause(retryMs: number): void {
    if (!this.open || this.#overAt !== undefined) return
    this.#write(Buffer.from(`retry: ${Math.round(retryMs)}\n\n`))
    clearInterval(this.#timer)
    this.#res.end()
  }

  /** Whether everything after that event has been said: there is nothing to come back for. */
  isOverAfter(id: string): boolean {
    return this.#overAt !== undefined && this.#replay?.after(id).length === 0
  }

  /** Whether it has been ended, read or not. */
  get over(): boolean {
    return this.#overAt !== undefined
  }

  /** How long ago it was ended, in milliseconds; below 0 while it goes on. @param now epoch milliseconds. */
  overFor(now: number): number {
    return this.#overAt === undefined ? -1 : now - this.#overAt
  }

  /** Goes on after that event on a new connection; the one before is ended. */
  resume(res: ServerResponse, id: string, onClose?: () => void): void {
    const before = this.#res
    if (this.open) before.end()
    this.#res = res
    this.#attach(res, undefined, onClose)
    for (const event of this.#replay?.after(id) ?? []) {
      this.#sent = event.id
      if (this.open) res.write(sseMessage(event.json, event.id))
    }
    if (this.#overAt === undefined) return
    clearInterval(this.#timer)
    res.end()
  }

  /** What was sent while nobody read it. */
  unread(): readonly (Buffer | string)[] {
    return this.#replay?.after(this.#sent).map(({ json }) => json) ?? []
  }

  /** Nobody will come back for it. */
  forget(): void {
    this.#replay?.drop()
  }

  #attach(res: ServerResponse, headers: ReplyHeaders | undefined, onClose: (() => void) | undefined): void {
    clearInterval(this.#timer)
    const timer = setInterval(() => this.#keepAlive(), this.#terms.keepAliveMs)
    timer.unref()
    this.#timer = timer
    res.once('close', () => {
      clearInterval(timer)
      onClose?.()
    })
    res.writeHead(200, {
      ...commonHeaders,
      'content-type': 'text/event-stream',
      'cache-control': 'no-store, no-transform',
      'x-accel-buffering': 'no',
      ...headers
    })
    res.flushHeaders()
    this.#write(keepAlive)
  }

  #sendKept(json: Buffer | string): void {
    if (this.#overAt !== undefined) return
    const event = this.#replay?.push(json)
    if (!event || !this.open) return
    this.#sent = event.id
    this.#write(sseMessage(json, event.id))
  }

  #keepAlive(): void {
    if (!this.full) this.#write(keepAlive)
  }

  #write(bytes: Buffer): void {
    if (this.full) this.#terms.cutOff(this.#res)
    else if (this.open) this.#res.write(bytes)
  }
}
