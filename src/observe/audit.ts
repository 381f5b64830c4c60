/**
 * The audit trail: exactly one line for every tool call that was authenticated, whatever became of it. Arguments and
 * results are never in it.
 */
import type { Log } from './log.js'

/**
 * How a call ended. `unknown` and `denied` look the same to the caller; only here they differ.
 */
export type Outcome =
  'ok' | 'is_error' | 'rpc_error' | 'unknown' | 'denied' | 'shed' | 'down' | 'died' | 'timeout' | 'cancelled' | 'failed'

export interface CallRecord {
  readonly key: string
  /** `clientInfo.name/version` as the client gave it. */
  readonly client?: string | undefined
  /** What the caller speaks. */
  readonly era: 'legacy' | 'modern'
  /** Absent for `tools/call`. */
  readonly method?: string | undefined
  readonly server?: string | undefined
  /** The wire name (of another method: the prompt, URI or template), or the name as sent when nothing has it. */
  readonly tool: string
  readonly outcome: Outcome
  /** JSON-RPC code of a failure. */
  readonly code?: number | undefined
  readonly ms: number
}

export type Audit = (record: CallRecord) => void

export function createAudit(log: Log): Audit {
  // Members by name, not spread: this is made for every call. Those that are undefined are not written.
  return ({ key, client, era, method, server, tool, outcome, code, ms }) =>
    log.info({
      event: 'call',
      key,
      client,
      era,
      method,
      server,
      tool: tool.slice(0, 128),
      outcome,
      code,
      ms: Math.round(ms * 10) / 10
    })
}
