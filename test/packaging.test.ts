/**
 * What is handed out: the npm package, which is installed and run here, and the image with its example for a LAN, whose
 * facts are read from their files, because no container engine runs here.
 */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { parse } from 'yaml'
import { parseConfig } from '../src/config/load.js'
import { freePort, repository, runSwitchboard, startGatewayProcess } from './helpers/gateway-process.js'
import { bearer, modern, post, send } from './helpers/http.js'
import { fixture, secrets, startTestGateway, waitFor } from './helpers/with-gateway.js'

const dir = mkdtempSync(join(tmpdir(), 'switchboard-packaging-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const run = promisify(execFile)
const readText = (path: string) => readFileSync(join(repository, path), 'utf8')
const manifest = JSON.parse(readText('package.json')) as {
  name: string
  version: string
  devDependencies: Record<string, string>
}
/** Nothing of this process's environment but where programs are: no npm settings, no HOME. */
const bare = { PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH ?? ''}` }

const raw = fixture('raw-stdio.mjs')

describe('the npm package', () => {
  const home = join(dir, 'home')
  const folder = join(dir, 'installed')
  const env = { ...bare, HOME: home }
  let packed: { filename: string; files: { path: string; size: number }[] }

  beforeAll(async () => {
    mkdirSync(home)
    mkdirSync(folder)
    // --ignore-scripts: what is built is what the tests run.
    const pack = ['pack', '--json', '--ignore-scripts', '--pack-destination', dir]
    const { stdout } = await run('npm', pack, { cwd: repository, env })
    ;[packed] = JSON.parse(stdout) as [typeof packed]
    await run(
      'npm',
      ['install', '--omit=dev', '--prefer-offline', '--no-audit', '--no-fund', join(dir, packed.filename)],
      { cwd: folder, env }
    )
    for (const file of ['raw-stdio.mjs', 'ledger.mjs']) copyFileSync(fixture(file), join(folder, file))
    writeFileSync(
      join(folder, 'servers.yaml'),
      `
servers:
  files: { command: node, args: [raw-stdio.mjs, --mode, normal] }
keys:
  me: { secret: generated, allow: "*" }
`
    )
  }, 240_000)

  const npx = (...args: string[]) => run('npx', ['switchboard', ...args], { cwd: folder, env })

  test('has what runs, what editors read and what people read: nothing else', () => {
    const sources = readdirSync(join(repository, 'src'), { recursive: true, encoding: 'utf8' }).filter(path =>
      path.endsWith('.ts')
    )
    const built = sources.map(path => `dist/${path.replace(/\.ts$/, '.js')}`)
    expect(packed.files.map(({ path }) => path).sort()).toEqual(
      [...built, 'LICENSE', 'README.md', 'package.json', 'servers.schema.json'].sort()
    )
  })

  test('installs no more than it needs to run', () => {
    const installed = readdirSync(join(folder, 'node_modules')).flatMap(name =>
      name.startsWith('@') ? readdirSync(join(folder, 'node_modules', name)).map(inner => `${name}/${inner}`) : [name]
    )
    expect(installed).toContain(manifest.name)
    expect(installed.filter(name => name in manifest.devDependencies)).toEqual([])
    for (const name of ['@modelcontextprotocol/sdk', '@electric-sql/pglite', 'typescript', 'vitest', 'pg'])
      expect(existsSync(join(folder, 'node_modules', name))).toBe(false)
  })

  test('says its version and how it is used', async () => {
    expect((await npx('--version')).stdout).toBe(`${manifest.version}\n`)
    expect((await npx('--help')).stdout).toContain('Usage: switchboard')
  })

  test('checks a configuration', async () => {
    expect((await npx('check')).stdout).toMatch(/^files +ready +legacy +stdio +4 /m)
  })

  test('serves, and a call reaches its server', async () => {
    const port = await freePort()
    const child = spawn(join(folder, 'node_modules/.bin/switchboard'), ['serve', '--port', String(port)], {
      cwd: folder,
      env
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    let [stdout, stderr] = ['', '']
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
    const exited = once(child, 'exit')
    await waitFor(() => /Bearer \S+"/.test(stdout), `the start block; stderr: ${stderr}`)
    const url = `http://127.0.0.1:${port}`
    const key = /Bearer (\S+)"/.exec(stdout)?.[1] as string

    expect((await send('GET', `${url}/healthz`)).json).toEqual({ status: 'ok' })
    const overMcp = await modern(url, key, 'tools/call', { name: 'files__echo', arguments: { message: 'packed' } })
    expect(overMcp.json.result.content[0].text).toBe('packed')
    const overHttp = await post(`${url}/tools/echo`, { arguments: { message: 'packed' } }, bearer(key))
    expect([overHttp.status, overHttp.text.includes('packed')]).toEqual([200, true])
    expect((await send('GET', `${url}/openapi.json`, bearer(key))).json.info.version).toBe(manifest.version)
    expect((await npx('key', 'show', 'me')).stdout).toContain(key)

    child.kill('SIGTERM')
    expect(await exited).toEqual([0, null])
  })
})

interface Instruction {
  readonly name: string
  readonly text: string
  /** The text as a list, where it is one. */
  readonly list: string[] | undefined
}

/** The instructions of each stage, comments and line continuations taken away. */
function stagesOf(containerfile: string): Instruction[][] {
  const lines = containerfile.replace(/^\s*#.*\n/gm, '').replace(/\\\n/g, ' ')
  const instructions = lines
    .split('\n')
    .filter(line => line.trim() !== '')
    .map((line): Instruction => {
      const [, name = '', text = ''] = /^([A-Z]+)\s+(.*)$/.exec(line.trim()) ?? []
      return { name, text, list: text.startsWith('[') ? (JSON.parse(text) as string[]) : undefined }
    })
  const starts = instructions.flatMap(({ name }, index) => (name === 'FROM' ? [index] : []))
  return starts.map((start, i) => instructions.slice(start, starts[i + 1]))
}

const stages = stagesOf(readText('Containerfile'))
const final = stages.at(-1) as Instruction[]
/** The last of its name counts. */
const last = (name: string) => final.filter(each => each.name === name).at(-1)
const runs = (stage: Instruction[]) => stage.filter(({ name }) => name === 'RUN').map(({ text }) => text)
const command = last('CMD')?.list as string[]
const option = (name: string) => command[command.indexOf(name) + 1]

describe('the image', () => {
  test('is built with the compiler and handed out without it', () => {
    expect(stages.length).toBeGreaterThan(1)
    const [build = []] = stages
    expect(runs(build).join('\n')).toMatch(/npm ci\b(?!.*--omit)[^]*npm run .*build/)
    const installs = runs(final).filter(text => /npm (?:ci|i|install)\b/.test(text))
    expect(installs).toEqual([expect.stringMatching(/^npm ci --omit=dev\b/)])
    const copies = final.filter(({ name }) => name === 'COPY').map(({ text }) => text)
    expect(copies.filter(text => text.includes('--from='))).toEqual(['--from=build /app/dist dist'])
    expect(copies.join(' ')).not.toMatch(/\bsrc\b|\btest\b|tsconfig|node_modules/)
  })

  test('has a Node that is enough, and npx', () => {
    const major = Number(/node:(\d+)-[a-z]+-slim$/m.exec(readText('Containerfile'))?.[1])
    expect([major >= 22, major % 2]).toEqual([true, 0])
    expect(final[0]?.text).toBe('${NODE}')
    expect(runs(final).join('\n')).not.toMatch(/\brm [^&]*np[mx]\b/)
  })

  test('runs as nobody in particular, and what it may write is its own', () => {
    expect(last('USER')?.text).toMatch(/^10001(?::10001)?$/)
    const user = final.findIndex(({ name }) => name === 'USER')
    expect(final.slice(user).filter(({ name }) => ['RUN', 'COPY', 'ADD'].includes(name))).toEqual([])
    const made = runs(final).join(' ')
    expect(made).toMatch(/useradd --uid 10001\b/)
    expect(made).toMatch(new RegExp(`install -d -o 10001 -g 10001 -m 0700 [^&]*${String(option('--state'))}`))
    expect(last('VOLUME')?.text).toBe(option('--state'))
  })

  test('begins with an init that passes signals on', () => {
    const entry = last('ENTRYPOINT')?.list as string[]
    expect(entry[0]).toBe('tini')
    expect(entry.slice(entry.indexOf('--') + 1)).toEqual(['node', '/app/dist/cli.js'])
    expect(runs(final).join(' ')).toMatch(/apt-get install -y --no-install-recommends [^&]*\btini\b/)
    expect(last('STOPSIGNAL')?.text).toBe('SIGTERM')
  })

  test('asks a door that exists for its health, without a program of its own', async () => {
    const asked = JSON.parse(/CMD (\[.*\])$/.exec(last('HEALTHCHECK')?.text ?? '')?.[1] ?? '[]') as string[]
    const [program = '', flag = '', script = ''] = asked
    expect([program, flag]).toEqual(['node', '-e'])
    expect(script).toContain(`http://127.0.0.1:${option('--port')}/healthz`)
    expect(last('EXPOSE')?.text).toBe(option('--port'))
    const health = async (url: string) => {
      const child = spawn(process.execPath, [flag, script.replace(/http:\/\/[^/]+/, url)], {
        env: bare,
        stdio: 'ignore'
      })
      return ((await once(child, 'exit')) as [number])[0]
    }

    const gateway = await startTestGateway(`
listen: { host: 0.0.0.0, port: 0, allowed_hosts: [gateway.lan] }
servers: { alpha: { command: node, args: [${raw}] } }
keys: { admin: { secret: "\${ADMIN}", allow: "*" } }
`)
    onTestFinished(() => gateway.close())
    expect(await health(gateway.url)).toBe(0)
    const ill = createServer((_, res) => res.writeHead(503).end()).listen(0, '127.0.0.1')
    await once(ill, 'listening')
    onTestFinished(() => void ill.close())
    expect(await health(`http://127.0.0.1:${(ill.address() as AddressInfo).port}`)).toBe(1)
    expect(await health(`http://127.0.0.1:${await freePort()}`)).toBe(1)
  })

  test('starts a command line that exists, on all addresses', async () => {
    expect(command.slice(0, 3)).toEqual(['serve', '--host', '0.0.0.0'])
    expect(option('--config')).toBe('/etc/switchboard/servers.yaml')
    // As it stands, where there is no such file: a sentence about the file, none about the command line.
    const { code, stderr } = await runSwitchboard(command)
    expect(code).toBe(2)
    expect(stderr).toMatch(/^\/etc\/switchboard\/servers\.yaml error: .* cannot be read \(ENOENT\)/)
    expect(stderr).not.toContain('Usage')
  })

  test('serves with it once there is a configuration with keys', async () => {
    const config = join(dir, 'with-keys.yaml')
    writeFileSync(
      config,
      `servers: { alpha: { command: node, args: [${raw}] } }\nkeys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`
    )
    const gateway = await startGatewayProcess({ config, args: ['--host', '0.0.0.0'], env: { ADMIN: secrets.ADMIN } })
    onTestFinished(() => gateway.stop())
    const { json } = await modern(gateway.url, secrets.ADMIN, 'tools/call', {
      name: 'alpha__echo',
      arguments: { message: 'hi' }
    })
    expect(json.result.content[0].text).toBe('hi')
    expect(await gateway.kill('SIGTERM')).toEqual({ code: 0, signal: null })
  })

  test.each(['', 'keys: {}\n'])('says the cure once and ends with 2 where there are no keys (%j)', async keys => {
    const config = join(dir, 'without-keys.yaml')
    writeFileSync(config, `servers: { alpha: { command: node, args: [${raw}] } }\n${keys}`)
    const args = command.map(word => (word === option('--config') ? config : word === option('--state') ? dir : word))
    const { code, stdout, stderr } = await runSwitchboard(args)
    expect([code, stdout]).toEqual([2, ''])
    expect(stderr.trim().split('\n')).toEqual([
      expect.stringMatching(/switchboard key new admin.* put what it prints under keys/)
    ])
  })

  test('is built from what it needs: nothing private, nothing built elsewhere', () => {
    const rules = readText('.dockerignore')
      .split('\n')
      .filter(line => line !== '' && !line.startsWith('#'))
    expect(rules[0]).toBe('*')
    const kept = rules.slice(1).map(rule => rule.replace(/^!/, ''))
    expect(rules.slice(1).every(rule => rule.startsWith('!'))).toBe(true)
    const copied = stages
      .flat()
      .filter(({ name, text }) => name === 'COPY' && !text.includes('--from='))
      .flatMap(({ text }) => text.split(/\s+/).slice(0, -1))
    expect([...new Set(copied)].sort()).toEqual([...kept].sort())
    for (const path of kept) expect(existsSync(join(repository, path))).toBe(true)
  })

  test('gives the terminal in it the command of its messages', () => {
    expect(runs(final).join(' ')).toContain('ln -s /app/dist/cli.js /usr/local/bin/switchboard')
    expect(runs(stages[0] ?? []).join(' ')).toContain('chmod 755 dist/cli.js')
    expect(readText('dist/cli.js')).toMatch(/^#!\/usr\/bin\/env node\n/)
    expect(last('WORKDIR')?.text).toBe(dirname(option('--config') ?? ''))
  })
})

describe('the example for a LAN', () => {
  const compose = parse(readText('examples/compose.yaml'), { merge: true }) as Record<string, any>
  const services = Object.entries<any>(compose.services)
  const { switchboard, preflight } = compose.services
  const text = readText('examples/compose.servers.yaml')
  const adminKey = 'an-admin-key-0123456789abcdef'

  /** The gateway's configuration as it would be read in its container. */
  const load = (env: Record<string, string>) => {
    const read: string[] = []
    const loaded = parseConfig({
      text,
      file: option('--config') as string,
      env,
      readFile: path => {
        read.push(path)
        return `${adminKey}\n`
      }
    })
    return { ...loaded, read }
  }
  const stated = () =>
    Object.fromEntries(Object.keys(switchboard.environment).map(name => [name, `value-of-${name}-0123456789`]))

  test('has a configuration without a finding, over all three transports', () => {
    const { config, findings } = load(stated())
    expect(findings).toEqual([])
    expect(config?.broken).toEqual([])
    expect(config?.servers.map(({ id, transport }) => [id, transport])).toEqual([
      ['postgres', 'sse'],
      ['filesystem', 'stdio'],
      ['monitoring', 'http']
    ])
    expect(config?.keys.map(({ id }) => id)).toEqual(['admin', 'developer'])
    expect(config?.listen.host).toBe('0.0.0.0')
  })

  test('names every variable its configuration needs, and says which one is missing', () => {
    const { config, findings } = load({})
    expect(config?.broken.map(({ kind, id }) => [kind, id])).toEqual([['key', 'developer']])
    expect(findings.map(({ message }) => message)).toEqual([expect.stringContaining('SWITCHBOARD_DEVELOPER_KEY')])
    // Compose itself stops, with a sentence, before a container is made.
    for (const value of Object.values<string>(switchboard.environment)) expect(value).toMatch(/^\$\{\w+:\?.+\}$/)
  })

  test('reads the files that are mounted into the gateway, and no others', () => {
    const mounted = (switchboard.secrets as string[]).map(name => `/run/secrets/${name}`)
    expect(load(stated()).read).toEqual(mounted)
    expect(Object.keys(compose.secrets)).toEqual(switchboard.secrets)
    expect(switchboard.volumes).toContain(`./compose.servers.yaml:${option('--config')}:ro`)
  })

  test('dials servers by the names of services that are there, in the network they share', () => {
    for (const { url } of load(stated()).config?.servers ?? []) {
      if (url === undefined) continue
      const service = compose.services[new URL(url).hostname]
      expect(service?.networks).toEqual(['private'])
    }
    expect(switchboard.networks).toContain('private')
    expect(compose.services['mcp-postgres'].image).toMatch(/crystaldba\/postgres-mcp:/)
    expect(compose.services['mcp-postgres'].command).toContain('--transport=sse')
    expect(compose.services['mcp-postgres'].environment.DATABASE_URI).toMatch(/@postgres:5432\//)
  })

  test('publishes the gateway and nothing else, and shuts the servers off from the outside', () => {
    expect(services.filter(([, { ports }]) => ports !== undefined).map(([name]) => name)).toEqual(['switchboard'])
    expect(switchboard.ports).toEqual([`8585:${option('--port')}`])
    expect(compose.networks.private).toEqual({ internal: true })
    const outside = services.filter(([, { networks }]) => (networks as string[]).some(name => name !== 'private'))
    expect(outside.map(([name]) => name).sort()).toEqual(['preflight', 'switchboard'])
    for (const [, { network_mode, privileged }] of services)
      expect([network_mode, privileged]).toEqual([undefined, undefined])
    expect(JSON.stringify(compose)).not.toContain('docker.sock')
  })

  test('keeps what must outlive the container where the gateway keeps it', () => {
    expect(switchboard.volumes).toContain(`state:${option('--state')}`)
    expect(load(stated()).config?.state).toBe(option('--state'))
    const named = services
      .flatMap(([, { volumes = [] }]) => volumes as string[])
      .map(volume => volume.split(':')[0] ?? '')
      .filter(source => !source.startsWith('.'))
    expect([...new Set(named)].sort()).toEqual(Object.keys(compose.volumes).sort())
    for (const [, { volumes = [] }] of services)
      for (const volume of volumes as string[])
        if (volume.startsWith('./'))
          expect(existsSync(join(repository, 'examples', volume.split(':')[0] ?? ''))).toBe(true)
  })

  test.each(services)('gives %s no more than it needs', (name, service) => {
    expect(service).toMatchObject({
      read_only: true,
      cap_drop: ['ALL'],
      security_opt: ['no-new-privileges:true'],
      pids_limit: expect.any(Number),
      tmpfs: expect.arrayContaining(['/tmp'])
    })
    expect(service.cap_add).toBeUndefined()
    // One init, not two: the image of the gateway has its own.
    expect(service.init).toBe(!(name === 'switchboard' || name === 'preflight'))
    if (service.build === undefined) expect(service.image).toMatch(/^[a-z.]+\/[\w./-]+:v?\d[\w.]*$/)
  })

  test('has no secret in it', () => {
    for (const [, { environment = {} }] of services)
      for (const [name, value] of Object.entries<string>(environment))
        if (/PASSWORD|KEY|URI|TOKEN/.test(name)) expect(value).toMatch(/\$\{\w+:\?.+\}/)
    expect(readText('examples/compose.yaml') + text).not.toMatch(/swb_\w/)
  })

  test('gives running calls the time to end', () => {
    const seconds = Number(/^(\d+)s$/.exec(switchboard.stop_grace_period as string)?.[1])
    expect(seconds).toBeGreaterThanOrEqual(15)
  })

  test('comes back after a reboot, but is not started over and over with a configuration that cannot work', () => {
    expect(switchboard.restart).toBe('unless-stopped')
    expect(switchboard.depends_on.preflight).toEqual({ condition: 'service_completed_successfully' })
    expect(preflight.restart).toBe('no')
    expect(preflight.volumes).toContain(`./compose.servers.yaml:${option('--config')}:ro`)
    for (const member of ['image', 'environment', 'secrets', 'networks'])
      expect(preflight[member]).toEqual(switchboard[member])
  })

  test.each([
    [
      'says the cure and stops where there are no keys',
      'listen: { host: 0.0.0.0 }\nservers: { alpha: { command: node } }\n',
      1,
      'switchboard key new admin'
    ],
    [
      'says what is wrong and stops where a field is unknown',
      'servers: { alpha: { comand: node } }\n',
      1,
      'Did you mean `command`?'
    ],
    [
      'goes on where a server is not up yet',
      'servers: { alpha: { url: "http://127.0.0.1:9/mcp" } }\n',
      0,
      'connection refused'
    ]
  ])('before that, preflight %s', async (_, config, code, said) => {
    const script = (preflight.entrypoint as string[]).at(-1)?.replaceAll('$$', '$') ?? ''
    const folder = mkdtempSync(join(dir, 'preflight-'))
    writeFileSync(join(folder, 'servers.yaml'), config)
    // The image's own `switchboard` and working directory.
    const bin = mkdtempSync(join(dir, 'bin-'))
    writeFileSync(join(bin, 'switchboard'), `#!/bin/sh\nexec node ${repository}/dist/cli.js "$@"\n`, { mode: 0o755 })
    const ended = await run('sh', ['-c', script], {
      cwd: folder,
      env: { PATH: `${bin}${delimiter}${bare.PATH}` }
    }).then(
      out => ({ ...out, code: 0 }),
      (error: { code: number; stdout: string; stderr: string }) => error
    )
    expect([ended.code, ended.stdout + ended.stderr]).toEqual([code, expect.stringContaining(said)])
  })
})
