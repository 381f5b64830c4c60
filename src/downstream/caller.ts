/** Who calls and what the request speaks of: settled once, from key, path, query and header, before a door is reached. */
import type { IncomingMessage } from 'node:http'
import type { Catalog } from '../catalog/snapshot.js'
import type { Scope } from '../catalog/sight.js'
import type { Key } from '../policy/keys.js'

export interface Caller {
  readonly key: Key
  readonly scope: Scope
}

/**
 * Which servers this request speaks of. Unknown ones and those the key may not use are dropped alike; undefined when
 * nothing is left.
 */
export function scopeOf(
  catalog: Catalog,
  { policy }: Key,
  path: string | undefined,
  query: string | undefined,
  req: IncomingMessage
): Scope | undefined {
  const visible = (name: string): string | undefined => {
    const id = catalog.server(name.trim())?.source.id
    return id !== undefined && policy.seesServer(id) ? id : undefined
  }
  if (path !== undefined) {
    const id = visible(path)
    return id === undefined ? undefined : { key: `/${id}`, servers: [id], plain: true }
  }
  const header = req.headers['x-mcp-servers']
  const named = query ?? (typeof header === 'string' ? header : undefined)
  if (named === undefined) return { key: '*', servers: undefined, plain: false }
  const chosen = new Set(named.split(',').map(visible))
  const servers = catalog.servers.map(({ source }) => source.id).filter(id => chosen.has(id))
  return servers.length > 0 ? { key: servers.join(','), servers, plain: false } : undefined
}
