/**
 * The end of a wait: so long without a sign of life, or so long in all. One timer however often it is touched.
 */
export class Deadline {
  readonly #idleMs: number
  readonly #end: number
  readonly #expire: (kind: 'idle' | 'total') => void
  #lastSign: number
  #timer: NodeJS.Timeout

  /** @param expire called once, unless cleared before. */
  constructor(idleMs: number, totalMs: number, expire: (kind: 'idle' | 'total') => void) {
    const now = performance.now()
    this.#idleMs = idleMs
    this.#lastSign = now
    this.#end = now + totalMs
    this.#expire = expire
    this.#timer = setTimeout(this.#look, Math.min(idleMs, totalMs))
  }

  /** A sign of life: the idle time begins anew, the total goes on. */
  touch(): void {
    this.#lastSign = performance.now()
  }

  clear(): void {
    clearTimeout(this.#timer)
  }

  readonly #look = () => {
    const now = performance.now()
    const left = Math.min(this.#lastSign + this.#idleMs, this.#end) - now
    // Timers may fire up to a millisecond early.
    if (left > 1) this.#timer = setTimeout(this.#look, left)
    else this.#expire(this.#end - now <= 1 ? 'total' : 'idle')
  }
}
