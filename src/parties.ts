/** Who takes part in a request: who asks, who answers, and what both are looked up in. Types alone. */
import type { Catalog } from './catalog/snapshot.js'
import type { Scope } from './catalog/sight.js'
import type { Views } from './catalog/view.js'
import type { Key } from './policy/keys.js'
import type { Cancellation } from './wire/cancellation.js'
import type { Era } from './wire/era.js'
import type { Answer, Json, RpcNotification } from './wire/json-rpc.js'
import type { ClientFacts, Leg } from './wire/leg.js'
import type { ListKind, Offer } from './wire/lists.js'

/** One downstream request until its final answer, as the lane sees it. */
export interface Exchange {
  readonly key: Key
  readonly era: Era
  readonly client: ClientFacts
  readonly scope: Scope
  readonly cancellation: Cancellation
  /** The least severe level of log messages this client wants; undefined: none. */
  readonly logLevel: string | undefined
  /** Trace context to pass on. */
  readonly headers?: Readonly<Record<string, string>>
  /** `Mcp-Param-*` headers as received with a modern request, names in lower case; absent where none are due. */
  readonly paramHeaders?: Readonly<Record<string, string>>
  /** Tells the client something before the answer; dropped if the client takes no stream. */
  notify(notification: RpcNotification): void
  /** The server lets its callers wait for so long and come back (SEP-1699). */
  pause?(retryMs: number): void
}

/** Who asks for what, as far as finding it goes. */
export type Asker = Pick<Exchange, 'key' | 'scope' | 'era'>

/** What the lane needs of an upstream server. */
export interface RelayUpstream {
  readonly era: Era | undefined
  /** What the server declared; undefined while it is not connected. */
  readonly info: { readonly capabilities: Json } | undefined
  /** What it was last known to offer. */
  readonly offer: Offer
  /** The first attempt to connect, as long as it runs and one of these lists is not known. */
  firstList(kinds: readonly ListKind[]): Promise<void> | undefined
  /** Seconds of silence after which a request to it is given up. */
  readonly config: { readonly timeout: number }
  /** Fetches a list again; never rejects. */
  refresh(kind: ListKind): Promise<void>
  /** The server no longer knows an item it listed: the list is fetched again soon. */
  listDoubtful(kind: ListKind): void
  /** Has `listener` told when that resource is updated. @throws SwitchboardError when the server refuses. */
  subscribe(uri: string, listener: (params: Json & { readonly uri: string }) => void): Promise<() => void>
  /** Has `listener` told what becomes of that task. @throws SwitchboardError when the server refuses. */
  watchTask(id: string, listener: (params: Json) => void): Promise<() => void>
  request(method: string, params: Json | undefined, leg: Leg): Promise<Answer>
}

/** Everything a request looks at, swapped as a whole; a request keeps the one it began with. */
export interface Snapshot {
  readonly catalog: Catalog
  readonly views: Views
  readonly upstreams: ReadonlyMap<string, RelayUpstream>
}
