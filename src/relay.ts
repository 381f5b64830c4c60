/**
 * The lane. A request comes down once and its answer goes back once:
 *
 *   find (catalog) → check (policy) → admit (limits) → request (upstream) → record (audit)
 *
 * It knows neither HTTP nor processes. Names and ids are rewritten, era members are bridged, all else passes by
 * reference. A denied tool and one that does not exist are the same answer.
 */
import { bridged, failedResult, outcomeOf, type Between } from './answers.js'
import type { Catalog } from './catalog/snapshot.js'
import type { ToolEntry } from './catalog/tool-entry.js'
import type { Scope, Views } from './catalog/view.js'
import { errorTable, SwitchboardError, toSwitchboardError } from './errors.js'
import type { Audit, Outcome } from './observe/audit.js'
import type { Key } from './policy/keys.js'
import type { Limits } from './policy/limits.js'
import type { Cancellation } from './wire/cancellation.js'
import { metaKey, type Era } from './wire/era.js'
import { isObject, type Answer, type Json, type RpcError, type RpcNotification } from './wire/json-rpc.js'
import type { ClientFacts, Leg } from './wire/leg.js'
import { checkParamHeaders, paramHeaders } from './wire/mirrored-headers.js'
import { createProgress, type Progress } from './wire/progress.js'

/** One downstream request until its final answer, as the lane sees it. */
export interface Exchange {
  readonly key: Key
  readonly era: Era
  readonly client: ClientFacts
  readonly scope: Scope
  readonly cancellation: Cancellation
  /** Trace context to pass on. */
  readonly headers?: Readonly<Record<string, string>>
  /** `Mcp-Param-*` headers as received with a modern request, names in lower case; absent where none are due. */
  readonly paramHeaders?: Readonly<Record<string, string>>
  /** Tells the client something before the answer; dropped if the client takes no stream. */
  notify(notification: RpcNotification): void
}

/** What the lane needs of an upstream server. */
export interface RelayUpstream {
  readonly era: Era | undefined
  /** What the server declared; undefined while it is not connected. */
  readonly info: { readonly capabilities: Json } | undefined
  /** The first attempt to connect, as long as it runs and nothing is known of the server's tools. */
  readonly firstList: Promise<void> | undefined
  /** Seconds of silence after which a request to it is given up. */
  readonly config: { readonly timeout: number }
  /** Fetches the tool list again; never rejects. */
  refreshTools(): Promise<void>
  /** The server no longer knows a tool it listed: the list is fetched again soon. */
  listDoubtful(): void
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
  readonly audit: Audit
  /** The gateway's own `serverInfo`, for merged results of 2026-07-28. */
  readonly serverInfo: Json
}

export interface Relay {
  /** Changes exactly when what this key sees of the tools changes. */
  toolsSignature(key: Key, scope: Scope): string
  /**
   * The exported name of the one tool this key sees that has `name` as its exported or its own name; undefined when
   * there is none, or more than one.
   */
  publicNameOf(exchange: Exchange, name: string): Promise<string | undefined>
  /** `tools/list`: the page of what this key sees. */
  listTools(exchange: Exchange, params: Json | undefined): Promise<Answer>
  /** `tools/call`. Failures of the way there are results with `isError`, which a model can act on. */
  callTool(exchange: Exchange, params?: Json): Promise<Answer>
}

/** What a name means to a key: a tool and its server, a tool it does not see, or nothing. */
interface Found {
  readonly entry?: ToolEntry
  readonly upstream?: RelayUpstream
  readonly denied?: ToolEntry
}

/** How long a list waits for servers that have never answered. */
const firstListMs = 5000

export function createRelay({ snapshot, onList, limits, audit, serverInfo }: RelayOptions): Relay {
  const modernMembers = Buffer.from(
    `,"cacheScope":"private","resultType":"complete","_meta":${JSON.stringify({ [metaKey.serverInfo]: serverInfo })}`
  )

  async function listTools(exchange: Exchange, params: Json | undefined): Promise<Answer> {
    await firstLists(snapshot(), exchange)
    const { views } = snapshot()
    const ttlMs = onList()
    const cursor = params?.cursor
    const { era, key, scope } = exchange
    const page =
      cursor === undefined || typeof cursor === 'string' ? views.view(key.policy, scope).page(era, cursor) : undefined
    if (!page)
      return { error: { code: errorTable.invalid_params.rpc, message: 'Invalid cursor: begin again without one' } }
    const parts = [listHead, page.items, listTail]
    if (page.nextCursor !== undefined) parts.push(Buffer.from(`,"nextCursor":${JSON.stringify(page.nextCursor)}`))
    if (era === 'modern') parts.push(Buffer.from(`,"ttlMs":${ttlMs}`), modernMembers)
    return { bytes: Buffer.concat([...parts, closing]) }
  }

  async function callTool(exchange: Exchange, params: Json = {}): Promise<Answer> {
    const begun = performance.now()
    const { name } = params
    if (typeof name !== 'string') return invalid('expected params.name to be the name of a tool')
    if (params.arguments !== undefined && !isObject(params.arguments))
      return invalid('expected params.arguments to be an object')

    const { entry, upstream, denied } = look(exchange, name) ?? (await lookLonger(exchange, name))
    const meant = entry ?? denied
    const record = (outcome: Outcome, code?: number) =>
      audit({
        key: exchange.key.id,
        client: clientName(exchange.client),
        era: exchange.era,
        server: meant?.server,
        tool: meant?.wireName ?? name,
        outcome,
        code,
        ms: performance.now() - begun
      })
    if (!entry || !upstream) {
      record(denied ? 'denied' : 'unknown', errorTable.invalid_params.rpc)
      return { error: { code: errorTable.invalid_params.rpc, message: `Unknown tool: ${name}` } }
    }
    const mismatch = mirrorFault(exchange, entry, params)
    if (mismatch !== undefined) {
      record('failed', errorTable.header_mismatch.rpc)
      return { error: { code: errorTable.header_mismatch.rpc, message: mismatch } }
    }

    const release = limits.admit(exchange.key.id)
    try {
      if (!release)
        throw new SwitchboardError('overloaded', 'this key has too many calls running already', {
          dispatched: false,
          retryAfterMs: 1000
        })
      const answer = bridged(await request(exchange, upstream, entry, params), entry, between(exchange, upstream))
      if (answer.error) record('rpc_error', answer.error.code)
      else record(answer.result?.isError === true ? 'is_error' : 'ok')
      return answer
    } catch (thrown) {
      const error = toSwitchboardError(thrown)
      record(outcomeOf(error), error.rpc)
      return { result: failedResult(error, entry, name, exchange.era) }
    } finally {
      release?.()
    }
  }

  /** The tool of that name if this key sees it. */
  function look(exchange: Exchange, name: string): Found | undefined {
    const { catalog, upstreams } = snapshot()
    const entry = find(catalog, exchange.scope, name) ?? findBare(catalog, exchange, name)
    const upstream = entry && upstreams.get(entry.server)
    return entry && upstream && check(exchange, entry) ? { entry, upstream } : undefined
  }

  /** The same, while servers are still unheard of, after a little wait; or which tool this key does not see. */
  async function lookLonger(exchange: Exchange, name: string): Promise<Found> {
    await firstLists(snapshot(), exchange)
    const found = look(exchange, name)
    if (found) return found
    const { catalog } = snapshot()
    const denied = find(catalog, exchange.scope, name) ?? findBare(catalog, exchange, name)
    return denied ? { denied } : {}
  }

  async function request(exchange: Exchange, upstream: RelayUpstream, entry: ToolEntry, params: Json): Promise<Answer> {
    const progress = progressOf(exchange, upstream, entry, params)
    const send = (entry: ToolEntry) =>
      upstream.request('tools/call', wireParams(params, entry), legOf(exchange, params, entry, upstream.era, progress))
    try {
      const answer = await send(entry)
      if (answer.error && saysUnknown(answer.error)) upstream.listDoubtful()
      if (answer.error?.code !== errorTable.header_mismatch.rpc) return answer
      // Its schema has changed since we read it. The request was refused before it ran, so it may be sent again.
      await upstream.refreshTools()
      return await send(find(snapshot().catalog, exchange.scope, params.name as string) ?? entry)
    } finally {
      progress?.stop()
    }
  }

  return {
    toolsSignature: (key, scope) => snapshot().views.view(key.policy, scope).signature,
    async publicNameOf(exchange, name) {
      const { key, scope } = exchange
      await firstLists(snapshot(), exchange)
      const { tools } = snapshot().views.view(key.policy, scope)
      if (tools.some(entry => nameIn(scope, entry) === name)) return name
      const [only, ...others] = tools.filter(({ wireName }) => wireName === name)
      return only && others.length === 0 ? nameIn(scope, only) : undefined
    },
    listTools,
    callTool
  }
}

const nameIn = ({ plain }: Scope, { plainName, publicName }: ToolEntry) => (plain ? plainName : publicName)

const listHead = Buffer.from('{"tools":[')
const listTail = Buffer.from(']')
const closing = Buffer.from('}')

function find(catalog: Catalog, { plain, servers }: Scope, name: string): ToolEntry | undefined {
  if (plain) return servers?.[0] === undefined ? undefined : catalog.server(servers[0])?.byPlainName.get(name)
  const entry = catalog.byPublicName(name)
  return entry && servers && !servers.includes(entry.server) ? undefined : entry
}

/** A tool called by its own name, as apps do, if exactly one that this key sees has it. */
function findBare(catalog: Catalog, exchange: Exchange, name: string): ToolEntry | undefined {
  const { plain, servers } = exchange.scope
  if (plain) return undefined
  const seen = catalog
    .byBareName(name)
    .filter(entry => check(exchange, entry) && (servers?.includes(entry.server) ?? true))
  return seen.length === 1 ? seen[0] : undefined
}

/** The one decision: what a key may call is what it sees. */
function check({ key }: Exchange, entry: ToolEntry): boolean {
  return key.policy.sees(entry.server, 'tools', entry.wireName)
}

/** A modern client's headers must mirror the arguments the schema says they do; asked only once the tool may be seen. */
function mirrorFault(exchange: Exchange, { paramAnnotations }: ToolEntry, params: Json): string | undefined {
  if (exchange.era === 'legacy' || paramAnnotations.size === 0 || !exchange.paramHeaders) return undefined
  return checkParamHeaders(exchange.paramHeaders, paramAnnotations, params.arguments)
}

/** Waits, for a while, for the first answer of servers this key may use and nobody has heard of yet. */
async function firstLists({ upstreams }: Snapshot, { key, scope }: Exchange): Promise<void> {
  const unheard: Promise<void>[] = []
  for (const [id, { firstList }] of upstreams) {
    if (!firstList || !key.policy.seesServer(id)) continue
    if (scope.servers && !scope.servers.includes(id)) continue
    unheard.push(firstList)
  }
  if (unheard.length === 0) return
  let timer: NodeJS.Timeout | undefined
  const enough = new Promise<void>(resolve => (timer = setTimeout(resolve, firstListMs)))
  await Promise.race([Promise.all(unheard), enough])
  clearTimeout(timer)
}

function wireParams(params: Json, { wireName, renamedArguments }: ToolEntry): Json {
  if (!renamedArguments || !isObject(params.arguments)) return { ...params, name: wireName }
  const renamed = Object.entries(params.arguments).map(
    ([key, value]) => [renamedArguments.get(key) ?? key, value] as const
  )
  return { ...params, name: wireName, arguments: Object.fromEntries(renamed) }
}

function progressOf(
  exchange: Exchange,
  { config }: RelayUpstream,
  entry: ToolEntry,
  params: Json
): Progress | undefined {
  const token = isObject(params._meta) ? params._meta.progressToken : undefined
  if (typeof token !== 'string' && typeof token !== 'number') return undefined
  return createProgress({
    token,
    send: notification => exchange.notify(notification),
    describe: silentMs => {
      const left = Math.max(Math.round(config.timeout - silentMs / 1000), 0)
      return `waiting for "${entry.wireName}" of server "${entry.server}": silent for ${Math.round(silentMs / 1000)} s, given up after another ${left} s of silence`
    }
  })
}

function legOf(
  exchange: Exchange,
  params: Json,
  entry: ToolEntry,
  upstream: Era | undefined,
  progress: Progress | undefined
): Leg {
  const { cancellation, client, headers } = exchange
  return {
    cancellation,
    client,
    wantsProgress: progress !== undefined,
    tool: entry.wireName,
    repeatable: entry.repeatable,
    headers: upstream === 'modern' ? { ...headers, ...mirrored(exchange, params, entry) } : headers,
    onNotification: notification => {
      if (notification.method === 'notifications/progress') progress?.heard(notification)
      // Logging is not declared to anybody yet, and an upstream's cancellations are about requests of its own.
      else if (!unshared.has(notification.method)) exchange.notify(notification)
    }
  }
}

/** What a modern HTTP server must find in headers is made anew from the arguments; what no annotation knows passes. */
function mirrored(
  { paramHeaders: given }: Exchange,
  params: Json,
  { paramAnnotations }: ToolEntry
): Record<string, string> {
  const unknown = Object.entries(given ?? {}).filter(([name]) => !paramAnnotations.has(name.slice('mcp-param-'.length)))
  return { ...Object.fromEntries(unknown), ...paramHeaders(paramAnnotations, params.arguments) }
}

const unshared: ReadonlySet<string> = new Set(['notifications/message', 'notifications/cancelled'])

const between = ({ era, client }: Exchange, upstream: RelayUpstream): Between => ({
  to: { era, capabilities: client.capabilities },
  from: { era: upstream.era ?? 'legacy', capabilities: upstream.info?.capabilities ?? {} }
})

function saysUnknown({ code, message }: RpcError): boolean {
  return code === errorTable.invalid_params.rpc && /unknown|not found/i.test(message) && /tool/i.test(message)
}

function invalid(message: string): Answer {
  return { error: { code: errorTable.invalid_params.rpc, message } }
}

function clientName({ clientInfo }: ClientFacts): string | undefined {
  if (typeof clientInfo?.name !== 'string') return undefined
  const version = typeof clientInfo.version === 'string' ? `/${clientInfo.version}` : ''
  return (clientInfo.name + version).slice(0, 128)
}
