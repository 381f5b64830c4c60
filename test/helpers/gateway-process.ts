/** Runs `dist/cli.js` as users do, as a process, and ends what it started: the gateway and the servers below it. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { waitFor } from './with-gateway.js'

export const repository = new URL('../..', import.meta.url).pathname
const cli = join(repository, 'dist/cli.js')

export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export interface Run {
  readonly pid: number
  readonly exited: Promise<Exit>
  /** All it has written so far. */
  stdout(): string
  stderr(): string
  /** Sends the signal, unless it has ended already, and waits for its end. */
  kill(signal: NodeJS.Signals): Promise<Exit>
}

export interface RunOptions {
  /** Added to PATH, HOME and the like: nothing else of this process's environment is handed on. */
  readonly env?: Readonly<Record<string, string>>
  /** @default the repository */
  readonly cwd?: string
  /** Where its stderr goes instead of into `stderr()`: a descriptor. */
  readonly stderrTo?: number
  /** The most files and sockets it may have open. */
  readonly descriptors?: number
}

/** Starts `switchboard …`. */
export function startSwitchboard(
  args: readonly string[],
  { env, cwd = repository, stderrTo, descriptors }: RunOptions = {}
): Run {
  const command = [process.execPath, cli, ...args]
  const limited = ['sh', '-c', `ulimit -n ${descriptors}; exec "$@"`, 'sh', ...command]
  const [program = '', ...words] = descriptors === undefined ? command : limited
  const child = spawn(program, words, {
    cwd,
    env: { ...inherited(), ...env },
    stdio: ['ignore', 'pipe', stderrTo ?? 'pipe']
  })
  const outputs = [child.stdout, child.stderr].filter(stream => stream !== null)
  let [stdout, stderr] = ['', '']
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const last = () => void child.kill('SIGKILL')
  process.once('exit', last)
  // `exit`, not `close`: a server left behind would hold the pipes. What was in them is read first.
  const exited = once(child, 'exit').then(async ([code, signal]): Promise<Exit> => {
    process.off('exit', last)
    const ends = outputs.filter(stream => !stream.closed).map(stream => once(stream, 'close'))
    await Promise.race([Promise.all(ends), sleep(500)])
    return { code: code as Exit['code'], signal: signal as Exit['signal'] }
  })
  return {
    pid: child.pid ?? NaN,
    exited,
    stdout: () => stdout,
    stderr: () => stderr,
    kill(signal) {
      child.kill(signal)
      return exited
    }
  }
}

/** Runs `switchboard …` to its end, which must come by itself before a test would time out. */
export async function runSwitchboard(args: readonly string[], options?: RunOptions) {
  const run = startSwitchboard(args, options)
  const overdue = setTimeout(() => void run.kill('SIGKILL'), 25_000)
  const exit = await run.exited
  clearTimeout(overdue)
  return { ...exit, stdout: run.stdout(), stderr: run.stderr() }
}

export interface GatewayProcess extends Run {
  readonly url: string
  readonly port: number
  readonly stateDir: string
  /** The start block, as printed. */
  readonly block: string
  /** Clear-text keys of the block by name, in its order, and the line of each that adds the gateway to a client. */
  readonly keys: Readonly<Record<string, string>>
  readonly addLines: Readonly<Record<string, string>>
  /** Milliseconds after its start: when the port first took a connection, when the block was there. */
  readonly listeningMs: number
  readonly blockMs: number
  /** Lines of its log, from stderr. */
  logged(event: string): Record<string, unknown>[]
  /** The processes below it now: its servers and what those started. */
  servers(): Process[]
  /** Ends it if it still runs, then whatever of its servers is left, then its state directory unless that was given. */
  stop(): Promise<void>
}

export interface GatewayProcessOptions extends RunOptions {
  /** Path of servers.yaml. */
  readonly config: string
  /** An existing state directory, left in place by `stop`. */
  readonly stateDir?: string
  /** @default a free one */
  readonly port?: number
  /** More of the command line. */
  readonly args?: readonly string[]
}

/** Starts `switchboard serve` and waits for its start block. */
export async function startGatewayProcess(options: GatewayProcessOptions): Promise<GatewayProcess> {
  const { config, args = [] } = options
  const port = options.port ?? (await freePort())
  const stateDir = options.stateDir ?? mkdtempSync(join(tmpdir(), 'switchboard-state-'))
  const begun = performance.now()
  const run = startSwitchboard(
    ['serve', '--config', config, '--state', stateDir, '--port', String(port), ...args],
    options
  )
  let below: Process[] = []
  const servers = () => {
    const now = descendants(run.pid)
    below = [...below, ...now.filter(({ pid, started }) => !below.some(p => p.pid === pid && p.started === started))]
    return now
  }
  const kill = (signal: NodeJS.Signals) => {
    servers()
    return run.kill(signal)
  }
  const stop = async () => {
    const overdue = setTimeout(() => void kill('SIGKILL'), 20_000)
    await kill('SIGTERM')
    clearTimeout(overdue)
    for (const { pid } of below.filter(isRunning)) process.kill(pid, 'SIGKILL')
    if (options.stateDir === undefined) rmSync(stateDir, { recursive: true, force: true })
  }

  let ended = false
  void run.exited.then(() => (ended = true))
  const isPrinted = () => /\nKeys\n(?:.*\n)+\n$/.test(run.stdout())
  let listeningMs: number | undefined
  try {
    await waitFor(
      async () => {
        if (ended && !isPrinted()) throw new Error(`the gateway ended before it was up:\n${run.stderr()}`)
        if (listeningMs === undefined && (await accepts(port))) listeningMs = performance.now() - begun
        return isPrinted()
      },
      `the start block of the gateway; its stderr: ${run.stderr()}`,
      30_000
    )
  } catch (error) {
    await stop()
    throw error
  }
  const block = run.stdout()
  const shown = [...block.matchAll(/^ {2}(\S+) sees .*\n {4}(claude .*Bearer (\S+)".*)$/gm)]
  return {
    ...run,
    kill,
    stop,
    servers,
    port,
    stateDir,
    block,
    url: `http://127.0.0.1:${port}`,
    keys: Object.fromEntries(shown.map(([, id, , secret]) => [id, secret])) as Record<string, string>,
    addLines: Object.fromEntries(shown.map(([, id, line]) => [id, line])) as Record<string, string>,
    listeningMs: listeningMs ?? performance.now() - begun,
    blockMs: performance.now() - begun,
    logged: event =>
      run
        .stderr()
        .split('\n')
        .filter(line => line.startsWith('{') && line.endsWith('}'))
        .map(line => JSON.parse(line) as Record<string, unknown>)
        .filter(line => line.event === event)
  }
}

/** A free port on loopback, below the range from which outgoing connections take theirs: it stays free over a restart. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    if (await isFree(port)) return port
  }
}

export function isFree(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}

/** Takes a free port, as another program would, until `close`. */
export async function takePort(): Promise<{ port: number; close: () => Promise<void> }> {
  const server = createServer(socket => socket.destroy()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return { port, close: () => new Promise(resolve => server.close(() => resolve())) }
}

function accepts(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    const answer = (yes: boolean) => {
      socket.destroy()
      resolve(yes)
    }
    socket.once('connect', () => answer(true)).once('error', () => answer(false))
  })
}

/** A process by pid and start time, since a pid alone may come to belong to another. */
export interface Process {
  readonly pid: number
  readonly started: string
  readonly command: string
}

/** Everything below a process, children of children included; from /proc. */
export function descendants(pid: number): Process[] {
  const all = readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .flatMap(name => readProcess(Number(name)) ?? [])
  const below = (parent: number): typeof all =>
    all.filter(one => one.parent === parent).flatMap(one => [one, ...below(one.pid)])
  return below(pid)
}

/** Whether it still runs; one that has ended and waits to be collected does not. */
export function isRunning({ pid, started }: Process): boolean {
  const now = readProcess(pid)
  return now !== undefined && now.started === started && now.state !== 'Z' && now.state !== 'X'
}

function readProcess(pid: number): (Process & { parent: number; state: string }) | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const [state = '', parent, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
    return { pid, parent: Number(parent), state, started: fields[17] ?? '', command }
  } catch {
    return undefined
  }
}

function inherited(): Record<string, string> {
  const names = ['HOME', 'LANG', 'PATH', 'TMPDIR', 'USER']
  return Object.fromEntries(names.flatMap(name => (process.env[name] === undefined ? [] : [[name, process.env[name]]])))
}
