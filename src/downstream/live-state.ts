/**
 * What one key holds open at a time: streams and subscriptions. There is room for so many; whoever takes one more loses
 * the oldest. A session's id is no such state and stays valid.
 */

export interface LiveState {
  /** Takes a place; `evict` is called when it must be given up for a newer one. @returns the release. */
  hold(keyId: string, evict: () => void): () => void
  /** Gives up everything a key holds. */
  drop(keyId: string): void
}

/** @param max places of one key. */
export function createLiveState(max: number): LiveState {
  const held = new Map<string, Set<() => void>>()
  return {
    hold(keyId, evict) {
      const own = held.get(keyId) ?? new Set()
      held.set(keyId, own)
      const place = () => evict()
      own.add(place)
      if (own.size > max) {
        const [oldest] = own
        if (oldest) own.delete(oldest)
        oldest?.()
      }
      return () => {
        own.delete(place)
        if (own.size === 0 && held.get(keyId) === own) held.delete(keyId)
      }
    },
    drop(keyId) {
      const own = held.get(keyId)
      held.delete(keyId)
      for (const evict of own ?? []) evict()
    }
  }
}
