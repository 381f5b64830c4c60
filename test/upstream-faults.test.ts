/** Servers that are broken, slow, noisy or overloaded: each has its own sentence, and none of them hurts the others. */
import { createHash, randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { Deadlines } from '../src/wire/deadlines.js'
import { backoffMs, earliestAttempt } from '../src/upstream/supervisor.js'
import { start as startHttpLegacy } from './fixtures/http-legacy.mjs'
import { openLedger } from './fixtures/ledger.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import type { Mode } from './fixtures/types.d.mts'
import { modern, openSession, type Reply } from './helpers/http.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

let folder: string
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'switchboard-faults-'))))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const newLedger = () => openLedger(join(folder, `${randomUUID()}.ledger`))
type TestLedger = ReturnType<typeof newLedger>

/** A raw stdio server in one of its modes; `options` are fields of servers.yaml. */
const raw = (mode: string, { env, ...options }: { env?: Record<string, string>; [field: string]: unknown } = {}) => ({
  command: process.execPath,
  args: [fixture('raw-stdio.mjs'), '--mode', mode],
  ...(env && { env }),
  ...options
})

/** A legacy stdio server on the SDK with the usual tools. */
const usual = (ledger?: TestLedger, options: Record<string, unknown> = {}) => ({
  command: process.execPath,
  args: [fixture('stdio-legacy.mjs')],
  ...(ledger && { env: { LEDGER: ledger.path } }),
  ...options
})

/** A program of its own for what no fixture does. */
function program(source: string): { command: string; args: string[] } {
  const file = join(folder, `${randomUUID()}.mjs`)
  writeFileSync(file, source)
  return { command: process.execPath, args: [file] }
}

/**
 * A stdio server that answers each request with what the function `answer`, given as JavaScript, makes of
 * `{method, params}`; not at all if that is undefined.
 */
const scripted = (answer: string) =>
  program(`
    import { createInterface } from 'node:readline'
    const answer = ${answer}
    createInterface({ input: process.stdin }).on('line', line => {
      const { id, method, params } = JSON.parse(line)
      const answered = id !== undefined && method && answer({ method, params })
      if (answered) process.stdout.write(JSON.stringify({ jsonrpc: '2.0', id, ...answered }) + '\\n')
    }).on('close', () => process.exit(0))
  `)

async function start(servers: Record<string, object>, keys = '{ admin: { secret: "${ADMIN}", allow: "*" } }') {
  const gateway = await startTestGateway(`servers: ${JSON.stringify(servers)}\nkeys: ${keys}\n`)
  onTestFinished(() => gateway.close())
  return gateway
}

const call = (gateway: TestGateway, name: string, args: object = {}, meta?: object) =>
  modern(gateway.url, secrets.ADMIN, 'tools/call', { name, arguments: args, ...(meta && { _meta: meta }) })

const listed = (reply: Reply): string[] => reply.json.result.tools.map(({ name }: { name: string }) => name)
const list = async (gateway: TestGateway, secret = secrets.ADMIN) =>
  listed(await modern(gateway.url, secret, 'tools/list'))
const textOf = ({ json }: Reply): string => json.result.content[0].text
const problemOf = ({ json }: Reply) => json.result?._meta?.['switchboard/error']
const statusOf = (gateway: TestGateway, id: string) => gateway.gateway.status().find(status => status.id === id)

async function timed<T>(promise: Promise<T>): Promise<{ value: T; ms: number }> {
  const begun = performance.now()
  return { value: await promise, ms: performance.now() - begun }
}

const print = (what: string, ms: number) => console.log(`${what}: ${ms.toFixed(0)} ms`)

async function freePort(): Promise<number> {
  const probe = createServer()
  await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve))
  const { port } = probe.address() as { port: number }
  await new Promise(resolve => probe.close(resolve))
  return port
}

describe('every fault has its own sentence in the status', () => {
  const expected: Record<string, RegExp> = {
    missing_binary: /^its command "switchboard-no-such-command" was not found; install it/,
    missing_folder: /^its working directory .*no-such-folder does not exist$/,
    not_executable: /^its command ".*not-executable" may not be executed \(permission denied\)$/,
    exits_at_start: /^its process exited with code 1; its last words: boom: no config$/,
    killed_at_start: /^its process was ended by SIGKILL$/,
    hangs_in_initialize: /^it did not answer initialize within 0\.5 s$/,
    refuses_initialize: /^it answered initialize with an error: no licence found \(-32000\)$/,
    unknown_version: /^it answered initialize with 1999-01-01; known are 2025-11-25/,
    nothing_listens: /^nothing listens at its address \(connection refused\)$/,
    unknown_host: /^its host name could not be resolved$/,
    accepts_and_is_silent: /^it did not answer \S+ within 0\.5 s$/,
    wants_credentials: /credentials \(HTTP 401\); check "headers"/,
    forbids: /credentials \(HTTP 403\); check "headers"/,
    redirects: /redirect \(HTTP 307\).*correct "url"/,
    breaks: /^it answered HTTP 500/,
    is_no_mcp_server: /not the answer/,
    has_too_much_to_do: /HTTP 429/,
    is_elsewhere: /^it answered HTTP 404/,
    speaks_no_tls: /^the connection to it failed \(.*SSL/,
    never_listens: /^its process runs, but after 1 s nothing listens at its address/,
    exits_before_it_listens: /^its process exited with code 4; its last words: no port left$/,
    cannot_list: /^it answered tools\/list with an error: the database is locked \(-32000\)$/,
    never_lists: /^it did not answer tools\/list within 0\.5 s$/,
    lists_no_array: /^it answered tools\/list without "tools"$/
  }

  const opened = `{ result: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'x', version: '1' } } }`
  const listing = (answer: string) =>
    scripted(`({ method }) => method === 'initialize' ? ${opened} : method === 'tools/list' ? ${answer}
      : { error: { code: -32601, message: 'Method not found' } }`)
  const opening = (answer: string) =>
    scripted(
      `({ method }) => method === 'initialize' ? ${answer} : { error: { code: -32601, message: 'Method not found' } }`
    )

  it('and the healthy server beside them answers', async () => {
    writeFileSync(join(folder, 'not-executable'), '#!/bin/sh\n', { mode: 0o644 })
    const misbehaving = async (mode: Mode) => {
      const server = await startRawHttp()
      server.behave['*'] = mode
      onTestFinished(() => server.close())
      return { url: server.url, transport: 'http' }
    }
    const elsewhere = await startHttpLegacy()
    onTestFinished(() => elsewhere.close())
    const mute = createServer()
    await new Promise<void>(resolve => mute.listen(0, '127.0.0.1', resolve))
    const sockets = new Set<{ destroy(): void }>()
    mute.on('connection', socket => sockets.add(socket))
    onTestFinished(() => {
      sockets.forEach(socket => socket.destroy())
      mute.close()
    })
    const { port: mutePort } = mute.address() as { port: number }
    const closedUrl = async () => `http://127.0.0.1:${await freePort()}/mcp`

    const gateway = await start({
      healthy: raw('normal'),
      missing_binary: { command: 'switchboard-no-such-command' },
      missing_folder: { command: process.execPath, cwd: join(folder, 'no-such-folder') },
      not_executable: { command: join(folder, 'not-executable') },
      exits_at_start: raw('exit-at-start'),
      killed_at_start: program(`process.kill(process.pid, 'SIGKILL')`),
      hangs_in_initialize: raw('hang-initialize', { start_timeout: 0.5, era: 'legacy' }),
      refuses_initialize: opening(`{ error: { code: -32000, message: 'no licence found' } }`),
      unknown_version: opening(`{ result: { protocolVersion: '1999-01-01', capabilities: {} } }`),
      nothing_listens: { url: await closedUrl() },
      unknown_host: { url: 'http://no-such-host.invalid/mcp' },
      accepts_and_is_silent: { url: `http://127.0.0.1:${mutePort}/mcp`, transport: 'http', connect_timeout: 0.5 },
      wants_credentials: await misbehaving('unauthorized'),
      forbids: await misbehaving('forbidden'),
      redirects: await misbehaving({ mode: 'redirect', status: 307 }),
      breaks: await misbehaving('error'),
      is_no_mcp_server: await misbehaving('html'),
      has_too_much_to_do: await misbehaving('rate-limited'),
      is_elsewhere: { url: `${elsewhere.url}/wrong/path`, transport: 'http' },
      speaks_no_tls: { url: elsewhere.url.replace('http:', 'https:'), transport: 'http' },
      never_listens: { ...program('setInterval(() => {}, 1000)'), url: await closedUrl(), start_timeout: 1 },
      exits_before_it_listens: {
        ...program(`process.stderr.write('no port left\\n', () => process.exit(4))`),
        url: await closedUrl()
      },
      cannot_list: listing(`{ error: { code: -32000, message: 'the database is locked' } }`),
      never_lists: { ...listing('undefined'), list_timeout: 0.5 },
      lists_no_array: listing(`{ result: { tools: 'many' } }`)
    })
    await gateway.until('healthy')
    const { value: answer, ms } = await timed(call(gateway, 'healthy__echo', { message: 'well' }))
    print('a call to the healthy server among 24 sick ones', ms)
    expect(textOf(answer)).toBe('well')
    await waitFor(
      () => Object.keys(expected).every(id => statusOf(gateway, id)?.problem !== undefined),
      'a problem of each',
      25_000
    )

    const problems = Object.fromEntries(Object.keys(expected).map(id => [id, statusOf(gateway, id)?.problem]))
    for (const [id, sentence] of Object.entries(expected)) expect.soft(problems[id], id).toMatch(sentence)
    const alike = ['hangs_in_initialize', 'accepts_and_is_silent']
    const distinct = Object.entries(problems).filter(([id]) => !alike.includes(id))
    expect(new Set(distinct.map(([, problem]) => problem)).size).toBe(distinct.length)
    for (const id of ['cannot_list', 'never_lists', 'lists_no_array']) {
      expect.soft(statusOf(gateway, id)?.state, id).toBe('ready')
    }
    expect(statusOf(gateway, 'healthy')).toMatchObject({ state: 'ready', restarts: 0, tools: 4 })
    expect(statusOf(gateway, 'healthy')).not.toHaveProperty('problem')

    const { value: names, ms: listMs } = await timed(list(gateway))
    print('tools/list with 24 sick servers', listMs)
    expect(names).toEqual(['healthy__echo', 'healthy__slow', 'healthy__count', 'healthy__progress'])
  }, 60_000)

  it('and a server whose variable is unset is left out while the rest is served', async () => {
    const gateway = await start({
      healthy: raw('normal'),
      unset: { url: 'http://127.0.0.1:9/mcp', headers: { Authorization: 'Bearer ${NOT_SET_ANYWHERE}' } }
    })
    await gateway.until('healthy')
    expect(textOf(await call(gateway, 'healthy__echo', { message: 'well' }))).toBe('well')
    expect(await list(gateway)).toHaveLength(4)
  })
})

describe('what a server writes besides its answers does no harm', () => {
  it('on stdout: noise is skipped, logged once and never fatal', async () => {
    const gateway = await start({ noisy: raw('noise') })
    await gateway.until('noisy')
    for (const message of ['one', 'two', 'three']) {
      expect(textOf(await call(gateway, 'noisy__echo', { message }))).toBe(message)
    }
    expect(gateway.gateway.status()).toMatchObject([{ state: 'ready', restarts: 0 }])
    const noise = gateway.logged('upstream.noise')
    expect(noise.length).toBeGreaterThan(0)
    expect(noise.length).toBeLessThanOrEqual(2)
    expect(noise[0]).toMatchObject({ server: 'noisy', level: 'warn' })
  })

  it('unknown top-level members of a message are ignored', async () => {
    const gateway = await start({ odd: raw('unknown-top-level') })
    await gateway.until('odd')
    const reply = await call(gateway, 'odd__echo', { message: 'heard' }, { progressToken: 7 })
    expect(reply.json.result.content).toEqual([{ type: 'text', text: 'heard' }])
    expect(reply.json.result['x-vendor']).toEqual({ echoed: true })
    const progress = await call(gateway, 'odd__progress', {}, { progressToken: 7 })
    expect(progress.messages.slice(0, -1).map(({ params }) => params.progress)).toEqual([1, 2, 3])
  })

  it('on stderr: a flood of lines delays no call', async () => {
    const gateway = await start({
      chatty: program(`
        setInterval(() => process.stderr.write(('x'.repeat(200) + '\\n').repeat(500)), 5).unref()
        await import(${JSON.stringify(pathToFileURL(fixture('raw-stdio.mjs')).href)})
      `)
    })
    await gateway.until('chatty')
    const { value, ms } = await timed(call(gateway, 'chatty__echo', { message: 'still here' }))
    expect(textOf(value)).toBe('still here')
    expect(ms).toBeLessThan(5000)
  })
})

describe('large answers', () => {
  it('a result of 20 MB on a single line arrives whole', async () => {
    const gateway = await start({ large: usual() })
    await gateway.until('large')
    const bytes = 20 * 1024 * 1024
    const text = textOf(await call(gateway, 'large__big', { bytes }))
    const digest = (value: string) => createHash('sha256').update(value).digest('hex')
    expect(text.length).toBe(bytes)
    expect(digest(text)).toBe(digest('0123456789abcdef'.repeat(bytes / 16)))
  })

  it('a result beyond the limit of 32 MiB fails that call with a sentence, and the next call works', async () => {
    const gateway = await start({ large: usual() })
    await gateway.until('large')
    const reply = await call(gateway, 'large__big', { bytes: 33 * 1024 * 1024 })
    expect(reply.json.result.isError).toBe(true)
    expect(problemOf(reply)).toMatchObject({ code: -31502, server: 'large', dispatched: true })
    expect(textOf(reply)).toMatch(/more than 32 MiB/)
    expect(textOf(await call(gateway, 'large__echo', { message: 'next' }))).toBe('next')
  })
})

describe('lists over several pages', () => {
  const names = (from: number, to: number) =>
    Array.from({ length: to - from + 1 }, (_, i) => `many__tool_${String(from + i).padStart(3, '0')}`)

  it.each([
    ['follows five pages of fifty tools', 'pages'],
    ['follows a cursor that is the empty string (§6.20)', 'pages-empty-cursor']
  ])('%s', async (_, mode) => {
    const gateway = await start({ many: raw(mode) })
    await gateway.until('many')
    expect(await list(gateway)).toEqual(names(1, 250))
    expect(textOf(await call(gateway, 'many__tool_250'))).toBe('called tool_250')
    expect(statusOf(gateway, 'many')).toMatchObject({ tools: 250 })
    expect(statusOf(gateway, 'many')).not.toHaveProperty('problem')
  })

  it('stops at a cursor that repeats, keeps what it has and says so', async () => {
    const ledger = newLedger()
    const gateway = await start({ many: raw('pages-repeat', { env: { LEDGER: ledger.path as string } }) })
    await gateway.until('many')
    expect(await list(gateway)).toEqual(names(1, 100))
    expect(statusOf(gateway, 'many')?.problem).toMatch(/repeats a page cursor/)
    expect(ledger.count('tools/list')).toBeLessThanOrEqual(3)
  })

  it('stops after a hundred pages with ever new cursors, keeps what it has and says so', async () => {
    const endless = scripted(`({ method, params }) => {
      if (method === 'initialize')
        return { result: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'x', version: '1' } } }
      if (method !== 'tools/list') return { error: { code: -32601, message: 'Method not found' } }
      const page = Number(params?.cursor ?? 1)
      return { result: { tools: [{ name: 'tool_' + page, inputSchema: { type: 'object' } }], nextCursor: String(page + 1) } }
    }`)
    const gateway = await start({ many: endless, healthy: raw('normal') })
    await gateway.until('many')
    await gateway.until('healthy')
    expect((await list(gateway)).filter(name => name.startsWith('many__'))).toHaveLength(100)
    expect(statusOf(gateway, 'many')?.problem).toMatch(/more than 100 pages/)
  })

  it('offers a name that is listed twice once, and says so', async () => {
    const gateway = await start({ many: raw('duplicate-names') })
    await gateway.until('many')
    const reply = await modern(gateway.url, secrets.ADMIN, 'tools/list')
    expect(reply.json.result.tools).toMatchObject([
      { name: 'many__twin', description: 'The first twin.' },
      { name: 'many__other' }
    ])
    expect(gateway.logged('catalog.finding')).toMatchObject([
      { server: 'many', tool: 'twin', message: expect.stringContaining('lists "twin" twice') }
    ])
  })
})

describe('a call that takes too long', () => {
  it.each(['stdio', 'http'])(
    'fails after its idle limit with server and limit named, and the %s server is told',
    async transport => {
      const ledger = newLedger()
      const http = await startRawHttp(ledger.path === undefined ? {} : { ledger: ledger.path })
      onTestFinished(() => http.close())
      const limits = { timeout: 1, concurrency: 1 }
      const gateway = await start({
        hung:
          transport === 'http'
            ? { url: http.url, ...limits }
            : raw('normal', { env: { LEDGER: ledger.path as string }, ...limits })
      })
      await gateway.until('hung')
      const { value: reply, ms } = await timed(call(gateway, 'hung__slow', { ms: 60_000, nonce: 'n' }))
      expect(ms).toBeGreaterThan(900)
      expect(ms).toBeLessThan(6000)
      expect(reply.status).toBe(200)
      expect(reply.json.result.isError).toBe(true)
      expect(problemOf(reply)).toMatchObject({ code: -31504, server: 'hung', dispatched: true })
      expect(textOf(reply)).toMatch(/"hung".*"slow".*\b1 s\b/)
      await waitFor(() => ledger.count('cancelled n') === 1, 'the server to be told')
      if (transport === 'http') {
        const told = http.requests.find(({ message }) => message?.method === 'notifications/cancelled')
        const called = http.requests.find(({ message }) => message?.method === 'tools/call')
        expect(told?.message.params.requestId).toBe(called?.message.id)
      } else {
        expect(ledger.count('notifications/cancelled')).toBe(1)
      }
      // Its only place is free again.
      expect(textOf(await call(gateway, 'hung__echo', { message: 'next' }))).toBe('next')
    }
  )

  it('goes on past the idle limit while it reports progress (§6.64)', async () => {
    const gateway = await start({ busy: usual(undefined, { timeout: 2 }) })
    await gateway.until('busy')
    const { value: reply, ms } = await timed(call(gateway, 'busy__progress', { gap: 1200 }, { progressToken: 'p' }))
    expect(textOf(reply)).toBe('done after 3 steps')
    expect(ms).toBeGreaterThan(3000)
    const silent = await call(gateway, 'busy__progress', { gap: 1200 })
    expect(problemOf(silent)).toMatchObject({ code: -31504 })
  })

  it('ends at its total limit whatever its progress, and the server is told (§6.64)', async () => {
    const ledger = newLedger()
    const busy = scripted(`(() => {
      const { appendFileSync } = process.getBuiltinModule('node:fs')
      let token
      setInterval(() => token !== undefined && process.stdout.write(JSON.stringify({ jsonrpc: '2.0',
        method: 'notifications/progress', params: { progressToken: token, progress: performance.now() } }) + '\\n'), 100).unref()
      process.stdin.on('data', chunk => String(chunk).includes('notifications/cancelled') &&
        appendFileSync(${JSON.stringify(ledger.path)}, 'cancelled\\n'))
      return ({ method, params }) => {
        if (method === 'initialize')
          return { result: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'x', version: '1' } } }
        if (method === 'tools/list') return { result: { tools: [{ name: 'forever', inputSchema: { type: 'object' } }] } }
        if (method !== 'tools/call') return { error: { code: -32601, message: 'Method not found' } }
        token = params._meta.progressToken
      }
    })()`)
    const gateway = await start({ busy: { ...busy, timeout: 1, max_timeout: 3 } })
    await gateway.until('busy')
    const { value: reply, ms } = await timed(call(gateway, 'busy__forever', {}, { progressToken: 'p' }))
    expect(ms).toBeGreaterThan(2900)
    expect(ms).toBeLessThan(15_000)
    expect(reply.messages.length).toBeGreaterThan(5)
    expect(problemOf(reply)).toMatchObject({ code: -31504, server: 'busy', dispatched: true })
    expect(textOf(reply)).toMatch(/within 3 s/)
    await waitFor(() => ledger.count('cancelled') === 1, 'the server to be told')
  })
})

describe('a server with more calls than it takes', () => {
  /** One place, taken for a minute; `waiting` further calls in the queue. */
  async function startCrowded(options: Record<string, unknown>) {
    const ledger = newLedger()
    const gateway = await start({
      crowded: raw('normal', { env: { LEDGER: ledger.path as string }, concurrency: 1, ...options })
    })
    await gateway.until('crowded')
    const session = await openSession(gateway.url, secrets.ADMIN)
    const slow = (id: string, ms = 60_000) =>
      session.rpc('tools/call', { name: 'crowded__slow', arguments: { ms, nonce: id } }, { id })
    const running = slow('running')
    await waitFor(() => ledger.count('started running') === 1, 'the first call to run')
    const cancel = (id: string) => session.notify('notifications/cancelled', { requestId: id })
    onTestFinished(async () => {
      await cancel('running')
      await running
    })
    return { gateway, ledger, session, slow, cancel, running }
  }

  it('refuses at once what a key may not have waiting, which is half its queue, and says when to come again', async () => {
    const { ledger, slow, cancel } = await startCrowded({ queue: 4 })
    const waiting = [slow('first'), slow('second')]
    await new Promise(resolve => setTimeout(resolve, 300))
    const { value: refused, ms } = await timed(slow('third'))
    print('refused by a full queue', ms)
    expect(ms).toBeLessThan(2000)
    expect(refused.status).toBe(200)
    expect(refused.json.result.isError).toBe(true)
    expect(problemOf(refused)).toMatchObject({ code: -31429, server: 'crowded', dispatched: false })
    expect(problemOf(refused).retryAfterMs).toBeGreaterThan(0)
    expect(textOf(refused)).toMatch(/"crowded".*not sent/)
    await Promise.all(['first', 'second'].map(cancel))
    await Promise.all(waiting)
    expect(ledger.lines().filter(line => line.startsWith('started '))).toEqual(['started running'])
  })

  it('refuses a call that has waited for its turn longer than the limit', async () => {
    const { ledger, slow } = await startCrowded({ queue: 5, queue_timeout: 1 })
    const { value: refused, ms } = await timed(slow('late'))
    expect(ms).toBeGreaterThan(900)
    expect(ms).toBeLessThan(6000)
    expect(problemOf(refused)).toMatchObject({ code: -31429, server: 'crowded', dispatched: false })
    expect(textOf(refused)).toMatch(/"crowded".*\b1 s\b/)
    expect(ledger.count('started late')).toBe(0)
  })

  it('gives the places of calls that were taken back to those who come after them', async () => {
    const { slow, cancel, ledger, running } = await startCrowded({ queue: 4, queue_timeout: 30 })
    const givenUp = [slow('first'), slow('second')]
    await new Promise(resolve => setTimeout(resolve, 300))
    await Promise.all(['first', 'second'].map(cancel))
    await Promise.all(givenUp)
    const patient = slow('patient', 1)
    await new Promise(resolve => setTimeout(resolve, 300))
    await cancel('running')
    await running
    expect(textOf(await patient)).toBe('waited 1 ms')
    expect(ledger.count('started first') + ledger.count('started second')).toBe(0)
  })
})

describe('one sick server never delays the others', () => {
  it('while it hangs at start: calls go through at once, lists wait for it five seconds at most (§6.65)', async () => {
    const gateway = await start(
      { healthy: raw('normal', { era: 'legacy' }), hung: raw('hang-initialize', { era: 'legacy' }) },
      '{ admin: { secret: "${ADMIN}", allow: "*" }, other: { secret: "${OTHER}", allow: { healthy: "*" } } }'
    )
    await gateway.until('healthy')
    const called = await timed(call(gateway, 'healthy__echo', { message: 'at once' }))
    print('a call beside a server that hangs in initialize', called.ms)
    expect(textOf(called.value)).toBe('at once')
    expect(called.ms).toBeLessThan(2000)
    const narrow = await timed(list(gateway, secrets.OTHER))
    expect(narrow.value).toContain('healthy__echo')
    expect(narrow.ms).toBeLessThan(2000)
    const wide = await timed(list(gateway))
    print('tools/list beside a server that hangs in initialize', wide.ms)
    expect(wide.value).toContain('healthy__echo')
    expect(wide.ms).toBeLessThan(10_000)
  })

  it('while all its places and its queue are taken', async () => {
    const gateway = await start({
      healthy: raw('normal'),
      hung: raw('silent', { concurrency: 2, queue: 3, queue_timeout: 2, timeout: 3 })
    })
    await gateway.until('healthy')
    await gateway.until('hung')
    const stuck = Array.from({ length: 10 }, () => call(gateway, 'hung__echo'))
    const begun = performance.now()
    for (let i = 0; i < 20; i++) expect(textOf(await call(gateway, 'healthy__echo', { message: `${i}` }))).toBe(`${i}`)
    expect(await list(gateway)).toContain('hung__echo')
    const ms = performance.now() - begun
    print('twenty calls and a list beside a server that never answers', ms)
    expect(ms).toBeLessThan(5000)
    const codes = (await Promise.all(stuck)).map(reply => problemOf(reply).code as number)
    expect(codes.filter(code => code === -31504)).toHaveLength(2)
    expect(codes.filter(code => code === -31429)).toHaveLength(8)
  })

  it('while its process is stopped: its tools stay listed, a call to it ends at its limit, the others answer', async () => {
    const gateway = await start({ healthy: raw('normal'), stopped: raw('normal', { timeout: 1 }) })
    await gateway.until('healthy')
    await gateway.until('stopped')
    const pid = statusOf(gateway, 'stopped')?.pid as number
    process.kill(pid, 'SIGSTOP')
    const stuck = timed(call(gateway, 'stopped__echo'))
    const { value: names, ms } = await timed(list(gateway))
    print('tools/list beside a stopped process', ms)
    expect(names).toHaveLength(8)
    expect(ms).toBeLessThan(5000)
    expect(textOf(await call(gateway, 'healthy__echo', { message: 'well' }))).toBe('well')
    const { value: reply, ms: stuckMs } = await stuck
    expect(problemOf(reply)).toMatchObject({ code: -31504, server: 'stopped', dispatched: true })
    expect(stuckMs).toBeLessThan(6000)
    process.kill(pid, 'SIGCONT')
    expect(textOf(await call(gateway, 'stopped__echo', { message: 'awake' }))).toBe('awake')
  })

  it('while it is gone: its tools stay listed, calls to it say so, the others answer (§6.65)', async () => {
    const http = await startRawHttp()
    onTestFinished(() => http.close())
    const gateway = await start({ healthy: raw('normal'), gone: { url: http.url } })
    await gateway.until('healthy')
    await gateway.until('gone')
    await http.close()
    const { value: reply, ms } = await timed(call(gateway, 'gone__echo'))
    print('told that a server is gone', ms)
    expect(reply.status).toBe(200)
    expect(problemOf(reply)).toMatchObject({ code: -31503, server: 'gone', dispatched: false })
    expect(textOf(reply)).toMatch(/"gone".*"echo".*connection refused.*not sent/)
    expect(await list(gateway)).toEqual(expect.arrayContaining(['gone__echo', 'healthy__echo']))
    expect(textOf(await call(gateway, 'healthy__echo', { message: 'well' }))).toBe('well')
  })
})

describe('a call to a server that comes up later waits and succeeds', () => {
  it('at the first start of a process', async () => {
    const gateway = await start({ late: raw('slow-start', { env: { START_MS: '2000' }, era: 'legacy' }) })
    expect(textOf(await call(gateway, 'late__echo', { message: 'patience' }))).toBe('patience')
  })

  it('at the restart of a process that was killed', async () => {
    const gateway = await start({ late: raw('slow-start', { env: { START_MS: '2000' }, era: 'legacy' }) })
    await gateway.until('late')
    process.kill(statusOf(gateway, 'late')?.pid as number, 'SIGKILL')
    await gateway.until('late', 'down')
    const begun = performance.now()
    const replies = await Promise.all(['a', 'b', 'c'].map(message => call(gateway, 'late__echo', { message })))
    expect(replies.map(textOf)).toEqual(['a', 'b', 'c'])
    expect(performance.now() - begun).toBeGreaterThan(1500)
    expect(statusOf(gateway, 'late')).toMatchObject({ restarts: 1 })
  })

  it('of a process that listens late', async () => {
    const port = await freePort()
    const late = program(
      `process.argv[1] = ${JSON.stringify(fixture('raw-http.mjs'))}\n` +
        `setTimeout(() => import(${JSON.stringify(pathToFileURL(fixture('raw-http.mjs')).href)}), 2000)\n`
    )
    const gateway = await start({
      late: { ...late, url: `http://127.0.0.1:${port}/mcp`, env: { PORT: String(port) }, transport: 'http' }
    })
    expect(textOf(await call(gateway, 'late__echo', { message: 'patience' }))).toBe('patience')
  })

  it('of a server at an address, however often it was tried in vain before', async () => {
    const first = await startRawHttp()
    const gateway = await start({ late: { url: first.url } })
    await gateway.until('late')
    await first.close()
    for (const message of ['one', 'two', 'three', 'four']) {
      const refused = await call(gateway, 'late__echo', { message })
      expect(problemOf(refused)).toMatchObject({ code: -31503, dispatched: false })
      expect(problemOf(refused).retryAfterMs).toBeGreaterThan(0)
    }
    const second = await startRawHttp({ port: first.port })
    onTestFinished(() => second.close())
    const { value: reply, ms } = await timed(call(gateway, 'late__echo', { message: 'at last' }))
    print('the first call after a server came back', ms)
    expect(textOf(reply)).toBe('at last')
    // On its own the gateway would wait for 4 to 12 s by now.
    expect(ms).toBeLessThan(3500)
  })
})

describe('when the next attempt happens', () => {
  it('waits a second after the first failure, twice as long after each further one, a minute at most', () => {
    expect([1, 2, 3, 4, 5, 6].map(failures => backoffMs(failures, 0.5))).toEqual([
      1000, 2000, 4000, 8000, 16_000, 32_000
    ])
    expect(backoffMs(7, 0.5)).toBe(60_000)
  })

  it('is spread by half around that, is never longer than a minute and never ends', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1e6 }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (n, random) => {
          const full = Math.min(1000 * 2 ** (n - 1), 60_000)
          const wait = backoffMs(n, random)
          expect(wait).toBeGreaterThanOrEqual(Math.floor(full * 0.5))
          expect(wait).toBeLessThanOrEqual(Math.min(Math.ceil(full * 1.5), 60_000))
        }
      )
    )
  })

  it('may be pulled forward by a call to one second after the last attempt', () => {
    const now = 1_000_000
    expect(earliestAttempt(now - 300, [], now)).toBe(now + 700)
    expect(earliestAttempt(now - 5000, [now - 5000], now)).toBeLessThanOrEqual(now)
    expect(earliestAttempt(-Infinity, [], now)).toBeLessThanOrEqual(now)
  })

  it('may not be pulled into a crash loop: after five crashes in five minutes it is ten seconds after the last', () => {
    const now = 10_000_000
    const crashes = (count: number, ageMs: number) => Array.from({ length: count }, (_, i) => now - ageMs + i)
    expect(earliestAttempt(now, crashes(4, 10_000), now)).toBe(now + 1000)
    expect(earliestAttempt(now, crashes(5, 10_000), now)).toBe(now + 10_000)
    expect(earliestAttempt(now, crashes(5, 299_000), now)).toBe(now + 10_000)
    expect(earliestAttempt(now, crashes(9, 301_000), now)).toBe(now + 1000)
  })
})

describe('the limit of a wait', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  it('ends after so long without a sign of life', () => {
    const expire = vi.fn()
    new Deadlines(1000, 10_000).begin({ expired: expire })
    vi.advanceTimersByTime(998)
    expect(expire).not.toHaveBeenCalled()
    vi.advanceTimersByTime(2)
    expect(expire.mock.calls).toEqual([['idle']])
    vi.advanceTimersByTime(60_000)
    expect(expire).toHaveBeenCalledTimes(1)
  })

  it('begins anew at each sign of life, but not its total', () => {
    const expire = vi.fn()
    const deadlines = new Deadlines(1000, 5000)
    const wait = deadlines.begin({ expired: expire })
    for (let elapsed = 0; elapsed < 4800; elapsed += 600) {
      vi.advanceTimersByTime(600)
      deadlines.touch(wait)
      expect(expire).not.toHaveBeenCalled()
    }
    vi.advanceTimersByTime(200)
    expect(expire.mock.calls).toEqual([['total']])
  })

  it('ends a full idle time after the last sign of life', () => {
    const expire = vi.fn()
    const deadlines = new Deadlines(1000, 60_000)
    const wait = deadlines.begin({ expired: expire })
    vi.advanceTimersByTime(700)
    deadlines.touch(wait)
    vi.advanceTimersByTime(995)
    expect(expire).not.toHaveBeenCalled()
    vi.advanceTimersByTime(10)
    expect(expire.mock.calls).toEqual([['idle']])
  })

  it('says total where the total is not longer than the idle time', () => {
    const expire = vi.fn()
    new Deadlines(1000, 1000).begin({ expired: expire })
    vi.advanceTimersByTime(1001)
    expect(expire.mock.calls).toEqual([['total']])
  })

  it('never ends once it was cleared, and holds one timer however often it is touched or begun anew', () => {
    const expire = vi.fn()
    const deadlines = new Deadlines(1000, 10_000)
    const wait = deadlines.begin({ expired: expire })
    for (let i = 0; i < 1000; i++) deadlines.touch(wait)
    expect(vi.getTimerCount()).toBe(1)
    deadlines.end(wait)
    deadlines.end(deadlines.begin({ expired: expire }))
    expect(vi.getTimerCount()).toBe(1)
    vi.advanceTimersByTime(60_000)
    expect(expire).not.toHaveBeenCalled()
    expect(vi.getTimerCount()).toBe(0)
  })

  it('has one timer for all that wait, and ends each in its own time', () => {
    const ends: string[] = []
    const deadlines = new Deadlines(1000, 10_000)
    const begin = (name: string) => deadlines.begin({ expired: () => ends.push(name) })
    begin('first')
    vi.advanceTimersByTime(400)
    const touched = begin('touched')
    vi.advanceTimersByTime(300)
    const ended = begin('ended')
    begin('last')
    deadlines.touch(touched)
    expect(vi.getTimerCount()).toBe(1)
    deadlines.end(ended)
    vi.advanceTimersByTime(301)
    expect(ends).toEqual(['first'])
    vi.advanceTimersByTime(690)
    expect(ends).toEqual(['first'])
    vi.advanceTimersByTime(12)
    expect(ends).toEqual(['first', 'touched', 'last'])
    expect(vi.getTimerCount()).toBe(0)
  })
})
