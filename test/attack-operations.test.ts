/**
 * What a machine does to a gateway: signals, taken ports, logs that nobody reads, disks that are full, clocks that jump,
 * descriptors that run out, bugs. The numbers O1 to O4 are those of the attack list. A kill with SIGKILL and what comes
 * after it is restart.test.ts; a port that is taken, as a user sees it, commands.test.ts.
 */
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { createSink, type Sink, type Write } from '../src/observe/sink.js'
import {
  attack,
  attackFrom,
  attackProcess,
  noncesNoted,
  type Attack,
  type Made,
  type ProcessAttack
} from './helpers/attack.js'
import {
  isFree,
  isRunning,
  runSwitchboard,
  startGatewayProcess,
  takePort,
  type GatewayProcess,
  type GatewayProcessOptions
} from './helpers/gateway-process.js'
import { bearer, modern, openSession } from './helpers/http.js'
import { fixture, secrets, waitFor } from './helpers/with-gateway.js'

function temporary(): string {
  const dir = mkdtempSync(join(tmpdir(), 'switchboard-operations-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

async function startForTest(options: GatewayProcessOptions): Promise<GatewayProcess> {
  const gateway = await startGatewayProcess(options)
  onTestFinished(() => gateway.stop())
  return gateway
}

/** A server that is up in a blink and notes its starts and calls in `dir`, also for the ledger of the attack. */
function rawIn(dir: string, { ledger }: Made, more: object = {}): Record<string, object> {
  const noted = openLedger(join(dir, 'ledger'))
  ledger.watch(() => noncesNoted(noted))
  return { raw: { command: 'node', args: [fixture('raw-stdio.mjs')], env: { LEDGER: noted.path }, ...more } }
}
const startedIn = (dir: string) =>
  openLedger(join(dir, 'ledger'))
    .lines()
    .filter(line => line.startsWith('started '))
const echo = async ({ call }: Pick<Attack, 'call'>, message: string, server = 'raw') =>
  (await call(`${server}__echo`, { message })).json.result.content[0].text as string

/** A servers.yaml with that server alone. */
function oneServer(dir: string): string {
  const file = join(dir, 'servers.yaml')
  const raw = { command: 'node', args: [fixture('raw-stdio.mjs')], env: { LEDGER: join(dir, 'ledger') } }
  writeFileSync(file, `servers: ${JSON.stringify({ raw })}\n`)
  return file
}

async function textOf(url: string, secret: string): Promise<string> {
  return (await fetch(url, { headers: bearer(secret) })).text()
}

async function metric({ url, key }: ProcessAttack, name: string): Promise<number> {
  const text = await textOf(`${url}/metrics`, key)
  return Number(new RegExp(`^${name}(?:{.*})? (.*)$`, 'm').exec(text)?.[1])
}

attackProcess(
  'O1',
  'asked to end by TERM under 50 calls, it closes its port at once, lets run what ends in time, answers the rest, and exits with 0',
  async (begin, made) => {
    const dir = temporary()
    const servers = rawIn(dir, made, { concurrency: 64, idle_stop: 0 })
    const { gateway, call, leave } = await begin({ servers, stateDir: join(dir, 'state') })
    const lengths = [
      ...Array.from({ length: 30 }, (_, i) => 1500 + i * 10),
      ...[2000, 3000, 4000, 5000],
      ...Array(16).fill(30_000)
    ]
    const calls = lengths.map(ms => call('raw__slow', { ms }))
    await waitFor(() => startedIn(dir).length === 50, 'fifty calls to run')
    const children = gateway.servers()
    expect(children.length).toBeGreaterThan(0)
    await leave()

    const asked = performance.now()
    const ended = gateway.kill('SIGTERM')
    await waitFor(() => isFree(gateway.port), 'the port to be free', 2000)
    const portMs = performance.now() - asked
    const replies = await Promise.all(calls)
    const exit = await ended
    const ms = performance.now() - asked
    console.info(`port closed after ${portMs.toFixed()} ms, ended after ${ms.toFixed()} ms`)

    expect(exit).toEqual({ code: 0, signal: null })
    // 8 s of drain, and the time its server has to end.
    expect(ms).toBeLessThan(20_000)
    for (const [i, reply] of replies.entries()) {
      expect(reply.status).toBe(200)
      const { isError, content, _meta } = reply.json.result
      if (lengths[i]! < 8000) expect([isError ?? false, content[0].text]).toEqual([false, `waited ${lengths[i]} ms`])
      else expect([isError, _meta['switchboard/error'].dispatched]).toEqual([true, true])
    }
    expect(children.filter(isRunning)).toEqual([])
    expect(existsSync(join(dir, 'state', 'lock'))).toBe(false)
  }
)

attackProcess(
  'O1',
  'asked to end by TERM, and once more, it ends at once, and so do its servers',
  async (begin, made) => {
    const dir = temporary()
    const generated = { generated: { secret: 'generated', allow: '*' } }
    const options = { servers: rawIn(dir, made), keys: generated, stateDir: join(dir, 'state') }
    const { gateway, call, leave, file, env } = await begin(options)
    expect(gateway.keys.generated?.length).toBeGreaterThan(20)
    const long = call('raw__slow', { ms: 30_000 }, { gaveUp: true })
    await waitFor(() => startedIn(dir).length === 1, 'the call to run')
    const children = gateway.servers()
    await leave()
    const ended = gateway.kill('SIGTERM')
    await waitFor(() => isFree(gateway.port), 'the port to be free')
    const asked = performance.now()
    expect(await gateway.kill('SIGTERM')).toEqual(await ended)
    expect((await ended).code).toBe(1)
    expect(performance.now() - asked).toBeLessThan(5000)
    // Its connection was cut.
    expect(await long).toBeUndefined()
    await waitFor(() => !children.some(isRunning), 'the end of its servers')
    // And the next one finds nothing that keeps it from starting.
    const next = await startForTest({ config: file, stateDir: join(dir, 'state'), env })
    expect(next.keys).toEqual(gateway.keys)
  }
)

attack(
  'O1',
  'while it ends it tells who asks on an open connection that it is draining, and that a call was not taken',
  async ({ gateway, url, key, leave }) => {
    await leave()
    const { hostname, port } = new URL(url)
    const sockets = await Promise.all(
      [0, 1].map(async () => {
        const socket = connect(Number(port), hostname)
        await once(socket, 'connect')
        socket.write('GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n')
        const [first] = await once(socket, 'data')
        expect(String(first)).toMatch(/^HTTP\/1\.1 200 /)
        return socket
      })
    )
    const closed = gateway.close()
    const body = '{"jsonrpc":"2.0","id":1,"method":"ping"}'
    const requests = [
      'GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n',
      `POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${key}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`
    ]
    const answers = await Promise.all(sockets.map((socket, i) => answerTo(socket, requests[i]!)))
    for (const answer of answers) {
      expect(answer).toMatch(/^HTTP\/1\.1 503 /)
      expect(answer).toMatch(/^connection: close\r$/im)
    }
    expect(answers[0]).toContain('"draining"')
    expect(answers[1]).toMatch(/^retry-after: 2\r$/im)
    await closed
  }
)

async function answerTo(socket: Socket, request: string): Promise<string> {
  let answer = ''
  socket.on('data', chunk => (answer += String(chunk)))
  socket.write(request)
  await once(socket, 'close')
  return answer
}

describe('O2: an address that cannot be had', () => {
  it('which another program has: exit code 1 five times, at once, with no server started and nothing left', async () => {
    const { port, close } = await takePort()
    onTestFinished(close)
    const dir = temporary()
    const config = oneServer(dir)
    // What it takes to start at all, on a machine that may be busy.
    const measured = performance.now()
    await runSwitchboard(['--version'])
    const startMs = performance.now() - measured
    for (let round = 0; round < 5; round++) {
      const begun = performance.now()
      const run = await runSwitchboard(['-c', config, '--state', join(dir, 'state'), '--port', String(port)])
      const ms = performance.now() - begun
      console.info(`round ${round}: ${ms.toFixed()} ms`)
      expect(run).toMatchObject({ code: 1, stdout: '' })
      expect(run.stderr).toMatch(/is already in use/)
      expect(ms).toBeLessThan(5000 + 3 * startMs)
    }
    expect(existsSync(join(dir, 'ledger'))).toBe(false)
    expect(existsSync(join(dir, 'state', 'lock'))).toBe(false)
  })

  it.each(['0.0.0.0', '::', '192.0.2.1'])('%s without keys: exit code 2, and no server is started', async host => {
    const dir = temporary()
    const config = oneServer(dir)
    const run = await runSwitchboard(['-c', config, '--state', join(dir, 'state'), '--host', host, '--port', '0'])
    expect(run).toMatchObject({ code: 2, stdout: '' })
    expect(run.stderr).toMatch(/there are no keys\. Run `switchboard key new admin`/)
    expect(existsSync(join(dir, 'ledger'))).toBe(false)
    expect(existsSync(join(dir, 'state'))).toBe(false)
  })
})

/** A pipe that is read only when told to. */
function stuckPipe(dir: string) {
  const path = join(dir, 'pipe')
  execFileSync('mkfifo', [path])
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const writer = openSync(path, constants.O_WRONLY)
  onTestFinished(() => closeSync(reader))
  return {
    writer,
    read(): string {
      const buffer = Buffer.alloc(1024 * 1024)
      let text = ''
      try {
        for (let size = readSync(reader, buffer); size > 0; size = readSync(reader, buffer))
          text += buffer.toString('utf8', 0, size)
      } catch (error) {
        expect((error as NodeJS.ErrnoException).code).toBe('EAGAIN')
      }
      return text
    }
  }
}

/** More lines than a pipe holds. */
async function manyCalls(attacked: ProcessAttack) {
  for (let round = 0; round < 20; round++) {
    const texts = await Promise.all(Array.from({ length: 50 }, (_, n) => echo(attacked, `${round}:${n}`)))
    expect(texts).toEqual(Array.from({ length: 50 }, (_, n) => `${round}:${n}`))
  }
}

attackProcess(
  'O3',
  'a log that cannot be written because its reader has stopped: it serves on, what waited is written when the reader goes on',
  async (begin, made) => {
    const dir = temporary()
    const pipe = stuckPipe(dir)
    const attacked = await begin({ servers: rawIn(dir, made), stateDir: join(dir, 'state'), stderrTo: pipe.writer })
    closeSync(pipe.writer)
    await manyCalls(attacked)
    const begun = performance.now()
    expect(await echo(attacked, 'still here')).toBe('still here')
    expect(performance.now() - begun).toBeLessThan(5000)
    let text = ''
    // Those of the bystander are lines, too.
    const lines = () => text.split('\n').filter(line => /"event":"call","key":"attacker"/.test(line))
    await waitFor(() => {
      text += pipe.read()
      return lines().length >= 1001
    }, 'the lines that waited')
    attacked.hear(text)
    for (const line of text.slice(0, text.lastIndexOf('\n')).split('\n'))
      expect(() => void JSON.parse(line)).not.toThrow()
    expect(lines()).toHaveLength(1001)
    expect(await metric(attacked, 'switchboard_log_dropped_total')).toBe(0)
  }
)

attackProcess(
  'O3',
  'a log that cannot be written because its reader has stopped: it ends all the same, with exit code 0',
  async (begin, made) => {
    const dir = temporary()
    const pipe = stuckPipe(dir)
    const attacked = await begin({ servers: rawIn(dir, made), stateDir: join(dir, 'state'), stderrTo: pipe.writer })
    const { gateway, leave } = attacked
    closeSync(pipe.writer)
    await manyCalls(attacked)
    const servers = gateway.servers()
    await leave()
    const asked = performance.now()
    expect(await gateway.kill('SIGTERM')).toEqual({ code: 0, signal: null })
    expect(performance.now() - asked).toBeLessThan(10_000)
    expect(servers.filter(isRunning)).toEqual([])
  }
)

if (existsSync('/dev/full'))
  attackProcess(
    'O3',
    'a log that cannot be written because the disk is full: it starts, serves and ends',
    async (begin, made) => {
      const dir = temporary()
      const full = openSync('/dev/full', 'w')
      onTestFinished(() => closeSync(full))
      // A finding is told on stderr, too.
      const unset = { url: '${SWITCHBOARD_TEST_UNSET}' }
      const attacked = await begin({
        servers: { ...rawIn(dir, made), unset },
        sick: ['unset'],
        stateDir: join(dir, 'state'),
        stderrTo: full
      })
      const { gateway, leave } = attacked
      expect(await echo(attacked, 'still here')).toBe('still here')
      await manyCalls(attacked)
      await sleep(1500)
      expect(await echo(attacked, 'and later')).toBe('and later')
      await leave()
      expect(await gateway.kill('SIGTERM')).toEqual({ code: 0, signal: null })
    }
  )

attackProcess('O3', 'a log that cannot be written because its reader is gone: it serves on', async (begin, made) => {
  const dir = temporary()
  const path = join(dir, 'pipe')
  execFileSync('mkfifo', [path])
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const writer = openSync(path, constants.O_WRONLY)
  const attacked = await begin({ servers: rawIn(dir, made), stateDir: join(dir, 'state'), stderrTo: writer })
  const { gateway, leave } = attacked
  closeSync(reader)
  closeSync(writer)
  await manyCalls(attacked)
  expect(await echo(attacked, 'still here')).toBe('still here')
  await leave()
  expect(await gateway.kill('SIGTERM')).toEqual({ code: 0, signal: null })
})

describe('O3: a log that cannot be written', () => {
  it('holds 8 MiB at most, counts the lines beyond, and says how many are missing when it can be written again', async () => {
    let stuck: ((error: Error | null, written: number) => void) | undefined
    let works = false
    let text = ''
    const write: Write = (bytes, done) => {
      const take = (error: Error | null) => {
        if (!error) text += bytes.toString()
        done(error, bytes.length)
      }
      if (works) setImmediate(take, null)
      else stuck = () => take(null)
    }
    const sink: Sink = createSink({ write, droppedLine: lines => `${lines} missing\n` })
    const line = (n: number) => `${String(n).padEnd(1023, '.')}\n`
    for (let n = 0; n < 20_000; n++) sink.write(line(n))
    expect(sink.dropped).toBe(20_000 - 8192)
    expect(await sink.flush(20)).toBe(false)
    works = true
    stuck?.(null, 0)
    expect(await sink.flush(5000)).toBe(true)
    const lines = text.split('\n')
    expect(lines.slice(0, 8192).map(Number.parseFloat)).toEqual(Array.from({ length: 8192 }, (_, n) => n))
    expect(lines.slice(8192)).toEqual([`${20_000 - 8192} missing`, ''])
    sink.write('after\n')
    expect(await sink.flush(5000)).toBe(true)
    expect(text.endsWith('missing\nafter\n')).toBe(true)
    expect(sink.dropped).toBe(20_000 - 8192)
  })

  it('is tried again after an error, from the byte at which it stopped', async () => {
    let text = ''
    let attempts = 0
    const write: Write = (bytes, done) => {
      const failed = ++attempts <= 2
      const size = failed ? 0 : Math.min(bytes.length, 7)
      text += bytes.toString('utf8', 0, size)
      setImmediate(done, failed ? Object.assign(new Error('no space'), { code: 'ENOSPC' }) : null, size)
    }
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    const sink = createSink({ write, droppedLine: () => '' })
    for (let n = 0; n < 10; n++) sink.write(`line ${n}\n`)
    for (let round = 0; round < 100; round++) {
      vi.advanceTimersByTime(100)
      await new Promise(resolve => setImmediate(resolve))
    }
    expect(text).toBe(Array.from({ length: 10 }, (_, n) => `line ${n}\n`).join(''))
    // Two that failed, a second apart.
    expect(attempts).toBe(2 + Math.ceil(text.length / 7))
  })
})

describe('O4: a clock that jumps', () => {
  afterEach(() => void vi.useRealTimers())
  /** From now on the clock stands still, and jumps. */
  const holdClock = () => void vi.useFakeTimers({ toFake: ['Date'] })
  const jump = (ms: number) => void vi.setSystemTime(Date.now() + ms)
  const hour = 3_600_000

  for (const [what, by] of [
    ['an hour ahead', hour],
    ['an hour back', -hour]
  ] as const)
    attackFrom(
      'O4',
      `a clock that jumps ${what}: running calls, sessions, lists and restarts do not notice`,
      async (begin, made) => {
        holdClock()
        const dir = temporary()
        const attacked = await begin({ servers: rawIn(dir, made, { timeout: 5, max_timeout: 10 }) })
        const { gateway, url, key, ledger, leave } = attacked
        const session = await openSession(url, key)
        const call = (tool: string, args: object) =>
          ledger.call(nonce => session.rpc('tools/call', { name: `raw__${tool}`, arguments: { ...args, nonce } }))
        const running = call('slow', { ms: 500 })
        await waitFor(() => startedIn(dir).length === 1, 'the call to run')
        jump(by)
        expect((await running)?.json.result.content[0].text).toBe('waited 500 ms')
        expect((await session.rpc('tools/list')).status).toBe(200)
        expect((await openSession(url, key)).opened.status).toBe(200)
        const [pid] = [...readFileSync(join(dir, 'ledger'), 'utf8').matchAll(/^process (\d+)$/gm)]
          .slice(-1)[0]!
          .slice(1)
        process.kill(Number(pid), 'SIGKILL')
        await waitFor(() => gateway.logged('upstream.down').length > 0, 'the server to be down')
        const begun = performance.now()
        const back = await call('echo', { message: 'back' })
        expect(back?.json.result.content[0].text).toBe('back')
        expect(performance.now() - begun).toBeLessThan(10_000)
        expect(gateway.logged('upstream.down')).toHaveLength(1)
        await leave()
        // Ending it waits for nothing that the clock would have to reach.
        const ending = performance.now()
        await gateway.close()
        expect(performance.now() - ending).toBeLessThan(10_000)
      }
    )

  attackFrom(
    'O4',
    'a clock that jumps into 2038 and beyond: keys expire by it, everything else goes on',
    async (begin, made) => {
      holdClock()
      const developer = { secret: '${DEVELOPER}', allow: '*', expires: '2037-12-31' }
      const { gateway, url, key, call } = await begin({ servers: rawIn(temporary(), made), keys: { developer } })
      const ask = async (secret: string) => (await call('raw__echo', { message: 'x' }, { secret })).status
      expect([await ask(key), await ask(secrets.DEVELOPER)]).toEqual([200, 200])
      for (const day of ['2038-01-19T03:14:08Z', '2107-01-01T00:00:00Z']) {
        jump(Date.parse(day) - Date.now())
        expect([await ask(key), await ask(secrets.DEVELOPER)]).toEqual([200, 401])
        expect((await openSession(url, key)).opened.status).toBe(200)
      }
      jump(Date.parse('2037-12-31T23:59:59Z') - Date.now())
      expect(await ask(secrets.DEVELOPER)).toBe(200)
      expect(gateway.logged('upstream.down')).toEqual([])
    }
  )
})

attackProcess(
  'O4',
  'too few descriptors, 128 and 500 clients: those who are too many are turned away and told of once, calls go on, and all is well after',
  async (begin, made) => {
    const dir = temporary()
    const attacked = await begin({ servers: rawIn(dir, made), stateDir: join(dir, 'state'), descriptors: 128 })
    const { gateway, leave } = attacked
    // While there are too many, whoever comes may be turned away: the bystander, too.
    await leave()
    const sockets: Socket[] = []
    onTestFinished(() => sockets.forEach(socket => socket.destroy()))
    let served = 0
    for (let n = 0; n < 500; n++) {
      const socket = connect(gateway.port, '127.0.0.1')
      socket.on('error', () => {})
      socket.on('data', () => served++)
      socket.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n')
      sockets.push(socket)
    }
    await waitFor(() => gateway.logged('connections.refused').length > 0, 'the first to be turned away')
    // Who is let in keeps its connection but for the sake of others; a call finds a place by trying.
    const tries = (message: string) =>
      modern(attacked.url, attacked.key, 'tools/call', { name: 'raw__echo', arguments: { message } }).then(
        ({ json }) => json.result?.content[0].text as string | undefined,
        () => undefined
      )
    let text: string | undefined
    await waitFor(async () => {
      text = await tries('through')
      return text !== undefined
    }, 'a call to get through')
    expect(text).toBe('through')
    expect(served).toBeGreaterThan(30)
    // What it needs itself, it still has: a server that died is started again.
    const before = gateway.servers().map(({ pid }) => pid)
    for (const pid of before) process.kill(pid, 'SIGKILL')
    for (const socket of sockets) socket.destroy()
    const starts = () => gateway.logged('upstream.ready').filter(({ server }) => server === 'raw').length
    await waitFor(() => starts() > 1, 'the server to be started again')
    expect(await echo(attacked, 'after')).toBe('after')
    expect(gateway.logged('connections.refused')).toMatchObject([{ level: 'warn', connections: 1 }])
    expect(gateway.logged('fault')).toEqual([])
    expect(await gateway.kill('SIGTERM')).toEqual({ code: 0, signal: null })
  }
)

for (const [what, bug] of [
  ['an exception that nobody catches', `setTimeout(() => { throw new Error('a bug for the test') })`],
  ['a rejection that nobody handles', `Promise.reject(new Error('a bug for the test'))`]
] as const)
  attackProcess(
    'O4',
    `a bug of ours, ${what}: it is logged, what runs is finished, and the exit code is 1`,
    async (begin, made) => {
      const dir = temporary()
      const preload = `data:text/javascript,${encodeURIComponent(`process.on('SIGUSR2', () => { ${bug} })`)}`
      const { gateway, call, leave } = await begin({
        servers: rawIn(dir, made),
        stateDir: join(dir, 'state'),
        env: { NODE_OPTIONS: `--import ${preload}` }
      })
      const servers = gateway.servers()
      const running = call('raw__slow', { ms: 1000 })
      await waitFor(() => startedIn(dir).length === 1, 'the call to run')
      await leave()
      expect(await gateway.kill('SIGUSR2')).toEqual({ code: 1, signal: null })
      expect((await running).json.result.content[0].text).toBe('waited 1000 ms')
      const [fault, ...others] = gateway.logged('fault')
      expect(others).toEqual([])
      expect(fault).toMatchObject({ level: 'error', reason: 'a bug for the test' })
      expect(fault?.stack).toContain('a bug for the test')
      expect(servers.filter(isRunning)).toEqual([])
      expect(existsSync(join(dir, 'state', 'lock'))).toBe(false)
    },
    { faults: 1 }
  )

attackProcess('O4', 'variables for a proxy have no effect: a server is dialled directly', async begin => {
  const proxied: string[] = []
  const proxy = createServer((req, res) => {
    proxied.push(String(req.url))
    res.writeHead(502).end()
  })
  proxy.on('connect', (req, socket) => {
    proxied.push(String(req.url))
    socket.destroy()
  })
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  onTestFinished(() => void proxy.close())
  const address = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`
  const names = ['HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'http_proxy', 'https_proxy', 'all_proxy']
  const attacked = await begin({
    env: { NODE_USE_ENV_PROXY: '1', ...Object.fromEntries(names.map(name => [name, address])) }
  })
  expect(await echo(attacked, 'direct', 'healthy')).toBe('direct')
  expect(proxied).toEqual([])
})

attackFrom('O4', 'a name that cannot be resolved is the problem of its server alone, in words', async (begin, made) => {
  const lost = { url: 'http://no-such-host.invalid/mcp', connect_timeout: 3 }
  const attacked = await begin({ servers: { lost, ...rawIn(temporary(), made) }, sick: ['lost'] })
  const { gateway } = attacked
  await gateway.until('lost', 'down')
  const { problem } = gateway.gateway.status().find(({ id }) => id === 'lost')!
  expect(problem).toBe('its host name could not be resolved')
  expect(await echo(attacked, 'x')).toBe('x')
})

attackFrom('O4', 'ten thousand tools make no series of their own in /metrics', async begin => {
  const dir = temporary()
  const file = join(dir, 'many.mjs')
  writeFileSync(
    file,
    `import { createInterface } from 'node:readline'
      const tools = Array.from({ length: 10_000 }, (_, n) => ({ name: 'tool_' + n, inputSchema: { type: 'object' } }))
      const send = message => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\\n')
      createInterface({ input: process.stdin }).on('line', line => {
        const { id, method } = JSON.parse(line)
        if (method === 'initialize') send({ id, result: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'x', version: '1' } } })
        else if (method === 'tools/list') send({ id, result: { tools } })
        else if (method === 'tools/call') send({ id, result: { content: [] } })
        else if (id !== undefined) send({ id, error: { code: -32601, message: 'Method not found' } })
      })`
  )
  const { url, key } = await begin({ servers: { many: { command: 'node', args: [file] } } })
  for (let round = 0; round < 10; round++) {
    await Promise.all(
      Array.from({ length: 50 }, (_, n) => {
        const name = n % 5 === 0 ? `no_${round}_${n}` : `many__tool_${round * 1000 + n}`
        return modern(url, key, 'tools/call', { name, arguments: {} })
      })
    )
  }
  const text = await textOf(`${url}/metrics`, key)
  const series = text.split('\n').filter(line => line !== '' && !line.startsWith('#'))
  expect(series).toContain('switchboard_upstream_tools{server="many"} 10000')
  expect(series.length).toBeLessThan(2000)
  expect(text).not.toMatch(/tool_\d|no_\d/)
})
