/**
 * What the gateway runs by, kept in the state directory for `check --diff`: its servers and what each key may use. No
 * secret is in it: of what starts or reaches a server there is the same digest that the kept catalog has.
 */
import type { Allow, Config, Grant } from '../config/schema.js'
import { isObject } from '../wire/json-rpc.js'
import { digestOf, type CacheStore } from './disk-cache.js'

export interface Applied {
  readonly servers: readonly AppliedServer[]
  readonly keys: readonly AppliedKey[]
}

export interface AppliedServer {
  readonly id: string
  /** Of its command, arguments and address. */
  readonly digest: string
  readonly namespace: boolean
}

export interface AppliedKey {
  readonly id: string
  readonly allow: Allow
  /** Epoch milliseconds. */
  readonly expires?: number
}

const file = 'applied.json'
const version = 1

export function appliedOf({ servers, keys }: Pick<Config, 'servers' | 'keys'>): Applied {
  return {
    servers: servers.map(server => ({ id: server.id, digest: digestOf(server), namespace: server.namespace })),
    keys: keys.map(({ id, allow, expires }) => ({ id, allow, ...(expires !== undefined && { expires }) }))
  }
}

/** Keeps what has just been applied. */
export function keepApplied(store: CacheStore, config: Pick<Config, 'servers' | 'keys'>): void {
  const { servers, keys } = appliedOf(config)
  const plain = keys.map(({ allow, ...key }) => ({ ...key, allow: allow === '*' ? allow : Object.fromEntries(allow) }))
  const text = JSON.stringify({ version, servers, keys: plain }, null, 2) + '\n'
  if (store.read(file)?.toString() !== text) store.write(file, text)
}

/** What was applied last; undefined when nothing (readable) was. */
export function readApplied(store: Pick<CacheStore, 'read'>): Applied | undefined {
  try {
    const value: unknown = JSON.parse(store.read(file)?.toString() ?? '')
    if (!isObject(value) || value.version !== version) return undefined
    const { servers, keys } = value as unknown as {
      servers: AppliedServer[]
      keys: (AppliedKey & { allow: unknown })[]
    }
    return { servers, keys: keys.map(({ allow, ...key }) => ({ ...key, allow: allowOf(allow) })) }
  } catch {
    return undefined
  }
}

function allowOf(allow: unknown): Allow {
  return isObject(allow) ? new Map(Object.entries(allow) as [string, Grant][]) : '*'
}
