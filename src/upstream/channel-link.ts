/**
 * A link over one ordered two-way channel (stdio, HTTP+SSE): requests go out under fresh integer ids, answers and
 * progress find their request by that id, everything else is unattributable. Framing is the channel's business.
 */
import { SwitchboardError, toSwitchboardError } from '../errors.js'
import { legParams, metaKey, type Era } from '../wire/era.js'
import {
  classifyMessage,
  idAnswered,
  isObject,
  answerOf,
  type Answer,
  type Json,
  type RpcNotification,
  type RpcRequest
} from '../wire/json-rpc.js'
import type { Leg } from '../wire/leg.js'
import { Running } from '../wire/slots.js'
import { Principals, type Link, type LinkEvents, type LinkInfo } from './link.js'

export interface Channel {
  /**
   * Sends one message. @throws SwitchboardError when it certainly was not sent.
   * @param failed called when it turns out later that this one message was refused.
   */
  send(json: string, failed?: (error: SwitchboardError) => void): void
  close(): Promise<void>
}

interface Pending {
  readonly leg: Leg
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: Error) => void
  readonly release: () => void
}

export class ChannelLink implements Link {
  /** Set by negotiation before anybody else sees the link. */
  info: LinkInfo
  readonly hears = true
  readonly #server: string
  readonly #channel: Channel
  readonly #events: LinkEvents
  readonly #pending = new Running<number, Pending>()
  #nextId = 1
  readonly #principals = new Principals()
  #ended: SwitchboardError | undefined

  constructor(server: string, channel: Channel, events: LinkEvents, era: Era) {
    this.#server = server
    this.#channel = channel
    this.#events = events
    this.info = { era, version: '', capabilities: {}, serverInfo: {} }
  }

  request(method: string, params: Json | undefined, leg: Leg): Promise<Answer> {
    if (this.#ended) {
      const { message } = this.#ended
      return Promise.reject(new SwitchboardError('upstream_down', message, { server: this.#server, dispatched: false }))
    }
    this.#principals.note(leg.principal)
    const id = this.#nextId++
    const sent = legParams(
      this.info.era,
      params,
      leg.client,
      leg.wantsProgress ? id : undefined,
      this.info.capabilities
    )
    return new Promise<Answer>((resolve, reject) => {
      try {
        this.#channel.send(JSON.stringify({ jsonrpc: '2.0', id, method, params: sent }), error => {
          const pending = this.#pending.take(id)
          pending?.release()
          pending?.reject(error)
        })
      } catch (error) {
        reject(toSwitchboardError(error))
        return
      }
      leg.onSent?.(true)
      const release = leg.cancellation.onCancel(reason => {
        if (!this.#pending.take(id)) return
        // `initialize` must not be cancelled (2025-11-25, Cancellation).
        if (method !== 'initialize') this.notify('notifications/cancelled', { requestId: id, reason: reason.message })
        reject(reason)
      })
      this.#pending.set(id, { leg, resolve, reject, release })
    })
  }

  notify(method: string, params?: Json): void {
    if (this.#ended) return
    try {
      this.#channel.send(JSON.stringify({ jsonrpc: '2.0', method, params }))
    } catch {
      // Nobody waits for a notification; a channel that cannot take it reports its own end.
    }
  }

  /** One message from the server, already parsed. False when it is none. @param spoilt why it cannot be used. */
  receive(value: unknown, spoilt?: string): boolean {
    const classified = spoilt === undefined ? classifyMessage(value) : { kind: 'invalid' as const, reason: spoilt }
    if (classified.kind === 'response') this.answered(classified.message.id, answerOf(classified.message))
    else if (classified.kind === 'notification') this.#notified(classified.message)
    else if (classified.kind === 'request') this.#asked(classified.message)
    else return this.#spoilt(idAnswered(value), classified.reason)
    return true
  }

  /** The channel is gone: everything in flight is answered now. `upstream_died`: so is the server itself. */
  lost(reason: string, code: 'upstream_died' | 'upstream_broke' = 'upstream_died'): void {
    if (this.#ended) return
    this.#end(reason, code)
    this.#events.onLost(reason)
  }

  async close(): Promise<void> {
    if (!this.#ended) this.#end('its connection was closed by the gateway')
    await this.#channel.close()
  }

  #end(reason: string, code: 'upstream_died' | 'upstream_broke' = 'upstream_died'): void {
    this.#ended = new SwitchboardError(code, reason, { server: this.#server, dispatched: true })
    for (const [id, { release, reject }] of [...this.#pending]) {
      this.#pending.take(id)
      release()
      reject(this.#ended)
    }
  }

  /** The answer to the request of that id, if there is one. */
  answered(id: unknown, answer: Answer): void {
    const pending = typeof id === 'number' ? this.#pending.take(id) : undefined
    if (!pending) return this.#events.onStray?.()
    pending.release()
    pending.resolve(answer)
  }

  /** What was meant as an answer is none: its request need not wait for another. False if there is no such request. */
  #spoilt(id: unknown, reason: string): boolean {
    const pending = typeof id === 'number' ? this.#pending.take(id) : undefined
    pending?.release()
    pending?.reject(
      new SwitchboardError('upstream_garbage', `its response was not the answer: ${reason}`, {
        server: this.#server,
        dispatched: true
      })
    )
    return pending !== undefined
  }

  #notified(notification: RpcNotification): void {
    if (notification.method === 'notifications/progress') {
      const token = notification.params?.progressToken
      if (typeof token === 'number') this.#pending.get(token)?.leg.onNotification?.(notification)
      return
    }
    // 2026-07-28: what comes on a subscription names the request that opened it.
    const { _meta } = notification.params ?? {}
    const subscription = isObject(_meta) ? this.#pending.get(_meta[metaKey.subscriptionId] as number) : undefined
    if (subscription) subscription.leg.onNotification?.(notification)
    else if (notification.method === 'notifications/message' && this.#principals.areOne) this.#logged(notification)
    else this.#events.onNotification(notification)
  }

  /** Nothing says which request a log line belongs to; with a single key it can at least not reach another one's eyes. */
  #logged(notification: RpcNotification): void {
    let newest: Leg | undefined
    for (const [, { leg }] of this.#pending) if (leg.principal !== undefined) newest = leg
    if (newest) newest.onNotification?.(notification, true)
    else this.#events.onNotification(notification)
  }

  #asked({ id, method }: RpcRequest): void {
    try {
      this.#channel.send(JSON.stringify(answerToServer(id, method)))
    } catch {
      // As above: the end of the channel is reported elsewhere.
    }
  }
}

/** Our answer to a server's own request: `ping` is served, nothing else was declared (2025-11-25, Ping and Lifecycle). */
export function answerToServer(id: string | number, method: string): Json {
  if (method === 'ping') return { jsonrpc: '2.0', id, result: {} }
  return {
    jsonrpc: '2.0',
    id,
    error: { code: -32601, message: `Method not found: ${method} (not declared by this client)` }
  }
}
