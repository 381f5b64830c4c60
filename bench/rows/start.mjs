/** From the start of the process until it answers, with a cached catalog and every upstream dead. */
import { once } from 'node:events'
import { get } from 'node:http'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { spawnGateway, startGateway } from '../lib/gateway.mjs'
import { freePort } from '../lib/processes.mjs'
import { median } from '../lib/report.mjs'
import { manyServers } from './list.mjs'

const sizes = [
  { what: '10 upstreams, 200 tools', upstreams: 10, tools: 19 },
  { what: '100 upstreams, 10,000 tools', upstreams: 100, tools: 99 }
]

export async function start({ quick, processes, round }) {
  const starts = quick ? 4 : 12
  const rows = []
  for (const { what, upstreams, tools } of sizes) {
    const upstream = await processes.serve('raw-http')
    const servers = manyServers(upstream.origin, upstreams, tools)
    const { home, stop } = await startGateway(processes, { servers, tools: upstreams * (tools + 1) })
    await sleep(1000) // for signal handlers and the cache on disk
    await stop()
    await upstream.stop()
    const [boots, accepting, answering] = [[], [], []]
    for (let i = 0; i < starts; i++) {
      boots.push(await bootOfNode(processes))
      const { accepts, answers } = await timeStart(processes, home)
      accepting.push(accepts)
      answering.push(answers)
      round()
    }
    const ours = answering.map((ms, i) => ms - boots[i])
    rows.push({
      measure: `Process start to first answer, catalog cached, every upstream dead: ${what}`,
      against: `Node itself ${whole(boots)} ms, ours ${whole(ours)} ms; port open after ${whole(accepting)} ms`,
      unit: 'ms',
      mine: answering,
      bound: 500,
      goal: 250
    })
  }
  return rows
}

const whole = values => median(values).toFixed(0)

async function bootOfNode(processes) {
  const begun = performance.now()
  await once(processes.start(['-e', '0']), 'exit')
  return performance.now() - begun
}

/** Milliseconds until the port takes a connection, and until /healthz answers: the first may come long before. */
async function timeStart(processes, home) {
  const port = await freePort()
  const begun = performance.now()
  const child = spawnGateway(processes, home, { port })
  const since = () => performance.now() - begun
  while (!(await takesConnection(port))) {
    if (child.exitCode !== null || since() > 20_000)
      throw new Error(`the gateway does not listen; its log: ${home.log}`)
    await sleep(2)
  }
  const accepts = since()
  const [{ statusCode }] = await once(get({ host: '127.0.0.1', port, path: '/healthz', agent: false }), 'response')
  const answers = since()
  if (statusCode !== 200) throw new Error(`/healthz: HTTP ${statusCode}`)
  await processes.stop(child)
  return { accepts, answers }
}

function takesConnection(port) {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    socket.once('error', () => resolve(false))
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
  })
}
