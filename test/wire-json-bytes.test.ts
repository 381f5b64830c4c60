import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { bytesHeld, exceedsDepth, parseBody } from '../src/wire/json-bytes.js'

const nested = (depth: number) => Buffer.from('['.repeat(depth) + ']'.repeat(depth))

function depthOf(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0
  return 1 + Math.max(0, ...Object.values(value).map(depthOf))
}

describe('a JSON body', () => {
  it('is read as JSON.parse would read it', () => {
    fc.assert(
      fc.property(fc.json({ stringUnit: 'binary' }), text => {
        expect(parseBody(Buffer.from(text))).toEqual({ ok: true, value: JSON.parse(text) })
      })
    )
  })

  it('is refused if it is empty, not JSON, or has a byte order mark', () => {
    expect(parseBody(Buffer.alloc(0))).toEqual({ ok: false, reason: 'empty' })
    for (const text of ['  ', '{', '{"a":1}}', ']', "{'a':1}", '\ufeff{}', '{"a":"\0"}', 'undefined']) {
      expect(parseBody(Buffer.from(text))).toEqual({ ok: false, reason: 'json' })
    }
  })

  it('is refused rather than repaired if it is not UTF-8', () => {
    const invalid = ['ff', 'c080', 'eda080', 'f4908080', 'e282', '80']
    for (const hex of invalid) {
      const body = Buffer.concat([Buffer.from('{"a":"'), Buffer.from(hex, 'hex'), Buffer.from('"}')])
      expect(parseBody(body)).toEqual({ ok: false, reason: 'utf8' })
    }
    expect(parseBody(Buffer.from('{"a":1}', 'utf16le'))).toEqual({ ok: false, reason: 'json' })
    expect(parseBody(Buffer.from('"😀é"'))).toEqual({ ok: true, value: '😀é' })
  })

  it('may be nested 64 deep and not one deeper', () => {
    expect(parseBody(nested(64)).ok).toBe(true)
    expect(parseBody(nested(65))).toEqual({ ok: false, reason: 'depth' })
    expect(parseBody(nested(3), { maxDepth: 2 })).toEqual({ ok: false, reason: 'depth' })
  })

  it('is refused at once when it is nested a million deep', () => {
    expect(parseBody(Buffer.from('[{"a":'.repeat(1_000_000)))).toEqual({ ok: false, reason: 'depth' })
  })

  it('does not change any prototype', () => {
    const parsed = parseBody(Buffer.from('{"__proto__":{"polluted":true},"constructor":1}'))
    expect(parsed.ok && Object.keys(parsed.value as object)).toEqual(['__proto__', 'constructor'])
    expect('polluted' in {}).toBe(false)
  })
})

describe('the depth of a JSON text', () => {
  it('is measured exactly for every value, whatever its strings hold', () => {
    const tricky = fc.string({ unit: fc.constantFrom('"', '\\', '[', ']', '{', '}', 'a', 'é'), maxLength: 200 })
    const value = fc.anything({ values: [tricky, fc.integer()], key: tricky, withNullPrototype: false })
    fc.assert(
      fc.property(value, anything => {
        const text = JSON.stringify(anything) ?? 'null'
        const depth = depthOf(JSON.parse(text))
        expect(exceedsDepth(Buffer.from(text), depth)).toBe(false)
        if (depth > 0) expect(exceedsDepth(Buffer.from(text), depth - 1)).toBe(true)
      })
    )
  })

  it('does not count brackets in long strings, escaped quotes among them', () => {
    const fillers = ['a', '\\', '"', '\\"', '"\\', '\\\\"']
    for (const filler of fillers) {
      for (const before of ['', 'a', 'aa']) {
        for (const after of ['', '[[[[', '"[[', '\\"[[']) {
          for (let length = 0; length < 80; length++) {
            const text = JSON.stringify([before + filler.repeat(length) + after])
            expect(exceedsDepth(Buffer.from(text), 1)).toBe(false)
            expect(exceedsDepth(Buffer.from(text.slice(0, -1) + ',[]]'), 1)).toBe(true)
          }
        }
      }
    }
  })

  it('is answered for any bytes at all', () => {
    fc.assert(fc.property(fc.uint8Array(), bytes => typeof exceedsDepth(Buffer.from(bytes), 3) === 'boolean'))
  })
})

describe('what a JSON value holds in memory', () => {
  it('is its text or more, and of many small parts a multiple of it', () => {
    const over = (value: unknown) => bytesHeld(value) / JSON.stringify(value).length
    expect(over({ message: 'x'.repeat(100_000) })).toBeCloseTo(1, 2)
    expect(over(Array.from({ length: 1000 }, () => ({})))).toBeGreaterThan(10)
    expect(over(Array.from({ length: 1000 }, () => 0))).toBeGreaterThan(4)
    expect(bytesHeld(undefined)).toBeLessThan(100)
  })
})
