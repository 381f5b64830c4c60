/**
 * How many requests one upstream works on at a time, and how many may wait for it, for how long. Whoever gives up waiting
 * makes room at once. No key has more than half of the waiting places, and keys take turns: the first call of one that waits
 * comes before the second of any other.
 */
import PQueue from 'p-queue'
import { SwitchboardError } from '../errors.js'
import type { Cancellation } from '../wire/cancellation.js'

/** How many of a bounded number of places, or bytes, each key has. No key may have more than half, so there are some for the others. */
export class Shares {
  readonly #most: number
  readonly #taken = new Map<string, number>()

  constructor(places: number) {
    this.#most = Math.ceil(places / 2)
  }

  of(key: string): number {
    return this.#taken.get(key) ?? 0
  }

  /** Takes one more, or so many, if the key may have them. */
  take(key: string, many = 1): boolean {
    const own = this.of(key) + many
    if (own > this.#most) return false
    this.#taken.set(key, own)
    return true
  }

  giveBack(key: string, many = 1): void {
    const own = this.of(key) - many
    if (own > 0) this.#taken.set(key, own)
    else this.#taken.delete(key)
  }
}

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
  readonly #shares: Shares
  #direct = 0

  constructor(options: PlacesOptions) {
    this.#options = options
    this.#queue = new PQueue({ concurrency: options.concurrency })
    this.#shares = new Shares(options.queue)
  }

  get running(): number {
    return this.#direct + this.#queue.pending
  }

  get waiting(): number {
    return this.#queue.size
  }

  /** Takes a free place if nobody waits for one. @returns what gives it back; undefined when one must wait. */
  enter(): (() => void) | undefined {
    if (this.running >= this.#options.concurrency || this.#queue.size > 0) return undefined
    this.#direct++
    return this.#leave
  }

  readonly #leave = () => {
    this.#direct--
    if (this.#queue.size > 0) this.#share()
  }

  /**
   * Waits until a place is free and it is the key's turn. @returns what gives it back.
   * @throws SwitchboardError `upstream_overloaded` when too many wait already, of all keys or of this one, or when waiting took too long; the reason
   * of the cancellation when that came first.
   */
  async turn(key: string, cancellation: Cancellation): Promise<() => void> {
    const { queue: most, queueTimeout, concurrency } = this.#options
    if (this.#queue.size >= most)
      throw this.#overloaded(`${concurrency} calls are running and ${most} are waiting already`)

    const before = this.#shares.of(key)
    if (!this.#shares.take(key))
      throw this.#overloaded(`${before} calls of this key are waiting already, and no key may have more`)

    this.#share()
    const waiting = new AbortController()
    const release = cancellation.onCancel(reason => waiting.abort(reason))
    const timer = setTimeout(
      () => waiting.abort(this.#overloaded(`all its ${concurrency} places were taken for ${queueTimeout} s`)),
      queueTimeout * 1000
    )
    try {
      return await new Promise((resolve, reject) => {
        // The queue counts it as running until it leaves.
        const hold = () => new Promise<void>(leave => resolve(leave))
        this.#queue.add(hold, { signal: waiting.signal, priority: -before }).catch(reject)
      })
    } finally {
      clearTimeout(timer)
      this.#shares.giveBack(key)
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
