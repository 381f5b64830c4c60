/**
 * The GET stream of a 2025 session: what belongs to no request goes there. A client that lost it opens another, or goes
 * on where it was with `Last-Event-ID`, which may also name the stream of one of its calls.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { SwitchboardError } from '../errors.js'
import type { Relay } from '../relay.js'
import { isPrimed } from '../wire/era.js'
import { changeKinds, type ChangeKind } from '../wire/lists.js'
import type { Caller } from './caller.js'
import { EventStream, type StreamTerms } from './event-stream.js'
import type { Resumable } from './exchange.js'
import { changeNotice, type Listeners } from './listeners.js'
import type { LiveState } from './live-state.js'
import { streamOfEvent, type Replays } from './replay.js'
import type { Session } from './sessions.js'

export interface SessionStreams {
  /** Answers a GET. @throws SwitchboardError 405 for a stream that is over and was read to its end. */
  open(session: Session, caller: Caller, req: IncomingMessage, res: ServerResponse): void
  /** How answers to this session are kept, for a client that loses its connection. */
  resumable(session: Session): Resumable
}

export interface SessionStreamsOptions {
  readonly relay: Pick<Relay, 'describe' | 'signature'>
  readonly listeners: Listeners
  readonly held: LiveState
  readonly replays: Replays
  readonly terms: StreamTerms
}

/** Answers of one session that are kept; beyond, the oldest can no longer be resumed. */
const maxKept = 16

export function createSessionStreams({
  relay,
  listeners,
  held,
  replays,
  terms
}: SessionStreamsOptions): SessionStreams {
  /** What gives back the place that the stream of a session takes. */
  const places = new WeakMap<Session, () => void>()

  /** Changes the client has not heard of: it listed before them, or another process may have told it anything. */
  function missed(session: Session, { key, scope }: Caller): readonly ChangeKind[] {
    const { capabilities } = relay.describe(key, scope, 'legacy')
    return changeKinds.filter(change => {
      const listed = session.listed.get(change)
      if (!listed) return session.revived && change in capabilities
      return listed.scope === scope.key && listed.signature !== relay.signature(key, scope, change)
    })
  }

  function resumeCall(session: Session, id: string, res: ServerResponse): boolean {
    const stream = session.streams.get(streamOfEvent(id) ?? '')
    if (!stream) return false
    // Another stream would only make the client ask for the next one: SDKs come back to every stream that just ends.
    if (stream.isOverAfter(id))
      throw new SwitchboardError('method_not_allowed', 'This stream is over, and everything on it was sent.')
    stream.resume(res, id)
    return true
  }

  return {
    open(session, caller, req, res) {
      const { key, scope } = caller
      const { 'last-event-id': given } = req.headers
      const id = typeof given === 'string' ? given : ''
      if (resumeCall(session, id, res)) return
      const named = streamOfEvent(id)
      // Two streams of one session would replace each other for ever: SDKs come back to every one that ends.
      if (named !== undefined && session.stream?.open && session.stream.nonce !== named)
        throw new SwitchboardError(
          'method_not_allowed',
          'Nothing is left of this stream, and the session has one open.'
        )

      const tell = (change: ChangeKind) => session.tell(changeNotice(change))
      const remove = listeners.add({ key, scope, changes: changeKinds, tell })
      // Its old place is given back first: it must not be the one that has to go.
      places.get(session)?.()
      const leave = held.hold(key, () => {
        const { stream } = session
        session.stream = undefined
        stream?.end()
        stream?.forget()
      })
      places.set(session, leave)
      const onClose = () => {
        remove()
        leave()
      }
      const before = session.stream
      if (before && before.nonce === streamOfEvent(id)) {
        before.resume(res, id, onClose)
      } else {
        // Clients reconnect faster than the loss of their old stream is noticed: the new one replaces it.
        const stream = new EventStream(res, terms, {
          replay: replays.create(),
          primed: isPrimed(session.version),
          onClose
        })
        session.stream = stream
        for (const json of [...(before?.unread() ?? []), ...session.untold.splice(0)]) stream.send(json)
        before?.end()
        before?.forget()
      }
      for (const change of missed(session, caller)) tell(change)
    },

    resumable: ({ streams, version }) => ({
      replay: () => replays.create(),
      primed: isPrimed(version),
      onStream(stream) {
        streams.set(stream.nonce as string, stream)
        if (streams.size <= maxKept) return
        // A call that still runs is the last to go: its client may be away because it was told to.
        const kept = [...streams.values()]
        const oldest = kept.find(({ over }) => over) ?? kept[0]
        streams.delete(oldest?.nonce as string)
        oldest?.forget()
      }
    })
  }
}
