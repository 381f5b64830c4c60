/**
 * What a conversation of the 2025 era is answered, whatever transport carries it: the handshake, and the methods of its
 * vocabulary. Transports keep the conversation's state; this keeps none.
 */
import { toSwitchboardError } from '../errors.js'
import type { Exchange, Relay } from '../relay.js'
import { isLegacyVersion, legacyVersions } from '../wire/era.js'
import { isObject, type Answer, type Json, type RpcId, type RpcRequest } from '../wire/json-rpc.js'
import type { ClientFacts } from '../wire/leg.js'
import type { Running } from '../wire/slots.js'
import { errorAnswer } from './reply.js'

/** What every conversation is promised, whatever is up at the moment: a client keeps it for as long as it lasts. */
export const capabilities: Json = { tools: { listChanged: true } }

export interface Opened {
  readonly version: string
  readonly client: ClientFacts
  readonly result: Json
}

/** Requests of one conversation that are still running, by the client's own ids. */
export type InFlight = Running<RpcId, { cancel(reason: string): void }>

export interface Legacy {
  /** `initialize`: the version asked for if it is one of ours, else our newest of that era; never a modern one. */
  initialize(params: Json | undefined): Opened
  dispatch(exchange: Exchange, message: RpcRequest): Promise<Answer>
}

export function createLegacy({ relay, serverInfo }: { readonly relay: Relay; readonly serverInfo: Json }): Legacy {
  return {
    initialize(params) {
      const asked = params?.protocolVersion
      const version = typeof asked === 'string' && isLegacyVersion(asked) ? asked : legacyVersions[0]
      return {
        version,
        client: {
          capabilities: isObject(params?.capabilities) ? params.capabilities : {},
          ...(isObject(params?.clientInfo) && { clientInfo: params.clientInfo })
        },
        result: { protocolVersion: version, capabilities, serverInfo }
      }
    },

    async dispatch(exchange, { method, params }) {
      try {
        switch (method) {
          case 'tools/list':
            return await relay.listTools(exchange, params)
          case 'tools/call':
            return await relay.callTool(exchange, params)
          case 'ping':
            return { result: {} }
          default:
            return errorAnswer('method_not_found', `Method not found: ${method.slice(0, 128)}`)
        }
      } catch (thrown) {
        return { error: toSwitchboardError(thrown).toRpc() }
      }
    }
  }
}

/** Applies `notifications/cancelled`; ids that are unknown or already answered are none of our business. */
export function applyCancelled(inFlight: InFlight, params: Json | undefined): void {
  const { requestId, reason } = params ?? {}
  if (typeof requestId !== 'string' && typeof requestId !== 'number') return
  inFlight
    .get(requestId)
    ?.cancel(typeof reason === 'string' ? reason.slice(0, 300) : 'the client cancelled the request')
}
