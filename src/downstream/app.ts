/**
 * The doors. Hono routes; every request passes guard (headers, Host, Origin) → authenticate → its door, in that order.
 * Open without a key are only health, and the 404s that clients probing for OAuth must get as JSON.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { HttpBindings } from '@hono/node-server'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { Hono, type Context } from 'hono'
import type { Catalog } from '../catalog/snapshot.js'
import { SwitchboardError } from '../errors.js'
import type { Log } from '../observe/log.js'
import type { Key, KeyRing } from '../policy/keys.js'
import { scopeOf, type Caller } from './caller.js'
import { applyCors } from './cors.js'
import { createGuard, type GuardOptions } from './guard.js'
import { commonHeaders, refusalBody, replyRefusal, unreadBody } from './reply.js'
import type { RestDoor } from './rest.js'
import type { SseDoor } from './sse.js'
import type { StreamableHttp } from './streamable-http.js'

export interface AppOptions {
  readonly guard: GuardOptions
  readonly keys: () => KeyRing
  readonly catalog: () => Catalog
  readonly streamableHttp: StreamableHttp
  readonly sse: SseDoor
  readonly rest: RestDoor
  /** The text of `/metrics`, as far as this key may read it. */
  readonly metrics: (key: Key) => Promise<{ readonly type: string; readonly text: string }>
  readonly log: Log
  /** Whether new work is taken; false while shutting down. */
  readonly ready: () => boolean
}

interface Env {
  Bindings: HttpBindings
  Variables: { key: Key }
}

type Door = (caller: Caller, req: IncomingMessage, res: ServerResponse) => void | Promise<void>

export function createApp({
  guard: guardOptions,
  keys,
  catalog,
  streamableHttp,
  sse,
  rest,
  metrics,
  log,
  ready
}: AppOptions): Hono<Env> {
  const app = new Hono<Env>()
  const guard = createGuard(guardOptions)

  app.use(async (c, next) => {
    const refused = guard(c.env.incoming)
    if (!refused) return applyCors(c.env.incoming, c.env.outgoing) ? RESPONSE_ALREADY_SENT : next()
    log.info({ event: 'refused', reason: refused.code, remote: c.env.incoming.socket.remoteAddress })
    return refusal(refused, unreadBody(c.env.incoming))
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
    const { key, refused, keyId } = keys().authenticate(c.env.incoming.headers)
    if (key) {
      if (!ready()) return refusal(new SwitchboardError('draining', undefined, { retryAfterMs: 2000 }))
      c.set('key', key)
      return next()
    }
    log.info({
      event: `auth.${refused}`,
      ...(keyId !== undefined && { key: keyId }),
      remote: c.env.incoming.socket.remoteAddress,
      path: c.req.path
    })
    // RFC 6750, 3.1: without credentials no error code; `resource_metadata` only where OAuth is really served.
    const challenge = refused === 'missing' ? 'Bearer realm="mcp"' : 'Bearer realm="mcp", error="invalid_token"'
    return refusal(new SwitchboardError(refused === 'missing' ? 'unauthorized' : 'invalid_key'), {
      'www-authenticate': challenge,
      ...unreadBody(c.env.incoming)
    })
  })

  const mcp = (door: Door) => async (c: Context<Env>) => {
    const { incoming, outgoing } = c.env
    // Hono lets GET doors answer HEAD too, but these open streams.
    if (incoming.method === 'HEAD')
      return refusal(new SwitchboardError('method_not_allowed'), { allow: 'GET, POST, DELETE' })
    const scope = scopeOf(catalog(), c.get('key'), c.req.param('server'), c.req.query('servers'), incoming)
    if (!scope) replyRefusal(outgoing, new SwitchboardError('no_such_server'), undefined, unreadBody(incoming))
    else await door({ key: c.get('key'), scope }, incoming, outgoing)
    return RESPONSE_ALREADY_SENT
  }
  for (const path of ['/mcp', '/mcp/', '/mcp/:server', '/mcp/:server/']) {
    app.post(
      path,
      mcp((caller, req, res) => streamableHttp.handlePost(caller, req, res))
    )
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
  app.onError(error => {
    log.error({ event: 'fault', reason: error.message, stack: error.stack })
    return refusal(new SwitchboardError('internal'))
  })
  return app
}

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
