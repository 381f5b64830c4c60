// Puts a stdio MCP server behind the HTTP+SSE transport (protocol 2024-11-05) on 127.0.0.1: GET /sse, POST /messages.
// Each connection gets a process of its own, which ends with it. Messages pass unread in both directions.
// Alone: node examples/stdio-to-sse.mjs --port 8701 -- npx mcp-server-filesystem examples/workspace
import { fstatSync, readFileSync, realpathSync } from 'node:fs'
import { createServer } from 'node:http'
import { parseArgs } from 'node:util'
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js'
import { SSEServerTransport } from '@modelcontextprotocol/sdk/server/sse.js'

// A process and all its descendants (on Linux; elsewhere itself).
function tree(pid) {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean)
    return [pid, ...children.flatMap(child => tree(Number(child)))]
  } catch {
    return [pid]
  }
}

function kill(pids, signal) {
  for (const pid of pids) {
    try {
      process.kill(pid, signal)
    } catch {
      // gone already
    }
  }
}

// `server` is { command, args, env }; `before(message)` may return a promise for what a message has to wait for.
export async function serveSse({ port, server, before = () => {} }) {
  const connections = new Map() // session id -> { edge, close }
  let stopping = false

  async function connect(res) {
    const edge = new SSEServerTransport('/messages', res)
    const child = new StdioClientTransport(server)
    let closing
    const close = () => (closing ??= Promise.resolve().then(end)) // later: ending edge and child calls close again
    async function end() {
      connections.delete(edge.sessionId)
      const { pid } = child
      const pids = pid ? tree(pid) : []
      const force = () => kill(new Set([...pids, ...(pid ? tree(pid) : [])]), 'SIGKILL')
      kill(pids, 'SIGTERM')
      const patience = setTimeout(force, 1500)
      await Promise.all([edge.close(), child.close()])
      clearTimeout(patience)
      force()
    }
    let last = Promise.resolve()
    edge.onmessage = message => (last = last.then(() => before(message)).then(() => child.send(message))).catch(close)
    child.onmessage = message => void edge.send(message).catch(close)
    edge.onclose = child.onclose = close
    edge.onerror = child.onerror = error => console.error(`stdio-to-sse: ${error.message}`)
    connections.set(edge.sessionId, { edge, close })
    try {
      await child.start()
      if (!closing) await edge.start()
      if (res.destroyed) await close()
    } catch (error) {
      connections.delete(edge.sessionId)
      throw error
    }
  }

  async function handle(req, res) {
    if (stopping) return res.writeHead(503).end('shutting down')
    const { pathname, searchParams } = new URL(req.url, 'http://localhost')
    if (req.method === 'GET' && pathname === '/sse') return connect(res)
    if (req.method !== 'POST' || pathname !== '/messages') return res.writeHead(404).end('GET /sse or POST /messages')
    const connection = connections.get(searchParams.get('sessionId'))
    if (!connection) return res.writeHead(404).end('unknown sessionId: open GET /sse first')
    return connection.edge.handlePostMessage(req, res)
  }

  const http = createServer((req, res) => {
    handle(req, res).catch(error => {
      console.error(`stdio-to-sse: ${error.message}`)
      if (!res.headersSent) res.writeHead(502).end(`cannot run ${server.command}: ${error.message}`)
    })
  })
  http.on('error', error => {
    const taken = `port ${port} on 127.0.0.1 is taken: choose another with --port`
    console.error(`stdio-to-sse: ${error.code === 'EADDRINUSE' ? taken : error.message}`)
    process.exit(1)
  })
  http.listen(port, '127.0.0.1', () => console.error(`SSE at http://127.0.0.1:${http.address().port}/sse`))

  async function stop() {
    stopping = true
    http.close()
    await Promise.all([...connections.values()].map(({ close }) => close()))
    process.exit(0)
  }
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, stop)
  // Started with a pipe on stdin, it ends with whoever holds the other side.
  if (fstatSync(0).isFIFO() || fstatSync(0).isSocket()) process.stdin.on('end', stop).resume()
}

export function portArgument(fallback) {
  const { values, positionals } = parseArgs({ options: { port: { type: 'string' } }, allowPositionals: true })
  return { port: Number(values.port ?? process.env.PORT ?? fallback), rest: positionals }
}

if (realpathSync(process.argv[1]) === import.meta.filename) {
  const { port, rest } = portArgument(8701)
  const [command, ...args] = rest
  if (!command || !Number.isInteger(port)) {
    console.error('usage: node examples/stdio-to-sse.mjs [--port N] -- command [args…]')
    process.exit(2)
  }
  await serveSse({ port, server: { command, args, env: process.env } })
}
