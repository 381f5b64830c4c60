/**
 * Whose call it is: the credential of a request -> a key with its policy. A secret is known by its SHA-256 digest alone,
 * until it was shown: what was accepted is then remembered in memory (`accepted.ts`). What the key may do is decided in
 * `policy.ts`, what a refusal looks like on the wire, downstream.
 *
 * Timing: every wrong credential costs one digest and two failed look-ups, and what they compare, digests and seeded
 * numbers, a caller cannot steer byte by byte: how long they take says nothing about what is stored. Clear text is
 * compared only with itself: see `accepted.ts`.
 */
import { hash, randomBytes } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import type { KeyConfig } from '../config/schema.js'
import { SwitchboardError } from '../errors.js'
import { Cancellation } from '../wire/cancellation.js'
import { AcceptedHeaders } from './accepted.js'
import { compilePolicy, type Policy } from './policy.js'

/** A key as one of its secrets opens it. */
export interface Key {
  readonly id: string
  readonly policy: Policy
  /** Epoch milliseconds from which on the key is refused. */
  readonly expires?: number
  /** Cancelled when that secret no longer opens the key: nothing that was begun with it goes on. */
  readonly revocation: Cancellation
}

/** `keyId` is set when the credential is that of a configured key which has expired: for the log, never for the caller. */
export type Authentication =
  | { readonly key: Key; readonly refused?: undefined; readonly keyId?: undefined }
  | { readonly refused: 'missing' | 'invalid'; readonly keyId?: string; readonly key?: undefined }

export interface KeyRing {
  readonly keys: readonly Key[]
  byId(id: string): Key | undefined
  /** What each secret opens, by its SHA-256 digest in hexadecimal. */
  readonly byDigest: ReadonlyMap<string, Key>
  /** Revokes what each of its secrets opens that no longer does: in the ring that follows, or by its date. @returns ids. */
  revoke(next: KeyRing): readonly string[]
  /** Takes `Authorization: Bearer K`, a bare `Authorization: K`, or `x-api-key: K`; two that differ are invalid. */
  authenticate(headers: IncomingHttpHeaders): Authentication
}

export interface KeyRingOptions {
  readonly keys: readonly KeyConfig[]
  /** The clear-text secret of a key that was configured as `generated`. */
  readonly generated: (id: string) => string
  /** The ring it follows: a secret that opens the same key as before is not revoked. */
  readonly before?: KeyRing
  /** @default Date.now */
  readonly now?: () => number
}

const maxSecret = 4096
/** Ways to write an accepted credential that are remembered for each secret; clients have one. */
const spellings = 4

/** Builds the ring once per configuration; keys with equal grants share one policy. */
export function createKeyRing({ keys: configs, generated, before, now = Date.now }: KeyRingOptions): KeyRing {
  const isOver: IsOver = ({ expires }) => expires !== undefined && expires <= now()
  const byDigest = openKeys(configs, generated, before?.byDigest, isOver)
  const keys = new Map([...byDigest.values()].map(key => [key.id, key]))
  // Its own alone: with a new configuration every credential is asked anew.
  const accepted = new AcceptedHeaders<Key>(byDigest.size * spellings)

  function keyOf(headers: IncomingHttpHeaders): Key | 'missing' | 'invalid' {
    const known = accepted.find(headers)
    if (known) return known
    const shown = credentialOf(headers)
    if (shown === undefined) return 'missing'
    if (shown === 'unreadable' || shown.secret.length > maxSecret) return 'invalid'
    const key = byDigest.get(digestOf(shown.secret))
    if (!key) return 'invalid'
    accepted.keep(headers, key)
    return key
  }

  return {
    keys: Object.freeze([...keys.values()]),
    byId: id => keys.get(id),
    byDigest,
    revoke(next) {
      const lost = [...byDigest].filter(([digest, key]) => {
        const holds = next.byDigest.get(digest)?.id === key.id && !isOver(key)
        return !holds && !key.revocation.reason
      })
      for (const [, { revocation }] of lost) revocation.cancel(new SwitchboardError('revoked'))
      return [...new Set(lost.map(([, { id }]) => id))]
    },
    authenticate(headers) {
      const key = keyOf(headers)
      if (typeof key === 'string') return { refused: key }
      if (isOver(key)) return { refused: 'invalid', keyId: key.id }
      return { key }
    }
  }
}

type IsOver = (key: Pick<Key, 'expires'>) => boolean

/**
 * What each secret opens, by its digest. Apart from the ring, whose functions would else hold the ring before for as
 * long as they live, and with it all before that.
 */
function openKeys(
  configs: readonly KeyConfig[],
  generated: KeyRingOptions['generated'],
  before: ReadonlyMap<string, Key> | undefined,
  isOver: IsOver
): ReadonlyMap<string, Key> {
  const policies = new Map<string, Policy>()
  const byDigest = new Map<string, Key>()

  /** The one it had, unless it was revoked by a date that has been put off. */
  function revocationOf(digest: string, key: Omit<Key, 'revocation'>): Cancellation {
    const had = before?.get(digest)
    return had?.id === key.id && (!had.revocation.reason || isOver(key)) ? had.revocation : new Cancellation()
  }

  for (const { id, allow, secrets, expires } of configs) {
    const compiled = compilePolicy(allow)
    const policy = policies.get(compiled.id) ?? compiled
    policies.set(policy.id, policy)
    const facts = { id, policy, ...(expires !== undefined && { expires }) }
    for (const secret of secrets) {
      const digest = secret.kind === 'digest' ? secret.sha256.toLowerCase() : digestOf(generated(id))
      byDigest.set(digest, Object.freeze({ ...facts, revocation: revocationOf(digest, facts) }))
    }
  }
  return byDigest
}

/** A new secret for a key: 256 random bits behind a prefix that secret scanners can recognise. */
export function newSecret(): string {
  return `swb_${randomBytes(32).toString('base64url')}`
}

/** What is stored instead of a secret: its SHA-256 in hexadecimal. */
export function digestOf(secret: string): string {
  return hash('sha256', secret, 'hex')
}

type Credential = { readonly secret: string } | 'unreadable' | undefined

function credentialOf(headers: IncomingHttpHeaders): Credential {
  const authorization = readAuthorization(headers.authorization ?? '')
  const apiKey = readApiKey(headers['x-api-key'] ?? '')
  if (authorization === undefined || apiKey === undefined) return authorization ?? apiKey
  if (authorization === 'unreadable' || apiKey === 'unreadable') return 'unreadable'
  return authorization.secret === apiKey.secret ? apiKey : 'unreadable'
}

function readAuthorization(value: string): Credential {
  const [first = '', second, ...more] = value.trim().split(/[ \t]+/)
  const bearer = first.toLowerCase() === 'bearer'
  if (first === '' || (bearer && second === undefined)) return undefined
  if (second === undefined) return { secret: first }
  return bearer && more.length === 0 ? { secret: second } : 'unreadable'
}

function readApiKey(value: string | string[]): Credential {
  if (Array.isArray(value)) return 'unreadable'
  const secret = value.trim()
  return secret === '' ? undefined : { secret }
}
