/** What one result of 10 MB costs in memory while it is relayed: the gateway's peak above what it held before. */
import { request } from 'undici'
import { listPages, secret, startGateway } from '../lib/gateway.mjs'
import { callRequest, sessionOf } from '../lib/load.mjs'
import { memoryOf, resetPeak } from '../lib/processes.mjs'
import { bigBytes, bigTool, toolName } from '../servers/offer.mjs'
import { callServers } from './calls.mjs'

export async function memory({ quick, rounds, processes, load, check, round }) {
  const upstream = await processes.serve('raw-http')
  const { http, stdio } = callServers(upstream.origin)
  const rows = Object.entries({ http, stdio }).map(([server, config]) => ({ server, config, mine: [] }))
  // A process of its own for each result: the heap does not shrink to where it was.
  for (let i = 0; i < Math.min(rounds, quick ? 2 : 7); i++) {
    for (const { server, config, mine } of rows) mine.push(await measure({ server, config, processes, load, check }))
    round()
  }
  await upstream.stop()
  return rows.map(({ server, mine }) => ({
    measure: `Peak memory of relaying a result of 10 MB, ${server} upstream`,
    against: `the bytes themselves: ${bigBytes / 1024 / 1024} MiB`,
    unit: '× above them',
    mine,
    bound: 6,
    goal: 1
  }))
}

async function measure({ server, config, processes, load, check }) {
  const gateway = await startGateway(processes, { servers: { [server]: config }, tools: 11 })
  const lanes = await load.open({
    lanes: 4,
    target: gateway,
    origin: gateway.origin,
    path: '/mcp',
    session: sessionOf({ era: 'legacy', secret }),
    requests: [callRequest({ era: 'legacy', tool: `${server}__${toolName(0)}`, secret })]
  })
  await lanes.run({ calls: 2000 })
  const { session } = await listPages(gateway.origin)
  const before = memoryOf(gateway.pid).now
  resetPeak(gateway.pid)
  const bytes = await callBig(gateway, `${server}__${bigTool}`, session)
  const { peak } = memoryOf(gateway.pid)
  if (bytes < bigBytes) throw new Error(`expected a result of ${bigBytes} bytes, got ${bytes}`)
  await check(gateway)
  await lanes.close()
  await gateway.stop()
  return (peak - before - bigBytes) / bigBytes
}

/** Reads the result as it comes and keeps none of it. */
async function callBig(gateway, tool, session) {
  const { headers, body } = callRequest({ era: 'legacy', tool, secret })
  gateway.made(1)
  const response = await request(`${gateway.origin}/mcp`, {
    method: 'POST',
    headers: [...headers, 'mcp-session-id', session],
    body: `{"jsonrpc":"2.0","id":1,${body}`
  })
  let bytes = 0
  for await (const chunk of response.body) bytes += chunk.length
  if (response.statusCode !== 200) throw new Error(`HTTP ${response.statusCode}`)
  return bytes
}
