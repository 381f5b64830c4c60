/**
 * Streams that outlive their connection: a client that comes back with `Last-Event-ID` finds what it missed, and nothing
 * that is not its own (2025-11-25, Resumability and Redelivery); and servers that let us come back (SEP-1699).
 */
import { createServer, connect, type AddressInfo, type Socket } from 'node:net'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { request } from 'undici'
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { createReplays } from '../src/downstream/replay.js'
import { start as startOffer } from './fixtures/raw-offer.mjs'
import { start as startScripted, type ScriptedCall, type ScriptedHttp } from './fixtures/scripted-http.mjs'
import type { RawOffer } from './fixtures/types.d.mts'
import { bearer, envelope, modern, openSession, post, send } from './helpers/http.js'
import { secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

let up: ScriptedHttp
let offer: RawOffer
let gateway: TestGateway
let url: string

beforeAll(async () => {
  ;[up, offer] = await Promise.all([startScripted(), startOffer({ name: 'offer', resources: [resource] })])
  gateway = await startTestGateway(`
servers:
  up: { url: ${up.url}, transport: http, headers: { x-credential: ours } }
  brief: { url: ${up.url}, transport: http, timeout: 1, max_timeout: 1.5 }
  offer: { url: ${offer.url}, transport: http }
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: "*" }
`)
  url = gateway.url
  await Promise.all(['up', 'brief', 'offer'].map(server => gateway.until(server)))
})
afterAll(async () => {
  await gateway.close()
  await Promise.all([up.close(), offer.close()])
})
afterEach(() => void (up.resume = undefined))

const resource = { uri: 'x://r', name: 'r' }

interface SentEvent {
  readonly id?: string
  readonly data: string
}

interface Stream {
  readonly status: number
  readonly headers: Record<string, string | string[] | undefined>
  readonly text: () => string
  /** Every event that has data or an id, in order. */
  readonly events: () => SentEvent[]
  /** The JSON-RPC messages in them. */
  readonly messages: () => any[]
  readonly ids: () => string[]
  /** The id of the last event. */
  readonly last: () => string
  /** The last `retry:` in milliseconds. */
  readonly retry: () => number | undefined
  /** How it ended; undefined as long as it is open. */
  readonly ended: () => 'cleanly' | 'broken' | undefined
  /** Waits for so many messages. */
  readonly heard: (count: number) => Promise<any[]>
  readonly over: () => Promise<any[]>
  /** Cuts its connection. */
  cut(): void
}

async function openStream(method: 'GET' | 'POST', headers: Record<string, string>, body?: object): Promise<Stream> {
  const {
    statusCode,
    headers: replied,
    body: stream
  } = await request(`${url}/mcp`, {
    method,
    headers: { accept: 'text/event-stream', ...headers, ...(body && { 'content-type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) }),
    headersTimeout: 0,
    bodyTimeout: 0,
    reset: true
  })
  let text = ''
  let ended: 'cleanly' | 'broken' | undefined
  stream.on('data', (chunk: Buffer) => (text += chunk.toString()))
  stream.once('end', () => (ended = 'cleanly'))
  stream.once('error', () => (ended ??= 'broken'))
  onTestFinished(() => void stream.destroy())
  const values = (block: string, field: string) =>
    block.split('\n').flatMap(line => (line.startsWith(`${field}:`) ? [line.slice(field.length + 1).trim()] : []))
  const blocks = () => text.split('\n\n').slice(0, -1)
  const events = () =>
    blocks().flatMap((block): SentEvent[] => {
      const [[id], data] = [values(block, 'id'), values(block, 'data')]
      if (id === undefined && data.length === 0) return []
      return [{ ...(id !== undefined && { id }), data: data.join('\n') }]
    })
  const messages = () => events().flatMap(({ data }) => (data === '' ? [] : [JSON.parse(data)]))
  const ids = () => events().flatMap(({ id }) => (id === undefined ? [] : [id]))
  return {
    status: statusCode,
    headers: replied,
    text: () => text,
    events,
    messages,
    ids,
    last: () => ids().at(-1) ?? '',
    retry: () =>
      blocks()
        .flatMap(block => values(block, 'retry').map(Number))
        .at(-1),
    ended: () => ended,
    heard: async count => {
      await waitFor(() => messages().length >= count, `${count} messages in ${text}`, 5000)
      return messages()
    },
    over: async () => {
      await waitFor(() => ended !== undefined, `the end of a stream: ${text}`, 5000)
      return messages()
    },
    cut: () => stream.destroy()
  }
}

type Session = Awaited<ReturnType<typeof openSession>>
const open = (version = '2025-11-25', secret = secrets.ADMIN) => openSession(url, secret, { version })

/** The stream of a session, or with an event id whatever that leads to. */
const get = ({ headers }: Pick<Session, 'headers'>, lastEventId?: string, more?: Record<string, string>) =>
  openStream('GET', { ...headers, ...(lastEventId !== undefined && { 'last-event-id': lastEventId }), ...more })

const statusOfGet = async ({ headers }: Pick<Session, 'headers'>, lastEventId: string) =>
  (await send('GET', `${url}/mcp`, { ...headers, 'last-event-id': lastEventId })).status

let nonces = 0
const newNonce = () => `call-${++nonces}`

interface Asked {
  readonly id?: number
  readonly nonce?: string
  readonly name?: string
  readonly accept?: string
}

const callBody = ({ id = 1, nonce, name = 'up__work' }: Asked) => ({
  jsonrpc: '2.0',
  id,
  method: 'tools/call',
  params: { name, arguments: { nonce }, _meta: { progressToken: `token of ${nonce}` } }
})

/** A call that has begun, with one progress told, so that it is a stream. */
async function begin(session: Session, asked: Asked = {}) {
  const before = gateway.logged('call').length
  const nonce = asked.nonce ?? newNonce()
  const { accept = 'application/json, text/event-stream' } = asked
  const opening = openStream('POST', { ...session.headers, accept }, callBody({ ...asked, nonce }))
  const call = await up.call(nonce)
  call.progress(1)
  const stream = await opening
  await stream.heard(1)
  return { call: Object.assign(call, { before }), stream }
}

/** Waits until the call has been answered, as the audit trail has it. */
async function recorded({ before }: ScriptedCall & { before: number }, outcome = 'ok') {
  await waitFor(() => gateway.logged('call').length > before, 'the line in the log', 5000)
  expect(gateway.logged('call').at(-1)).toMatchObject({ tool: 'work', outcome })
}

/** What the messages of a call say: the progress values, then the text of the answer. */
const told = (messages: any[]) =>
  messages.map(({ params, result }) => params?.progress ?? result?.content[0].text ?? 'something else')

describe('an answer that streams', () => {
  test('has an id on every event, of its own and rising, after an empty one to come back to (§6.55)', async () => {
    const { call, stream } = await begin(await open())
    call.progress(2)
    call.answer('done')
    expect(told(await stream.over())).toEqual([1, 2, 'done'])
    const events = stream.events()
    expect(events).toHaveLength(4)
    expect(events[0]).toEqual({ id: expect.any(String), data: '' })
    expect(stream.ids()).toHaveLength(4)
    expect(new Set(stream.ids().map(id => id.split('.')[0])).size).toBe(1)
    expect(stream.ids().map(id => id.split('.')[1])).toEqual(['1', '2', '3', '4'])
  })

  test.each(['2025-06-18', '2025-03-26', '2024-11-05'])(
    'has ids but no empty event for clients of %s, which would choke on one',
    async version => {
      const session = await open(version)
      const { call, stream } = await begin(session)
      call.answer('done')
      expect(told(await stream.over())).toEqual([1, 'done'])
      expect(stream.events().map(({ id, data }) => [id !== undefined, data === ''])).toEqual([
        [true, false],
        [true, false]
      ])
      const listening = await get(session)
      await waitFor(() => listening.text() !== '', 'the first bytes of the stream')
      expect(listening.events()).toEqual([])
    }
  )

  test('has ids that no other stream has', async () => {
    const session = await open()
    const streams = await Promise.all([1, 2, 3].map(id => begin(session, { id })))
    for (const { call } of streams) call.answer('done')
    for (const { stream } of streams) await stream.over()
    const ids = streams.flatMap(({ stream }) => stream.ids())
    expect(new Set(ids).size).toBe(9)
  })

  test('has neither in 2026-07-28, where Last-Event-ID means nothing (§6.39)', async () => {
    const session = await open()
    const other = await begin(session)
    const nonce = newNonce()
    const { params } = callBody({ nonce })
    const asking = modern(
      url,
      secrets.ADMIN,
      'tools/call',
      { ...params, _meta: { ...params._meta } },
      { headers: { 'last-event-id': other.stream.last(), 'mcp-session-id': session.id } }
    )
    const call = await up.call(nonce)
    call.progress(1)
    call.answer('done')
    const { text, messages, headers } = await asking
    expect(told(messages)).toEqual([1, 'done'])
    expect(text).not.toMatch(/^(?:id|retry):/m)
    expect(headers['mcp-session-id']).toBeUndefined()
    const asModern = { ...session.headers, 'mcp-protocol-version': '2026-07-28' }
    expect((await send('GET', `${url}/mcp`, { ...asModern, 'last-event-id': other.stream.last() })).status).toBe(405)
    other.call.answer('done')
    expect(told(await other.stream.over())).toEqual([1, 'done'])
  })

  test('is nothing that a POST with Last-Event-ID could ask for in the 2025 era either', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    const reply = await session.rpc('ping', {}, { id: 9, headers: { 'last-event-id': stream.last() } })
    expect([reply.status, reply.messages]).toEqual([200, [{ jsonrpc: '2.0', id: 9, result: {} }]])
    call.answer('done')
    await stream.over()
  })
})

describe('a client that has lost the connection of its call', () => {
  test.each([0, 1, 2, 3])(
    'after %d of 3 messages gets the rest in order, then what is new, up to the answer (§6.55)',
    async seen => {
      const session = await open()
      const { call, stream } = await begin(session)
      call.progress(2)
      call.progress(3)
      await stream.heard(3)
      stream.cut()
      await pause(30)
      call.progress(4)
      const again = await get(session, stream.ids()[seen] ?? '')
      expect([again.status, again.headers['content-type']]).toEqual([200, 'text/event-stream'])
      expect(told(await again.heard(4 - seen))).toEqual([1, 2, 3, 4].slice(seen))
      expect(again.ended()).toBeUndefined()
      call.progress(5)
      call.answer('done')
      expect(told(await again.over())).toEqual([1, 2, 3, 4, 5, 'done'].slice(seen))
      expect(again.ended()).toBe('cleanly')
      expect(call.cancelled).toBe(false)
    }
  )

  test('again and again misses nothing and gets nothing twice', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    let [current, all] = [stream, [...stream.messages()]]
    for (let n = 2; n <= 20; n++) {
      if (n % 3 === 0) {
        current.cut()
        await pause(5)
      }
      call.progress(n)
      if (n % 3 !== 2) continue
      const before = current
      const next = await get(session, before.last())
      await next.heard(1)
      current = next
      await waitFor(() => told(current.messages()).at(-1) === n, `progress ${n}`)
      all = [...all, ...current.messages()]
      current.cut()
    }
    const rest = await get(session, current.last())
    call.answer('done')
    all = [...all, ...(await rest.over())]
    expect(told(all)).toEqual([...Array.from({ length: 20 }, (_, i) => i + 1), 'done'])
  })

  test('and comes back only after the answer gets it still', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    stream.cut()
    await pause(30)
    call.progress(2)
    call.answer('done')
    await recorded(call)
    await pause(30)
    for (let i = 0; i < 2; i++) {
      const again = await get(session, stream.last())
      expect(told(await again.over())).toEqual([2, 'done'])
      expect(again.ended()).toBe('cleanly')
    }
  })

  test('is not confused by another call that streams beside it (§6.55)', async () => {
    const session = await open()
    const [one, other] = [await begin(session, { id: 1 }), await begin(session, { id: 2 })]
    one.stream.cut()
    await pause(30)
    one.call.progress(11)
    other.call.progress(21)
    const again = await get(session, one.stream.last())
    other.call.progress(22)
    one.call.answer('one')
    other.call.answer('other')
    expect(told(await again.over())).toEqual([11, 'one'])
    expect(told(await other.stream.over())).toEqual([1, 21, 22, 'other'])
  })

  test('and comes back twice has one stream: the newest', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    const [first, second] = [await get(session, stream.last()), await get(session, stream.last())]
    await waitFor(() => stream.ended() === 'cleanly' && first.ended() === 'cleanly', 'the end of the older ones')
    call.progress(2)
    call.answer('done')
    expect(told(await second.over())).toEqual([2, 'done'])
    expect([stream, first].map(each => told(each.messages()))).toEqual([[1], []])
  })

  test('and has read everything is told so with 405, so that it does not come back again', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    call.answer('done')
    await stream.over()
    const { status, headers, json } = await send('GET', `${url}/mcp`, {
      ...session.headers,
      'last-event-id': stream.last()
    })
    expect([status, headers.allow, json.error.code]).toEqual([405, 'POST', -31405])
    const listening = await get(session)
    expect(listening.status).toBe(200)
  })

  test('and cancels it gets no answer, and 405 when it comes back', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    stream.cut()
    await pause(30)
    const again = await get(session, stream.last())
    expect((await session.notify('notifications/cancelled', { requestId: 1 })).status).toBe(202)
    expect(await again.over()).toEqual([])
    await waitFor(() => call.cancelled, 'the cancellation at the server')
    expect(await statusOfGet(session, stream.last())).toBe(405)
  })

  test('gets an answer of any size when it comes back', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    stream.cut()
    await pause(30)
    const big = 'x'.repeat(300 * 1024)
    call.answer(big)
    await recorded(call)
    const again = await get(session, stream.last())
    expect(again.status).toBe(200)
    expect(told(await again.over()).map(text => (text === big ? 'all of it' : text))).toEqual(['all of it'])
  })
})

describe('an event id that names nothing of this session (§6.55)', () => {
  /** What a GET with that id gets in a session that has no stream open: its own, afresh, and never a message of old. */
  async function expectFresh(id: string) {
    const session = await open()
    expect((await session.rpc('resources/subscribe', resource)).json.result).toEqual({})
    const stream = await get(session, id)
    expect(stream.status).toBe(200)
    offer.notify('notifications/resources/updated', { uri: resource.uri })
    const [message] = await stream.heard(1)
    expect(message.method).toBe('notifications/resources/updated')
    await pause(10)
    expect(stream.messages()).toHaveLength(1)
    stream.cut()
  }

  test('opens its stream afresh and replays nothing: another session or key', async () => {
    for (const owner of [await open(), await open('2025-11-25', secrets.DEVELOPER)]) {
      const { call, stream } = await begin(owner)
      const listening = await get(owner)
      await waitFor(() => listening.ids().length === 1, 'the first id of the stream')
      call.progress(2)
      await stream.heard(2)
      for (const id of [...stream.ids().slice(0, 2), listening.last()]) await expectFresh(id)
      expect([stream.ended(), listening.ended()]).toEqual([undefined, undefined])
      stream.cut()
      await pause(30)
      call.answer('done')
      await recorded(call)
      const [first = ''] = stream.ids()
      await expectFresh(first)
      // Its owner still has it all.
      expect(told(await (await get(owner, first)).over())).toEqual([1, 2, 'done'])
    }
  })

  test('opens its stream afresh and replays nothing: forged, huge, or no id at all', async () => {
    const { call, stream } = await begin(await open())
    const [nonce = ''] = stream.last().split('.')
    const forged = [
      '',
      '1',
      '-1',
      '0',
      'forged',
      nonce,
      `${nonce}.`,
      `${nonce}.-1`,
      `${nonce}.1e3`,
      `${nonce}.${'9'.repeat(16)}`,
      ` ${nonce} . 1`,
      `${nonce.slice(0, -1)}.1`,
      `${nonce.slice(0, -1)}${nonce.endsWith('A') ? 'B' : 'A'}.1`,
      `${'A'.repeat(12)}.1`,
      '__proto__.1',
      'x'.repeat(8000),
      `${nonce}.${'1'.repeat(8000)}`
    ]
    for (const id of forged) await expectFresh(id)
    expect(stream.ended()).toBeUndefined()
    call.answer('done')
    expect(told(await stream.over())).toEqual([1, 'done'])
  })

  test('that is malformed replaces the open stream of its own session like no id at all', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    const [nonce = ''] = stream.last().split('.')
    for (const id of ['forged', nonce, `${nonce}.`, `${nonce}.-1`]) {
      const before = await get(session)
      const after = await get(session, id)
      await before.over()
      expect([before.ended(), after.status, after.ended(), after.messages()]).toEqual(['cleanly', 200, undefined, []])
    }
    call.answer('done')
    expect(told(await stream.over())).toEqual([1, 'done'])
  })

  test('is of no use under a foreign session id: 404, and the stream goes on', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    for (const headers of [
      { ...session.headers, ...bearer(secrets.DEVELOPER) },
      { ...session.headers, 'mcp-session-id': 'forged' }
    ]) {
      expect(await statusOfGet({ headers }, stream.last())).toBe(404)
    }
    call.answer('done')
    expect(told(await stream.over())).toEqual([1, 'done'])
  })

  test('past its own end gets what is still to come, and nothing twice', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    const again = await get(session, `${stream.last().split('.')[0]}.999`)
    call.answer('done')
    expect(told(await again.over())).toEqual(['done'])
  })
})

describe('what is kept', () => {
  test('is the last 256 KiB of a stream: the oldest are gone, the rest is replayed in order', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    const [first = ''] = stream.ids()
    stream.cut()
    await pause(30)
    for (let n = 2; n <= 60; n++) call.progress(n, undefined, 'm'.repeat(10_000))
    call.answer('done')
    await recorded(call)
    const kept = told(await (await get(session, first)).over())
    const numbers = kept.slice(0, -1) as number[]
    expect(kept.at(-1)).toBe('done')
    expect(numbers).toEqual(Array.from({ length: numbers.length }, (_, i) => 61 - numbers.length + i))
    expect(numbers.length).toBeGreaterThan(20)
    expect(numbers.length).toBeLessThanOrEqual(26)
  })

  test('are 16 answers of a session: of 17 the oldest is forgotten', async () => {
    const session = await open()
    const firsts: string[] = []
    for (let id = 1; id <= 17; id++) {
      const { call, stream } = await begin(session, { id })
      call.answer(`done ${id}`)
      await stream.over()
      firsts.push(String(stream.ids()[0]))
    }
    for (const [at, first] of firsts.entries()) {
      if (at === 0) continue
      expect(told(await (await get(session, first)).over())).toEqual([1, `done ${at + 1}`])
    }
    const fresh = await get(session, String(firsts[0]))
    expect(fresh.status).toBe(200)
    await pause(50)
    expect([fresh.messages(), fresh.ended()]).toEqual([[], undefined])
  })

  test('is never taken from a call that still runs for one that is over', async () => {
    const session = await open()
    const { call, stream } = await begin(session, { id: 100 })
    stream.cut()
    for (let id = 1; id <= 16; id++) {
      const other = await begin(session, { id })
      other.call.answer('done')
      await other.stream.over()
    }
    call.answer('at last')
    expect(told(await (await get(session, stream.last())).over())).toEqual(['at last'])
  })

  test('is forgotten with the session', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    const listening = await get(session)
    await waitFor(() => listening.ids().length === 1, 'the first id of the stream')
    call.progress(2)
    await stream.heard(2)
    expect((await send('DELETE', `${url}/mcp`, session.headers)).status).toBe(200)
    await Promise.all([stream.over(), listening.over()])
    for (const id of [...stream.ids(), ...listening.ids()]) expect(await statusOfGet(session, id)).toBe(404)
    const another = await open()
    const fresh = await get(another, String(stream.ids()[0]))
    await pause(50)
    expect([fresh.status, fresh.messages()]).toEqual([200, []])
  })

  const json = 'x'.repeat(1000)

  test('of all streams together stays within its budget: the oldest are emptied first', () => {
    const replays = createReplays(10_000)
    const streams = Array.from({ length: 4 }, () => replays.create())
    for (const stream of streams) for (let i = 0; i < 4; i++) stream.push(json)
    expect(streams.map(stream => stream.after(undefined).length)).toEqual([0, 0, 4, 4])
  })

  test('of a stream that was dropped is nothing, also of what comes later', () => {
    const replays = createReplays(10_000)
    const [dropped, other] = [replays.create(), replays.create()]
    const { id } = dropped.push(json)
    dropped.drop()
    dropped.drop()
    expect(dropped.push(json).id).not.toBe(id)
    expect(dropped.after(undefined)).toEqual([])
    for (let i = 0; i < 9; i++) other.push(json)
    expect(other.after(undefined)).toHaveLength(9)
  })

  test('always holds the newest event, whatever its size', () => {
    const replays = createReplays(32 * 1024 * 1024)
    const stream = replays.create()
    const { id } = stream.push(json)
    stream.push('y'.repeat(300 * 1024))
    expect(stream.after(id)).toHaveLength(1)
    stream.push(json)
    expect(stream.after(id)).toHaveLength(1)
  })
})

describe('the stream of a session', () => {
  const updated = (n: number) => offer.notify('notifications/resources/updated', { uri: `${resource.uri}/${n}` })
  const uris = (messages: any[]) =>
    messages.filter(({ method }) => method.endsWith('/updated')).map(({ params }) => params.uri)
  const changes = (messages: any[]) =>
    messages.map(({ method }) => method).filter(method => /list_changed/.test(method))

  /** Waits until the gateway has noticed that its clients are gone. */
  const nobodyListens = () =>
    waitFor(async () => /^switchboard_streams 0$/m.test(await metrics()), 'the end of all streams', 3000)
  const metrics = async () => {
    const { body } = await request(`${url}/metrics`, { headers: bearer(secrets.ADMIN) })
    return body.text()
  }

  type Kind = 'tools' | 'prompts' | 'resources'
  let items = 0
  /** Lists are fetched again every 2 s at most, each kind by itself: tests that take turns need not wait. */
  async function change(kind: Kind) {
    const name = `item_${++items}`
    offer.tools = [{ name, inputSchema: { type: 'object', properties: {} } }]
    offer.prompts = [{ name }]
    offer.resources = [resource, { uri: `x://${name}`, name }]
    offer.notify(`notifications/${kind}/list_changed`)
    const listed = async () => JSON.stringify((await modern(url, secrets.ADMIN, `${kind}/list`)).json).includes(name)
    await waitFor(listed, 'the new list')
  }
  const changed = (kind: Kind) => [`notifications/${kind}/list_changed`]

  async function subscribed(kind: Kind, version?: string) {
    const session = await open(version)
    await session.rpc(`${kind}/list`, {})
    expect((await session.rpc('resources/subscribe', resource)).json.result).toEqual({})
    return session
  }

  async function listening(kind: Kind = 'tools', version?: string) {
    const session = await subscribed(kind, version)
    const stream = await get(session)
    updated(0)
    await stream.heard(1)
    return { session, stream }
  }

  test.each(['2025-11-25', '2025-06-18'])('has ids on every event, also in %s', async version => {
    const { stream } = await listening('tools', version)
    updated(1)
    await stream.heard(2)
    expect(stream.events().every(({ id }) => id !== undefined)).toBe(true)
    expect(stream.events().filter(({ data }) => data === '')).toHaveLength(version === '2025-11-25' ? 1 : 0)
    expect(new Set(stream.ids()).size).toBe(stream.ids().length)
  })

  test.each([
    ['with Last-Event-ID', true, 'tools'],
    ['without', false, 'prompts']
  ] as const)(
    'brings what happened while nobody read it, once and in order, when asked for again %s',
    async (_, naming, kind) => {
      const { session, stream } = await listening(kind)
      stream.cut()
      await nobodyListens()
      updated(1)
      updated(2)
      await change(kind)
      const again = await get(session, naming ? stream.last() : undefined)
      await again.heard(3)
      updated(3)
      await again.heard(4)
      await pause(30)
      expect(uris(again.messages())).toEqual([1, 2, 3].map(n => `${resource.uri}/${n}`))
      expect(changes(again.messages())).toEqual(changed(kind))
      expect(again.ids()).not.toContain(stream.last())
    }
  )

  test('brings what happened before it was first opened', async () => {
    const session = await subscribed('resources')
    updated(1)
    await change('resources')
    const stream = await get(session)
    await stream.heard(2)
    await pause(30)
    expect(uris(stream.messages())).toEqual([`${resource.uri}/1`])
    expect(changes(stream.messages())).toEqual(changed('resources'))
  })

  test('tells of a change also a client that had listed in a batch', async () => {
    const session = await open('2025-03-26')
    const listed = await post(`${url}/mcp`, [{ jsonrpc: '2.0', id: 1, method: 'tools/list' }], session.headers)
    expect(listed.json[0].result.tools.length).toBeGreaterThan(0)
    await change('tools')
    expect(changes(await (await get(session)).heard(1))).toEqual(changed('tools'))
  })

  test('brings again what came after the event that was named, though it had been sent', async () => {
    const { session, stream } = await listening()
    const at = stream.last()
    updated(1)
    updated(2)
    await stream.heard(3)
    stream.cut()
    const again = await get(session, at)
    expect(uris(await again.heard(2))).toEqual([1, 2].map(n => `${resource.uri}/${n}`))
  })

  test('is replaced by a second one, which alone brings what is new', async () => {
    const { session, stream } = await listening('prompts')
    const second = await get(session)
    expect(uris(await stream.over())).toEqual([`${resource.uri}/0`])
    expect(stream.ended()).toBe('cleanly')
    updated(1)
    await change('prompts')
    await second.heard(2)
    await pause(30)
    expect(uris(second.messages())).toEqual([`${resource.uri}/1`])
    expect(changes(second.messages())).toHaveLength(1)
    const third = await get(session, second.last())
    await second.over()
    updated(2)
    expect(uris(await third.heard(1)).slice(-1)).toEqual([`${resource.uri}/2`])
  })

  test('does not bring what belongs to a call, nor the other way round', async () => {
    const { session, stream } = await listening()
    const running = await begin(session)
    running.stream.cut()
    await pause(30)
    running.call.progress(2)
    updated(1)
    await stream.heard(2)
    running.call.answer('done')
    const again = await get(session, running.stream.last())
    expect(told(await again.over())).toEqual([2, 'done'])
    expect(uris(stream.messages())).toEqual([0, 1].map(n => `${resource.uri}/${n}`))
    expect(stream.messages()).toHaveLength(2)
    expect(stream.ended()).toBeUndefined()
  })
})

/** Stands between a client and the gateway, and cuts the lines between them. */
async function startProxy(target: () => string) {
  const pairs = new Set<readonly [Socket, Socket]>()
  let sent = ''
  const server = createServer(client => {
    const gateway = connect(Number(new URL(target()).port), '127.0.0.1')
    const pair = [client, gateway] as const
    pairs.add(pair)
    client.on('data', chunk => (sent += chunk.toString('latin1')))
    client.pipe(gateway).pipe(client)
    for (const socket of pair) {
      socket.on('error', () => {})
      socket.on('close', () => {
        pairs.delete(pair)
        for (const each of pair) each.destroy()
      })
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const cut = () => {
    for (const pair of pairs) for (const socket of pair) socket.destroy()
  }
  onTestFinished(() => {
    cut()
    server.close()
  })
  return {
    url: new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`),
    cut,
    /** How many requests of that method have passed. */
    count: (method: string) => sent.split(`${method} /mcp HTTP/1.1`).length - 1
  }
}

describe('a client of the v1 SDK', () => {
  async function connectClient(proxy: { url: URL }) {
    const client = new Client({ name: 'test', version: '1' })
    const transport = new StreamableHTTPClientTransport(proxy.url, {
      requestInit: { headers: bearer(secrets.ADMIN) },
      reconnectionOptions: {
        initialReconnectionDelay: 50,
        maxReconnectionDelay: 200,
        reconnectionDelayGrowFactor: 1.2,
        maxRetries: 10
      }
    })
    onTestFinished(() => client.close())
    await client.connect(transport)
    return client
  }

  function startCall(client: Client, nonce: string, name = 'up__work') {
    const heard: number[] = []
    const answer = client.callTool({ name, arguments: { nonce } }, undefined, {
      onprogress: ({ progress }) => void heard.push(progress),
      timeout: 10_000
    })
    answer.catch(() => {})
    return { heard, answer }
  }

  test('whose connection is cut again and again during a call resumes by itself, and gets everything once', async () => {
    const proxy = await startProxy(() => url)
    const client = await connectClient(proxy)
    const nonce = newNonce()
    const { heard, answer } = startCall(client, nonce)
    const call = await up.call(nonce)
    call.progress(1)
    await waitFor(() => heard.length === 1, 'the first progress')
    for (const n of [2, 4, 6]) {
      proxy.cut()
      call.progress(n)
      await waitFor(() => heard.at(-1) === n, `progress ${n}`)
      call.progress(n + 1)
      await waitFor(() => heard.at(-1) === n + 1, `progress ${n + 1}`)
    }
    call.answer('done')
    expect((await answer).content).toEqual([{ type: 'text', text: 'done' }])
    expect(heard).toEqual([1, 2, 3, 4, 5, 6, 7])
    const quiet = proxy.count('GET')
    await pause(400)
    expect(proxy.count('GET')).toBe(quiet)
  })

  test('gets an answer that came while it was away', async () => {
    const proxy = await startProxy(() => url)
    const client = await connectClient(proxy)
    const nonce = newNonce()
    const { heard, answer } = startCall(client, nonce)
    const call = await up.call(nonce)
    call.progress(1)
    await waitFor(() => heard.length === 1, 'the first progress')
    proxy.cut()
    call.answer('done')
    expect((await answer).content).toEqual([{ type: 'text', text: 'done' }])
  })

  test('is answered with an error over a stream, and does not come back for more', async () => {
    const proxy = await startProxy(() => url)
    const client = await connectClient(proxy)
    const nonce = newNonce()
    const { answer } = startCall(client, nonce)
    const call = await up.call(nonce)
    call.progress(1)
    call.send({ id: call.message.id, error: { code: -32011, message: 'on purpose' } })
    await expect(answer).rejects.toThrow('on purpose')
    await pause(300)
    const quiet = proxy.count('GET')
    await pause(400)
    expect(proxy.count('GET')).toBe(quiet)
  })

  test('whose gateway was restarted during a call soon has one stream again, and peace', async () => {
    const yaml = (port: number) => `
listen: { port: ${port} }
servers: { up: { url: ${up.url}, transport: http } }
keys: { admin: { secret: "\${ADMIN}", allow: "*" } }
session_secret: "a secret for sessions that survive a restart"
`
    let other = await startTestGateway(yaml(0))
    onTestFinished(() => other.close())
    await other.until('up')
    const proxy = await startProxy(() => other.url)
    const client = await connectClient(proxy)
    const nonce = newNonce()
    const { heard, answer } = startCall(client, nonce)
    const call = await up.call(nonce)
    call.progress(1)
    await waitFor(() => heard.length === 1, 'the first progress')
    await waitFor(() => proxy.count('GET') === 1, 'the stream of the client')
    proxy.cut()
    call.answer('nobody hears this')
    await other.close()
    other = await startTestGateway(yaml(0))
    await other.until('up')
    await waitFor(() => proxy.count('GET') >= 3, 'the client to come back')
    await pause(500)
    const quiet = proxy.count('GET')
    await pause(600)
    expect(proxy.count('GET')).toBe(quiet)
    await client.ping()
    void answer
  })

  test('follows a server that lets its callers wait (SEP-1699)', async () => {
    const proxy = await startProxy(() => url)
    const client = await connectClient(proxy)
    const nonce = newNonce()
    const { heard, answer } = startCall(client, nonce)
    const call = await up.call(nonce)
    up.resume = (_, __, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' })
      const stream = call.on(res)
      stream.progress(2, 'b')
      stream.answer('done', 'c')
      stream.end()
    }
    call.progress(1, 'a')
    call.retry(100)
    call.end()
    expect((await answer).content).toEqual([{ type: 'text', text: 'done' }])
    expect(heard).toEqual([1, 2])
    expect(up.resumed().slice(-1)).toEqual(['a'])
  })
})

describe('a server that closes its stream and is asked again (SEP-1699)', () => {
  /** Answers every resumption with what `write` sends, on an open stream. */
  function resumeWith(call: ScriptedCall, write: (stream: ReturnType<ScriptedCall['on']>, from: string) => void) {
    up.resume = (lastEventId, _, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' })
      res.flushHeaders()
      write(call.on(res), lastEventId)
    }
  }

  const polled = (call: ScriptedCall) =>
    resumeWith(call, stream => {
      stream.progress(2)
      stream.answer('done')
      stream.end()
    })

  function letWait(call: ScriptedCall, id: string, ms = 200) {
    call.prime(id)
    call.retry(ms)
    call.end()
  }

  test('has the stream of a client of 2025-11-25 closed and resumed as well', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    polled(call)
    letWait(call, 'first')
    expect(told(await stream.over())).toEqual([1])
    expect([stream.ended(), stream.retry()]).toEqual(['cleanly', 200])
    await pause(200)
    const again = await get(session, stream.last())
    expect(told(await again.over())).toEqual([2, 'done'])
    expect(await statusOfGet(session, again.last())).toBe(405)
    expect(gateway.logged('call').at(-1)).toMatchObject({ outcome: 'ok', server: 'up' })
  })

  test('is asked in its session, in its version, with our credentials, for the last event it sent', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    polled(call)
    call.progress(2, 'middle')
    letWait(call, 'newest', 50)
    await stream.over()
    expect(told(await (await get(session, stream.last())).over()).at(-1)).toBe('done')
    const { headers } = up.requests.filter(({ verb }) => verb === 'GET').at(-1)!
    expect(headers).toMatchObject({
      accept: 'text/event-stream',
      'last-event-id': 'newest',
      'mcp-session-id': call.headers['mcp-session-id'],
      'mcp-protocol-version': '2025-11-25',
      'x-credential': 'ours'
    })
    expect(headers['content-type']).toBeUndefined()
  })

  test('has nothing happen to it that its client could see at once: the one of 2025-11-25 may come back early', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    polled(call)
    letWait(call, 'first', 300)
    await stream.over()
    const again = await get(session, stream.last())
    expect(again.status).toBe(200)
    expect(told(await again.over())).toEqual([2, 'done'])
  })

  test('is waited for in full when its client never comes back', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    polled(call)
    letWait(call, 'first', 50)
    await stream.over()
    await recorded(call)
    expect(told(await (await get(session, stream.ids()[0])).over())).toEqual([1, 2, 'done'])
  })

  test.each(['2025-06-18', '2025-03-26'])('leaves the stream of a client of %s open', async version => {
    const { call, stream } = await begin(await open(version))
    polled(call)
    letWait(call, 'first')
    expect(told(await stream.over())).toEqual([1, 2, 'done'])
    expect(stream.retry()).toBeUndefined()
  })

  test('is nothing a client of 2026-07-28 hears of', async () => {
    const nonce = newNonce()
    const { params } = callBody({ nonce })
    const asking = modern(url, secrets.ADMIN, 'tools/call', { ...params, _meta: { ...envelope, ...params._meta } })
    const call = await up.call(nonce)
    polled(call)
    call.progress(1)
    letWait(call, 'first')
    const { messages, text } = await asking
    expect(told(messages)).toEqual([1, 2, 'done'])
    expect(text).not.toMatch(/^(?:id|retry):/m)
  })

  test('is nothing a client hears of that takes JSON alone', async () => {
    const session = await open()
    const nonce = newNonce()
    const asking = post(`${url}/mcp`, callBody({ nonce }), { ...session.headers, accept: 'application/json' })
    const call = await up.call(nonce)
    polled(call)
    letWait(call, 'first')
    const { headers, messages } = await asking
    expect(headers['content-type']).toBe('application/json')
    expect(told(messages)).toEqual(['done'])
  })

  test('may do so before its client has a stream: one of 2025-11-25 then gets one, closed', async () => {
    const session = await open()
    const nonce = newNonce()
    const opening = openStream('POST', { ...session.headers, accept: 'application/json, text/event-stream' }, callBody({ nonce })) // prettier-ignore
    const call = await up.call(nonce)
    polled(call)
    letWait(call, 'first', 100)
    const stream = await opening
    expect(await stream.over()).toEqual([])
    expect([stream.events(), stream.retry()]).toEqual([[{ id: expect.any(String), data: '' }], 100])
    expect(told(await (await get(session, stream.last())).over())).toEqual([2, 'done'])
  })

  test('is asked again as often as it has something new to say', async () => {
    const { call, stream } = await begin(await open('2025-06-18'))
    resumeWith(call, (again, from) => {
      const n = Number(from) + 1
      if (n === 5) again.answer('done')
      else again.progress(n, String(n))
      again.end()
    })
    letWait(call, '1', 10)
    expect(told(await stream.over())).toEqual([1, 2, 3, 4, 'done'])
  })

  test('is asked again when its connection broke, also that of the resumed stream', async () => {
    const { call, stream } = await begin(await open('2025-06-18'))
    resumeWith(call, (again, from) => {
      if (from === '2') again.answer('done')
      else again.progress(2, '2')
      setTimeout(() => again.cut(), 30)
    })
    call.retry(10)
    call.prime('1')
    await pause(30)
    call.cut()
    expect(told(await stream.over())).toEqual([1, 2, 'done'])
  })

  /** How a call ends that is made to wait by a server which then does as `resume` says. */
  async function failure(resume: ScriptedHttp['resume'], ms = 10) {
    const { call, stream } = await begin(await open('2025-06-18'))
    const before = up.resumed().length
    up.resume = resume
    const begun = performance.now()
    letWait(call, 'first', ms)
    const answer = (await stream.over()).at(-1)
    return {
      result: answer.result,
      text: answer.result.content[0].text as string,
      tries: up.resumed().length - before,
      ms: performance.now() - begun,
      call
    }
  }

  test.each([404, 405, 500])('and then answers HTTP %d fails the call, and says so', async status => {
    const { result, text, ms } = await failure((_, __, res) => res.writeHead(status).end())
    expect(result.isError).toBe(true)
    expect(text).toMatch(/^Server "up" could not answer tool "work"/)
    expect(text).toContain(String(status))
    expect(text).toContain('may or may not have run')
    expect(ms).toBeLessThan(5000)
    expect(gateway.logged('call').at(-1)).toMatchObject({ outcome: 'failed', code: -31502 })
  })

  test('and closes again and again without anything new is given up after three attempts', async () => {
    const { result, text, tries } = await failure((_, __, res) =>
      res.writeHead(200, { 'content-type': 'text/event-stream' }).end()
    )
    expect([result.isError, tries]).toEqual([true, 3])
    expect(text).toContain('ended without the answer')
  })

  test('and is gone fails the call, and says why', async () => {
    const gone = await startScripted()
    onTestFinished(() => gone.close())
    const other = await startTestGateway(`
servers: { up: { url: ${gone.url}, transport: http } }
keys: { admin: { secret: "\${ADMIN}", allow: "*" } }
`)
    onTestFinished(() => other.close())
    await other.until('up')
    const session = await openSession(other.url, secrets.ADMIN, { version: '2025-06-18' })
    const nonce = newNonce()
    const asking = session.rpc('tools/call', { name: 'up__work', arguments: { nonce } })
    const call = await gone.call(nonce)
    letWait(call, 'first', 100)
    await pause(30)
    await gone.close()
    const { json } = await asking
    expect(json.result.isError).toBe(true)
    expect(json.result.content[0].text).toMatch(/refused|broke/)
    expect(json.result._meta['switchboard/error']).toMatchObject({ dispatched: true })
  })

  test('is told of a cancellation while it lets us wait, and is not asked again', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    polled(call)
    const before = up.resumed().length
    letWait(call, 'first', 300)
    await stream.over()
    const again = await get(session, stream.last())
    await session.notify('notifications/cancelled', { requestId: 1 })
    expect(await again.over()).toEqual([])
    await waitFor(() => call.cancelled, 'the cancellation at the server', 2000)
    await pause(400)
    expect(up.resumed().length).toBe(before)
    expect(gateway.logged('call').at(-1)).toMatchObject({ outcome: 'cancelled' })
  })

  test('is told of a cancellation on the resumed stream', async () => {
    const session = await open()
    const { call, stream } = await begin(session)
    let closed = false
    up.resume = (_, __, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
      res.on('close', () => (closed = true))
    }
    const before = up.resumed().length
    letWait(call, 'first', 10)
    await stream.over()
    await waitFor(() => up.resumed().length > before, 'the resumption')
    await session.notify('notifications/cancelled', { requestId: 1 })
    await waitFor(() => call.cancelled && closed, 'the cancellation at the server', 2000)
  })

  test('does not win time by it: the limits of the call hold', async () => {
    const session = await open('2025-06-18')
    const { call, stream } = await begin(session, { name: 'brief__work' })
    resumeWith(call, (again, from) => {
      again.progress(Number(from) + 1, String(Number(from) + 1))
      again.end()
    })
    const begun = performance.now()
    letWait(call, '1', 100)
    const answer = (await stream.over()).at(-1)
    expect(answer.result.isError).toBe(true)
    expect(answer.result.content[0].text).toMatch(/did not finish within 1.5 s|no sign of life for 1 s/)
    expect(performance.now() - begun).toBeLessThan(2500)
    await waitFor(() => call.cancelled, 'the cancellation at the server', 2000)
  })

  test('and lets us wait longer than it may be silent is given up in time', async () => {
    const session = await open('2025-06-18')
    const { call, stream } = await begin(session, { name: 'brief__work' })
    letWait(call, '1', 20_000)
    const answer = (await stream.over()).at(-1)
    expect(answer.result.content[0].text).toContain('no sign of life for 1 s')
    await waitFor(() => call.cancelled, 'the cancellation at the server', 2000)
  })
})

test('a server that keeps no sessions can let its callers wait, too', async () => {
  const stateless = await startScripted({ sessions: false })
  onTestFinished(() => stateless.close())
  const other = await startTestGateway(`
servers: { up: { url: ${stateless.url}, transport: http } }
keys: { admin: { secret: "\${ADMIN}", allow: "*" } }
`)
  onTestFinished(() => other.close())
  await other.until('up')
  const session = await openSession(other.url, secrets.ADMIN, { version: '2025-06-18' })
  const nonce = newNonce()
  const asking = session.rpc('tools/call', { name: 'up__work', arguments: { nonce } })
  const call = await stateless.call(nonce)
  stateless.resume = (_, __, res) => {
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    call.on(res).answer('done')
    res.end()
  }
  call.prime('first')
  call.retry(10)
  call.end()
  expect(told((await asking).messages)).toEqual(['done'])
})
