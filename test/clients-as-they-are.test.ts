/**
 * The clients that people use, replayed: each with its own headers and order of requests as it was recorded, and what
 * each of them breaks on if a gateway gets it wrong. The numbers are those of what was learnt from them (clients.md §2).
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { request } from 'undici'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { start as startHttpLegacy } from './fixtures/http-legacy.mjs'
import { openLedger } from './fixtures/ledger.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import type { RawHttp } from './fixtures/types.d.mts'
import { bearer, post, type Reply } from './helpers/http.js'
import { connectClient, openStream, startScripted, type Stream } from './helpers/matrix.js'
import { freePort } from './helpers/gateway-process.js'
import {
  claudeCode,
  cline,
  clients,
  codex,
  continueCli,
  converse,
  copilotCli,
  exchange,
  geminiCli,
  inspector,
  listenAs,
  mcpRemote,
  modernAs,
  opencode,
  qwenCode,
  replay,
  vsCode,
  type Client,
  type Conversation
} from './helpers/replay.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const keys = '\nlimits: { auth_failures: 1000 }\nkeys: { admin: { secret: "${ADMIN}", allow: "*" } }\n'
const dir = mkdtempSync(join(tmpdir(), 'switchboard-clients-'))
const ledger = openLedger(join(dir, 'ledger'))
const oauthPath = /well-known|register|authorize|token/
let gateway: TestGateway
let url: string

const demo = { command: process.execPath, args: [fixture('stdio-legacy.mjs')], env: { LEDGER: ledger.path } }

beforeAll(async () => {
  gateway = await startTestGateway(`servers: ${JSON.stringify({ demo })}${keys}`)
  url = gateway.url
  await gateway.until('demo')
})
afterAll(async () => {
  await gateway.close()
  rmSync(dir, { recursive: true, force: true })
})

/** A conversation of that client; its streams are closed with the test. */
function conversation(client: Client, at = url, sessionId?: string): Conversation {
  const made = converse(client, at, secrets.ADMIN, sessionId)
  onTestFinished(() => made.close())
  return made
}

/** A conversation that has shaken hands. */
async function opened(client: Client, at = url): Promise<Conversation> {
  const made = conversation(client, at)
  await replay(made, echo, ['initialize', 'notifications/initialized'])
  return made
}

const echo = { name: 'demo__echo', arguments: { message: 'over and out' } }
const ask = { name: 'demo__args', arguments: { sql: 'select 1' } }
const textOf = ({ json }: Pick<Reply, 'json'>) => json.result.content[0].text as string
const namesOf = ({ json }: Pick<Reply, 'json'>) =>
  json.result.tools.map(({ name }: { name: string }) => name) as string[]
const byName = (client: Client) => [client.name, client] as const

/** A method that clients call whether or not it was promised: a result, and an empty one where it was not. */
function expectAnswered(answer: Pick<Reply, 'json'>, capabilities: object, capability: string) {
  expect(answer.json.result).toBeDefined()
  if (capability in capabilities) return
  const members: unknown[] = Object.values(answer.json.result as object)
  expect(members.find(Array.isArray) ?? []).toEqual([])
}

describe('a client that opens with 2026-07-28 (§2.1)', () => {
  test.each([claudeCode, copilotCli].map(byName))(
    '%s discovers, listens, lists and calls, without initialize and without a session',
    async (_, client) => {
      const send = (method: string, params?: Record<string, unknown>) =>
        modernAs(client, url, secrets.ADMIN, method, params)
      const discovered = await send('server/discover')
      expect(discovered.status).toBe(200)
      expect(discovered.json.result.supportedVersions).toContain('2026-07-28')
      const { capabilities } = discovered.json.result

      const [stream, list, ...others] = await Promise.all([
        listenAs(client, url, secrets.ADMIN),
        send('tools/list'),
        ...(client === claudeCode ? ['prompts/list', 'resources/list'] : []).map(method => send(method))
      ])
      onTestFinished(() => stream.close())
      expect([stream.status, stream.headers['content-type']]).toEqual([200, 'text/event-stream'])
      const [acknowledged] = await stream.until(1)
      expect(acknowledged).toMatchObject({
        method: 'notifications/subscriptions/acknowledged',
        params: { notifications: { toolsListChanged: true } }
      })
      expect(list.status).toBe(200)
      expect(namesOf(list)).toEqual(expect.arrayContaining(['demo__echo', 'demo__args']))
      for (const [i, answer] of others.entries()) {
        expect([200, 404]).toContain(answer.status)
        expectAnswered(answer, capabilities, ['prompts', 'resources'][i] ?? '')
      }

      const called = await send('tools/call', ask)
      expect(called.status).toBe(200)
      const { params } = JSON.parse(textOf(called))
      const { progressToken: _token, ...vendor } = client.meta ?? {}
      expect(params).toMatchObject({ name: 'args', arguments: ask.arguments, _meta: vendor })
      for (const { headers } of [discovered, list, called, stream, ...others])
        expect(headers['mcp-session-id']).toBeUndefined()
      expect(stream.ended()).toBe(false)
    }
  )

  test.each([claudeCode, copilotCli].map(byName))(
    '%s falls back to initialize when its version is refused: HTTP 400 with a plain JSON-RPC error that says what is spoken',
    async (_, client) => {
      const future = '2028-01-15'
      const refused = await post(
        `${url}/mcp`,
        {
          jsonrpc: '2.0',
          id: 0,
          method: 'server/discover',
          params: {
            _meta: {
              'io.modelcontextprotocol/protocolVersion': future,
              'io.modelcontextprotocol/clientInfo': client.clientInfo,
              'io.modelcontextprotocol/clientCapabilities': client.capabilities
            }
          }
        },
        {
          ...bearer(secrets.ADMIN),
          'user-agent': client.userAgent,
          'mcp-protocol-version': future,
          'mcp-method': 'server/discover'
        }
      )
      expect([refused.status, refused.headers['content-type']]).toEqual([400, 'application/json'])
      expect(refused.json).toMatchObject({ jsonrpc: '2.0', id: 0, error: { code: -32022 } })
      expect(refused.json.error.data.supported).toContain('2026-07-28')

      const answers = await replay(conversation(client), echo)
      expect(answers.get('initialize')).toMatchObject({
        status: 200,
        json: { result: { protocolVersion: '2025-11-25' } }
      })
      expect(textOf(answers.get('tools/call') as Reply)).toBe('over and out')
    }
  )

  test('the Inspector pinned to it gets the same tools as the Inspector by default', async () => {
    const discovered = await modernAs(inspector, url, secrets.ADMIN, 'server/discover')
    expect(discovered.status).toBe(200)
    const listed = await modernAs(inspector, url, secrets.ADMIN, 'tools/list')
    expect(namesOf(listed)).toEqual(namesOf(await (await opened(inspector)).request('tools/list')))
    expect(textOf(await modernAs(inspector, url, secrets.ADMIN, 'tools/call', echo))).toBe('over and out')
  })
})

describe('a client that opens with initialize (§2.1, §2.3)', () => {
  test.each(clients.map(byName))('%s gets an answer to each of its steps, and its call arrives', async (_, client) => {
    const talk = conversation(client)
    const answers = await replay(talk, ask)
    const { capabilities } = answers.get('initialize')?.json.result ?? {}
    for (const [step, { status, headers, json }] of answers) {
      switch (step) {
        case 'initialize':
          expect([step, status, json.result.protocolVersion]).toEqual([step, 200, client.version])
          expect(talk.sessionId).toBe(headers['mcp-session-id'])
          break
        case 'notifications/initialized':
          expect([step, status]).toEqual([step, 202])
          break
        case 'GET':
          expect([step, status, headers['content-type']]).toEqual([step, 200, 'text/event-stream'])
          break
        case 'DELETE':
          expect([step, status]).toEqual([step, 200])
          break
        case 'tools/list':
          expect([step, status]).toEqual([step, 200])
          expect(namesOf({ json })).toEqual(expect.arrayContaining(['demo__echo', 'demo__args']))
          break
        case 'tools/call': {
          expect([step, status]).toEqual([step, 200])
          const { params } = JSON.parse(textOf({ json }))
          const { progressToken: _token, ...vendor } = client.meta ?? {}
          expect(params).toMatchObject({ name: 'args', arguments: ask.arguments })
          expect(params._meta ?? {}).toMatchObject(vendor)
          break
        }
        default:
          expect([step, status]).toEqual([step, 200])
          expectAnswered({ json }, capabilities, step.split('/')[0] ?? '')
      }
    }
    const after = await conversation(client, url, talk.sessionId).request('ping')
    expect(after.status).toBe(client.steps.includes('DELETE') ? 404 : 200)
  })

  test('VS Code may list and call before it has said that it is initialized', async () => {
    const talk = conversation(vsCode)
    const answers = await replay(talk, echo, ['initialize', 'GET', 'logging/setLevel', 'tools/list', 'tools/call'])
    expect(namesOf(answers.get('tools/list') as Reply)).toContain('demo__echo')
    expect(textOf(answers.get('tools/call') as Reply)).toBe('over and out')
    expect((await talk.notify('notifications/initialized')).status).toBe(202)
    expect(textOf(await talk.call(echo))).toBe('over and out')
  })

  test('"gemini mcp list" and "qwen mcp list" show the gateway as connected: their ping is answered', async () => {
    for (const client of [geminiCli, qwenCode]) {
      const probe = { ...client, clientInfo: { name: 'mcp-test-client', version: '0.0.1' } }
      const answers = await replay(conversation(probe), echo, ['initialize', 'notifications/initialized', 'ping'])
      expect(answers.get('ping')).toMatchObject({ status: 200, json: { result: {} } })
    }
  })

  test('mcp-remote: a GET before initialize, probes without a key, a session it throws away, then the real one', async () => {
    const before = conversation(mcpRemote)
    const keyless = { accept: 'application/json', 'user-agent': mcpRemote.userAgent }
    const probe = async () => {
      const { status, headers, json } = await exchange('GET', `${url}/mcp`, {
        headers: { ...bearer(secrets.ADMIN), accept: 'text/event-stream', 'user-agent': 'undici' }
      })
      expect([status, headers.allow, headers['content-type']]).toEqual([405, 'POST', 'application/json'])
      expect(json.error.code).toBe(-31405)
    }
    await probe()
    for (const path of wellKnown) {
      const { status, json } = await exchange('GET', url + path, { headers: keyless })
      expect([path, status, json.error]).toEqual([path, 404, 'not_found'])
    }
    await probe()

    const throwAway = conversation({
      ...mcpRemote,
      clientInfo: { name: 'mcp-remote-fallback-test', version: '0.0.0' }
    })
    expect((await throwAway.request('initialize')).status).toBe(200)
    const answers = await replay(before, echo)
    expect(textOf(answers.get('tools/call') as Reply)).toBe('over and out')
    expect(before.sessionId).not.toBe(throwAway.sessionId)
    expect(before.headers('tools/list')).toMatchObject({
      'mcp-method': 'tools/list',
      'mcp-protocol-version': '2025-11-25'
    })
  })
})

const wellKnown = [
  '/.well-known/oauth-protected-resource/mcp',
  '/.well-known/oauth-protected-resource',
  '/mcp/.well-known/oauth-protected-resource',
  '/.well-known/oauth-authorization-server/mcp',
  '/.well-known/oauth-authorization-server',
  '/.well-known/openid-configuration/mcp',
  '/mcp/.well-known/openid-configuration',
  '/.well-known/openid-configuration'
]

describe('after a restart of the gateway (§2.2, §2.12)', () => {
  const restartDir = mkdtempSync(join(tmpdir(), 'switchboard-restart-'))
  afterAll(() => rmSync(restartDir, { recursive: true, force: true }))
  const startAt = async (port: number) => {
    const started = await startTestGateway(`listen: { port: ${port} }\nservers: ${JSON.stringify({ demo })}${keys}`, {
      stateDir: restartDir
    })
    await started.until('demo')
    return started
  }

  test('no client notices: each goes on under its old session id, without initialize, even those that never would', async () => {
    const port = await freePort()
    const first = await startAt(port)
    const at = first.url
    const talks: Conversation[] = []
    for (const client of clients) {
      const talk = conversation(client, at)
      const untilExit = client.steps.filter(step => step !== 'DELETE')
      const answers = await replay(talk, echo, untilExit)
      expect([client.name, textOf(answers.get('tools/call') as Reply)]).toEqual([client.name, 'over and out'])
      talks.push(talk)
    }
    const listening = await listenAs(claudeCode, at, secrets.ADMIN)
    await first.close()
    await waitFor(() => listening.ended(), 'the end of what is listened to')
    expect(listening.messages.at(-1)).toMatchObject({ id: 'listen', result: { resultType: 'complete' } })
    const second = await startAt(port)
    onTestFinished(() => second.close())
    expect(second.url).toBe(at)

    for (const talk of talks) {
      const { name } = talk.client
      const called = await talk.call(echo)
      expect([name, called.status, called.json.error]).toEqual([name, 200, undefined])
      expect([name, textOf(called)]).toEqual([name, 'over and out'])
      expect([name, (await talk.stream()).status]).toEqual([name, 200])
      expect([name, namesOf(await talk.request('tools/list'))]).toEqual([name, expect.arrayContaining(['demo__echo'])])
    }
    for (const client of [claudeCode, copilotCli])
      expect(textOf(await modernAs(client, at, secrets.ADMIN, 'tools/call', echo))).toBe('over and out')
  })
})

describe('a lost session (§2.2)', () => {
  const recovering = [claudeCode, codex, opencode, copilotCli, vsCode, qwenCode]

  test.each(recovering.map(byName))(
    '%s, whose id is not one of ours, gets the 404 it knows how to recover from, and recovers',
    async (_, client) => {
      const talk = conversation(client, url, 'b6f5b0d1-3f1e-4c5e-9f0a-4a9d6d0a5e11')
      const lost = await talk.call(echo, { id: 3 })
      expect([lost.status, lost.headers['content-type']]).toEqual([404, 'application/json'])
      expect(lost.json).toMatchObject({ jsonrpc: '2.0', id: 3, error: { code: -32001 } })
      expect(lost.headers['www-authenticate']).toBeUndefined()
      // Some still send the dead id along with their next initialize.
      expect((await talk.request('initialize')).status).toBe(200)
      expect((await talk.notify('notifications/initialized')).status).toBe(202)
      expect(textOf(await talk.call(echo))).toBe('over and out')
    }
  )

  test('is only one that was forged or deleted: nothing else makes an id unknown', async () => {
    const talk = await opened(codex)
    const id = talk.sessionId ?? ''
    expect((await talk.request('ping')).status).toBe(200)
    expect((await conversation(codex, url, `${id.slice(0, -4)}AAAA`).request('ping')).status).toBe(404)
    const again = await opened(codex)
    expect(again.sessionId).not.toBe(id)
    const [older, newer] = [await talk.stream(), await talk.stream()]
    await waitFor(() => older.ended(), 'the end of the replaced stream')
    newer.close()
    await talk.request('initialize', { protocolVersion: '1999-01-01', capabilities: {} })
    expect((await conversation(codex, url, id).request('ping')).status).toBe(200)
    expect((await again.delete()).status).toBe(200)
    expect((await again.request('ping')).status).toBe(404)
    expect((await conversation(codex, url, id).request('ping')).status).toBe(200)
  })

  test('is none because of its age in number: of 2,500 sessions that nobody ended the first still works, and memory holds a bounded number of them (§2.10)', async () => {
    const alone = await startTestGateway(`servers: {}${keys}`)
    onTestFinished(() => alone.close())
    const leaking = [claudeCode, geminiCli, opencode]
    const ids: string[] = []
    while (ids.length < 2500) {
      const batch = Array.from({ length: 100 }, async (_, i) => {
        const talk = converse(leaking[i % leaking.length] as Client, alone.url, secrets.ADMIN)
        expect((await talk.request('initialize')).status).toBe(200)
        return talk.sessionId ?? ''
      })
      ids.push(...(await Promise.all(batch)))
      if (ids.length === 1000) expect(await sessionsHeld(alone.url)).toBeLessThanOrEqual(1000)
    }
    expect(new Set(ids).size).toBe(2500)
    const held = await sessionsHeld(alone.url)
    expect(held).toBeGreaterThan(0)
    expect(held).toBeLessThanOrEqual(2000)
    for (const id of [ids[0], ids[1250], ids[2499]])
      expect((await conversation(opencode, alone.url, id).request('ping')).status).toBe(200)
  })
})

async function sessionsHeld(at: string): Promise<number> {
  const { body } = await rawText(`${at}/metrics`)
  return Number(/^switchboard_sessions (\d+)$/m.exec(body)?.[1])
}

async function rawText(address: string): Promise<{ status: number; body: string }> {
  const response = await fetch(address, { headers: bearer(secrets.ADMIN) })
  return { status: response.status, body: await response.text() }
}

describe('a call that takes its time (§2.4)', () => {
  const talkative = clients.filter(({ meta }) => meta?.progressToken !== undefined)

  test.each(talkative.map(byName))(
    "%s hears the server's progress under its own token, then the result",
    async (_, client) => {
      const call = { name: 'demo__progress', arguments: { gap: 5 } }
      const replies = [await (await opened(client)).call(call)]
      if (client === claudeCode || client === copilotCli)
        replies.push(await modernAs(client, url, secrets.ADMIN, 'tools/call', call))
      for (const { headers, messages } of replies) {
        expect(headers['content-type']).toBe('text/event-stream')
        expect(messages.slice(0, -1)).toEqual(
          [1, 2, 3].map(progress => ({
            jsonrpc: '2.0',
            method: 'notifications/progress',
            params: expect.objectContaining({ progressToken: client.meta?.progressToken, progress, total: 3 })
          }))
        )
        expect(messages.at(-1).result.content[0].text).toBe('done after 3 steps')
      }
    }
  )

  test.each([cline, continueCli, inspector, mcpRemote].map(byName))(
    '%s, which gives no token, gets nothing but the result, as plain JSON',
    async (_, client) => {
      const { headers, messages } = await (await opened(client)).call({ name: 'demo__progress' })
      expect(headers['content-type']).toBe('application/json')
      expect(messages).toHaveLength(1)
    }
  )

  test('no client that gave a token waits more than 20 s for a sign during 330 s of silence; one without hears comments', async () => {
    const patient = await startTestGateway(`servers: ${JSON.stringify({ demo: { ...demo, timeout: 400 } })}${keys}`)
    onTestFinished(() => patient.close())
    await patient.until('demo')
    const waiting = [claudeCode, copilotCli, opencode, qwenCode, codex, cline, continueCli]
    // Time passes at our word only for what begins from here on; sockets and the server's process keep their own.
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'performance'] })
    onTestFinished(() => void vi.useRealTimers())
    const talks = await Promise.all(waiting.map(client => opened(client, patient.url)))

    const until = async (holds: () => boolean) => {
      const deadline = Date.now() + 15_000
      while (!holds() && Date.now() < deadline) await turn()
      expect(holds()).toBe(true)
    }
    const opening = talks.map((talk, i) => {
      const params = {
        name: 'demo__slow',
        arguments: { ms: 60_000, nonce: `patient-${i}` },
        ...(talk.client.meta && { _meta: talk.client.meta })
      }
      return openStream(`${patient.url}/mcp`, talk.headers('tools/call'), {
        jsonrpc: '2.0',
        id: 'slow',
        method: 'tools/call',
        params
      })
    })
    await until(() => talks.every((_, i) => ledger.count(`started patient-${i}`) === 1))
    vi.advanceTimersByTime(330_000)
    const streams = await Promise.all(opening)

    for (const [i, { client }] of talks.entries()) {
      const stream = streams[i] as Stream
      const { messages } = stream
      // 330 s hold 16 whole silences of 20 s, and 21 keep-alives of 15 s after the stream began at 10 s.
      await until(() => (stream.text().match(/^: keep-alive$/gm)?.length ?? 0) === 22)
      if (client.meta === undefined) {
        expect([client.name, messages]).toEqual([client.name, []])
        continue
      }
      await until(() => messages.length === 16)
      const { progressToken } = client.meta
      expect(messages.map(({ params }) => params)).toEqual(
        messages.map((_, n) => ({
          progressToken,
          progress: expect.closeTo(n * 1e-6, 9),
          message: expect.stringContaining(`silent for ${(n + 1) * 20} s`)
        }))
      )
    }
    for (const talk of talks) await talk.notify('notifications/cancelled', { requestId: 'slow', reason: 'enough' })
    await until(() => streams.every(stream => stream.ended()))
    await until(() => talks.every((_, i) => ledger.count(`cancelled patient-${i}`) === 1))
  })
})

let nonces = 0
/** A call that runs for 20 s or until it is cancelled, and the nonce under which the ledger knows it. */
function slowCall() {
  const nonce = `slow-${++nonces}`
  return { nonce, call: { name: 'demo__slow', arguments: { ms: 20_000, nonce } } }
}
const noted = (line: string) => waitFor(() => ledger.count(line) === 1, `"${line}" in the ledger`)

describe('a call that is given up (§2.11)', () => {
  test('opencode cancels every request it has had an answer to: 202, and nothing else is touched', async () => {
    const talk = await opened(opencode)
    const { nonce, call } = slowCall()
    const running = talk.call(call, { id: 'running' })
    await noted(`started ${nonce}`)
    const reason = 'AbortError: The operation was aborted.'
    for (const requestId of [7, 8, 7, 9]) {
      expect(textOf(await talk.call(echo, { id: requestId }))).toBe('over and out')
      const { status, text } = await talk.notify('notifications/cancelled', { requestId, reason })
      expect([requestId, status, text]).toEqual([requestId, 202, ''])
    }
    expect((await talk.notify('notifications/cancelled', { requestId: 0, reason })).status).toBe(202)
    expect(ledger.count(`cancelled ${nonce}`)).toBe(0)
    await talk.notify('notifications/cancelled', { requestId: 'running', reason })
    await running
    await noted(`cancelled ${nonce}`)
  })

  test.each([codex, copilotCli, qwenCode, opencode].map(byName))(
    '%s says so when its own time is up, and the tool is told',
    async (_, client) => {
      const talk = await opened(client)
      const { nonce, call } = slowCall()
      const running = talk.call(call, { id: 2 })
      await noted(`started ${nonce}`)
      const cancelled = await talk.notify('notifications/cancelled', { requestId: 2, reason: 'timed out' })
      expect(cancelled.status).toBe(202)
      expect((await running).messages).toEqual([])
      await noted(`cancelled ${nonce}`)
      expect(textOf(await talk.call(echo))).toBe('over and out')
    }
  )

  test('Claude Code just closes its request: its session goes on, and in 2026-07-28 the tool is told', async () => {
    const talk = await opened(claudeCode)
    const { nonce, call } = slowCall()
    const progressing = await openStream(
      `${url}/mcp`,
      { ...talk.headers('tools/call'), accept: 'text/event-stream' },
      { jsonrpc: '2.0', id: 9, method: 'tools/call', params: call }
    )
    await noted(`started ${nonce}`)
    progressing.close()
    expect(textOf(await talk.call(echo))).toBe('over and out')
    await talk.notify('notifications/cancelled', { requestId: 9 })

    const second = slowCall()
    const controller = new AbortController()
    const { clientInfo, capabilities, userAgent } = claudeCode
    const aborted = fetch(`${url}/mcp`, {
      method: 'POST',
      signal: controller.signal,
      headers: {
        ...bearer(secrets.ADMIN),
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        'user-agent': userAgent,
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': 'tools/call',
        'mcp-name': second.call.name
      },
      body: JSON.stringify({
        jsonrpc: '2.0',
        id: 1,
        method: 'tools/call',
        params: {
          ...second.call,
          _meta: {
            'io.modelcontextprotocol/protocolVersion': '2026-07-28',
            'io.modelcontextprotocol/clientInfo': clientInfo,
            'io.modelcontextprotocol/clientCapabilities': capabilities
          }
        }
      })
    }).catch((error: Error) => error.name)
    await noted(`started ${second.nonce}`)
    controller.abort()
    expect(await aborted).toBe('AbortError')
    await noted(`cancelled ${second.nonce}`)
  })
})

describe('an error that a model is to see', () => {
  test.each(clients.map(byName))(
    '%s gets errors of tools, of servers and of names as answers to its request, never as a lost connection',
    async (_, client) => {
      const talk = await opened(client)
      const failed = await talk.call({ name: 'demo__fail', arguments: { reason: 'no such table' } })
      expect([failed.status, failed.json.result.isError, textOf(failed)]).toEqual([200, true, 'failed: no such table'])
      const thrown = await talk.call({ name: 'demo__throw' })
      expect([thrown.status, thrown.json.error.code]).toEqual([200, -32011])
      const unknown = await talk.call({ name: 'demo__nowhere' })
      expect([unknown.status, unknown.json.error]).toEqual([
        200,
        { code: -32602, message: 'Unknown tool: demo__nowhere' }
      ])
      expect(textOf(await talk.call(echo))).toBe('over and out')
    }
  )
})

describe('a key that does not work (§2.9)', () => {
  test.each(clients.map(byName))(
    '%s is told the cure in the body of the 401, without a word that leads to a login',
    async (_, client) => {
      const bad = converse(client, url, 'sb_revoked_long_ago')
      const opensModern = client === claudeCode || client === copilotCli
      const first = opensModern
        ? await modernAs(client, url, 'sb_revoked_long_ago', 'server/discover')
        : await bad.request('initialize')
      const { sessionId } = await opened(client)
      const midSession = await converse(client, url, 'sb_revoked_long_ago', sessionId).call(echo)
      for (const { status, headers, json } of [first, await bad.request('initialize'), midSession]) {
        expect([status, headers['content-type']]).toEqual([401, 'application/json'])
        expect(json).toEqual({ jsonrpc: '2.0', error: { code: -31401, message: expect.any(String) } })
        expect(json.error.message).toMatch(/^Unknown, expired or revoked API key\..*switchboard key new/)
        expect(json.error.message.length).toBeLessThan(300)
        expect(headers['www-authenticate']).toMatch(/^Bearer/)
        expect(headers['www-authenticate']).not.toContain('resource_metadata')
      }
    }
  )

  interface Probe {
    readonly path: string
    readonly headers: Record<string, string>
    readonly body?: string
  }
  const probes = (paths: string[], headers: Record<string, string>): Probe[] => paths.map(path => ({ path, headers }))
  const register = (headers: Record<string, string>): Probe => ({
    path: '/register',
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify({ client_name: 'client', redirect_uris: ['http://127.0.0.1:19876/callback'] })
  })
  const bad = bearer('sb_revoked_long_ago')
  const plain = { accept: 'application/json' }
  const versioned = { ...plain, 'mcp-protocol-version': '2025-11-25' }
  const resource = wellKnown.filter(path => path.includes('protected-resource'))
  const issuer = wellKnown.filter(path => !path.includes('protected-resource'))
  const as = ({ userAgent }: Client, ...more: Record<string, string>[]): Record<string, string> =>
    Object.assign({ 'user-agent': userAgent }, ...more)
  const opencodeOnce = [
    ...probes([...resource.slice(0, 2), ...issuer.slice(0, 2)], as(opencode, bad, versioned)),
    register(as(opencode, bad))
  ]
  const oneStart: [Client, Probe[]][] = [
    [opencode, [...opencodeOnce, ...opencodeOnce]],
    [copilotCli, probes(resource, as(copilotCli, bad, plain))],
    [
      vsCode,
      [...probes([...resource.slice(0, 2), ...issuer.slice(1)], as(vsCode, bad, versioned)), register(as(vsCode))]
    ],
    [mcpRemote, [...probes(wellKnown, as(mcpRemote, versioned)), register(as(mcpRemote))]]
  ]

  test.each(oneStart.map(([client, sent]) => [client.name, client, sent] as const))(
    '%s may probe for OAuth as often as it likes: JSON 404 each time, no limit, and a good key works at once',
    async (_, client, sent) => {
      for (let start = 0; start < 10; start++) {
        expect((await converse(client, url, 'sb_revoked_long_ago').request('initialize')).status).toBe(401)
        const answers = await Promise.all(
          sent.map(({ path, headers, body }) =>
            exchange(body === undefined ? 'GET' : 'POST', url + path, { headers, body: body ?? null })
          )
        )
        for (const [i, { status, headers, json }] of answers.entries()) {
          expect([sent[i]?.path, status, headers['content-type']]).toEqual([sent[i]?.path, 404, 'application/json'])
          expect(json).toEqual({ error: 'not_found', error_description: expect.stringContaining('API keys') })
          expect(headers).not.toHaveProperty('retry-after')
          expect(headers).not.toHaveProperty('www-authenticate')
        }
      }
      // Each start is a refused key in the log; the probes are none.
      const refused = [...gateway.logged('auth.invalid'), ...gateway.logged('auth.missing')]
      expect(refused.filter(({ path }) => oauthPath.test(String(path)))).toEqual([])
      expect(textOf((await replay(conversation(client), echo)).get('tools/call') as Reply)).toBe('over and out')
    }
  )

  test('opencode, which turns to GET when its POST is refused, gets the same 401 there', async () => {
    for (const path of ['/mcp', '/sse']) {
      const { status, json } = await exchange('GET', url + path, {
        headers: { ...bad, accept: 'text/event-stream', 'user-agent': opencode.userAgent }
      })
      expect([path, status, json.error.message]).toEqual([path, 401, expect.stringContaining('switchboard key new')])
    }
  })
})

describe('what decides over a question to the user: annotations (§2.5)', () => {
  const annotated: [string, object | undefined][] = [
    ['reads', { readOnlyHint: true }],
    ['writes', { readOnlyHint: false, destructiveHint: true, idempotentHint: false, openWorldHint: true }],
    ['titled', { title: 'Read a file', readOnlyHint: true, idempotentHint: true, openWorldHint: false }],
    ['empty', {}],
    ['none', undefined],
    ['vendor', { readOnlyHint: true, 'x-vendor': { audience: ['model', null] } }],
    ['odd', { readOnlyHint: 'yes', destructiveHint: null }]
  ]

  test('pass as the server wrote them, in both eras; where there are none, none are made up', async () => {
    const { at } = await startWithTools({
      shapes: annotated.map(([name, annotations]) => ({ name, inputSchema: { type: 'object' }, annotations }))
    })
    for (const { json } of [
      await (await opened(vsCode, at)).request('tools/list'),
      await modernAs(copilotCli, at, secrets.ADMIN, 'tools/list')
    ]) {
      const got = json.result.tools.map((tool: any) => [
        tool.name.replace('shapes__', ''),
        JSON.stringify(tool.annotations)
      ])
      expect(got).toEqual(annotated.map(([name, annotations]) => [name, JSON.stringify(annotations)]))
      expect(json.result.tools[4]).not.toHaveProperty('annotations')
    }
  })
})

/** A gateway of its own before servers that list these tools and answer every call with `called <name>`. */
async function startWithTools(
  tools: Record<string, readonly object[]>,
  title?: string
): Promise<{ at: string; gateway: TestGateway; servers: Map<string, RawHttp> }> {
  const servers = new Map<string, RawHttp>()
  for (const [id, list] of Object.entries(tools)) {
    const server = await startRawHttp()
    onTestFinished(() => server.close())
    server.tools = JSON.parse(JSON.stringify(list)) as any[]
    servers.set(id, server)
  }
  const entries = Object.fromEntries([...servers].map(([id, server]) => [id, { url: server.url, transport: 'http' }]))
  const started = await startTestGateway(
    `listen: { port: 0${title === undefined ? '' : `, title: ${title}`} }\nservers: ${JSON.stringify(entries)}${keys}`
  )
  onTestFinished(() => started.close())
  for (const id of servers.keys()) await started.until(id)
  return { at: started.url, gateway: started, servers }
}

describe('a result of structured content alone (§2.6)', () => {
  test.each([geminiCli, continueCli, claudeCode, codex, vsCode].map(byName))(
    '%s gets it as text too, and both say the same',
    async (_, client) => {
      const { json } = await (await opened(client)).call({ name: 'demo__structured_only' })
      const { content, structuredContent } = json.result
      expect(structuredContent).toEqual({ rows: [{ id: 1, name: 'eins' }], total: 1 })
      expect(content).toEqual([{ type: 'text', text: expect.any(String) }])
      expect(JSON.parse(content[0].text)).toEqual(structuredContent)
    }
  )

  test('gets its text in 2026-07-28 as well, and also where the server left content out altogether', async () => {
    const modern = await modernAs(claudeCode, url, secrets.ADMIN, 'tools/call', { name: 'demo__structured_only' })
    expect(JSON.parse(textOf(modern))).toEqual({ rows: [{ id: 1, name: 'eins' }], total: 1 })

    const structuredContent = { rows: [], note: 'größer' }
    const results = [{ structuredContent }, { content: [], structuredContent }, { content: [], structuredContent: [1] }]
    for (const result of results) {
      const bare = await startScripted('legacy', method =>
        method === 'tools/list'
          ? { result: { tools: [{ name: 'rows', inputSchema: { type: 'object' } }] } }
          : { result }
      )
      onTestFinished(() => bare.close())
      const other = await startTestGateway(`servers: { bare: { url: "${bare.url}", transport: http } }${keys}`)
      onTestFinished(() => other.close())
      await other.until('bare')
      const reply = await (await opened(geminiCli, other.url)).call({ name: 'bare__rows' })
      expect(JSON.parse(textOf(reply))).toEqual(result.structuredContent)
      expect(reply.json.result.structuredContent).toEqual(result.structuredContent)
    }
  })

  test('is left alone where the server gave text of its own, also where that says something else', async () => {
    const { json } = await (await opened(claudeCode)).call({ name: 'demo__unknown_members' })
    expect(json.result.content).toHaveLength(2)
    expect(json.result.content[0].text).toBe('known text')
    expect(json.result.structuredContent).toMatchObject({ known: true })
  })
})

describe('the names that clients make of ours (§2.7, §2.8)', () => {
  /** Long names that differ only at their end, middle, in case, `-` or a character that clients rewrite. */
  const longTail = 'a_rather_long_name_for_a_tool_that_does_something_to_all_the_files_of_a_repository'
  const hard = [
    'query',
    'Query',
    'read-file',
    'read_file',
    'dot.name',
    'dot/name',
    'dot:name',
    'dot name',
    `create_${longTail}`,
    `delete_${longTail}`,
    `${longTail}_create`,
    `${longTail}_delete`,
    `${longTail}_create`.slice(0, 60),
    `the_first_thirty_characters_xx_create_and_thirty_characters_at_its_end`,
    `the_first_thirty_characters_xx_delete_and_thirty_characters_at_its_end`,
    'x'.repeat(128),
    `${'x'.repeat(127)}y`,
    '1st',
    '_leading',
    'größe_ändern',
    '日本語'
  ]
  const inputSchema = { type: 'object', properties: {} }
  const tools = Object.fromEntries(
    ['postgres', 'pg-main', 'A-Server-Name-As-Long-As-Allowed'].map(id => [
      id,
      hard.map(name => ({ name, inputSchema }))
    ])
  )

  interface View {
    /** What the model sees of a name; the alias is the user's name for the gateway. */
    readonly see: (name: string, alias: string) => string
    readonly limit: number
    readonly valid: RegExp
    readonly aliases?: readonly string[]
  }
  const word = /^[A-Za-z0-9_-]+$/
  const rewritten = (to: string) => (name: string) => name.replace(/[./: ]/g, to)
  const views: Record<string, View> = {
    'Claude Code': { see: (name, alias) => `mcp__${alias}__${rewritten('_')(name)}`, limit: 128, valid: word },
    'Claude Code as it was until early 2026': {
      see: (name, alias) => `mcp__${alias}__${name}`,
      limit: 64,
      valid: word
    },
    Codex: { see: (name, alias) => `mcp__${alias}/${name}`.replaceAll('-', '_'), limit: 128, valid: /^\w+\/\w+$/ },
    'Gemini CLI': { see: (name, alias) => `mcp_${alias}_${name}`, limit: 63, valid: /^[a-zA-Z_][a-zA-Z0-9_.:-]*$/ },
    opencode: { see: (name, alias) => `${alias}_${rewritten('_')(name)}`, limit: 64, valid: word },
    'Copilot CLI': { see: (name, alias) => `${alias}-${rewritten('-')(name)}`, limit: 64, valid: word },
    'Qwen Code': { see: (name, alias) => `mcp__${alias}__${name}`, limit: 63, valid: word, aliases: ['gw'] },
    Cline: { see: (name, alias) => `${alias}__${name}`, limit: 64, valid: word },
    Continue: { see: name => name, limit: 64, valid: word },
    Cursor: { see: (name, alias) => `${alias}${name}`, limit: 59, valid: word },
    'Open WebUI': { see: (name, alias) => `${alias}_${name}`, limit: 64, valid: word },
    LiteLLM: { see: (name, alias) => `${alias}-${name}`, limit: 64, valid: word }
  }

  test('stay whole and distinct in each of them, and each leads to its own tool', async () => {
    const { at, servers } = await startWithTools(tools)
    const talk = await opened(continueCli, at)
    const names = namesOf(await talk.request('tools/list'))
    expect(names).toHaveLength(hard.length * servers.size)
    for (const name of names) expect(name).toMatch(/^[A-Za-z][A-Za-z0-9_-]{0,45}$/)

    for (const [client, { see, limit, valid, aliases = ['gw', 'switchboard'] }] of Object.entries(views)) {
      for (const alias of aliases) {
        const seen = names.map(name => see(name, alias))
        // Distinct even for a client that cuts to its limit or does not mind case.
        const cut = new Set(seen.map(name => name.slice(0, limit).toLowerCase()))
        expect([client, alias, cut.size]).toEqual([client, alias, names.length])
        expect([client, alias, seen.filter(name => name.length > limit || !valid.test(name))]).toEqual([
          client,
          alias,
          []
        ])
      }
    }

    const called = new Set<string>()
    for (const name of names) called.add(`${name.split('__')[0]} ${textOf(await talk.call({ name }))}`)
    expect(called.size).toBe(names.length)
    for (const id of servers.keys()) for (const wire of hard) expect(called).toContain(`${id} called ${wire}`)
  })

  test.each([undefined, 'Stand-in gateway', 'A title that is far too long for any prefix'])(
    'stay whole and distinct in VS Code, which prefixes them with the title of the gateway (%s)',
    async title => {
      const { at } = await startWithTools(tools, title)
      const talk = conversation(vsCode, at)
      const { serverInfo } = (await talk.request('initialize')).json.result
      expect(serverInfo.title).toBe(title ?? 'switchboard')
      const discovered = await modernAs(claudeCode, at, secrets.ADMIN, 'server/discover')
      expect(discovered.json.result._meta['io.modelcontextprotocol/serverInfo'].title).toBe(serverInfo.title)

      const prefix = `mcp_${serverInfo.title.toLowerCase().replaceAll(' ', '_').slice(0, 13)}_`
      if (title === undefined) expect(prefix).toBe('mcp_switchboard_')
      const names = namesOf(await talk.request('tools/list'))
      const seen = names.map(name => prefix + name)
      expect(seen.filter(name => name.length > 64)).toEqual([])
      expect(new Set(seen.map(name => name.toLowerCase())).size).toBe(names.length)
    }
  )

  test('stand once, even if a server lists one twice: Qwen Code would drop both, Continue would send both', async () => {
    const twice = ['twin', 'other', 'twin'].map((name, i) => ({ name, description: `Number ${i}`, inputSchema }))
    const { at } = await startWithTools({ one: twice, two: twice })
    for (const listed of [
      await (await opened(qwenCode, at)).request('tools/list'),
      await modernAs(claudeCode, at, secrets.ADMIN, 'tools/list')
    ])
      expect(namesOf(listed).sort()).toEqual(['one__other', 'one__twin', 'two__other', 'two__twin'])
  })
})

describe('what a client says it accepts', () => {
  const json = 'application/json'
  const sse = 'text/event-stream'
  const accepts: [string, string | null, string][] = [
    ['JSON alone', json, json],
    ['a stream alone', sse, sse],
    ['anything', '*/*', json],
    ['nothing, by leaving it out', null, json],
    ['both', `${json}, ${sse}`, json],
    ['both, the stream first', `${sse}, ${json}`, json],
    ['both, with weights', `${json};q=0.9, ${sse};q=1.0`, json],
    ['a stream in capitals', 'Text/Event-Stream', sse],
    ['a page of HTML', 'text/html,application/xhtml+xml', json]
  ]

  test.each(accepts)('%s: it is served, from initialize to the call', async (_, accept, type) => {
    const talk = conversation(geminiCli)
    const steps = [
      await talk.request('initialize', undefined, { accept }),
      await talk.request('ping', undefined, { accept }),
      await talk.request('tools/list', undefined, { accept }),
      await talk.call(echo, { accept })
    ]
    for (const { status, headers } of steps) expect([status, headers['content-type']]).toEqual([200, type])
    expect(textOf(steps[3] as Reply)).toBe('over and out')
    for (const { text } of steps) if (type === sse) expect(text.match(/^data: \{/gm)).toHaveLength(1)
  })

  test.each(accepts)('%s: a call of 2026-07-28 is served', async (_, accept, type) => {
    const request = (method: string, params: object, name?: string) =>
      exchange('POST', `${url}/mcp`, {
        headers: {
          ...bearer(secrets.ADMIN),
          'content-type': 'application/json',
          ...(accept !== null && { accept }),
          'mcp-protocol-version': '2026-07-28',
          'mcp-method': method,
          ...(name !== undefined && { 'mcp-name': name })
        },
        body: JSON.stringify({
          jsonrpc: '2.0',
          id: 1,
          method,
          params: {
            ...params,
            _meta: {
              'io.modelcontextprotocol/protocolVersion': '2026-07-28',
              'io.modelcontextprotocol/clientCapabilities': {},
              progressToken: 'mine'
            }
          }
        })
      })
    for (const reply of [
      await request('server/discover', {}),
      await request('tools/list', {}),
      await request('tools/call', echo, echo.name)
    ])
      expect([reply.status, reply.headers['content-type']]).toEqual([200, type])
  })

  test('JSON alone: progress it asked for cannot reach it, but its result does', async () => {
    const talk = await opened(geminiCli)
    const reply = await talk.call({ name: 'demo__progress', arguments: { gap: 1 } }, { accept: json })
    expect(reply.headers['content-type']).toBe(json)
    expect(textOf(reply)).toBe('done after 3 steps')
  })

  test('no matter what, when it opens its stream', async () => {
    for (const accept of [sse, '*/*', json]) {
      const talk = await opened(geminiCli)
      const { 'content-type': _, ...headers } = talk.headers('')
      const stream = await openStream(`${url}/mcp`, { ...headers, accept })
      expect([accept, stream.status, stream.headers['content-type']]).toEqual([accept, 200, sse])
      stream.close()
    }
  })
})

describe('schemas that clients take as they are (§2.13)', () => {
  const tree = {
    type: 'object',
    properties: { value: { type: 'string' }, children: { type: 'array', items: { $ref: '#/$defs/tree' } } }
  }
  const schemas: Record<string, object> = {
    dialect: {
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      type: 'object',
      properties: { id: { type: 'string' } }
    },
    recursive: { type: 'object', $defs: { tree }, properties: { root: { $ref: '#/$defs/tree' } }, required: ['root'] },
    combined: {
      type: 'object',
      properties: {
        either: { anyOf: [{ type: 'string' }, { type: 'null' }] },
        one: { oneOf: [{ const: 'a' }, { const: 'b', title: 'B' }] },
        fixed: { const: 7 },
        all: { allOf: [{ type: 'string' }, { minLength: 2 }] }
      }
    },
    tuple: {
      type: 'object',
      properties: { pair: { type: 'array', prefixItems: [{ type: 'number' }, { type: 'string' }], items: false } }
    },
    typeArray: { type: 'object', properties: { maybe: { type: ['string', 'null'], default: null } } },
    topLevelAnyOf: {
      type: 'object',
      properties: { a: { type: 'string' }, b: { type: 'string' } },
      anyOf: [{ required: ['a'] }, { required: ['b'] }]
    },
    bare: { type: 'object' },
    constrained: {
      title: 'Constrained',
      type: 'object',
      properties: {
        when: { type: 'string', format: 'date-time', pattern: '^2', default: '2026-01-01T00:00:00Z' },
        count: { type: 'integer', minimum: 1, maximum: 9007199254740991, multipleOf: 1 }
      },
      additionalProperties: false
    }
  }

  test('reach each of them byte for byte, and no tool is lost', async () => {
    const { at } = await startWithTools({
      shapes: Object.entries(schemas).map(([name, inputSchema]) => ({ name, inputSchema }))
    })
    const lists = [await modernAs(claudeCode, at, secrets.ADMIN, 'tools/list')]
    for (const client of clients) lists.push(await (await opened(client, at)).request('tools/list'))
    for (const list of lists) {
      expect(namesOf(list)).toEqual(Object.keys(schemas).map(name => `shapes__${name}`))
      for (const schema of Object.values(schemas))
        expect(list.text).toContain(`"inputSchema":${JSON.stringify(schema)}`)
    }
  })
})

describe('a megabyte in one line (§2.14)', () => {
  const bytes = 1024 * 1024
  const expected = '0123456789abcdef'.repeat(bytes / 16)
  const call = { name: 'demo__big', arguments: { bytes } }

  test.each(clients.map(byName))('reaches %s whole', async (_, client) => {
    const talk = await opened(client)
    for (const accept of [undefined, 'application/json', 'text/event-stream']) {
      const reply = await talk.call(call, accept === undefined ? {} : { accept })
      expect(textOf(reply) === expected).toBe(true)
      if (accept === 'text/event-stream') expect(reply.text.match(/^data: \{/gm)).toHaveLength(1)
    }
  })

  test('reaches clients of 2026-07-28 whole', async () => {
    for (const client of [claudeCode, copilotCli]) {
      const reply = await modernAs(client, url, secrets.ADMIN, 'tools/call', call)
      expect(textOf(reply) === expected).toBe(true)
    }
  })
})

describe('a list of tools that changes', () => {
  const listening = [claudeCode, geminiCli, opencode, copilotCli, vsCode]
  const deaf = [codex, qwenCode, cline, continueCli]

  test('is told to every open stream once, and the next list has it; those that never list again can still call all', async () => {
    const server = await startHttpLegacy()
    onTestFinished(() => server.close())
    const changing = await startTestGateway(`servers: { lively: { url: "${server.url}", transport: http } }${keys}`)
    onTestFinished(() => changing.close())
    await changing.until('lively')
    const at = changing.url
    const talks = await Promise.all([...listening, ...deaf].map(client => opened(client, at)))
    const streams = await Promise.all(talks.map(talk => talk.stream()))
    const listens = await Promise.all([claudeCode, copilotCli].map(client => listenAs(client, at, secrets.ADMIN)))
    onTestFinished(() => listens.forEach(stream => stream.close()))
    for (const talk of talks) expect(namesOf(await talk.request('tools/list'))).not.toContain('lively__late')
    for (const stream of listens) await stream.until(1)

    expect((await talks[0]?.call({ name: 'lively__add_tool', arguments: { name: 'late' } }))?.status).toBe(200)
    for (const stream of streams)
      expect(await stream.until(1)).toMatchObject([{ method: 'notifications/tools/list_changed' }])
    for (const stream of listens)
      expect(await stream.until(2)).toMatchObject([{}, { method: 'notifications/tools/list_changed' }])
    for (const talk of talks.slice(0, listening.length))
      expect(namesOf(await talk.request('tools/list'))).toContain('lively__late')
    for (const talk of talks) expect(textOf(await talk.call({ name: 'lively__late' }))).toBe('added at runtime')
    expect([...streams, ...listens].map(({ messages }) => messages.length)).toEqual([
      ...streams.map(() => 1),
      ...listens.map(() => 2)
    ])

    await talks[0]?.call({ name: 'lively__remove_tool', arguments: { name: 'late' } })
    for (const stream of streams) await stream.until(2)
    const gone = await talks.at(-1)?.call({ name: 'lively__late' })
    expect(gone).toMatchObject({
      status: 200,
      json: { error: { code: -32602, message: 'Unknown tool: lively__late' } }
    })
  })
})

describe('connections that live long', () => {
  const expectUnbuffered = (headers: Reply['headers']) => {
    expect(headers).toMatchObject({ 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' })
    expect(headers['cache-control']).toContain('no-transform')
    expect(headers['content-length']).toBeUndefined()
  }

  test('a stream says at once that it is there, tells proxies not to hold it back, and speaks every 15 s', async () => {
    const talk = await opened(claudeCode)
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    const streams = [
      await talk.stream(),
      await listenAs(claudeCode, url, secrets.ADMIN),
      await openStream(`${url}/sse`, bearer(secrets.ADMIN))
    ]
    onTestFinished(() => streams.forEach(stream => stream.close()))
    const comments = (text: string) => text.match(/^: /gm)?.length ?? 0
    for (const stream of streams) {
      expectUnbuffered(stream.headers)
      await waitFor(() => comments(stream.text()) === 1, 'the first comment')
    }
    vi.advanceTimersByTime(60_000)
    for (const stream of streams) {
      await waitFor(() => comments(stream.text()) === 5, 'a comment every 15 s')
      expect(stream.ended()).toBe(false)
    }
  })

  test('an answer that streams has the same headers', async () => {
    const talk = await opened(opencode)
    expectUnbuffered((await talk.call({ name: 'demo__progress', arguments: { gap: 1 } })).headers)
    expectUnbuffered((await talk.call(echo, { accept: 'text/event-stream' })).headers)
  })

  test('an idle connection is kept longer than proxies keep theirs', async () => {
    const { headers } = await (await opened(codex)).request('ping')
    expect(headers.connection).toBe('keep-alive')
    expect(Number(/timeout=(\d+)/.exec(String(headers['keep-alive']))?.[1])).toBeGreaterThan(65)
  })

  test('when the gateway ends, idle connections end in good order, never with a reset (§2.12)', async () => {
    const ending = await startTestGateway(`servers: {}${keys}`)
    const { hostname, port } = new URL(ending.url)
    const sockets = Array.from({ length: 5 }, () => connect(Number(port), hostname))
    const ends = sockets.map(
      socket =>
        new Promise<string>(resolve => {
          socket.once('end', () => resolve('ended'))
          socket.once('error', error => resolve(error.message))
        })
    )
    const received = sockets.map(() => '')
    for (const [i, socket] of sockets.entries()) {
      socket.on('data', chunk => (received[i] += chunk.toString()))
      socket.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n')
    }
    await waitFor(() => received.every(text => text.includes('"ok"')), 'an answer on every connection')
    const begun = performance.now()
    await ending.close()
    expect(await Promise.all(ends)).toEqual(sockets.map(() => 'ended'))
    expect(performance.now() - begun).toBeLessThan(5000)
    for (const socket of sockets) socket.destroy()
  })

  test('when the gateway ends, a call in flight is still answered, and the connection says that it closes', async () => {
    const ending = await startTestGateway(`servers: ${JSON.stringify({ demo })}${keys}`)
    await ending.until('demo')
    const talk = await opened(claudeCode, ending.url)
    const { nonce } = slowCall()
    const running = talk.call({ name: 'demo__slow', arguments: { ms: 500, nonce } })
    await noted(`started ${nonce}`)
    await ending.close()
    const answered = await running
    expect(textOf(answered)).toBe('waited 500 ms')
    expect(answered.headers.connection).toBe('close')
  })

  test('when the gateway ends, a big result on its way still arrives whole', async () => {
    const ending = await startTestGateway(`servers: ${JSON.stringify({ demo })}${keys}`)
    await ending.until('demo')
    const talk = await opened(claudeCode, ending.url)
    const bytes = 16 * 1024 * 1024
    const params = { name: 'demo__big', arguments: { bytes } }
    const { body } = await request(`${ending.url}/mcp`, {
      method: 'POST',
      headers: talk.headers('tools/call'),
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params })
    })
    const closed = ending.close()
    const text = await body.text().catch((error: Error) => error.message)
    await closed
    expect(text.length).toBeGreaterThan(bytes)
    expect(JSON.parse(text).result.content[0].text).toHaveLength(bytes)
  })
})

describe('the doors of 2024 (/sse)', () => {
  test('serve a client of the v1 SDK: it lists, calls, hears progress, is told of changes, and can give up', async () => {
    const client = await connectClient('v1 over SSE', url, secrets.ADMIN)
    onTestFinished(() => client.close())
    const tools = await client.listTools()
    expect(tools.map(({ name }) => name as string)).toContain('demo__echo')
    const called = await client.callTool('demo__echo', { message: 'over SSE' })
    expect(called.content[0].text).toBe('over SSE')

    const heard: unknown[] = []
    const done = await client.callTool(
      'demo__progress',
      { gap: 20 },
      { onprogress: (...args: unknown[]) => void heard.push(args[0]) }
    )
    expect(done.content[0].text).toBe('done after 3 steps')
    expect(heard).toMatchObject([{ progress: 1 }, { progress: 2 }, { progress: 3 }])

    const { nonce, call } = slowCall()
    const abort = new AbortController()
    const aborted = client.callTool(call.name, call.arguments, { signal: abort.signal }).catch(() => 'aborted')
    await noted(`started ${nonce}`)
    abort.abort('enough')
    expect(await aborted).toBe('aborted')
    await noted(`cancelled ${nonce}`)

    const failed = await client.callTool('demo__fail', { reason: 'over SSE' })
    expect([failed.isError, failed.content[0].text]).toEqual([true, 'failed: over SSE'])
    await expect(client.callTool('demo__nowhere')).rejects.toThrow(/Unknown tool: demo__nowhere/)

    expect(client.told()).toBe(0)
    await client.callTool('demo__add_tool', { name: 'for_a_moment' })
    await waitFor(() => client.told() === 1, 'the news of a new tool')
    await client.callTool('demo__remove_tool', { name: 'for_a_moment' })
    await waitFor(() => client.told() === 2, 'the news that it is gone', 10_000)
    expect((await client.listTools()).map(({ name }) => name as string)).toEqual(
      tools.map(({ name }) => name as string)
    )
  })

  test('refuse a POST at once, so that Codex fails plainly and opencode turns to GET', async () => {
    for (const client of [codex, opencode]) {
      const { 'mcp-session-id': _, ...headers } = converse(client, url, secrets.ADMIN).headers('initialize')
      const {
        status,
        headers: replied,
        json
      } = await post(`${url}/sse`, { jsonrpc: '2.0', id: 0, method: 'initialize', params: {} }, headers)
      expect([status, replied.allow, replied['content-type']]).toEqual([405, 'GET', 'application/json'])
      expect(json.error.message).toContain('GET')
    }
    const stream = await openStream(`${url}/sse`, { ...bearer(secrets.ADMIN), 'user-agent': opencode.userAgent })
    onTestFinished(() => stream.close())
    expect(stream.status).toBe(200)
    await waitFor(() => /^event: endpoint\ndata: \/messages\?sessionId=\S+$/m.test(stream.text()), 'the endpoint')
  })

  test('are no stream of another kind: GET /mcp without a session is 405, which every client takes', async () => {
    for (const client of clients) {
      const { status, headers, json } = await exchange('GET', `${url}/mcp`, {
        headers: { ...bearer(secrets.ADMIN), accept: 'text/event-stream', 'user-agent': client.userAgent }
      })
      expect([client.name, status, headers.allow]).toEqual([client.name, 405, 'POST'])
      expect(json.error.message).toContain('POST')
    }
  })
})
