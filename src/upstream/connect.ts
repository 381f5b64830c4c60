/**
 * Makes one connection to an upstream, whatever it takes: start its process, dial its address, find out which era and
 * transport it speaks, open the conversation. Either all of it stands afterwards or nothing is left.
 *
 * What a server speaks is found out once and remembered by the owner; a verdict that no longer holds is found out anew.
 */
import type { ServerConfig } from '../config/schema.js'
import { reasonOf, SwitchboardError } from '../errors.js'
import type { Cancellation } from '../wire/cancellation.js'
import type { Era } from '../wire/era.js'
import { HttpLink } from './http-link.js'
import type { GatewayIdentity, Link, LinkEvents, LinkLimits } from './link.js'
import { discover, initialize, type Negotiable } from './negotiate.js'
import type { Orphans } from './orphans.js'
import { startChild, type Child } from './process.js'
import { openSse } from './sse-link.js'
import { openStdio } from './stdio-link.js'

/** What a server turned out to speak. */
export interface Verdict {
  readonly era: Era
  readonly transport: 'stdio' | 'sse' | 'http'
  /** When that was found out, epoch milliseconds. */
  readonly at: number
}

export interface Connection {
  readonly link: Link
  /** The process serving it, when we started one. */
  readonly child?: Child
  readonly verdict: Verdict
  close(): Promise<void>
}

export interface ConnectHooks extends LinkEvents {
  /** One line of the process's stderr. */
  onLine(line: string): void
  /** So many lines of its stderr were not told: there were too many. */
  onSkipped(lines: number): void
  /** A line on stdout that is no message. */
  onNoise(bytes: number): void
  /** What the process of an attempt that failed wrote last, for people. */
  onLastLines(lines: readonly string[]): void
}

export interface ConnectOptions {
  readonly config: ServerConfig
  readonly identity: GatewayIdentity
  readonly limits: LinkLimits
  /** Ends the attempt early; what it has begun is undone. */
  readonly cancellation: Cancellation
  readonly hooks: ConnectHooks
  /** What the server spoke last time. */
  readonly known?: Verdict
  /** Keeps account of the processes started. */
  readonly orphans?: Orphans
}

/** How often a process that is to serve an address is tried until it listens. */
const dialEveryMs = 100

/** @throws SwitchboardError with the real reason; everything begun has been undone by then. */
export async function connect(options: ConnectOptions): Promise<Connection> {
  const { command, url } = options.config
  if (url === undefined) return connectStdio(options, command as string)
  if (command === undefined) return dial(options)
  return connectServed(options, command)
}

/** A process that we start and then dial at its address. */
async function connectServed(options: ConnectOptions, command: string): Promise<Connection> {
  const { config, cancellation, hooks } = options
  let died: string | undefined
  let connection: Connection | undefined
  const child = startChild({
    ...childOptions(options, command),
    speaks: false,
    onExit: reason => {
      died = reason
      // The link of a dead server ends with the reason its process gave.
      ;(connection?.link as { lost?(reason: string): void } | undefined)?.lost?.(reason)
    }
  })
  try {
    const deadline = performance.now() + config.startTimeout * 1000
    while (!connection) {
      connection = await dial(options).catch((error: unknown) => {
        if (cancellation.reason) throw cancellation.reason
        const notYet = error instanceof SwitchboardError && error.code === 'upstream_down' && died === undefined
        if (!notYet) throw error
        if (performance.now() < deadline) return undefined
        throw new SwitchboardError(
          'upstream_down',
          `its process runs, but after ${config.startTimeout} s ${error.message}`
        )
      })
      if (!connection) await new Promise(resolve => setTimeout(resolve, dialEveryMs))
    }
    // It may be another process that answers at the address: ours is gone.
    if (died !== undefined) throw new SwitchboardError('upstream_down', died)
  } catch (error) {
    hooks.onLastLines(child.lastLines())
    await Promise.all([connection?.close(), child.stop()])
    throw died === undefined ? error : new SwitchboardError('upstream_down', died, { cause: error })
  }
  const { link, verdict } = connection
  return {
    link,
    verdict,
    child,
    close: async () => {
      await link.close()
      await child.stop()
    }
  }
}

async function connectStdio(options: ConnectOptions, command: string): Promise<Connection> {
  const { config, identity, known } = options
  const ms = config.startTimeout * 1000
  const era = config.era === 'auto' ? (known?.era ?? (await probeStdio(options, command))) : config.era
  const { link, child } = openStdio(
    {
      ...childOptions(options, command),
      era,
      onNoise: bytes => options.hooks.onNoise(bytes)
    },
    options.hooks
  )
  try {
    await opened(link, options, () =>
      era === 'modern' ? mustDiscover(link, identity, ms) : initialize(link, identity, ms)
    )
  } catch (error) {
    options.hooks.onLastLines(child.lastLines())
    if (known && config.era === 'auto' && isRefusal(error)) return connectStdio(forget(options), command)
    throw error
  }
  return { link, child, verdict: { era, transport: 'stdio', at: foundAt(options) }, close: () => link.close() }
}

/**
 * Asks a process of its own, which is ended again: some servers die of a request before `initialize`. An error, an end
 * and silence all mean legacy.
 */
async function probeStdio(options: ConnectOptions, command: string): Promise<Era> {
  const { config, identity, cancellation } = options
  let ended = false
  const { link } = openStdio(
    { ...childOptions(options, command), era: 'modern' },
    { onNotification() {}, onLost: () => (ended = true) }
  )
  const release = cancellation.onCancel(() => void link.close())
  try {
    return await discover(link, identity, config.connectTimeout * 1000)
  } catch (error) {
    if (cancellation.reason) throw cancellation.reason
    // It refused in the words of the new era, so it is of that era; the real attempt will say what is wrong.
    return !ended && error instanceof SwitchboardError && error.code === 'upstream_garbage' ? 'modern' : 'legacy'
  } finally {
    release()
    await link.close()
  }
}

async function dial(options: ConnectOptions): Promise<Connection> {
  const { config, known } = options
  const transport = config.transport === 'auto' ? known?.transport : config.transport
  if (transport === 'sse') return dialSse(options)
  try {
    return await dialHttp(options)
  } catch (error) {
    if (known && isRefusal(error)) return dial(forget(options))
    // 2025-11-25, Backwards Compatibility: these answers to `initialize` mean that the older transport may be there.
    const status = error instanceof SwitchboardError ? error.facts.data?.status : undefined
    const older = config.transport === 'auto' && (status === 400 || status === 404 || status === 405)
    if (!older) throw error
    return dialSse(options).catch(() => {
      throw error
    })
  }
}

async function dialHttp(options: ConnectOptions): Promise<Connection> {
  const { config, identity, hooks, known } = options
  const ms = config.connectTimeout * 1000
  const wanted = config.era === 'auto' ? known?.era : config.era
  const link = new HttpLink(
    {
      server: config.id,
      url: config.url as string,
      headers: config.headers,
      connectTimeoutMs: ms,
      messageBytes: options.limits.messageBytes,
      supervised: config.command !== undefined,
      renegotiate: link => initialize(link, identity, ms)
    },
    hooks,
    wanted ?? 'modern'
  )
  await opened(link, options, async () => {
    if (wanted === 'modern') return mustDiscover(link, identity, ms)
    if (wanted === undefined && (await discover(link, identity, ms)) === 'modern') return
    link.info = { ...link.info, era: 'legacy', version: '' }
    await initialize(link, identity, ms)
  })
  link.listen()
  return { link, verdict: { era: link.info.era, transport: 'http', at: foundAt(options) }, close: () => link.close() }
}

async function dialSse(options: ConnectOptions): Promise<Connection> {
  const { config, identity, hooks, cancellation } = options
  const ms = config.connectTimeout * 1000
  const link = await openSse(
    {
      server: config.id,
      url: config.url as string,
      headers: config.headers,
      connectTimeoutMs: ms,
      messageBytes: options.limits.messageBytes,
      cancellation
    },
    hooks
  )
  await opened(link, options, () => initialize(link, identity, ms))
  return { link, verdict: { era: 'legacy', transport: 'sse', at: foundAt(options) }, close: () => link.close() }
}

/** Runs the opening of a link; a link that could not be opened is closed. */
async function opened(link: Link, { cancellation }: ConnectOptions, open: () => Promise<void>): Promise<void> {
  const release = cancellation.onCancel(() => void link.close())
  try {
    await open()
  } catch (error) {
    await link.close()
    throw error instanceof SwitchboardError ? error : new SwitchboardError('upstream_down', reasonOf(error))
  } finally {
    release()
  }
}

async function mustDiscover(link: Negotiable, identity: GatewayIdentity, ms: number): Promise<void> {
  if ((await discover(link, identity, ms)) === 'modern') return
  throw new SwitchboardError(
    'upstream_garbage',
    'it refuses server/discover, so it does not speak 2026-07-28; set "era: legacy" or leave "era" out'
  )
}

/** The server answered, but not as it did last time: what is known of it no longer holds. */
const isRefusal = (error: unknown) => error instanceof SwitchboardError && error.code === 'upstream_garbage'

/** A verdict that was only confirmed keeps its date. */
const foundAt = ({ known }: ConnectOptions) => known?.at ?? Date.now()

function forget({ known: _known, ...options }: ConnectOptions): ConnectOptions {
  return options
}

function childOptions({ config, limits, hooks, orphans }: ConnectOptions, command: string) {
  const { id, args, cwd, env, headers } = config
  const secrets = [
    ...Object.values(env),
    ...Object.values(headers).flatMap(value => [value, value.replace(/^\S+\s+/, '')])
  ]
  const onLine = (line: string) => hooks.onLine(line)
  const onSkipped = (lines: number) => hooks.onSkipped(lines)
  return { server: id, command, args, cwd, env, secrets, limits, onLine, onSkipped, ...(orphans && { orphans }) }
}
