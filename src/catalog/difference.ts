/**
 * What each key would gain, lose and see under another name, if one set of servers and grants replaced another: pure,
 * over what the kept catalog knows. A server that it does not know, or not under this address, has no names to compare:
 * then the grants are shown.
 */
import { listKinds, listRows, type ListKind } from '../wire/lists.js'
import type { AppliedKey, AppliedServer } from './applied.js'
import type { DiskCache } from './disk-cache.js'
import { buildCatalog, type Catalog } from './snapshot.js'
import type { Sight } from './sight.js'

export interface Side {
  readonly servers: readonly AppliedServer[]
  readonly keys: readonly (Pick<AppliedKey, 'id' | 'expires'> & {
    readonly sight: Sight
    /** What it is granted on that server, in words; undefined for nothing. */
    readonly grant: (server: string) => string | undefined
  })[]
}

export interface Item {
  readonly kind: ListKind
  readonly name: string
}

export interface ServerChange {
  readonly id: string
  /** `restarted`: another command, other arguments or another address. */
  readonly change: 'added' | 'removed' | 'renamed' | 'restarted'
  /** Its name until now. */
  readonly was?: string
  /** Its tools are not known: it has never run under what reaches it. */
  readonly unknown: boolean
}

export interface KeyChange {
  readonly id: string
  readonly change: 'added' | 'removed' | 'changed' | 'same'
  readonly gained: readonly Item[]
  readonly lost: readonly Item[]
  readonly renamed: readonly (Item & { readonly was: string })[]
  /** Servers whose tools are not known and on which its grant changes. */
  readonly unknown: readonly { readonly server: string; readonly was?: string; readonly grant?: string }[]
  /** Epoch milliseconds; undefined: never. Present when it changes. */
  readonly expires?: { readonly was: number | undefined; readonly now: number | undefined }
}

export interface Difference {
  readonly servers: readonly ServerChange[]
  readonly keys: readonly KeyChange[]
}

/** @param skip servers and keys of which one side could not be read: nothing is said of them. */
export function difference(
  before: Side,
  after: Side,
  known: Pick<DiskCache, 'last'>,
  skip: { readonly servers: ReadonlySet<string>; readonly keys: ReadonlySet<string> }
): Difference {
  const were = new Map(before.servers.map(server => [server.id, server]))
  const are = new Map(after.servers.map(server => [server.id, server]))
  const newNames = renamedServers(before.servers, after.servers)
  const oldNames = new Map([...newNames].map(([was, id]) => [id, was]))
  const offered = (id: string) => known.last(id) ?? known.last(oldNames.get(id) ?? newNames.get(id) ?? id)

  const servers: ServerChange[] = []
  for (const { id, digest } of after.servers) {
    if (skip.servers.has(id)) continue
    const was = oldNames.get(id)
    const unknown = offered(id) === undefined
    const old = were.get(id)
    if (was !== undefined) servers.push({ id, change: 'renamed', was, unknown })
    else if (!old) servers.push({ id, change: 'added', unknown })
    else if (old.digest !== digest) servers.push({ id, change: 'restarted', unknown })
  }
  for (const { id } of before.servers) {
    if (are.has(id) || newNames.has(id) || skip.servers.has(id)) continue
    servers.push({ id, change: 'removed', unknown: offered(id) === undefined })
  }

  const catalogOf = (side: Side) =>
    buildCatalog(
      side.servers
        .filter(({ id }) => !skip.servers.has(id))
        .map(({ id, namespace }) => {
          const { offer = {}, verdict } = offered(id) ?? {}
          const overModernHttp = verdict?.era === 'modern' && verdict.transport === 'http'
          return { id, namespace, offer, overModernHttp, aliases: [], claims: [], instructions: true }
        })
    )
  const catalogs = [catalogOf(before), catalogOf(after)] as const
  const unknown = [...new Set([...were.keys(), ...are.keys()])].filter(
    id => offered(id) === undefined && !skip.servers.has(id)
  )

  const keysBefore = new Map(before.keys.map(key => [key.id, key]))
  const keysAfter = new Map(after.keys.map(key => [key.id, key]))
  const keys = [...new Set([...keysAfter.keys(), ...keysBefore.keys()])].filter(id => !skip.keys.has(id))
  return {
    servers,
    keys: keys.map((id): KeyChange => {
      const [was, is] = [keysBefore.get(id), keysAfter.get(id)]
      const old = was ? seen(catalogs[0], was.sight, server => newNames.get(server) ?? server) : new Map<string, Item>()
      const now = is ? seen(catalogs[1], is.sight, server => server) : new Map<string, Item>()
      const gained = [...now].flatMap(([identity, item]) => (old.has(identity) ? [] : [item]))
      const lost = [...old].flatMap(([identity, item]) => (now.has(identity) ? [] : [item]))
      const renamed = [...now].flatMap(([identity, item]) => {
        const { name } = old.get(identity) ?? item
        return name === item.name ? [] : [{ ...item, was: name }]
      })
      const unsure = unknown.flatMap(server => {
        const [wasGranted, granted] = [were.has(server) && was?.grant(server), are.has(server) && is?.grant(server)]
        if ((wasGranted || undefined) === (granted || undefined)) return []
        return [{ server, ...(wasGranted && { was: wasGranted }), ...(granted && { grant: granted }) }]
      })
      const expires = was && is && was.expires !== is.expires && { expires: { was: was.expires, now: is.expires } }
      const moved = gained.length + lost.length + renamed.length + unsure.length > 0 || Boolean(expires)
      const change = !was ? 'added' : !is ? 'removed' : moved ? 'changed' : 'same'
      return { id, change, gained, lost, renamed, unknown: unsure, ...expires }
    })
  }
}

/** Old id -> new id of servers that are reached as before and only have another name. */
function renamedServers(before: readonly AppliedServer[], after: readonly AppliedServer[]): Map<string, string> {
  const [were, are] = [new Set(before.map(({ id }) => id)), new Set(after.map(({ id }) => id))]
  const gone = before.filter(({ id }) => !are.has(id))
  const come = after.filter(({ id }) => !were.has(id))
  return new Map(
    gone.flatMap(({ id, digest }): [string, string][] => {
      const alike = come.filter(one => one.digest === digest)
      const twins = gone.filter(one => one.digest === digest)
      return alike.length === 1 && twins.length === 1 ? [[id, alike[0]!.id]] : []
    })
  )
}

/** What a key sees, by what it is: kind, server and wire name. */
function seen(catalog: Catalog, sight: Sight, serverNow: (id: string) => string): Map<string, Item> {
  const items = new Map<string, Item>()
  for (const kind of listKinds) {
    for (const { server, wireName, publicName } of catalog.entries[kind]) {
      if (!sight.sees(server, listRows[kind].change, wireName)) continue
      items.set(JSON.stringify([kind, serverNow(server), wireName]), { kind, name: publicName })
    }
  }
  return items
}
