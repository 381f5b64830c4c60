/**
 * The other gateways, each in front of the same stdio upstream and driven through each transport it serves, with what
 * makes it fastest: no logging, no event store, no second era. None of them authenticates, filters or audits here.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { request } from 'undici'
import { callArguments, callRequest, sessionOf } from './load.mjs'
import { bench, freePort } from './processes.mjs'

const upstream = [join(bench, 'servers/raw-stdio.mjs'), '10']
const stdio = [process.execPath, ...upstream].join(' ')
const tool = 'tool_00000'
const loopback = ['--import', join(bench, 'servers/loopback.mjs')]
const call = callRequest({ era: 'legacy', tool })
const post = { path: '/mcp', session: sessionOf({ era: 'legacy' }), requests: [call] }
const stream = { kind: 'sse', requests: [call] }

const supergateway = { entry: 'supergateway/dist/index.js', probe: '/healthz' }
const supergatewayArgs = port => [
  '--stdio',
  stdio,
  '--port',
  port,
  '--logLevel',
  'none',
  '--healthEndpoint',
  '/healthz'
]

export const peers = [
  {
    ...supergateway,
    name: 'supergateway',
    args: ({ port }) => [...supergatewayArgs(port), '--outputTransport', 'streamableHttp', '--stateful'],
    doors: [{ how: 'Streamable HTTP, stateful', job: post }]
  },
  {
    ...supergateway,
    name: 'supergateway',
    args: ({ port }) => [...supergatewayArgs(port), '--outputTransport', 'sse'],
    doors: [{ how: 'HTTP+SSE', job: { ...stream, path: '/sse' } }]
  },
  {
    name: 'mcp-proxy',
    entry: 'mcp-proxy/dist/bin/mcp-proxy.mjs',
    args: ({ port }) => [
      '--host',
      '127.0.0.1',
      '--port',
      port,
      '--no-eventStore',
      '--no-modern',
      '--',
      process.execPath,
      ...upstream
    ],
    probe: '/ping',
    doors: [
      { how: 'Streamable HTTP, stateful', job: post },
      { how: 'HTTP+SSE', job: { ...stream, path: '/sse' } }
    ]
  },
  {
    name: 'mcp-hub',
    entry: 'mcp-hub/dist/cli.js',
    args: ({ port, home }) => ['--port', port, '--config', join(home, 'servers.json')],
    probe: '/api/health',
    ready: text => text.includes('"state":"ready"'),
    doors: [
      {
        how: 'HTTP+SSE',
        job: { ...stream, path: '/mcp', requests: [callRequest({ era: 'legacy', tool: `raw__${tool}` })] }
      },
      {
        how: 'its REST API',
        job: {
          path: '/api/servers/tools',
          withId: false,
          requests: [
            {
              headers: ['content-type', 'application/json'],
              body: JSON.stringify({ server_name: 'raw', tool, arguments: callArguments })
            }
          ]
        }
      }
    ]
  }
]

/** The pinned versions, by package. */
export const { dependencies: versions } = JSON.parse(readFileSync(join(bench, 'package.json'), 'utf8'))

/** Starts a peer and waits until it answers. */
export async function startPeer(processes, { name, entry, args, probe, ready = () => true }) {
  const port = String(await freePort())
  const home = processes.folder()
  const servers = { raw: { command: process.execPath, args: upstream } }
  writeFileSync(join(home, 'servers.json'), JSON.stringify({ mcpServers: servers }))
  keepOffline(home)
  const options = { cwd: home, env: { HOME: home } }
  const child = processes.start([...loopback, join(bench, 'node_modules', entry), ...args({ port, home })], options)
  const origin = `http://127.0.0.1:${port}`
  const deadline = Date.now() + 30_000
  for (;;) {
    const answer = await get(origin + probe)
    if (answer !== undefined && ready(answer)) break
    if (child.exitCode !== null || Date.now() > deadline) throw new Error(`${name} does not answer`)
    await sleep(50)
  }
  return {
    pid: child.pid,
    origin,
    stop: () => processes.stop(child)
  }
}

/** mcp-hub fetches a registry from the internet unless it has one that is fresh. */
function keepOffline(home) {
  mkdirSync(join(home, '.mcp-hub/cache'), { recursive: true })
  const registry = { version: '0', generatedAt: 0, totalServers: 1, servers: [{ id: 'none', name: 'none' }] }
  const cache = { registry, lastFetchedAt: Date.now(), serverDocumentation: {} }
  writeFileSync(join(home, '.mcp-hub/cache/registry.json'), JSON.stringify(cache))
}

async function get(url) {
  try {
    const { statusCode, body } = await request(url)
    const text = await body.text()
    return statusCode === 200 ? text : undefined
  } catch {
    return undefined
  }
}
