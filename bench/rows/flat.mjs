/**
 * Whether a call costs the same however many upstreams, keys and tools there are: CPU per call against the smallest. The
 * bare proxy under the very same calls shows what of it is the kernel's and Node's: more sockets, other bytes each time.
 */
import { createHash } from 'node:crypto'
import { startGateway } from '../lib/gateway.mjs'
import { callRequest } from '../lib/load.mjs'
import { shortRun, shortRuns } from '../lib/short-runs.mjs'
import { toolName } from '../servers/offer.mjs'
import { manyServers } from './list.mjs'

/** Calls go round all upstreams, keys or tools in turn. Each key has a policy of its own. */
const sizes = [
  { upstreams: 1, keys: 1, tools: 10 },
  { measure: 'from 1 to 100 upstreams', upstreams: 100, keys: 1, tools: 10 },
  { measure: 'from 1 to 1,000 keys', upstreams: 1, keys: 1000, tools: 10 },
  { measure: 'from 10 to 10,000 tools', upstreams: 1, keys: 1, tools: 9999 }
]
const secretOf = i => `swb_bench_key_${i}_0123456789abcdefghijklmnopqrs`

export async function flat({ quick, rounds, processes, load, check, round }) {
  const limits = shortRun(quick)
  const upstream = await processes.serve('raw-http')
  const gateways = []
  for (const size of sizes) gateways.push(await startSize(processes, load, upstream.origin, size))
  for (const { lanes, bare } of gateways)
    for (const each of [bare, lanes]) await each.run({ calls: 15_000, ms: quick ? 1500 : 4000 })

  const [smallest, ...larger] = gateways
  for (let i = 0; i < rounds * shortRuns; i++) {
    for (const { lanes, bare, base, mine, bareBase, bareMine } of larger) {
      base.push(await smallest.lanes.cpuPerCall(limits))
      mine.push(await lanes.cpuPerCall(limits))
      bareBase.push(await smallest.bare.cpuPerCall(limits))
      bareMine.push(await bare.cpuPerCall(limits))
    }
    if ((i + 1) % shortRuns > 0) continue
    for (const { gateway } of gateways) await check(gateway)
    round()
  }

  for (const { lanes, bare, gateway, proxy } of gateways) {
    await Promise.all([lanes.close(), bare.close()])
    await Promise.all([gateway.stop(), proxy.stop()])
  }
  await upstream.stop()
  return larger.flatMap(({ measure, base, mine, bareBase, bareMine }) => [
    { measure: `CPU per call, ${measure}`, against: 'the smaller', unit: 'µs', base, mine, bound: 1.15, goal: 1.05 },
    {
      measure: `The same of the bare proxy, ${measure}`,
      against: 'the smaller',
      unit: 'µs',
      base: bareBase,
      mine: bareMine
    }
  ])
}

async function startSize(processes, load, origin, { measure, upstreams, keys, tools }) {
  const servers = manyServers(origin, upstreams, tools)
  const gateway = await startGateway(processes, {
    servers,
    keys: { bench: { secret: '${BENCH_KEY}', allow: '*' }, ...manyKeys(servers, keys) },
    tools: upstreams * (tools + 1)
  })
  const rounds = Math.max(upstreams, keys, tools)
  const call = (i, tool) => callRequest({ era: 'modern', tool, secret: secretOf(i % keys) })
  const all = Array.from({ length: rounds }, (_, i) => i)
  const requests = all.map(i => call(i, `s${i % upstreams}__${toolName(i % tools)}`))
  const lanes = await load.open({ target: gateway, origin: gateway.origin, path: '/mcp', requests })
  const proxy = await processes.serve('bare-proxy', origin)
  const paths = Object.values(servers).map(({ url }) => new URL(url).pathname)
  const bare = await load.open({
    target: proxy,
    origin: proxy.origin,
    requests: all.map(i => ({ ...call(i, toolName(i % tools)), path: paths[i % upstreams] }))
  })
  return { measure, gateway, lanes, proxy, bare, base: [], mine: [], bareBase: [], bareMine: [] }
}

function manyKeys(servers, count) {
  const key = i => ({
    secret: `sha256:${createHash('sha256').update(secretOf(i)).digest('hex')}`,
    allow: Object.fromEntries(Object.keys(servers).map(id => [id, ['tool_*', `!other_${i}`]]))
  })
  return Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, key(i)]))
}
