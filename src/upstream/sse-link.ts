/**
 * A link over HTTP+SSE, the transport of 2024-11-05: one long GET brings everything the server says, its first event
 * names the address to which messages are posted. When that stream ends, so does the link.
 */
import { SwitchboardError } from '../errors.js'
import type { Cancellation } from '../wire/cancellation.js'
import { nestsTooDeep, tooDeep } from '../wire/json-bytes.js'
import { ChannelLink } from './channel-link.js'
import { httpCall, type HttpCall } from './http-call.js'
import { verified } from './http-link.js'
import type { LinkEvents } from './link.js'
import { Pool } from './pool.js'

export interface SseOptions {
  readonly server: string
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  /** For the connection and for the `endpoint` event that must come first. */
  readonly connectTimeoutMs: number
  /** Longest message it may send. */
  readonly messageBytes: number
  /** How long a server may take to accept a message; its answer comes on the stream. @default 60000 */
  readonly acceptTimeoutMs?: number
  /** Ends the opening early; a link that is open is closed instead. */
  readonly cancellation?: Cancellation
}

/**
 * Opens the stream; the caller negotiates.
 * @throws SwitchboardError with the reason when there is no such stream, or the reason of the cancellation.
 */
export function openSse(
  { server, url, headers, connectTimeoutMs, messageBytes, acceptTimeoutMs = 60_000, cancellation }: SseOptions,
  events: LinkEvents
): Promise<ChannelLink> {
  if (cancellation?.reason) return Promise.reject(cancellation.reason)
  const { origin, pathname, search, href } = new URL(url)
  const pool = new Pool(origin, {
    pipelining: 1,
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: { timeout: connectTimeoutMs, ...verified }
  })
  let endpoint: string | undefined
  let stream: HttpCall | undefined

  function post(json: string, failed?: (error: SwitchboardError) => void): void {
    if (endpoint === undefined)
      throw new SwitchboardError('upstream_down', 'it has not named its address for messages yet', {
        server,
        dispatched: false
      })
    // One that never does would keep a connection for each.
    const timer = setTimeout(() => call.abort(), acceptTimeoutMs).unref()
    const call = httpCall(pool, {
      method: 'POST',
      path: endpoint,
      headers: { ...headers, 'content-type': 'application/json' },
      body: json,
      maxBytes: 64 * 1024,
      onEnd: end => {
        clearTimeout(timer)
        if (end.kind === 'failed')
          failed?.(
            new SwitchboardError(end.dispatched ? 'upstream_broke' : 'upstream_down', end.reason, {
              server,
              dispatched: end.dispatched
            })
          )
        else if (end.status >= 300)
          failed?.(
            new SwitchboardError('upstream_garbage', `it refused the message with HTTP ${end.status}`, {
              server,
              dispatched: false
            })
          )
      }
    })
  }

  return new Promise((resolve, reject) => {
    const link = new ChannelLink(
      server,
      {
        send: post,
        close: async () => {
          stream?.abort()
          await pool.destroy()
        }
      },
      events,
      'legacy'
    )
    const release = cancellation?.onCancel(reason => refuse(reason))
    const decided = () => {
      clearTimeout(timer)
      release?.()
    }
    const refuse = (error: Error) => {
      decided()
      stream?.abort()
      void pool.destroy()
      reject(error)
    }
    const timer = setTimeout(
      () =>
        refuse(
          new SwitchboardError('upstream_down', `its event stream did not begin within ${connectTimeoutMs / 1000} s`)
        ),
      connectTimeoutMs
    )
    stream = httpCall(pool, {
      method: 'GET',
      path: pathname + search,
      headers: { ...headers, accept: 'text/event-stream' },
      maxBytes: messageBytes,
      onEvent: (data, { name }) => {
        if (name === 'endpoint') {
          const target = parseUrl(data, href)
          // The stream must not be able to send our messages, and the configured headers with them, elsewhere.
          if (target?.origin !== origin) {
            const reason = 'its event stream names an address on another host'
            if (endpoint === undefined) return refuse(new SwitchboardError('upstream_garbage', reason))
            // Nothing more is heard of it, so nobody may go on waiting.
            stream?.abort()
            return link.lost(reason, 'upstream_broke')
          }
          const first = endpoint === undefined
          endpoint = target.pathname + target.search
          if (!first) return
          decided()
          resolve(link)
        } else if (name === undefined || name === 'message') {
          receive(link, data)
        }
      },
      onEnd: end => {
        const reason =
          end.kind === 'failed'
            ? end.reason
            : end.status === 200
              ? 'its event stream ended'
              : end.status === 401 || end.status === 403
                ? `it rejected the gateway's credentials (HTTP ${end.status}); check "headers" in servers.yaml`
                : `it answered HTTP ${end.status} where an event stream was expected`
        if (endpoint !== undefined) link.lost(reason, 'upstream_broke')
        else
          refuse(
            new SwitchboardError(
              end.kind === 'failed' && !end.dispatched ? 'upstream_down' : 'upstream_garbage',
              reason
            )
          )
      }
    })
  })
}

function receive(link: ChannelLink, data: string): void {
  let value: unknown
  try {
    value = JSON.parse(data)
  } catch {
    return
  }
  link.receive(value, nestsTooDeep(data) ? tooDeep : undefined)
}

function parseUrl(text: string, base: string): URL | undefined {
  try {
    return new URL(text, base)
  } catch {
    return undefined
  }
}
