import { validateHeaderValue } from 'node:http'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  checkMirroredHeaders,
  checkParamHeaders,
  decodeHeaderValue,
  encodeHeaderValue,
  paramAnnotations,
  paramHeaders
} from '../src/wire/mirrored-headers.js'

const text = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string(),
  fc.string().map(inner => `=?base64?${inner}?=`),
  fc.constantFrom('', ' ', '\t', 'a ', ' a', 'a\tb', 'a\r\nb', '\0', '\ufeffx', '=?base64?=', '=?base64??=', '日本 ☕')
)
const base64 = (bytes: Buffer | string) => `=?base64?${Buffer.from(bytes).toString('base64')}?=`

describe('a header value', () => {
  it('gives back any text that was encoded into it', () => {
    fc.assert(
      fc.property(text, value => {
        expect(decodeHeaderValue(encodeHeaderValue(value))).toBe(value)
      }),
      { numRuns: 2000 }
    )
  })

  it('is always one that HTTP can carry without touching it', () => {
    fc.assert(
      fc.property(text, value => {
        const encoded = encodeHeaderValue(value)
        expect(() => validateHeaderValue('mcp-name', encoded)).not.toThrow()
        expect(encoded).toMatch(/^[!-~](.*[!-~])?$/)
      }),
      { numRuns: 2000 }
    )
  })

  it('stays readable where it is plain ASCII', () => {
    for (const plain of ['a', 'pg__query', 'file:///data/a b.txt', '=?utf-8?x?=']) {
      expect(encodeHeaderValue(plain)).toBe(plain)
    }
    expect(encodeHeaderValue('a\tb')).toBe(base64('a\tb'))
  })

  it('is refused if its base64 is not strict or hides something that is not UTF-8', () => {
    const bad = [
      '=?base64?Zm9v!?=',
      '=?base64?Zm9?=',
      '=?base64?Zg?=',
      '=?base64?Zh==?=',
      '=?base64?_-==?=',
      '=?base64? Zm9v?=',
      '=?base64?='
    ]
    for (const raw of [...bad, base64(Buffer.of(0xff, 0xfe)), base64(Buffer.of(0xed, 0xa0, 0x80))]) {
      expect(decodeHeaderValue(raw)).toBeUndefined()
    }
    expect(decodeHeaderValue('=?base64?Zm9v?=')).toBe('foo')
    expect(decodeHeaderValue('=?base64??=')).toBe('')
  })

  it('never throws, whatever it is', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary' }), raw => void decodeHeaderValue(`=?base64?${raw}?=`)))
  })
})

describe('the mirrored headers of a request', () => {
  const call = { method: 'tools/call', params: { name: 'pg__query' } }

  it('are accepted when they repeat the body, plain or encoded', () => {
    for (const name of ['pg__query', base64('pg__query')]) {
      expect(checkMirroredHeaders({ 'mcp-method': 'tools/call', 'mcp-name': name }, call)).toBeUndefined()
    }
    expect(checkMirroredHeaders({ 'mcp-method': 'tools/list' }, { method: 'tools/list' })).toBeUndefined()
  })

  it('are refused with a sentence when the method is missing, different or sent twice', () => {
    const list = { method: 'tools/list' }
    expect(checkMirroredHeaders({}, list)).toBe(
      'The Mcp-Method header is missing: the body says method is "tools/list".'
    )
    expect(checkMirroredHeaders({ 'mcp-method': 'Tools/List' }, list)).toBe(
      'The Mcp-Method header says "Tools/List", but in the body method is "tools/list".'
    )
    expect(checkMirroredHeaders({ 'mcp-method': ['tools/list', 'tools/list'] }, list)).toMatch('more than once')
  })

  it.each([
    ['tools/call', 'name'],
    ['prompts/get', 'name'],
    ['resources/read', 'uri'],
    ['tasks/get', 'taskId'],
    ['tasks/update', 'taskId'],
    ['tasks/cancel', 'taskId']
  ])('of %s must repeat params.%s', (method, member) => {
    const message = { method, params: { [member]: 'größe' } }
    const check = (name?: string) => checkMirroredHeaders({ 'mcp-method': method, 'mcp-name': name }, message)
    expect(check(encodeHeaderValue('größe'))).toBeUndefined()
    expect(check()).toBe(`The Mcp-Name header is missing: the body says params.${member} is "größe".`)
    expect(check('grösse')).toMatch(`in the body params.${member} is "größe"`)
    expect(check('=?base64?%%%?=')).toBe('The Mcp-Name header is not valid base64 of UTF-8.')
  })

  it('leave a body without a name to the check of its params', () => {
    expect(checkMirroredHeaders({ 'mcp-method': 'tools/call' }, { method: 'tools/call' })).toBeUndefined()
    const numeric = { method: 'tools/call', params: { name: 7 } }
    expect(checkMirroredHeaders({ 'mcp-method': 'tools/call' }, numeric)).toBeUndefined()
  })

  it('are quoted shortly in the sentence, however long they are', () => {
    const long = checkMirroredHeaders({ 'mcp-method': 'x'.repeat(10_000) }, { method: 'y'.repeat(10_000) })
    expect(long?.length).toBeLessThan(400)
  })
})

describe('x-mcp-header annotations of a tool', () => {
  const schema = {
    type: 'object',
    properties: {
      region: { type: 'string', 'x-mcp-header': 'Region' },
      limit: { type: 'integer', 'x-mcp-header': 'Row-Limit' },
      options: { type: 'object', properties: { dry: { type: 'boolean', 'x-mcp-header': 'Dry' } } },
      free: { type: 'array', items: { type: 'string' } },
      'x-mcp-header': { type: 'string' }
    }
  }

  it('are found at any depth of properties', () => {
    const { annotations, invalid } = paramAnnotations(schema)
    expect(invalid).toBeUndefined()
    expect([...annotations]).toEqual([
      ['region', { path: ['region'], header: 'Mcp-Param-Region', type: 'string' }],
      ['row-limit', { path: ['limit'], header: 'Mcp-Param-Row-Limit', type: 'integer' }],
      ['dry', { path: ['options', 'dry'], header: 'Mcp-Param-Dry', type: 'boolean' }]
    ])
  })

  const note = { type: 'string', 'x-mcp-header': 'A' }
  it.each([
    ['the root', { 'x-mcp-header': 'A', type: 'string' }],
    ['items', { properties: { list: { type: 'array', items: note } } }],
    ['a tuple', { properties: { list: { prefixItems: [{}, note] } } }],
    ['anyOf', { anyOf: [{ properties: { a: note } }] }],
    ['additionalProperties', { additionalProperties: note }],
    ['if', { if: { properties: { a: note } } }],
    ['$defs', { $defs: { a: note } }],
    ['patternProperties', { patternProperties: { '^a': note } }],
    ['dependentSchemas', { properties: { a: { dependentSchemas: { b: { properties: { c: note } } } } } }],
    ['a property of no type', { properties: { a: { 'x-mcp-header': 'A' } } }],
    ['an object', { properties: { a: { type: 'object', 'x-mcp-header': 'A' } } }],
    ['a union of types', { properties: { a: { type: ['string', 'null'], 'x-mcp-header': 'A' } } }],
    ['an empty name', { properties: { a: { type: 'string', 'x-mcp-header': '' } } }],
    ['a name with a blank', { properties: { a: { type: 'string', 'x-mcp-header': 'A B' } } }],
    ['a name with a line break', { properties: { a: { type: 'string', 'x-mcp-header': 'A\n' } } }],
    ['a name that is no text', { properties: { a: { type: 'string', 'x-mcp-header': 1 } } }],
    ['a repeated name in capitals', { properties: { b: { type: 'string', 'x-mcp-header': 'a' }, c: note } }],
    ['a repeated name', { properties: { a: note, b: { type: 'string', 'x-mcp-header': 'a' } } }]
  ])('are invalid on %s, and then none counts', (_place, inputSchema) => {
    const { annotations, invalid } = paramAnnotations(inputSchema)
    expect(invalid).toMatch(/^x-mcp-header at /)
    expect(annotations.size).toBe(0)
  })

  it('are invalid on a number, but its header can still be checked', () => {
    const { annotations, invalid } = paramAnnotations({ properties: { a: { type: 'number', 'x-mcp-header': 'A' } } })
    expect(invalid).toMatch('needs the type string, integer or boolean')
    expect(checkParamHeaders({ 'mcp-param-a': '1.50' }, annotations, { a: 1.5 })).toBeUndefined()
  })

  it('are looked for without an exception in anything, however deep', () => {
    fc.assert(fc.property(fc.anything(), value => void paramAnnotations(value)))
    let deep: unknown = note
    for (let i = 0; i < 200_000; i++) deep = { properties: { a: deep } }
    expect(paramAnnotations(deep).annotations.size).toBe(1)
    const wide = Object.fromEntries(Array.from({ length: 300_000 }, (_, i) => [`p${i}`, {}]))
    expect(paramAnnotations({ properties: wide }).annotations.size).toBe(0)
  })
})

describe('the Mcp-Param headers of a call', () => {
  const { annotations } = paramAnnotations({
    properties: {
      region: { type: 'string', 'x-mcp-header': 'Region' },
      limit: { type: 'integer', 'x-mcp-header': 'Limit' },
      options: { type: 'object', properties: { dry: { type: 'boolean', 'x-mcp-header': 'Dry' } } },
      constructor: { type: 'string', 'x-mcp-header': 'Odd' }
    }
  })
  const lower = (headers: Record<string, string>) =>
    Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))

  it('repeat the annotated arguments and nothing else', () => {
    const args = { region: 'größe', limit: 42, options: { dry: false }, other: 'x' }
    expect(paramHeaders(annotations, args)).toEqual({
      'Mcp-Param-Region': base64('größe'),
      'Mcp-Param-Limit': '42',
      'Mcp-Param-Dry': 'false'
    })
  })

  it('are absent for arguments that are null, absent, or cannot be written', () => {
    for (const args of [undefined, null, [], 'x', {}, { region: null, limit: 2 ** 60, options: 'x' }, { region: {} }]) {
      expect(paramHeaders(annotations, args)).toEqual({})
      expect(checkParamHeaders({}, annotations, args)).toBeUndefined()
    }
  })

  it('come from the arguments only, never from what every object inherits', () => {
    const name = { type: 'string', 'x-mcp-header': 'Name' }
    const inherited = paramAnnotations({ properties: { constructor: { type: 'object', properties: { name } } } })
    expect(inherited.annotations.size).toBe(1)
    expect(paramHeaders(inherited.annotations, {})).toEqual({})
  })

  it('that we send are the ones we accept', () => {
    const value = fc.option(fc.oneof(text, fc.integer(), fc.boolean(), fc.double()))
    const args = fc.record({ region: value, limit: value, options: fc.record({ dry: value }) })
    fc.assert(
      fc.property(args, some => {
        expect(checkParamHeaders(lower(paramHeaders(annotations, some)), annotations, some)).toBeUndefined()
      })
    )
  })

  it('are refused with a sentence when missing, different, malformed or sent twice, and never show the argument', () => {
    const args = { region: 'secret-eu' }
    const check = (value?: string | string[]) => checkParamHeaders({ 'mcp-param-region': value }, annotations, args)
    expect(check()).toBe('The Mcp-Param-Region header is missing: it has to repeat the argument "region".')
    expect(check('us')).toBe('The Mcp-Param-Region header does not match the argument "region".')
    expect(check('=?base64?Zm9?=')).toMatch('not a valid value')
    expect(check(['secret-eu', 'secret-eu'])).toMatch('send it once')
  })

  it('compare whole numbers by value', () => {
    const check = (raw: string, limit: unknown) => checkParamHeaders({ 'mcp-param-limit': raw }, annotations, { limit })
    expect(check('42.0', 42)).toBeUndefined()
    expect(check('042', 42)).toBeUndefined()
    expect(check('43', 42)).toMatch('does not match')
    for (const raw of ['0x2a', '4.2e1', '', ' 42', '42n']) expect(check(raw, 42)).toMatch('does not match')
    expect(check('42.0', '42')).toMatch('does not match')
  })

  it('without an argument are ignored', () => {
    expect(checkParamHeaders({ 'mcp-param-region': 'eu' }, annotations, {})).toBeUndefined()
  })
})
