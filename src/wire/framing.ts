/**
 * Newline-delimited JSON as stdio carries it (MCP, Transports: stdio): bytes in, whole lines out. Works on bytes, so a
 * chunk border inside a UTF-8 character does no harm; what a line means is for the reader to decide. Every byte is
 * copied at most twice however it arrives, and a line beyond the limit never holds more memory than the limit.
 */

export interface LineSplitterOptions {
  /** Longest line in bytes, its newline not counted. @default 33554432 (32 MiB) */
  readonly maxBytes?: number
  /** A line that is not blank, without its newline or a carriage return before it. It may share memory with the chunk. */
  readonly onLine: (line: Buffer) => void
  /** So many bytes were blank lines, which are skipped: a stream of nothing else would go unnoticed. */
  readonly onBlank?: (bytes: number) => void
  /** A line passed `maxBytes` and is dropped whole: told once, at that moment, with its bytes so far. */
  readonly onOversize: (bytes: number) => void
}

export interface LineSplitter {
  /** Takes the next bytes and emits every line they complete, in order, before it returns. */
  push(chunk: Buffer): void
  /** The stream is over: a last line without a newline is emitted too. */
  end(): void
  /** Bytes of all lines dropped so far for their length, the current one included. */
  readonly droppedBytes: number
}

const newline = 0x0a
const carriageReturn = 0x0d
const space = 0x20
const tab = 0x09

/** A child that writes byte by byte must not cost a Buffer object a byte: pieces are joined when this many wait. */
const piecesPerRun = 256

/** Splits a byte stream into lines. One splitter a stream; it owns nothing that needs closing. */
export function createLineSplitter(options: LineSplitterOptions): LineSplitter {
  const { maxBytes = 32 * 1024 * 1024, onLine, onBlank, onOversize } = options
  // The unfinished line: joined runs, then the pieces after them. Both are empty while it is being dropped.
  let runs: Buffer[] = []
  let pieces: Buffer[] = []
  /** Bytes of the unfinished line, dropped ones included. */
  let size = 0
  let droppedBytes = 0
  /** Bytes of blank lines that have not been told yet. */
  let blankBytes = 0

  /** Counts bytes of the current line; false once it is too long, and its memory is let go. */
  function fits(bytes: number): boolean {
    const tooLongBefore = size > maxBytes
    size += bytes
    if (size <= maxBytes) return true
    droppedBytes += tooLongBefore ? bytes : size
    if (!tooLongBefore) {
      runs = []
      pieces = []
      onOversize(size)
    }
    return false
  }

  function hold(piece: Buffer): void {
    pieces.push(piece)
    if (pieces.length < piecesPerRun) return
    runs.push(Buffer.concat(pieces))
    pieces = []
  }

  function finish(last: Buffer): void {
    const fitting = fits(last.length)
    const whole = pieces.length === 0 && runs.length === 0 ? last : Buffer.concat([...runs, ...pieces, last])
    runs = []
    pieces = []
    size = 0
    const line = whole.at(-1) === carriageReturn ? whole.subarray(0, -1) : whole
    if (!fitting) return
    if (isBlank(line)) blankBytes += whole.length + 1
    else onLine(line)
  }

  return {
    push(chunk) {
      let start = 0
      for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
        if (end > start || size > 0) finish(chunk.subarray(start, end))
        else blankBytes++
        start = end + 1
        // Line ends in a row cost a look each, not a search: a chunk may hold 65,536 of them.
        for (; chunk[start] === newline; start++) blankBytes++
      }
      if (blankBytes > 0) onBlank?.(blankBytes)
      blankBytes = 0
      const rest = chunk.subarray(start)
      if (rest.length > 0 && fits(rest.length)) hold(rest)
    },
    end: () => finish(Buffer.alloc(0)),
    get droppedBytes() {
      return droppedBytes
    }
  }
}

function isBlank(line: Buffer): boolean {
  for (const byte of line) {
    if (byte !== space && byte !== tab && byte !== carriageReturn) return false
  }
  return true
}
