/** What `switchboard` on the command line says and how it ends: as processes, with the exit codes of commands/command.ts. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import {
  descendants,
  freePort,
  repository,
  runSwitchboard,
  startGatewayProcess,
  takePort,
  type GatewayProcess,
  type GatewayProcessOptions
} from './helpers/gateway-process.js'
import { openSession } from './helpers/http.js'
import { fixture, waitFor } from './helpers/with-gateway.js'

const manifest = JSON.parse(readFileSync(join(repository, 'package.json'), 'utf8')) as { version: string }
const script = JSON.stringify(fixture('raw-stdio.mjs'))

/** A folder with a servers.yaml, for one test. */
function folder(yaml: string): { dir: string; file: string; state: string } {
  const dir = mkdtempSync(join(tmpdir(), 'switchboard-commands-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
  const file = join(dir, 'servers.yaml')
  writeFileSync(file, yaml)
  return { dir, file, state: join(dir, '.switchboard') }
}

async function startForTest(options: GatewayProcessOptions): Promise<GatewayProcess> {
  const gateway = await startGatewayProcess(options)
  onTestFinished(() => gateway.stop())
  return gateway
}

const good = `  good: { command: node, args: [${script}] }\n`
const missing = '  missing: { command: no-such-program-here }\n'
const quits = `  quits: { command: node, args: [${script}, --mode, exit-at-start] }\n`
const unset = '  unset: { command: node, env: { TOKEN: "${SWITCHBOARD_TEST_UNSET}" } }\n'
const nobody = (port: number) => `  nobody: { url: "http://127.0.0.1:${port}/mcp" }\n`

/** Rows of the one table on stdout: the words of the fixed columns, and the sentence behind them. */
function readTable(stdout: string) {
  const [head = '', ...lines] = stdout.trimEnd().split('\n')
  const starts = ['server', 'state', 'era', 'transport', 'tools', 'ms'].map(title => head.indexOf(title))
  const cells = (line: string) => starts.map((start, i) => line.slice(start, starts[i + 1]).trim())
  return {
    head: head.split(/\s+/).filter(Boolean),
    rows: Object.fromEntries(lines.map(line => [cells(line)[0], { cells: cells(line), line }]))
  }
}

describe('switchboard check', () => {
  it('shows one table with the state of every server, the real reason where it is not ready, and exits with 2 for the configuration', async () => {
    const port = await freePort()
    const { file, dir } = folder(`servers:\n${good}${missing}${quits}${unset}${nobody(port)}`)
    const { code, stdout, stderr } = await runSwitchboard(['check', '--config', file])
    const { head, rows } = readTable(stdout)
    expect(head).toEqual(['server', 'state', 'era', 'transport', 'tools', 'ms'])
    expect(Object.keys(rows)).toEqual(expect.arrayContaining(['good', 'missing', 'quits', 'unset', 'nobody']))
    expect(Object.keys(rows)).toHaveLength(5)
    expect(rows.good?.line).toMatch(/^good +ready +legacy +stdio +4 +\d+$/)
    expect(rows.missing?.line).toMatch(/^missing +down .*"no-such-program-here" was not found/)
    expect(rows.quits?.line).toMatch(/^quits +down .*exited with code 1; its last words: boom: no config$/)
    expect(rows.nobody?.line).toMatch(new RegExp(`^nobody +down .*(127\\.0\\.0\\.1:${port}|refused|ECONNREFUSED)`))
    expect(rows.unset?.line).toMatch(/^unset +misconfigured .*SWITCHBOARD_TEST_UNSET is not set/)
    expect(stderr).toMatch(
      /servers\.yaml:\d+:\d+ error: servers\.unset\.env\.TOKEN: .*SWITCHBOARD_TEST_UNSET is not set/
    )
    expect(stderr.trimEnd().split('\n')).toHaveLength(1)
    expect(code).toBe(2)
    expect(existsSync(join(dir, '.switchboard'))).toBe(false)
  })

  it('exits with 1 when only servers are at fault', async () => {
    const { file } = folder(`servers:\n${good}${missing}`)
    const { code, stdout } = await runSwitchboard(['check', '--config', file])
    expect(Object.keys(readTable(stdout).rows)).toEqual(['good', 'missing'])
    expect(code).toBe(1)
  })

  it('exits with 0 when all are well, and leaves no process of theirs', async () => {
    const { file, dir } = folder('')
    const ledger = JSON.stringify(join(dir, 'ledger'))
    writeFileSync(file, `servers:\n  good: { command: node, args: [${script}], env: { LEDGER: ${ledger} } }\n`)
    const { code, stdout, stderr } = await runSwitchboard(['check', '-c', file])
    expect(readTable(stdout).rows.good?.cells.slice(0, 5)).toEqual(['good', 'ready', 'legacy', 'stdio', '4'])
    expect(stderr).toBe('')
    expect(code).toBe(0)
    const pids = [...readFileSync(join(dir, 'ledger'), 'utf8').matchAll(/^process (\d+)$/gm)].map(match =>
      Number(match[1])
    )
    expect(pids.length).toBeGreaterThan(0)
    for (const pid of pids) expect(existsSync(`/proc/${pid}`), `process ${pid}`).toBe(false)
  })

  it('looks for servers.yaml in the folder it is run in', async () => {
    const { dir } = folder(`servers:\n${good}`)
    expect((await runSwitchboard(['check'], { cwd: dir })).code).toBe(0)
  })

  it('with --json prints the same as data, and nothing else', async () => {
    const port = await freePort()
    const { file } = folder(`servers:\n${good}${missing}${quits}${unset}${nobody(port)}`)
    const { code, stdout, stderr } = await runSwitchboard(['check', '--json', '--config', file])
    const { ok, findings, servers } = JSON.parse(stdout)
    expect(ok).toBe(false)
    expect(findings).toHaveLength(1)
    expect(findings[0]).toMatchObject({ severity: 'error', server: 'unset', path: 'servers.unset.env.TOKEN' })
    const byName = Object.fromEntries(servers.map((row: { server: string }) => [row.server, row]))
    expect(byName.good).toMatchObject({ state: 'ready', era: 'legacy', transport: 'stdio', tools: 4, problem: null })
    expect(typeof byName.good.ms).toBe('number')
    expect(byName.missing).toMatchObject({ state: 'down', tools: null })
    expect(byName.missing.problem).toContain('no-such-program-here')
    expect(byName.quits.problem).toContain('boom: no config')
    expect(byName.nobody.state).toBe('down')
    expect(byName.unset.problem).toContain('SWITCHBOARD_TEST_UNSET')
    expect(stderr).toBe('')
    expect(code).toBe(2)
  })

  it('with --json also prints data when the file as a whole is wrong', async () => {
    const { file } = folder('servers: { a: { url: "http://localhost:1/mcp", tiemout: 3 } }\n')
    const { code, stdout, stderr } = await runSwitchboard(['check', '--json', '--config', file])
    const { ok, findings, servers } = JSON.parse(stdout)
    expect({ ok, servers, stderr, code }).toEqual({ ok: false, servers: [], stderr: '', code: 2 })
    expect(findings[0]).toMatchObject({ severity: 'error', path: 'servers.a.tiemout', line: 1 })
    expect(findings[0].message).toContain('timeout')
  })

  it('never prints the value of a variable', async () => {
    const { file } = folder(
      `servers:\n  quits: { command: node, args: [-e, "console.error(process.env.T); process.exit(1)"], env: { T: "\${TOKEN_OF_TEST}" } }\n`
    )
    const { stdout, stderr } = await runSwitchboard(['check', '--config', file], {
      env: { TOKEN_OF_TEST: 'hush-hush-4711' }
    })
    expect(stdout).toContain('exited with code 1')
    expect(stdout + stderr).not.toContain('hush-hush-4711')
  })
})

describe('switchboard key', () => {
  it('new prints a key, and lines that make it work when they are pasted into servers.yaml', async () => {
    const made = await runSwitchboard(['key', 'new', 'laptop'])
    expect(made).toMatchObject({ code: 0, stderr: '' })
    const [secret = ''] = /swb_[\w-]{43}/.exec(made.stdout) ?? []
    expect(made.stdout.split(secret)).toHaveLength(2)
    const pasted = made.stdout.slice(made.stdout.indexOf('\n  laptop:'))
    const { file } = folder(`servers:\n${good}keys:${pasted}`)
    const gateway = await startForTest({ config: file })
    const { opened } = await openSession(gateway.url, secret)
    expect(opened.status).toBe(200)
    const { opened: refused } = await openSession(gateway.url, `${secret.slice(0, -2)}zz`)
    expect(refused.status).toBe(401)
    // The gateway knows its hash alone, so it cannot print it.
    expect(gateway.keys).toEqual({ laptop: '<key>' })
    expect(readFileSync(file, 'utf8')).not.toContain(secret)
  })

  it('new makes another key each time', async () => {
    const [one, two] = await Promise.all([runSwitchboard(['key', 'new', 'a']), runSwitchboard(['key', 'new', 'a'])])
    expect(one.stdout).not.toBe(two.stdout)
  })

  it.each(['9lives', 'two words', 'x'.repeat(33)])('new refuses the name "%s" in one sentence', async name => {
    const { code, stdout, stderr } = await runSwitchboard(['key', 'new', name])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(/^".*" cannot be the name of a key: .*\.\n$/)
  })

  it('show prints the generated key and its line for Claude Code, while the gateway runs and after', async () => {
    const port = await freePort()
    const { file, state } = folder(
      `listen: { port: ${port} }\nservers:\n${good}keys: { admin: { secret: generated, allow: "*" } }\n`
    )
    const gateway = await startForTest({ config: file, stateDir: state, port })
    const key = gateway.keys.admin ?? ''
    const line = `claude mcp add --transport http switchboard http://127.0.0.1:${port}/mcp --header "Authorization: Bearer ${key}"`
    const expected = { code: 0, stdout: `${key}\n${line}\n`, stderr: '' }
    expect(gateway.addLines.admin).toBe(line)
    expect(await runSwitchboard(['key', 'show', 'admin', '--config', file])).toMatchObject(expected)
    await gateway.kill('SIGTERM')
    expect(await runSwitchboard(['key', 'show', 'admin', '-c', file, '--state', state])).toMatchObject(expected)
    expect(existsSync(join(state, 'lock'))).toBe(false)
  })

  it.each([
    ['that is not there', 'nobody', 2, /^There is no key "nobody" in .*servers\.yaml\. Known are: admin, hashed\.\n$/],
    [
      'that is not generated',
      'hashed',
      2,
      /^The key "hashed" is not a generated one.* "switchboard key new hashed"\.\n$/
    ],
    ['that no gateway has made yet', 'admin', 1, /^The key "admin" has not been made yet.* "switchboard serve"\.\n$/]
  ])('show says in words what is the matter with a key %s', async (_what, name, code, sentence) => {
    const { file, state } = folder(
      `servers:\n${good}keys:\n  admin: { secret: generated, allow: "*" }\n  hashed: { secret: "sha256:${'a1'.repeat(32)}", allow: "*" }\n`
    )
    const shown = await runSwitchboard(['key', 'show', name, '--config', file])
    expect(shown).toMatchObject({ code, stdout: '' })
    expect(shown.stderr).toMatch(sentence)
    expect(existsSync(state)).toBe(false)
  })
})

describe('switchboard serve', () => {
  it('says in one sentence that its port is taken, exits with 1 and starts no server', async () => {
    const { port, close } = await takePort()
    onTestFinished(close)
    const { file, dir, state } = folder('')
    const ledger = JSON.stringify(join(dir, 'ledger'))
    writeFileSync(file, `servers:\n  good: { command: node, args: [${script}], env: { LEDGER: ${ledger} } }\n`)
    const { code, stdout, stderr } = await runSwitchboard(['serve', '--config', file, '--port', String(port)])
    expect(stderr).toMatch(new RegExp(`^The address 127\\.0\\.0\\.1:${port} is already in use\\. .*--port\\.\n$`))
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(existsSync(join(dir, 'ledger'))).toBe(false)
    expect(existsSync(join(state, 'lock'))).toBe(false)
  })

  it.each([
    ['a servers.yaml of 3 MiB', (dir: string) => join(dir, 'servers.yaml')],
    ['a device without end', () => '/dev/zero']
  ])('says in one sentence that %s is too large, and exits with 2', async (_, fileIn) => {
    const { dir, state } = folder(`servers: {}\n${'#'.repeat(3 * 1024 * 1024)}`)
    const file = fileIn(dir)
    const { code, stdout, stderr } = await runSwitchboard(['serve', '--config', file, '--state', state])
    expect(stderr).toContain(`${file} is larger than 1 MiB, the most that is read. Name another file, or`)
    expect(stderr.trimEnd().split('\n')).toHaveLength(1)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  })

  it('leaves out a server whose secret comes from a file without end', async () => {
    const { file } = folder(`servers:\n${good}  huge: { command: node, env: { TOKEN: "file:/dev/zero" } }\n`)
    const gateway = await startForTest({ config: file })
    expect(gateway.block).toMatch(
      /^ {2}huge +not started: .*cannot read file:\/dev\/zero \(it is larger than 64 KiB\)/m
    )
  })

  it('says in one sentence that it has no such address', async () => {
    const { file } = folder(`servers:\n${good}keys: { a: { secret: generated, allow: "*" } }\n`)
    const { code, stdout, stderr } = await runSwitchboard(['--config', file, '--host', '203.0.113.7', '--port', '0'])
    expect(stderr).toMatch(/^This machine has no address 203\.0\.113\.7\. .*\n$/)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  })

  it('serves the others when the variable of one is not set, its program is missing or it quits', async () => {
    const { file } = folder(`servers:\n${unset}${missing}${quits}${good}`)
    const gateway = await startForTest({ config: file })
    expect(gateway.block).toMatch(
      /^ {2}unset +not started: servers\.unset\.env\.TOKEN: the variable SWITCHBOARD_TEST_UNSET is not set\./m
    )
    expect(gateway.block).toMatch(/^ {2}missing +(down|starting again): .*"no-such-program-here" was not found/m)
    expect(gateway.block).toMatch(/^ {2}quits +(starting|starting again: .*boom: no config|down: .*boom: no config)$/m)
    expect(gateway.stderr()).toMatch(/servers\.yaml:2:\d+ error: servers\.unset\.env\.TOKEN: .*SWITCHBOARD_TEST_UNSET/)
    await waitFor(() => gateway.logged('upstream.ready').length > 0, 'the good server')
    const session = await openSession(gateway.url, gateway.keys.admin ?? '')
    const { json } = await session.rpc('tools/call', { name: 'good__echo', arguments: { message: 'served' } })
    expect(json.result.content[0].text).toBe('served')
    const { json: failed } = await session.rpc('tools/call', { name: 'unset__echo', arguments: {} })
    expect(failed.error).toMatchObject({ code: -32602, message: 'Unknown tool: unset__echo' })
  })

  it('lets the other keys in when the variable of one is not set', async () => {
    const { file } = folder(
      `servers:\n${good}keys:\n  admin: { secret: generated, allow: "*" }\n  other: { secret: os.environ/SWITCHBOARD_TEST_UNSET, allow: "*" }\n`
    )
    const gateway = await startForTest({ config: file })
    expect(gateway.block).toMatch(
      /^ {2}other does not work: keys\.other\.secret: the variable SWITCHBOARD_TEST_UNSET is not set\./m
    )
    expect((await openSession(gateway.url, gateway.keys.admin ?? '')).opened.status).toBe(200)
    for (const guess of ['', 'undefined', 'os.environ/SWITCHBOARD_TEST_UNSET'])
      expect((await openSession(gateway.url, guess)).opened.status).toBe(401)
  })

  it('is what it does when no command is named, with a key made for whoever has none', async () => {
    const { file } = folder(`servers:\n${good}`)
    const gateway = await startForTest({ config: file })
    expect(Object.keys(gateway.keys)).toEqual(['admin'])
    expect((await openSession(gateway.url, gateway.keys.admin ?? '')).opened.status).toBe(200)
  })

  it('says what it will lose where its state directory is not writable, and serves', async () => {
    const { file, dir } = folder(`servers:\n${good}`)
    writeFileSync(join(dir, 'a-file'), '')
    const stateDir = join(dir, 'a-file', 'state')
    const gateway = await startForTest({ config: file, stateDir })
    expect(gateway.stderr().match(/The state directory .* is not writable .*\n/g)).toHaveLength(1)
    expect((await openSession(gateway.url, gateway.keys.admin ?? '')).opened.status).toBe(200)
  })

  it('starts servers in the folder of servers.yaml, wherever it was started itself', async () => {
    const { file, dir } = folder('')
    writeFileSync(file, `servers:\n  here: { command: node, args: [${script}], env: { LEDGER: ledger } }\n`)
    await startForTest({ config: file, cwd: tmpdir() })
    await waitFor(() => existsSync(join(dir, 'ledger')), 'the ledger beside servers.yaml')
  })

  it('gives its servers nothing of its own environment but what programs need', async () => {
    const { file, dir } = folder('')
    writeFileSync(file, `servers:\n  good: { command: node, args: [${script}], env: { OWN: given } }\n`)
    const env = { SWITCHBOARD_TEST_SECRET: 'hush-hush-4711' }
    const gateway = await startForTest({ config: file, env, cwd: dir })
    await waitFor(() => gateway.logged('upstream.ready').length > 0, 'the good server')
    const servers = descendants(gateway.pid)
    expect(servers).toHaveLength(1)
    const environment = readFileSync(`/proc/${servers[0]?.pid}/environ`, 'utf8')
    expect(environment).toContain('OWN=given')
    expect(environment).not.toContain('hush-hush-4711')
  })
})

describe('switchboard on the command line', () => {
  it.each([['--version'], ['-v']])('%s prints its version', async flag => {
    expect(await runSwitchboard([flag])).toMatchObject({ code: 0, stdout: `${manifest.version}\n`, stderr: '' })
  })

  it.each([[['--help']], [['-h']], [['check', '--help']]])('%s prints how it is used', async args => {
    const { code, stdout, stderr } = await runSwitchboard(args)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/^Usage: switchboard /)
    for (const word of [
      'serve',
      'check',
      'key new',
      'key show',
      '--config',
      '--state',
      '--port',
      '--json',
      '--version'
    ])
      expect(stdout).toContain(word)
  })

  it.each([
    [['start'], 'unknown command "start"'],
    [['serve', 'now'], '"serve" takes no further words'],
    [['check', 'all'], '"check" takes no further words'],
    [['key'], '"key" takes an action and one name'],
    [['key', 'new'], '"key" takes an action and one name'],
    [['key', 'new', 'a', 'b'], '"key" takes an action and one name'],
    [['key', 'drop', 'a'], '"key" knows new and show, but got "drop"'],
    [['--port', 'http'], '--port takes a number from 0 to 65535, but got "http"'],
    [['--port', '65536'], '--port takes a number from 0 to 65535, but got "65536"'],
    [['--port', ''], '--port takes a number from 0 to 65535, but got ""'],
    [['--log', 'loud'], '--log takes one of debug, info, warn, error, silent, but got "loud"'],
    [['--prot', '1'], '--prot'],
    [['--config'], '--config']
  ])('refuses %j, saying why and how it is used, with exit code 2', async (args, why) => {
    const { code, stdout, stderr } = await runSwitchboard(args, { cwd: folder('servers: {}\n').dir })
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr.split('\n')[0]).toContain(why)
    expect(stderr).toContain('\nUsage: switchboard ')
    expect(stderr).not.toContain('    at ')
  })

  it.each([[['serve']], [['check']], [['key', 'show', 'admin']]])(
    '%j says which file is missing, with exit code 2',
    async args => {
      const { dir } = folder('')
      const { code, stdout, stderr } = await runSwitchboard([...args, '--config', join(dir, 'none.yaml')])
      expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
      expect(stderr).toMatch(/none\.yaml cannot be read \(ENOENT\)\. .*\n$/)
      expect(stderr.trimEnd().split('\n')).toHaveLength(1)
    }
  )

  it('serve tells every error of the file at once, with its line, and exits with 2', async () => {
    const { file } = folder(
      'servers:\n  a: { url: "http://localhost:1/mcp", tiemout: 3 }\n  b: {}\nlisten: { port: many }\n'
    )
    const { code, stdout, stderr } = await runSwitchboard(['--config', file])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    const lines = stderr.trimEnd().split('\n')
    expect(lines).toHaveLength(3)
    expect(lines[0]).toMatch(/servers\.yaml:2:\d+ error: servers\.a\.tiemout: .*timeout/)
    expect(lines[1]).toMatch(/servers\.yaml:3:\d+ error: servers\.b: /)
    expect(lines[2]).toMatch(/servers\.yaml:4:\d+ error: listen\.port: /)
  })
})
