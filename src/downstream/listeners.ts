/**
 * Who is to be told when what a key sees has changed: every open stream that asked for it, and only if its own view of
 * that kind is another than the one it was last told of.
 */
import type { Scope } from '../catalog/sight.js'
import type { Key } from '../policy/keys.js'
import { listChanged, type ChangeKind } from '../wire/lists.js'

export interface Listener {
  readonly key: Key
  readonly scope: Scope
  /** What it wants to be told of. */
  readonly changes: readonly ChangeKind[]
  /** Sends `notifications/<kind>/list_changed` on its stream. */
  tell(change: ChangeKind): void
}

export interface Listeners {
  /** Listens from now on. @returns the removal. */
  add(listener: Listener): () => void
  /** The catalog has been swapped. */
  changed(): void
  /** How many listen. */
  readonly size: number
}

/** @param signature of what a key sees of one kind in a scope, by the catalog of this moment. */
export function createListeners(signature: (key: Key, scope: Scope, change: ChangeKind) => string): Listeners {
  const told = new Map<Listener, Map<ChangeKind, string>>()
  return {
    add(listener) {
      const { key, scope, changes } = listener
      told.set(listener, new Map(changes.map(change => [change, signature(key, scope, change)])))
      return () => told.delete(listener)
    },
    get size() {
      return told.size
    },
    changed() {
      for (const [listener, known] of told) {
        for (const [change, before] of known) {
          const now = signature(listener.key, listener.scope, change)
          if (now === before) continue
          known.set(change, now)
          listener.tell(change)
        }
      }
    }
  }
}

/** The notification, ready to be serialised. */
export const changeNotice = (change: ChangeKind) => ({ jsonrpc: '2.0', method: listChanged(change) }) as const
