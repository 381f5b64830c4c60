/**
 * What a caller with a progress token hears: the server's own progress with values that rise, and, after 20 s without a
 * word of the server, a sign that the call is still waited for.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { request } from 'undici'
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { createProgress, type Progress } from '../src/wire/progress.js'
import type { RpcNotification } from '../src/wire/json-rpc.js'
import { openLedger } from './fixtures/ledger.mjs'
import { bearer, envelope } from './helpers/http.js'
import { fixture, secrets, startTestGateway } from './helpers/with-gateway.js'

const step = 1e-6

interface Line {
  readonly sent: RpcNotification[]
  readonly progress: Progress
  /** The params of everything sent so far. */
  params(): any[]
  values(): number[]
  /** The server reports progress. */
  hears(params: Record<string, unknown>): void
}

function listen(options: { everyMs?: number; describe?: (silentMs: number) => string } = {}): Line {
  const sent: RpcNotification[] = []
  const progress = createProgress({
    token: 'mine',
    send: notification => sent.push(notification),
    describe: silentMs => `silent for ${silentMs} ms`,
    ...options
  })
  onTestFinished(() => progress.stop())
  const params = () => sent.map(notification => notification.params)
  return {
    sent,
    progress,
    params,
    values: () => params().map(({ progress }: any) => progress as number),
    hears: params => progress.heard({ jsonrpc: '2.0', method: 'notifications/progress', params })
  }
}

describe('a server that says nothing', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  test('is spoken for after 20 s, and every 20 s from then on', () => {
    const line = listen()
    vi.advanceTimersByTime(19_999)
    expect(line.sent).toEqual([])
    vi.advanceTimersByTime(1)
    expect(line.sent).toEqual([
      {
        jsonrpc: '2.0',
        method: 'notifications/progress',
        params: { progressToken: 'mine', progress: 0, message: 'silent for 20000 ms' }
      }
    ])
    vi.advanceTimersByTime(40_000)
    expect(line.values()).toEqual([0, step, 2 * step])
    expect(line.params().map(({ message }) => message)).toEqual([
      'silent for 20000 ms',
      'silent for 40000 ms',
      'silent for 60000 ms'
    ])
  })

  test('is given the caller’s own token, a number as well as a text, even 0', () => {
    for (const token of ['', 'text', 0, 7]) {
      const sent: RpcNotification[] = []
      const progress = createProgress({ token, send: one => sent.push(one), describe: () => '' })
      vi.advanceTimersByTime(20_000)
      expect(sent.map(({ params }) => params?.progressToken)).toEqual([token])
      progress.stop()
    }
  })

  test('is counted as silent only from its last word on', () => {
    const line = listen()
    vi.advanceTimersByTime(15_000)
    line.hears({ progress: 1 })
    vi.advanceTimersByTime(19_999)
    expect(line.values()).toEqual([1])
    vi.advanceTimersByTime(1)
    expect(line.values()).toEqual([1, 1 + step])
    expect(line.params().at(-1).message).toBe('silent for 20000 ms')
  })

  test('is not spoken for as long as it speaks', () => {
    const line = listen()
    for (let second = 1; second <= 120; second++) {
      vi.advanceTimersByTime(1000)
      line.hears({ progress: second })
    }
    expect(line.values()).toEqual(Array.from({ length: 120 }, (_, index) => index + 1))
  })

  test('goes on from the last value sent, and its total is repeated', () => {
    const line = listen()
    line.hears({ progress: 3, total: 10, message: 'three of ten' })
    vi.advanceTimersByTime(40_000)
    line.hears({ progress: 4 })
    vi.advanceTimersByTime(20_000)
    expect(line.params()).toEqual([
      { progressToken: 'mine', progress: 3, total: 10, message: 'three of ten' },
      { progressToken: 'mine', progress: 3 + step, total: 10, message: 'silent for 20000 ms' },
      { progressToken: 'mine', progress: 3 + step + step, total: 10, message: 'silent for 40000 ms' },
      { progressToken: 'mine', progress: 4, total: 10 },
      { progressToken: 'mine', progress: 4 + step, total: 10, message: 'silent for 20000 ms' }
    ])
  })

  test('with a new total is spoken for with that one', () => {
    const line = listen()
    line.hears({ progress: 1, total: 10 })
    line.hears({ progress: 2, total: 20 })
    vi.advanceTimersByTime(20_000)
    expect(line.params().at(-1)).toMatchObject({ progress: 2 + step, total: 20 })
  })

  test('is not spoken for once the call is over', () => {
    const line = listen()
    line.hears({ progress: 1 })
    line.progress.stop()
    vi.advanceTimersByTime(600_000)
    expect(line.values()).toEqual([1])
    expect(vi.getTimerCount()).toBe(0)
  })

  test('is spoken for at another pace where one is given', () => {
    const line = listen({ everyMs: 500 })
    vi.advanceTimersByTime(1600)
    expect(line.values()).toEqual([0, step, 2 * step])
  })
})

describe('the server’s own progress', () => {
  test('passes with every member it has, under the caller’s token', () => {
    const line = listen()
    const more = { 'x-vendor': { list: [1, null] }, _meta: { a: 1 }, message: 'half', total: 2 }
    line.hears({ progressToken: 42, progress: 1, ...more })
    expect(line.params()).toEqual([{ progressToken: 'mine', progress: 1, ...more }])
  })

  test('that stands still or goes back is raised by a millionth above the last value sent', () => {
    const line = listen()
    for (const progress of [5, 5, 3, 5.5, 0, 6]) line.hears({ progress })
    expect(line.values()).toEqual([5, 5 + step, 5 + step + step, 5.5, 5.5 + step, 6])
  })

  test('may begin anywhere, below zero as well', () => {
    const line = listen()
    for (const progress of [-3, -2, -2]) line.hears({ progress })
    expect(line.values()).toEqual([-3, -2, -2 + step])
  })

  test('without a number is left out', () => {
    const line = listen()
    for (const progress of [undefined, 'much', {}, NaN]) line.hears({ progress })
    expect(line.sent).toEqual([])
  })

  test('is told from other notifications, which are not its business', () => {
    const line = listen()
    line.progress.heard({ jsonrpc: '2.0', method: 'notifications/message', params: { progress: 1 } })
    expect(line.sent).toEqual([])
  })

  test('always rises, whatever the server sends and however long it is silent', () => {
    vi.useFakeTimers()
    try {
      const value = fc.oneof(fc.integer({ min: -1000, max: 1000 }), fc.double({ noNaN: true, min: -1e6, max: 1e6 }))
      fc.assert(
        fc.property(fc.array(fc.oneof(value, fc.constant('silence')), { maxLength: 50 }), events => {
          const line = listen()
          for (const event of events) {
            if (event === 'silence') vi.advanceTimersByTime(20_000)
            else line.hears({ progress: event })
          }
          const values = line.values()
          expect(values).toHaveLength(events.length)
          for (const [i, value] of values.entries()) if (i > 0) expect(value).toBeGreaterThan(values[i - 1]!)
          line.progress.stop()
        })
      )
    } finally {
      vi.useRealTimers()
    }
  })

  test('also rises when it counts bytes, where a millionth is lost in rounding', () => {
    for (const bytes of [2 ** 33, 2 ** 34, 1e12, Number.MAX_SAFE_INTEGER]) {
      const line = listen()
      for (let i = 0; i < 3; i++) line.hears({ progress: bytes })
      const [first = NaN, second = NaN, third = NaN] = line.values()
      expect([bytes, first, second > first, third > second]).toEqual([bytes, bytes, true, true])
    }
  })
})

test('a caller with a token hears through the gateway what is waited for and how long is left, then the result', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'switchboard-progress-'))
  const ledger = openLedger(join(dir, 'ledger'))
  const gateway = await startTestGateway(`
servers:
  alpha: { command: node, args: [${fixture('raw-stdio.mjs')}], env: { LEDGER: ${ledger.path} }, timeout: 90 }
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
`)
  onTestFinished(async () => {
    await gateway.close()
    rmSync(dir, { recursive: true, force: true })
  })
  await gateway.until('alpha')
  const call = (name: string, args: object, meta: object) =>
    request(`${gateway.url}/mcp`, {
      method: 'POST',
      headersTimeout: 0,
      bodyTimeout: 0,
      headers: {
        ...bearer(secrets.ADMIN),
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': 'tools/call',
        'mcp-name': name
      },
      body: JSON.stringify({
        jsonrpc: '2.0',
        id: 1,
        method: 'tools/call',
        params: { name, arguments: args, _meta: { ...envelope, ...meta } }
      })
    })

  // Time passes at our word only for what begins from here on; sockets and the server's process keep their own.
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  onTestFinished(() => void vi.useRealTimers())
  const until = async (holds: () => boolean) => {
    const deadline = Date.now() + 15_000
    while (!holds() && Date.now() < deadline) await turn()
    expect(holds()).toBe(true)
  }

  const calling = call('alpha__slow', { ms: 2000, nonce: 'n' }, { progressToken: 'mine' })
  await until(() => ledger.count('started n') === 1)
  vi.advanceTimersByTime(20_000)
  const { headers, body } = await calling
  expect(headers['content-type']).toBe('text/event-stream')
  let text = ''
  body.on('data', (chunk: Buffer) => (text += chunk.toString()))
  const messages = () =>
    text
      .split('\n')
      .filter(line => line.startsWith('data: '))
      .map(line => JSON.parse(line.slice(6)))
  await until(() => messages().length === 1)
  vi.advanceTimersByTime(40_000)
  await until(() => messages().length === 3)
  expect(messages().map(({ method, params }) => ({ method, ...params }))).toEqual(
    [
      [0, 20, 70],
      [step, 40, 50],
      [2 * step, 60, 30]
    ].map(([progress, silent, left]) => ({
      method: 'notifications/progress',
      progressToken: 'mine',
      progress,
      message: expect.stringMatching(
        new RegExp(`waiting for "slow" of server "alpha": silent for ${silent} s, .* another ${left} s of silence`)
      )
    }))
  )
  await until(() => messages().length === 4)
  expect(messages().at(-1)).toMatchObject({ id: 1, result: { content: [{ text: 'waited 2000 ms' }] } })
})
