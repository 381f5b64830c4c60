/**
 * Requests without a key that works, by the network they come from. Who sends many wrong keys is told to wait; a key that
 * works is never asked about here, so nobody behind the same address can be locked out. Each network is told of once in a
 * while, with a count: a thousand guesses are not a thousand lines.
 */

export interface AuthFailuresOptions {
  /** Wrong keys of one network within a minute until further ones are to wait. */
  readonly perMinute: number
  /** A clock in milliseconds. @default performance.now */
  readonly now?: () => number
  /** @default 10000 */
  readonly maxNetworks?: number
}

export interface AuthFailures {
  /**
   * Counts one. A key that is missing is no guess and never has to wait.
   * @param tell told at once or, with those that follow it, at most every 10 s.
   * @returns the milliseconds it has to wait, if it has to.
   */
  count(kind: 'missing' | 'invalid', address: string | undefined, tell: (count: number) => void): number | undefined
  /** Tells what has not been told yet. */
  close(): void
}

interface Failures {
  begun: number
  count: number
  toldAt: number
  untold: number
  tell: (count: number) => void
}

const minute = 60_000
const tellEveryMs = 10_000

export function createAuthFailures(options: AuthFailuresOptions): AuthFailures {
  const { perMinute, now = () => performance.now(), maxNetworks = 10_000 } = options
  const networks = new Map<string, Failures>()
  let timer: NodeJS.Timeout | undefined

  function tell(failures: Failures, at: number): void {
    failures.tell(failures.untold)
    failures.toldAt = at
    failures.untold = 0
  }

  /** Tells what is due and forgets who was quiet for a minute. */
  function sweep(): void {
    timer = undefined
    const at = now()
    let isWaited = false
    for (const [network, failures] of networks) {
      if (failures.untold > 0 && at - failures.toldAt >= tellEveryMs) tell(failures, at)
      if (failures.untold > 0) isWaited = true
      else if (at - failures.begun >= minute) networks.delete(network)
    }
    if (isWaited) timer = setTimeout(sweep, tellEveryMs).unref()
  }

  function failuresOf(id: string, at: number): Failures {
    const known = networks.get(id)
    if (known) return known
    if (networks.size >= maxNetworks) {
      const [[oldest, failures] = []] = networks
      if (failures && failures.untold > 0) tell(failures, at)
      networks.delete(oldest as string)
    }
    const failures = { begun: at, count: 0, toldAt: -Infinity, untold: 0, tell() {} }
    networks.set(id, failures)
    return failures
  }

  return {
    count(kind, address, line) {
      const at = now()
      const failures = failuresOf(`${kind} ${networkOf(address)}`, at)
      if (at - failures.begun >= minute) {
        failures.begun = at
        failures.count = 0
      }
      failures.count++
      failures.untold++
      failures.tell = line
      if (at - failures.toldAt >= tellEveryMs) tell(failures, at)
      else timer ??= setTimeout(sweep, tellEveryMs).unref()
      return kind === 'invalid' && failures.count > perMinute ? failures.begun + minute - at : undefined
    },
    close() {
      clearTimeout(timer)
      for (const failures of networks.values()) if (failures.untold > 0) tell(failures, now())
    }
  }
}

/** What one subscriber has: an IPv4 address, or a /64 of IPv6. */
export function networkOf(address = ''): string {
  const v4 = /^(?:::ffff:)?(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  if (v4 !== undefined || !address.includes(':')) return v4 ?? address
  const [head = '', tail] = address.replace(/%.*$/, '').split('::')
  const groups = head === '' ? [] : head.split(':')
  const after = tail === undefined || tail === '' ? [] : tail.split(':')
  while (groups.length + after.length < 8) groups.push('0')
  return [...groups, ...after].slice(0, 4).join(':')
}
