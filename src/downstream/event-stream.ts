/**
 * One stream of server-sent events to a client: a comment at once so that the head is on its way, one every 15 s so
 * that proxies keep it, and an end exactly once. What waits behind a client that does not read is bounded.
 *
 * With a replay it outlives its connection: what is sent while nobody reads is kept, and a client that comes back goes on
 * where it was.
 */
import type { ServerResponse } from 'node:http'
import { sseComment, sseEvent, sseMessage } from '../wire/sse-format.js'
import type { Replay } from './replay.js'
import { commonHeaders, type ReplyHeaders } from './reply.js'

export interface EventStreamOptions {
  readonly headers?: ReplyHeaders
  /** @default 15000 */
  readonly keepAliveMs?: number
  /** The client is gone or the stream has ended; called once for each connection. */
  readonly onClose?: () => void
  /** Keeps what is sent, and gives every message an id. */
  readonly replay?: Replay
  /** Begins with an empty event, so that a client that hears nothing else can come back (2025-11-25 and newer). */
  readonly primed?: boolean
}

/** Bytes that may wait behind a socket nobody reads before the stream is given up. */
const maxWaiting = 1024 * 1024
const keepAlive = sseComment('keep-alive')

export class EventStream {
  readonly #replay: Replay | undefined
  readonly #keepAliveMs: number
  #res: ServerResponse
  #timer: NodeJS.Timeout | undefined
  #overAt: number | undefined
  /** The last event that was given to a connection. */
  #sent: string | undefined

  constructor(
    res: ServerResponse,
    { headers, keepAliveMs = 15_000, onClose, replay, primed }: EventStreamOptions = {}
  ) {
    this.#res = res
    this.#replay = replay
    this.#keepAliveMs = keepAliveMs
    this.#attach(res, headers, onClose)
    if (primed) this.#sendKept('')
  }

  /** Whether somebody reads it. */
  get open(): boolean {
    return !this.#res.writableEnded && !this.#res.destroyed
  }

  /** Which stream an event id speaks of; undefined for one that cannot be resumed. */
  get nonce(): string | undefined {
    return this.#replay?.nonce
  }

  /** Sends a serialised JSON-RPC message. */
  send(json: Buffer | string): void {
    if (this.#replay) this.#sendKept(json)
    else this.#write(sseMessage(json))
  }

  /** Sends a named event. */
  sendEvent(name: string, data: string): void {
    this.#write(sseEvent(name, data))
  }

  /** Ends the stream, after a last message if there is one. */
  end(json?: Buffer | string): void {
    clearInterval(this.#timer)
    if (this.#overAt !== undefined) return
    if (json !== undefined && this.#replay) this.#sendKept(json)
    this.#overAt = performance.now()
    if (!this.open) return
    if (json === undefined || this.#replay) this.#res.end()
    else this.#res.end(sseMessage(json))
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
      this.#write(sseMessage(event.json, event.id))
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
    const timer = setInterval(() => this.#write(keepAlive), this.#keepAliveMs)
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

  #write(bytes: Buffer): void {
    if (!this.open) return
    if (this.#res.writableLength > maxWaiting) this.#res.destroy()
    else this.#res.write(bytes)
  }
}
