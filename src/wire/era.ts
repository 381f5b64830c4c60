/**
 * The two eras of MCP and the bridge between their envelopes. Legacy (2024-11-05 … 2025-11-25) keeps state in a
 * session that `initialize` opens; modern (2026-07-28) has none, every request carries its own envelope in
 * `params._meta`. An era belongs to a request downstream and to a server upstream.
 *
 * Everything here is pure. Payloads pass by reference: only the members named by the specification are added or taken.
 */
import type { Json, RpcError, RpcRequest } from './json-rpc.js'
import { isObject } from './json-rpc.js'
import type { ClientFacts } from './leg.js'
import { isLogLevel } from './log-level.js'

export type Era = 'legacy' | 'modern'

export const modernVersion = '2026-07-28'
/** Newest first: the answer to an `initialize` that asks for a version unknown to us. */
export const legacyVersions = ['2025-11-25', '2025-06-18', '2025-03-26', '2024-11-05'] as const

export const metaKey = {
  version: 'io.modelcontextprotocol/protocolVersion',
  capabilities: 'io.modelcontextprotocol/clientCapabilities',
  clientInfo: 'io.modelcontextprotocol/clientInfo',
  logLevel: 'io.modelcontextprotocol/logLevel',
  serverInfo: 'io.modelcontextprotocol/serverInfo',
  subscriptionId: 'io.modelcontextprotocol/subscriptionId'
} as const

const envelopeKeys: ReadonlySet<string> = new Set([
  metaKey.version,
  metaKey.capabilities,
  metaKey.clientInfo,
  metaKey.logLevel
])

export function isModernVersion(version: string | undefined): boolean {
  return version !== undefined && /^\d{4}-\d\d-\d\d$/.test(version) && version >= modernVersion
}

export function isLegacyVersion(version: string | undefined): boolean {
  return (legacyVersions as readonly (string | undefined)[]).includes(version)
}

/** Whether clients of that revision understand an event without data at the start of a stream (2025-11-25, SEP-1699). */
export function isPrimed(version: string): boolean {
  return version >= '2025-11-25'
}

/** Which era a request speaks, or why it cannot be served. The codes are rows of the error table. */
export type EraVerdict =
  | { readonly era: 'legacy' }
  | { readonly era: 'modern'; readonly client: ClientFacts }
  | {
      readonly refused: 'header_mismatch' | 'invalid_envelope' | 'unsupported_version'
      readonly message: string
      readonly data?: Json
    }

/**
 * Classifies a request by its body, as 2026-07-28 (*Versioning*, *Streamable HTTP*) prescribes: an envelope with a
 * version makes it modern, a bare `initialize` is always legacy, and a modern version header without an envelope is a
 * malformed modern request. `Mcp-Method` does not decide: some 2025 clients send it too.
 *
 * @param headerVersion the `MCP-Protocol-Version` header.
 */
export function classifyEra(
  message: Pick<RpcRequest, 'method' | 'params'>,
  headerVersion: string | undefined
): EraVerdict {
  const meta = message.params?._meta
  const claim = isObject(meta) ? meta[metaKey.version] : undefined
  if (claim === undefined) {
    if (!isModernVersion(headerVersion)) return { era: 'legacy' }
    if (message.method === 'initialize') {
      return {
        refused: 'header_mismatch',
        message: `initialize is not a method of ${headerVersion}: the MCP-Protocol-Version header and the body disagree`
      }
    }
    return {
      refused: 'invalid_envelope',
      message: `MCP-Protocol-Version is ${headerVersion}, but params._meta["${metaKey.version}"] is missing`
    }
  }
  if (typeof claim !== 'string') {
    return { refused: 'invalid_envelope', message: `expected params._meta["${metaKey.version}"] to be a string` }
  }
  const {
    [metaKey.capabilities]: capabilities,
    [metaKey.clientInfo]: clientInfo,
    [metaKey.logLevel]: logLevel
  } = meta as Json
  if (message.method === 'initialize' && (claim !== modernVersion || !isObject(capabilities))) return { era: 'legacy' }
  if (headerVersion !== undefined && headerVersion !== claim) {
    return {
      refused: 'header_mismatch',
      message: `MCP-Protocol-Version is ${headerVersion}, but the body says ${claim}`
    }
  }
  if (claim !== modernVersion) {
    return {
      refused: 'unsupported_version',
      message: `Unsupported protocol version: ${claim}. Requests with an envelope speak ${modernVersion}; older revisions begin with initialize`,
      data: { supported: [modernVersion], requested: claim }
    }
  }
  if (!isObject(capabilities)) {
    return { refused: 'invalid_envelope', message: `expected params._meta["${metaKey.capabilities}"] to be an object` }
  }
  if (clientInfo !== undefined && !isObject(clientInfo)) {
    return { refused: 'invalid_envelope', message: `expected params._meta["${metaKey.clientInfo}"] to be an object` }
  }
  return {
    era: 'modern',
    client: {
      capabilities,
      ...(clientInfo !== undefined && { clientInfo }),
      ...(isLogLevel(logLevel) && { logLevel })
    }
  }
}

/**
 * Params for one leg: the downstream's envelope and progress token are taken out, ours are put in, all else passes by
 * reference. A legacy upstream never sees an envelope key, `inputResponses` or `requestState`.
 *
 * @param progressToken our token for this leg, if the downstream asked for progress.
 */
export function legParams(
  era: Era,
  params: Json | undefined,
  client: ClientFacts,
  progressToken: string | number | undefined,
  upstreamCapabilities: Json = {}
): Json | undefined {
  const given = isObject(params?._meta) ? params._meta : undefined
  const meta: Json = {}
  for (const key in given) if (key !== 'progressToken' && !envelopeKeys.has(key)) setOwn(meta, key, given[key])
  if (progressToken !== undefined) meta.progressToken = progressToken
  if (era === 'modern') {
    meta[metaKey.version] = modernVersion
    meta[metaKey.capabilities] = bridgedCapabilities(client.capabilities, upstreamCapabilities)
    if (client.clientInfo) meta[metaKey.clientInfo] = client.clientInfo
    if (client.logLevel !== undefined) meta[metaKey.logLevel] = client.logLevel
    return { ...params, _meta: meta }
  }
  const empty = Object.keys(meta).length === 0
  if (!params) return empty ? undefined : { _meta: meta }
  const rest: Json = {}
  for (const key in params) if (!modernParams.has(key)) setOwn(rest, key, params[key])
  if (!empty) rest._meta = meta
  return rest
}

/**
 * What of a client's capabilities an upstream may count on: not the questions to a person or a model, which are not
 * bridged yet, and extensions only if the upstream speaks them too.
 */
export function bridgedCapabilities(capabilities: Json, upstream: Json): Json {
  const { elicitation, sampling, roots, tasks, extensions, ...rest } = capabilities
  if (!isObject(extensions)) return rest
  const spoken = isObject(upstream.extensions) ? upstream.extensions : {}
  const shared = Object.entries(extensions).filter(([name]) => Object.hasOwn(spoken, name))
  return shared.length > 0 ? { ...rest, extensions: Object.fromEntries(shared) } : rest
}

/** Members of params that a legacy server never sees as they came. */
const modernParams: ReadonlySet<string> = new Set(['_meta', 'inputResponses', 'requestState'])

/** `meta.__proto__ = x` would set the prototype; JSON may hold that name like any other. */
function setOwn(target: Json, key: string, value: unknown): void {
  if (key === '__proto__')
    Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true })
  else target[key] = value
}

/**
 * A result for the other era: a modern client always gets a `resultType`; a legacy client never sees the members that
 * came with 2026-07-28. Same era, or nothing to change: the very same object.
 */
export function adjustResult(result: Json, from: Era, to: Era): Json {
  if (to === 'modern') return result.resultType === undefined ? { resultType: 'complete', ...result } : result
  if (from === 'legacy') return result
  const { resultType, ttlMs, cacheScope, ...rest } = result
  return rest
}

export const tasksExtension = 'io.modelcontextprotocol/tasks'

/** Capabilities of a side that speaks 2025: what it says of tasks is not the extension, which needs the envelope. */
export function withoutTasks(capabilities: Json): Json {
  const { extensions, ...rest } = capabilities
  if (!isObject(extensions) || !Object.hasOwn(extensions, tasksExtension)) return capabilities
  const { [tasksExtension]: _tasks, ...others } = extensions
  return Object.keys(others).length > 0 ? { ...rest, extensions: others } : rest
}

/**
 * Whether this client can make sense of a result of that type. `complete` always; `task` if it declared the extension;
 * anything else if client and upstream share one.
 */
export function understandsResult(result: Json, client: Json, upstream: Json): boolean {
  const { resultType } = result
  if (resultType === undefined || resultType === 'complete') return true
  const declared = isObject(client.extensions) ? client.extensions : {}
  const spoken = isObject(upstream.extensions) ? upstream.extensions : {}
  if (resultType === 'task') return [declared, spoken].every(side => Object.hasOwn(side, tasksExtension))
  if (resultType === 'input_required') return false
  return Object.keys(declared).some(name => Object.hasOwn(spoken, name))
}

/**
 * An upstream's error for a client of that era; undefined when it speaks of our own leg and must not be shown
 * (2026-07-28: -32020 header mismatch, -32022 unsupported version).
 */
export function adjustError(error: RpcError, to: Era): RpcError | undefined {
  switch (error.code) {
    case -32020:
    case -32022:
      return undefined
    case -32021:
      return to === 'legacy' ? { ...error, code: -32603 } : error
    // A URL to be visited first: 2026-07-28 has no such error, and asking its clients is not bridged yet.
    case -32042:
      return to === 'modern' ? { ...error, code: -32021 } : error
    case -32002:
      return to === 'modern' ? { ...error, code: -32602 } : error
    default:
      return error
  }
}
