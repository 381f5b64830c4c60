/**
 * Everything one server offers, kept current: its lists, what it declared and said of itself. What was last known stays
 * until something newer is complete, whatever happens to the link.
 */
import type { Json, RpcNotification } from '../wire/json-rpc.js'
import { listKinds, listRows, type ListKind, type Offer } from '../wire/lists.js'
import { KeptList } from './kept-list.js'
import type { GatewayIdentity, Link } from './link.js'
import type { ListLimits } from './pages.js'
import { Standing, type OnUpdated } from './standing.js'

export interface KeptOfferOptions {
  readonly server: string
  readonly identity: GatewayIdentity
  readonly limits: ListLimits
  /** What was last known, from an earlier run. */
  readonly cached?: Offer
  /** A complete list has arrived; `changed` if the offer differs from the one before. */
  readonly onFetched: (changed: boolean) => void
  /** What is wrong with a list, or undefined when nothing is any more. */
  readonly onProblem: (problem: string | undefined) => void
  /** The server could not even be reached. */
  readonly onGone: (reason: string) => void
}

export class KeptOffer {
  readonly #options: KeptOfferOptions
  readonly #lists: Readonly<Record<ListKind, KeptList>>
  readonly #standing: Standing
  readonly #problems = new Map<ListKind, string>()
  #offer: Offer
  /** What the server says of itself has changed, and nobody was told yet. */
  #news = false

  constructor(options: KeptOfferOptions) {
    const { cached = {}, onGone } = options
    this.#options = options
    this.#offer = cached
    this.#standing = new Standing({
      ...options,
      timeoutMs: options.limits.timeoutMs,
      onChanged: change => {
        for (const kind of listKinds) if (listRows[kind].change === change) this.#lists[kind].doubtful()
      }
    })
    const list = (kind: ListKind): KeptList =>
      new KeptList({
        kind,
        identity: options.identity,
        limits: options.limits,
        ...(cached[kind] && { cached: cached[kind] }),
        onFetched: changed => this.#fetched(kind, changed),
        onGone,
        onProblem: problem => this.#problem(kind, problem),
        told: () => this.#standing.tells(listRows[kind].change)
      })
    this.#lists = {
      tools: list('tools'),
      prompts: list('prompts'),
      resources: list('resources'),
      templates: list('templates')
    }
  }

  /** What the server offers; the same object as long as nothing of it changes. */
  get offer(): Offer {
    return this.#offer
  }

  /** How long the lists can be expected to hold, in milliseconds. */
  get freshMs(): number {
    return Math.min(...listKinds.map(kind => this.#lists[kind].freshMs))
  }

  /** Somebody has read a list. */
  used(): void {
    for (const kind of listKinds) this.#lists[kind].used()
  }

  /** Follows a link that has just been made; resolves when its lists were fetched or could not be. */
  async follow(link: Link): Promise<void> {
    const { capabilities, instructions } = link.info
    const { capabilities: before, instructions: text, ...lists } = this.#offer
    if (JSON.stringify([before, text]) !== JSON.stringify([capabilities, instructions])) {
      this.#offer = { ...lists, capabilities, ...(instructions !== undefined && { instructions }) }
      this.#news = true
    }
    this.#standing.follow(link)
    await Promise.all(listKinds.map(kind => this.#lists[kind].follow(link)))
  }

  /** Another conversation on the same link: what was asked of the old one is asked again, its lists are doubtful. */
  renewed(link: Link): void {
    this.#standing.follow(link)
    for (const kind of listKinds) this.#lists[kind].doubtful()
  }

  /** The link is gone; what is known stays. */
  leave(): void {
    this.#standing.leave()
    for (const kind of listKinds) this.#lists[kind].leave()
  }

  /** Fetches a list now; never rejects. */
  refresh(kind: ListKind): Promise<void> {
    return this.#lists[kind].refresh()
  }

  /** A list may have changed: it is fetched soon. */
  doubtful(kind: ListKind): void {
    this.#lists[kind].doubtful()
  }

  /** A notification of the server that belongs to no call; false when nothing here cares for it. */
  notified(notification: RpcNotification): boolean {
    return this.#standing.notified(notification)
  }

  /** @see Standing.subscribe */
  subscribe(uri: string, listener: OnUpdated): Promise<() => void> {
    return this.#standing.subscribe(uri, listener)
  }

  /** @see Standing.watchTask */
  watchTask(id: string, listener: (params: Json) => void): Promise<() => void> {
    return this.#standing.watchTask(id, listener)
  }

  setLevel(level: string): void {
    this.#standing.setLevel(level)
  }

  #fetched(kind: ListKind, changed: boolean): void {
    const { items = [] } = this.#lists[kind]
    // That a server has no prompts is news to nobody.
    const news = changed && (kind === 'tools' || items.length > 0 || (this.#offer[kind]?.length ?? 0) > 0)
    if (changed) this.#offer = { ...this.#offer, [kind]: items }
    if (kind !== 'tools' && !news) return
    this.#options.onFetched(news || this.#news)
    this.#news = false
  }

  #problem(kind: ListKind, problem: string | undefined): void {
    if (problem === undefined) this.#problems.delete(kind)
    else this.#problems.set(kind, problem)
    const [first] = this.#problems.values()
    this.#options.onProblem(first)
  }
}
