/**
 * A link over Streamable HTTP, both eras: one POST a request, its answer as JSON or as a stream of events on that same
 * response, which makes everything on it attributable. A legacy server's session is opened by `initialize`, renewed
 * once (shared by all callers) when the server has lost it, and deleted on close.
 */
import { Pool } from 'undici'
import { reasonOf, SwitchboardError } from '../errors.js'
import { legParams, modernVersion } from '../wire/era.js'
import { classifyMessage, isObject, type Answer, type Json, type RpcError, type RpcResponse } from '../wire/json-rpc.js'
import type { Leg } from '../wire/leg.js'
import { Slots } from '../wire/slots.js'
import { encodeHeaderValue, nameSources } from '../wire/mirrored-headers.js'
import { answerToServer } from './channel-link.js'
import { httpCall, type HttpCall, type HttpEnd } from './http-call.js'
import type { LinkEvents, LinkInfo } from './link.js'
import type { Negotiable } from './negotiate.js'

export interface HttpLinkOptions {
  readonly server: string
  readonly url: string
  /** Configured headers of this server: its credentials. They never leave its origin. */
  readonly headers: Readonly<Record<string, string>>
  readonly connectTimeoutMs: number
  /** We run the process behind it: its end is reported through `lost`, a little after the connection breaks. */
  readonly supervised: boolean
  /** Opens the conversation again on the same link after the server lost the session. */
  readonly renegotiate: (link: Negotiable) => Promise<void>
}

const maxMessage = 32 * 1024 * 1024
/** How long the standalone stream waits before it opens again, first and at most. */
const reopen = { firstMs: 1000, maxMs: 30_000 }
/** After the answer, a well-behaved server ends the stream; another is cut off after this. */
const lingerMs = 5000
/** How long a broken connection waits for the news of its process. */
const obituaryMs = 250

const changeOfOffer = /^notifications\/(?:tools|prompts|resources)\//

/** The server no longer knows our session: the request provably did not run. */
class SessionLost extends Error {}

export class HttpLink implements Negotiable {
  info: LinkInfo
  #hears = false
  readonly #options: HttpLinkOptions
  readonly #events: LinkEvents
  readonly #pool: Pool
  readonly #path: string
  readonly #inFlight = new Slots<(error: SwitchboardError) => void>()
  #nextId = 1
  #session: string | undefined
  #renewal: Promise<void> | undefined
  #stream: HttpCall | undefined
  #reopenTimer: NodeJS.Timeout | undefined
  #reopenMs = reopen.firstMs
  #ended = false

  constructor(options: HttpLinkOptions, events: LinkEvents, era: LinkInfo['era']) {
    const url = new URL(options.url)
    this.#options = options
    this.#events = events
    this.#path = url.pathname + url.search
    this.#pool = new Pool(url.origin, {
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: { timeout: options.connectTimeoutMs }
    })
    this.info = { era, version: era === 'modern' ? modernVersion : '', capabilities: {}, serverInfo: {} }
  }

  get hears(): boolean {
    return this.#hears
  }

  async request(method: string, params: Json | undefined, leg: Leg): Promise<Answer> {
    if (this.#renewal && method !== 'initialize') await unlessCancelled(leg, this.#renewal)
    const session = this.#session
    try {
      return await this.#post(method, params, leg)
    } catch (error) {
      if (!(error instanceof SessionLost)) throw error
      leg.onSent?.(false)
      if (method === 'initialize') throw this.#failure('upstream_garbage', error.message, false)
      await unlessCancelled(leg, this.#renew(session))
      return await this.#post(method, params, leg).catch((again: unknown) => {
        throw again instanceof SessionLost ? this.#failure('upstream_garbage', again.message, false) : again
      })
    }
  }

  notify(method: string, params?: Json): void {
    this.#sendAside({ jsonrpc: '2.0', method, ...(params && { params }) }, method)
  }

  async close(): Promise<void> {
    if (this.#ended) return
    const session = this.#session
    this.#end('its connection was closed by the gateway')
    if (session !== undefined) await this.#delete()
    await this.#pool.destroy()
  }

  /** Its process died, or the standalone stream shows that it is gone. */
  lost(reason: string): void {
    if (this.#ended) return
    this.#end(reason)
    void this.#pool.destroy().catch(() => {})
    this.#events.onLost(reason)
  }

  /** Opens the standalone stream on which a legacy server sends what belongs to no request. Optional for the server. */
  listen(): void {
    if (this.#ended || this.#stream || this.info.era === 'modern') return
    let offered = false
    let opened = 0
    const { 'content-type': _type, ...headers } = this.#headers('GET')
    this.#stream = httpCall(this.#pool, {
      method: 'GET',
      path: this.#path,
      headers: { ...headers, accept: 'text/event-stream' },
      maxBytes: maxMessage,
      onHead: status => {
        offered = this.#hears = status === 200
        opened = performance.now()
      },
      onEvent: data => this.#unattributed(data),
      onEnd: end => {
        this.#stream = undefined
        this.#hears = false
        if (this.#ended) return
        if (end.kind === 'failed' && !end.dispatched) return this.lost(end.reason)
        // 405 or 404: the server offers no such stream, which it may (2025-11-25, Streamable HTTP: Listening).
        if (end.kind === 'complete' && !offered) return
        if (performance.now() - opened > reopen.maxMs) this.#reopenMs = reopen.firstMs
        this.#reopenTimer = setTimeout(() => this.listen(), this.#reopenMs)
        this.#reopenTimer.unref()
        this.#reopenMs = Math.min(this.#reopenMs * 2, reopen.maxMs)
      }
    })
  }

  #end(reason: string): void {
    this.#ended = true
    clearTimeout(this.#reopenTimer)
    this.#stream?.abort()
    const error = this.#failure('upstream_died', reason, true)
    for (const reject of [...this.#inFlight]) reject(error)
  }

  #post(method: string, params: Json | undefined, leg: Leg): Promise<Answer> {
    if (this.#ended) return Promise.reject(this.#failure('upstream_down', 'its connection is closed', false))
    const id = this.#nextId++
    const { era } = this.info
    const sent = legParams(era, params, leg.client, leg.wantsProgress ? id : undefined, this.info.capabilities)
    const session = this.#session
    return new Promise<Answer>((resolve, reject) => {
      let settled = false
      const finish = (act: () => void) => {
        if (settled) return
        settled = true
        this.#inFlight.remove(slot)
        release()
        act()
      }
      const fail = (error: Error) =>
        finish(() => {
          call.abort()
          reject(error)
        })
      const answered = ({ result, error }: Pick<RpcResponse, 'result' | 'error'>) => {
        if (error && session !== undefined && speaksOfLostSession(error)) fail(new SessionLost(error.message))
        else finish(() => resolve(error ? { error } : { result: result as Json }))
      }
      const call = httpCall(this.#pool, {
        method: 'POST',
        path: this.#path,
        headers: { ...this.#headers(method, params), ...leg.headers },
        body: JSON.stringify({ jsonrpc: '2.0', id, method, params: sent }),
        maxBytes: maxMessage,
        onHead: (status, headers) => {
          if (method === 'initialize' && status === 200) this.#session = single(headers['mcp-session-id'])
        },
        onEvent: data => {
          const message = this.#onLeg(data, id, method, leg)
          if (!message) return
          answered(message)
          setTimeout(() => call.abort(), lingerMs).unref()
        },
        onEnd: end => {
          if (settled) return
          const outcome = this.#outcome(end, id, session, method)
          if (!(outcome instanceof Error)) answered(outcome)
          // Its process is about to be reported dead, with the real reason; that then settles this request.
          else if (end.kind === 'failed' && end.dispatched && this.#options.supervised)
            setTimeout(fail, obituaryMs, outcome)
          else fail(outcome)
        }
      })
      const slot = this.#inFlight.add(fail)
      leg.onSent?.(true)
      const release = leg.cancellation.onCancel(reason => {
        // Legacy: closing the response is no cancellation, so it is said. Modern: closing it is the cancellation.
        if (era === 'legacy' && method !== 'initialize' && !settled) {
          this.notify('notifications/cancelled', { requestId: id, reason: reason.message })
        }
        fail(reason)
      })
    })
  }

  /** Takes one event of a request's own stream; returns the final answer when it is that. */
  #onLeg(data: string, id: number, method: string, leg: Leg): RpcResponse | undefined {
    const message = parseMessage(data)
    if (message.kind === 'response' && message.message.id === id) return message.message
    if (message.kind === 'notification') {
      // Changes of what a server offers concern everybody, on whichever stream they are told.
      if (changeOfOffer.test(message.message.method) && method !== 'subscriptions/listen')
        this.#events.onNotification(message.message)
      else leg.onNotification?.(message.message)
    }
    if (message.kind === 'request') this.#sendAside(answerToServer(message.message.id, message.message.method))
    return undefined
  }

  #unattributed(data: string): void {
    const message = parseMessage(data)
    if (message.kind === 'notification') this.#events.onNotification(message.message)
    if (message.kind === 'request') this.#sendAside(answerToServer(message.message.id, message.message.method))
  }

  /** What a response that did not answer on a stream means. */
  #outcome(
    end: HttpEnd,
    id: number,
    session: string | undefined,
    method: string
  ): Pick<RpcResponse, 'result' | 'error'> | Error {
    if (end.kind === 'failed') {
      return this.#failure(end.dispatched ? 'upstream_broke' : 'upstream_down', end.reason, end.dispatched)
    }
    const { status, headers, body } = end
    if (status === 200) {
      const message = parseMessage(body.toString())
      if (message.kind === 'response' && message.message.id === id) return message.message
      return this.#failure(
        'upstream_garbage',
        body.length > 0 ? 'its response was not the answer' : 'its response ended without the answer',
        true
      )
    }
    if (session !== undefined && lostByStatus(status, body))
      return new SessionLost('it does not know the session it has just opened')
    if (status === 401 || status === 403) {
      return this.#failure(
        'upstream_refused',
        `it rejected the gateway's credentials (HTTP ${status}); check "headers" in servers.yaml`,
        false,
        status
      )
    }
    if (status === 429) {
      const seconds = Number(single(headers['retry-after']))
      return new SwitchboardError('upstream_overloaded', 'it answered HTTP 429 (too many requests)', {
        server: this.#options.server,
        dispatched: false,
        ...(seconds > 0 && { retryAfterMs: seconds * 1000 })
      })
    }
    if (status >= 300 && status < 400) {
      return this.#failure(
        'upstream_garbage',
        `it answered with a redirect (HTTP ${status}), which is never followed; correct "url" in servers.yaml`,
        false,
        status
      )
    }
    const error = errorIn(body)
    // Whether another transport is worth a try depends on the status of this very answer.
    if (error && method !== 'initialize') return { error }
    return this.#failure('upstream_garbage', `it answered HTTP ${status}`, status >= 500 || status < 300, status)
  }

  /** Opens the session anew, once for all who miss it. @throws SwitchboardError `upstream_down`, the link being lost. */
  #renew(lost: string | undefined): Promise<void> {
    if (this.#session !== lost) return this.#renewal ?? Promise.resolve()
    return (this.#renewal ??= (async () => {
      this.#session = undefined
      this.#stream?.abort()
      this.#stream = undefined
      try {
        await this.#options.renegotiate(this)
      } catch (error) {
        const reason = `it has lost the session and opens no new one: ${reasonOf(error)}`
        this.lost(reason)
        throw this.#failure('upstream_down', reason, false)
      }
      this.listen()
      this.#events.onRenewed?.()
    })().finally(() => {
      this.#renewal = undefined
    }))
  }

  #headers(method: string, params?: Json): Record<string, string> {
    const headers: Record<string, string> = {
      ...this.#options.headers,
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream'
    }
    if (this.info.era === 'modern') {
      headers['mcp-protocol-version'] = modernVersion
      headers['mcp-method'] = method
      const name = params?.[nameSources[method] ?? '']
      if (typeof name === 'string') headers['mcp-name'] = encodeHeaderValue(name)
    } else if (method !== 'initialize') {
      if (this.info.version) headers['mcp-protocol-version'] = this.info.version
      if (this.#session !== undefined) headers['mcp-session-id'] = this.#session
    }
    return headers
  }

  /** Posts a message nobody waits for. */
  #sendAside(message: Json, method = ''): void {
    if (this.#ended) return
    const headers = this.#headers(method)
    httpCall(this.#pool, {
      method: 'POST',
      path: this.#path,
      headers,
      body: JSON.stringify(message),
      maxBytes: 64 * 1024,
      onEnd() {}
    })
  }

  #delete(): Promise<void> {
    return new Promise(resolve => {
      const timer = setTimeout(resolve, 1000)
      const done = () => {
        clearTimeout(timer)
        resolve()
      }
      httpCall(this.#pool, {
        method: 'DELETE',
        path: this.#path,
        headers: this.#headers('DELETE'),
        maxBytes: 64 * 1024,
        onEnd: done
      })
    })
  }

  #failure(
    code: 'upstream_died' | 'upstream_broke' | 'upstream_down' | 'upstream_garbage' | 'upstream_refused',
    reason: string,
    dispatched: boolean,
    status?: number
  ): SwitchboardError {
    const { server } = this.#options
    return new SwitchboardError(code, reason, { server, dispatched, ...(status !== undefined && { data: { status } }) })
  }
}

/** A wait that belongs to a call ends with it. */
function unlessCancelled(leg: Leg, wait: Promise<void>): Promise<void> {
  return new Promise((resolve, reject) => {
    const release = leg.cancellation.onCancel(reject)
    wait.then(resolve, reject).finally(release)
  })
}

function parseMessage(text: string): ReturnType<typeof classifyMessage> {
  try {
    return classifyMessage(JSON.parse(text))
  } catch {
    return { kind: 'invalid', reason: 'not JSON' }
  }
}

const single = (value: string | string[] | undefined): string | undefined => (Array.isArray(value) ? value[0] : value)

/**
 * Servers say "I lost your session" in many ways: 404; 400 or 401 with a text that speaks of the session; or an answer
 * with JSON-RPC error -32001 or -32600 that does. Such a request was refused before it ran, so it may be sent again.
 */
function lostByStatus(status: number, body: Buffer): boolean {
  if (status === 404) return true
  return (status === 400 || status === 401) && /session/i.test(body.subarray(0, 4096).toString())
}

function speaksOfLostSession({ code, message }: RpcError): boolean {
  return (code === -32001 || code === -32600) && /session/i.test(message)
}

/** The JSON-RPC error of an HTTP error response; its id may be null when the server could not read ours. */
function errorIn(body: Buffer): RpcError | undefined {
  try {
    const value: unknown = JSON.parse(body.toString())
    if (!isObject(value) || !isObject(value.error)) return undefined
    const { code, message } = value.error
    return Number.isInteger(code) && typeof message === 'string' ? (value.error as unknown as RpcError) : undefined
  } catch {
    return undefined
  }
}
