/**
 * What a caller that gave a progress token hears of its call: the server's own progress under the caller's token, with
 * values that rise as the specification demands (2025-11-25, Progress), and after a silence a sign that the call is
 * still waited for, because several clients give up on a silent one.
 */
import type { ProgressToken, RpcNotification } from './json-rpc.js'

export interface ProgressOptions {
  readonly token: ProgressToken
  readonly send: (notification: RpcNotification) => void
  /** The text of a heartbeat, told after so many milliseconds without a word of the server. */
  readonly describe: (silentMs: number) => string
  /** @default 20000 */
  readonly everyMs?: number
}

export interface Progress {
  /** Takes a notification of the server; others than progress are ignored. */
  readonly heard: (notification: RpcNotification) => void
  /** The call is over. */
  stop(): void
}

/** The next value for one that would not rise by itself: a millionth more, or the next number where that is lost. */
function raised(value: number): number {
  return Math.min(value + Math.max(1e-6, Math.abs(value) * Number.EPSILON * 2), Number.MAX_VALUE)
}

export function createProgress({ token, send, describe, everyMs = 20_000 }: ProgressOptions): Progress {
  let last: number | undefined
  let total: unknown
  let lastHeard = performance.now()
  let timer = setTimeout(beat, everyMs)

  function beat(): void {
    const silentMs = performance.now() - lastHeard
    // Timers may fire up to a millisecond early.
    if (silentMs + 1 >= everyMs) tell({ message: describe(silentMs) }, last === undefined ? 0 : raised(last))
    const untilNext = silentMs + 1 >= everyMs ? everyMs : everyMs - silentMs
    timer = setTimeout(beat, untilNext)
  }

  function tell(params: Record<string, unknown>, progress: number): void {
    last = progress
    send({
      jsonrpc: '2.0',
      method: 'notifications/progress',
      params: { ...params, progressToken: token, progress, ...(total !== undefined && { total }) }
    })
  }

  return {
    heard({ method, params }) {
      if (method !== 'notifications/progress') return
      lastHeard = performance.now()
      const given = Number(params?.progress)
      if (Number.isNaN(given)) return
      if (params?.total !== undefined) total = params.total
      const rises = Number.isFinite(given) && (last === undefined || given > last)
      tell(params ?? {}, rises ? given : last === undefined ? 0 : raised(last))
    },
    stop: () => clearTimeout(timer)
  }
}
