/** An upstream of the run over Streamable HTTP, of either era; answers as JSON or, with `--form sse`, as a stream. */
import { randomUUID } from 'node:crypto'
import { event, listen, openStream, sendJson } from './listen.mjs'
import { createUpstream, note, notification, options, pieces, subscribed } from './upstream.mjs'

const modern = options.era === 'modern'
const sessions = new Set()
/** Streams that belong to no call: response -> the id of the subscription, or undefined. */
const streams = new Map()
const refused = new Set()

/** One call's response. It becomes a stream with the first message beside the answer. */
function wireOf(res) {
  const wire = {
    res,
    gone: false,
    say(message) {
      if (res.writableEnded) return
      if (!res.headersSent) openStream(res)
      res.write(event(message))
    },
    finish(message) {
      if (res.writableEnded) return undefined
      if (!res.headersSent && options.form !== 'sse') return sendJson(res, 200, message)
      wire.say(message)
      return new Promise(resolve => res.end(resolve))
    },
    half(text) {
      res.writeHead(200, { 'content-type': 'application/json', 'content-length': String(text.length) })
      return new Promise(resolve => res.write(text.slice(0, text.length / 2), resolve))
    },
    async drip(text, ms) {
      const stream = options.form === 'sse'
      if (stream) openStream(res)
      else res.writeHead(200, { 'content-type': 'application/json' })
      await pieces(stream ? event(text) : text, ms, part => res.write(part))
      res.end()
    }
  }
  res.on('close', () => (wire.gone = true))
  return wire
}

const upstream = createUpstream({
  broadcast(method) {
    for (const [res, id] of streams) res.write(event(id === undefined ? notification(method) : subscribed(method, id)))
  },
  own: {
    async 'drip-endless'({ res }) {
      res.writeHead(200, { 'content-type': 'application/json' })
      res.write('{"jsonrpc":"2.0",')
      const timer = setInterval(() => res.write(' '), 100)
      res.once('close', () => clearInterval(timer))
      return false
    },
    'foreign-id'(call) {
      // Ids of calls that run at the same moment, on a response that is not theirs.
      for (let near = 1; near <= 5; near++)
        for (const id of [call.id - near, call.id + near]) call.say({ ...call.answer, id })
      return true
    },
    garbage({ res }) {
      sendJson(res, 200, '{"jsonrpc":"2.0","id":1,"result":{"content":[')
      return false
    },
    'no-result'({ res, id }) {
      sendJson(res, 200, { jsonrpc: '2.0', id, result: 42 })
      return false
    },
    'status-500'({ res }) {
      res.writeHead(500, { 'content-type': 'text/plain' }).end('Internal Server Error')
      return false
    },
    html({ res }) {
      res.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html><h1>Log in</h1>')
      return false
    },
    'never-closed'(call) {
      call.say(call.answer)
      return false
    },
    'half-open'({ res }) {
      res.writeHead(200, { 'content-type': 'application/json', 'content-length': '1000' })
      res.write('{"jsonrpc":')
      return false
    },
    'half-event'(call) {
      openStream(call.res)
      call.res.write(event(call.answer).trimEnd())
      return false
    }
  }
})

/** Answers that say the call did not run: it is not begun. @returns whether it was one. */
function refuse({ id, params }, res) {
  const { nonce, fault } = params.arguments
  if (refused.has(nonce) || (fault !== 'session-lost' && fault !== 'redirect')) return false
  refused.add(nonce)
  note('refused', { nonce })
  note('fault', { nonce, fault, running: [nonce, ...upstream.inFlight()] })
  if (fault === 'redirect') {
    const status = [301, 302, 307, 308][id % 4]
    res.writeHead(status, { location: `http://127.0.0.1:${options.capture}/mcp` }).end()
  } else {
    sessions.clear()
    for (const stream of streams.keys()) stream.end()
    sendJson(res, 404, { jsonrpc: '2.0', id, error: { code: -32001, message: 'Session not found' } })
  }
  return true
}

function hold(res, id) {
  openStream(res)
  streams.set(res, id)
  res.on('close', () => streams.delete(res))
}

listen((req, res, message) => {
  const session = req.headers['mcp-session-id']
  if (!modern && message?.method === 'initialize') {
    const opened = randomUUID()
    sessions.add(opened)
    return sendJson(res, 200, upstream.answerTo(message), { 'mcp-session-id': opened })
  }
  if (!modern && message?.method === 'server/discover')
    return sendJson(res, 400, { jsonrpc: '2.0', id: message.id, error: { code: -32000, message: 'Not initialized' } })
  if (!modern && !sessions.has(session)) {
    if (message?.method === 'tools/call') note('refused', { nonce: message.params.arguments.nonce })
    return sendJson(res, 404, {
      jsonrpc: '2.0',
      id: message?.id ?? null,
      error: { code: -32001, message: 'Session not found' }
    })
  }
  if (req.method === 'GET') return modern ? res.writeHead(405).end() : hold(res)
  if (req.method === 'DELETE') return void (sessions.delete(session), res.writeHead(200).end())
  if (message.method === 'notifications/cancelled') upstream.cancelled(message.params?.requestId)
  if (message.id === undefined || message.method === undefined) return res.writeHead(202).end()
  if (modern && message.method === 'subscriptions/listen') {
    hold(res, message.id)
    return res.write(event(upstream.acknowledge(message)))
  }
  if (message.method !== 'tools/call') return sendJson(res, 200, upstream.answerTo(message))
  if (!refuse(message, res)) upstream.begin(message, wireOf(res))
})
