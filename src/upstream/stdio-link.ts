/** Opens a link to a server that speaks newline-delimited JSON on stdin and stdout (2025-11-25, Transports: stdio). */
import { SwitchboardError } from '../errors.js'
import type { Era } from '../wire/era.js'
import { createLineSplitter } from '../wire/framing.js'
import { ChannelLink } from './channel-link.js'
import type { LinkEvents } from './link.js'
import { startChild, type Child, type ChildOptions } from './process.js'

/** A child that does not read its stdin must not cost the gateway's memory. */
const maxBacklog = 8 * 1024 * 1024
const maxMessage = 32 * 1024 * 1024

export interface StdioOptions extends Omit<ChildOptions, 'speaks' | 'onStdout' | 'onExit'> {
  readonly era: Era
  /** A line on stdout that is no JSON: counted and logged by the owner, never fatal. */
  readonly onNoise?: (bytes: number) => void
}

export interface StdioLink {
  readonly link: ChannelLink
  readonly child: Child
}

/** Starts the process and wires its streams; the caller negotiates. Failure to start arrives through `events.onLost`. */
export function openStdio(options: StdioOptions, events: LinkEvents): StdioLink {
  const { server, era } = options
  const splitter = createLineSplitter({
    maxBytes: maxMessage,
    onLine: line => {
      let value: unknown
      try {
        value = JSON.parse(line.toString())
      } catch {
        options.onNoise?.(line.length)
        return
      }
      link.receive(value)
    },
    onOversize: bytes =>
      link.lost(`it sent a message of more than ${Math.floor(bytes / 1024 / 1024)} MiB`, 'upstream_broke')
  })
  const child = startChild({
    ...options,
    speaks: true,
    onStdout: chunk => splitter.push(chunk),
    onExit: reason => link.lost(reason)
  })
  const link: ChannelLink = new ChannelLink(
    server,
    {
      send(json) {
        if (child.backlog > maxBacklog) {
          throw new SwitchboardError(
            'upstream_overloaded',
            'it does not read what is sent to it (more than 8 MiB are waiting)',
            { server, dispatched: false }
          )
        }
        child.write(json + '\n')
      },
      close: () => child.stop()
    },
    events,
    era
  )
  return { link, child }
}
