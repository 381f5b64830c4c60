/**
 * What a request becomes on its way to a server: the server's own names, the headers a modern one must find, and what is
 * told back before the answer: progress under the caller's token, log messages as loud as it wants them.
 */
import type { ToolEntry } from './catalog/tool-entry.js'
import type { Exchange } from './parties.js'
import type { Cancellation } from './wire/cancellation.js'
import type { Era } from './wire/era.js'
import { isObject, type Json, type RpcNotification } from './wire/json-rpc.js'
import type { ClientFacts, Leg } from './wire/leg.js'
import { isLoud } from './wire/log-level.js'
import { checkParamHeaders, paramHeaders } from './wire/mirrored-headers.js'
import { createProgress, type Progress } from './wire/progress.js'

/** A class and no object of closures: one is made for every call. */
class RelayLeg implements Leg {
  readonly cancellation: Cancellation
  readonly client: ClientFacts
  readonly principal: string
  readonly wantsProgress: boolean
  readonly #origin: Exchange
  readonly #progress: Progress | undefined
  readonly #perSecond: number
  /** The second that is counted, and how many were told in it. */
  #begun = -Infinity
  #told = 0

  constructor(
    origin: Exchange,
    progress: Progress | undefined,
    perSecond: number,
    readonly tool: string | undefined,
    readonly repeatable: boolean,
    readonly headers: Leg['headers']
  ) {
    this.cancellation = origin.cancellation
    this.client = origin.client
    this.principal = origin.key.id
    this.wantsProgress = progress !== undefined
    this.#origin = origin
    this.#progress = progress
    this.#perSecond = perSecond
  }

  onNotification(notification: RpcNotification): void {
    if (this.#isTooMuch()) return
    switch (notification.method) {
      case 'notifications/progress':
        return this.#progress?.heard(notification)
      case 'notifications/message':
        if (isLoud(notification.params?.level, this.#origin.logLevel)) this.#origin.notify(notification)
        return
      // An upstream's cancellations are about requests of its own.
      case 'notifications/cancelled':
        return
      default:
        this.#origin.notify(notification)
    }
  }

  /** A server that never stops talking costs the others no more than so many messages a second. */
  #isTooMuch(): boolean {
    const now = performance.now()
    if (now - this.#begun >= 1000) {
      this.#begun = now
      this.#told = 0
    }
    return ++this.#told > this.#perSecond
  }

  onPause(retryMs: number): void {
    this.#origin.pause?.(retryMs)
  }
}

/** The leg of a tool call. @param upstream what the server speaks. @param perSecond messages told back within a second. */
export function callLeg(
  origin: Exchange,
  params: Json,
  entry: ToolEntry,
  upstream: Era | undefined,
  progress: Progress | undefined,
  perSecond: number
): Leg {
  const headers = upstream === 'modern' ? withMirrored(origin, params, entry) : origin.headers
  return new RelayLeg(origin, progress, perSecond, entry.wireName, entry.repeatable, headers)
}

/** The leg of any other request. @param repeatable it changes nothing, so it may be sent again. */
export function askLeg(origin: Exchange, progress: Progress | undefined, perSecond: number, repeatable: boolean): Leg {
  return new RelayLeg(origin, progress, perSecond, undefined, repeatable, origin.headers)
}

/** The params of a tool call under the server's own names. */
export function wireParams(params: Json, { wireName, renamedArguments }: ToolEntry): Json {
  if (!renamedArguments || !isObject(params.arguments)) return { ...params, name: wireName }
  const renamed = Object.entries(params.arguments).map(
    ([key, value]) => [renamedArguments.get(key) ?? key, value] as const
  )
  return { ...params, name: wireName, arguments: Object.fromEntries(renamed) }
}

/** What tells the caller of progress; undefined if it gave no token. @param timeout seconds of silence. */
export function progressOf(
  origin: Exchange,
  timeout: number,
  named: { readonly server: string; readonly wireName: string },
  params: Json
): Progress | undefined {
  const token = isObject(params._meta) ? params._meta.progressToken : undefined
  if (typeof token !== 'string' && typeof token !== 'number') return undefined
  return createProgress({
    token,
    send: notification => origin.notify(notification),
    describe: silentMs => {
      const left = Math.max(Math.round(timeout - silentMs / 1000), 0)
      return `waiting for "${named.wireName}" of server "${named.server}": silent for ${Math.round(silentMs / 1000)} s, given up after another ${left} s of silence`
    }
  })
}

/** A modern client's headers must mirror the arguments the schema says they do; asked only once the tool may be seen. */
export function mirrorFault(origin: Exchange, { paramAnnotations }: ToolEntry, params: Json): string | undefined {
  if (origin.era === 'legacy' || paramAnnotations.size === 0) return undefined
  const { paramHeaders: given } = origin
  return given && checkParamHeaders(given, paramAnnotations, params.arguments)
}

/**
 * What a modern HTTP server must find in headers is made anew from the arguments; what no annotation knows passes. The
 * headers as they came where there is nothing to add, which is nearly always.
 */
function withMirrored(
  { headers, paramHeaders: given }: Exchange,
  params: Json,
  { paramAnnotations }: ToolEntry
): Leg['headers'] {
  let added: Record<string, string> | undefined
  for (const name in given)
    if (!paramAnnotations.has(name.slice('mcp-param-'.length))) (added ??= {})[name] = given[name] as string
  if (paramAnnotations.size > 0) added = { ...added, ...paramHeaders(paramAnnotations, params.arguments) }
  return added ? { ...headers, ...added } : headers
}
