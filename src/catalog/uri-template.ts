/**
 * A URI template of an upstream (RFC 6570) -> whether a URI can be one of its expansions; who may read it, policy says.
 *
 * Servers we do not trust send templates, so none becomes a regular expression: each part takes the places in the URI
 * where it may begin to those where it may end, in one pass. Exact, and at most (literals + variables) × URI of work.
 */

export interface UriTemplate {
  /** Characters outside expressions, percent-decoded: of several that match, the one with most is the most specific. */
  readonly literals: number
  /** Whether the URI, as it was sent, is an expansion. What cannot be percent-decoded is compared as it is written. */
  matches(uri: string): boolean
}
const max = { template: 2048, uri: 8192, expressions: 32, variables: 64 } as const

/** One entry per place in the URI, its end included: 1 where what was read of the template may end. */
type Places = Uint8Array<ArrayBuffer>
type Step = (uri: Uint16Array, from: Places) => Places
type NameTree = Map<number, NameTree>
type Operator = Readonly<Record<'first' | 'separator' | 'stops', string>>

/**
 * What an expression begins with, what stands between its variables, what no value contains (RFC 6570, 3.2.2-3.2.9). A
 * value is wider than there, all that does not end its component in RFC 3986 (3.3-3.5): callers put `:` or `@` in by hand.
 */
const operators: Readonly<Record<string, Operator>> = {
  '': { first: '', separator: '', stops: '/?#' },
  '+': { first: '', separator: '', stops: '' },
  '#': { first: '#', separator: '', stops: '' },
  '.': { first: '.', separator: '', stops: '/?#' },
  '/': { first: '/', separator: '/', stops: '/?#' },
  ';': { first: ';', separator: ';', stops: ';/?#' },
  '?': { first: '?', separator: '&', stops: '&#' },
  '&': { first: '&', separator: '&', stops: '&#' }
}

/** RFC 6570, 2.3 and 2.4; servers use `-` in names too. */
const variable = /^(?:[\w.-]|%[\da-f]{2})+(?:\*|:[1-9]\d{0,3})?$/i

/**
 * Compiles a template of RFC 6570, levels 1-4; the length in `{x:3}` is not held against a URI.
 * - `{x}` and `{+x}` stand for one character or more. An empty value is legal (3.2.2), but `db://{table}` would take
 *   `db://` from the server it belongs to. All others may be absent, as when their variables are undefined (3.2.1).
 * - `{;x}`, `{?x}`, `{&x}` match the variables they name in any order, since callers sort a query as they like; with an
 *   exploded one (`{?x*}`) any names, since they may come from its value (3.2.1).
 *
 * @returns undefined if unusable: empty, not well-formed, over 2048 characters, 32 expressions or 64 variables
 */
export function compileTemplate(template: string): UriTemplate | undefined {
  if (template === '' || template.length > max.template) return undefined
  const [start = '', ...expressions] = template.split('{')
  if (start.includes('}') || expressions.length > max.expressions) return undefined
  const literals = [readable(start)]
  const steps = [literal(codesOf(literals[0]!))]
  let variables = 0
  for (const part of expressions) {
    const [body = '', after, ...more] = part.split('}')
    const sign = /^[+#./;?&]?/.exec(body)![0]
    const specs = body.slice(sign.length).split(',')
    variables += specs.length
    if (after === undefined || more.length > 0 || !specs.every(spec => variable.test(spec))) return undefined
    literals.push(readable(after))
    steps.push(...expression(sign, specs), literal(codesOf(literals.at(-1)!)))
  }
  if (variables > max.variables) return undefined
  const reaches = (uri: Uint16Array, start: Places = new Uint8Array(uri.length + 1).fill(1, 0, 1)) =>
    steps.reduce((from, step) => step(uri, from), start)[uri.length] === 1
  const follows = (uri: string) => uri.startsWith(literals[0]!) && reaches(codesOf(uri))
  return { literals: literals.join('').length, matches: uri => uri.length <= max.uri && follows(readable(uri)) }
}

function expression(sign: string, specs: readonly string[]): readonly Step[] {
  const operator = operators[sign]!
  if (sign === '/') return specs.map(spec => values(operator, spec.endsWith('*'))) // `{/x,y}` is `{/x}{/y}`
  if (operator.separator === '' || specs.some(spec => spec.endsWith('*'))) return [values(operator, true)]
  return [members(operator, specs)]
}

/** Finds all occurrences at once (Knuth, Morris, Pratt): comparing place by place costs text × URI for `aaa…`. */
function literal(text: Uint16Array): Step {
  const borders = [0]
  const grow = (same: number, code: number): number => {
    while (same > 0 && text[same] !== code) same = borders[same - 1]!
    return text[same] === code ? same + 1 : same
  }
  for (let at = 1; at < text.length; at++) borders.push(grow(borders[at - 1]!, text[at]!))
  return (uri, from) => {
    if (text.length === 0) return from
    const to = new Uint8Array(from.length)
    for (let at = 0, same = 0; at < uri.length; at++) {
      same = grow(same, uri[at]!)
      if (same === text.length) to[at + 1] = from[at + 1 - same]!
    }
    return to
  }
}

/** Anything up to a stop; among `several` values the separator is none. */
function values({ first, separator, stops }: Operator, several: boolean): Step {
  const ends = tableOf(several ? stops.replace(separator, '') : stops)
  const [opening] = codesOf(first)
  return (uri, from) => {
    const to = opening === undefined ? new Uint8Array(from.length) : from.slice()
    for (let at = 0, inside = false; at < uri.length; at++) {
      inside = (inside || (opening === undefined && from[at] === 1)) && ends[uri[at]!] !== 1
      inside ||= from[at] === 1 && uri[at] === opening
      if (inside) to[at + 1] = 1
    }
    return to
  }
}

/** `name=value` of the variables named; a name alone is an empty value (3.2.7) or a flag. */
function members({ first, separator, stops }: Operator, specs: readonly string[]): Step {
  const [opening, next, equals] = codesOf(`${first}${separator}=`)
  const ends = tableOf(stops)
  const whole = -1
  const names: NameTree = new Map()
  const branch = (node: NameTree, code: number) => node.get(code) ?? node.set(code, new Map()).get(code)!
  for (const spec of specs) [...codesOf(readable(spec.replace(/:.*/, ''))), whole].reduce(branch, names)
  return (uri, from) => {
    const to = from.slice()
    const named = new Uint8Array(from.length)
    for (let at = 0, inside = false; at < uri.length; at++) {
      if ((from[at] === 1 && uri[at] === opening) || ((inside || named[at] === 1) && uri[at] === next)) {
        // No name contains what stands before one: all these walks together read the URI once.
        for (let end = at + 1, node = names.get(uri[end]!); node; node = node.get(uri[++end]!)) {
          if (node.has(whole)) named[end + 1] = 1
        }
      }
      inside = (inside && ends[uri[at]!] !== 1) || (named[at] === 1 && uri[at] === equals)
      if (inside || named[at + 1] === 1) to[at + 1] = 1
    }
    return to
  }
}

const codesOf = (text: string): Uint16Array => Uint16Array.from(text.split(''), sign => sign.charCodeAt(0))
const tableOf = (signs: string): Uint8Array =>
  codesOf(signs).reduce((table, code) => table.fill(1, code, code + 1), new Uint8Array(128))

/** `%C3%A9` and `é` are one character (RFC 6570, 3.1: literals are encoded); `%2F` stays, it is no separator. */
function readable(text: string): string {
  try {
    return decodeURI(text)
  } catch {
    return text
  }
}
