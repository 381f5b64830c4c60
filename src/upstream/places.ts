/**
 * How many requests one upstream works on at a time, and how many may wait for it, for how long, holding how much. Whoever
 * gives up waiting makes room at once. No key has more than half of the waiting places, and keys take turns: the first call
 * of one that waits comes before the second of any other.
 */
import PQueue from 'p-queue'
import { SwitchboardError } from '../errors.js'
import type { Cancellation } from '../wire/cancellation.js'
import { bytesHeld, sizeText } from '../wire/json-bytes.js'
import type { Json } from '../wire/json-rpc.js'

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
  /** How much they may hold, in bytes. */
  readonly waitingBytes: number
}

export class Places {
  readonly #options: PlacesOptions
  /** Those who had to wait; who finds a place free is only counted. */
  readonly #queue: PQueue
  readonly #shares: Shares
  readonly #byteShares: Shares
  #bytes = 0
  #direct = 0

  constructor(options: PlacesOptions) {
    this.#options = options
    this.#queue = new PQueue({ concurrency: options.concurrency })
    this.#shares = new Shares(options.queue)
    this.#byteShares = new Shares(options.waitingBytes)
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
   * Counts what a call holds while it waits, for a place or for the server to start.
   * @returns what ends that, to be called once. @throws SwitchboardError `upstream_overloaded` when that would be too much.
   */
  hold(key: string, params: Json | undefined): () => void {
    const most = this.#options.waitingBytes
    const bytes = bytesHeld(params)
    if (this.#bytes + bytes > most)
      throw this.#overloaded(`with this call more than ${sizeText(most)} of arguments would wait for it`)
    if (!this.#byteShares.take(key, bytes)) {
      const share = `with this call more than ${sizeText(most / 2)} of arguments of this key would wait for it`
      throw this.#overloaded(`${share}, and no key may have more`)
    }
    this.#bytes += bytes
    return () => {
      this.#byteShares.giveBack(key, bytes)
      this.#bytes -= bytes
    }
  }

  /**
   * Runs `task` when a place is free and it is the key's turn.
   * @param params what waits with it.
   * @throws SwitchboardError `upstream_overloaded` when too many or too much wait already, of all keys or of this one, or when waiting took too long;
   * the reason of the cancellation when that came first.
   */
  async wait<T>(key: string, cancellation: Cancellation, task: () => Promise<T>, params?: Json): Promise<T> {
    const { queue: most, queueTimeout, concurrency } = this.#options
    if (this.#queue.size >= most)
      throw this.#overloaded(`${concurrency} calls are running and ${most} are waiting already`)

    const before = this.#shares.of(key)
    if (!this.#shares.take(key))
      throw this.#overloaded(`${before} calls of this key are waiting already, and no key may have more`)

    this.#share()
    let waits = true
    let letGo: (() => void) | undefined
    const waited = () => {
      if (!waits) return
      waits = false
      this.#shares.giveBack(key)
      letGo?.()
    }
    const waiting = new AbortController()
    const release = cancellation.onCancel(reason => waiting.abort(reason))
    const timer = setTimeout(
      () => waiting.abort(this.#overloaded(`all its ${concurrency} places were taken for ${queueTimeout} s`)),
      queueTimeout * 1000
    )
    const turn = () => {
      clearTimeout(timer)
      waited()
      return task()
    }
    try {
      letGo = this.hold(key, params)
      return await this.#queue.add(turn, { signal: waiting.signal, priority: -before })
    } finally {
      clearTimeout(timer)
      waited()
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
