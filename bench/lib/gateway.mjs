/** The gateway as it is run: `dist/cli.js serve` as a process, keys on, its log at info level into a file. */
import { closeSync, openSync, readFileSync, readSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { request } from 'undici'
import { bench, freePort } from './processes.mjs'

export const secret = 'swb_bench_0123456789abcdefghijklmnopqrstuvwxyz'
const built = join(bench, '../dist/cli.js')

/** A folder with servers.yaml, the state directory and the log. */
function createHome(processes, { servers, keys = { bench: { secret: '${BENCH_KEY}', allow: allowAll(servers) } } }) {
  const folder = processes.folder()
  // JSON is YAML.
  writeFileSync(join(folder, 'servers.yaml'), JSON.stringify({ servers, keys }))
  return { folder, log: join(folder, 'log') }
}

/** Everything, but by patterns: a policy that has to be asked. */
const allowAll = servers => Object.fromEntries(Object.keys(servers).map(id => [id, ['*', '!none_*']]))

/** Spawns it and returns at once. @param execArgv options for Node, such as `--cpu-prof`. @param cli another build. */
export function spawnGateway(processes, home, { port, execArgv = [], cli = built }) {
  const log = openSync(home.log, 'a')
  const args = ['serve', '--config', join(home.folder, 'servers.yaml'), '--state', join(home.folder, 'state')]
  const child = processes.start([...execArgv, cli, ...args, '--port', String(port), '--log', 'info'], {
    cwd: home.folder,
    env: { BENCH_KEY: secret },
    stdio: ['ignore', 'ignore', log]
  })
  closeSync(log)
  return child
}

/**
 * Starts a gateway of its own home and waits until it lists `tools` tools.
 * @returns its pid and origin; `made` is told of every call, `verify` compares them with audit lines and counters.
 */
export async function startGateway(processes, { tools, execArgv, cli, ...config }) {
  const home = createHome(processes, config)
  const port = await freePort()
  const child = spawnGateway(processes, home, { port, execArgv, cli })
  const origin = `http://127.0.0.1:${port}`
  const audit = auditLines(home.log)
  let calls = 0

  const listed = async () => (await listPages(origin).catch(() => [])).reduce((sum, page) => sum + page.tools, 0)
  const deadline = Date.now() + 60_000
  for (let seen = 0; seen < tools; seen = await listed()) {
    if (child.exitCode !== null || Date.now() > deadline) {
      const log = readFileSync(home.log, 'utf8').slice(-2000)
      throw new Error(`the gateway lists ${seen} of ${tools} tools (exit code ${child.exitCode}):\n${log}`)
    }
    await sleep(50)
  }

  return {
    pid: child.pid,
    origin,
    made: count => (calls += count),
    /** Calls made, audit lines written and calls counted since the start; the last undefined without /metrics. */
    async verify() {
      for (let tries = 0; audit.count() < calls && tries < 100; tries++) await sleep(20)
      return { calls, lines: audit.count(), counted: await countedCalls(origin) }
    },
    home,
    stop: () => processes.stop(child)
  }
}

/** Counts audit lines as the log grows. */
function auditLines(file) {
  const buffer = Buffer.alloc(1 << 20)
  const needle = '"event":"call"'
  let at = 0
  let count = 0
  let rest = ''
  return {
    count() {
      if (statSync(file).size === at) return count
      const log = openSync(file, 'r')
      for (let read = readSync(log, buffer, 0, buffer.length, at); read > 0;) {
        at += read
        const lines = (rest + buffer.latin1Slice(0, read)).split('\n')
        rest = lines.pop()
        for (const line of lines) if (line.includes(needle)) count++
        read = readSync(log, buffer, 0, buffer.length, at)
      }
      closeSync(log)
      return count
    }
  }
}

/** The sum of `switchboard_calls_total`. */
async function countedCalls(origin) {
  const { statusCode, body } = await request(`${origin}/metrics`, { headers: { authorization: `Bearer ${secret}` } })
  const text = await body.text()
  if (statusCode !== 200) return undefined
  return [...text.matchAll(/^switchboard_calls_total(?:\{[^}]*\})? (\d+)/gm)].reduce((sum, [, n]) => sum + Number(n), 0)
}

/** Walks `tools/list` as a 2025-era client: each page's cursor, bytes and number of tools. */
export async function listPages(origin) {
  const session = await openSession(origin)
  const pages = []
  let cursor
  do {
    const { text } = await post(
      origin,
      { method: 'tools/list', params: cursor === undefined ? {} : { cursor } },
      session
    )
    const { tools, nextCursor } = JSON.parse(text).result
    pages.push({ cursor, text, tools: tools.length })
    cursor = nextCursor
  } while (cursor !== undefined)
  return Object.assign(pages, { session })
}

async function openSession(origin) {
  const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'bench', version: '1.0.0' } }
  const { headers } = await post(origin, { method: 'initialize', params })
  return headers['mcp-session-id']
}

async function post(origin, message, session) {
  const { statusCode, headers, body } = await request(`${origin}/mcp`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${secret}`,
      'content-type': 'application/json',
      accept: 'application/json',
      ...(session !== undefined && { 'mcp-session-id': session })
    },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, ...message })
  })
  const text = await body.text()
  if (statusCode !== 200) throw new Error(`HTTP ${statusCode}: ${text.slice(0, 300)}`)
  return { headers, text }
}
