/**
 * Sealed tokens: state we hand to a client and take back unread and unchanged (protocol reference 3.10 and 5.1). A token
 * is `v1.<kid>.<base64url(iv|tag|ciphertext)>`: AES-256-GCM over the JSON payload, the key derived by HKDF-SHA256 from a
 * secret and the purpose, so that a token of one purpose never opens as another. Expiry and whose token it is belong in
 * the payload; checking them is the caller's.
 */

import { createCipheriv, createDecipheriv, createHash, createSecretKey, hkdfSync, randomBytes } from 'node:crypto'
import type { KeyObject } from 'node:crypto'

export interface SealerOptions {
  /** At least one, each of 32 bytes or more. The first seals, all open: rotate by putting the new one first. */
  readonly secrets: readonly Buffer[]
  /** Longest token, in characters, that is made or opened. @default 4096 */
  readonly maxLength?: number
}

export interface Sealer {
  /**
   * The token for a JSON payload.
   *
   * @param purpose a short constant of ours (`sess`, `rs`, …), never text from outside: keys are kept per purpose
   * @throws RangeError when the token would be longer than `maxLength`, since it could never be opened
   */
  seal(purpose: string, payload: unknown): string
  /** The payload of a token sealed for this purpose; undefined for everything else. Never throws. */
  open(purpose: string, token: string): unknown
}

const version = 'v1'
const ivBytes = 12
const tagBytes = 16
const minSecretBytes = 32
const shape = /^v1\.([0-9a-f]{8})\.([A-Za-z0-9_-]+)$/

/** @throws RangeError when there is no secret or one is shorter than 32 bytes */
export function createSealer({ secrets, maxLength = 4096 }: SealerOptions): Sealer {
  const ring = new Map<string, KeyObject>()
  for (const [index, secret] of secrets.entries()) {
    if (secret.length < minSecretBytes) {
      throw new RangeError(`Expected secret ${index} to have at least ${minSecretBytes} bytes, got ${secret.length}`)
    }
    ring.set(kidOf(secret), createSecretKey(secret))
  }
  const [first] = ring
  if (!first) throw new RangeError('Expected at least one secret to seal with')
  const [sealingKid, sealingSecret] = first

  const derived = new Map<string, KeyObject>()
  const keyFor = (kid: string, secret: KeyObject, purpose: string): KeyObject => {
    const name = `${kid}.${purpose}`
    let key = derived.get(name)
    if (!key) {
      key = createSecretKey(Buffer.from(hkdfSync('sha256', secret, '', purpose, 32)))
      derived.set(name, key)
    }
    return key
  }

  return {
    seal(purpose, payload) {
      const iv = randomBytes(ivBytes)
      const cipher = createCipheriv('aes-256-gcm', keyFor(sealingKid, sealingSecret, purpose), iv)
      cipher.setAAD(boundTo(sealingKid, purpose))
      const ciphertext = Buffer.concat([cipher.update(JSON.stringify(payload), 'utf8'), cipher.final()])
      const body = Buffer.concat([iv, cipher.getAuthTag(), ciphertext]).toString('base64url')
      const token = `${version}.${sealingKid}.${body}`
      if (token.length > maxLength) {
        throw new RangeError(`Expected a sealed token of at most ${maxLength} characters, got ${token.length}`)
      }
      return token
    },

    open(purpose, token) {
      if (typeof token !== 'string' || token.length > maxLength) return undefined
      const [, kid, body] = shape.exec(token) ?? []
      const secret = kid && ring.get(kid)
      if (!secret || !body) return undefined
      const sealed = Buffer.from(body, 'base64url')
      // One token has one spelling: unused bits of the last character must be zero.
      if (sealed.length <= ivBytes + tagBytes || sealed.toString('base64url') !== body) return undefined
      try {
        const key = keyFor(kid, secret, purpose)
        const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, ivBytes), { authTagLength: tagBytes })
        decipher.setAAD(boundTo(kid, purpose))
        decipher.setAuthTag(sealed.subarray(ivBytes, ivBytes + tagBytes))
        const text = Buffer.concat([decipher.update(sealed.subarray(ivBytes + tagBytes)), decipher.final()])
        return JSON.parse(text.toString('utf8')) as unknown
      } catch {
        return undefined
      }
    }
  }
}

/** Which secret sealed a token: the first 8 hex digits of its SHA-256, which tell nothing of a random secret. */
function kidOf(secret: Buffer): string {
  return createHash('sha256').update(secret).digest('hex').slice(0, 8)
}

function boundTo(kid: string, purpose: string): Buffer {
  return Buffer.from(`${version}.${kid}.${purpose}`)
}
