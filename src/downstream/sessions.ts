/**
 * Sessions of the 2025 era. The id is the session: a sealed token that holds who opened it and with what, so that it
 * outlives the process and costs nothing while idle. What is kept in memory besides is only what is alive: requests in
 * flight and the stream; it can be forgotten and revived at any time.
 *
 * Invariant: a session is found only by the key that opened it; every other id is equally unknown.
 */
import { randomBytes } from 'node:crypto'
import { isObject, type Json } from '../wire/json-rpc.js'
import type { ClientFacts } from '../wire/leg.js'
import type { ChangeKind } from '../wire/lists.js'
import type { Sealer } from '../wire/sealing.js'
import { Running } from '../wire/slots.js'
import type { EventStream } from './event-stream.js'
import { unsubscribeAll, type Conversation, type InFlight } from './legacy.js'

export interface Session extends Conversation {
  readonly id: string
  readonly nonce: string
  readonly keyId: string
  readonly version: string
  readonly client: ClientFacts
  readonly inFlight: InFlight
  /** Unpacked from its token in this process rather than opened here: the client may have missed changes. */
  readonly revived: boolean
  stream: EventStream | undefined
  /** Messages for a stream the client has yet to open. */
  readonly untold: string[]
  /** Answers that became streams, by their nonce, for a client that loses its connection. */
  readonly streams: Map<string, EventStream>
  /** What the client was last shown of each kind of list: whether it missed a change while it had no stream. */
  readonly listed: Map<ChangeKind, { readonly scope: string; readonly signature: string }>
  lastUsed: number
}

export interface SessionsOptions {
  readonly sealer: Sealer
  /** @default Date.now */
  readonly now?: () => number
}

export interface Sessions {
  open(keyId: string, version: string, client: ClientFacts): Session
  /** The session of that id if this key opened it and it has neither expired nor been ended. */
  find(id: string, keyId: string): Session | undefined
  end(session: Session): void
  /** The log levels their clients have set. */
  levels(): Iterable<string>
  /** Ends everything a key has in memory; its ids stay as valid as the key. */
  forgetKey(keyId: string): void
  /** How many have something alive or recently used in memory. */
  readonly size: number
  close(): void
}

const validMs = 30 * 24 * 3600 * 1000
/** Memory of a session without stream and requests is given back after this long; its id stays valid. */
const idleMs = 5 * 60 * 1000
const maxIdle = 2000
const maxUntold = 64
const maxRevoked = 100_000
/** Sealed and in base64 this stays under 2 KiB: proxies cut longer headers. What does not fit is known until idle. */
const maxPayload = 1400

export function createSessions({ sealer, now = Date.now }: SessionsOptions): Sessions {
  const live = new Map<string, Session>()
  const ended = new Map<string, number>()

  const sweep = setInterval(() => {
    const at = now()
    for (const session of live.values()) {
      for (const [nonce, stream] of session.streams) {
        if (stream.overFor(performance.now()) < idleMs) continue
        session.streams.delete(nonce)
        stream.forget()
      }
      if (at - session.lastUsed >= idleMs && isIdle(session)) forget(session)
    }
    for (const [nonce, until] of ended) if (until < at) ended.delete(nonce)
  }, 30_000)
  sweep.unref()

  function keep(facts: Pick<Session, 'id' | 'nonce' | 'keyId' | 'version' | 'client' | 'revived'>): Session {
    const session: Session = {
      ...facts,
      inFlight: new Running(),
      stream: undefined,
      streams: new Map(),
      listed: new Map(),
      logLevel: undefined,
      subscriptions: new Map(),
      lastUsed: now(),
      untold: [],
      tell(notification) {
        const json = JSON.stringify(notification)
        if (session.stream) session.stream.send(json)
        else if (session.untold.length < maxUntold) session.untold.push(json)
      }
    }
    if (live.size >= maxIdle) {
      for (const old of live.values()) {
        if (!isIdle(old)) continue
        forget(old)
        break
      }
    }
    live.set(session.id, session)
    return session
  }

  function forget(session: Session): void {
    live.delete(session.id)
    unsubscribeAll(session)
    for (const stream of session.streams.values()) stream.forget()
    session.stream?.forget()
  }

  return {
    open(keyId, version, client) {
      const nonce = randomBytes(12).toString('base64url')
      const { capabilities, clientInfo } = client
      const payload = { j: nonce, k: keyId, v: version, t: now(), c: capabilities, i: briefly(clientInfo) }
      const whole = JSON.stringify(payload).length < maxPayload
      const id = sealer.seal('sess', whole ? payload : { ...payload, c: {}, i: undefined })
      return keep({ id, nonce, keyId, version, client, revived: false })
    },

    find(id, keyId) {
      const known = live.get(id)
      if (known) {
        if (known.keyId !== keyId) return undefined
        known.lastUsed = now()
        return known
      }
      const payload = sealer.open('sess', id)
      if (!isObject(payload)) return undefined
      const { j: nonce, k, v: version, t: opened, c, i } = payload
      if (typeof nonce !== 'string' || typeof version !== 'string' || typeof opened !== 'number') return undefined
      if (k !== keyId || ended.has(nonce) || now() - opened > validMs) return undefined
      const client = { capabilities: isObject(c) ? c : {}, ...(isObject(i) && { clientInfo: i }) }
      return keep({ id, nonce, keyId, version, client, revived: true })
    },

    end(session) {
      forget(session)
      if (ended.size >= maxRevoked) ended.delete(ended.keys().next().value as string)
      ended.set(session.nonce, now() + validMs)
      for (const [, exchange] of [...session.inFlight]) exchange.cancel('the session was ended by its client')
      session.stream?.end()
    },

    forgetKey(keyId) {
      for (const session of [...live.values()]) {
        if (session.keyId !== keyId) continue
        session.stream?.end()
        forget(session)
      }
    },

    *levels() {
      for (const { logLevel } of live.values()) if (logLevel !== undefined) yield logLevel
    },
    get size() {
      return live.size
    },
    close() {
      clearInterval(sweep)
      for (const { stream } of live.values()) stream?.end()
    }
  }
}

const isIdle = ({ inFlight, stream, streams }: Session) => inFlight.size === 0 && streams.size === 0 && !stream?.open

function briefly(clientInfo: Json | undefined): Json | undefined {
  if (!clientInfo) return undefined
  const { name, version } = clientInfo
  const short = (value: unknown) => (typeof value === 'string' ? value.slice(0, 128) : undefined)
  return { name: short(name), version: short(version) }
}
