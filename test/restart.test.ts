/** A gateway process ends, however roughly, and another takes its place: what its clients notice of it, and what is left. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import {
  descendants,
  freePort,
  isFree,
  isRunning,
  repository,
  runSwitchboard,
  startGatewayProcess,
  startSwitchboard,
  type GatewayProcess,
  type GatewayProcessOptions,
  type Process
} from './helpers/gateway-process.js'
import { openSession, post, send, type Reply } from './helpers/http.js'
import { fixture, waitFor } from './helpers/with-gateway.js'

function temporary(): string {
  const dir = mkdtempSync(join(tmpdir(), 'switchboard-restart-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

async function startForTest(options: GatewayProcessOptions): Promise<GatewayProcess> {
  const gateway = await startGatewayProcess(options)
  onTestFinished(() => gateway.stop())
  return gateway
}

/** A servers.yaml with one server that is up in a blink. */
function oneServer(dir: string): string {
  const file = join(dir, 'servers.yaml')
  const ledger = JSON.stringify(join(dir, 'ledger'))
  writeFileSync(
    file,
    `servers:\n  raw: { command: node, args: [${JSON.stringify(fixture('raw-stdio.mjs'))}], env: { LEDGER: ${ledger} } }\n`
  )
  return file
}

const startsIn = (dir: string) => readFileSync(join(dir, 'ledger'), 'utf8').match(/^process \d+$/gm) ?? []

/** The answer as it crossed the wire, but for the clock. */
function asBytes({ status, headers, text }: Reply): string {
  const { date, ...others } = headers
  expect(date).toBeDefined()
  return JSON.stringify({ status, headers: others, text })
}

const textOf = (reply: Reply) => reply.json.result.content[0].text as string

describe('when the gateway is killed with SIGKILL and started again at the same address', () => {
  let dir: string
  let before: GatewayProcess
  let after: GatewayProcess
  let session: Awaited<ReturnType<typeof openSession>>
  let listed: Reply
  let sealKey: Buffer
  let left: Process[]
  const firstAnswersMs = { list: NaN, call: NaN }
  const firstAnswers: { list?: Reply; call?: Reply } = {}

  const echo = (message: string) => ({ name: 'raw__echo', arguments: { message } })

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'switchboard-restart-'))
    const example = (name: string) => JSON.stringify(join(repository, 'examples', name))
    const [postgres, monitoring] = [await freePort(), await freePort()]
    writeFileSync(
      join(dir, 'lost.mjs'),
      `await import(${JSON.stringify(pathToFileURL(fixture('raw-stdio.mjs')).href)})\n`
    )
    // What the shipped servers.yaml starts, in all its ways of starting, on ports of our own.
    writeFileSync(
      join(dir, 'servers.yaml'),
      `servers:
  raw: { command: node, args: [${JSON.stringify(fixture('raw-stdio.mjs'))}] }
  lost: { command: node, args: [lost.mjs] }
  filesystem: { command: npx, args: [--no, mcp-server-filesystem, examples/workspace], cwd: ${JSON.stringify(repository)} }
  postgres: { command: node, args: [${example('postgres.mjs')}] }
  postgres_sse:
    command: node
    args: [${example('postgres-sse.mjs')}]
    env: { PORT: "${postgres}" }
    url: http://127.0.0.1:${postgres}/sse
    transport: sse
  monitoring:
    command: node
    args: [${example('monitoring.mjs')}]
    env: { PORT: "${monitoring}" }
    url: http://127.0.0.1:${monitoring}/mcp
keys:
  admin: { secret: generated, allow: "*" }
  twin: { secret: generated, allow: "*" }
`
    )
    const options = { config: join(dir, 'servers.yaml'), stateDir: join(dir, 'state') }
    before = await startGatewayProcess(options)
    await waitFor(() => before.logged('upstream.ready').length >= 6, 'six ready servers', 60_000)
    session = await openSession(before.url, before.keys.admin ?? '')
    listed = await session.rpc('tools/list')
    expect(textOf(await session.rpc('tools/call', echo('before')))).toBe('before')
    sealKey = readFileSync(join(options.stateDir, 'seal.key'))
    // The catalog is written a little after it is known.
    const written = () => Object.keys(JSON.parse(readFileSync(join(options.stateDir, 'catalog.json'), 'utf8')).servers)
    await waitFor(() => written().length === 6, 'the tools of six servers in the state directory')

    left = before.servers()
    await before.kill('SIGKILL')
    rmSync(join(dir, 'lost.mjs'))
    // A client that knows nothing of it tries again until somebody listens: its first answer is what counts.
    const starting = startGatewayProcess({ ...options, port: before.port })
    starting.catch(() => {})
    let begun = NaN
    await waitFor(
      async () => {
        begun = performance.now()
        firstAnswers.list = await session.rpc('tools/list').catch(refused)
        return firstAnswers.list !== undefined
      },
      'a gateway that listens',
      30_000
    )
    firstAnswersMs.list = performance.now() - begun
    firstAnswers.call = await session.rpc('tools/call', echo('after'))
    firstAnswersMs.call = performance.now() - begun
    after = await starting
  }, 180_000)

  afterAll(async () => {
    await before?.stop()
    await after?.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  it('is another process at the same address', () => {
    expect(after.pid).not.toBe(before.pid)
    expect(after.url).toBe(before.url)
  })

  it('lists the same tools in the old session at once, without initialize', () => {
    console.info(
      `once listening, tools/list took ${firstAnswersMs.list.toFixed()} ms, and tools/call was answered after ${firstAnswersMs.call.toFixed()} ms`
    )
    expect(firstAnswers.list?.status).toBe(200)
    const names = (reply?: Reply) => reply?.json.result.tools.map((tool: { name: string }) => tool.name) as string[]
    expect(names(firstAnswers.list)).toEqual(names(listed))
    expect(names(listed).length).toBeGreaterThan(20)
    expect(firstAnswersMs.list).toBeLessThan(5000)
  })

  it('calls a tool in the old session at once, without initialize', () => {
    expect(firstAnswers.call?.status).toBe(200)
    expect(textOf(firstAnswers.call as Reply)).toBe('after')
    expect(firstAnswersMs.call).toBeLessThan(10_000)
  })

  it('opens the old session again for its stream', async () => {
    const controller = new AbortController()
    const response = await fetch(`${after.url}/mcp`, {
      headers: { ...session.headers, accept: 'text/event-stream' },
      signal: controller.signal
    })
    expect(response.status).toBe(200)
    expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/)
    controller.abort()
  })

  it('serves every server again in the old session', async () => {
    const results = await Promise.all(
      [
        { name: 'filesystem__list_allowed_directories', arguments: {} },
        { name: 'postgres__pg_execute_query', arguments: { operation: 'select', query: 'SELECT 42 AS answer' } },
        { name: 'postgres_sse__pg_execute_query', arguments: { operation: 'select', query: 'SELECT 42 AS answer' } },
        { name: 'monitoring__memory', arguments: {} }
      ].map(params => session.rpc('tools/call', params))
    )
    for (const { json, text } of results) expect(json.result?.isError ?? false, text).toBe(false)
  }, 60_000)

  it('still lists the tools of a server that cannot start any more, and says so to who calls one', async () => {
    const names = firstAnswers.list?.json.result.tools.map((tool: { name: string }) => tool.name)
    expect(names).toContain('lost__echo')
    const { json } = await session.rpc('tools/call', { name: 'lost__echo', arguments: { message: 'hello?' } })
    expect(json.result.isError).toBe(true)
    expect(json.result.content[0].text).toMatch(/lost.*exited with code 1/)
    expect(json.result._meta['switchboard/error']).toMatchObject({ server: 'lost', dispatched: false })
  })

  it('reads the key that seals sessions back from disk and leaves it as it was', () => {
    const file = join(after.stateDir, 'seal.key')
    expect(readFileSync(file).equals(sealKey)).toBe(true)
    expect(statSync(file).mode & 0o777).toBe(0o600)
  })

  it('keeps the generated keys', () => {
    expect(after.keys).toEqual(before.keys)
  })

  it.each([
    ['POST', (url: string, headers: Record<string, string>) => post(url, list, headers)],
    ['GET', (url: string, headers: Record<string, string>) => send('GET', url, headers)],
    ['DELETE', (url: string, headers: Record<string, string>) => send('DELETE', url, headers)]
  ])('answers a %s of another key with that id as with an id that never was: 404', async (_method, ask) => {
    const as = (id: string) =>
      ask(`${after.url}/mcp`, {
        authorization: `Bearer ${after.keys.twin}`,
        'mcp-session-id': id,
        'mcp-protocol-version': '2025-11-25'
      })
    const [foreign, unknown, flipped] = [await as(session.id), await as('never-was'), await as(flip(session.id))]
    expect(foreign.status).toBe(404)
    expect(foreign.json.error.message).toMatch(/session not found/i)
    expect(asBytes(foreign)).toBe(asBytes(unknown))
    expect(asBytes(flipped)).toBe(asBytes(unknown))
    // And it has done the session no harm.
    expect((await session.rpc('ping')).status).toBe(200)
  })

  it('leaves none of the processes that the killed gateway had started', async () => {
    expect(left.length).toBeGreaterThan(5)
    await waitFor(() => !left.some(isRunning), `the end of ${left.map(one => one.command).join('; ')}`).catch(() => {})
    expect(left.filter(isRunning).map(({ command }) => command)).toEqual([])
  }, 30_000)
})

/** As many processes that take the state directory at one moment; none ends before all have tried. */
async function claimAtOnce(count: number, path: string): Promise<string[]> {
  const script = `
    import { openState } from ${JSON.stringify(join(repository, 'dist/state.js'))}
    const [, at, path] = process.argv
    while (Date.now() < Number(at));
    try {
      openState({ path })
      console.log('owned')
    } catch (error) {
      console.log(error.message)
    }
    process.stdin.resume()`
  const at = String(Date.now() + 600)
  const children = Array.from({ length: count }, () =>
    spawn(process.execPath, ['--input-type=module', '-e', script, at, path], { stdio: ['pipe', 'pipe', 'inherit'] })
  )
  const claims = await Promise.all(children.map(async child => String(await once(child.stdout, 'data'))))
  await Promise.all(
    children.map(async child => {
      child.stdin.end()
      await once(child, 'exit')
    })
  )
  return claims.map(claim => claim.trim())
}

/** Nobody listens yet. */
function refused(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED') throw error
}

const list = { jsonrpc: '2.0', id: 1, method: 'tools/list' }
const flip = (id: string) => id.slice(0, -2) + (id.at(-2) === 'A' ? 'B' : 'A') + id.slice(-1)

describe('when the gateway is asked to end', () => {
  it.each(['SIGTERM', 'SIGINT'] as const)(
    '%s ends it with exit code 0, its servers and its claim on the state',
    async signal => {
      const dir = temporary()
      const gateway = await startForTest({ config: oneServer(dir), stateDir: join(dir, 'state') })
      await waitFor(() => gateway.logged('upstream.ready').length > 0, 'a ready server')
      const servers = gateway.servers()
      expect(servers.length).toBeGreaterThan(0)
      expect(await gateway.kill(signal)).toEqual({ code: 0, signal: null })
      expect(servers.filter(isRunning)).toEqual([])
      expect(existsSync(join(dir, 'state', 'lock'))).toBe(false)
      expect(await isFree(gateway.port)).toBe(true)
    }
  )

  it('ends in the same way before it has printed its start block', async () => {
    const dir = temporary()
    const file = join(dir, 'servers.yaml')
    // A server that is slow to answer keeps the block waiting.
    const [script, ledger] = [JSON.stringify(fixture('raw-stdio.mjs')), JSON.stringify(join(dir, 'ledger'))]
    writeFileSync(
      file,
      `servers:\n  slow: { command: node, args: [${script}, --mode, hang-initialize], env: { LEDGER: ${ledger} } }\n`
    )
    const state = join(dir, 'state')
    const run = startSwitchboard(['--config', file, '--state', state, '--port', String(await freePort())])
    onTestFinished(() => void run.kill('SIGKILL'))
    await waitFor(() => existsSync(join(dir, 'ledger')), 'the start of its server')
    expect(run.stdout()).toBe('')
    const servers = descendants(run.pid)
    expect(await run.kill('SIGTERM')).toEqual({ code: 0, signal: null })
    expect(servers.filter(isRunning)).toEqual([])
    expect(existsSync(join(state, 'lock'))).toBe(false)
  })
})

describe('the state directory', () => {
  it('is refused to a second gateway in one sentence, while the first one serves on', async () => {
    const dir = temporary()
    const options = { config: oneServer(dir), stateDir: join(dir, 'state') }
    const first = await startForTest(options)
    const session = await openSession(first.url, first.keys.admin ?? '')
    const [port, starts] = [await freePort(), startsIn(dir).length]
    const second = await runSwitchboard([
      ...['serve', '--config', options.config, '--state', options.stateDir, '--port', String(port)]
    ])
    expect(second.code).toBe(1)
    expect(second.stdout).toBe('')
    expect(second.stderr).toBe(
      `Another Switchboard (pid ${first.pid}) uses the state directory ${options.stateDir}. Stop it, or give this one a directory of its own with --state.\n`
    )
    expect(startsIn(dir)).toHaveLength(starts)
    expect(textOf(await session.rpc('tools/call', { name: 'raw__echo', arguments: { message: 'on' } }))).toBe('on')
    expect(existsSync(join(options.stateDir, 'lock'))).toBe(true)
  })

  it('is taken over from a gateway that was killed', async () => {
    const dir = temporary()
    const options = { config: oneServer(dir), stateDir: join(dir, 'state') }
    const first = await startForTest(options)
    await first.kill('SIGKILL')
    expect(readFileSync(join(options.stateDir, 'lock'), 'utf8')).toContain(String(first.pid))
    const second = await startForTest(options)
    expect(second.keys).toEqual(first.keys)
    expect(readFileSync(join(options.stateDir, 'lock'), 'utf8')).toContain(String(second.pid))
  })

  it('is taken over when the pid in its lock belongs to another program by now', async () => {
    const dir = temporary()
    const options = { config: oneServer(dir), stateDir: join(dir, 'state') }
    await (await startForTest(options)).kill('SIGTERM')
    // This very process lives, but it began at another time than the owner did.
    writeFileSync(join(options.stateDir, 'lock'), JSON.stringify({ pid: process.pid, started: '1' }))
    const second = await startForTest(options)
    expect(second.block).toContain('Switchboard is listening')
  })

  it('is taken over when its lock is empty, as after a power cut', async () => {
    const dir = temporary()
    const options = { config: oneServer(dir), stateDir: join(dir, 'state') }
    await (await startForTest(options)).kill('SIGTERM')
    writeFileSync(join(options.stateDir, 'lock'), '')
    expect((await startForTest(options)).block).toContain('Switchboard is listening')
  })

  it.each(['of a gateway that was killed', 'that was given free'])(
    'has one owner, however many gateways start at the same instant in a directory %s',
    async which => {
      for (let round = 0; round < 5; round++) {
        const dir = temporary()
        if (which.includes('killed'))
          writeFileSync(join(dir, 'lock'), JSON.stringify({ pid: 2 ** 22 + 1, started: '1' }))
        const claims = await claimAtOnce(4, dir)
        expect(
          claims.filter(claim => claim === 'owned'),
          claims.join(', ')
        ).toHaveLength(1)
      }
    }
  )
})
