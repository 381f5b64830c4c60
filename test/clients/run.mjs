/**
 * `npm run test:clients [-- --only claude,codex --verbose]`: the clients people use, from the npm registry, each in an
 * empty HOME, each calling a tool through a real gateway process. The model they talk to is a script on loopback.
 */
import { execFileSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { clients } from './clients.mjs'
import { repository, server, startGateway } from './gateway.mjs'
import { installClient, lastLine } from './install.mjs'
import { run } from './process.mjs'
import { startScriptedModel } from './scripted-model.mjs'

/** Newest of each in November 2026; with a new one, look again at what docs and tests say of that client. */
const pinned = {
  claude: ['@anthropic-ai/claude-code', '2.1.329'],
  codex: ['@openai/codex', '0.169.0'],
  gemini: ['@google/gemini-cli', '0.61.0'],
  opencode: ['opencode-ai', '1.18.33'],
  copilot: ['@github/copilot', '1.0.102'],
  inspector: ['@modelcontextprotocol/inspector', '2.12.0'],
  'inspector-modern': ['@modelcontextprotocol/inspector', '2.12.0']
}
const limit = 120_000

const { values } = parseArgs({ options: { only: { type: 'string' }, verbose: { type: 'boolean' } } })
const chosen = values.only?.split(',') ?? Object.keys(pinned)
const unknown = chosen.filter(id => !(id in pinned))
if (unknown.length > 0) {
  console.error(`no such client: ${unknown.join(', ')}; there are ${Object.keys(pinned).join(', ')}`)
  process.exit(2)
}

const tsc = join(repository, 'node_modules/typescript/bin/tsc')
execFileSync(process.execPath, [tsc, '-b', 'tsconfig.build.json'], { cwd: repository, stdio: ['ignore', 2, 2] })

const folder = mkdtempSync(join(tmpdir(), 'switchboard-test-clients-'))
process.once('exit', () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }))
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(130))

const gateway = await startGateway(folder)
const tally = { passed: 0, failed: 0, skipped: 0 }
const rows = []
for (const id of chosen) {
  const begun = performance.now()
  const { outcome, era = '-', note, details = '' } = await test(id)
  tally[outcome]++
  rows.push([clients[id].title, pinned[id][1], era, `${outcome}: ${onOneLine(note)}`])
  console.error(`${id}: ${outcome} after ${((performance.now() - begun) / 1000).toFixed(1)} s`)
  if (outcome === 'failed' || values.verbose) console.error(details)
}
await gateway.stop()

printTable([['client', 'version', 'era seen', 'result'], ...rows])
console.log(`\n${tally.passed} passed, ${tally.failed} failed, ${tally.skipped} skipped`)
process.exit(tally.failed > 0 ? 1 : 0)

async function test(id) {
  const [name, version] = pinned[id]
  const client = clients[id]
  const [home, project, bin, temporary, trial] = ['home', 'project', 'bin', 'tmp', 'trial'].map(part =>
    join(folder, id, part)
  )
  for (const path of [home, project, bin, temporary, trial]) mkdirSync(path, { recursive: true })
  try {
    await installClient({ package: name, version, ...client }, { bin, home: trial })
  } catch (error) {
    return { outcome: 'skipped', note: error.message }
  }

  const args = { message: `echo-${randomUUID()}` }
  const model = await startScriptedModel({ tool: `${server}__echo`, args })
  const seen = gateway.watch()
  const deadline = Date.now() + limit
  const runs = []
  const PATH = [bin, process.env.PATH].join(delimiter)
  const sh = async (line, env = {}) => {
    const ended = await run('/bin/sh', ['-c', line], {
      cwd: project,
      env: { PATH, HOME: home, TMPDIR: temporary, LANG: 'C.UTF-8', NO_COLOR: '1', ...env },
      limit: deadline - Date.now()
    })
    runs.push({ line, ...ended })
    const command = `"${line.split(' -')[0]}"`
    if (ended.exit === 'overdue')
      throw new Error(`${command} was killed: the ${limit / 1000} s of this client were over`)
    if (ended.exit !== 0)
      throw new Error(`${command} ended with ${ended.exit}: ${lastLine(ended.stderr || ended.stdout)}`)
    return ended.stdout
  }
  const use = async () => {
    const answer = await client.use({ sh, gateway, model, folder: join(folder, id) })
    return findProblem({ answer, called: await settled(seen.audit), model, ...args, ...client })
  }
  const problem = await use().catch(error => error.message)
  model.close()
  const [requests, audit] = [seen.requests(), seen.audit()]
  return {
    outcome: problem ? 'failed' : 'passed',
    era: eraOf(requests),
    note: problem ?? `${audit[0].client} called ${model.seen.called}`,
    details: describe({ runs, model, requests, audit })
  }
}

/** The log is written behind the calls: waits for the first line, and for what may follow it. */
async function settled(audit) {
  for (let tries = 0; tries < 40 && audit().length === 0; tries++) await pause(50)
  await pause(300)
  return audit()
}

function findProblem({ answer, called, model: { seen }, message, audited }) {
  if (!seen.called) return 'the tool was not offered to the model'
  if (!seen.result) return 'no result reached the model'
  if (!seen.result.includes(message)) return `the model got another result: ${seen.result.slice(0, 200)}`
  if (!answer.includes(message)) return 'what the client said in the end does not hold the result'
  if (called.length !== 1) return `${called.length} audit lines instead of one`
  const [{ client = '', server: from, tool, outcome }] = called
  if (from !== server || tool !== 'echo' || outcome !== 'ok' || !client.startsWith(`${audited}/`))
    return `the audit line is ${JSON.stringify(called[0])}`
}

/** As the call shows it, or if it carries no version, as the handshake asked. */
function eraOf(requests) {
  const call = requests.find(({ method }) => method === 'tools/call')
  const version = call?.version ?? requests.find(({ asks }) => asks)?.asks
  if (version === undefined) return undefined
  return `${version >= '2026' ? 'modern' : 'legacy'} ${version}${call && !call.version ? ' (no header)' : ''}`
}

function describe({ runs, model, requests, audit }) {
  const ends = runs.flatMap(({ line, exit, stdout, stderr }) => [
    `$ ${line}\n[${exit}]`,
    stdout.slice(-2000),
    stderr.slice(-2000)
  ])
  const asked = requests.map(
    ({ verb, path, method = '', version = '-', status }) => `${verb} ${path} ${method} ${version} -> ${status}`
  )
  return [
    ...ends,
    ...['gateway:', ...asked],
    ...['audit:', ...audit.map(line => JSON.stringify(line))],
    ...['model:', ...model.requests]
  ]
    .flatMap(text => text.trim().split('\n'))
    .map(line => `    ${line}`)
    .join('\n')
    .replaceAll(gateway.key, '<key>')
}

function onOneLine(text) {
  return text.replace(/\s+/g, ' ').trim().replaceAll(gateway.key, '<key>')
}

function printTable(lines) {
  const widths = lines[0].map((_, at) => Math.max(...lines.map(line => line[at].length)))
  const text = line => line.map((cell, at) => cell.padEnd(widths[at])).join(' | ')
  for (const line of lines) console.log(text(line).trimEnd())
}
