/**
 * Another servers.yaml is taken over while everything runs: what it leaves alone notices nothing, what it changes is
 * replaced without a call lost, and what it takes from a key is gone at once. A file that cannot be used changes nothing.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { start as startRawOffer } from './fixtures/raw-offer.mjs'
import type { RawOffer, RawOfferOptions } from './fixtures/types.d.mts'
import { freePort } from './helpers/gateway-process.js'
import { attackFrom, noncesNoted } from './helpers/attack.js'
import { bearer, envelope, modern, openSession, post, type Reply } from './helpers/http.js'
import { openStream, type Stream } from './helpers/matrix.js'
import { collectGarbage } from './helpers/memory.js'
import { marked } from './helpers/processes.js'
import {
  fixture,
  secrets,
  startTestGateway,
  waitFor,
  type TestGateway,
  type TestGatewayOptions
} from './helpers/with-gateway.js'

type Servers = Record<string, object>
type Keys = Record<string, { readonly secret: string | string[]; readonly allow: unknown }>

let dir: string
let gateway: TestGateway
const open: { close(): unknown }[] = []

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'switchboard-reload-'))
})
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
  rmSync(dir, { recursive: true, force: true })
})

/** Ends it after the test. */
function keep<T extends { close(): unknown }>(each: T): T {
  open.push(each)
  return each
}

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const adminOnly: Keys = { admin: { secret: '${ADMIN}', allow: '*' } }
const yamlOf = (servers: Servers, keys: Keys = adminOnly) =>
  `servers: ${JSON.stringify(servers)}\nkeys: ${JSON.stringify(keys)}\n`

const ledgerOf = (name: string) => openLedger(join(dir, name))
/** A stdio server that is up in a blink and writes what it does into the ledger of that name. */
const raw = (ledger: string, { args = [], env = {}, ...more }: Record<string, any> = {}): Record<string, any> => ({
  command: 'node',
  args: [fixture('raw-stdio.mjs'), ...args],
  env: { LEDGER: join(dir, ledger), ...env },
  era: 'legacy',
  ...more
})
const startsOf = (ledger: string) =>
  ledgerOf(ledger)
    .lines()
    .filter(line => line.startsWith('process '))

async function offering(options: RawOfferOptions = {}): Promise<RawOffer> {
  return keep(await startRawOffer(options))
}
const dialled = ({ url }: { readonly url: string }, more: object = {}) => ({ url, transport: 'http', ...more })

/** The gateway over these, once all of them are there. */
async function startOver(servers: Servers, keys?: Keys, options?: TestGatewayOptions): Promise<void> {
  gateway = keep(await startTestGateway(yamlOf(servers, keys), { stateDir: dir, ...options }))
  for (const id of Object.keys(servers)) await gateway.until(id)
}

const statusOf = (id: string) => gateway.gateway.status().find(status => status.id === id)
const session = (secret = secrets.ADMIN, path = '/mcp') => openSession(gateway.url, secret, { path })
type Session = Awaited<ReturnType<typeof session>>

const call = async ({ rpc }: Session, name: string, args: object = {}) =>
  (await rpc('tools/call', { name, arguments: args })).json
const textOf = (answer: any): string => answer.result?.content?.[0]?.text ?? JSON.stringify(answer)
const namesIn = async ({ rpc }: Session): Promise<string[]> =>
  (await rpc('tools/list')).json.result.tools.map(({ name }: { name: string }) => name)

describe('a reload that changes servers (C10)', () => {
  test.each<[string, string, (servers: Record<string, any>) => void]>([
    ['a variable', 'changed', ({ changed }) => (changed.env.MORE = '1')],
    ['an argument', 'changed', ({ changed }) => changed.args.push('--')],
    ['a timeout', 'changed', ({ changed }) => (changed.timeout = 77)],
    ['an address', 'web', ({ web }) => (web.url += '?other')]
  ])('restarts only the one with %s changed', async (_what, id, edit) => {
    const web = await offering({ tools: [{ name: 'w', inputSchema: { type: 'object' } }] })
    const servers: Servers = { kept: raw('kept'), web: dialled(web), changed: raw('changed') }
    await startOver(servers)
    const [client, before] = [await session(), new Map(gateway.gateway.status().map(each => [each.id, each]))]
    const initialized = web.asked('initialize').length

    const edited = structuredClone(servers)
    edit(edited)
    expect(gateway.apply(yamlOf(edited))).toEqual({ started: [], restarted: [id], ended: [], revoked: [], restart: [] })
    expect(textOf(await call(client, 'kept__echo', { message: 'on' }))).toBe('on')
    expect(textOf(await call(client, 'changed__echo', { message: 'anew' }))).toBe('anew')
    await gateway.until(id)
    expect(await namesIn(client)).toHaveLength(9)

    expect(statusOf('kept')).toEqual(before.get('kept'))
    expect(startsOf('kept')).toHaveLength(1)
    expect(ledgerOf('kept').count('initialize')).toBe(1)
    expect(startsOf('changed')).toHaveLength(id === 'changed' ? 2 : 1)
    expect(web.asked('initialize')).toHaveLength(id === 'web' ? initialized * 2 : initialized)
    const old = before.get('changed')?.pid as number
    if (id === 'changed') {
      expect(statusOf('changed')?.pid).not.toBe(old)
      await waitFor(() => !alive(old), 'the end of the old process')
    }
  })

  test('restarts nothing when the file is only written in another order, and lists follow that order', async () => {
    const kept = raw('kept', { env: { ONE: '1', TWO: '2' } })
    await startOver({ kept, other: raw('other') })
    const client = await session()
    expect((await namesIn(client))[0]).toBe('kept__echo')
    const { ONE, TWO, ...env } = kept.env as Record<string, string>
    const again = { era: 'legacy', env: { TWO, ONE, ...env }, args: kept.args, command: 'node' }
    expect(gateway.apply(yamlOf({ other: raw('other'), kept: again }))).toMatchObject({ started: [], restarted: [] })
    expect((await namesIn(client)).map(name => name.split('__')[0])).toEqual(
      ['other', 'kept'].flatMap(id => [id, id, id, id])
    )
    expect(gateway.gateway.status().map(({ id }) => id)).toEqual(['other', 'kept'])
    expect(startsOf('kept')).toHaveLength(1)
  })

  test('restarts nothing for aliases, namespace, instructions and description, which hold at once', async () => {
    const web = await offering({ instructions: 'Be brief.', tools: [{ name: 'w', inputSchema: { type: 'object' } }] })
    await startOver({ web: dialled(web), kept: raw('kept') })
    const [client, pid] = [await session(), statusOf('kept')?.pid]
    expect(client.opened.json.result.instructions).toContain('Be brief.')
    const silent = dialled(web, { instructions: false, description: 'other words' })
    const applied = gateway.apply(yamlOf({ web: silent, kept: raw('kept', { namespace: false, aliases: ['short'] }) }))
    expect(applied).toMatchObject({ started: [], restarted: [], ended: [] })

    expect(await namesIn(client)).toEqual(['web__w', 'echo', 'slow', 'count', 'progress'])
    expect(textOf(await call(client, 'echo', { message: 'renamed' }))).toBe('renamed')
    expect((await call(client, 'kept__echo', { message: 'old name' })).error.message).toBe('Unknown tool: kept__echo')
    expect(await namesIn(await session(secrets.ADMIN, '/mcp/short'))).toContain('echo')
    expect((await session()).opened.json.result.instructions).toBeUndefined()
    expect(statusOf('kept')?.pid).toBe(pid)
    expect(web.asked('initialize')).toHaveLength(1)
  })

  test('starts what is new, and ends the whole process group of what is gone (U18)', async () => {
    const marker = `RELOAD_TEST_${process.pid}_${Date.now()}`
    const wrapped = {
      command: 'sh',
      args: ['-c', `node ${fixture('raw-stdio.mjs')} --mode grandchild; true`],
      env: { [marker]: '1', LEDGER: join(dir, 'wrapped') }
    }
    await startOver({ kept: raw('kept'), wrapped })
    expect(marked(marker)).toHaveLength(3)
    const client = await session()
    expect(gateway.apply(yamlOf({ added: raw('added'), kept: raw('kept') }))).toMatchObject({
      started: ['added'],
      ended: ['wrapped']
    })
    expect((await call(client, 'wrapped__echo', { message: 'gone' })).error.message).toBe('Unknown tool: wrapped__echo')
    expect(textOf(await call(client, 'added__echo', { message: 'new' }))).toBe('new')
    expect((await namesIn(client)).map(name => name.split('__')[0])).toEqual([
      ...['added', 'added', 'added', 'added'],
      ...['kept', 'kept', 'kept', 'kept']
    ])
    await waitFor(() => marked(marker).length === 0, 'the end of the whole group')
    expect(gateway.logged('upstream.down')).toEqual([])
  })

  test('lets running calls finish on the old servers while new ones go to the new', async () => {
    await startOver({ changed: raw('old'), removed: raw('removed') })
    const [client, pids] = [await session(), ['changed', 'removed'].map(id => statusOf(id)?.pid as number)]
    const running = [
      call(client, 'changed__slow', { ms: 2000, nonce: 'c' }),
      call(client, 'removed__slow', { ms: 2000, nonce: 'r' }),
      modern(gateway.url, secrets.ADMIN, 'tools/call', { name: 'changed__slow', arguments: { ms: 2000, nonce: 'm' } })
    ]
    await waitFor(() => ledgerOf('old').count('started m') + ledgerOf('removed').count('started r') === 2, 'the calls')
    gateway.apply(yamlOf({ changed: raw('new') }))
    const begun = performance.now()
    expect(textOf(await call(client, 'changed__count', { nonce: 'fresh' }))).toBe('1')
    expect(performance.now() - begun).toBeLessThan(1900)
    expect(ledgerOf('new').count('called fresh')).toBe(1)
    expect(pids.map(alive)).toEqual([true, true])

    const [changed, removed, asModern] = await Promise.all(running)
    for (const answer of [changed, removed, asModern.json]) expect(textOf(answer)).toBe('waited 2000 ms')
    expect(ledgerOf('old').count('finished c') + ledgerOf('old').count('finished m')).toBe(2)
    expect(ledgerOf('removed').count('finished r')).toBe(1)
    await waitFor(() => !pids.some(alive), 'the end of the old processes')
  })

  test('cuts a call that never ends at the deadline, answered once, and leaves those of others alone', async () => {
    await startOver({ changed: raw('old'), kept: raw('kept') }, undefined, { retireMs: 400 })
    const client = await session()
    const endless = call(client, 'changed__slow', { ms: 60_000, nonce: 'endless' })
    const other = call(client, 'kept__slow', { ms: 1500, nonce: 'other' })
    await waitFor(
      () => ledgerOf('old').count('started endless') + ledgerOf('kept').count('started other') === 2,
      'both'
    )
    gateway.apply(yamlOf({ changed: raw('new'), kept: raw('kept') }))
    const cut = await endless
    expect(cut.result.isError).toBe(true)
    expect(cut.result._meta['switchboard/error']).toMatchObject({ server: 'changed', dispatched: true })
    expect(textOf(await call(client, 'changed__echo', { message: 'after' }))).toBe('after')
    expect(textOf(await other)).toBe('waited 1500 ms')
  })

  test('has a process wait for the address of its predecessor, however often and under whatever name it is replaced', async () => {
    const port = await freePort()
    const served = (generation: string) => ({
      command: 'node',
      args: [fixture('http-legacy.mjs')],
      env: { PORT: String(port), LEDGER: join(dir, generation) },
      url: `http://127.0.0.1:${port}/mcp`,
      transport: 'http'
    })
    await startOver({ web: served('first') })
    const client = await session()
    const running = call(client, 'web__slow', { ms: 1500, nonce: 'long' })
    await waitFor(() => ledgerOf('first').count('started long') === 1, 'the call')
    const first = statusOf('web')?.pid as number

    gateway.apply(yamlOf({ web: served('second') }))
    // What is called now must neither reach the old process nor start another one beside it.
    const early = call(client, 'web__slow', { ms: 1, nonce: 'early' })
    await pause(300)
    gateway.apply(yamlOf({ web: served('third') }))
    const late = call(client, 'web__slow', { ms: 1, nonce: 'late' })
    await pause(100)
    gateway.apply(yamlOf({ renamed: served('fourth') }))
    await pause(100)
    expect(alive(first)).toBe(true)

    expect(textOf(await running)).toContain('1500')
    // Under its new name it is known by its command and address.
    expect(await namesIn(client)).toContain('renamed__slow')
    const last = call(client, 'renamed__slow', { ms: 1, nonce: 'last' })
    const answers = await Promise.all([early, late, last])
    for (const answer of answers) expect(answer.result.isError ?? false, textOf(answer)).toBe(false)
    expect(ledgerOf('first').count('finished long')).toBe(1)
    expect(['early', 'late', 'last'].map(nonce => ledgerOf('first').count(`started ${nonce}`))).toEqual([0, 0, 0])
    expect(ledgerOf('second').count('finished early')).toBe(1)
    expect(ledgerOf('fourth').count('finished last')).toBe(1)
    expect(gateway.logged('upstream.down')).toEqual([])
    expect(alive(first)).toBe(false)
  })

  test('keeps the tools of a server listed whose arguments or address change, until it says otherwise', async () => {
    const tool = (name: string) => ({ name, inputSchema: { type: 'object' } })
    const [one, two] = [await offering({ tools: [tool('a')] }), await offering({ tools: [tool('a'), tool('b')] })]
    await startOver({ web: dialled(one), changed: raw('changed') })
    const client = await session()
    const stream = await streamOf(client)
    const told = () => stream.messages.filter(({ method }) => method === 'notifications/tools/list_changed').length
    const listed = () => gateway.gateway.catalog().entries.tools.map(({ publicName }) => publicName)
    const before = listed()

    const args = ['--mode', 'slow-start']
    gateway.apply(yamlOf({ web: dialled(two), changed: raw('changed', { args, env: { START_MS: '700' } }) }))
    expect(listed()).toEqual(before)
    // A list that is asked for waits for what is new.
    expect(await namesIn(client)).toContain('web__b')
    await gateway.until('changed')
    expect(textOf(await call(client, 'changed__echo', { message: 'anew' }))).toBe('anew')
    await pause(200)
    expect(told()).toBe(1)

    // One that does not come up is called in vain, and says why.
    const nobody = { url: `http://127.0.0.1:${await freePort()}/mcp` }
    gateway.apply(yamlOf({ web: dialled(nobody), changed: raw('changed', { args: ['--mode', 'exit-at-start'] }) }))
    await gateway.until('web', 'down')
    await gateway.until('changed', 'down')
    expect(await namesIn(client)).toEqual(listed())
    expect(listed()).toEqual(expect.arrayContaining([...before, 'web__b']))
    expect(textOf(await call(client, 'web__b'))).toContain('nothing listens at its address')
    expect(textOf(await call(client, 'changed__echo'))).toContain('boom: no config')
    expect(told()).toBe(1)
  })

  test('starts a lazy server whose arguments have changed, to see what it offers', async () => {
    await startOver({ lazy: raw('first', { start: 'lazy' }) })
    gateway.apply(yamlOf({ lazy: raw('second', { start: 'lazy', args: ['--mode', 'duplicate-names'] }) }))
    await gateway.until('lazy')
    expect(await namesIn(await session())).toEqual(['lazy__twin', 'lazy__other'])
    gateway.apply(yamlOf({ lazy: raw('third', { start: 'lazy', args: ['--mode', 'duplicate-names'] }) }))
    await gateway.until('lazy', 'idle')
    expect(startsOf('third')).toEqual([])
  })

  test.each(['legacy', 'modern'] as const)(
    'keeps what was subscribed to on a server that is changed, or gone for a while (%s)',
    async era => {
      const web = await offering({ era, resources: [{ uri: 'data://a', name: 'a' }] })
      await startOver({ web: dialled(web), kept: raw('kept') })
      const client = await session()
      const stream = await streamOf(client)
      const listening = await listen({ resourceSubscriptions: ['data://a'] })
      expect((await client.rpc('resources/subscribe', { uri: 'data://a' })).json.result).toBeDefined()
      await client.rpc('logging/setLevel', { level: 'warning' })
      await waitFor(() => era === 'modern' || web.level === 'info', 'the level')
      web.level = 'debug'
      let before = new Set<unknown>()
      const renew = () => {
        before = new Set(web.streams)
        web.requests.length = 0
      }
      const updates = (of: Stream) => of.messages.filter(({ method }) => method === 'notifications/resources/updated')
      const heard = async (count: number) => {
        await waitFor(() => isSubscribed(web, before), 'the link to be subscribed')
        web.notify('notifications/resources/updated', { uri: 'data://a' })
        await waitFor(() => updates(stream).length >= count && updates(listening).length >= count, `${count} updates`)
        await pause(100)
        expect([updates(stream).length, updates(listening).length]).toEqual([count, count])
      }
      await heard(1)
      renew()
      gateway.apply(yamlOf({ web: dialled(web, { timeout: 100 }), kept: raw('kept') }))
      await heard(2)
      if (era === 'legacy') expect(web.level).toBe('info')
      gateway.apply(yamlOf({ kept: raw('kept') }))
      await waitFor(() => web.streams.size === 0, 'the end of the link')
      renew()
      gateway.apply(yamlOf({ web: dialled(web), kept: raw('kept') }))
      await heard(3)
      await client.rpc('resources/unsubscribe', { uri: 'data://a' })
      web.notify('notifications/resources/updated', { uri: 'data://a' })
      await waitFor(() => updates(listening).length === 4, 'the last update')
      expect(updates(stream)).toHaveLength(3)
    }
  )

  attackFrom(
    'C10',
    'a reload happens a hundred times under load: nothing is lost, doubled or misdelivered',
    async (begin, made) => {
      for (const name of ['kept', 'changed']) made.ledger.watch(() => noncesNoted(ledgerOf(name)))
      const servers = (round: number): Servers => ({
        kept: raw('kept', { aliases: [`alias${round}`] }),
        ...(round % 2 === 1 && { extra: dialled(web) }),
        changed: raw('changed', { env: { ROUND: String(Math.floor(round / 10)) } })
      })
      const web = await offering()
      const keys = (round: number): Keys => ({
        developer: { secret: '${DEVELOPER}', allow: { kept: ['count'], changed: round % 2 ? ['count'] : ['*'] } }
      })
      const attacked = await begin({ servers: servers(0), keys: keys(0) })
      gateway = attacked.gateway
      const pid = statusOf('kept')?.pid
      const faults: string[] = []
      const sent: string[] = []
      let stopped = false
      const client = async (index: number) => {
        const secret = index % 4 < 2 ? attacked.key : secrets.DEVELOPER
        const own = index % 2 === 0 ? await session(secret) : undefined
        for (let n = 0; !stopped; n++) {
          const id = `${index}:${n}`
          const reply = (await made.ledger.call(nonce => {
            sent.push(nonce)
            const params = { name: n % 3 === 0 ? 'changed__count' : 'kept__count', arguments: { nonce } }
            return own
              ? own.rpc('tools/call', params, { id })
              : modern(gateway.url, secret, 'tools/call', params, { id })
          })) as Reply
          const answers = reply.messages.filter(message => 'id' in message)
          const good =
            reply.status === 200 && answers.length === 1 && answers[0].id === id && textOf(answers[0]) === '1'
          if (!good) faults.push(`${id}: ${reply.status} ${reply.text}`)
          await pause(20)
        }
      }
      // What they were sent first has grown old by now: the connections of the clients are part of the baseline.
      const running = Promise.all(Array.from({ length: 20 }, (_, index) => client(index)))
      await pause(500)
      const descriptors = openDescriptors()
      for (let round = 1; round <= 100; round++) {
        attacked.apply({ servers: servers(round), keys: keys(round) })
        await pause(40)
      }
      await pause(300)
      stopped = true
      await running
      console.info(`${sent.length} calls over 100 reloads`)
      expect(faults).toEqual([])
      const called = [...ledgerOf('kept').lines(), ...ledgerOf('changed').lines()].filter(line =>
        line.startsWith('called')
      )
      expect(called.sort()).toEqual(sent.map(nonce => `called ${nonce}`).sort())
      expect(statusOf('kept')?.pid).toBe(pid)
      expect(startsOf('kept')).toHaveLength(1)
      expect(startsOf('changed')).toHaveLength(11)
      const others = startsOf('changed').map(line => Number(line.split(' ')[1]))
      await waitFor(() => others.filter(alive).length === 1, 'only the newest process')
      await waitFor(() => openDescriptors() <= descriptors + 4, `${descriptors} descriptors, has ${openDescriptors()}`)
      expect(gateway.logged('fault')).toEqual([])
    }
  )

  test('holds nothing of what it has replaced, however often', async () => {
    const servers = (round: number): Servers => ({
      kept: raw('kept', { aliases: [`alias${round}`] }),
      changed: dialled(web, { headers: { round: String(round >> 2) } })
    })
    const web = await offering()
    await startOver(servers(0))
    const replaced: WeakRef<object>[] = []
    const { gateway: parts } = gateway
    for (let round = 1; round <= 40; round++) {
      replaced.push(new WeakRef(parts.keys()), new WeakRef(parts.catalog()))
      gateway.apply(yamlOf(servers(round)))
      await gateway.until('changed')
      await modern(gateway.url, secrets.ADMIN, 'tools/list', {})
    }
    const held = () => {
      collectGarbage()
      return replaced.filter(each => each.deref() !== undefined).length
    }
    // The last ones may be on the stack of somebody yet, or a connection may remember with whose key it was let in.
    await waitFor(() => held() <= 4, 'what was replaced to be forgotten')
  })
})

describe('a reload that takes a key away (A4)', () => {
  const developer = (secret: string | string[] = '${DEVELOPER}') => ({ secret, allow: '*' })
  const rotated = { SECOND: 'second-secret-for-tests-0123456789' }

  /** Everything a key can hold open: three kinds of streams, and a running call at every door. */
  async function everything(secret: string, who: string) {
    const client = await session(secret)
    const stream = await streamOf(client)
    const listening = await listen({ toolsListChanged: true }, secret, `sub-${who}`)
    const sse = await openSse(secret)
    const slow = (door: string) => ({ name: 'calls__slow', arguments: { ms: 2000, nonce: `${who}-${door}` } })
    const doors = ['legacy', 'modern', 'sse', 'rest']
    const token = { _meta: { progressToken: 1 } }
    const legacy = client.rpc('tools/call', { ...slow('legacy'), ...token })
    const calls = [
      legacy,
      modern(gateway.url, secret, 'tools/call', slow('modern')),
      post(`${gateway.url}/tools/calls__slow`, { arguments: slow('rest').arguments }, bearer(secret))
    ]
    void sse.say('tools/call', slow('sse'))
    const noted = (what: string) => doors.filter(door => ledgerOf('calls').count(`${what} ${who}-${door}`) === 1)
    await waitFor(() => noted('started').length === doors.length, `the calls of ${who}`)
    return { client, streams: [stream, listening, sse.stream], listening, sse, calls: Promise.all(calls), noted, doors }
  }
  type Everything = Awaited<ReturnType<typeof everything>>

  async function expectEnded({ streams, listening, sse, calls, noted, doors }: Everything, who: string) {
    await waitFor(() => streams.every(stream => stream.ended()), `the end of the streams of ${who}`, 5000)
    expect(listening.messages.at(-1)).toMatchObject({ id: `sub-${who}`, result: { resultType: 'complete' } })
    for (const { messages, text } of await calls) {
      const answers = messages.filter(message => !('method' in message))
      expect(answers, text).toHaveLength(1)
      expect(text).toContain('The key was revoked while the call was running')
    }
    const onSse = sse.stream.messages.filter(({ result }) => result)
    expect(onSse).toHaveLength(1)
    expect(textOf(onSse[0])).toContain('The key was revoked')
    await waitFor(() => noted('cancelled').length === doors.length, 'the calls to be cancelled at the server')
    for (const stream of streams) expect(stream.text()).not.toContain('list_changed')
  }

  async function expectUntouched({ client, streams, calls, noted, doors }: Everything) {
    expect(streams.map(stream => stream.ended())).toEqual([false, false, false])
    for (const { text, json } of await calls) expect(json.result?.isError ?? json.isError ?? false, text).toBe(false)
    await waitFor(() => noted('finished').length === doors.length, 'all calls')
    for (const stream of streams) expect(stream.text()).not.toContain('list_changed')
    expect((await client.rpc('ping')).status).toBe(200)
  }

  for (const how of ['removed', 'rotated', 'expired']) {
    attackFrom('A4', `a key that is ${how}: all it holds ends within a second, and nothing else`, async begin => {
      const servers = { calls: raw('calls') }
      const attacked = await begin({ servers, keys: { developer: developer() }, env: rotated })
      gateway = attacked.gateway
      const [theirs, ours] = await Promise.all([everything(secrets.DEVELOPER, 'dev'), everything(attacked.key, 'adm')])
      const before = performance.now()
      switch (how) {
        case 'removed':
          expect(attacked.apply({ servers }).revoked).toEqual(['developer'])
          break
        case 'rotated':
          expect(attacked.apply({ servers, keys: { developer: developer('${SECOND}') } }).revoked).toEqual([
            'developer'
          ])
          break
        default: {
          const end = Date.now() + 300
          const keys = { developer: developer() }
          const { revoked } = attacked.apply({ servers, keys }, config => ({
            ...config,
            keys: config.keys.map(key => (key.id === 'developer' ? { ...key, expires: end } : key))
          }))
          expect(revoked).toEqual([])
        }
      }
      await expectEnded(theirs, 'dev')
      expect(performance.now() - before).toBeLessThan(how === 'expired' ? 6500 : 5000)
      const { client } = theirs
      expect((await client.rpc('ping')).status).toBe(401)
      expect((await modern(gateway.url, secrets.DEVELOPER, 'tools/list')).status).toBe(401)
      expect((await openStream(`${gateway.url}/mcp`, client.headers)).status).toBe(401)
      expect(gateway.logged('auth.revoked')).toMatchObject([{ key: 'developer', calls: 4 }])
      await expectUntouched(ours)

      if (how === 'rotated') {
        const headers = { ...client.headers, ...bearer(rotated.SECOND) }
        const call = {
          jsonrpc: '2.0',
          id: 9,
          method: 'tools/call',
          params: { name: 'calls__echo', arguments: { message: 'new' } }
        }
        expect(textOf((await post(`${gateway.url}/mcp`, call, headers)).json)).toBe('new')
        expect(keep(await openStream(`${gateway.url}/mcp`, headers)).status).toBe(200)
      }
      if (how === 'expired') {
        // Another reload does not revoke it again, and a later date gives it back.
        const expire = (expires: number) =>
          attacked.apply({ servers, keys: { developer: developer() } }, config => ({
            ...config,
            keys: config.keys.map(key => (key.id === 'developer' ? { ...key, expires } : key))
          }))
        expire(Date.now() - 1000)
        await pause(1200)
        expect(gateway.logged('auth.revoked')).toHaveLength(1)
        expire(Date.now() + 60_000)
        expect(textOf(await call(client, 'calls__echo', { message: 'back' }))).toBe('back')
        expect(keep(await openStream(`${gateway.url}/mcp`, client.headers)).status).toBe(200)
      }
    })
  }

  test('ends only what was begun with the secret that goes, when a key has two of them', async () => {
    const servers = { calls: raw('calls') }
    const both = developer(['${DEVELOPER}', '${SECOND}'])
    await startOver(servers, { ...adminOnly, developer: both }, { env: rotated })
    const [old, fresh] = await Promise.all([everything(secrets.DEVELOPER, 'old'), everything(rotated.SECOND, 'new')])
    expect(gateway.apply(yamlOf(servers, { ...adminOnly, developer: developer('${SECOND}') })).revoked).toEqual([
      'developer'
    ])
    await expectEnded(old, 'old')
    await expectUntouched(fresh)
  })

  test('refuses a call whose body comes after its key went, and a subscription that was still being placed', async () => {
    const web = await offering({
      resources: [{ uri: 'data://a', name: 'a' }],
      answers: { 'resources/subscribe': () => new Promise(resolve => setTimeout(resolve, 1500, { result: {} })) }
    })
    const servers = { calls: raw('calls'), web: dialled(web) }
    await startOver(servers, { ...adminOnly, developer: developer() })
    const { headers, rpc } = await session(secrets.DEVELOPER)
    const body = JSON.stringify({
      jsonrpc: '2.0',
      id: 1,
      method: 'tools/call',
      params: { name: 'calls__count', arguments: { nonce: 'late' } }
    })
    const head = Object.entries({
      ...headers,
      'content-type': 'application/json',
      'content-length': String(body.length)
    })
    const socket = connect(Number(new URL(gateway.url).port), '127.0.0.1')
    keep({ close: () => socket.destroy() })
    let answer = ''
    socket.on('data', chunk => (answer += chunk.toString()))
    socket.write(
      `POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\n${head.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`
    )
    socket.write(body.slice(0, 40))
    const subscribing = rpc('resources/subscribe', { uri: 'data://a' })
    const method = 'subscriptions/listen'
    const listening = modern(gateway.url, secrets.DEVELOPER, method, {
      notifications: { toolsListChanged: true, resourceSubscriptions: ['data://a'] }
    })
    await waitFor(() => web.asked('resources/subscribe').length > 0, 'the subscription')
    await pause(100)
    gateway.apply(yamlOf(servers))
    socket.write(body.slice(40))
    await waitFor(() => answer.includes('revoked'), 'the answer')
    expect((await subscribing).json.error.message).toContain('revoked')
    expect((await listening).json.error.message).toContain('revoked')
    await pause(100)
    expect(ledgerOf('calls').count('called late')).toBe(0)
  })
})

describe('a reload that changes what a key may see', () => {
  const wide = { tools: ['a', 'b'], prompts: ['p', 'q'], resources: ['data://**'] }

  test('tells exactly those whose view changed, of exactly that kind, and takes away what was subscribed to', async () => {
    const schema = { inputSchema: { type: 'object' } }
    let release = () => {}
    const held = new Promise<void>(resolve => (release = resolve))
    const web = await offering({
      tools: ['a', 'b', 'c'].map(name => ({ name, ...schema })),
      prompts: [{ name: 'p' }, { name: 'q' }],
      resources: ['data://a', 'data://b'].map(uri => ({ uri, name: uri })),
      answers: {
        'tools/call': async ({ name }) => {
          if (name === 'b') await held
          return undefined
        }
      }
    })
    const keysWith = (grant: object): Keys => ({
      ...adminOnly,
      developer: { secret: '${DEVELOPER}', allow: { web: grant } },
      other: { secret: '${OTHER}', allow: { web: wide } }
    })
    const servers = { web: dialled(web) }
    await startOver(servers, keysWith(wide))
    await waitFor(() => web.streams.size === 1, 'the stream of the gateway')

    const change = { promptsListChanged: true, resourcesListChanged: true, toolsListChanged: true }
    const resourceSubscriptions = ['data://a', 'data://b']
    const streams: Record<string, Stream> = {}
    const clients: Record<string, Session> = {}
    for (const [name, secret] of Object.entries({
      admin: secrets.ADMIN,
      developer: secrets.DEVELOPER,
      other: secrets.OTHER
    })) {
      const client = (clients[name] = await session(secret))
      streams[`${name} 2025`] = await streamOf(client)
      for (const uri of resourceSubscriptions) await client.rpc('resources/subscribe', { uri })
      streams[`${name} 2026`] = await listen({ ...change, resourceSubscriptions }, secret)
      streams[`${name} SSE`] = (await openSse(secret)).stream
    }
    const seen = new Map<Stream, number>()
    const heard = async () => {
      await pause(150)
      return Object.entries(streams).flatMap(([name, stream]) => {
        const fresh = stream.messages.slice(seen.get(stream) ?? 0)
        seen.set(stream, stream.messages.length)
        return fresh
          .filter(({ method }) => /list_changed|updated/.test(method))
          .map(
            ({ method, params }) =>
              `${name}: ${method.slice('notifications/'.length)}${params?.uri ? ` ${params.uri}` : ''}`
          )
      })
    }
    const all = (kind: string) => ['2025', '2026', 'SSE'].map(era => `developer ${era}: ${kind}/list_changed`)
    await heard()

    const client = clients.developer as Session
    const running = call(client, 'web__b')
    await waitFor(() => web.asked('tools/call').length === 1, 'the call')
    expect(gateway.apply(yamlOf(servers, keysWith({ ...wide, tools: ['a'] }))).revoked).toEqual([])
    expect(await heard()).toEqual(all('tools'))
    expect(await namesIn(client)).toEqual(['web__a'])
    const [lost, never] = [await call(client, 'web__b'), await call(client, 'web__none')]
    expect(lost.error).toEqual({ ...never.error, message: 'Unknown tool: web__b' })
    release()
    expect(textOf(await running)).toBe('offer b')

    gateway.apply(yamlOf(servers, keysWith({ ...wide, tools: ['a'], prompts: ['p'] })))
    expect(await heard()).toEqual(all('prompts'))

    gateway.apply(yamlOf(servers, keysWith({ ...wide, tools: ['a'], prompts: ['p'], resources: ['data://a'] })))
    expect(await heard()).toEqual(all('resources'))
    for (const uri of resourceSubscriptions) web.notify('notifications/resources/updated', { uri })
    const updates = await heard()
    const told = (name: string) => updates.filter(line => line.startsWith(`${name} `)).sort()
    const both = ['2025', '2026'].flatMap(era => resourceSubscriptions.map(uri => `${era}: resources/updated ${uri}`))
    expect(told('admin')).toEqual(both.map(line => `admin ${line}`))
    expect(told('other')).toEqual(both.map(line => `other ${line}`))
    expect(told('developer')).toEqual(['2025', '2026'].map(era => `developer ${era}: resources/updated data://a`))

    // The same rights in other words are no change, and wider ones are one again.
    gateway.apply(yamlOf(servers, keysWith({ tools: ['a', '!z'], prompts: ['p*'], resources: ['data://a'] })))
    expect(await heard()).toEqual([])
    gateway.apply(yamlOf(servers, keysWith(wide)))
    expect((await heard()).sort()).toEqual([...all('tools'), ...all('prompts'), ...all('resources')].sort())
    expect(web.asked('initialize')).toHaveLength(1)
  })
})

/** Whether the process runs; one that waits to be collected does not. */
function alive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}
const openDescriptors = () => readdirSync('/proc/self/fd').length

/** Whether a link of the gateway waits for updates, and can hear them. */
function isSubscribed(server: RawOffer, before: ReadonlySet<unknown>): boolean {
  const fresh = [...server.streams].filter(stream => !before.has(stream))
  if (fresh.length === 0) return false
  return fresh.some(({ filter }) => filter?.resourceSubscriptions) || server.asked('resources/subscribe').length > 0
}

/** The stream of a client of 2025. */
async function streamOf({ headers }: Session): Promise<Stream> {
  return keep(await openStream(`${gateway.url}/mcp`, headers))
}

/** The stream of a client of 2026 that listens. */
async function listen(notifications: object, secret = secrets.ADMIN, id = 'sub'): Promise<Stream> {
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
  return {
    stream,
    say: (method: string, params?: object) =>
      post(gateway.url + path, { jsonrpc: '2.0', id: next++, method, params }, bearer(secret)).catch(() => {})
  }
}
