/**
 * One open stream of server-sent events to a client: a comment at once so that the head is on its way, one every 15 s so
 * that proxies keep it, and an end exactly once. What waits behind a client that does not read is bounded.
 */
import type { ServerResponse } from 'node:http'
import { sseComment, sseEvent, sseMessage } from '../wire/sse-format.js'
import { commonHeaders, type ReplyHeaders } from './reply.js'

export interface EventStreamOptions {
  readonly headers?: ReplyHeaders
  /** @default 15000 */
  readonly keepAliveMs?: number
  /** The client is gone or the stream has ended; called once. */
  readonly onClose?: () => void
}

/** Bytes that may wait behind a socket nobody reads before the stream is given up. */
const maxWaiting = 1024 * 1024
const keepAlive = sseComment('keep-alive')

export class EventStream {
  readonly #res: ServerResponse
  readonly #timer: NodeJS.Timeout

  constructor(res: ServerResponse, { headers, keepAliveMs = 15_000, onClose }: EventStreamOptions = {}) {
    this.#res = res
    this.#timer = setInterval(() => this.#write(keepAlive), keepAliveMs)
    this.#timer.unref()
    res.once('close', () => {
      clearInterval(this.#timer)
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

  get open(): boolean {
    return !this.#res.writableEnded && !this.#res.destroyed
  }

  /** Sends a serialised JSON-RPC message. */
  send(json: Buffer | string): void {
    this.#write(sseMessage(json))
  }

  /** Sends a named event. */
  sendEvent(name: string, data: string): void {
    this.#write(sseEvent(name, data))
  }

  /** Ends the stream, after a last message if there is one. */
  end(json?: Buffer | string): void {
    clearInterval(this.#timer)
    if (!this.open) return
    if (json === undefined) this.#res.end()
    else this.#res.end(sseMessage(json))
  }

  #write(bytes: Buffer): void {
    if (!this.open) return
    if (this.#res.writableLength > maxWaiting) this.#res.destroy()
    else this.#res.write(bytes)
  }
}
