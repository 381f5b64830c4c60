/**
 * What a request names, found for the one who asks and nobody else. While servers are still unheard of, what they may turn
 * out to have is waited for a little, by those whose request needs it.
 */
import type { Catalog } from './catalog/snapshot.js'
import type { ToolEntry } from './catalog/tool-entry.js'
import type { Sight, Viewer } from './catalog/sight.js'
import type { Asker, RelayUpstream, Snapshot } from './parties.js'
import { findTool, maySee, type Target } from './targets.js'
import { listKinds, type ListKind } from './wire/lists.js'

/** What a name means to a key: a tool and its server, a tool it does not see, or nothing. */
export interface FoundTool {
  readonly entry?: ToolEntry
  readonly upstream?: RelayUpstream
  readonly denied?: ToolEntry
}

export interface Finder {
  /** The tool of that name if this key sees it. */
  tool(asker: Asker, name: string): FoundTool | undefined
  /** The same, while servers are still unheard of, after a little wait; or which tool this key does not see. */
  toolLater(asker: Asker, name: string): Promise<FoundTool>
  /** The same for whatever `find` looks for. */
  target(
    asker: Asker,
    find: (catalog: Catalog, sight: Sight) => Target | undefined
  ): Promise<{ readonly target?: Target; readonly upstream?: RelayUpstream; readonly denied?: Target }>
  /** Waits, for a while, for the first answer of servers this key may use and nobody has heard of yet. */
  firstLists(asker: Asker, kinds: readonly ListKind[]): Promise<void> | undefined
}

/** How long a request waits for servers that have never answered. */
const firstListMs = 5000

export function createFinder(snapshot: () => Snapshot): Finder {
  function tool(asker: Asker, name: string): FoundTool | undefined {
    const { catalog, upstreams } = snapshot()
    const viewer = viewerOf(asker)
    const entry = findTool(catalog, viewer, name)
    const upstream = entry && upstreams.get(entry.server)
    return entry && upstream && maySee(viewer, entry) ? { entry, upstream } : undefined
  }

  return {
    tool,

    async toolLater(asker, name) {
      await firstLists(snapshot(), asker, ['tools'])
      const found = tool(asker, name)
      if (found) return found
      const denied = findTool(snapshot().catalog, viewerOf(asker), name)
      return denied ? { denied } : {}
    },

    async target(asker, find) {
      const first = snapshot()
      for (const waited of [false, true]) {
        if (waited) await firstLists(first, asker, listKinds)
        const { catalog, upstreams } = snapshot()
        const target = find(catalog, asker.key.policy)
        const upstream = target && upstreams.get(target.server)
        if (target && upstream) return { target, upstream }
        const denied = waited ? find(catalog, everything) : undefined
        if (denied) return { denied }
      }
      return {}
    },

    firstLists: (asker, kinds) => firstLists(snapshot(), asker, kinds)
  }
}

export const viewerOf = ({ key, scope }: Asker): Viewer => ({ sight: key.policy, scope })

/** For the audit trail alone: what somebody who may see everything would have reached. */
const everything: Sight = { id: '*', sees: () => true }

function firstLists(
  { upstreams }: Snapshot,
  { key, scope }: Asker,
  kinds: readonly ListKind[]
): Promise<void> | undefined {
  const unheard: Promise<void>[] = []
  for (const [id, upstream] of upstreams) {
    const heard = upstream.firstList(kinds)
    if (!heard || !key.policy.seesServer(id)) continue
    if (scope.servers && !scope.servers.includes(id)) continue
    unheard.push(heard)
  }
  return unheard.length === 0 ? undefined : soon(Promise.all(unheard))
}

async function soon(unheard: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const enough = new Promise<void>(resolve => (timer = setTimeout(resolve, firstListMs)))
  await Promise.race([unheard, enough])
  clearTimeout(timer)
}
