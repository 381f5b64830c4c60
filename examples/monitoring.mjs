// A small MCP server over Streamable HTTP, on 127.0.0.1: this host's CPU, memory, disks and processes. It only reads.
// Alone: node examples/monitoring.mjs [--port 8700], then point a client at http://127.0.0.1:8700/mcp
import { randomUUID } from 'node:crypto'
import { fstatSync } from 'node:fs'
import { createServer } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js'
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js'
import si from 'systeminformation'
import { z } from 'zod'

const idleMs = 30 * 60_000
const { values: options } = parseArgs({ options: { port: { type: 'string' } } })
const wantedPort = Number(options.port ?? process.env.PORT ?? 8700)

const bytes = z.number().int().nonnegative().describe('bytes')
const percent = z.number().min(0).describe('percent')
const round = number => Math.round(number * 10) / 10

async function cpu() {
  const [{ manufacturer, brand, physicalCores }, load] = [await si.cpu(), await si.currentLoad()]
  return {
    model: `${manufacturer} ${brand}`.trim(),
    cores: load.cpus.length,
    physical_cores: physicalCores,
    load: round(load.currentLoad),
    load_per_core: load.cpus.map(core => round(core.load)),
    load_average_1m: load.avgLoad
  }
}

async function memory() {
  const { total, free, available, used, swaptotal, swapused, swapfree } = await si.mem()
  return { total, free, available, used, swap: { total: swaptotal, used: swapused, free: swapfree } }
}

async function disks() {
  const mounts = await si.fsSize()
  return {
    disks: mounts.map(({ fs, type, mount, size, used, available, use }) => ({
      mount,
      device: fs,
      type,
      size,
      used,
      available,
      used_percent: round(use)
    }))
  }
}

// Names only: command lines often carry passwords.
async function processes({ top, sort }) {
  const { all, list } = await si.processes()
  const by = sort === 'cpu' ? (a, b) => b.cpu - a.cpu || b.memRss - a.memRss : (a, b) => b.memRss - a.memRss
  return {
    total: all,
    processes: list
      .sort(by)
      .slice(0, top)
      .map(p => ({ pid: p.pid, name: p.name, user: p.user, cpu: round(p.cpu), memory: p.memRss * 1024 }))
  }
}

async function watchLoad({ interval_ms, samples }, { signal, sendNotification, _meta }) {
  const progressToken = _meta?.progressToken
  const loads = []
  try {
    while (loads.length < samples) {
      await sleep(interval_ms, undefined, { signal })
      const load = round((await si.currentLoad()).currentLoad)
      loads.push(load)
      if (progressToken === undefined) continue
      const params = { progressToken, progress: loads.length, total: samples, message: `load ${load} %` }
      await sendNotification({ method: 'notifications/progress', params })
    }
  } catch (error) {
    if (signal.aborted) console.error(`monitoring: watch_load cancelled after ${loads.length} of ${samples} samples`)
    throw error
  }
  return { loads, average: round(loads.reduce((sum, load) => sum + load, 0) / samples), highest: Math.max(...loads) }
}

function createMcpServer() {
  const server = new McpServer({ name: 'monitoring', title: 'Host monitoring', version: '1.0.0' })
  function tool(name, title, description, inputSchema, outputSchema, read) {
    const annotations = { title, readOnlyHint: true, openWorldHint: false }
    server.registerTool(name, { title, description, inputSchema, outputSchema, annotations }, async (args, extra) => {
      const structuredContent = await read(args, extra)
      return { structuredContent, content: [{ type: 'text', text: JSON.stringify(structuredContent) }] }
    })
  }

  const cpuShape = {
    model: z.string(),
    cores: z.number().int(),
    physical_cores: z.number().int(),
    load: percent,
    load_per_core: z.array(percent),
    load_average_1m: z.number()
  }
  tool('cpu', 'CPU', 'CPU model, cores and load in percent since the last reading.', {}, cpuShape, cpu)

  const memoryShape = {
    total: bytes,
    free: bytes,
    available: bytes,
    used: bytes,
    swap: z.object({ total: bytes, used: bytes, free: bytes })
  }
  const memoryText = 'Memory and swap in bytes. `used` includes caches; `available` is what programs can still get.'
  tool('memory', 'Memory', memoryText, {}, memoryShape, memory)

  const disk = { mount: z.string(), device: z.string(), type: z.string(), size: bytes, used: bytes, available: bytes }
  const disksShape = { disks: z.array(z.object({ ...disk, used_percent: percent })) }
  tool('disks', 'Disks', 'Mounted file systems with their size and use in bytes.', {}, disksShape, disks)

  const processesInput = {
    top: z.number().int().min(1).max(50).default(10).describe('how many'),
    sort: z.enum(['cpu', 'memory']).default('cpu').describe('what to order by, highest first')
  }
  const entry = { pid: z.number().int(), name: z.string(), user: z.string(), cpu: percent, memory: bytes }
  const processesShape = { total: z.number().int(), processes: z.array(z.object(entry)) }
  const processesText = 'The processes that use most CPU (percent) or memory (resident bytes).'
  tool('processes', 'Processes', processesText, processesInput, processesShape, processes)

  const watchInput = {
    interval_ms: z.number().int().min(200).max(10_000).default(1000).describe('milliseconds between samples'),
    samples: z.number().int().min(1).max(600).default(5).describe('how many samples')
  }
  const watchShape = { loads: z.array(percent), average: percent, highest: percent }
  const watchText = 'Samples the CPU load for a while, with a progress notification per sample; can be cancelled.'
  tool('watch_load', 'Watch load', watchText, watchInput, watchShape, watchLoad)
  return server
}

const sessions = new Map() // id -> { transport, open: responses in progress, last: when one ended }

async function openSession() {
  const session = { open: 0, last: Date.now() }
  const { port } = http.address()
  session.transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    enableJsonResponse: false,
    enableDnsRebindingProtection: true, // a web page must not read this host by a name of its own for 127.0.0.1
    allowedHosts: [`127.0.0.1:${port}`, `localhost:${port}`],
    onsessioninitialized: id => void sessions.set(id, session)
  })
  session.transport.onclose = () => sessions.delete(session.transport.sessionId)
  await createMcpServer().connect(session.transport)
  return session
}

async function handle(req, res) {
  const answer = (status, message) => {
    const body = { jsonrpc: '2.0', error: { code: status === 404 ? -32001 : -32603, message }, id: null }
    res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  }
  try {
    if (new URL(req.url, 'http://localhost').pathname !== '/mcp') return answer(404, 'The endpoint is /mcp')
    const id = req.headers['mcp-session-id']
    const session = id === undefined ? await openSession() : sessions.get(id)
    if (!session) return answer(404, 'Session not found')
    session.open++
    res.on('close', () => {
      session.open--
      session.last = Date.now()
    })
    await session.transport.handleRequest(req, res)
  } catch (error) {
    console.error(`monitoring: ${error.message}`)
    if (!res.headersSent) answer(500, 'Internal error')
  }
}

const http = createServer(handle)
http.on('error', error => {
  const taken = `port ${wantedPort} on 127.0.0.1 is taken: choose another with --port or PORT`
  console.error(`monitoring: ${error.code === 'EADDRINUSE' ? taken : error.message}`)
  process.exit(1)
})
http.listen(wantedPort, '127.0.0.1', () => {
  console.error(`monitoring listening on http://127.0.0.1:${http.address().port}/mcp`)
  void si.currentLoad() // loads are measured from one reading to the next: this is the first
})

setInterval(() => {
  for (const { transport, open, last } of sessions.values())
    if (open === 0 && Date.now() - last > idleMs) void transport.close()
}, 60_000).unref()

async function stop() {
  http.close()
  await Promise.all([...sessions.values()].map(({ transport }) => transport.close()))
  process.exit(0)
}
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, stop)
// Started with a pipe on stdin, it ends with whoever holds the other side.
if (fstatSync(0).isFIFO() || fstatSync(0).isSocket()) process.stdin.on('end', stop).resume()
