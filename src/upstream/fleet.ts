/**
 * All upstream servers, changed by difference: what a new configuration leaves alone keeps its link and its process, what
 * it changes is started anew beside the old one, which ends when its last call is answered. Calls go to the new one at once.
 */
import { isDeepStrictEqual } from 'node:util'
import type { ServerConfig } from '../config/schema.js'
import type { Upstream } from './upstream.js'

export interface Member {
  readonly config: ServerConfig
  readonly upstream: Upstream
}

export interface FleetOptions {
  /**
   * Makes a server that is not started yet.
   * @param before the one it replaces; of a new name one with the same command and address, which it may replace.
   */
  readonly make: (config: ServerConfig, before: Upstream | undefined) => Upstream
  /** How long calls of a server that is replaced or removed may take to end, in milliseconds. */
  readonly drainMs: number
}

export interface FleetChange {
  readonly started: readonly string[]
  readonly restarted: readonly string[]
  readonly ended: readonly string[]
}

export class Fleet {
  readonly #options: FleetOptions
  #members: ReadonlyMap<string, Member> = new Map()
  #upstreams: ReadonlyMap<string, Upstream> = new Map()
  readonly #retiring = new Set<Promise<void>>()
  /** By address, the end of the last process that served it. */
  readonly #leaving = new Map<string, Promise<void>>()
  #closing = false

  constructor(options: FleetOptions) {
    this.#options = options
  }

  /** By id, in the order of the configuration; another map after every change. */
  get upstreams(): ReadonlyMap<string, Upstream> {
    return this.#upstreams
  }

  get members(): Iterable<Member> {
    return this.#members.values()
  }

  /** Whether this is the server that calls go to. */
  isCurrent(upstream: Upstream): boolean {
    return this.#upstreams.get(upstream.id) === upstream
  }

  /** Takes a configuration over. The returned function starts what is new; it must be called once. */
  apply(configs: readonly ServerConfig[]): { readonly change: FleetChange; readonly start: () => void } {
    const before = this.#members
    const members = new Map<string, Member>()
    const fresh: Upstream[] = []
    const change = { started: [] as string[], restarted: [] as string[], ended: [] as string[] }
    for (const config of configs) {
      const old = before.get(config.id)
      if (old && isSameRun(old.config, config)) {
        members.set(config.id, { config, upstream: old.upstream })
        continue
      }
      const like = old ?? [...before.values()].find(member => isSameServer(member.config, config))
      const upstream = this.#options.make(config, like?.upstream)
      members.set(config.id, { config, upstream })
      if (old) this.#retire(old.upstream)
      fresh.push(upstream)
      ;(old ? change.restarted : change.started).push(config.id)
    }
    for (const [id, { upstream }] of before) {
      if (members.has(id)) continue
      change.ended.push(id)
      this.#retire(upstream)
    }
    this.#members = members
    this.#upstreams = new Map([...members].map(([id, { upstream }]) => [id, upstream]))
    return {
      change,
      start: () => {
        // Two processes cannot serve one address: a new one waits until the old one has left it.
        for (const upstream of fresh) upstream.start(this.#leaving.get(servedAt(upstream.config) ?? ''))
      }
    }
  }

  async close(): Promise<void> {
    this.#closing = true
    await Promise.all([...this.#upstreams.values()].map(upstream => upstream.close()))
    await Promise.all(this.#retiring)
  }

  #retire(upstream: Upstream): void {
    const end = performance.now() + this.#options.drainMs
    const retired = (async () => {
      while (upstream.busy && !this.#closing && performance.now() < end)
        await new Promise(resolve => setTimeout(resolve, 25))
      await upstream.close()
    })().finally(() => this.#retiring.delete(retired))
    this.#retiring.add(retired)
    const address = servedAt(upstream.config)
    if (address === undefined) return
    const left = Promise.all([this.#leaving.get(address), retired]).then(() => {
      if (this.#leaving.get(address) === left) this.#leaving.delete(address)
    })
    this.#leaving.set(address, left)
  }
}

/** Whether nothing changed but what only the catalog looks at. */
function isSameRun(a: ServerConfig, b: ServerConfig): boolean {
  return isDeepStrictEqual(running(a), running(b))
}

/** The address a process of ours serves. */
function servedAt({ command, url }: ServerConfig): string | undefined {
  return command === undefined || url === undefined ? undefined : new URL(url).host
}

function running({ aliases, namespace, instructions, resourceClaims, description, ...rest }: ServerConfig): object {
  return rest
}

/** Whether what was learnt of one holds for the other. */
export function isSameServer(a: ServerConfig, b: ServerConfig): boolean {
  return isDeepStrictEqual([a.command, a.args, a.url], [b.command, b.args, b.url])
}
