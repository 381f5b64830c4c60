/**
 * A link over Streamable HTTP, both eras: one POST a request, its answer as JSON or as a stream of events on that same
 * response, which makes everything on it attributable. A legacy server's session is opened by `initialize`, renewed
 * once (shared by all callers) when the server has lost it, and deleted on close.
 */
import { reasonOf } from '../errors.js'
import { legParams, modernVersion } from '../wire/era.js'
import type { Answer, Json, Message } from '../wire/json-rpc.js'
import type { Leg } from '../wire/leg.js'
import { encodeHeaderValue, nameSources } from '../wire/mirrored-headers.js'
import { Slots } from '../wire/slots.js'
import { answerToServer } from './channel-link.js'
import { httpFailure, parseMessage, SessionLost } from './http-answer.js'
import { httpCall } from './http-call.js'
import { Post, type PostOptions, type PostOwner } from './http-post.js'
import { HttpStream } from './http-stream.js'
import { Principals, type LinkEvents, type LinkInfo } from './link.js'
import type { Negotiable } from './negotiate.js'
import { Pool } from './pool.js'

export interface HttpLinkOptions {
  readonly server: string
  readonly url: string
  /** Configured headers of this server: its credentials. They never leave its origin. */
  readonly headers: Readonly<Record<string, string>>
  readonly connectTimeoutMs: number
  /** Longest message it may send. */
  readonly messageBytes: number
  /** We run the process behind it: its end is reported through `lost`, a little after the connection breaks. */
  readonly supervised: boolean
  /** Opens the conversation again on the same link after the server lost the session. */
  readonly renegotiate: (link: Negotiable) => Promise<void>
}

/** Certificates are always checked, whatever NODE_TLS_REJECT_UNAUTHORIZED says: headers hold credentials. */
export const verified = { rejectUnauthorized: true }

const changeOfOffer = /^notifications\/(?:tools|prompts|resources)\//

export class HttpLink implements Negotiable {
  info: LinkInfo
  readonly #options: HttpLinkOptions
  readonly #events: LinkEvents
  readonly #pool: Pool
  readonly #path: string
  readonly #stream: HttpStream
  readonly #inFlight = new Slots<Post>()
  readonly #principals = new Principals()
  #nextId = 1
  #session: string | undefined
  #renewal: Promise<void> | undefined
  #ended = false
  /** The headers of the last call and what they were made from: nearly every call has the same. */
  #last: { method: string; info: LinkInfo; session: string | undefined; list: readonly string[] } | undefined

  constructor(options: HttpLinkOptions, events: LinkEvents, era: LinkInfo['era']) {
    const url = new URL(options.url)
    this.#options = options
    this.#events = events
    this.#path = url.pathname + url.search
    this.#pool = new Pool(url.origin, {
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: { timeout: options.connectTimeoutMs, ...verified }
    })
    this.#stream = new HttpStream({
      pool: this.#pool,
      path: this.#path,
      maxBytes: options.messageBytes,
      headers: () => {
        const { 'content-type': _type, ...headers } = this.#headers('GET')
        return { ...headers, accept: 'text/event-stream' }
      },
      onEvent: data => this.#unattributed(parseMessage(data)),
      onGone: reason => this.lost(reason)
    })
    this.info = { era, version: era === 'modern' ? modernVersion : '', capabilities: {}, serverInfo: {} }
  }

  get hears(): boolean {
    return this.#stream.hears
  }

  request(method: string, params: Json | undefined, leg: Leg): Promise<Answer> {
    return this.#renewal && method !== 'initialize'
      ? unlessCancelled(leg, this.#renewal).then(() => this.#post(method, params, leg))
      : this.#post(method, params, leg)
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

  /** Opens the standalone stream on which a legacy server sends what belongs to no request. */
  listen(): void {
    if (!this.#ended && this.info.era === 'legacy') this.#stream.open()
  }

  #end(reason: string): void {
    this.#ended = true
    this.#stream.end()
    for (const post of [...this.#inFlight])
      post.fail(this.#failure(post.hasLeft ? 'upstream_died' : 'upstream_down', reason, post.hasLeft))
  }

  #post(method: string, params: Json | undefined, leg: Leg, again = false): Promise<Answer> {
    if (this.#ended) return Promise.reject(this.#failure('upstream_down', 'its connection is closed', false))
    const id = this.#nextId++
    this.#principals.note(leg.principal)
    const { era, capabilities } = this.info
    const { server, supervised } = this.#options
    const sent = legParams(era, params, leg.client, leg.wantsProgress ? id : undefined, capabilities)
    return new Promise<Answer>((resolve, reject) => {
      const post = new Post({
        owner: this.#owner,
        server,
        supervised,
        path: this.#path,
        headers: this.#callHeaders(method, params, leg),
        body: JSON.stringify({ jsonrpc: '2.0', id, method, params: sent }),
        maxBytes: this.#options.messageBytes,
        id,
        method,
        params,
        leg,
        session: this.#session,
        resumable: era === 'legacy',
        again,
        resolve,
        reject
      })
      post.slot = this.#inFlight.add(post)
      post.send(this.#pool)
    })
  }

  readonly #owner: PostOwner = {
    opened: session => (this.#session = session),
    resuming: ({ asked }, lastEvent) => {
      if (this.#session !== asked.session) return undefined
      const { 'content-type': _type, ...headers } = this.#headers('GET')
      return { ...headers, accept: 'text/event-stream', 'last-event-id': lastEvent }
    },
    heard: ({ asked: { method, leg }, isResumed }, message) => {
      // Changes of what a server offers concern everybody, on whichever stream they are told.
      const shared = message.kind === 'notification' && changeOfOffer.test(message.message.method)
      const foreign = isResumed && message.kind === 'notification' && message.message.method === 'notifications/message'
      if (foreign && !this.#principals.areOne) return this.#unattributed(message)
      if (message.kind !== 'notification' || (shared && method !== 'subscriptions/listen')) this.#unattributed(message)
      else leg.onNotification?.(message.message)
    },
    cancelled: ({ asked: { id, method } }, reason) => {
      // Legacy: closing the response is no cancellation, so it is said. Modern: closing it is the cancellation.
      if (this.info.era === 'legacy' && method !== 'initialize')
        this.notify('notifications/cancelled', { requestId: id, reason: reason.message })
    },
    settled: ({ slot, asked }, outcome) => {
      this.#inFlight.remove(slot)
      const { method, again, resolve, reject } = asked
      if (!(outcome instanceof Error)) resolve(outcome)
      else if (!(outcome instanceof SessionLost)) reject(outcome)
      else {
        asked.leg.onSent?.(false)
        if (again || method === 'initialize') reject(this.#failure('upstream_garbage', outcome.message, false))
        else resolve(this.#postAnew(asked))
      }
    }
  }

  /** Once more in a new session: the server has refused the request before it ran. */
  async #postAnew({ session, method, params, leg }: PostOptions): Promise<Answer> {
    await unlessCancelled(leg, this.#renew(session))
    return this.#post(method, params, leg, true)
  }

  #unattributed(message: Message): void {
    if (message.kind === 'notification') this.#events.onNotification(message.message)
    if (message.kind === 'response') this.#events.onStray?.()
    if (message.kind === 'request') this.#sendAside(answerToServer(message.message.id, message.message.method))
  }

  /** Opens the session anew, once for all who miss it. @throws SwitchboardError `upstream_down`, the link being lost. */
  #renew(lost: string | undefined): Promise<void> {
    if (this.#session !== lost) return this.#renewal ?? Promise.resolve()
    return (this.#renewal ??= (async () => {
      this.#session = undefined
      this.#stream.leave()
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

  /** The headers of a request as one list, which undici takes as it is. */
  #callHeaders(method: string, params: Json | undefined, { headers: own }: Leg): readonly string[] {
    const name = this.info.era === 'modern' ? params?.[nameSources[method] ?? ''] : undefined
    if (own) {
      const named = typeof name === 'string' && { 'mcp-name': encodeHeaderValue(name) }
      return Object.entries({ ...this.#headers(method), ...named, ...own }).flat()
    }
    const same = this.#sameHeaders(method)
    return typeof name === 'string' ? [...same, 'mcp-name', encodeHeaderValue(name)] : same
  }

  /** What is the same for nearly every call of that method. */
  #sameHeaders(method: string): readonly string[] {
    const { info } = this
    const session = this.#session
    const last = this.#last
    if (last && last.method === method && last.info === info && last.session === session) return last.list
    const list = Object.entries(this.#headers(method)).flat()
    this.#last = { method, info, session, list }
    return list
  }

  #headers(method: string): Record<string, string> {
    const headers: Record<string, string> = {
      ...this.#options.headers,
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream'
    }
    if (this.info.era === 'modern') {
      headers['mcp-protocol-version'] = modernVersion
      headers['mcp-method'] = method
    } else if (method !== 'initialize') {
      if (this.info.version) headers['mcp-protocol-version'] = this.info.version
      if (this.#session !== undefined) headers['mcp-session-id'] = this.#session
    }
    return headers
  }

  /** Posts a message nobody waits for: a server that never answers such would keep one connection for each. */
  #sendAside(message: Json, method = ''): void {
    if (this.#ended) return
    const headers = this.#headers(method)
    const timer = setTimeout(() => call.abort(), this.#options.connectTimeoutMs).unref()
    const call = httpCall(this.#pool, {
      method: 'POST',
      path: this.#path,
      headers,
      body: JSON.stringify(message),
      maxBytes: 64 * 1024,
      onEnd: () => clearTimeout(timer)
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

  #failure(code: 'upstream_died' | 'upstream_down' | 'upstream_garbage', reason: string, dispatched: boolean): Error {
    return httpFailure(this.#options.server, code, reason, dispatched)
  }
}

/** A wait that belongs to a call ends with it. */
function unlessCancelled(leg: Leg, wait: Promise<void>): Promise<void> {
  return new Promise((resolve, reject) => {
    const release = leg.cancellation.onCancel(reject)
    wait.then(resolve, reject).finally(release)
  })
}
