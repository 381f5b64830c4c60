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
  answer(): void
  notification(method: string): void
}

/**
 * @param tell told at most once a minute: how many there were since the last time it was.
 * @param now a clock in milliseconds.
 */
export function createStrays(tell: (messages: number) => void, now: () => number = () => performance.now()): Strays {
  let count = 0
  let untold = 0
  let minute = { begun: -Infinity, count: 0 }
  function answer(): void {
    count++
    untold++
    if (now() - minute.begun >= minuteMs) minute = { begun: now(), count: 0 }
    if (++minute.count !== most + 1) return
    tell(untold)
    untold = 0
  }
  return {
    get count() {
      return count
    },
    answer,
    notification(method) {
      // A log line on a link of several keys belongs to none of them, which is no fault of the server.
      if (method === 'notifications/message') count++
      else answer()
    }
  }
}
