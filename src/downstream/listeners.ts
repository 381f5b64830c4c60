/**
 * Who is to be told when the tools a key sees have changed: every open stream that asked for it, and only if its own
 * view is another than the one it was last told of.
 */
import type { Scope } from '../catalog/view.js'
import type { Key } from '../policy/keys.js'

export interface Listener {
  readonly key: Key
  readonly scope: Scope
  /** Sends `notifications/tools/list_changed` on its stream. */
  tell(): void
}

export interface Listeners {
  /** Listens from now on. @returns the removal. */
  add(listener: Listener): () => void
  /** The catalog has been swapped. */
  changed(): void
  /** How many listen. */
  readonly size: number
}

/** @param signature of what a key sees in a scope, by the catalog of this moment. */
export function createListeners(signature: (key: Key, scope: Scope) => string): Listeners {
  const told = new Map<Listener, string>()
  return {
    add(listener) {
      told.set(listener, signature(listener.key, listener.scope))
      return () => told.delete(listener)
    },
    get size() {
      return told.size
    },
    changed() {
      for (const [listener, before] of told) {
        const now = signature(listener.key, listener.scope)
        if (now === before) continue
        told.set(listener, now)
        listener.tell()
      }
    }
  }
}

export const toolsListChanged = { jsonrpc: '2.0', method: 'notifications/tools/list_changed' } as const
