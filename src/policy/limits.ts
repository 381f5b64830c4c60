/** What one key may have going on at once, so that no key can take all places for itself. */

export interface Limits {
  /** Takes a place for a call of that key: its release, or undefined when the key has no place left. */
  admit(keyId: string): (() => void) | undefined
}

/** @param inFlight calls one key may have running or waiting at a time. */
export function createLimits({ inFlight }: { readonly inFlight: number }): Limits {
  // One record a configured key, kept: see wire/slots.ts for what a Map under constant change costs.
  const running = new Map<string, { count: number }>()
  return {
    admit(keyId) {
      let calls = running.get(keyId)
      if (!calls) running.set(keyId, (calls = { count: 0 }))
      if (calls.count >= inFlight) return undefined
      calls.count++
      return () => void calls.count--
    }
  }
}
