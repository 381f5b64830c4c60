/**
 * The patterns of an `allow` list -> a decision on one wire name or resource URI. `policy.ts` asks it once per name and
 * remembers the answer.
 *
 * Matching is ours and not a glob library's: those are made for paths (`*` stops at `/` and at dots) and compile to
 * backtracking regular expressions, which 14 stars against 30 characters keep busy for a second.
 *
 * Invariant: what cannot be told for certain is refused. A URI that its server could read as another one (dot segments,
 * encoded letters, doubled slashes) is granted only where every resource is.
 */

export type Decide = (wireName: string) => boolean

const maxPattern = 256
const maxText = 8192

/** Decides on the flat names of tools and prompts, case-sensitively: `*` stands for any characters, `?` for one, all else for itself. */
export function decideNames(patterns: readonly string[]): Decide {
  const { granting, excluding } = sort(patterns)
  const granted = anyName(granting)
  const excluded = anyName(excluding)
  return name => name.length <= maxText && granted(name) && !excluded(name)
}

/**
 * Decides on the URIs of resources: `*` stands for any characters within a segment, a segment `**` for any number of
 * segments (so `file:///data/**` covers the place and all below it), a lone `*` for everything.
 */
export function decideUris(patterns: readonly string[]): Decide {
  const { granting, excluding } = sort(patterns)
  const all = granting.includes('*')
  const granted = anyUri(granting.map(readable))
  const excluded = anyUri(excluding.map(readable))
  return uri => {
    if (all && excluding.length === 0) return true
    if (!unambiguous(uri)) return false
    const plain = readable(uri)
    // Many servers ignore a query, a fragment or a last slash: none of them leads around an exclusion.
    return (all || granted(plain)) && !excluded(plain) && !excluded(plain.replace(/[?#].*$/s, '').replace(/\/$/, ''))
  }
}

/** Whether a list grants anything: exclusions alone do not. */
export function grantsAnything(patterns: readonly string[]): boolean {
  return patterns.some(pattern => !pattern.startsWith('!'))
}

function sort(patterns: readonly string[]): { granting: readonly string[]; excluding: readonly string[] } {
  const long = patterns.find(pattern => pattern.length > maxPattern)
  if (long !== undefined) throw new RangeError(`expected a pattern of at most ${maxPattern} characters: ${long}`)
  return {
    granting: patterns.filter(pattern => !pattern.startsWith('!')),
    excluding: patterns.filter(pattern => pattern.startsWith('!')).map(pattern => pattern.slice(1))
  }
}

interface NamePattern {
  readonly letters: readonly string[]
  /** The longest part of it that stands for itself. */
  readonly literal: string
}

/**
 * Whether any of the patterns covers a name. Those without a wildcard cost one look-up together, the others one for each
 * length of what stands before their first wildcard: ten thousand patterns decide on a thousand names in a blink.
 */
function anyName(patterns: readonly string[]): Decide {
  const exact = new Set<string>()
  const byStart = new Map<number, Map<string, NamePattern[]>>()
  for (const pattern of patterns) {
    const length = pattern.search(/[*?]/)
    if (length < 0) {
      exact.add(pattern)
      continue
    }
    const starts = byStart.get(length) ?? new Map<string, NamePattern[]>()
    byStart.set(length, starts)
    const start = pattern.slice(0, length)
    const [literal = ''] = pattern.split(/[*?]/).sort((a, b) => b.length - a.length)
    const alike = starts.get(start) ?? []
    starts.set(start, alike)
    alike.push({ letters: characters(pattern), literal })
  }
  return name => {
    if (exact.has(name)) return true
    let letters: readonly string[] | undefined
    for (const [length, starts] of byStart) {
      for (const pattern of starts.get(name.slice(0, length)) ?? []) {
        if (!name.includes(pattern.literal)) continue
        if (coversName(pattern.letters, (letters ??= characters(name)))) return true
      }
    }
    return false
  }
}

function anyUri(patterns: readonly string[]): Decide {
  const exact = new Set(patterns.filter(pattern => !pattern.includes('*')))
  const globs = patterns.filter(pattern => pattern.includes('*')).map(segments)
  return uri => {
    if (exact.has(uri)) return true
    if (globs.length === 0) return false
    const parts = segments(uri)
    return globs.some(glob => coversUri(glob, parts))
  }
}

type Covers = (pattern: readonly string[], text: readonly string[]) => boolean

const characters = (text: string): readonly string[] => [...text]
const segments = (uri: string): readonly string[] => uri.split('/')
const coversName: Covers = (pattern, name) => matches(pattern, name, '*', (sign, one) => sign === '?' || sign === one)
const coversUri: Covers = (pattern, uri) => matches(pattern, uri, '**', coversSegment)

function coversSegment(pattern: string, segment: string): boolean {
  if (!pattern.includes('*')) return pattern === segment
  return matches(characters(pattern), characters(segment), '*', (sign, one) => sign === one)
}

/**
 * Matches a whole sequence; `star` stands for any run of parts. Going back to the last star alone is enough, since an
 * earlier one could only give away what the later one can take: the work is at most pattern × text.
 */
function matches(
  pattern: readonly string[],
  text: readonly string[],
  star: string,
  same: (sign: string, part: string) => boolean
): boolean {
  let at = 0
  let here = 0
  let afterStar = -1
  let resume = 0
  while (here < text.length) {
    const sign = pattern[at]
    if (sign === star) {
      afterStar = ++at
      resume = here
    } else if (sign !== undefined && same(sign, text[here]!)) {
      at++
      here++
    } else if (afterStar >= 0) {
      at = afterStar
      here = ++resume
    } else return false
  }
  return pattern.slice(at).every(sign => sign === star)
}

/** Whether a URI means the same to all who parse, normalise or decode it (RFC 3986, section 6.2.2). */
function unambiguous(uri: string): boolean {
  if (uri.length > maxText) return false
  if ([backslashOrControl, encodedPlain, dotSegment, emptySegment].some(trap => trap.test(uri))) return false
  try {
    const normal = decodeURI(new URL(uri).href)
    const written = decodeURI(uri)
    return normal === written || normal === `${written}/`
  } catch {
    return false
  }
}

const backslashOrControl = /[\\\p{Cc}]/u
/** Letters, digits, `-._~`, separators and controls that are percent-encoded without need: a disguise. */
const encodedPlain = /%(?:[01][\da-f]|2[def]|3\d|4[1-9a-f]|5[\dacf]|6[1-9a-f]|7[\daef])/i
const dotSegment = /(?:^|[/:=?#&])\.{1,2}(?:[/?#&]|$)/
const emptySegment = /^[^:/?#]*:(?:\/\/|(?!\/\/))[^?#]*?\/\//

/** `%C3%A9` and `é` are one character: patterns and URIs are compared decoded. */
function readable(uri: string): string {
  try {
    return decodeURI(uri)
  } catch {
    return uri
  }
}
