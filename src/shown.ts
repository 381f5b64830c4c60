/** What a key is shown: the lists it may read, what the gateway says of itself to it, and what names mean there. */
import type { EntryNames } from './catalog/entry.js'
import { capabilitiesOf, instructionsOf } from './catalog/self-description.js'
import type { Scope } from './catalog/sight.js'
import { errorTable } from './errors.js'
import type { Finder } from './finding.js'
import type { Asker, Snapshot } from './parties.js'
import type { Key } from './policy/keys.js'
import { metaKey, type Era } from './wire/era.js'
import type { Answer, Json } from './wire/json-rpc.js'
import { listRows, type ChangeKind, type ListKind } from './wire/lists.js'

export interface Shown {
  /** What the gateway says of itself to this key, for `initialize` and `server/discover`. */
  describe(key: Key, scope: Scope, era: Era): { readonly capabilities: Json; readonly instructions?: string }
  /** Changes exactly when what this key sees of these lists changes. */
  signature(key: Key, scope: Scope, change: ChangeKind): string
  /**
   * The exported name of the one tool this key sees that has `name` as its exported or its own name; undefined when
   * there is none, or more than one.
   */
  publicNameOf(asker: Asker, name: string): Promise<string | undefined>
  /** A list request: the page of what this key sees. */
  list(asker: Asker, kind: ListKind, params: Json | undefined): Promise<Answer>
}

export interface ShownOptions {
  readonly snapshot: () => Snapshot
  /** Called for every list served; returns how long a client may keep it, in milliseconds (2026-07-28, Caching). */
  readonly onList: () => number
  /** The gateway's own `serverInfo`, for merged results of 2026-07-28. */
  readonly serverInfo: Json
}

export function createShown({ snapshot, onList, serverInfo }: ShownOptions, finder: Finder): Shown {
  const modernMembers = Buffer.from(
    `,"cacheScope":"private","resultType":"complete","_meta":${JSON.stringify({ [metaKey.serverInfo]: serverInfo })}`
  )
  return {
    describe(key, scope, era) {
      const { catalog } = snapshot()
      const audience = { sight: key.policy, scope }
      const instructions = instructionsOf(catalog, audience)
      return {
        capabilities: capabilitiesOf(catalog, audience, era),
        ...(instructions !== undefined && { instructions })
      }
    },

    signature(key, scope, change) {
      const { views } = snapshot()
      const { signature } = views.view(key.policy, scope, change)
      return change === 'resources' ? signature + views.view(key.policy, scope, 'templates').signature : signature
    },

    async publicNameOf(asker, name) {
      const { key, scope } = asker
      await finder.firstLists(asker, ['tools'])
      const { entries } = snapshot().views.view(key.policy, scope)
      if (entries.some(entry => nameIn(scope, entry) === name)) return name
      const [only, ...others] = entries.filter(({ wireName }) => wireName === name)
      return only && others.length === 0 ? nameIn(scope, only) : undefined
    },

    async list(asker, kind, params) {
      await finder.firstLists(asker, [kind])
      const { views } = snapshot()
      const ttlMs = onList()
      const cursor = params?.cursor
      const { era, key, scope } = asker
      const page =
        cursor === undefined || typeof cursor === 'string'
          ? views.view(key.policy, scope, kind).page(era, cursor)
          : undefined
      if (!page)
        return { error: { code: errorTable.invalid_params.rpc, message: 'Invalid cursor: begin again without one' } }
      const parts = [Buffer.from(`{"${listRows[kind].member}":[`), page.items, listTail]
      if (page.nextCursor !== undefined) parts.push(Buffer.from(`,"nextCursor":${JSON.stringify(page.nextCursor)}`))
      if (era === 'modern') parts.push(Buffer.from(`,"ttlMs":${ttlMs}`), modernMembers)
      return { pieces: [...parts, closing] }
    }
  }
}

const nameIn = ({ plain }: Scope, { plainName, publicName }: EntryNames) => (plain ? plainName : publicName)

const listTail = Buffer.from(']')
const closing = Buffer.from('}')
