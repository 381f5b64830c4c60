/**
 * What a request of 2026-07-28 is answered: each stands alone, carries its own envelope, and its headers must mirror its
 * body. `subscriptions/listen` is the one that stays open.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { SwitchboardError, toSwitchboardError } from '../errors.js'
import type { Relay } from '../relay.js'
import { metaKey, modernVersion } from '../wire/era.js'
import { serialiseAnswer, isObject, type Answer, type Json, type RpcRequest } from '../wire/json-rpc.js'
import type { ClientFacts } from '../wire/leg.js'
import { checkMirroredHeaders } from '../wire/mirrored-headers.js'
import type { Caller } from './caller.js'
import { EventStream } from './event-stream.js'
import { HttpExchange } from './exchange.js'
import { capabilities } from './legacy.js'
import { toolsListChanged, type Listeners } from './listeners.js'
import { errorAnswer, replyAnswer, replyRefusal } from './reply.js'

export interface ModernOptions {
  readonly relay: Relay
  readonly listeners: Listeners
  readonly serverInfo: Json
}

export interface Modern {
  handle(
    caller: Caller,
    message: RpcRequest,
    client: ClientFacts,
    req: IncomingMessage,
    res: ServerResponse
  ): Promise<void>
  /** Ends every open subscription with its result, as a server does that shuts down. */
  close(): void
}

export function createModern({ relay, listeners, serverInfo }: ModernOptions): Modern {
  const subscriptions = new Set<() => void>()

  function discoverResult(): Json {
    return {
      resultType: 'complete',
      supportedVersions: [modernVersion],
      capabilities,
      ttlMs: 60_000,
      cacheScope: 'private',
      _meta: { [metaKey.serverInfo]: serverInfo }
    }
  }

  /** 2026-07-28, Subscriptions: the acknowledgement comes first, every message names the request it belongs to. */
  function listen({ key, scope }: Caller, { id, params }: RpcRequest, res: ServerResponse): void {
    const wanted = params?.notifications
    if (!isObject(wanted))
      return replyAnswer(res, id, errorAnswer('invalid_params', 'expected params.notifications to be an object'))
    const honoured = wanted.toolsListChanged === true ? { toolsListChanged: true } : {}
    const _meta = { [metaKey.subscriptionId]: id }
    const end = () => stream.end(serialiseAnswer(id, { result: { resultType: 'complete', _meta } }))
    const remove = honoured.toolsListChanged
      ? listeners.add({
          key,
          scope,
          tell: () => stream.send(JSON.stringify({ ...toolsListChanged, params: { _meta } }))
        })
      : () => {}
    const stream = new EventStream(res, {
      onClose: () => {
        remove()
        subscriptions.delete(end)
      }
    })
    subscriptions.add(end)
    stream.send(
      JSON.stringify({
        jsonrpc: '2.0',
        method: 'notifications/subscriptions/acknowledged',
        params: { notifications: honoured, _meta }
      })
    )
  }

  async function call(exchange: HttpExchange, { method, params }: RpcRequest): Promise<Answer> {
    try {
      return method === 'tools/list' ? await relay.listTools(exchange, params) : await relay.callTool(exchange, params)
    } catch (thrown) {
      return { error: toSwitchboardError(thrown).toRpc() }
    }
  }

  return {
    async handle(caller, message, client, req, res) {
      const { id, method } = message
      const mismatch =
        req.headers['mcp-protocol-version'] === undefined
          ? 'the MCP-Protocol-Version header is missing'
          : checkMirroredHeaders(req.headers, message)
      if (mismatch !== undefined)
        return replyRefusal(res, new SwitchboardError('header_mismatch', `Bad request: ${mismatch}`), id)
      switch (method) {
        case 'server/discover':
          return new HttpExchange({ id, era: 'modern', client, ...caller, req, res }).finish({
            result: discoverResult()
          })
        case 'subscriptions/listen':
          return listen(caller, message, res)
        case 'tools/list':
        case 'tools/call': {
          const exchange = new HttpExchange({ id, era: 'modern', client, ...caller, req, res })
          const answer = await call(exchange, message)
          // A header that does not mirror its argument is refused like one that does not mirror the body.
          return exchange.finish(answer, answer.error?.code === -32020 ? 400 : 200)
        }
        default:
          return replyAnswer(res, id, errorAnswer('method_not_found', `Method not found: ${method.slice(0, 128)}`), 404)
      }
    },
    close() {
      for (const end of [...subscriptions]) end()
    }
  }
}
