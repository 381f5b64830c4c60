/**
 * What is asked of a server once and holds until further notice: to tell changes of its lists, to tell updates of single
 * resources, to log at a level. Whatever happens to the link, its successor is asked the same again.
 *
 * Legacy servers tell list changes unasked and take `resources/subscribe`; modern ones take one `subscriptions/listen`
 * whose filter is the union of everything wanted, replaced by a new one (acknowledged first) when that changes.
 */
import { reasonOf, SwitchboardError } from '../errors.js'
import { Cancellation } from '../wire/cancellation.js'
import { metaKey, tasksExtension } from '../wire/era.js'
import { isObject, type Json, type RpcError, type RpcNotification } from '../wire/json-rpc.js'
import { changeFilter, changeKinds, listChanged, type ChangeKind } from '../wire/lists.js'
import type { GatewayIdentity, Link } from './link.js'
import { ask, ownFacts } from './negotiate.js'
import { backoffMs } from './supervisor.js'

export interface StandingOptions {
  readonly server: string
  readonly identity: GatewayIdentity
  /** Deadline for one request, in milliseconds. */
  readonly timeoutMs: number
  /** A list of that kind has changed, or may have while nobody listened. */
  readonly onChanged: (change: ChangeKind) => void
  /** The server could not even be reached. */
  readonly onGone: (reason: string) => void
}

/** Told with the params of `notifications/resources/updated`; the URI in them is the server's own. */
export type OnUpdated = (params: Json & { readonly uri: string }) => void

const filterMember = { resource: 'resourceSubscriptions', task: 'taskIds' } as const
/** A subscription nobody needs any more is kept for a while: clients come back. */
const linger = 30_000
const none = Promise.resolve()

/** What is waited for: updates of resources, or what becomes of tasks (Tasks extension). */
type Topic = 'resource' | 'task'

interface Subscription {
  readonly topic: Topic
  readonly name: string
  readonly listeners: Set<(params: Json) => void>
  /** Resolves when the server has agreed; rejects with its refusal. */
  placed: Promise<void>
  refused?: boolean
  timer?: NodeJS.Timeout
}

interface Stream {
  readonly cancellation: Cancellation
  readonly filter: string
  /** Resolves with what the server honours of the filter. */
  readonly acknowledged: Promise<Json>
}

export class Standing {
  readonly #options: StandingOptions
  readonly #subscriptions = new Map<string, Subscription>()
  #link: Link | undefined
  #stream: Stream | undefined
  #honoured: Json = {}
  #attempts = 0
  #timer: NodeJS.Timeout | undefined
  #level: string | undefined

  constructor(options: StandingOptions) {
    this.#options = options
  }

  /** Asks everything of a link that has just been made. */
  follow(link: Link): void {
    this.leave()
    this.#link = link
    this.#attempts = 0
    if (link.info.era === 'modern') this.#listen()
    else for (const subscription of this.#subscriptions.values()) this.#put(subscription, this.#place(subscription))
    this.#sendLevel()
  }

  leave(): void {
    clearTimeout(this.#timer)
    this.#link = undefined
    this.#honoured = {}
    this.#stream?.cancellation.cancel(new Error('no longer needed'))
    this.#stream = undefined
  }

  /** Whether changes of that kind will be told on the link that stands. */
  tells(change: ChangeKind): boolean {
    const link = this.#link
    if (!link || !declares(link, change)) return false
    return link.info.era === 'modern' ? this.#honoured[changeFilter(change)] === true : link.hears
  }

  /**
   * Has `listener` told of updates until the returned release is called. The same URI is asked for once.
   * @throws SwitchboardError when the server refuses, or does not answer.
   */
  subscribe(uri: string, listener: OnUpdated): Promise<() => void> {
    return this.#want('resource', uri, params => listener(params as Json & { uri: string }))
  }

  /** The same for what becomes of a task: `listener` gets the params of `notifications/tasks`. */
  watchTask(id: string, listener: (params: Json) => void): Promise<() => void> {
    return this.#want('task', id, listener)
  }

  async #want(topic: Topic, name: string, listener: (params: Json) => void): Promise<() => void> {
    const key = `${topic} ${name}`
    let subscription = this.#subscriptions.get(key)
    if (!subscription) {
      subscription = { topic, name, listeners: new Set(), placed: none, refused: true }
      this.#subscriptions.set(key, subscription)
    }
    const { listeners } = subscription
    if (subscription.refused) {
      const isModern = this.#link?.info.era === 'modern'
      this.#put(subscription, isModern ? this.#widen(subscription) : this.#place(subscription))
    }
    const own = (params: Json) => listener(params)
    listeners.add(own)
    clearTimeout(subscription.timer)
    const release = (lingerMs: number) => {
      if (!listeners.delete(own) || listeners.size > 0) return
      subscription.timer = setTimeout(() => this.#drop(key, subscription), lingerMs)
      subscription.timer.unref()
    }
    try {
      await subscription.placed
    } catch (error) {
      release(0)
      throw error
    }
    return () => release(linger)
  }

  /** The most talkative level any client wants (RFC 5424 names); told to legacy servers, which have one level a link. */
  setLevel(level: string): void {
    if (this.#level === level) return
    this.#level = level
    this.#sendLevel()
  }

  /** A notification that belongs to no request; false when it is none of ours. */
  notified({ method, params = {} }: RpcNotification): boolean {
    if (method === 'notifications/resources/updated') {
      if (typeof params.uri === 'string') this.#updated(params.uri, params)
      return true
    }
    if (method === 'notifications/tasks') {
      for (const listener of [...(this.#subscriptions.get(`task ${String(params.taskId)}`)?.listeners ?? [])])
        listener(params)
      return true
    }
    const change = changeKinds.find(kind => method === listChanged(kind))
    if (change) this.#options.onChanged(change)
    return change !== undefined
  }

  /** A server may name a part of what was subscribed to (2025-11-25, Resources: Subscriptions). */
  #updated(uri: string, params: Json): void {
    for (const { topic, name, listeners } of this.#subscriptions.values()) {
      if (topic !== 'resource') continue
      if (uri !== name && !uri.startsWith(name.endsWith('/') ? name : `${name}/`)) continue
      for (const listener of [...listeners]) listener(params)
    }
  }

  async #place({ topic, name }: Subscription): Promise<void> {
    const link = this.#link
    // A server that is down is asked when it is back; the caller need not wait for that.
    if (!link) return
    if (topic === 'task') throw this.#refusal('it does not speak of tasks')
    await this.#request(link, 'resources/subscribe', { uri: name })
  }

  #put(subscription: Subscription, placed: Promise<void>): void {
    subscription.placed = placed
    subscription.refused = false
    placed.catch(() => (subscription.refused = true))
  }

  #drop(key: string, subscription: Subscription): void {
    if (subscription.listeners.size > 0) return
    this.#subscriptions.delete(key)
    const link = this.#link
    if (!link || (subscription.refused && link.info.era === 'legacy')) return
    if (link.info.era === 'modern') this.#listen()
    else void this.#request(link, 'resources/unsubscribe', { uri: subscription.name }).catch(() => {})
  }

  async #widen({ topic, name }: Subscription): Promise<void> {
    this.#listen()
    for (let stream = this.#stream; stream; stream = this.#stream) {
      const honoured = await stream.acknowledged.catch((error: unknown) => {
        if (this.#stream === stream || !this.#stream) throw error
        return undefined
      })
      // Somebody else wanted more in the meantime: the newer stream speaks for all.
      if (!honoured) continue
      const names = honoured[filterMember[topic]]
      if (Array.isArray(names) && names.includes(name)) return
      throw this.#refusal(`it does not take subscriptions for this ${topic}`)
    }
  }

  async #request(link: Link, method: string, params: Json): Promise<void> {
    const { identity, timeoutMs } = this.#options
    const { error } = await ask(link, method, params, ownFacts(identity), timeoutMs)
    if (error) throw this.#refusal(`it refused ${method}: ${error.message.slice(0, 300)} (${error.code})`, error)
  }

  #refusal(reason: string, answer?: RpcError): SwitchboardError {
    const { server } = this.#options
    return new SwitchboardError('upstream_refused', reason, { server, dispatched: true, ...(answer && { answer }) })
  }

  #sendLevel(): void {
    const link = this.#link
    if (!link || this.#level === undefined || link.info.era !== 'legacy' || !('logging' in link.info.capabilities))
      return
    void this.#request(link, 'logging/setLevel', { level: this.#level }).catch(() => {})
  }

  #filter(link: Link): Json {
    const filter: Json = {}
    for (const change of changeKinds) if (declares(link, change)) filter[changeFilter(change)] = true
    for (const { topic, name } of this.#subscriptions.values()) {
      const names = (filter[filterMember[topic]] ??= []) as string[]
      names.push(name)
    }
    return filter
  }

  /** Opens the stream for what is wanted now; the one before it ends when the new one is acknowledged. */
  #listen(): void {
    const link = this.#link
    if (!link) return
    const wanted = this.#filter(link)
    const filter = JSON.stringify(wanted)
    const before = this.#stream
    if (before?.filter === filter) return
    clearTimeout(this.#timer)
    if (filter === '{}') {
      this.#stream = undefined
      before?.cancellation.cancel(new Error('no longer needed'))
      return
    }
    const { identity, timeoutMs } = this.#options
    const cancellation = new Cancellation()
    const acknowledged = new Promise<Json>((resolve, reject) => {
      const late = setTimeout(() => reject(this.#refusal('it did not acknowledge the subscription')), timeoutMs)
      const ended = (error?: unknown) => {
        clearTimeout(late)
        reject(this.#refusal(error === undefined ? 'it ended the subscription' : reasonOf(error)))
        if (this.#stream === stream) this.#again(error)
      }
      link
        .request(
          'subscriptions/listen',
          { notifications: wanted },
          {
            cancellation,
            client: { ...ownFacts(identity), capabilities: { extensions: { [tasksExtension]: {} } } },
            wantsProgress: false,
            onNotification: notification => {
              if (notification.method !== 'notifications/subscriptions/acknowledged')
                return void this.notified(unsubscribed(notification))
              clearTimeout(late)
              const honoured = notification.params?.notifications
              resolve(isObject(honoured) ? honoured : {})
            }
          }
        )
        .then(() => ended(), ended)
    })
    const stream: Stream = { cancellation, filter, acknowledged }
    this.#stream = stream
    acknowledged.then(
      honoured => {
        before?.cancellation.cancel(new Error('replaced'))
        if (this.#stream !== stream) return
        this.#honoured = honoured
        // What changed while no subscription stood was not told.
        if (this.#attempts > 0 && !before) for (const change of changeKinds) this.#options.onChanged(change)
        this.#attempts = 1
      },
      () => before?.cancellation.cancel(new Error('replaced'))
    )
  }

  #again(error: unknown): void {
    this.#stream = undefined
    this.#honoured = {}
    if (error instanceof SwitchboardError && error.code === 'upstream_down') return this.#options.onGone(error.message)
    this.#attempts++
    this.#timer = setTimeout(() => this.#listen(), backoffMs(this.#attempts, Math.random()))
    this.#timer.unref()
  }
}

function declares({ info: { capabilities } }: Link, change: ChangeKind): boolean {
  const declared = capabilities[change]
  return isObject(declared) && declared.listChanged === true
}

/** The same without the id of our subscription, which means nothing to anybody else. */
function unsubscribed(notification: RpcNotification): RpcNotification {
  const { params } = notification
  if (!isObject(params?._meta)) return notification
  const { [metaKey.subscriptionId]: _ours, ...meta } = params._meta
  const { _meta, ...rest } = params
  return { ...notification, params: Object.keys(meta).length > 0 ? { ...rest, _meta: meta } : rest }
}
