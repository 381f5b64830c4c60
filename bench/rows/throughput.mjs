/**
 * Calls per second through 32 connections, against each peer in front of the same stdio upstream. Generator, gateway and
 * upstream share the machine's cores, as they would on a small server; whoever is not measured is idle.
 */
import { secret, startGateway } from '../lib/gateway.mjs'
import { callRequest, sessionOf } from '../lib/load.mjs'
import { peers, startPeer, versions } from '../lib/peers.mjs'
import { median } from '../lib/report.mjs'
import { toolName } from '../servers/offer.mjs'
import { callServers } from './calls.mjs'

export async function throughput({ quick, rounds, processes, load, check, round }) {
  const ms = quick ? 400 : 2500
  const { stdio } = callServers('')
  const gateway = await startGateway(processes, { servers: { stdio }, tools: 11 })
  const ours = await load.open({
    target: gateway,
    origin: gateway.origin,
    path: '/mcp',
    session: sessionOf({ era: 'legacy', secret }),
    requests: [callRequest({ era: 'legacy', tool: `stdio__${toolName(0)}`, secret })]
  })
  const started = []
  const others = []
  for (const peer of peers) {
    const target = await startPeer(processes, peer)
    started.push(target)
    for (const { how, job } of peer.doors) {
      const lanes = await load.open({ target, origin: target.origin, ...job })
      others.push({ name: `${peer.name} ${versions[peer.name]}, ${how}`, lanes, base: [] })
    }
  }
  for (const lanes of [ours, ...others.map(other => other.lanes)]) await lanes.run({ ms: quick ? 1500 : 3000 })

  const mine = []
  const perSecond = async lanes => {
    const { calls, seconds } = await lanes.run({ ms })
    return calls / seconds
  }
  for (let i = 0; i < rounds; i++) {
    const middle = (i * 2 + 1) % (others.length + 1)
    for (const [at, { lanes, base }] of others.entries()) {
      if (at === middle) mine.push(await perSecond(ours))
      base.push(await perSecond(lanes))
    }
    if (middle === others.length) mine.push(await perSecond(ours))
    await check(gateway)
    round()
  }

  for (const lanes of [ours, ...others.map(other => other.lanes)]) await lanes.close()
  await Promise.all([gateway, ...started].map(each => each.stop()))
  const fastest = Math.max(...others.map(({ base }) => median(base)))
  return others.map(({ name, base }) => ({
    measure: 'Throughput, stdio upstream',
    against: name,
    unit: 'calls/s',
    base,
    mine,
    higher: true,
    // What is asked is the ratio to the fastest.
    ...(median(base) === fastest && { measure: 'Throughput, stdio upstream, the fastest peer', bound: 3, goal: 6 })
  }))
}
