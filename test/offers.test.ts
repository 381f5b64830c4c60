/**
 * What the gateway says of itself for all its servers together, and what reaches a client besides answers: word of
 * changes, updates of resources, log messages. Each only to those whom it concerns, and only for as long as they listen.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { createLiveState } from '../src/downstream/live-state.js'
import { KeptOffer } from '../src/upstream/kept-offer.js'
import type { Link } from '../src/upstream/link.js'
import { Upstream } from '../src/upstream/upstream.js'
import { Cancellation } from '../src/wire/cancellation.js'
import { start as startRawOffer } from './fixtures/raw-offer.mjs'
import type { RawOffer, RawOfferOptions } from './fixtures/types.d.mts'
import { bearer, envelope, modern, openSession, post, send, type Reply } from './helpers/http.js'
import { openStream, type Stream } from './helpers/matrix.js'
import { secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const eras = ['legacy', 'modern'] as const
type Era = (typeof eras)[number]
type Params = Record<string, any>

let dir: string
let gateway: TestGateway
const open: { close(): unknown }[] = []

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'switchboard-offers-'))
})
afterEach(async () => {
  vi.restoreAllMocks()
  for (const each of open.splice(0).reverse()) await each.close()
  rmSync(dir, { recursive: true, force: true })
})

/** Ends it after the test, unless the test does. */
function keep<T extends { close(): unknown }>(each: T): T {
  open.push(each)
  return each
}

interface Offered extends RawOfferOptions {
  /** More of its entry in servers.yaml. */
  readonly config?: object
}

const secretOf: Readonly<Record<string, string>> = { admin: '${ADMIN}', developer: '${DEVELOPER}', other: '${OTHER}' }

function yamlOf(servers: object, allow: object = { admin: '*' }): string {
  const keys = Object.entries(allow).map(
    ([id, allow]) => [id, { secret: secretOf[id], allow: allow as object }] as const
  )
  return `servers: ${JSON.stringify(servers)}\nkeys: ${JSON.stringify(Object.fromEntries(keys))}\n`
}

const entryOf = ({ url }: { readonly url: string }, { era = 'legacy', config }: Offered) => ({
  url,
  transport: 'http',
  era,
  ...config
})

/** The gateway over these servers, in this order, and the state directory of this test. */
async function startOver<Id extends string>(
  offered: Readonly<Record<Id, Offered>>,
  allow?: object
): Promise<Readonly<Record<Id, RawOffer>>> {
  const ids = Object.keys(offered) as Id[]
  const started = await Promise.all(ids.map(async name => keep(await startRawOffer({ name, ...offered[name] }))))
  const servers = Object.fromEntries(started.map(server => [server.name, server])) as Record<Id, RawOffer>
  const entries = Object.fromEntries(ids.map(id => [id, entryOf(servers[id], offered[id])]))
  gateway = keep(await startTestGateway(yamlOf(entries, allow), { stateDir: dir }))
  for (const id of ids) await gateway.until(id)
  for (const { capabilities, name, streams } of started) {
    // What tells no changes is not listened to in the era of 2026.
    const tells = offered[name as Id].era !== 'modern' || JSON.stringify(capabilities).includes('"listChanged":true')
    if (tells) await waitFor(() => streams.size === 1, `the stream of the gateway to ${name}`)
  }
  return servers
}

type Session = Awaited<ReturnType<typeof openSession>>

const session = (secret = secrets.ADMIN, path = '/mcp') => openSession(gateway.url, secret, { path })

/** The stream of a client of 2025. */
async function streamOf({ headers }: Session, path = '/mcp'): Promise<Stream> {
  return keep(await openStream(gateway.url + path, headers))
}

/** The stream of a client of 2026 that listens. */
async function listen(notifications: object, secret = secrets.ADMIN, id: string | number = 'sub'): Promise<Stream> {
  const method = 'subscriptions/listen'
  const body = { jsonrpc: '2.0', id, method, params: { notifications, _meta: envelope } }
  const headers = { ...bearer(secret), 'mcp-protocol-version': '2026-07-28', 'mcp-method': method }
  const stream = keep(await openStream(`${gateway.url}/mcp`, headers, body))
  await stream.until(1)
  return stream
}

/** A conversation of 2024 over HTTP+SSE. */
async function openSse(secret = secrets.ADMIN) {
  const stream = keep(await openStream(`${gateway.url}/sse`, bearer(secret)))
  await waitFor(() => stream.text().includes('sessionId='), 'the address for messages')
  const path = /data: (\S+sessionId=\S+)/.exec(stream.text())?.[1] ?? ''
  let next = 1
  const post_ = (message: object) =>
    post(gateway.url + path, { jsonrpc: '2.0', ...message }, bearer(secret)).catch(() => {})
  return {
    stream,
    async rpc(method: string, params?: Params): Promise<any> {
      const id = next++
      void post_({ id, method, params })
      await waitFor(() => stream.messages.some(message => message.id === id), `the answer to ${method}`)
      return stream.messages.find(message => message.id === id)
    },
    say: (method: string, params?: Params) => post_({ id: next++, method, params })
  }
}

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const resources = (...uris: string[]) => uris.map(uri => ({ uri, name: uri }))
const prompts = (...names: string[]) => names.map(name => ({ name }))
const updatesOf = ({ messages }: Stream) =>
  messages
    .filter(({ method }) => method === 'notifications/resources/updated')
    .map(({ params }) => params.uri as string)

/** What the gateway says of itself. */
async function described(era: Era, secret = secrets.ADMIN, path = '/mcp'): Promise<any> {
  if (era === 'modern') return (await modern(gateway.url, secret, 'server/discover', {}, { path })).json.result
  return (await openSession(gateway.url, secret, { path })).opened.json.result
}

describe('capabilities', () => {
  const whole = {
    tools: { listChanged: true },
    prompts: { listChanged: true },
    resources: { subscribe: true, listChanged: true },
    completions: {}
  }
  const wholeIn = (era: Era) => (era === 'legacy' ? { ...whole, logging: {} } : whole)
  const tools = { tools: { listChanged: true } }

  test.each(eras)('are all there are while a server has never been reached, in the %s era', async era => {
    const gone = await startRawOffer()
    await gone.close()
    gateway = keep(await startTestGateway(yamlOf({ gone: entryOf(gone, {}) }), { stateDir: dir }))
    expect((await described(era)).capabilities).toEqual(wholeIn(era))
    await gateway.until('gone', 'down')
    expect((await described(era)).capabilities).toEqual(wholeIn(era))
  })

  test.each(eras)('are those of any server the key may see, in the %s era', async era => {
    await startOver(
      {
        plain: { capabilities: { tools: {} } },
        texts: { era: 'modern', capabilities: { prompts: {}, completions: {} } },
        files: { capabilities: { resources: {}, logging: {} } }
      },
      {
        admin: '*',
        developer: { plain: '*', texts: { tools: ['*'], resources: ['*'] }, files: { resources: ['!file:///**'] } },
        other: { files: { resources: ['file:///**'] }, texts: { prompts: ['*'] } }
      }
    )
    const of = async (secret?: string, path?: string) => (await described(era, secret, path)).capabilities
    const logging = era === 'legacy' && { logging: {} }
    const prompts = { listChanged: true }
    const completions = {}
    // No server takes subscriptions, so none are promised; changes of lists are found out if need be.
    const resources = { listChanged: true }
    expect(await of()).toEqual({ ...tools, prompts, completions, resources, ...logging })
    expect(await of(secrets.ADMIN, '/mcp/plain')).toEqual(tools)
    expect(await of(secrets.ADMIN, '/mcp?servers=plain,files')).toEqual({ ...tools, resources, ...logging })
    // A right to nothing, or to a kind the server does not have, promises nothing of that kind.
    expect(await of(secrets.DEVELOPER)).toEqual({ ...tools, completions })
    expect(await of(secrets.OTHER)).toEqual({ ...tools, prompts, completions, resources, ...logging })
  })

  test.each(eras)('stay when a server goes down, and when the gateway starts without it, in the %s era', async era => {
    const offered = {
      plain: { capabilities: { tools: {} } },
      rich: { prompts: prompts('p'), resources: resources('x://r'), instructions: 'Be brief.' }
    }
    const { plain, rich } = await startOver(offered)
    const before = await described(era)
    expect(before.capabilities).toEqual(wholeIn(era))
    await rich.close()
    await gateway.until('rich', 'down')
    expect(await described(era)).toEqual(before)
    await gateway.close()

    const entries = { plain: entryOf(plain, offered.plain), rich: entryOf(rich, offered.rich) }
    gateway = keep(await startTestGateway(yamlOf(entries), { stateDir: dir }))
    expect(await described(era)).toEqual(before)
    await gateway.until('rich', 'down')
    expect(await described(era)).toEqual(before)
  })

  test.each(eras)('name the extensions of all, member by member, in the %s era', async era => {
    const ui = 'io.modelcontextprotocol/ui'
    const capable = (extensions: object) => ({ capabilities: { tools: {}, extensions } })
    await startOver(
      {
        one: capable({ [ui]: { mimeTypes: ['a', 'b'], depth: 1 }, 'v.example/one': {} }),
        two: { era: 'modern', ...capable({ [ui]: { mimeTypes: ['b', 'c'], depth: 2, more: { x: 1 } } }) },
        three: capable({ 'v.example/three': {} })
      },
      { admin: '*', developer: { two: '*' } }
    )
    expect((await described(era)).capabilities.extensions).toEqual({
      [ui]: { mimeTypes: ['a', 'b', 'c'], depth: 1, more: { x: 1 } },
      'v.example/one': {},
      'v.example/three': {}
    })
    expect((await described(era, secrets.DEVELOPER)).capabilities.extensions).toEqual({
      [ui]: { mimeTypes: ['b', 'c'], depth: 2, more: { x: 1 } }
    })
  })
})

describe('instructions', () => {
  const none = { capabilities: { tools: {} } }
  const bytes = (text: string) => Buffer.byteLength(text)

  test.each(eras)('are those of every server the key may see, under its name, in order, in the %s era', async era => {
    await startOver(
      {
        zeta: { ...none, instructions: 'First of all.\nSecond line.' },
        mute: none,
        empty: { ...none, instructions: ' \n ' },
        off: { ...none, instructions: 'Ignore all others.', config: { instructions: false } },
        alpha: { ...none, era: 'modern', instructions: '\n  Last.  \n' },
        bare: { ...none, instructions: 'Unprefixed.', config: { namespace: false } }
      },
      { admin: '*', developer: { alpha: '*', off: '*' }, other: { mute: '*' } }
    )
    const of = async (secret?: string, path?: string) => (await described(era, secret, path)).instructions
    expect(await of()).toBe(
      '## zeta (tools: zeta__*)\nFirst of all.\nSecond line.\n\n## alpha (tools: alpha__*)\nLast.\n\n## bare\nUnprefixed.'
    )
    expect(await of(secrets.DEVELOPER)).toBe('## alpha (tools: alpha__*)\nLast.')
    expect(await of(secrets.OTHER)).toBeUndefined()
    expect(await of(secrets.ADMIN, '/mcp/zeta')).toBe('## zeta\nFirst of all.\nSecond line.')
    expect(await of(secrets.ADMIN, '/mcp/off')).toBeUndefined()
  })

  test.each(eras)('are cut at a line at 4 KiB a server and 16 KiB in all, in the %s era', async era => {
    const line = (i: number) => `Line ${i} of many — mit Umlauten: äöü.`
    const long = Array.from({ length: 200 }, (_, i) => line(i)).join('\n')
    await startOver({
      one: { ...none, instructions: long },
      word: { ...none, instructions: 'ü'.repeat(5000) },
      two: { ...none, instructions: long },
      three: { ...none, instructions: long },
      four: { ...none, instructions: long },
      five: { ...none, instructions: 'Not even this.' }
    })
    const { instructions } = (await described(era)) as { instructions: string }
    expect(bytes(instructions)).toBeLessThanOrEqual(16 * 1024)
    expect(bytes(instructions)).toBeGreaterThan(14 * 1024)
    const blocks = instructions.split('\n\n')
    for (const block of blocks) {
      expect(bytes(block)).toBeLessThanOrEqual(4 * 1024)
      expect(block).toMatch(/^## \w+ \(tools: \w+__\*\)\n/)
      expect(block).toMatch(/\n\[cut: [^\n]*\]$/)
      expect(block).not.toContain('\uFFFD')
    }
    const [first = '', word = ''] = blocks
    const kept = first.split('\n').slice(1, -1)
    expect(kept).toEqual(kept.map((_, i) => line(i)))
    expect(kept.length).toBeGreaterThan(80)
    expect(bytes(word)).toBeGreaterThan(3 * 1024)
  })
})

describe('word of a change', () => {
  const streams: Record<string, Stream> = {}
  const change = { promptsListChanged: true, resourcesListChanged: true, toolsListChanged: true }
  let web: RawOffer

  beforeEach(async () => {
    const offered: Record<'web' | 'calm', Offered> = {
      web: {
        prompts: prompts('greet', 'review'),
        resources: resources('data://open/a', 'data://shut/a'),
        resourceTemplates: [{ uriTemplate: 'data://open/{x}', name: 'x' }]
      },
      calm: { era: 'modern', prompts: prompts('calm'), resources: resources('calm://r') }
    }
    web = (
      await startOver(offered, {
        admin: '*',
        developer: { web: { prompts: ['gr*'], resources: ['data://open/**'] } },
        other: { calm: '*', web: ['*'] }
      })
    ).web
    for (const name of Object.keys(streams)) delete streams[name]
    for (const [name, secret] of [
      ['admin', secrets.ADMIN],
      ['developer', secrets.DEVELOPER],
      ['other', secrets.OTHER]
    ] as const) {
      streams[`${name}, 2025`] = await streamOf(await session(secret))
      streams[`${name}, 2026`] = await listen(change, secret)
      streams[`${name}, SSE`] = (await openSse(secret)).stream
    }
    streams['admin, only calm'] = await streamOf(await session(secrets.ADMIN, '/mcp?servers=calm'), '/mcp?servers=calm')
    streams['admin, 2026, tools'] = await listen({ toolsListChanged: true })
  })

  /** Who has heard what since the last look. */
  const heard = (() => {
    const seen = new Map<Stream, number>()
    return () =>
      Object.entries(streams).flatMap(([name, stream]) => {
        const fresh = stream.messages.slice(seen.get(stream) ?? 0)
        seen.set(stream, stream.messages.length)
        return fresh
          .map(({ method }) => String(method))
          .filter(method => method.endsWith('list_changed'))
          .map(method => `${name}: ${method.slice('notifications/'.length, -'/list_changed'.length)}`)
      })
  })()
  async function changed(kind: 'prompts' | 'resources', method = `${kind}/list`): Promise<string[]> {
    const before = web.asked(method).length
    web.notify(`notifications/${kind}/list_changed`)
    await waitFor(() => web.asked(method).length > before, 'the list to be fetched again', 8000)
    await pause(200)
    return heard()
  }
  const all = (kind: string, ...keys: string[]) =>
    keys.flatMap(key => ['2025', '2026', 'SSE'].map(how => `${key}, ${how}: ${kind}`))

  test('of prompts comes once to each key whose view of them changed, and to no other (§6.34)', async () => {
    web.prompts = prompts('greet', 'review', 'greet_all')
    expect(await changed('prompts')).toEqual(all('prompts', 'admin', 'developer'))
    web.prompts = [{ name: 'greet' }, { name: 'review', description: 'A new text.' }, { name: 'greet_all' }]
    expect(await changed('prompts')).toEqual(all('prompts', 'admin'))
    web.prompts.reverse()
    expect(await changed('prompts')).toEqual([])
  })

  test('of resources and of templates alike (§6.34)', async () => {
    web.resources = resources('data://open/a', 'data://open/b', 'data://shut/a')
    expect(await changed('resources')).toEqual(all('resources', 'admin', 'developer'))
    web.resources = resources('data://open/a', 'data://open/b')
    expect(await changed('resources')).toEqual(all('resources', 'admin'))
    web.resourceTemplates = []
    expect(await changed('resources', 'resources/templates/list')).toEqual(all('resources', 'admin', 'developer'))
  })

  test('comes when a URI is shown otherwise, because another server has it now (§6.34)', async () => {
    web.resources = resources('data://open/a', 'data://shut/a', 'calm://r')
    expect(await changed('resources')).toEqual(all('resources', 'admin'))
    const admin = await session()
    const uris = (await admin.rpc('resources/list')).json.result.resources.map(({ uri }: any) => uri as string)
    expect(uris.slice(2)).toEqual(['calm://r', 'mcpgw:calm:calm://r'])
  })

  test('does not come of a server that goes away and comes back with the same (§6.34)', async () => {
    await web.close()
    await gateway.until('web', 'down')
    const { prompts, resources, resourceTemplates, port } = web
    keep(await startRawOffer({ name: 'web', prompts, resources, resourceTemplates, port }))
    await gateway.until('web')
    await pause(300)
    expect(heard()).toEqual([])
  })
})

describe('log messages', () => {
  const levels = ['debug', 'info', 'notice', 'warning', 'error', 'critical', 'alert', 'emergency']
  const from = (level: string) => levels.slice(levels.indexOf(level))
  const logged = ({ messages }: Pick<Reply, 'messages'>) =>
    messages.filter(({ method }) => method === 'notifications/message').map(({ params }) => params.level as string)
  const tools = [{ name: 'log', inputSchema: { type: 'object' } }]
  const name = 'up__log'
  const logLevel = (level: string) => ({ _meta: { 'io.modelcontextprotocol/logLevel': level } })
  /** Sends one of every level, and some that are none, whatever was asked of it. */
  const rude = {
    tools,
    prompts: prompts('p'),
    resources: resources('x://r'),
    answers: Object.fromEntries(
      [
        ['tools/call', { content: [] }],
        ['prompts/get', { messages: [] }],
        ['resources/read', { contents: [] }]
      ].map(([method, result]) => [
        method,
        ({ arguments: args }: Params) => ({
          before: [...levels, 'loud', undefined].map(level => ({
            method: 'notifications/message',
            params: { level, data: args, 'x-vendor': { at: 'message' } }
          })),
          result: result as object
        })
      ])
    )
  }

  test.each(eras)('of a %s server come to a session of 2025 from info on, until it asks for others', async era => {
    const { up } = await startOver({ up: { era, tools } })
    const [mine, others] = [await session(), await session()]
    const call = (session: Session) => session.rpc('tools/call', { name })
    // A modern server logs nothing unasked: what it was not asked for, nobody gets.
    expect(logged(await call(mine))).toEqual(era === 'legacy' ? from('info') : [])
    for (const level of ['error', 'debug', 'emergency', 'warning']) {
      expect((await mine.rpc('logging/setLevel', { level })).json.result).toEqual({})
      await waitFor(
        () => era === 'modern' || up.asked('logging/setLevel').length > 0,
        'the server to be told',
        3000
      ).catch(() => {})
      await pause(50)
      expect([level, logged(await call(mine))]).toEqual([level, from(level)])
    }
    expect(logged(await call(others))).toEqual(era === 'legacy' ? from('info') : [])
  })

  test('that one session does not want still come to another that never said anything', async () => {
    const { up } = await startOver({ up: { tools } }, { admin: '*', developer: '*' })
    const [quiet, silent] = [await session(), await session(secrets.DEVELOPER)]
    await quiet.rpc('logging/setLevel', { level: 'emergency' })
    await pause(200)
    // A server of 2025 has one level for all: it must be low enough for everyone.
    for (const { level } of up.asked('logging/setLevel')) expect(['debug', 'info']).toContain(level)
    expect(logged(await silent.rpc('tools/call', { name }))).toEqual(from('info'))
    expect(logged(await quiet.rpc('tools/call', { name }))).toEqual(from('emergency'))
  })

  test('are asked for anew of a server that comes back', async () => {
    const { up } = await startOver({ up: { tools } })
    const mine = await session()
    await mine.rpc('logging/setLevel', { level: 'debug' })
    await waitFor(() => up.asked('logging/setLevel').length === 1, 'the server to be told')
    await up.close()
    await gateway.until('up', 'down')
    const again = keep(await startRawOffer({ name: 'up', tools, level: 'warning', port: up.port }))
    await waitFor(() => again.asked('logging/setLevel').length === 1, 'the server to be told again')
    expect(again.asked('logging/setLevel')[0]).toEqual({ level: 'debug' })
    expect(logged(await mine.rpc('tools/call', { name }))).toEqual(levels)
  })

  test('are not asked for of a server that has none', async () => {
    const { up } = await startOver({ up: { tools, capabilities: { tools: {} } }, more: {} })
    await (await session()).rpc('logging/setLevel', { level: 'debug' })
    await pause(200)
    expect(up.asked('logging/setLevel')).toEqual([])
  })

  test.each(eras)(
    'of a %s server come to a client of 2026 only if the request asks, from that level on (§6.46)',
    async era => {
      await startOver({ up: { era, ...rude } })
      const asks: [string, Params][] = [
        ['tools/call', { name: 'up__log' }],
        ['prompts/get', { name: 'up__p' }],
        ['resources/read', { uri: 'x://r' }]
      ]
      for (const [method, params] of asks) {
        const unasked = await modern(gateway.url, secrets.ADMIN, method, params)
        expect([unasked.headers['content-type'], logged(unasked)]).toEqual(['application/json', []])
        for (const level of ['debug', 'warning', 'emergency']) {
          const asked = await modern(gateway.url, secrets.ADMIN, method, { ...params, ...logLevel(level) })
          expect([method, level, logged(asked)]).toEqual([method, level, from(level)])
          expect(asked.messages.slice(0, -1).map(({ params }) => params['x-vendor'] as object)).toEqual(
            from(level).map(() => ({ at: 'message' }))
          )
        }
      }
    }
  )

  test.each(['loud', '', 'DEBUG'])('do not come at a level that is none: %j (§6.46)', async level => {
    await startOver({ up: rude })
    const reply = await modern(gateway.url, secrets.ADMIN, 'tools/call', { name, ...logLevel(level) })
    expect(logged(reply)).toEqual([])
  })

  test.each(['loud', '', 'DEBUG', 7, null, undefined])(
    'at the level %j are refused, and the level stays',
    async level => {
      await startOver({ up: rude })
      const mine = await session()
      await mine.rpc('logging/setLevel', { level: 'alert' })
      const { json } = await mine.rpc('logging/setLevel', { level })
      expect(json.error).toMatchObject({ code: -32602, message: expect.stringContaining('emergency') })
      expect(logged(await mine.rpc('tools/call', { name }))).toEqual(from('alert'))
    }
  )

  test('cannot be set by a method that 2026 does not have', async () => {
    await startOver({ up: rude })
    const { status, json } = await modern(gateway.url, secrets.ADMIN, 'logging/setLevel', { level: 'debug' })
    expect([status, json.error.code]).toEqual([404, -32601])
  })

  test("of a call are its caller's alone, and those of no call are nobody's", async () => {
    const slow = rude.answers['tools/call']!
    const { up } = await startOver(
      { up: { ...rude, answers: { 'tools/call': async (params: Params) => (await pause(50), slow(params)) } } },
      { admin: '*', developer: '*' }
    )
    const callers = [await session(), await session(), await session(secrets.DEVELOPER)]
    const streams = await Promise.all(callers.map(each => streamOf(each)))
    const listening = await listen({ toolsListChanged: true }, secrets.DEVELOPER)
    for (const each of callers) await each.rpc('logging/setLevel', { level: 'debug' })
    up.notify('notifications/message', { level: 'error', data: 'to nobody' })
    const replies = await Promise.all(
      callers.flatMap((each, i) => [1, 2].map(n => each.rpc('tools/call', { name, arguments: { by: i, n } })))
    )
    for (const [at, { messages }] of replies.entries()) {
      const data = messages.slice(0, -1).map(({ params }) => params.data as object)
      expect(data).toEqual(levels.map(() => ({ by: Math.floor(at / 2), n: (at % 2) + 1 })))
    }
    await pause(200)
    expect(streams.map(({ messages }) => messages.length)).toEqual([0, 0, 0])
    expect(listening.messages).toHaveLength(1)
  })
})

describe('a subscription', () => {
  const uri = 'x://r'
  const offered = { resources: resources('x://r', 'x://s'), prompts: prompts('p') }
  /** The URIs the server is asked to tell of at the moment, each as often as it is asked. */
  const wantedOf = (up: RawOffer, era: Era) =>
    era === 'modern'
      ? [...up.streams].flatMap(({ filter }) => (filter?.resourceSubscriptions ?? []) as string[])
      : up.asked('resources/subscribe').map(params => params.uri as string)

  /** Every release of a subscription in the gateway, by URI. */
  function releases(): string[] {
    const released: string[] = []
    // eslint-disable-next-line @typescript-eslint/unbound-method -- called with its own `this`
    const subscribe = Upstream.prototype.subscribe
    vi.spyOn(Upstream.prototype, 'subscribe').mockImplementation(async function (this: Upstream, uri, listener) {
      const release = await subscribe.call(this, uri, listener)
      return () => {
        released.push(uri)
        release()
      }
    })
    return released
  }

  test.each(eras)('of many clients is one at a %s server, and each hears for as long as it listens', async era => {
    const { up } = await startOver({ up: { era, ...offered } })
    const [one, two] = [await session(), await session()]
    const streams = [await streamOf(one), await streamOf(two), await listen({ resourceSubscriptions: [uri] })]
    const old = await openSse()
    await old.rpc('initialize', { protocolVersion: '2024-11-05', capabilities: {}, clientInfo: {} })
    expect((await old.rpc('resources/subscribe', { uri })).result).toEqual({})
    for (const each of [one, two, one]) expect((await each.rpc('resources/subscribe', { uri })).json.result).toEqual({})
    expect(wantedOf(up, era)).toEqual([uri])
    const hears = async () => {
      const before = [...streams, old.stream].map(stream => updatesOf(stream).length)
      up.notify('notifications/resources/updated', { uri })
      await pause(150)
      return [...streams, old.stream].map((stream, i) => updatesOf(stream).length - (before[i] as number))
    }
    expect(await hears()).toEqual([1, 1, 1, 1])
    const message = streams[2]!.messages.at(-1)
    expect(message.params).toEqual({ uri, _meta: { 'io.modelcontextprotocol/subscriptionId': 'sub' } })
    expect(streams[0]!.messages.at(-1)).toEqual({ jsonrpc: '2.0', method: message.method, params: { uri } })

    // Asked for twice by one session, it is ended by its word once.
    expect((await one.rpc('resources/unsubscribe', { uri })).json.result).toEqual({})
    expect(await hears()).toEqual([0, 1, 1, 1])
    expect((await old.rpc('resources/unsubscribe', { uri })).result).toEqual({})
    expect(await hears()).toEqual([0, 1, 1, 0])
    streams[2]!.close()
    await two.rpc('resources/unsubscribe', { uri })
    await pause(100)
    expect(await hears()).toEqual([0, 0, 0, 0])

    // It lingers: who comes back at once costs the server nothing.
    await one.rpc('resources/subscribe', { uri })
    expect(wantedOf(up, era)).toEqual([uri])
    expect(up.asked('resources/unsubscribe')).toEqual([])
    expect(await hears()).toEqual([1, 0, 0, 0])
  })

  test('of several resources is one stream to a modern server, with all of them', async () => {
    const { up } = await startOver({ up: { era: 'modern', ...offered } })
    const one = await session()
    const stream = await streamOf(one)
    const acknowledged = (await listen({ resourceSubscriptions: ['x://s', 'x://r'], promptsListChanged: true }))
      .messages[0]
    expect(acknowledged.params.notifications).toEqual({
      promptsListChanged: true,
      resourceSubscriptions: ['x://s', 'x://r']
    })
    for (const uri of ['x://r', 'x://t']) await one.rpc('resources/subscribe', { uri })
    await waitFor(() => up.streams.size === 1, 'the streams before it to end')
    expect([...up.streams][0]?.filter).toEqual({
      toolsListChanged: true,
      promptsListChanged: true,
      resourcesListChanged: true,
      resourceSubscriptions: ['x://s', 'x://r', 'x://t']
    })
    up.notify('notifications/resources/updated', { uri: 'x://t' })
    await stream.until(1)
    expect(updatesOf(stream)).toEqual(['x://t'])
  })

  test.each(eras)('is asked for again of a %s server that comes back, and nobody notices (§6.67)', async era => {
    const { up } = await startOver({ up: { era, ...offered } })
    const one = await session()
    const streams = [await streamOf(one), await listen({ resourceSubscriptions: ['x://s'] })]
    await one.rpc('resources/subscribe', { uri })
    await up.close()
    await gateway.until('up', 'down')
    // Meanwhile somebody asks for another one: it is not made to wait.
    expect((await one.rpc('resources/subscribe', { uri: 'x://while-down' })).json.result).toEqual({})
    const again = keep(await startRawOffer({ name: 'up', era, ...offered, port: up.port }))
    await gateway.until('up')
    const all = ['x://r', 'x://s', 'x://while-down']
    await waitFor(() => again.streams.size === 1 && wantedOf(again, era).length === 3, 'what is asked again', 5000)
    expect(wantedOf(again, era).sort()).toEqual(all)
    for (const uri of all) again.notify('notifications/resources/updated', { uri })
    await waitFor(() => updatesOf(streams[0]!).length === 2, 'the updates', 3000)
    expect(streams.map(updatesOf)).toEqual([['x://r', 'x://while-down'], ['x://s']])
    expect(streams.map(stream => stream.ended())).toEqual([false, false])
  })

  test('is refused where the server does not take it, in the words of each era', async () => {
    await startOver({
      deaf: { resources: resources('deaf://r'), capabilities: { resources: { listChanged: true } } },
      sour: {
        resources: resources('sour://r'),
        answers: { 'resources/subscribe': () => ({ error: { code: -32603, message: 'no more room' } }) }
      },
      picky: {
        era: 'modern',
        resources: resources('picky://r'),
        honours: ({ resourceSubscriptions: _, ...rest }) => rest as object
      },
      fine: offered
    })
    const one = await session()
    const codeOf = async (uri: unknown) => (await one.rpc('resources/subscribe', { uri })).json.error
    expect(await codeOf('deaf://r')).toMatchObject({ code: -32601, message: expect.stringContaining('deaf://r') })
    expect(await codeOf('sour://r')).toMatchObject({ message: expect.stringContaining('no more room') })
    expect(await codeOf('picky://r')).toMatchObject({ code: -31502, data: { server: 'picky' } })
    expect((await codeOf('nobody://has/it')).code).toBe(-32002)
    expect((await codeOf(undefined)).code).toBe(-32602)
    expect((await codeOf(7)).code).toBe(-32602)
    const wanted = ['deaf://r', 'sour://r', 'picky://r', 'x://r', 'nobody://has/it', 7]
    const { messages } = await listen({ resourceSubscriptions: wanted })
    expect(messages[0].params.notifications).toEqual({ resourceSubscriptions: ['x://r'] })
    const { status, json } = await modern(gateway.url, secrets.ADMIN, 'resources/subscribe', { uri: 'x://r' })
    expect([status, json.error.code]).toEqual([404, -32601])
  })

  test('of a client of 2025 ends with its session, of one of 2026 with its stream', async () => {
    const released = releases()
    await startOver({ up: offered })
    const one = await session()
    for (const uri of ['x://r', 'x://s']) await one.rpc('resources/subscribe', { uri })
    const old = await openSse()
    await old.rpc('resources/subscribe', { uri: 'x://r' })
    const stream = await listen({ resourceSubscriptions: ['x://s'] })
    expect(released).toEqual([])
    expect((await send('DELETE', `${gateway.url}/mcp`, one.headers)).status).toBe(200)
    expect(released.sort()).toEqual(['x://r', 'x://s'])
    old.stream.close()
    await waitFor(() => released.length === 3, 'the end of the conversation over SSE')
    stream.close()
    await waitFor(() => released.length === 4, 'the end of the stream')
    expect(released.slice(2)).toEqual(['x://r', 'x://s'])
  })

  test.each(['2025, DELETE', '2024, stream closed', '2026, stream closed'])(
    'that is still being asked for ends too when its client goes (%s)',
    async how => {
      const released = releases()
      let asked = 0
      const slowly = () => new Promise<undefined>(resolve => setTimeout(() => resolve(undefined), 400))
      await startOver({ up: { ...offered, answers: { 'resources/subscribe': () => (asked++, slowly()) } } })
      const isAsked = () => waitFor(() => asked === 1, 'the server to be asked')
      if (how.startsWith('2025')) {
        const one = await session()
        const answer = one.rpc('resources/subscribe', { uri })
        await isAsked()
        await send('DELETE', `${gateway.url}/mcp`, one.headers)
        await answer
      } else if (how.startsWith('2024')) {
        const old = await openSse()
        await old.say('resources/subscribe', { uri })
        await isAsked()
        old.stream.close()
      } else {
        const abort = new AbortController()
        const params = { notifications: { resourceSubscriptions: [uri] }, _meta: envelope }
        const answer = fetch(`${gateway.url}/mcp`, {
          method: 'POST',
          signal: abort.signal,
          headers: { ...bearer(secrets.ADMIN), 'content-type': 'application/json', 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'subscriptions/listen' }, // prettier-ignore
          body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'subscriptions/listen', params })
        }).catch(() => {})
        await isAsked()
        abort.abort()
        await answer
      }
      await waitFor(() => released.length === 1, 'its release', 2000)
    }
  )
})

describe('a subscription at a server', () => {
  const minute = 60_000
  let asked: [method: string, params: any][]
  let links: { readonly link: Link; cancelled: boolean[] }
  let kept: KeptOffer

  /** A connection to a server of that era, made of nothing but answers. */
  function linkOf(era: Era): typeof links {
    const cancelled: boolean[] = []
    const link: Link = {
      info: { era, version: '', capabilities: { resources: { subscribe: true } }, serverInfo: {} },
      hears: true,
      close: () => Promise.resolve(),
      request(method, params, leg) {
        if (!method.endsWith('list')) asked.push([method, params])
        if (method !== 'subscriptions/listen')
          return Promise.resolve({ result: { resources: [], resourceTemplates: [] } })
        const at = cancelled.push(false) - 1
        queueMicrotask(() =>
          leg.onNotification?.({
            jsonrpc: '2.0',
            method: 'notifications/subscriptions/acknowledged',
            params: params
          })
        )
        return new Promise((_, reject) =>
          leg.cancellation.onCancel(reason => {
            cancelled[at] = true
            reject(reason)
          })
        )
      }
    }
    return { link, cancelled }
  }
  const methods = () => asked.map(([method]) => method)
  const filters = () =>
    asked.map(([, { notifications }]) => notifications?.resourceSubscriptions as string[] | undefined)

  beforeEach(() => {
    vi.useFakeTimers()
    asked = []
    kept = new KeptOffer({
      server: 'kept',
      identity: { name: 'switchboard', version: '0' },
      limits: { timeoutMs: 15_000, listItems: 10_000, listPages: 100 },
      onFetched: () => {},
      onProblem: () => {},
      onGone: () => {}
    })
  })
  afterEach(() => {
    kept.leave()
    vi.useRealTimers()
  })

  test('is given up half a minute after the last client has let go, and not before', async () => {
    links = linkOf('legacy')
    await kept.follow(links.link)
    const first = await kept.subscribe('x://r', () => {})
    const second = await kept.subscribe('x://r', () => {})
    first()
    first()
    await vi.advanceTimersByTimeAsync(minute)
    expect(methods()).toEqual(['resources/subscribe'])
    second()
    await vi.advanceTimersByTimeAsync(29_000)
    expect(methods()).toEqual(['resources/subscribe'])
    const third = await kept.subscribe('x://r', () => {})
    await vi.advanceTimersByTimeAsync(minute)
    expect(methods()).toEqual(['resources/subscribe'])
    third()
    await vi.advanceTimersByTimeAsync(30_000)
    expect(asked).toEqual([
      ['resources/subscribe', { uri: 'x://r' }],
      ['resources/unsubscribe', { uri: 'x://r' }]
    ])
    await kept.subscribe('x://r', () => {})
    expect(methods().slice(2)).toEqual(['resources/subscribe'])
  })

  test('of 2026 is given up the same way, by a stream that leaves it out', async () => {
    links = linkOf('modern')
    await kept.follow(links.link)
    const ends = [await kept.subscribe('x://r', () => {}), await kept.subscribe('x://s', () => {})]
    expect(filters()).toEqual([['x://r'], ['x://r', 'x://s']])
    expect(links.cancelled).toEqual([true, false])
    ends[0]?.()
    await vi.advanceTimersByTimeAsync(30_000)
    expect(filters()).toEqual([['x://r'], ['x://r', 'x://s'], ['x://s']])
    expect(links.cancelled).toEqual([true, true, false])
    ends[1]?.()
    await vi.advanceTimersByTimeAsync(30_000)
    // Nothing is left to listen for.
    expect(links.cancelled).toEqual([true, true, true])
    expect(asked).toHaveLength(3)
  })

  test('that nobody needs any more when the server comes back is not asked for again for long', async () => {
    links = linkOf('legacy')
    await kept.follow(links.link)
    const end = await kept.subscribe('x://r', () => {})
    kept.leave()
    end()
    await vi.advanceTimersByTimeAsync(minute)
    const next = linkOf('legacy')
    await kept.follow(next.link)
    expect(methods()).toEqual(['resources/subscribe'])
  })
})

describe('what a key holds open', () => {
  const keyOf = (id: string) => ({ id, revocation: new Cancellation() })
  const [admin, other] = [keyOf('admin'), keyOf('other')]

  test('has 100 places: whoever takes one more loses the oldest, and other keys lose nothing', () => {
    const held = createLiveState(100)
    const evicted: string[] = []
    const hold = (key: typeof admin, name: string) => held.hold(key, () => evicted.push(name))
    hold(other, 'foreign')
    const leaves = Array.from({ length: 100 }, (_, i) => hold(admin, `${i}`))
    expect(evicted).toEqual([])
    hold(admin, '100')
    expect(evicted).toEqual(['0'])
    // What has been evicted gives back no place a second time; what leaves does.
    leaves[0]?.()
    hold(admin, '101')
    expect(evicted).toEqual(['0', '1'])
    leaves[2]?.()
    leaves[2]?.()
    hold(admin, '102')
    expect(evicted).toEqual(['0', '1'])
    hold(admin, '103')
    expect(evicted).toEqual(['0', '1', '3'])
  })

  test('is given up whole when the key goes, and at once by who came too late', async () => {
    const held = createLiveState(2)
    const [admin, again] = [keyOf('admin'), keyOf('admin')]
    const evicted: string[] = []
    const leave = held.hold(admin, () => evicted.push('a'))
    held.hold(admin, () => evicted.push('b'))
    held.hold(other, () => evicted.push('c'))
    admin.revocation.cancel(new Error('revoked'))
    expect(evicted).toEqual(['a', 'b'])
    leave()
    for (const name of ['d', 'e']) held.hold(again, () => evicted.push(name))
    expect(evicted).toEqual(['a', 'b'])
    held.hold(again, () => evicted.push('f'))
    expect(evicted).toEqual(['a', 'b', 'd'])
    held.hold(keyOf('third'), () => evicted.push('never'))
    held.hold({ ...admin, id: 'third' }, () => evicted.push('late'))
    expect(evicted).toHaveLength(3)
    await Promise.resolve()
    expect(evicted).toEqual(['a', 'b', 'd', 'late'])
  })

  test('may give up something else in its turn', () => {
    const held = createLiveState(1)
    const evicted: string[] = []
    const leave = held.hold(admin, () => {
      evicted.push('a')
      leave()
    })
    held.hold(admin, () => evicted.push('b'))
    expect(evicted).toEqual(['a'])
  })

  test('ends the oldest of 101 streams of 2026 with its result, and no other', async () => {
    await startOver({ up: {} }, { admin: '*', developer: '*' })
    const foreign = await listen({ toolsListChanged: true }, secrets.DEVELOPER)
    const streams: Stream[] = []
    for (let i = 0; i < 101; i++) streams.push(await listen({ toolsListChanged: true }, secrets.ADMIN, i))
    await waitFor(() => streams[0]!.ended(), 'the end of the oldest', 5000)
    expect(streams[0]!.messages.at(-1)).toEqual({
      jsonrpc: '2.0',
      id: 0,
      result: { resultType: 'complete', _meta: { 'io.modelcontextprotocol/subscriptionId': 0 } }
    })
    await pause(100)
    expect(streams.filter(stream => stream.ended())).toHaveLength(1)
    expect(foreign.ended()).toBe(false)
  })

  test('ends the oldest of 101 streams of 2025, whose session goes on', async () => {
    await startOver({ up: { prompts: prompts('p') } })
    const sessions = await Promise.all(Array.from({ length: 101 }, () => session()))
    const streams: Stream[] = []
    for (const each of sessions) streams.push(await streamOf(each))
    await waitFor(() => streams[0]!.ended(), 'the end of the oldest', 5000)
    await pause(100)
    expect(streams.filter(stream => stream.ended())).toHaveLength(1)
    const { status, json } = await sessions[0]!.rpc('prompts/list')
    expect([status, json.result.prompts.length]).toEqual([200, 1])
    const again = await streamOf(sessions[0]!)
    expect([again.status, again.ended()]).toEqual([200, false])
  })

  test('counts subscriptions of 2025 too: the oldest is let go', async () => {
    const { up } = await startOver({ up: { resources: resources('x://0') } })
    const one = await session()
    for (let i = 0; i < 100; i++) await one.rpc('resources/subscribe', { uri: `x://${i}` })
    const two = await session()
    const stream = await streamOf(one)
    await two.rpc('resources/subscribe', { uri: 'x://100' })
    // The stream of `one` took the place of x://0, and x://100 that of x://1.
    for (const uri of ['x://0', 'x://1', 'x://2']) up.notify('notifications/resources/updated', { uri })
    await stream.until(1)
    await pause(100)
    expect(updatesOf(stream)).toEqual(['x://2'])
  })
})
