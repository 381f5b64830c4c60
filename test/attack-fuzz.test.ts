/**
 * Anything at all (T16): mutated HTTP requests and mutated messages against every door. The seed is fixed; a run of CI
 * sends some thousands, ATTACK_FULL sends 10⁵ of each.
 */
import fc from 'fast-check'
import { expect } from 'vitest'
import { attack, type Attack } from './helpers/attack.js'
import { bearer, envelope, openSession } from './helpers/http.js'
import { rawTo } from './helpers/raw.js'

const isFull = process.env.ATTACK_FULL !== undefined
const runs = isFull ? 100_000 : 1200
const longestMs = isFull ? 3_600_000 : 8000
const hangMs = 5000
const seed = 20_260_728

/** A text with some of its bytes changed, taken out, doubled, or replaced by what parsers trip over. */
const mutated = (texts: readonly string[]): fc.Arbitrary<string> => {
  const odd = ['\0', '\r', '\n', '\r\n', '\r\n\r\n', ':', ' ', '\t', '\x7f', '\xff', '"', '\\', '{', '[', ']', '}', ',', '%00', '../', '//', '9'.repeat(30), '-1', '1e999', 'null', '\\u0000', '\\ud800', '__proto__', 'A'.repeat(3000)] // prettier-ignore
  const edit = fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    take: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 2, arbitrary: fc.nat(4) }, fc.nat(60)),
    put: fc.oneof(fc.constantFrom(...odd), fc.string({ unit: 'binary', maxLength: 3 }), fc.constant(''))
  })
  return fc.tuple(fc.constantFrom(...texts), fc.array(edit, { minLength: 0, maxLength: 4 })).map(([text, edits]) =>
    edits.reduce((changed, { at, take, put }) => {
      const from = Math.floor(at * changed.length)
      return changed.slice(0, from) + put + changed.slice(from + take)
    }, text)
  )
}

const messages = (nonce: string): readonly object[] => [
  { jsonrpc: '2.0', id: 1, method: 'ping' },
  { jsonrpc: '2.0', id: 2, method: 'initialize', params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'x', version: '1' } } },
  { jsonrpc: '2.0', id: 3, method: 'tools/list', params: { cursor: 'eyJhIjoxfQ' } },
  { jsonrpc: '2.0', id: 4, method: 'tools/call', params: { name: 'healthy__echo', arguments: { message: nonce }, _meta: { progressToken: 1 } } },
  { jsonrpc: '2.0', id: 5, method: 'tools/call', params: { name: 'healthy__progress', arguments: {}, _meta: { ...envelope, progressToken: 'p' } } },
  { jsonrpc: '2.0', id: 6, method: 'resources/read', params: { uri: 'file:///a/../b?x#y' } },
  { jsonrpc: '2.0', id: 7, method: 'resources/subscribe', params: { uri: 'file:///a' } },
  { jsonrpc: '2.0', id: 8, method: 'prompts/get', params: { name: 'p', arguments: { a: 'b' } } },
  { jsonrpc: '2.0', id: 9, method: 'completion/complete', params: { ref: { type: 'ref/prompt', name: 'p' }, argument: { name: 'a', value: '' } } },
  { jsonrpc: '2.0', id: 10, method: 'logging/setLevel', params: { level: 'debug' } },
  { jsonrpc: '2.0', id: 11, method: 'server/discover', params: { _meta: envelope } },
  { jsonrpc: '2.0', id: 12, method: 'tasks/get', params: { taskId: 'x', _meta: envelope } },
  { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 4, reason: 'x' } },
  { jsonrpc: '2.0', method: 'notifications/initialized' },
  { jsonrpc: '2.0', id: 13, result: {} },
  { jsonrpc: '2.0', id: 14, error: { code: -1, message: 'x' } }
] // prettier-ignore

// Its first texts cost fast-check a second, which would be counted as the gateway's.
fc.sample(mutated(['x']), { numRuns: 300, seed })
fc.sample(fc.jsonValue(), { numRuns: 300, seed })

/** Nothing crashed, hung or was a fault: every answer is one that a client may get. */
function expectHarmless(sent: string, received: string, ms: number): void {
  expect(ms, `hung on ${JSON.stringify(sent)}`).toBeLessThan(hangMs)
  for (const [line, status] of received.matchAll(/^HTTP\/1\.1 (\d+)/gm))
    expect([JSON.stringify(sent), line, Number(status) < 500]).toEqual([JSON.stringify(sent), line, true])
}

attack(
  'T16',
  'requests with any bytes in head and target are answered or ended, never with a fault',
  async attacked => {
    const { url, key, hear, print } = attacked
    const raw = rawTo(url, hear)
    const { host } = new URL(url)
    const { id } = await openSession(url, key)
    const body = JSON.stringify(messages('x')[3])
    const post = (door: string, ...headers: string[]) =>
      [`POST ${door} HTTP/1.1`, `Host: ${host}`, `Authorization: Bearer ${key}`, 'Content-Type: application/json', 'Connection: close', `Content-Length: ${body.length}`, ...headers, '', body].join('\r\n') // prettier-ignore
    const get = (line: string, ...headers: string[]) =>
      [`${line} HTTP/1.1`, `Host: ${host}`, `Authorization: Bearer ${key}`, 'Connection: close', ...headers, '', ''].join('\r\n') // prettier-ignore
    const requests = [
      post('/mcp', `Mcp-Session-Id: ${id}`, 'MCP-Protocol-Version: 2025-11-25', 'Accept: application/json'),
      post('/mcp', 'MCP-Protocol-Version: 2026-07-28', 'Mcp-Method: tools/call', 'Mcp-Name: =?base64?aGVhbHRoeV9fZWNobw==?=', 'Accept: */*'), // prettier-ignore
      post('/mcp/healthy?servers=healthy', `Mcp-Session-Id: ${id}`, 'Origin: https://evil.example'),
      post('/tools/healthy__echo', 'x-mcp-servers: healthy'),
      post('/messages?sessionId=AAAA', 'Content-Encoding: identity'),
      post('/mcp', 'Transfer-Encoding: chunked', 'Expect: 100-continue'),
      get('GET /tools?servers=healthy'),
      get('GET /openapi.json'),
      get('GET /metrics'),
      get('GET /healthz'),
      get('DELETE /mcp', 'Mcp-Session-Id: x'),
      get('OPTIONS /mcp', 'Origin: http://x', 'Access-Control-Request-Method: POST'),
      get('GET http://localhost/.well-known/x')
    ]
    const statuses = new Map<number, number>()
    // The first odd Host loads the SDK's checks, once in the life of a process.
    print('ms the first odd Host takes', (await raw(get('GET /healthz').replace(host, 'odd_host'))).ms)
    let count = 0
    await fc.assert(
      fc.asyncProperty(fc.array(mutated(requests), { minLength: 8, maxLength: 8 }), async texts => {
        await Promise.all(
          texts.map(async text => {
            // A request that is not whole any more is waited for, as it should be: we go after a while.
            const { received, ms, status } = await raw(Buffer.from(text, 'latin1'), { ms: 60, once: true })
            expectHarmless(text, received, ms)
            count++
            statuses.set(status, (statuses.get(status) ?? 0) + 1)
          })
        )
      }),
      { numRuns: Math.ceil(runs / 8), seed, interruptAfterTimeLimit: longestMs, endOnFailure: true }
    )
    print(
      'requests',
      `${count}, statuses ${JSON.stringify(Object.fromEntries([...statuses].sort(([a], [b]) => a - b)))}`
    )
    expect(statuses.get(200) ?? 0).toBeGreaterThan(10)
  },
  { timeout: longestMs + 30_000 }
)

attack(
  'T16',
  'messages with anything in them are answered once, in the shape of an answer',
  async attacked => {
    const { url, key, print } = attacked
    const session = await openSession(url, key)
    const modernHeaders = (method: unknown) => ({ 'mcp-protocol-version': '2026-07-28', 'mcp-method': String(method).replace(/[^\x20-\x7e]/g, '') || 'x' }) // prettier-ignore
    const texts = messages('nonce').map(message => JSON.stringify(message))
    const value = fc.jsonValue({ maxDepth: 3 })
    /** A message of which one member, at any depth, is something else. */
    const twisted = fc
      .tuple(
        fc.constantFrom(...texts),
        fc.nat(),
        fc.oneof(value, fc.constantFrom(null, -0, 1e300, '', '__proto__', [], {})),
        fc.boolean()
      ) // prettier-ignore
      .map(([text, at, put, remove]) => {
        const places: [Record<string, unknown>, string][] = []
        const message = JSON.parse(text) as Record<string, unknown>
        const walk = (node: Record<string, unknown>) => {
          for (const name of Object.keys(node)) {
            places.push([node, name])
            if (typeof node[name] === 'object' && node[name] !== null) walk(node[name] as Record<string, unknown>)
          }
        }
        walk(message)
        const [node, name] = places[at % places.length] as [Record<string, unknown>, string]
        if (remove) delete node[name]
        else node[name] = put
        return JSON.stringify(message)
      })
    const one = fc.oneof(
      { weight: 3, arbitrary: twisted },
      { weight: 2, arbitrary: mutated(texts) },
      { weight: 1, arbitrary: value.map(each => JSON.stringify(each)) },
      { weight: 1, arbitrary: fc.array(twisted, { maxLength: 3 }).map(list => `[${list.join(',')}]`) }
    )
    const door = fc.constantFrom('legacy', 'modern', 'rest')
    let count = 0
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(door, one), { minLength: 8, maxLength: 8 }), async list => {
        const isTakenBack = list.some(([door, text]) => door === 'legacy' && text.includes('notifications/cancelled'))
        await Promise.all(
          list.map(async ([door, text]) => {
            await answersWell(attacked, { door, text, isTakenBack }, session.headers, modernHeaders)
            count++
          })
        )
      }),
      { numRuns: Math.ceil(runs / 8), seed, interruptAfterTimeLimit: longestMs, endOnFailure: true }
    )
    print('messages', count)
    expect((await session.rpc('ping')).status).toBe(200)
  },
  { timeout: longestMs + 30_000 }
)

async function answersWell(
  { url, key, hear }: Attack,
  { door, text, isTakenBack }: { door: string; text: string; isTakenBack: boolean },
  session: Record<string, string>,
  modernHeaders: (method: unknown) => Record<string, string>
): Promise<void> {
  let method: unknown
  try {
    method = (JSON.parse(text) as { method?: unknown } | null)?.method
  } catch {
    method = undefined
  }
  // This one stays open, as it should.
  if (method === 'subscriptions/listen') return
  const begun = performance.now()
  const headers =
    door === 'legacy' ? session : door === 'modern' ? { ...bearer(key), ...modernHeaders(method) } : bearer(key)
  const response = await fetch(url + (door === 'rest' ? '/tools/healthy__echo' : '/mcp'), {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'application/json', ...headers },
    body: Buffer.from(text, 'utf8'),
    signal: AbortSignal.timeout(hangMs)
  })
  const answer = await response.text()
  hear(answer)
  expectHarmless(text, `HTTP/1.1 ${response.status}`, performance.now() - begun)
  if (response.status === 202 || answer === '') return
  // A call of a session that another message took back, while it ran, ends as a stream without an answer.
  if (door === 'legacy' && isTakenBack && /^(?:: keep-alive\n\n)+$/.test(answer)) return
  const parsed = JSON.parse(answer) as unknown
  if (door === 'rest') return
  for (const each of Array.isArray(parsed) ? parsed : [parsed]) {
    expect(each).toMatchObject({ jsonrpc: '2.0' })
    expect([text, 'result' in each !== 'error' in each]).toEqual([text, true])
  }
}
