/**
 * What a conversation of the 2025 era is answered, whatever transport carries it: the handshake, and the methods of its
 * vocabulary. Transports keep the conversation's state; this keeps none.
 */
import { toSwitchboardError } from '../errors.js'
import type { Exchange } from '../parties.js'
import type { Relay } from '../relay.js'
import { isLegacyVersion, legacyVersions, withoutTasks } from '../wire/era.js'
import {
  isObject,
  type Answer,
  type Json,
  type RpcId,
  type RpcNotification,
  type RpcRequest
} from '../wire/json-rpc.js'
import type { ClientFacts } from '../wire/leg.js'
import { listOf } from '../wire/lists.js'
import { isLogLevel } from '../wire/log-level.js'
import type { Caller } from './caller.js'
import type { LiveState } from './live-state.js'
import type { Running } from '../wire/slots.js'
import { errorAnswer } from './reply.js'

export interface Opened {
  readonly version: string
  readonly client: ClientFacts
  readonly result: Json
}

/** Requests of one conversation that are still running, by the client's own ids. */
export type InFlight = Running<RpcId, { cancel(reason: string): void }>

/** What a conversation keeps besides its requests in flight. */
export interface Conversation {
  /** What the client set with `logging/setLevel`; undefined as long as it has not. */
  logLevel: string | undefined
  /** URI as the client spells it -> what ends the subscription. */
  readonly subscriptions: Map<string, () => void>
  /** Tells the client what belongs to none of its requests, if it listens. */
  tell(notification: RpcNotification): void
}

/** What a client hears that has not said what it wants (2025-11-25, Logging, leaves that to the server). */
export const defaultLevel = 'info'
const answeredEmpty: Answer = { result: {} }

export interface LegacyOptions {
  readonly relay: Relay
  readonly serverInfo: Json
  readonly held: LiveState
  /** A conversation has set its log level. */
  readonly onLevel: () => void
}

export interface Legacy {
  /** `initialize`: the version asked for if it is one of ours, else our newest of that era; never a modern one. */
  initialize(caller: Caller, params: Json | undefined): Opened
  /** Any other request; never rejects. */
  dispatch(exchange: Exchange, message: RpcRequest, conversation: Conversation): Promise<Answer>
}

export function createLegacy({ relay, serverInfo, held, onLevel }: LegacyOptions): Legacy {
  async function subscribe(exchange: Exchange, params: Json | undefined, to: Conversation): Promise<Answer> {
    const uri = params?.uri
    // Asking twice is asking once (2025-11-25, Resources).
    if (typeof uri === 'string' && to.subscriptions.has(uri)) return answeredEmpty
    const { release, error } = await relay.subscribe(exchange, params, updated =>
      to.tell({ jsonrpc: '2.0', method: 'notifications/resources/updated', params: updated })
    )
    if (error) return { error }
    // Its client went meanwhile, and has ended what it had.
    if (exchange.cancellation.reason) {
      release()
      return answeredEmpty
    }
    const leave = held.hold(exchange.key, () => end())
    const end = () => {
      to.subscriptions.delete(uri as string)
      leave()
      release()
    }
    to.subscriptions.get(uri as string)?.()
    to.subscriptions.set(uri as string, end)
    return answeredEmpty
  }

  function setLevel(params: Json | undefined, conversation: Conversation): Answer {
    const level = params?.level
    if (!isLogLevel(level)) {
      return errorAnswer(
        'invalid_params',
        'expected params.level to be debug, info, notice, warning, error, critical, alert or emergency'
      )
    }
    conversation.logLevel = level
    onLevel()
    return answeredEmpty
  }

  async function answered(exchange: Exchange, { method, params }: RpcRequest, to: Conversation): Promise<Answer> {
    try {
      const kind = listOf.get(method)
      if (kind) return await relay.list(exchange, kind, params)
      switch (method) {
        case 'prompts/get':
        case 'resources/read':
        case 'completion/complete':
          return await relay.ask(exchange, method, params)
        case 'resources/subscribe':
          return await subscribe(exchange, params, to)
        case 'resources/unsubscribe':
          to.subscriptions.get(String(params?.uri))?.()
          return answeredEmpty
        case 'logging/setLevel':
          return setLevel(params, to)
        case 'ping':
          return answeredEmpty
        default:
          return errorAnswer('method_not_found', `Method not found: ${method.slice(0, 128)}`)
      }
    } catch (thrown) {
      return { error: toSwitchboardError(thrown).toRpc() }
    }
  }

  return {
    initialize({ key, scope }, params) {
      const asked = params?.protocolVersion
      const version = typeof asked === 'string' && isLegacyVersion(asked) ? asked : legacyVersions[0]
      return {
        version,
        client: {
          capabilities: isObject(params?.capabilities) ? withoutTasks(params.capabilities) : {},
          ...(isObject(params?.clientInfo) && { clientInfo: params.clientInfo })
        },
        result: { protocolVersion: version, serverInfo, ...relay.describe(key, scope, 'legacy') }
      }
    },

    dispatch: (exchange, message, conversation) =>
      // It does not reject, and to watch whether it does would cost every call a promise more.
      message.method === 'tools/call'
        ? relay.callTool(exchange, message.params)
        : answered(exchange, message, conversation)
  }
}

/** How a request of a conversation is made: its client as upstreams may know it, and the log messages it gets. */
export function askingFor(
  client: ClientFacts,
  { logLevel }: Conversation
): { readonly client: ClientFacts; readonly logLevel: string } {
  return logLevel === undefined ? { client, logLevel: defaultLevel } : { client: { ...client, logLevel }, logLevel }
}

/** Ends what a conversation has subscribed to. */
export function unsubscribeAll({ subscriptions }: Conversation): void {
  for (const end of [...subscriptions.values()]) end()
}

/** Applies `notifications/cancelled`; ids that are unknown or already answered are none of our business. */
export function applyCancelled(inFlight: InFlight, params: Json | undefined): void {
  const { requestId, reason } = params ?? {}
  if (typeof requestId !== 'string' && typeof requestId !== 'number') return
  inFlight
    .get(requestId)
    ?.cancel(typeof reason === 'string' ? reason.slice(0, 300) : 'the client cancelled the request')
}
