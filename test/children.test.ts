/**
 * No process outlives the server it was started for: not behind wrappers, not one that ignores signals or has left its
 * group, not after the gateway itself was killed. The ids are those of the security reference.
 */
import { spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { markVariable } from '../src/upstream/orphans.js'
import { backoffMs } from '../src/upstream/supervisor.js'
import { openLedger } from './fixtures/ledger.mjs'
import { freePort, startGatewayProcess } from './helpers/gateway-process.js'
import { attackFrom, noncesNoted } from './helpers/attack.js'
import { modern, openSession, type Reply } from './helpers/http.js'
import { marked, zombiesOf } from './helpers/processes.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'switchboard-children-'))
  // A package that npx runs without a registry.
  const bin = join(folder, 'node_modules', '.bin')
  mkdirSync(bin, { recursive: true })
  const program = join(folder, 'node_modules', 'tiny-server')
  mkdirSync(program)
  writeFileSync(join(folder, 'package.json'), '{ "name": "host", "private": true }')
  writeFileSync(
    join(program, 'package.json'),
    '{ "name": "tiny-server", "version": "1.0.0", "type": "module", "bin": { "tiny-server": "server.mjs" } }'
  )
  writeFileSync(
    join(program, 'server.mjs'),
    `#!/usr/bin/env node\nawait import(${JSON.stringify(pathToFileURL(fixture('raw-stdio.mjs')).href)})\n`
  )
  chmodSync(join(program, 'server.mjs'), 0o755)
  symlinkSync(join(program, 'server.mjs'), join(bin, 'tiny-server'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

type Server = Record<string, unknown>

const node = JSON.stringify(process.execPath)
const raw = (...args: string[]) => [node, JSON.stringify(fixture('raw-stdio.mjs')), ...args].join(' ')
const shell = (script: string): Server => ({ command: 'sh', args: ['-c', script], era: 'legacy' })

/** Ways to start the same server, each with something that wants to stay; all of it would end by itself in 2 minutes. */
const trees: Record<string, () => Server> = {
  'a server behind sh -c with a job in the background': () => shell(`sleep 120 & ${raw()}; exit $?`),
  'a server behind npx': () => ({
    command: 'npx',
    args: ['--offline', 'tiny-server'],
    cwd: folder,
    env: { npm_config_update_notifier: 'false', npm_config_cache: join(folder, 'cache') },
    era: 'legacy'
  }),
  'a server that ignores SIGTERM and the end of stdin': () => ({
    command: process.execPath,
    args: [fixture('raw-stdio.mjs'), '--mode', 'ignore-term'],
    era: 'legacy'
  }),
  'a server behind two shells whose job ignores SIGTERM': () =>
    shell(`sh -c '(trap "" TERM; sleep 120) & ${raw()}; exit $?'; exit $?`),
  'a server with a grandchild that holds its stdout and ignores SIGTERM': () =>
    shell(`exec ${raw('--mode', 'grandchild')}`),
  'a server whose daemon forked twice into a session of its own': () =>
    shell(`(setsid sh -c 'sleep 120 & sleep 120' > /dev/null 2>&1 &); exec ${raw()}`),
  'a server whose daemon holds its stdout and ignores SIGTERM in a session of its own': () =>
    shell(`(setsid sh -c 'trap "" TERM; sleep 120' &); exec ${raw()}`)
}

/** Marks all that comes of a test; what is left of it is ended with the test. */
function newMarker(): string {
  const marker = `marker-${randomUUID()}`
  onTestFinished(() => {
    for (const pid of marked(marker)) process.kill(pid, 'SIGKILL')
  })
  return marker
}

const withMarker = (server: Server, marker: string): Server => ({
  ...server,
  env: { ...(server.env as object), MARKER: marker, LEDGER: join(folder, `${marker}.ledger`) }
})

const problemOf = ({ json }: Reply) => json.result?._meta?.['switchboard/error']
const statusOf = (gateway: TestGateway, id: string) => gateway.gateway.status().find(status => status.id === id)
const textOf = ({ json }: Reply): string => json.result.content[0].text

/** Longer than it takes a process killed by force to leave /proc, shorter than those of the tests live by themselves. */
const expectNone = (marker: string) => waitFor(() => marked(marker).length === 0, 'no process to be left', 5000)

const print = (what: string, ms: number) => console.log(`${what}: ${ms.toFixed(0)} ms`)

describe('U1: a server that cannot be started', () => {
  const script = (...lines: string[]) => ['#!/bin/sh', ...lines].join('\n')
  const words = 'for i in $(seq 30); do printf "line %s of $TOKEN\\033[31m\\n" $i >&2; done'

  const ways: [string, (file: string) => void, RegExp, number][] = [
    ['is gone', file => rmSync(file), /its command ".*" was not found/, 0],
    ['may not be executed', file => chmodSync(file, 0o644), /may not be executed \(permission denied\)/, 0],
    [
      'exits at once',
      file => writeFileSync(file, script(words, 'exit 1')),
      /exited with code 1; its last words: line 30 of/,
      20
    ],
    [
      'exits after a while',
      file => writeFileSync(file, script(words, 'sleep 0.3', 'exit 3')),
      /exited with code 3/,
      20
    ],
    [
      'never answers',
      file => writeFileSync(file, script(words, 'cat > /dev/null')),
      /did not answer initialize within 3 s/,
      20
    ]
  ]
  for (const [what, spoil, reason, most] of ways) {
    attackFrom(
      'U1',
      `a server that cannot be started because it ${what}: the others serve, calls say why, its last words are in the log`,
      async (begin, { canary }) => {
        const dir = mkdtempSync(join(folder, 'broken-'))
        const file = join(dir, 'server')
        writeFileSync(file, script(`exec ${raw()}`), { mode: 0o755 })
        const broken = { command: file, era: 'legacy', start_timeout: 3, env: { TOKEN: canary('variable') } }
        // Its tools are known from a start that went well.
        const first = await startTestGateway(`servers: ${JSON.stringify({ broken })}\n`, { stateDir: dir })
        await first.until('broken')
        await first.close()

        spoil(file)
        const { gateway, call } = await begin({ servers: { broken }, sick: ['broken'], stateDir: dir })
        await gateway.until('broken', 'down')
        expect(textOf(await call('healthy__echo', { message: 'well' }))).toBe('well')
        const reply = await call('broken__echo')
        expect(problemOf(reply)).toMatchObject({ code: -31503, server: 'broken', dispatched: false })
        expect(textOf(reply)).toMatch(reason)
        const [down] = gateway.logged('upstream.down')
        expect(down).toMatchObject({ server: 'broken', reason: expect.stringMatching(reason) })
        const last = Array.from({ length: most }, (_, i) => `line ${i + 11} of [redacted]`)
        expect(down?.stderr ?? []).toEqual(last)
      }
    )
  }

  attackFrom(
    'U1',
    'a server that cannot be started is not started over and over, however many calls want it',
    async begin => {
      const marker = newMarker()
      const broken = {
        command: process.execPath,
        args: [fixture('raw-stdio.mjs'), '--mode', 'exit-at-start'],
        era: 'legacy'
      }
      const { gateway, url, key } = await begin({
        servers: { broken: withMarker(broken, marker) },
        sick: ['broken']
      })
      const until = Date.now() + 8000
      while (Date.now() < until) {
        await modern(url, key, 'tools/list')
        await new Promise(resolve => setTimeout(resolve, 50))
      }
      expect(statusOf(gateway, 'broken')).toMatchObject({ state: 'down' })
      expect(openLedger(join(folder, `${marker}.ledger`)).lines().length).toBeLessThanOrEqual(5)
    }
  )

  it('is started at most ten times in five minutes when nobody calls it', () => {
    let [now, starts] = [0, 0]
    for (; now < 5 * 60_000; starts++) now += backoffMs(starts + 1, 0.5)
    expect(starts).toBeLessThanOrEqual(10)
  })
})

/** So many servers are killed at once, each with twenty calls in flight: as many calls as one key may have. */
const killedAtOnce = 5
const rounds = process.env.ATTACK_FULL === undefined ? 5 : 200
/** Of one server; then another takes its place, since one that dies five times in five minutes is left alone for 10 s. */
const killsEach = 4

attackFrom(
  'U2',
  `a server killed with twenty calls in flight, ${killedAtOnce * rounds} times: each is answered once, none runs twice, and there is no zombie`,
  async (begin, made) => {
    const marker = newMarker()
    const noted = openLedger(join(folder, `${marker}.ledger`))
    made.ledger.watch(() => noncesNoted(noted))
    const servers = (generation: number) => {
      const frail = withMarker(shell(`exec ${raw('--mode', 'grandchild')}`), marker)
      const env = { ...(frail.env as object), GENERATION: String(generation) }
      return Object.fromEntries(Array.from({ length: killedAtOnce }, (_, i) => [`frail${i}`, { ...frail, env }]))
    }
    const ids = Object.keys(servers(0))
    const { gateway, url, key, ledger, call, apply, print } = await begin({ servers: servers(0) })
    const session = await openSession(url, key)
    // Every other call is of 2025, in a session that outlives them all.
    const slow = (id: string, i: number) => {
      const params = (nonce: string) => ({ name: `${id}__slow`, arguments: { ms: 60_000, nonce } })
      return ledger.call(async nonce => {
        const reply = await (i % 2 === 0
          ? modern(url, key, 'tools/call', params(nonce), { id: nonce })
          : session.rpc('tools/call', params(nonce), { id: nonce }))
        expect(reply.json.id).toBe(nonce)
        return reply
      })
    }
    const slowest = { answered: 0, back: 0 }
    for (let round = 0; round < rounds; round++) {
      if (round > 0 && round % killsEach === 0) apply({ servers: servers(round) })
      await Promise.all(ids.map(id => gateway.until(id)))
      const before = noncesNoted(noted).length
      const answers = ids.flatMap(id => Array.from({ length: 20 }, (_, i) => slow(id, i)))
      await waitFor(() => noncesNoted(noted).length === before + answers.length, 'all to be in flight')
      const killed = performance.now()
      for (const id of ids) process.kill(statusOf(gateway, id)?.pid as number, 'SIGKILL')
      const replies = await Promise.all(answers)
      slowest.answered = Math.max(slowest.answered, performance.now() - killed)
      // 1 s is allowed.
      expect(performance.now() - killed).toBeLessThan(5000)
      for (const [n, reply] of replies.entries())
        expect(problemOf(reply as Reply)).toMatchObject({
          code: -31503,
          server: ids[Math.floor(n / 20)],
          dispatched: true
        })
      const restarting = performance.now()
      const next = await Promise.all(ids.map(id => call(`${id}__count`)))
      expect(next.map(textOf)).toEqual(ids.map(() => '1'))
      slowest.back = Math.max(slowest.back, performance.now() - restarting)
      // 3 s are allowed.
      expect(performance.now() - restarting).toBeLessThan(15_000)
      expect(zombiesOf(process.pid)).toEqual([])
    }
    print('kills', killedAtOnce * rounds)
    print('calls that were in flight', killedAtOnce * rounds * 20)
    print('all answered after ms, at most', slowest.answered)
    print('next calls answered after ms, at most', slowest.back)
    // The servers and the grandchildren of their last start.
    await waitFor(() => marked(marker).length === 2 * killedAtOnce, 'nothing else to be left')
  },
  { timeout: rounds * 10_000 }
)

for (const [what, tree] of Object.entries(trees)) {
  attackFrom(
    'U18',
    `nothing is left of ${what} when the gateway ends`,
    async begin => {
      const marker = newMarker()
      const { leave, gateway } = await begin({ servers: { tree: withMarker(tree(), marker) } })
      expect(marked(marker).length).toBeGreaterThan(0)
      await leave()
      const begun = performance.now()
      await gateway.close()
      const ms = performance.now() - begun
      print(`closed with ${what}`, ms)
      // 8 s are allowed.
      expect(ms).toBeLessThan(40_000)
      await expectNone(marker)
      expect(zombiesOf(process.pid)).toEqual([])
    },
    { timeout: 60_000 }
  )
}

attackFrom(
  'U18',
  'nothing is left of all of them, which end side by side',
  async begin => {
    const marker = newMarker()
    const servers = Object.fromEntries(Object.values(trees).map((tree, i) => [`t${i}`, withMarker(tree(), marker)]))
    const { leave, gateway } = await begin({ servers })
    await leave()
    const begun = performance.now()
    await gateway.close()
    print(`closed with ${Object.keys(servers).length} stubborn trees`, performance.now() - begun)
    expect(performance.now() - begun).toBeLessThan(40_000)
    await expectNone(marker)
  },
  { timeout: 90_000 }
)

describe('U18: nothing is left when the gateway ends', () => {
  it('of a hundred gateways, one after the other', async () => {
    const marker = newMarker()
    // A server in a few lines of shell: node would take a minute to start so often.
    const says = (id: number, result: object) => `read -r l; echo '${JSON.stringify({ jsonrpc: '2.0', id, result })}'`
    const opened = {
      protocolVersion: '2025-11-25',
      capabilities: { tools: {} },
      serverInfo: { name: 'x', version: '1' }
    }
    const script = `sleep 120 & (setsid sleep 120 &); ${says(1, opened)}; read -r l; ${says(2, { tools: [] })}; read -r l`
    const quick = withMarker(shell(script), marker)
    let most = 0
    for (let i = 0; i < 100; i++) {
      const gateway = await startTestGateway(`servers: ${JSON.stringify({ quick })}\n`)
      await gateway.until('quick')
      most = Math.max(most, marked(marker).length)
      await gateway.close()
    }
    await expectNone(marker)
    expect(most).toBeLessThanOrEqual(4)
    expect(zombiesOf(process.pid)).toEqual([])
  }, 120_000)
})

attackFrom(
  'U18',
  'nothing of a server that died stands beside its successor, also what had left its process group',
  async begin => {
    const marker = newMarker()
    const tree = withMarker(shell(`(setsid sleep 120 &); exec ${raw()}`), marker)
    const { gateway } = await begin({ servers: { tree } })
    const server = statusOf(gateway, 'tree')
    const before = marked(marker)
    expect(before).toHaveLength(2)
    process.kill(server?.pid as number, 'SIGKILL')
    await waitFor(() => ![server?.pid, undefined].includes(statusOf(gateway, 'tree')?.pid), 'the successor')
    await gateway.until('tree')
    expect(marked(marker)).toHaveLength(2)
    expect(marked(marker).filter(pid => before.includes(pid))).toEqual([])
  }
)

describe('U18: after a SIGKILL of the gateway', () => {
  async function startKilled(servers: Record<string, Server>) {
    const dir = mkdtempSync(join(folder, 'killed-'))
    const config = join(dir, 'servers.yaml')
    writeFileSync(config, `servers: ${JSON.stringify(servers)}\n`)
    const options = { config, stateDir: join(dir, 'state'), port: await freePort() }
    const boot = async () => {
      const gateway = await startGatewayProcess(options)
      onTestFinished(() => gateway.stop())
      const up = () => gateway.logged('upstream.ready').length === Object.keys(servers).length
      await waitFor(up, 'the servers', 30_000)
      return gateway
    }
    return { boot, stateDir: options.stateDir }
  }

  it('the next one ends what is left, before it starts anything, and names it', async () => {
    const marker = newMarker()
    const servers = Object.fromEntries(Object.values(trees).map((tree, i) => [`t${i}`, withMarker(tree(), marker)]))
    const { boot } = await startKilled(servers)
    const first = await boot()
    const before = marked(marker)
    await first.kill('SIGKILL')
    expect(marked(marker).length).toBeGreaterThan(0)

    const second = await boot()
    expect(marked(marker).filter(pid => before.includes(pid))).toEqual([])
    const orphans = second.logged('upstream.orphans')
    expect(orphans.map(({ server }) => server)).toEqual(expect.arrayContaining(['t2', 't3', 't4', 't5', 't6']))
    expect(orphans.flatMap(({ pids }) => pids).every(pid => before.includes(pid as number))).toBe(true)
    // What it ended was gone before the first of its own was there.
    const lines = second.stderr().split('\n')
    const lineOf = (event: string) => lines.findIndex(line => line.includes(event))
    expect(lineOf('upstream.orphans')).toBeLessThan(lineOf('upstream.ready'))

    await second.kill('SIGTERM')
    await expectNone(marker)
  }, 90_000)

  const setpriv = spawnSync('setpriv', ['--pdeathsig', 'TERM', 'true']).status === 0
  it.runIf(setpriv)('what was started without a wrapper ends at once, where setpriv can see to that', async () => {
    const marker = newMarker()
    // It does not look at its stdin, as a server with a url would not.
    const deaf = join(folder, 'deaf.mjs')
    writeFileSync(
      deaf,
      `process.stdin.unref?.()\nsetTimeout(() => process.exit(0), 120_000)\nprocess.stdin.on('end', () => {})\n` +
        `const on = process.stdin.on.bind(process.stdin)\n` +
        `process.stdin.on = (event, listener) => (event === 'end' ? process.stdin : on(event, listener))\n` +
        `await import(${JSON.stringify(pathToFileURL(fixture('raw-stdio.mjs')).href)})\n`
    )
    const { boot } = await startKilled({
      deaf: withMarker({ command: process.execPath, args: [deaf], era: 'legacy' }, marker)
    })
    const gateway = await boot()
    await gateway.kill('SIGKILL')
    await expectNone(marker)
  })

  it('five times over nothing adds up', async () => {
    const marker = newMarker()
    const { boot } = await startKilled({ tree: withMarker(shell(`(setsid sleep 120 &); exec ${raw()}`), marker) })
    for (let i = 0; i < 5; i++) {
      const gateway = await boot()
      expect(marked(marker)).toHaveLength(2)
      await gateway.kill('SIGKILL')
    }
    const last = await boot()
    await last.kill('SIGTERM')
    await expectNone(marker)
  }, 90_000)
})

attackFrom(
  'U19',
  'the environment of a server is what finds programs and its home, its own variables and our mark, and no secret of ours',
  async (begin, { canary }) => {
    const others = canary('variable of another server')
    const file = join(folder, 'environment.json')
    const told = {
      command: 'sh',
      args: ['-c', `env > "$OUT"; exec ${raw()}`],
      env: { OUT: file, OWN: 'mine' },
      era: 'legacy'
    }
    const other = { command: process.execPath, args: [fixture('raw-stdio.mjs')], env: { TOKEN: others } }
    const before = { ...process.env }
    Object.assign(process.env, { ADMIN: secrets.ADMIN, MCPGW_SECRET: 'gateway', SWITCHBOARD_KEY: 'gateway' })
    onTestFinished(() => void (process.env = before))
    const { key } = await begin({ servers: { told, other } })
    const lines = readFileSync(file, 'utf8').trim().split('\n')
    const names = lines.map(line => line.split('=')[0] as string)
    const known = ['HOME', 'LANG', 'LOGNAME', 'PATH', 'SHELL', 'TERM', 'TMPDIR', 'TZ', 'USER']
    const own = ['OUT', 'OWN', markVariable]
    // The shell adds what it keeps for itself.
    expect(names.filter(name => ![...known, ...own, 'PWD', 'OLDPWD', 'SHLVL', '_'].includes(name))).toEqual([])
    expect(names).toEqual(expect.arrayContaining(own))
    for (const secret of [key, secrets.ADMIN, others, 'gateway']) expect(lines.join('\n')).not.toContain(secret)
  }
)
