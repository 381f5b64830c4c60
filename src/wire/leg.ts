/** What rides along with one request of ours to an upstream: who caused it, how it is cancelled, where its progress goes. */
import type { Cancellation } from './cancellation.js'
import type { Json, RpcNotification } from './json-rpc.js'

/** The downstream client as upstreams may know it: what the envelope of 2026-07-28 carries (never its key). */
export interface ClientFacts {
  readonly clientInfo?: Json
  readonly capabilities: Json
  readonly logLevel?: string
}

export interface Leg {
  readonly cancellation: Cancellation
  readonly client: ClientFacts
  /** Whose request it is: the id of its key; absent for the gateway's own. */
  readonly principal?: string | undefined
  /** The downstream gave a progress token, so the upstream gets one (ours). */
  readonly wantsProgress: boolean
  /** `tools/call` of this tool (wire name), for sentences; absent for other methods. */
  readonly tool?: string | undefined
  /** Whether running the request twice is harmless by the tool's own annotations. */
  readonly repeatable?: boolean | undefined
  /** Told true when the request is handed to the server, false when the server has provably not begun it after all. */
  onSent?(sent: boolean): void
  /**
   * Notifications that belong to this request, in order. A progress token in them is ours.
   * @param isGuess nothing says that it belongs to this request, so it is no sign of life of it.
   */
  onNotification?(notification: RpcNotification, isGuess?: boolean): void
  /** The server has closed the stream of this request for a while; it is resumed after so many milliseconds. */
  onPause?(retryMs: number): void
  /** Trace context of the downstream request: `traceparent`, `tracestate`, `baggage`. Nothing else is ever forwarded. */
  readonly headers?: Readonly<Record<string, string>> | undefined
}
