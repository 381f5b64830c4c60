/**
 * The standalone stream of Streamable HTTP (2025-11-25, Listening for Messages from the Server), on which a legacy server
 * sends what belongs to no request. It is optional for the server, and opened again for as long as one is offered.
 */
import { httpCall, type HttpCall, type HttpCallOptions, type HttpEnd } from './http-call.js'
import { Aside } from './noise.js'
import type { Pool } from 'undici'

export interface HttpStreamOptions {
  readonly pool: Pool
  readonly path: string
  readonly maxBytes: number
  readonly headers: () => HttpCallOptions['headers']
  readonly onEvent: (data: string) => void
  /** It could not be asked for: the server is gone. */
  readonly onGone: (reason: string) => void
}

/** How long it waits before it opens again, first and at most. */
const reopen = { firstMs: 1000, maxMs: 30_000 }

export class HttpStream {
  readonly #options: HttpStreamOptions
  #call: HttpCall | undefined
  #hears = false
  #timer: NodeJS.Timeout | undefined
  #waitMs = reopen.firstMs
  #ended = false

  constructor(options: HttpStreamOptions) {
    this.#options = options
  }

  /** Whether the server has one open for us. */
  get hears(): boolean {
    return this.#hears
  }

  open(): void {
    if (this.#ended || this.#call) return
    const { pool, path, maxBytes, headers, onEvent } = this.#options
    let offered = false
    let opened = 0
    const aside = new Aside()
    const call = httpCall(pool, {
      method: 'GET',
      path,
      headers: headers(),
      maxBytes,
      onHead: status => {
        offered = this.#hears = status === 200
        opened = performance.now()
      },
      onEvent: data => {
        onEvent(data)
        const reason = aside.spend(data.length)
        if (reason === undefined || this.#call !== call) return
        call.abort()
        this.#closed({ kind: 'failed', reason, dispatched: true }, offered, opened)
      },
      onEnd: end => this.#closed(end, offered, opened)
    })
    this.#call = call
  }

  /** Leaves the stream of a session that is lost; another may be opened. */
  leave(): void {
    this.#call?.abort()
    this.#call = undefined
  }

  end(): void {
    this.#ended = true
    clearTimeout(this.#timer)
    this.#call?.abort()
  }

  #closed(end: HttpEnd, offered: boolean, opened: number): void {
    this.#call = undefined
    this.#hears = false
    if (this.#ended) return
    if (end.kind === 'failed' && !end.dispatched) return this.#options.onGone(end.reason)
    // 405 or 404: the server offers no such stream, which it may.
    if (end.kind === 'complete' && !offered) return
    if (performance.now() - opened > reopen.maxMs) this.#waitMs = reopen.firstMs
    this.#timer = setTimeout(() => this.open(), this.#waitMs)
    this.#timer.unref()
    this.#waitMs = Math.min(this.#waitMs * 2, reopen.maxMs)
  }
}
