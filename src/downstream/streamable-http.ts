/**
 * The `/mcp` door: Streamable HTTP for both eras on one URL. A POST is read, classified and dispatched to the relay; in
 * the 2025 era it belongs to a session, in 2026-07-28 it stands alone. GET opens the session's stream, DELETE ends it.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Scope } from '../catalog/view.js'
import { SwitchboardError, toSwitchboardError } from '../errors.js'
import type { Key } from '../policy/keys.js'
import type { Relay } from '../relay.js'
import { classifyEra, isLegacyVersion, isModernVersion, legacyVersions, metaKey, modernVersion } from '../wire/era.js'
import {
  classifyMessage,
  isObject,
  type Answer,
  type Json,
  type RpcNotification,
  type RpcRequest
} from '../wire/json-rpc.js'
import type { ClientFacts } from '../wire/leg.js'
import { checkMirroredHeaders } from '../wire/mirrored-headers.js'
import { readJson } from './body.js'
import { EventStream } from './event-stream.js'
import { HttpExchange } from './exchange.js'
import { errorAnswer, replyAccepted, replyAnswer, replyJson, replyRefusal } from './reply.js'
import type { Session, Sessions } from './sessions.js'

export interface StreamableHttpOptions {
  readonly relay: Relay
  readonly sessions: Sessions
  readonly serverInfo: Json
}

/** Whose request it is and what it speaks of: settled before the door is reached. */
export interface Caller {
  readonly key: Key
  readonly scope: Scope
}

export interface StreamableHttp {
  handlePost(caller: Caller, req: IncomingMessage, res: ServerResponse): Promise<void>
  handleGet(caller: Caller, req: IncomingMessage, res: ServerResponse): void
  handleDelete(caller: Caller, req: IncomingMessage, res: ServerResponse): void
}

/** What every session and every `server/discover` declares, whatever is up at the moment. */
const capabilities = { tools: {} }

export function createStreamableHttp({ relay, sessions, serverInfo }: StreamableHttpOptions): StreamableHttp {
  async function handlePost(caller: Caller, req: IncomingMessage, res: ServerResponse): Promise<void> {
    try {
      const classified = classifyMessage(await readJson(req))
      switch (classified.kind) {
        case 'request':
          return await handleRequest(caller, classified.message, req, res)
        case 'notification':
          return handleNotification(caller, classified.message, req, res)
        case 'response':
          if (!isModernVersion(version(req))) requireSession(caller.key, req)
          return replyAccepted(res)
        case 'invalid':
          return replyRefusal(
            res,
            new SwitchboardError('invalid_request', `Not a JSON-RPC 2.0 message: ${classified.reason}.`),
            classified.id
          )
      }
    } catch (thrown) {
      refuse(res, toSwitchboardError(thrown))
    }
  }

  async function handleRequest(
    caller: Caller,
    message: RpcRequest,
    req: IncomingMessage,
    res: ServerResponse
  ): Promise<void> {
    const verdict = classifyEra(message, version(req))
    if ('refused' in verdict) {
      return replyRefusal(
        res,
        new SwitchboardError(verdict.refused, verdict.message, { ...(verdict.data && { data: verdict.data }) }),
        message.id
      )
    }
    if (verdict.era === 'modern') return handleModern(caller, message, verdict.client, req, res)
    if (message.method === 'initialize') return handleInitialize(caller.key, message, res)
    let session: Session
    try {
      session = requireSession(caller.key, req)
    } catch (thrown) {
      return refuse(res, toSwitchboardError(thrown), message)
    }
    if (session.inFlight.has(message.id)) {
      return replyRefusal(
        res,
        new SwitchboardError(
          'invalid_request',
          `Request id ${JSON.stringify(message.id)} is in use by a request that is still running.`
        ),
        message.id
      )
    }
    const exchange = new HttpExchange({ id: message.id, era: 'legacy', client: session.client, ...caller, req, res })
    session.inFlight.set(message.id, exchange)
    try {
      exchange.finish(await dispatchLegacy(exchange, message))
    } finally {
      session.inFlight.delete(message.id)
    }
  }

  async function handleModern(
    caller: Caller,
    message: RpcRequest,
    client: ClientFacts,
    req: IncomingMessage,
    res: ServerResponse
  ): Promise<void> {
    const mismatch =
      version(req) === undefined
        ? 'the MCP-Protocol-Version header is missing'
        : checkMirroredHeaders(req.headers, message)
    if (mismatch !== undefined)
      return replyRefusal(res, new SwitchboardError('header_mismatch', `Bad request: ${mismatch}`), message.id)
    const { method, params } = message
    if (method === 'server/discover') return replyAnswer(res, message.id, { result: discoverResult() })
    if (method !== 'tools/list' && method !== 'tools/call')
      return replyAnswer(res, message.id, unknownMethod(method), 404)
    const exchange = new HttpExchange({ id: message.id, era: 'modern', client, ...caller, req, res })
    exchange.finish(
      method === 'tools/list' ? await relay.listTools(exchange, params) : await relay.callTool(exchange, params)
    )
  }

  async function dispatchLegacy(exchange: HttpExchange, { method, params }: RpcRequest): Promise<Answer> {
    try {
      switch (method) {
        case 'tools/list':
          return await relay.listTools(exchange, params)
        case 'tools/call':
          return await relay.callTool(exchange, params)
        case 'ping':
          return { result: {} }
        default:
          return unknownMethod(method)
      }
    } catch (thrown) {
      return { error: toSwitchboardError(thrown).toRpc() }
    }
  }

  function handleInitialize(key: Key, { id, params }: RpcRequest, res: ServerResponse): void {
    const asked = params?.protocolVersion
    const agreed = typeof asked === 'string' && isLegacyVersion(asked) ? asked : legacyVersions[0]
    const session = sessions.open(key.id, agreed, {
      capabilities: isObject(params?.capabilities) ? params.capabilities : {},
      ...(isObject(params?.clientInfo) && { clientInfo: params.clientInfo })
    })
    replyAnswer(res, id, { result: { protocolVersion: agreed, capabilities, serverInfo } }, 200, {
      'mcp-session-id': session.id
    })
  }

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

  function handleNotification(
    { key }: Caller,
    { method, params }: RpcNotification,
    req: IncomingMessage,
    res: ServerResponse
  ): void {
    // A modern client cancels by closing its request; what it posts besides has no session to belong to.
    if (isModernVersion(version(req)) || (isObject(params?._meta) && metaKey.version in params._meta))
      return replyAccepted(res)
    const session = requireSession(key, req)
    if (method === 'notifications/cancelled') {
      const { requestId, reason } = params ?? {}
      const exchange = session.inFlight.get(requestId as string | number)
      exchange?.cancel(typeof reason === 'string' ? reason.slice(0, 300) : 'the client cancelled the request')
    }
    replyAccepted(res)
  }

  function handleGet({ key }: Caller, req: IncomingMessage, res: ServerResponse): void {
    if (req.headers['mcp-session-id'] === undefined || isModernVersion(version(req))) return methodNotAllowed(res)
    let session: Session
    try {
      session = requireSession(key, req)
    } catch (thrown) {
      return refuse(res, toSwitchboardError(thrown))
    }
    // Clients reconnect faster than the loss of their old stream is noticed: the new one replaces it.
    session.stream?.end()
    const stream = new EventStream(res, {
      onClose: () => {
        if (session.stream === stream) session.stream = undefined
      }
    })
    session.stream = stream
  }

  function handleDelete({ key }: Caller, req: IncomingMessage, res: ServerResponse): void {
    if (req.headers['mcp-session-id'] === undefined || isModernVersion(version(req))) return methodNotAllowed(res)
    try {
      sessions.end(requireSession(key, req))
      replyJson(res, 200, '{}')
    } catch (thrown) {
      refuse(res, toSwitchboardError(thrown))
    }
  }

  /** @throws SwitchboardError 400 without an id, 404 for one that is unknown to this key, 400 for a version nobody knows. */
  function requireSession(key: Key, req: IncomingMessage): Session {
    const id = req.headers['mcp-session-id']
    if (typeof id !== 'string') throw new SwitchboardError('session_required')
    const session = sessions.find(id, key.id)
    if (!session) throw new SwitchboardError('session_not_found')
    const named = version(req)
    if (named !== undefined && !isLegacyVersion(named)) {
      throw new SwitchboardError(
        'unknown_version',
        `MCP-Protocol-Version "${named.slice(0, 40)}" is unknown here; known are ${legacyVersions.join(', ')} and ${modernVersion}.`
      )
    }
    return session
  }

  return { handlePost, handleGet, handleDelete }
}

function version(req: IncomingMessage): string | undefined {
  const value = req.headers['mcp-protocol-version']
  return typeof value === 'string' ? value.trim() : undefined
}

function unknownMethod(method: string): Answer {
  return errorAnswer('method_not_found', `Method not found: ${method.slice(0, 128)}`)
}

function methodNotAllowed(res: ServerResponse): void {
  replyRefusal(res, new SwitchboardError('method_not_allowed'), undefined, { allow: 'POST' })
}

function refuse(res: ServerResponse, error: SwitchboardError, message?: RpcRequest): void {
  if (error.code === 'cancelled') return void res.destroy()
  // The rest of a body that was refused is not read: the connection cannot be used again.
  replyRefusal(res, error, message?.id, error.code === 'too_large' ? { connection: 'close' } : undefined)
}
