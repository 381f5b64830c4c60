import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { compilePolicy, type Policy } from '../src/policy/policy.js'

type Grant = '*' | { tools?: string[]; prompts?: string[]; resources?: string[] }

function policy(servers: Record<string, Grant>): Policy {
  return compilePolicy(
    new Map(
      Object.entries(servers).map(([server, grant]) => [
        server,
        grant === '*' ? grant : { tools: [], prompts: [], resources: [], ...grant }
      ])
    )
  )
}

const seesTool = (patterns: string[], name: string): boolean =>
  policy({ s: { tools: patterns } }).sees('s', 'tools', name)
const seesUri = (patterns: string[], uri: string): boolean =>
  policy({ s: { resources: patterns } }).sees('s', 'resources', uri)

/** The obvious matcher, table by table: what `*` and `?` mean, without any cleverness. */
function reference(pattern: string, name: string): boolean {
  const signs = [...pattern]
  const parts = [...name]
  let row = parts.reduce<boolean[]>(row => [...row, false], [true])
  for (const sign of signs) {
    const next = [sign === '*' && row[0]!]
    parts.forEach((part, i) =>
      next.push(sign === '*' ? next[i]! || row[i + 1]! : row[i]! && (sign === '?' || sign === part))
    )
    row = next
  }
  return row[parts.length]!
}

const unit = fc.constantFrom(...'aabbAB*?/._-![]{}()+@|^$\\ "\n😀é')
const patterns = fc.string({ unit, maxLength: 12 }).filter(pattern => !pattern.startsWith('!'))
const names = fc.string({ unit, maxLength: 12 })

describe('a key sees exactly the tools its patterns name', () => {
  it.each([
    ['read_*', 'read_file', true],
    ['read_*', 'read_', true],
    ['read_*', 'Read_file', false],
    ['*', '.hidden', true],
    ['*', '..', true],
    ['*', 'a/b.c\nd', true],
    ['get-?', 'get-x', true],
    ['get-?', 'get-', false],
    ['get-?', 'get-/', true],
    ['get-?', 'get-😀', true],
    ['a**b', 'a/x/b', true],
    ['{a,b}', 'a', false],
    ['{a,b}', '{a,b}', true],
    ['[ab]', 'a', false],
    ['x[1](!)*', 'x[1](!)yes', true],
    ['@(a|b)', 'a', false],
    ['a.c', 'abc', false],
    ['a\\*', 'a\\b', true],
    ['a\\*', 'a*', false],
    ['read', 'rеad', false],
    ['', 'a', false]
  ])('%j on a tool called %j gives %j', (pattern, name, seen) => {
    expect(seesTool([pattern], name)).toBe(seen)
  })

  it('decides like the obvious matcher on any pattern and name', () => {
    fc.assert(
      fc.property(patterns, names, (pattern, name) => {
        expect(seesTool([pattern], name)).toBe(reference(pattern, name))
      }),
      { numRuns: 20_000 }
    )
  })

  it('decides like the obvious matcher on names made to fit', () => {
    const fitting = fc.array(
      fc.oneof(fc.tuple(fc.constant('*'), names), fc.tuple(fc.constant('?'), unit), fc.tuple(unit, fc.constant('')))
    )
    fc.assert(
      fc.property(fitting, pieces => {
        const pattern = pieces.map(([sign]) => sign).join('')
        const name = pieces.map(([sign, text]) => text || sign).join('')
        fc.pre(!pattern.startsWith('!'))
        expect(seesTool([pattern], name)).toBe(reference(pattern, name))
      }),
      { numRuns: 5_000 }
    )
  })

  it('sees every tool by its own name, whatever characters it has', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1, maxLength: 128 }), name => {
        fc.pre(!name.startsWith('!'))
        expect(seesTool([name], name)).toBe(true)
      })
    )
  })

  it('never takes long, even for a pattern made to be slow', () => {
    const pattern = `${'a*'.repeat(127)}ab`
    expect(pattern).toHaveLength(256)
    const one = policy({ s: { tools: [pattern], prompts: [pattern], resources: [pattern] } })
    const started = performance.now()
    expect(one.sees('s', 'tools', 'a'.repeat(128))).toBe(false)
    expect(one.sees('s', 'prompts', 'a'.repeat(8000))).toBe(false)
    expect(one.sees('s', 'resources', `a:${'a'.repeat(8000)}`)).toBe(false)
    expect(performance.now() - started).toBeLessThan(250)
  })

  it('refuses a pattern longer than 256 characters', () => {
    expect(() => policy({ s: { tools: ['x'.repeat(257)] } })).toThrow('at most 256')
  })
})

describe('an exclusion wins', () => {
  it('wherever it stands in the list', () => {
    fc.assert(
      fc.property(
        fc.array(patterns, { maxLength: 4 }),
        patterns,
        names,
        fc.nat(4),
        (granting, excluded, name, place) => {
          const list = granting.toSpliced(place, 0, `!${excluded}`)
          const expected = granting.some(pattern => reference(pattern, name)) && !reference(excluded, name)
          expect(seesTool(list, name)).toBe(expected)
        }
      ),
      { numRuns: 3_000 }
    )
  })

  it('and alone grants nothing', () => {
    const one = policy({ s: { tools: ['!drop_*'], resources: ['!file:///secret/**'] } })
    expect(one.sees('s', 'tools', 'read')).toBe(false)
    expect(one.sees('s', 'resources', 'file:///data/x')).toBe(false)
    expect(one.seesServer('s')).toBe(false)
  })

  it('and excludes only what it covers', () => {
    expect(seesTool(['!pg_manage_*', 'pg_*'], 'pg_query')).toBe(true)
    expect(seesTool(['pg_*', '!pg_manage_*'], 'pg_manage_users')).toBe(false)
  })
})

describe('a grant stays where it was given', () => {
  it('never on another server', () => {
    fc.assert(
      fc.property(patterns, names, (pattern, name) => {
        const one = policy({ a: { tools: [pattern] }, b: { tools: ['only_this'] } })
        expect(one.sees('A', 'tools', name)).toBe(false)
        expect(one.sees('b', 'tools', name)).toBe(name === 'only_this')
        expect(one.sees('constructor', 'tools', name)).toBe(false)
      })
    )
  })

  it('never for another kind', () => {
    const one = policy({ s: { tools: ['*'] } })
    expect(one.sees('s', 'tools', 'x')).toBe(true)
    expect(one.sees('s', 'prompts', 'x')).toBe(false)
    expect(one.sees('s', 'resources', 'file:///x')).toBe(false)
  })

  it('and "*" is everything, of one server or of all', () => {
    const one = policy({ s: '*' })
    expect(one.sees('s', 'resources', 'file:///a/../b')).toBe(true)
    expect(one.sees('t', 'tools', 'x')).toBe(false)
    expect([one.seesServer('s'), one.seesServer('t')]).toEqual([true, false])
    const all = compilePolicy('*')
    expect(all.sees('any', 'prompts', 'x')).toBe(true)
    expect(all.seesServer('any')).toBe(true)
  })
})

describe('a key reads exactly the resources its patterns name', () => {
  const docs = ['file:///srv/docs/**']
  it.each([
    [docs, 'file:///srv/docs/a.md', true],
    [docs, 'file:///srv/docs/a/b/c.md', true],
    [docs, 'file:///srv/docs', true],
    [docs, 'file:///srv/docs/.hidden', true],
    [docs, 'file:///srv/docs-secret/x', false],
    [docs, 'file:///srv/docs/%41', false],
    [docs, 'FILE:///srv/docs/x', false],
    [docs, 'file://localhost/srv/docs/x', false],
    [docs, 'http://169.254.169.254/', false],
    [['file:///srv/*'], 'file:///srv/a', true],
    [['file:///srv/*'], 'file:///srv/a/b', false],
    [['file:///srv/*.md'], 'file:///srv/a.md', true],
    [['file:///srv/**/*.md'], 'file:///srv/a/b/c.md', true],
    [['file:///srv/**/*.md'], 'file:///srv/c.md', true],
    [['file:///srv/**/*.md'], 'file:///srv/a/b/c.txt', false],
    [['db://users/?x=1'], 'db://users/?x=1', true],
    [['db://users/?x=1'], 'db://users/ax=1', false],
    [['https://example.com'], 'https://example.com', true],
    [['memo:insights'], 'memo:insights', true],
    [['file:///été/*'], 'file:///%C3%A9t%C3%A9/a%20b', true],
    [['users://{id}/*'], 'users://{id}/profile', true],
    [['*'], 'anything at all', true],
    [['**'], 'file:///a/b', true]
  ])('%j on %j gives %j', (patterns, uri, seen) => {
    expect(seesUri(patterns, uri)).toBe(seen)
  })

  const tricks = [
    'file:///srv/docs/../etc/passwd',
    'file:///srv/docs/..',
    'file:///srv/docs/./x',
    'file:///srv/docs/%2e%2e/etc/passwd',
    'file:///srv/docs/.%2E/etc/passwd',
    'file:///srv/docs/..%2fetc/passwd',
    'file:///srv/docs/%2e%2e%5cetc',
    'file:///srv/docs/..\\etc',
    'file:///srv/docs//x',
    'file:////srv/docs/x',
    'file:///srv/docs/x\0',
    'file:///srv/docs/x%00',
    'file:///srv/docs/\nx',
    ' file:///srv/docs/x',
    'file:///srv/docs/x ',
    `file:///srv/docs/${'x'.repeat(10_000)}`,
    'file-reader://open?path=/srv/docs/../../etc',
    'file:///srv/docs/%',
    'not a uri'
  ]
  it.each(tricks)('%j is read by nobody who was granted less than everything', uri => {
    expect(seesUri(['file:///**', 'file:**', '**', 'file-reader://**', 'n*'], uri)).toBe(false)
    expect(seesUri(['*', '!file:///other'], uri)).toBe(false)
    expect(seesUri(['*'], uri)).toBe(true)
  })

  it.each([
    'file:///srv/secret',
    'file:///srv/secret/',
    'file:///srv/secret?x',
    'file:///srv/secret#x',
    'file:///srv/secret/deep/x',
    'file:///srv/%73ecret/x',
    'file:///srv//secret/x',
    'File:///srv/secret/x',
    'file://localhost/srv/secret/x'
  ])('%j does not lead around an exclusion', uri => {
    expect(seesUri(['file:///**', '!file:///srv/secret/**'], uri)).toBe(false)
    expect(seesUri(['*', '!file:///srv/secret/**'], uri)).toBe(false)
  })

  it('an exact exclusion holds with a query, a fragment or a slash behind it', () => {
    const list = ['https://example.com/a//../**', 'https://example.com/**', '!https://example.com/key']
    for (const tail of ['', '?', '?a=/b', '#', '/', '/?x'])
      expect(seesUri(list, `https://example.com/key${tail}`)).toBe(false)
    expect(seesUri(list, 'https://example.com/keys')).toBe(true)
  })
})

describe('a policy', () => {
  it('is the same for equal grants in any order, and another one for others', () => {
    const one = policy({ a: { tools: ['x', '!y'] }, b: '*' })
    expect(policy({ b: '*', a: { tools: ['!y', 'x', 'x'] } }).id).toBe(one.id)
    expect(policy({ a: { tools: ['x', '!z'] }, b: '*' }).id).not.toBe(one.id)
    expect(policy({ a: { prompts: ['x', '!y'] }, b: '*' }).id).not.toBe(one.id)
    expect(compilePolicy('*').id).not.toBe(policy({}).id)
  })

  it('says in a line what it grants on each server', () => {
    expect(compilePolicy('*').describe()).toEqual(['everything'])
    const one = policy({
      filesystem: { tools: ['read_*', 'list_*'], resources: ['file:///data/**'] },
      postgres: '*',
      empty: {}
    })
    expect(one.describe()).toEqual([
      'filesystem: read_*, list_*; resources file:///data/**',
      'postgres: everything',
      'empty: nothing'
    ])
  })

  it('answers the same after it has forgotten what it decided', () => {
    const one = policy({ s: { tools: ['yes_*'] } })
    for (let i = 0; i < 50_000; i++) {
      if (one.sees('s', 'tools', `yes_${i}`) !== true || one.sees('s', 'tools', `no_${i}`) !== false)
        expect.fail(String(i))
    }
    expect(one.sees('s', 'tools', 'yes_0')).toBe(true)
  })
})
