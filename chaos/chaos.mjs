/**
 * `npm run chaos`: upstreams that crash, hang, babble, lie and leak, while clients of both eras call. Every call has a
 * nonce, written down by who sends it and by the upstream it reaches; afterwards the two accounts must agree: one answer
 * each, to its own client, in time, and no call begun twice. Everything runs on loopback and ends by itself.
 *
 *   --seconds N   how long clients call (default 20; up to three times that until enough faults have hit)
 *   --seed N      repeats the choices of an earlier run (default: a new one, printed)
 *   --clients N   default 50
 *   --kinds a,b   of kill, exit, hang, drip, babble, lie, leak (default: all)
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { createLogReader, readLedger } from './lib/ledger.mjs'
import { createProcesses, heldBy, until } from './lib/processes.mjs'
import { createRandom } from './lib/random.mjs'
import { compare, count, mib, slope, table } from './lib/report.mjs'
import { bystanderKey, createWorld, keyNames, timeouts, untilAnswering } from './lib/setup.mjs'
import { foreign, judge } from './lib/verdict.mjs'
import { watch } from './lib/watch.mjs'
import { faults, kinds as allKinds } from './servers/faults.mjs'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '20' },
    seed: { type: 'string' },
    clients: { type: 'string', default: '50' },
    kinds: { type: 'string', default: allKinds.join() }
  }
})
const [seconds, clientCount] = [Number(values.seconds), Number(values.clients)]
const seed = Number(values.seed ?? Date.now() % 1_000_000)
const kinds = values.kinds.split(',')
if (!(seconds >= 1) || !(clientCount >= 1) || !Number.isInteger(seed) || kinds.some(kind => !allKinds.includes(kind))) {
  console.error(`--seconds and --clients take a number from 1, --seed a whole one, --kinds some of ${allKinds.join()}`)
  process.exit(2)
}

/** How many faults of each kind must have hit calls in flight. */
const enough = 20
const faultShare = 0.35
const abandonShare = 0.05
const deniedShare = 0.01
/** An answer may come so long after the call's deadline. */
const graceMs = 1000
/** Nobody waits longer: what is then unanswered is lost, however busy the machine is. */
const patienceMs = 30_000
const answerAfterMs = 30_000

console.log(`chaos: seed ${seed}, ${seconds} s, ${clientCount} clients, ${kinds.join(', ')}`)
const random = createRandom(seed)
const processes = createProcesses()
const log = createLogReader(join(processes.folder, 'log'))
process.once('exit', () => processes.kill())
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))

const records = []
let lists = 0
const breaches = []
let excused = 0
const tallies = { lost: 0, doubled: 0, misdelivered: 0 }
const breach = (what, record) => {
  if (what in tallies) tallies[what]++
  const { why, ...facts } = record
  breaches.push({ what, ...facts, why: why?.slice(0, 300) })
}

const world = await createWorld(processes)
const { missing: neverCame } = await untilAnswering(world, answerAfterMs, 'first')
if (neverCame.length > 0) fail(`${neverCame.join(', ')} never answered`)
await sleep(1000)
const held = async () => ({ processes: processes.marked().length, ...(await heldBy(world.gateway)) })
const before = await held()

/**
 * A server that dies too often is left alone for ten seconds, which is right, but nothing would hit it then. So each dies
 * a few times in quick succession and from then on every eleven seconds.
 */
const mortality = new Map(world.frail.map(({ id }) => [id, { deaths: 0, last: -Infinity }]))
const mayDie = id => {
  const { deaths, last } = mortality.get(id)
  return performance.now() - last > (deaths < 4 ? 1500 : 11_000)
}
const asked = Object.fromEntries([...kinds, ...Object.keys(faults)].map(name => [name, 0]))
const leastAsked = names => names.reduce((a, b) => (asked[b] < asked[a] ? b : a))

function chooseFault({ id, transport }, own) {
  const fits = Object.entries(faults).filter(
    ([, { kind, on, cancelled }]) => kinds.includes(kind) && on.includes(transport) && !cancelled
  )
  const of = kind => fits.flatMap(([name, fault]) => (fault.kind === kind && (!fault.down || mayDie(id)) ? [name] : []))
  const possible = kinds.filter(kind => of(kind).length > 0)
  if (possible.length === 0) return undefined
  // What is behind, more often than not: deaths cannot be had at any time, nor every fault everywhere.
  const behind = names => (own.chance(0.6) ? leastAsked(names) : own.pick(names))
  const kind = behind(possible)
  const name = behind(of(kind))
  const { down } = faults[name]
  asked[kind]++
  asked[name]++
  if (down) Object.assign(mortality.get(id), { deaths: mortality.get(id).deaths + 1, last: performance.now() })
  return name
}

const begun = Date.now()
/** Calls with a fault that certainly reached their server, by its kind. */
const struck = Object.fromEntries(kinds.map(kind => [kind, 0]))
/** A machine that is busy with other things gets up to three times as long until enough faults have hit. */
const goesOn = () => {
  const since = Date.now() - begun
  return since < seconds * 1000 || (since < seconds * 3000 && kinds.some(kind => struck[kind] < enough))
}
const doors = ['legacy', 'modern', 'legacy', 'modern', 'sse']
const wires = ['bare', 'undici', 'fetch']
const versions = ['2025-11-25', '2025-06-18', '2025-03-26']

async function runClient(index) {
  const own = random.fork(index)
  const key = keyNames[index % keyNames.length]
  const door = doors[Math.floor(index / keyNames.length) % doors.length]
  const isMine = nonce => nonce.startsWith(`n-${key}-${index}-`)
  const onText = text => {
    for (const nonce of foreign(text, isMine)) breach('misdelivered', { nonce, client: index, why: 'on its stream' })
  }
  const wire = door === 'sse' ? 'undici' : wires[index % wires.length]
  const client = await world.client({ door, key, wire, version: versions[index % versions.length], onText })
  if (door === 'legacy' && wire !== 'bare') await client.listen()
  for (let turn = 1; goesOn(); turn++) {
    await call(client, { index, key, own, nonce: `n-${key}-${index}-${turn}` })
    if (own.chance(0.02)) await list(client, key)
    if (client.reopen && own.chance(0.02)) await client.reopen()
    await sleep(own.between(0, 30))
  }
  for (const message of client.stray ?? [])
    breach('doubled', { client: index, why: `an answer nobody waits for: ${JSON.stringify(message)}` })
  return client
}

/** Whatever fails: a key sees the tools it may use, and no others. */
async function list(client, key) {
  const { messages, broken, status } = await client.list()
  const listed = messages
    .at(-1)
    ?.result?.tools.map(({ name }) => name)
    .filter(name => name.endsWith('__work'))
  const due = world.may[key].map(({ id }) => `${id}__work`)
  lists++
  if (listed?.sort().join() !== due.sort().join())
    breaches.push(`the list of ${key}: ${listed?.join() ?? broken ?? `HTTP ${status}`}`)
}

async function call(client, { index, key, own, nonce }) {
  const denied = own.chance(deniedShare)
  const server = own.pick(denied ? world.healthy : world.may[key])
  const abandon = !denied && own.chance(abandonShare)
  const late = abandon && kinds.includes('lie') && faults['after-cancel'].on.includes(server.transport)
  const harmed = !abandon && !denied && own.chance(faultShare)
  const fault = late ? 'after-cancel' : harmed ? chooseFault(server, own) : undefined
  const hold = abandon ? 400 : own.between(0, 60)
  const token = fault && faults[fault].progress ? `t${index}` : undefined
  // Progress is a sign of life, and so is a log line of a server whose lines cannot be told apart.
  const signs = token !== undefined || ['stdio', 'sse'].includes(server.transport)
  const deadlineMs = (signs ? timeouts.max_timeout : timeouts.timeout) * 1000
  const controller = new AbortController()
  const started = Date.now()
  const name = `${server.id}__work`
  const { id, outcome } = client.call(
    name,
    { nonce, hold, ...(fault && { fault }) },
    { token, signal: controller.signal }
  )
  const record = { nonce, server: server.id, client: `${index} ${client.door} ${client.kind}`, fault, denied, started }
  records.push(record)

  if (abandon) {
    await sleep(own.between(20, 200))
    record.state = 'abandoned'
    // A client of the 2025 era says so, or just goes.
    if (client.cancels === 'say' && own.chance(0.7)) await client.cancel(id)
    if (client.door !== 'legacy' || own.chance(0.5)) controller.abort()
    // What is read to its end has one answer at most, and none of another.
    else setTimeout(() => controller.abort(), deadlineMs + graceMs).unref()
    const { broken, text, messages } = await outcome
    if (foreign(text, each => each === nonce).length > 0) breach('misdelivered', { ...record, why: text })
    if (broken === undefined && messages.filter(({ method }) => method === undefined).length > 1)
      breach('doubled', record)
    return
  }

  const gaveUp = setTimeout(() => controller.abort(), deadlineMs + patienceMs)
  const verdict = judge({ id, nonce, outcome: await outcome })
  clearTimeout(gaveUp)
  Object.assign(record, verdict, { ended: Date.now(), ms: Date.now() - started, deadlineMs })
  if (fault && record.sent !== false) struck[faults[fault].kind]++
  if (record.state in tallies) breach(record.state, record)
}

/** A key that uses healthy servers only notices nothing. */
const bystander = { calls: 0, errors: 0, worst: 0 }
async function runBystander(index) {
  const door = ['legacy', 'modern', 'sse'][index % 3]
  const client = await world.client({ door, key: bystanderKey, wire: door === 'sse' ? 'undici' : 'bare' })
  const own = random.fork(10_000 + index)
  for (let turn = 1; goesOn(); turn++) {
    const nonce = `n-${bystanderKey}-${index}-${turn}`
    const started = Date.now()
    const { id, outcome } = client.call(`${own.pick(world.healthy).id}__work`, { nonce, hold: own.between(0, 20) }, {})
    const verdict = judge({ id, nonce, outcome: await outcome })
    bystander.calls++
    bystander.worst = Math.max(bystander.worst, Date.now() - started)
    if (verdict.state !== 'ok') {
      bystander.errors++
      breaches.push(`bystander: ${JSON.stringify({ nonce, ...verdict })}`)
    }
    await sleep(20)
  }
  return client
}

const watched = watch(world.gateway.pid)
const clients = await Promise.all([
  ...Array.from({ length: clientCount }, (_, index) => runClient(index)),
  ...Array.from({ length: 4 }, (_, index) => runBystander(index))
])
const lasted = Math.round((Date.now() - begun) / 1000)
watched.stop()
for (const client of clients) client.close()

const { took, missing } = await untilAnswering(world, answerAfterMs, 'last')
if (missing.length > 0) breaches.push(`never answered again: ${missing.join(', ')}`)
let after
await until(async () => compare(before, (after = await held())).breaches.length === 0, 20_000, 500)
const compared = compare(before, after)
breaches.push(...compared.breaches)
if (world.reached > 0) breaches.push(`${world.reached} requests followed a redirect`)
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
const waits = judgeDeaths()
judgeAccounts()
report()
world.close()
await processes.close()
process.exit(breaches.length > 0 ? 1 : 0)

/** Who waits on a server that dies is answered at once. @returns milliseconds from a death to the answer of each such call. */
function judgeDeaths() {
  const byNonce = new Map(records.map(record => [record.nonce, record]))
  return ledger.deaths.flatMap(({ at, running }) =>
    running.flatMap(nonce => {
      const record = byNonce.get(nonce)
      const ms = record?.ended - at
      if (!(ms >= 0)) return []
      if (ms > graceMs + watched.waited(at, record.ended)) breach(`answered ${ms} ms after its server's death`, record)
      return [ms]
    })
  )
}

/** The two accounts side by side. */
function judgeAccounts() {
  for (const record of records) {
    const { state, started, ended, ms, deadlineMs } = record
    const lateMs = ms - deadlineMs - graceMs
    if (lateMs > 0 && !(state in tallies)) {
      if (lateMs > watched.waited(started, ended)) breach('lost', { ...record, why: 'answered too late' })
      else excused++
    }
    const ran = ledger.ran.get(record.nonce) ?? 0
    if (ran > 1) breach('doubled', { ...record, why: `it began ${ran} times` })
    if (record.denied && ran > 0) breach('misdelivered', { ...record, why: 'its key may not use that server' })
    if (record.sent === false && ran > 0) breach('said to be unsent', record)
    if (record.state === 'ok' && ran !== 1) breach('answered without having begun', record)
    if (record.state === 'refused' && ran > 0) breach('refused after it had begun', record)
  }
  for (const kind of kinds) {
    const hits = ledger.faults.filter(({ fault }) => faults[fault].kind === kind).length
    if (hits < enough) breaches.push(`only ${hits} faults of kind ${kind} hit calls in flight, ${enough} are asked for`)
  }
}

function report() {
  const byNonce = new Map(records.map(record => [record.nonce, record]))
  const states = list =>
    ['ok', 'failed', 'abandoned'].map(state => count(list.filter(record => record.state === state).length))
  const worst = list => `${count(Math.max(0, ...list.map(({ ms = 0 }) => ms)))} ms`
  const rows = kinds.map(kind => {
    const hits = ledger.faults.filter(({ fault }) => faults[fault].kind === kind)
    const calls = [...new Set(hits.flatMap(({ running }) => running))].flatMap(nonce => byNonce.get(nonce) ?? [])
    const which = Object.keys(faults).flatMap(name => {
      const same = hits.filter(({ fault }) => fault === name).length
      return same > 0 ? [`${name} ${same}`] : []
    })
    return [kind, count(hits.length), count(calls.length), ...states(calls), worst(calls), which.join(', ')]
  })
  const head = ['Fault', 'faults', 'calls they hit', 'answered', 'told why not', 'abandoned', 'slowest answer', 'which']
  console.log(table(head, rows))
  console.log()
  console.log(table(['Held by the gateway', 'before', 'after', 'margin'], compared.rows))
  console.log()
  const rss = watched.samples.map(sample => [sample.at, sample.rss])
  console.log(
    `resident memory over the second half: ${slope(rss.slice(rss.length >> 1)).toFixed(1)} MiB a minute, highest ${mib(Math.max(...rss.map(([, bytes]) => bytes)))}; ` +
      `slowest server to answer afterwards: ${count(Math.max(0, ...Object.values(took)))} ms; ` +
      `deaths: ${ledger.deaths.length}, with ${waits.length} calls answered after them, the last ${count(Math.max(0, ...waits))} ms later`
  )
  const of = state => records.filter(record => record.state === state).length
  const abandoned = of('abandoned')
  const [first, last] = [watched.samples[0], watched.samples.at(-1)]
  console.log(
    `gateway: ${count(Math.round(last.ran - first.ran))} ms on a processor, at most ${count(Math.round(watched.most('ran')))} ms within a second; ` +
      `it and the clients waited ${count(Math.round(last.waited - first.waited))} ms for one, which excuses ${excused} late answers`
  )
  console.log(
    `${count(of('ok'))} by the server, ${count(of('failed'))} with the reason why not, ${count(of('refused'))} refused, ` +
      `${count(records.filter(({ denied }) => denied).length)} to servers their key may not use, ${count(lists)} lists; bystander: ${count(bystander.calls)} calls, ${bystander.errors} errors, slowest ${count(bystander.worst)} ms`
  )
  const told = each =>
    typeof each === 'string' ? each : JSON.stringify({ ...each, beganMs: ledger.began.get(each.nonce) - each.started })
  for (const each of breaches.slice(0, 30)) console.log(`BREACH ${told(each)}`)
  if (breaches.length > 30) console.log(`BREACH … and ${breaches.length - 30} more`)
  const answered = records.length - abandoned - of('lost')
  console.log(
    `chaos: ${count(records.length)} calls, ${count(answered)} answered, ${count(abandoned)} abandoned, lost ${tallies.lost}, doubled ${tallies.doubled}, misdelivered ${tallies.misdelivered}; ` +
      `worst answer after a death ${count(Math.max(0, ...waits))} ms; ${breaches.length === 0 ? 'nothing' : `${breaches.length} things`} amiss; seed ${seed}, ${lasted} s`
  )
}

function fail(why) {
  console.error(`chaos: ${why}\n${log.tail()}`)
  process.exit(1)
}
