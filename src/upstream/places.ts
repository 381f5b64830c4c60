/**
 * How many requests one upstream works on at a time, and how many may wait for it, for how long. Whoever gives up waiting
 * makes room at once.
 */
import PQueue from 'p-queue'
import { SwitchboardError } from '../errors.js'
import type { Cancellation } from '../wire/cancellation.js'

export interface PlacesOptions {
  readonly server: string
  readonly concurrency: number
  /** How many may wait. */
  readonly queue: number
  /** How long they may, in seconds. */
  readonly queueTimeout: number
}

export class Places {
  readonly #options: PlacesOptions
  /** Those who had to wait; who finds a place free is only counted. */
  readonly #queue: PQueue
  #direct = 0

  constructor(options: PlacesOptions) {
    this.#options = options
    this.#queue = new PQueue({ concurrency: options.concurrency })
  }

  get running(): number {
    return this.#direct + this.#queue.pending
  }

  get waiting(): number {
    return this.#queue.size
  }

  /** Takes a free place if nobody waits for one; it is given back with `leave`. */
  enter(): boolean {
    if (this.running >= this.#options.concurrency || this.#queue.size > 0) return false
    this.#direct++
    return true
  }

  leave(): void {
    this.#direct--
    if (this.#queue.size > 0) this.#share()
  }

  /**
   * Runs `task` when a place is free, after those who wait already.
   * @throws SwitchboardError `upstream_overloaded` when too many wait already, or when waiting took too long; the reason
   * of the cancellation when that came first.
   */
  async wait<T>(cancellation: Cancellation, task: () => Promise<T>): Promise<T> {
    const { queue: most, queueTimeout, concurrency } = this.#options
    if (this.#queue.size >= most)
      throw this.#overloaded(`${concurrency} calls are running and ${most} are waiting already`)

    this.#share()
    const waiting = new AbortController()
    const release = cancellation.onCancel(reason => waiting.abort(reason))
    const timer = setTimeout(
      () => waiting.abort(this.#overloaded(`all its ${concurrency} places were taken for ${queueTimeout} s`)),
      queueTimeout * 1000
    )
    const turn = () => {
      clearTimeout(timer)
      return task()
    }
    try {
      return await this.#queue.add(turn, { signal: waiting.signal })
    } finally {
      clearTimeout(timer)
      release()
    }
  }

  /** Gives the queue the places that are not taken directly. Those only get fewer as long as somebody waits. */
  #share(): void {
    const places = this.#options.concurrency - this.#direct
    if (places === 0) return this.#queue.pause()
    this.#queue.concurrency = places
    this.#queue.start()
  }

  #overloaded(why: string): SwitchboardError {
    const { server } = this.#options
    return new SwitchboardError('upstream_overloaded', why, { server, dispatched: false, retryAfterMs: 1000 })
  }
}
