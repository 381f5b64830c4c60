import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import { fold, plainNames, publicNames } from '../src/catalog/names.js'

const suffixOf = (server: string, wire: string): string =>
  createHash('sha256').update(`${server}\0${wire}`).digest('hex').slice(0, 8)

/** Valid together: unique after folding, with the shapes that tempt a prefix to run into the next one. */
const servers = [
  'a',
  'a-b',
  'ab',
  'B',
  'b-c-d',
  'mcp',
  'x'.repeat(32),
  `${'x'.repeat(31)}y`,
  `a${'-b'.repeat(15)}c`,
  'a_b-c9'
]
const serverSets = fc.subarray(servers, { minLength: 1 })

const letters = fc.constantFrom(...'abcABC_-_-__..//: 019')
const plausible = fc.string({ unit: letters, maxLength: 24 })
const hexTail = fc.stringMatching(/^[a-z_-]{0,6}_[0-9a-f]{8}$/)
const long = fc.tuple(
  fc.constantFrom('create_', 'delete_', 'x'),
  fc.string({ unit: letters, minLength: 100, maxLength: 120 })
)
const oneName = fc.oneof(
  plausible,
  hexTail,
  long.map(([head, tail]) => `${'same_beginning_of_all_'.repeat(2)}${head}${tail}`.slice(0, 128)),
  fc.string({ unit: 'binary', maxLength: 128 }),
  fc.string({ unit: 'grapheme', maxLength: 64 })
)

/** Names together with what clients or we ourselves could take them for: case twins, `-`/`_` twins, our own suffixed form. */
const wireNames = (server: string): fc.Arbitrary<string[]> =>
  fc.array(oneName, { maxLength: 12 }).chain(names => {
    const twins = names.flatMap(name => [
      name,
      name.toUpperCase(),
      name.replaceAll('_', '-'),
      name.replaceAll('-', '_'),
      `${name}\ud800`,
      ...publicNames(server, [name]).map(made => made.slice(server.length + 2))
    ])
    return fc.shuffledSubarray([...new Set(twins)], { minLength: Math.ceil(new Set(twins).size / 2) })
  })

const catalogs = serverSets.chain(ids => fc.tuple(...ids.map(id => wireNames(id).map(names => [id, names] as const))))

/** What each client makes of a name (clients.md, section 1), with the longest alias that field.md, R17 promises. */
const alias = 'switchboard'
const clients: Record<string, { see: (name: string) => string; valid: RegExp }> = {
  'Claude Code': { see: name => `mcp__${alias}__${name}`, valid: /^[a-zA-Z0-9_-]{1,64}$/ },
  'VS Code': { see: name => `mcp_stand-in_gate_${name}`.slice(0, 64), valid: /^[a-z0-9_-]{1,64}$/i },
  'Gemini CLI': {
    see: name => {
      const whole = `mcp_gw_${name}`
      return whole.length > 63 ? `${whole.slice(0, 30)}...${whole.slice(-30)}` : whole
    },
    valid: /^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$/
  },
  'Codex CLI': { see: name => `mcp__${alias}__${name}`.replaceAll('-', '_'), valid: /^[a-zA-Z0-9_]{1,64}$/ },
  'Copilot CLI': { see: name => `gw-${name}`.slice(0, 64), valid: /^[a-zA-Z0-9_-]{1,64}$/ },
  Cline: { see: name => `gw__${name}`.slice(0, 64), valid: /^[a-zA-Z0-9_-]{1,64}$/ },
  Continue: { see: name => name, valid: /^[a-zA-Z0-9_-]{1,64}$/ }
}

describe('public names', () => {
  let generated = 0
  afterAll(() => {
    expect(generated).toBeGreaterThan(10_000)
  })

  it('are valid, short enough and distinct in every client, over all servers', () => {
    fc.assert(
      fc.property(catalogs, catalog => {
        const all = catalog.flatMap(([server, wires]) => publicNames(server, wires))
        generated += all.length
        for (const name of all) {
          expect(name).toMatch(/^[A-Za-z_][A-Za-z0-9_-]*$/)
          expect(name.length).toBeLessThanOrEqual(46)
        }
        expect(new Set(all.map(fold)).size).toBe(all.length)
        for (const [client, { see, valid }] of Object.entries(clients)) {
          const seen = all.map(see)
          expect(new Set(seen.map(name => name.toLowerCase())).size, client).toBe(all.length)
          for (const name of seen) expect(name, client).toMatch(valid)
        }
      }),
      { numRuns: 400 }
    )
  })

  it('stay the same when the list comes in another order', () => {
    const shuffled = wireNames('a-b').chain(wires =>
      fc.tuple(fc.constant(wires), fc.shuffledSubarray(wires, { minLength: wires.length }))
    )
    fc.assert(
      fc.property(shuffled, ([wires, others]) => {
        const names = new Map(wires.map((wire, i) => [wire, publicNames('a-b', wires)[i]]))
        expect(publicNames('a-b', others)).toEqual(others.map(wire => names.get(wire)))
      }),
      { numRuns: 300 }
    )
  })

  it('stay the same when other servers come and go', () => {
    fc.assert(
      fc.property(catalogs, serverSets, (catalog, kept) => {
        const before = new Map(catalog.map(([server, wires]) => [server, publicNames(server, wires)]))
        for (const [server, wires] of catalog.toReversed()) {
          if (kept.includes(server)) expect(publicNames(server, wires)).toEqual(before.get(server))
        }
      }),
      { numRuns: 50 }
    )
  })

  it('stay the same when a tool appears that none could be mistaken for', () => {
    fc.assert(
      fc.property(wireNames('a'), wires => {
        const others = wires.filter(wire => fold(wire) !== 'entirely_new')
        expect(publicNames('a', [...others, 'entirely_new'])).toEqual([...publicNames('a', others), 'a__entirely_new'])
      }),
      { numRuns: 200 }
    )
  })

  it('are the wire name behind the server, where nothing stands against it', () => {
    expect(publicNames('postgres', ['query', 'Explain-2', '__odd__'])).toEqual([
      'postgres__query',
      'postgres__Explain-2',
      'postgres____odd__'
    ])
  })

  it('end in a hash of server and wire name where characters had to be replaced', () => {
    expect(publicNames('a', ['x.y', 'x_y', 'Ａ', 'A', 'а'])).toEqual([
      `a__x_y_${suffixOf('a', 'x.y')}`,
      'a__x_y',
      `a____${suffixOf('a', 'Ａ')}`,
      'a__A',
      `a____${suffixOf('a', 'а')}`
    ])
  })

  it('are cut to 46 characters with a hash, so that equal beginnings stay apart', () => {
    const wires = ['create', 'delete'].map(verb => `${'x'.repeat(120)}_${verb}`)
    const names = publicNames('github', wires)
    expect(names).toEqual(wires.map(wire => `github__${'x'.repeat(29)}_${suffixOf('github', wire)}`))
    expect(names[0]).toHaveLength(46)
    expect(publicNames('a', ['x'.repeat(43)])).toEqual([`a__${'x'.repeat(43)}`])
  })

  it('tell apart what differs only in case or in - and _', () => {
    expect(publicNames('a', ['read-only', 'read_only', 'Read_Only', 'write'])).toEqual([
      `a__read-only_${suffixOf('a', 'read-only')}`,
      `a__read_only_${suffixOf('a', 'read_only')}`,
      `a__Read_Only_${suffixOf('a', 'Read_Only')}`,
      'a__write'
    ])
  })

  it('of servers that look like each other do not meet', () => {
    const all = [
      ...publicNames('a', ['b__c', '_b', 'b-c']),
      ...publicNames('a-b', ['c', '_c']),
      ...publicNames('b', ['c'])
    ]
    expect(all).toEqual(['a__b__c', 'a___b', 'a__b-c', 'a-b__c', 'a-b___c', 'b__c'])
    expect(new Set(all.map(fold)).size).toBe(6)
  })

  it('leave a tool its own name that looks like our hash of another one', () => {
    const lookalike = `x_y_${suffixOf('a', 'x.y')}`
    const [altered, natural] = publicNames('a', ['x.y', lookalike])
    expect(natural).toBe(`a__${lookalike}`)
    expect(altered).toMatch(/^a__x_y_[0-9a-f]{8}$/)
    expect(altered).not.toBe(natural)
  })

  it('tell apart two tools whose hashes are equal', () => {
    const wires = ['x稫一', 'x銼丁']
    expect(wires.map(wire => suffixOf('s', wire))).toEqual(['77c67ca9', '77c67ca9'])
    const names = publicNames('s', wires)
    expect(new Set(names).size).toBe(2)
    expect(publicNames('s', wires.toReversed())).toEqual(names.toReversed())
  })

  it('tell apart halves of characters that UTF-8 cannot', () => {
    expect(new Set(publicNames('s', ['\ud800', '\ud801', '\udfff'])).size).toBe(3)
  })

  it('give the same name twice for the same wire name, and end', () => {
    expect(publicNames('s', ['x', 'x'])).toEqual(['s__x', 's__x'])
  })

  it('are found however many lookalikes stand in the way', () => {
    const wires = ['x.y']
    for (let i = 0; i < 200; i++) wires.push(publicNames('s', wires)[0]!.slice('s__'.length))
    expect(new Set(publicNames('s', wires)).size).toBe(201)
    expect(publicNames('s', wires).slice(1)).toEqual(wires.slice(1).map(wire => `s__${wire}`))
  })

  it('are found at once for 10,000 spellings of one name', () => {
    const spelling = (n: number): string =>
      [...'abcdefghijklmn'].map((c, i) => ((n >> i) & 1 ? c.toUpperCase() : c)).join('')
    const started = performance.now()
    expect(
      new Set(
        publicNames(
          's',
          Array.from({ length: 10_000 }, (_, n) => spelling(n))
        ).map(fold)
      ).size
    ).toBe(10_000)
    expect(performance.now() - started).toBeLessThan(5_000)
  })

  it('refuse a length that could not hold server and hash', () => {
    expect(publicNames('x'.repeat(32), ['.'], 43)).toEqual([`${'x'.repeat(32)}___${suffixOf('x'.repeat(32), '.')}`])
    expect(() => publicNames('x'.repeat(32), ['tool'], 42)).toThrow('room for 43')
  })
})

describe('names without prefix', () => {
  it('are unchanged where every client takes them', () => {
    const wires = ['a.b', 'A.B', 'a-b', 'a_b', '9', 'x'.repeat(128)]
    expect(plainNames(wires)).toEqual(wires)
  })

  it('are repaired with a hash where not', () => {
    const hash = suffixOf('', 'get/x')
    expect(plainNames(['get/x', 'get_x'])).toEqual([`get_x_${hash}`, 'get_x'])
    expect(plainNames([''])).toEqual([`_${suffixOf('', '')}`])
    expect(plainNames(['get/x', `get_x_${hash}`])[1]).toBe(`get_x_${hash}`)
    expect(plainNames(['x'.repeat(129)])[0]).toHaveLength(128)
  })

  it('are valid and never given twice', () => {
    fc.assert(
      fc.property(wireNames('s'), wires => {
        const names = plainNames(wires)
        expect(new Set(names).size).toBe(wires.length)
        names.forEach((name, i) => {
          expect(name).toMatch(/^[A-Za-z0-9_.-]{1,128}$/)
          if (/^[A-Za-z0-9_.-]{1,128}$/.test(wires[i]!)) expect(name).toBe(wires[i])
        })
      }),
      { numRuns: 500 }
    )
  })
})
