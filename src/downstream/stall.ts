/**
 * Clients that do not read. What waits for them costs memory, so whoever takes nothing of it for a while is cut off, be it
 * a stream or one large answer. The call behind goes the way of every lost connection: modern ones are cancelled, legacy
 * ones go on for a client that comes back.
 */
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Log } from '../observe/log.js'

/** Ends the connection of a client that does not read. @param seconds for how long it has taken nothing. */
export type CutOff = (res: ServerResponse, seconds?: number) => void

export function createCutOff(log: Log): CutOff {
  return (res, seconds) => {
    log.info({
      event: 'stream.slow_consumer',
      remote: res.req.socket.remoteAddress,
      path: res.req.url?.replace(/\?.*$/s, ''),
      waiting: res.writableLength,
      ...(seconds !== undefined && { seconds: Math.round(seconds) })
    })
    res.destroy()
  }
}

export interface StallWatchOptions {
  /** The responses that are not finished. */
  readonly open: Iterable<ServerResponse>
  readonly stallMs: number
  readonly cutOff: CutOff
}

/** How far a connection had come when it was last seen to move. */
interface Progress {
  readonly taken: number
  readonly queued: number | undefined
  readonly at: number
}

/** Looks at all of them now and then: nothing is to be done for an answer that is taken as it comes. */
export function createStallWatch({ open, stallMs, cutOff }: StallWatchOptions): { close(): void } {
  const seen = new WeakMap<ServerResponse, Progress>()

  function look(): void {
    const now = performance.now()
    for (const res of open) {
      // Without a socket it waits behind another response on the same connection.
      const { socket, writableLength } = res
      if (!socket || res.destroyed) continue
      if (writableLength === 0) {
        seen.delete(res)
        continue
      }
      const taken = socket.bytesWritten - socket.writableLength
      const queued = queuedOf(socket)
      const before = seen.get(res)
      if (!before || before.taken !== taken || before.queued !== queued) seen.set(res, { taken, queued, at: now })
      else if (now - before.at >= stallMs) cutOff(res, (now - before.at) / 1000)
    }
  }

  const timer = setInterval(look, stallMs / 10)
  timer.unref()
  return { close: () => clearInterval(timer) }
}

/**
 * What is left of the write under way: only this tells that a slow client still takes some of one large answer. Node's own
 * socket timeout looks at the same member (`net`, `_onTimeout`).
 */
function queuedOf(socket: Socket): number | undefined {
  return (socket as unknown as { _handle?: { writeQueueSize?: number } })._handle?.writeQueueSize
}
