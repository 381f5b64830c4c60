/**
 * A link that is made again and again for as long as the gateway lives: attempts with growing pauses between them, pulled
 * forward by whoever needs the link, one at a time, never beside what is left of the connection before.
 *
 * Invariant: `link` is set as long as a connection stands; at most one attempt to make one runs at a time.
 */
import type { ServerConfig } from '../config/schema.js'
import { reasonOf, SwitchboardError } from '../errors.js'
import type { Log } from '../observe/log.js'
import { Cancellation } from '../wire/cancellation.js'
import type { RpcNotification } from '../wire/json-rpc.js'
import { connect, type Connection, type ConnectOptions, type Verdict } from './connect.js'
import type { GatewayIdentity, Link } from './link.js'
import { createNoiseLog, type NoiseLog } from './noise.js'
import type { Orphans } from './orphans.js'
import { backoffMs, earliestAttempt, healthyMs } from './supervisor.js'
import { Waiters } from './waiters.js'

/** `idle`: nothing is wrong, its process is not running and the next call starts it. */
export type LinkState = 'starting' | 'ready' | 'idle' | 'down' | 'stopped'

/** What the one who keeps a link hears of it. */
export interface LinkUser {
  /** Whether requests can go as soon as there is a link, or must wait for what `onLink` does. */
  readonly isKnown: boolean
  /** There is a link. It counts as ready when this has ended well. */
  onLink(link: Link): Promise<void>
  onReady(): void
  /** It is gone. */
  onUnlinked(): void
  /** The server has forgotten the session, and a new one was opened on the same link. */
  onRenewed(link: Link): void
  onNotification(notification: RpcNotification): void
  /** An answer that nobody waits for. */
  onStray(): void
}

export interface KeptLinkOptions {
  readonly config: ServerConfig
  readonly identity: GatewayIdentity
  readonly limits: ConnectOptions['limits']
  readonly log: Log
  /** What the server spoke in an earlier run. */
  readonly verdict?: Verdict
  readonly orphans?: Orphans
  readonly user: LinkUser
}

/** What a server was found to speak is believed for a day. */
const verdictMs = 24 * 3600 * 1000

export class KeptLink {
  readonly #options: KeptLinkOptions
  readonly #waiters: Waiters
  readonly #noise: NoiseLog
  readonly #attemptEnd = new Cancellation()
  #state: LinkState = 'starting'
  #since = Date.now()
  #problem: string | undefined
  /** What is wrong with a link that stands. */
  #flaw: string | undefined
  #connection: Connection | undefined
  #verdict: Verdict | undefined
  #attempt: Promise<void> | undefined
  #firstAttempt: Promise<void> | undefined
  /** What is left of lost connections; a new process is not started beside its predecessor. */
  #ending: Promise<unknown> = Promise.resolve()
  #timer: NodeJS.Timeout | undefined
  #lastAttempt = -Infinity
  #linkedAt = 0
  #connectMs: number | undefined
  #failures = 0
  #restarts = 0
  #crashes: number[] = []
  /** What the process that is gone wrote last, until it has been told. */
  #lastLines: readonly string[] = []

  /** The link, as long as there is one. */
  link: Link | undefined

  constructor(options: KeptLinkOptions) {
    const { config, log, verdict } = options
    this.#options = options
    this.#verdict = verdict
    this.#waiters = new Waiters(config.id, config.queue + config.concurrency)
    this.#noise = createNoiseLog((lines, bytes) => {
      const message = 'what it writes on stdout is no MCP message and is skipped; a stdio server must log to stderr'
      log.warn({ event: 'upstream.noise', server: config.id, lines, bytes, message })
    })
  }

  get state(): LinkState {
    return this.#state
  }

  /** What the server turned out to speak; undefined as long as it was never reached. */
  get verdict(): Verdict | undefined {
    return this.#verdict
  }

  /** The first attempt, until it has ended, well or not; it never rejects. */
  get firstAttempt(): Promise<void> | undefined {
    return this.#firstAttempt
  }

  /** How many wait for it. */
  get waiting(): number {
    return this.#waiters.size
  }

  /** Times in milliseconds, `since` of the epoch; `problem`: why it is not ready, or what is wrong although it is. */
  get status() {
    const pid = this.#connection?.child?.pid
    return {
      state: this.#state,
      since: this.#since,
      transport: this.#verdict?.transport ?? this.#options.config.transport,
      restarts: this.#restarts,
      ...(this.#problem !== undefined && { problem: this.#problem }),
      ...(this.#connectMs !== undefined && { connectMs: this.#connectMs }),
      ...(pid !== undefined && { pid })
    }
  }

  /** Something is wrong although the link stands; undefined: no longer. */
  set flaw(flaw: string | undefined) {
    if (this.#state === 'ready') this.#become('ready', flaw)
    else this.#flaw = flaw
  }

  /** Begins to connect, in the background. @param after nothing is started before that. */
  start(after: Promise<unknown> | undefined, isLazy: boolean): void {
    if (after) this.#ending = after
    if (isLazy) return this.#become('idle', undefined)
    this.#firstAttempt = this.#connect().then(() => {
      this.#firstAttempt = undefined
    })
  }

  /** Waits until there is a link, pulling the next attempt forward. @throws the reason when that attempt fails. */
  linked(cancellation: Cancellation, key = ''): Promise<void> {
    if (this.link) return Promise.resolve()
    if (this.#state === 'stopped') return Promise.reject(this.downError())
    if (cancellation.reason) return Promise.reject(cancellation.reason)
    const linked = this.#waiters.wait(cancellation, key)
    if (!this.#attempt)
      this.#schedule(earliestAttempt(this.#lastAttempt, this.#crashes, performance.now()) - performance.now())
    return linked
  }

  /** The link shows that its server is gone. */
  lost(reason: string): void {
    if (!this.link) return
    this.#lastLines = this.#connection?.child?.lastLines() ?? []
    this.#letGo()
    this.#restarts++
    this.#crashed()
    if (performance.now() - this.#linkedAt > healthyMs) this.#failures = 0
    this.#failed(reason)
  }

  /** Ends the link and the process until somebody needs them. @returns whether there was something to end. */
  rest(): boolean {
    if (this.#state !== 'ready') return false
    this.#letGo()
    this.#failures = 0
    this.#become('idle', undefined)
    return true
  }

  /** Ends the link and the process for good. Requests in flight are rejected. */
  async close(): Promise<void> {
    this.#become('stopped', undefined)
    clearTimeout(this.#timer)
    this.#noise.close()
    this.#options.user.onUnlinked()
    const { id } = this.#options.config
    this.#waiters.wake(
      new SwitchboardError('upstream_down', 'the gateway no longer serves it', { server: id, dispatched: false })
    )
    this.#attemptEnd.cancel(this.downError())
    const connection = this.#connection
    this.#connection = this.link = undefined
    await Promise.all([connection?.close(), this.#ending])
    await this.#attempt
  }

  /** Why there is no link. */
  downError(retryAfterMs = 1000): SwitchboardError {
    const { id } = this.#options.config
    const facts = { server: id, dispatched: false, retryAfterMs }
    return new SwitchboardError('upstream_down', this.#problem ?? 'it is not connected', facts)
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
    const { config, orphans, user } = this.#options
    try {
      await Promise.all([this.#ending, orphans?.reap(config.command !== undefined)])
      if (this.#stopped()) return
      const connection = await connect(this.#connectOptions())
      if (this.#stopped()) return await connection.close()
      const { link, verdict } = connection
      this.#connection = connection
      this.link = link
      this.#linkedAt = performance.now()
      this.#verdict = verdict
      if (user.isKnown) this.#waiters.wake()
      await user.onLink(link)
      if (this.link !== link) return
      this.#connectMs = Math.round(performance.now() - started)
      this.#become('ready', this.#flaw)
      this.#waiters.wake()
      user.onReady()
    } catch (error) {
      if (this.#stopped()) return
      // A process that does not come up is in a crash loop, too; an address may be tried whenever a call needs it.
      if (config.command !== undefined) this.#crashed()
      this.#failed(reasonOf(error))
    }
  }

  #connectOptions(): ConnectOptions {
    const { config, identity, limits, log, orphans, user } = this.#options
    const stderr = { event: 'upstream.stderr', server: config.id }
    return {
      config,
      identity,
      limits,
      cancellation: this.#attemptEnd,
      ...(this.#verdict && Date.now() - this.#verdict.at < verdictMs && { known: this.#verdict }),
      ...(orphans && { orphans }),
      hooks: {
        onNotification: notification => user.onNotification(notification),
        onStray: () => user.onStray(),
        onLost: reason => this.lost(reason),
        onRenewed: () => this.link && user.onRenewed(this.link),
        onLine: line => log.debug({ ...stderr, line }),
        onSkipped: skipped => log.debug({ ...stderr, skipped }),
        onNoise: bytes => this.#noise.line(bytes),
        onLastLines: lines => (this.#lastLines = lines)
      }
    }
  }

  /** A separate look, so that the type checker forgets what it knew before an `await`. */
  #stopped(): boolean {
    return this.#state === 'stopped'
  }

  /** Ends the connection in the background. */
  #letGo(): void {
    this.#ending = Promise.all([this.#ending, this.#connection?.close().catch(() => {})])
    this.#connection = this.link = undefined
    this.#options.user.onUnlinked()
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
    const { config, log } = this.#options
    log.warn({ event: 'upstream.down', server: config.id, reason, retryMs: wait, ...stderr })
    this.#waiters.wake(this.downError(wait))
    this.#schedule(wait)
  }

  #become(state: LinkState, problem: string | undefined): void {
    if (this.#state !== state) this.#since = Date.now()
    this.#state = state
    this.#problem = problem
  }
}
