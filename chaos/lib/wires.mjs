/**
 * Three ways to send a request: a bare socket, undici, fetch. Each gives status, headers and the whole body as text, and
 * ends its connection when it is aborted. None repeats anything by itself.
 */
import { connect } from 'node:net'
import { Agent, fetch, request } from 'undici'

const limits = { headersTimeout: 60_000, bodyTimeout: 60_000 }

export function createWire(kind, origin) {
  if (kind === 'bare') return bareWire(origin)
  const agent = new Agent({ ...limits, keepAliveTimeout: 2000, keepAliveMaxTimeout: 2000 })
  const send = kind === 'fetch' ? viaFetch : viaRequest
  return { agent, send: options => send(origin, agent, options), close: () => agent.destroy() }
}

async function viaFetch(origin, dispatcher, { method = 'POST', path, headers, body, signal }) {
  const response = await fetch(origin + path, { method, headers, body, signal, dispatcher })
  return { status: response.status, headers: Object.fromEntries(response.headers), text: await response.text() }
}

async function viaRequest(origin, dispatcher, { method = 'POST', path, headers, body, signal }) {
  const response = await request(origin + path, { method, headers, body, signal, dispatcher })
  return { status: response.statusCode, headers: response.headers, text: await response.body.text() }
}

/** One keep-alive connection, a second one for what is sent while the first is busy. */
function bareWire(origin) {
  const { hostname, port } = new URL(origin)
  const lines = new Set()

  function open() {
    const line = { socket: connect({ host: hostname, port: Number(port), noDelay: true }), usedAt: 0, busy: undefined }
    line.socket.setEncoding('latin1')
    let received = ''
    const end = error => {
      lines.delete(line)
      line.busy?.reject(error)
    }
    line.socket.on('data', text => {
      received += text
      if (!line.busy) return line.socket.destroy(new Error('an answer nobody asked for'))
      const response = responseIn(received)
      if (!response) return
      const { busy } = line
      line.busy = undefined
      line.usedAt = performance.now()
      // What stands behind a response was asked for by nobody either.
      if (response.length < received.length) busy.reject(new Error('more than one response'))
      else busy.resolve(response)
      received = ''
    })
    line.socket.on('error', end)
    line.socket.on('close', () => end(new Error('the connection was closed')))
    lines.add(line)
    return line
  }

  return {
    send({ method = 'POST', path, headers, body = '', signal }) {
      const now = performance.now()
      const free = [...lines].find(({ busy, usedAt }) => !busy && now - usedAt < 4000)
      const line = free ?? open()
      const head = Object.entries({
        host: `${hostname}:${port}`,
        'content-length': Buffer.byteLength(body),
        ...headers
      })
      return new Promise((resolve, reject) => {
        const busy = (line.busy = { resolve, reject })
        // The connection may carry another request by then.
        const abort = () => line.busy === busy && line.socket.destroy(new Error('aborted'))
        signal?.addEventListener('abort', abort, { once: true })
        line.socket.write(
          `${method} ${path} HTTP/1.1\r\n${head.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n${body}`
        )
      })
    },
    close() {
      for (const { socket } of lines) socket.destroy()
    }
  }
}

/** The response at the beginning of `received` once it is whole. */
function responseIn(received) {
  const end = received.indexOf('\r\n\r\n')
  if (end === -1) return undefined
  const [first, ...fields] = received.slice(0, end).split('\r\n')
  const headers = Object.fromEntries(
    fields.map(field => [field.slice(0, field.indexOf(':')).toLowerCase(), field.slice(field.indexOf(':') + 1).trim()])
  )
  const from = end + 4
  const whole = (length, text) => ({ status: Number(first.slice(9, 12)), headers, length, text })
  if (headers['transfer-encoding'] !== 'chunked') {
    const to = from + Number(headers['content-length'] ?? 0)
    return received.length < to ? undefined : whole(to, utf8(received.slice(from, to)))
  }
  let text = ''
  for (let at = from; ;) {
    const line = received.indexOf('\r\n', at)
    if (line === -1) return undefined
    const size = parseInt(received.slice(at, line), 16)
    const next = line + 2 + size + 2
    if (received.length < next) return undefined
    if (size === 0) return whole(next, utf8(text))
    text += received.slice(line + 2, next - 2)
    at = next
  }
}

const utf8 = latin1 => Buffer.from(latin1, 'latin1').toString()

/** The messages of a body, JSON or a stream of events. */
export function messagesIn({ headers, text }) {
  if (!/^text\/event-stream/.test(headers['content-type'] ?? '')) return text === '' ? [] : [JSON.parse(text)]
  return text.split('\n\n').flatMap(messageOfEvent)
}

export function messageOfEvent(block) {
  const data = block
    .split('\n')
    .filter(line => line.startsWith('data:'))
    .map(line => line.slice(5).trimStart())
    .join('\n')
  return data === '' ? [] : [JSON.parse(data)]
}
