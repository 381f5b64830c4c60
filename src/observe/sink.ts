/**
 * Where log lines go when they leave the process: asynchronous and bounded. A reader that has stopped, a full disk or an
 * error of the device never blocks or ends the gateway: lines wait, up to 8 MiB, later ones are dropped and counted, and
 * when writing works again a line says how many are missing. Pino's own destination throws at a full disk and cannot
 * end while a pipe is stuck.
 */
import { fstatSync, write, writeSync } from 'node:fs'

/** Writes somewhere and says, once, how many of the bytes were taken, or why none was. */
export type Write = (bytes: Buffer, done: (error: Error | null | undefined, written: number) => void) => void

export interface SinkOptions {
  readonly write: Write
  /** The last attempt, at the end of the process: writes some bytes and says how many. It may throw. */
  readonly writeNow?: (bytes: Buffer) => number
  /** The line that says that so many are missing. */
  readonly droppedLine: (lines: number) => string
}

export interface Sink {
  write(line: string): void
  /** Lines that were dropped so far. */
  readonly dropped: number
  /** Resolves when everything is written (true), or after `ms` (false). */
  flush(ms: number): Promise<boolean>
  /** For the last moment of the process. */
  flushNow(): void
}

/** Characters that may wait: some 8 MiB. */
const most = 8 * 1024 * 1024
/** Lines are written together: one write a line costs more than the call it tells of. Characters, and milliseconds at most. */
const batch = { length: 32 * 1024, ms: 100 }
/** A chunk is given to the system at a time, so that of a stuck pipe's backlog only that is out of our hands. */
const chunkLength = 64 * 1024
const retryMs = 1000

export function createSink({ write, writeNow, droppedLine }: SinkOptions): Sink {
  const chunks: string[] = []
  let last = ''
  let length = 0
  let rest: Buffer | undefined
  let busy = false
  let timer: NodeJS.Timeout | undefined
  let dropped = 0
  let untold = 0
  let failed = false
  const waiting = new Set<() => void>()

  const next = (): Buffer | undefined => {
    if (rest) return rest
    if (untold > 0 && length < most / 2) {
      last += droppedLine(untold)
      untold = 0
    }
    let text = chunks.shift()
    if (text === undefined) [text, last] = [last, '']
    return text === '' ? undefined : Buffer.from(text)
  }
  const schedule = (ms: number) => {
    timer ??= setTimeout(() => {
      timer = undefined
      pump()
    }, ms).unref()
  }
  function pump(): void {
    if (busy) return
    clearTimeout(timer)
    timer = undefined
    const bytes = next()
    if (!bytes) {
      for (const done of waiting) done()
      return
    }
    busy = true
    rest = bytes
    write(bytes, (error, written) => {
      busy = false
      failed = Boolean(error)
      if (error) return schedule(retryMs)
      rest = written < bytes.length ? bytes.subarray(written) : undefined
      if (!rest) length = chunks.reduce((all, { length }) => all + length, last.length)
      if (rest || chunks.length > 0 || waiting.size > 0) pump()
      else if (last !== '' || untold > 0) schedule(batch.ms)
    })
  }

  return {
    get dropped() {
      return dropped
    },
    write(line) {
      if (length + line.length > most) {
        dropped++
        untold++
        return
      }
      length += line.length
      last += line
      if (last.length >= chunkLength) {
        chunks.push(last)
        last = ''
      }
      if (busy || failed) return
      if (length >= batch.length) pump()
      else schedule(batch.ms)
    },
    flush(ms) {
      return new Promise(resolve => {
        const end = (all: boolean) => {
          clearTimeout(limit)
          waiting.delete(done)
          resolve(all)
        }
        const done = () => end(true)
        const limit = setTimeout(() => end(false), ms)
        waiting.add(done)
        pump()
      })
    },
    flushNow() {
      if (busy || !writeNow) return
      try {
        for (let bytes = next(); bytes; bytes = next()) {
          rest = undefined
          for (let from = 0; from < bytes.length;) from += writeNow(bytes.subarray(from))
        }
      } catch {
        // There is no later, and nobody left to tell.
      }
    }
  }
}

/**
 * Standard error. A pipe or socket is written by the event loop, because a thread that waits for a stuck reader would
 * keep the process from ending; a file by a thread, because the loop would wait for the disk.
 */
export function createStderrSink(droppedLine: SinkOptions['droppedLine']): Sink {
  const fd = 2
  const kind = fstatSync(fd)
  if (!kind.isFIFO() && !kind.isSocket()) {
    return createSink({
      write: (bytes, done) => write(fd, bytes, (error, written) => done(error, written)),
      writeNow: bytes => writeSync(fd, bytes),
      droppedLine
    })
  }
  // Without a listener the end of the reader would be an uncaught exception; the callback hears of it, too.
  process.stderr.on('error', () => {})
  return createSink({
    write: (bytes, done) => void process.stderr.write(bytes, error => done(error, bytes.length)),
    writeNow: bytes => writeSync(fd, bytes),
    droppedLine
  })
}
