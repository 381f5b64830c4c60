/**
 * Strings that stand nowhere but in secrets: keys, values of variables, headers, arguments. Whatever is said to anybody
 * is searched for them: log, metrics, health, every byte a client receives from the gateway.
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { randomBytes } from 'node:crypto'

export interface Canaries {
  /** A secret nobody may ever read again; long enough for a key. */
  readonly make: (what: string) => string
  /** Takes note of something said, in pieces as they come. @param from pieces of the same origin belong together. */
  readonly hear: (text: string, from?: object) => void
  /** What was found: the secret's kind, and what stood before it. */
  readonly found: readonly string[]
  readonly heardBytes: number
  readonly close: () => void
}

/** @param origin of the gateway: everything undici receives from there is searched, whoever asked for it. */
export function openCanaries(origin: () => string | undefined): Canaries {
  const secrets = new Map<string, string>()
  const tails = new WeakMap<object, string>()
  const found: string[] = []
  let heardBytes = 0

  const hear = (piece: string, from?: object) => {
    heardBytes += piece.length
    const text = (from ? (tails.get(from) ?? '') : '') + piece
    for (const [secret, what] of secrets) {
      const at = text.indexOf(secret)
      if (at >= 0) found.push(`${what}, after: ${text.slice(Math.max(0, at - 120), at)}`)
    }
    if (from) tails.set(from, text.slice(-tail))
  }
  const onChunk = (message: unknown) => {
    const { request, chunk } = message as { request: { origin: string | URL }; chunk: Buffer }
    if (String(request.origin).replace(/\/$/, '') === origin()) hear(chunk.toString('latin1'), request)
  }
  subscribe(received, onChunk)
  return {
    make(what) {
      const secret = `canary${randomBytes(24).toString('hex')}`
      secrets.set(secret, what)
      return secret
    },
    hear,
    found,
    get heardBytes() {
      return heardBytes
    },
    close: () => void unsubscribe(received, onChunk)
  }
}

const received = 'undici:request:bodyChunkReceived'
/** One less than a secret has: enough to find one that came in two pieces, too little to find it twice. */
const tail = 53
