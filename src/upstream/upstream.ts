/**
 * One upstream server, supervised: it is connected and connected again for as long as the gateway lives, its tool list
 * is kept current, its calls are queued, bounded in time and answered exactly once. Callers see one method, `request`;
 * a server that is down costs them a wait for the attempt they pull forward, never a hang.
 *
 * Invariant: `#link` is set as long as a connection stands; at most one attempt to make one runs at a time.
 */
import type { LimitsConfig, ServerConfig } from '../config/schema.js'
import { reasonOf, SwitchboardError } from '../errors.js'
import type { Log } from '../observe/log.js'
import { Cancellation } from '../wire/cancellation.js'
import type { Era } from '../wire/era.js'
import type { Answer, Json } from '../wire/json-rpc.js'
import type { Leg } from '../wire/leg.js'
import type { ListKind, Offer } from '../wire/lists.js'
import { connect, type Connection, type Verdict } from './connect.js'
import { createIdleWatch, type IdleWatch } from './idle.js'
import { KeptOffer } from './kept-offer.js'
import { TimedLeg } from './timed-leg.js'
import { Deadlines } from './deadline.js'
import type { GatewayIdentity, Link, LinkInfo } from './link.js'
import type { Orphans } from './orphans.js'
import { createNoiseLog, type NoiseLog } from './noise.js'
import type { OnUpdated } from './standing.js'
import { createStrays, type Strays } from './strays.js'
import { Places, Shares } from './places.js'
import { backoffMs, earliestAttempt, healthyMs } from './supervisor.js'

export interface UpstreamOptions {
  readonly config: ServerConfig
  readonly identity: GatewayIdentity
  readonly limits: UpstreamLimits
  readonly log: Log
  /** What the server was last known to offer, from an earlier run. */
  readonly cached?: Offer
  /** What the server spoke in an earlier run. */
  readonly verdict?: Verdict
  /** Keeps account of the processes started; none is before it has ended what an earlier gateway left. */
  readonly orphans?: Orphans
  /** A complete list has arrived; `changed` if the offer differs from the one before. */
  readonly onOffer: (changed: boolean) => void
}

/** As much of the limits as concerns one server. */
export type UpstreamLimits = Pick<LimitsConfig, 'messageBytes' | 'stdinBytes' | 'listItems' | 'listPages'>

/** `idle`: nothing is wrong, its process is not running and the next call starts it. */
export type UpstreamState = 'starting' | 'ready' | 'idle' | 'down' | 'stopped'

export interface UpstreamStatus {
  readonly id: string
  readonly state: UpstreamState
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
/** What a server was found to speak is believed for a day. */
const verdictMs = 24 * 3600 * 1000
const straysMessage = 'it sends answers or messages that belong to nobody; they are dropped'

export class Upstream {
  readonly config: ServerConfig
  readonly #options: UpstreamOptions
  readonly #places: Places
  readonly #deadlines: Deadlines
  readonly #kept: KeptOffer
  readonly #waiters = new Set<{ resolve: () => void; reject: (error: Error) => void }>()
  readonly #waiterShares: Shares
  #state: UpstreamState = 'starting'
  #since = Date.now()
  #started = 0
  #problem: string | undefined
  #listProblem: string | undefined
  #connection: Connection | undefined
  #link: Link | undefined
  #verdict: Verdict | undefined
  #firstAttempt: Promise<void> | undefined
  #attempt: Promise<void> | undefined
  #attemptEnd = new Cancellation()
  /** What is left of lost connections; a new process is not started beside its predecessor. */
  #ending: Promise<unknown> = Promise.resolve()
  #timer: NodeJS.Timeout | undefined
  #lastAttempt = -Infinity
  #linkedAt = 0
  #connectMs: number | undefined
  #failures = 0
  #restarts = 0
  readonly #strays: Strays
  #crashes: number[] = []
  #noise: NoiseLog
  #idle: IdleWatch
  /** What the process that is gone wrote last, until it has been told. */
  #lastLines: readonly string[] = []

  constructor(options: UpstreamOptions) {
    this.config = options.config
    this.#options = options
    this.#verdict = options.verdict
    this.#deadlines = new Deadlines(options.config.timeout * 1000, options.config.maxTimeout * 1000)
    this.#idle = createIdleWatch(options.config.idleStop * 1000, () => this.#rest())
    this.#noise = createNoiseLog((lines, bytes) => {
      const message = 'what it writes on stdout is no MCP message and is skipped; a stdio server must log to stderr'
      options.log.warn({ event: 'upstream.noise', server: this.id, lines, bytes, message })
    })
    this.#strays = createStrays(messages =>
      options.log.warn({ event: 'upstream.strays', server: this.id, messages, message: straysMessage })
    )
    this.#waiterShares = new Shares(options.config.queue + options.config.concurrency)
    this.#places = new Places({ server: options.config.id, ...options.config })
    this.#kept = new KeptOffer({
      server: options.config.id,
      identity: options.identity,
      limits: { ...options.limits, timeoutMs: options.config.listTimeout * 1000 },
      ...(options.cached && { cached: options.cached }),
      onFetched: options.onOffer,
      onGone: reason => this.#lost(reason),
      onProblem: problem => {
        if (this.#state === 'ready') this.#become('ready', problem)
        else this.#listProblem = problem
        if (problem !== undefined) options.log.warn({ event: 'upstream.list', server: this.id, reason: problem })
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
    return this.#state === 'idle' ? Infinity : this.#kept.freshMs
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
    return this.#state === 'idle' ? this.#linked(new Cancellation()).catch(() => {}) : this.#kept.refresh(kind)
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
    return this.#verdict
  }

  /** What the server said of itself; undefined while there is no link. */
  get info(): LinkInfo | undefined {
    return this.#link?.info
  }

  /** What it speaks, or last spoke. */
  get era(): Era | undefined {
    return this.#link?.info.era ?? this.#verdict?.era
  }

  /** The first attempt to connect, until it has ended, well or not; it never rejects. */
  get firstAttempt(): Promise<void> | undefined {
    return this.#firstAttempt
  }

  /** That attempt, if one of these lists is not known until it has ended; requests wait for it only so long. */
  firstList(kinds: readonly ListKind[]): Promise<void> | undefined {
    return kinds.every(kind => this.offer[kind]) || performance.now() - this.#started > firstListMs
      ? undefined
      : this.#firstAttempt
  }

  /** Whether somebody waits for an answer of it. */
  get busy(): boolean {
    return this.#places.running + this.#places.waiting + this.#waiters.size > 0
  }

  get status(): UpstreamStatus {
    const { era } = this.#link?.info ?? {}
    const pid = this.#connection?.child?.pid
    return {
      id: this.id,
      state: this.#state,
      since: this.#since,
      transport: this.#verdict?.transport ?? this.config.transport,
      restarts: this.#restarts,
      unattributed: this.#strays.count,
      running: this.#places.running,
      waiting: this.#places.waiting + this.#waiters.size,
      ...(era && { era }),
      ...(this.tools && { tools: this.tools.length }),
      ...(this.#problem !== undefined && { problem: this.#problem }),
      ...(this.#connectMs !== undefined && { connectMs: this.#connectMs }),
      ...(pid !== undefined && { pid })
    }
  }

  /**
   * Begins to connect, in the background; a lazy server whose tools are known waits for its first call instead.
   * @param after nothing is started before that.
   */
  start(after?: Promise<unknown>): void {
    if (after) this.#ending = after
    this.#started = performance.now()
    if (this.config.start === 'lazy' && this.tools) return this.#become('idle', undefined)
    this.#firstAttempt = this.#connect().then(() => {
      this.#firstAttempt = undefined
    })
  }

  /**
   * Sends one request and resolves with the server's answer.
   * Waits for a (re)start, then for a place in the queue, then for the answer, each with its own limit.
   * @throws SwitchboardError whose message is a reason without the server's name and without a full stop.
   */
  async request(method: string, params: Json | undefined, asked: Leg): Promise<Answer> {
    const leg = new TimedLeg(this.config, this.#deadlines, asked)
    this.#idle.begin()
    try {
      if (!this.#link) await this.#linked(leg.cancellation, leg.principal)
      if (!this.#places.enter())
        return await this.#places.wait(leg.principal ?? '', leg.cancellation, () => this.#deliver(method, params, leg))
      try {
        return await this.#deliver(method, params, leg)
      } finally {
        this.#places.leave()
      }
    } finally {
      leg.end()
      this.#idle.end()
    }
  }

  /** Ends the link and the process. Requests in flight are rejected. */
  async close(): Promise<void> {
    this.#become('stopped', undefined)
    clearTimeout(this.#timer)
    this.#noise.close()
    this.#idle.close()
    this.#kept.leave()
    this.#wake(
      new SwitchboardError('upstream_down', 'the gateway no longer serves it', { server: this.id, dispatched: false })
    )
    this.#attemptEnd.cancel(this.#downError())
    const connection = this.#connection
    this.#connection = this.#link = undefined
    await Promise.all([connection?.close(), this.#ending])
    await this.#attempt
  }

  /** Sends it, and once more if it may be. */
  async #deliver(method: string, params: Json | undefined, leg: Leg): Promise<Answer> {
    for (let again = false; ; again = true) {
      if (leg.cancellation.reason) throw leg.cancellation.reason
      const link = this.#link
      try {
        if (!link) throw this.#downError()
        return await link.request(method, params, leg)
      } catch (error) {
        // An HTTP server has no connection that could break while idle: a refused request is how its absence shows.
        const absent = error instanceof SwitchboardError && error.code === 'upstream_down'
        if (absent && link && this.#link === link) this.#lost(error.message)
        if (again || !this.#mayRepeat(error, leg)) throw error
        await this.#linked(leg.cancellation, leg.principal)
      }
    }
  }

  /** A request is sent again only if it provably was not delivered, or if its tool says that twice does no harm. */
  #mayRepeat(error: unknown, leg: Leg): boolean {
    if (!(error instanceof SwitchboardError) || leg.cancellation.reason || this.#state === 'stopped') return false
    if (error.code === 'upstream_down') return error.facts.dispatched === false
    const broken = error.code === 'upstream_died' || error.code === 'upstream_broke'
    return broken && this.config.retry === 'annotated' && leg.repeatable === true
  }

  /** Waits until there is a link, pulling the next attempt forward. @throws the reason when that attempt fails. */
  #linked(cancellation: Cancellation, key = ''): Promise<void> {
    if (this.#link) return Promise.resolve()
    if (this.#state === 'stopped') return Promise.reject(this.#downError())
    if (cancellation.reason) return Promise.reject(cancellation.reason)
    const isFull = this.#waiters.size >= this.config.queue + this.config.concurrency
    if (isFull || !this.#waiterShares.take(key)) {
      const why = isFull
        ? `it is starting and ${this.#waiters.size} calls wait for it already`
        : `it is starting and ${this.#waiterShares.of(key)} calls of this key wait for it already, and no key may have more`
      const facts = { server: this.id, dispatched: false, retryAfterMs: 1000 }
      return Promise.reject(new SwitchboardError('upstream_overloaded', why, facts))
    }
    if (!this.#attempt)
      this.#schedule(earliestAttempt(this.#lastAttempt, this.#crashes, performance.now()) - performance.now())
    return new Promise((resolve, reject) => {
      const waiter = { resolve: () => end(resolve), reject: (error: Error) => end(() => reject(error)) }
      const end = (act: () => void) => {
        this.#waiters.delete(waiter)
        this.#waiterShares.giveBack(key)
        release()
        act()
      }
      this.#waiters.add(waiter)
      const release = cancellation.onCancel(waiter.reject)
    })
  }

  #wake(error?: Error): void {
    for (const waiter of [...this.#waiters]) {
      if (error) waiter.reject(error)
      else waiter.resolve()
    }
  }

  #schedule(ms: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => void this.#connect(), Math.max(ms, 0))
  }

  #connect(): Promise<void> {
    clearTimeout(this.#timer)
    return (this.#attempt ??= this.#open().finally(() => {
      this.#attempt = undefined
    }))
  }

  async #open(): Promise<void> {
    if (this.#state === 'stopped') return
    const started = (this.#lastAttempt = performance.now())
    this.#become('starting', this.#problem)
    try {
      const { identity, limits, log, orphans } = this.#options
      await Promise.all([this.#ending, orphans?.reap(this.config.command !== undefined)])
      if (this.#stopped()) return
      const { config } = this
      const connection = await connect({
        config,
        identity,
        limits,
        cancellation: this.#attemptEnd,
        ...(this.#verdict && Date.now() - this.#verdict.at < verdictMs && { known: this.#verdict }),
        ...(orphans && { orphans }),
        hooks: {
          onNotification: notification => {
            if (!this.#kept.notified(notification)) this.#strays.notification(notification.method)
          },
          onStray: () => this.#strays.answer(),
          onLost: reason => this.#lost(reason),
          onRenewed: () => this.#link && this.#kept.renewed(this.#link),
          onLine: line => log.debug({ event: 'upstream.stderr', server: this.id, line }),
          onSkipped: skipped => log.debug({ event: 'upstream.stderr', server: this.id, skipped }),
          onNoise: bytes => this.#noise.line(bytes),
          onLastLines: lines => (this.#lastLines = lines)
        }
      })
      if (this.#stopped()) return await connection.close()
      this.#connection = connection
      this.#link = connection.link
      this.#linkedAt = performance.now()
      this.#verdict = connection.verdict
      if (this.tools) this.#wake()
      await this.#kept.follow(connection.link)
      if (this.#link !== connection.link) return
      this.#connectMs = Math.round(performance.now() - started)
      this.#become('ready', this.#listProblem)
      this.#wake()
      this.#idle.arm()
      const { era, version } = connection.link.info
      const { transport } = connection.verdict
      log.info({ event: 'upstream.ready', server: this.id, transport, era, version, tools: this.tools?.length ?? 0 })
    } catch (error) {
      if (this.#stopped()) return
      // A process that does not come up is in a crash loop, too; an address may be tried whenever a call needs it.
      if (this.config.command !== undefined) this.#crashed()
      this.#failed(reasonOf(error))
    }
  }

  /** A separate look, so that the type checker forgets what it knew before an `await`. */
  #stopped(): boolean {
    return this.#state === 'stopped'
  }

  #lost(reason: string): void {
    if (!this.#link) return
    this.#lastLines = this.#connection?.child?.lastLines() ?? []
    this.#letGo()
    this.#restarts++
    this.#crashed()
    if (performance.now() - this.#linkedAt > healthyMs) this.#failures = 0
    this.#failed(reason)
  }

  /** Nobody has called it for so long as its configuration says. */
  #rest(): void {
    if (this.#state !== 'ready') return
    this.#letGo()
    this.#failures = 0
    this.#become('idle', undefined)
    this.#options.log.info({ event: 'upstream.idle', server: this.id, seconds: this.config.idleStop })
  }

  /** Who waits to be told something needs the server running. */
  async #inUse(open: () => Promise<() => void>): Promise<() => void> {
    this.#idle.begin()
    try {
      if (this.#state === 'idle') await this.#linked(new Cancellation())
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

  /** Ends the connection in the background. */
  #letGo(): void {
    this.#ending = Promise.all([this.#ending, this.#connection?.close().catch(() => {})])
    this.#connection = this.#link = undefined
    this.#kept.leave()
  }

  #crashed(): void {
    this.#crashes = [...this.#crashes, performance.now()].slice(-10)
  }

  #failed(reason: string): void {
    this.#failures++
    const wait = backoffMs(this.#failures, Math.random())
    this.#become('down', reason)
    const stderr = this.#lastLines.length > 0 && { stderr: this.#lastLines }
    this.#lastLines = []
    this.#options.log.warn({ event: 'upstream.down', server: this.id, reason, retryMs: wait, ...stderr })
    this.#wake(this.#downError(wait))
    this.#schedule(wait)
  }

  #downError(retryAfterMs = 1000): SwitchboardError {
    return new SwitchboardError('upstream_down', this.#problem ?? 'it is not connected', {
      server: this.id,
      dispatched: false,
      retryAfterMs
    })
  }

  #become(state: UpstreamState, problem: string | undefined): void {
    if (this.#state !== state) this.#since = Date.now()
    this.#state = state
    this.#problem = problem
  }
}
