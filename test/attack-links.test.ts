/**
 * Servers that lead astray: redirects, certificates, statuses, transports and versions that lie. Group U of the security
 * reference from U15 on; in place of its breaker the design has attempts that calls pull forward, at most one a second.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { attack, noncesOf, type Attack } from './helpers/attack.js'
import { makeCertificate } from './helpers/certificate.js'
import { openEvents, replyJson, sendEvent, startEvil, type Behaviour, type Evil } from './helpers/evil.js'
import { startGatewayProcess } from './helpers/gateway-process.js'
import { bearer, modern, openSession, post, type Reply } from './helpers/http.js'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import { secrets, waitFor } from './helpers/with-gateway.js'

const problemOf = ({ json }: Reply) => json.result?._meta?.['switchboard/error']
const statusOf = ({ gateway }: Attack, id: string) => gateway.gateway.status().find(status => status.id === id)

const codes = [301, 302, 303, 307, 308] as const
let elsewhere: Evil

/** Redirects everything, or calls alone, to an address. */
const redirecting =
  (status: number, to: () => string, methods?: readonly string[]): Behaviour =>
  ({ message, verb }, res) => {
    if (methods && !methods.includes(message?.method ?? verb)) return false
    res.writeHead(status, { location: to() }).end()
    return true
  }

/** HTTP+SSE with this `endpoint`, and after a message posted to the right one, another. */
const sse =
  (endpoint: () => string, later?: () => string): Behaviour =>
  ({ verb, message }, res) => {
    if (verb === 'GET') {
      openEvents(res)
      res.write(`event: endpoint\ndata: ${endpoint()}\n\n`)
      open.push(res)
      return true
    }
    if (message?.method === 'tools/call' && later) for (const stream of open) stream.write(`event: endpoint\ndata: ${later()}\n\n`) // prettier-ignore
    res.writeHead(202).end()
    const { id, method, params } = message ?? {}
    const result =
      method === 'initialize'
        ? {
            protocolVersion: params.protocolVersion,
            capabilities: { tools: {} },
            serverInfo: { name: 'sse', version: '1' }
          }
        : method === 'tools/list'
          ? { tools: [{ name: 'do', inputSchema: { type: 'object' } }] }
          : undefined
    if (result && id !== undefined) sendEvent(open.at(-1) as never, { jsonrpc: '2.0', id, result })
    return true
  }
const open: { write(text: string): unknown }[] = []

attack(
  'U15',
  'no redirect is followed, no other origin is posted to, nothing a server names is fetched, and no header leaves its origin',
  async attacked => {
    const { call } = attacked
    for (const code of codes) {
      const reply = await call(`call_${code}__do`)
      expect([code, problemOf(reply)]).toEqual([code, { code: -31502, server: `call_${code}`, dispatched: false }])
      expect(reply.json.result.content[0].text).toMatch(
        new RegExp(`redirect \\(HTTP ${code}\\), which is never followed`)
      )
    }
    const sick = [...codes.map(code => `all_${code}`), 'metadata', 'near', 'sse_other', 'sse_scheme', 'sse_slashes', 'sse_user', 'sse_nonsense'] // prettier-ignore
    await waitFor(() => sick.every(id => statusOf(attacked, id)?.problem !== undefined), 'a problem of each')
    for (const id of sick) {
      const expected = id.startsWith('sse_') ? /another host/ : id === 'metadata' ? /HTTP 401/ : /redirect/
      expect([id, statusOf(attacked, id)?.problem]).toEqual([id, expect.stringMatching(expected)])
    }
    // One that names another address in the middle of a call: the call is answered, and nothing goes there.
    const reply = await call('sse_later__do')
    expect(problemOf(reply)).toMatchObject({ code: -31502, server: 'sse_later', dispatched: true })
    await pause(300)
    expect(elsewhere.requests).toEqual([])
  },
  {
    sick: [...codes.map(code => `all_${code}`), 'metadata', 'near', 'sse_other', 'sse_scheme', 'sse_slashes', 'sse_user', 'sse_nonsense'], // prettier-ignore
    servers: async ({ canary, ledger }) => {
      elsewhere = await startEvil()
      const { host } = new URL(elsewhere.url)
      const headers = {
        Authorization: `Bearer ${canary('header of a redirected server')}`,
        'X-Api-Key': canary('its key')
      }
      const to = () => elsewhere.url
      const servers: Record<string, object> = {}
      const add = async (id: string, behave: Behaviour, more: object = {}) => {
        const evil = await startEvil(behave)
        servers[id] = { url: evil.url, headers, ...more }
        return evil
      }
      for (const code of codes) {
        await add(`call_${code}`, redirecting(code, to, ['tools/call', 'GET', 'notifications/initialized']))
        await add(`all_${code}`, redirecting(code, to))
      }
      const near: Evil = await add(
        'near',
        redirecting(307, () => `${near.url}/further`)
      )
      await add('metadata', (_, res) => {
        const link = `Bearer resource_metadata="${elsewhere.url}/.well-known/oauth-protected-resource", authorization_uri="file:///bin/sh;calc"`
        res
          .writeHead(401, {
            'www-authenticate': link,
            refresh: `0; url=${elsewhere.url}`,
            link: `<${elsewhere.url}>; rel=preload`
          })
          .end()
        return true
      })
      const sseOnly = { transport: 'sse' }
      await add('sse_other', sse(to), sseOnly)
      await add(
        'sse_scheme',
        sse(() => `https://${host}/messages`),
        sseOnly
      )
      await add(
        'sse_slashes',
        sse(() => `//${host}/messages`),
        sseOnly
      )
      await add(
        'sse_user',
        sse(() => `http://127.0.0.1@${host}/messages`),
        sseOnly
      )
      await add(
        'sse_nonsense',
        sse(() => 'http://[nonsense'),
        sseOnly
      )
      const later = await add(
        'sse_later',
        sse(() => '/messages', to),
        sseOnly
      )
      ledger.watch(later.arrivals)
      return servers
    }
  }
)

const hosts = ['127.0.0.1']
const authority = makeCertificate({ name: 'Authority of a test' })
const certificates = {
  self_signed: makeCertificate({ name: 'self', hosts }),
  unknown_authority: makeCertificate({ name: 'leaf', by: authority, hosts })
}

attack(
  'U16',
  'a certificate nobody vouches for and an old TLS are refused, NODE_TLS_REJECT_UNAUTHORIZED or not (the design has no switch)',
  async attacked => {
    const { call } = attacked
    const before = process.env.NODE_TLS_REJECT_UNAUTHORIZED
    const restore = () => {
      if (before === undefined) delete process.env.NODE_TLS_REJECT_UNAUTHORIZED
      else process.env.NODE_TLS_REJECT_UNAUTHORIZED = before
    }
    onTestFinished(restore)
    process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'
    const expected = {
      self_signed: /SELF_SIGNED_CERT/,
      unknown_authority: /UNABLE_TO_VERIFY_LEAF_SIGNATURE/,
      over_sse: /SELF_SIGNED_CERT/,
      old_tls: /SSL|PROTOCOL_VERSION/,
      no_tls: /SSL/
    }
    // The servers were tried before the variable was set; now each is tried again, as somebody lists and calls.
    for (const [id, problem] of Object.entries(expected)) {
      await waitFor(() => problem.test(statusOf(attacked, id)?.problem ?? ''), `the problem of ${id}`)
      expect(statusOf(attacked, id)?.tools).toBeUndefined()
    }
    await pause(2500)
    for (const [id, problem] of Object.entries(expected)) expect([id, statusOf(attacked, id)?.problem]).toEqual([id, expect.stringMatching(problem)]) // prettier-ignore
    for (const evil of tlsServers) expect(evil.requests).toEqual([])
    expect((await call('self_signed__do')).json.error.code).toBe(-32602)
    restore()
  },
  {
    sick: ['self_signed', 'unknown_authority', 'over_sse', 'old_tls', 'no_tls'],
    servers: async ({ canary }) => {
      const headers = { Authorization: `Bearer ${canary('header of a server with a bad certificate')}` }
      const { self_signed, unknown_authority } = certificates
      const old = {
        ...self_signed,
        minVersion: 'TLSv1',
        maxVersion: 'TLSv1.1',
        ciphers: 'DEFAULT:@SECLEVEL=0'
      } as const
      tlsServers = await Promise.all(
        [self_signed, unknown_authority, self_signed, old].map(tls => startEvil(undefined, tls))
      )
      const [self, unknown, sse, older] = tlsServers.map(({ url }) => ({ url, headers }))
      const plain = await startEvil()
      return {
        self_signed: self as object,
        unknown_authority: unknown as object,
        over_sse: { ...sse, transport: 'sse' },
        old_tls: older as object,
        no_tls: { url: plain.url.replace('http:', 'https:'), headers }
      }
    }
  }
)
let tlsServers: Evil[] = []

test('U16: a certificate of an authority that NODE_EXTRA_CA_CERTS names works, unless it is expired, of another name, or swapped', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'switchboard-tls-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const of = (more: object) => makeCertificate({ name: 'leaf', by: authority, hosts, ...more })
  const good = await startEvil(undefined, of({}))
  const expired = await startEvil(undefined, of({ days: [-30, -1] }))
  const early = await startEvil(undefined, of({ days: [1, 30] }))
  const renamed = await startEvil(undefined, of({ hosts: ['mcp.example'] }))
  writeFileSync(join(folder, 'authority.pem'), authority.cert)
  const servers = Object.fromEntries(
    Object.entries({ good, expired, early, renamed }).map(([id, { url }]) => [id, { url, transport: 'http' }])
  )
  const config = join(folder, 'servers.yaml')
  writeFileSync(config, `servers: ${JSON.stringify(servers)}\nkeys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`)
  const env = {
    ADMIN: secrets.ADMIN,
    NODE_EXTRA_CA_CERTS: join(folder, 'authority.pem'),
    NODE_TLS_REJECT_UNAUTHORIZED: '0',
    NODE_NO_WARNINGS: '1'
  }
  const gateway = await startGatewayProcess({ config, env })
  onTestFinished(() => gateway.stop())
  const params = { name: 'good__do', arguments: { nonce: 'through TLS' } }
  const reply = await modern(gateway.url, secrets.ADMIN, 'tools/call', params)
  expect(reply.json.result.content[0].text).toBe('through TLS')
  const reasons = () =>
    Object.fromEntries(gateway.logged('upstream.down').map(({ server, reason }) => [server, reason]))
  await waitFor(() => Object.keys(reasons()).length === 3, 'three of them to be down')
  expect(reasons()).toEqual({
    expired: expect.stringMatching(/CERT_HAS_EXPIRED/),
    early: expect.stringMatching(/CERT_NOT_YET_VALID/),
    renamed: expect.stringMatching(/ERR_TLS_CERT_ALTNAME_INVALID/)
  })
  for (const { requests } of [expired, early, renamed]) expect(requests).toEqual([])

  good.swap(of({ hosts: ['mcp.example'] }))
  const { length } = good.requests
  const refused = await modern(gateway.url, secrets.ADMIN, 'tools/call', params)
  expect(problemOf(refused)).toMatchObject({ code: -31503, server: 'good', dispatched: false })
  expect(refused.text).toMatch(/ERR_TLS_CERT_ALTNAME_INVALID/)
  expect(good.requests).toHaveLength(length)
})

let lying: Evil
let retrying: Evil
let refusing: Evil
const text = (res: Parameters<Behaviour>[1], status: number, headers: Record<string, string>, body = '') => {
  res.writeHead(status, headers).end(body)
  return true
}

attack(
  'U17',
  'statuses, types and headers that lie fail their call in words, and a number to wait for is a number',
  async attacked => {
    const { call, url, key, raw } = attacked
    const lies: [string, number | undefined, boolean][] = [
      // What it does, the code of the failure (none: it is an answer), whether it may have run.
      ['401', -31502, false], ['403', -31502, false], ['404', -31502, false], ['405', -31502, false], ['418', -31502, false],
      ['500', -31502, true], ['502', -31502, true], ['503', -31502, true], ['204', -31502, true], ['206', -31502, true],
      ['html', -31502, true], ['empty', -31502, true], ['json as a stream', -31502, true], ['a stream as json', -31502, true], ['another charset', undefined, true],
      ['429', -31429, false]
    ] // prettier-ignore
    for (const [as, code, dispatched] of lies) {
      const reply = await call('lying__do', { as, unseen: !dispatched })
      expect([as, reply.status, problemOf(reply)?.code, problemOf(reply)?.dispatched]).toEqual([as, 200, code, code && dispatched]) // prettier-ignore
      expect(JSON.stringify(reply.json)).not.toContain('<h1>')
    }
    for (const after of [
      '7',
      '-7',
      '1e999',
      'Infinity',
      'NaN',
      '9'.repeat(400),
      'Wed, 21 Oct 2099 07:28:00 GMT',
      '',
      '7, 8'
    ]) {
      const reply = await call('lying__do', { as: '429', after, unseen: true })
      const { retryAfterMs } = problemOf(reply)
      expect([after.slice(0, 9), retryAfterMs === undefined || (retryAfterMs > 0 && retryAfterMs <= 86_400_000)]).toEqual([after.slice(0, 9), true]) // prettier-ignore
      const body = JSON.stringify({ arguments: { as: '429', after, nonce: 'x' } })
      const plain = await post(`${url}/tools/lying__do`, body, { ...bearer(key), accept: 'application/json' })
      expect(plain.status).toBe(429)
      expect(plain.headers['retry-after'] ?? '1').toMatch(/^[1-9]\d{0,5}$/)
    }
    expect(statusOf(attacked, 'lying')).toMatchObject({ state: 'ready', restarts: 0 })
    // The tool's own failures are its own: however many, the server stays.
    for (let i = 0; i < 30; i++) expect((await call('lying__do', { as: 'isError' })).json.result.isError).toBe(true)
    expect(statusOf(attacked, 'lying')).toMatchObject({ state: 'ready', restarts: 0 })
    expect((await raw('')).received).toBe('')
  },
  {
    servers: async ({ ledger }) => {
      lying = await startEvil(({ message }, res) => {
        if (message?.method !== 'tools/call') return false
        const { id, params } = message
        const { as, after = '', nonce } = params.arguments
        const answer = JSON.stringify({ jsonrpc: '2.0', id, result: { content: [{ type: 'text', text: nonce }] } })
        if (as === 'html') return text(res, 200, { 'content-type': 'text/html' }, '<h1>Log in</h1>')
        if (as === 'empty') return text(res, 200, { 'content-type': 'application/json' })
        if (as === 'json as a stream') return text(res, 200, { 'content-type': 'text/event-stream' }, answer)
        if (as === 'a stream as json')
          return text(res, 200, { 'content-type': 'application/json' }, `data: ${answer}\n\n`)
        if (as === 'another charset') return text(res, 200, { 'content-type': 'text/plain; charset=utf-16' }, answer)
        if (as === '429') return text(res, 429, after === '' ? {} : { 'retry-after': after })
        if (as === 'isError') replyJson(res, { jsonrpc: '2.0', id, result: { isError: true, content: [] } })
        else return text(res, Number(as), { 'content-type': 'text/html' }, '<h1>Error</h1>')
        return true
      })
      ledger.watch(() =>
        noncesOf(lying.requests.filter(({ message }) => message?.params?.arguments?.unseen !== true)).filter(
          nonce => nonce !== 'x'
        )
      )
      return { lying: { url: lying.url } }
    }
  }
)

attack(
  'U17',
  'a stream of comments, or one that asks to be opened again without pause, costs a bounded number of requests',
  async attacked => {
    const { call, print } = attacked
    const begun = performance.now()
    const back = call('retrying__do')
    const flooded = await call('flooding__do')
    expect(problemOf(flooded)).toMatchObject({ code: -31504, server: 'flooding', dispatched: true })
    expect(problemOf(await back)).toMatchObject({ code: -31504, server: 'retrying', dispatched: true })
    const seconds = (performance.now() - begun) / 1000
    const gets = retrying.requests.filter(({ headers }) => headers['last-event-id'] !== undefined).length
    print(`times it came back in ${seconds.toFixed(1)} s`, gets)
    expect(gets).toBeGreaterThan(1)
    expect(gets).toBeLessThanOrEqual(seconds + 1)
    // A server that takes connections and cuts them is tried once a second at most, whoever calls it.
    const tries = refusing.requests.length
    const from = performance.now()
    while (performance.now() - from < 2500) {
      await Promise.all(Array.from({ length: 5 }, () => call('refusing__do')))
      await pause(50)
    }
    print('attempts of 2.5 s, called without pause', refusing.requests.length - tries)
    expect(refusing.requests.length - tries).toBeLessThanOrEqual(2 * 5)
  },
  {
    sick: ['refusing'],
    servers: async ({ ledger }) => {
      let event = 0
      retrying = await startEvil(({ verb, message, headers }, res) => {
        const isBack = verb === 'GET' && headers['last-event-id'] !== undefined
        if (message?.method === 'initialize') {
          res.setHeader('mcp-session-id', 'one')
          return false
        }
        if (message?.method !== 'tools/call' && !isBack) return verb === 'GET' && text(res, 405, {})
        openEvents(res)
        res.end(`retry: 0\nid: ${++event}\ndata: \n\n`)
        return true
      })
      const flooding = await startEvil(({ message }, res) => {
        if (message?.method !== 'tools/call') return false
        openEvents(res)
        const timer = setInterval(() => res.write(':\n'.repeat(20_000)), 5)
        res.on('close', () => clearInterval(timer))
        return true
      })
      refusing = await startEvil((_, res) => {
        res.destroy()
        return true
      })
      for (const { arrivals } of [retrying, flooding]) ledger.watch(arrivals)
      return {
        retrying: { url: retrying.url, timeout: 4, max_timeout: 4 },
        flooding: { url: flooding.url, timeout: 1.5 },
        refusing: { url: refusing.url }
      }
    }
  }
)

attack(
  'U17',
  'a server that says it can what it cannot, or speaks a version nobody knows, is told apart, and a lost session costs no call',
  async attacked => {
    const { url, key, ledger } = attacked
    await waitFor(() => statusOf(attacked, 'unknown_version')?.problem !== undefined, 'the version to be refused')
    expect(statusOf(attacked, 'unknown_version')?.problem).toMatch(/answered initialize with 1999-01-01/)
    expect(statusOf(attacked, 'boasting')).toMatchObject({ state: 'ready', problem: expect.stringMatching(/tools\/list|prompts\/list|resources\/list/) }) // prettier-ignore
    const session = await openSession(url, key)
    for (const method of ['tools/list', 'prompts/list', 'resources/list', 'resources/templates/list'])
      expect([method, (await session.rpc(method)).json.error]).toEqual([method, undefined])

    // Its session is gone in the middle of twenty calls, five times over: each runs once, none fails.
    for (let i = 0; i < 5; i++) {
      forgetful.forgetSessions()
      const replies = await Promise.all(
        Array.from({ length: 20 }, () =>
          ledger.call(nonce =>
            modern(url, key, 'tools/call', { name: 'forgetful__echo', arguments: { message: nonce, nonce } })
          )
        )
      )
      for (const reply of replies) expect(problemOf(reply as Reply)).toBeUndefined()
    }
    expect(forgetful.initializes).toBeLessThanOrEqual(7)
    expect(forgetful.called).toBe(5 * 20)
  },
  {
    sick: ['unknown_version'],
    servers: async ({ ledger }) => {
      const opening =
        (protocolVersion: string, capabilities: object): Behaviour =>
        ({ message }, res) => {
          const { id, method } = message ?? {}
          if (method === 'initialize')
            replyJson(res, {
              jsonrpc: '2.0',
              id,
              result: { protocolVersion, capabilities, serverInfo: { name: 'x', version: '1' } }
            })
          else if (id !== undefined)
            replyJson(res, { jsonrpc: '2.0', id, error: { code: -32601, message: 'Method not found' } })
          else return false
          return true
        }
      forgetful = await startRawHttp()
      onTestFinished(() => forgetful.close())
      // Sent again is what was refused for its session, and has not run: how often a call ran, the server itself counts.
      ledger.watch(() => [...new Set(noncesOf(forgetful.requests))])
      const all = { tools: {}, prompts: {}, resources: { subscribe: true }, completions: {}, logging: {} }
      return {
        forgetful: { url: forgetful.url },
        boasting: { url: (await startEvil(opening('2024-11-05', all))).url },
        unknown_version: { url: (await startEvil(opening('1999-01-01', { tools: {} }))).url }
      }
    }
  }
)
let forgetful: Awaited<ReturnType<typeof startRawHttp>>
