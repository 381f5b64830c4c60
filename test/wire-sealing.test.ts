import { createDecipheriv, createHash, hkdfSync, randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createSealer } from '../src/wire/sealing.js'

const [oldSecret, newSecret] = [randomBytes(32), randomBytes(48)]
const sealer = createSealer({ secrets: [newSecret] })
const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
const payload = fc.jsonValue({ maxDepth: 2 }).filter(value => JSON.stringify(value).length < 1000)

describe('a sealed token', () => {
  it('gives back whatever JSON was sealed', () => {
    fc.assert(
      fc.property(payload, value => {
        const token = sealer.seal('sess', value)
        expect(token).toMatch(/^v1\.[0-9a-f]{8}\.[A-Za-z0-9_-]+$/)
        expect(sealer.open('sess', token)).toEqual(JSON.parse(JSON.stringify(value)))
      })
    )
  })

  it('can be opened by any program that has the secret and reads the documented format', () => {
    const [version, kid = '', body = ''] = sealer.seal('sess', { k: 'admin' }).split('.')
    expect(version).toBe('v1')
    expect(kid).toBe(createHash('sha256').update(newSecret).digest('hex').slice(0, 8))
    const bytes = Buffer.from(body, 'base64url')
    const key = Buffer.from(hkdfSync('sha256', newSecret, Buffer.alloc(0), 'sess', 32))
    const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, 12))
    decipher.setAAD(Buffer.from(`v1.${kid}.sess`)).setAuthTag(bytes.subarray(12, 28))
    expect(decipher.update(bytes.subarray(28), undefined, 'utf8') + decipher.final('utf8')).toBe('{"k":"admin"}')
  })

  it('does not open when any one character is changed, cut off or added', () => {
    const token = sealer.seal('sess', { k: 'admin' })
    for (let at = 0; at < token.length; at++) {
      for (const other of [...alphabet, '.', '=', '+', '/', ' ', '\n', 'é']) {
        if (other === token[at]) continue
        expect(sealer.open('sess', token.slice(0, at) + other + token.slice(at + 1))).toBeUndefined()
      }
      expect(sealer.open('sess', token.slice(0, at))).toBeUndefined()
      expect(sealer.open('sess', token.slice(0, at) + token.slice(at + 1))).toBeUndefined()
    }
    for (const tail of ['A', '=', '==', '\n', '.', '\0']) expect(sealer.open('sess', token + tail)).toBeUndefined()
    expect(sealer.open('sess', token)).toEqual({ k: 'admin' })
  })

  it('does not open for another purpose', () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (purpose, other) => {
        fc.pre(Buffer.from(purpose).compare(Buffer.from(other)) !== 0)
        expect(sealer.open(other, sealer.seal(purpose, 1))).toBeUndefined()
      })
    )
  })

  it('does not open with another secret, even if it claims to be sealed with that one', () => {
    const other = createSealer({ secrets: [oldSecret] })
    const token = sealer.seal('sess', 1)
    expect(other.open('sess', token)).toBeUndefined()
    const [, kid] = other.seal('sess', 1).split('.')
    expect(other.open('sess', token.replace(/\.[0-9a-f]{8}\./, `.${kid}.`))).toBeUndefined()
  })

  it('still opens after a new secret was put first, until the old one is removed', () => {
    const before = createSealer({ secrets: [oldSecret] })
    const rotated = createSealer({ secrets: [newSecret, oldSecret] })
    const token = before.seal('sess', { since: 'before' })
    expect(rotated.open('sess', token)).toEqual({ since: 'before' })
    expect(before.open('sess', rotated.seal('sess', 1))).toBeUndefined()
    expect(sealer.open('sess', rotated.seal('sess', 1))).toBe(1)
    expect(sealer.open('sess', token)).toBeUndefined()
  })

  it('still opens after a restart with the same secret', () => {
    const again = createSealer({ secrets: [Buffer.from(newSecret)] })
    expect(again.open('sess', sealer.seal('sess', 'x'))).toBe('x')
  })

  it('is never the same twice', () => {
    const tokens = new Set(Array.from({ length: 10_000 }, () => sealer.seal('sess', { k: 'admin' })))
    expect(tokens.size).toBe(10_000)
  })

  it('that is no token at all is refused without an exception', () => {
    const { kid } = /^v1\.(?<kid>\w+)\./.exec(sealer.seal('sess', 1))?.groups ?? {}
    const body = fc.base64String().map(text => `v1.${kid}.${text}`)
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), body), fc.string({ unit: 'binary' }), (token, purpose) => {
        expect(sealer.open(purpose, token)).toBeUndefined()
      }),
      { numRuns: 1000 }
    )
    const odd = [
      '',
      'v1',
      'v1..',
      `v1.${kid}.`,
      `v2.${kid}.AAAA`,
      'A'.repeat(50_000_000),
      'é'.repeat(5000),
      undefined,
      null,
      7
    ]
    for (const token of odd) expect(sealer.open('sess', token as string)).toBeUndefined()
    expect(sealer.open('p'.repeat(5000), sealer.seal('sess', 1))).toBeUndefined()
  })

  it('longer than the limit is neither made nor opened', () => {
    const roomy = createSealer({ secrets: [newSecret], maxLength: 100_000 })
    const text = 'x'.repeat(4096)
    expect(() => sealer.seal('rs', text)).toThrow(RangeError)
    const token = roomy.seal('rs', text)
    expect(sealer.open('rs', token)).toBeUndefined()
    expect(roomy.open('rs', token)).toBe(text)
  })
})

describe('a seal secret', () => {
  it('is refused if it is shorter than 32 bytes or missing', () => {
    expect(() => createSealer({ secrets: [] })).toThrow(RangeError)
    expect(() => createSealer({ secrets: [newSecret, randomBytes(31)] })).toThrow(
      'Expected secret 1 to have at least 32 bytes, got 31'
    )
  })

  it('may be wiped by its owner once the sealer is made', () => {
    const secret = Buffer.from(newSecret)
    const own = createSealer({ secrets: [secret] })
    secret.fill(0)
    expect(sealer.open('sess', own.seal('sess', 1))).toBe(1)
  })
})
