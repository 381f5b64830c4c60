/** Follows a list through all its pages, bounded in every direction (2025-11-25, Pagination). */
import { SwitchboardError } from '../errors.js'
import { isObject, type Json } from '../wire/json-rpc.js'
import type { Link } from './link.js'
import { ask, ownFacts } from './negotiate.js'
import type { GatewayIdentity } from './link.js'

export interface FetchedList {
  readonly items: readonly Json[]
  /** Smallest `ttlMs` of the pages, if a modern server gave one. */
  readonly ttlMs?: number
  /** Why the list was cut, as a sentence; absent when it is complete. */
  readonly cut?: string
  /** Said instead of a list: the server does not know the method. */
  readonly unknown?: string
}

export interface ListLimits {
  /** Deadline for all pages together, in milliseconds. */
  readonly timeoutMs: number
  readonly listItems: number
  readonly listPages: number
}

/**
 * @throws SwitchboardError when a page cannot be had: a list is replaced by a whole one or not at all.
 */
export async function fetchList(
  link: Link,
  method: string,
  member: string,
  identity: GatewayIdentity,
  { timeoutMs, ...most }: ListLimits
): Promise<FetchedList> {
  const items: Json[] = []
  const seen = new Set<string>()
  const deadline = performance.now() + timeoutMs
  let ttlMs: number | undefined
  let cursor: string | undefined
  for (let page = 1; ; page++) {
    const params = cursor === undefined ? {} : { cursor }
    const answer = await ask(
      link,
      method,
      params,
      ownFacts(identity),
      Math.max(Math.round(deadline - performance.now()), 1)
    )
    if (!answer.result) {
      const { code, message } = answer.error ?? { code: undefined, message: 'nothing usable' }
      const said = `it answered ${method} with an error: ${message.slice(0, 300)}${code === undefined ? '' : ` (${code})`}`
      if (code === -32601) return { items: [], unknown: said }
      throw new SwitchboardError('upstream_garbage', said)
    }
    const { [member]: list, nextCursor, ttlMs: ttl } = answer.result
    if (!Array.isArray(list))
      throw new SwitchboardError('upstream_garbage', `it answered ${method} without "${member}"`)
    items.push(...list.filter(isObject))
    if (typeof ttl === 'number') ttlMs = Math.min(ttlMs ?? Infinity, ttl)
    const cut = stopReason(most, items.length, page, nextCursor, seen)
    if (cut !== undefined || typeof nextCursor !== 'string') {
      if (items.length > most.listItems) items.length = most.listItems
      return { items, ...(ttlMs !== undefined && { ttlMs }), ...(cut !== undefined && { cut }) }
    }
    seen.add(nextCursor)
    cursor = nextCursor
  }
}

function stopReason(
  { listItems, listPages }: Omit<ListLimits, 'timeoutMs'>,
  count: number,
  page: number,
  next: unknown,
  seen: ReadonlySet<string>
): string | undefined {
  if (count > listItems) return `it lists more than ${listItems} items; the rest is left out`
  if (typeof next !== 'string') return undefined
  if (seen.has(next)) return 'it repeats a page cursor; what follows is left out'
  if (page >= listPages) return `it has more than ${listPages} pages; the rest is left out`
  return undefined
}
