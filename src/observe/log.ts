/**
 * The gateway's own log: one JSON line an event on stderr, `event` names it, the other fields are documented in
 * docs/operations.md. Secrets do not reach it by construction: no caller passes headers, arguments or configuration.
 */
import { pino, type Logger } from 'pino'

export type Log = Pick<Logger, 'debug' | 'info' | 'warn' | 'error'>

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent'

/**
 * A log that writes asynchronously to `stream` (default: stderr), so that a slow reader never blocks the loop.
 * @param stream anything with `write(line)`; tests pass an array-backed one.
 */
export function createLog(level: LogLevel, stream?: { write(line: string): void }): Log & { flush(): void } {
  const options = {
    level,
    base: null,
    messageKey: 'message',
    timestamp: createTimestamp(),
    formatters: { level: (label: string) => ({ level: label }) }
  }
  if (stream) return Object.assign(pino(options, stream), { flush() {} })
  const destination = pino.destination({ dest: 2, sync: false, ...batch, maxLength: 8 * 1024 * 1024 })
  const logger = pino(options, destination)
  return Object.assign(logger, { flush: () => destination.flushSync() })
}

/** The time as pino's member of a line; all but its milliseconds is made once a second, because many lines share it. */
function createTimestamp(): () => string {
  let second = NaN
  let text = ''
  return () => {
    const now = Date.now()
    const ms = now % 1000
    if (now - ms !== second) {
      second = now - ms
      text = `,"time":"${new Date(second).toISOString().slice(0, -4)}`
    }
    return `${text}${ms < 10 ? '00' : ms < 100 ? '0' : ''}${ms}Z"`
  }
}

/** Lines are written together: one write a line costs more than the call it tells of. Bytes, and milliseconds at most. */
const batch = { minLength: 8 * 1024, periodicFlush: 100 }
