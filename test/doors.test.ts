/**
 * The doors before anything MCP: which are open without a key, what every other request is refused with, and which
 * bytes (targets, headers, bodies) never get further. Malformed requests are written to the socket by hand.
 */
import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bearer, envelope, modern, openSession, post, raw, send, type Reply } from './helpers/http.js'
import { fixture, secrets, startTestGateway, type TestGateway } from './helpers/with-gateway.js'

const yaml = (listen = '{ port: 0 }') => `
listen: ${listen}
servers:
  alpha: { command: node, args: [${fixture('raw-stdio.mjs')}], aliases: [first] }
limits: { auth_failures: 1000 }
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: { alpha: [echo] } }
`

let gateway: TestGateway
let url: string

beforeAll(async () => {
  gateway = await startTestGateway(yaml('{ port: 0, allowed_origins: [ "https://app.example" ] }'))
  url = gateway.url
  await gateway.until('alpha')
})
afterAll(() => gateway.close())

interface RawReply {
  readonly status: number
  readonly headers: Record<string, string>
  readonly body: string
  /** Undefined if the body is not JSON. */
  readonly json: any
}

/** The last answer in what came back over a socket. */
function parseReply(received: string): RawReply {
  const last = received.slice(received.lastIndexOf('HTTP/1.1 '))
  const [head = '', ...rest] = last.split('\r\n\r\n')
  const [statusLine = '', ...lines] = head.split('\r\n')
  const headers = Object.fromEntries(
    lines.map(line => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()])
  )
  const body = rest.join('\r\n\r\n')
  let json: unknown
  try {
    json = JSON.parse(body)
  } catch {
    json = undefined
  }
  return { status: Number(statusLine.split(' ')[1]), headers, body, json }
}

const authorized = `Authorization: Bearer ${secrets.ADMIN}`

/** Sends one request by hand; a Host is added unless there is one, and the connection closes after the answer. */
async function sendRaw(line: string, headers: string[] = [], body: string | Buffer = ''): Promise<RawReply> {
  const host = headers.some(header => /^host:/i.test(header)) ? [] : [`Host: ${new URL(url).host}`]
  const head = [`${line} HTTP/1.1`, ...host, ...headers, 'Connection: close', '', ''].join('\r\n')
  return parseReply(await raw(url, Buffer.concat([Buffer.from(head, 'latin1'), Buffer.from(body)])))
}

function postRaw(body: string | Buffer, headers: string[] = [authorized, 'Content-Type: application/json']) {
  return sendRaw('POST /mcp', [...headers, `Content-Length: ${Buffer.byteLength(body)}`], body)
}

const junk = (count: number) => Array.from({ length: count }, (_, i) => `X-Junk-${i}: 1`)

const initialize = {
  jsonrpc: '2.0',
  id: 1,
  method: 'initialize',
  params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'test', version: '1' } }
}

describe('what is open without a key', () => {
  test.each(['/healthz', '/health'])('%s says ok and nothing else', async path => {
    const { status, text } = await send('GET', url + path)
    expect([status, text]).toEqual([200, '{"status":"ok"}'])
  })

  test('/readyz says ready and nothing else', async () => {
    const { status, text } = await send('GET', `${url}/readyz`)
    expect([status, text]).toEqual([200, '{"status":"ready"}'])
  })

  const oauthPaths = [
    '/.well-known/oauth-protected-resource',
    '/.well-known/oauth-protected-resource/mcp',
    '/mcp/.well-known/oauth-protected-resource',
    '/.well-known/oauth-authorization-server',
    '/.well-known/oauth-authorization-server/mcp',
    '/mcp/.well-known/oauth-authorization-server',
    '/.well-known/openid-configuration',
    '/.well-known/openid-configuration/mcp',
    '/mcp/.well-known/openid-configuration',
    '/mcp/alpha/.well-known/oauth-protected-resource',
    '/behind/a/proxy/mcp/.well-known/oauth-authorization-server',
    '/register',
    '/authorize',
    '/token'
  ]
  const methods = ['GET', 'POST', 'HEAD', 'OPTIONS'] as const

  describe.each(oauthPaths)('a client that probes %s for OAuth', path => {
    test.each(methods)('with %s gets a small JSON 404', async method => {
      const { status, headers, text, json } =
        method === 'POST'
          ? await post(url + path, { redirect_uris: ['http://localhost/'] })
          : await send(method, url + path)
      expect(status).toBe(404)
      expect(headers['content-type']).toMatch(/^application\/json/)
      expect(headers['www-authenticate']).toBeUndefined()
      expect(text.length).toBeLessThan(300)
      if (method !== 'HEAD') expect(json.error).toBe('not_found')
    })

    test('gets the same with a key, right or wrong', async () => {
      for (const headers of [bearer(secrets.ADMIN), bearer('wrong')])
        expect((await send('GET', url + path, headers)).status).toBe(404)
    })
  })
})

describe('everything else without a key', () => {
  const doors = [
    '/mcp',
    '/mcp/',
    '/mcp/alpha',
    '/mcp/first/',
    '/mcp/nowhere',
    '/mcp?servers=alpha',
    '/sse',
    '/messages',
    '/tools',
    '/tools/alpha__echo',
    '/openapi.json',
    '/metrics',
    '/admin',
    '/nowhere',
    '/healthz/more'
  ]
  const methods = ['GET', 'POST', 'DELETE', 'PUT', 'OPTIONS', 'HEAD'] as const
  const closed = doors.flatMap(door => methods.map(method => [method, door] as const))

  const ask = (method: (typeof methods)[number], door: string, headers?: Record<string, string>) =>
    method === 'POST' ? post(url + door, initialize, headers) : send(method, url + door, headers)

  test.each(closed)(
    '%s %s is 401 with a challenge without an error code and the cure (§6.25, §6.26)',
    async (...door) => {
      const { status, headers, json } = await ask(...door)
      expect(status).toBe(401)
      expect(headers['www-authenticate']).toMatch(/^Bearer/)
      expect(headers['www-authenticate']).not.toMatch(/error|resource_metadata/)
      if (door[0] === 'HEAD') return
      expect(json).toEqual({ jsonrpc: '2.0', error: { code: -31401, message: expect.any(String) } })
      expect(json.error.message).toMatch(/Authorization: Bearer/)
      expect(json.error.message).toMatch(/switchboard key/)
    }
  )

  test.each(closed)('%s %s with a wrong key is 401 with error="invalid_token" (§6.25)', async (...door) => {
    const { status, headers, json } = await ask(...door, bearer('wrong'))
    expect(status).toBe(401)
    expect(headers['www-authenticate']).toMatch(/^Bearer .*error="invalid_token"/)
    expect(headers['www-authenticate']).not.toContain('resource_metadata')
    if (door[0] !== 'HEAD') expect(json.error.message).toMatch(/switchboard key new/)
  })

  test('every kind of wrong key gets the same bytes', async () => {
    const secret = secrets.ADMIN
    const wrong = ['x', `${secret}x`, secret.slice(0, -1), secret.toUpperCase(), `${secret.slice(0, -1)}8`, 'admin']
    const answers = await Promise.all(wrong.map(each => sendRaw('POST /mcp', [`Authorization: Bearer ${each}`])))
    const seen = new Set(answers.map(({ status, headers: { date: _date, ...headers }, body }) => JSON.stringify([status, headers, body]))) // prettier-ignore
    expect(seen.size).toBe(1)
    expect(answers[0]?.status).toBe(401)
  })

  test('each refusal is one line in the log, and no secret is in it', async () => {
    const fresh = await startTestGateway(yaml())
    try {
      await fresh.until('alpha')
      const before = fresh.log.length
      await post(`${fresh.url}/mcp?api_key=canary-in-the-query`, initialize)
      await post(`${fresh.url}/mcp`, initialize, bearer('canary-in-the-header'))
      const lines = fresh.log.slice(before)
      expect(lines.map(({ event, count }) => [event, count])).toEqual([
        ['auth.missing', 1],
        ['auth.invalid', 1]
      ])
      for (const { log } of [fresh, gateway]) {
        expect(JSON.stringify(log)).not.toMatch(/canary/)
        expect(JSON.stringify(log)).not.toContain(secrets.ADMIN)
      }
    } finally {
      await fresh.close()
    }
  })
})

describe('what a key opens', () => {
  test('an unknown address is 404 with a sentence', async () => {
    for (const path of ['/nowhere', '//mcp', '/mcp/alpha/more', '/mcpx', '/MCP']) {
      const { status, json } = await send('GET', url + path, bearer(secrets.ADMIN))
      expect([path, status, json.error.code]).toEqual([path, 404, -31404])
      expect(json.error.message).toContain('/mcp')
    }
  })

  test('an address that is badly encoded is 404, not an accident', async () => {
    for (const target of ['/mcp/%zz', '/mcp/%', '/mcp/%00', '/mcp/..%2f..', '/mcp?servers=%zz'])
      expect([target, (await sendRaw(`GET ${target}`, [authorized])).status]).toEqual([target, 404])
  })

  test.each(['PUT', 'PATCH', 'OPTIONS', 'TRACE', 'PROPFIND'])(
    '%s on /mcp is 405 and says what is allowed',
    async method => {
      for (const path of ['/mcp', '/mcp/', '/mcp/alpha']) {
        const { status, headers } = await sendRaw(`${method} ${path}`, [authorized])
        expect(status).toBe(405)
        expect(headers.allow).toBe('POST, GET, DELETE')
      }
    }
  )

  test.each(['GET', 'DELETE'] as const)('%s without a session is 405 with Allow: POST', async method => {
    for (const path of ['/mcp', '/mcp/', '/mcp/alpha', '/mcp/first', '/mcp?servers=alpha']) {
      const { status, headers } = await send(method, url + path, bearer(secrets.ADMIN))
      expect([path, status, headers.allow]).toEqual([path, 405, 'POST'])
    }
  })

  test('a trailing slash changes nothing', async () => {
    for (const path of ['/mcp', '/mcp/', '/mcp/alpha', '/mcp/alpha/', '/mcp/first/'])
      expect([path, (await post(url + path, initialize, bearer(secrets.ADMIN))).status]).toEqual([path, 200])
  })
})

describe('how a key may be sent', () => {
  const secret = secrets.DEVELOPER
  test.each([
    ['Authorization: Bearer', `Authorization: Bearer ${secret}`],
    ['a lower-case scheme', `Authorization: bearer ${secret}`],
    ['an upper-case scheme', `AUTHORIZATION: BEARER ${secret}`],
    ['the bare key', `Authorization: ${secret}`],
    ['x-api-key', `x-api-key: ${secret}`],
    ['X-API-Key', `X-API-Key: ${secret}`],
    ['both headers with the same key', `Authorization: Bearer ${secret}\r\nx-api-key: ${secret}`]
  ])('%s works', async (_, header) => {
    expect((await sendRaw('DELETE /mcp', [header])).status).toBe(405)
  })

  test.each([
    ['the scheme alone', 'Authorization: Bearer', 'missing'],
    ['an empty header', 'Authorization: ', 'missing'],
    ['another scheme', `Authorization: Basic ${Buffer.from(`x:${secret}`).toString('base64')}`, 'invalid'],
    ['a quoted key', `Authorization: Bearer "${secret}"`, 'invalid'],
    ['a trailing comma', `Authorization: Bearer ${secret},`, 'invalid'],
    ['two keys in one header', `Authorization: Bearer ${secret}, Bearer ${secrets.ADMIN}`, 'invalid'],
    ['letters outside ASCII', 'Authorization: Bearer schlüssel', 'invalid'],
    ['the key in another case', `Authorization: Bearer ${secret.toUpperCase()}`, 'invalid'],
    ['two headers with different keys', `Authorization: Bearer ${secret}\r\nx-api-key: ${secrets.ADMIN}`, 'invalid'],
    ['the name of the key', 'Authorization: Bearer developer', 'invalid'],
    ['a cookie', `Cookie: api_key=${secret}; Authorization=${secret}`, 'missing'],
    ['a header that proxies use', `X-Forwarded-User: admin\r\nX-Forwarded-Authorization: Bearer ${secret}`, 'missing']
  ])('%s does not work', async (_, header, reason) => {
    const { status, headers } = await sendRaw('DELETE /mcp', [header])
    expect(status).toBe(401)
    expect(headers['www-authenticate']).toBe(
      reason === 'missing' ? 'Bearer realm="mcp"' : 'Bearer realm="mcp", error="invalid_token"'
    )
  })

  test('a control character in the header is 400 from the parser', async () => {
    expect((await sendRaw('DELETE /mcp', [`Authorization: Bearer ${secret}\0`])).status).toBe(400)
  })

  test.each(['api_key', 'key', 'access_token', 'token', 'apikey'])('?%s= in the address does not work', async name => {
    const { status, headers, text } = await post(`${url}/mcp?${name}=${secret}`, initialize)
    expect([status, headers['www-authenticate']]).toEqual([401, 'Bearer realm="mcp"'])
    expect(text).not.toContain(secret)
  })

  test('a key in the body does not work', async () => {
    const params = { ...initialize.params, _meta: { authorization: `Bearer ${secret}`, 'x-api-key': secret } }
    expect((await post(`${url}/mcp`, { ...initialize, params })).status).toBe(401)
    expect(JSON.stringify(gateway.log)).not.toContain(secret)
  })
})

/** Announces 100 MB, sends none of them, and says what came back and whether the connection was then closed. */
function announceHugeBody(target: string, headers: string[] = []): Promise<RawReply & { closed: boolean }> {
  const { hostname, port, host } = new URL(url)
  return new Promise(resolve => {
    const socket = connect(Number(port), hostname)
    const hosted = headers.some(header => /^host:/i.test(header)) ? [] : [`Host: ${host}`]
    const head = [`POST ${target} HTTP/1.1`, ...hosted, ...headers, 'Content-Type: application/json']
    socket.write([...head, `Content-Length: ${100 * 1024 * 1024}`, '', ''].join('\r\n'))
    let received = ''
    socket.on('data', chunk => (received += chunk.toString('latin1')))
    const timer = setTimeout(() => done(false), 2000)
    const done = (closed: boolean) => {
      clearTimeout(timer)
      socket.destroy()
      resolve({ ...parseReply(received), closed })
    }
    socket.once('end', () => done(true))
    socket.once('error', () => done(true))
  })
}

describe('a body that is too large', () => {
  test.each([
    ['without a key', '/mcp', [], 401],
    ['with a wrong key', '/mcp', ['Authorization: Bearer wrong'], 401],
    ['without a key at an unknown address', '/nowhere', [], 401],
    ['to the health check', '/healthz', [], 401],
    ['to an address that is open without a key', '/register', [], 404],
    ['under a foreign Host', '/mcp', ['Host: evil.example'], 403],
    ['from a foreign Origin', '/mcp', ['Origin: https://evil.example'], 403],
    ['with a key at an unknown address', '/nowhere', [authorized], 404],
    ['with a key for an unknown server', '/mcp/nowhere', [authorized], 404],
    ['with a key', '/mcp', [authorized], 413],
    ['with a key and an encoding', '/mcp', [authorized, 'Content-Encoding: gzip'], 415]
  ])('%s is answered before it arrives, and the connection is closed', async (_, target, headers, status) => {
    const answer = await announceHugeBody(target, headers)
    expect([answer.status, answer.closed]).toEqual([status, true])
    expect(answer.headers.connection).toBe('close')
  })

  const limit = 4 * 1024 * 1024
  const padded = (bytes: number) => {
    const [before, after] = JSON.stringify({ ...initialize, 'x-padding': '?' }).split('?') as [string, string]
    return before + 'x'.repeat(bytes - before.length - after.length) + after
  }

  test('up to 4 MiB is read, one byte more is 413', async () => {
    expect((await post(`${url}/mcp`, padded(limit), bearer(secrets.ADMIN))).status).toBe(200)
    const { status, headers, json } = await postRaw(padded(limit + 1))
    expect([status, json.error.code, headers.connection]).toEqual([413, -31413, 'close'])
  })

  test('without a length it is read no further than 4 MiB, then 413', async () => {
    const chunk = `10000\r\n${'x'.repeat(0x10000)}\r\n`
    const head = ['POST /mcp HTTP/1.1', `Host: ${new URL(url).host}`, authorized, 'Content-Type: application/json']
    const bytes = [...head, 'Transfer-Encoding: chunked', '', chunk.repeat(limit / 0x10000 + 1)].join('\r\n')
    const { status, json, headers } = parseReply(await raw(url, bytes))
    expect([status, json?.error.code, headers.connection]).toEqual([413, -31413, 'close'])
  })

  test('in chunks that stay below 4 MiB it is read', async () => {
    const body = JSON.stringify(initialize)
    const chunked = [...body].map(letter => `1\r\n${letter}\r\n`).join('') + '0\r\n\r\n'
    const headers = [authorized, 'Content-Type: application/json', 'Transfer-Encoding: chunked']
    expect((await sendRaw('POST /mcp', headers, chunked)).status).toBe(200)
  })
})

describe('headers', () => {
  test.each([
    ['Host', ['Host: localhost', 'Host: localhost']],
    ['Host, a good and a bad one', ['Host: localhost', 'Host: evil.example']],
    ['Origin', ['Origin: https://app.example', 'Origin: https://evil.example']],
    ['Authorization', [authorized, authorized]],
    ['Authorization in another case', [authorized, `authorization: Bearer ${secrets.DEVELOPER}`]],
    ['x-api-key', [`x-api-key: ${secrets.ADMIN}`, `x-api-key: ${secrets.DEVELOPER}`]],
    ['Content-Type', [authorized, 'Content-Type: application/json', 'Content-Type: text/plain']],
    ['Mcp-Session-Id', [authorized, 'Mcp-Session-Id: a', 'Mcp-Session-Id: b']],
    ['MCP-Protocol-Version', [authorized, 'MCP-Protocol-Version: 2025-11-25', 'MCP-Protocol-Version: 2026-07-28']],
    ['Mcp-Method', [authorized, 'Mcp-Method: tools/list', 'Mcp-Method: tools/call']],
    ['Mcp-Name', [authorized, 'Mcp-Name: alpha__echo', 'Mcp-Name: alpha__count']],
    ['Last-Event-ID', [authorized, 'Last-Event-ID: 1', 'Last-Event-ID: 2']],
    ['x-mcp-servers', [authorized, 'x-mcp-servers: alpha', 'x-mcp-servers: beta']],
    ['Content-Length', [authorized, 'Content-Length: 0', 'Content-Length: 0']]
  ])('that may stand once are refused with 400 when they stand twice: %s', async (_, headers) => {
    const { status } = await sendRaw('POST /mcp', headers)
    expect(status).toBe(400)
  })

  test('the refusal names the header that stood twice', async () => {
    const { json } = await sendRaw('POST /mcp', [authorized, authorized])
    expect(json.error).toEqual({ code: -32600, message: expect.stringContaining('"authorization"') })
  })

  test('Content-Length with Transfer-Encoding is 400', async () => {
    const { status } = await sendRaw('POST /mcp', [authorized, 'Content-Length: 3', 'Transfer-Encoding: chunked'])
    expect(status).toBe(400)
  })

  test('a hundred of them pass, one more is 431', async () => {
    // Host, Authorization and Connection are three.
    expect((await sendRaw('DELETE /mcp', [authorized, ...junk(97)])).status).toBe(405)
    const { status, json } = await sendRaw('DELETE /mcp', [authorized, ...junk(98)])
    expect([status, json.error.code]).toEqual([431, -31431])
  })

  test('a key or an Origin behind 900 others is 431: neither luck nor a way around the checks', async () => {
    expect((await sendRaw('DELETE /mcp', [...junk(900), authorized])).status).toBe(431)
    expect((await sendRaw('DELETE /mcp', [authorized, ...junk(900), 'Origin: https://evil.example'])).status).toBe(431)
  })

  test('one of 17 KB is 431', async () => {
    expect((await sendRaw('DELETE /mcp', [`Authorization: Bearer ${'x'.repeat(17 * 1024)}`])).status).toBe(431)
    expect((await sendRaw('DELETE /mcp', [authorized, `X-Big: ${'x'.repeat(17 * 1024)}`])).status).toBe(431)
  })
})

describe('Host, on a gateway bound to loopback (§6.32)', () => {
  test.each(['localhost', 'localhost:1', '127.0.0.1', '127.0.0.1:65535', '[::1]', '[::1]:8585', 'LOCALHOST:8585'])(
    '%s passes',
    async host => {
      expect((await sendRaw('GET /healthz', [`Host: ${host}`])).status).toBe(200)
      expect((await sendRaw('DELETE /mcp', [`Host: ${host}`, authorized])).status).toBe(405)
    }
  )

  test.each([
    'evil.example',
    'evil.example:8585',
    'localhost.evil.example',
    '127.0.0.1.evil.example',
    '0.0.0.0',
    '192.168.0.1',
    '[::2]'
  ])('%s is 403, before the key is looked at', async host => {
    for (const line of ['GET /healthz', 'POST /mcp', 'GET /.well-known/openid-configuration', 'GET /nowhere']) {
      const { status, json, headers } = await sendRaw(line, [`Host: ${host}`])
      expect([status, json.error.code]).toEqual([403, -31403])
      expect(headers['www-authenticate']).toBeUndefined()
      expect(json.error.message).toContain('allowed_hosts')
    }
  })

  test.each(['x/..', 'localhost/..', 'user@localhost', '[::1', 'localhost:99999', 'local host', ''])(
    'one that is no host at all ("%s") is refused like every other request',
    async host => {
      const { status, headers } = await sendRaw('GET /healthz', [`Host: ${host}`])
      expect([400, 403]).toContain(status)
      expect(headers['content-type']).toMatch(/^application\/json/)
      expect(headers['x-content-type-options']).toBe('nosniff')
    }
  )

  test('a target that names another host than the header is 403', async () => {
    for (const target of ['http://evil.example/mcp', 'http://evil.example/healthz', 'https://localhost:1/mcp'])
      expect([target, (await sendRaw(`GET ${target}`, ['Host: localhost', authorized])).status]).toEqual([target, 403])
  })

  test('a target that names the same host as the header passes', async () => {
    expect((await sendRaw('GET http://localhost/healthz', ['Host: localhost'])).status).toBe(200)
    expect((await sendRaw('DELETE http://localhost:8585/mcp', ['Host: localhost:8585', authorized])).status).toBe(405)
  })
})

describe('Origin (§6.32)', () => {
  test.each([
    'null',
    'http://evil.example',
    'https://localhost.evil.example',
    'http://localhost',
    'http://127.0.0.1:1',
    'https://app.example:444',
    'http://app.example',
    'https://sub.app.example',
    'file://',
    'nonsense',
    ''
  ])('"%s" is 403, before the key is looked at', async origin => {
    for (const line of ['GET /healthz', 'POST /mcp', 'OPTIONS /mcp']) {
      const { status, json, headers } = await sendRaw(line, [`Origin: ${origin}`])
      expect([status, json.error.code]).toEqual([403, -31403])
      expect(json.error.message).toContain('allowed_origins')
      expect(Object.keys(headers).filter(name => name.startsWith('access-control'))).toEqual([])
    }
  })

  test('none passes', async () => {
    expect((await sendRaw('DELETE /mcp', [authorized])).status).toBe(405)
  })

  test('the one of this very host passes', async () => {
    expect((await sendRaw('DELETE /mcp', [authorized, `Origin: ${url}`])).status).toBe(405)
    expect((await sendRaw('DELETE /mcp', [authorized, 'Host: localhost:9', 'Origin: http://localhost:9'])).status).toBe(
      405
    )
  })

  test('one from allowed_origins passes', async () => {
    for (const origin of ['https://app.example', 'HTTPS://App.Example'])
      expect((await sendRaw('DELETE /mcp', [authorized, `Origin: ${origin}`])).status).toBe(405)
  })
})

describe('a gateway bound wider than loopback', () => {
  test('is reached under any Host, but not from a foreign Origin', async () => {
    const wide = await startTestGateway(yaml('{ host: 0.0.0.0, port: 0 }'))
    try {
      const ask = async (...headers: string[]) =>
        parseReply(await raw(wide.url, ['DELETE /mcp HTTP/1.1', ...headers, authorized, 'Connection: close', '', ''].join('\r\n'))).status // prettier-ignore
      expect(await ask('Host: gateway.lan:8585')).toBe(405)
      expect(await ask('Host: gateway.lan:8585', 'Origin: http://gateway.lan:8585')).toBe(405)
      expect(await ask('Host: gateway.lan:8585', 'Origin: http://gateway.lan')).toBe(403)
      expect(await ask('Host: gateway.lan:8585', 'Origin: https://evil.example')).toBe(403)
    } finally {
      await wide.close()
    }
  })

  test('is reached under allowed_hosts and loopback names only, once there are allowed_hosts', async () => {
    const wide = await startTestGateway(yaml('{ host: 0.0.0.0, port: 0, allowed_hosts: [ Gateway.lan ] }'))
    try {
      const ask = async (host: string) =>
        parseReply(await raw(wide.url, `GET /healthz HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)).status
      expect(await ask('gateway.lan')).toBe(200)
      expect(await ask('GATEWAY.LAN:8585')).toBe(200)
      expect(await ask('localhost')).toBe(200)
      expect(await ask('other.lan')).toBe(403)
      expect(await ask('gateway.lan.evil.example')).toBe(403)
    } finally {
      await wide.close()
    }
  })
})

describe('a body that is not one JSON-RPC message', () => {
  const nested = (depth: number) =>
    `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"x":${'['.repeat(depth)}${']'.repeat(depth)}}}`
  const withText = (bytes: number[]) =>
    Buffer.concat([
      Buffer.from('{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"x":"'),
      Buffer.from(bytes),
      Buffer.from('"}}')
    ])

  test.each<[string, string | Buffer]>([
    ['nothing', ''],
    ['half an object', '{'],
    ['a trailing comma', '{"jsonrpc":"2.0","id":1,"method":"ping",}'],
    ['NaN', '{"jsonrpc":"2.0","id":NaN,"method":"ping"}'],
    ['single quotes', "{'jsonrpc':'2.0','id':1,'method':'ping'}"],
    ['two objects', '{"jsonrpc":"2.0","id":1,"method":"ping"}{"jsonrpc":"2.0","id":2,"method":"ping"}'],
    ['a byte order mark', `\ufeff${JSON.stringify(initialize)}`],
    ['63 arrays in an object in an object', nested(63)],
    ['10,000 arrays', nested(10_000)],
    ['4 MB of [', '['.repeat(4_000_000)],
    ['a byte that is no UTF-8', withText([0xff])],
    ['an overlong form', withText([0xc0, 0xaf])],
    ['a lone surrogate', withText([0xed, 0xa0, 0x80])],
    ['half a character', withText([0xe2, 0x82])]
  ])('%s is 400 with -32700', async (_, body) => {
    const { status, json } = await postRaw(body)
    expect(status).toBe(400)
    expect(json).toEqual({ jsonrpc: '2.0', error: { code: -32700, message: expect.any(String) } })
  })

  test('what was sent is never repeated in the answer or the log', async () => {
    const { body } = await postRaw('canary-in-the-body')
    expect(body).not.toContain('canary')
    expect(JSON.stringify(gateway.log)).not.toContain('canary-in-the-body')
  })

  test('64 levels are read', async () => {
    expect((await postRaw(nested(62))).status).toBe(200)
  })

  test.each<[string, unknown]>([
    ['an array', [initialize]],
    ['an empty array', []],
    [
      'a batch',
      [
        { jsonrpc: '2.0', id: 1, method: 'ping' },
        { jsonrpc: '2.0', id: 2, method: 'ping' }
      ]
    ],
    ['a string', '"ping"'],
    ['null', 'null'],
    ['an empty object', {}],
    ['no version', { id: 1, method: 'ping' }],
    ['version 1.0', { ...initialize, jsonrpc: '1.0' }],
    ['a method that is a number', { ...initialize, method: 1 }],
    ['params that are an array', { ...initialize, params: [] }],
    ['an answer without a result', { jsonrpc: '2.0', id: 1 }]
  ])('%s is 400 with -32600', async (_, body) => {
    const { status, json } = await post(`${url}/mcp`, body, bearer(secrets.ADMIN))
    expect([status, json.error.code]).toEqual([400, -32600])
  })

  test.each([
    '1.5',
    '1e400',
    '9007199254740993',
    '-9007199254740993',
    'null',
    'true',
    '{}',
    '[1]',
    `"${'x'.repeat(257)}"`
  ])('an id of %s is 400, and no id is invented', async id => {
    const body = `{"jsonrpc":"2.0","id":${id},"method":"initialize","params":{"protocolVersion":"2025-11-25"}}`
    const { status, json } = await post(`${url}/mcp`, body, bearer(secrets.ADMIN))
    expect([status, json.error.code]).toEqual([400, -32600])
    expect(json.id ?? null).toBeNull()
  })

  test('a message that is wrong otherwise is refused under its own id', async () => {
    const { json } = await post(`${url}/mcp`, { ...initialize, jsonrpc: '1.0', id: 'mine' }, bearer(secrets.ADMIN))
    expect(json.id).toBe('mine')
  })

  test('names that JavaScript knows are only names', async () => {
    const body = `{"jsonrpc":"2.0","id":1,"method":"initialize","__proto__":{"polluted":1},"params":{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"protocolVersion":"2025-11-25","capabilities":{"__proto__":{"polluted":1}}}}`
    expect((await post(`${url}/mcp`, body, bearer(secrets.ADMIN))).status).toBe(200)
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
  })
})

describe('Content-Type', () => {
  test.each([
    'application/json',
    'Application/JSON',
    'application/json; charset=utf-8',
    'application/json;charset="UTF-8"',
    'application/json; profile=x; charset=utf8'
  ])('%s is read', async type => {
    expect((await postRaw(JSON.stringify(initialize), [authorized, `Content-Type: ${type}`])).status).toBe(200)
  })

  test.each([
    'text/plain',
    'application/jsonp',
    'application/json-patch+json',
    'application/json; charset=utf-16',
    'application/x-www-form-urlencoded',
    'text/plain, application/json',
    ''
  ])('"%s" is 415', async type => {
    const { status, json } = await postRaw(JSON.stringify(initialize), [authorized, `Content-Type: ${type}`])
    expect([status, json.error.code]).toEqual([415, -32600])
  })

  test('none is 415', async () => {
    expect((await postRaw(JSON.stringify(initialize), [authorized])).status).toBe(415)
  })

  test.each(['gzip', 'deflate', 'br', 'identity, gzip'])('a body in the encoding %s is 415', async encoding => {
    const headers = [authorized, 'Content-Type: application/json', `Content-Encoding: ${encoding}`]
    expect((await postRaw(JSON.stringify(initialize), headers)).status).toBe(415)
  })
})

test('every answer says what it is, is not guessed at and not stored', async () => {
  const admin = bearer(secrets.ADMIN)
  const session = await openSession(url, secrets.ADMIN)
  const call = { name: 'alpha__echo', arguments: { message: 'hello' } }
  const answers: [string, Reply | RawReply][] = [
    ['health', await send('GET', `${url}/healthz`)],
    ['ready', await send('GET', `${url}/readyz`)],
    ['head of health', await send('HEAD', `${url}/healthz`)],
    ['probe', await send('GET', `${url}/.well-known/openid-configuration`)],
    ['no key', await post(`${url}/mcp`, initialize)],
    ['wrong key', await post(`${url}/mcp`, initialize, bearer('wrong'))],
    ['foreign host', await sendRaw('GET /mcp', ['Host: evil.example'])],
    ['foreign origin', await sendRaw('GET /mcp', ['Origin: null'])],
    ['doubled header', await sendRaw('GET /mcp', [authorized, authorized])],
    ['too many headers', await sendRaw('GET /mcp', [authorized, ...junk(200)])],
    ['unknown address', await send('GET', `${url}/nowhere`, admin)],
    ['unknown server', await send('GET', `${url}/mcp/nowhere`, admin)],
    ['other method', await send('PUT', `${url}/mcp`, admin)],
    ['no session', await send('GET', `${url}/mcp`, admin)],
    ['no session id', await post(`${url}/mcp`, { jsonrpc: '2.0', id: 1, method: 'ping' }, admin)],
    ['lost session', await post(`${url}/mcp`, { jsonrpc: '2.0', id: 1, method: 'ping' }, { ...admin, 'mcp-session-id': 'x' })], // prettier-ignore
    ['bad json', await post(`${url}/mcp`, '{', admin)],
    ['bad type', await post(`${url}/mcp`, '{}', { ...admin, 'content-type': 'text/plain' })],
    ['too large', await announceHugeBody('/mcp', [authorized])],
    ['initialize', session.opened],
    ['ping', await session.rpc('ping')],
    ['unknown method', await session.rpc('no/such')],
    ['list', await session.rpc('tools/list')],
    ['call', await session.rpc('tools/call', call)],
    ['unknown tool', await session.rpc('tools/call', { name: 'no_such' })],
    ['stream', await session.rpc('tools/call', call, { headers: { accept: 'text/event-stream' } })],
    ['discover', await modern(url, secrets.ADMIN, 'server/discover')],
    ['modern list', await modern(url, secrets.ADMIN, 'tools/list')],
    ['modern unknown method', await modern(url, secrets.ADMIN, 'no/such')],
    ['modern mismatch', await modern(url, secrets.ADMIN, 'tools/list', {}, { headers: { 'mcp-method': 'x' } })],
    ['modern without header', await post(`${url}/mcp`, { jsonrpc: '2.0', id: 1, method: 'tools/list', params: { _meta: envelope } }, admin)], // prettier-ignore
    ['end', await send('DELETE', `${url}/mcp`, session.headers)]
  ]
  const accepted = await post(`${url}/mcp`, { jsonrpc: '2.0', method: 'notifications/initialized' }, (await openSession(url, secrets.ADMIN)).headers) // prettier-ignore
  expect(accepted.status).toBe(202)
  for (const [what, { headers }] of answers)
    expect([what, headers['content-type']]).toEqual([
      what,
      expect.stringMatching(/^(application\/json|text\/event-stream)/)
    ])
  for (const [what, { headers }] of [...answers, ['accepted', accepted] as const]) {
    expect([what, headers['x-content-type-options']]).toEqual([what, 'nosniff'])
    expect([what, headers['cache-control']]).toEqual([what, expect.stringMatching(/^no-store/)])
  }
})
