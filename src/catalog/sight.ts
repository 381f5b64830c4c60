/** For whom something is looked up: what they may see, and which servers they speak of. Types alone. */
import type { ChangeKind } from '../wire/lists.js'

/** Which servers a request speaks of: all, a named subset, or one whose items keep their own names. */
export interface Scope {
  readonly key: string
  /** Their ids; undefined: all servers. */
  readonly servers: readonly string[] | undefined
  /** Items keep their own names. */
  readonly plain: boolean
}

/** Decides what is visible; the same decision refuses calls. `id` is equal for equal decisions. */
export interface Sight {
  readonly id: string
  sees(server: string, kind: ChangeKind, wireName: string): boolean
}

/** For whom: what they may see, and which servers they speak of. */
export interface Viewer {
  readonly sight: Sight
  readonly scope: Scope
}
