/**
 * Messages of a server that belong to nobody: answers to what was never asked or is answered, notifications of no request.
 * They are dropped and counted. Now and then one is no fault, since a call may have been taken back while its answer was
 * on the way; many a minute are, and are told.
 */

/** More than so many within a minute are told. */
const most = 100
const minuteMs = 60_000

export interface Strays {
  readonly count: number
  add(): void
}

/**
 * @param tell told at most once a minute: how many there were since the last time it was.
 * @param now a clock in milliseconds.
 */
export function createStrays(tell: (messages: number) => void, now: () => number = () => performance.now()): Strays {
  let count = 0
  let told = 0
  let minute = { begun: -Infinity, count: 0 }
  return {
    get count() {
      return count
    },
    add() {
      count++
      if (now() - minute.begun >= minuteMs) minute = { begun: now(), count: 0 }
      if (++minute.count !== most + 1) return
      tell(count - told)
      told = count
    }
  }
}
