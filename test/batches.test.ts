/**
 * JSON-RPC batches, which 2025-03-26 alone has: who may send them, what is refused as a whole before anything of it was
 * begun, and how each message in one is authorised, audited, cancelled and answered by itself.
 */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { attack, noncesNoted, type Attack, type Made } from './helpers/attack.js'
import { bearer, openSession, post, send, type Reply } from './helpers/http.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const dir = mkdtempSync(join(tmpdir(), 'switchboard-batches-'))
const ledger = openLedger(join(dir, 'ledger'))
let gateway: TestGateway
let url: string

beforeAll(async () => {
  gateway = await startTestGateway(`
servers:
  alpha: { command: node, args: [${fixture('raw-stdio.mjs')}], env: { LEDGER: ${ledger.path} } }
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: { alpha: [echo] } }
`)
  url = gateway.url
  await gateway.until('alpha')
})
afterAll(async () => {
  await gateway.close()
  rmSync(dir, { recursive: true, force: true })
})

type Session = Awaited<ReturnType<typeof openSession>>
const open = (version = '2025-03-26', secret = secrets.ADMIN) => openSession(url, secret, { version })

let nonces = 0
const newNonce = () => `call-${++nonces}`

const asked = (id: string | number, method: string, params?: object) => ({ jsonrpc: '2.0', id, method, params })
const called = (id: string | number, name: string, args: object = {}, _meta?: object) =>
  asked(id, 'tools/call', { name: `alpha__${name}`, arguments: args, ...(_meta && { _meta }) })
const echo = (id: string | number, message: string) => called(id, 'echo', { message })
const count = (id: string | number, nonce: string) => called(id, 'count', { nonce })
const notice = (method: string, params?: object) => ({ jsonrpc: '2.0', method, params })
const cancelOf = (requestId: string | number) => notice('notifications/cancelled', { requestId })

const sendBatch = ({ headers }: Pick<Session, 'headers'>, items: unknown[], more: Record<string, string> = {}) =>
  post(`${url}/mcp`, items, { ...headers, ...more })

/** The answers of a batch by their id, as text or error code. */
const byId = (answers: any[]) =>
  Object.fromEntries(answers.map(({ id, result, error }) => [id, error?.code ?? result.content?.[0].text ?? result]))

const noted = (line: string) => waitFor(() => ledger.count(line) === 1, `"${line}" in the ledger`, 5000)

describe('a batch in a session of 2025-03-26 (§6.54)', () => {
  test('is answered as one array, each request once under its own id', async () => {
    const { status, headers, json, messages } = await sendBatch(await open(), [
      echo(1, 'one'),
      asked('p', 'ping'),
      echo('1', 'another one'),
      asked(2, 'no/such'),
      echo(0, 'zero')
    ])
    expect([status, headers['content-type'], messages.length]).toEqual([200, 'application/json', 1])
    expect(json.every(({ jsonrpc }: any) => jsonrpc === '2.0')).toBe(true)
    expect(json.map(({ id }: any) => id).sort()).toEqual([0, 1, 2, '1', 'p'].sort())
    expect(json.find(({ id }: any) => id === 1).result.content[0].text).toBe('one')
    expect(json.find(({ id }: any) => id === '1').result.content[0].text).toBe('another one')
    expect(byId(json)).toMatchObject({ p: {}, 2: -32601, 0: 'zero' })
  })

  test('of one message is answered as an array of one', async () => {
    const { status, json } = await sendBatch(await open(), [echo(1, 'alone')])
    expect([status, json]).toEqual([200, [{ jsonrpc: '2.0', id: 1, result: expect.objectContaining({}) }]])
  })

  test('may have 20 messages (§6.66)', async () => {
    const items = Array.from({ length: 20 }, (_, i) => echo(i, `message ${i}`))
    const { status, json } = await sendBatch(await open(), items)
    expect(status).toBe(200)
    expect(byId(json)).toEqual(Object.fromEntries(items.map((_, i) => [i, `message ${i}`])))
    expect(json).toHaveLength(20)
  })

  test('runs its requests beside each other, the quick ones not waiting for the slow', async () => {
    const [one, other] = [newNonce(), newNonce()]
    const begun = performance.now()
    const { json } = await sendBatch(await open(), [
      called(1, 'slow', { ms: 500, nonce: one }),
      called(2, 'slow', { ms: 500, nonce: other })
    ])
    expect(byId(json)).toEqual({ 1: 'waited 500 ms', 2: 'waited 500 ms' })
    expect(performance.now() - begun).toBeLessThan(950)
  })

  test('may have notifications and answers among its requests, which get none', async () => {
    const { status, json } = await sendBatch(await open(), [
      notice('notifications/initialized'),
      echo(1, 'one'),
      { jsonrpc: '2.0', id: 'gw:1', result: {} },
      { jsonrpc: '2.0', id: 99, error: { code: -1, message: 'no' } },
      notice('notifications/vendor/unheard')
    ])
    expect([status, byId(json)]).toEqual([200, { 1: 'one' }])
  })

  test.each<[string, object[]]>([
    ['notifications', [notice('notifications/initialized'), notice('notifications/vendor/unheard')]],
    ['answers', [{ jsonrpc: '2.0', id: 'gw:1', result: {} }]],
    ['a cancellation of nothing', [cancelOf(77)]]
  ])('of nothing but %s is 202 without a body (§6.53)', async (_, items) => {
    const { status, text, headers } = await sendBatch(await open(), items)
    expect([status, text, headers['content-type']]).toEqual([202, '', undefined])
  })

  test('serves lists, also where one server alone is addressed', async () => {
    const session = await open()
    const { status, json } = await post(`${url}/mcp/alpha`, [asked(1, 'tools/list'), asked(2, 'ping')], session.headers)
    expect(status).toBe(200)
    const listed = json.find(({ id }: any) => id === 1).result
    expect(listed.tools.map(({ name }: any) => name)).toContain('echo')
  })

  test('may be in many sessions at once under the same ids: none hears of another (§6.58)', async () => {
    const replies = await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const session = await open('2025-03-26', i % 2 === 0 ? secrets.ADMIN : secrets.DEVELOPER)
        return sendBatch(session, [echo(1, `${i} one`), echo(2, `${i} two`)])
      })
    )
    expect(replies.map(({ json }) => byId(json))).toEqual(replies.map((_, i) => ({ 1: `${i} one`, 2: `${i} two` })))
  })

  test('may be sent with the header of another version: what counts is the session', async () => {
    const session = await open()
    const { 'mcp-protocol-version': _, ...without } = session.headers
    expect((await sendBatch({ headers: without as Session['headers'] }, [asked(1, 'ping')])).status).toBe(200)
  })
})

const refused = { code: -32600, message: expect.any(String) }
/** A server of that name for an attack, in place of the one of the tests above. */
function alphaIn({ ledger }: Made): Record<string, object> {
  const noted = openLedger(join(dir, `${randomUUID()}.ledger`))
  ledger.watch(() => noncesNoted(noted))
  return { alpha: { command: 'node', args: [fixture('raw-stdio.mjs')], env: { LEDGER: noted.path } } }
}
/** A batch and the calls in it, under one nonce, for the ledger. */
const nonceIn = (
  { url, ledger }: Attack,
  { headers }: { headers: Record<string, string> },
  items: (nonce: string) => unknown[]
) => ledger.call(nonce => post(`${url}/mcp`, items(nonce), headers)) as Promise<Reply>

const wholes: [string, (nonce: string) => unknown[], RegExp][] = [
  ['nothing', () => [], /empty/],
  ['21 messages', nonce => Array.from({ length: 21 }, (_, i) => count(i, nonce)), /21 messages, and 20/],
  ['200,000 messages', nonce => [count(1, nonce), ...Array.from({ length: 200_000 }, () => 1)], /20 are the most/],
  ['21 notifications', () => Array.from({ length: 21 }, () => notice('notifications/initialized')), /20 are the most/],
  ['initialize', nonce => [count(1, nonce), asked(2, 'initialize', {})], /initialize must stand alone/],
  ['initialize alone', () => [asked(2, 'initialize', { protocolVersion: '2025-03-26' })], /stand alone/],
  ['the same id twice', nonce => [count(1, nonce), count(1, nonce)], /id 1 is in use/],
  ['the same text as id twice', nonce => [count('a', nonce), asked('a', 'ping')], /id "a" is in use/],
  ['a number', nonce => [count(1, nonce), 1], /message 2 is no JSON-RPC message/],
  ['null', nonce => [null, count(1, nonce)], /message 1 is no JSON-RPC message/],
  ['a batch', nonce => [count(1, nonce), [asked(2, 'ping')]], /message 2/],
  ['another version of JSON-RPC', nonce => [count(1, nonce), { ...asked(2, 'ping'), jsonrpc: '1.0' }], /message 2/],
  ['an id of null', nonce => [count(1, nonce), { ...asked(2, 'ping'), id: null }], /message 2/],
  ['an id that rounds', nonce => [count(1, nonce), asked(2 ** 53 + 2, 'ping')], /message 2/],
  ['params that are no object', nonce => [count(1, nonce), { ...asked(2, 'ping'), params: [1] }], /message 2/],
  ['neither method nor answer', nonce => [count(1, nonce), { jsonrpc: '2.0', id: 2 }], /message 2/]
]

attack(
  'T2',
  'a batch of 20 is served; one of 21, or of what may not stand in one, is 400 with -32600, and nothing of it was begun (§6.66)',
  async attacked => {
    const { url, key, gateway, ledger } = attacked
    const session = await openSession(url, key, { version: '2025-03-26' })
    const twenty = [count('a call', 'twenty'), ...Array.from({ length: 19 }, (_, i) => asked(i, 'ping'))]
    const served = await post(`${url}/mcp`, twenty, session.headers)
    expect(byId(served.json)).toMatchObject({ 'a call': '1', 0: {}, 18: {} })
    expect(served.json).toHaveLength(20)
    const audited = () => gateway.logged('call').filter(({ key }) => key === 'attacker').length
    for (const [what, items, why] of wholes) {
      const before = audited()
      const { status, json } = await nonceIn(attacked, session, items)
      expect([what, status, json]).toEqual([what, 400, { jsonrpc: '2.0', error: refused }])
      expect(json.error.message).toMatch(why)
      // The ids are free, and the server has heard of none of the calls.
      const next = await ledger.call(nonce => session.rpc('tools/call', count(1, nonce).params, { id: 1 }))
      expect(next?.json.result.content[0].text).toBe('1')
      expect(audited()).toBe(before + 1)
    }
  },
  { servers: alphaIn }
)

attack(
  'T2',
  'a batch is 400 with -32600 in every era but that of 2025-03-26 (§6.54)',
  async attacked => {
    const { url, key } = attacked
    const old = await openSession(url, key, { version: '2025-03-26' })
    for (const version of ['2025-11-25', '2025-06-18', '2024-11-05']) {
      const session = await openSession(url, key, { version })
      const batches: ((nonce: string) => unknown[])[] = [
      () => [], nonce => [count(1, nonce)], () => [notice('notifications/initialized')], () => [cancelOf(1)], () => [1]
    ] // prettier-ignore
      for (const items of batches) {
        const { status, json } = await nonceIn(attacked, session, items)
        expect([version, status, json]).toEqual([version, 400, { jsonrpc: '2.0', error: refused }])
        expect(json.error.message).toContain('2025-03-26')
      }
      const asOld = { headers: { ...session.headers, 'mcp-protocol-version': '2025-03-26' } }
      expect((await nonceIn(attacked, asOld, nonce => [count(1, nonce)])).status).toBe(400)
    }
    // 2026-07-28, whatever session it names.
    const asModern = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': 'alpha__count' }
    for (const headers of [
      { ...bearer(key), ...asModern },
      { ...old.headers, ...asModern }
    ]) {
      const { status, json } = await nonceIn(attacked, { headers }, nonce => [count(1, nonce)])
      expect([status, json]).toEqual([400, { jsonrpc: '2.0', error: refused }])
    }
  },
  { servers: alphaIn }
)

describe('a batch that is refused as a whole', () => {
  test('for an id that is in flight is 400, and the running call is not disturbed', async () => {
    const session = await open()
    const [slow, nonce] = [newNonce(), newNonce()]
    const running = session.rpc('tools/call', called(5, 'slow', { ms: 500, nonce: slow }).params, { id: 5 })
    await noted(`started ${slow}`)
    const { status, json } = await sendBatch(session, [count(4, nonce), asked(5, 'ping')])
    expect([status, json]).toEqual([400, { jsonrpc: '2.0', error: refused }])
    expect((await sendBatch(session, [asked('5', 'ping')])).status).toBe(200)
    expect((await sendBatch(await open(), [asked(5, 'ping')])).status).toBe(200)
    expect((await running).json.result.content[0].text).toBe('waited 500 ms')
    expect(ledger.count(`called ${nonce}`)).toBe(0)
  })

  test('for an id of another batch that still runs is 400, as is a single request under it', async () => {
    const session = await open()
    const slow = newNonce()
    const running = sendBatch(session, [called(5, 'slow', { ms: 500, nonce: slow }), asked(6, 'ping')])
    await noted(`started ${slow}`)
    expect((await sendBatch(session, [asked(5, 'ping')])).status).toBe(400)
    expect((await session.rpc('ping', {}, { id: 5 })).status).toBe(400)
    expect((await session.rpc('ping', {}, { id: 6 })).status).toBe(200)
    expect(byId((await running).json)).toMatchObject({ 5: 'waited 500 ms' })
    expect((await session.rpc('ping', {}, { id: 5 })).status).toBe(200)
  })

  test('cancels nothing either', async () => {
    const session = await open()
    const nonce = newNonce()
    const running = session.rpc('tools/call', called(5, 'slow', { ms: 300, nonce }).params, { id: 5 })
    await noted(`started ${nonce}`)
    expect((await sendBatch(session, [cancelOf(5), 1])).status).toBe(400)
    expect((await running).json.result.content[0].text).toBe('waited 300 ms')
  })

  test('without a session is 400 with -32600, also one that would open it (§6.49, §6.54)', async () => {
    for (const items of [[echo(1, 'x')], [asked(1, 'initialize', { protocolVersion: '2025-03-26' })], []]) {
      const { status, json } = await post(`${url}/mcp`, items, bearer(secrets.ADMIN))
      expect([status, json.error]).toEqual([400, refused])
    }
  })

  test('in a session of another key or in none that is known is 404 (§6.27, §6.49)', async () => {
    const session = await open()
    const nonce = newNonce()
    for (const headers of [
      { ...session.headers, ...bearer(secrets.DEVELOPER) },
      { ...session.headers, 'mcp-session-id': 'x' }
    ]) {
      // prettier-ignore
      const { status, json } = await sendBatch({ headers }, [count(1, nonce)])
      expect([status, json.error.code]).toEqual([404, -32001])
    }
    expect(ledger.count(`called ${nonce}`)).toBe(0)
  })
})

describe('each message of a batch', () => {
  test('is authorised by itself: what is denied is unknown, what stands beside it runs (§6.23, §6.24)', async () => {
    const session = await open('2025-03-26', secrets.DEVELOPER)
    const nonce = newNonce()
    const { status, json } = await sendBatch(session, [
      echo(1, 'allowed'),
      count(2, nonce),
      called(3, 'never_there'),
      asked(4, 'tools/list')
    ])
    expect(status).toBe(200)
    expect(byId(json)).toMatchObject({ 1: 'allowed', 2: -32602, 3: -32602 })
    const messageOf = (id: number) => String(json.find((one: any) => one.id === id).error.message)
    expect(messageOf(2).replace('count', 'never_there')).toBe(messageOf(3))
    const listed = json.find(({ id }: any) => id === 4).result.tools.map(({ name }: any) => name)
    expect(listed).toEqual(['alpha__echo'])
    expect(ledger.count(`called ${nonce}`)).toBe(0)
  })

  test('that is a call is audited once', async () => {
    const session = await open('2025-03-26', secrets.DEVELOPER)
    const before = gateway.logged('call').length
    await sendBatch(session, [
      echo(1, 'x'),
      echo(2, 'x'),
      count(3, newNonce()),
      called(4, 'never_there'),
      asked(5, 'ping'),
      notice('notifications/initialized')
    ])
    const lines = gateway.logged('call').slice(before)
    expect(lines.map(({ key, tool, outcome }) => [key, tool, outcome]).sort()).toEqual([
      ['developer', 'alpha__never_there', 'unknown'],
      ['developer', 'count', 'denied'],
      ['developer', 'echo', 'ok'],
      ['developer', 'echo', 'ok']
    ])
  })

  test('can be cancelled: it gets no answer, the others do (§6.51)', async () => {
    const session = await open()
    const nonce = newNonce()
    const running = sendBatch(session, [called(1, 'slow', { ms: 20_000, nonce }), echo(2, 'stays')])
    await noted(`started ${nonce}`)
    expect((await session.notify('notifications/cancelled', { requestId: 1 })).status).toBe(202)
    const { status, json } = await running
    expect([status, byId(json)]).toEqual([200, { 2: 'stays' }])
    await noted(`cancelled ${nonce}`)
  })

  test('can be cancelled by another batch', async () => {
    const session = await open()
    const nonce = newNonce()
    const running = sendBatch(session, [called(1, 'slow', { ms: 20_000, nonce }), echo(2, 'stays')])
    await noted(`started ${nonce}`)
    const cancelled = await sendBatch(session, [cancelOf(1), asked(3, 'ping')])
    expect(byId(cancelled.json)).toEqual({ 3: {} })
    expect(byId((await running).json)).toEqual({ 2: 'stays' })
    await noted(`cancelled ${nonce}`)
  })

  test('that is cancelled leaves no array without answers behind: such a batch ends as an empty stream', async () => {
    const session = await open()
    const nonce = newNonce()
    const running = sendBatch(session, [called(1, 'slow', { ms: 20_000, nonce })])
    await noted(`started ${nonce}`)
    await session.notify('notifications/cancelled', { requestId: 1 })
    const { status, headers, messages } = await running
    expect([status, headers['content-type'], messages]).toEqual([200, 'text/event-stream', []])
  })

  test('ends with its session', async () => {
    const session = await open()
    const nonces = [newNonce(), newNonce()]
    const running = sendBatch(
      session,
      nonces.map((nonce, id) => called(id, 'slow', { ms: 20_000, nonce }))
    )
    for (const nonce of nonces) await noted(`started ${nonce}`)
    expect((await send('DELETE', `${url}/mcp`, session.headers)).status).toBe(200)
    expect((await running).status).toBe(200)
    for (const nonce of nonces) await noted(`cancelled ${nonce}`)
  })
})

describe('progress inside a batch', () => {
  const withProgress = [
    called(1, 'progress', {}, { progressToken: 'one' }),
    echo(2, 'two'),
    called(3, 'progress', {}, { progressToken: 3 })
  ]

  test('makes its answer a stream: each progress under its own token before its answer', async () => {
    const { status, headers, messages } = await sendBatch(await open(), withProgress)
    expect([status, headers['content-type'], headers['x-accel-buffering']]).toEqual([200, 'text/event-stream', 'no'])
    const answers = messages.filter(({ id }) => id !== undefined)
    expect(byId(answers)).toEqual({ 1: 'done', 2: 'two', 3: 'done' })
    for (const [id, token] of [
      [1, 'one'],
      [3, 3]
    ] as const) {
      // prettier-ignore
      const own = messages.filter(message => message.params?.progressToken === token)
      expect(own.map(({ params }) => params.progress)).toEqual([1, 2, 3])
      const last = messages.lastIndexOf(own.at(-1))
      expect(last).toBeLessThan(messages.findIndex(message => message.id === id))
    }
    expect(messages).toHaveLength(9)
  })

  test('does not reach a client that takes JSON alone: it gets the array', async () => {
    const { status, headers, json } = await sendBatch(await open(), withProgress, { accept: 'application/json' })
    expect([status, headers['content-type']]).toEqual([200, 'application/json'])
    expect(byId(json)).toEqual({ 1: 'done', 2: 'two', 3: 'done' })
  })

  test('of one that was cancelled is not heard any more', async () => {
    const session = await open()
    const nonce = newNonce()
    const running = sendBatch(session, [
      called(1, 'slow', { ms: 20_000, nonce }, { progressToken: 'gone' }),
      called(2, 'progress', {}, { progressToken: 'here' })
    ])
    await noted(`started ${nonce}`)
    await session.notify('notifications/cancelled', { requestId: 1 })
    const { messages } = await running
    expect(byId(messages.filter(({ id }) => id !== undefined))).toEqual({ 2: 'done' })
    expect(messages.filter(({ params }) => params?.progressToken === 'gone')).toEqual([])
  })

  test('is nothing to a client that takes a stream alone: it gets one in any case', async () => {
    const { headers, messages } = await sendBatch(await open(), [echo(1, 'one')], { accept: 'text/event-stream' })
    expect(headers['content-type']).toBe('text/event-stream')
    expect(byId(messages)).toEqual({ 1: 'one' })
  })
})
