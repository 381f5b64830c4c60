/**
 * One keep-alive HTTP/1.1 connection that carries one request at a time, on a bare socket: the generator shares the
 * machine with what it measures, so a request must cost it little. Reads bodies with a length and chunked ones whole.
 */
import { connect } from 'node:net'

/** Servers close idle connections after five seconds, maybe just as a request is on its way. */
const freshMs = 4000
const answerMs = 60_000

export class Connection {
  #host
  #port
  #socket
  #pending
  #received = ''
  #usedAt = 0

  constructor(origin) {
    const { hostname, port } = new URL(origin)
    this.#host = hostname
    this.#port = Number(port)
  }

  /** @param headers names and values in turn. @returns status, headers in lower case, and the body as Latin-1. */
  exchange({ path, headers, body }) {
    let head = `POST ${path} HTTP/1.1\r\nhost: ${this.#host}:${this.#port}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n`
    for (let i = 0; i < headers.length; i += 2) head += `${headers[i]}: ${headers[i + 1]}\r\n`
    const now = performance.now()
    if (!this.#socket || now - this.#usedAt > freshMs) this.#open()
    this.#usedAt = now
    return new Promise((resolve, reject) => {
      this.#pending = { resolve, reject }
      this.#socket.write(`${head}\r\n${body}`)
    })
  }

  close() {
    const socket = this.#socket
    this.#socket = undefined
    socket?.destroy()
  }

  #open() {
    this.close()
    const socket = (this.#socket = connect({ host: this.#host, port: this.#port, noDelay: true }))
    socket.setEncoding('latin1')
    const lost = error => {
      if (this.#socket !== socket) return
      this.#socket = undefined
      this.#received = ''
      this.#settle('reject', error)
    }
    socket.on('data', text => {
      this.#received += text
      this.#look()
    })
    socket.setTimeout(answerMs, () => socket.destroy(new Error(`nothing came for ${answerMs / 1000} s`)))
    socket.on('error', lost)
    socket.on('close', () => lost(new Error('the connection was closed')))
  }

  /** Whether the response is whole. */
  #look() {
    const text = this.#received
    const end = text.indexOf('\r\n\r\n')
    if (end === -1) return
    const head = text.slice(0, end)
    const from = end + 4
    const length = /\r\ncontent-length: (\d+)/i.exec(head)
    const chunked = length === null && /\r\ntransfer-encoding: chunked/i.test(head)
    // JSON has no bare line breaks, so nothing but the last chunk ends like this.
    const whole = chunked ? text.endsWith('0\r\n\r\n') : text.length >= from + Number(length?.[1] ?? 0)
    if (!whole) return
    this.#received = ''
    this.#settle('resolve', { status: Number(head.slice(9, 12)), head, text: text.slice(from) })
  }

  #settle(how, value) {
    const pending = this.#pending
    this.#pending = undefined
    pending?.[how](value)
  }
}
