/**
 * What one policy sees of the catalog: for each kind of list an index list per distinct policy and scope, paged, with the
 * pages' bytes kept so that a warm list costs one lookup and one write. Views belong to one snapshot and die with it.
 */
import { createHash } from 'node:crypto'
import type { Era } from '../wire/era.js'
import { isObject } from '../wire/json-rpc.js'
import { listRows, type ListKind } from '../wire/lists.js'
import type { Entry } from './entry.js'
import type { Scope, Sight } from './sight.js'
import type { Catalog } from './snapshot.js'

export interface View {
  readonly entries: readonly Entry[]
  /** Equal for views that show the same, also of different snapshots. */
  readonly signature: string
  /**
   * The page after `cursor` (undefined: the first): the items' definitions joined by commas, and the next cursor.
   * @returns undefined when the cursor is none of ours.
   */
  page(era: Era, cursor: string | undefined): Page | undefined
}

export interface Page {
  readonly items: Buffer
  readonly nextCursor: string | undefined
}

const pageLimit = { entries: 500, bytes: 512 * 1024 }
/** Bytes of ready pages one snapshot keeps; beyond, pages are joined anew. */
const keptBytes = 32 * 1024 * 1024
const keptViews = 1000
const comma = Buffer.from(',')

/** All views of one snapshot, made on demand. */
export interface Views {
  view(sight: Sight, scope: Scope, kind?: ListKind): View
}

export function createViews(catalog: Catalog): Views {
  const views = new Map<string, View>()
  const budget = { left: keptBytes }
  return {
    view(sight, scope, kind = 'tools') {
      const key = `${kind} ${sight.id} ${scope.key}`
      let view = views.get(key)
      if (!view) {
        if (views.size >= keptViews) {
          views.clear()
          budget.left = keptBytes
        }
        const entries = visible(catalog, sight, scope, kind)
        view = createView(kind, entries, formOf(catalog, sight, scope, kind), budget)
        views.set(key, view)
      }
      return view
    }
  }
}

function visible(catalog: Catalog, sight: Sight, { servers, plain }: Scope, kind: ListKind): readonly Entry[] {
  const chosen = servers && new Set(servers)
  const entries = plain ? (servers ?? []).flatMap(id => catalog.server(id)?.entries[kind] ?? []) : catalog.entries[kind]
  const { change } = listRows[kind]
  return entries.filter(
    entry => (!chosen || chosen.has(entry.server)) && sight.sees(entry.server, change, entry.wireName)
  )
}

/** The bytes of an entry as this viewer is shown it. */
type BytesOf = (entry: Entry, era: Era) => Buffer

function formOf(catalog: Catalog, sight: Sight, scope: Scope, kind: ListKind): BytesOf {
  const viewer = { sight, scope }
  const shownUri = (server: string, uri: string) =>
    kind === 'templates' ? catalog.shownTemplate(viewer, server, uri) : catalog.shownUri(viewer, server, uri)
  return (entry, era) => {
    const { uri, server } = entry
    return entry.bytes(era, scope.plain, uri !== undefined && shownUri(server, uri) !== uri)
  }
}

function createView(kind: ListKind, entries: readonly Entry[], bytesOf: BytesOf, budget: { left: number }): View {
  const pages = new Map<string, Page>()
  // Only cursors we handed out are worth keeping pages for: a client could make up any number of others.
  const issued = new Set<string | undefined>([undefined])
  let signature: string | undefined
  return {
    entries,
    get signature() {
      return (signature ??= signatureOf(entries, bytesOf))
    },
    page(era, cursor) {
      const key = cursor === undefined ? era : `${era} ${cursor}`
      const kept = pages.get(key)
      if (kept) return kept
      const start = cursor === undefined ? 0 : startAfter(kind, entries, cursor)
      if (start === undefined) return undefined
      const page = joinPage(kind, entries, start, entry => bytesOf(entry, era))
      if (issued.has(cursor) && page.items.length <= budget.left) {
        issued.add(page.nextCursor)
        budget.left -= page.items.length
        pages.set(key, page)
      }
      return page
    }
  }
}

function signatureOf(entries: readonly Entry[], bytesOf: BytesOf): string {
  const hash = createHash('sha256')
  for (const entry of entries) hash.update(bytesOf(entry, 'legacy')).update(comma)
  return hash.digest('base64url')
}

function joinPage(kind: ListKind, entries: readonly Entry[], start: number, bytesOf: (entry: Entry) => Buffer): Page {
  const parts: Buffer[] = []
  let size = 0
  let end = start
  for (; end < entries.length && end - start < pageLimit.entries; end++) {
    const bytes = bytesOf(entries[end] as Entry)
    if (end > start && size + bytes.length > pageLimit.bytes) break
    if (end > start) parts.push(comma)
    parts.push(bytes)
    size += bytes.length + 1
  }
  const last = entries[end - 1]
  const more = end < entries.length && last
  return { items: Buffer.concat(parts), nextCursor: more ? cursorAfter(kind, last, end - 1) : undefined }
}

/** A cursor names the last item of the page and its rank: it reveals only what the key has just seen. */
function cursorAfter(kind: ListKind, { server, wireName }: Entry, rank: number): string {
  return Buffer.from(JSON.stringify({ k: kind, a: [server, wireName], r: rank })).toString('base64url')
}

/** The index after the cursor's item; if that is gone, its old rank. Undefined for a cursor that is none of ours. */
function startAfter(kind: ListKind, entries: readonly Entry[], cursor: string): number | undefined {
  let value: unknown
  try {
    value = JSON.parse(Buffer.from(cursor, 'base64url').toString())
  } catch {
    return undefined
  }
  if (!isObject(value) || value.k !== kind || !Array.isArray(value.a)) return undefined
  const [server, wireName] = value.a as unknown[]
  const { r: rank } = value
  if (
    typeof server !== 'string' ||
    typeof wireName !== 'string' ||
    typeof rank !== 'number' ||
    !Number.isInteger(rank) ||
    rank < 0
  )
    return undefined
  const at = entries.findIndex(entry => entry.server === server && entry.wireName === wireName)
  return at >= 0 ? at + 1 : Math.min(rank, entries.length)
}
