/**
 * Keeps one server's tool list current: fetched whole when a link stands, again when the server says it has changed,
 * and polled where it never would. The last complete list stays until a newer complete one is there, whatever happens
 * to the link.
 */
import { reasonOf, SwitchboardError } from '../errors.js'
import { Cancellation } from '../wire/cancellation.js'
import { isObject, type Json, type RpcNotification } from '../wire/json-rpc.js'
import type { GatewayIdentity, Link } from './link.js'
import { fetchList } from './lists.js'
import { ownFacts } from './negotiate.js'
import { backoffMs } from './supervisor.js'

export interface ToolListOptions {
  readonly identity: GatewayIdentity
  /** Deadline for all pages of one fetch, in milliseconds. */
  readonly timeoutMs: number
  /** The list as it was last known, from an earlier run. */
  readonly cached?: readonly Json[]
  /** A complete list has arrived; `changed` if it differs from the one before. */
  readonly onFetched: (changed: boolean) => void
  /** What is wrong with the list, or undefined when nothing is any more. */
  readonly onProblem: (problem: string | undefined) => void
  /** The server could not even be reached. */
  readonly onGone: (reason: string) => void
}

/** After a change is told: wait a little for the next one, then fetch, but not more often than this. */
const refetch = { afterMs: 200, everyMs: 2000 }
/** Servers that never notify are asked this often, with 20 % of jitter, as long as somebody reads the list. */
const poll = { everyMs: 60_000, jitter: 0.2, whileUsedMs: 10 * 60_000 }
/** Even a server that notifies is asked now and then: a notification may have been lost. */
const safetyMs = 10 * 60_000
/** What a modern server says of its list's age is believed within these bounds. */
const believable = { minMs: 1000, maxMs: 3_600_000 }

export class ToolList {
  readonly #options: ToolListOptions
  #items: readonly Json[] | undefined
  #link: Link | undefined
  #subscription: Cancellation | undefined
  /** The server has agreed to tell changes on our subscription. */
  #subscribed = false
  #timer: NodeJS.Timeout | undefined
  #subscribeTimer: NodeJS.Timeout | undefined
  #due = 0
  #lastFetch = -Infinity
  #lastUse = Date.now()
  #ttlMs: number | undefined
  #failures = 0

  constructor(options: ToolListOptions) {
    this.#options = options
    this.#items = options.cached
  }

  /** The tools as the server sent them; undefined as long as it has never answered. */
  get items(): readonly Json[] | undefined {
    return this.#items
  }

  /** How long the list can be expected to hold, in milliseconds. */
  get freshMs(): number {
    if (!this.#link) return believable.minMs
    return Math.max(this.#due - Date.now(), believable.minMs)
  }

  /** Somebody has read the list: one whose polling had paused is fetched again. */
  used(): void {
    const now = Date.now()
    const paused = now - this.#lastUse > poll.whileUsedMs
    this.#lastUse = now
    if (paused && this.#link && now > this.#lastFetch + poll.everyMs) this.#schedule(refetch.afterMs)
  }

  /** Follows a link that has just been made; resolves when its list was fetched or could not be. */
  async follow(link: Link): Promise<void> {
    this.leave()
    this.#link = link
    this.#failures = 0
    if (link.info.era === 'modern' && tellsChanges(link)) this.#subscribe(link)
    await this.#fetch(link)
  }

  /** Fetches the list now; never rejects. */
  async refresh(): Promise<void> {
    if (this.#link) await this.#fetch(this.#link)
  }

  /** The link is gone; the list stays. */
  leave(): void {
    clearTimeout(this.#timer)
    clearTimeout(this.#subscribeTimer)
    this.#link = undefined
    this.#subscribed = false
    this.#subscription?.cancel(new Error('no longer needed'))
    this.#subscription = undefined
  }

  /** A notification of the server that belongs to no call. */
  notified({ method }: RpcNotification): void {
    if (method === 'notifications/tools/list_changed') this.doubtful()
  }

  /** The list may have changed: it is fetched soon. */
  doubtful(): void {
    const soon = Math.max(Date.now() + refetch.afterMs, this.#lastFetch + refetch.everyMs)
    // An earlier fetch that is due already sees this change too; putting it off would let a storm of changes starve it.
    if (this.#link && (this.#due <= Date.now() || soon < this.#due)) this.#schedule(refetch.afterMs)
  }

  async #fetch(link: Link): Promise<void> {
    this.#lastFetch = Date.now()
    const { identity, timeoutMs, onFetched, onProblem } = this.#options
    try {
      const { items, cut, ttlMs } =
        'tools' in link.info.capabilities ? await fetchList(link, 'tools/list', 'tools', identity, timeoutMs) : noTools
      if (this.#link !== link) return
      this.#failures = 0
      this.#ttlMs = ttlMs
      const ordered = inKnownOrder(items, this.#items)
      const changed = !this.#items || JSON.stringify(ordered) !== JSON.stringify(this.#items)
      if (changed) this.#items = ordered
      this.#schedule(this.#nextMs(link))
      onProblem(cut)
      onFetched(changed)
    } catch (error) {
      if (this.#link !== link) return
      if (error instanceof SwitchboardError && error.code === 'upstream_down')
        return this.#options.onGone(error.message)
      this.#schedule(backoffMs(++this.#failures, Math.random()))
      onProblem(reasonOf(error))
    }
  }

  #nextMs(link: Link): number {
    if (link.info.era === 'modern' && this.#ttlMs !== undefined && this.#ttlMs > 0) {
      return Math.min(Math.max(this.#ttlMs, believable.minMs), believable.maxMs)
    }
    const told = link.info.era === 'modern' ? this.#subscribed : link.hears && tellsChanges(link)
    return told ? safetyMs : poll.everyMs * (1 + poll.jitter * (2 * Math.random() - 1))
  }

  #schedule(ms: number): void {
    clearTimeout(this.#timer)
    const now = Date.now()
    this.#due = now + Math.max(ms, this.#lastFetch + refetch.everyMs - now)
    this.#timer = setTimeout(() => {
      const link = this.#link
      if (!link) return
      // Nobody has read it for a while: the next reader gets it as it is, and causes a fetch.
      if (Date.now() - this.#lastUse > poll.whileUsedMs) this.#schedule(poll.everyMs)
      else void this.#fetch(link)
    }, this.#due - now)
    this.#timer.unref()
  }

  /** 2026-07-28: changes come on a stream that we ask for, and ask for again when it ends. */
  #subscribe(link: Link, attempt = 1): void {
    const cancellation = (this.#subscription = new Cancellation())
    const again = (error?: unknown) => {
      if (this.#subscription !== cancellation) return
      if (error instanceof SwitchboardError && error.code === 'upstream_down')
        return this.#options.onGone(error.message)
      this.#subscribed = false
      this.#subscribeTimer = setTimeout(() => this.#subscribe(link, attempt + 1), backoffMs(attempt, Math.random()))
      this.#subscribeTimer.unref()
    }
    link
      .request(
        'subscriptions/listen',
        { notifications: { toolsListChanged: true } },
        {
          cancellation,
          client: ownFacts(this.#options.identity),
          wantsProgress: false,
          onNotification: notification => {
            if (notification.method === 'notifications/subscriptions/acknowledged') {
              const honoured = notification.params?.notifications
              this.#subscribed = isObject(honoured) && honoured.toolsListChanged === true
              // What changed before the subscription stood was not told.
              if (attempt > 1) this.#schedule(refetch.afterMs)
            } else {
              this.notified(notification)
            }
          }
        }
      )
      .then(() => again(), again)
  }
}

const noTools: { items: readonly Json[]; cut?: string; ttlMs?: number } = { items: [] }

function tellsChanges({ info: { capabilities } }: Link): boolean {
  return isObject(capabilities.tools) && capabilities.tools.listChanged === true
}

/** The same tools in another order keep the order they had: clients and prompt caches depend on it. */
function inKnownOrder(items: readonly Json[], known: readonly Json[] | undefined): readonly Json[] {
  if (!known || known.length !== items.length) return items
  const rank = new Map(known.map(({ name }, i) => [name, i]))
  if (rank.size !== items.length || !items.every(({ name }) => rank.has(name))) return items
  return [...items].sort((a, b) => (rank.get(a.name) as number) - (rank.get(b.name) as number))
}
