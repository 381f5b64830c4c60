/** What one key may have going on at once, so that no key can take all places for itself. */

export interface Limits {
  /** Takes a place for a call of that key: its release, or undefined when the key has no place left. */
  admit(keyId: string): (() => void) | undefined
}

/** @param inFlight calls one key may have running or waiting at a time. */
export function createLimits({ inFlight = 100 } = {}): Limits {
  const running = new Map<string, number>()
  return {
    admit(keyId) {
      const count = running.get(keyId) ?? 0
      if (count >= inFlight) return undefined
      running.set(keyId, count + 1)
      return () => {
        const left = (running.get(keyId) ?? 1) - 1
        if (left > 0) running.set(keyId, left)
        else running.delete(keyId)
      }
    }
  }
}
