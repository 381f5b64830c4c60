/**
 * A link over HTTP+SSE, the transport of 2024-11-05: one long GET brings everything the server says, its first event
 * names the address to which messages are posted. When that stream ends, so does the link.
 */
import { SwitchboardError } from '../errors.js'
import { ChannelLink } from './channel-link.js'
import { httpCall, type HttpCall } from './http-call.js'
import type { LinkEvents } from './link.js'
import { Pool } from './pool.js'

export interface SseOptions {
  readonly server: string
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  /** For the connection and for the `endpoint` event that must come first. */
  readonly connectTimeoutMs: number
}

const maxMessage = 32 * 1024 * 1024

/** Opens the stream; the caller negotiates. @throws SwitchboardError with the reason when there is no such stream. */
export function openSse(
  { server, url, headers, connectTimeoutMs }: SseOptions,
  events: LinkEvents
): Promise<ChannelLink> {
  const { origin, pathname, search, href } = new URL(url)
  const pool = new Pool(origin, {
    pipelining: 1,
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: { timeout: connectTimeoutMs }
  })
  let endpoint: string | undefined
  let stream: HttpCall | undefined

  function post(json: string, failed?: (error: SwitchboardError) => void): void {
    if (endpoint === undefined)
      throw new SwitchboardError('upstream_down', 'it has not named its address for messages yet', {
        server,
        dispatched: false
      })
    httpCall(pool, {
      method: 'POST',
      path: endpoint,
      headers: { ...headers, 'content-type': 'application/json' },
      body: json,
      maxBytes: 64 * 1024,
      onEnd: end => {
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
    const refuse = (error: SwitchboardError) => {
      clearTimeout(timer)
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
      maxBytes: maxMessage,
      onEvent: (data, { name }) => {
        if (name === 'endpoint') {
          const target = parseUrl(data, href)
          // The stream must not be able to send our messages, and the configured headers with them, elsewhere.
          if (target?.origin !== origin)
            return refuse(new SwitchboardError('upstream_garbage', 'its event stream names an address on another host'))
          const first = endpoint === undefined
          endpoint = target.pathname + target.search
          clearTimeout(timer)
          if (first) resolve(link)
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
  link.receive(value)
}

function parseUrl(text: string, base: string): URL | undefined {
  try {
    return new URL(text, base)
  } catch {
    return undefined
  }
}
