/**
 * The Tasks extension of 2026-07-28: a call that becomes a task, asked after, answered, cancelled and listened for by the
 * client that made it, and nothing to anybody else.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { start as startRawOffer } from './fixtures/raw-offer.mjs'
import type { RawOffer, RawOfferOptions } from './fixtures/types.d.mts'
import { bearer, envelope, modern, openSession, post, type Reply } from './helpers/http.js'
import { openStream, type Stream } from './helpers/matrix.js'
import { secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

type Json = Record<string, any>

const extension = 'io.modelcontextprotocol/tasks'
const capabilitiesKey = 'io.modelcontextprotocol/clientCapabilities'
const subscriptionId = 'io.modelcontextprotocol/subscriptionId'
const acknowledgement = 'notifications/subscriptions/acknowledged'
const speaksTasks = { extensions: { [extension]: {} } }
const taskMethods = ['tasks/get', 'tasks/update', 'tasks/cancel'] as const
const tools = ['build', 'rude', 'plain'].map(name => ({ name, inputSchema: { type: 'object' } }))
const everyone = { admin: '*', developer: { up: ['build'] }, other: '*' }

interface TaskServer extends RawOffer {
  /** What it knows of its tasks, by its own ids. */
  readonly tasks: Map<string, Json>
  /** Ids for its next tasks, instead of `<name>/task <n>`. */
  readonly ids: string[]
}

let dir: string
let gateway: TestGateway
const open: { close(): unknown }[] = []

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'switchboard-tasks-'))
})
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
  rmSync(dir, { recursive: true, force: true })
})

/** Ends it after the test, unless the test does. */
function keep<T extends { close(): unknown }>(each: T): T {
  open.push(each)
  return each
}

/**
 * A server whose tool `build` becomes a task for clients that know tasks, whose tool `rude` does so for everybody, and
 * which checks no headers: what it was sent can be read in `requests`.
 */
async function startTasks(name: string, offered: RawOfferOptions = {}): Promise<TaskServer> {
  const tasks = new Map<string, Json>()
  const ids: string[] = []
  const known = (taskId: string, answer: (task: Json) => object) => {
    const task = tasks.get(taskId)
    return task ? { result: answer(task) } : { error: { code: -32602, message: `${name} has no such task` } }
  }
  const answers: RawOffer['answers'] = {
    'tools/call'({ name: tool, _meta }) {
      const isTask = tool === 'rude' || (tool === 'build' && _meta[capabilitiesKey]?.extensions?.[extension])
      if (!isTask) return undefined
      const taskId = ids.shift() ?? `${name}/task ${tasks.size + 1}`
      const at = '2026-07-28T00:00:00Z'
      const task = { taskId, status: 'working', createdAt: at, lastUpdatedAt: at, ttlMs: 60_000, pollIntervalMs: 500 }
      tasks.set(taskId, task)
      const more = { 'x-vendor': { depth: ['task'] }, _meta: { 'vendor.example/task': { deep: [null] } } }
      return { result: { resultType: 'task', ...task, ...more } }
    },
    'tasks/get': ({ taskId }) => known(taskId, task => task),
    'tasks/update': ({ taskId }) => known(taskId, () => ({ 'x-vendor': 'updated' })),
    'tasks/cancel': ({ taskId }) => known(taskId, () => ({ 'x-vendor': 'cancelled' }))
  }
  const capabilities = { tools: { listChanged: true }, extensions: { [extension]: {} } }
  const server = await startRawOffer({ name, era: 'modern', tools, capabilities, answers, ...offered })
  return keep(Object.assign(server, { tasks, ids }))
}

/** A gateway over the state directory of this test. */
async function startOver(servers: Record<string, RawOffer>, allow: object = everyone): Promise<void> {
  const entries = Object.entries(servers).map(([id, { url }]) => [id, { url, transport: 'http' }])
  const keys = Object.entries(allow).map(([id, allow]) => [id, { secret: `\${${id.toUpperCase()}}`, allow }])
  const [serversText, keysText] = [entries, keys].map(each => JSON.stringify(Object.fromEntries(each)))
  gateway = keep(await startTestGateway(`servers: ${serversText}\nkeys: ${keysText}\n`, { stateDir: dir }))
  for (const id of Object.keys(servers)) await gateway.until(id)
}

interface Asking {
  readonly secret?: string
  readonly path?: string
  readonly capabilities?: object
  readonly headers?: Record<string, string>
}

/** A request of 2026-07-28 of a client that knows tasks, unless its capabilities say otherwise. */
function ask(method: string, params: Json = {}, asking: Asking = {}): Promise<Reply> {
  const { secret = secrets.ADMIN, path = '/mcp', capabilities = speaksTasks, headers } = asking
  const { taskId, _meta } = params
  return modern(
    gateway.url,
    secret,
    method,
    { ...params, _meta: { ..._meta, [capabilitiesKey]: capabilities } },
    { path, headers: { ...(typeof taskId === 'string' && { 'mcp-name': taskId }), ...headers } }
  )
}

const call = (name: string, asking?: Asking) => ask('tools/call', { name, arguments: {} }, asking)

/** Calls a tool that becomes a task. @returns the id this client gets of it. */
async function begin(name = 'up__build', asking?: Asking): Promise<string> {
  const { json } = await call(name, asking)
  expect(json.result).toMatchObject({ resultType: 'task', taskId: expect.any(String) })
  return json.result.taskId
}

async function listen(notifications: object, asking: Asking = {}): Promise<Stream> {
  const { secret = secrets.ADMIN, path = '/mcp', capabilities = speaksTasks } = asking
  const params = { notifications, _meta: { ...envelope, [capabilitiesKey]: capabilities } }
  return keep(
    await openStream(
      gateway.url + path,
      { ...bearer(secret), 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'subscriptions/listen' },
      { jsonrpc: '2.0', id: 'sub-1', method: 'subscriptions/listen', params }
    )
  )
}

/** What is honoured of a filter. */
async function honoured(stream: Stream): Promise<Json> {
  const [first] = await stream.until(1)
  expect(first).toMatchObject({ method: acknowledgement, params: { _meta: { [subscriptionId]: 'sub-1' } } })
  return first.params.notifications
}

/** The bytes of an answer as they crossed the wire, but for the clock. */
function asBytes({ status, headers, text }: Reply): string {
  const { date: _date, ...others } = headers
  return JSON.stringify({ status, headers: others, text })
}

/** How often a server was asked something about tasks. */
const asked = ({ requests }: RawOffer) => requests.filter(({ message }) => /^tasks\//.test(message.method)).length
const lastOf = ({ requests }: RawOffer, method: string) =>
  requests.filter(({ message }) => message.method === method).at(-1)
const extensionsIn = (params: Json | undefined) => params?._meta?.[capabilitiesKey]?.extensions
/** The tasks a server is asked to tell about, on all its streams. */
const watched = ({ streams }: RawOffer) => [...streams].map(({ filter }) => filter?.taskIds as string[] | undefined)
const tick = () => new Promise(resolve => setTimeout(resolve, 150))

const unknownTask = { code: -32602, message: 'Unknown task' }

describe('the tasks extension', () => {
  const declared = async (asking: Asking = {}) => (await ask('server/discover', {}, asking)).json.result.capabilities
  const without = { tools: { listChanged: true } }

  test('is declared to clients of 2026 that see a server which declares it, and to no others (§6.9)', async () => {
    const plain = keep(await startRawOffer({ name: 'plain', era: 'modern', tools, capabilities: without }))
    await startOver({ up: await startTasks('up'), plain }, { admin: '*', developer: { plain: '*' } })
    for (const path of ['/mcp', '/mcp/up', '/mcp?servers=up', '/mcp?servers=plain,up'])
      expect([path, (await declared({ path })).extensions]).toEqual([path, { [extension]: {} }])
    for (const path of ['/mcp/plain', '/mcp?servers=plain']) expect(await declared({ path })).toEqual(without)
    expect(await declared({ secret: secrets.DEVELOPER })).toEqual(without)
    expect((await openSession(gateway.url, secrets.ADMIN)).opened.json.result.capabilities).toEqual(without)
  })

  test('of a server of 2025 means other tasks: it is declared to nobody (§6.9)', async () => {
    const capabilities = { tools: { listChanged: true }, extensions: { [extension]: {} } }
    await startOver({ up: keep(await startRawOffer({ name: 'up', era: 'legacy', tools, capabilities })) })
    expect(await declared()).not.toHaveProperty('extensions')
    expect((await openSession(gateway.url, secrets.ADMIN)).opened.json.result.capabilities).toEqual(without)
  })

  test('reaches servers that declared it, and no others (§6.9)', async () => {
    const up = await startTasks('up')
    const plain = keep(await startRawOffer({ name: 'plain', era: 'modern', tools, capabilities: without }))
    const old = keep(await startRawOffer({ name: 'old', tools, capabilities: without }))
    await startOver({ up, plain, old })
    const stream = await listen({ toolsListChanged: true, taskIds: [await begin()] })
    expect(await honoured(stream)).toMatchObject({ taskIds: [expect.any(String)] })
    for (const name of ['up__plain', 'plain__build', 'old__build'])
      expect((await call(name)).json.result).toMatchObject({ resultType: 'complete' })
    for (const method of ['tools/call', 'subscriptions/listen'])
      expect(extensionsIn(lastOf(up, method)?.message.params)).toEqual({ [extension]: {} })
    expect(plain.requests.length).toBeGreaterThan(2)
    for (const { body, message } of [...plain.requests, ...old.requests])
      expect(body + JSON.stringify(message)).not.toContain(extension)
  })

  test('of a client of 2025 that declares it all the same does not reach a server, and gives it no task (§6.9)', async () => {
    const up = await startTasks('up')
    await startOver({ up })
    const opening = {
      protocolVersion: '2025-11-25',
      capabilities: speaksTasks,
      clientInfo: { name: 'i', version: '1' }
    }
    const opened = await post(
      `${gateway.url}/mcp`,
      { jsonrpc: '2.0', id: 0, method: 'initialize', params: opening },
      bearer(secrets.ADMIN)
    )
    const headers = { ...bearer(secrets.ADMIN), 'mcp-session-id': String(opened.headers['mcp-session-id']) }
    const callHere = async (name: string) => {
      const params = { name, arguments: {} }
      const message = { jsonrpc: '2.0', id: 1, method: 'tools/call', params }
      return (await post(`${gateway.url}/mcp`, message, { ...headers, 'mcp-protocol-version': '2025-11-25' })).json
    }
    expect((await callHere('up__build')).result).toEqual({ content: [{ type: 'text', text: 'up build' }] })
    expect(extensionsIn(up.asked('tools/call').at(-1))).toBeUndefined()
    const { result } = await callHere('up__rude')
    expect(result).toMatchObject({ isError: true })
    expect(result).not.toHaveProperty('taskId')
  })
})

describe('a call that became a task', () => {
  let up: TaskServer
  let beta: TaskServer
  beforeEach(async () => {
    up = await startTasks('up')
    beta = await startTasks('beta')
    await startOver({ up, beta })
  })

  test('is told whole, under an id that says nothing of the one its server gave (§6.1, §6.9)', async () => {
    const { status, json } = await call('up__build')
    expect([status, json.result]).toEqual([
      200,
      {
        resultType: 'task',
        taskId: expect.stringMatching(/^[\w.-]+$/),
        status: 'working',
        createdAt: '2026-07-28T00:00:00Z',
        lastUpdatedAt: '2026-07-28T00:00:00Z',
        ttlMs: 60_000,
        pollIntervalMs: 500,
        'x-vendor': { depth: ['task'] },
        _meta: { 'vendor.example/task': { deep: [null] } }
      }
    ])
    expect(json.result.taskId).not.toContain('task 1')
    expect(Buffer.from(json.result.taskId.split('.').at(-1), 'base64url').toString('latin1')).not.toContain('task 1')
  })

  test.each(taskMethods)('is reached by %s where it runs, under the id it has there (§6.1, §6.35)', async method => {
    for (const [server, name] of [
      [beta, 'beta'],
      [up, 'up']
    ] as const) {
      const taskId = await begin(`${name}__build`)
      const before = [asked(up), asked(beta)]
      const given = { inputResponses: { color: { action: 'accept' } }, 'x-vendor': { deep: [1, null] } }
      const { status, json } = await ask(method, { taskId, ...given, _meta: { 'vendor.example/m': 1 } })
      expect([status, json.result?.resultType]).toEqual([200, 'complete'])
      const { message, headers } = lastOf(server, method) as NonNullable<ReturnType<typeof lastOf>>
      expect(message.params).toMatchObject({ taskId: `${name}/task 1`, ...given, _meta: { 'vendor.example/m': 1 } })
      expect(headers).toMatchObject({ 'mcp-method': method, 'mcp-name': `${name}/task 1` })
      expect(extensionsIn(message.params)).toEqual({ [extension]: {} })
      expect(asked(up) + asked(beta)).toBe((before[0] ?? 0) + (before[1] ?? 0) + 1)
    }
  })

  test('is named in base64 towards its server where no header can carry its id (§6.35)', async () => {
    up.ids.push('aufgabe: größe\n7')
    const taskId = await begin()
    expect((await ask('tasks/get', { taskId })).json.result).toMatchObject({ status: 'working' })
    expect(lastOf(up, 'tasks/get')?.headers['mcp-name']).toBe(
      `=?base64?${Buffer.from('aufgabe: größe\n7').toString('base64')}?=`
    )
    expect(up.asked('tasks/get').at(-1).taskId).toBe('aufgabe: größe\n7')
  })

  const textItem = { type: 'text', text: 'done', 'x-vendor': { depth: 'item' } }
  const question = { method: 'elicitation/create', params: { mode: 'form', message: 'Which?', requestedSchema: {} } }
  test.each<[string, Json]>([
    ['working', { statusMessage: 'half way', 'x-vendor': { depth: [null] } }],
    ['input_required', { inputRequests: { color: question } }],
    ['completed', { result: { content: [textItem], structuredContent: [1, null], 'x-vendor': 1, _meta: { a: 1 } } }],
    ['completed', { result: { content: [textItem], isError: true } }],
    ['failed', { error: { code: -32011, message: 'odd', data: [1], 'x-vendor': 1 } }],
    ['cancelled', {}]
  ])(
    'is shown by tasks/get as its server tells it, under the id it was asked by: %s (§6.1, §6.8)',
    async (status, more) => {
      const taskId = await begin()
      const told = { ...up.tasks.get('up/task 1'), status, ...more, 'x-vendor': { depth: 'task' } }
      up.tasks.set('up/task 1', told)
      const { json } = await ask('tasks/get', { taskId })
      expect(json.result).toEqual({ resultType: 'complete', ...told, taskId })
    }
  )

  test('is acknowledged as updated and cancelled in the words of its server (§6.1)', async () => {
    const taskId = await begin()
    for (const [method, said] of [
      ['tasks/update', 'updated'],
      ['tasks/cancel', 'cancelled']
    ] as const)
      expect((await ask(method, { taskId })).json.result).toEqual({ resultType: 'complete', 'x-vendor': said })
  })

  test('that its server has forgotten is -32602, in the words for an unknown one where nothing else can be meant', async () => {
    const taskId = await begin()
    up.tasks.clear()
    for (const method of ['tasks/get', 'tasks/cancel']) {
      const { status, json } = await ask(method, { taskId })
      expect([method, status, json.error]).toEqual([method, 200, unknownTask])
    }
    expect((await ask('tasks/update', { taskId, inputResponses: {} })).json.error.code).toBe(-32602)
  })

  test.each(taskMethods)('must be named alike by the headers of %s, or it is 400 and -32020 (§6.35)', async method => {
    const taskId = await begin()
    const another = await begin()
    for (const name of ['up/task 1', another, `${taskId} x`, taskId.toUpperCase(), '=?base64?%%%?=']) {
      const { status, json } = await ask(method, { taskId }, { headers: { 'mcp-name': name } })
      expect([name, status, json.error.code]).toEqual([name, 400, -32020])
    }
    const body = { jsonrpc: '2.0', id: 1, method, params: { taskId, _meta: envelope } }
    const headers = { ...bearer(secrets.ADMIN), 'mcp-protocol-version': '2026-07-28', 'mcp-method': method }
    const unnamed = await post(`${gateway.url}/mcp`, body, headers)
    expect([unnamed.status, unnamed.json.error.code]).toEqual([400, -32020])
    expect(asked(up)).toBe(0)

    const encoded = { 'mcp-name': `=?base64?${Buffer.from(taskId).toString('base64')}?=` }
    expect((await ask(method, { taskId }, { headers: encoded })).status).toBe(200)
    expect(asked(up)).toBe(1)
  })

  test('is known by the same id after a restart of the gateway, for requests and for subscriptions (§6.56)', async () => {
    const taskId = await begin()
    await gateway.close()
    await startOver({ up, beta })
    expect((await ask('tasks/get', { taskId })).json.result).toMatchObject({ status: 'working', taskId })
    const stream = await listen({ taskIds: [taskId] })
    expect(await honoured(stream)).toEqual({ taskIds: [taskId] })
    await waitFor(() => up.streams.size === 1 && watched(up).flat().includes('up/task 1'), 'the subscription')
    up.notify('notifications/tasks', up.tasks.get('up/task 1'))
    expect((await stream.until(2))[1].params).toMatchObject({ taskId, status: 'working' })
  })

  test('whose id is too long to be handed out is an error a model can read, not half a task', async () => {
    up.ids.push('x'.repeat(5000))
    const { status, json } = await call('up__build')
    expect([status, json.result]).toMatchObject([200, { resultType: 'complete', isError: true }])
    expect(json.result).not.toHaveProperty('taskId')
  })

  test('whose server is down is an error that says so, of the tool and not of the id at the server', async () => {
    const taskId = await begin()
    await up.close()
    await gateway.until('up', 'down')
    for (const method of taskMethods) {
      const { json } = await ask(method, { taskId })
      expect(json.error).toMatchObject({ code: -31503, data: { server: 'up', dispatched: false } })
      expect(json.error.message).toContain('"build"')
      expect(json.error.message).not.toContain('up/task 1')
    }
  })

  test('is reached through every door that leads to its server', async () => {
    const doors = ['/mcp', '/mcp/up', '/mcp?servers=up', '/mcp?servers=beta,up']
    for (const from of doors) {
      const taskId = await begin(from === '/mcp/up' ? 'build' : 'up__build', { path: from })
      for (const path of doors) {
        const { json } = await ask('tasks/get', { taskId }, { path })
        expect([from, path, json.result?.status]).toEqual([from, path, 'working'])
        expect(await honoured(await listen({ taskIds: [taskId] }, { path }))).toEqual({ taskIds: [taskId] })
      }
    }
  })

  test('is in the audit trail as a call and by the method of each request, under the name of its tool', async () => {
    const taskId = await begin()
    for (const method of taskMethods) await ask(method, { taskId })
    await ask('tasks/get', { taskId }, { secret: secrets.OTHER })
    const lines = gateway.logged('call')
    const line = { key: 'admin', client: 'test/1', era: 'modern', server: 'up', tool: 'build', outcome: 'ok' }
    expect(lines.map(({ method }) => method)).toEqual([undefined, ...taskMethods, 'tasks/get'])
    for (const each of lines.slice(0, 4)) expect(each).toMatchObject({ ...line, ms: expect.any(Number) })
    expect(lines.at(-1)).toMatchObject({ key: 'other', outcome: 'unknown', code: -32602 })
    expect(lines.at(-1)).not.toHaveProperty('server')
    expect(JSON.stringify(lines)).not.toContain('up/task 1')
  })
})

describe('a task id that is none for this key', () => {
  let up: TaskServer
  let beta: TaskServer
  beforeEach(async () => {
    up = await startTasks('up')
    beta = await startTasks('beta')
    await startOver({ up, beta })
  })

  /** The one answer to whatever is no task of whoever asks. */
  async function expectUnknown(method: string, ids: Record<string, string>, asking: Asking = {}): Promise<void> {
    const before = asked(up) + asked(beta)
    const expected = asBytes(await ask(method, { taskId: 'nothing' }, asking))
    for (const [which, taskId] of Object.entries(ids)) {
      const reply = await ask(method, { taskId }, asking)
      expect([which, reply.status, reply.json.error]).toEqual([which, 200, unknownTask])
      expect([which, asBytes(reply)]).toEqual([which, expected])
    }
    expect(asked(up) + asked(beta)).toBe(before)
  }

  test.each(taskMethods)('is the same -32602 for %s, and no server hears of it (§6.23, §6.28, §6.29)', async method => {
    const taskId = await begin()
    const middle = taskId.length >> 1
    const flipped = taskId[middle] === 'A' ? 'B' : 'A'
    const session = await openSession(gateway.url, secrets.ADMIN)
    await expectUnknown(method, {
      "another key's": await begin('up__build', { secret: secrets.OTHER }),
      "another key's that may do less": await begin('up__build', { secret: secrets.DEVELOPER }),
      tampered: taskId.slice(0, middle) + flipped + taskId.slice(middle + 1),
      'of another seal key': taskId.replace(/^(v1\.)(.)/, (_, v, hex) => `${v}${hex === '0' ? '1' : '0'}`),
      truncated: taskId.slice(0, -1),
      halved: taskId.slice(0, middle),
      extended: `${taskId}A`,
      'a session id': session.id,
      'the id at the server': 'up/task 1',
      garbage: '../../etc/passwd',
      empty: '',
      long: 'v1.'.padEnd(6000, 'a')
    })
    await expectUnknown(method, { "a key's that may do more": taskId }, { secret: secrets.DEVELOPER })
  })

  test('but no text at all is -32602 as well', async () => {
    for (const taskId of [undefined, null, 7, ['a'], {}]) {
      for (const method of taskMethods) {
        const { status, json } = await ask(method, { taskId })
        expect([status, json.error.code]).toEqual([200, -32602])
      }
    }
    expect(asked(up)).toBe(0)
  })

  test('is that of a tool the key may no longer see, or of a server that is gone (§6.23, §6.24, §6.28)', async () => {
    const build = await begin()
    const rude = await begin('up__rude')
    const gone = await begin('beta__build')
    await gateway.close()
    await startOver({ up }, { admin: { up: ['build'] } })
    expect((await ask('tasks/get', { taskId: build })).json.result).toMatchObject({ status: 'working' })
    for (const method of taskMethods) await expectUnknown(method, { rude, gone })
    expect(await honoured(await listen({ taskIds: [rude, build, gone] }))).toEqual({ taskIds: [build] })
    expect(gateway.logged('call').find(({ outcome }) => outcome === 'denied')).toMatchObject({
      server: 'up',
      tool: 'rude',
      code: -32602
    })
  })

  test.each(['/mcp/beta', '/mcp?servers=beta'])('is that of another server at %s (§6.23)', async path => {
    const taskId = await begin()
    const here = await begin('beta__build')
    for (const method of taskMethods) await expectUnknown(method, { taskId }, { path })
    expect((await ask('tasks/get', { taskId: here }, { path })).json.result).toMatchObject({ status: 'working' })
    expect(await honoured(await listen({ taskIds: [taskId, here] }, { path }))).toEqual({ taskIds: [here] })
    expect(watched(up).flat()).not.toContain('up/task 1')
  })
})

describe('a client that does not know tasks', () => {
  let up: TaskServer
  const unable = [
    {},
    { extensions: {} },
    { extensions: { 'vendor.example/other': {} } },
    { tasks: { requests: { tools: { call: {} } } } }
  ]
  beforeEach(async () => {
    up = await startTasks('up')
    await startOver({ up })
  })

  test('is given a result, and an error where its server gives nothing but a task (§6.9)', async () => {
    const session = await openSession(gateway.url, secrets.ADMIN)
    const ways = [
      (name: string) => session.rpc('tools/call', { name, arguments: {} }),
      ...unable.map(capabilities => (name: string) => call(name, { capabilities }))
    ]
    for (const callHere of ways) {
      const { result } = (await callHere('up__build')).json
      expect(result).toMatchObject({ content: [{ type: 'text', text: 'up build' }] })
      expect(extensionsIn(up.asked('tools/call').at(-1)) ?? {}).not.toHaveProperty([extension])
      const { status, json } = await callHere('up__rude')
      expect([status, json.result]).toMatchObject([
        200,
        { isError: true, _meta: { 'switchboard/error': { code: -31502, server: 'up', dispatched: true } } }
      ])
      expect(json.result.content[0].text).toContain('"task"')
      for (const member of ['taskId', 'status', 'ttlMs', 'pollIntervalMs'])
        expect(json.result).not.toHaveProperty(member)
      expect(json.result.resultType ?? 'complete').toBe('complete')
    }
  })

  test.each(taskMethods)('is told what %s needs, whatever the id: 400 and -32021 (§6.9, §6.23)', async method => {
    const taskId = await begin()
    const foreign = await begin('up__build', { secret: secrets.OTHER })
    for (const capabilities of unable) {
      const replies = await Promise.all(
        [taskId, foreign, 'nothing'].map(id => ask(method, { taskId: id }, { capabilities }))
      )
      for (const { status, json } of replies) {
        expect([status, json.error]).toEqual([
          400,
          { code: -32021, message: expect.any(String), data: { requiredCapabilities: speaksTasks } }
        ])
      }
      expect(new Set(replies.map(asBytes)).size).toBe(1)
    }
    expect(asked(up)).toBe(0)
  })

  test('is told what a subscription to tasks needs: 400 and -32021 (§6.9)', async () => {
    const taskId = await begin()
    for (const capabilities of unable) {
      for (const taskIds of [[taskId], ['nothing'], []]) {
        const notifications = { toolsListChanged: true, taskIds }
        const { status, json } = await ask('subscriptions/listen', { notifications }, { capabilities })
        expect([status, json.error]).toMatchObject([400, { code: -32021, data: { requiredCapabilities: speaksTasks } }])
      }
    }
    expect(watched(up).flat()).not.toContain('up/task 1')
  })

  test('and speaks 2025 finds none of the methods', async () => {
    const session = await openSession(gateway.url, secrets.ADMIN)
    const taskId = await begin()
    for (const method of [...taskMethods, 'tasks/list', 'tasks/result'])
      expect((await session.rpc(method, { taskId })).json.error).toMatchObject({ code: -32601 })
    expect(asked(up)).toBe(0)
  })
})

test('tasks/list and tasks/result, which 2026 no longer has, are 404 and -32601 (§6.38)', async () => {
  const up = await startTasks('up')
  await startOver({ up })
  const taskId = await begin()
  for (const method of ['tasks/list', 'tasks/result']) {
    const { status, json } = await ask(method, { taskId })
    expect([method, status, json.error.code]).toEqual([method, 404, -32601])
  }
  expect(asked(up)).toBe(0)
})

describe('a subscription to tasks', () => {
  let up: TaskServer
  let beta: TaskServer
  beforeEach(async () => {
    up = await startTasks('up')
    beta = await startTasks('beta')
    await startOver({ up, beta })
  })

  /** The server tells what became of a task, once it is listened to for it. */
  async function tell(server: TaskServer, taskId: string, more: Json = {}): Promise<Json> {
    // While one stream follows another, both may be open: what is told then would be told twice.
    await waitFor(() => server.streams.size === 1 && watched(server).flat().includes(taskId), 'the subscription', 8000)
    const task = { ...server.tasks.get(taskId), status: 'completed', ...more }
    for (const { res, id } of server.streams) {
      const params = { ...task, _meta: { ...more._meta, [subscriptionId]: id } }
      res.write(`data: ${JSON.stringify({ jsonrpc: '2.0', method: 'notifications/tasks', params })}\n\n`)
    }
    return task
  }

  test("is acknowledged with what is honoured of it: no id that is not this key's (§6.23, §6.28, §6.29, §6.44)", async () => {
    const mine = [await begin(), await begin('beta__build')]
    const foreign = await begin('up__build', { secret: secrets.OTHER })
    const taskIds = [foreign, mine[0], 'garbage', 'up/task 1', `${mine[0]}A`, 7, null, mine[1], mine[1]]
    expect(await honoured(await listen({ toolsListChanged: true, taskIds }))).toEqual({
      toolsListChanged: true,
      taskIds: mine
    })
    await waitFor(() => watched(up).flat().includes('up/task 1'), 'the subscription upstream')
    expect(watched(up)).toEqual([['up/task 1']])
    expect(watched(beta)).toEqual([['beta/task 1']])
    expect(await honoured(await listen({ taskIds: [foreign] }))).toEqual({ taskIds: [] })
    expect(watched(up)).toEqual([['up/task 1']])
  })

  test('is told everything of its tasks under their ids here, and nothing of others (§6.1, §6.44)', async () => {
    const [first, second] = [await begin(), await begin()]
    const theirs = await begin('up__build', { secret: secrets.OTHER })
    const streams = {
      first: await listen({ taskIds: [first] }),
      again: await listen({ taskIds: [first] }),
      second: await listen({ taskIds: [second] }),
      both: await listen({ toolsListChanged: true, taskIds: [first, second] }),
      theirs: await listen({ taskIds: [theirs] }, { secret: secrets.OTHER }),
      none: await listen({ toolsListChanged: true })
    }
    for (const stream of Object.values(streams)) await stream.until(1)
    const result = { content: [{ type: 'text', text: 'built' }], 'x-vendor': 1 }
    const more = { result, 'x-vendor': { deep: [null] }, _meta: { 'vendor.example/n': 1 } }
    const told = await tell(up, 'up/task 1', more)
    for (const stream of [streams.first, streams.again, streams.both]) {
      expect((await stream.until(2))[1]).toEqual({
        jsonrpc: '2.0',
        method: 'notifications/tasks',
        params: { ...told, taskId: first, _meta: { 'vendor.example/n': 1, [subscriptionId]: 'sub-1' } }
      })
    }
    await tell(up, 'up/task 3')
    expect((await streams.theirs.until(2))[1].params).toMatchObject({ taskId: theirs, status: 'completed' })
    // Of tasks nobody asked for, nobody hears.
    up.notify('notifications/tasks', { taskId: 'up/task 2000', status: 'completed' })
    up.notify('notifications/tasks', { status: 'completed' })
    await tick()
    const counts = Object.entries(streams).map(([name, { messages }]) => [name, messages.length])
    expect(Object.fromEntries(counts)).toEqual({ first: 2, again: 2, second: 1, both: 2, theirs: 2, none: 1 })
    for (const stream of Object.values(streams)) expect(stream.text()).not.toContain('up/task')
  })

  test('is not told what a task of the same id on another server does', async () => {
    up.ids.push('same')
    beta.ids.push('same')
    const here = await listen({ taskIds: [await begin()] })
    const there = await begin('beta__build')
    const both = await listen({ taskIds: [there] })
    await Promise.all([here.until(1), both.until(1)])
    await tell(beta, 'same')
    expect((await both.until(2))[1].params.taskId).toBe(there)
    await tick()
    expect(here.messages).toHaveLength(1)
  })

  test('goes on for others when one client closes its own', async () => {
    const taskId = await begin()
    const [going, staying] = [await listen({ taskIds: [taskId] }), await listen({ taskIds: [taskId] })]
    await Promise.all([going.until(1), staying.until(1)])
    going.close()
    await tick()
    await tell(up, 'up/task 1')
    expect((await staying.until(2))[1].params).toMatchObject({ taskId, status: 'completed' })
  })

  test.each([true, false])(
    'is asked for again when the stream of its server ends (in good order: %s)',
    async graceful => {
      const taskId = await begin()
      const stream = await listen({ taskIds: [taskId] })
      await stream.until(1)
      await tell(up, 'up/task 1', { status: 'working', statusMessage: 'before' })
      await stream.until(2)
      const [ending] = [...up.streams]
      if (graceful) {
        const result = { resultType: 'complete', _meta: { [subscriptionId]: ending?.id } }
        ending?.res.end(`data: ${JSON.stringify({ jsonrpc: '2.0', id: ending.id, result })}\n\n`)
      } else ending?.res.destroy()
      await waitFor(() => !up.streams.has(ending as never), 'its end')
      await tell(up, 'up/task 1', { statusMessage: 'after' })
      const messages = await stream.until(3)
      expect(messages.map(({ params }) => params.statusMessage)).toEqual([undefined, 'before', 'after'])
      expect(messages[2].params).toMatchObject({ taskId, status: 'completed', _meta: { [subscriptionId]: 'sub-1' } })
      expect(stream.ended()).toBe(false)
    }
  )

  test('does not promise what the server does not: such ids are not acknowledged (§6.44)', async () => {
    up.honours = ({ taskIds, ...others }) => ({ ...others, ...(taskIds && { taskIds: ['up/task 2'] }) })
    const [first, second] = [await begin(), await begin()]
    expect(await honoured(await listen({ taskIds: [first, second] }))).toEqual({ taskIds: [second] })
  })

  test('ends with its result when the gateway shuts down (§6.44)', async () => {
    const stream = await listen({ taskIds: [await begin()] })
    await stream.until(1)
    await gateway.close()
    await waitFor(() => stream.ended(), 'the end of the stream')
    expect(stream.messages.at(-1)).toEqual({
      jsonrpc: '2.0',
      id: 'sub-1',
      result: { resultType: 'complete', _meta: { [subscriptionId]: 'sub-1' } }
    })
  })
})

describe('the URIs in what a task resulted in', () => {
  const resources = (...uris: string[]) => uris.map(uri => ({ uri, name: uri }))
  const capabilities = { tools: {}, resources: {}, extensions: { [extension]: {} } }
  const named = ['both://x', 'up://only', 'alpha://only']
  const content = named.flatMap(uri => [
    { type: 'resource_link', uri, name: 'a link', 'x-vendor': { at: 'link' } },
    { type: 'resource', resource: { uri, text: uri }, 'x-vendor': 2 }
  ])
  const aliased = ['mcpgw:up:both://x', 'up://only', 'mcpgw:up:alpha://only']
  const urisIn = ({ result }: Json) => result.content.map(({ uri, resource }: Json) => uri ?? resource.uri)
  const twice = (uris: string[]) => uris.flatMap(uri => [uri, uri])
  let up: TaskServer
  let taskId: string

  beforeEach(async () => {
    up = await startTasks('up', { capabilities, resources: resources('both://x', 'up://only') })
    const alpha = await startTasks('alpha', { capabilities, resources: resources('both://x', 'alpha://only') })
    await startOver({ alpha, up }, { admin: '*' })
    taskId = await begin()
    up.tasks.set('up/task 1', { ...up.tasks.get('up/task 1'), status: 'completed', result: { content, 'x-vendor': 3 } })
  })

  test('lead back to its server, as in the result of a call (§6.14, §6.15)', async () => {
    const { result } = (await ask('tasks/get', { taskId })).json
    expect(urisIn(result)).toEqual(twice(aliased))
    expect(result.result).toEqual({
      'x-vendor': 3,
      content: [expect.objectContaining({ 'x-vendor': { at: 'link' } }), ...Array(5).fill(expect.any(Object))]
    })
    const read = await ask('resources/read', { uri: aliased[0] })
    expect(read.json.result.contents[0].text).toBe('up both://x')
    for (const path of ['/mcp/up', '/mcp?servers=up'])
      expect([path, urisIn((await ask('tasks/get', { taskId }, { path })).json.result).slice(0, 4)]).toEqual([
        path,
        twice(named.slice(0, 2))
      ])
  })

  test('do so too where a subscription tells of it (§6.14, §6.15)', async () => {
    const stream = await listen({ taskIds: [taskId] })
    const plain = await listen({ taskIds: [taskId] }, { path: '/mcp/up' })
    await Promise.all([stream.until(1), plain.until(1)])
    await waitFor(() => up.streams.size === 1 && watched(up).flat().includes('up/task 1'), 'the subscription')
    up.notify('notifications/tasks', up.tasks.get('up/task 1'))
    expect(urisIn((await stream.until(2))[1].params)).toEqual(twice(aliased))
    expect(urisIn((await plain.until(2))[1].params)).toEqual(twice(named))
  })
})
