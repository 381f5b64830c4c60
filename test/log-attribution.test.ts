/**
 * To whom a server's log messages go. On the response stream of a call they are its caller's. On a shared channel (stdio,
 * HTTP+SSE) nothing says whose they are: as long as one key alone has used it, they can only be about that key's calls;
 * afterwards they are nobody's, are dropped and counted.
 */
import { request } from 'undici'
import { describe, expect, onTestFinished, test } from 'vitest'
import { start as startScripted } from './fixtures/scripted-http.mjs'
import { start as startSse } from './fixtures/talkative.mjs'
import { bearer, modern, openSession, post } from './helpers/http.js'
import { fixture, secrets, startTestGateway, waitFor } from './helpers/with-gateway.js'

async function startGateway(server: string) {
  const gateway = await startTestGateway(`
servers:
  up: ${server}
keys:
  admin: { secret: "\${ADMIN}", allow: "*" }
  developer: { secret: "\${DEVELOPER}", allow: "*" }
`)
  onTestFinished(() => gateway.close())
  await gateway.until('up')
  const { url } = gateway
  const scrape = async (secret: string) => {
    const { body } = await request(`${url}/metrics`, { headers: bearer(secret) })
    return body.text()
  }
  return {
    ...gateway,
    session: (secret = secrets.ADMIN, version = '2025-11-25') => openSession(url, secret, { version }),
    /** Messages of the server that were dropped, as `/metrics` has it. */
    dropped: async () =>
      Number(/^switchboard_upstream_unattributed_total\{server="up"\} (\d+)$/m.exec(await scrape(secrets.ADMIN))?.[1])
  }
}

type TestGateway = Awaited<ReturnType<typeof startGateway>>
type Session = Awaited<ReturnType<TestGateway['session']>>

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

/** The data of the log messages among these. */
const logged = (messages: any[]) =>
  messages.filter(({ method }) => method === 'notifications/message').map(({ params }) => params.data)

const info = (...data: unknown[]) => data.map(each => ({ level: 'info', data: each }))

/** Calls the tool that logs: what its caller hears, and that it was answered. */
async function callLog(session: Session, args: object) {
  const { messages } = await session.rpc('tools/call', { name: 'up__log', arguments: args })
  expect(messages.at(-1).result.content[0].text).toBe('logged')
  return logged(messages)
}

const stdio = { server: () => Promise.resolve(`{ command: node, args: [${fixture('talkative.mjs')}] }`) }
const sse = {
  async server() {
    const { url, close } = await startSse()
    onTestFinished(() => close())
    return `{ url: "${url}", transport: sse }`
  }
}

describe.each([
  ['stdio', stdio],
  ['HTTP+SSE', sse]
])('log messages over %s', (_, { server }) => {
  const begin = async () => startGateway(await server())

  test('during a call reach its caller, as the server sent them, while one key alone has called', async () => {
    const gateway = await begin()
    const [one, other] = [await gateway.session(), await gateway.session()]
    expect(await callLog(one, { lines: info('first', { deep: [1, null] }) })).toEqual(['first', { deep: [1, null] }])
    expect(await callLog(other, { lines: info('second') })).toEqual(['second'])
    const { messages } = await one.rpc('tools/call', { name: 'up__log', arguments: { lines: info('whole') } })
    expect(messages[0]).toEqual({
      jsonrpc: '2.0',
      method: 'notifications/message',
      params: { level: 'info', logger: 'chat', data: 'whole' }
    })
    expect(await gateway.dropped()).toBe(0)
  })

  test('reach nobody any more once a second key has called, and are counted', async () => {
    const gateway = await begin()
    const [mine, foreign] = [await gateway.session(), await gateway.session(secrets.DEVELOPER)]
    expect(await callLog(mine, { lines: info('mine') })).toEqual(['mine'])
    expect(await callLog(foreign, { lines: info('of the second key') })).toEqual([])
    expect(await gateway.dropped()).toBe(1)
    expect(await callLog(mine, { lines: info('of the first', 'again') })).toEqual([])
    expect(await callLog(foreign, { lines: info('of the second', 'again') })).toEqual([])
    expect(await gateway.dropped()).toBe(5)
  })

  test('of a call that was running when the second key came are dropped from then on', async () => {
    const gateway = await begin()
    const [mine, foreign] = [await gateway.session(), await gateway.session(secrets.DEVELOPER)]
    const waiting = (nonce: string) => ({ name: 'up__wait', arguments: { ms: 300, nonce } })
    const { body } = await request(`${gateway.url}/mcp`, {
      method: 'POST',
      headers: {
        ...mine.headers,
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream'
      },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: waiting('secret') })
    })
    let text = ''
    body.on('data', (chunk: Buffer) => (text += chunk.toString()))
    await waitFor(() => text.includes('"data":"secret"'), 'the first log message')
    const others = await foreign.rpc('tools/call', waiting('other'))
    await waitFor(() => text.includes('waited secret'), 'the answer')
    expect(text.split('"data":"secret"')).toHaveLength(2)
    expect(logged(others.messages)).toEqual([])
    expect(await gateway.dropped()).toBe(3)
  })

  test('are no sign of life: a call beside which the server only logs ends after its idle limit', async () => {
    const up = (await server()).replace(/ }$/, ', timeout: 1, max_timeout: 10 }')
    const gateway = await startGateway(up)
    const [silent, other] = [await gateway.session(), await gateway.session()]
    const begun = performance.now()
    let over = false
    const waited = silent
      .rpc('tools/call', { name: 'up__wait', arguments: { ms: 60_000, nonce: 'silent' } })
      .finally(() => (over = true))
    await pause(50)
    // The line comes after its own call, when the silent one is the newest.
    while (!over && performance.now() - begun < 6000) {
      await callLog(other, { after: info('of nobody') })
      await pause(200)
    }
    const { messages } = await waited
    expect(messages.at(-1).result.content[0].text).toContain('no sign of life for 1 s')
    expect(logged(messages)).toContain('of nobody')
    expect(performance.now() - begun).toBeLessThan(5000)
  })

  test('that come when nothing runs are nobody’s, on no stream, and are counted', async () => {
    const gateway = await begin()
    const session = await gateway.session()
    const { statusCode, body } = await request(`${gateway.url}/mcp`, { headers: session.headers, bodyTimeout: 0 })
    expect(statusCode).toBe(200)
    let text = ''
    body.on('data', (chunk: Buffer) => (text += chunk.toString()))
    body.on('error', () => {})
    onTestFinished(() => void body.destroy())
    expect(await callLog(session, { after: info('too late') })).toEqual([])
    await waitFor(async () => (await gateway.dropped()) === 1, 'the count', 2000)
    expect(text).not.toContain('too late')
    // The next call of that key does not get it either.
    expect(await callLog(session, { lines: info('in time') })).toEqual(['in time'])
  })

  test('are as loud as the session wants them: info and above, until it says otherwise', async () => {
    const gateway = await begin()
    const [mine, quiet] = [await gateway.session(), await gateway.session()]
    const lines = ['debug', 'info', 'notice', 'warning', 'error', 'critical', 'alert', 'emergency', 'nonsense'].map(
      level => ({ level, data: level })
    )
    expect(await callLog(mine, { lines })).toEqual(['info', 'notice', 'warning', 'error', 'critical', 'alert', 'emergency']) // prettier-ignore
    expect((await mine.rpc('logging/setLevel', { level: 'debug' })).json.result).toEqual({})
    expect((await quiet.rpc('logging/setLevel', { level: 'alert' })).json.result).toEqual({})
    expect((await callLog(mine, { lines })).slice(0, 2)).toEqual(['debug', 'info'])
    expect(await callLog(quiet, { lines })).toEqual(['alert', 'emergency'])
    expect(await gateway.dropped()).toBe(0)
  })

  test('reach a client of 2026-07-28 only if its call asks for them, at that level (§6.46)', async () => {
    const gateway = await begin()
    const lines = [...info('info'), { level: 'error', data: 'error' }]
    const call = (logLevel?: string) =>
      modern(gateway.url, secrets.ADMIN, 'tools/call', {
        name: 'up__log',
        arguments: { lines },
        ...(logLevel && { _meta: { 'io.modelcontextprotocol/logLevel': logLevel } })
      })
    expect(logged((await call()).messages)).toEqual([])
    expect(logged((await call('error')).messages)).toEqual(['error'])
    expect(logged((await call('info')).messages)).toEqual(['info', 'error'])
    const foreign = await gateway.session(secrets.DEVELOPER)
    await callLog(foreign, {})
    expect(logged((await call('info')).messages)).toEqual([])
  })

  test('do not reach a client that takes JSON alone, and do no harm', async () => {
    const gateway = await begin()
    const { headers } = await gateway.session()
    const params = { name: 'up__log', arguments: { lines: info('unheard') } }
    const body = { jsonrpc: '2.0', id: 1, method: 'tools/call', params }
    const reply = await post(`${gateway.url}/mcp`, body, { ...headers, accept: 'application/json' })
    expect(reply.messages).toHaveLength(1)
    expect(reply.json.result.content[0].text).toBe('logged')
  })

  test('of a kind nobody knows are nobody’s, whoever calls, and are counted', async () => {
    const gateway = await begin()
    const { messages } = await (await gateway.session()).rpc('tools/call', { name: 'up__other', arguments: {} })
    expect(messages).toHaveLength(1)
    expect(await gateway.dropped()).toBe(1)
  })

  test('reach the caller inside a batch of 2025-03-26 as well', async () => {
    const gateway = await begin()
    const { headers } = await gateway.session(secrets.ADMIN, '2025-03-26')
    const params = { name: 'up__log', arguments: { lines: info('in a batch') } }
    const { messages } = await post(`${gateway.url}/mcp`, [{ jsonrpc: '2.0', id: 1, method: 'tools/call', params }], headers) // prettier-ignore
    expect(logged(messages)).toEqual(['in a batch'])
  })
})

describe('log messages over Streamable HTTP', () => {
  async function begin() {
    const up = await startScripted()
    onTestFinished(() => up.close())
    return { up, gateway: await startGateway(`{ url: ${up.url}, transport: http }`) }
  }

  const work = (session: Session, nonce: string) =>
    session.rpc('tools/call', { name: 'up__work', arguments: { nonce } }, { id: 1 })

  test('on the stream of a call are its caller’s alone, however many keys and sessions call at once (§6.58)', async () => {
    const { up, gateway } = await begin()
    const callers = Array.from({ length: 12 }, (_, i) => ({
      nonce: `call ${i}`,
      secret: i % 2 === 0 ? secrets.ADMIN : secrets.DEVELOPER
    }))
    const running = callers.map(async ({ nonce, secret }) => work(await gateway.session(secret), nonce))
    const calls = await Promise.all(callers.map(({ nonce }) => up.call(nonce)))
    for (let n = 0; n < 3; n++) for (const [i, call] of calls.entries()) call.log('info', { call: i, n })
    for (const call of calls) call.answer('done')
    const replies = await Promise.all(running)
    for (const [i, { messages }] of replies.entries()) {
      expect(logged(messages)).toEqual([0, 1, 2].map(n => ({ call: i, n })))
      expect(messages.at(-1).result.content[0].text).toBe('done')
    }
    expect(await gateway.dropped()).toBe(0)
  })

  test('on the stream of the connection are nobody’s, also with one key and one call, and are counted', async () => {
    const { up, gateway } = await begin()
    const running = work(await gateway.session(), 'alone')
    const call = await up.call('alone')
    call.log('info', 'own')
    up.notify('notifications/message', { level: 'error', data: 'of nobody' })
    await waitFor(async () => (await gateway.dropped()) === 1, 'the count', 2000)
    call.answer('done')
    expect(logged((await running).messages)).toEqual(['own'])
  })

  test('are as loud as each session wants them', async () => {
    const { up, gateway } = await begin()
    const [talkative, quiet, silent] = [await gateway.session(), await gateway.session(secrets.DEVELOPER), await gateway.session()] // prettier-ignore
    await talkative.rpc('logging/setLevel', { level: 'debug' })
    await quiet.rpc('logging/setLevel', { level: 'error' })
    const heard = async (session: Session, nonce: string) => {
      const running = work(session, nonce)
      const call = await up.call(nonce)
      for (const level of ['debug', 'info', 'error']) call.log(level, level)
      call.answer('done')
      return logged((await running).messages)
    }
    expect(await heard(talkative, 'talkative')).toEqual(['debug', 'info', 'error'])
    expect(await heard(quiet, 'quiet')).toEqual(['error'])
    expect(await heard(silent, 'silent')).toEqual(['info', 'error'])
    const levels = up.requests.filter(({ message }) => message?.method === 'logging/setLevel')
    expect(levels.map(({ message }) => message.params.level).at(-1)).toBe('debug')
  })

  // A server may answer a resumption with any stream it likes: only the key that is alone there can lose nothing by it.
  test.each([
    ['alone', ['before', 'after']],
    ['beside another key', ['before']]
  ])('on a stream that was resumed reach its caller if that is %s (SEP-1699)', async (who, expected) => {
    const { up, gateway } = await begin()
    const running = work(await gateway.session(secrets.ADMIN, '2025-06-18'), 'resumed')
    const foreign = who === 'alone' ? undefined : work(await gateway.session(secrets.DEVELOPER), 'other')
    const [call, other] = [await up.call('resumed'), foreign && (await up.call('other'))]
    up.resume = (_, __, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' })
      const stream = call.on(res)
      stream.log('info', 'after')
      stream.answer('done')
      stream.end()
    }
    call.log('info', 'before', '1')
    call.retry(10)
    call.end()
    const { messages } = await running
    other?.answer('done')
    expect(logged(messages)).toEqual(expected)
    if (foreign) expect(logged((await foreign).messages)).toEqual([])
  })
})
