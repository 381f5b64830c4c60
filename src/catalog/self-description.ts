/**
 * What the gateway says of itself to one key: capabilities as a superset of what its servers are last known to have, and
 * their instructions, labelled. Clients keep both for as long as a conversation lasts, while servers come and go: so
 * neither depends on what is up at the moment, and a server nobody has heard of counts as able.
 */
import { tasksExtension, type Era } from '../wire/era.js'
import { isObject, type Json } from '../wire/json-rpc.js'
import { changeKinds, type ChangeKind } from '../wire/lists.js'
import type { ServerPart } from './part.js'
import type { Catalog } from './snapshot.js'
import type { Scope, Sight } from './sight.js'

/** Whose description it is, and which servers it speaks of. */
export interface Audience {
  readonly sight: Sight & { seesServer(server: string): boolean; seesAny(server: string, kind: ChangeKind): boolean }
  readonly scope: Scope
}

const budget = { each: 4 * 1024, all: 16 * 1024 }
const cut = '\n[cut: these instructions are too long to pass on whole]'

function serversOf(catalog: Catalog, { sight, scope }: Audience): readonly ServerPart[] {
  return catalog.servers.filter(({ source: { id } }) => sight.seesServer(id) && (scope.servers?.includes(id) ?? true))
}

/** The `capabilities` of `initialize` and `server/discover` (2025-11-25, Lifecycle; 2026-07-28, Discovery). */
export function capabilitiesOf(catalog: Catalog, audience: Audience, era: Era): Json {
  const servers = serversOf(catalog, audience)
  const having = (capability: string, kind?: ChangeKind) =>
    servers.filter(({ source: { id, offer } }) => {
      if (kind && !audience.sight.seesAny(id, kind)) return false
      return !offer.capabilities || capability in offer.capabilities
    })
  const capabilities: Json = {}
  // Tools are always listed, if only as an empty list: most clients cannot live without.
  for (const kind of changeKinds) {
    if (kind === 'tools' || having(kind, kind).length > 0) capabilities[kind] = { listChanged: true }
  }
  const subscribable = having('resources', 'resources').some(({ source: { offer } }) => {
    const declared = offer.capabilities?.resources
    return !offer.capabilities || (isObject(declared) && declared.subscribe === true)
  })
  if (subscribable) capabilities.resources = { subscribe: true, listChanged: true }
  if (having('completions').length > 0) capabilities.completions = {}
  if (era === 'legacy' && having('logging').length > 0) capabilities.logging = {}
  const extensions = servers.reduce<Json>((merged, { source: { offer } }) => {
    const declared = offer.capabilities?.extensions
    return isObject(declared) ? (mergedSettings(merged, declared) as Json) : merged
  }, {})
  // Tasks of 2026-07-28 need its envelope; those of 2025-11-25 are others, and not bridged.
  if (era === 'legacy') delete extensions[tasksExtension]
  if (Object.keys(extensions).length > 0) capabilities.extensions = extensions
  return capabilities
}

/** Objects member by member, lists without repeats; where two servers contradict each other the first one holds. */
function mergedSettings(first: unknown, second: unknown): unknown {
  if (Array.isArray(first) && Array.isArray(second)) return [...new Set((first as unknown[]).concat(second))]
  if (!isObject(first) || !isObject(second)) return first
  const entries = Object.entries(second).map(([key, value]): [string, unknown] => [
    key,
    Object.hasOwn(first, key) ? mergedSettings(first[key], value) : value
  ])
  return { ...first, ...Object.fromEntries(entries) }
}

/** The servers' instructions, each under its name, cut at a line where they are too long; undefined when there are none. */
export function instructionsOf(catalog: Catalog, audience: Audience): string | undefined {
  const { scope } = audience
  let left = budget.all
  const blocks: string[] = []
  for (const { source } of serversOf(catalog, audience)) {
    const text = source.instructions ? source.offer.instructions?.trim() : undefined
    if (!text) continue
    const prefix = scope.plain || !source.namespace ? '' : ` (tools: ${source.id}__*)`
    const block = shortened(`## ${source.id}${prefix}\n${text}`, Math.min(budget.each, left))
    if (block === undefined) break
    blocks.push(block)
    // The blank line before the next one counts, too.
    left -= Buffer.byteLength(block) + 2
  }
  return blocks.length > 0 ? blocks.join('\n\n') : undefined
}

/** @param max bytes. */
function shortened(text: string, max: number): string | undefined {
  if (Buffer.byteLength(text) <= max) return text
  const room = max - cut.length
  const kept = Buffer.from(text)
    .subarray(0, Math.max(room, 0))
    .toString()
    .replace(/\uFFFD+$/, '')
  const line = kept.lastIndexOf('\n')
  // Nothing but the heading would be left.
  if (line < 0) return undefined
  const first = kept.indexOf('\n')
  return (line > first ? kept.slice(0, line) : kept) + cut
}
