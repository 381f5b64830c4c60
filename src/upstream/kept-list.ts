/**
 * Keeps one list of one server current: fetched whole when a link stands, again when the server says it has changed,
 * and polled where it never would. The last complete list stays until a newer complete one is there, whatever happens
 * to the link.
 */
import { reasonOf, SwitchboardError } from '../errors.js'
import type { Json } from '../wire/json-rpc.js'
import { listRows, type ListKind } from '../wire/lists.js'
import type { GatewayIdentity, Link } from './link.js'
import { fetchList, type FetchedList, type ListLimits } from './pages.js'
import { backoffMs } from './supervisor.js'

export interface KeptListOptions {
  readonly kind: ListKind
  readonly identity: GatewayIdentity
  readonly limits: ListLimits
  /** The list as it was last known, from an earlier run. */
  readonly cached?: readonly Json[]
  /** A complete list has arrived; `changed` if it differs from the one before. */
  readonly onFetched: (changed: boolean) => void
  /** What is wrong with the list, or undefined when nothing is any more. */
  readonly onProblem: (problem: string | undefined) => void
  /** The server could not even be reached. */
  readonly onGone: (reason: string) => void
  /** Whether the server tells changes of this list on the link that stands. */
  readonly told: () => boolean
}

/** After a change is told: wait a little for the next one, then fetch, but not more often than this. */
const refetch = { afterMs: 200, everyMs: 2000 }
/** Servers that never notify are asked this often, with 20 % of jitter, as long as somebody reads the list. */
const poll = { everyMs: 60_000, jitter: 0.2, whileUsedMs: 10 * 60_000 }
/** Even a server that notifies is asked now and then: a notification may have been lost. */
const safetyMs = 10 * 60_000
/** What a modern server says of its list's age is believed within these bounds. */
const believable = { minMs: 1000, maxMs: 3_600_000 }

export class KeptList {
  readonly #options: KeptListOptions
  #items: readonly Json[] | undefined
  #link: Link | undefined
  #timer: NodeJS.Timeout | undefined
  #due = 0
  #lastFetch = -Infinity
  #lastUse = performance.now()
  #ttlMs: number | undefined
  /** The server on the link has such a list at all. */
  #offered = true
  #failures = 0

  constructor(options: KeptListOptions) {
    this.#options = options
    this.#items = options.cached
  }

  /** The items as the server sent them; undefined as long as it has never answered. */
  get items(): readonly Json[] | undefined {
    return this.#items
  }

  /** How long the list can be expected to hold, in milliseconds. */
  get freshMs(): number {
    if (!this.#link) return believable.minMs
    if (!this.#offered) return Infinity
    return Math.max(this.#due - performance.now(), believable.minMs)
  }

  /** Somebody has read the list: one whose polling had paused is fetched again. */
  used(): void {
    const now = performance.now()
    const paused = now - this.#lastUse > poll.whileUsedMs
    this.#lastUse = now
    if (paused && this.#link && now > this.#lastFetch + poll.everyMs) this.#schedule(refetch.afterMs)
  }

  /** Follows a link that has just been made; resolves when its list was fetched or could not be. */
  async follow(link: Link): Promise<void> {
    this.leave()
    this.#link = link
    this.#failures = 0
    await this.#fetch(link)
  }

  /** Fetches the list now; never rejects. */
  async refresh(): Promise<void> {
    if (this.#link) await this.#fetch(this.#link)
  }

  /** The link is gone; the list stays. */
  leave(): void {
    clearTimeout(this.#timer)
    this.#link = undefined
  }

  /** The list may have changed: it is fetched soon. */
  doubtful(): void {
    const soon = Math.max(performance.now() + refetch.afterMs, this.#lastFetch + refetch.everyMs)
    // An earlier fetch that is due already sees this change too; putting it off would let a storm of changes starve it.
    if (this.#link && (this.#due <= performance.now() || soon < this.#due)) this.#schedule(refetch.afterMs)
  }

  async #fetch(link: Link): Promise<void> {
    this.#lastFetch = performance.now()
    const { kind, identity, limits, onFetched, onProblem } = this.#options
    const { method, member, identity: name, change } = listRows[kind]
    try {
      const declared = change in link.info.capabilities
      const fetched = declared ? await fetchList(link, method, member, identity, limits) : undefined
      if (this.#link !== link) return
      // Many servers that declare resources know no templates, and say so by not knowing the method.
      this.#offered = fetched !== undefined && !(fetched.unknown && kind === 'templates')
      if (fetched?.unknown && this.#offered) throw new SwitchboardError('upstream_garbage', fetched.unknown)
      const { items, cut, ttlMs } = fetched ?? none
      this.#failures = 0
      this.#ttlMs = ttlMs
      const ordered = inKnownOrder(items, this.#items, name)
      const changed = !this.#items || JSON.stringify(ordered) !== JSON.stringify(this.#items)
      if (changed) this.#items = ordered
      if (this.#offered) this.#schedule(this.#nextMs(link))
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
    return this.#options.told() ? safetyMs : poll.everyMs * (1 + poll.jitter * (2 * Math.random() - 1))
  }

  #schedule(ms: number): void {
    clearTimeout(this.#timer)
    const now = performance.now()
    this.#due = now + Math.max(ms, this.#lastFetch + refetch.everyMs - now)
    this.#timer = setTimeout(() => {
      const link = this.#link
      if (!link) return
      // Nobody has read it for a while: the next reader gets it as it is, and causes a fetch.
      if (performance.now() - this.#lastUse > poll.whileUsedMs) this.#schedule(poll.everyMs)
      else void this.#fetch(link)
    }, this.#due - now)
    this.#timer.unref()
  }
}

const none: FetchedList = { items: [] }

/** The same items in another order keep the order they had: clients and prompt caches depend on it. */
function inKnownOrder(items: readonly Json[], known: readonly Json[] | undefined, name: string): readonly Json[] {
  if (!known || known.length !== items.length) return items
  const rank = new Map(known.map((item, i) => [item[name], i]))
  if (rank.size !== items.length || !items.every(item => rank.has(item[name]))) return items
  return [...items].sort((a, b) => (rank.get(a[name]) as number) - (rank.get(b[name]) as number))
}
