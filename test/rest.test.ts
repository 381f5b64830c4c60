/**
 * The tools as plain HTTP: the same tools, the same decision, in the words of HTTP. A tool's own error is a 200; a
 * failure of the way there has its status. Browsers of allowed origins may use it, as every other door.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Validator } from '@seriousme/openapi-schema-validator'
import { request } from 'undici'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import { definitions, echoExtra, structuredOnlyResult, thrownError } from './fixtures/tools.mjs'
import type { RawHttp } from './fixtures/types.d.mts'
import { bearer, envelope, modern, openSession, post, raw, send, type Reply } from './helpers/http.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const dir = mkdtempSync(join(tmpdir(), 'switchboard-rest-'))
const ledgers = { alpha: openLedger(join(dir, 'alpha')), beta: openLedger(join(dir, 'beta')) }
const origin = 'https://app.example'
let gone: RawHttp
let odd: RawHttp
let gateway: TestGateway
let url: string

const stdio = (mode: string, more = '') =>
  `{ command: node, args: [${fixture('raw-stdio.mjs')}, --mode, ${mode}]${more} }`

/** Schemas as servers write them: references within themselves, dialects, booleans. */
const oddTools = [
  {
    name: 'tree',
    description: 'A schema that refers to itself.',
    inputSchema: {
      type: 'object',
      properties: { root: { $ref: '#/$defs/node' } },
      $defs: { node: { type: 'object', properties: { children: { type: 'array', items: { $ref: '#/$defs/node' } } } } }
    }
  },
  {
    name: 'named',
    description: 'A schema with an identifier of its own.',
    inputSchema: {
      $id: 'https://schemas.example/named',
      type: 'object',
      properties: { at: { $ref: '#/definitions/at' } },
      definitions: { at: { type: 'string', format: 'date-time' } }
    }
  },
  {
    name: 'dialect',
    title: 'Dialect',
    description: 'A schema of draft 7.',
    inputSchema: { $schema: 'http://json-schema.org/draft-07/schema#', type: 'object', additionalProperties: false }
  },
  { name: 'boolean', inputSchema: { type: 'object', properties: { anything: true, nothing: false } } },
  { name: 'dot.name', inputSchema: { type: 'object' } }
]

beforeAll(async () => {
  ;[gone, odd] = await Promise.all([startRawHttp(), startRawHttp()])
  odd.tools = oddTools
  // The developer sees one tool that beta has, too, one that nobody else has, and all of the server that goes away.
  gateway = await startTestGateway(`
listen: { port: 0, allowed_origins: ["${origin}"] }
servers:
  alpha: { command: node, args: [${fixture('stdio-legacy.mjs')}], env: { LEDGER: ${ledgers.alpha.path} }, aliases: [first] }
  beta: { command: node, args: [${fixture('raw-stdio.mjs')}], env: { LEDGER: ${ledgers.beta.path} } }
  gone: { url: "${gone.url}", transport: http, era: legacy }
  dies: ${stdio('die-on-call')}
  silent: ${stdio('silent', ', timeout: 0.5')}
  busy: ${stdio('normal', ', concurrency: 1, queue: 0')}
  odd: { url: "${odd.url}", transport: http, era: legacy }
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: { alpha: [echo, add, "slow"], gone: "*" } }
  other: { secret: "\${OTHER}", allow: {} }
`)
  url = gateway.url
  await Promise.all(gateway.gateway.status().map(({ id }) => gateway.until(id)))
})
afterAll(async () => {
  await gateway.close()
  await Promise.all([gone.close(), odd.close()])
  rmSync(dir, { recursive: true, force: true })
})

interface Asked {
  readonly as?: string
  readonly headers?: Record<string, string>
  /** After the name, such as `?servers=alpha`. */
  readonly query?: string
}

/** POST /tools/<name> as a script would: JSON in, JSON out. */
const callTool = (name: string, body: unknown = {}, { as = secrets.ADMIN, headers, query = '' }: Asked = {}) =>
  post(`${url}/tools/${encodeURIComponent(name)}${query}`, body, {
    ...bearer(as),
    accept: 'application/json',
    ...headers
  })

const getTools = (as = secrets.ADMIN, query = '', headers = {}) =>
  send('GET', `${url}/tools${query}`, { ...bearer(as), ...headers })
const namesOf = ({ json }: Reply): string[] => json.tools.map(({ name }: { name: string }) => name)
const problemOf = ({ json }: Reply) => json._meta['switchboard/error']
const textOf = ({ json }: Reply): string => json.content[0].text

/** The named events of a stream. */
const eventsOf = ({ text }: Reply): { event: string; data: any }[] =>
  [...text.matchAll(/^event: (.*)\ndata: (.*)$/gm)].map(([, event = '', data = '']) => ({
    event,
    data: JSON.parse(data)
  }))

describe('GET /tools', () => {
  test('lists every tool the key sees, as MCP lists it', async () => {
    const overMcp = await modern(url, secrets.ADMIN, 'tools/list')
    const { status, headers, json } = await getTools()
    expect([status, headers['content-type']]).toEqual([200, 'application/json'])
    expect(json).toEqual({ tools: overMcp.json.result.tools })
    expect(json.tools.find(({ name }: { name: string }) => name === 'alpha__add')).toEqual({
      ...definitions.find(({ name }) => name === 'add'),
      name: 'alpha__add'
    })
  })

  test('lists only what the key may use', async () => {
    const listed = await getTools(secrets.DEVELOPER)
    const ofGone = gone.tools.map(({ name }) => `gone__${name}`)
    expect(namesOf(listed)).toEqual(['alpha__echo', 'alpha__add', 'alpha__slow', ...ofGone])
    expect(listed.text).not.toMatch(/beta|dies|silent|busy|odd__/)
    expect((await getTools(secrets.OTHER)).json).toEqual({ tools: [] })
  })

  test('lists a subset by query and by header, an alias included', async () => {
    const echoes = ['alpha__echo', 'alpha__add', 'alpha__slow']
    for (const subset of ['alpha', 'first', 'alpha,beta', 'FIRST,absent'])
      for (const listed of [
        await getTools(secrets.DEVELOPER, `?servers=${subset}`),
        await getTools(secrets.DEVELOPER, '', { 'x-mcp-servers': subset })
      ])
        expect([subset, namesOf(listed)]).toEqual([subset, echoes])
  })

  test('of a server the key may not use is 404 with a sentence, like one that does not exist', async () => {
    const [denied, absent] = [
      await getTools(secrets.DEVELOPER, '?servers=beta'),
      await getTools(secrets.DEVELOPER, '?servers=gama')
    ]
    expect([denied.status, denied.text]).toEqual([absent.status, absent.text])
    expect(denied.status).toBe(404)
    expect(denied.json.error.message).toContain('?servers=')
  })

  test('lists all of them, where MCP needs several pages', async () => {
    const many = await startTestGateway(`
servers:
  one: ${stdio('pages')}
  two: ${stdio('pages')}
  three: ${stdio('pages')}
keys: { admin: { secret: "\${ADMIN}", allow: "*" } }
`)
    onTestFinished(() => many.close())
    await Promise.all(['one', 'two', 'three'].map(id => many.until(id)))
    expect((await modern(many.url, secrets.ADMIN, 'tools/list')).json.result.nextCursor).toBeDefined()
    const names = namesOf(await send('GET', `${many.url}/tools`, bearer(secrets.ADMIN)))
    expect([names.length, new Set(names).size]).toEqual([750, 750])
  })

  test('wants a key, as all of these doors do', async () => {
    for (const [method, path] of [
      ['GET', '/tools'],
      ['POST', '/tools/alpha__echo'],
      ['GET', '/openapi.json']
    ] as const) {
      const { statusCode, headers, body } = await request(url + path, { method })
      expect([statusCode, headers['www-authenticate']]).toEqual([401, 'Bearer realm="mcp"'])
      expect(await body.text()).toContain('switchboard key')
    }
  })
})

describe('POST /tools/<name>', () => {
  test('calls the tool by its public name and answers with its result as it is', async () => {
    const { status, headers, json } = await callTool('alpha__echo', { arguments: { message: 'hi' } })
    expect([status, headers['content-type']]).toEqual([200, 'application/json'])
    expect(json).toEqual({ content: [{ type: 'text', text: 'hi', ...echoExtra }], ...echoExtra })
  })

  test('takes the key in each of its three places', async () => {
    for (const headers of [{ authorization: secrets.ADMIN }, { 'x-api-key': secrets.ADMIN }, bearer(secrets.ADMIN)]) {
      const { status } = await post(`${url}/tools/alpha__echo`, {}, { ...headers, accept: '*/*' })
      expect(status).toBe(200)
    }
  })

  test('calls without arguments where the body has none', async () => {
    expect((await callTool('alpha__fail', {})).json).toMatchObject({ content: [{ text: 'failed: on purpose' }] })
  })

  test('gives a text to whom gets only structured content', async () => {
    const { structuredContent } = structuredOnlyResult
    expect((await callTool('alpha__structured_only')).json).toEqual({
      structuredContent,
      content: [{ type: 'text', text: JSON.stringify(structuredContent) }]
    })
  })

  test('takes the bare name of a tool that one visible server alone has', async () => {
    expect((await callTool('add', { arguments: { a: 1, b: 2 } })).json.structuredContent).toEqual({ sum: 3 })
    // beta has one, too, which this key does not see.
    const { status, json } = await callTool('add', { arguments: { a: 1, b: 2 } }, { as: secrets.DEVELOPER })
    expect([status, json.structuredContent]).toEqual([200, { sum: 3 }])
  })

  test('takes a bare name among the servers asked for, though others have one like it', async () => {
    const query = '?servers=beta'
    expect(await callTool('count', { arguments: { nonce: 'bare' } }, { query })).toMatchObject({ status: 200 })
    expect(await callTool('echo', { arguments: { message: 'b' } }, { query })).toMatchObject({
      status: 200,
      json: { content: [{ text: 'b' }] }
    })
    expect(ledgers.beta.count('called bare')).toBe(1)
    expect(ledgers.alpha.count('called bare')).toBe(0)
    const headers = { 'x-mcp-servers': 'first' }
    expect((await callTool('echo', { arguments: { message: 'a' } }, { headers })).json).toMatchObject(echoExtra)
  })

  test('does not reach a tool outside of the servers asked for', async () => {
    const { status, json } = await callTool('alpha__echo', {}, { query: '?servers=beta' })
    expect([status, json.error.message]).toEqual([404, 'Unknown tool: alpha__echo'])
  })

  test('reaches tools whose names are no path: what is listed can be called', async () => {
    for (const name of namesOf(await getTools(secrets.ADMIN, '?servers=odd')))
      expect([name, (await callTool(name)).status]).toEqual([name, 200])
  })

  test('waits for a server that starts for the first time, whether by public or by bare name', async () => {
    const late = await startTestGateway(`
servers:
  late: { command: node, args: [${fixture('raw-stdio.mjs')}, --mode, slow-start], env: { START_MS: "1000" } }
keys: { admin: { secret: "\${ADMIN}", allow: "*" } }
`)
    onTestFinished(() => late.close())
    const calls = ['late__echo', 'echo'].map(async name => {
      const called = await post(
        `${late.url}/tools/${name}`,
        {},
        { ...bearer(secrets.ADMIN), accept: 'application/json' }
      )
      return [name, called.status]
    })
    expect(await Promise.all(calls)).toEqual([
      ['late__echo', 200],
      ['echo', 200]
    ])
  })
})

describe('a name that is no tool for this key', () => {
  /** All bytes of the answer without Date, the name replaced. */
  async function bytesOf(name: string, body: string, accept: string, query = '') {
    const head = [
      `POST /tools/${name}${query} HTTP/1.1`,
      `host: ${new URL(url).host}`,
      `authorization: Bearer ${secrets.DEVELOPER}`,
      'connection: close',
      'content-type: application/json',
      `content-length: ${Buffer.byteLength(body)}`,
      `accept: ${accept}`
    ]
    const received = await raw(url, [...head, '', body].join('\r\n'))
    expect(received).toMatch(/^date: /im)
    return received.replace(/^date: .*\r\n/im, '').replaceAll(decodeURIComponent(name), '<name>')
  }

  const calls = () => [ledgers.alpha, ledgers.beta].map(ledger => ledger.lines().length)
  const body = JSON.stringify({ arguments: { message: 'x', nonce: 'x', a: 1, b: 2 } })

  test.each([
    ['denied, on a server the key sees', 'alpha__count', 'alpha__xount', ''],
    ['denied, on a server the key does not see', 'beta__count', 'gama__count', ''],
    ['a bare name the key may not use', 'fail', 'xail', ''],
    ['a bare name that several visible servers have', 'slow', 'xlow', ''],
    ['outside of the servers asked for', 'gone__echo', 'xone__echo', '?servers=alpha'],
    ['a member of every object', 'constructor', 'xonstructor', ''],
    ['with a path in it', 'alpha%2Fecho', 'xlpha%2Fecho', '']
  ])('%s: 404, byte for byte like a name nobody has, and nothing is sent', async (_, name, unknown, query) => {
    const before = calls()
    const bytes = await bytesOf(unknown, body, 'application/json', query)
    expect(bytes).toMatch(/^HTTP\/1\.1 404 Not Found\r\n/)
    expect(await bytesOf(name, body, 'application/json', query)).toBe(bytes)
    expect(calls()).toEqual(before)
  })

  test('is the same event on a stream', async () => {
    const before = calls()
    const [denied, unknown] = [
      await bytesOf('alpha__count', body, 'text/event-stream'),
      await bytesOf('alpha__xount', body, 'text/event-stream')
    ]
    expect(denied).toBe(unknown)
    expect(denied).toContain('event: error\ndata: {"error":{"code":-32602,"message":"Unknown tool: <name>"}}')
    expect(calls()).toEqual(before)
  })

  test.each(['', 'not json', '[]', `{"arguments":[]}`])('is told nothing more by a bad body "%s"', async bad => {
    expect(await bytesOf('alpha__count', bad, '*/*')).toBe(await bytesOf('alpha__xount', bad, '*/*'))
  })
})

describe('a call that fails', () => {
  test('by the tool’s own word is 200 with isError', async () => {
    const { status, json } = await callTool('alpha__fail', { arguments: { reason: 'no disk' } })
    expect([status, json]).toEqual([200, { content: [{ type: 'text', text: 'failed: no disk' }], isError: true }])
  })

  test('with a JSON-RPC error of the server is 502 with that error', async () => {
    const { status, json } = await callTool('alpha__throw')
    expect([status, json]).toEqual([502, { error: thrownError }])
  })

  test('because the server is down is 503 with the reason, and says that it was not sent', async () => {
    const port = gone.port
    await gone.close()
    onTestFinished(async () => {
      gone = await startRawHttp({ port })
      await gateway.until('gone')
    })
    const reply = await callTool('gone__echo')
    expect([reply.status, problemOf(reply)]).toMatchObject([503, { code: -31503, server: 'gone', dispatched: false }])
    expect(textOf(reply)).toMatch(/^Server "gone" could not answer tool "echo".*was not sent/)
    expect(reply.json.isError).toBe(true)
  })

  test('because the server died of it is 503 with its last words, and says that it was sent', async () => {
    const reply = await callTool('dies__echo')
    expect([reply.status, problemOf(reply)]).toEqual([503, { code: -31503, server: 'dies', dispatched: true }])
    expect(textOf(reply)).toMatch(/exited with code 3.*the disk is full.*had been sent/)
  })

  test('because the server said nothing in time is 504', async () => {
    const reply = await callTool('silent__echo')
    expect([reply.status, problemOf(reply)]).toEqual([504, { code: -31504, server: 'silent', dispatched: true }])
    expect(textOf(reply)).toContain('no sign of life for 0.5 s')
  })

  test('because the server has too much to do is 429 with when to try again', async () => {
    const running = callTool('busy__slow', { arguments: { ms: 500 } })
    await waitFor(
      () => gateway.gateway.status().some(({ id, running }) => id === 'busy' && running === 1),
      'busy to be busy'
    )
    const reply = await callTool('busy__echo')
    expect([reply.status, problemOf(reply)]).toMatchObject([
      429,
      { code: -31429, dispatched: false, retryAfterMs: 1000 }
    ])
    expect(textOf(reply)).toMatch(/1 calls? (?:is|are) running.*try again in 1 s/)
    expect((await running).status).toBe(200)
  })
})

describe('a body', () => {
  test.each([
    ['no JSON', '{"arguments":', 400],
    ['empty', '', 400],
    ['a list', '[]', 400],
    ['a text', '"echo"', 400],
    ['null', 'null', 400],
    ['with arguments that are a list', '{"arguments":[1]}', 400],
    ['with arguments that are null', '{"arguments":null}', 400],
    ['with arguments that are a text', '{"arguments":"{}"}', 400],
    ['nested too deep', `{"arguments":${'{"a":'.repeat(70)}1${'}'.repeat(70)}}`, 400],
    ['larger than 4 MiB', JSON.stringify({ arguments: { message: 'x'.repeat(4 * 1024 * 1024) } }), 413]
  ])('%s is refused with a sentence, and nothing is sent', async (_, body, status) => {
    const before = ledgers.alpha.lines().length
    const reply = await callTool('alpha__echo', body)
    expect([reply.status, reply.headers['content-type']]).toEqual([status, 'application/json'])
    expect(reply.json.error.message).toMatch(/\.$/)
    expect(ledgers.alpha.lines()).toHaveLength(before)
  })

  test('of another type is 415', async () => {
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/json; charset=latin1'])
      expect((await callTool('alpha__echo', '{}', { headers: { 'content-type': type } })).status).toBe(415)
  })
})

describe('a caller that takes an event stream', () => {
  const headers = { accept: 'text/event-stream' }

  test('hears the tool’s progress, then its result', async () => {
    const reply = await callTool('alpha__progress', {}, { headers })
    expect([reply.status, reply.headers['content-type']]).toEqual([200, 'text/event-stream'])
    expect(eventsOf(reply)).toEqual([
      ...[1, 2, 3].map(step => ({
        event: 'progress',
        data: expect.objectContaining({
          progress: step,
          total: 3,
          message: `step ${step} of 3`,
          'x-vendor': { step }
        })
      })),
      { event: 'result', data: { content: [{ type: 'text', text: 'done after 3 steps' }] } }
    ])
  })

  test('without it gets no progress and one JSON body', async () => {
    for (const accept of ['application/json', '*/*']) {
      const reply = await callTool('alpha__progress', {}, { headers: { accept } })
      expect(reply.headers['content-type']).toBe('application/json')
      expect(textOf(reply)).toBe('done after 3 steps')
    }
  })

  test('hears a tool’s own error as a result, a failure of ours as an error', async () => {
    expect(eventsOf(await callTool('alpha__fail', {}, { headers }))).toMatchObject([
      { event: 'result', data: { isError: true } }
    ])
    expect(eventsOf(await callTool('silent__echo', {}, { headers }))).toMatchObject([
      { event: 'error', data: { isError: true, _meta: { 'switchboard/error': { code: -31504 } } } }
    ])
    expect(eventsOf(await callTool('alpha__throw', {}, { headers }))).toEqual([
      { event: 'error', data: { error: thrownError } }
    ])
  })

  test('is refused with a status while nothing has been said yet', async () => {
    const reply = await callTool('alpha__echo', 'no json', { headers })
    expect([reply.status, reply.headers['content-type']]).toEqual([400, 'application/json'])
  })
})

describe('a caller that leaves', () => {
  test.each(['application/json', 'text/event-stream'])('cancels the call at the server (%s)', async accept => {
    const nonce = `left ${accept}`
    const leaving = new AbortController()
    const before = gateway.logged('call').length
    const call = request(`${url}/tools/alpha__slow`, {
      method: 'POST',
      headers: { ...bearer(secrets.ADMIN), 'content-type': 'application/json', accept },
      body: JSON.stringify({ arguments: { ms: 20_000, nonce } }),
      signal: leaving.signal
    })
      .then(({ body }) => body.text())
      .catch(() => 'left')
    await waitFor(() => ledgers.alpha.count(`started ${nonce}`) === 1, 'the call to start')
    leaving.abort()
    await waitFor(() => ledgers.alpha.count(`cancelled ${nonce}`) === 1, 'the call to be cancelled')
    await waitFor(() => gateway.logged('call').length > before, 'its line in the log')
    expect(await call).toBe('left')
    expect(ledgers.alpha.count(`finished ${nonce}`)).toBe(0)
    expect(gateway.logged('call').slice(before)).toMatchObject([{ tool: 'slow', outcome: 'cancelled' }])
  })
})

describe('GET /openapi.json', () => {
  const read = async (as: string, query = '') => {
    const { status, headers, json } = await send('GET', `${url}/openapi.json${query}`, bearer(as))
    expect([status, headers['content-type']]).toEqual([200, 'application/json'])
    return json
  }
  const operations = (document: any): any[] => Object.values(document.paths).map(({ post }: any) => post)

  test.each(Object.entries(secrets))('is valid OpenAPI 3.1 for the key %s', async (_, secret) => {
    const document = await read(secret)
    expect(document.openapi).toMatch(/^3\.1\.\d$/)
    const { valid, errors } = await new Validator().validate(structuredClone(document))
    expect(errors ?? []).toEqual([])
    expect(valid).toBe(true)
  })

  test('has exactly the tools the key sees, each at the path it is called at', async () => {
    for (const as of Object.values(secrets)) {
      const names = namesOf(await getTools(as))
      const document = await read(as)
      expect(Object.keys(document.paths)).toEqual(names.map(name => `/tools/${name}`))
      expect(operations(document).map(({ operationId }) => operationId)).toEqual(names)
    }
    expect(JSON.stringify(await read(secrets.DEVELOPER))).not.toMatch(/beta|dies|silent|busy|odd__|alpha__count/)
  })

  test('has those of a subset where one is asked for', async () => {
    expect(Object.keys((await read(secrets.DEVELOPER, '?servers=first')).paths)).toEqual([
      '/tools/alpha__echo',
      '/tools/alpha__add',
      '/tools/alpha__slow'
    ])
  })

  test('describes a call as it is made: the arguments with the tool’s own schema, the key as a bearer', async () => {
    const document = await read(secrets.DEVELOPER)
    const { post } = document.paths['/tools/alpha__add']
    const { inputSchema, description } = definitions.find(({ name }) => name === 'add')
    expect(post).toMatchObject({ description, requestBody: { required: true } })
    const { schema } = post.requestBody.content['application/json']
    expect(schema).toMatchObject({ type: 'object', properties: { arguments: inputSchema } })
    expect(document.security).toEqual([{ key: [] }])
    expect(document.components.securitySchemes.key).toEqual({ type: 'http', scheme: 'bearer' })
  })

  test('holds no reference that leads nowhere, also for schemas that refer to themselves', async () => {
    const document = await read(secrets.ADMIN, '?servers=odd')
    const references: [string, unknown][] = []
    // A local reference is looked up in the nearest schema that has an identifier (JSON Schema 2020-12, 8.2).
    const walk = (node: unknown, root: any) => {
      if (typeof node !== 'object' || node === null) return
      const own = '$id' in node ? node : root
      if ('$ref' in node) {
        const { $ref } = node as { $ref: string }
        const steps = $ref.slice(2).split('/')
        references.push([$ref, steps.reduce((at: any, step) => at?.[step], own)])
      }
      for (const inner of Object.values(node)) walk(inner, own)
    }
    walk(document, document)
    expect(references.map(([reference]) => reference)).toEqual(
      expect.arrayContaining(['#/$defs/node', '#/definitions/at', '#/components/schemas/ToolResult'])
    )
    expect(references.filter(([, target]) => target === undefined)).toEqual([])
  })
})

describe('a page of another origin', () => {
  const corsOf = (headers: Reply['headers']) =>
    Object.fromEntries(Object.entries(headers).filter(([name]) => name.startsWith('access-control') || name === 'vary'))

  const preflight = (path: string, from: string, more: Record<string, string> = {}) =>
    send('OPTIONS', url + path, {
      origin: from,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,content-type,mcp-session-id,mcp-param-region',
      ...more
    })

  const doors = ['/mcp', '/mcp/alpha', '/sse', '/messages', '/tools', '/tools/alpha__echo', '/openapi.json', '/metrics']

  test.each(doors)('that is listed may ask before it calls %s, without a key', async path => {
    const { status, headers, text } = await preflight(path, origin)
    expect([status, text]).toEqual([204, ''])
    expect(corsOf(headers)).toMatchObject({
      'access-control-allow-origin': origin,
      'access-control-allow-headers': 'authorization,content-type,mcp-session-id,mcp-param-region',
      'access-control-allow-methods': expect.stringMatching(/\bGET\b.*\bPOST\b.*\bDELETE\b/),
      'access-control-max-age': expect.stringMatching(/^[1-9]\d*$/),
      vary: expect.stringMatching(/\bOrigin\b/i)
    })
    expect(JSON.stringify(corsOf(headers))).not.toContain('*')
  })

  test('that is not listed is 403 without a word that lets it in, asking or calling', async () => {
    for (const from of ['https://evil.example', `${origin}.evil.example`, 'null', origin.replace('https', 'http')])
      for (const path of doors) {
        const replies = [
          await preflight(path, from, bearer(secrets.ADMIN)),
          await send('GET', url + path, { origin: from, ...bearer(secrets.ADMIN) })
        ]
        for (const { status, headers } of replies)
          expect([path, status, Object.keys(headers).filter(name => name.startsWith('access-control'))]).toEqual([
            path,
            403,
            []
          ])
      }
  })

  test('gets through without a preflight only what any caller gets: OPTIONS alone is no door', async () => {
    expect((await send('OPTIONS', `${url}/mcp`, { origin })).status).toBe(401)
    expect((await send('OPTIONS', `${url}/mcp`, { origin, ...bearer(secrets.ADMIN) })).status).toBe(405)
  })

  test('that is listed may read every answer of every door, the refusals too', async () => {
    const { id } = await openSession(url, secrets.ADMIN)
    const session = { 'mcp-session-id': id, 'mcp-protocol-version': '2025-11-25' }
    const call = (method: string) => ({ jsonrpc: '2.0', id: 1, method, params: { _meta: envelope } })
    const asModern = (method: string) => ({ 'mcp-protocol-version': '2026-07-28', 'mcp-method': method })
    const stream = { accept: 'text/event-stream' }
    const key = bearer(secrets.ADMIN)
    const asked: [what: string, status: number, method: 'GET' | 'POST' | 'DELETE', path: string, headers: object, body?: unknown][] = [
      ['health', 200, 'GET', '/healthz', {}],
      ['readiness', 200, 'GET', '/readyz', {}],
      ['an OAuth probe', 404, 'GET', '/.well-known/oauth-protected-resource', {}],
      ['no key', 401, 'GET', '/tools', {}],
      ['a wrong key', 401, 'POST', '/mcp', bearer('wrong'), {}],
      ['no such address', 404, 'GET', '/nowhere', key],
      ['no such method', 405, 'DELETE', '/sse', key],
      ['no such server', 404, 'POST', '/mcp/absent', key, {}],
      ['no session', 405, 'GET', '/mcp', key],
      ['initialize', 200, 'POST', '/mcp', key, { jsonrpc: '2.0', id: 1, method: 'initialize', params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: {} } }],
      ['a request', 200, 'POST', '/mcp', { ...key, ...session }, { jsonrpc: '2.0', id: 1, method: 'tools/list' }],
      ['a notification', 202, 'POST', '/mcp', { ...key, ...session }, { jsonrpc: '2.0', method: 'notifications/initialized' }],
      ['a request of 2026', 200, 'POST', '/mcp', { ...key, ...asModern('tools/list') }, call('tools/list')],
      ['a stream of 2026', 200, 'POST', '/mcp', { ...key, ...asModern('tools/list'), ...stream }, call('tools/list')],
      ['no JSON', 400, 'POST', '/mcp', key, 'x'],
      ['the stream of a session', 200, 'GET', '/mcp', { ...key, ...session, ...stream }],
      ['HTTP+SSE', 200, 'GET', '/sse', { ...key, ...stream }],
      ['a message to no session', 404, 'POST', '/messages?sessionId=none', key, {}],
      ['the tools', 200, 'GET', '/tools', key],
      ['a call', 200, 'POST', '/tools/alpha__echo', key, {}],
      ['a call with progress', 200, 'POST', '/tools/alpha__progress', { ...key, ...stream }, {}],
      ['a call of nothing', 404, 'POST', '/tools/nothing', key, {}],
      ['a failed call', 504, 'POST', '/tools/silent__echo', key, {}],
      ['OpenAPI', 200, 'GET', '/openapi.json', key],
      ['metrics', 200, 'GET', '/metrics', key],
      ['the end of a session', 200, 'DELETE', '/mcp', { ...key, ...session }]
    ] // prettier-ignore
    for (const [what, status, method, path, headers, body] of asked) {
      const reply = await request(url + path, {
        method,
        headers: { origin, ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
        ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) })
      })
      reply.body.on('error', () => {})
      reply.body.destroy()
      const { 'access-control-expose-headers': exposed, ...cors } = corsOf(reply.headers)
      expect([what, reply.statusCode, cors]).toEqual([
        what,
        what === 'the end of a session' ? expect.toBeOneOf([200, 202, 204]) : status,
        { 'access-control-allow-origin': origin, vary: 'Origin' }
      ])
      const names = String(exposed).toLowerCase().split(/, */)
      expect(names).toEqual(
        expect.arrayContaining(['mcp-session-id', 'mcp-protocol-version', 'www-authenticate', 'retry-after'])
      )
    }
  })

  test('that is this very host may call, too', async () => {
    const { status, headers } = await send('GET', `${url}/tools`, { ...bearer(secrets.ADMIN), origin: url })
    expect([status, headers['access-control-allow-origin']]).toEqual([200, url])
  })

  test('is not spoken of to callers that are no page', async () => {
    const { headers } = await getTools()
    expect(Object.keys(headers).filter(name => name.startsWith('access-control'))).toEqual([])
  })
})
