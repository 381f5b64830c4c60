/** What every command gets and gives: words in, text out, an exit code. */

export interface CommandContext {
  /** Path of servers.yaml. */
  readonly config: string
  /** Path of the state directory, if given on the command line. */
  readonly state: string | undefined
  readonly env: Readonly<Record<string, string | undefined>>
  /** Writes to standard output, a line break added. */
  out(text: string): void
  /** Writes to standard error, a line break added. */
  err(text: string): void
}

/** 0 ok · 1 a server or the port failed · 2 configuration or usage. */
export type ExitCode = 0 | 1 | 2
