/**
 * The lane. A request comes down once and its answer goes back once:
 *
 *   find (catalog) → check (policy) → admit (limits) → request (upstream) → record (audit)
 *
 * It knows neither HTTP nor processes. Names and ids are rewritten, era members are bridged, all else passes by
 * reference. A denied tool and one that does not exist are the same answer.
 */
import type { Catalog } from './catalog/snapshot.js'
import type { ToolEntry } from './catalog/tool-entry.js'
import type { Scope, Views } from './catalog/view.js'
import { errorTable, SwitchboardError, toSwitchboardError } from './errors.js'
import type { Audit, Outcome } from './observe/audit.js'
import type { Key } from './policy/keys.js'
import type { Limits } from './policy/limits.js'
import type { Cancellation } from './wire/cancellation.js'
import { adjustResult, metaKey, type Era } from './wire/era.js'
import { isObject, type Answer, type Json, type ProgressToken, type RpcNotification } from './wire/json-rpc.js'
import type { ClientFacts, Leg } from './wire/leg.js'

/** One downstream request until its final answer, as the lane sees it. */
export interface Exchange {
  readonly key: Key
  readonly era: Era
  readonly client: ClientFacts
  readonly scope: Scope
  readonly cancellation: Cancellation
  /** Trace context to pass on. */
  readonly headers?: Readonly<Record<string, string>>
  /** Tells the client something before the answer; dropped if the client takes no stream. */
  notify(notification: RpcNotification): void
}

/** What the lane needs of an upstream server. */
export interface RelayUpstream {
  readonly era: Era | undefined
  /** The first attempt to connect, as long as it runs. */
  readonly firstAttempt: Promise<void> | undefined
  request(method: string, params: Json | undefined, leg: Leg): Promise<Answer>
}

/** Everything a request looks at, swapped as a whole; a request keeps the one it began with. */
export interface Snapshot {
  readonly catalog: Catalog
  readonly views: Views
  readonly upstreams: ReadonlyMap<string, RelayUpstream>
  /** How long a client may keep the list, in milliseconds (2026-07-28, Caching). */
  readonly listTtlMs: number
}

export interface RelayOptions {
  readonly snapshot: () => Snapshot
  readonly limits: Limits
  readonly audit: Audit
  /** The gateway's own `serverInfo`, for merged results of 2026-07-28. */
  readonly serverInfo: Json
}

export interface Relay {
  /** `tools/list`: the page of what this key sees. */
  listTools(exchange: Exchange, params: Json | undefined): Promise<Answer>
  /** `tools/call`. Failures of the way there are results with `isError`, which a model can act on. */
  callTool(exchange: Exchange, params: Json | undefined): Promise<Answer>
}

/** How long a list waits for servers that have never answered. */
const firstListMs = 5000

export function createRelay({ snapshot, limits, audit, serverInfo }: RelayOptions): Relay {
  const modernMembers = Buffer.from(
    `,"cacheScope":"private","resultType":"complete","_meta":${JSON.stringify({ [metaKey.serverInfo]: serverInfo })}`
  )

  async function listTools(exchange: Exchange, params: Json | undefined): Promise<Answer> {
    await firstLists(snapshot(), exchange)
    const { views, listTtlMs } = snapshot()
    const cursor = params?.cursor
    const { era, key, scope } = exchange
    const page =
      cursor === undefined || typeof cursor === 'string' ? views.view(key.policy, scope).page(era, cursor) : undefined
    if (!page)
      return { error: { code: errorTable.invalid_params.rpc, message: 'Invalid cursor: begin again without one' } }
    const parts = [listHead, page.items, listTail]
    if (page.nextCursor !== undefined) parts.push(Buffer.from(`,"nextCursor":${JSON.stringify(page.nextCursor)}`))
    if (era === 'modern') parts.push(Buffer.from(`,"ttlMs":${listTtlMs}`), modernMembers)
    return { bytes: Buffer.concat([...parts, closing]) }
  }

  async function callTool(exchange: Exchange, params: Json | undefined): Promise<Answer> {
    const begun = performance.now()
    const { key, era, client } = exchange
    const name = params?.name
    if (typeof name !== 'string') return invalid('expected params.name to be the name of a tool')
    if (params?.arguments !== undefined && !isObject(params.arguments))
      return invalid('expected params.arguments to be an object')

    let current = snapshot()
    let entry = find(current.catalog, exchange.scope, name)
    if (!entry || !check(exchange, entry)) {
      await firstLists(current, exchange)
      current = snapshot()
      entry = find(current.catalog, exchange.scope, name)
    }
    const record = (outcome: Outcome, code?: number) =>
      audit({
        key: key.id,
        ...clientName(client),
        ...(entry && { server: entry.server }),
        tool: entry?.wireName ?? name,
        outcome,
        ...(code !== undefined && { code }),
        ms: performance.now() - begun
      })
    const upstream = entry && current.upstreams.get(entry.server)
    if (!entry || !upstream || !check(exchange, entry)) {
      record(entry ? 'denied' : 'unknown', errorTable.invalid_params.rpc)
      return { error: { code: errorTable.invalid_params.rpc, message: `Unknown tool: ${name}` } }
    }

    const release = limits.admit(key.id)
    try {
      if (!release) {
        throw new SwitchboardError('overloaded', 'this key has too many calls running already', {
          dispatched: false,
          retryAfterMs: 1000
        })
      }
      const answer = await upstream.request(
        'tools/call',
        wireParams(params as Json, entry),
        legOf(exchange, params as Json, entry)
      )
      if (answer.error) {
        record('rpc_error', answer.error.code)
        return answer
      }
      const result = adjustResult(withText(answer.result as Json), upstream.era ?? 'legacy', era)
      record(result.isError === true ? 'is_error' : 'ok')
      return { result }
    } catch (thrown) {
      const error = toSwitchboardError(thrown)
      record(outcomeOf(error), error.rpc)
      return { result: failedResult(error, entry, name, era) }
    } finally {
      release?.()
    }
  }

  return { listTools, callTool }
}

const listHead = Buffer.from('{"tools":[')
const listTail = Buffer.from(']')
const closing = Buffer.from('}')

function find(catalog: Catalog, { plain, servers }: Scope, name: string): ToolEntry | undefined {
  if (plain) return servers?.[0] && catalog.server(servers[0].source.id)?.byPlainName.get(name)
  const entry = catalog.byPublicName(name)
  return entry && servers && !servers.some(({ source }) => source.id === entry.server) ? undefined : entry
}

/** The one decision: what a key may call is what it sees. */
function check({ key }: Exchange, entry: ToolEntry): boolean {
  return key.policy.sees(entry.server, 'tools', entry.wireName)
}

/** Waits, for a while, for the first answer of servers this key may use and nobody has heard of yet. */
async function firstLists({ upstreams }: Snapshot, { key, scope }: Exchange): Promise<void> {
  const unheard: Promise<void>[] = []
  for (const [id, { firstAttempt }] of upstreams) {
    if (!firstAttempt || !key.policy.seesServer(id)) continue
    if (scope.servers && !scope.servers.some(({ source }) => source.id === id)) continue
    unheard.push(firstAttempt)
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

function legOf(exchange: Exchange, params: Json, entry: ToolEntry): Leg {
  const { cancellation, client, headers } = exchange
  const token = isObject(params._meta) ? (params._meta.progressToken as ProgressToken | undefined) : undefined
  return {
    cancellation,
    client,
    wantsProgress: token !== undefined,
    tool: entry.wireName,
    repeatable: entry.repeatable,
    ...(headers && { headers }),
    ...(token !== undefined && { onNotification: progressTo(exchange, token) })
  }
}

/** Passes progress on under the caller's own token. Its value must rise (2025-11-25, Progress); a server's may not. */
function progressTo(exchange: Exchange, progressToken: ProgressToken): (notification: RpcNotification) => void {
  let last = -Infinity
  return notification => {
    if (notification.method !== 'notifications/progress') return
    const given = Number(notification.params?.progress)
    const progress = given > last ? given : last + 1e-6
    if (!Number.isFinite(progress)) return
    last = progress
    exchange.notify({ ...notification, params: { ...notification.params, progressToken, progress } })
  }
}

/** Some clients show a model nothing but `content`: an empty one gets what `structuredContent` says. */
function withText(result: Json): Json {
  const { content, structuredContent } = result
  const empty = content === undefined || (Array.isArray(content) && content.length === 0)
  if (!empty || structuredContent === undefined) return result
  return { ...result, content: [{ type: 'text', text: JSON.stringify(structuredContent) }] }
}

function failedResult(error: SwitchboardError, { server, wireName }: ToolEntry, name: string, era: Era): Json {
  const { dispatched = false, retryAfterMs } = error.facts
  const sent = dispatched
    ? 'The call had been sent, so it may or may not have run: check before you repeat it.'
    : `The call was not sent${retryAfterMs === undefined ? '' : `; try again in ${Math.max(1, Math.ceil(retryAfterMs / 1000))} s`}.`
  const called = name === wireName ? `"${wireName}"` : `"${wireName}" (called as "${name}")`
  const text = `Server "${server}" could not answer tool ${called}: ${error.message.replace(/[.\s]+$/, '')}. ${sent}`
  return {
    ...(era === 'modern' && { resultType: 'complete' }),
    content: [{ type: 'text', text }],
    isError: true,
    _meta: {
      'switchboard/error': { code: error.rpc, server, dispatched, ...(retryAfterMs !== undefined && { retryAfterMs }) }
    }
  }
}

function outcomeOf({ code }: SwitchboardError): Outcome {
  switch (code) {
    case 'upstream_down':
      return 'down'
    case 'upstream_died':
      return 'died'
    case 'upstream_timeout':
      return 'timeout'
    case 'upstream_overloaded':
    case 'overloaded':
    case 'draining':
      return 'shed'
    case 'cancelled':
      return 'cancelled'
    default:
      return 'failed'
  }
}

function invalid(message: string): Answer {
  return { error: { code: errorTable.invalid_params.rpc, message } }
}

function clientName({ clientInfo }: ClientFacts): { client?: string } {
  if (typeof clientInfo?.name !== 'string') return {}
  const version = typeof clientInfo.version === 'string' ? `/${clientInfo.version}` : ''
  return { client: (clientInfo.name + version).slice(0, 128) }
}
