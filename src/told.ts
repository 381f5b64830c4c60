/** What a client is told later, because it asked to be: updates of a resource, the fate of a task. */
import { failedError, withShownUris } from './answers.js'
import { errorTable, toSwitchboardError } from './errors.js'
import type { Finder } from './finding.js'
import type { Asker, RelayUpstream, Snapshot } from './parties.js'
import type { Key } from './policy/keys.js'
import { createSubscriptions } from './subscriptions.js'
import type { Askable, Askables } from './targets.js'
import { adjustError } from './wire/era.js'
import { isObject, type Json, type RpcError } from './wire/json-rpc.js'

export interface Told {
  /**
   * Has `tell` called with the params of every update of a resource, under the URI this client knows it by.
   * @returns the release, or the error that answers the request.
   */
  subscribe(asker: Asker, params: Json | undefined, tell: (params: Json) => void): Promise<Subscribed>
  /** Has `tell` called with the params of every `notifications/tasks` of that task; undefined if it is none of this key's. */
  watchTask(asker: Asker, taskId: string, tell: (params: Json) => void): Promise<(() => void) | undefined>
  /** Other servers may serve now: what was subscribed to is asked of them. */
  swapped(): void
}

export type Subscribed =
  | { readonly release: () => void; readonly error?: undefined }
  | { readonly error: RpcError; readonly release?: undefined }

export interface ToldOptions {
  readonly snapshot: () => Snapshot
  /** The key as it is configured at this moment: what is told later obeys what it may see by then. */
  readonly keyNow: (key: Key) => Key
}

export function createTold({ snapshot, keyNow }: ToldOptions, finder: Finder, askables: Askables): Told {
  const subscriptions = createSubscriptions(() => snapshot().upstreams)

  async function place(asker: Asker, params: Json, tell: (params: Json) => void): Promise<Subscribed> {
    const { uri } = params
    if (typeof uri !== 'string')
      return {
        error: { code: errorTable.invalid_params.rpc, message: 'expected params.uri to be the URI of a resource' }
      }
    const read = askables['resources/read'] as Askable
    const { key, scope, era } = asker
    const { target, upstream } = await finder.target(asker, (catalog, sight) =>
      read.find(catalog, { sight, scope }, params, key.id)
    )
    if (!target || !upstream) return { error: read.unknown(uri, era) }
    const declared = upstream.offer.capabilities?.resources
    if (upstream.offer.capabilities && !(isObject(declared) && declared.subscribe === true))
      return { error: { code: -32601, message: `subscribe is not supported for this resource: ${uri}` } }
    try {
      const updated = (told: Json & { readonly uri: string }) => {
        const { policy: sight } = keyNow(key)
        if (!sight.sees(target.server, 'resources', told.uri)) return
        // A part of what was subscribed to goes by its own URI.
        const { catalog } = snapshot()
        const isWhole = told.uri === target.wireName
        const shown = isWhole ? uri : catalog.shownUri({ sight, scope }, target.server, told.uri)
        tell({ ...told, uri: shown })
      }
      const open = (upstream: RelayUpstream) => upstream.subscribe(target.wireName, updated)
      return { release: await subscriptions.keep(target.server, upstream, open) }
    } catch (thrown) {
      const error = toSwitchboardError(thrown)
      const said = error.facts.answer && adjustError(error.facts.answer, era)
      return { error: said ?? failedError(error, 'resources/subscribe', target) }
    }
  }

  return {
    async subscribe(asker, params = {}, tell) {
      const subscribed = await place(asker, params, tell)
      const { reason } = asker.key.revocation
      if (!reason || subscribed.error) return subscribed
      subscribed.release()
      return { error: toSwitchboardError(reason).toRpc() }
    },

    async watchTask({ key, scope }, taskId, tell) {
      const { catalog, upstreams } = snapshot()
      const target = askables['tasks/get']?.find(catalog, { sight: key.policy, scope }, { taskId }, key.id)
      const upstream = target && upstreams.get(target.server)
      if (!target || !upstream) return undefined
      const told = (params: Json) => {
        const sight = keyNow(key).policy
        if (!sight.sees(target.server, 'tools', target.about ?? '')) return
        const shownUri = (uri: string) => snapshot().catalog.shownUri({ sight, scope }, target.server, uri)
        tell({ ...withShownUris(params, { shownUri }), taskId })
      }
      const open = (upstream: RelayUpstream) => upstream.watchTask(target.wireName, told)
      return subscriptions.keep(target.server, upstream, open).catch(() => undefined)
    },

    swapped: () => subscriptions.follow(snapshot().upstreams)
  }
}
