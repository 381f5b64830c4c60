/**
 * What streams have sent, kept for a while for clients that lose their connection and come back with `Last-Event-ID`
 * (2025-11-25, Resumability and Redelivery). One ring a stream, all of them within one budget; what is no longer there
 * is simply not sent again.
 */
import { randomBytes } from 'node:crypto'

export interface SentEvent {
  readonly id: string
  readonly json: Buffer | string
}

/** The events of one stream. Ids are unique over all streams and say which one they belong to. */
export interface Replay {
  readonly nonce: string
  /** Keeps a message under a new id. */
  push(json: Buffer | string): SentEvent
  /** The kept events after that one, oldest first; `undefined`: all of them. */
  after(id: string | undefined): readonly SentEvent[]
  /** Nothing of it is needed any more. */
  drop(): void
}

export interface Replays {
  create(): Replay
}

/** The stream an event id belongs to; undefined for an id that is none of ours. */
export function streamOfEvent(id: unknown): string | undefined {
  return typeof id === 'string' ? /^([\w-]{12})\.\d{1,15}$/.exec(id)?.[1] : undefined
}

const maxStream = 256 * 1024

/** @param maxBytes of all rings together; beyond, the oldest are emptied. */
export function createReplays(maxBytes: number): Replays {
  const rings = new Map<string, { size: number; events: SentEvent[] }>()
  let total = 0

  function trim(nonce: string): void {
    const own = rings.get(nonce)
    // The newest is kept whatever its size: it may be the answer, and there is nobody to tell that it is lost.
    while (own && own.size > maxStream && own.events.length > 1) shift(own)
    for (const ring of rings.values()) {
      if (total <= maxBytes) return
      while (ring.events.length > (ring === own ? 1 : 0)) shift(ring)
    }
  }

  function shift(ring: { size: number; events: SentEvent[] }): void {
    const size = sizeOf(ring.events.shift())
    ring.size -= size
    total -= size
  }

  return {
    create() {
      const nonce = randomBytes(9).toString('base64url')
      const ring = { size: 0, events: [] as SentEvent[] }
      let next = 1
      let dropped = false
      return {
        nonce,
        push(json) {
          const event = { id: `${nonce}.${next++}`, json }
          if (dropped) return event
          rings.set(nonce, ring)
          ring.events.push(event)
          ring.size += sizeOf(event)
          total += sizeOf(event)
          trim(nonce)
          return event
        },
        after(id) {
          const seen = id === undefined ? 0 : Number(id.slice(nonce.length + 1))
          return ring.events.filter(event => Number(event.id.slice(nonce.length + 1)) > seen)
        },
        drop() {
          dropped = true
          if (!rings.delete(nonce)) return
          total -= ring.size
          ring.size = 0
          ring.events = []
        }
      }
    }
  }
}

const sizeOf = (event: SentEvent | undefined) => (event ? event.json.length + 64 : 0)
