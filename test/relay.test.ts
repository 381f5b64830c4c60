/**
 * What the lane does to a call on its way down and to its answer on the way back: names, ids and tokens are rewritten,
 * all else arrives as it was sent, and nobody hears what was meant for another. Clients of both eras, servers of the
 * 2025 era over stdio and HTTP.
 */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { request } from 'undici'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { toolEntry } from '../src/catalog/tool-entry.js'
import { start as startHttpLegacy } from './fixtures/http-legacy.mjs'
import { openLedger } from './fixtures/ledger.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import {
  bigNumbersOnTheWire,
  echoExtra,
  structuredOnlyResult,
  thrownError,
  unknownMembersResult,
  unknownMembersTool
} from './fixtures/tools.mjs'
import type { SessionFixture } from './fixtures/types.d.mts'
import { envelope, modern, openSession, type Reply } from './helpers/http.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const folder = mkdtempSync(join(tmpdir(), 'switchboard-relay-'))
const ledger = openLedger(join(folder, 'ledger'))
let http: SessionFixture
let gateway: TestGateway

beforeAll(async () => {
  http = await startHttpLegacy({ ledger: ledger.path as string })
  gateway = await start({
    stdio: { command: process.execPath, args: [fixture('stdio-legacy.mjs')], env: { LEDGER: ledger.path } },
    http: { url: http.url }
  })
  await Promise.all(['stdio', 'http'].map(server => gateway.until(server)))
})

afterAll(async () => {
  await gateway.close()
  await http.close()
  rmSync(folder, { recursive: true, force: true })
})

const admin = '{ admin: { secret: "${ADMIN}", allow: "*" } }'
const start = (servers: Record<string, object>, keys = admin, env: Record<string, string> = {}) =>
  startTestGateway(`servers: ${JSON.stringify(servers)}\nkeys: ${keys}\n`, { env })

type Era = 'modern' | 'legacy'
interface Options {
  readonly id?: string | number
  readonly headers?: Record<string, string>
}
type Send = (method: string, params?: Record<string, any>, options?: Options) => Promise<Reply>

/** A client of that era. */
async function client(era: Era, { url } = gateway, secret = secrets.ADMIN): Promise<Send> {
  if (era === 'modern') return (method, params, options) => modern(url, secret, method, params, options)
  const session = await openSession(url, secret)
  return (method, params, options) => session.rpc(method, params, options)
}

const eras: Era[] = ['modern', 'legacy']
const pairs = eras.flatMap(era => ['stdio', 'http'].map(server => [era, server] as const))
/** The result as the server gave it, for a client of that era (protocol.md R5). */
const inEra = (era: Era, result: object) => (era === 'modern' ? { resultType: 'complete', ...result } : result)
const textOf = ({ json }: Reply): string => json.result.content[0].text
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

describe.each(pairs)('between a %s client and a server over %s', (era, server) => {
  let send: Send
  const call = (tool: string, args: object = {}, more: object = {}, options?: Options) =>
    send('tools/call', { name: `${server}__${tool}`, arguments: args, ...more }, options)
  const received = async (more: object, args: object = {}) => JSON.parse(textOf(await call('args', args, more)))

  beforeAll(async () => {
    send = await client(era)
  })

  it.each(['token', '', '7', 7, 0, -1])(
    'progress arrives in order, under the token %j, before the result',
    async progressToken => {
      const { messages, headers } = await call('progress', {}, { _meta: { progressToken } })
      expect(String(headers['content-type'])).toMatch(/^text\/event-stream/)
      expect(messages).toHaveLength(4)
      messages.slice(0, 3).forEach((message, i) => {
        expect(message).toEqual({
          jsonrpc: '2.0',
          method: 'notifications/progress',
          params: {
            progressToken,
            progress: i + 1,
            total: 3,
            message: `step ${i + 1} of 3`,
            'x-vendor': { step: i + 1 }
          }
        })
      })
      expect(textOf({ json: messages[3] } as Reply)).toBe('done after 3 steps')
    }
  )

  it('progress is neither asked of the server nor told when the client gave no token', async () => {
    const reply = await call('progress')
    expect(reply.messages).toHaveLength(1)
    expect((await received({ _meta: { 'vendor.example/x': 1 } })).params._meta).toEqual({ 'vendor.example/x': 1 })
  })

  it('a client that takes JSON only gets the result without the progress', async () => {
    const headers = { accept: 'application/json' }
    const reply = await call('progress', {}, { _meta: { progressToken: 'p' } }, { headers })
    expect(reply.headers['content-type']).toBe('application/json')
    expect(textOf(reply)).toBe('done after 3 steps')
  })

  it.each([1, 'one', '', 0, -7, 9007199254740991])('the answer carries the id %j as it was sent', async id => {
    const reply = await call('echo', { message: 'x' }, {}, { id })
    expect(reply.json.id).toBe(id)
  })

  it('unknown members and content types of a result pass unchanged (§6.1, §6.2, §6.3)', async () => {
    const reply = await call('unknown_members')
    expect(reply.json).toEqual({ jsonrpc: '2.0', id: reply.json.id, result: inEra(era, unknownMembersResult) })
    for (const member of ['content', 'structuredContent', '_meta', 'x-vendor']) {
      expect(reply.text).toContain(`${JSON.stringify(member)}:${JSON.stringify(unknownMembersResult[member])}`)
    }
    const echoed = await call('echo', { message: 'x' })
    expect(echoed.json.result).toEqual(
      inEra(era, { content: [{ type: 'text', text: 'x', ...echoExtra }], ...echoExtra })
    )
  })

  it('the definition of a tool passes unchanged but for its name (§6.1)', async () => {
    const { tools } = (await send('tools/list')).json.result
    const tool = tools.find(({ name }: { name: string }) => name === `${server}__unknown_members`)
    expect(tool).toEqual({ ...unknownMembersTool, name: `${server}__unknown_members` })
    expect(JSON.stringify(tool.inputSchema)).toBe(JSON.stringify(unknownMembersTool.inputSchema))
  })

  it('unknown members of a request pass unchanged, in `_meta` too (§6.1, §6.4)', async () => {
    const args = {
      message: 'x',
      list: [1, { two: [null, 'drei', { vier: { 'x-vendor': true } }] }],
      empty: {},
      '': 0,
      constructor: 'c'
    }
    const more = {
      'x-vendor': { depth: 'params', nested: { deeper: [{ deepest: 1 }] } },
      _meta: {
        'vendor.example/key': { nested: [null, { x: 1 }] },
        traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
        tracestate: 'vendor=1',
        baggage: 'user=7'
      }
    }
    const { params } = await received(more, args)
    expect(params).toEqual({ name: 'args', arguments: args, ...more })
  })

  it('no key of an envelope reaches a server of the 2025 era (§6.6)', async () => {
    const { params, headers } = await received({
      ...(era === 'modern' && { inputResponses: { a: {} }, requestState: 'sealed' }),
      _meta: { 'io.modelcontextprotocol/logLevel': 'debug', 'vendor.example/kept': true, progressToken: 'mine' }
    })
    expect(Object.keys(params).sort()).toEqual(['_meta', 'arguments', 'name'])
    expect(Object.keys(params._meta).sort()).toEqual(['progressToken', 'vendor.example/kept'])
    expect(params._meta.progressToken).not.toBe('mine')
    if (server === 'http') {
      expect(Object.keys(headers).filter(name => /^mcp-(method|name|param)/.test(name))).toEqual([])
      expect(headers['mcp-protocol-version']).toBe('2025-11-25')
    }
  })

  it('numbers keep their value (§6.5)', async () => {
    const { json } = await call('big_integer')
    expect(json.result.content[0].text).toBe(bigNumbersOnTheWire)
    const expected = JSON.parse(bigNumbersOnTheWire)
    expect({ ...json.result.structuredContent, minus_zero: 0 }).toEqual({ ...expected, minus_zero: 0 })
    expect(json.result.structuredContent.minus_zero).toBeCloseTo(0)
    const numbers = { max: 9007199254740991, tiny: 5e-324, huge: 1.7976931348623157e308, tenth: 0.1 }
    expect((await received({}, numbers)).params.arguments).toEqual(numbers)
  })

  it('an empty content gets what structuredContent says as text, and nothing else is touched', async () => {
    const { structuredContent } = structuredOnlyResult
    const reply = await call('structured_only')
    expect(reply.json.result).toEqual(
      inEra(era, { content: [{ type: 'text', text: JSON.stringify(structuredContent) }], structuredContent })
    )
  })

  it('a result of one megabyte arrives whole', async () => {
    const text = textOf(await call('big', { bytes: 1024 * 1024 }))
    expect(text).toBe('0123456789abcdef'.repeat(65_536))
  })

  it("the server's own JSON-RPC error passes unchanged", async () => {
    const reply = await call('throw')
    expect(reply.status).toBe(200)
    expect(reply.json).toEqual({ jsonrpc: '2.0', id: reply.json.id, error: { ...thrownError } })
  })

  it("the server's own failed result passes unchanged, without a word of the gateway", async () => {
    const reply = await call('fail', { reason: 'no disk' })
    expect(reply.json.result).toEqual(
      inEra(era, { content: [{ type: 'text', text: 'failed: no disk' }], isError: true })
    )
  })
})

describe('progress whose values do not rise as they must', () => {
  let odd: TestGateway
  beforeAll(async () => {
    odd = await start({ odd: { command: process.execPath, args: [nonceProgram()] } })
    await odd.until('odd')
  })
  afterAll(() => odd.close())

  /** The progress values a client sees when the server sends these, written as they are. */
  async function told(...literals: string[]): Promise<unknown[]> {
    const params = { name: 'odd__work', arguments: { nonce: 'n', progress: literals }, _meta: { progressToken: 1 } }
    const { messages } = await (await client('legacy', odd))('tools/call', params)
    expect(messages.at(-1).result.content[0].text).toBe('n')
    return messages.slice(0, -1).map(({ params }) => params.progress)
  }

  it('is raised by a millionth over the last', async () => {
    expect(await told('5', '5', '3', '5', '10', '-1', '11')).toEqual([
      5,
      5 + 1e-6,
      5 + 1e-6 + 1e-6,
      5 + 1e-6 + 1e-6 + 1e-6,
      10,
      10 + 1e-6,
      11
    ])
  })

  it.each([
    ['a count of bytes so large that a millionth is lost in it', ['20000000000', '20000000000', '20000000000']],
    ['values no number can hold', ['5', '1e999', '6', '1e999']],
    ['values that are no numbers', ['"half"', '1', 'null', '"half"', '{}', '2']],
    ['negative values', ['-3', '-3', '-2', '0']]
  ])('rises and stays a number with %s', async (_, literals) => {
    const values = await told(...literals)
    expect(values.length).toBeGreaterThan(0)
    values.forEach((value, i) => {
      expect(Number.isFinite(value)).toBe(true)
      if (i > 0) expect(value).toBeGreaterThan(values[i - 1] as number)
    })
  })
})

describe('cancelling a call', () => {
  const slow = (server: string, nonce: string, ms = 60_000) => ({
    name: `${server}__slow`,
    arguments: { ms, nonce }
  })

  it.each(['stdio', 'http'])(
    'by notification reaches the server over %s; the client gets an empty stream',
    async server => {
      const session = await openSession(gateway.url, secrets.ADMIN)
      const nonce = randomUUID()
      const answer = session.rpc('tools/call', slow(server, nonce), { id: 5 })
      await waitFor(() => ledger.count(`started ${nonce}`) === 1, 'the call to run')
      // Neither the same id of another type nor that of another session is meant.
      await session.notify('notifications/cancelled', { requestId: '5' })
      const other = await openSession(gateway.url, secrets.ADMIN)
      await other.notify('notifications/cancelled', { requestId: 5 })
      await pause(200)
      expect(ledger.count(`cancelled ${nonce}`)).toBe(0)

      const begun = performance.now()
      await session.notify('notifications/cancelled', { requestId: 5, reason: 'changed my mind' })
      await waitFor(() => ledger.count(`cancelled ${nonce}`) === 1, 'the server to be told')
      const ms = performance.now() - begun
      console.log(`cancelled over ${server} after ${ms.toFixed(0)} ms`)
      expect(ms).toBeLessThan(5000)
      const { status, messages, headers } = await answer
      expect({ status, messages }).toEqual({ status: 200, messages: [] })
      expect(String(headers['content-type'])).toMatch(/^text\/event-stream/)
    }
  )

  /** Sends a call and closes the connection as soon as the server has begun it. */
  async function hangUp(headers: Record<string, string>, params: object, begun: () => boolean) {
    const abort = new AbortController()
    const answer = request(`${gateway.url}/mcp`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...headers },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params }),
      signal: abort.signal
    }).catch(() => {})
    await waitFor(begun, 'the call to run')
    abort.abort()
    await answer
  }

  it.each(['stdio', 'http'])('by closing a modern request reaches the server over %s (§6.43)', async server => {
    const nonce = randomUUID()
    const params = slow(server, nonce)
    const headers = {
      authorization: `Bearer ${secrets.ADMIN}`,
      'mcp-protocol-version': '2026-07-28',
      'mcp-method': 'tools/call',
      'mcp-name': params.name
    }
    await hangUp(headers, { ...params, _meta: envelope }, () => ledger.count(`started ${nonce}`) === 1)
    const begun = performance.now()
    await waitFor(() => ledger.count(`cancelled ${nonce}`) === 1, 'the server to be told')
    console.log(`hung up over ${server}: told after ${(performance.now() - begun).toFixed(0)} ms`)
    expect(performance.now() - begun).toBeLessThan(5000)
  })

  it.each(['stdio', 'http'])(
    'does not happen when a 2025-era client over %s loses its connection (§6.51)',
    async server => {
      const session = await openSession(gateway.url, secrets.ADMIN)
      const nonce = randomUUID()
      await hangUp(session.headers, slow(server, nonce, 500), () => ledger.count(`started ${nonce}`) === 1)
      await waitFor(() => ledger.count(`finished ${nonce}`) === 1, 'the call to finish')
      expect(ledger.count(`cancelled ${nonce}`)).toBe(0)
    }
  )
})

/**
 * A server, over stdio or with PORT over HTTP, whose tool `work` sends `progress` (JSON literals) with its nonce as
 * message, each and the result after a random part of `ms`; the result is the nonce. It notes each nonce in its ledger.
 */
function nonceProgram(): string {
  const file = join(folder, 'nonce-server.mjs')
  const source = String.raw`
    import { appendFileSync } from 'node:fs'
    import { createServer } from 'node:http'
    import { createInterface } from 'node:readline'
    import { setTimeout as pause } from 'node:timers/promises'

    async function answer({ id, method, params }, write) {
      const send = message => write(JSON.stringify({ jsonrpc: '2.0', ...message }))
      if (method === 'initialize') {
        const serverInfo = { name: 'nonce', version: '1' }
        return send({ id, result: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo } })
      }
      if (method === 'tools/list') return send({ id, result: { tools: [{ name: 'work', inputSchema: { type: 'object' } }] } })
      if (method !== 'tools/call') return send({ id, error: { code: -32601, message: 'Method not found' } })
      const { nonce, ms = 0, progress = [] } = params.arguments
      const progressToken = params._meta?.progressToken
      if (process.env.LEDGER) appendFileSync(process.env.LEDGER, nonce + '\n')
      for (const value of progressToken === undefined ? [] : progress) {
        await pause(Math.random() * ms)
        const event = { method: 'notifications/progress', params: { progressToken, message: nonce, progress: '#' } }
        write(JSON.stringify({ jsonrpc: '2.0', ...event }).replace('"#"', value))
      }
      await pause(Math.random() * ms)
      send({ id, result: { content: [{ type: 'text', text: nonce }] } })
    }

    if (process.env.PORT) {
      createServer(async (req, res) => {
        if (req.method !== 'POST') return res.writeHead(405).end()
        let body = ''
        for await (const chunk of req) body += chunk
        const message = JSON.parse(body)
        if (message.id === undefined) return res.writeHead(202).end()
        res.writeHead(200, { 'content-type': 'text/event-stream' })
        await answer(message, json => res.write('data: ' + json + '\n\n'))
        res.end()
      }).listen(Number(process.env.PORT), '127.0.0.1')
    } else {
      const lines = createInterface({ input: process.stdin })
      lines.on('line', line => {
        const message = JSON.parse(line)
        if (message.id !== undefined) void answer(message, json => process.stdout.write(json + '\n'))
      })
      lines.on('close', () => process.exit(0))
    }
  `
  writeFileSync(file, source)
  return file
}

async function freePort(): Promise<number> {
  const probe = createServer()
  await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve))
  const { port } = probe.address() as { port: number }
  await new Promise(resolve => probe.close(resolve))
  return port
}

describe('fifty clients of five keys at once, with equal request ids and equal progress tokens', () => {
  const ids = Array.from({ length: 20 }, (_, i) => i + 1)

  it('each hear exactly what was meant for them, over stdio and HTTP, in both eras (§6.58)', async () => {
    const port = await freePort()
    const nonces = openLedger(join(folder, 'nonces'))
    const shared = { command: process.execPath, args: [nonceProgram()], concurrency: 1000 }
    const LEDGER = nonces.path as string
    const keys = ['k0', 'k1', 'k2', 'k3', 'k4']
    const secretOf = (key: string) => `${key}-secret-of-the-soak-0123456789`
    const soak = await start(
      {
        stdio: { ...shared, env: { LEDGER } },
        http: { ...shared, env: { LEDGER, PORT: String(port) }, url: `http://127.0.0.1:${port}/mcp`, transport: 'http' }
      },
      JSON.stringify(Object.fromEntries(keys.map(key => [key, { secret: `\${${key}}`, allow: '*' }]))),
      Object.fromEntries(keys.map(key => [key, secretOf(key)]))
    )
    onTestFinished(() => soak.close())
    await Promise.all(['stdio', 'http'].map(server => soak.until(server)))

    const clients = await Promise.all(
      Array.from({ length: 50 }, async (_, i) => ({
        name: `client-${i}`,
        send: await client(eras[i % 2] as Era, soak, secretOf(keys[i % 5] as string))
      }))
    )
    const sent: string[] = []

    async function work({ name, send }: { name: string; send: Send }, id: number) {
      const nonce = `${name} call ${id} ${randomUUID()}`
      sent.push(nonce)
      // Half of the tokens are numbers, half strings; some equal the id, which is not to matter.
      const progressToken = id % 2 === 0 ? id % 5 : `${id % 5}`
      const withProgress = id % 4 !== 3
      const reply = await send(
        'tools/call',
        {
          name: `${id % 3 === 0 ? 'http' : 'stdio'}__work`,
          arguments: { nonce, ms: 40, progress: ['1', '2', '3'] },
          ...(withProgress && { _meta: { progressToken } })
        },
        { id }
      )
      expect(reply.status).toBe(200)
      const progress = reply.messages.slice(0, -1)
      expect(progress.map(({ params }) => params)).toEqual(
        withProgress ? [1, 2, 3].map(progress => ({ progressToken, progress, message: nonce })) : []
      )
      expect(reply.json.id).toBe(id)
      expect(reply.json.result.content).toEqual([{ type: 'text', text: nonce }])
    }

    const begun = performance.now()
    await Promise.all(
      clients.map(async each => {
        // At most 100 calls of one key run at a time: ten clients of ten each.
        for (const wave of [ids.slice(0, 10), ids.slice(10)]) await Promise.all(wave.map(id => work(each, id)))
      })
    )
    const ms = performance.now() - begun
    console.log(`1000 calls of 50 clients, nothing crossed: ${ms.toFixed(0)} ms`)
    expect(sent).toHaveLength(1000)
    expect(nonces.lines().sort()).toEqual(sent.sort())
  }, 60_000)
})

describe('a schema that is valid', () => {
  it.each<[string, object]>([
    ['the plainest', { type: 'object' }],
    [
      'with a dialect and definitions',
      {
        $schema: 'https://json-schema.org/draft/2020-12/schema',
        $id: 'https://example.com/tool',
        type: 'object',
        $defs: { node: { type: 'object', properties: { next: { $ref: '#/$defs/node' } } } },
        properties: { root: { $ref: '#/$defs/node' } },
        required: ['root'],
        additionalProperties: false
      }
    ],
    [
      'with combinators and constants',
      {
        type: 'object',
        anyOf: [{ required: ['a'] }, { required: ['b'] }],
        properties: {
          a: { oneOf: [{ const: 'x' }, { enum: ['y', 'z', null] }] },
          b: { not: { type: 'null' } },
          c: { if: { type: 'string' }, then: { minLength: 1 }, else: true }
        }
      }
    ],
    [
      'with arrays of every kind',
      {
        type: 'object',
        properties: {
          plain: { type: 'array', items: { type: 'string' } },
          any: { type: 'array', items: true },
          none: { type: 'array', items: false },
          tuple: { type: 'array', prefixItems: [{ type: 'string' }, { type: 'number' }], items: false },
          openTuple: { type: 'array', prefixItems: [{ type: 'string' }] },
          nullable: { type: ['array', 'null'], items: { type: 'integer' } }
        }
      }
    ],
    [
      'with members in an unusual order and some that nobody knows',
      {
        required: ['z', 'a'],
        'x-vendor': { list: [1, { two: null }] },
        properties: { z: { 'x-ui': { widget: 'slider' }, type: 'number' }, a: { type: ['string', 'null'] } },
        type: 'object',
        title: 'T'
      }
    ],
    [
      'with values that look like schemas',
      {
        type: 'object',
        properties: {
          a: {
            type: 'object',
            default: { type: 'array' },
            const: { type: 'array' },
            enum: [{ type: 'array' }],
            examples: [{ type: 'array' }]
          }
        },
        'x-example': { type: 'array' }
      }
    ],
    [
      'with keys that other programs stumble over',
      {
        type: 'object',
        properties: JSON.parse(
          '{ "constructor": { "type": "string" }, "__proto__": { "type": "string" }, "toString": true }'
        )
      }
    ]
  ])('passes as it is: %s', (_, schema) => {
    expect(exported(schema).text).toContain(`"inputSchema":${JSON.stringify(schema)}`)
  })

  it('passes as it is, whatever it is', () => {
    const key = fc.stringMatching(/^[a-zA-Z0-9_.-]{1,64}$/)
    const { schema } = fc.letrec<{ schema: object }>(tie => ({
      schema: fc.oneof(
        { maxDepth: 5 },
        fc.record({ type: fc.constantFrom('string', 'number', 'integer', 'boolean', 'null') }),
        fc.record({ type: fc.constant('array'), items: tie('schema') }),
        fc.record({ type: fc.constant('object'), properties: fc.dictionary(key, tie('schema'), { maxKeys: 4 }) }),
        fc.record({ anyOf: fc.array(tie('schema'), { minLength: 1, maxLength: 3 }) })
      )
    }))
    fc.assert(
      fc.property(fc.dictionary(key, schema, { maxKeys: 5 }), fc.array(key), (properties, required) => {
        const schema = { type: 'object', properties, required }
        expect(exported(schema).text).toContain(`"inputSchema":${JSON.stringify(schema)}`)
      }),
      { numRuns: 500 }
    )
  })
})

describe('a schema that is invalid or breaks clients', () => {
  it.each([
    ['is missing', undefined],
    ['is null', null],
    ['is empty', {}]
  ])('becomes that of an object when it %s', (_, schema) => {
    expect(exported(schema).inputSchema).toEqual({ type: 'object' })
  })

  it('is said to be an object where it does not say so itself, and nothing else changes', () => {
    const properties = { a: { type: 'string' } }
    expect(exported({ properties, required: ['a'] }).inputSchema).toEqual({
      type: 'object',
      properties,
      required: ['a']
    })
    expect(exported({ type: ['object', 'null'], properties }).inputSchema).toEqual({ type: 'object', properties })
  })

  const any = { type: 'array', items: {} }
  const bare = { type: 'array' }
  it.each<[string, (array: object) => object]>([
    ['a property', array => ({ properties: { a: array } })],
    ['a property of a property', array => ({ properties: { a: { type: 'object', properties: { b: array } } } })],
    ['items', array => ({ properties: { a: { type: 'array', items: array } } })],
    ['prefixItems', array => ({ properties: { a: { type: 'array', prefixItems: [true, array] } } })],
    ['anyOf', array => ({ properties: { a: { anyOf: [{ type: 'null' }, array] } } })],
    ['definitions', array => ({ $defs: { a: array }, properties: { a: { $ref: '#/$defs/a' } } })],
    ['additionalProperties', array => ({ additionalProperties: array })],
    ['a property called default', array => ({ properties: { default: array } })],
    ['a property called enum', array => ({ properties: { enum: array } })],
    ['a property called const', array => ({ properties: { a: { type: 'object', properties: { const: array } } } })],
    ['a property called examples', array => ({ properties: { examples: array } })]
  ])('gets the items that an array in %s lacks', (_, place) => {
    expect(exported({ type: 'object', ...place(bare) }).inputSchema).toEqual({ type: 'object', ...place(any) })
  })

  it('gets the items that a nullable array lacks', () => {
    const schema = { type: 'object', properties: { a: { type: ['array', 'null'] } } }
    expect(exported(schema).inputSchema).toEqual({
      type: 'object',
      properties: { a: { type: ['array', 'null'], items: {} } }
    })
  })

  const badKeys = ['größe', 'with space', '$filter', 'slash/name', 'x'.repeat(65), '', '日本語', 'a b', 'a?b']
  const badSchema = {
    type: 'object',
    properties: Object.fromEntries([...badKeys, 'good_key.1-x'].map(key => [key, { type: 'string', title: key }])),
    required: ['größe', 'good_key.1-x']
  }

  it('gets property keys that every client takes, distinct and always the same', () => {
    const { inputSchema } = exported(badSchema)
    const names = Object.keys(inputSchema.properties)
    expect(names).toHaveLength(badKeys.length + 1)
    for (const name of names) expect(name).toMatch(/^[a-zA-Z0-9_.-]{1,64}$/)
    expect(inputSchema.properties['good_key.1-x']).toEqual({ type: 'string', title: 'good_key.1-x' })
    const nameOf = (key: string) => names.find(name => inputSchema.properties[name].title === key)
    expect(inputSchema.required).toEqual([nameOf('größe'), 'good_key.1-x'])
    expect(exported(badSchema).inputSchema).toEqual(inputSchema)
    const fewer = { type: 'object', properties: { größe: { type: 'string', title: 'größe' } } }
    expect(Object.keys(exported(fewer).inputSchema.properties)).toEqual([nameOf('größe')])
  })

  it.each(['string', 'array', ['string', 'null'], 'null', 7])('hides a tool whose root is of type %j', type => {
    expect(entryOf({ type })).toHaveProperty('hidden', expect.stringContaining('inputSchema'))
  })

  it.each([[[]], ['object'], [true], [7]])('hides a tool whose schema is %j', schema => {
    expect(entryOf(schema)).toHaveProperty('hidden', expect.stringContaining('inputSchema'))
  })

  it('through the gateway: the list is never poisoned, calls get their own argument names back', async () => {
    const server = await startRawHttp()
    onTestFinished(() => server.close())
    server.tools = [
      { name: 'args', inputSchema: badSchema },
      { name: 'echo' },
      { name: 'typed', inputSchema: { type: 'string' } },
      { name: 'slow', inputSchema: { type: 'object', properties: { list: { type: 'array' } } } },
      { description: 'a tool without a name' }
    ]
    const odd = await start({ odd: { url: server.url } })
    onTestFinished(() => odd.close())
    await odd.until('odd')

    for (const era of eras) {
      const send = await client(era, odd)
      const { tools } = (await send('tools/list')).json.result
      expect(tools.map(({ name }: { name: string }) => name)).toEqual(['odd__args', 'odd__echo', 'odd__slow'])
      expect(tools[1].inputSchema).toEqual({ type: 'object' })
      expect(tools[2].inputSchema.properties.list).toEqual({ type: 'array', items: {} })

      const { properties } = tools[0].inputSchema
      const asExported = Object.fromEntries(
        Object.entries<{ title: string }>(properties).map(([name, { title }]) => [name, `value of ${title}`])
      )
      const reply = await send('tools/call', { name: 'odd__args', arguments: { ...asExported, unknown: [1] } })
      expect(JSON.parse(textOf(reply)).params.arguments).toEqual({
        ...Object.fromEntries([...badKeys, 'good_key.1-x'].map(key => [key, `value of ${key}`])),
        unknown: [1]
      })
      const hidden = await send('tools/call', { name: 'odd__typed', arguments: {} })
      expect(hidden.json.error).toEqual({ code: -32602, message: 'Unknown tool: odd__typed' })
    }
    expect(odd.logged('catalog.finding')).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ server: 'odd', tool: 'typed', message: expect.stringMatching(/hidden.*"string"/) }),
        expect.objectContaining({ server: 'odd', message: expect.stringContaining('without a name') })
      ])
    )
  })
})

function entryOf(inputSchema: unknown) {
  const names = { wireName: 'tool', publicName: 'odd__tool', plainName: 'tool' }
  return toolEntry('odd', names, { name: 'tool', ...(inputSchema !== undefined && { inputSchema }) })
}

/** The definition of a tool with that schema as clients get it: the same for all but for the name. */
function exported(inputSchema: unknown): { text: string; inputSchema: any } {
  const entry = entryOf(inputSchema)
  if ('hidden' in entry) throw new Error(`hidden: ${entry.hidden}`)
  const text = entry.bytes('legacy', false).toString()
  expect(entry.bytes('modern', true).toString()).toBe(text.replace('"odd__tool"', '"tool"'))
  return { text, inputSchema: JSON.parse(text).inputSchema }
}

describe("a server's own JSON-RPC error", () => {
  it('keeps its code, its words and members nobody knows', async () => {
    const server = await startRawHttp()
    onTestFinished(() => server.close())
    server.tools.push({ name: 'fleeting', inputSchema: { type: 'object' } })
    const raw = await start({ raw: { url: server.url } })
    onTestFinished(() => raw.close())
    await raw.until('raw')
    server.tools.pop()
    for (const era of eras) {
      const reply = await (await client(era, raw))('tools/call', { name: 'raw__fleeting', arguments: {} })
      expect(reply.json.error).toEqual({
        code: -32602,
        message: 'Unknown tool: fleeting',
        'x-vendor': { depth: 'error' }
      })
    }
  })
})
