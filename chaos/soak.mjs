/**
 * `npm run soak`: what must not add up. Sessions that nobody ends, reloads of servers.yaml and deaths of upstreams, as many
 * as in months of use, under calls that must not notice; then the gateway must hold what it held in the beginning.
 *
 *   --sessions N   abandoned sessions of the 2025 era (default 10,000)
 *   --reloads N    changes of servers.yaml (default 200)
 *   --restarts N   SIGKILLs of upstreams (default 100)
 *   --seconds N    calls go on for so long at least (default 60); the run is given up after ten times that, or ten minutes
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { createLogReader, readLedger } from './lib/ledger.mjs'
import { createProcesses, heldBy, until } from './lib/processes.mjs'
import { compare, count, mib, slope, table } from './lib/report.mjs'
import { bystanderKey, createWorld, timeouts, untilAnswering } from './lib/setup.mjs'
import { judge } from './lib/verdict.mjs'
import { watch } from './lib/watch.mjs'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    sessions: { type: 'string', default: '10000' },
    reloads: { type: 'string', default: '200' },
    restarts: { type: 'string', default: '100' }
  }
})
const [seconds, sessions, reloads, restarts] = ['seconds', 'sessions', 'reloads', 'restarts'].map(name =>
  Number(values[name])
)
if (!(seconds >= 1) || [sessions, reloads, restarts].some(each => !Number.isInteger(each) || each < 0)) {
  console.error('--seconds takes a number from 1, --sessions, --reloads and --restarts whole ones from 0')
  process.exit(2)
}

const heldAtMost = 30 * 1024 * 1024
const answerAfterMs = 30_000
const graceMs = 1000

console.log(`soak: ${count(sessions)} sessions, ${reloads} reloads, ${restarts} restarts, at least ${seconds} s`)
const processes = createProcesses()
const log = createLogReader(join(processes.folder, 'log'))
process.once('exit', () => processes.kill())
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))
const longest = Math.max(seconds * 10, 600)
setTimeout(() => fail(`it is not over after ${longest} s`), longest * 1000).unref()

const breaches = []
const records = []
const tallies = { lost: 0, doubled: 0, misdelivered: 0 }
const world = await createWorld(processes)
const { missing: neverCame } = await untilAnswering(world, answerAfterMs, 'first')
if (neverCame.length > 0) fail(`${neverCame.join(', ')} never answered`)
await sleep(1000)
const held = async () => ({ processes: processes.marked().length, ...(await heldBy(world.gateway)) })
const before = await held()
const watched = watch(world.gateway.pid)
const started = Date.now()

const abandoned = await abandonSessions()
const killed = { list: [], worst: 0 }
const applied = { byWatch: 0, byHangUp: 0, rejected: 0, worst: 0 }
let working = true
const callers = Promise.all(
  ['ann', 'ben', 'cleo', 'eve', bystanderKey].flatMap(key =>
    ['legacy', 'modern', 'sse'].map((door, index) => callOn({ key, door, index }))
  )
)
await Promise.all([reload(), ...[0, 1, 2].map(kill)])
await sleep(Math.max(0, started + seconds * 1000 - Date.now()))
working = false
for (const client of await callers) client.close()
watched.stop()

const { took, missing } = await untilAnswering(world, answerAfterMs, 'last')
if (missing.length > 0) breaches.push(`never answered again: ${missing.join(', ')}`)
const revived = await reviveSome()
let after
const own = { heap: heldAtMost }
await until(async () => compare(before, (after = await held()), own).breaches.length === 0, 20_000, 500)
const compared = compare(before, after, own)
breaches.push(...compared.breaches)
const code = await processes.stop(world.gateway)
if (code !== 0) breaches.push(`the gateway ended with exit code ${code}`)
if (!(await until(() => processes.marked().length === 0, 3000))) {
  breaches.push(`processes were left behind: ${processes.marked().join(', ')}`)
  for (const pid of processes.marked()) process.kill(Number(pid), 'SIGKILL')
}
const ledger = readLedger(join(processes.folder, 'ledger'))
log.read()
for (const line of log.faults) breaches.push(`the gateway: ${line}`)
for (const script of processes.bugs) breaches.push(`${script} has a bug of its own`)
judgeAccounts()
report()
world.close()
await processes.close()
process.exit(breaches.length > 0 ? 1 : 0)

/** Opens sessions and leaves them: some say that they are ready, some list, some lose their stream. None is ended. */
async function abandonSessions() {
  const began = Date.now()
  let left = sessions
  const kept = []
  async function lane(index) {
    const client = await world.client({
      door: 'legacy',
      key: ['ann', 'cleo', 'eve'][index % 3],
      wire: index % 2 ? 'bare' : 'undici'
    })
    while (left-- > 0) {
      await client.reopen()
      if (left % 5 === 0) await client.list()
      if (left % 10 === 0 && index % 2 === 0) (await client.listen()).destroy()
      if (left % 500 === 0) kept.push({ key: ['ann', 'cleo', 'eve'][index % 3], session: client.session() })
    }
    client.close()
  }
  await Promise.all(Array.from({ length: 8 }, (_, index) => lane(index)))
  await sleep(500)
  const { heap, rss } = await heldBy(world.gateway)
  const memory = heap - before.heap
  if (memory > heldAtMost) breaches.push(`${sessions} abandoned sessions hold ${mib(memory)}`)
  return { memory, rss: rss - before.rss, ms: Date.now() - began, kept }
}

/** Their ids are as good as on the first day, whatever the gateway has forgotten. */
async function reviveSome() {
  let answered = 0
  for (const [index, { key, session }] of abandoned.kept.entries()) {
    const client = await world.client({ door: 'legacy', key, wire: 'undici', session })
    const nonce = `n-${key}-${900 + index}-revived`
    const { id, outcome } = client.call('h2__work', { nonce }, {})
    const verdict = judge({ id, nonce, outcome: await outcome })
    if (verdict.state === 'ok') answered++
    else breaches.push(`an abandoned session was not found again: ${JSON.stringify(verdict)}`)
    client.close()
  }
  return answered
}

async function callOn({ key, door, index }) {
  const client = await world.client({
    door,
    key,
    wire: door === 'sse' ? 'undici' : ['bare', 'undici', 'fetch'][index % 3]
  })
  for (let turn = 1; working; turn++) {
    const server = world.may[key][turn % world.may[key].length]
    const nonce = `n-${key}-${index}-${turn}`
    const record = { nonce, key, server: server.id, started: Date.now() }
    records.push(record)
    const { id, outcome } = client.call(`${server.id}__work`, { nonce, hold: 20 }, {})
    Object.assign(record, judge({ id, nonce, outcome: await outcome }), { ended: Date.now() })
    await sleep(20)
  }
  return client
}

/** Changes what servers.yaml says of one thing after another, and now and then breaks the file. */
async function reload() {
  const original = structuredClone(world.config)
  const { servers, keys } = world.config
  const changes = [
    // Starts a server anew beside the old one.
    turn => {
      const { id } = world.frail[(turn >> 2) % world.frail.length]
      servers[id].max_timeout = servers[id].max_timeout === 5 ? 4 : 5
      fresh(id)
    },
    // Concerns the catalog only.
    turn => (servers.b1.description = `as of turn ${turn}`),
    // What a key may use.
    turn => (keys.dan.allow = turn & 4 ? '*' : original.keys.dan.allow),
    // A server comes and goes.
    turn => {
      if (turn & 4) servers.guest = { ...servers.s1, description: 'a guest' }
      else delete servers.guest
    }
  ]
  // The last one takes everything back.
  for (let turn = 0; turn < reloads - 1; turn++) {
    if (turn % 20 === 10) {
      const rejected = occurrences('config.rejected')
      world.writeText('servers: { broken: [')
      if (await until(() => occurrences('config.rejected') > rejected, 10_000, 20)) applied.rejected++
      else breaches.push('a broken file was not rejected')
    }
    await change(() => changes[turn % 4](turn), turn % 4 === 1)
  }
  if (reloads === 0) return
  await change(() => {
    for (const id of Object.keys(original.servers)) servers[id] = original.servers[id]
    delete servers.guest
    keys.dan.allow = original.keys.dan.allow
  }, false)

  async function change(act, byWatch) {
    const done = occurrences('config.applied')
    act()
    const written = Date.now()
    world.write({ servers, keys })
    if (!byWatch) world.gateway.kill('SIGHUP')
    if (!(await until(() => occurrences('config.applied') > done, 10_000, 10)))
      return breaches.push('a change of servers.yaml was not taken over')
    applied.worst = Math.max(applied.worst, Date.now() - written)
    applied[byWatch ? 'byWatch' : 'byHangUp']++
  }
}

/** Deaths since a server was started from scratch: one that dies too often is left alone for ten seconds. */
function fresh(id) {
  for (const death of killed.list) if (death.id === id) death.forgotten = true
}

/** Ends one upstream after another, and waits until it answers again. */
async function kill(lane) {
  const client = await world.client({ door: 'modern', key: 'ann', wire: 'undici' })
  const mine = world.frail.filter((_, index) => index % 3 === lane)
  for (let turn = 0; killed.list.length < restarts; turn++) {
    const deaths = ({ id }) => killed.list.filter(death => death.id === id && !death.forgotten).length
    const { id } = mine.reduce((a, b) => (deaths(b) < deaths(a) ? b : a), mine[turn % mine.length])
    const death = { id, at: Date.now(), until: Infinity }
    killed.list.push(death)
    if (!world.kill(id)) {
      killed.list.splice(killed.list.indexOf(death), 1)
      await sleep(50)
      continue
    }
    const answers = async () => {
      const nonce = `n-ann-${800 + lane}-${turn}x${Date.now()}`
      const sent = client.call(`${id}__work`, { nonce }, {})
      return judge({ id: sent.id, nonce, outcome: await sent.outcome }).state === 'ok'
    }
    await sleep(50)
    if (!(await until(answers, answerAfterMs, 50))) breaches.push(`${id} did not come back`)
    death.until = Date.now()
    killed.worst = Math.max(killed.worst, death.until - death.at)
  }
  client.close()
}

/** How often an event stands in the log so far; only what is new is read. */
function occurrences(event) {
  log.read()
  return log.counts[event] ?? 0
}

function judgeAccounts() {
  for (const record of records) {
    const { nonce, server, state, sent, started, ended } = record
    const ran = ledger.ran.get(nonce) ?? 0
    const breach = what => {
      if (what in tallies) tallies[what]++
      breaches.push(`${what}: ${JSON.stringify(record)}`)
    }
    const lateMs = ended - started - timeouts.max_timeout * 1000 - graceMs
    if (state in tallies) breach(state)
    else if (lateMs > watched.waited(started, ended)) breach('lost')
    if (ran > 1) breach('doubled')
    if (sent === false && ran > 0) breach('said to be unsent')
    if (state === 'refused') breach('refused')
    const dead = killed.list.some(death => death.id === server && death.at <= ended && death.until >= started)
    if (state === 'failed' && !dead) breach('failed without a death')
  }
}

function report() {
  const of = state => records.filter(record => record.state === state).length
  const [hung, over] = [applied.byWatch + applied.byHangUp, killed.list.length]
  const rows = [
    [
      'abandoned sessions',
      count(sessions),
      `${mib(abandoned.memory)} held after a collection (bound 30, goal 10); resident ${mib(abandoned.rss)} more; ${(abandoned.ms / 1000).toFixed(1)} s; ${revived} of ${abandoned.kept.length} tried later still good`
    ],
    [
      'reloads',
      count(hung),
      `${applied.byWatch} by the file alone, ${applied.byHangUp} by SIGHUP, besides ${applied.rejected} broken files not taken over; slowest ${count(applied.worst)} ms`
    ],
    ['upstream restarts', count(over), `SIGKILL; slowest until it answers again ${count(killed.worst)} ms`],
    [
      'calls meanwhile',
      count(records.length),
      `${count(of('ok'))} answered by the server, ${count(of('failed'))} told that it died`
    ]
  ]
  console.log(table(['Step', 'done', 'what came of it'], rows))
  console.log()
  console.log(table(['Held by the gateway', 'before', 'after', 'margin'], compared.rows))
  console.log()
  const rss = watched.samples.map(sample => [sample.at, sample.rss])
  const [first, last] = [watched.samples[0], watched.samples.at(-1)]
  console.log(
    `resident memory over the second half: ${slope(rss.slice(rss.length >> 1)).toFixed(1)} MiB a minute, highest ${mib(Math.max(...rss.map(([, bytes]) => bytes)))}; ` +
      `slowest server to answer afterwards: ${count(Math.max(0, ...Object.values(took)))} ms; ` +
      `gateway: ${count(Math.round(last.ran - first.ran))} ms on a processor, waited ${count(Math.round(last.waited - first.waited))} ms for one with its clients`
  )
  for (const line of breaches.slice(0, 30)) console.log(`BREACH ${line}`)
  if (breaches.length > 30) console.log(`BREACH … and ${breaches.length - 30} more`)
  console.log(
    `soak: ${count(sessions)} sessions hold ${mib(abandoned.memory)}, ${count(hung)} reloads, ${count(over)} restarts, ${count(records.length)} calls, ` +
      `lost ${tallies.lost}, doubled ${tallies.doubled}, misdelivered ${tallies.misdelivered}; ${breaches.length === 0 ? 'back to the baseline' : `${breaches.length} things amiss`}; ${((Date.now() - started) / 1000).toFixed(0)} s`
  )
}

function fail(why) {
  console.error(`soak: ${why}\n${log.tail()}`)
  process.exit(1)
}
