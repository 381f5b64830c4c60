/** How servers.yaml may change while the gateway runs as a process: written, replaced, broken, gone, and asked for. */
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync
} from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { watchFile } from '../src/config/watch.js'
import { openLedger } from './fixtures/ledger.mjs'
import { freePort, startGatewayProcess, startSwitchboard, type GatewayProcess } from './helpers/gateway-process.js'
import { bearer, openSession, send } from './helpers/http.js'
import { fixture, secrets, waitFor } from './helpers/with-gateway.js'

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const env = { ADMIN: secrets.ADMIN }
const digest = (secret: string) => `sha256:${createHash('sha256').update(secret).digest('hex')}`

function temporary(): string {
  return mkdtempSync(join(tmpdir(), 'switchboard-reload-files-'))
}

interface More {
  readonly servers?: Record<string, object>
  readonly keys?: Record<string, object>
  readonly listen?: object
}

/** A servers.yaml over one server whose ledger lies in that folder, and more if there is more. */
function yamlOf(dir: string, { servers, keys, listen }: More = {}): string {
  const raw = {
    command: 'node',
    args: [fixture('raw-stdio.mjs')],
    env: { LEDGER: join(dir, 'ledger') },
    era: 'legacy'
  }
  return [
    ...(listen ? [`listen: ${JSON.stringify(listen)}`] : []),
    `servers: ${JSON.stringify({ raw, ...servers })}`,
    `keys: ${JSON.stringify({ admin: { secret: '${ADMIN}', allow: '*' }, ...keys })}`,
    ''
  ].join('\n')
}
const keyOf = (secret: string) => ({ extra: { secret: digest(secret), allow: '*' } })

async function works(gateway: GatewayProcess, secret: string): Promise<boolean> {
  return (await send('GET', `${gateway.url}/tools`, bearer(secret))).status === 200
}
async function metricOf(gateway: GatewayProcess): Promise<number> {
  const response = await fetch(`${gateway.url}/metrics`, { headers: bearer(secrets.ADMIN) })
  return Number(/^switchboard_config_last_reload_success (\d)$/m.exec(await response.text())?.[1])
}

/** Waits for what a write is to bring about. @returns how long that took. */
async function takes(begun: number, condition: () => Promise<boolean>, what: string): Promise<number> {
  await waitFor(condition, what, 2500)
  return performance.now() - begun
}

describe('servers.yaml while the gateway runs (C10)', () => {
  let dir: string
  let file: string
  let gateway: GatewayProcess
  let session: Awaited<ReturnType<typeof openSession>>
  let good: string
  let generation = 0

  beforeAll(async () => {
    dir = temporary()
    file = join(dir, 'servers.yaml')
    good = yamlOf(dir)
    writeFileSync(file, good)
    gateway = await startGatewayProcess({ config: file, stateDir: join(dir, 'state'), env })
    session = await openSession(gateway.url, secrets.ADMIN)
    expect(await echo('first')).toBe('first')
  })
  afterAll(async () => {
    await gateway?.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  const echo = async (message: string) => {
    const { json } = await session.rpc('tools/call', { name: 'raw__echo', arguments: { message } })
    return json.result.content[0].text as string
  }
  const rejected = () => gateway.logged('config.rejected').length
  const starts = () => openLedger(join(dir, 'ledger')).count(`process ${gateway.servers()[0]?.pid}`)

  /** Another good file: one more key, of a new secret. */
  function nextGood(): { text: string; secret: string } {
    const secret = `extra-secret-number-${++generation}-0123456789`
    good = yamlOf(dir, { keys: keyOf(secret) })
    return { text: good, secret }
  }

  test.each<[string, (text: string) => void]>([
    ['written in place', text => writeFileSync(file, text)],
    [
      'replaced by another file',
      text => {
        writeFileSync(`${file}.tmp`, text)
        renameSync(`${file}.tmp`, file)
      }
    ],
    [
      'written in pieces',
      text => {
        writeFileSync(file, text.slice(0, 80))
        setTimeout(() => writeFileSync(file, text.slice(80), { flag: 'a' }), 50)
      }
    ]
  ])('holds soon after it was %s', async (_how, write) => {
    const [{ text, secret }, before] = [nextGood(), rejected()]
    expect(await works(gateway, secret)).toBe(false)
    const begun = performance.now()
    write(text)
    const ms = await takes(begun, () => works(gateway, secret), 'the new key')
    console.info(`${_how}: ${ms.toFixed()} ms`)
    expect(rejected()).toBe(before)
    expect(await echo('on')).toBe('on')
  })

  const isRoot = process.getuid?.() === 0
  test.each<[string, () => void]>([
    ['half-written', () => writeFileSync(file, good.slice(0, good.indexOf('"command"') + 14))],
    ['empty', () => writeFileSync(file, '')],
    ['deleted', () => rmSync(file)],
    ...(isRoot ? [] : [['unreadable', () => chmodSync(file, 0)] as [string, () => void]]),
    ['longer than 1 MiB', () => writeFileSync(file, `${good}#${'x'.repeat(2_000_000)}`)],
    ['wrong in a word', () => writeFileSync(file, good.replace('"command"', '"comand"'))],
    [
      'wrong in one server, whose variable is not set, and right in all else',
      () =>
        writeFileSync(
          file,
          yamlOf(dir, {
            servers: {
              added: { command: 'node', args: [fixture('raw-stdio.mjs')], env: { LEDGER: join(dir, 'added') } },
              broken: { url: 'http://127.0.0.1:9/', headers: { Authorization: 'Bearer ${NOT_SET}' } }
            },
            keys: keyOf('never-taken-over-0123456789')
          })
        )
    ]
  ])('that is %s changes nothing, is told once, and can be corrected', async (_how, spoil) => {
    const before = rejected()
    expect(await metricOf(gateway)).toBe(1)
    spoil()
    await waitFor(() => rejected() > before, 'the refusal', 2500)
    expect(await metricOf(gateway)).toBe(0)
    // It is looked at again, but that is nothing new.
    if (existsSync(file)) utimesSync(file, new Date(), new Date())
    await pause(600)
    expect(rejected()).toBe(before + 1)
    expect(await echo('still')).toBe('still')
    expect(await works(gateway, 'never-taken-over-0123456789')).toBe(false)
    expect(existsSync(join(dir, 'added'))).toBe(false)
    expect(starts()).toBe(1)

    if (existsSync(file)) chmodSync(file, 0o600)
    const { text, secret } = nextGood()
    writeFileSync(file, text)
    await takes(performance.now(), () => works(gateway, secret), 'the correction')
    expect(await metricOf(gateway)).toBe(1)
    expect(rejected()).toBe(before + 1)
  })

  test('that flaps a hundred times a second disturbs nobody', async () => {
    const before = rejected()
    const { text, secret } = nextGood()
    const begun = performance.now()
    let answered = 0
    for (let n = 0; performance.now() - begun < 1500; n++) {
      if (n % 3 === 0) rmSync(file, { force: true })
      else writeFileSync(file, n % 3 === 1 ? text.slice(0, 60 + n) : text)
      if (n % 10 === 0) {
        expect(await echo(`flap ${n}`)).toBe(`flap ${n}`)
        answered++
      }
      await pause(8)
    }
    expect(answered).toBeGreaterThan(5)
    writeFileSync(file, text)
    await takes(performance.now(), () => works(gateway, secret), 'the last state')
    expect(rejected() - before).toBeLessThan(10)
    expect(await metricOf(gateway)).toBe(1)
    expect(starts()).toBe(1)
  })

  test('that changes where it listens says that this waits for the next start, until it is taken back', async () => {
    const told = () => gateway.logged('config.restart_needed').map(({ message }) => message)
    const { secret } = nextGood()
    const listen = { allowed_hosts: ['gateway.test'], title: 'other' }
    writeFileSync(file, yamlOf(dir, { listen, keys: keyOf(secret) }))
    await takes(performance.now(), () => works(gateway, secret), 'the key beside it')
    await waitFor(() => told().length > 0, 'the word of it')
    expect(told()).toEqual(['takes effect at the next start: listen.title, listen.allowed_hosts'])
    const { text, secret: back } = nextGood()
    writeFileSync(file, text)
    await takes(performance.now(), () => works(gateway, back), 'the file before')
    expect(told()).toHaveLength(1)
  })

  test('is read again at SIGHUP with the files its secrets come from', async () => {
    const secretFile = join(dir, 'secret')
    const [one, two] = ['secret-from-a-file-one-0123456789', 'secret-from-a-file-two-0123456789']
    writeFileSync(secretFile, one)
    writeFileSync(file, yamlOf(dir, { keys: { filed: { secret: `file:${secretFile}`, allow: '*' } } }))
    await takes(performance.now(), () => works(gateway, one), 'the first secret')
    writeFileSync(secretFile, two)
    process.kill(gateway.pid, 'SIGHUP')
    await takes(performance.now(), () => works(gateway, two), 'the second secret')
    expect(await works(gateway, one)).toBe(false)
    expect(await echo('hung up')).toBe('hung up')
  })

  test('changes nothing any more once the gateway is ending', async () => {
    const slow = session.rpc('tools/call', { name: 'raw__slow', arguments: { ms: 1500, nonce: 'last' } })
    await waitFor(() => openLedger(join(dir, 'ledger')).count('started last') === 1, 'the call')
    const ended = gateway.kill('SIGTERM')
    await pause(50)
    const added = { command: 'node', args: [fixture('raw-stdio.mjs')], env: { LEDGER: join(dir, 'too-late') } }
    writeFileSync(file, yamlOf(dir, { servers: { added } }))
    process.kill(gateway.pid, 'SIGHUP')
    expect((await slow).json.result.content[0].text).toBe('waited 1500 ms')
    expect(await ended).toEqual({ code: 0, signal: null })
    expect(gateway.logged('config.applied').flatMap(({ started }) => started)).not.toContain('added')
    expect(existsSync(join(dir, 'too-late'))).toBe(false)
  })
})

describe('servers.yaml (C10)', () => {
  function folder(): string {
    const dir = temporary()
    onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
    return dir
  }

  test('mounted from a ConfigMap is followed when its folder is swapped, and when the file behind it is written', async () => {
    const dir = folder()
    const volume = join(dir, 'volume')
    const [one, two, three] = ['one', 'two', 'three'].map(word => `mounted-secret-${word}-0123456789`) as [
      string,
      string,
      string
    ]
    const put = (version: string, secret: string) => {
      mkdirSync(join(volume, version), { recursive: true })
      writeFileSync(join(volume, version, 'servers.yaml'), yamlOf(dir, { keys: keyOf(secret) }))
    }
    put('..1', one)
    symlinkSync('..1', join(volume, '..data'))
    symlinkSync('..data/servers.yaml', join(volume, 'servers.yaml'))
    const gateway = await startGatewayProcess({
      config: join(volume, 'servers.yaml'),
      stateDir: join(dir, 'state'),
      env
    })
    onTestFinished(() => gateway.stop())
    expect(await works(gateway, one)).toBe(true)
    put('..2', two)
    symlinkSync('..2', join(volume, '..data_tmp'))
    renameSync(join(volume, '..data_tmp'), join(volume, '..data'))
    rmSync(join(volume, '..1'), { recursive: true })
    await takes(performance.now(), () => works(gateway, two), 'the swap')
    expect(await works(gateway, one)).toBe(false)
    // A folder that is not watched: as with a file that is mounted by itself, looking has to do.
    put('..2', three)
    const ms = await takes(performance.now(), () => works(gateway, three), 'what was written behind the links')
    console.info(`behind the links: ${ms.toFixed()} ms`)
    expect(gateway.logged('config.rejected')).toEqual([])
  })

  test('that is never quiet is looked at nevertheless', async () => {
    const file = join(folder(), 'servers.yaml')
    writeFileSync(file, '')
    let told = 0
    const unwatch = watchFile(file, () => told++, { quietMs: 400, longestMs: 800, pollMs: 20 })
    onTestFinished(unwatch)
    const begun = performance.now()
    for (let n = 1; performance.now() - begun < 2000; n++) {
      writeFileSync(file, '#'.repeat(n % 50))
      await pause(20)
    }
    expect(told).toBeGreaterThanOrEqual(1)
    expect(told).toBeLessThanOrEqual(2)
    await waitFor(() => told >= 2, 'its last state', 2500)
  })

  test('that changes while the gateway starts is taken over when it has, and SIGHUP does not end it', async () => {
    const dir = folder()
    const file = join(dir, 'servers.yaml')
    // A server that is slow to answer keeps the start waiting.
    const slow = { command: 'node', args: [fixture('raw-stdio.mjs'), '--mode', 'hang-initialize'], era: 'legacy' }
    writeFileSync(file, yamlOf(dir, { servers: { slow } }))
    const port = await freePort()
    const run = startSwitchboard(['serve', '--config', file, '--state', join(dir, 'state'), '--port', String(port)], {
      env
    })
    onTestFinished(() => void run.kill('SIGKILL'))
    await waitFor(() => accepts(port), 'the port')
    const secret = 'while-it-starts-0123456789'
    writeFileSync(file, yamlOf(dir, { keys: keyOf(secret) }))
    process.kill(run.pid, 'SIGHUP')
    const gateway = { url: `http://127.0.0.1:${port}` } as GatewayProcess
    await waitFor(() => works(gateway, secret), 'the new file', 5000)
    const begun = performance.now()
    expect(await run.kill('SIGTERM')).toEqual({ code: 0, signal: null })
    expect(performance.now() - begun).toBeLessThan(15_000)
    expect(readFileSync(join(dir, 'ledger'), 'utf8')).toContain('initialize')
  })
})

function accepts(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}
