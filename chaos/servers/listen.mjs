/** Listening at a port that was ours a moment ago, and ending with whoever started us. */
import { createServer } from 'node:http'
import { options } from './upstream.mjs'

export function listen(handle) {
  // Connections are left open for ever, as some servers do: it is the gateway that has to close them.
  const server = createServer({ keepAliveTimeout: 0 }, async (req, res) => {
    const chunks = []
    res.on('error', () => {})
    try {
      for await (const chunk of req) chunks.push(chunk)
    } catch {
      return
    }
    handle(req, res, chunks.length > 0 ? JSON.parse(Buffer.concat(chunks)) : undefined)
  })
  let tries = 0
  server.on('error', error => {
    if (error.code !== 'EADDRINUSE' || ++tries > 50) throw error
    setTimeout(() => server.listen(Number(options.port), '127.0.0.1'), 100)
  })
  server.listen(Number(options.port), '127.0.0.1', () => process.stdout.write(`listening ${options.port}\n`))
  process.stdin.resume().once('end', () => process.exit(0))
  process.once('SIGTERM', () => process.exit(0))
}

export function openStream(res, headers = {}) {
  res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', ...headers })
  res.flushHeaders()
}

export const event = message =>
  `event: message\ndata: ${typeof message === 'string' ? message : JSON.stringify(message)}\n\n`

export function sendJson(res, status, message, headers = {}) {
  res.writeHead(status, { 'content-type': 'application/json', ...headers })
  return new Promise(resolve => res.end(typeof message === 'string' ? message : JSON.stringify(message), resolve))
}
