/**
 * The catalog: what all upstreams together offer, as one immutable snapshot. It answers which tool a name means, by
 * table and never by splitting the name. A new one is built when a list changes and swapped whole; servers whose list
 * did not change keep their part of it.
 */
import { isObject, type Json } from '../wire/json-rpc.js'
import { plainNames, publicNames } from './names.js'
import { toolEntry, type ToolEntry } from './tool-entry.js'

/** What the catalog needs of one configured server. */
export interface CatalogSource {
  readonly id: string
  readonly aliases: readonly string[]
  /** False: wire names are exported as they are on `/mcp` too. */
  readonly namespace: boolean
  /** The server's own list; undefined as long as it has never answered. */
  readonly tools: readonly Json[] | undefined
  /** It is reached over Streamable HTTP of 2026-07-28. */
  readonly overModernHttp: boolean
}

/** Something about a server's offer that the operator should know. */
export interface CatalogFinding {
  readonly server: string
  readonly tool?: string
  readonly message: string
}

export interface ServerPart {
  readonly source: CatalogSource
  readonly tools: readonly ToolEntry[]
  readonly findings: readonly CatalogFinding[]
  /** Plain name -> tool, for `/mcp/<server>`. */
  readonly byPlainName: ReadonlyMap<string, ToolEntry>
}

export interface Catalog {
  /** In configuration order, and within a server in its own. */
  readonly tools: readonly ToolEntry[]
  readonly servers: readonly ServerPart[]
  readonly findings: readonly CatalogFinding[]
  /** The server of that id or alias (compared without case, `-` like `_`). */
  server(idOrAlias: string): ServerPart | undefined
  /** The tool of that public name. */
  byPublicName(name: string): ToolEntry | undefined
  /**
   * Tools of that wire name on servers with apps: an app's page knows nothing of prefixes and calls its own server's
   * tools by their own names (MCP Apps).
   */
  byBareName(name: string): readonly ToolEntry[]
}

/** Builds the catalog of `sources`, in their order; parts whose list is the same array are taken over from `previous`. */
export function buildCatalog(sources: readonly CatalogSource[], previous?: Catalog): Catalog {
  const old = new Map(previous?.servers.map(part => [part.source.id, part]))
  const servers = sources.map(source => {
    const kept = old.get(source.id)
    return kept &&
      kept.source.tools === source.tools &&
      kept.source.namespace === source.namespace &&
      kept.source.overModernHttp === source.overModernHttp
      ? { ...kept, source }
      : serverPart(source)
  })
  const byName = new Map<string, ToolEntry>()
  const findings = servers.flatMap(part => part.findings)
  for (const { source, tools } of servers) {
    for (const entry of tools) {
      const taken = byName.get(entry.publicName)
      if (taken) {
        findings.push({
          server: source.id,
          tool: entry.wireName,
          message: `"${entry.publicName}" is already the name of ${taken.server}'s tool "${taken.wireName}"; this one is not exported. Give one of the two servers "namespace: true"`
        })
      } else {
        byName.set(entry.publicName, entry)
      }
    }
  }
  const byId = new Map<string, ServerPart>()
  for (const part of servers) {
    for (const name of [part.source.id, ...part.source.aliases]) byId.set(foldId(name), part)
  }
  const bare = new Map<string, ToolEntry[]>()
  for (const { source, tools } of servers) {
    if (!source.tools?.some(hasApp)) continue
    for (const entry of tools) bare.set(entry.wireName, [...(bare.get(entry.wireName) ?? []), entry])
  }
  return {
    tools: [...byName.values()],
    servers,
    findings,
    server: idOrAlias => byId.get(foldId(idOrAlias)),
    byPublicName: name => byName.get(name),
    byBareName: name => bare.get(name) ?? []
  }
}

/** MCP Apps: a tool names the page that shows its results, in the current or the older form. */
function hasApp({ _meta }: Json): boolean {
  return isObject(_meta) && (isObject(_meta.ui) || typeof _meta['ui/resourceUri'] === 'string')
}

const foldId = (id: string) => id.toLowerCase().replaceAll('-', '_')

function serverPart(source: CatalogSource): ServerPart {
  const { id, namespace } = source
  const findings: CatalogFinding[] = []
  const unique = new Map<string, Json>()
  for (const tool of source.tools ?? []) {
    const { name } = tool
    if (typeof name !== 'string') findings.push({ server: id, message: 'a tool without a name is left out' })
    else if (unique.has(name))
      findings.push({ server: id, tool: name, message: `lists "${shown(name)}" twice; the first is kept` })
    else unique.set(name, tool)
  }
  const wireNames = [...unique.keys()]
  const plain = plainNames(wireNames)
  const prefixed = namespace ? publicNames(id, wireNames) : plain
  const tools: ToolEntry[] = []
  wireNames.forEach((wireName, i) => {
    const names = { wireName, publicName: prefixed[i] as string, plainName: plain[i] as string }
    const tool = unique.get(wireName) as Json
    const entry = toolEntry(id, names, tool, source.overModernHttp)
    if ('hidden' in entry)
      findings.push({ server: id, tool: wireName, message: `"${shown(wireName)}" is hidden: ${entry.hidden}` })
    else tools.push(entry)
    if (hasInvisible(tool))
      findings.push({
        server: id,
        tool: wireName,
        message: `"${shown(wireName)}" has invisible characters in its texts; read them before you trust it`
      })
  })
  return { source, tools, findings, byPlainName: new Map(tools.map(entry => [entry.plainName, entry])) }
}

const shown = (name: string) => name.slice(0, 128)

/** Zero-width, bidirectional and tag characters: the usual carriers of hidden instructions. Flagged, never edited. */
const invisible = /[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]|\udb40[\udc00-\udc7f]/

function hasInvisible(value: unknown, depth = 0): boolean {
  if (typeof value === 'string') return invisible.test(value)
  if (depth > 32) return false
  if (Array.isArray(value)) return value.some(item => hasInvisible(item, depth + 1))
  return isObject(value) && Object.values(value).some(item => hasInvisible(item, depth + 1))
}
