/**
 * What one relayed `tools/call` costs the gateway, in CPU, against a bare reverse proxy in front of the same HTTP
 * upstream; both driven alike by 32 clients, in turn.
 */
import { join } from 'node:path'
import { secret, startGateway } from '../lib/gateway.mjs'
import { callRequest, sessionOf } from '../lib/load.mjs'
import { bench } from '../lib/processes.mjs'
import { shortRun, shortRuns } from '../lib/short-runs.mjs'
import { toolName } from '../servers/offer.mjs'

const tool = toolName(0)

/**
 * Client era, the server behind the gateway, and the path the same client takes through the bare proxy. `rate`: both get
 * so many calls a second instead of as many as they can; the faster one is then no longer spared the waking of its peers.
 */
const cases = [
  { row: 'call', what: 'HTTP upstream, 2025 client', era: 'legacy', server: 'http' },
  { row: 'call', what: 'HTTP upstream, 2026 client', era: 'modern', server: 'http' },
  { row: 'call', what: '2026 HTTP upstream, 2026 client', era: 'modern', server: 'modern' },
  {
    row: 'call',
    full: true,
    what: 'HTTP upstream, 2025 client, 1,000 calls/s',
    era: 'legacy',
    server: 'http',
    rate: 1000
  },
  { row: 'stdio', what: 'stdio upstream, 2025 client', era: 'legacy', server: 'stdio' }
]
const paths = { legacy: '/legacy/10/a', modern: '/modern/10/b' }
const asked = { call: { bound: 1.5, goal: 1.0 }, stdio: { bound: 1.1, goal: 0.75 } }

export function callServers(origin) {
  return {
    http: { url: origin + paths.legacy, transport: 'http', era: 'legacy', concurrency: 64 },
    modern: { url: origin + paths.modern, transport: 'http', era: 'modern', concurrency: 64 },
    stdio: {
      command: process.execPath,
      args: [join(bench, 'servers/raw-stdio.mjs'), '10'],
      era: 'legacy',
      concurrency: 64
    }
  }
}

export async function calls({ only, quick, rounds, processes, load, check, round }) {
  const limits = shortRun(quick)
  const upstream = await processes.serve('raw-http')
  const proxy = await processes.serve('bare-proxy', upstream.origin)
  const gateway = await startGateway(processes, { servers: callServers(upstream.origin), tools: 33 })
  const running = []
  for (const one of cases) {
    if ((only !== undefined && only !== one.row) || (quick && one.full)) continue
    const { era, server } = one
    const bare = await load.open({
      target: proxy,
      origin: proxy.origin,
      path: paths[era],
      session: sessionOf({ era }),
      requests: [callRequest({ era, tool, secret })]
    })
    const ours = await load.open({
      target: gateway,
      origin: gateway.origin,
      path: '/mcp',
      session: sessionOf({ era, secret }),
      requests: [callRequest({ era, tool: `${server}__${tool}`, secret })]
    })
    running.push({ ...one, bare, ours, base: [], mine: [] })
  }
  for (const { bare, ours } of running)
    for (const each of [bare, ours]) await each.run({ calls: 15_000, ms: quick ? 1500 : 4000 })

  for (let i = 0; i < rounds * shortRuns; i++) {
    for (const { bare, ours, base, mine, rate } of running) {
      if (i % 2 === 0) base.push(await bare.cpuPerCall({ ...limits, rate }))
      mine.push(await ours.cpuPerCall({ ...limits, rate }))
      if (i % 2 === 1) base.push(await bare.cpuPerCall({ ...limits, rate }))
    }
    if ((i + 1) % shortRuns > 0) continue
    await check(gateway)
    round()
  }

  for (const { bare, ours } of running) await Promise.all([bare.close(), ours.close()])
  await Promise.all([gateway, proxy, upstream].map(each => each.stop()))
  return running.map(({ row, what, base, mine }) => ({
    measure: `CPU per call, ${what}`,
    against: 'bare reverse proxy',
    unit: 'µs',
    base,
    mine,
    ...asked[row]
  }))
}
