/** Opens a link to a server that speaks newline-delimited JSON on stdin and stdout (2025-11-25, Transports: stdio). */
import { SwitchboardError } from '../errors.js'
import type { Era } from '../wire/era.js'
import { createLineSplitter } from '../wire/framing.js'
import { nestsTooDeep, sizeText, tooDeep } from '../wire/json-bytes.js'
import { readResult } from '../wire/json-rpc.js'
import { ChannelLink } from './channel-link.js'
import type { LinkEvents, LinkLimits } from './link.js'
import { createNoiseBudget } from './noise.js'
import { startChild, type Child, type ChildOptions } from './process.js'

export interface StdioOptions extends Omit<ChildOptions, 'speaks' | 'onStdout' | 'onExit'> {
  readonly era: Era
  readonly limits: LinkLimits
  /** A line on stdout that is no message: counted and logged by the owner. Too many of them end the link. */
  readonly onNoise?: (bytes: number) => void
}

export interface StdioLink {
  readonly link: ChannelLink
  readonly child: Child
}

/** Starts the process and wires its streams; the caller negotiates. Failure to start arrives through `events.onLost`. */
export function openStdio(options: StdioOptions, events: LinkEvents): StdioLink {
  const { server, era, limits } = options
  const budget = createNoiseBudget()
  let heard = true
  /** The server is beyond use: its calls are answered, its owner ends it and starts it again. */
  const giveUp = (reason: string) => {
    heard = false
    child.ignore()
    link.lost(reason, 'upstream_broke')
  }
  const spend = (lines: number, bytes: number) => {
    const reason = budget.spend(lines, bytes)
    if (reason !== undefined && heard) giveUp(reason)
  }
  const splitter = createLineSplitter({
    maxBytes: limits.messageBytes,
    onLine: line => {
      if (!heard) return
      const text = line.toString()
      const spoilt = nestsTooDeep(line) ? tooDeep : undefined
      const raw = spoilt === undefined ? readResult(text) : undefined
      if (raw) return link.answered(raw.id, raw)
      if (link.receive(parse(line, text), spoilt)) return
      options.onNoise?.(line.length)
      spend(1, line.length)
    },
    onBlank: bytes => spend(0, bytes),
    onOversize: () => giveUp(`it sent a message of more than ${sizeText(limits.messageBytes)}`)
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
        // A child that does not read must not cost the gateway's memory.
        if (child.backlog > 0 && child.backlog + Buffer.byteLength(json) > limits.stdinBytes) {
          throw new SwitchboardError(
            'upstream_overloaded',
            `it does not read what is sent to it (more than ${sizeText(limits.stdinBytes)} are waiting)`,
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

/** Undefined for what is no JSON. Most noise is text: what does not begin like a message is not even tried. */
function parse(line: Buffer, text: string): unknown {
  const first = line.find(byte => byte !== 0x20 && byte !== 0x09)
  if (first !== 0x7b && first !== 0x5b) return undefined
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
