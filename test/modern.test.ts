/**
 * 2026-07-28 over `/mcp`: every request stands alone with its envelope and mirrored headers, and whether its answer is
 * one JSON body or a stream follows from what the client accepts and what there is to say.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { request } from 'undici'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { bearer, envelope, modern, openSession, post, send } from './helpers/http.js'
import { fixture, secrets, startTestGateway, type TestGateway } from './helpers/with-gateway.js'

const dir = mkdtempSync(join(tmpdir(), 'switchboard-modern-'))
const ledger = openLedger(join(dir, 'ledger'))
let gateway: TestGateway
let url: string

beforeAll(async () => {
  gateway = await startTestGateway(`
servers:
  alpha: { command: node, args: [${fixture('stdio-legacy.mjs')}] }
  beta:
    command: node
    args: [${fixture('raw-stdio.mjs')}]
    env: { LEDGER: ${ledger.path} }
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: { alpha: [echo] } }
`)
  url = gateway.url
  await Promise.all([gateway.until('alpha'), gateway.until('beta')])
})
afterAll(async () => {
  await gateway.close()
  rmSync(dir, { recursive: true, force: true })
})

const key = {
  version: 'io.modelcontextprotocol/protocolVersion',
  capabilities: 'io.modelcontextprotocol/clientCapabilities',
  serverInfo: 'io.modelcontextprotocol/serverInfo'
}

const ask = (
  method: string,
  params?: Record<string, any>,
  options?: { id?: string | number; path?: string; headers?: Record<string, string> }
) => modern(url, secrets.ADMIN, method, params, options)

const echo = { name: 'alpha__echo', arguments: { message: 'hello' } }
const withProgress = (progressToken: string | number = 'token') => ({
  name: 'alpha__progress',
  arguments: { gap: 20 },
  _meta: { progressToken }
})

/** The usual request with these headers changed, undefined leaves one out; `meta: null` leaves the envelope out. */
function askWith(
  changed: Record<string, string | undefined>,
  { method = 'tools/call', params = echo, meta = envelope }: { method?: string; params?: object; meta?: unknown } = {}
) {
  const headers: Record<string, string | undefined> = {
    ...bearer(secrets.ADMIN),
    'mcp-protocol-version': '2026-07-28',
    'mcp-method': method,
    ...('name' in params && { 'mcp-name': String(params.name) }),
    ...changed
  }
  const sent = Object.entries(headers).filter((entry): entry is [string, string] => entry[1] !== undefined)
  const body = { jsonrpc: '2.0', id: 'q', method, params: { ...params, ...(meta !== null && { _meta: meta }) } }
  return post(`${url}/mcp`, body, Object.fromEntries(sent))
}

describe('server/discover', () => {
  test('says version, capabilities and name, and that only this key may keep it', async () => {
    const { status, headers, json } = await ask('server/discover')
    expect(status).toBe(200)
    expect(headers['content-type']).toBe('application/json')
    const { result } = json
    expect(result).toMatchObject({
      resultType: 'complete',
      supportedVersions: ['2026-07-28'],
      capabilities: { tools: expect.any(Object) },
      cacheScope: 'private',
      _meta: { [key.serverInfo]: { name: 'switchboard', title: 'switchboard', version: expect.any(String) } }
    })
    expect(result.ttlMs).toBeGreaterThanOrEqual(0)
  })

  test('works on every path of /mcp', async () => {
    for (const path of ['/mcp', '/mcp/', '/mcp/alpha', '/mcp?servers=alpha'])
      expect((await ask('server/discover', {}, { path })).json.result.supportedVersions).toEqual(['2026-07-28'])
  })
})

describe('tools/list', () => {
  test('comes whole, with how long and by whom it may be kept', async () => {
    const { status, json } = await ask('tools/list')
    expect(status).toBe(200)
    const { result } = json
    expect(result).toMatchObject({ resultType: 'complete', cacheScope: 'private' })
    expect(result.ttlMs).toBeGreaterThanOrEqual(0)
    expect(result._meta[key.serverInfo].name).toBe('switchboard')
    const names = result.tools.map(({ name }: { name: string }) => name)
    expect(names).toEqual(expect.arrayContaining(['alpha__echo', 'alpha__slow', 'beta__echo']))
    expect(new Set(names).size).toBe(names.length)
  })

  test('has the same tools as in the 2025 era, which gets none of the new members', async () => {
    const session = await openSession(url, secrets.ADMIN)
    const legacy = (await session.rpc('tools/list')).json.result
    expect(legacy.tools).toEqual((await ask('tools/list')).json.result.tools)
    expect(Object.keys(legacy)).toEqual(['tools'])
  })

  test('with a cursor that is none of ours is -32602', async () => {
    for (const cursor of [
      'nonsense',
      '',
      7,
      null,
      Buffer.from('{"k":"prompts","a":["x","y"],"r":0}').toString('base64')
    ]) {
      const { status, json } = await ask('tools/list', { cursor })
      expect([cursor, status, json.error?.code]).toEqual([cursor, 200, -32602])
    }
  })
})

describe('tools/call', () => {
  test('is relayed, and its result says that it is complete', async () => {
    const { status, headers, json } = await ask('tools/call', echo)
    expect([status, headers['content-type']]).toEqual([200, 'application/json'])
    expect(json.result).toMatchObject({ resultType: 'complete', content: [{ type: 'text', text: 'hello' }] })
  })

  test("passes a server's own error on as it is, with HTTP 200", async () => {
    const { status, json } = await ask('tools/call', { name: 'alpha__throw' })
    expect(status).toBe(200)
    expect(json.error).toMatchObject({ code: -32011, message: 'thrown on purpose', data: { reason: 'fixture' } })
  })

  test('of an unknown tool is -32602 with HTTP 200', async () => {
    const { status, json } = await ask('tools/call', { name: 'alpha__nothing' })
    expect([status, json.error]).toEqual([200, { code: -32602, message: 'Unknown tool: alpha__nothing' }])
  })

  test.each<[string, Record<string, unknown>]>([
    ['no name', {}],
    ['a name that is a number', { name: 7 }],
    ['arguments that are a list', { name: 'alpha__echo', arguments: [] }]
  ])('with %s is -32602', async (_, params) => {
    const { json } = await ask('tools/call', params)
    expect(json.error.code).toBe(-32602)
  })
})

describe('a request', () => {
  test.each([0, 42, Number.MAX_SAFE_INTEGER, '', '42', 'a-b c', 'ä"\\'])(
    'with the id %j gets its answer under the same id, of the same type',
    async id => {
      const answers = [
        await ask('server/discover', {}, { id }),
        await ask('tools/list', {}, { id }),
        await ask('tools/call', echo, { id }),
        await ask('tools/call', { name: 'unknown' }, { id }),
        await ask('tools/call', echo, { id, headers: { accept: 'text/event-stream' } }),
        await ask('no/such', {}, { id }),
        await ask('tools/list', {}, { id, headers: { 'mcp-method': 'wrong' } })
      ]
      expect(answers.map(({ json }) => json.id)).toEqual(answers.map(() => id))
    }
  )

  test.each(['no/such', 'ping', 'logging/setLevel', 'notifications/unheard', 'toString', 'tools/call/more'])(
    'of a method this era does not have (%s) is 404 with -32601 (§6.38)',
    async method => {
      const { status, json } = await ask(method, {}, { id: 9 })
      expect([status, json.id, json.error.code]).toEqual([404, 9, -32601])
    }
  )

  test('to initialize is 404 with -32601, and opens no session (§6.38, §6.48)', async () => {
    const { status, headers, json } = await ask('initialize', { protocolVersion: '2026-07-28', capabilities: {} })
    expect([status, json.error.code]).toEqual([404, -32601])
    expect(headers['mcp-session-id']).toBeUndefined()
  })

  test('needs no session: an id and Last-Event-ID are ignored, and none is handed out (§6.39)', async () => {
    const mine = (await openSession(url, secrets.ADMIN)).id
    const foreign = (await openSession(url, secrets.DEVELOPER)).id
    for (const id of [mine, foreign, 'garbage', '']) {
      for (const [method, params] of [['server/discover'], ['tools/list'], ['tools/call', echo]] as const) {
        const { status, headers } = await ask(method, params, {
          headers: { 'mcp-session-id': id, 'last-event-id': '7' }
        })
        expect([id, method, status]).toEqual([id, method, 200])
        expect(headers['mcp-session-id']).toBeUndefined()
      }
    }
  })

  test('to GET or DELETE is 405, even with the id of a session, which lives on (§6.39)', async () => {
    const session = await openSession(url, secrets.ADMIN)
    for (const method of ['GET', 'DELETE'] as const) {
      const { status, headers } = await send(method, `${url}/mcp`, {
        ...session.headers,
        'mcp-protocol-version': '2026-07-28'
      })
      expect([method, status, headers.allow]).toEqual([method, 405, 'POST'])
    }
    expect((await session.rpc('ping')).status).toBe(200)
  })

  test('that needs no answer is 202 without a body (§6.42)', async () => {
    const headers = { ...bearer(secrets.ADMIN), 'mcp-protocol-version': '2026-07-28' }
    const notifications = [
      { method: 'notifications/cancelled', params: { requestId: 1, _meta: envelope } },
      { method: 'notifications/cancelled', params: { requestId: 1 } },
      { method: 'notifications/vendor/unheard' }
    ]
    for (const notification of notifications) {
      const { status, text } = await post(`${url}/mcp`, { jsonrpc: '2.0', ...notification }, headers)
      expect([notification.method, status, text]).toEqual([notification.method, 202, ''])
    }
  })
})

describe('headers that repeat the body', () => {
  const base64 = (text: string) => `=?base64?${Buffer.from(text).toString('base64')}?=`

  test.each<[string, Record<string, string | undefined>]>([
    ['without MCP-Protocol-Version', { 'mcp-protocol-version': undefined }],
    ['with an older MCP-Protocol-Version than the body', { 'mcp-protocol-version': '2025-11-25' }],
    ['with a newer MCP-Protocol-Version than the body', { 'mcp-protocol-version': '2026-12-31' }],
    ['without Mcp-Method', { 'mcp-method': undefined }],
    ['with another Mcp-Method', { 'mcp-method': 'tools/list' }],
    ['with Mcp-Method in another case', { 'mcp-method': 'Tools/Call' }],
    ['with an empty Mcp-Method', { 'mcp-method': '' }],
    ['without Mcp-Name', { 'mcp-name': undefined }],
    ['with another Mcp-Name', { 'mcp-name': 'alpha__slow' }],
    ["with the server's own name as Mcp-Name", { 'mcp-name': 'echo' }],
    ['with Mcp-Name in another case', { 'mcp-name': 'alpha__Echo' }],
    ['with an empty Mcp-Name', { 'mcp-name': '' }],
    ['with another Mcp-Name in base64', { 'mcp-name': base64('alpha__slow') }],
    ['with a Mcp-Name whose base64 is broken', { 'mcp-name': '=?base64?YWxwaGFfX2VjaG8?=' }],
    ['with a Mcp-Name whose base64 is no base64', { 'mcp-name': '=?base64?alpha__echo?=' }],
    ['with a Mcp-Name whose base64 is no UTF-8', { 'mcp-name': '=?base64?/w==?=' }]
  ])('a call %s is 400 with -32020 under its id, and is not sent (§6.35)', async (_, changed) => {
    const before = ledger.lines().length
    const { status, json } = await askWith(changed)
    expect([status, json.id, json.error.code]).toEqual([400, 'q', -32020])
    expect(json.error.message).not.toBe('')
    expect(ledger.lines().length).toBe(before)
  })

  test('Mcp-Name in base64 form is decoded before it is compared (§6.35)', async () => {
    expect((await askWith({ 'mcp-name': base64('alpha__echo') })).json.result.content[0].text).toBe('hello')
    expect((await askWith({ 'mcp-method': base64('tools/call') })).status).toBe(200)
  })

  test.each(['größe', ' alpha__echo ', '=?base64?YQ==?=', 'line\nbreak', ''])(
    'a name that only base64 can carry (%j) is compared like every other',
    async name => {
      const { status, json } = await askWith({ 'mcp-name': base64(name) }, { params: { name } })
      expect([status, json.error.message]).toEqual([200, `Unknown tool: ${name}`])
      expect((await askWith({ 'mcp-name': base64(`${name}x`) }, { params: { name } })).status).toBe(400)
    }
  )

  test('Mcp-Name is not needed where nothing is named', async () => {
    for (const method of ['tools/list', 'server/discover'])
      expect((await askWith({}, { method, params: {} })).status).toBe(200)
  })

  test('in the 2025 era they are not looked at (§6.35)', async () => {
    const session = await openSession(url, secrets.ADMIN)
    const headers = { 'mcp-method': 'tools/list', 'mcp-name': 'alpha__slow' }
    expect((await session.rpc('tools/call', echo, { headers })).json.result.content[0].text).toBe('hello')
  })
})

describe('the envelope', () => {
  test.each(['2027-01-01', '2026-07-29', '2025-11-25', '1999-01-01', 'latest'])(
    'of the version %s is 400 with -32022, what is supported and what was asked for (§6.36)',
    async version => {
      const { status, json } = await askWith(
        { 'mcp-protocol-version': version },
        { meta: { ...envelope, [key.version]: version } }
      )
      expect([status, json.id, json.error.code]).toEqual([400, 'q', -32022])
      expect(json.error.data).toEqual({ supported: expect.arrayContaining(['2026-07-28']), requested: version })
    }
  )

  test.each<[string, unknown]>([
    ['without capabilities', { ...envelope, [key.capabilities]: undefined }],
    ['with capabilities that are no object', { ...envelope, [key.capabilities]: [] }],
    ['with capabilities null', { ...envelope, [key.capabilities]: null }],
    ['with a version that is no string', { ...envelope, [key.version]: 20260728 }],
    ['with a clientInfo that is no object', { ...envelope, 'io.modelcontextprotocol/clientInfo': 'me' }],
    ['without a version', { [key.capabilities]: {} }],
    ['missing, though the header says 2026-07-28', null],
    ['empty, though the header says 2026-07-28', {}]
  ])('%s is 400 with -32602 under the id of the request (§6.37)', async (_, meta) => {
    const { status, json } = await askWith({}, { meta })
    expect([status, json.id, json.error.code]).toEqual([400, 'q', -32602])
  })

  test('may leave out who the client is', async () => {
    const { 'io.modelcontextprotocol/clientInfo': _, ...meta } = envelope
    expect((await askWith({}, { meta })).status).toBe(200)
  })

  test('missing on an initialize whose header says 2026-07-28 is 400 with -32020', async () => {
    const { status, json } = await askWith({}, { method: 'initialize', params: { protocolVersion: '2025-11-25' }, meta: null }) // prettier-ignore
    expect([status, json.error.code]).toEqual([400, -32020])
  })
})

describe('Accept', () => {
  const json = 'application/json'
  const sse = 'text/event-stream'

  test.each([
    ['both, in the usual order', `${json}, ${sse}`],
    ['both, the other way round', `${sse}, ${json}`],
    ['JSON only', json],
    ['anything', '*/*'],
    ['JSON of any kind', 'application/*'],
    ['something else', 'text/html']
  ])('%s: an answer with nothing before it is JSON (§6.41)', async (_, accept) => {
    for (const [method, params] of [['server/discover'], ['tools/list'], ['tools/call', echo]] as const) {
      const { status, headers, messages } = await ask(method, params, { headers: { accept } })
      expect([method, status, headers['content-type']]).toEqual([method, 200, json])
      expect(messages).toHaveLength(1)
    }
  })

  test.each(['server/discover', 'tools/list', 'tools/call'])(
    'a stream only: %s is a stream with the one answer',
    async method => {
      const params = method === 'tools/call' ? echo : {}
      for (const accept of [sse, `${sse}; charset=utf-8`]) {
        const { status, headers, messages } = await ask(method, params, { headers: { accept } })
        expect([accept, status, headers['content-type']]).toEqual([accept, 200, sse])
        expect(messages).toEqual([
          { jsonrpc: '2.0', id: 1, result: expect.objectContaining({ resultType: 'complete' }) }
        ])
      }
    }
  )

  test('a stream only, in another case: media types have none', async () => {
    expect((await ask('tools/call', echo, { headers: { accept: 'Text/Event-Stream' } })).headers['content-type']).toBe(
      sse
    )
    const both = await ask('tools/call', withProgress(), { headers: { accept: 'Application/JSON, Text/Event-Stream' } })
    expect([both.headers['content-type'], both.messages.length]).toEqual([sse, 4])
  })

  test('both: progress makes the answer a stream that no proxy holds back, with the result last (§6.41)', async () => {
    const { status, headers, messages } = await ask('tools/call', withProgress(), { id: 'mine' })
    expect([status, headers['content-type'], headers['x-accel-buffering']]).toEqual([200, sse, 'no'])
    expect(messages.map(({ method, id }) => method ?? id)).toEqual([...Array(3).fill('notifications/progress'), 'mine'])
    expect(messages.slice(0, 3).map(({ params }) => params)).toEqual(
      [1, 2, 3].map(step => ({
        progressToken: 'token',
        progress: step,
        total: 3,
        message: `step ${step} of 3`,
        'x-vendor': { step }
      }))
    )
    expect(messages[3].result).toMatchObject({ resultType: 'complete', content: [{ text: 'done after 3 steps' }] })
  })

  test.each(['7', 7, 0, '', 'ä b'])('both: progress comes under the token %j, of the same type', async token => {
    const { messages } = await ask('tools/call', withProgress(token))
    expect(messages.slice(0, -1).map(({ params }) => params.progressToken)).toEqual([token, token, token])
  })

  test('both: progress that comes in one breath with the result is not lost', async () => {
    const { messages } = await ask('tools/call', { name: 'beta__progress', _meta: { progressToken: 1 } })
    expect(messages.map(({ params }) => params?.progress)).toEqual([1, 2, 3, undefined])
  })

  test('both, without a progress token: JSON, and no progress', async () => {
    const { headers, messages } = await ask('tools/call', { name: 'alpha__progress', arguments: { gap: 0 } })
    expect([headers['content-type'], messages.length]).toEqual([json, 1])
  })

  test.each([
    ['JSON only', json],
    ['anything', '*/*']
  ])('%s, with a progress token: JSON, and the progress is dropped (§6.41)', async (_, accept) => {
    const { status, headers, messages } = await ask('tools/call', withProgress(), { headers: { accept } })
    expect([status, headers['content-type']]).toEqual([200, json])
    expect(messages).toHaveLength(1)
    expect(messages[0].result.content[0].text).toBe('done after 3 steps')
  })

  test.each<[string, Record<string, any>]>([
    ['a plain call', echo],
    ['a call with a progress token', withProgress()]
  ])('missing: %s is JSON', async (_, params) => {
    // undici sends no Accept of its own accord.
    const { statusCode, headers, body } = await request(`${url}/mcp`, {
      method: 'POST',
      headers: {
        ...bearer(secrets.ADMIN),
        'content-type': json,
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': 'tools/call',
        'mcp-name': params.name
      },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: { ...params, _meta: { ...envelope, ...params._meta } } }) // prettier-ignore
    })
    expect([statusCode, headers['content-type']]).toEqual([200, json])
    expect(await body.json()).toMatchObject({ id: 1, result: { content: [{ type: 'text' }] } })
  })

  test('a stream only: an error is the one message of the stream', async () => {
    const { status, messages } = await ask('tools/call', { name: 'unknown' }, { headers: { accept: sse } })
    expect([status, messages]).toEqual([
      200,
      [{ jsonrpc: '2.0', id: 1, error: { code: -32602, message: 'Unknown tool: unknown' } }]
    ])
  })

  test.concurrent(
    'both: after ten seconds of silence the answer becomes a stream, so that it can be kept alive',
    async () => {
      const { status, headers, messages } = await ask('tools/call', { name: 'alpha__slow', arguments: { ms: 10_500 } })
      expect([status, headers['content-type'], messages.length]).toEqual([200, sse, 1])
      expect(messages[0].result.content[0].text).toBe('waited 10500 ms')
    }
  )

  test.concurrent('JSON only: an answer that takes longer than ten seconds is JSON all the same', async () => {
    const params = { name: 'alpha__slow', arguments: { ms: 10_500 } }
    const { status, headers, json: answer } = await ask('tools/call', params, { headers: { accept: json } })
    expect([status, headers['content-type']]).toEqual([200, json])
    expect(answer.result.content[0].text).toBe('waited 10500 ms')
  })

  test('the 2025 era gets the same choice', async () => {
    const session = await openSession(url, secrets.ADMIN)
    const call = (params: object, accept: string) => session.rpc('tools/call', params, { headers: { accept } })
    expect((await call(echo, `${json}, ${sse}`)).headers['content-type']).toBe(json)
    expect((await call(echo, sse)).headers['content-type']).toBe(sse)
    expect((await call(echo, '*/*')).headers['content-type']).toBe(json)
    const streamed = await call(withProgress(), `${json}, ${sse}`)
    expect([streamed.headers['content-type'], streamed.headers['x-accel-buffering'], streamed.messages.length]).toEqual([sse, 'no', 4]) // prettier-ignore
    expect((await call(withProgress(), json)).messages).toHaveLength(1)
  })

  test('no stream of this era ever holds a request (§6.40), nor a log message nobody asked for (§6.46)', async () => {
    const { messages } = await ask('tools/call', withProgress(), { headers: { accept: sse } })
    expect(messages.length).toBe(4)
    for (const message of messages) {
      expect(message.method !== undefined && message.id !== undefined).toBe(false)
      expect(message.method).not.toBe('notifications/message')
    }
  })
})
