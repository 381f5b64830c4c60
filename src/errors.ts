/**
 * The one table of what Switchboard itself can refuse or fail at: stable code -> JSON-RPC code, HTTP status, sentence.
 * An upstream's own JSON-RPC error is not here: it passes through unchanged. Own JSON-RPC codes are -(31000 + HTTP
 * analogue), outside the range the specification reserves (protocol reference 3.12); -32001 stays for a lost session
 * because deployed 2025-era SDKs know it.
 *
 * Invariant: on the MCP doors an HTTP status of 4xx or 5xx means the request was never dispatched to an upstream. (Plain
 * HTTP has no other place for a failure: there 502 and 504 may come after dispatch, and their body says so.)
 */

/** What a row says: the JSON-RPC code, the HTTP status when it is refused before dispatch, and the default sentence. */
export interface ErrorRow {
  readonly rpc: number
  readonly http: number
  readonly say: string
}

export const errorTable = {
  unauthorized: {
    rpc: -31401,
    http: 401,
    say: 'No API key was sent. Send "Authorization: Bearer <key>" or "x-api-key: <key>"; the operator prints keys with "switchboard key show NAME" or "switchboard key new NAME". This server does not use OAuth.'
  },
  invalid_key: {
    rpc: -31401,
    http: 401,
    say: 'Unknown, expired or revoked API key. Ask the operator for a current one ("switchboard key new NAME"), put it into your client\'s Authorization header and reconnect. This server does not use OAuth.'
  },
  forbidden_host: {
    rpc: -31403,
    http: 403,
    say: 'This Host is not served here. Add it to listen.allowed_hosts in servers.yaml.'
  },
  forbidden_origin: {
    rpc: -31403,
    http: 403,
    say: 'This Origin may not call this server. Add it to listen.allowed_origins in servers.yaml.'
  },
  not_found: { rpc: -31404, http: 404, say: 'There is nothing at this address. MCP is served at /mcp.' },
  no_such_server: {
    rpc: -31404,
    http: 404,
    say: 'None of the servers asked for is known here, or this key may not use them. Check the path, ?servers= or x-mcp-servers against servers.yaml.'
  },
  method_not_allowed: {
    rpc: -31405,
    http: 405,
    say: 'This address takes POST. GET and DELETE need the Mcp-Session-Id of an open session.'
  },
  too_large: { rpc: -31413, http: 413, say: 'The request body is too large.' },
  unsupported_media_type: {
    rpc: -32600,
    http: 415,
    say: 'The body must be JSON in UTF-8: send "Content-Type: application/json".'
  },
  headers_too_many: { rpc: -31431, http: 431, say: 'Too many header fields were sent.' },
  duplicate_header: { rpc: -32600, http: 400, say: 'A header that may stand only once was sent twice.' },
  parse_error: { rpc: -32700, http: 400, say: 'The body is not valid JSON in UTF-8.' },
  invalid_request: { rpc: -32600, http: 400, say: 'The body is not a JSON-RPC 2.0 message.' },
  session_required: {
    rpc: -32600,
    http: 400,
    say: 'The Mcp-Session-Id header is missing. Send "initialize" first and repeat the id it returns.'
  },
  session_not_found: { rpc: -32001, http: 404, say: 'Session not found. Send "initialize" to open a new one.' },
  unknown_version: { rpc: -32600, http: 400, say: 'Unknown MCP-Protocol-Version.' },
  unsupported_version: { rpc: -32022, http: 400, say: 'Unsupported protocol version' },
  header_mismatch: { rpc: -32020, http: 400, say: 'A mirrored header does not match the body.' },
  invalid_envelope: { rpc: -32602, http: 400, say: 'The envelope in params._meta is not valid.' },
  invalid_params: { rpc: -32602, http: 200, say: 'Invalid params' },
  method_not_found: { rpc: -32601, http: 200, say: 'Method not found' },
  overloaded: { rpc: -31429, http: 429, say: 'Too many requests.' },
  draining: { rpc: -31503, http: 503, say: 'The gateway is shutting down; try again in a moment.' },
  revoked: { rpc: -31401, http: 401, say: 'The key was revoked while the call was running' },
  upstream_down: { rpc: -31503, http: 200, say: 'The server is not reachable.' },
  upstream_died: { rpc: -31503, http: 200, say: 'The server went away during the call.' },
  upstream_broke: { rpc: -31502, http: 200, say: 'The connection to the server broke during the call.' },
  upstream_garbage: { rpc: -31502, http: 200, say: 'The server answered something that is not MCP.' },
  upstream_refused: { rpc: -31502, http: 200, say: "The server rejected the gateway's credentials." },
  upstream_overloaded: { rpc: -31429, http: 200, say: 'The server has too much to do.' },
  upstream_timeout: { rpc: -31504, http: 200, say: 'The server did not answer in time.' },
  cancelled: { rpc: -31499, http: 200, say: 'The call was cancelled.' },
  internal: { rpc: -32603, http: 500, say: 'Internal error of the gateway. Its log says more.' }
} as const satisfies Record<string, ErrorRow>

export type ErrorCode = keyof typeof errorTable

/** What an error knows besides its code. */
export interface ErrorFacts {
  /** The upstream concerned, by its id in servers.yaml. */
  readonly server?: string
  /** Whether the request had been handed to the upstream: if so it may have run. */
  readonly dispatched?: boolean
  /** What the server itself said, to be passed on. */
  readonly answer?: { readonly code: number; readonly message: string; readonly data?: unknown }
  /** After how many milliseconds trying again makes sense. */
  readonly retryAfterMs?: number
  /** Members for `error.data`. */
  readonly data?: Record<string, unknown>
  readonly cause?: unknown
}

/** The one error class of the gateway's own failures. `code` is a row of {@link errorTable}. */
export class SwitchboardError extends Error {
  override readonly name = 'SwitchboardError'
  readonly code: ErrorCode
  readonly facts: ErrorFacts

  /** @param message the sentence shown to a person; defaults to the table's. */
  constructor(code: ErrorCode, message?: string, facts: ErrorFacts = {}) {
    super(message ?? errorTable[code].say, facts.cause === undefined ? undefined : { cause: facts.cause })
    this.code = code
    this.facts = facts
  }

  get rpc(): number {
    return errorTable[this.code].rpc
  }

  get http(): number {
    return errorTable[this.code].http
  }

  /** The JSON-RPC error object (JSON-RPC 2.0, section 5.1). */
  toRpc(): { code: number; message: string; data?: Record<string, unknown> } {
    const { server, dispatched, retryAfterMs, data } = this.facts
    const known = {
      ...(server === undefined ? undefined : { server }),
      ...(dispatched === undefined ? undefined : { dispatched }),
      ...(retryAfterMs === undefined ? undefined : { retryAfterMs }),
      ...data
    }
    return { code: this.rpc, message: this.message, ...(Object.keys(known).length > 0 && { data: known }) }
  }
}

/** Normalises anything thrown into a {@link SwitchboardError}; unknown faults become `internal` with their cause kept. */
export function toSwitchboardError(thrown: unknown): SwitchboardError {
  return thrown instanceof SwitchboardError ? thrown : new SwitchboardError('internal', undefined, { cause: thrown })
}

/** The text of anything thrown, for logs and for `lastError`: never empty. */
export function reasonOf(thrown: unknown): string {
  if (thrown instanceof AggregateError && thrown.errors.length > 0) return reasonOf(thrown.errors[0])
  if (thrown instanceof Error) return thrown.message || thrown.name
  return String(thrown)
}
