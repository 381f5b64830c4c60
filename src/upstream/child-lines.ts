/**
 * What a child writes for people, on stderr or on a stdout that is not the protocol: the last 64 KiB are kept for the
 * moment it dies, and at most 100 lines a second are told, the others only counted. A flood costs a copy and a search
 * for line ends.
 */
export interface ChildLinesOptions {
  /** Values that must not show. */
  readonly secrets: readonly string[]
  readonly onLine?: (line: string) => void
  /** So many lines of the last second were not told. */
  readonly onSkipped?: (lines: number) => void
}

export interface ChildLines {
  push(chunk: Buffer): void
  /** The stream is over: its last line may lack a line end. */
  end(): void
  /** The last lines that say something, oldest first, fit for logs and for people. */
  last(most: number): string[]
}

const keptBytes = 64 * 1024
const maxLine = 2000
const linesPerSecond = 100
const newline = 0x0a
const empty = Buffer.alloc(0)

export function createChildLines({ secrets, onLine, onSkipped }: ChildLinesOptions): ChildLines {
  // A secret of several lines, such as a private key, shows line by line.
  const hidden = secrets.flatMap(secret => secret.split(/\r?\n/)).filter(part => part.trim().length >= 8)
  /** The last bytes as a ring; memory is taken as it fills. */
  let ring: Buffer | undefined
  let written = 0
  /** The beginning of a line whose end has not come. */
  let rest = empty
  let second = 0
  let told = 0
  let skipped = 0
  let timer: NodeJS.Timeout | undefined

  function keep(chunk: Buffer): void {
    ring ??= Buffer.allocUnsafeSlow(keptBytes)
    const tail = chunk.subarray(-keptBytes)
    written += chunk.length - tail.length
    const at = written % keptBytes
    const fits = tail.copy(ring, at)
    tail.copy(ring, 0, fits)
    written += tail.length
  }

  function tellSkipped(): void {
    clearTimeout(timer)
    timer = undefined
    if (skipped > 0) onSkipped?.(skipped)
    skipped = 0
  }

  function take(part: Buffer): void {
    const line = rest.length === 0 ? part : Buffer.concat([rest, part.subarray(0, maxLine)])
    rest = empty
    if (line.length === 0) return
    if (told === linesPerSecond) {
      skipped++
      timer ??= setTimeout(tellSkipped, 1000).unref()
      return
    }
    told++
    const text = printable(line.toString('utf8', 0, maxLine), hidden)
    if (text !== '') onLine?.(text)
  }

  return {
    push(chunk) {
      keep(chunk)
      const now = performance.now()
      if (now - second >= 1000) {
        second = now
        told = 0
      }
      let start = 0
      for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
        take(chunk.subarray(start, end))
        start = end + 1
      }
      const begun = chunk.subarray(start, start + maxLine - rest.length)
      if (begun.length > 0) rest = Buffer.concat([rest, begun])
    },
    end() {
      take(empty)
      tellSkipped()
    },
    last(most) {
      if (!ring) return []
      const at = written % keptBytes
      const wrapped = written > keptBytes
      const bytes = wrapped ? Buffer.concat([ring.subarray(at), ring.subarray(0, at)]) : ring.subarray(0, written)
      // Of the first line only a part may be left, in which a secret would not be recognised.
      const from = wrapped ? bytes.indexOf(newline) + 1 || keptBytes : 0
      const lines = bytes.toString('utf8', from).split('\n')
      return lines.flatMap(line => printable(line.slice(0, maxLine), hidden) || []).slice(-most)
    }
  }
}

/* eslint-disable no-control-regex -- control characters are what these look for */
const ansiSequence = /\u001b\[[0-9;]*[A-Za-z]/g
const unprintable = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g
/* eslint-enable no-control-regex */

/** A line fit for logs and for people: no control characters, no configured secret, not endless. */
function printable(line: string, hidden: readonly string[]): string {
  let text = line.replace(ansiSequence, '')
  for (const part of hidden) text = text.replaceAll(part, '[redacted]')
  text = text.replace(unprintable, ' ')
  return text.trim().slice(0, 500)
}
