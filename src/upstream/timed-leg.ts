/** A leg within its limits of time: it ends by its own cancellation when its call is cancelled or when it took too long. */
import { SwitchboardError } from '../errors.js'
import { Cancellation } from '../wire/cancellation.js'
import type { Deadlines, Wait, Waiting } from '../wire/deadlines.js'
import type { RpcNotification } from '../wire/json-rpc.js'
import type { ClientFacts, Leg } from '../wire/leg.js'

export interface LegLimits {
  readonly id: string
  /** Seconds without a sign of life. */
  readonly timeout: number
  /** Seconds in all. */
  readonly maxTimeout: number
}

/** A class and no object of closures: one is made for every call. */
export class TimedLeg implements Leg, Waiting {
  readonly cancellation = new Cancellation()
  readonly client: ClientFacts
  readonly principal: string | undefined
  readonly wantsProgress: boolean
  readonly tool: string | undefined
  readonly repeatable: boolean | undefined
  readonly headers: Leg['headers']
  readonly #asked: Leg
  readonly #limits: LegLimits
  readonly #deadlines: Deadlines
  readonly #wait: Wait
  readonly #release: () => void
  #dispatched = false

  constructor(limits: LegLimits, deadlines: Deadlines, asked: Leg) {
    this.client = asked.client
    this.principal = asked.principal
    this.wantsProgress = asked.wantsProgress
    this.tool = asked.tool
    this.repeatable = asked.repeatable
    this.headers = asked.headers
    this.#asked = asked
    this.#limits = limits
    this.#release = asked.cancellation.onCancel(reason => this.cancellation.cancel(reason))
    this.#deadlines = deadlines
    this.#wait = deadlines.begin(this)
  }

  onSent(sent: boolean): void {
    this.#dispatched = sent
  }

  onNotification(notification: RpcNotification, isGuess = false): void {
    if (!this.#asked.onNotification) return
    if (!isGuess) this.#deadlines.touch(this.#wait)
    this.#asked.onNotification(notification)
  }

  onPause(retryMs: number): void {
    this.#asked.onPause?.(retryMs)
  }

  /** It is answered, or nobody waits for it any more. */
  end(): void {
    this.#deadlines.end(this.#wait)
    this.#release()
  }

  expired(kind: 'idle' | 'total'): void {
    const { id, timeout, maxTimeout } = this.#limits
    this.cancellation.cancel(
      new SwitchboardError(
        'upstream_timeout',
        kind === 'idle' ? `it gave no sign of life for ${timeout} s` : `it did not finish within ${maxTimeout} s`,
        { server: id, dispatched: this.#dispatched }
      )
    )
  }
}
