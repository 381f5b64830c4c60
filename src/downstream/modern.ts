/**
 * What a request of 2026-07-28 is answered: each stands alone, carries its own envelope, and its headers must mirror its
 * body. `subscriptions/listen` is the one that stays open.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { SwitchboardError, toSwitchboardError } from '../errors.js'
import type { Relay } from '../relay.js'
import { metaKey, modernVersion, tasksExtension } from '../wire/era.js'
import { isObject, type Answer, type Json, type RpcRequest } from '../wire/json-rpc.js'
import type { ClientFacts } from '../wire/leg.js'
import { listOf } from '../wire/lists.js'
import { checkMirroredHeaders } from '../wire/mirrored-headers.js'
import type { Caller } from './caller.js'
import type { StreamTerms } from './event-stream.js'
import { HttpExchange, type ExchangeOptions } from './exchange.js'
import { listen } from './listen.js'
import type { Listeners } from './listeners.js'
import type { LiveState } from './live-state.js'
import { errorAnswer, replyAnswer, replyRefusal } from './reply.js'

/** Answers that say what is wrong with the request itself: headers that do not mirror it, a capability it lacks. */
const refusedAs400: ReadonlySet<number | undefined> = new Set([-32020, -32021])

/** What becomes of tasks is told only to clients that can make sense of it (Tasks extension, Capabilities). */
const knowsTasks = ({ capabilities }: ClientFacts) =>
  isObject(capabilities.extensions) && tasksExtension in capabilities.extensions
const tasksRequired: Answer = {
  error: {
    code: -32021,
    message: 'This request needs a client that declares the tasks extension.',
    data: { requiredCapabilities: { extensions: { [tasksExtension]: {} } } }
  }
}

export interface ModernOptions {
  readonly relay: Relay
  readonly listeners: Listeners
  readonly serverInfo: Json
  readonly held: LiveState
  readonly terms: StreamTerms
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

export function createModern({ relay, listeners, serverInfo, held, terms }: ModernOptions): Modern {
  const subscriptions = new Set<() => void>()

  function discoverResult({ key, scope }: Caller): Json {
    return {
      resultType: 'complete',
      supportedVersions: [modernVersion],
      ...relay.describe(key, scope, 'modern'),
      ttlMs: 60_000,
      cacheScope: 'private',
      _meta: { [metaKey.serverInfo]: serverInfo }
    }
  }

  async function call(exchange: HttpExchange, { method, params }: RpcRequest): Promise<Answer> {
    try {
      const kind = listOf.get(method)
      if (kind) return await relay.list(exchange, kind, params)
      return method === 'tools/call'
        ? await relay.callTool(exchange, params)
        : await relay.ask(exchange, method, params)
    } catch (thrown) {
      return { error: toSwitchboardError(thrown).toRpc() }
    }
  }

  async function answer(asked: ExchangeOptions, message: RpcRequest): Promise<void> {
    const exchange = new HttpExchange(asked)
    const answer = await call(exchange, message)
    exchange.finish(answer, refusedAs400.has(answer.error?.code) ? 400 : 200)
  }

  return {
    async handle(caller, message, client, req, res) {
      const { id, method, params } = message
      const mismatch =
        req.headers['mcp-protocol-version'] === undefined
          ? 'the MCP-Protocol-Version header is missing'
          : checkMirroredHeaders(req.headers, message)
      if (mismatch !== undefined)
        return replyRefusal(res, new SwitchboardError('header_mismatch', `Bad request: ${mismatch}`), id)
      const asked = { id, era: 'modern', client, logLevel: client.logLevel, ...caller, req, res, terms } as const
      switch (method) {
        case 'server/discover':
          return new HttpExchange(asked).finish({ result: discoverResult(caller) })
        case 'subscriptions/listen':
          if (isObject(params?.notifications) && 'taskIds' in params.notifications && !knowsTasks(client))
            return replyAnswer(res, id, tasksRequired, 400)
          return listen({ relay, listeners, held, terms, subscriptions }, caller, message, res)
        case 'tasks/get':
        case 'tasks/update':
        case 'tasks/cancel':
          if (!knowsTasks(client)) return replyAnswer(res, id, tasksRequired, 400)
          return answer(asked, message)
        case 'tools/list':
        case 'prompts/list':
        case 'resources/list':
        case 'resources/templates/list':
        case 'tools/call':
        case 'prompts/get':
        case 'resources/read':
        case 'completion/complete':
          return answer(asked, message)
        default:
          return replyAnswer(res, id, errorAnswer('method_not_found', `Method not found: ${method.slice(0, 128)}`), 404)
      }
    },
    close() {
      for (const end of [...subscriptions]) end()
    }
  }
}
