/** An upstream of the run over HTTP+SSE (2024-11-05): one stream says everything, messages are posted beside it. */
import { randomUUID } from 'node:crypto'
import { event, listen, openStream } from './listen.mjs'
import { createUpstream, note, notification, options, pieces } from './upstream.mjs'

const streams = new Map()
const broken = new Set()
/** Whatever is written slowly has the stream for itself. */
const queues = new WeakMap()

function queued(res, act) {
  const next = (queues.get(res) ?? Promise.resolve()).then(act)
  queues.set(res, next)
  return next
}
const write = (res, text) => new Promise(resolve => (res.destroyed ? resolve() : res.write(text, resolve)))
const sayOn = (res, message) => queued(res, () => write(res, event(message)))

const upstream = createUpstream({
  broadcast(method) {
    for (const res of streams.values()) sayOn(res, notification(method))
  },
  own: {
    cut(call) {
      upstream.die(call.nonce, () => call.stream.destroy())
      return false
    },
    'endpoint-elsewhere'(call) {
      upstream.die(call.nonce, () =>
        queued(call.stream, () =>
          write(call.stream, `event: endpoint\ndata: http://127.0.0.1:${options.capture}/messages\n\n`)
        )
      )
      return false
    }
  }
})

listen((req, res, message) => {
  const { pathname, searchParams } = new URL(req.url, 'http://localhost')
  if (req.method === 'GET' && pathname === '/sse') {
    const id = randomUUID()
    openStream(res)
    streams.set(id, res)
    res.on('close', () => streams.delete(id))
    return res.write(`event: endpoint\ndata: /messages?session=${id}\n\n`)
  }
  const stream = streams.get(searchParams.get('session'))
  if (!stream || !message) return res.writeHead(404).end()
  const { id, method, params } = message
  const { fault, nonce } = params?.arguments ?? {}
  if (method === 'tools/call' && fault === 'post-500' && !broken.has(nonce)) {
    broken.add(nonce)
    note('refused', { nonce })
    note('fault', { nonce, fault, running: [nonce, ...upstream.inFlight()] })
    return res.writeHead(500).end()
  }
  res.writeHead(202).end()
  if (method === 'notifications/cancelled') return upstream.cancelled(params?.requestId)
  if (id === undefined || method === undefined) return
  if (method !== 'tools/call') return sayOn(stream, upstream.answerTo(message))
  upstream.begin(message, {
    stream,
    say: each => sayOn(stream, each),
    finish: each => sayOn(stream, each),
    half: text => write(stream, `event: message\ndata: ${text.slice(0, text.length / 2)}`),
    drip: (text, ms) => queued(stream, () => pieces(event(text), ms, part => write(stream, part)))
  })
})
