/**
 * What one policy sees of the catalog: an index list per distinct policy and scope, paged, with the pages' bytes kept
 * so that a warm list costs one lookup and one write. Views belong to one snapshot and die with it.
 */
import { createHash } from 'node:crypto'
import type { Era } from '../wire/era.js'
import { isObject } from '../wire/json-rpc.js'
import type { Catalog } from './snapshot.js'
import type { ToolEntry } from './tool-entry.js'

/** Which servers a request speaks of: all, a named subset, or one whose tools keep their own names. */
export interface Scope {
  readonly key: string
  /** Their ids; undefined: all servers. */
  readonly servers: readonly string[] | undefined
  /** Tools keep their own names. */
  readonly plain: boolean
}

/** Decides what is visible; the same decision refuses calls. `id` is equal for equal decisions. */
export interface Sight {
  readonly id: string
  sees(server: string, kind: 'tools', wireName: string): boolean
}

export interface View {
  readonly tools: readonly ToolEntry[]
  /** Equal for views that show the same, also of different snapshots. */
  readonly signature: string
  /**
   * The page after `cursor` (undefined: the first): the tools' definitions joined by commas, and the next cursor.
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
  view(sight: Sight, scope: Scope): View
}

export function createViews(catalog: Catalog): Views {
  const views = new Map<string, View>()
  const budget = { left: keptBytes }
  return {
    view(sight, scope) {
      const key = `${sight.id} ${scope.key}`
      let view = views.get(key)
      if (!view) {
        if (views.size >= keptViews) {
          views.clear()
          budget.left = keptBytes
        }
        view = createView(visible(catalog, sight, scope), scope.plain, budget)
        views.set(key, view)
      }
      return view
    }
  }
}

function visible(catalog: Catalog, sight: Sight, { servers, plain }: Scope): readonly ToolEntry[] {
  const chosen = servers && new Set(servers)
  const tools = plain ? (servers ?? []).flatMap(id => catalog.server(id)?.tools ?? []) : catalog.tools
  return tools.filter(
    entry => (!chosen || chosen.has(entry.server)) && sight.sees(entry.server, 'tools', entry.wireName)
  )
}

function createView(tools: readonly ToolEntry[], plain: boolean, budget: { left: number }): View {
  const pages = new Map<string, Page>()
  // Only cursors we handed out are worth keeping pages for: a client could make up any number of others.
  const issued = new Set<string | undefined>([undefined])
  let signature: string | undefined
  return {
    tools,
    get signature() {
      return (signature ??= signatureOf(tools, plain))
    },
    page(era, cursor) {
      const key = cursor === undefined ? era : `${era} ${cursor}`
      const kept = pages.get(key)
      if (kept) return kept
      const start = cursor === undefined ? 0 : startAfter(tools, cursor)
      if (start === undefined) return undefined
      const page = joinPage(tools, start, era, plain)
      if (issued.has(cursor) && page.items.length <= budget.left) {
        issued.add(page.nextCursor)
        budget.left -= page.items.length
        pages.set(key, page)
      }
      return page
    }
  }
}

function signatureOf(tools: readonly ToolEntry[], plain: boolean): string {
  const hash = createHash('sha256')
  for (const entry of tools) hash.update(entry.bytes('legacy', plain)).update(comma)
  return hash.digest('base64url')
}

function joinPage(tools: readonly ToolEntry[], start: number, era: Era, plain: boolean): Page {
  const parts: Buffer[] = []
  let size = 0
  let end = start
  for (; end < tools.length && end - start < pageLimit.entries; end++) {
    const bytes = (tools[end] as ToolEntry).bytes(era, plain)
    if (end > start && size + bytes.length > pageLimit.bytes) break
    if (end > start) parts.push(comma)
    parts.push(bytes)
    size += bytes.length + 1
  }
  const last = tools[end - 1]
  const more = end < tools.length && last
  return { items: Buffer.concat(parts), nextCursor: more ? cursorAfter(last, end - 1) : undefined }
}

/** A cursor names the last tool of the page and its rank: it reveals only what the key has just seen. */
function cursorAfter({ server, wireName }: ToolEntry, rank: number): string {
  return Buffer.from(JSON.stringify({ k: 'tools', a: [server, wireName], r: rank })).toString('base64url')
}

/** The index after the cursor's tool; if that is gone, its old rank. Undefined for a cursor that is none of ours. */
function startAfter(tools: readonly ToolEntry[], cursor: string): number | undefined {
  let value: unknown
  try {
    value = JSON.parse(Buffer.from(cursor, 'base64url').toString())
  } catch {
    return undefined
  }
  if (!isObject(value) || value.k !== 'tools' || !Array.isArray(value.a)) return undefined
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
  const at = tools.findIndex(entry => entry.server === server && entry.wireName === wireName)
  return at >= 0 ? at + 1 : Math.min(rank, tools.length)
}
