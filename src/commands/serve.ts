/** `switchboard serve`: the gateway, until a signal ends it. Prints one block that says everything a first user needs. */
import { setFlagsFromString } from 'node:v8'
import type { Config } from '../config/schema.js'
import { reasonOf, SwitchboardError } from '../errors.js'
import { startGateway, type Gateway } from '../gateway.js'
import { createLog, type LogLevel } from '../observe/log.js'
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

export async function serve(context: CommandContext, { listen, logLevel }: ServeOptions): Promise<ExitCode> {
  collectYoung()
  const loaded = await readConfiguration(context, listen)
  if (!loaded) return 2
  const { config } = loaded
  const log = createLog(logLevel)
  process.once('exit', () => log.flush())
  const signalled = untilSignal()
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

  await Promise.race([settled(gateway, settleMs), signalled])
  context.out(startBlock(gateway, config))
  await signalled
  await gateway.close()
  return 0
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
  const deadline = Date.now() + ms
  while (Date.now() < deadline && gateway.status().some(({ state }) => state === 'starting')) {
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
