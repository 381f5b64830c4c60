/**
 * What was last known of every server, kept across restarts: with it the gateway lists everything the moment it listens,
 * whatever is down. An entry belongs to one command or address; another one's list is never shown.
 */
import { createHash } from 'node:crypto'
import type { ServerConfig } from '../config/schema.js'
import { isObject } from '../wire/json-rpc.js'
import { listKinds, type Offer } from '../wire/lists.js'

export interface CachedServer {
  readonly offer: Offer
  /** When the server last confirmed it, epoch milliseconds. */
  readonly confirmed: number
  /** What the server was found to speak, and when. */
  readonly verdict?: {
    readonly era: 'legacy' | 'modern'
    readonly transport: 'stdio' | 'sse' | 'http'
    readonly at: number
  }
}

/** Where the cache lies: the state directory. */
export interface CacheStore {
  read(name: string): Buffer | undefined
  write(name: string, bytes: string): void
}

export interface DiskCache {
  /** What is known of this server, unless it is too old or was somebody else's. */
  get(config: ServerConfig): CachedServer | undefined
  /** What a server of that name was last known to offer, whatever it was. */
  last(id: string): (CachedServer & { readonly digest: string }) | undefined
  /** Keeps what the server has just said; written a little later. */
  put(config: ServerConfig, entry: CachedServer): void
  /** Writes what has not been written yet. */
  flush(): void
}

const file = 'catalog.json'
const unconfirmedMs = 30 * 24 * 3600 * 1000
const verdictMs = 24 * 3600 * 1000
const writeAfterMs = 300
/** A list that has not changed is confirmed on disk this often. */
const confirmEveryMs = 3600 * 1000

interface Stored extends CachedServer {
  readonly digest: string
}

export function createDiskCache(store: CacheStore, now: () => number = Date.now): DiskCache {
  const servers = new Map<string, Stored>(load(store))
  let timer: NodeJS.Timeout | undefined

  function flush(): void {
    if (!timer) return
    clearTimeout(timer)
    timer = undefined
    store.write(file, JSON.stringify({ version: 2, servers: Object.fromEntries(servers) }))
  }

  return {
    get(config) {
      const entry = servers.get(config.id)
      if (!entry || entry.digest !== digestOf(config) || now() - entry.confirmed > unconfirmedMs) return undefined
      const { offer, confirmed, verdict } = entry
      return { offer, confirmed, ...(verdict && now() - verdict.at < verdictMs && { verdict }) }
    },
    last(id) {
      const entry = servers.get(id)
      return entry && now() - entry.confirmed <= unconfirmedMs ? entry : undefined
    },
    put(config, entry) {
      const digest = digestOf(config)
      const old = servers.get(config.id)
      const same =
        old?.digest === digest &&
        old.offer === entry.offer &&
        old.verdict?.era === entry.verdict?.era &&
        old.verdict?.transport === entry.verdict?.transport
      if (same && entry.confirmed - old.confirmed < confirmEveryMs) return
      servers.set(config.id, { ...entry, digest })
      timer ??= setTimeout(flush, writeAfterMs)
    },
    flush
  }
}

/** What makes a server that server: its command, arguments and address. */
export function digestOf({ command, args, url }: Pick<ServerConfig, 'command' | 'args' | 'url'>): string {
  return createHash('sha256')
    .update(JSON.stringify([command, args, url]))
    .digest('hex')
    .slice(0, 32)
}

/** Reads the file; one that is damaged or of another version is as good as none. */
function load(store: CacheStore): [string, Stored][] {
  try {
    const value: unknown = JSON.parse(store.read(file)?.toString() ?? '{}')
    if (!isObject(value) || value.version !== 2 || !isObject(value.servers)) return []
    return Object.entries(value.servers).filter((pair): pair is [string, Stored] => isStored(pair[1]))
  } catch {
    return []
  }
}

function isStored(value: unknown): value is Stored {
  if (!isObject(value) || typeof value.digest !== 'string' || typeof value.confirmed !== 'number') return false
  const { offer } = value
  return isObject(offer) && listKinds.every(kind => isList(offer[kind]))
}

const isList = (list: unknown) => list === undefined || (Array.isArray(list) && list.every(isObject))
