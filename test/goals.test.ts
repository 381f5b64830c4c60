/**
 * Goals of the security reference that are shown by repeating or by measuring, against the gateway as a process. Figures
 * are printed; asserted is what must hold on any machine. With ATTACK_FULL the numbers are those of the reference.
 */
import { once } from 'node:events'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, get, type ClientRequest, type IncomingMessage } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import { start as startSse } from './fixtures/sse-legacy.mjs'
import { isRunning, startGatewayProcess, type GatewayProcess } from './helpers/gateway-process.js'
import { bearer, envelope, modern, openSession, post, send } from './helpers/http.js'
import { fixture, secrets, waitFor } from './helpers/with-gateway.js'

const isFull = process.env.ATTACK_FULL !== undefined
const keyNames = ['ADMIN', 'DEVELOPER', 'OTHER'] as const

function temporary(): string {
  const dir = mkdtempSync(join(tmpdir(), 'switchboard-goals-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

async function startOver(
  dir: string,
  servers: Record<string, object>,
  env: Record<string, string> = secrets,
  stderrTo?: number,
  limits: object = {}
): Promise<GatewayProcess> {
  const keys = Object.fromEntries(Object.keys(env).map(name => [name, { secret: `\${${name}}`, allow: '*' }]))
  const config = join(dir, 'servers.yaml')
  writeFileSync(config, JSON.stringify({ servers, keys, limits: { connections: 5000, ...limits } }))
  const gateway = await startGatewayProcess({
    config,
    stateDir: join(dir, 'state'),
    env,
    ...(stderrTo !== undefined && { stderrTo })
  })
  const logged = () =>
    stderrTo === undefined ? gateway.stderr() : readFileSync(`/proc/${process.pid}/fd/${stderrTo}`, 'utf8')
  await waitFor(() => logged().split('"upstream.ready"').length > Object.keys(servers).length, 'its servers')
  return gateway
}

const raw = (dir: string, more: object = {}) => ({
  command: process.execPath,
  args: [fixture('raw-stdio.mjs')],
  env: { LEDGER: join(dir, 'ledger') },
  era: 'legacy',
  ...more
})

const problemOf = (json: any) => json?.result?._meta?.['switchboard/error'] ?? json?.error?.data

/** Resident memory of a process, now or at most since that was reset, in KiB. */
const memoryOf = (pid: number, field: 'VmRSS' | 'VmHWM') =>
  Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])

/** What so many in a hundred of these do not exceed. */
function percentile(figures: readonly number[], part: number): number {
  const sorted = [...figures].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * part) / 100))] ?? 0
}

describe('G13: asked to end by TERM under load', () => {
  const repeats = isFull ? 50 : 2
  const drainMs = 8000

  it(`${repeats} times, it loses no call, ends in time and leaves no process`, async () => {
    const ends: number[] = []
    const counts = { answered: 0, 'told why not': 0, 'turned away': 0 }
    for (let repeat = 0; repeat < repeats; repeat++) {
      const dir = temporary()
      const ledger = openLedger(join(dir, 'ledger'))
      const http = await startRawHttp({ ledger: join(dir, 'ledger') })
      const gateway = await startOver(dir, { stdio: raw(dir), web: { url: http.url } })
      const faults: string[] = []
      const begun = (nonce: string) => ledger.count(`started ${nonce}`)
      let stopped = false
      const client = async (index: number) => {
        for (let n = 0; !stopped; n++) {
          const nonce = `${repeat}-${index}-${n}`
          const params = { name: `${index % 2 ? 'stdio' : 'web'}__slow`, arguments: { ms: (index * 37) % 300, nonce } }
          const secret = secrets[keyNames[index % keyNames.length] as 'ADMIN']
          const reply = await modern(gateway.url, secret, 'tools/call', params).catch(() => undefined)
          const problem = problemOf(reply?.json)
          const sent = problem?.dispatched ?? reply?.status === 200
          if (begun(nonce) > 1) faults.push(`${nonce} ran ${begun(nonce)} times`)
          if (!sent && begun(nonce) > 0) faults.push(`${nonce} was lost: ${reply?.text ?? 'no answer'}`)
          if (sent && !problem && begun(nonce) === 0) faults.push(`${nonce} was answered by nobody`)
          counts[!reply || reply.status !== 200 ? 'turned away' : problem ? 'told why not' : 'answered']++
          // From here on the port is closed.
          if (!reply) return
        }
      }
      const clients = Promise.all(Array.from({ length: 50 }, (_, index) => client(index)))
      await sleep(400 + (repeat % 10) * 20)
      const servers = gateway.servers()
      const asked = performance.now()
      const exit = await gateway.kill('SIGTERM')
      ends.push(performance.now() - asked)
      stopped = true
      await clients
      await http.close()
      expect(faults).toEqual([])
      expect(exit).toEqual({ code: 0, signal: null })
      expect(servers.length).toBeGreaterThan(0)
      expect(servers.filter(isRunning)).toEqual([])
      expect(ends.at(-1)).toBeLessThan(drainMs + 1000)
    }
    console.info(
      `${repeats} ends: ${Object.entries(counts).map(([what, many]) => `${many} ${what}`).join(', ')}; ` +
        `ended after ${percentile(ends, 50).toFixed()} ms, at most ${Math.max(...ends).toFixed()} ms`
    ) // prettier-ignore
  }, 290_000)
})

describe('G1, G2: calls at a constant rate, of both eras, to 5 servers over stdio, 3 over HTTP and 2 over SSE', () => {
  /** Starts `perSecond` of them each second, whether or not those before have ended. */
  async function atRate<T>(perSecond: number, seconds: number, start: (n: number) => Promise<T>): Promise<T[]> {
    const calls: Promise<T>[] = []
    const begun = performance.now()
    while (calls.length < perSecond * seconds) {
      const due = Math.min(((performance.now() - begun) * perSecond) / 1000, perSecond * seconds)
      while (calls.length < due) calls.push(start(calls.length))
      await sleep(2)
    }
    return Promise.all(calls)
  }

  it.each([
    ['G1', 500, isFull ? 120 : 3],
    ['G2', 1500, isFull ? 60 : 2]
  ])(
    '%s: %d a second for %d s are all answered, each with its own answer',
    async (goal, perSecond, seconds) => {
      const dir = temporary()
      const https = await Promise.all([0, 1, 2].map(() => startRawHttp({})))
      const sses = await Promise.all([0, 1].map(() => startSse({})))
      onTestFinished(() => Promise.all([...https, ...sses].map(server => server.close())).then(() => {}))
      // A machine that is too slow for the rate makes answers late; that calls are then refused is another goal's matter.
      const patient = { queue: 5000, queue_timeout: 60 }
      const servers = {
        ...Object.fromEntries([0, 1, 2, 3, 4].map(n => [`stdio${n}`, { ...raw(dir), ...patient }])),
        ...Object.fromEntries(
          https.map(({ url }, n) => [`http${n}`, { url, transport: 'http', era: 'legacy', ...patient }])
        ),
        ...Object.fromEntries(sses.map(({ url }, n) => [`sse${n}`, { url, transport: 'sse', ...patient }]))
      }
      const ids = Object.keys(servers)
      const gateway = await startOver(dir, servers, secrets, undefined, { calls_per_key: 5000 })
      onTestFinished(() => gateway.stop())
      const clients = await Promise.all(
        Array.from({ length: 50 }, async (_, n) => {
          const secret = secrets[keyNames[n % keyNames.length] as 'ADMIN']
          if (n % 2 === 1) return (params: object) => modern(gateway.url, secret, 'tools/call', params)
          const session = await openSession(gateway.url, secret)
          return (params: object) => session.rpc('tools/call', params)
        })
      )
      const timed = async (message: string, call: () => Promise<{ readonly json: any; readonly text: string }>) => {
        const begun = performance.now()
        const { json, text } = await call()
        const own = json?.result?.content?.[0]?.text === message
        return { fault: own ? undefined : `${message}: ${text}`, ms: performance.now() - begun }
      }
      const call = (n: number) => {
        const message = `nonce ${n}`
        const params = { name: `${ids[n % ids.length]}__echo`, arguments: { message } }
        return timed(message, () => (clients[n % clients.length] as (typeof clients)[0])(params))
      }
      const direct = await openSession((https[0] as (typeof https)[0]).url.replace(/\/mcp$/, ''), secrets.ADMIN)
      const asked = (n: number) => {
        const message = `nonce ${n}`
        return timed(message, () => direct.rpc('tools/call', { name: 'echo', arguments: { message } }))
      }
      await atRate(perSecond, 2, call)
      const through = await atRate(perSecond, seconds, call)
      const without = await atRate(perSecond, Math.min(seconds, 10), asked)
      const shown = (replies: readonly { readonly ms: number }[]) =>
        [50, 99].map(part => percentile(replies.map(({ ms }) => ms), part).toFixed(1)).join(' and ') // prettier-ignore
      console.info(
        `${goal}: ${through.length} calls at ${perSecond} a second, p50 and p99 ${shown(through)} ms; straight to one of ` +
          `the servers ${shown(without)} ms; at most ${(memoryOf(gateway.pid, 'VmHWM') / 1024).toFixed()} MiB resident`
      )
      expect([...through, ...without].flatMap(({ fault }) => fault ?? [])).toEqual([])
    },
    240_000
  )
})

/** One connection that is kept: a request goes out when the one before is answered. */
async function openLane(port: number): Promise<(head: string, body: string) => Promise<string>> {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  let received = ''
  let answered = (_body: string) => {}
  socket.setNoDelay(true).setEncoding('latin1')
  socket.on('data', (text: string) => {
    received += text
    const end = received.indexOf('\r\n\r\n') + 4
    const length = Number(/^content-length: (\d+)/im.exec(received)?.[1])
    if (end < 4 || received.length < end + length) return
    const body = received.slice(end)
    received = ''
    answered(body)
  })
  socket.on('close', () => answered(''))
  onTestFinished(() => void socket.destroy())
  return (head, body) =>
    new Promise(resolve => {
      answered = resolve
      socket.write(`${head}content-length: ${body.length}\r\n\r\n${body}`)
    })
}

describe('G4, G10: call after call', () => {
  const most = isFull ? 1_000_000 : 4000

  it(`of ${most} none is lost, doubled or given to another, and no line of the log has a secret`, async () => {
    const dir = temporary()
    const log = join(dir, 'log')
    const file = openSync(log, 'a+')
    onTestFinished(() => closeSync(file))
    const http = await startRawHttp({ ledger: join(dir, 'ledger') })
    onTestFinished(() => http.close())
    const servers = { a: raw(dir), b: raw(dir), c: raw(dir), web: { url: http.url, transport: 'http', era: 'legacy' } }
    const gateway = await startOver(dir, servers, secrets, file)
    onTestFinished(() => gateway.stop())
    const ids = Object.keys(servers)
    let sent = 0
    const faults: string[] = []
    const lane = async (index: number) => {
      const ask = await openLane(gateway.port)
      const secret = secrets[keyNames[index % keyNames.length] as 'ADMIN']
      while (sent < most && faults.length < 10) {
        const n = sent++
        const name = `${ids[n % 100 === 0 ? 3 : n % 3]}__echo`
        const nonce = `nonce-${n}`
        const head =
          `POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${secret}\r\nContent-Type: application/json\r\n` +
          `Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: ${name}\r\n`
        const params = { name, arguments: { nonce, message: nonce }, _meta: envelope }
        const answer = await ask(head, JSON.stringify({ jsonrpc: '2.0', id: n, method: 'tools/call', params }))
        if (!answer.includes(`"id":${n},`) || !answer.includes(`"text":"${nonce}"`)) faults.push(`${nonce}: ${answer}`)
        if (n % 500 === 0) heard += answer
      }
    }
    let heard = ''
    const begun = performance.now()
    await Promise.all(Array.from({ length: 32 }, (_, index) => lane(index)))
    const seconds = (performance.now() - begun) / 1000
    expect(faults).toEqual([])
    const metrics = await fetch(`${gateway.url}/metrics`, { headers: bearer(secrets.ADMIN) })
    heard += await metrics.text()
    await gateway.stop()

    const arrivals = new Uint8Array(most)
    for (const line of openLedger(join(dir, 'ledger')).lines()) {
      const n = /^called nonce-(\d+)$/.exec(line)?.[1]
      if (n !== undefined) arrivals[Number(n)]! += 1
    }
    for (const { message } of http.requests) {
      const n = /^nonce-(\d+)$/.exec(message?.params?.arguments?.nonce as string)?.[1]
      if (n !== undefined) arrivals[Number(n)]! += 1
    }
    const written = readFileSync(log, 'utf8')
    const lines = written.split('"event":"call"').length - 1
    console.info(
      `${most} calls in ${seconds.toFixed()} s, ${lines} audit lines, ${(written.length / 1e6).toFixed(1)} MB searched`
    )
    expect(arrivals.every(count => count === 1)).toBe(true)
    expect(lines).toBe(most)
    expect(Object.values(secrets).filter(secret => written.includes(secret) || heard.includes(secret))).toEqual([])
  }, 900_000)
})

describe('G3: twice what a server can do', () => {
  const seconds = isFull ? 30 : 3
  const concurrency = 20
  const ms = 50

  it(`for ${seconds} s, refuses the surplus by name, does the rest, and is well at once afterwards`, async () => {
    const dir = temporary()
    const gateway = await startOver(dir, { busy: raw(dir, { concurrency, queue: 40 }), other: raw(dir) })
    onTestFinished(() => gateway.stop())
    const call = async (name: string, args: object, index = 0) => {
      const begun = performance.now()
      const secret = secrets[keyNames[index % keyNames.length] as 'ADMIN']
      const { status, json } = await modern(gateway.url, secret, 'tools/call', { name, arguments: args })
      return { status, json, ms: performance.now() - begun, at: performance.now() }
    }
    const peak = (concurrency * 1000) / ms
    const perTick = (2 * peak) / 50
    const calls: ReturnType<typeof call>[] = []
    const beside: ReturnType<typeof call>[] = []
    const begun = performance.now()
    for (let tick = 0; tick < seconds * 50; tick++) {
      for (let n = 0; n < perTick; n++) calls.push(call('busy__slow', { ms, nonce: `${tick}-${n}` }, n))
      if (tick % 5 === 0) beside.push(call('other__echo', { message: 'well' }, tick / 5))
      await sleep(Math.max(0, begun + (tick + 1) * 20 - performance.now()))
    }
    const lasted = (performance.now() - begun) / 1000
    const rss = memoryOf(gateway.pid, 'VmHWM') / 1024
    const recovery = await call('busy__slow', { ms, nonce: 'after' })
    const replies = await Promise.all(calls)

    const done = replies.filter(({ json }) => problemOf(json) === undefined)
    const refused = replies.filter(({ json }) => problemOf(json) !== undefined)
    const wrong = refused.filter(({ status, json }) => {
      const { code, dispatched, retryAfterMs } = problemOf(json)
      return status !== 200 || code !== -31429 || dispatched !== false || retryAfterMs !== 1000
    })
    const meanwhile = await Promise.all(beside)
    const times = (of: readonly { ms: number }[]) => of.map(reply => reply.ms)
    console.info(
      `${calls.length} calls in ${lasted.toFixed(1)} s, twice the ${peak} a second of the server: ${done.length} done ` +
        `(${((100 * done.length) / (peak * lasted)).toFixed()} % of it), ${refused.length} refused, ` +
        `p50 ${percentile(times(refused), 50).toFixed()} ms, p99 ${percentile(times(refused), 99).toFixed()} ms; ` +
        `another server meanwhile p99 ${percentile(times(meanwhile), 99).toFixed()} ms; ` +
        `a call right after ${recovery.ms.toFixed()} ms; at most ${rss.toFixed()} MiB resident`
    )
    expect(wrong.map(({ json }) => json)).toEqual([])
    expect(done.length).toBeGreaterThan(0)
    expect(refused.length).toBeGreaterThan(0)
    expect(openLedger(join(dir, 'ledger')).lines().filter(line => /^started \d/.test(line))).toHaveLength(done.length) // prettier-ignore
    expect(meanwhile.filter(({ json }) => problemOf(json) !== undefined)).toEqual([])
    expect(rss).toBeLessThan(600)
    await waitFor(
      async () => problemOf((await call('busy__slow', { ms, nonce: 'later' })).json) === undefined,
      'a call to succeed again',
      5000
    )
  }, 120_000)
})

describe('G5: sessions with a stream each', () => {
  const most = isFull ? 2000 : 200

  it(`${most} at the same time hold little, and nothing when they are gone`, async () => {
    const dir = temporary()
    const env = Object.fromEntries(
      Array.from({ length: 20 }, (_, n) => [`KEY_${n}`, `key-${n}-for-tests-0123456789abcdef`])
    )
    const gateway = await startOver(dir, { raw: raw(dir) }, env)
    onTestFinished(() => gateway.stop())
    const streamsNow = async () => {
      const answer = await fetch(`${gateway.url}/metrics`, { headers: bearer(env.KEY_0 as string) })
      return Number(/^switchboard_streams (\d+)$/m.exec(await answer.text())?.[1])
    }
    const before = memoryOf(gateway.pid, 'VmRSS')
    const open: ClientRequest[] = []
    onTestFinished(() => open.forEach(request => request.destroy()))
    for (let n = 0; n < most; n++) {
      const { headers } = await openSession(gateway.url, Object.values(env)[n % 20] as string)
      const request = get(`${gateway.url}/mcp`, { agent: false, headers: { ...headers, accept: 'text/event-stream' } })
      open.push(request.on('error', () => {}))
      const [response] = (await once(request, 'response')) as [IncomingMessage]
      expect(response.resume().statusCode).toBe(200)
    }
    expect(await streamsNow()).toBe(most)
    const held = (memoryOf(gateway.pid, 'VmRSS') - before) / 1024
    open.forEach(request => request.destroy())
    await waitFor(async () => (await streamsNow()) === 0, 'all of them to be gone', 5000)
    console.info(`${most} sessions with a stream each: ${held.toFixed()} MiB resident more`)
    expect(held).toBeLessThan(150)
  }, 60_000)
})

describe('G9: no amplification', () => {
  const size = 1024 * 1024
  const times = isFull ? 8 : 2
  const fill = (part: string) => part.repeat(Math.floor(size / part.length))
  const list = (part: string) => `[${fill(`${part},`)}${part}]`
  const members = () => `{${Array.from({ length: size / 12 }, (_, n) => `"k${n}":${n % 10}`).join(',')}}`
  const nested = `${'['.repeat(60)}${']'.repeat(60)}`
  const values: readonly (readonly [string, () => string])[] = [
    ['one string', () => `"${fill('x')}"`],
    ['escapes', () => `"${fill('\\u00e9')}"`],
    ['characters of four bytes', () => `"${fill('😀')}"`],
    ['empty objects', () => list('{}')],
    ['empty lists', () => list('[]')],
    ['zeros', () => list('0')],
    ['long numbers', () => list('1.7976931348623157e308')],
    ['many members', members],
    ['the same member', () => `{${fill('"a":1,')}"a":1}`],
    ['__proto__', () => list('{"__proto__":{}}')],
    ['lists in lists', () => list(nested)],
    ['white space', () => `[${fill(' ')}]`]
  ]

  /** User and system time of all its threads, in milliseconds; the kernel counts in steps of ten. */
  const cpuOf = (pid: number) => {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) * 10
  }

  it('neither of what a client sends nor of what a server says', async () => {
    let said = ''
    const server = createServer((request, response) => {
      let body = ''
      request.on('data', (part: Buffer) => (body += part.toString()))
      request.on('end', () => {
        const { id, method } = JSON.parse(body || '{}') as { id?: number; method?: string }
        if (id === undefined) return response.writeHead(method === undefined ? 405 : 202).end()
        const results: Record<string, string> = {
          initialize:
            '{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"x","version":"1"}}',
          'tools/list': '{"tools":[{"name":"say","inputSchema":{"type":"object"}}]}'
        }
        const answer = `{"jsonrpc":"2.0","id":${id},"result":${results[method ?? ''] ?? '{"content":[]}'}}`
        if (method !== 'tools/call' || said === '')
          return response.writeHead(200, { 'content-type': 'application/json' }).end(answer)
        if (!said.startsWith('data:'))
          return response
            .writeHead(200, { 'content-type': 'application/json' })
            .end(`{"jsonrpc":"2.0","id":${id},"result":{"content":[],"x":${said}}}`)
        response.writeHead(200, { 'content-type': 'text/event-stream' }).end(`${said}data: ${answer}\n\n`)
      })
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void server.close())
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`
    const dir = temporary()
    const gateway = await startOver(dir, { evil: { url, transport: 'http', era: 'legacy' } })
    onTestFinished(() => gateway.stop())
    const { pid } = gateway

    const headers = {
      ...bearer(secrets.ADMIN),
      'mcp-protocol-version': '2026-07-28',
      'mcp-method': 'tools/call',
      'mcp-name': 'evil__say'
    }
    const meta = JSON.stringify(envelope)
    const ask = (args: string) =>
      post(
        `${gateway.url}/mcp`,
        `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"evil__say","arguments":${args},"_meta":${meta}}}`,
        headers
      )
    const rows: { readonly what: string; readonly cpu: number; readonly held: number }[] = []
    async function measure(what: string, act: () => Promise<unknown>): Promise<void> {
      // Of one call: after several, most of it is what nobody has collected yet.
      writeFileSync(`/proc/${pid}/clear_refs`, '5')
      const before = memoryOf(pid, 'VmRSS')
      await act()
      const held = memoryOf(pid, 'VmHWM') - before
      const cpu = cpuOf(pid)
      for (let n = 0; n < times; n++) await act()
      const kib = size / 1024
      rows.push({ what, cpu: (cpuOf(pid) - cpu) / times / kib, held: held / kib })
    }

    for (const [what, make] of values) {
      const value = make()
      said = ''
      await measure(`sent: ${what}`, () => ask(`{"x":${value}}`))
      said = value
      await measure(`said: ${what}`, () => ask('{}'))
    }
    said = fill('data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"debug"}}\n\n')
    await measure('said: notifications', () => ask('{}'))
    said = fill('data: \n\n')
    await measure('said: empty events', () => ask('{}'))
    said = fill('data: {}\n\n')
    await measure('said: events that are no message', () => ask('{}'))
    said = ''
    await measure('sent: a long name', () => post(`${gateway.url}/mcp`, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"${fill('x')}","_meta":${meta}}}`, { ...headers, 'mcp-name': 'x' })) // prettier-ignore
    await measure('sent: a long cursor', () => modern(gateway.url, secrets.ADMIN, 'tools/list', { cursor: fill('A') }))
    await measure('sent: brackets', () => ask(fill('[')))

    const worst = (figure: 'cpu' | 'held') => rows.reduce((a, b) => (b[figure] > a[figure] ? b : a))
    for (const { what, cpu, held } of rows)
      console.info(`${what}: ${(cpu * 1000).toFixed()} µs, ${held.toFixed(1)} KiB a KiB`)
    console.info(
      `worst of ${rows.length}: ${(worst('cpu').cpu * 1000).toFixed()} µs (${worst('cpu').what}), ` +
        `${worst('held').held.toFixed(1)} KiB (${worst('held').what}) a KiB`
    )
    // 1 ms and 100 KiB a KiB are allowed.
    expect(rows.filter(({ cpu }) => cpu > 1)).toEqual([])
    expect(rows.filter(({ held }) => held > 100)).toEqual([])
    expect((await send('GET', `${gateway.url}/healthz`)).status).toBe(200)
  }, 120_000)
})
