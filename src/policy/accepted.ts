/**
 * Credentials that were accepted before, so that the secret in them is not hashed again for every request: between other
 * work SHA-256 costs far more than alone, an eighth of a call.
 *
 * They are found by two numbers made of the header and of seeds of this process. Clear text is compared only when both
 * numbers are those of an accepted header, which for any other header is a chance of one in 2^63: nobody can have a guess
 * compared with a secret, let alone byte by byte. The numbers protect nothing else and are never shown.
 */
import { randomFillSync } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'

interface Accepted<T> {
  readonly check: number
  readonly authorization: string | undefined
  readonly apiKey: string | string[] | undefined
  readonly value: T
}

/** Longer headers are hashed each time. */
const longest = 512

export class AcceptedHeaders<T> {
  readonly #seeds = randomFillSync(new Uint32Array(2))
  readonly #byNumber = new Map<number, Accepted<T>>()
  readonly #most: number
  #check = 0

  /** @param most how many are remembered; then it begins anew. */
  constructor(most: number) {
    this.#most = most
  }

  /** What these very headers were accepted as. */
  find({ authorization, 'x-api-key': apiKey }: IncomingHttpHeaders): T | undefined {
    const number = this.#numberOf(authorization, apiKey)
    if (number === undefined) return undefined
    const known = this.#byNumber.get(number)
    if (known?.check !== this.#check) return undefined
    return known.authorization === authorization && known.apiKey === apiKey ? known.value : undefined
  }

  keep({ authorization, 'x-api-key': apiKey }: IncomingHttpHeaders, value: T): void {
    const number = this.#numberOf(authorization, apiKey)
    if (number === undefined) return
    if (this.#byNumber.size >= this.#most) this.#byNumber.clear()
    this.#byNumber.set(number, { check: this.#check, authorization, apiKey, value })
  }

  /** One number, the other being left in `#check`; undefined for headers that are not remembered. */
  #numberOf(authorization: string | undefined, apiKey: string | string[] | undefined): number | undefined {
    const text = authorization === undefined ? apiKey : apiKey === undefined ? authorization : undefined
    if (typeof text !== 'string' || text.length > longest) return undefined
    let one = this.#seeds[0] as number
    let other = this.#seeds[1] as number
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i)
      one = Math.imul(one ^ code, 0x9e3779b1)
      other = Math.imul(other ^ code, 0x85ebca6b)
      one ^= one >>> 15
      other ^= other >>> 13
    }
    this.#check = other
    return one >>> 1
  }
}
