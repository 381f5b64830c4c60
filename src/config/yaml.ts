/**
 * YAML text -> plain values, and back from a path in them to a line. Refuses what a config file has no use for: tags,
 * merge keys, several documents, names twice, deep nesting, aliases that multiply. Knows nothing of what the values mean.
 */
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument, type Node, type Pair, type YAMLMap } from 'yaml'
import type { Path } from './env.js'

const maxDepth = 16
const maxAliasedNodes = 10_000

/** Both from 1. */
export interface Place {
  readonly line: number
  readonly column: number
}

export interface PathFault {
  readonly path: Path
  readonly message: string
  /** Whether it is the name or the value that is wrong. */
  readonly at: 'key' | 'value'
}

/** The document as plain values, with a way back from a path to its line. */
export interface Yaml {
  /** Faults that leave nothing to look at. */
  readonly syntax: readonly (Place & { readonly message: string })[]
  /** Faults of single entries: the first of equal names counts, and what has no value is null in the tree. */
  readonly faults: readonly PathFault[]
  readonly tree: unknown
  /** Of the entry, or of the nearest one around it. */
  readonly locate: (path: Path, at: 'key' | 'value') => Place
}

/**
 * The conversion to plain values is ours: the `uniqueKeys` check and `toJS` of yaml 2.9 take time in the square of the
 * file's size (minutes for 1 MiB), and its messages and warnings quote the file.
 */
export function readYaml(text: string): Yaml {
  const lineCounter = new LineCounter()
  const place = (offset: number): Place => {
    const { line, col } = lineCounter.linePos(offset)
    return { line, column: col }
  }
  const document = parseDocument(text, {
    schema: 'core',
    customTags: [],
    resolveKnownTags: false,
    stringKeys: true,
    uniqueKeys: false,
    strict: true,
    prettyErrors: false,
    logLevel: 'error',
    lineCounter
  })
  const syntax = [...document.errors, ...document.warnings].slice(0, 10).map(({ code, pos }) => {
    return { ...place(pos[0]), message: syntaxSentences[code] ?? `this is not valid YAML (${code}).` }
  })
  const faults: PathFault[] = []
  const entries = new Map<YAMLMap, Map<string, Pair>>()
  const anchors = new Map<string, { node: Node; value: unknown; size: number }>()
  const targets = new Map<Node, Node>()
  let size = 0
  let aliased = 0

  const fault = (path: Path, message: string, at: 'key' | 'value' = 'value') => {
    faults.push({ path, message, at })
    return null
  }
  const lineOf = (pair: Pair) => place((pair.key as Node).range?.[0] ?? 0).line
  const convert = (node: unknown, path: Path): unknown => {
    const before = size++
    if (path.length > maxDepth) return fault(path, `nested more than ${maxDepth} levels deep. Nothing here needs that.`)
    if (isAlias(node)) return follow(node, path)
    const value = plain(node, path)
    if ((isMap(node) || isSeq(node) || isScalar(node)) && node.anchor) {
      anchors.set(node.anchor, { node, value, size: size - before })
    }
    return value
  }
  const plain = (node: unknown, path: Path): unknown => {
    if (isMap(node)) return convertMap(node, path)
    if (isSeq(node)) return node.items.map((item, index) => convert(item, [...path, index]))
    return isScalar(node) ? node.value : null
  }
  const convertMap = (map: YAMLMap, path: Path): Record<string, unknown> => {
    const known = new Map<string, Pair>()
    const members: [string, unknown][] = []
    entries.set(map, known)
    for (const pair of map.items) {
      const name = isScalar(pair.key) && typeof pair.key.value === 'string' ? pair.key.value : undefined
      if (name === undefined) fault(path, 'expected only plain names as keys. Write each key as text.')
      else if (known.has(name)) {
        fault([...path, name], `appears again on line ${lineOf(pair)}. Keep one of them.`, 'key')
      } else {
        known.set(name, pair)
        if (name === '<<') fault([...path, name], 'merge keys (<<) are not supported. Write the entries out.', 'key')
        if (name in {}) fault([...path, name], 'this name is reserved. Choose another.', 'key')
        members.push([name, convert(pair.value, [...path, name])])
      }
    }
    return Object.fromEntries(members)
  }
  // The name of an alias is not shown: `*` and `&` may begin a secret that lacks its quotes.
  const follow = (alias: Node & { source: string }, path: Path): unknown => {
    const anchor = anchors.get(alias.source)
    if (!anchor) {
      return fault(path, 'this alias (*) names no anchor (&) that ends before it. If it is text, put it in quotes.')
    }
    aliased += anchor.size
    if (aliased > maxAliasedNodes) return fault(path, 'aliases (*) repeat too much. Write the entries out.')
    targets.set(alias, anchor.node)
    size += anchor.size
    return anchor.value
  }

  const locate = (path: Path, at: 'key' | 'value') => {
    let node: Node | undefined = document.contents ?? undefined
    let found = { key: 0, value: node?.range?.[0] ?? 0 }
    for (const step of path) {
      const target = node && (targets.get(node) ?? node)
      const pair: Pair | undefined = isMap(target) ? entries.get(target)?.get(String(step)) : undefined
      const next = (pair ? pair.value : isSeq(target) ? target.items[Number(step)] : undefined) as Node | undefined
      const key = (pair?.key as Node | undefined)?.range?.[0] ?? next?.range?.[0]
      if (key === undefined) return place(found.key)
      found = { key, value: next?.range?.[0] ?? key }
      node = next
    }
    return place(found[at])
  }
  return { syntax, tree: syntax.length > 0 ? null : convert(document.contents, []), faults, locate }
}

/** yaml's own sentences may quote the file. */
const syntaxSentences: Record<string, string | undefined> = {
  BAD_INDENT: 'the indentation does not fit the lines around it, or a [ or { is not closed.',
  BAD_SCALAR_START: 'a value cannot begin with this character. Put it in quotes.',
  BLOCK_AS_IMPLICIT_KEY: 'a second ": " on one line. Put the value in quotes, or start a new line.',
  MISSING_CHAR: 'a quote, bracket, comma or colon is missing, here or before.',
  MULTIPLE_DOCS: 'expected one document, found a second one (---). Remove it.',
  NON_STRING_KEY: 'expected only plain names as keys. Write each key as text.',
  RESOURCE_EXHAUSTION: 'nested too deeply to be read.',
  TAB_AS_INDENT: 'a tab is used as indentation. Use spaces.',
  TAG_RESOLVE_FAILED: 'tags (!) are not supported. If it is text, put it in quotes.',
  UNEXPECTED_TOKEN: 'unexpected text after a value. Put the whole value in quotes.'
}
