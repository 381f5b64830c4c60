/**
 * What a key may not use does not exist for it: lists leave it out, and a call of it is, byte for byte, the call of a
 * tool that nobody has. Only the log tells the two apart. Names compared here have equal lengths, so that nothing but
 * the name itself differs.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { bearer, envelope, modern, openSession, post, raw, send } from './helpers/http.js'
import { fixture, secrets, startTestGateway, type TestGateway } from './helpers/with-gateway.js'

const dir = mkdtempSync(join(tmpdir(), 'switchboard-denied-'))
const ledgers = { alpha: openLedger(join(dir, 'alpha')), beta: openLedger(join(dir, 'beta')) }
let gateway: TestGateway
let url: string
/** Of the key `developer`. */
let sessionId: string

const server = (env = '{}', more = '') => `{ command: node, args: [${fixture('raw-stdio.mjs')}], env: ${env}${more} }`

beforeAll(async () => {
  // The developer sees one tool of alpha, nothing of beta, all of delta; there is no server gama, zeta or theta.
  gateway = await startTestGateway(`
servers:
  alpha: ${server(`{ LEDGER: ${ledgers.alpha.path} }`, ', aliases: [first, al]')}
  beta: ${server(`{ LEDGER: ${ledgers.beta.path} }`, ', aliases: [second]')}
  delta: ${server()}
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: { alpha: [echo], delta: "*" } }
`)
  url = gateway.url
  await Promise.all(['alpha', 'beta', 'delta'].map(id => gateway.until(id)))
  sessionId = (await openSession(url, secrets.DEVELOPER)).id
})
afterAll(async () => {
  await gateway.close()
  rmSync(dir, { recursive: true, force: true })
})

const eras = ['2025-11-25', '2026-07-28'] as const
type EraName = (typeof eras)[number]

interface Door {
  readonly name: string
  readonly path: string
  readonly headers?: Record<string, string>
  /** Tools keep their own names behind it. */
  readonly plain?: boolean
}

const doors: readonly Door[] = [
  { name: '/mcp', path: '/mcp' },
  { name: '/mcp/', path: '/mcp/' },
  { name: '/mcp/alpha', path: '/mcp/alpha', plain: true },
  { name: '/mcp/first, an alias', path: '/mcp/first', plain: true },
  { name: '?servers=alpha', path: '/mcp?servers=alpha' },
  { name: '?servers=alpha,beta', path: '/mcp?servers=alpha,beta' },
  { name: 'x-mcp-servers: alpha', path: '/mcp', headers: { 'x-mcp-servers': 'alpha' } },
  { name: 'x-mcp-servers: beta, first', path: '/mcp', headers: { 'x-mcp-servers': 'beta, first' } }
]

const everyDoor = doors.flatMap(door => eras.map(era => ({ ...door, era })))

/** Headers and params as a client of that era sends them with the developer's key. */
function shape(era: EraName, method: string, params: Record<string, unknown>) {
  if (era === '2025-11-25') return { headers: { 'mcp-session-id': sessionId, 'mcp-protocol-version': era }, params }
  const headers: Record<string, string> = { 'mcp-protocol-version': era, 'mcp-method': method }
  if (typeof params.name === 'string') headers['mcp-name'] = params.name
  return { headers, params: { ...params, _meta: envelope } }
}

function ask(era: EraName, door: Door, method: string, params: Record<string, unknown> = {}) {
  const { headers, params: shaped } = shape(era, method, params)
  const body = { jsonrpc: '2.0', id: 1, method, params: shaped }
  return post(url + door.path, body, { ...bearer(secrets.DEVELOPER), ...headers, ...door.headers })
}

/** All bytes of an answer: status line, headers without Date, body; every stream has random ids of its own. */
async function bytesOf(line: string, headers: Record<string, string>, body = ''): Promise<string> {
  const all = {
    host: new URL(url).host,
    connection: 'close',
    ...bearer(secrets.DEVELOPER),
    ...(body !== '' && { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(body)) }),
    ...headers
  }
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}`)
  const received = await raw(url, [`${line} HTTP/1.1`, ...lines, '', body].join('\r\n'))
  const bytes = received.replace(/^date: .*\r\n/im, '')
  expect(bytes).not.toBe(received)
  return bytes.replace(/^id: [\w-]{12}\./gm, 'id: ')
}

/** The bytes of the answer to a call, with the name in it replaced. */
async function callBytes(era: EraName, door: Door, name: string, accept: string): Promise<string> {
  const { headers, params } = shape(era, 'tools/call', { name, arguments: { message: 'x', nonce: 'x' } })
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params })
  return (await bytesOf(`POST ${door.path}`, { ...headers, ...door.headers, accept }, body)).replaceAll(name, '<name>')
}

const toolCalls = () => [ledgers.alpha, ledgers.beta].map(ledger => ledger.count('tools/call'))
const outcomesSince = (before: number) => gateway.logged('call').slice(before).map(({ tool, server, outcome }) => ({ tool, server, outcome })) // prettier-ignore
const namesOf = ({ json }: { json: any }): string[] => json.result.tools.map(({ name }: { name: string }) => name)

describe.each(everyDoor)('over $name in $era', ({ era, ...door }) => {
  const [allowed, denied, unknown, foreign, absent] = door.plain
    ? (['echo', 'count', 'xount', 'beta__count', 'gama__count'] as const)
    : (['alpha__echo', 'alpha__count', 'alpha__xount', 'beta__count', 'gama__count'] as const)

  test('a list has what the key may use and no trace of the rest (§6.23)', async () => {
    const listed = await ask(era, door, 'tools/list')
    const all = door.path === '/mcp' || door.path === '/mcp/'
    const expected = all && !door.headers ? expect.arrayContaining([allowed, 'delta__echo', 'delta__count']) : [allowed]
    expect(namesOf(listed)).toEqual(expected)
    expect(namesOf(listed)).not.toContain(denied)
    expect(listed.text).not.toContain('beta')
    expect(listed.text).not.toContain('alpha__slow')
  })

  test('the tool that is allowed is called', async () => {
    const { status, json } = await ask(era, door, 'tools/call', { name: allowed, arguments: { message: 'yes' } })
    expect([status, json.result.content[0].text]).toEqual([200, 'yes'])
  })

  test.each([
    ['JSON', 'application/json, text/event-stream'],
    ['a stream', 'text/event-stream']
  ])('a denied tool and an unknown one get the same bytes as %s, and nothing is sent (§6.23)', async (_, accept) => {
    const before = toolCalls()
    const [first, ...others] = [await callBytes(era, door, unknown, accept), await callBytes(era, door, denied, accept)]
    expect(others).toEqual([first])
    expect(first).toMatch(/^HTTP\/1\.1 200 OK\r\n/)
    expect(first).toContain('{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown tool: <name>"}}')
    expect(toolCalls()).toEqual(before)
  })

  test('a tool of a denied server and of one that does not exist get the same bytes, and nothing is sent (§6.23)', async () => {
    const before = toolCalls()
    const accept = 'application/json, text/event-stream'
    const bytes = await callBytes(era, door, absent, accept)
    expect(await callBytes(era, door, foreign, accept)).toBe(bytes)
    expect(bytes).toContain('"Unknown tool: <name>"')
    expect(toolCalls()).toEqual(before)
  })

  test('the log tells a denied tool from an unknown one', async () => {
    const before = gateway.logged('call').length
    for (const name of [denied, unknown]) await ask(era, door, 'tools/call', { name })
    expect(outcomesSince(before)).toEqual([
      { tool: 'count', server: 'alpha', outcome: 'denied' },
      { tool: unknown, server: undefined, outcome: 'unknown' }
    ])
    expect(gateway.logged('call').at(-2)).toMatchObject({ key: 'developer', client: 'test/1', code: -32602 })
  })
})

describe('a tool that is denied', () => {
  test('cannot be reached by any other spelling', async () => {
    const before = toolCalls()
    const spellings = ['count', 'alpha.count', 'ALPHA__count', 'alpha__Count', 'alpha__count ', ' alpha__count', 'alpha__echo__count', 'delta__alpha__count', 'alpha__alpha__count', 'first__count', 'al__count', 'second__count', 'beta__echo', '__proto__', 'constructor', ''] // prettier-ignore
    const session = await openSession(url, secrets.DEVELOPER)
    for (const name of spellings) {
      const { status, json } = await session.rpc('tools/call', { name })
      expect([status, json.error]).toEqual([200, { code: -32602, message: `Unknown tool: ${name}` }])
    }
    expect(toolCalls()).toEqual(before)
  })

  test('cannot be smuggled behind the header of an allowed one (§6.35)', async () => {
    const before = toolCalls()
    const headers = { 'mcp-name': 'alpha__echo' }
    for (const name of ['alpha__count', 'alpha__xount']) {
      const { status, json } = await modern(url, secrets.DEVELOPER, 'tools/call', { name }, { headers })
      expect([status, json.error.code]).toEqual([400, -32020])
    }
    expect(toolCalls()).toEqual(before)
  })

  test('is there for a key that may use it: the same name, the same doors', async () => {
    for (const { era: _, ...door } of everyDoor.filter(({ era }) => era === '2026-07-28')) {
      const name = door.plain ? 'count' : 'alpha__count'
      const params = { name, arguments: { nonce: `admin ${door.name}` } }
      const { json } = await modern(url, secrets.ADMIN, 'tools/call', params, {
        path: door.path,
        headers: { ...door.headers }
      })
      expect([door.name, json.result?.content[0].text]).toEqual([door.name, '1'])
    }
  })

  test('is logged once a call, with the key and without its arguments', async () => {
    const before = gateway.logged('call').length
    await modern(url, secrets.DEVELOPER, 'tools/call', { name: 'beta__count', arguments: { nonce: 'canary-argument' } })
    await modern(url, secrets.DEVELOPER, 'tools/call', { name: 'gama__count', arguments: { nonce: 'canary-argument' } })
    expect(outcomesSince(before)).toEqual([
      { tool: 'count', server: 'beta', outcome: 'denied' },
      { tool: 'gama__count', server: undefined, outcome: 'unknown' }
    ])
    expect(JSON.stringify(gateway.log)).not.toContain('canary-argument')
  })
})

describe('a server of which the key may use nothing', () => {
  const requests = [
    ['POST', '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}', '2025-11-25'],
    ['POST', '{"jsonrpc":"2.0","id":1,"method":"tools/list"}', '2025-11-25'],
    [
      'POST',
      JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list', params: { _meta: envelope } }),
      '2026-07-28'
    ],
    ['POST', '{"jsonrpc":"2.0","method":"notifications/initialized"}', '2025-11-25'],
    ['POST', 'not json', '2025-11-25'],
    ['GET', '', '2025-11-25'],
    ['DELETE', '', '2025-11-25'],
    ['GET', '', '2026-07-28']
  ] as const

  test.each(requests)(
    'is 404 for %s %s in %s, byte for byte like a server that does not exist',
    async (method, body, version) => {
      const headers = { 'mcp-session-id': sessionId, 'mcp-protocol-version': version, 'mcp-method': 'tools/list' }
      const doorsTo = (name: string, alias: string): readonly [path: string, extra: Record<string, string>][] => [
        [`/mcp/${name}`, {}],
        [`/mcp/${name}/`, {}],
        [`/mcp/${name.toUpperCase()}`, {}],
        [`/mcp/${alias}`, {}],
        [`/mcp?servers=${name}`, {}],
        [`/mcp?servers=${alias},${name}`, {}],
        ['/mcp', { 'x-mcp-servers': name }],
        ['/mcp', { 'x-mcp-servers': `${alias}, ${name}` }]
      ]
      const absent = doorsTo('gama', 'absent')
      for (const [i, [path, extra]] of doorsTo('beta', 'second').entries()) {
        const bytes = await bytesOf(`${method} ${path}`, { ...headers, ...extra }, body)
        const [absentPath, absentExtra] = absent[i]!
        expect(await bytesOf(`${method} ${absentPath}`, { ...headers, ...absentExtra }, body)).toBe(bytes)
        expect(bytes).toMatch(/^HTTP\/1\.1 404 Not Found\r\n/)
        expect(bytes).not.toMatch(/beta|second/)
      }
    }
  )

  test('is named neither by initialize nor by server/discover', async () => {
    const { opened } = await openSession(url, secrets.DEVELOPER)
    const discovered = await modern(url, secrets.DEVELOPER, 'server/discover')
    for (const { text } of [opened, discovered]) expect(text).not.toMatch(/beta|second/)
  })
})

describe('a subset of the servers', () => {
  const listOver = async (path: string, headers: Record<string, string> = {}) =>
    namesOf(await modern(url, secrets.DEVELOPER, 'tools/list', {}, { path, headers }))
  const delta = ['echo', 'slow', 'count', 'progress'].map(name => `delta__${name}`)

  test.each<[string, string[]]>([
    ['alpha', ['alpha__echo']],
    ['delta', delta],
    ['delta,alpha', ['alpha__echo', ...delta]],
    ['alpha,alpha,first', ['alpha__echo']],
    [' alpha , , delta ', ['alpha__echo', ...delta]],
    ['first', ['alpha__echo']],
    ['FIRST', ['alpha__echo']],
    ['alpha,beta', ['alpha__echo']],
    ['alpha,gama', ['alpha__echo']],
    ['beta,gama,second,al', ['alpha__echo']]
  ])('"%s" is the same by query and by header: unknown and denied names are dropped alike', async (subset, names) => {
    expect(await listOver(`/mcp?servers=${encodeURIComponent(subset)}`)).toEqual(names)
    expect(await listOver('/mcp', { 'x-mcp-servers': subset })).toEqual(names)
  })

  test.each(['beta', 'gama', 'beta,gama', 'second', '', ',', ' ', 'alpha__echo', '*', '__proto__', 'constructor'])(
    '"%s" leaves nothing: 404 with a sentence',
    async subset => {
      for (const [path, headers] of [
        [`/mcp?servers=${encodeURIComponent(subset)}`, {}],
        ['/mcp', { 'x-mcp-servers': subset }]
      ] as const) {
        const { status, json } = await modern(url, secrets.DEVELOPER, 'tools/list', {}, { path, headers })
        expect([status, json.error.code]).toEqual([404, -31404])
        expect(json.error.message).toMatch(/servers/)
      }
    }
  )

  test('bounds calls like lists: a tool outside of it is unknown', async () => {
    for (const door of [{ path: '/mcp?servers=alpha' }, { path: '/mcp', headers: { 'x-mcp-servers': 'first' } }]) {
      const { json } = await modern(url, secrets.DEVELOPER, 'tools/call', { name: 'delta__echo' }, door)
      expect(json.error).toEqual({ code: -32602, message: 'Unknown tool: delta__echo' })
    }
  })

  test('holds for the one request that names it, not for its session', async () => {
    const session = await openSession(url, secrets.DEVELOPER, { path: '/mcp?servers=alpha' })
    expect(namesOf(await session.rpc('tools/list'))).toEqual(['alpha__echo'])
    expect(namesOf(await session.rpc('tools/list', {}, { path: '/mcp' }))).toEqual(['alpha__echo', ...delta])
    expect(namesOf(await session.rpc('tools/list', {}, { path: '/mcp?servers=delta' }))).toEqual(delta)
  })
})

describe('an alias', () => {
  test('stands for its server in path, query and header, in any case', async () => {
    for (const path of ['/mcp/first', '/mcp/al/', '/mcp/First']) {
      const listed = await modern(url, secrets.DEVELOPER, 'tools/list', {}, { path })
      expect([path, namesOf(listed)]).toEqual([path, ['echo']])
      const params = { name: 'echo', arguments: { message: 'via alias' } }
      const called = await modern(url, secrets.DEVELOPER, 'tools/call', params, { path })
      expect(called.json.result.content[0].text).toBe('via alias')
    }
  })

  test('is never part of a name: neither listed nor callable', async () => {
    const listed = await modern(url, secrets.ADMIN, 'tools/list')
    expect(namesOf(listed).filter(name => /^(?:first|al|second)__/.test(name))).toEqual([])
    for (const path of ['/mcp', '/mcp?servers=first']) {
      for (const name of ['first__echo', 'al__echo']) {
        const { json } = await modern(url, secrets.ADMIN, 'tools/call', { name }, { path })
        expect(json.error).toEqual({ code: -32602, message: `Unknown tool: ${name}` })
      }
    }
  })
})

describe('a session that is older than the policy', () => {
  const withAllow = (allow: string | undefined) => `
servers:
  alpha: ${server()}
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
${allow === undefined ? '' : `  developer: { secret: "\${DEVELOPER}", allow: ${allow} }`}
`

  test('sees and may call what the key is allowed now, not what it was allowed when it opened (§6.24)', async () => {
    const stateDir = mkdtempSync(join(dir, 'state-'))
    const run = async <T>(allow: string | undefined, then: (url: string) => Promise<T>): Promise<T> => {
      const running = await startTestGateway(withAllow(allow), { stateDir })
      try {
        await running.until('alpha')
        return await then(running.url)
      } finally {
        await running.close()
      }
    }
    const use = async (at: string, headers: Record<string, string>) => {
      const rpc = (method: string, params: { name?: string; [member: string]: unknown } = {}) =>
        post(`${at}/mcp`, { jsonrpc: '2.0', id: params.name ?? 'list', method, params }, headers)
      const listed = await rpc('tools/list')
      if (listed.status !== 200) return listed.status
      const called = await Promise.all(
        ['echo', 'count'].map(async name => {
          const { json } = await rpc('tools/call', { name: `alpha__${name}`, arguments: { nonce: 'n', message: 'm' } })
          return json.error?.message ?? 'called'
        })
      )
      return [namesOf(listed), ...called]
    }

    const headers = await run('{ alpha: [echo, count] }', async at => {
      const session = await openSession(at, secrets.DEVELOPER)
      expect(await use(at, session.headers)).toEqual([['alpha__echo', 'alpha__count'], 'called', 'called'])
      return session.headers
    })
    expect(await run('{ alpha: [echo] }', at => use(at, headers))).toEqual([
      ['alpha__echo'],
      'called',
      'Unknown tool: alpha__count'
    ])
    expect(await run('{ alpha: [count] }', at => use(at, headers))).toEqual([
      ['alpha__count'],
      'Unknown tool: alpha__echo',
      'called'
    ])
    expect(await run('{}', at => use(at, headers))).toEqual([
      [],
      'Unknown tool: alpha__echo',
      'Unknown tool: alpha__count'
    ])
    expect(await run(undefined, at => use(at, headers))).toBe(401)
  })
})

test('a key without any server still gets its doors: an empty list, and every name unknown', async () => {
  const other = await startTestGateway(`
servers:
  alpha: ${server()}
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  other: { secret: "\${OTHER}", allow: {} }
`)
  try {
    await other.until('alpha')
    const session = await openSession(other.url, secrets.OTHER)
    expect(namesOf(await session.rpc('tools/list'))).toEqual([])
    const { json } = await session.rpc('tools/call', { name: 'alpha__echo' })
    expect(json.error).toEqual({ code: -32602, message: 'Unknown tool: alpha__echo' })
    expect((await send('GET', `${other.url}/mcp/alpha`, session.headers)).status).toBe(404)
  } finally {
    await other.close()
  }
})
