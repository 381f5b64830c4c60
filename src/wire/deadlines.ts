/**
 * The ends of waits that all last equally long: each so long without a sign of life, or so long in all. One timer for all
 * of them, which the first arms; a wait that begins later ends later, so that nothing is to be done for it. When nobody
 * waits any more it is left to fire once in vain: to set and clear one for every call would cost the call.
 */
import { Slots } from './slots.js'

/** What somebody waits in. */
export interface Waiting {
  /** Called once, unless the wait has ended before. */
  expired(kind: 'idle' | 'total'): void
}

/** One wait that has begun. */
export interface Wait {
  readonly begun: number
  lastSign: number
  slot: number
  readonly waiting: Waiting
}

export class Deadlines {
  readonly #idleMs: number
  readonly #totalMs: number
  readonly #waits = new Slots<Wait>()
  #timer: NodeJS.Timeout | undefined

  constructor(idleMs: number, totalMs: number) {
    this.#idleMs = idleMs
    this.#totalMs = totalMs
  }

  /** Begins a wait. */
  begin(waiting: Waiting): Wait {
    const now = performance.now()
    const wait: Wait = { begun: now, lastSign: now, slot: -1, waiting }
    wait.slot = this.#waits.add(wait)
    if (!this.#timer) this.#arm(Infinity)
    return wait
  }

  /** A sign of life: the idle time begins anew, the total goes on. */
  touch(wait: Wait): void {
    wait.lastSign = performance.now()
  }

  /** It is over, in time or not. */
  end(wait: Wait): void {
    if (wait.slot === -1) return
    this.#waits.remove(wait.slot)
    wait.slot = -1
  }

  readonly #look = () => {
    this.#timer = undefined
    const now = performance.now()
    let next = Infinity
    for (const wait of [...this.#waits]) {
      // One that expires may end others.
      if (wait.slot === -1) continue
      const total = wait.begun + this.#totalMs - now
      const left = Math.min(wait.lastSign + this.#idleMs - now, total)
      // Timers may fire up to a millisecond early.
      if (left > 1) next = Math.min(next, left)
      else {
        this.end(wait)
        wait.waiting.expired(total <= 1 ? 'total' : 'idle')
      }
    }
    if (this.#waits.size > 0) this.#arm(next)
  }

  #arm(ms: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(this.#look, Math.min(ms, this.#idleMs, this.#totalMs))
    this.#timer.unref()
  }
}
