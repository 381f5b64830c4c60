/**
 * `npm run conformance [-- --only <scenario,…> --version <v,…> --upstream <name,…> --verbose]`: the official suite against
 * a server directly, and through a gateway in front of servers of every kind. README.md says what is what.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { installSuite } from './install.mjs'
import { startBehindGateway, startDirect, upstreamNames } from './sides.mjs'
import { runSuite } from './suite.mjs'
import { complaints, createJudge, summarise } from './verdict.mjs'

const allVersions = ['2025-03-26', '2025-06-18', '2025-11-25', '2026-07-28']

const option = { type: 'string' }
const { values } = parseArgs({
  options: { only: option, version: option, upstream: option, verbose: { type: 'boolean' } }
})
const versions = choose('version', allVersions)
const upstreams = choose('upstream', upstreamNames)
const only = values.only?.split(',')

const folder = mkdtempSync(join(tmpdir(), 'switchboard-conformance-'))
process.once('exit', () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }))
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(130))

const judge = createJudge()
const tally = { passed: 0, expected: 0 }
const problems = []

const suite = await installSuite()
const direct = await runSide('direct', startDirect)
const behind = new Map()
for (const name of upstreams) {
  const run = runSide(name, () => startBehindGateway(name, join(folder, name)))
  behind.set(name, await run.catch(error => void problems.push(`${name}: ${error.message}`)))
}

for (const version of versions) report(version)
if (!values.only && !values.version && !values.upstream) {
  for (const entry of judge.unmet())
    problems.push(`expected-failures.json names what there is not: ${JSON.stringify(entry)}`)
}
if (tally.passed + tally.expected + problems.length === 0) problems.push('nothing was run')
for (const problem of problems) console.log(`FAILED ${problem}`)
console.log(`\n${tally.passed} passed, ${problems.length} failed, ${tally.expected} expected failures`)
process.exitCode = problems.length > 0 ? 1 : 0

/** Runs all versions against one side. @returns by version: by scenario: its checks */
async function runSide(name, begin) {
  const begun = performance.now()
  const side = await begin()
  const results = new Map()
  try {
    for (const version of versions) {
      const ofVersion = join(folder, `${name}-${version}`)
      results.set(version, await runSuite(suite, { url: side.url, version, only, folder: ofVersion }))
    }
  } finally {
    await side.stop()
    if (values.verbose) console.error(side.log())
    console.error(`${name}: ${((performance.now() - begun) / 1000).toFixed(1)} s`)
  }
  return results
}

/** Prints each scenario with its checks, direct beside gateway, and counts. */
function report(version) {
  const scenarios = direct.get(version)
  if (scenarios.size === 0) return
  printRow(`\n${version}`, ['direct', ...upstreams])
  for (const [scenario, checks] of scenarios) {
    const columns = upstreams.map(name => behind.get(name)?.get(version).get(scenario) ?? [])
    const place = { version, scenario }
    printRow(scenario, [
      conclude({ ...place, upstream: 'direct' }, { wrong: complaints(checks) }),
      ...upstreams.map((upstream, at) => {
        const here = { ...place, upstream }
        return conclude(here, judge.compare(columns[at], checks, here))
      })
    ])
    const summaries = [checks, ...columns].map(summarise)
    for (const id of new Set(summaries.flatMap(summary => [...summary.keys()]))) {
      const cells = summaries.map(summary => abbreviate(summary.get(id) ?? '-'))
      printRow(`    ${id}`, cells)
    }
  }
}

/** Counts one scenario on one side. @returns the word for its cell */
function conclude({ version, scenario, upstream }, { wrong, expected }) {
  const title = `${version} ${upstream} ${scenario}`
  const details = wrong.map(line => `\n    ${line}`).join('')
  if (!expected && wrong.length === 0) {
    tally.passed++
    return 'passed'
  }
  if (!expected) {
    problems.push(`${title}${details}`)
    return 'FAILED'
  }
  if (wrong.length === 0) {
    problems.push(`${title} now passes: remove it from the list (${expected.reason})`)
    return 'NOW PASSES'
  }
  tally.expected++
  if (values.verbose) console.error(`expected: ${title}: ${expected.reason}${details}`)
  return 'expected'
}

function printRow(title, cells) {
  const width = title.startsWith('\n') ? 65 : 64
  console.log(`${title.padEnd(width)}${cells.map(cell => cell.padEnd(11)).join('')}`.trimEnd())
}

function abbreviate(summary) {
  const short = { SUCCESS: 'ok', FAILURE: 'FAIL', WARNING: 'WARN', INFO: 'info', SKIPPED: 'skip' }
  return summary.replace(/[A-Z]+/g, status => short[status] ?? status)
}

function choose(name, all) {
  const chosen = values[name]?.split(',') ?? all
  const unknown = chosen.filter(each => !all.includes(each))
  if (unknown.length === 0) return chosen
  console.error(`no such ${name}: ${unknown.join(', ')}; there are ${all.join(', ')}`)
  process.exit(2)
}
