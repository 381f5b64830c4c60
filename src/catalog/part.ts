/** What one server has in the catalog, and what that was made from. Types alone. */
import type { ListKind, Offer } from '../wire/lists.js'
import type { Entry } from './entry.js'
import type { ToolEntry } from './tool-entry.js'

/** What the catalog needs of one configured server. */
export interface CatalogSource {
  readonly id: string
  readonly aliases: readonly string[]
  /** False: wire names are exported as they are on `/mcp` too. */
  readonly namespace: boolean
  /** What it was last known to offer. */
  readonly offer: Offer
  /** It is reached over Streamable HTTP of 2026-07-28. */
  readonly overModernHttp: boolean
  /** Prefixes of URIs that lead to it although it lists nothing of the kind. */
  readonly claims: readonly string[]
  /** Whether its instructions are passed on. */
  readonly instructions: boolean
}

/** Something about a server's offer that the operator should know. */
export interface CatalogFinding {
  readonly server: string
  /** The tool or other item it is about. */
  readonly tool?: string
  readonly message: string
}

export type Entries = Readonly<Record<ListKind, readonly Entry[]>> & { readonly tools: readonly ToolEntry[] }

export interface ServerPart {
  readonly source: CatalogSource
  readonly entries: Entries
  /** Worked out when first asked for: it means reading every text of every definition. */
  findings(): readonly CatalogFinding[]
  /** Plain name -> item, for `/mcp/<server>`. */
  byPlainName(name: string): ToolEntry | undefined
  byPlainName(name: string, kind: 'prompts'): Entry | undefined
}
