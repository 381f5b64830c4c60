/**
 * A link is one connection to an upstream server: it carries our requests and brings back exactly one answer for each.
 * It knows nothing of names, keys or other servers; it ends once, with a reason, and is then replaced by its owner.
 */
import type { Era } from '../wire/era.js'
import type { Answer, Json, RpcNotification } from '../wire/json-rpc.js'
import type { Leg } from '../wire/leg.js'

/** What the server said of itself in `initialize` or `server/discover`. */
export interface LinkInfo {
  readonly era: Era
  readonly version: string
  readonly capabilities: Json
  readonly serverInfo: Json
  readonly instructions?: string
}

export interface Link {
  readonly info: LinkInfo
  /** Whether the server can tell us something outside of a request. */
  readonly hears: boolean
  /**
   * Sends one request and resolves with the server's answer, result or JSON-RPC error alike.
   * @throws SwitchboardError `upstream_died`, `upstream_down`, `upstream_garbage`, `upstream_refused`, … with
   * `dispatched` telling whether the server may have begun it, or the reason given to `leg.cancellation`.
   */
  request(method: string, params: Json | undefined, leg: Leg): Promise<Answer>
  /** Ends the link; requests in flight are rejected. Resolves when nothing of it is left. */
  close(): Promise<void>
}

/** What a link tells its owner. Each is called at most once a message; `onLost` once in all, and not after `close`. */
export interface LinkEvents {
  /** A notification that belongs to no request in flight. */
  onNotification(notification: RpcNotification): void
  /** An answer that nobody waits for, or no longer. */
  onStray?(): void
  /** The connection is gone; the reason is a sentence without a full stop. */
  onLost(reason: string): void
  /** The conversation was opened anew on the same link: the server may be another one now. */
  onRenewed?(): void
}

/** What a server may cost on its link, in bytes. */
export interface LinkLimits {
  /** Of one message it sends. */
  readonly messageBytes: number
  /** Of what waits for it because it does not read. */
  readonly stdinBytes: number
}

/** How the gateway names itself to upstreams. */
export interface GatewayIdentity {
  readonly name: string
  readonly version: string
}

/** Whose requests a link has carried: as long as it is one key's, nothing on it can belong to another. */
export class Principals {
  #first: string | undefined
  #several = false

  /** @param principal undefined for the gateway's own requests. */
  note(principal: string | undefined): void {
    if (principal === undefined || principal === this.#first) return
    if (this.#first === undefined) this.#first = principal
    else this.#several = true
  }

  get areOne(): boolean {
    return !this.#several
  }
}
