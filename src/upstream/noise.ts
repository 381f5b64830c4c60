/**
 * What a server says besides what it was asked. A stdio server's stdout besides messages: skipped and told now and then,
 * until it is too much; then it is ended and started again with back-off. An HTTP response's messages besides its answer:
 * passed on, until they are too much; then it is ended. More than that would cost the others their time.
 */

/** Within one minute; a server that stays below it in every minute is never ended. */
const budget = { lines: 10_000, bytes: 10 * 1024 * 1024, ms: 60_000 }
const tellEveryMs = 10_000

export interface NoiseBudget {
  /** Takes note of so many lines and bytes; the reason, without a full stop, once there were too many. */
  spend(lines: number, bytes: number): string | undefined
}

/** Counts minute by minute. @param now a clock in milliseconds. */
export function createNoiseBudget(now: () => number = () => performance.now()): NoiseBudget {
  let begun = -Infinity
  let sum = { lines: 0, bytes: 0 }
  return {
    spend(lines, bytes) {
      if (now() - begun > budget.ms) {
        begun = now()
        sum = { lines: 0, bytes: 0 }
      }
      sum.lines += lines
      sum.bytes += bytes
      const much = sum.lines > budget.lines ? `${budget.lines} lines` : sum.bytes > budget.bytes ? '10 MiB' : undefined
      if (much === undefined) return undefined
      return `within a minute it wrote more than ${much} on stdout that are no MCP message; a stdio server must log to stderr`
    }
  }
}

/** Beside the answer of one HTTP response, within one minute; each message counts for some bytes more than it has. */
const besideAnswer = { bytes: 64 * 1024 * 1024, each: 64, ms: 60_000 }

/** Counts what one HTTP response brings beside its answer, minute by minute. */
export class Aside {
  #begun = -Infinity
  #bytes = 0

  /** Takes note of a message of so many bytes; the reason, without a full stop, once there were too many. */
  spend(bytes: number): string | undefined {
    const now = performance.now()
    if (now - this.#begun > besideAnswer.ms) {
      this.#begun = now
      this.#bytes = 0
    }
    this.#bytes += bytes + besideAnswer.each
    return this.#bytes > besideAnswer.bytes
      ? 'within a minute it sent more than 64 MiB of messages beside its answer'
      : undefined
  }
}

export interface NoiseLog {
  line(bytes: number): void
  /** Tells what has not been told yet. */
  close(): void
}

/** Tells the first line at once, and what follows at most every 10 s, summed up. */
export function createNoiseLog(tell: (lines: number, bytes: number) => void): NoiseLog {
  let lines = 0
  let bytes = 0
  let timer: NodeJS.Timeout | undefined
  let closed = false
  const flush = () => {
    timer = undefined
    if (lines === 0) return
    tell(lines, bytes)
    lines = bytes = 0
    if (!closed) timer = setTimeout(flush, tellEveryMs).unref()
  }
  return {
    line(size) {
      if (closed) return
      lines++
      bytes += size
      if (!timer) flush()
    },
    close() {
      closed = true
      clearTimeout(timer)
      flush()
    }
  }
}
