/**
 * The catalog: what all upstreams together offer, as one immutable snapshot. It answers which item a name means, by
 * table and never by splitting the name, and where a URI leads. A new one is built when an offer changes and swapped
 * whole; servers whose offer did not change keep their part of it.
 */
import { isObject, type Json } from '../wire/json-rpc.js'
import { listKinds, listRows, type ListKind, type Offer } from '../wire/lists.js'
import { hasInvisible, promptEntry, resourceEntry, type Entry } from './entry.js'
import { plainNames, publicNames } from './names.js'
import type { CatalogFinding, CatalogSource, Entries, ServerPart } from './part.js'
import { createRouter, type Router } from './routing.js'
import { toolEntry, type ToolEntry } from './tool-entry.js'

export interface Catalog extends Router {
  /** In configuration order, and within a server in its own. */
  readonly entries: Entries
  readonly servers: readonly ServerPart[]
  findings(): readonly CatalogFinding[]
  /** The server of that id or alias (compared without case, `-` like `_`). */
  server(idOrAlias: string): ServerPart | undefined
  /** The item of that public name. */
  byPublicName(name: string): ToolEntry | undefined
  byPublicName(name: string, kind: 'prompts'): Entry | undefined
  /**
   * Tools of that wire name on servers with apps: an app's page knows nothing of prefixes and calls its own server's
   * tools by their own names (MCP Apps).
   */
  byBareName(name: string): readonly ToolEntry[]
}

/** Builds the catalog of `sources`, in their order; parts whose offer is the same object are taken over from `previous`. */
export function buildCatalog(sources: readonly CatalogSource[], previous?: Catalog): Catalog {
  const servers = serverParts(sources, previous)
  const clashes: CatalogFinding[] = []
  const tools = byPublicName(servers, 'tools', clashes)
  const prompts = byPublicName(servers, 'prompts', clashes)
  const byId = new Map<string, ServerPart>()
  for (const part of servers) {
    for (const name of [part.source.id, ...part.source.aliases]) byId.set(foldId(name), part)
  }
  const bare = new Map<string, ToolEntry[]>()
  for (const { entries, source } of servers) {
    if (!isApp(source.offer) && !entries.tools.some(({ uri }) => uri !== undefined)) continue
    for (const entry of entries.tools) bare.set(entry.wireName, [...(bare.get(entry.wireName) ?? []), entry])
  }
  const server = (idOrAlias: string) => byId.get(foldId(idOrAlias))
  return {
    entries: {
      tools: [...tools.values()] as ToolEntry[],
      prompts: [...prompts.values()],
      resources: servers.flatMap(({ entries }) => entries.resources),
      templates: servers.flatMap(({ entries }) => entries.templates)
    },
    servers,
    findings: () => [...servers.flatMap(part => part.findings()), ...clashes],
    server,
    byPublicName: (name: string, kind: 'tools' | 'prompts' = 'tools') =>
      (kind === 'tools' ? tools : prompts).get(name) as ToolEntry | undefined,
    byBareName: name => bare.get(name) ?? [],
    ...createRouter(servers, server)
  }
}

/** Apart from the catalog, whose functions would else hold the parts before for as long as they live. */
function serverParts(sources: readonly CatalogSource[], previous: Catalog | undefined): readonly ServerPart[] {
  const old = new Map(previous?.servers.map(part => [part.source.id, part]))
  return sources.map(source => {
    const kept = old.get(source.id)
    if (!kept || !sameOffer(kept.source, source)) return serverPart(source)
    return { ...kept, source }
  })
}

function sameOffer(a: CatalogSource, b: CatalogSource): boolean {
  return a.offer === b.offer && a.namespace === b.namespace && a.overModernHttp === b.overModernHttp
}

const isApp = ({ capabilities }: Offer) =>
  isObject(capabilities?.extensions) && 'io.modelcontextprotocol/ui' in capabilities.extensions

function byPublicName(
  servers: readonly ServerPart[],
  kind: 'tools' | 'prompts',
  clashes: CatalogFinding[]
): ReadonlyMap<string, Entry> {
  const byName = new Map<string, Entry>()
  for (const { source, entries } of servers) {
    for (const entry of entries[kind]) {
      const taken = byName.get(entry.publicName)
      if (!taken) byName.set(entry.publicName, entry)
      else
        clashes.push({
          server: source.id,
          tool: entry.wireName,
          message: `"${entry.publicName}" is already the name of ${taken.server}'s ${singular[kind]} "${taken.wireName}"; this one is not exported. Give one of the two servers "namespace: true"`
        })
    }
  }
  return byName
}

const foldId = (id: string) => id.toLowerCase().replaceAll('-', '_')

const singular = { tools: 'tool', prompts: 'prompt', resources: 'resource', templates: 'resource template' } as const

function serverPart(source: CatalogSource): ServerPart {
  const { id, namespace, overModernHttp } = source
  const findings: CatalogFinding[] = []
  const unique = (kind: ListKind) => uniqueItems(source, kind, findings)
  const named = (kind: 'tools' | 'prompts') => {
    const items = unique(kind)
    const wireNames = [...items.keys()]
    const plain = plainNames(wireNames)
    const prefixed = namespace ? publicNames(id, wireNames) : plain
    return wireNames.map((wireName, i) => ({
      names: { wireName, publicName: prefixed[i] as string, plainName: plain[i] as string },
      item: items.get(wireName) as Json
    }))
  }
  const tools = named('tools').flatMap(({ names, item }) => {
    const entry = toolEntry(id, names, item, overModernHttp)
    if (!('hidden' in entry)) return [entry]
    findings.push({
      server: id,
      tool: names.wireName,
      message: `"${shown(names.wireName)}" is hidden: ${entry.hidden}`
    })
    return []
  })
  const entries: Entries = {
    tools,
    prompts: named('prompts').map(({ names, item }) => promptEntry(id, names, item)),
    resources: [...unique('resources').values()].map(item => resourceEntry(id, 'resources', item)),
    templates: [...unique('templates').values()].map(item => resourceEntry(id, 'templates', item))
  }
  let flagged: readonly CatalogFinding[] | undefined
  const toolsByName = new Map(tools.map(entry => [entry.plainName, entry]))
  const promptsByName = new Map(entries.prompts.map(entry => [entry.plainName, entry]))
  return {
    source,
    entries,
    findings: () => [...findings, ...(flagged ??= withInvisible(source))],
    byPlainName: (name: string, kind: 'tools' | 'prompts' = 'tools') =>
      (kind === 'tools' ? toolsByName : promptsByName).get(name) as ToolEntry | undefined
  }
}

function uniqueItems({ id, offer }: CatalogSource, kind: ListKind, findings: CatalogFinding[]): Map<string, Json> {
  const { identity } = listRows[kind]
  const items = new Map<string, Json>()
  for (const item of offer[kind] ?? []) {
    const name = item[identity]
    if (typeof name !== 'string')
      findings.push({ server: id, message: `a ${singular[kind]} without a ${identity} is left out` })
    else if (items.has(name))
      findings.push({ server: id, tool: name, message: `lists "${shown(name)}" twice; the first is kept` })
    else items.set(name, item)
  }
  return items
}

function withInvisible({ id, offer }: CatalogSource): readonly CatalogFinding[] {
  const findings: CatalogFinding[] = []
  for (const kind of listKinds) {
    for (const item of offer[kind] ?? []) {
      const name = item[listRows[kind].identity]
      if (typeof name !== 'string' || !hasInvisible(item)) continue
      const message = `"${shown(name)}" has invisible characters in its texts; read them before you trust it`
      findings.push({ server: id, tool: name, message })
    }
  }
  return findings
}

const shown = (name: string) => name.slice(0, 128)
