/** Requests written to the socket by hand, so that they may be malformed, and answers read without any help. */
import { connect } from 'node:net'

export interface RawReply {
  /** NaN if there was no answer. */
  readonly status: number
  readonly headers: Record<string, string>
  readonly body: string
  /** Undefined if the body is not JSON. */
  readonly json: any
  readonly received: string
  /** Whether the other side ended the connection. */
  readonly closed: boolean
  readonly ms: number
  /** Bytes that went into the socket. */
  readonly sent: number
}

export interface RawOptions {
  /** Milliseconds after which we close. @default 3000 */
  readonly ms?: number
  /** Written piece by piece, each when the last was taken; stops when the other side ends the connection. */
  readonly more?: Iterable<string | Buffer>
  /** Close once an answer is complete, rather than wait for the other side to do it. */
  readonly once?: boolean
}

export type Raw = (bytes: string | Buffer, options?: RawOptions) => Promise<RawReply>

/** @param heard gets everything that comes back. */
export function rawTo(url: string, heard: (text: string) => void = () => {}): Raw {
  const { hostname, port } = new URL(url)
  return (bytes, { ms = 3000, more = [], once = false } = {}) =>
    new Promise(resolve => {
      const begun = performance.now()
      let received = ''
      let closed = false
      const socket = connect(Number(port), hostname, () => {
        socket.write(bytes)
        void feed()
      })
      const feed = async () => {
        for (const piece of more) {
          if (socket.destroyed || socket.writableEnded) return
          if (!socket.write(piece)) await new Promise(drained => socket.once('drain', drained).once('close', drained))
        }
      }
      const timer = setTimeout(() => socket.destroy(), ms)
      socket.on('data', chunk => {
        received += chunk.toString('latin1')
        if (once && isComplete(received)) socket.destroy()
      })
      socket.once('end', () => (closed = true))
      socket.on('error', () => (closed = true))
      socket.once('close', () => {
        clearTimeout(timer)
        heard(received)
        resolve({ ...parseReply(received), received, closed, ms: performance.now() - begun, sent: socket.bytesWritten })
      })
    })
}

/** One request with a Host, unless it has one, after whose answer the connection closes. */
export function requestText(
  url: string,
  line: string,
  headers: readonly string[] = [],
  body: string | Buffer = ''
): Buffer {
  const host = headers.some(header => /^host:/i.test(header)) ? [] : [`Host: ${new URL(url).host}`]
  const own = headers.some(header => /^(content-length|transfer-encoding):/i.test(header))
  const length = body.length > 0 && !own ? [`Content-Length: ${Buffer.byteLength(body)}`] : []
  const head = [`${line} HTTP/1.1`, ...host, ...headers, ...length, 'Connection: close', '', ''].join('\r\n')
  return Buffer.concat([Buffer.from(head, 'latin1'), Buffer.from(body)])
}

/** The last answer in what came back over a socket. */
export function parseReply(received: string): Pick<RawReply, 'status' | 'headers' | 'body' | 'json'> {
  const last = received.slice(Math.max(0, received.lastIndexOf('HTTP/1.1 ')))
  const [head = '', ...rest] = last.split('\r\n\r\n')
  const [statusLine = '', ...lines] = head.split('\r\n')
  const headers = Object.fromEntries(
    lines.map(line => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()])
  )
  const body = rest.join('\r\n\r\n')
  let json: unknown
  try {
    json = JSON.parse(body)
  } catch {
    json = undefined
  }
  return { status: Number(statusLine.split(' ')[1]), headers, body, json }
}

function isComplete(received: string): boolean {
  const { headers, body } = parseReply(received)
  const length = headers['content-length']
  return length !== undefined && Buffer.byteLength(body, 'latin1') >= Number(length)
}
