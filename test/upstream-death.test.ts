/** What becomes of calls, processes and the next call when a server dies, however it was started. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { randomUUID } from 'node:crypto'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { modern, openSession, type Reply } from './helpers/http.js'
import { marked } from './helpers/processes.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const lastLine = 'opened 3 tables, waiting for work'
const killed = /SIGKILL.*opened 3 tables, waiting for work/
const died = [-31502, -31503]

/** A package in the file system, so that npx needs no registry: `npx tiny-server` runs its `server.mjs`. */
let folder: string
let server: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'switchboard-npx-'))
  server = join(folder, 'tiny-server', 'server.mjs')
  mkdirSync(join(folder, 'node_modules', '.bin'), { recursive: true })
  mkdirSync(join(folder, 'tiny-server'))
  writeFileSync(join(folder, 'package.json'), '{ "name": "host", "private": true }')
  writeFileSync(
    join(folder, 'tiny-server', 'package.json'),
    '{ "name": "tiny-server", "version": "1.0.0", "type": "module", "bin": { "tiny-server": "server.mjs" } }'
  )
  writeFileSync(
    server,
    `#!/usr/bin/env node\nprocess.stderr.write(${JSON.stringify(`reading\n${lastLine}\n`)})\n` +
      `await import(${JSON.stringify(pathToFileURL(fixture('raw-stdio.mjs')).href)})\n`
  )
  chmodSync(server, 0o755)
  symlinkSync(join(folder, 'tiny-server'), join(folder, 'node_modules', 'tiny-server'))
  symlinkSync(server, join(folder, 'node_modules', '.bin', 'tiny-server'))
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

interface Launch {
  readonly command: string
  readonly args: readonly string[]
  readonly env?: Record<string, string>
  readonly url?: string
  readonly era?: 'legacy'
}

// A server that ends only by force is not also asked, in a process of its own, whether it speaks the modern era.
const stubborn = (args: string[]) => (args.includes('ignore-term') ? { era: 'legacy' as const } : {})
const direct = (...args: string[]): Launch => ({
  command: process.execPath,
  args: [server, ...args],
  ...stubborn(args)
})
const throughNpx = (): Launch => ({
  command: 'npx',
  args: ['--offline', 'tiny-server'],
  env: { npm_config_update_notifier: 'false', npm_config_cache: join(folder, 'cache') }
})
const throughShell = (...args: string[]): Launch => ({
  command: 'sh',
  args: ['-c', `"${process.execPath}" "${server}" ${args.join(' ')}; exit $?`],
  ...stubborn(args)
})

/** A gateway with the one server `frail`, everything it started recognisable by a marker in its environment. */
async function startFrail(launch: Launch) {
  const marker = `marker-${randomUUID()}`
  const ledgerFile = join(folder, `${marker}.ledger`)
  const frail = { cwd: folder, ...launch, env: { LEDGER: ledgerFile, MARKER: marker, ...launch.env } }
  const gateway = await startTestGateway(
    `servers: ${JSON.stringify({ frail })}\nkeys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`
  )
  onTestFinished(async () => {
    await gateway.close()
    for (const pid of marked(marker)) process.kill(pid, 'SIGKILL')
  })
  await gateway.until('frail')
  const ledger = openLedger(ledgerFile)
  return {
    gateway,
    ledger,
    /** The process that speaks MCP, as it noted itself. */
    serverPid: () =>
      Number(
        ledger
          .lines()
          .findLast(line => line.startsWith('process '))
          ?.slice(8)
      ),
    /** The process that the gateway started. */
    wrapperPid: () => gateway.gateway.status()[0]?.pid as number,
    survivors: () => marked(marker)
  }
}

/** What was killed by force a moment ago may still stand in /proc; what was only asked to end would stay longer. */
const expectNone = (pids: () => number[]) => waitFor(() => pids().length === 0, 'no process to be left', 1000)

const call = (gateway: TestGateway, tool: string, args: object = {}, id: string | number = 1) =>
  modern(gateway.url, secrets.ADMIN, 'tools/call', { name: `frail__${tool}`, arguments: args }, { id })

/** The moment at which a request was answered, with its answer. */
const timed = async (reply: Promise<Reply>) => ({ reply: await reply, at: performance.now() })

const problemOf = ({ json }: Reply) => json.result?._meta?.['switchboard/error']
const textOf = ({ json }: Reply): string => json.result.content[0].text

/** A call that the server has begun; its answer is still to come. */
async function callInFlight({ gateway, ledger }: Awaited<ReturnType<typeof startFrail>>) {
  const answer = timed(call(gateway, 'slow', { ms: 60_000, nonce: 'first' }))
  await waitFor(() => ledger.count('started first') === 1, 'the call to be in flight')
  return { answer }
}

/** Ends one process without a chance to say goodbye, and tells how long the call in flight then took. */
async function killAndMeasure(pid: number, answer: Promise<{ reply: Reply; at: number }>) {
  const killed = performance.now()
  process.kill(pid, 'SIGKILL')
  const { reply, at } = await answer
  return { reply, ms: at - killed }
}

const print = (what: string, ms: number) => console.log(`${what}: ${ms.toFixed(0)} ms`)

describe('a call in flight is answered at once when its server is killed, and the next call works (§6.67)', () => {
  // A shell writes "Killed" on stderr when the program it waits for is: then that is the last line.
  it.each<[string, () => Launch, 'server' | 'wrapper', RegExp]>([
    ['the server, started directly', () => direct(), 'server', killed],
    ['the server behind npx', throughNpx, 'server', /code 137; .*Killed/],
    ['only the npx wrapper', throughNpx, 'wrapper', killed],
    ['the server behind sh -c', () => throughShell(), 'server', /code 137; .*Killed/],
    ['only the sh -c wrapper', () => throughShell(), 'wrapper', killed],
    ['a server whose grandchild holds stdout', () => direct('--mode', 'grandchild'), 'server', killed],
    [
      'only the sh -c wrapper of a server that ignores SIGTERM',
      () => throughShell('--mode', 'ignore-term'),
      'wrapper',
      killed
    ]
  ])(
    'killed: %s',
    async (what, launch, victim, how) => {
      const frail = await startFrail(launch())
      const { gateway, serverPid, wrapperPid, survivors } = frail
      const behindWrapper = /npx|sh -c/.test(what)
      expect(serverPid() !== wrapperPid()).toBe(behindWrapper)

      const { answer } = await callInFlight(frail)
      const { reply, ms } = await killAndMeasure(victim === 'server' ? serverPid() : wrapperPid(), answer)
      print(`answered after killing ${what}`, ms)

      expect(ms).toBeLessThan(5000)
      expect(reply.status).toBe(200)
      expect(reply.json.result.isError).toBe(true)
      expect(problemOf(reply)).toMatchObject({ server: 'frail', dispatched: true })
      expect(died).toContain(problemOf(reply).code)
      expect(textOf(reply)).toContain('"frail"')
      expect(textOf(reply)).toContain('"slow"')
      expect(textOf(reply)).toMatch(how)

      const restarting = performance.now()
      const next = await call(gateway, 'echo', { message: 'again' })
      print(`the next call, restart included, after killing ${what}`, performance.now() - restarting)
      expect(next.json.result.content).toEqual([{ type: 'text', text: 'again' }])
      expect(gateway.gateway.status()).toMatchObject([{ state: 'ready', restarts: 1 }])
      expect(frail.ledger.count('started first')).toBe(1)

      await gateway.close()
      await expectNone(survivors)
    },
    90_000
  )

  it('names the exit code and the last words of a server that ends itself during the call', async () => {
    const { gateway, ledger } = await startFrail(direct('--mode', 'die-on-call'))
    const reply = await call(gateway, 'count', { nonce: 'once' })
    expect(problemOf(reply)).toMatchObject({ server: 'frail', dispatched: true })
    expect(died).toContain(problemOf(reply).code)
    expect(textOf(reply)).toMatch(/code 3\b.*dying on purpose: the disk is full/)
    expect(textOf(reply)).toMatch(/may or may not have run/)
    expect(ledger.count('called once')).toBe(1)
    await gateway.until('frail')
    expect(ledger.count('called once')).toBe(1)
  })

  it('answers every one of twenty calls in flight exactly once and sends none again', async () => {
    const { gateway, ledger, serverPid } = await startFrail(direct())
    const nonces = Array.from({ length: 20 }, (_, i) => `nonce-${i}`)
    const answers = nonces.map((nonce, i) => timed(call(gateway, 'slow', { ms: 60_000, nonce }, i)))
    await waitFor(() => nonces.every(nonce => ledger.count(`started ${nonce}`) === 1), 'all to be in flight')
    const killed = performance.now()
    process.kill(serverPid(), 'SIGKILL')
    const replies = await Promise.all(answers)
    print('the last of twenty was answered', Math.max(...replies.map(({ at }) => at)) - killed)
    replies.forEach(({ reply, at }, i) => {
      expect(at - killed).toBeLessThan(5000)
      expect(reply.messages).toHaveLength(1)
      expect(reply.json.id).toBe(i)
      expect(problemOf(reply)).toMatchObject({ server: 'frail', dispatched: true })
    })
    expect((await call(gateway, 'count', { nonce: 'after' })).json.result.content[0].text).toBe('1')
    await new Promise(resolve => setTimeout(resolve, 300))
    const started = ledger.lines().filter(line => line.startsWith('started '))
    expect(started.sort()).toEqual(nonces.map(nonce => `started ${nonce}`).sort())
  })

  it("keeps the client's session over the death of a server", async () => {
    const { gateway, serverPid } = await startFrail(direct())
    const session = await openSession(gateway.url, secrets.ADMIN)
    const before = await session.rpc('tools/call', { name: 'frail__echo', arguments: { message: 'before' } })
    expect(before.json.result.content[0].text).toBe('before')
    const pid = serverPid()
    process.kill(pid, 'SIGKILL')
    await waitFor(() => gateway.gateway.status()[0]?.pid !== pid, 'the gateway to notice')
    const list = await session.rpc('tools/list')
    expect(list.json.result.tools.map(({ name }: { name: string }) => name)).toContain('frail__echo')
    const after = await session.rpc('tools/call', { name: 'frail__echo', arguments: { message: 'after' } })
    expect(after.json.result.content[0].text).toBe('after')
  })

  it('restarts a server that was killed while nobody called it', async () => {
    const { gateway, serverPid } = await startFrail(direct())
    const pid = serverPid()
    process.kill(pid, 'SIGKILL')
    await waitFor(() => serverPid() !== pid, 'a new process')
    await gateway.until('frail')
    expect(gateway.gateway.status()).toMatchObject([{ restarts: 1 }])
    expect(gateway.gateway.status()[0]).not.toHaveProperty('problem')
  })
})

describe('closing the gateway leaves no process behind', () => {
  it.each<[string, () => Launch]>([
    ['a server', () => direct()],
    ['a server behind npx', throughNpx],
    ['a server behind sh -c', () => throughShell()],
    ['a server that ignores SIGTERM and the end of stdin', () => direct('--mode', 'ignore-term')],
    ['such a server behind sh -c', () => throughShell('--mode', 'ignore-term')],
    ['a server with a grandchild that ignores SIGTERM', () => direct('--mode', 'grandchild')]
  ])(
    'of %s',
    async (what, launch) => {
      const { gateway, survivors } = await startFrail(launch())
      expect(survivors().length).toBeGreaterThan(0)
      const begun = performance.now()
      await gateway.close()
      print(`closed with ${what}`, performance.now() - begun)
      await expectNone(survivors)
    },
    60_000
  )

  it('of a server that was killed a moment ago and had a grandchild that ignores SIGTERM', async () => {
    const { gateway, serverPid, survivors } = await startFrail(direct('--mode', 'grandchild'))
    process.kill(serverPid(), 'SIGKILL')
    await waitFor(() => gateway.gateway.status()[0]?.state !== 'ready', 'the gateway to notice')
    await gateway.close()
    await expectNone(survivors)
  })

  it('of a server that is still starting', async () => {
    const marker = `marker-${randomUUID()}`
    const late = { ...direct('--mode', 'slow-start'), env: { MARKER: marker, START_MS: '60000' } }
    const gateway = await startTestGateway(`servers: ${JSON.stringify({ late })}\n`)
    onTestFinished(() => gateway.close())
    await waitFor(() => marked(marker).length > 0, 'the process')
    await gateway.close()
    await expectNone(() => marked(marker))
  })
})

describe('a server with a command and a url', () => {
  async function freePort(): Promise<number> {
    const probe = createServer()
    await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve))
    const { port } = probe.address() as { port: number }
    await new Promise(resolve => probe.close(resolve))
    return port
  }

  async function startServed(script = 'http-legacy.mjs', shell = false) {
    const port = await freePort()
    const program = join(folder, `served-${script}`)
    writeFileSync(
      program,
      `process.argv[1] = ${JSON.stringify(fixture(script))}\n` +
        `await import(${JSON.stringify(pathToFileURL(fixture(script)).href)})\n` +
        `process.stderr.write(${JSON.stringify(`${lastLine}\n`)})\n`
    )
    const launch = shell
      ? { command: 'sh', args: ['-c', `"${process.execPath}" "${program}"; exit $?`] }
      : { command: process.execPath, args: [program] }
    return startFrail({ ...launch, url: `http://127.0.0.1:${port}/mcp`, env: { PORT: String(port) } })
  }

  it('answers the call in flight when its process is killed, starts it again, and the next call works', async () => {
    const frail = await startServed()
    const { answer } = await callInFlight(frail)
    const pid = frail.wrapperPid()
    const { reply, ms } = await killAndMeasure(pid, answer)
    print('answered after killing a process that serves a url', ms)
    expect(ms).toBeLessThan(5000)
    expect(reply.json.result.isError).toBe(true)
    expect(problemOf(reply)).toMatchObject({ server: 'frail', dispatched: true })
    expect(died).toContain(problemOf(reply).code)
    expect(textOf(reply)).toContain('"frail"')
    expect(textOf(reply)).toContain('"slow"')

    const restarting = performance.now()
    const next = await call(frail.gateway, 'echo', { message: 'again' })
    print('the next call, restart included, of a process that serves a url', performance.now() - restarting)
    expect(next.json.result.content[0].text).toBe('again')
    expect(frail.wrapperPid()).not.toBe(pid)
    expect(frail.ledger.count('started first')).toBe(1)
    await frail.gateway.close()
    await expectNone(frail.survivors)
  })

  it('says how the process ended and what its last words were', async () => {
    const frail = await startServed()
    const { answer } = await callInFlight(frail)
    const { reply } = await killAndMeasure(frail.wrapperPid(), answer)
    expect(textOf(reply)).toContain('SIGKILL')
    expect(textOf(reply)).toContain(lastLine)
  })

  it('answers the call in flight when only its sh -c wrapper is killed, and the next call works', async () => {
    const frail = await startServed('http-legacy.mjs', true)
    const { answer } = await callInFlight(frail)
    const { reply, ms } = await killAndMeasure(frail.wrapperPid(), answer)
    print('answered after killing the sh -c wrapper of a process that serves a url', ms)
    expect(ms).toBeLessThan(5000)
    expect(problemOf(reply)).toMatchObject({ server: 'frail', dispatched: true })
    expect((await call(frail.gateway, 'echo', { message: 'again' })).json.result.content[0].text).toBe('again')
    await frail.gateway.close()
    await expectNone(frail.survivors)
  })

  it('answers every one of twenty calls in flight exactly once and sends none again', async () => {
    const { gateway, ledger, wrapperPid } = await startServed('raw-http.mjs')
    const nonces = Array.from({ length: 20 }, (_, i) => `nonce-${i}`)
    const answers = nonces.map((nonce, i) => timed(call(gateway, 'slow', { ms: 60_000, nonce }, `id ${i}`)))
    await waitFor(() => nonces.every(nonce => ledger.count(`started ${nonce}`) === 1), 'all to be in flight')
    const killed = performance.now()
    process.kill(wrapperPid(), 'SIGKILL')
    const replies = await Promise.all(answers)
    print('the last of twenty over a url was answered', Math.max(...replies.map(({ at }) => at)) - killed)
    replies.forEach(({ reply, at }, i) => {
      expect(at - killed).toBeLessThan(5000)
      expect(reply.messages).toHaveLength(1)
      expect(reply.json.id).toBe(`id ${i}`)
      expect(problemOf(reply)).toMatchObject({ server: 'frail', dispatched: true })
    })
    expect((await call(gateway, 'count', { nonce: 'after' })).json.result.content[0].text).toBe('1')
    const started = ledger.lines().filter(line => line.startsWith('started '))
    expect(started.sort()).toEqual(nonces.map(nonce => `started ${nonce}`).sort())
  })

  it('starts its process again when that was killed while nobody called', async () => {
    const { gateway, wrapperPid } = await startServed()
    const pid = wrapperPid()
    process.kill(pid, 'SIGKILL')
    await waitFor(() => ![pid, undefined].includes(wrapperPid()), 'a new process')
    await gateway.until('frail')
    expect((await call(gateway, 'echo', { message: 'back' })).json.result.content[0].text).toBe('back')
  })
})
