/**
 * Bytes, headers and methods under attack: group T of the security reference, without what streams and load do. Every
 * request here is written to a socket by hand. Where the design replaces a number or a status of the reference, the test
 * says so.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import { attack, type Attack } from './helpers/attack.js'
import { heldBytes } from './helpers/memory.js'
import { bearer, envelope, modern, openSession, post, send } from './helpers/http.js'
import { parseReply, requestText } from './helpers/raw.js'
import { fixture, waitFor } from './helpers/with-gateway.js'

const json = 'Content-Type: application/json'
const authorized = ({ key }: Attack) => `Authorization: Bearer ${key}`

/** The doors that read a body, each reached with what it needs besides. */
async function bodyDoors(attacked: Attack): Promise<{ doors: [string, string[]][]; close: () => void }> {
  const { url, key } = attacked
  const session = await openSession(url, key)
  const conversation = await openConversation(attacked)
  return {
    doors: [
      ['/mcp', [`Mcp-Session-Id: ${session.id}`]],
      ['/mcp', ['MCP-Protocol-Version: 2026-07-28', 'Mcp-Method: tools/list']],
      ['/mcp/healthy', [`Mcp-Session-Id: ${session.id}`]],
      [conversation.address, []],
      ['/tools/healthy__echo', []]
    ],
    close: conversation.close
  }
}

/** A conversation over the doors of 2024: where its messages go. */
async function openConversation({ url, key }: Attack) {
  const abort = new AbortController()
  const response = await fetch(`${url}/sse`, { headers: bearer(key), signal: abort.signal })
  const reader = (response.body as ReadableStream<Uint8Array>).getReader()
  let text = ''
  while (!text.includes('sessionId=')) text += Buffer.from((await reader.read()).value ?? []).toString()
  return { address: /data: (\S+)/.exec(text)?.[1] as string, close: () => abort.abort() }
}

/** How long the event loop stood still at most, in milliseconds. */
async function stall(during: () => Promise<unknown>): Promise<number> {
  const delay = monitorEventLoopDelay({ resolution: 5 })
  delay.enable()
  await during()
  delay.disable()
  return delay.max / 1e6
}

const ping = (id: unknown = 1) => `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"method":"ping"}`

attack(
  'T1',
  'a body that is no JSON is 400 with -32700 on every door, and nobody repeats a byte of it',
  async attacked => {
    const { request, gateway, canary, print } = attacked
    const secret = canary('body')
    const { doors, close } = await bodyDoors(attacked)
    const bodies: [string, string | Buffer][] = [
      ['nothing', ''],
      ['half an object', '{'],
      ['half a message', `{"jsonrpc":"2.0","id":1,"method":"${secret}`],
      ['a trailing comma', '{"jsonrpc":"2.0","id":1,"method":"ping",}'],
      ['NaN', '{"jsonrpc":"2.0","id":NaN,"method":"ping"}'],
      ['a byte order mark', `\ufeff${ping()}`],
      ['a byte order mark of UTF-16', Buffer.from(`\ufeff${ping()}`, 'utf16le')],
      ['two objects', ping() + ping()],
      ['two lines', `${ping()}\n${ping()}`],
      ['single quotes', "{'jsonrpc':'2.0'}"],
      ['a comment', `/* ${secret} */ ${ping()}`],
      ['a raw line break in a string', '{"jsonrpc":"2.0","id":1,"method":"pi\nng"}'],
      ['a raw NUL', '{"jsonrpc":"2.0","id":1,"method":"pi\0ng"}'],
      ['text', secret],
      ['a form', `message=${secret}`],
      ['4 MB of [', '['.repeat(4_000_000)],
      ['4 MB of {"a":', '{"a":'.repeat(800_000)],
      ['4 MB of quotes', '"'.repeat(4_000_000)],
      ['4 MB of backslashes in a string', `"${'\\'.repeat(4_000_000)}`]
    ]
    for (const [what, body] of bodies) {
      for (const [door, headers] of doors) {
        const { status, json: told, ms } = await request(`POST ${door}`, [authorized(attacked), json, `Content-Length: ${Buffer.byteLength(body)}`, ...headers], body) // prettier-ignore
        expect([what, door, status, told]).toEqual([what, door, 400, { jsonrpc: '2.0', error: { code: -32700, message: expect.any(String) } }]) // prettier-ignore
        if (body.length > 1e6 && door === '/mcp') print(`${what} refused after ms`, ms)
      }
    }
    expect(JSON.stringify(gateway.log)).not.toContain('[[[')
    close()
  }
)

attack('T3', 'what is nested too deeply is 400 before it is parsed; what is only large is served', async attacked => {
  const { url, key, request, ledger, print } = attacked
  const { doors, close } = await bodyDoors(attacked)
  const refused: [string, string, number][] = [
    ['65 arrays', `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":${'['.repeat(63)}${']'.repeat(63)}}}`, -32700],
    ['65 objects', `${'{"params":'.repeat(65)}1${'}'.repeat(65)}`, -32700],
    ['10,000 objects', `${'{"params":'.repeat(1e4)}1${'}'.repeat(1e4)}`, -32700],
    ['a million arrays', `${'['.repeat(1e6)}${']'.repeat(1e6)}`, -32700],
    ['an id of 1e400', '{"jsonrpc":"2.0","id":1e400,"method":"ping"}', -32600],
    ['an id of 2^53+1', '{"jsonrpc":"2.0","id":9007199254740993,"method":"ping"}', -32600],
    ['an id of 1.5', ping(1.5), -32600],
    ['an id of null', ping(null), -32600],
    ['an id that is an object', ping({ toString: 1 }), -32600],
    ['an id of a megabyte', ping('x'.repeat(1e6)), -32600],
    ['a method of a megabyte that is a number', `{"jsonrpc":"2.0","id":1,"method":${'9'.repeat(1e6)}}`, -32600]
  ]
  for (const [what, body, code] of refused) {
    for (const [door, headers] of doors.filter(([door]) => code === -32700 || !door.startsWith('/tools'))) {
      const reply = await request(`POST ${door}`, [authorized(attacked), json, ...headers], body)
      expect([what, door, reply.status, reply.json.error.code]).toEqual([what, door, 400, code])
      expect(reply.body.length).toBeLessThan(1000)
    }
  }

  // The reference refuses these by their number of tokens; the design limits bytes and depth alone.
  const keys = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, i]))
  const large: [string, object][] = [
    ['100,000 members', keys(100_000)],
    ['a million elements', { list: Array.from({ length: 1e6 }, () => 1) }],
    ['a string of 3 MB', { text: 'x'.repeat(3e6) }],
    ['400,000 escapes', { text: '\u0001'.repeat(4e5) }]
  ]
  for (const [what, args] of large) {
    const ms = await stall(async () => {
      const reply = await ledger.call(nonce =>
        modern(url, key, 'tools/call', { name: 'healthy__echo', arguments: { ...args, nonce, message: nonce } })
      )
      expect([what, reply?.status, reply?.json.result.isError]).toEqual([what, 200, undefined])
    })
    print(`the loop stood still for ms, ${what}, client and server in one process`, ms)
  }

  const polluting = `{"jsonrpc":"2.0","id":1,"method":"tools/call","__proto__":{"polluted":1},"params":{"name":"healthy__echo","__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"arguments":{"__proto__":{"polluted":1},"message":"m"}}}`
  const { headers } = await openSession(url, key)
  expect((await post(`${url}/mcp`, polluting, headers)).json.result.content[0].text).toBe('m')
  expect(({} as { polluted?: unknown }).polluted).toBeUndefined()
  for (const name of ['__proto__', 'constructor', 'toString', 'hasOwnProperty'])
    for (const method of ['tools/call', name]) {
      const body = JSON.stringify({ jsonrpc: '2.0', id: name, method, params: { name, arguments: {} } })
      expect((await post(`${url}/mcp`, body, headers)).json.error.code).toBe(method === name ? -32601 : -32602)
    }
  close()
})

attack('T4', 'a body of 100 MB is refused before it comes, in whatever way it comes', async attacked => {
  const { raw, url, print } = attacked
  const bytes = 100 * 1024 * 1024
  const head = (headers: string[]) => requestText(url, 'POST /mcp', [authorized(attacked), json, ...headers])
  const announced = [`Content-Length: ${bytes}`]
  const before = process.memoryUsage.rss()
  const replies = await Promise.all(Array.from({ length: 20 }, () => raw(head(announced))))
  for (const { status, closed, json: told, sent } of replies) {
    expect([status, closed, told.error.code]).toEqual([413, true, -31413])
    expect(sent).toBeLessThan(1000)
  }
  print('MiB more after 20 announcements of 100 MB', (process.memoryUsage.rss() - before) / 1024 / 1024)

  const chunk = Buffer.concat([Buffer.from('10000\r\n'), Buffer.alloc(0x10000, 0x20), Buffer.from('\r\n')])
  const endless = function* () {
    for (let sent = 0; sent < bytes; sent += 0x10000) yield chunk
  }
  const held = heldBytes()
  const chunked = await Promise.all(
    Array.from({ length: 5 }, () => raw(head(['Transfer-Encoding: chunked']), { more: endless(), ms: 8000 }))
  )
  for (const { status, sent } of chunked) {
    // What the client had written before the answer reached it is lost with its connection.
    expect(['413', 'NaN']).toContain(String(status))
    expect(sent).toBeLessThan(25 * 1024 * 1024)
  }
  print('MiB of 100 that a client could send in chunks', Math.max(...chunked.map(({ sent }) => sent)) / 1024 / 1024)
  expect(heldBytes() - held).toBeLessThan(20 * 1024 * 1024)

  for (const encoding of ['gzip', 'br', 'deflate', 'zstd', 'GZIP', 'identity, gzip']) {
    const { status, closed } = await raw(head([`Content-Encoding: ${encoding}`, ...announced]))
    expect([encoding, status, closed]).toEqual([encoding, 415, true])
  }

  // A length that is too small: what is left over is no request, and is not taken for one.
  const body = ping()
  const smuggled = `GET /healthz HTTP/1.1\r\nHost: ${new URL(url).host}\r\n\r\n`
  const short = await raw(
    requestText(url, 'POST /mcp', [authorized(attacked), json, 'Content-Length: 10'], body + smuggled)
  )
  expect(short.received.match(/HTTP\/1\.1 (\d+)/g)).toEqual(['HTTP/1.1 400'])
  expect(short.received).not.toContain('"status":"ok"')
  // One that is too large is waited for, and its client may leave.
  const long = raw(requestText(url, 'POST /mcp', [authorized(attacked), json, 'Content-Length: 1000'], body), {
    ms: 300
  })
  expect((await long).received).toBe('')
  for (const length of ['-1', '1e3', '0x10', '1 2', '9'.repeat(400), 'NaN', '+3'])
    expect((await raw(requestText(url, 'POST /mcp', [authorized(attacked), json, `Content-Length: ${length}`]))).status).toBe(400) // prettier-ignore
})

const stdioEcho = () => ({ echo: { command: process.execPath, args: [fixture('raw-stdio.mjs')], era: 'legacy' } })

attack(
  'T5',
  'bytes that are no UTF-8 are 400; every valid text comes back byte for byte, over HTTP and stdio',
  async attacked => {
    const { request, url, key, ledger } = attacked
    const { doors, close } = await bodyDoors(attacked)
    const broken: [string, number[]][] = [
      ['a byte that never occurs', [0xff]],
      ['a lone continuation', [0x80]],
      ['half a character', [0xe2, 0x82]],
      ['an overlong slash', [0xc0, 0xaf]],
      ['an overlong NUL', [0xc0, 0x80]],
      ['a surrogate', [0xed, 0xa0, 0x80]],
      ['a pair of surrogates (CESU-8)', [0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80]],
      ['beyond Unicode', [0xf4, 0x90, 0x80, 0x80]],
      ['five bytes', [0xf8, 0x88, 0x80, 0x80, 0x80]]
    ]
    for (const [what, bytes] of broken) {
      const body = Buffer.concat([
        Buffer.from('{"jsonrpc":"2.0","id":1,"method":"'),
        Buffer.from(bytes),
        Buffer.from('"}')
      ])
      for (const [door, headers] of doors) {
        const reply = await request(`POST ${door}`, [authorized(attacked), json, ...headers], body)
        expect([what, door, reply.status, reply.json.error.code]).toEqual([what, door, 400, -32700])
      }
    }

    const session = await openSession(url, key)
    const texts = ['😀👨‍👩‍👧🇩🇪', 'Å vs Å', '\u2028\u2029\u0085', '\0\u0001\u001b[31m\u007f', '\u200b\u202e\u{e0041}', '𝔘𝔫𝔦', '\ufeffbom', '\ud800', 'a\udfffb', '"\\/\b\f\n\r\t', ''] // prettier-ignore
    for (const server of ['healthy', 'echo']) {
      for (const text of texts) {
        const params = { name: `${server}__echo`, arguments: { message: text } }
        for (const reply of [await modern(url, key, 'tools/call', params), await session.rpc('tools/call', params)])
          expect([server, reply.json.result.content[0].text]).toEqual([server, text])
      }
    }
    // A lone surrogate travels as an escape, never as bytes that are no UTF-8.
    const escaped = await ledger.call(nonce =>
      modern(url, key, 'tools/call', { name: 'healthy__echo', arguments: { message: `\ud800${nonce}`, nonce } })
    )
    expect(escaped?.text).toContain('"\\ud800nonce-')
    close()
  },
  { servers: stdioEcho }
)

attack('T6', 'only JSON in UTF-8 is read; any Accept is served (the design replaces 406)', async attacked => {
  const { request, url, key } = attacked
  const { doors, close } = await bodyDoors(attacked)
  const other = ['text/plain', 'application/jsonp', 'application/json-seq', 'application/json; charset=utf-16', 'application/json; charset=latin1', 'multipart/form-data; boundary=x', 'application/x-www-form-urlencoded', 'text/json', 'application/json, text/plain', 'application/', ';', '*/*'] // prettier-ignore
  for (const [door, headers] of doors) {
    for (const type of other) {
      const { status, json: told } = await request(`POST ${door}`, [authorized(attacked), `Content-Type: ${type}`, ...headers], ping()) // prettier-ignore
      expect([door, type, status, told.error.code]).toEqual([door, type, 415, -32600])
    }
    expect((await request(`POST ${door}`, [authorized(attacked), ...headers], ping())).status).toBe(415)
  }
  const { headers } = await openSession(url, key)
  for (const accept of ['application/json', 'text/event-stream', '*/*', 'text/html', 'application/xml;q=0.9', '', 'nonsense', ','.repeat(8000)]) // prettier-ignore
    expect([accept.slice(0, 30), (await post(`${url}/mcp`, ping(), { ...headers, accept })).status]).toEqual([accept.slice(0, 30), 200]) // prettier-ignore
  close()
})

attack(
  'T7',
  'versions and mirrored headers that are wrong are refused, and nothing of it is sent on',
  async ({ url, key, ledger }) => {
    const session = await openSession(url, key)
    const { 'mcp-protocol-version': _version, ...unversioned } = session.headers
    const call = (nonce: string) => ({
      jsonrpc: '2.0',
      id: 1,
      method: 'tools/call',
      params: { name: 'healthy__echo', arguments: { nonce, message: nonce } }
    })
    const legacy = (headers: Record<string, string>) =>
      ledger.call(nonce => post(`${url}/mcp`, call(nonce), { ...unversioned, ...headers }))
    for (const version of ['1999-01-01', '2025-11-26', 'latest', '', '2025-11-25,2025-06-18', 'x'.repeat(5000)]) {
      const reply = await legacy({ 'mcp-protocol-version': version })
      expect([version.slice(0, 20), reply?.status, reply?.json.error.code]).toEqual([version.slice(0, 20), 400, -32600])
      expect(reply?.text.length).toBeLessThan(400)
    }
    expect((await legacy({}))?.status).toBe(200)
    // Requests before `initialized` are served, and a second initialize opens another session: both as the design has it.
    expect((await session.rpc('tools/list')).status).toBe(200)

    const meta = (more: object, without: string[] = []) =>
      Object.fromEntries(Object.entries({ ...envelope, ...more }).filter(([name]) => !without.includes(name.slice(24))))
    const right = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': 'healthy__echo' }
    const modernCall = (headers: Record<string, string | undefined>, _meta: object = envelope) =>
      ledger.call(nonce => {
        const body = call(nonce)
        const kept = Object.entries({ ...bearer(key), ...right, ...headers }).filter(([, value]) => value !== undefined)
        const params = { ...body.params, _meta }
        return post(`${url}/mcp`, { ...body, params }, Object.fromEntries(kept))
      })
    const mismatches: Record<string, string | undefined>[] = [
    { 'mcp-method': undefined }, { 'mcp-method': 'tools/list' }, { 'mcp-method': 'TOOLS/CALL' }, { 'mcp-name': undefined }, { 'mcp-name': 'healthy__slow' }, { 'mcp-name': 'echo' }, { 'mcp-name': '=?base64?!!!?=' },
    { 'mcp-name': '=?base64?aGVhbHRoeV9fc2xvdw==?=' }, { 'mcp-name': '=?base64?aGVhbHRoeV9fZWNobw==' }, { 'mcp-name': '' }, { 'mcp-protocol-version': undefined }
  ] // prettier-ignore
    for (const headers of mismatches) {
      const reply = await modernCall(headers)
      expect([headers, reply?.status, reply?.json.error.code]).toEqual([headers, 400, -32020])
    }
    for (const version of ['2027-01-01', '1999-01-01']) {
      const named = { 'io.modelcontextprotocol/protocolVersion': version }
      const reply = await modernCall({ 'mcp-protocol-version': version }, meta(named))
      expect([reply?.status, reply?.json.error.code]).toEqual([400, -32022])
      expect(reply?.json.error.data).toEqual({ supported: expect.arrayContaining(['2026-07-28']), requested: version })
    }
    for (const _meta of [
      meta({}, ['clientCapabilities']),
      meta({ 'io.modelcontextprotocol/clientCapabilities': [] }),
      meta({ 'io.modelcontextprotocol/clientCapabilities': 'all' })
    ])
      // prettier-ignore
      expect([(await modernCall({}, _meta))?.status, (await modernCall({}, _meta))?.json.error.code]).toEqual([400, -32602])
    const stray = await modernCall({ 'mcp-session-id': session.id, 'last-event-id': '7' })
    expect([stray?.status, stray?.headers['mcp-session-id']]).toEqual([200, undefined])
  }
)

const everyDoor = ['/mcp', '/mcp/healthy', '/sse', '/messages', '/tools', '/tools/healthy__echo', '/openapi.json', '/metrics', '/healthz', '/readyz', '/register', '/.well-known/openid-configuration', '/nowhere'] // prettier-ignore

attack('T8', 'a foreign Host or Origin is 403 on every door, before the key and the body', async attacked => {
  const { request, raw, url } = attacked
  const { host, port } = new URL(url)
  const hosts = ['evil.example', `evil.example:${port}`, 'localhost.evil.example', '127.0.0.1.nip.io', '0.0.0.0', '[::ffff:127.0.0.1]', '[::2]', `${host}.`, 'LOCALHOST.', 'x/..', `${host}@evil.example`, `evil.example#${host}`] // prettier-ignore
  const origins = ['null', 'http://evil.example', 'http://localhost.evil.example', `https://localhost:${port}`, 'http://127.0.0.1', `http://${host}.evil.example`, `http://${host}@evil.example`, 'file://', 'chrome-extension://x', 'http://[::1]', `http://localhost:${port}`] // prettier-ignore
  const refused = [
    ...hosts.map(value => [`Host: ${value}`]),
    ...origins.map(value => [`Origin: ${value}`]),
    ...origins.slice(0, 2).map(value => [authorized(attacked), `Origin: ${value}`])
  ]
  for (const headers of refused) {
    for (const door of everyDoor) {
      const { status, json: told, headers: replied } = await request(`POST ${door}`, [...headers, json], ping())
      expect([headers, door, [400, 403].includes(status)]).toEqual([headers, door, true])
      expect([replied['www-authenticate'], told.error.code]).toEqual([undefined, status === 403 ? -31403 : -32600])
    }
    const unread = await raw(requestText(url, 'POST /mcp', [...headers, json, 'Content-Length: 104857600']))
    expect([unread.closed, unread.ms < 2500]).toEqual([true, true])
  }
  for (const target of [`http://evil.example/mcp`, `https://evil.example:${port}/healthz`, '//evil.example/mcp', `http://${host}:1/mcp`, `http://x@${host}/mcp`]) // prettier-ignore
    expect([target, (await request(`POST ${target}`, [authorized(attacked), json], ping())).status]).not.toEqual([target, 200]) // prettier-ignore
  const status = async (head: string) => (await raw(`${head}\r\nConnection: close\r\n\r\n`)).status
  expect(await status('GET /healthz HTTP/1.1')).toBe(400)
  expect(await status(`GET /healthz HTTP/1.1\r\nHost: ${host}\r\nHost: ${host}`)).toBe(400)
  expect(await status(`GET /healthz HTTP/1.1\r\nHost: ${host}\r\nOrigin: http://${host}\r\nOrigin: null`)).toBe(400)
  expect([400, 403]).toContain(await status('GET /healthz HTTP/1.0'))
  expect(await status(`GET /healthz HTTP/1.1\r\nHost: ${host}`)).toBe(200)
  // The scheme may be https: a reverse proxy speaks it for us.
  for (const scheme of ['http', 'https'])
    expect(await status(`GET /healthz HTTP/1.1\r\nHost: ${host}\r\nOrigin: ${scheme}://${host}`)).toBe(200)
})

attack(
  'T9',
  'a browser page of an unlisted origin is told nothing, one of a listed origin no more than it needs',
  async attacked => {
    const { request } = attacked
    const preflight = (origin: string, door: string, more: string[] = []) =>
      request(`OPTIONS ${door}`, [`Origin: ${origin}`, 'Access-Control-Request-Method: POST', 'Access-Control-Request-Headers: authorization', ...more]) // prettier-ignore
    const allowed = (headers: Record<string, string>) => Object.keys(headers).filter(name => name.startsWith('access-control')) // prettier-ignore
    for (const door of everyDoor) {
      for (const origin of [
        'https://evil.example',
        'null',
        'https://app.example.evil.example',
        'http://app.example',
        'https://app.example:8443'
      ]) {
        const { status, headers } = await preflight(origin, door, [authorized(attacked)])
        expect([door, origin, status, allowed(headers)]).toEqual([door, origin, 403, []])
        expect([headers['x-content-type-options'], headers['cache-control']]).toEqual(['nosniff', 'no-store'])
      }
      const { status, headers } = await preflight('https://app.example', door)
      expect([door, status]).toEqual([door, 204])
      expect(headers).toMatchObject({ 'access-control-allow-origin': 'https://app.example', vary: 'Origin' })
      expect(headers).not.toHaveProperty('access-control-allow-credentials')
      expect(JSON.stringify(headers)).not.toContain('"*"')
      expect([headers['x-content-type-options'], headers['cache-control']]).toEqual(['nosniff', 'no-store'])
    }
    const junk = Array.from({ length: 1000 }, (_, i) => `a${i.toString(36)}:`)
    expect((await request('POST /mcp', [...junk, 'Origin: https://evil.example', authorized(attacked)])).status).toBe(
      431
    )
    // What a page may read besides the body: the session, the version, and why it is refused.
    const { headers } = await request('DELETE /mcp', ['Origin: https://app.example', authorized(attacked)])
    expect(headers['access-control-expose-headers']).toBe(
      'Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After'
    )
    // Header names that a page asks for come back: no line break gets through.
    const odd = await preflight('https://app.example', '/mcp', ['Access-Control-Request-Private-Network: true'])
    expect(allowed(odd.headers)).not.toContain('access-control-allow-private-network')
  },
  { listen: { allowed_origins: ['https://app.example'] } }
)

attack(
  'T10',
  'methods and framings that have no business here end in 4xx, and a session ends with its calls',
  async attacked => {
    const { request, raw, url, key, ledger, other } = attacked
    const { host } = new URL(url)
    for (const method of ['PUT', 'PATCH', 'TRACE', 'PROPFIND', 'LOCK', 'M-SEARCH']) {
      for (const door of ['/mcp', '/mcp/healthy']) {
        const { status, headers } = await request(`${method} ${door}`, [authorized(attacked)])
        expect([method, door, status, headers.allow]).toEqual([method, door, 405, 'POST, GET, DELETE'])
      }
    }
    // 405 without a session, and a second stream replaces the first: both replaced by the design.
    for (const method of ['GET', 'DELETE'])
      expect([method, (await request(`${method} /mcp`, [authorized(attacked)])).status]).toEqual([method, 405])

    const bytes = async (text: string, ms = 1500) => (await raw(text, { ms })).received
    const statusOf = (received: string) => parseReply(received).status
    // CONNECT and HTTP/2 have no answer but the end of the connection, or 4xx.
    for (const text of [`CONNECT ${host} HTTP/1.1\r\nHost: ${host}\r\n\r\n`, 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', '\x16\x03\x01\x02\x00\x01\x00', 'GET / HTTP/9.9\r\n\r\n', 'nonsense\r\n\r\n', '\r\n'.repeat(50) + '\0\r\n\r\n']) // prettier-ignore
    expect([text.slice(0, 20), await bytes(text)]).toEqual([text.slice(0, 20), expect.stringMatching(/^(?:|HTTP\/1\.1 4[^]*)$/)]) // prettier-ignore
    const post = (headers: string[], body = '') => [`POST /mcp HTTP/1.1`, `Host: ${host}`, authorized(attacked), json, ...headers, '', body].join('\r\n') // prettier-ignore
    for (const [what, text] of [
      ['a length and chunks', post(['Content-Length: 5', 'Transfer-Encoding: chunked'], '0\r\n\r\n')],
      ['an unknown coding', post(['Transfer-Encoding: gzip, chunked, identity'], '0\r\n\r\n')],
      ['chunked twice', post(['Transfer-Encoding: chunked, chunked'], '0\r\n\r\n')],
      ['a folded line', post(['X-Folded: a\r\n b', 'Content-Length: 0'])],
      ['a space before the colon', post(['Content-Length : 0'])],
      ['a bare line feed', post(['Content-Length: 0']).replaceAll('\r\n', '\n')],
      ['a bad chunk', post(['Transfer-Encoding: chunked'], 'zz\r\n')],
      ['a chunk that is longer than it says', post(['Transfer-Encoding: chunked'], '1\r\n{}\r\n0\r\n\r\n')]
    ] as const)
      expect([what, statusOf(await bytes(text))]).toEqual([what, 400])

    const upgrade = await request('GET /mcp', [authorized(attacked), 'Upgrade: websocket', 'Sec-WebSocket-Key: x'])
    expect(upgrade.status).toBe(405)
    const h2c = await request(
      'POST /mcp',
      [authorized(attacked), json, 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABk'],
      ping()
    )
    expect(h2c.status).toBe(400)
    // Who asks before sending a body is told to go on only with a key that works.
    const expecting = (headers: string[]) =>
    bytes([`POST /mcp HTTP/1.1`, `Host: ${host}`, ...headers, json, 'Expect: 100-continue', 'Content-Length: 9000000', '', ''].join('\r\n')) // prettier-ignore
    expect(await expecting([])).toMatch(/^HTTP\/1\.1 401 /)
    expect(await expecting(['Authorization: Bearer wrong'])).toMatch(/^HTTP\/1\.1 401 /)
    expect(await expecting([authorized(attacked)])).toMatch(/HTTP\/1\.1 413 /)

    const session = await openSession(url, key)
    const foreign = { ...session.headers, ...bearer(other) }
    expect((await send('DELETE', `${url}/mcp`, foreign)).status).toBe(404)
    let slow = ''
    const running = ledger.call(
      nonce => session.rpc('tools/call', { name: 'healthy__slow', arguments: { ms: 20_000, nonce: (slow = nonce) } }),
      { gaveUp: true }
    )
    await pause(200)
    expect((await send('DELETE', `${url}/mcp`, session.headers)).status).toBe(200)
    const ended = await running
    expect([ended?.status, ended?.messages]).toEqual([200, []])
    expect(slow).not.toBe('')
    expect((await send('DELETE', `${url}/mcp`, session.headers)).status).toBe(404)
    expect((await session.rpc('ping')).status).toBe(404)
    await waitFor(() => attacked.gateway.gateway.status()[0]?.running === 0, 'the place of the call to be free')
  }
)
