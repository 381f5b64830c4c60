/**
 * `npm run bench`: measures what design.md, section 7, asks for and prints one table. Everything runs on loopback, ends
 * by itself, and only what was started here is ended.
 *
 *   --quick       fewer rounds and calls: under two minutes
 *   --only ROW    call, stdio, throughput, list, flat, start or memory
 *   --rounds N    instead of 4 (quick) or 7
 *   --json FILE   every round of every row
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { createLoad } from './lib/load.mjs'
import { createProcesses } from './lib/processes.mjs'
import { judge, machine, table } from './lib/report.mjs'
import { calls } from './rows/calls.mjs'
import { flat } from './rows/flat.mjs'
import { list } from './rows/list.mjs'
import { memory } from './rows/memory.mjs'
import { start } from './rows/start.mjs'
import { throughput } from './rows/throughput.mjs'

const rows = {
  call: calls,
  stdio: calls,
  throughput,
  list,
  flat,
  start,
  memory
}

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    rounds: { type: 'string' },
    json: { type: 'string' }
  }
})
const { quick, only } = values
const rounds = Number(values.rounds ?? (quick ? 4 : 7))
if ((only !== undefined && !Object.hasOwn(rows, only)) || !Number.isInteger(rounds) || rounds < 1) {
  console.error(`--only takes one of ${Object.keys(rows).join(', ')}; --rounds a whole number from 1`)
  process.exit(2)
}

const processes = createProcesses()
const load = createLoad()
process.once('exit', () => processes.kill())
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))
const overdue = setTimeout(
  () => {
    console.error('The bench did not end in time.')
    process.exit(1)
  },
  (quick ? 5 : 20) * 60_000
)

const faults = []
let checks = 0
let counters = true
/** After a round: calls made, audit lines and counters must be the same number. */
async function check(gateway) {
  const { calls, lines, counted } = await gateway.verify()
  checks++
  if (counted === undefined) counters = false
  if (lines !== calls || (counted ?? calls) !== calls)
    faults.push(`${calls} calls were made, ${lines} audit lines written, ${counted ?? 'none'} counted`)
}

const begun = performance.now()
const judged = []
try {
  for (const measure of new Set(only === undefined ? Object.values(rows) : [rows[only]])) {
    process.stderr.write(`${measure.name} `)
    const since = performance.now()
    const round = () => process.stderr.write('.')
    const measured = await measure({ only, quick, rounds, processes, load, check, round })
    judged.push(...measured.map(judge))
    process.stderr.write(` ${Math.round((performance.now() - since) / 1000)} s\n`)
  }
} finally {
  clearTimeout(overdue)
  await load.stop()
  await processes.close()
}

console.log(`\n${table(judged)}\n`)
console.log(`${machine()}; medians (lowest–highest) of ${rounds} interleaved rounds, ${quick ? 'quick' : 'full'} run`)
console.log(`of ${Math.round((performance.now() - begun) / 1000)} s.`)
const compared = counters ? 'Counters, audit lines and calls made' : 'Audit lines and calls made (there is no /metrics)'
console.log(faults.length === 0 ? `${compared} were equal after each of ${checks} rounds.` : faults.join('\n'))
if (values.json !== undefined)
  writeFileSync(
    values.json,
    JSON.stringify({ machine: machine(), quick, rounds, rows: judged, faults }, null, 2) + '\n'
  )
// What is slow is printed, never a failure: the machine has its part in it.
process.exitCode = faults.length > 0 ? 1 : 0
