/**
 * One item as the gateway exports it, of whichever kind: its definition passes as the server wrote it, except for its
 * name, and for a URI that would not lead back to its server and is shown as an alias.
 */
import type { Era } from '../wire/era.js'
import { isObject, type Json } from '../wire/json-rpc.js'
import { listRows, type ListKind } from '../wire/lists.js'

export interface EntryNames {
  /** The upstream's own name, URI or URI template. */
  readonly wireName: string
  /** The name on `/mcp`. */
  readonly publicName: string
  /** The name on `/mcp/<server>`. */
  readonly plainName: string
}

export interface Entry extends EntryNames {
  readonly kind: ListKind
  readonly server: string
  /** The URI its definition shows, which must lead back to this server; undefined when it shows none. */
  readonly uri: string | undefined
  /**
   * The serialised definition for a client of that era. Made once for each form.
   * @param plain under its plain name.
   * @param aliased with its URI as an alias. @default false
   */
  bytes(era: Era, plain: boolean, aliased?: boolean): Buffer
}

const aliasScheme = 'mcpgw:'

/** A URI that names its server: valid (RFC 3986), undone by cutting, and an expandable template if it was one. */
export function aliasOf(server: string, uri: string): string {
  return `${aliasScheme}${server}:${uri}`
}

/** The server and the URI an alias names; undefined for every other URI. */
export function fromAlias(uri: string): { readonly server: string; readonly uri: string } | undefined {
  if (!uri.startsWith(aliasScheme)) return undefined
  const end = uri.indexOf(':', aliasScheme.length)
  return end < 0 ? undefined : { server: uri.slice(aliasScheme.length, end), uri: uri.slice(end + 1) }
}

/** Serialises each form of a definition once. */
export function definitions(make: (era: Era, plain: boolean, aliased: boolean) => Json): Entry['bytes'] {
  const kept: (Buffer | undefined)[] = []
  return (era, plain, aliased = false) => {
    const form = (era === 'modern' ? 1 : 0) + (plain ? 2 : 0) + (aliased ? 4 : 0)
    return (kept[form] ??= Buffer.from(JSON.stringify(make(era, plain, aliased))))
  }
}

export function promptEntry(server: string, names: EntryNames, prompt: Json): Entry {
  return {
    kind: 'prompts',
    server,
    ...names,
    uri: undefined,
    bytes: definitions((_era, plain) => ({ ...prompt, name: plain ? names.plainName : names.publicName }))
  }
}

export function resourceEntry(server: string, kind: 'resources' | 'templates', item: Json): Entry {
  const { identity } = listRows[kind]
  const uri = item[identity] as string
  return {
    kind,
    server,
    wireName: uri,
    publicName: uri,
    plainName: uri,
    uri,
    bytes: definitions((_era, _plain, aliased) => (aliased ? { ...item, [identity]: aliasOf(server, uri) } : item))
  }
}

/** Zero-width, bidirectional and tag characters: the usual carriers of hidden instructions. Flagged, never edited. */
const invisible = /[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]|\udb40[\udc00-\udc7f]/

export function hasInvisible(value: unknown, depth = 0): boolean {
  if (typeof value === 'string') return invisible.test(value)
  if (depth > 32) return false
  if (Array.isArray(value)) return value.some(item => hasInvisible(item, depth + 1))
  return isObject(value) && Object.values(value).some(item => hasInvisible(item, depth + 1))
}
