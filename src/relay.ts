/**
 * The lane. A request comes down once and its answer goes back once:
 *
 *   find (catalog) → check (policy) → admit (limits) → request (upstream) → record (audit)
 *
 * It knows neither HTTP nor processes. Names and ids are rewritten, era members are bridged, all else passes by
 * reference. A denied tool and one that does not exist are the same answer.
 */
import { bridged, bridgedCall, failedError, failedResult, outcomeOf, withShownUris, type Between } from './answers.js'
import type { EntryNames } from './catalog/entry.js'
import type { Viewer } from './catalog/routing.js'
import { capabilitiesOf, instructionsOf } from './catalog/self-description.js'
import type { Catalog } from './catalog/snapshot.js'
import type { ToolEntry } from './catalog/tool-entry.js'
import type { Scope, Sight, Views } from './catalog/view.js'
import { askLeg, callLeg, mirrorFault, progressOf, wireParams } from './legs.js'
import { errorTable, SwitchboardError, toSwitchboardError } from './errors.js'
import type { Audit, Outcome } from './observe/audit.js'
import type { Key } from './policy/keys.js'
import type { Limits } from './policy/limits.js'
import type { Cancellation } from './wire/cancellation.js'
import { adjustError, metaKey, type Era } from './wire/era.js'
import { isObject, type Answer, type Json, type RpcError, type RpcNotification } from './wire/json-rpc.js'
import type { ClientFacts, Leg } from './wire/leg.js'
import { listKinds, listRows, type ChangeKind, type ListKind, type Offer } from './wire/lists.js'
import { type Askable, createAskables, findTool, maySee, type Target } from './targets.js'
import { createSubscriptions } from './subscriptions.js'
import type { TaskIds } from './tasks.js'

/** One downstream request until its final answer, as the lane sees it. */
export interface Exchange {
  readonly key: Key
  readonly era: Era
  readonly client: ClientFacts
  readonly scope: Scope
  readonly cancellation: Cancellation
  /** The least severe level of log messages this client wants; undefined: none. */
  readonly logLevel: string | undefined
  /** Trace context to pass on. */
  readonly headers?: Readonly<Record<string, string>>
  /** `Mcp-Param-*` headers as received with a modern request, names in lower case; absent where none are due. */
  readonly paramHeaders?: Readonly<Record<string, string>>
  /** Tells the client something before the answer; dropped if the client takes no stream. */
  notify(notification: RpcNotification): void
  /** The server lets its callers wait for so long and come back (SEP-1699). */
  pause?(retryMs: number): void
}

/** Who asks for what, as far as finding it goes. */
export type Asker = Pick<Exchange, 'key' | 'scope' | 'era'>

/** What the lane needs of an upstream server. */
export interface RelayUpstream {
  readonly era: Era | undefined
  /** What the server declared; undefined while it is not connected. */
  readonly info: { readonly capabilities: Json } | undefined
  /** What it was last known to offer. */
  readonly offer: Offer
  /** The first attempt to connect, as long as it runs and one of these lists is not known. */
  firstList(kinds: readonly ListKind[]): Promise<void> | undefined
  /** Seconds of silence after which a request to it is given up. */
  readonly config: { readonly timeout: number }
  /** Fetches a list again; never rejects. */
  refresh(kind: ListKind): Promise<void>
  /** The server no longer knows an item it listed: the list is fetched again soon. */
  listDoubtful(kind: ListKind): void
  /** Has `listener` told when that resource is updated. @throws SwitchboardError when the server refuses. */
  subscribe(uri: string, listener: (params: Json & { readonly uri: string }) => void): Promise<() => void>
  /** Has `listener` told what becomes of that task. @throws SwitchboardError when the server refuses. */
  watchTask(id: string, listener: (params: Json) => void): Promise<() => void>
  request(method: string, params: Json | undefined, leg: Leg): Promise<Answer>
}

/** Everything a request looks at, swapped as a whole; a request keeps the one it began with. */
export interface Snapshot {
  readonly catalog: Catalog
  readonly views: Views
  readonly upstreams: ReadonlyMap<string, RelayUpstream>
}

export interface RelayOptions {
  readonly snapshot: () => Snapshot
  /** Called for every list served; returns how long a client may keep it, in milliseconds (2026-07-28, Caching). */
  readonly onList: () => number
  readonly limits: Limits
  /** Notifications of one call that its caller hears within a second. */
  readonly perSecond: number
  readonly audit: Audit
  /** The gateway's own `serverInfo`, for merged results of 2026-07-28. */
  readonly serverInfo: Json
  readonly taskIds: TaskIds
  /** The key as it is configured at this moment: what is told later obeys what it may see by then. */
  readonly keyNow: (key: Key) => Key
}

export interface Relay {
  /** What the gateway says of itself to this key, for `initialize` and `server/discover`. */
  describe(key: Key, scope: Scope, era: Era): { readonly capabilities: Json; readonly instructions?: string }
  /** Changes exactly when what this key sees of these lists changes. */
  signature(key: Key, scope: Scope, change: ChangeKind): string
  /**
   * The exported name of the one tool this key sees that has `name` as its exported or its own name; undefined when
   * there is none, or more than one.
   */
  publicNameOf(exchange: Exchange, name: string): Promise<string | undefined>
  /** A list request: the page of what this key sees. */
  list(exchange: Exchange, kind: ListKind, params: Json | undefined): Promise<Answer>
  /** `tools/call`. Failures of the way there are results with `isError`, which a model can act on. */
  callTool(exchange: Exchange, params?: Json): Promise<Answer>
  /** `prompts/get`, `resources/read`, `completion/complete`. Failures of the way there are errors. */
  ask(exchange: Exchange, method: string, params?: Json): Promise<Answer>
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

/** What a name means to a key: a tool and its server, a tool it does not see, or nothing. */
interface Found {
  readonly entry?: ToolEntry
  readonly upstream?: RelayUpstream
  readonly denied?: ToolEntry
}

/** How long a list waits for servers that have never answered. */
const firstListMs = 5000

export function createRelay(options: RelayOptions): Relay {
  const { snapshot, onList, limits, perSecond, audit, serverInfo, taskIds, keyNow } = options
  const askables = createAskables(taskIds)
  const subscriptions = createSubscriptions(() => snapshot().upstreams)
  const ways: WayOptions = { snapshot, taskIds }
  const modernMembers = Buffer.from(
    `,"cacheScope":"private","resultType":"complete","_meta":${JSON.stringify({ [metaKey.serverInfo]: serverInfo })}`
  )

  async function list(exchange: Exchange, kind: ListKind, params: Json | undefined): Promise<Answer> {
    await firstLists(snapshot(), exchange, [kind])
    const { views } = snapshot()
    const ttlMs = onList()
    const cursor = params?.cursor
    const { era, key, scope } = exchange
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

  async function callTool(exchange: Exchange, params: Json = {}): Promise<Answer> {
    const begun = performance.now()
    const { name } = params
    if (typeof name !== 'string') return invalid('expected params.name to be the name of a tool')
    if (params.arguments !== undefined && !isObject(params.arguments))
      return invalid('expected params.arguments to be an object')

    let release: (() => void) | undefined
    try {
      const found = look(exchange, name) ?? (await lookLonger(exchange, name))
      const { entry, upstream, denied } = found
      if (!entry || !upstream) {
        record(
          exchange,
          begun,
          denied,
          denied?.wireName ?? name,
          denied ? 'denied' : 'unknown',
          errorTable.invalid_params.rpc
        )
        return { error: { code: errorTable.invalid_params.rpc, message: `Unknown tool: ${name}` } }
      }
      const mismatch = mirrorFault(exchange, entry, params)
      if (mismatch !== undefined) {
        record(exchange, begun, entry, entry.wireName, 'failed', errorTable.header_mismatch.rpc)
        return { error: { code: errorTable.header_mismatch.rpc, message: mismatch } }
      }
      release = limits.admit(exchange.key.id)
      try {
        if (!release) throw tooMany()
        const given = await request(exchange, upstream, entry, params)
        const answer = bridgedCall(given, entry, new Way(ways, exchange, upstream, entry.server, entry.wireName))
        const outcome = answer.error ? 'rpc_error' : answer.result?.isError === true ? 'is_error' : 'ok'
        record(exchange, begun, entry, entry.wireName, outcome, answer.error?.code)
        return answer
      } catch (thrown) {
        const error = toSwitchboardError(thrown)
        record(exchange, begun, entry, entry.wireName, outcomeOf(error), error.rpc)
        return { result: failedResult(error, entry, name, exchange.era) }
      }
    } finally {
      release?.()
    }
  }

  /** The tool of that name if this key sees it. */
  function look(exchange: Exchange, name: string): Found | undefined {
    const { catalog, upstreams } = snapshot()
    const viewer = viewerOf(exchange)
    const entry = findTool(catalog, viewer, name)
    const upstream = entry && upstreams.get(entry.server)
    return entry && upstream && maySee(viewer, entry) ? { entry, upstream } : undefined
  }

  /** The same, while servers are still unheard of, after a little wait; or which tool this key does not see. */
  async function lookLonger(exchange: Exchange, name: string): Promise<Found> {
    await firstLists(snapshot(), exchange)
    const found = look(exchange, name)
    if (found) return found
    const { catalog } = snapshot()
    const denied = findTool(catalog, viewerOf(exchange), name)
    return denied ? { denied } : {}
  }

  async function request(exchange: Exchange, upstream: RelayUpstream, entry: ToolEntry, params: Json): Promise<Answer> {
    const progress = progressOf(exchange, upstream.config.timeout, entry, params)
    const send = (entry: ToolEntry) =>
      upstream.request(
        'tools/call',
        wireParams(params, entry),
        callLeg(exchange, params, entry, upstream.era, progress, perSecond)
      )
    try {
      const answer = await send(entry)
      if (answer.error && saysUnknown(answer.error)) upstream.listDoubtful('tools')
      // A server of 2025 checks no headers: whatever it means by that code, the call has run.
      if (answer.error?.code !== errorTable.header_mismatch.rpc || upstream.era !== 'modern') return answer
      // Its schema has changed since we read it. The request was refused before it ran, so it may be sent again.
      await upstream.refresh('tools')
      return await send(findTool(snapshot().catalog, viewerOf(exchange), params.name as string) ?? entry)
    } finally {
      progress?.stop()
    }
  }

  /** Everything but tools goes the same lane; what differs is a row of `askables`. */
  async function ask(exchange: Exchange, method: string, params: Json = {}): Promise<Answer> {
    const begun = performance.now()
    const askable = askables[method]
    const name = askable?.nameOf(params)
    if (!askable || name === undefined) return invalid(askable?.expected ?? `no such method: ${method}`)
    const { target, upstream, denied } = await locate(exchange, (catalog, sight) =>
      askable.find(catalog, { sight, scope: exchange.scope }, params, exchange.key.id)
    )
    const meant = target ?? denied
    const tell = (outcome: Outcome, code?: number) =>
      record(exchange, begun, meant, meant?.about ?? meant?.wireName ?? name, outcome, code, method)
    if (!target || !upstream) {
      const error = askable.unknown(name, exchange.era)
      tell(denied ? 'denied' : 'unknown', error.code)
      return { error }
    }
    const { server, wireName, about } = target
    const task = about === undefined ? undefined : { id: wireName, shown: name }
    const named = { server, wireName: about ?? wireName }
    const release = limits.admit(exchange.key.id)
    const progress = progressOf(exchange, upstream.config.timeout, named, params)
    try {
      if (!release) throw tooMany()
      const capabilities = upstream.info?.capabilities ?? upstream.offer.capabilities
      const unable = method === 'completion/complete' && capabilities && !('completions' in capabilities)
      const answer: Answer = unable
        ? { result: { completion: { values: [] } } }
        : await upstream.request(method, target.params, askLeg(exchange, progress, perSecond, !askable.isOnce))
      if (answer.error && askable.isUnknown(answer.error)) upstream.listDoubtful(askable.kind)
      if (task && method !== 'tasks/update' && answer.error?.code === errorTable.invalid_params.rpc) {
        tell('rpc_error', answer.error.code)
        return { error: askable.unknown(name, exchange.era) }
      }
      const final = bridged(answer, new Way(ways, exchange, upstream, target.server, target.about ?? '', task))
      tell(final.error ? 'rpc_error' : 'ok', final.error?.code)
      return askable.isCacheable && final.result ? { result: withCacheMembers(final.result, exchange.era) } : final
    } catch (thrown) {
      const error = toSwitchboardError(thrown)
      tell(outcomeOf(error), error.rpc)
      return { error: failedError(error, method, named) }
    } finally {
      progress?.stop()
      release?.()
    }
  }

  /** What a request names if this key sees it; while servers are still unheard of, after a little wait. */
  async function locate(
    asker: Asker,
    find: (catalog: Catalog, sight: Sight) => Target | undefined
  ): Promise<{ target?: Target; upstream?: RelayUpstream; denied?: Target }> {
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
  }

  const subscribe: Relay['subscribe'] = async (asker, params = {}, tell) => {
    const { uri } = params
    if (typeof uri !== 'string')
      return {
        error: { code: errorTable.invalid_params.rpc, message: 'expected params.uri to be the URI of a resource' }
      }
    const read = askables['resources/read'] as Askable
    const { key, scope, era } = asker
    const { target, upstream } = await locate(asker, (catalog, sight) =>
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

  const watchTask: Relay['watchTask'] = async ({ key, scope }, taskId, tell) => {
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
  }

  /** One line of the audit trail. */
  function record(
    { key, client, era }: Exchange,
    begun: number,
    meant: { readonly server: string } | undefined,
    tool: string,
    outcome: Outcome,
    code: number | undefined,
    method?: string
  ): void {
    const ms = performance.now() - begun
    audit({ key: key.id, client: clientName(client), era, method, server: meant?.server, tool, outcome, code, ms })
  }

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
    async publicNameOf(exchange, name) {
      const { key, scope } = exchange
      await firstLists(snapshot(), exchange)
      const { entries } = snapshot().views.view(key.policy, scope)
      if (entries.some(entry => nameIn(scope, entry) === name)) return name
      const [only, ...others] = entries.filter(({ wireName }) => wireName === name)
      return only && others.length === 0 ? nameIn(scope, only) : undefined
    },
    list,
    callTool,
    ask,
    subscribe,
    watchTask,
    swapped: () => subscriptions.follow(snapshot().upstreams)
  }
}

type WayOptions = Pick<RelayOptions, 'snapshot' | 'taskIds'>

/** A class and no object of closures: one is made for every call. */
class Way implements Between {
  readonly to: Between['to']
  readonly from: Between['from']

  constructor(
    private readonly options: WayOptions,
    private readonly exchange: Exchange,
    upstream: RelayUpstream,
    private readonly server: string,
    private readonly tool: string,
    /** The task the request was about: its id at the server, and as the client knows it. */
    private readonly task?: { readonly id: string; readonly shown: string }
  ) {
    this.to = { era: exchange.era, capabilities: exchange.client.capabilities }
    this.from = { era: upstream.era ?? 'legacy', capabilities: upstream.info?.capabilities ?? noCapabilities }
  }

  get isTask(): boolean {
    return this.task !== undefined
  }

  shownUri(uri: string): string {
    return this.options.snapshot().catalog.shownUri(viewerOf(this.exchange), this.server, uri)
  }

  shownTask(id: string): string {
    const { server, tool, exchange, task } = this
    // Sealed again, it would be another text: a client knows its task by the id it asked for.
    if (id === task?.id) return task.shown
    return this.options.taskIds.seal({ server, tool, id }, exchange.key.id)
  }
}

const noCapabilities: Json = Object.freeze({})

const viewerOf = ({ key, scope }: Asker): Viewer => ({ sight: key.policy, scope })

/** For the audit trail alone: what somebody who may see everything would have reached. */
const everything: Sight = { id: '*', sees: () => true }

/** `resources/read` may be kept by a client, but only by that one (2026-07-28, Caching). */
function withCacheMembers(result: Json, era: Era): Json {
  return era === 'legacy' ? result : { ttlMs: 0, ...result, cacheScope: 'private' }
}

const nameIn = ({ plain }: Scope, { plainName, publicName }: EntryNames) => (plain ? plainName : publicName)

const listTail = Buffer.from(']')
const closing = Buffer.from('}')

/** Waits, for a while, for the first answer of servers this key may use and nobody has heard of yet. */
async function firstLists(
  { upstreams }: Snapshot,
  { key, scope }: Asker,
  kinds: readonly ListKind[] = ['tools']
): Promise<void> {
  const unheard: Promise<void>[] = []
  for (const [id, upstream] of upstreams) {
    const heard = upstream.firstList(kinds)
    if (!heard || !key.policy.seesServer(id)) continue
    if (scope.servers && !scope.servers.includes(id)) continue
    unheard.push(heard)
  }
  if (unheard.length === 0) return
  let timer: NodeJS.Timeout | undefined
  const enough = new Promise<void>(resolve => (timer = setTimeout(resolve, firstListMs)))
  await Promise.race([Promise.all(unheard), enough])
  clearTimeout(timer)
}

function saysUnknown({ code, message }: RpcError): boolean {
  return code === errorTable.invalid_params.rpc && /unknown|not found/i.test(message) && /tool/i.test(message)
}

function tooMany(): SwitchboardError {
  return new SwitchboardError('overloaded', 'this key has too many calls running already', {
    dispatched: false,
    retryAfterMs: 1000
  })
}

function invalid(message: string): Answer {
  return { error: { code: errorTable.invalid_params.rpc, message } }
}

/** The client's name and version as it gave them, for the audit trail. */
function clientName({ clientInfo }: ClientFacts): string | undefined {
  if (typeof clientInfo?.name !== 'string') return undefined
  const version = typeof clientInfo.version === 'string' ? `/${clientInfo.version}` : ''
  return (clientInfo.name + version).slice(0, 128)
}
