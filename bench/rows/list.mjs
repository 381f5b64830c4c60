/** A warm `tools/list` of 10,000 tools over 100 upstreams: CPU of all its pages against `node:http` writing their bytes. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { listPages, secret, startGateway } from '../lib/gateway.mjs'
import { listRequest, sessionOf } from '../lib/load.mjs'

const upstreams = 100
const toolsEach = 99 // and the big one

export async function list({ quick, rounds, processes, load, check, round }) {
  const limits = { ms: quick ? 500 : 1500 }
  const upstream = await processes.serve('raw-http')
  const gateway = await startGateway(processes, {
    servers: manyServers(upstream.origin, upstreams, toolsEach),
    tools: 10_000
  })
  const pages = await listPages(gateway.origin)
  const folder = processes.folder()
  pages.forEach(({ text }, i) => writeFileSync(join(folder, String(i)), text))
  const memory = await processes.serve('memory', folder)

  const requests = pages.map(({ cursor }) => listRequest({ secret, cursor }))
  const job = { lanes: 8, expected: '"tools":[', session: sessionOf({ era: 'legacy', secret }) }
  const written = await load.open({
    ...job,
    target: memory,
    origin: memory.origin,
    path: '/0',
    withId: false,
    requests: requests.map(({ headers, body }, i) => ({ path: `/${i}`, headers, body: `{${body}` }))
  })
  const target = { pid: gateway.pid }
  const served = await load.open({ ...job, target, origin: gateway.origin, path: '/mcp', requests })
  const perWalk = async lanes => ((await lanes.cpuPerCall(limits)) * pages.length) / 1000
  for (const lanes of [written, served]) await lanes.run({ calls: 20 * pages.length, ms: 1500 })

  const [base, mine] = [[], []]
  for (let i = 0; i < rounds; i++) {
    base.push(await perWalk(written))
    mine.push(await perWalk(served))
    await check(gateway)
    round()
  }

  await Promise.all([written.close(), served.close()])
  await Promise.all([gateway, memory, upstream].map(each => each.stop()))
  const megabytes = pages.reduce((sum, { text }) => sum + text.length, 0) / 1e6
  return [
    {
      measure: `CPU of a warm tools/list: 10,000 tools of 100 upstreams, ${pages.length} pages, ${megabytes.toFixed(1)} MB`,
      against: 'the same bytes from memory',
      unit: 'ms',
      base,
      mine,
      bound: 3,
      goal: 1.2
    }
  ]
}

/** So many upstreams in one process, each with `tools` usual tools and the big one. */
export function manyServers(origin, count, tools) {
  const server = i => ({ url: `${origin}/legacy/${tools}/${i}`, transport: 'http', era: 'legacy', concurrency: 64 })
  return Object.fromEntries(Array.from({ length: count }, (_, i) => [`s${i}`, server(i)]))
}
