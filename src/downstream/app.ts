/**
 * The doors. Hono routes; every request passes guard (headers, Host, Origin) → authenticate → its door, in that order.
 * Open without a key are only health, and the 404s that clients probing for OAuth must get as JSON.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { HttpBindings } from '@hono/node-server'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { Hono, type Context } from 'hono'
import type { Catalog } from '../catalog/snapshot.js'
import type { Scope } from '../catalog/sight.js'
import { SwitchboardError } from '../errors.js'
import type { Key } from '../policy/keys.js'
import { scopeOf, type Caller } from './caller.js'
import { createEntrance, type EntranceOptions } from './entrance.js'
import { commonHeaders, refusalBody, replyRefusal, unreadBody } from './reply.js'
import type { RestDoor } from './rest.js'
import type { SseDoor } from './sse.js'
import type { StreamableHttp } from './streamable-http.js'

export interface AppOptions extends EntranceOptions {
  readonly catalog: () => Catalog
  readonly streamableHttp: StreamableHttp
  readonly sse: SseDoor
  readonly rest: RestDoor
  /** The text of `/metrics`, as far as this key may read it. */
  readonly metrics: (key: Key) => Promise<{ readonly type: string; readonly text: string }>
}

export interface App {
  readonly fetch: Hono<Env>['fetch']
  /** `POST /mcp` without Hono, whose way there and back costs a tenth of a call. @returns false if it is not that. */
  direct(req: IncomingMessage, res: ServerResponse): boolean
}

interface Env {
  Bindings: HttpBindings
  Variables: { key: Key }
}

type Door = (caller: Caller, req: IncomingMessage, res: ServerResponse) => void | Promise<void>

export function createApp(options: AppOptions): App {
  const { catalog, streamableHttp, sse, rest, metrics, log, ready } = options
  const app = new Hono<Env>()
  const entrance = createEntrance(options)

  app.use(async (c, next) => {
    const stopped = entrance.stops(c.env.incoming, c.env.outgoing)
    if (!stopped) return next()
    return stopped === 'answered' ? RESPONSE_ALREADY_SENT : refusal(stopped.error, stopped.headers)
  })

  app.get('/healthz', () => json(200, { status: 'ok' }))
  app.get('/health', () => json(200, { status: 'ok' }))
  app.get('/readyz', () => (ready() ? json(200, { status: 'ready' }) : json(503, { status: 'draining' })))
  // Clients probe for OAuth under any prefix; anything but a JSON 404 sends them into a login that leads nowhere.
  app.use(async (c, next) => {
    if (!oauthProbe.test(c.req.path)) return next()
    const body = { error: 'not_found', error_description: 'This server uses API keys, not OAuth.' }
    return json(404, body, unreadBody(c.env.incoming))
  })

  app.use(async (c, next) => {
    const admitted = entrance.admit(c.env.incoming, c.req.path)
    if ('error' in admitted) return refusal(admitted.error, admitted.headers)
    c.set('key', admitted.key)
    return next()
  })

  const mcp = (door: Door) => async (c: Context<Env>) => {
    const { incoming, outgoing } = c.env
    // Hono lets GET doors answer HEAD too, but these open streams.
    if (incoming.method === 'HEAD')
      return refusal(new SwitchboardError('method_not_allowed'), { allow: 'GET, POST, DELETE' })
    const scope = scopeOf(catalog(), c.get('key'), c.req.param('server'), c.req.query('servers'), incoming)
    await enter(door, c.get('key'), scope, incoming, outgoing)
    return RESPONSE_ALREADY_SENT
  }
  const post: Door = (caller, req, res) => streamableHttp.handlePost(caller, req, res)
  for (const path of ['/mcp', '/mcp/', '/mcp/:server', '/mcp/:server/']) {
    app.post(path, mcp(post))
    app.get(
      path,
      mcp((caller, req, res) => streamableHttp.handleGet(caller, req, res))
    )
    app.delete(
      path,
      mcp((caller, req, res) => streamableHttp.handleDelete(caller, req, res))
    )
    app.all(path, c =>
      refusal(new SwitchboardError('method_not_allowed'), { allow: 'POST, GET, DELETE', ...unreadBody(c.env.incoming) })
    )
  }

  app.get(
    '/sse',
    mcp((caller, req, res) => sse.handleGet(caller, req, res))
  )
  app.post('/messages', c => mcp((caller, req, res) => sse.handlePost(caller, c.req.query('sessionId'), req, res))(c))
  app.all('/sse', c =>
    refusal(
      new SwitchboardError(
        'method_not_allowed',
        'This address takes GET; messages are posted to the address its "endpoint" event names.'
      ),
      { allow: 'GET', ...unreadBody(c.env.incoming) }
    )
  )

  app.get(
    '/tools',
    mcp((caller, req, res) => rest.listTools(caller, req, res))
  )
  app.post('/tools/:name', c => mcp((caller, req, res) => rest.callTool(caller, c.req.param('name'), req, res))(c))
  app.get(
    '/openapi.json',
    mcp((caller, req, res) => rest.openApi(caller, req, res))
  )
  app.get('/metrics', async c => {
    const { type, text } = await metrics(c.get('key'))
    return new Response(text, { headers: { ...commonHeaders, 'content-type': type } })
  })

  app.notFound(c => refusal(new SwitchboardError('not_found'), unreadBody(c.env.incoming)))
  app.onError(error => refusal(fault(error)))

  function fault(error: Error): SwitchboardError {
    log.error({ event: 'fault', reason: error.message, stack: error.stack })
    return new SwitchboardError('internal')
  }

  async function postMcp(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const stopped = entrance.stops(req, res)
    if (stopped === 'answered') return
    const admitted = stopped ?? entrance.admit(req, '/mcp')
    if ('error' in admitted) return replyRefusal(res, admitted.error, undefined, admitted.headers)
    await enter(post, admitted.key, scopeOf(catalog(), admitted.key, undefined, undefined, req), req, res)
  }

  return {
    fetch: app.fetch,
    direct(req, res) {
      if (req.url !== '/mcp' || req.method !== 'POST' || !plainHost.test(req.headers.host ?? '')) return false
      postMcp(req, res).catch((error: unknown) => replyRefusal(res, fault(error as Error)))
      return true
    }
  }
}

function enter(
  door: Door,
  key: Key,
  scope: Scope | undefined,
  req: IncomingMessage,
  res: ServerResponse
): void | Promise<void> {
  // It may have gone on the way here.
  if (key.revocation.reason) return replyRefusal(res, new SwitchboardError('invalid_key'), undefined, unreadBody(req))
  if (scope) return door({ key, scope }, req, res)
  replyRefusal(res, new SwitchboardError('no_such_server'), undefined, unreadBody(req))
}

/** Another Host may be none at all: whether it is, Hono's adapter finds out. */
const plainHost = /^[a-z0-9.-]+(?::\d+)?$/i

const oauthProbe = /\/\.well-known(?:\/|$)|^\/(?:register|authorize|token)\/?$/

function json(status: number, body: object, headers?: Readonly<Record<string, string>>): Response {
  return new Response(JSON.stringify(body), {
    status,
    headers: { ...commonHeaders, 'content-type': 'application/json', ...headers }
  })
}

export function refusal(error: SwitchboardError, headers?: Readonly<Record<string, string>>): Response {
  const { retryAfterMs } = error.facts
  return new Response(refusalBody(error), {
    status: error.http,
    headers: {
      ...commonHeaders,
      'content-type': 'application/json',
      ...(retryAfterMs !== undefined && { 'retry-after': String(Math.ceil(retryAfterMs / 1000)) }),
      ...headers
    }
  })
}
