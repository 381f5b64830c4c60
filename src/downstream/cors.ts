/**
 * What a browser page of an allowed origin is told (WHATWG Fetch, CORS protocol). It is set on the Node response before
 * any door writes to it, because some doors write there directly.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { commonHeaders } from './reply.js'

const exposed = 'Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After'
const methods = 'GET, POST, DELETE, OPTIONS'
const preflightSeconds = '600'

/**
 * Marks the response for the request's origin, which the guard has let pass; answers a preflight itself.
 * @returns true when the request is answered.
 */
export function applyCors({ method, headers }: IncomingMessage, res: ServerResponse): boolean {
  const { origin } = headers
  if (origin === undefined) return false
  res.setHeader('access-control-allow-origin', origin)
  res.setHeader('vary', 'Origin')
  res.setHeader('access-control-expose-headers', exposed)
  if (method !== 'OPTIONS' || headers['access-control-request-method'] === undefined) return false
  // Header names of the future (Mcp-Param-…) cannot be listed: what is asked for is allowed, the key decides.
  const asked = headers['access-control-request-headers']
  res.writeHead(204, {
    ...commonHeaders,
    'access-control-allow-methods': methods,
    ...(asked !== undefined && { 'access-control-allow-headers': asked }),
    'access-control-max-age': preflightSeconds
  })
  res.end()
  return true
}
