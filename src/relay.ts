/**
 * The lane. A request comes down once and its answer goes back once:
 *
 *   find (catalog) → check (policy) → admit (limits) → request (upstream) → record (audit)
 *
 * It knows neither HTTP nor processes. Names and ids are rewritten, era members are bridged, all else passes by
 * reference. A denied tool and one that does not exist are the same answer.
 */
import { bridged, bridgedCall, failedError, failedResult, outcomeOf, type Between } from './answers.js'
import type { ToolEntry } from './catalog/tool-entry.js'
import { errorTable, SwitchboardError, toSwitchboardError } from './errors.js'
import { createFinder, viewerOf } from './finding.js'
import { askLeg, callLeg, mirrorFault, progressOf, wireParams } from './legs.js'
import type { Audit, Outcome } from './observe/audit.js'
import type { Exchange, RelayUpstream } from './parties.js'
import type { Limits, Place } from './policy/limits.js'
import { createShown, type Shown, type ShownOptions } from './shown.js'
import { createAskables, findTool } from './targets.js'
import type { TaskIds } from './tasks.js'
import { createTold, type Told, type ToldOptions } from './told.js'
import type { Era } from './wire/era.js'
import { isObject, type Answer, type Json, type RpcError } from './wire/json-rpc.js'
import type { ClientFacts } from './wire/leg.js'
import type { Progress } from './wire/progress.js'

export interface RelayOptions extends ShownOptions, ToldOptions {
  readonly limits: Limits
  /** Notifications of one call that its caller hears within a second. */
  readonly perSecond: number
  readonly audit: Audit
  readonly taskIds: TaskIds
}

export interface Relay extends Shown, Told {
  /** `tools/call`; never rejects. Failures of the way there are results with `isError`, which a model can act on. */
  callTool(exchange: Exchange, params?: Json): Promise<Answer>
  /** `prompts/get`, `resources/read`, `completion/complete`, `tasks/*`. Failures of the way there are errors. */
  ask(exchange: Exchange, method: string, params?: Json): Promise<Answer>
}

export function createRelay(options: RelayOptions): Relay {
  const { snapshot, limits, perSecond, audit, taskIds } = options
  const finder = createFinder(snapshot)
  const askables = createAskables(taskIds)
  const ways: WayOptions = { snapshot, taskIds }

  async function callTool(exchange: Exchange, params: Json = {}): Promise<Answer> {
    const begun = performance.now()
    const { name } = params
    if (typeof name !== 'string') return invalid('expected params.name to be the name of a tool')
    if (params.arguments !== undefined && !isObject(params.arguments))
      return invalid('expected params.arguments to be an object')

    let entry: ToolEntry | undefined
    let place: Place | undefined
    let progress: Progress | undefined
    try {
      const found = finder.tool(exchange, name) ?? (await finder.toolLater(exchange, name))
      const { upstream, denied } = found
      entry = found.entry
      if (!entry || !upstream) {
        const error = { code: errorTable.invalid_params.rpc, message: `Unknown tool: ${name}` }
        record(exchange, begun, denied, denied?.wireName ?? name, denied ? 'denied' : 'unknown', error.code)
        return { error }
      }
      const mismatch = mirrorFault(exchange, entry, params)
      if (mismatch !== undefined) {
        const error = { code: errorTable.header_mismatch.rpc, message: mismatch }
        record(exchange, begun, entry, entry.wireName, 'failed', error.code)
        return { error }
      }
      place = limits.admit(exchange)
      if (!place) throw tooMany()
      progress = progressOf(exchange, upstream.config.timeout, entry, params)
      let given = await send(exchange, upstream, entry, params, progress)
      if (given.error && saysUnknown(given.error)) upstream.listDoubtful('tools')
      if (given.error && saysStale(given.error, upstream)) {
        // Its schema has changed since we read it. The request was refused before it ran, so it may be sent again.
        await upstream.refresh('tools')
        const now = findTool(snapshot().catalog, viewerOf(exchange), name) ?? entry
        given = await send(exchange, upstream, now, params, progress)
      }
      const answer = bridgedCall(given, entry, new Way(ways, exchange, upstream, entry.server, entry.wireName))
      const outcome = answer.error ? 'rpc_error' : answer.result?.isError === true ? 'is_error' : 'ok'
      record(exchange, begun, entry, entry.wireName, outcome, answer.error?.code)
      return answer
    } catch (thrown) {
      const error = toSwitchboardError(thrown)
      record(exchange, begun, entry, entry?.wireName ?? name, outcomeOf(error), error.rpc)
      return entry ? { result: failedResult(error, entry, name, exchange.era) } : { error: error.toRpc() }
    } finally {
      progress?.stop()
      place?.leave()
    }
  }

  /** No `async`: a promise more would cost every call. */
  function send(
    exchange: Exchange,
    upstream: RelayUpstream,
    entry: ToolEntry,
    params: Json,
    progress: Progress | undefined
  ): Promise<Answer> {
    const leg = callLeg(exchange, params, entry, upstream.era, progress, perSecond)
    return upstream.request('tools/call', wireParams(params, entry), leg)
  }

  /** Everything but tools goes the same lane; what differs is a row of `askables`. */
  async function ask(exchange: Exchange, method: string, params: Json = {}): Promise<Answer> {
    const begun = performance.now()
    const askable = askables[method]
    const name = askable?.nameOf(params)
    if (!askable || name === undefined) return invalid(askable?.expected ?? `no such method: ${method}`)
    const { target, upstream, denied } = await finder.target(exchange, (catalog, sight) =>
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
    const place = limits.admit(exchange)
    const progress = progressOf(exchange, upstream.config.timeout, named, params)
    try {
      if (!place) throw tooMany()
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
      place?.leave()
    }
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

  return { ...createShown(options, finder), ...createTold(options, finder, askables), callTool, ask }
}

type WayOptions = Pick<RelayOptions, 'snapshot' | 'taskIds'>

/** Between whom an answer passes. A class and no object of closures: one is made for every call. */
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

/** `resources/read` may be kept by a client, but only by that one (2026-07-28, Caching). */
function withCacheMembers(result: Json, era: Era): Json {
  return era === 'legacy' ? result : { ttlMs: 0, ...result, cacheScope: 'private' }
}

function saysUnknown({ code, message }: RpcError): boolean {
  return code === errorTable.invalid_params.rpc && /unknown|not found/i.test(message) && /tool/i.test(message)
}

/** A server of 2025 checks no headers: whatever it means by that code, the call has run. */
function saysStale({ code }: RpcError, { era }: RelayUpstream): boolean {
  return code === errorTable.header_mismatch.rpc && era === 'modern'
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
