/**
 * What one key holds open at a time: streams and subscriptions. There is room for so many; whoever takes one more loses
 * the oldest. A session's id is no such state and stays valid.
 */

import type { Key } from '../policy/keys.js'

export interface LiveState {
  /**
   * Takes a place; `evict` is called, and not before this has returned, when it must be given up for a newer one, or
   * because the key was revoked. @returns the release.
   */
  hold(key: Pick<Key, 'id' | 'revocation'>, evict: () => void): () => void
}

/** @param max places of one key. */
export function createLiveState(max: number): LiveState {
  const held = new Map<string, Set<() => void>>()
  return {
    hold({ id, revocation }, evict) {
      const own = held.get(id) ?? new Set()
      held.set(id, own)
      const leave = () => {
        own.delete(giveUp)
        stay()
        if (own.size === 0 && held.get(id) === own) held.delete(id)
      }
      const giveUp = () => {
        leave()
        evict()
      }
      own.add(giveUp)
      const gone = revocation.reason !== undefined
      const stay = gone ? () => {} : revocation.onCancel(giveUp)
      if (gone) queueMicrotask(giveUp)
      if (own.size > max) {
        const [oldest] = own
        oldest?.()
      }
      return leave
    }
  }
}
