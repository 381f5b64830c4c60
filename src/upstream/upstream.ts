/**
 * One upstream server: its link is kept, what it offers is kept current, its calls are queued, bounded in time and answered
 * exactly once. Callers see one method, `request`; a server that is down costs them a wait for the attempt they pull
 * forward, never a hang.
 */
import type { LimitsConfig, ServerConfig } from '../config/schema.js'
import { SwitchboardError } from '../errors.js'
import type { Log } from '../observe/log.js'
import { Cancellation } from '../wire/cancellation.js'
import { Deadlines } from '../wire/deadlines.js'
import type { Era } from '../wire/era.js'
import type { Answer, Json } from '../wire/json-rpc.js'
import type { Leg } from '../wire/leg.js'
import type { ListKind, Offer } from '../wire/lists.js'
import type { Verdict } from './connect.js'
import { createIdleWatch, type IdleWatch } from './idle.js'
import { KeptLink, type LinkState } from './kept-link.js'
import { KeptOffer } from './kept-offer.js'
import type { GatewayIdentity, LinkInfo } from './link.js'
import type { Orphans } from './orphans.js'
import { Places } from './places.js'
import type { OnUpdated } from './standing.js'
import { createStrays, type Strays } from './strays.js'
import { TimedLeg } from './timed-leg.js'
import { WaitingBytes } from './waiting-bytes.js'

export interface UpstreamOptions {
  readonly config: ServerConfig
  readonly identity: GatewayIdentity
  readonly limits: UpstreamLimits
  readonly log: Log
  /** What the server was last known to offer, from an earlier run. */
  readonly cached?: Offer
  /** That was another server, or this one before it was changed: it is shown, and waited for like one that is not known. */
  readonly isGuess?: boolean
  /** What the server spoke in an earlier run. */
  readonly verdict?: Verdict
  /** Keeps account of the processes started; none is before it has ended what an earlier gateway left. */
  readonly orphans?: Orphans
  /** A complete list has arrived; `changed` if the offer differs from the one before. */
  readonly onOffer: (changed: boolean) => void
}

/** As much of the limits as concerns one server. */
export type UpstreamLimits = Pick<
  LimitsConfig,
  'messageBytes' | 'stdinBytes' | 'waitingBytes' | 'listItems' | 'listPages'
>

export interface UpstreamStatus {
  readonly id: string
  readonly state: LinkState
  /** Epoch milliseconds. */
  readonly since: number
  readonly transport: string
  readonly era?: string
  readonly tools?: number
  /** Why it is not ready, or what is wrong although it is. */
  readonly problem?: string
  /** How long the last successful connection took, list included, in milliseconds. */
  readonly connectMs?: number
  readonly restarts: number
  /** Requests it is working on, and those waiting for a place. */
  readonly running: number
  readonly waiting: number
  readonly pid?: number
  /** Messages of the server that belonged to nobody and were dropped. */
  readonly unattributed: number
}

/** A server that has not listed by then is left out of lists until it has. */
const firstListMs = 5000
const straysMessage = 'it sends answers or messages that belong to nobody; they are dropped'

export class Upstream {
  readonly config: ServerConfig
  readonly #isGuess: boolean
  readonly #places: Places
  readonly #waitingBytes: WaitingBytes
  readonly #deadlines: Deadlines
  readonly #keeper: KeptLink
  readonly #kept: KeptOffer
  readonly #idle: IdleWatch
  readonly #strays: Strays
  #started = 0

  constructor({ config, identity, limits, log, cached, isGuess, verdict, orphans, onOffer }: UpstreamOptions) {
    const { id } = config
    this.config = config
    this.#isGuess = isGuess === true
    this.#deadlines = new Deadlines(config.timeout * 1000, config.maxTimeout * 1000)
    this.#strays = createStrays(messages =>
      log.warn({ event: 'upstream.strays', server: id, messages, message: straysMessage })
    )
    this.#places = new Places({ server: id, ...config })
    this.#waitingBytes = new WaitingBytes(id, limits.waitingBytes)
    this.#idle = createIdleWatch(config.idleStop * 1000, () => {
      if (this.#keeper.rest()) log.info({ event: 'upstream.idle', server: id, seconds: config.idleStop })
    })
    this.#kept = new KeptOffer({
      server: id,
      identity,
      limits: { ...limits, timeoutMs: config.listTimeout * 1000 },
      ...(cached && { cached }),
      onFetched: onOffer,
      onGone: reason => this.#keeper.lost(reason),
      onProblem: problem => {
        this.#keeper.flaw = problem
        if (problem !== undefined) log.warn({ event: 'upstream.list', server: id, reason: problem })
      }
    })
    const isKnown = () => this.tools !== undefined
    this.#keeper = new KeptLink({
      config,
      identity,
      limits,
      log,
      ...(verdict && { verdict }),
      ...(orphans && { orphans }),
      user: {
        get isKnown() {
          return isKnown()
        },
        onLink: link => this.#kept.follow(link),
        onUnlinked: () => this.#kept.leave(),
        onRenewed: link => this.#kept.renewed(link),
        onNotification: notification => {
          if (!this.#kept.notified(notification)) this.#strays.notification(notification.method)
        },
        onStray: () => this.#strays.answer(),
        onReady: () => {
          this.#idle.arm()
          const { era, version } = this.info ?? {}
          const transport = this.verdict?.transport
          log.info({ event: 'upstream.ready', server: id, transport, era, version, tools: this.tools?.length ?? 0 })
        }
      }
    })
  }

  get id(): string {
    return this.config.id
  }

  /** What it was last known to offer. */
  get offer(): Offer {
    return this.#kept.offer
  }

  /** The tools of the last complete list; undefined as long as it has never answered. */
  get tools(): readonly Json[] | undefined {
    return this.#kept.offer.tools
  }

  /** How long its lists can be expected to hold, in milliseconds. */
  get freshMs(): number {
    return this.#isIdle ? Infinity : this.#kept.freshMs
  }

  /** Somebody has read a list. */
  listUsed(): void {
    this.#kept.used()
  }

  /** The server no longer knows an item it listed. */
  listDoubtful(kind: ListKind): void {
    this.#kept.doubtful(kind)
  }

  /** Fetches a list now, as every start does; never rejects. */
  refresh(kind: ListKind): Promise<void> {
    return this.#isIdle ? this.#keeper.linked(new Cancellation()).catch(() => {}) : this.#kept.refresh(kind)
  }

  /** Has `listener` told when that resource is updated, over reconnects. @throws SwitchboardError when refused. */
  subscribe(uri: string, listener: OnUpdated): Promise<() => void> {
    return this.#inUse(() => this.#kept.subscribe(uri, listener))
  }

  /** Has `listener` told what becomes of that task. @throws SwitchboardError when refused. */
  watchTask(id: string, listener: (params: Json) => void): Promise<() => void> {
    return this.#inUse(() => this.#kept.watchTask(id, listener))
  }

  /** The most talkative level any client wants of it. */
  setLogLevel(level: string): void {
    this.#kept.setLevel(level)
  }

  /** What the server turned out to speak; undefined as long as it was never reached. */
  get verdict(): Verdict | undefined {
    return this.#keeper.verdict
  }

  /** What the server said of itself; undefined while there is no link. */
  get info(): LinkInfo | undefined {
    return this.#keeper.link?.info
  }

  /** What it speaks, or last spoke. */
  get era(): Era | undefined {
    return this.#keeper.link?.info.era ?? this.#keeper.verdict?.era
  }

  /** The first attempt to connect, until it has ended, well or not; it never rejects. */
  get firstAttempt(): Promise<void> | undefined {
    return this.#keeper.firstAttempt
  }

  /** That attempt, if one of these lists is not known until it has ended; requests wait for it only so long. */
  firstList(kinds: readonly ListKind[]): Promise<void> | undefined {
    const known = !this.#isGuess && kinds.every(kind => this.offer[kind])
    return known || performance.now() - this.#started > firstListMs ? undefined : this.#keeper.firstAttempt
  }

  /** Whether somebody waits for an answer of it. */
  get busy(): boolean {
    return this.#places.running + this.#places.waiting + this.#keeper.waiting > 0
  }

  get status(): UpstreamStatus {
    const { info } = this
    return {
      id: this.id,
      ...this.#keeper.status,
      unattributed: this.#strays.count,
      running: this.#places.running,
      waiting: this.#places.waiting + this.#keeper.waiting,
      ...(info && { era: info.era }),
      ...(this.tools && { tools: this.tools.length })
    }
  }

  /**
   * Begins to connect, in the background; a lazy server whose tools are known waits for its first call instead.
   * @param after nothing is started before that.
   */
  start(after?: Promise<unknown>): void {
    this.#started = performance.now()
    this.#keeper.start(after, this.config.start === 'lazy' && this.tools !== undefined && !this.#isGuess)
  }

  /**
   * Sends one request and resolves with the server's answer.
   * Waits for a (re)start, then for a place in the queue, then for the answer, each with its own limit.
   * @throws SwitchboardError whose message is a reason without the server's name and without a full stop.
   */
  async request(method: string, params: Json | undefined, asked: Leg): Promise<Answer> {
    const leg = new TimedLeg(this.config, this.#deadlines, asked)
    const keeper = this.#keeper
    this.#idle.begin()
    let leave: (() => void) | undefined
    try {
      if (!keeper.link) await this.#linked(leg, params)
      leave = this.#places.enter() ?? (await this.#turn(leg, params))
      for (let again = false; ; again = true) {
        if (leg.cancellation.reason) throw leg.cancellation.reason
        const { link } = keeper
        try {
          if (!link) throw keeper.downError()
          return await link.request(method, params, leg)
        } catch (error) {
          // An HTTP server has no connection that could break while idle: a refused request is how its absence shows.
          const absent = error instanceof SwitchboardError && error.code === 'upstream_down'
          if (absent && link && keeper.link === link) keeper.lost(error.message)
          if (again || !this.#mayRepeat(error, leg)) throw error
          await this.#linked(leg, params)
        }
      }
    } finally {
      leave?.()
      leg.end()
      this.#idle.end()
    }
  }

  /** Ends the link and the process. Requests in flight are rejected. */
  async close(): Promise<void> {
    this.#idle.close()
    await this.#keeper.close()
  }

  /** Waits until there is a link. @throws SwitchboardError why there is none, or that too many or too much wait already. */
  #linked({ cancellation, principal: key = '' }: Leg, params: Json | undefined): Promise<void> {
    return this.#waitingBytes.during(key, params, () => this.#keeper.linked(cancellation, key))
  }

  /** Waits for a place. @returns what gives it back. @throws SwitchboardError as above. */
  #turn({ cancellation, principal: key = '' }: Leg, params: Json | undefined): Promise<() => void> {
    return this.#waitingBytes.during(key, params, () => this.#places.turn(key, cancellation))
  }

  get #isIdle(): boolean {
    return this.#keeper.state === 'idle'
  }

  /** A request is sent again only if it provably was not delivered, or if its tool says that twice does no harm. */
  #mayRepeat(error: unknown, leg: Leg): boolean {
    if (!(error instanceof SwitchboardError) || leg.cancellation.reason || this.#keeper.state === 'stopped')
      return false
    if (error.code === 'upstream_down') return error.facts.dispatched === false
    const broken = error.code === 'upstream_died' || error.code === 'upstream_broke'
    return broken && this.config.retry === 'annotated' && leg.repeatable === true
  }

  /** Who waits to be told something needs the server running. */
  async #inUse(open: () => Promise<() => void>): Promise<() => void> {
    this.#idle.begin()
    try {
      if (this.#isIdle) await this.#keeper.linked(new Cancellation())
      const release = await open()
      let held = true
      return () => {
        if (!held) return
        held = false
        release()
        this.#idle.end()
      }
    } catch (error) {
      this.#idle.end()
      throw error
    }
  }
}
