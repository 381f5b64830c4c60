/** Those who wait until a server is there: bounded, fair between keys, and each only for as long as its call lasts. */
import { SwitchboardError } from '../errors.js'
import type { Cancellation } from '../wire/cancellation.js'
import { Shares } from './places.js'

export class Waiters {
  readonly #server: string
  readonly #most: number
  readonly #shares: Shares
  readonly #waiting = new Set<{ resolve: () => void; reject: (error: Error) => void }>()

  /** @param most how many may wait. */
  constructor(server: string, most: number) {
    this.#server = server
    this.#most = most
    this.#shares = new Shares(most)
  }

  get size(): number {
    return this.#waiting.size
  }

  /**
   * Resolves or rejects with the next `wake`.
   * @throws SwitchboardError `upstream_overloaded` when too many wait already, of all keys or of this one; the reason of the
   * cancellation when that comes first.
   */
  wait(cancellation: Cancellation, key: string): Promise<void> {
    const waiting = this.size
    if (waiting >= this.#most) return this.#refuse(`${waiting} calls wait for it already`)
    const own = this.#shares.of(key)
    if (!this.#shares.take(key))
      return this.#refuse(`${own} calls of this key wait for it already, and no key may have more`)
    return new Promise((resolve, reject) => {
      const waiter = { resolve: () => end(resolve), reject: (error: Error) => end(() => reject(error)) }
      const end = (act: () => void) => {
        this.#waiting.delete(waiter)
        this.#shares.giveBack(key)
        release()
        act()
      }
      this.#waiting.add(waiter)
      const release = cancellation.onCancel(waiter.reject)
    })
  }

  /** The server is there, or why it is not. */
  wake(error?: Error): void {
    for (const waiter of [...this.#waiting]) {
      if (error) waiter.reject(error)
      else waiter.resolve()
    }
  }

  #refuse(why: string): Promise<never> {
    const facts = { server: this.#server, dispatched: false, retryAfterMs: 1000 }
    return Promise.reject(new SwitchboardError('upstream_overloaded', `it is starting and ${why}`, facts))
  }
}
