/**
 * Makes one connection to an upstream, whatever it takes: start its process, dial its address, open the conversation.
 * Either all of it stands afterwards or nothing is left.
 */
import type { ServerConfig } from '../config/schema.js'
import { reasonOf, SwitchboardError } from '../errors.js'
import type { Cancellation } from '../wire/cancellation.js'
import { HttpLink } from './http-link.js'
import type { GatewayIdentity, Link, LinkEvents } from './link.js'
import { initialize } from './negotiate.js'
import { startChild, type Child } from './process.js'
import { openStdio } from './stdio-link.js'

export interface Connection {
  readonly link: Link
  /** The process serving it, when we started one. */
  readonly child?: Child
  readonly transport: 'stdio' | 'sse' | 'http'
  close(): Promise<void>
}

export interface ConnectHooks extends LinkEvents {
  /** One line of the process's stderr. */
  onLine(line: string): void
  /** Bytes on stdout that are no JSON. */
  onNoise(bytes: number): void
}

/** How often a process that is to serve an address is tried until it listens. */
const dialEveryMs = 100

/**
 * @param cancellation ends the attempt early; what it has begun is undone.
 * @throws SwitchboardError with the real reason; everything begun has been undone by then.
 */
export async function connect(
  config: ServerConfig,
  identity: GatewayIdentity,
  cancellation: Cancellation,
  hooks: ConnectHooks
): Promise<Connection> {
  if (config.url === undefined) return connectStdio(config, identity, cancellation, hooks)
  if (config.command === undefined) return dial(config, identity, cancellation, hooks)
  return connectServed(config, config.command, identity, cancellation, hooks)
}

/** A process that we start and then dial at its address. */
async function connectServed(
  config: ServerConfig,
  command: string,
  identity: GatewayIdentity,
  cancellation: Cancellation,
  hooks: ConnectHooks
): Promise<Connection> {
  let died: string | undefined
  let connection: Connection | undefined
  const child = startChild({
    ...spawnOptions(config, command, hooks),
    speaks: false,
    onExit: reason => {
      died = reason
      if (connection?.link instanceof HttpLink) connection.link.lost(reason)
    }
  })
  try {
    const deadline = Date.now() + config.startTimeout * 1000
    while (!connection) {
      connection = await dial(config, identity, cancellation, hooks).catch((error: unknown) => {
        if (cancellation.reason) throw cancellation.reason
        const notYet = error instanceof SwitchboardError && error.code === 'upstream_down' && died === undefined
        if (!notYet) throw error
        if (Date.now() < deadline) return undefined
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
    await Promise.all([connection?.close(), child.stop()])
    throw died === undefined ? error : new SwitchboardError('upstream_down', died, { cause: error })
  }
  const { link, transport } = connection
  return {
    link,
    transport,
    child,
    close: async () => {
      await link.close()
      await child.stop()
    }
  }
}

async function connectStdio(
  config: ServerConfig,
  identity: GatewayIdentity,
  cancellation: Cancellation,
  hooks: ConnectHooks
): Promise<Connection> {
  const { link, child } = openStdio(
    {
      ...spawnOptions(config, config.command as string, hooks),
      server: config.id,
      era: 'legacy',
      onNoise: bytes => hooks.onNoise(bytes)
    },
    hooks
  )
  await opened(link, cancellation, () => initialize(link, identity, config.startTimeout * 1000))
  return { link, child, transport: 'stdio', close: () => link.close() }
}

async function dial(
  config: ServerConfig,
  identity: GatewayIdentity,
  cancellation: Cancellation,
  hooks: LinkEvents
): Promise<Connection> {
  const ms = config.connectTimeout * 1000
  const link = new HttpLink(
    {
      server: config.id,
      url: config.url as string,
      headers: config.headers,
      connectTimeoutMs: ms,
      renegotiate: link => initialize(link, identity, ms)
    },
    hooks,
    'legacy'
  )
  await opened(link, cancellation, () => initialize(link, identity, ms))
  link.listen()
  return { link, transport: 'http', close: () => link.close() }
}

/** Runs the opening of a link; a link that could not be opened is closed. */
async function opened(link: Link, cancellation: Cancellation, open: () => Promise<void>): Promise<void> {
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

function spawnOptions(config: ServerConfig, command: string, hooks: ConnectHooks) {
  const { args, cwd, env } = config
  return { command, args, cwd, env, onLine: (line: string) => hooks.onLine(line) }
}
