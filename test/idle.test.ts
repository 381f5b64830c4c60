/** When a process runs at all: `start: lazy` and `idle_stop`. Its tools are listed whether it does or not. */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { startBlock } from '../src/commands/serve.js'
import { parseConfig } from '../src/config/load.js'
import { openLedger } from './fixtures/ledger.mjs'
import { modern, type Reply } from './helpers/http.js'
import { marked } from './helpers/processes.js'
import { fixture, secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

let folder: string
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'switchboard-idle-'))))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** The server `rare`, in a state directory of its own; gateways may be started on it one after the other. */
function rare(options: Record<string, unknown>, mode = 'normal') {
  const marker = `marker-${randomUUID()}`
  const ledger = openLedger(join(folder, `${marker}.ledger`))
  const stateDir = mkdtempSync(join(folder, 'state-'))
  const { env, ...others } = options
  const server = {
    command: process.execPath,
    args: [fixture('raw-stdio.mjs'), '--mode', mode],
    era: 'legacy',
    env: { MARKER: marker, LEDGER: ledger.path, ...(env as object) },
    ...others
  }
  const yaml = `servers: ${JSON.stringify({ rare: server })}\nkeys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`
  return {
    yaml,
    processes: () => marked(marker),
    /** How often it was started. */
    starts: () => ledger.lines().filter(line => line.startsWith('process ')).length,
    count: (line: string) => ledger.count(line),
    boot: async (text = yaml): Promise<TestGateway> => {
      const gateway = await startTestGateway(text, { stateDir })
      onTestFinished(() => gateway.close())
      return gateway
    }
  }
}

const statusOf = (gateway: TestGateway) => gateway.gateway.status()[0]
const call = (gateway: TestGateway, tool: string, args: object = {}) =>
  modern(gateway.url, secrets.ADMIN, 'tools/call', { name: `rare__${tool}`, arguments: args })
const textOf = ({ json }: Reply): string => json.result.content[0].text
const list = async (gateway: TestGateway) => (await modern(gateway.url, secrets.ADMIN, 'tools/list')).json.result
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

describe('start: lazy', () => {
  it('starts once to learn the tools, then at the next boot not before the first call', async () => {
    const { boot, starts, processes } = rare({ start: 'lazy' })
    const first = await boot()
    await first.until('rare')
    expect((await list(first)).tools).toHaveLength(4)
    await first.close()
    expect(starts()).toBe(1)

    const second = await boot()
    expect(statusOf(second)).toMatchObject({ state: 'idle', tools: 4, restarts: 0 })
    expect(statusOf(second)).not.toHaveProperty('pid')
    expect(statusOf(second)).not.toHaveProperty('problem')
    const { tools, ttlMs } = await list(second)
    expect(tools).toHaveLength(4)
    // Nothing can change while it does not run: clients need not ask every second.
    expect(ttlMs).toBe(60_000)
    const metrics = await fetch(`${second.url}/metrics`, { headers: { 'x-api-key': secrets.ADMIN } })
    expect(await metrics.text()).toContain('switchboard_upstream_ready{server="rare"} 1')
    await pause(300)
    expect(starts()).toBe(1)
    expect(processes()).toEqual([])

    expect(textOf(await call(second, 'echo', { message: 'up' }))).toBe('up')
    expect(starts()).toBe(2)
    expect(statusOf(second)).toMatchObject({ state: 'ready', restarts: 0 })
  })

  it('starts one process for many first calls', async () => {
    const { boot, starts } = rare({ start: 'lazy' })
    const first = await boot()
    await first.until('rare')
    await first.close()
    const second = await boot()
    const replies = await Promise.all(['a', 'b', 'c'].map(message => call(second, 'echo', { message })))
    expect(replies.map(textOf)).toEqual(['a', 'b', 'c'])
    expect(starts()).toBe(2)
  })

  it('lets the first call pay for the start out of its own time', async () => {
    const { boot, yaml } = rare({ start: 'lazy', timeout: 10, env: { START_MS: '600' } }, 'slow-start')
    const first = await boot()
    await first.until('rare')
    await first.close()
    const second = await boot()
    const begun = performance.now()
    expect(textOf(await call(second, 'echo', { message: 'late' }))).toBe('late')
    expect(performance.now() - begun).toBeGreaterThan(500)
    await second.close()

    const third = await boot(
      yaml.replace('"START_MS":"600"', '"START_MS":"60000"').replace('"timeout":10', '"timeout":1')
    )
    const late = performance.now()
    const reply = await call(third, 'echo')
    expect(performance.now() - late).toBeLessThan(6000)
    expect(reply.json.result._meta['switchboard/error']).toMatchObject({ code: -31504, dispatched: false })
  })

  it('says in the start block what is to be expected', async () => {
    const { boot, yaml } = rare({ start: 'lazy' })
    const first = await boot()
    await first.until('rare')
    await first.close()
    const { gateway } = await boot()
    const file = join(folder, 'servers.yaml')
    const { config } = parseConfig({ text: yaml, file, env: secrets, readFile: () => '' })
    expect(startBlock(gateway, config as NonNullable<typeof config>)).toContain(
      'rare  idle: 4 tools (stdio); the next call starts it'
    )
  })
})

describe('idle_stop', () => {
  it('ends a process that nobody calls; its tools stay, and the next call starts it', async () => {
    const { boot, starts, processes, count } = rare({ idle_stop: 0.5 })
    const gateway = await boot()
    await gateway.until('rare')
    const before = await list(gateway)
    await gateway.until('rare', 'idle')
    await waitFor(() => processes().length === 0, 'the process to be gone')
    expect(count('stdin ended')).toBe(1)
    expect(statusOf(gateway)).toMatchObject({ state: 'idle', tools: 4, restarts: 0 })
    expect(gateway.logged('upstream.down')).toEqual([])
    expect(gateway.logged('upstream.idle')).toMatchObject([{ server: 'rare', seconds: 0.5 }])
    expect((await list(gateway)).tools).toEqual(before.tools)
    await pause(300)
    expect(starts()).toBe(1)

    expect(textOf(await call(gateway, 'echo', { message: 'again' }))).toBe('again')
    expect(starts()).toBe(2)
    await gateway.until('rare', 'idle')
  })

  it('never ends one with a call in flight, nor one that is called often enough', async () => {
    const { boot, starts } = rare({ idle_stop: 0.5 })
    const gateway = await boot()
    await gateway.until('rare')
    expect(textOf(await call(gateway, 'slow', { ms: 1500 }))).toBe('waited 1500 ms')
    for (let i = 0; i < 15; i++) {
      expect(textOf(await call(gateway, 'echo', { message: `${i}` }))).toBe(`${i}`)
      await pause(50)
    }
    expect(starts()).toBe(1)
    expect(gateway.logged('upstream.idle')).toEqual([])
  })

  it('loses no call that arrives while the process ends', async () => {
    const { boot, processes } = rare({ idle_stop: 0.05 })
    const gateway = await boot()
    await gateway.until('rare')
    for (let i = 0; i < 10; i++) {
      expect(textOf(await call(gateway, 'echo', { message: `${i}` }))).toBe(`${i}`)
      await pause(45 + i)
      expect(processes().length).toBeLessThanOrEqual(1)
    }
    expect(gateway.logged('upstream.down')).toEqual([])
  })

  it('also of a process that serves a url', async () => {
    const probe = createServer()
    await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve))
    const { port } = probe.address() as { port: number }
    await new Promise(resolve => probe.close(resolve))
    const { boot, processes } = rare({
      args: [fixture('http-legacy.mjs')],
      url: `http://127.0.0.1:${port}/mcp`,
      idle_stop: 0.5,
      env: { PORT: String(port) }
    })
    const gateway = await boot()
    await gateway.until('rare', 'idle')
    await waitFor(() => processes().length === 0, 'the process to be gone')
    expect(textOf(await call(gateway, 'echo', { message: 'again' }))).toBe('again')
    expect(gateway.logged('upstream.down')).toEqual([])
  })

  it('tries a start that fails again, as of any server that is down', async () => {
    const file = join(folder, `${randomUUID()}.mjs`)
    writeFileSync(file, `await import(${JSON.stringify(fixture('raw-stdio.mjs'))})`)
    const { boot } = rare({ args: [file], idle_stop: 0.3 })
    const gateway = await boot()
    await gateway.until('rare', 'idle')
    writeFileSync(file, `process.exit(9)`)
    const reply = await call(gateway, 'echo')
    expect(reply.json.result._meta['switchboard/error']).toMatchObject({ code: -31503, dispatched: false })
    expect(statusOf(gateway)).toMatchObject({ state: 'down', problem: expect.stringMatching(/code 9/) })
    writeFileSync(file, `await import(${JSON.stringify(fixture('raw-stdio.mjs'))})`)
    await gateway.until('rare')
    await gateway.until('rare', 'idle')
  })
})
