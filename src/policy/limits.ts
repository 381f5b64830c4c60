/** What runs for each key: how much may at once, so that no key can take all places for itself, and what ends with the key. */
import type { Cancellation } from '../wire/cancellation.js'
import { Slots } from '../wire/slots.js'
import type { Key } from './keys.js'

/** A call as far as its key is concerned. */
export interface KeyedCall {
  readonly key: Key
  readonly cancellation: Cancellation
}

/** Held by a call while it runs; given back once. */
export interface Place {
  leave(): void
}

export interface Limits {
  /** Calls that run at this moment, of all keys. */
  readonly running: number
  /** Takes a place for a call of its key; undefined when that has none left. Cancels one whose key is revoked already. */
  admit(call: KeyedCall): Place | undefined
  /** Cancels the calls of keys that are revoked. @returns how many, by key id. */
  endRevoked(): ReadonlyMap<string, number>
}

/** One record a configured key, kept: see wire/slots.ts for what a Map under constant change costs. */
interface Count {
  calls: number
}

class TakenPlace implements Place {
  readonly #slot: number

  constructor(
    readonly call: KeyedCall,
    private readonly count: Count,
    private readonly places: Slots<TakenPlace>
  ) {
    count.calls++
    this.#slot = places.add(this)
  }

  leave(): void {
    this.count.calls--
    this.places.remove(this.#slot)
  }
}

/** @param inFlight calls one key may have running or waiting at a time. */
export function createLimits({ inFlight }: { readonly inFlight: number }): Limits {
  const counts = new Map<string, Count>()
  const places = new Slots<TakenPlace>()
  return {
    get running() {
      return places.size
    },
    admit(call) {
      const { key, cancellation } = call
      let count = counts.get(key.id)
      if (!count) counts.set(key.id, (count = { calls: 0 }))
      if (count.calls >= inFlight) return undefined
      // Its body may have come after the key went.
      if (key.revocation.reason) cancellation.cancel(key.revocation.reason)
      return new TakenPlace(call, count, places)
    },
    endRevoked() {
      const ended = new Map<string, number>()
      for (const { call } of [...places]) {
        const { key, cancellation } = call
        if (!key.revocation.reason || cancellation.reason) continue
        cancellation.cancel(key.revocation.reason)
        ended.set(key.id, (ended.get(key.id) ?? 0) + 1)
      }
      return ended
    }
  }
}
