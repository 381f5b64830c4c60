/**
 * One child process that serves an upstream: started without a shell in a process group of its own, watched by `exit`
 * (not `close`: a grandchild may hold stdout for ever), ended with its whole group. Its environment is a minimal one
 * plus what servers.yaml gives it, never the gateway's.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createChildLines } from './child-lines.js'
import { markVariable, type Orphans } from './orphans.js'

export interface ChildOptions {
  /** The id of the server it serves. */
  readonly server: string
  readonly command: string
  readonly args: readonly string[]
  readonly cwd: string
  readonly env: Readonly<Record<string, string>>
  /** Values that must not show in what it writes on stderr. */
  readonly secrets: readonly string[]
  /** Whether the child talks MCP on stdin/stdout; it then may end by itself once stdin ends. */
  readonly speaks: boolean
  readonly onStdout?: (chunk: Buffer) => void
  /** One line the child wrote on stderr (or on a stdout that is not the protocol); a flood of them is cut. */
  readonly onLine?: (line: string) => void
  /** So many lines were cut from it. */
  readonly onSkipped?: (lines: number) => void
  /** Called once, with a sentence without a full stop, when the child could not be started or is gone. */
  readonly onExit: (reason: string) => void
  /** Sees to it that nothing of it outlives us, nor leaves its group and stays. */
  readonly orphans?: Orphans
}

export interface Child {
  readonly pid: number | undefined
  /** Bytes written to stdin that the child has not taken yet. */
  readonly backlog: number
  /** Writes to stdin. Writing to a child that is gone is harmless. */
  write(text: string): void
  /** Its stdout is read no further: what it writes there can do no more harm. */
  ignore(): void
  /** The last lines the child wrote on stderr (or on a stdout that is not the protocol), oldest first. */
  lastLines(): readonly string[]
  /** Ends stdin, then TERM, then KILL to the group; resolves when the group is gone. Never rejects. */
  stop(): Promise<void>
}

const graceful = { stdinMs: 2000, termMs: 3000 }
/** What a dead process leaves behind has nobody to serve: it gets less time, and the restart waits for it. */
const orphanTermMs = 500
/** How long stdout may still deliver what was in the pipe when the child exited. */
const flushMs = 100
const keptLines = 20

/** Starts the child. A child that cannot be started is reported through `onExit`, never thrown. */
export function startChild(options: ChildOptions): Child {
  const { server, command, args, cwd, env, speaks, orphans } = options
  let gone = false
  let stopping: Promise<void> | undefined

  const mark = orphans?.mark(server)
  const environment: Record<string, string> = { ...inheritedEnvironment(), ...env }
  if (mark !== undefined) environment[markVariable] = mark
  const program = { command, args }
  const tied = orphans?.tie(program, { cwd, path: environment.PATH }) ?? program
  const child: ChildProcess = spawn(tied.command, [...tied.args], {
    cwd,
    env: environment,
    detached: process.platform !== 'win32',
    windowsHide: true,
    stdio: ['pipe', 'pipe', 'pipe']
  })

  // Missing where the system had no descriptors left for them; `error` follows.
  const { stdin, stdout, stderr } = child
  if (mark !== undefined && child.pid !== undefined) orphans?.note(mark, child.pid)

  const exited = new Promise<void>(resolve => {
    child.once('exit', () => resolve())
    child.once('error', () => child.pid === undefined && resolve())
  })

  const errors = createChildLines(options)
  const words = createChildLines(options)
  const lastLines = () => [errors, words].map(lines => lines.last(keptLines)).find(lines => lines.length > 0) ?? []
  const lastWords = () => {
    const line = lastLines().at(-1)
    return line === undefined ? '' : `; its last words: ${line}`
  }
  /** What is left of the group, then what has left the group. */
  const end = async (termMs: number) => {
    await endGroup(child, exited, termMs, orphans)
    if (mark !== undefined) await orphans?.forget(mark)
  }
  const report = (reason: string) => {
    if (gone) return
    gone = true
    options.onExit(reason)
  }

  child.once('error', error => report(startFailure(error, command, cwd)))
  child.once('exit', (code, signal) => {
    const how = signal ? `its process was ended by ${signal}` : `its process exited with code ${code}`
    const flushed = setTimeout(settle, flushMs)
    const open = [stdout, stderr].flatMap(stream => (stream && !stream.closed ? stream : []))
    let left = open.length
    for (const stream of open) stream.once('close', () => --left === 0 && settle())
    if (left === 0) settle()
    function settle() {
      clearTimeout(flushed)
      report(how + lastWords())
      // A wrapper (npx, sh -c) may be dead while its server lives on, holding our pipes: the group goes as one.
      stopping ??= end(orphanTermMs)
      stdout?.destroy()
      stderr?.destroy()
    }
  })

  // Without listeners an EPIPE of one child would be an uncaught exception of the gateway.
  stdin?.on('error', () => {})
  stdout?.on('error', () => {})
  stderr?.on('error', () => {})
  stdout?.on('data', options.onStdout ?? (chunk => words.push(chunk as Buffer)))
  stderr?.on('data', (chunk: Buffer) => errors.push(chunk))
  stdout?.once('close', () => words.end())
  stderr?.once('close', () => errors.end())

  return {
    get pid() {
      return child.pid
    },
    get backlog() {
      return stdin?.writableLength ?? 0
    },
    write(text) {
      if (gone || !stdin?.writable) return
      if (stdin.writableCorked === 0) {
        stdin.cork()
        // What is sent in one turn of the event loop is one write: see docs/decisions.md.
        setImmediate(() => stdin.uncork())
      }
      // What waits is kept as bytes, so that the backlog counts those.
      stdin.write(stdin.writableLength > 0 ? Buffer.from(text) : text)
    },
    ignore: () => void stdout?.destroy(),
    lastLines,
    stop() {
      gone = true
      stopping ??= (async () => {
        if (child.pid === undefined) return
        stdin?.end()
        if (speaks) await within(exited, graceful.stdinMs)
        await end(graceful.termMs)
      })()
      return stopping
    }
  }
}

async function endGroup(child: ChildProcess, exited: Promise<void>, termMs: number, orphans?: Orphans): Promise<void> {
  const { pid } = child
  if (pid === undefined || !signalGroup(child, 'SIGTERM')) return
  const deadline = performance.now() + termMs
  await within(exited, termMs)
  for (let pause = 10; performance.now() < deadline && signalGroup(child, 0); pause = Math.min(pause * 2, 200)) {
    if (orphans && !(await orphans.inhabited(pid))) return
    await sleep(pause)
  }
  signalGroup(child, 'SIGKILL')
  await within(exited, 1000)
}

/** False when nobody is left in the group. */
function signalGroup(child: ChildProcess, signal: NodeJS.Signals | 0): boolean {
  if (child.pid === undefined) return false
  try {
    if (process.platform === 'win32') return child.kill(signal)
    return process.kill(-child.pid, signal)
  } catch {
    return false
  }
}

const sleep = (ms: number) => new Promise<void>(resolve => setTimeout(resolve, ms))

function within(done: Promise<void>, ms: number): Promise<void> {
  return new Promise(resolve => {
    const timer = setTimeout(resolve, ms)
    void done.then(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}

function startFailure(error: NodeJS.ErrnoException, command: string, cwd: string): string {
  if (error.code === 'ENOENT' && !existsSync(cwd)) return `its working directory ${cwd} does not exist`
  if (error.code === 'ENOENT')
    return `its command "${command}" was not found; install it or correct "command" in servers.yaml`
  if (error.code === 'EACCES') return `its command "${command}" may not be executed (permission denied)`
  return `its command "${command}" could not be started (${error.code ?? error.message})`
}

/** What every child may know of the host: where programs and its home are, nothing else. */
function inheritedEnvironment(): Record<string, string> {
  const names =
    process.platform === 'win32'
      ? [
          'APPDATA',
          'HOMEDRIVE',
          'HOMEPATH',
          'LOCALAPPDATA',
          'PATH',
          'PATHEXT',
          'PROCESSOR_ARCHITECTURE',
          'SYSTEMDRIVE',
          'SYSTEMROOT',
          'TEMP',
          'USERNAME',
          'USERPROFILE'
        ]
      : ['HOME', 'LANG', 'LOGNAME', 'PATH', 'SHELL', 'TERM', 'TMPDIR', 'TZ', 'USER']
  const kept: Record<string, string> = {}
  for (const name of names) {
    const value = process.env[name]
    // A value that begins with "()" is an exported shell function: never hand one on.
    if (value !== undefined && !value.startsWith('()')) kept[name] = value
  }
  return kept
}
