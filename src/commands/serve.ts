/** `switchboard serve`: the gateway, until a signal ends it. Prints one block that says everything a first user needs. */
import { resolve } from 'node:path'
import { loadConfig, readConfigText } from '../config/load.js'
import { setFlagsFromString } from 'node:v8'
import type { Config } from '../config/schema.js'
import { watchFile } from '../config/watch.js'
import { reasonOf, SwitchboardError } from '../errors.js'
import { startGateway, type Gateway } from '../gateway.js'
import { createLog, type Log, type LogLevel } from '../observe/log.js'
import { openState } from '../state.js'
import type { UpstreamStatus } from '../upstream/upstream.js'
import type { CommandContext, ExitCode } from './command.js'
import { readConfiguration, statePath } from './configuration.js'

export interface ServeOptions {
  /** Instead of what the file says. */
  readonly listen: { readonly host?: string; readonly port?: number }
  readonly logLevel: LogLevel
}

/** How long the block waits for servers to come up, so that it shows them ready rather than starting. */
const settleMs = 800
/** How long the last lines of the log may take. */
const flushMs = 1000
/** How long an end after a fault may take: draining and ending the servers. */
const faultMs = 20_000

export async function serve(context: CommandContext, { listen, logLevel }: ServeOptions): Promise<ExitCode> {
  collectYoung()
  const hangUps = untilReloading()
  const text = await readConfigText(resolve(context.config))
  const loaded = await readConfiguration(context, listen)
  if (!loaded) return 2
  const { config } = loaded
  const log = createLog(logLevel)
  process.once('exit', () => log.flushNow())
  const signalled = untilSignal()
  const faulted = untilFault(log)
  let gateway: Gateway
  try {
    const state = openState({
      path: statePath(context, config),
      onProblem: message => log.warn({ event: 'state.problem', message })
    })
    if (state.problem !== undefined) context.err(state.problem)
    gateway = await startGateway({ config, state, log }).catch((error: unknown) => {
      state.close()
      throw error
    })
  } catch (error) {
    context.err(reasonOf(error))
    if (!(error instanceof SwitchboardError)) throw error
    return 1
  }

  await Promise.race([settled(gateway, settleMs), signalled, faulted])
  context.out(startBlock(gateway, config))
  const stopReloading = reloadOnChange({ context, gateway, listen, log, applied: text, hangUps })
  const exitCode = await Promise.race([signalled.then(() => 0 as const), faulted.then(() => 1 as const)])
  // What is broken may also keep it from ending.
  if (exitCode === 1) setTimeout(() => process.exit(1), faultMs).unref()
  stopReloading()
  await gateway.close()
  // A reader that has stopped would keep the process for ever.
  if (!(await log.flush(flushMs))) process.exit(exitCode)
  return exitCode
}

interface ReloadOptions {
  readonly context: CommandContext
  readonly gateway: Gateway
  readonly listen: ServeOptions['listen']
  readonly log: Log
  /** The text of the file that runs. */
  readonly applied: string | undefined
  readonly hangUps: HangUps
}

interface HangUps {
  /** Calls `onHangUp` at every SIGHUP from now on, and at once if there was one. @returns what ends that. */
  follow(onHangUp: () => void): () => void
}

/** A SIGHUP never ends the process: what comes too early is kept, what comes while it ends is ignored. */
function untilReloading(): HangUps {
  let missed = false
  let act = (): void => {
    missed = true
  }
  process.on('SIGHUP', () => act())
  return {
    follow(onHangUp) {
      act = onHangUp
      if (missed) onHangUp()
      return () => {
        act = () => {}
      }
    }
  }
}

/**
 * Takes servers.yaml over when it changes, and at SIGHUP (which also reads `file:` secrets anew). A file with any error
 * is not taken over, not even in part: what runs goes on, and the log says what is wrong. @returns what ends it.
 */
function reloadOnChange({ context, gateway, listen, log, applied: first, hangUps }: ReloadOptions): () => void {
  const file = resolve(context.config)
  let applied = first
  let reading: Promise<void> = Promise.resolve()
  let ended = false

  async function reload(always: boolean): Promise<void> {
    const text = await readConfigText(file)
    if (ended || (text === applied && !always)) return
    applied = text
    const { config, findings } = await loadConfig({ file, env: context.env, listen })
    if (ended) return
    const errors = findings.filter(({ severity }) => severity === 'error')
    for (const finding of findings) {
      const { severity, line, message } = finding
      log[severity === 'error' ? 'error' : 'warn']({ event: 'config.finding', line, message })
    }
    if (!config || errors.length > 0) {
      gateway.rejected()
      log.error({
        event: 'config.rejected',
        message: `${file} was not taken over: what ran before it goes on. Correct it, or see all of it with "switchboard check"`
      })
      return
    }
    const { restart, ...change } = gateway.apply(config)
    log.info({ event: 'config.applied', ...change })
    if (restart.length > 0) {
      const message = `takes effect at the next start: ${restart.join(', ')}`
      log.warn({ event: 'config.restart_needed', message })
    }
  }

  const next = (always: boolean) => {
    reading = reading
      .then(() => reload(always))
      .catch((error: unknown) => {
        gateway.rejected()
        log.error({ event: 'config.rejected', message: reasonOf(error) })
      })
  }
  const unfollow = hangUps.follow(() => next(true))
  const unwatch = watchFile(file, () => next(false))
  // It may have changed while the gateway started.
  next(false)
  return () => {
    ended = true
    unfollow()
    unwatch()
  }
}

/**
 * V8 watches where objects are made that live long and from then on makes all from there as old ones. After the start of
 * many servers that is the list of a response's listeners: from then on each, long dead, keeps its whole call from being
 * collected young, which doubled what collecting costs a call of one server among 100, and all memory with it.
 */
function collectYoung(): void {
  setFlagsFromString('--no-allocation-site-pretenuring')
}

/** Resolves when no server is starting any more, or after `ms`. */
async function settled(gateway: Gateway, ms: number): Promise<void> {
  const deadline = performance.now() + ms
  while (performance.now() < deadline && gateway.status().some(({ state }) => state === 'starting')) {
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

/** Resolves at the first signal; a second one ends the process at once. */
function untilSignal(): Promise<void> {
  return new Promise(resolve => {
    const stop = () => {
      for (const signal of ['SIGINT', 'SIGTERM'] as const) {
        process.off(signal, stop)
        process.once(signal, () => process.exit(1))
      }
      resolve()
    }
    process.on('SIGINT', stop)
    process.on('SIGTERM', stop)
  })
}

/** Resolves at the first exception that nobody caught: what the process is worth after it, nobody knows. Each is logged. */
function untilFault(log: Log): Promise<void> {
  return new Promise(resolve => {
    // An unhandled rejection comes here, too.
    process.on('uncaughtException', (error: unknown) => {
      log.error({ event: 'fault', reason: reasonOf(error), ...(error instanceof Error && { stack: error.stack }) })
      resolve()
    })
  })
}

/** Address, each server's state, each key with what it sees (those that see everything first), how to connect. */
export function startBlock(gateway: Gateway, config: Config): string {
  const lines = ['', `Switchboard is listening at ${gateway.url}/mcp`, '', 'Servers']
  const statuses = gateway.status()
  const width = Math.max(...statuses.map(({ id }) => id.length), ...config.broken.map(({ id }) => id.length), 1)
  for (const status of statuses) lines.push(`  ${status.id.padEnd(width)}  ${describeStatus(status)}`)
  for (const { kind, id, reason } of config.broken) {
    if (kind === 'server') lines.push(`  ${id.padEnd(width)}  not started: ${reason}`)
  }
  if (statuses.length === 0 && config.broken.length === 0)
    lines.push('  none: add some under "servers:" in servers.yaml')

  const keys = [...gateway.keys().keys].sort((a, b) => Number(b.policy.seesAll) - Number(a.policy.seesAll))
  lines.push('', 'Keys')
  for (const key of keys) {
    lines.push(`  ${key.id} sees ${key.policy.describe().join('; ') || 'nothing'}`)
    lines.push(`    ${addCommand(gateway.url, gateway.generatedSecret(key.id) ?? '<key>')}`)
  }
  for (const { kind, id, reason } of config.broken) if (kind === 'key') lines.push(`  ${id} does not work: ${reason}`)
  return lines.join('\n') + '\n'
}

function describeStatus({ state, problem, tools, era, transport }: UpstreamStatus): string {
  if (state === 'ready')
    return `ready: ${tools ?? 0} tools (${transport}, ${era ?? '?'})${problem === undefined ? '' : `, but ${problem}`}`
  if (state === 'starting') return `starting${problem === undefined ? '' : ` again: ${problem}`}`
  if (state === 'idle') return `idle: ${tools ?? 0} tools (${transport}); the next call starts it`
  return `${state}: ${problem ?? 'no reason known'}`
}

/** The line that adds this gateway to Claude Code. */
export function addCommand(url: string, secret: string): string {
  return `claude mcp add --transport http switchboard ${url}/mcp --header "Authorization: Bearer ${secret}"`
}
