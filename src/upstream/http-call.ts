/**
 * One HTTP request to an upstream over its undici pool, as events: head, server-sent events, end. Redirects are never
 * followed (cross-origin, clients forward keys and session ids), nothing is unbounded, and it is known whether the
 * request left this process.
 */
import { StringDecoder } from 'node:string_decoder'
import { createParser, type EventSourceParser } from 'eventsource-parser'
import type { Dispatcher, Pool } from 'undici'
import { sizeText } from '../wire/json-bytes.js'

export interface HttpCallOptions {
  readonly method: 'GET' | 'POST' | 'DELETE'
  readonly path: string
  /** By name, or names and values in turn. */
  readonly headers: Record<string, string> | readonly string[]
  readonly body?: string | undefined
  readonly maxBytes: number
  onHead?(status: number, headers: HeaderMap): void
  /** One server-sent event. */
  onEvent?(data: string, event: { readonly id?: string; readonly name?: string }): void
  /** After how many milliseconds the server wants to be asked again for a stream that it closes. */
  onRetry?(ms: number): void
  /** Called exactly once, unless aborted first. */
  onEnd(end: HttpEnd): void
}

export type HeaderMap = Record<string, string | string[] | undefined>

export type HttpEnd =
  /** The response is complete; `body` is what was not delivered as events. */
  | { readonly kind: 'complete'; readonly status: number; readonly headers: HeaderMap; readonly body: Buffer }
  /** No complete response. `dispatched`: the request had reached a connection, so the server may have seen it. */
  | { readonly kind: 'failed'; readonly reason: string; readonly dispatched: boolean }

export interface HttpCall {
  /** Ends the request without `onEnd`. */
  abort(): void
}

class Exchange implements Dispatcher.DispatchHandler, HttpCall {
  readonly #options: HttpCallOptions
  #controller: Dispatcher.DispatchController | undefined
  #status = 0
  #headers: HeaderMap = {}
  #chunks: Buffer[] = []
  #size = 0
  #events: { parser: EventSourceParser; decoder: StringDecoder } | undefined
  #done = false

  constructor(options: HttpCallOptions) {
    this.#options = options
  }

  abort(): void {
    if (this.#done) return
    this.#done = true
    this.#controller?.abort(new Error('aborted'))
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    if (this.#done) controller.abort(new Error('aborted'))
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: HeaderMap): void {
    if (this.#done || status < 200) return
    this.#status = status
    this.#headers = headers
    const type = headers['content-type']
    if (status === 200 && typeof type === 'string' && /^text\/event-stream\b/i.test(type)) {
      const parser = createParser({
        onRetry: ms => this.#options.onRetry?.(ms),
        onEvent: ({ data, id, event }) => {
          this.#size = 0
          if (!this.#done)
            this.#options.onEvent?.(data, {
              ...(id !== undefined && { id }),
              ...(event !== undefined && { name: event })
            })
        }
      })
      this.#events = { parser, decoder: new StringDecoder('utf8') }
    }
    this.#options.onHead?.(status, headers)
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#done) return
    this.#size += chunk.length
    if (this.#size > this.#options.maxBytes) {
      this.#fail(`it sent more than ${sizeText(this.#options.maxBytes)} in one message`)
      this.#controller?.abort(new Error('too large'))
    } else if (this.#events) {
      this.#events.parser.feed(this.#events.decoder.write(chunk))
    } else {
      this.#chunks.push(chunk)
    }
  }

  onResponseEnd(): void {
    if (this.#done) return
    this.#done = true
    const body = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks)
    this.#options.onEnd({ kind: 'complete', status: this.#status, headers: this.#headers, body })
  }

  onResponseError(_controller: Dispatcher.DispatchController | undefined, error: Error): void {
    this.#fail(networkReason(error))
  }

  #fail(reason: string): void {
    if (this.#done) return
    this.#done = true
    this.#options.onEnd({ kind: 'failed', reason, dispatched: this.#controller !== undefined })
  }
}

/** Sends the request. Never throws: every failure arrives through `onEnd`. */
export function httpCall(pool: Pool, options: HttpCallOptions): HttpCall {
  const exchange = new Exchange(options)
  const { method, path, headers, body } = options
  try {
    pool.dispatch({ method, path, headers: headers as string[], body: body ?? null }, exchange)
  } catch (error) {
    exchange.onResponseError(undefined, error as Error)
  }
  return exchange
}

/** A network failure in words, without a full stop. */
export function networkReason(error: unknown): string {
  const inner = error instanceof AggregateError && error.errors.length > 0 ? (error.errors[0] as unknown) : error
  const { code, message } = inner as NodeJS.ErrnoException
  switch (code) {
    case 'ECONNREFUSED':
      return 'nothing listens at its address (connection refused)'
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return 'its host name could not be resolved'
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
      return 'its host cannot be reached from here'
    case 'UND_ERR_CONNECT_TIMEOUT':
      return 'it did not accept the connection in time'
    case 'ECONNRESET':
    case 'EPIPE':
    case 'UND_ERR_SOCKET':
      return 'the connection to it broke'
    default:
      return `the connection to it failed (${code ?? message})`
  }
}
