/**
 * What one server may cost the others: noise on stdout and stderr, a stdin nobody reads, messages without an end. The
 * ids are those of the security reference; where the design has other numbers, those hold.
 */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { createChildLines } from '../src/upstream/child-lines.js'
import { createNoiseBudget } from '../src/upstream/noise.js'
import { openLedger } from './fixtures/ledger.mjs'
import { attack, attackFrom, noncesNoted, type Attack, type Made } from './helpers/attack.js'
import { listening } from './helpers/evil.js'
import { modern, type Reply } from './helpers/http.js'
import { waitFor } from './helpers/with-gateway.js'

const mib = 1024 * 1024

let folder: string
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'switchboard-budgets-'))))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/**
 * A server with the one tool `work`, which notes its nonce and runs the body `work(args, answer)` given as JavaScript; it
 * ends with stdin.
 */
function working({ ledger }: Made, work: string, options: Record<string, unknown> = {}): Record<string, unknown> {
  const file = join(folder, `${randomUUID()}.mjs`)
  const noted = openLedger(`${file}.ledger`)
  ledger.watch(() => noncesNoted(noted))
  writeFileSync(
    file,
    `
    import { appendFileSync } from 'node:fs'
    import { createInterface } from 'node:readline'
    const send = message => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\\n')
    process.stdout.on('error', () => process.exit(0))
    async function work(args, answer) { ${work} }
    const results = {
      initialize: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'x', version: '1' } },
      'tools/list': { tools: [{ name: 'work', inputSchema: { type: 'object' } }] }
    }
    createInterface({ input: process.stdin }).on('line', line => {
      const { id, method, params } = JSON.parse(line)
      if (id === undefined) return
      if (results[method]) return send({ id, result: results[method] })
      appendFileSync(${JSON.stringify(noted.path)}, 'called ' + params.arguments.nonce + '\\n')
      work(params.arguments, text => send({ id, result: { content: [{ type: 'text', text }] } }))
    }).on('close', () => process.exit(0))
    `
  )
  return { command: process.execPath, args: [file], era: 'legacy', ...options }
}

const textOf = ({ json }: Reply): string => json.result.content[0].text
const problemOf = ({ json }: Reply) => json.result?._meta?.['switchboard/error']
const statusOf = ({ gateway }: Attack, id: string) => gateway.gateway.status().find(status => status.id === id)
const print = (what: string, value: number, unit: string) => console.log(`${what}: ${value.toFixed(0)} ${unit}`)
const sum = (lines: readonly Record<string, unknown>[], member: string) =>
  lines.reduce((total, line) => total + ((line[member] as number | undefined) ?? 0), 0)

/** The longest the loop stood still meanwhile, in milliseconds. */
async function stillness(during: () => Promise<void>): Promise<number> {
  const delay = monitorEventLoopDelay({ resolution: 5 })
  delay.enable()
  await during()
  delay.disable()
  return delay.max / 1e6
}

const write = (what: string) => `await new Promise(resolve => process.stdout.write(${what}, resolve))`

attack(
  'U5',
  'noise of every kind on stdout is skipped, and told in one line and a sum',
  async attacked => {
    const { call, gateway, end } = attacked
    expect(textOf(await call('noisy__work'))).toBe('done')
    expect(statusOf(attacked, 'noisy')).toMatchObject({ state: 'ready', restarts: 0 })
    const told = () => gateway.logged('upstream.noise')
    expect(told()).toMatchObject([{ level: 'warn', server: 'noisy', lines: 1 }])
    await end()
    expect(told()).toHaveLength(2)
    expect(sum(told(), 'lines')).toBe(9000)
  },
  {
    servers: made => ({
      noisy: working(
        made,
        `for (let i = 0; i < 1800; i++)
          process.stdout.write('plain text\\n\\n{ not json\\n  \\x1b[31mred\\x1b[0m\\n{"level":30,"msg":"no rpc"}\\n[1]\\n')
        answer('done')`
      )
    })
  }
)

const tooMuch: [string, string, RegExp][] = [
  [
    'more than 10,000 lines',
    `process.stdout.write('still working\\n'.repeat(10_001))`,
    /more than 10000 lines on stdout/
  ],
  [
    'more than 10 MiB',
    `for (let i = 0; i < 11; i++) ${write(`'x'.repeat(${mib}) + '\\n'`)}`,
    /more than 10 MiB on stdout/
  ],
  ['more than 10 MiB of nothing', `for (let i = 0; i < 11; i++) ${write(`'\\n'.repeat(${mib})`)}`, /more than 10 MiB/]
]
for (const [what, noise, reason] of tooMuch) {
  attack(
    'U5',
    `${what} on stdout within a minute end the server, which is started again`,
    async attacked => {
      const { call, gateway } = attacked
      const pid = statusOf(attacked, 'noisy')?.pid
      const reply = await call('noisy__work', { noise: true })
      expect(problemOf(reply)).toMatchObject({ code: -31502, server: 'noisy', dispatched: true })
      expect(textOf(reply)).toMatch(reason)
      expect(gateway.logged('upstream.down')).toMatchObject([{ reason: expect.stringMatching(reason) }])
      // The next attempt waits: 1 s, spread by half.
      expect(gateway.logged('upstream.down')[0]?.retryMs).toBeGreaterThanOrEqual(500)
      expect(textOf(await call('noisy__work'))).toBe('quiet')
      expect(statusOf(attacked, 'noisy')).toMatchObject({ restarts: 1 })
      expect(statusOf(attacked, 'noisy')?.pid).not.toBe(pid)
    },
    { servers: made => ({ noisy: working(made, `if (!args.noise) return answer('quiet')\n${noise}`) }) }
  )
}

const floods: [string, string][] = [
  ['short lines', `'no message\\n'.repeat(1000)`],
  ['lines that begin like a message', `('{"level":30,"msg":"' + 'x'.repeat(100) + '"}\\n').repeat(100)`],
  ['long lines', `'x'.repeat(${mib}) + '\\n'`],
  ['blank lines', `'\\n'.repeat(100_000)`],
  ['a line without an end', `'x'.repeat(${mib})`]
]
for (const [what, chunk] of floods) {
  attack(
    'U5',
    `noise of 100 MB in ${what} on stdout does not hold up the others`,
    async ({ call }) => {
      let calls = 0
      const ms = await stillness(async () => {
        let over = false
        const ended = call('noisy__work').then(reply => {
          over = true
          return reply
        })
        while (!over || calls < 20) {
          expect(textOf(await call('healthy__echo', { message: `${calls}` }))).toBe(`${calls}`)
          calls++
        }
        expect(problemOf(await ended)).toMatchObject({ code: -31502, server: 'noisy' })
      })
      print(`longest stand of the loop under 100 MB of ${what}, with ${calls} calls beside it`, ms, 'ms')
      // 100 ms are allowed.
      expect(ms).toBeLessThan(500)
    },
    {
      servers: made => ({
        noisy: working(
          made,
          `const chunk = ${chunk}\nfor (let sent = 0; sent < 100e6; sent += chunk.length) ${write('chunk')}`
        )
      })
    }
  )
}

describe('U5: noise on stdout', () => {
  it('that stays below the budget in every minute never ends a server', () => {
    let now = 0
    const budget = createNoiseBudget(() => now)
    for (let minute = 0; minute < 10; minute++) {
      for (let i = 0; i < 9999; i++) budget.spend(1, 1000)
      expect(budget.spend(1, 1000)).toBeUndefined()
      now += 60_001
    }
    for (let i = 0; i < 10_000; i++) budget.spend(1, 1)
    expect(budget.spend(1, 1)).toMatch(/more than 10000 lines/)
  })
})

const floodLines = 20_000
attack(
  'U5',
  'a flood on stderr is told a hundred lines a second, the others counted, none of them as it stands',
  async ({ call, gateway }) => {
    const begun = performance.now()
    expect(textOf(await call('chatty__work'))).toBe('done')
    const lines = () => gateway.logged('upstream.stderr')
    await waitFor(
      () => lines().length + sum(lines(), 'skipped') - lines().filter(l => 'skipped' in l).length >= floodLines,
      'the sum'
    )
    const seconds = Math.ceil((performance.now() - begun) / 1000) + 1
    const told = lines().filter(line => 'line' in line)
    expect(told.length).toBeLessThanOrEqual(100 * seconds)
    expect(told.length + sum(lines(), 'skipped')).toBe(floodLines)
    expect(new Set(told.map(({ line }) => line))).toEqual(new Set(['{"level":"error","event":"forged"}  evil']))
    expect(gateway.logged('forged')).toEqual([])
  },
  {
    servers: made => ({
      chatty: working(
        made,
        `process.stderr.write('\\x1b[2J{"level":"error","event":"forged"}\\r\\u202eevil\\n'.repeat(${floodLines}), () => answer('done'))`
      )
    })
  }
)

attack(
  'U5',
  'a flood of 100 MB on stderr is kept to 64 KiB and does not hold up the others',
  async ({ call, gateway }) => {
    const ms = await stillness(async () => {
      const ended = call('chatty__work')
      for (let i = 0; i < 20; i++) expect(textOf(await call('healthy__echo', { message: `${i}` }))).toBe(`${i}`)
      expect(textOf(await ended)).toMatch(/code 7; its last words: last/)
    })
    print('longest stand of the loop under 100 MB of stderr', ms, 'ms')
    expect(ms).toBeLessThan(500)
    const [down] = gateway.logged('upstream.down')
    expect(down?.stderr).toHaveLength(20)
    expect((down?.stderr as string[]).at(-1)).toBe('last')
  },
  {
    servers: made => ({
      chatty: working(
        made,
        `const chunk = ('x'.repeat(99) + '\\n').repeat(10_000)
        for (let i = 0; i < 100; i++) await new Promise(resolve => process.stderr.write(chunk, resolve))
        process.stderr.write('last\\n', () => process.exit(7))`
      )
    })
  }
)

describe('U5: a flood on stderr', () => {
  it('cut anywhere keeps whole lines only, and no secret shows', () => {
    const secret = 'a-secret-of-some-length'
    const told: string[] = []
    const lines = createChildLines({ secrets: [secret], onLine: line => told.push(line) })
    const text = Buffer.from(`größe ${secret} end\n`.repeat(10_000))
    for (let at = 0; at < text.length; at += 997) lines.push(text.subarray(at, at + 997))
    const kept = lines.last(100_000)
    expect(new Set(kept)).toEqual(new Set(['größe [redacted] end']))
    expect(kept.length * Buffer.byteLength(`größe ${secret} end\n`)).toBeLessThanOrEqual(64 * 1024)
    expect(kept.length * Buffer.byteLength(`größe ${secret} end\n`)).toBeGreaterThan(63 * 1024)
    expect(new Set(told)).toEqual(new Set(['größe [redacted] end']))
    expect(told).toHaveLength(100)
    lines.push(Buffer.from('no line end'))
    expect(lines.last(1)).toEqual(['no line end'])
    lines.push(Buffer.alloc(70_000, 0x78))
    expect(lines.last(1)).toEqual([])
  })
})

attack(
  'U4',
  'a server that does not read its stdin gets 8 MiB at most; further calls fail at once, unsent, and all are answered',
  async ({ url, key, call, end }) => {
    const warnings: Error[] = []
    const warned = (warning: Error) => warnings.push(warning)
    process.on('warning', warned)
    onTestFinished(() => void process.off('warning', warned))
    const first = call('deaf__work')
    // What it never reads it cannot note: these calls are not in the ledger.
    const unread = (args: object) => modern(url, key, 'tools/call', { name: 'deaf__work', arguments: args })
    await new Promise(resolve => setTimeout(resolve, 300))
    const text = 'x'.repeat(mib)
    const answered: Promise<{ reply: Reply; ms: number }>[] = []
    for (let i = 0; i < 20; i++) {
      const begun = performance.now()
      answered.push(unread({ text }).then(reply => ({ reply, ms: performance.now() - begun })))
    }
    const all = await Promise.all(answered)
    const refused = all.filter(({ reply }) => problemOf(reply).code === -31429)
    const sent = all.filter(({ reply }) => problemOf(reply).code === -31504)
    // What the pipe itself holds comes on top of the 8 MiB.
    expect(sent.length).toBeGreaterThanOrEqual(7)
    expect(sent.length).toBeLessThanOrEqual(9)
    expect(refused.length + sent.length).toBe(20)
    for (const { reply, ms } of refused) {
      expect(ms).toBeLessThan(2500)
      expect(problemOf(reply)).toMatchObject({ server: 'deaf', dispatched: false })
      expect(textOf(reply)).toMatch(/does not read.*not sent/)
    }
    for (const { reply } of sent) expect(problemOf(reply)).toMatchObject({ dispatched: true })
    expect(problemOf(await first)).toMatchObject({ code: -31504 })
    expect(problemOf(await unread({ text }))).toMatchObject({ code: -31429, dispatched: false })
    await end()
    expect(warnings).toEqual([])
  },
  {
    servers: made => ({
      deaf: working(made, `process.stdin.pause()\nsetInterval(() => {}, 1000)`, { concurrency: 100, timeout: 3 })
    })
  }
)

attack(
  'U4',
  'a server that does not read its stdin for a while gets what waited when it reads again',
  async ({ call }) => {
    expect(textOf(await call('late__work', { sleep: true }))).toBe('heard 0')
    const text = 'ü'.repeat(mib / 2)
    const waiting = Array.from({ length: 6 }, () => call('late__work', { text }))
    for (const reply of await Promise.all(waiting)) expect(textOf(reply)).toBe(`heard ${text.length}`)
  },
  {
    servers: made => ({
      late: working(
        made,
        `if (args.sleep) { process.stdin.pause(); setTimeout(() => process.stdin.resume(), 1500) }
         answer('heard ' + (args.text ?? '').length)`,
        { concurrency: 100 }
      )
    })
  }
)

attack(
  'U6',
  'a message without an end fails the calls that wait, ends the server, and the next call works',
  async attacked => {
    const { call } = attacked
    const begun = performance.now()
    const replies = await Promise.all([
      call('endless__work', { endless: true }),
      call('endless__work', { endless: true })
    ])
    print('answered after', performance.now() - begun, 'ms')
    for (const reply of replies) {
      expect(problemOf(reply)).toMatchObject({ code: -31502, server: 'endless', dispatched: true })
      expect(textOf(reply)).toMatch(/a message of more than 32 MiB/)
    }
    expect(textOf(await call('endless__work'))).toBe('fine')
    expect(statusOf(attacked, 'endless')).toMatchObject({ state: 'ready', restarts: 1 })
    expect(statusOf(attacked, 'healthy')).toMatchObject({ state: 'ready', restarts: 0 })
  },
  {
    servers: made => ({
      endless: working(
        made,
        `if (!args.endless) return answer('fine')
        const chunk = 'x'.repeat(${mib})
        for (;;) ${write('chunk')}`
      )
    })
  }
)

const endings = [
  ['a JSON answer', 'application/json', '{"jsonrpc":"2.0","id":', 'x'],
  ['a line of an event stream', 'text/event-stream', 'data: ', 'x'],
  ['an event of many lines', 'text/event-stream', '', `data: ${'x'.repeat(1000)}\n`]
] as const
for (const [what, type, head, filling] of endings) {
  attackFrom(
    'U6',
    `a message without an end, over HTTP, in ${what}, fails its call, and the next call works`,
    async (begin, { ledger }) => {
      const chunk = filling.repeat(mib / filling.length)
      let sent = 0
      const nonces: string[] = []
      ledger.watch(() => nonces)
      const server = createHttpServer((request, response) => {
        let body = ''
        request.on('data', (part: Buffer) => (body += part.toString()))
        request.on('end', () => {
          const { id, method, params } = JSON.parse(body || '{}') as { id?: number; method?: string; params?: any }
          const results: Record<string, object> = {
            initialize: {
              protocolVersion: '2025-11-25',
              capabilities: { tools: {} },
              serverInfo: { name: 'x', version: '1' }
            },
            'tools/list': { tools: [{ name: 'work', inputSchema: { type: 'object' } }] },
            'tools/call': { content: [{ type: 'text', text: 'fine' }] }
          }
          if (id === undefined || method === undefined) return response.writeHead(202).end()
          if (method === 'tools/call') nonces.push(params.arguments.nonce as string)
          if (!params?.arguments?.endless) {
            response.writeHead(200, { 'content-type': 'application/json' })
            return response.end(JSON.stringify({ jsonrpc: '2.0', id, result: results[method] ?? {} }))
          }
          response.writeHead(200, { 'content-type': type })
          response.write(head)
          const more = () => {
            sent += chunk.length
            if (!response.destroyed) response.write(chunk, () => setImmediate(more))
          }
          more()
        })
      })
      const url = `http://127.0.0.1:${await listening(server)}/mcp`
      const { call } = await begin({ servers: { endless: { url, transport: 'http', era: 'legacy' } } })
      const reply = await call('endless__work', { endless: true })
      print(`sent of ${what}`, sent / mib, 'MiB')
      expect(problemOf(reply)).toMatchObject({ code: -31502, server: 'endless', dispatched: true })
      expect(textOf(reply)).toMatch(/more than 32 MiB/)
      expect(textOf(await call('endless__work'))).toBe('fine')
    }
  )
}
