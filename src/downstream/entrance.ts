/**
 * What every request passes before its door: the guard, what a browser is told, and whose key it is. Doors are reached
 * through Hono's table or, for `POST /mcp`, without it; both ways come through here.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { SwitchboardError } from '../errors.js'
import type { Log } from '../observe/log.js'
import type { AuthFailures } from '../policy/auth-failures.js'
import type { Key, KeyRing } from '../policy/keys.js'
import { applyCors } from './cors.js'
import { createGuard, type GuardOptions } from './guard.js'
import { unreadBody, type ReplyHeaders } from './reply.js'

export interface EntranceOptions {
  readonly guard: GuardOptions
  readonly keys: () => KeyRing
  readonly failures: AuthFailures
  readonly log: Log
  /** Whether new work is taken; false while shutting down. */
  readonly ready: () => boolean
}

/** A request that goes no further; the caller answers it, in its own way of writing. */
export interface Refused {
  readonly error: SwitchboardError
  readonly headers?: ReplyHeaders
}

export interface Entrance {
  /** Guard, then CORS. @returns why it goes no further: refused, or answered already (a preflight). */
  stops(req: IncomingMessage, res: ServerResponse): Refused | 'answered' | undefined
  /** The key of the request, or why there is none for it. */
  admit(req: IncomingMessage, path: string): { readonly key: Key } | Refused
}

const tooManyFailures =
  'Too many wrong API keys came from this address within a minute. Correct the key; one that works is taken at once.'

export function createEntrance({ guard: guardOptions, keys, failures, log, ready }: EntranceOptions): Entrance {
  const guard = createGuard(guardOptions)
  return {
    stops(req, res) {
      const error = guard(req)
      if (!error) return applyCors(req, res) ? 'answered' : undefined
      log.info({ event: 'refused', reason: error.code, remote: req.socket.remoteAddress })
      return { error, headers: unreadBody(req) }
    },

    admit(req, path) {
      const { key, refused, keyId } = keys().authenticate(req.headers)
      if (key && ready()) return { key }
      if (key) return { error: new SwitchboardError('draining', undefined, { retryAfterMs: 2000 }) }
      // Looked at only now: a key that works passes from wherever it comes.
      const { remoteAddress: remote } = req.socket
      const retryAfterMs = failures.count(refused, remote, count =>
        log.info({ event: `auth.${refused}`, ...(keyId !== undefined && { key: keyId }), remote, path, count })
      )
      if (retryAfterMs !== undefined)
        return {
          error: new SwitchboardError('overloaded', tooManyFailures, { retryAfterMs }),
          headers: unreadBody(req)
        }
      // RFC 6750, 3.1: without credentials no error code; `resource_metadata` only where OAuth is really served.
      const challenge = refused === 'missing' ? 'Bearer realm="mcp"' : 'Bearer realm="mcp", error="invalid_token"'
      return {
        error: new SwitchboardError(refused === 'missing' ? 'unauthorized' : 'invalid_key'),
        headers: { 'www-authenticate': challenge, ...unreadBody(req) }
      }
    }
  }
}
