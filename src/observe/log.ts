/**
 * The gateway's own log: one JSON line an event on stderr, `event` names it, the other fields are documented in
 * docs/operations.md. Secrets do not reach it by construction: no caller passes headers, arguments or configuration.
 */
import { pino, type Logger } from 'pino'
import { createStderrSink } from './sink.js'

export type Log = Pick<Logger, 'debug' | 'info' | 'warn' | 'error'> & {
  /** Lines that could not be written and were given up. */
  readonly dropped?: () => number
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent'

export interface WrittenLog extends Log {
  /** Resolves when all lines are written (true), or after `ms` (false). */
  flush(ms: number): Promise<boolean>
  /** For the last moment of the process. */
  flushNow(): void
}

/**
 * A log that writes to `stream` (default: stderr, asynchronously: see `sink.ts`).
 * @param stream anything with `write(line)`; tests pass an array-backed one.
 */
export function createLog(level: LogLevel, stream?: { write(line: string): void }): WrittenLog {
  const time = createTimestamp()
  const options = {
    level,
    base: null,
    messageKey: 'message',
    timestamp: time,
    formatters: { level: (label: string) => ({ level: label }) }
  }
  if (stream) return Object.assign(pino(options, stream), { flush: () => Promise.resolve(true), flushNow() {} })
  const sink = createStderrSink(lines => `{"level":"warn"${time()},"event":"log.dropped","lines":${lines}}\n`)
  return Object.assign(pino(options, sink), {
    dropped: () => sink.dropped,
    flush: (ms: number) => sink.flush(ms),
    flushNow: () => sink.flushNow()
  })
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
