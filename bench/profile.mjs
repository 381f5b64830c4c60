/**
 * The first row of the bench with the gateway under `node --cpu-prof`: the functions that take the most time themselves,
 * in microseconds per call, from the measured part alone.
 *
 *   --era legacy|modern   the client's (legacy)
 *   --server http|modern|stdio   the upstream's (http)
 *   --calls N             (40000)
 *   --top N               (25)
 *   --callers             for each function, who called it
 *   --keep FILE           keep the .cpuprofile
 */
import { copyFileSync, readdirSync, readFileSync } from 'node:fs'
import { setPriority } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { secret, startGateway } from './lib/gateway.mjs'
import { callRequest, createLoad, sessionOf } from './lib/load.mjs'
import { cpuMs, createProcesses, mainThreadMs } from './lib/processes.mjs'
import { machine, median } from './lib/report.mjs'
import { callServers } from './rows/calls.mjs'
import { toolName } from './servers/offer.mjs'

const { values } = parseArgs({
  options: {
    era: { type: 'string', default: 'legacy' },
    server: { type: 'string', default: 'http' },
    calls: { type: 'string', default: '40000' },
    top: { type: 'string', default: '25' },
    callers: { type: 'boolean', default: false },
    keep: { type: 'string' }
  }
})
const { era, server, callers, keep } = values
const calls = Number(values.calls)

const processes = createProcesses()
const load = createLoad()
process.once('exit', () => processes.kill())
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))
const folder = processes.folder()

try {
  const upstream = await processes.serve('raw-http')
  // Whoever is woken by a write takes the core from the writer, and the profiler counts that as writing.
  for (const { pid } of [upstream, load]) setPriority(pid, 19)
  const { [server]: one } = callServers(upstream.origin)
  const execArgv = ['--cpu-prof', '--cpu-prof-interval', '200', '--cpu-prof-dir', folder]
  const gateway = await startGateway(processes, { servers: { [server]: one }, tools: 11, execArgv })
  const lanes = await load.open({
    target: gateway,
    origin: gateway.origin,
    path: '/mcp',
    session: sessionOf({ era, secret }),
    requests: [callRequest({ era, tool: `${server}__${toolName(0)}`, secret })]
  })
  await lanes.run({ calls: Math.min(calls, 10_000) })
  const before = { all: cpuMs(gateway.pid), main: mainThreadMs(gateway.pid), at: monotonicUs() }
  await lanes.run({ calls })
  const all = cpuMs(gateway.pid) - before.all
  const main = mainThreadMs(gateway.pid) - before.main
  const until = monotonicUs()
  await lanes.close()
  await gateway.stop()

  const [name] = readdirSync(folder).filter(file => file.endsWith('.cpuprofile'))
  const profile = JSON.parse(readFileSync(join(folder, name), 'utf8'))
  if (keep !== undefined) copyFileSync(join(folder, name), keep)
  report(profile, { from: before.at, until, all, main })
} finally {
  await load.stop()
  await processes.close()
}

/** V8 stamps samples with the monotonic clock. */
function monotonicUs() {
  return Number(process.hrtime.bigint() / 1000n)
}

function report(profile, { from, until, all, main }) {
  const { functions, total } = selfTimes(profile, from, until)
  const perCall = ms => ((ms * 1000) / calls).toFixed(1)
  // Samples say where the time went, /proc how much it was.
  const share = us => (((us / total) * main * 1000) / calls).toFixed(2).padStart(7)
  console.log(`${machine()}; ${era} client, ${server} upstream, ${calls} calls, profiler on`)
  console.log(
    `CPU per call ${perCall(all)} µs: main thread ${perCall(main)} µs (below), other threads ${perCall(all - main)} µs\n`
  )
  const ranked = [...functions.values()].sort((a, b) => b.us - a.us)
  for (const { name, us, by } of ranked.slice(0, Number(values.top))) {
    console.log(`${share(us)} µs  ${name}`)
    if (!callers) continue
    const ways = [...by].sort(([, a], [, b]) => b - a).slice(0, 4)
    for (const [caller, part] of ways) console.log(`${share(part)}        ← ${caller}`)
  }
  console.log('\nBy place')
  const places = new Map()
  for (const { place, us } of ranked) places.set(place, (places.get(place) ?? 0) + us)
  for (const [place, us] of [...places].sort(([, a], [, b]) => b - a).slice(0, 25))
    console.log(`${share(us)} µs  ${place}`)
}

/**
 * Self time by function over the samples between two moments. A sample that comes late shows where the process lost its
 * core to another one, mostly inside a write that woke it: such samples are left out.
 */
function selfTimes({ nodes, samples, timeDeltas, startTime }, from, until) {
  const byId = new Map(nodes.map(node => [node.id, node]))
  const parents = new Map(nodes.flatMap(({ id, children = [] }) => children.map(child => [child, id])))
  const functions = new Map()
  let at = startTime
  let total = 0
  const late = 1.2 * median(timeDeltas)
  samples.forEach((id, i) => {
    const us = timeDeltas[i]
    at += us
    if (at < from || at > until || us > late) return
    const { name, place } = shown(byId.get(id))
    if (name === '(idle)') return
    const entry = functions.get(name) ?? { name, place, us: 0, by: new Map() }
    functions.set(name, entry)
    entry.us += us
    total += us
    const parent = byId.get(parents.get(id))
    const caller = parent ? shown(parent).name : '(root)'
    entry.by.set(caller, (entry.by.get(caller) ?? 0) + us)
  })
  return { functions, total }
}

/** A function with where it stands: the file of ours, or the package, or the part of Node. */
function shown({ callFrame: { functionName, url, lineNumber } }) {
  const name = functionName || '(anonymous)'
  if (url === '') return { name, place: name.startsWith('(') ? name : '(native)' }
  const [, inPackage] = /^.*\/node_modules\/(.*)$/.exec(url) ?? []
  const file = inPackage ?? url.replace(/^.*\/(?=dist\/)/, '')
  const place = inPackage === undefined ? file : /^(?:@[^/]+\/)?[^/]+/.exec(inPackage)[0]
  return { name: `${name} ${file}:${lineNumber + 1}`, place }
}
