/** Which URIs a template of RFC 6570 stands for, and that none sent by a hostile server keeps us busy. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { compileTemplate } from '../src/catalog/uri-template.js'

const matches = (template: string, uri: string): boolean => {
  const compiled = compileTemplate(template)
  if (compiled === undefined) throw new Error(`expected a usable template: ${template}`)
  return compiled.matches(uri)
}

/** A unit over and over, to this length. */
const fill = (unit: string, length: number): string => unit.repeat(Math.ceil(length / unit.length)).slice(0, length)

type Value = string | readonly string[] | Readonly<Record<string, string>> | undefined
interface Variable {
  readonly name: string
  readonly value: Value
  readonly explode: boolean
  readonly prefix?: number
}
interface Expression {
  readonly operator: string
  readonly variables: readonly Variable[]
}
type Part = string | Expression

/** RFC 6570, appendix A: operator -> first, sep, named, ifemp, reserved characters stay. */
const appendix: Record<string, [first: string, sep: string, named: boolean, ifemp: string, reserved: boolean]> = {
  '': ['', ',', false, '', false],
  '+': ['', ',', false, '', true],
  '#': ['#', ',', false, '', true],
  '.': ['.', '.', false, '', false],
  '/': ['/', '/', false, '', false],
  ';': [';', ';', true, '', false],
  '?': ['?', '&', true, '=', false],
  '&': ['&', '&', true, '=', false]
}

const encode = (text: string, reserved: boolean): string =>
  reserved
    ? encodeURI(text).replace(/%5[BD]/g, decodeURIComponent)
    : encodeURIComponent(text).replace(/[!'()*]/g, c => `%${c.charCodeAt(0).toString(16).toUpperCase()}`)

/** The expander of RFC 6570, 3.2.1, straight from its text. */
function expand({ operator, variables }: Expression): string {
  const [first, sep, named, ifemp, reserved] = appendix[operator]!
  const pair = (name: string, value: string) => (!named ? value : `${name}${value === '' ? ifemp : `=${value}`}`)
  const members = variables.flatMap(({ name, value, explode, prefix }) => {
    if (value === undefined) return []
    if (typeof value === 'string') return [pair(name, encode([...value].slice(0, prefix).join(''), reserved))]
    const entries = Array.isArray(value) ? value.map(one => ['', one as string] as const) : Object.entries(value)
    if (entries.length === 0) return []
    const written = entries.map(([key, one]) => [encode(key, reserved), encode(one, reserved)] as const)
    if (!explode) return [pair(name, written.flatMap(([key, one]) => (key === '' ? [one] : [key, one])).join(','))]
    return written.map(([key, one]) => (key === '' ? pair(name, one) : named ? pair(key, one) : `${key}=${one}`))
  })
  return members.length === 0 ? '' : first + members.join(sep)
}

const write = (parts: readonly Part[]): string =>
  parts
    .map(part => {
      if (typeof part === 'string') return part
      const specs = part.variables.map(
        ({ name, explode, prefix }) => `${name}${explode ? '*' : prefix === undefined ? '' : `:${prefix}`}`
      )
      return `{${part.operator}${specs.join(',')}}`
    })
    .join('')

const text = fc.string({ unit: fc.constantFrom(...'aab/?#&=;.,:%+ é😀-_~!*()[]@"{}'), maxLength: 6 })
const names = fc.stringMatching(/^[abq_](\.?[abq_]){0,2}$/)
const literals = fc
  .array(fc.constantFrom('a', 'b', '/', '//', '?', '#', '&', '=', ';', '.', ':', 'é', '%C3%A9', '%2F', 'q=', ','), {
    maxLength: 4
  })
  .map(pieces => pieces.join(''))

/** Never one that expands to nothing where we ask for a character: `{x}` and `{+x}`. */
const variables = (filled: boolean): fc.Arbitrary<Variable> => {
  const one = filled ? text.map(value => `a${value}`) : text
  const values: fc.Arbitrary<Value> = fc.oneof(
    one,
    fc.array(one, { minLength: filled ? 1 : 0, maxLength: 3 }),
    fc.dictionary(names, one, { minKeys: filled ? 1 : 0, maxKeys: 3 }),
    ...(filled ? [] : [fc.constant(undefined)])
  )
  return fc
    .record({ name: names, value: values, explode: fc.boolean(), prefix: fc.option(fc.integer({ min: 1, max: 4 })) })
    .map(({ name, value, explode, prefix }) =>
      explode || prefix === null || typeof value !== 'string'
        ? { name, value, explode }
        : { name, value, explode, prefix }
    )
}
const expressions = fc.constantFrom(...Object.keys(appendix)).chain(operator =>
  fc.record({
    operator: fc.constant(operator),
    variables: fc.array(variables(operator === '' || operator === '+'), { minLength: 1, maxLength: 3 })
  })
)
const parts: fc.Arbitrary<Part[]> = fc.array(fc.oneof(literals, expressions), { minLength: 1, maxLength: 6 })

describe('a template matches what it expands to', () => {
  it('whatever the operators, values and literals are', () => {
    fc.assert(
      fc.property(parts, made => {
        const template = write(made)
        fc.pre(template !== '')
        const uri = made.map(part => (typeof part === 'string' ? part : expand(part))).join('')
        expect(matches(template, uri), `${template} -> ${uri}`).toBe(true)
        expect(matches(template, encodeURI(uri).replaceAll('%25', '%')), `${template} -> encoded ${uri}`).toBe(true)
      }),
      { numRuns: 3000 }
    )
  })

  it.each([
    ['file:///{path}', 'file:///notes.txt', true],
    ['file:///{path}', 'file:///a/b.txt', false],
    ['file:///{path}', 'file:///a%2Fb.txt', true],
    ['file:///{path}', 'file:///', false],
    ['file:///{path}', 'file:///a?b', false],
    ['file:///{path}', 'file:///a#b', false],
    ['file:///{path}', 'FILE:///a', false],
    ['file:///{+path}', 'file:///a/b/c.txt', true],
    ['file:///{+path}', 'file:///a?b#c', true],
    ['file:///{+path}', 'file:///', false],
    ['file:///{path*}', 'file:///a,b', true],
    ['file:///{path*}', 'file:///a/b', false],
    ['file:///{+path}.md', 'file:///a/b.md.md', true],
    ['file:///{+path}.md', 'file:///a/b.md.txt', false],
    ['db://{table}/{id}', 'db://users/42', true],
    ['db://{table}/{id}', 'db://users', false],
    ['db://{table}/{id}', 'db://users/', false],
    ['db://{table}/{id}', 'db://users/42/name', false],
    ['db://{table}/{id}', 'xdb://users/42', false],
    ['db://{table}', 'db://', false],
    ['urn:{a}:{b}', 'urn:x:y@z', true],
    ['search{?q,lang}', 'search', true],
    ['search{?q,lang}', 'search?q=a&lang=en', true],
    ['search{?q,lang}', 'search?lang=en&q=a/b?c', true],
    ['search{?q,lang}', 'search?q=&lang', true],
    ['search{?q,lang}', 'search?', false],
    ['search{?q,lang}', 'search?query=a', false],
    ['search{?q,lang}', 'search?q=a&page=2', false],
    ['search{?q,lang}', 'search?q=a#b', false],
    ['search{?q,lang}', 'search&q=a', false],
    ['search{?any*}', 'search?x=1&y=2', true],
    ['search{?any*}', 'search?x=1#y', false],
    ['search?fixed=1{&q}', 'search?fixed=1&q=a', true],
    ['search?fixed=1{&q}', 'search?fixed=1', true],
    ['search?fixed=1{&q}', 'search?fixed=1?q=a', false],
    ['x{/a,b}', 'x', true],
    ['x{/a,b}', 'x/1/2', true],
    ['x{/a,b}', 'x/1/2/3', false],
    ['x{/a*}', 'x/1/2/3', true],
    ['x{/a:3}', 'x/1', true],
    ['x{/a}/end', 'x/end', true],
    ['x{/a}/end', 'x/1/end', true],
    ['x{.ext}', 'x.tar.gz', true],
    ['x{.ext}', 'x', true],
    ['x{.ext}', 'x-y', false],
    ['x{.ext}', 'x.a/b', false],
    ['x{;a,b}', 'x;a=1;b', true],
    ['x{;a,b}', 'x;c=1', false],
    ['x{;a}abc', 'x;aabc', true],
    ['x{#part}', 'x#a/b?c#d', true],
    ['x{#part}', 'x', true],
    ['x{#part}', 'xa', false],
    ['{user-id}', 'u1', true],
    ['ui://app/index.html', 'ui://app/index.html', true],
    ['ui://app/index.html', 'ui://app/index_html', false],
    ['ui://app/index.html', 'ui://app/index.html/', false],
    ['caf%C3%A9/{x}', 'café/1', true],
    ['café/{x}', 'caf%c3%a9/1', true],
    ['café/{x}', 'caf%C3%A9/%E2%82%AC', true],
    ['a%2Fb/{x}', 'a/b/1', false],
    ['100%/{x}', '100%/1', true],
    ['x/{a}', 'x/%zz', true]
  ])('%s on %s: %s', (template, uri, expected) => {
    expect(matches(template, uri)).toBe(expected)
  })

  it('says how many characters are literal', () => {
    expect(compileTemplate('db://{table}/{id}')?.literals).toBe(6)
    expect(compileTemplate('{+all}')?.literals).toBe(0)
    expect(compileTemplate('caf%C3%A9{?q}')?.literals).toBe(4)
    expect(compileTemplate('ui://app')?.literals).toBe(8)
  })
})

describe('a template matches nothing but what it stands for', () => {
  /** The obvious matcher: each operator as the regular expression our documentation describes. */
  const oracle = (template: string): RegExp => {
    const source = template.replace(/\{([+#./;?&]?)([^}]*)\}|[^{]/g, (literal, sign?: string, list?: string) => {
      if (sign === undefined || list === undefined) return literal.replace(/\W/g, '\\$&')
      const specs = list.split(',')
      const exploded = specs.some(spec => spec.endsWith('*'))
      const named = (first: string, sep: string, stops: string) => {
        if (exploded) return `(?:${first}[^${stops.replace(sep, '')}]*)?`
        const member = `(?:${specs.join('|').replaceAll('.', '\\.')})(?:=[^${stops}]*)?`
        return `(?:${first}${member}(?:${sep}${member})*)?`
      }
      if (sign === '') return '[^/?#]+'
      if (sign === '+') return '[^]+'
      if (sign === '#') return '(?:#[^]*)?'
      if (sign === '.') return '(?:\\.[^/?#]*)?'
      if (sign === '/') return specs.map(spec => `(?:/[^?#${spec.endsWith('*') ? '' : '/'}]*)?`).join('')
      if (sign === ';') return named(';', ';', ';/?#')
      return named(`\\${sign}`, '&', '&#')
    })
    return new RegExp(`^${source}$`)
  }
  const piece = fc.oneof(
    fc.constantFrom('a', 'b', 'ab', 'aab', '/', '?', '#', '&', ';', '.', '=', 'q'),
    fc
      .tuple(
        fc.constantFrom(...Object.keys(appendix)),
        fc.array(fc.constantFrom('a', 'aa', 'ab', 'q', 'a.b', 'a*'), { minLength: 1, maxLength: 3 })
      )
      .map(([sign, specs]) => `{${sign}${specs.join(',')}}`)
  )
  const templates = fc.array(piece, { minLength: 1, maxLength: 6 }).map(pieces => pieces.join(''))
  const uris = fc.string({ unit: fc.constantFrom(...'aaabq/?#&;.=='), maxLength: 12 })

  it('agrees with the obvious matcher on short texts', () => {
    let hits = 0
    fc.assert(
      fc.property(templates, uris, (template, uri) => {
        const expected = oracle(template).test(uri)
        if (expected) hits++
        expect(matches(template, uri), `${template} on ${uri}`).toBe(expected)
      }),
      { numRuns: 20_000 }
    )
    expect(hits).toBeGreaterThan(500)
  })

  it.each([
    '',
    '{',
    '}',
    '{}',
    '{?}',
    'a{b',
    'a}b',
    'a{b}}',
    '{{a}}',
    '{a{b}c}',
    '{a,}',
    '{,a}',
    '{a b}',
    '{=a}',
    '{|a}',
    '{a**}',
    '{a:0}',
    '{a:12345}',
    '{a:}',
    '{é}',
    '{a%4}'
  ])('does not use %j', template => {
    expect(compileTemplate(template)).toBeUndefined()
  })

  it('does not use a template over its limits', () => {
    const over = ['a'.repeat(2049), '{'.repeat(1000) + 'a' + '}'.repeat(1000), '{a}'.repeat(33), `{${fill('a,', 129)}}`]
    expect(over.map(compileTemplate)).toEqual(over.map(() => undefined))
  })

  it('uses a template up to its limits, and no URI over 8192 characters', () => {
    expect(compileTemplate('a'.repeat(2048))?.matches('a'.repeat(2048))).toBe(true)
    expect(compileTemplate('{a}'.repeat(32))?.matches('a'.repeat(32))).toBe(true)
    expect(compileTemplate('{a}'.repeat(32))?.matches('a'.repeat(31))).toBe(false)
    expect(compileTemplate('{+a}')?.matches('a'.repeat(8192))).toBe(true)
    expect(compileTemplate('{+a}')?.matches('a'.repeat(8193))).toBe(false)
  })
})

describe('no template or URI keeps us busy', () => {
  const variables = Array.from({ length: 64 }, (_, i) => `a${i.toString(36)}`)

  /** Far above the 5 ms of the design: machines that run tests are slow, and backtracking would take minutes. */
  const limitMs = 100

  it.each([
    ['ten thousand braces', '{'.repeat(10_000), 'a'],
    ['ten thousand characters', fill('{+a}b', 10_000), fill('ab', 8192)],
    ['many adjacent expressions', '{a}'.repeat(32), `${fill('a', 8191)}/`],
    ['many adjacent wildcards', '{+a}'.repeat(32), fill('a', 8192)],
    ['wildcards between letters', `${'{+a}a'.repeat(32)}b`, fill('a', 8192)],
    ['one long literal that nearly fits everywhere', `{+a}${fill('a', 2040)}b`, fill('a', 8192)],
    ['long literals that nearly fit everywhere', `{+a}${`${fill('a', 57)}b{+a}`.repeat(31)}`, fill('a', 8192)],
    ['64 segments', `{+a}{/${variables.join()}}z`, fill('/', 8192)],
    ['64 names', `{+a}{;${variables.join()}}z`, fill(';a1=', 8192)],
    ['64 names, often repeated', `{+a}${`{?${'a'.repeat(50)},b}`.repeat(31)}z`, fill(`?${'a'.repeat(50)}`, 8192)],
    ['one long name', `{+a}{&${fill('a', 2000)}}z`, fill('&a', 8192)],
    ['openings only', `{+a}${'{?a,b}'.repeat(31)}z`, fill('?', 8192)],
    ['labels', `${'{.a}'.repeat(32)}z`, fill('.', 8192)],
    ['all encoded', `${'{+a}'.repeat(32)}z`, fill('%C3%A9', 8190)]
  ])('%s', (_, template, uri) => {
    let best = Infinity
    for (let round = 0; round < 3; round++) {
      const began = performance.now()
      compileTemplate(template)?.matches(uri)
      best = Math.min(best, performance.now() - began)
    }
    expect(best).toBeLessThan(limitMs)
  })
})
