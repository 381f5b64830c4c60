/**
 * The `/mcp` door: Streamable HTTP for both eras on one URL. A POST is read, classified and handed to its era; in the
 * 2025 era it belongs to a session, in 2026-07-28 it stands alone. GET opens the session's stream, DELETE ends it.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { SwitchboardError, toSwitchboardError } from '../errors.js'
import type { Key } from '../policy/keys.js'
import type { Relay } from '../relay.js'
import { classifyEra, isLegacyVersion, isModernVersion, legacyVersions, metaKey, modernVersion } from '../wire/era.js'
import { classifyMessage, isObject, type RpcId, type RpcNotification, type RpcRequest } from '../wire/json-rpc.js'
import { listOf, listRows } from '../wire/lists.js'
import type { Caller } from './caller.js'
import { batchVersion, handleBatch } from './batch.js'
import type { ReadJson } from './body.js'
import type { StreamTerms } from './event-stream.js'
import { HttpExchange } from './exchange.js'
import { applyCancelled, askingFor, type Legacy } from './legacy.js'
import type { Modern } from './modern.js'
import { replyAccepted, replyJson, replyRefusal, unreadBody } from './reply.js'
import type { SessionStreams } from './session-stream.js'
import type { Session, Sessions } from './sessions.js'

export interface StreamableHttpOptions {
  readonly legacy: Legacy
  readonly modern: Modern
  readonly sessions: Sessions
  readonly sessionStreams: SessionStreams
  readonly relay: Pick<Relay, 'signature'>
  readonly readJson: ReadJson
  readonly terms: StreamTerms
  /** Messages one batch may have. */
  readonly batchMessages: number
}

export interface StreamableHttp {
  handlePost(caller: Caller, req: IncomingMessage, res: ServerResponse): Promise<void>
  handleGet(caller: Caller, req: IncomingMessage, res: ServerResponse): void
  handleDelete(caller: Caller, req: IncomingMessage, res: ServerResponse): void
}

export function createStreamableHttp({
  legacy,
  modern,
  sessions,
  sessionStreams,
  relay,
  readJson,
  terms,
  batchMessages
}: StreamableHttpOptions): StreamableHttp {
  async function handlePost(caller: Caller, req: IncomingMessage, res: ServerResponse): Promise<void> {
    let id: RpcId | undefined
    try {
      const body = await readJson(req)
      if (Array.isArray(body)) return await handleItems(caller, body, req, res)
      const classified = classifyMessage(body)
      switch (classified.kind) {
        case 'request':
          id = classified.message.id
          return await handleRequest(caller, classified.message, req, res)
        case 'notification':
          return handleNotification(caller, classified.message, req, res)
        case 'response':
          if (!isModernVersion(version(req))) requireSession(caller.key, req)
          return replyAccepted(res)
        case 'invalid':
          id = classified.id
          throw new SwitchboardError('invalid_request', `Not a JSON-RPC 2.0 message: ${classified.reason}.`)
      }
    } catch (thrown) {
      refuse(req, res, thrown, id)
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
      throw new SwitchboardError(verdict.refused, verdict.message, { ...(verdict.data && { data: verdict.data }) })
    }
    if (verdict.era === 'modern') return modern.handle(caller, message, verdict.client, req, res)
    const { id, method } = message
    if (method === 'initialize') {
      const { version, client, result } = legacy.initialize(caller, message.params)
      const session = sessions.open(caller.key.id, version, client)
      const replyHeaders = { 'mcp-session-id': session.id }
      const opening = {
        id,
        era: 'legacy',
        client,
        logLevel: undefined,
        ...caller,
        req,
        res,
        terms,
        replyHeaders
      } as const
      return new HttpExchange(opening).finish({ result })
    }
    const session = requireSession(caller.key, req)
    if (session.inFlight.has(id)) {
      throw new SwitchboardError(
        'invalid_request',
        `Request id ${JSON.stringify(id)} belongs to a request that is still running.`
      )
    }
    const resumable = sessionStreams.resumable(session)
    const exchange = new HttpExchange({
      id,
      era: 'legacy',
      ...askingFor(session.client, session),
      ...caller,
      req,
      res,
      terms,
      resumable
    })
    session.inFlight.set(id, exchange)
    try {
      const answer = await legacy.dispatch(exchange, message, session)
      noteListed(session, caller, method)
      exchange.finish(answer)
    } finally {
      session.inFlight.take(id)
    }
  }

  /** Keeps what the client was shown of a list: whether it misses a change later. */
  function noteListed(session: Session, { key, scope }: Caller, method: string): void {
    const kind = listOf.get(method)
    // Templates have no notification of their own: who only lists those has not seen the resources.
    if (!kind || kind === 'templates') return
    const { change } = listRows[kind]
    session.listed.set(change, { scope: scope.key, signature: relay.signature(key, scope, change) })
  }

  async function handleItems(
    caller: Caller,
    items: readonly unknown[],
    req: IncomingMessage,
    res: ServerResponse
  ): Promise<void> {
    const session = isModernVersion(version(req)) ? undefined : requireSession(caller.key, req)
    if (session?.version !== batchVersion) {
      throw new SwitchboardError(
        'invalid_request',
        `Not a JSON-RPC 2.0 message: expected a JSON object; only sessions of ${batchVersion} may send several at once.`
      )
    }
    const onAnswered = (method: string) => noteListed(session, caller, method)
    await handleBatch({ legacy, session, caller, maxMessages: batchMessages, terms, onAnswered }, items, req, res)
  }

  function handleNotification(
    { key }: Caller,
    { method, params }: RpcNotification,
    req: IncomingMessage,
    res: ServerResponse
  ): void {
    // A modern client cancels by closing its request; what it posts besides has no session to belong to.
    const isModern = isModernVersion(version(req)) || (isObject(params?._meta) && metaKey.version in params._meta)
    if (!isModern) {
      const session = requireSession(key, req)
      if (method === 'notifications/cancelled') applyCancelled(session.inFlight, params)
    }
    replyAccepted(res)
  }

  function handleGet(caller: Caller, req: IncomingMessage, res: ServerResponse): void {
    try {
      sessionStreams.open(sessionOfStream(caller.key, req), caller, req, res)
    } catch (thrown) {
      refuse(req, res, thrown)
    }
  }

  function handleDelete({ key }: Caller, req: IncomingMessage, res: ServerResponse): void {
    try {
      sessions.end(sessionOfStream(key, req))
      replyJson(res, 200, '{}')
    } catch (thrown) {
      refuse(req, res, thrown)
    }
  }

  /** @throws SwitchboardError 405 where no session is named: the modern era has none. */
  function sessionOfStream(key: Key, req: IncomingMessage): Session {
    if (req.headers['mcp-session-id'] === undefined || isModernVersion(version(req)))
      throw new SwitchboardError('method_not_allowed')
    return requireSession(key, req)
  }

  /** @throws SwitchboardError 400 without an id, 404 for one that is unknown to this key, 400 for a version nobody knows. */
  function requireSession(key: Key, req: IncomingMessage): Session {
    const id = req.headers['mcp-session-id']
    if (typeof id !== 'string') throw new SwitchboardError('session_required')
    const session = sessions.find(id, key.id)
    if (!session) throw new SwitchboardError('session_not_found')
    const named = version(req)
    if (named !== undefined && !isLegacyVersion(named)) {
      const known = [...legacyVersions, modernVersion].join(', ')
      throw new SwitchboardError(
        'unknown_version',
        `MCP-Protocol-Version "${named.slice(0, 40)}" is unknown here; known are ${known}.`
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

function refuse(req: IncomingMessage, res: ServerResponse, thrown: unknown, id?: RpcId): void {
  const error = toSwitchboardError(thrown)
  if (error.code === 'cancelled') return void res.destroy()
  replyRefusal(res, error, id, { ...(error.code === 'method_not_allowed' && { allow: 'POST' }), ...unreadBody(req) })
}
