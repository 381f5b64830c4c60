/**
 * Seen from outside: one audit line and one count for every call, whatever became of it; metrics whose series nobody
 * can multiply and of which a key reads its own share; a log that a machine can read and that holds no secret.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { request } from 'undici'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import type { RawHttp } from './fixtures/types.d.mts'
import { runSwitchboard, startGatewayProcess, type GatewayProcess } from './helpers/gateway-process.js'
import { bearer, modern, openSession, post, send } from './helpers/http.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const dir = mkdtempSync(join(tmpdir(), 'switchboard-observe-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const stdio = (mode: string, more = '') =>
  `{ command: node, args: [${fixture('raw-stdio.mjs')}, --mode, ${mode}]${more} }`

/** Writes a program of a test's own and returns its path. */
function program(name: string, source: string): string {
  const file = join(dir, `${name}.mjs`)
  writeFileSync(file, source)
  return file
}

/** A stdio server with one tool, `run`, whose answer (and all else) the JavaScript `call` makes of `args` and `id`. */
const scripted = (name: string, call: string, first = '') =>
  program(
    name,
    `
    import { createInterface } from 'node:readline'
    ${first}
    const send = message => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\\n')
    const tools = [{ name: 'run', inputSchema: { type: 'object' } }]
    createInterface({ input: process.stdin }).on('line', line => {
      const { id, method, params } = JSON.parse(line)
      const args = params?.arguments ?? {}
      if (method === 'initialize') send({ id, result: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'x', version: '1' } } })
      else if (method === 'tools/list') send({ id, result: { tools } })
      else if (method === 'tools/call') { ${call} }
      else if (id !== undefined) send({ id, error: { code: -32601, message: 'Method not found' } })
    }).on('close', () => process.exit(0))
    `
  )

interface Scrape {
  readonly status: number
  readonly type: string | undefined
  readonly text: string
  /** Value by series, as `name{labels}`. */
  readonly series: ReadonlyMap<string, number>
}

async function scrape(url: string, secret: string): Promise<Scrape> {
  const { statusCode, headers, body } = await request(`${url}/metrics`, { headers: bearer(secret) })
  const text = await body.text()
  const samples = text.split('\n').filter(line => line !== '' && !line.startsWith('#'))
  const series = new Map(
    samples.map((line): [string, number] => {
      const at = line.lastIndexOf(' ')
      return [line.slice(0, at), Number(line.slice(at + 1))]
    })
  )
  return { status: statusCode, type: headers['content-type'] as string | undefined, text, series }
}

const ofCalls = ({ series }: Scrape) => [...series].filter(([name]) => name.startsWith('switchboard_calls_total{'))
const sum = (entries: readonly (readonly [string, number])[]) => entries.reduce((all, [, value]) => all + value, 0)
const labelsOf = (name: string) =>
  Object.fromEntries([...name.matchAll(/(\w+)="([^"]*)"/g)].map(([, label = '', value = '']) => [label, value]))

/** What grew between two scrapes. */
const grown = (before: Scrape, after: Scrape) =>
  ofCalls(after)
    .map(([name, value]) => [labelsOf(name), value - (before.series.get(name) ?? 0)] as const)
    .filter(([, by]) => by !== 0)

describe('a tool call', () => {
  const ledger = openLedger(join(dir, 'ledger'))
  let gateway: TestGateway
  let url: string
  let gone: RawHttp
  let broken: RawHttp

  beforeAll(async () => {
    ;[gone, broken] = await Promise.all([startRawHttp(), startRawHttp()])
    gateway = await startTestGateway(`
servers:
  alpha: { command: node, args: [${fixture('stdio-legacy.mjs')}], env: { LEDGER: ${ledger.path} } }
  gone: { url: "${gone.url}", transport: http, era: legacy }
  broken: { url: "${broken.url}", transport: http, era: legacy }
  dies: ${stdio('die-on-call')}
  silent: ${stdio('silent', ', timeout: 0.3')}
  busy: ${stdio('normal', ', concurrency: 1, queue: 0')}
  odd: { command: node, args: [${scripted('odd', 'send({ id, error: { code: 123456, message: "odd" } })')}] }
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: { alpha: [echo] } }
`)
    url = gateway.url
    await Promise.all(gateway.gateway.status().map(({ id }) => gateway.until(id)))
  })
  afterAll(async () => {
    await gateway.close()
    await Promise.all([gone.close(), broken.close()])
  })

  const call = (name: string, args: object = {}, secret = secrets.ADMIN) =>
    modern(url, secret, 'tools/call', { name, arguments: args })

  /** Starts a call that takes long and returns how to end its connection, once the server works on it. */
  async function begin(name: string, args: Record<string, unknown>, running: () => boolean) {
    const leaving = new AbortController()
    const ended = request(`${url}/tools/${name}`, {
      method: 'POST',
      headers: { ...bearer(secrets.ADMIN), 'content-type': 'application/json' },
      body: JSON.stringify({ arguments: args }),
      signal: leaving.signal
    })
      .then(({ body }) => body.text())
      .catch(() => 'left')
    await waitFor(running, `${name} to run`)
    return { leave: () => leaving.abort(), ended }
  }
  const isRunning = (id: string) => gateway.gateway.status().some(status => status.id === id && status.running > 0)

  interface Case {
    readonly outcome: string
    readonly server: string
    readonly tool: string
    readonly code: number | undefined
    readonly run: () => Promise<unknown>
  }

  const cases: readonly Case[] = [
    { outcome: 'ok', server: 'alpha', tool: 'echo', code: undefined, run: () => call('alpha__echo') },
    { outcome: 'is_error', server: 'alpha', tool: 'fail', code: undefined, run: () => call('alpha__fail') },
    { outcome: 'rpc_error', server: 'alpha', tool: 'throw', code: -32011, run: () => call('alpha__throw') },
    { outcome: 'unknown', server: '', tool: 'alpha__none', code: -32602, run: () => call('alpha__none') },
    {
      outcome: 'denied',
      server: 'alpha',
      tool: 'add',
      code: -32602,
      run: () => call('alpha__add', {}, secrets.DEVELOPER)
    },
    {
      outcome: 'shed',
      server: 'busy',
      tool: 'echo',
      code: -31429,
      run: async () => {
        const { leave, ended } = await begin('busy__slow', { ms: 5000 }, () => isRunning('busy'))
        const before = [gateway.logged('call').length, await scrape(url, secrets.ADMIN)] as const
        await call('busy__echo')
        const after = [gateway.logged('call').slice(before[0]), await scrape(url, secrets.ADMIN)] as const
        leave()
        await ended
        await waitFor(() => !isRunning('busy'), 'busy to be idle again')
        return [...after, before[1]]
      }
    },
    {
      outcome: 'down',
      server: 'gone',
      tool: 'echo',
      code: -31503,
      run: async () => {
        const { port } = gone
        await gone.close()
        await call('gone__echo')
        gone = await startRawHttp({ port })
      }
    },
    { outcome: 'died', server: 'dies', tool: 'echo', code: -31503, run: () => call('dies__echo') },
    { outcome: 'timeout', server: 'silent', tool: 'echo', code: -31504, run: () => call('silent__echo') },
    {
      outcome: 'cancelled',
      server: 'alpha',
      tool: 'slow',
      code: -31499,
      run: async () => {
        const { leave, ended } = await begin('alpha__slow', { ms: 20_000 }, () => isRunning('alpha'))
        leave()
        await ended
        await waitFor(() => !isRunning('alpha'), 'alpha to be idle again')
      }
    },
    {
      outcome: 'failed',
      server: 'broken',
      tool: 'echo',
      code: -31502,
      run: () => {
        broken.behave['tools/call'] = ['html']
        return call('broken__echo')
      }
    }
  ]

  test.each(cases)('that ends as $outcome gives one line and one count', async ({ run, ...expected }) => {
    const { outcome, server, tool, code } = expected
    const counted = await scrape(url, secrets.ADMIN)
    const lines = gateway.logged('call').length
    const ran = await run()
    const [written, after, before] = (
      outcome === 'shed' ? ran : [gateway.logged('call').slice(lines), await scrape(url, secrets.ADMIN), counted]
    ) as [Record<string, unknown>[], Scrape, Scrape]

    expect(written).toEqual([
      {
        level: 'info',
        time: expect.any(String),
        event: 'call',
        key: outcome === 'denied' ? 'developer' : 'admin',
        client: expect.any(String),
        era: 'modern',
        ...(server !== '' && { server }),
        tool,
        outcome,
        ...(code !== undefined && { code }),
        ms: expect.any(Number)
      }
    ])
    expect(grown(before, after)).toEqual([[{ server, outcome, code: code === undefined ? '' : String(code) }, 1]])
  })

  const echo = { name: 'alpha__echo', arguments: {} }
  test.each([
    [
      '/mcp in 2025',
      'legacy',
      async () => void (await (await openSession(url, secrets.ADMIN)).rpc('tools/call', echo))
    ],
    ['/mcp in 2026', 'modern', () => modern(url, secrets.ADMIN, 'tools/call', echo)],
    [
      '/mcp/alpha',
      'modern',
      () => modern(url, secrets.ADMIN, 'tools/call', { ...echo, name: 'echo' }, { path: '/mcp/alpha' })
    ],
    ['/tools', 'modern', () => post(`${url}/tools/alpha__echo`, {}, { ...bearer(secrets.ADMIN), accept: '*/*' })]
  ])('over %s is one line and one count', async (_, era, run) => {
    const before = [gateway.logged('call').length, await scrape(url, secrets.ADMIN)] as const
    await run()
    expect(gateway.logged('call').slice(before[0])).toMatchObject([
      { era, server: 'alpha', tool: 'echo', outcome: 'ok' }
    ])
    expect(grown(before[1], await scrape(url, secrets.ADMIN))).toEqual([
      [{ server: 'alpha', outcome: 'ok', code: '' }, 1]
    ])
  })
  test('names the client as it named itself, and a client without a version without one', async () => {
    await openSession(url, secrets.ADMIN).then(({ rpc }) => rpc('tools/call', echo))
    await post(`${url}/tools/alpha__echo`, {}, { ...bearer(secrets.ADMIN), accept: '*/*' })
    expect(
      gateway
        .logged('call')
        .slice(-2)
        .map(({ client }) => client)
    ).toEqual(['test/1', 'http'])
  })

  test('that the server answers with a code of its own making is counted as "other", and logged with the code', async () => {
    const before = await scrape(url, secrets.ADMIN)
    await call('odd__run')
    expect(gateway.logged('call').at(-1)).toMatchObject({ outcome: 'rpc_error', code: 123456 })
    expect(grown(before, await scrape(url, secrets.ADMIN))).toEqual([
      [{ server: 'odd', outcome: 'rpc_error', code: 'other' }, 1]
    ])
  })

  test('is counted as often as it is logged, many at once included', async () => {
    await Promise.all(
      Array.from({ length: 60 }, (_, i) =>
        call(['alpha__echo', 'alpha__fail', 'alpha__none', 'busy__echo'][i % 4] as string)
      )
    )
    const counted = await scrape(url, secrets.ADMIN)
    expect(sum(ofCalls(counted))).toBe(gateway.logged('call').length)
    const timed = [...counted.series].filter(([name]) => name.startsWith('switchboard_call_seconds_count{'))
    expect(sum(timed)).toBe(gateway.logged('call').length)
    const tally = new Map<string, number>()
    for (const { server = '', outcome } of gateway.logged('call')) {
      const key = `${String(server)} ${String(outcome)}`
      tally.set(key, (tally.get(key) ?? 0) + 1)
    }
    const counts = new Map<string, number>()
    for (const [name, value] of ofCalls(counted)) {
      const { server, outcome } = labelsOf(name)
      counts.set(`${server} ${outcome}`, (counts.get(`${server} ${outcome}`) ?? 0) + value)
    }
    expect(counts).toEqual(tally)
  })

  test('never makes a label of what its caller made up', async () => {
    const before = await scrape(url, secrets.ADMIN)
    const made = ['made-up-tool', 'alpha__made_up', 'x"} 1\nswitchboard_evil{a="', '__proto__', 'y'.repeat(5000)]
    for (const name of made) {
      const opened = await post(
        `${url}/mcp`,
        {
          jsonrpc: '2.0',
          id: 1,
          method: 'initialize',
          params: {
            protocolVersion: '2025-11-25',
            capabilities: {},
            clientInfo: { name: `client-${name}`, version: 'made-up' }
          }
        },
        bearer(secrets.ADMIN)
      )
      const session = { 'mcp-session-id': String(opened.headers['mcp-session-id']) }
      const body = { jsonrpc: '2.0', id: 2, method: 'tools/call', params: { name } }
      await post(`${url}/mcp?servers=alpha`, body, { ...bearer(secrets.ADMIN), ...session })
    }
    const after = await scrape(url, secrets.ADMIN)
    expect(after.text).not.toMatch(/made|evil|proto|yyy|client-/)
    const added = [...after.series.keys()].filter(name => !before.series.has(name))
    expect(added.filter(name => !/^switchboard_call/.test(name))).toEqual([])
    expect(grown(before, after)).toEqual([[{ server: '', outcome: 'unknown', code: '-32602' }, made.length]])
  })

  test('of a name without end is one short line', () => {
    for (const line of gateway.logged('call')) {
      expect(String(line.tool).length).toBeLessThanOrEqual(128)
      expect(String(line.client).length).toBeLessThanOrEqual(128)
    }
  })
})

describe('/metrics', () => {
  let gateway: TestGateway
  let url: string
  beforeAll(async () => {
    gateway = await startTestGateway(`
servers:
  alpha: ${stdio('normal')}
  beta: ${stdio('normal')}
keys:
  admin: { secret: "\${ADMIN}", allow: "*", expires: 2099-01-01 }
  developer: { secret: "\${DEVELOPER}", allow: { alpha: [echo] }, expires: 2099-06-01 }
  other: { secret: "\${OTHER}", allow: {}, expires: 2099-12-01 }
`)
    url = gateway.url
    await Promise.all(['alpha', 'beta'].map(id => gateway.until(id)))
    for (const name of ['alpha__echo', 'alpha__count', 'beta__echo', 'nothing'])
      await modern(url, secrets.ADMIN, 'tools/call', { name, arguments: { nonce: 'n' } })
  })
  afterAll(() => gateway.close())

  test('needs a key', async () => {
    for (const headers of [{}, bearer('wrong')]) {
      const { status, text } = await send('GET', `${url}/metrics`, headers)
      expect(status).toBe(401)
      expect(text).not.toContain('switchboard_')
    }
  })

  test('is the text format of Prometheus: a type and a help for every series, nothing else', async () => {
    const { status, type, text } = await scrape(url, secrets.ADMIN)
    expect([status, type]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8'])
    const typed = new Map<string, string>()
    const helped = new Set<string>()
    for (const line of text.split('\n').filter(line => line !== '')) {
      const [, kind, name = '', rest = ''] = /^# (TYPE|HELP) (\S+) (.+)$/.exec(line) ?? []
      if (kind === 'TYPE') typed.set(name, rest)
      else if (kind === 'HELP') helped.add(name)
      else expect(line).toMatch(/^[a-z_]+(?:\{(?:[a-z]+="[^"\n]*",?)+\})? (?:-?[0-9.e+-]+|\+Inf|NaN)$/i)
      if (kind) continue
      const series = /^[a-z_]+/.exec(line)?.[0] ?? ''
      expect([...typed.keys()]).toContain(series.replace(/_(?:bucket|sum|count)$/, ''))
    }
    expect([...helped].sort()).toEqual([...typed.keys()].sort())
  })

  test('has all that docs/operations.md names', async () => {
    const { series } = await scrape(url, secrets.ADMIN)
    const names = [...series.keys()]
    for (const name of ['ready', 'restarts_total', 'running', 'waiting', 'tools'])
      for (const server of ['alpha', 'beta'])
        expect(names).toContain(`switchboard_upstream_${name}{server="${server}"}`)
    for (const name of ['sessions', 'streams', 'log_dropped_total', 'event_loop_delay_seconds'])
      expect(names).toContain(`switchboard_${name}`)
    expect(series.get('process_resident_memory_bytes')).toBeGreaterThan(1024 * 1024)
    expect(series.get('switchboard_upstream_ready{server="alpha"}')).toBe(1)
    expect(series.get('switchboard_upstream_tools{server="alpha"}')).toBe(4)
    expect(series.get('switchboard_call_seconds_count{server="beta"}')).toBe(1)
    expect(series.get('switchboard_key_expires_seconds{key="admin"}')).toBeGreaterThan(70 * 365 * 86_400)
  })

  test('names a total only what counts up: a counter', async () => {
    const { text } = await scrape(url, secrets.ADMIN)
    const totals = [...text.matchAll(/^# TYPE (\S+_total) (\S+)$/gm)].map(([, name, type]) => [name, type])
    expect(totals).toEqual(totals.map(([name]) => [name, 'counter']))
  })

  test('counts the sessions and streams there are', async () => {
    const read = async () => {
      const { series } = await scrape(url, secrets.ADMIN)
      return [series.get('switchboard_sessions') ?? NaN, series.get('switchboard_streams') ?? NaN] as const
    }
    const before = await read()
    const { headers, notify } = await openSession(url, secrets.ADMIN)
    await notify('notifications/initialized')
    const { body } = await request(`${url}/mcp`, { headers: { ...headers, accept: 'text/event-stream' } })
    body.on('error', () => {})
    const during = await read()
    expect(during[0]).toBeGreaterThan(before[0])
    expect(during[1]).toBe(before[1] + 1)
    body.destroy()
    await waitFor(async () => (await read())[1] === before[1], 'the stream to be gone')
  })

  test('read with a restricted key has its own servers and itself only', async () => {
    const [all, own, none] = await Promise.all([
      scrape(url, secrets.ADMIN),
      scrape(url, secrets.DEVELOPER),
      scrape(url, secrets.OTHER)
    ])
    expect(all.text).toContain('server="beta"')
    expect(own.text).toContain('switchboard_upstream_ready{server="alpha"} 1')
    expect(own.text).toContain('switchboard_calls_total{server="alpha",outcome="ok",code=""}')
    expect(own.text).not.toContain('beta')
    expect(own.text).not.toMatch(/key="(?:admin|other)"/)
    expect(own.text).toContain('switchboard_key_expires_seconds{key="developer"}')
    expect(none.text).not.toMatch(/alpha|beta|key="(?:admin|developer)"/)
    expect(none.text).toContain('switchboard_key_expires_seconds{key="other"}')
  })

  test('read with a restricted key does not tell a denied tool from one that does not exist', async () => {
    const readDuring = async (name: string) => {
      const before = await scrape(url, secrets.DEVELOPER)
      await modern(url, secrets.DEVELOPER, 'tools/call', { name })
      const after = await scrape(url, secrets.DEVELOPER)
      return (
        [...after.series]
          .filter(([series, value]) => /^switchboard_call/.test(series) && value !== before.series.get(series))
          .map(([series]) => series)
          // Which of the finite buckets a call falls into is a matter of load.
          .filter(series => !/_bucket\{le="\d/.test(series))
      )
    }
    const unknown = await readDuring('alpha__xount')
    expect(await readDuring('alpha__count')).toEqual(unknown)
    expect(await readDuring('beta__echo')).toEqual(unknown)
  })
})

describe('the log', () => {
  test('is JSON line by line, each with level, time and event', async () => {
    const file = join(dir, 'log.yaml')
    writeFileSync(
      file,
      `
servers:
  alpha: ${stdio('noise')}
  crashing: ${stdio('exit-at-start')}
  odd: ${stdio('duplicate-names')}
keys: { admin: { secret: generated, allow: "*" } }
`
    )
    const gateway = await startGatewayProcess({ config: file, args: ['--log', 'debug'] })
    onTestFinished(() => gateway.stop())
    const key = gateway.keys.admin as string
    await waitFor(() => gateway.logged('upstream.ready').length >= 2, 'alpha and odd to be ready')
    await modern(gateway.url, key, 'tools/call', { name: 'alpha__echo' })
    await modern(gateway.url, 'a-wrong-key-of-somebody', 'tools/call', { name: 'alpha__echo' })
    await send('GET', `${gateway.url}/tools`)
    await send('GET', `${gateway.url}/tools`, { origin: 'https://evil.example' })
    await waitFor(() => gateway.logged('refused').length > 0, 'the last line')
    await gateway.kill('SIGTERM')

    const lines = gateway.stderr().split('\n')
    expect(lines.pop()).toBe('')
    for (const line of lines) {
      const parsed = JSON.parse(line) as Record<string, unknown>
      expect(parsed).toMatchObject({
        level: expect.stringMatching(/^(?:debug|info|warn|error)$/),
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
        event: expect.stringMatching(/^[a-z]+(?:\.[a-z]+)*$/)
      })
    }
    const events = new Set(lines.map(line => (JSON.parse(line) as { event: string }).event))
    expect([...events]).toEqual(
      expect.arrayContaining([
        'call',
        'auth.missing',
        'auth.invalid',
        'refused',
        'upstream.ready',
        'upstream.down',
        'upstream.noise',
        'upstream.stderr',
        'catalog.finding'
      ])
    )
  })

  test('is as quiet as it is told to be', async () => {
    const file = join(dir, 'quiet.yaml')
    writeFileSync(
      file,
      `servers: { alpha: ${stdio('exit-at-start')} }\nkeys: { admin: { secret: generated, allow: "*" } }\n`
    )
    for (const [level, events] of [
      ['silent', []],
      ['error', []],
      ['warn', ['upstream.down']]
    ] as const) {
      const gateway = await startGatewayProcess({ config: file, args: ['--log', level] })
      onTestFinished(() => gateway.stop())
      await modern(gateway.url, gateway.keys.admin as string, 'tools/call', { name: 'none' })
      await gateway.kill('SIGTERM')
      const written = gateway.stderr().split('\n').filter(Boolean)
      expect([level, [...new Set(written.map(line => (JSON.parse(line) as { event: string }).event))]]).toEqual([
        level,
        events
      ])
    }
  })
})

describe('a secret', () => {
  const canary = (what: string) => `canary-${what}-5f3a9c71d2`
  const canaries = {
    key: canary('key'),
    wrongKey: canary('wrong-key'),
    sessionSecret: canary('session-secret'),
    childEnv: canary('child-env'),
    gatewayEnv: canary('gateway-env'),
    header: canary('header'),
    query: canary('query'),
    argument: canary('argument'),
    result: canary('result')
  }
  /** Everything that was written or answered, by what it was. */
  const heard: Record<string, string> = {}
  let http: RawHttp
  let gateway: GatewayProcess | undefined

  // A child that says its secret wherever it can: at its start, during calls, as its last words.
  const talker = () =>
    scripted(
      'talker',
      `
      console.error('calling with', process.env.TOKEN, JSON.stringify(process.env))
      if (args.die) { console.error('fatal: cannot log in with ' + process.env.TOKEN); process.exit(3) }
      send({ id, result: { content: [{ type: 'text', text: args.answer ?? '' }] } })`,
      `console.error('starting with token=' + process.env.TOKEN)`
    )

  beforeAll(async () => {
    http = await startRawHttp()
    const file = join(dir, 'secrets.yaml')
    const env = {
      KEY: canaries.key,
      DEVELOPER_KEY: secrets.DEVELOPER,
      SESSION_SECRET: canaries.sessionSecret,
      CHILD_TOKEN: canaries.childEnv,
      HEADER: canaries.header,
      QUERY: canaries.query,
      UNRELATED: canaries.gatewayEnv
    }
    writeFileSync(
      file,
      `
session_secret: "\${SESSION_SECRET}"
servers:
  talker: { command: node, args: [${talker()}], env: { TOKEN: "\${CHILD_TOKEN}" } }
  remote: { url: "${http.url}?token=\${QUERY}", transport: http, era: legacy, headers: { Authorization: "Bearer \${HEADER}", X-Key: "\${HEADER}" } }
  refused: { url: "http://127.0.0.1:9/mcp?token=\${QUERY}", headers: { Authorization: "Bearer \${HEADER}" } }
keys:
  admin: { secret: "\${KEY}", allow: "*" }
  developer: { secret: "\${DEVELOPER_KEY}", allow: { talker: [run] } }
`
    )
    const running = (gateway = await startGatewayProcess({ config: file, args: ['--log', 'debug'], env }))
    const { url } = running
    const key = canaries.key
    const call = (name: string, args: object) => modern(url, key, 'tools/call', { name, arguments: args })
    await waitFor(() => running.logged('upstream.ready').length >= 2, 'talker and remote to be ready')

    // Calls that work: their arguments and results pass, and leave no trace.
    for (const [name, member] of [
      ['talker__run', 'answer'],
      ['remote__echo', 'message']
    ] as const) {
      const { json } = await call(name, { [member]: canaries.result, secret: canaries.argument })
      expect(json.result.content).toEqual([{ type: 'text', text: canaries.result }])
    }
    const { url: asked, headers, body } = http.requests.at(-1)!
    expect([asked, headers.authorization]).toEqual([`/mcp?token=${canaries.query}`, `Bearer ${canaries.header}`])
    expect(body).toContain(canaries.argument)
    const { id } = await openSession(url, key)

    // Calls and requests that fail: what they answer.
    const failures: [string, Promise<{ text: string }> | { text: string }][] = [
      ['wrong key', post(`${url}/mcp`, {}, bearer(canaries.wrongKey))],
      ['wrong x-api-key', send('GET', `${url}/tools`, { 'x-api-key': canaries.wrongKey })],
      ['key in the URL', send('GET', `${url}/tools?api_key=${canaries.wrongKey}`)],
      ['died', call('talker__run', { die: true, secret: canaries.argument })],
      ['unknown', call('nothing', { secret: canaries.argument })],
      ['denied', modern(url, secrets.DEVELOPER, 'tools/call', { name: 'remote__echo', arguments: { secret: canaries.argument } })],
      ['no JSON', post(`${url}/mcp`, `{"secret":"${canaries.argument}"`, bearer(key))],
      ['bad arguments', post(`${url}/tools/remote__echo`, { arguments: [canaries.argument] }, bearer(key))],
      ['bad session', post(`${url}/mcp`, { jsonrpc: '2.0', id: 1, method: 'ping' }, { ...bearer(key), 'mcp-session-id': `${id}x` })]
    ] // prettier-ignore
    for (const [what, reply] of failures) heard[`answer: ${what}`] = (await reply).text
    for (const mode of [
      'unauthorized',
      'forbidden',
      'redirect',
      'html',
      'garbage',
      'error',
      'rate-limited',
      'destroy'
    ]) {
      http.behave['tools/call'] = [mode]
      heard[`answer: remote ${mode}`] = (await call('remote__echo', { secret: canaries.argument })).text
      await waitFor(
        async () => (await scrape(url, key)).series.get('switchboard_upstream_ready{server="remote"}') === 1,
        'remote to be ready'
      )
    }
    await http.close()
    heard['answer: remote down'] = (await call('remote__echo', { secret: canaries.argument })).text
    heard.metrics = (await scrape(url, key)).text
    await running.kill('SIGTERM')
    heard.log = running.stderr()
    heard['start block'] = running.block
    const checked = await runSwitchboard(['check', '--config', file], { env })
    heard.check = checked.stdout + checked.stderr
  })
  afterAll(() => gateway?.stop())

  test.each(Object.entries(canaries))('is nowhere outside: %s', (_, value) => {
    expect(Object.keys(heard)).toEqual(expect.arrayContaining(['log', 'metrics', 'check', 'answer: died']))
    for (const [where, text] of Object.entries(heard)) {
      expect(text.length).toBeGreaterThan(0)
      const at = text.indexOf(value)
      expect([where, at < 0 ? '' : text.slice(Math.max(0, at - 200), at + 100)]).toEqual([where, ''])
    }
  })

  test('of a child is redacted in what it writes to stderr, and the rest of the line is kept', () => {
    expect(heard.log).toContain('starting with token=[redacted]')
    expect(heard.log).toContain('calling with [redacted]')
    expect(heard['answer: died']).toContain('fatal: cannot log in with [redacted]')
  })

  test('of the gateway is unknown to its children', () => {
    const said = (heard.log ?? '').split('\n').filter(line => line.includes('calling with'))
    expect(said.length).toBeGreaterThan(0)
    for (const line of said) expect(line).not.toMatch(/UNRELATED|SESSION_SECRET|"KEY/)
  })

  const keyLine = 'MIIEvQIBADANBgkqhkiG9w0'
  test.each([
    ['of several lines, as private keys are', `-----BEGIN KEY-----\n${keyLine}\n-----END KEY-----`, keyLine],
    ['with a tab in it', 'canary-with\ta-tab-in-it', 'a-tab-in-it']
  ])('%s is redacted, too', async (_, value, part) => {
    const file = scripted('lines', 'send({ id, result: { content: [] } })', 'console.error(process.env.TOKEN)')
    const gateway = await startTestGateway(
      `servers: { alpha: { command: node, args: [${file}], env: { TOKEN: "\${TOKEN}" } } }\nkeys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`,
      { env: { TOKEN: value } }
    )
    onTestFinished(() => gateway.close())
    await gateway.until('alpha')
    await waitFor(() => gateway.logged('upstream.stderr').length > 0, 'what it wrote')
    expect(JSON.stringify(gateway.log)).not.toContain(part)
  })

  test('in the headers for a server that we start ourselves is redacted in what that server writes', async () => {
    const file = program(
      'served',
      `
      import { createServer } from 'node:http'
      createServer(async (req, res) => {
        let body = ''
        for await (const chunk of req) body += chunk
        console.error(req.method, req.url, JSON.stringify(req.headers))
        const { id, method } = body ? JSON.parse(body) : {}
        const result = { initialize: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'x', version: '1' } }, 'tools/list': { tools: [] } }[method]
        if (req.method !== 'POST') return res.writeHead(405).end()
        if (id === undefined) return res.writeHead(202).end()
        res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ jsonrpc: '2.0', id, ...(result ? { result } : { error: { code: -32601, message: 'Method not found' } }) }))
      }).listen(Number(process.env.PORT), '127.0.0.1')
      process.on('SIGTERM', () => process.exit(0))
      `
    )
    const probe = await startRawHttp()
    await probe.close()
    const gateway = await startTestGateway(
      `
servers:
  alpha: { command: node, args: [${file}], env: { PORT: "${probe.port}" }, url: "http://127.0.0.1:${probe.port}/mcp", transport: http, headers: { Authorization: "Bearer \${TOKEN}" } }
keys: { admin: { secret: "\${ADMIN}", allow: "*" } }
`,
      { env: { TOKEN: canaries.header } }
    )
    onTestFinished(() => gateway.close())
    await gateway.until('alpha')
    await waitFor(() => gateway.logged('upstream.stderr').length > 0, 'what it wrote')
    expect(JSON.stringify(gateway.log)).toContain('authorization')
    expect(JSON.stringify(gateway.log)).not.toContain(canaries.header)
  })
})
