import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { AcceptedHeaders } from '../src/policy/accepted.js'
import { createKeyRing, digestOf, newSecret, type KeyRing } from '../src/policy/keys.js'

const tomorrow = Date.UTC(2027, 0, 2)
const today = Date.UTC(2027, 0, 1)
const reader = new Map([['s', { tools: ['read_*'], prompts: [], resources: [] }]])

function ring(now = today): KeyRing {
  return createKeyRing({
    keys: [
      { id: 'admin', secrets: [{ kind: 'generated' }], allow: '*' },
      {
        id: 'developer',
        secrets: [
          { kind: 'digest', sha256: digestOf('old') },
          { kind: 'digest', sha256: digestOf('new').toUpperCase() }
        ],
        allow: reader,
        expires: tomorrow
      },
      { id: 'twin', secrets: [{ kind: 'digest', sha256: digestOf('twin') }], allow: new Map(reader) }
    ],
    generated: id => `generated-${id}`,
    now: () => now
  })
}

const shown = (headers: Record<string, string | string[]>, now?: number): string => {
  const found = ring(now).authenticate(headers)
  return found.key ? found.key.id : found.refused
}

describe('a key is accepted', () => {
  it.each([
    ['as a bearer token', { authorization: 'Bearer generated-admin' }],
    ['whatever the case of the scheme', { authorization: 'bEARER generated-admin' }],
    ['with several blanks behind the scheme', { authorization: 'Bearer \t  generated-admin ' }],
    ['bare in Authorization', { authorization: 'generated-admin' }],
    ['in x-api-key', { 'x-api-key': 'generated-admin' }],
    ['in both, when they agree', { authorization: 'Bearer generated-admin', 'x-api-key': 'generated-admin' }],
    ['in x-api-key behind an empty Authorization', { authorization: '', 'x-api-key': 'generated-admin' }]
  ])('%s', (_how, headers) => {
    expect(shown(headers)).toBe('admin')
  })

  it('by each of its secrets while it is being rotated', () => {
    expect(shown({ 'x-api-key': 'old' })).toBe('developer')
    expect(shown({ 'x-api-key': 'new' })).toBe('developer')
  })
})

describe('a request without a usable key is refused', () => {
  it.each([
    ['no header', {}, 'missing'],
    ['an empty Authorization', { authorization: '' }, 'missing'],
    ['Bearer and nothing behind it', { authorization: 'Bearer  ' }, 'missing'],
    ['an empty x-api-key', { 'x-api-key': ' ' }, 'missing'],
    ['an unknown key', { authorization: 'Bearer nobody' }, 'invalid'],
    ['Basic credentials', { authorization: 'Basic Z2VuZXJhdGVkLWFkbWlu' }, 'invalid'],
    ['another scheme around a good key', { authorization: 'Token generated-admin' }, 'invalid'],
    ['a word too many', { authorization: 'Bearer generated-admin x' }, 'invalid'],
    ['two headers that differ', { authorization: 'Bearer generated-admin', 'x-api-key': 'old' }, 'invalid'],
    ['Basic beside a good x-api-key', { authorization: 'Basic eA==', 'x-api-key': 'generated-admin' }, 'invalid'],
    ['x-api-key twice', { 'x-api-key': ['generated-admin', 'generated-admin'] }, 'invalid'],
    ['the stored digest itself', { 'x-api-key': digestOf('old') }, 'invalid'],
    ['a key in other case', { 'x-api-key': 'OLD' }, 'invalid'],
    ['a key of more than 4096 characters', { 'x-api-key': 'x'.repeat(4097) }, 'invalid']
  ])('%s', (_what, headers, refused) => {
    expect(shown(headers)).toBe(refused)
  })

  it('whatever it sends', () => {
    const keys = ring()
    fc.assert(
      fc.property(fc.string(), fc.string(), (authorization, apiKey) => {
        expect(keys.authenticate({ authorization, 'x-api-key': apiKey }).key).toBeUndefined()
      })
    )
  })
})

describe('an expired key', () => {
  it('works until the moment it expires, and is named for the log afterwards', () => {
    expect(shown({ 'x-api-key': 'old' }, tomorrow - 1)).toBe('developer')
    expect(ring(tomorrow).authenticate({ 'x-api-key': 'old' })).toEqual({ refused: 'invalid', keyId: 'developer' })
    expect(ring(tomorrow).authenticate({ 'x-api-key': 'nobody' })).toEqual({ refused: 'invalid' })
  })
})

describe('the ring', () => {
  it('shares one policy between keys that may do the same', () => {
    const keys = ring()
    expect(keys.byId('twin')?.policy).toBe(keys.byId('developer')?.policy)
    expect(keys.byId('admin')?.policy).not.toBe(keys.byId('twin')?.policy)
  })

  it('lists its keys and finds them by id', () => {
    const keys = ring()
    expect(keys.keys.map(key => key.id)).toEqual(['admin', 'developer', 'twin'])
    expect(keys.byId('developer')).toMatchObject({ id: 'developer', expires: tomorrow })
    expect(keys.byId('nobody')).toBeUndefined()
  })

  it('holds no secret in clear text', () => {
    expect(JSON.stringify(ring().keys)).not.toContain('generated-')
  })
})

describe('a new secret', () => {
  it('is 256 random bits behind a prefix that scanners can find', () => {
    const secrets = new Set(Array.from({ length: 1000 }, newSecret))
    expect(secrets.size).toBe(1000)
    for (const secret of secrets) expect(secret).toMatch(/^swb_[A-Za-z0-9_-]{43}$/)
  })

  it('is stored as what sha256sum prints', () => {
    expect(digestOf('test')).toBe(createHash('sha256').update('test').digest('hex'))
    expect(digestOf('test').slice(0, 16)).toBe('9f86d081884c7d65')
  })
})

describe('headers that were accepted', () => {
  const secret = newSecret()
  const bearer = (text: string) => ({ authorization: `Bearer ${text}` })

  it('are known again word for word, whichever of the two they are', () => {
    const accepted = new AcceptedHeaders<string>(10)
    accepted.keep(bearer(secret), 'by Authorization')
    accepted.keep({ 'x-api-key': secret }, 'by x-api-key')
    expect(accepted.find(bearer(secret))).toBe('by Authorization')
    expect(accepted.find({ 'x-api-key': secret })).toBe('by x-api-key')
    expect(accepted.find({ 'x-api-key': `Bearer ${secret}` })).toBeUndefined()
    expect(accepted.find({ authorization: secret })).toBeUndefined()
    expect(accepted.find({ ...bearer(secret), 'x-api-key': secret })).toBeUndefined()
    expect(accepted.find({ 'x-api-key': [secret] })).toBeUndefined()
    expect(accepted.find({})).toBeUndefined()
  })

  it('are not found by what differs in one character, at any place', () => {
    const accepted = new AcceptedHeaders<string>(10)
    accepted.keep(bearer(secret), 'it')
    const { authorization } = bearer(secret)
    for (let at = 0; at < authorization.length; at++) {
      for (let code = 0; code < 256; code++) {
        if (code === authorization.charCodeAt(at)) continue
        const other = authorization.slice(0, at) + String.fromCharCode(code) + authorization.slice(at + 1)
        expect(accepted.find({ authorization: other }) === undefined).toBe(true)
      }
    }
    expect(accepted.find({ authorization: authorization.slice(0, -1) })).toBeUndefined()
    expect(accepted.find({ authorization: `${authorization} ` })).toBeUndefined()
  })

  it('are not more than may be, nor long ones', () => {
    const accepted = new AcceptedHeaders<number>(10)
    for (let n = 0; n < 100; n++) accepted.keep(bearer(`${secret}${n}`), n)
    const found = Array.from({ length: 100 }, (_, n) => accepted.find(bearer(`${secret}${n}`)))
    expect(found.filter(value => value !== undefined).length).toBeLessThanOrEqual(10)
    expect(found.at(-1)).toBe(99)
    accepted.keep(bearer('x'.repeat(1000)), 1)
    expect(accepted.find(bearer('x'.repeat(1000)))).toBeUndefined()
  })

  it('do not make a key outlive its date or its configuration', () => {
    let now = today
    const keys = createKeyRing({
      keys: [{ id: 'dated', secrets: [{ kind: 'digest', sha256: digestOf(secret) }], allow: '*', expires: tomorrow }],
      generated: () => '',
      now: () => now
    })
    for (let n = 0; n < 3; n++) expect(keys.authenticate(bearer(secret)).key?.id).toBe('dated')
    now = tomorrow
    expect(keys.authenticate(bearer(secret))).toEqual({ refused: 'invalid', keyId: 'dated' })
    const next = createKeyRing({ keys: [], generated: () => '', before: keys })
    expect(next.authenticate(bearer(secret))).toEqual({ refused: 'invalid' })
  })
})
