/** Whether a call costs the same however many upstreams, keys and tools there are: CPU per call against the smallest. */
import { createHash } from 'node:crypto'
import { startGateway } from '../lib/gateway.mjs'
import { callRequest } from '../lib/load.mjs'
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
  const limits = quick ? { calls: 6000, ms: 500 } : { calls: 25_000, ms: 2500 }
  const upstream = await processes.serve('raw-http')
  const gateways = []
  for (const size of sizes) gateways.push(await startSize(processes, load, upstream.origin, size))
  for (const { lanes } of gateways) await lanes.run({ calls: 15_000, ms: quick ? 1500 : 4000 })

  const [smallest, ...larger] = gateways
  for (let i = 0; i < rounds; i++) {
    for (const { lanes, base, mine } of larger) {
      base.push(await smallest.lanes.cpuPerCall(limits))
      mine.push(await lanes.cpuPerCall(limits))
    }
    for (const { gateway } of gateways) await check(gateway)
    round()
  }

  for (const { lanes, gateway } of gateways) {
    await lanes.close()
    await gateway.stop()
  }
  await upstream.stop()
  return larger.map(({ measure, base, mine }) => ({
    measure: `CPU per call, ${measure}`,
    against: 'the smaller',
    unit: 'µs',
    base,
    mine,
    bound: 1.15,
    goal: 1.05
  }))
}

async function startSize(processes, load, origin, { measure, upstreams, keys, tools }) {
  const servers = manyServers(origin, upstreams, tools)
  const gateway = await startGateway(processes, {
    servers,
    keys: { bench: { secret: '${BENCH_KEY}', allow: '*' }, ...manyKeys(servers, keys) },
    tools: upstreams * (tools + 1)
  })
  const rounds = Math.max(upstreams, keys, tools)
  const requests = Array.from({ length: rounds }, (_, i) =>
    callRequest({ era: 'modern', tool: `s${i % upstreams}__${toolName(i % tools)}`, secret: secretOf(i % keys) })
  )
  const lanes = await load.open({ target: gateway, origin: gateway.origin, path: '/mcp', requests })
  return { measure, gateway, lanes, base: [], mine: [] }
}

function manyKeys(servers, count) {
  const key = i => ({
    secret: `sha256:${createHash('sha256').update(secretOf(i)).digest('hex')}`,
    allow: Object.fromEntries(Object.keys(servers).map(id => [id, ['tool_*', `!other_${i}`]]))
  })
  return Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, key(i)]))
}
