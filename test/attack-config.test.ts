/**
 * Attacks on, and by, servers.yaml: C1 to C9 of the attack list. Much of it is shown elsewhere, and only cited here:
 * C1 config.test.ts "a mistake in servers.yaml"; C2 config-env.test.ts; C3 config.test.ts "names that differ only by
 * case…", "a name that stands twice…", "two keys with the same secret…"; C4 config.test.ts "a file that is no good YAML";
 * C5 config.test.ts "a secret" and observe.test.ts "a secret"; C6 policy.test.ts.
 */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { randomUUID } from 'node:crypto'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it, onTestFinished } from 'vitest'
import { loadConfig, parseConfig, type Loaded } from '../src/config/load.js'
import { compilePolicy } from '../src/policy/policy.js'
import { openLedger } from './fixtures/ledger.mjs'
import { attackFrom, noncesNoted } from './helpers/attack.js'
import { listening } from './helpers/evil.js'
import { runSwitchboard } from './helpers/gateway-process.js'
import { bearer, envelope, modern, openSession, post, send } from './helpers/http.js'
import { marked } from './helpers/processes.js'
import { fixture, waitFor } from './helpers/with-gateway.js'

function temporary(): string {
  const dir = mkdtempSync(join(tmpdir(), 'switchboard-attack-config-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

function parse(text: string, env: Record<string, string> = {}, mode?: number): Loaded {
  const readFile = () => {
    throw Object.assign(new Error('no such file'), { code: 'ENOENT' })
  }
  return parseConfig({ text, file: '/etc/sb/servers.yaml', env, readFile, ...(mode !== undefined && { mode }) })
}

const say = ({ findings }: Loaded) => findings.map(({ line, severity, message }) => `${line} ${severity} ${message}`)

describe('C1: a typo', () => {
  const good = {
    listen: { host: '127.0.0.1', port: 1, title: 't', allowed_hosts: [], allowed_origins: [] },
    servers: { a: { command: 'a', args: [], env: {}, timeout: 1, max_timeout: 2, namespace: true } },
    keys: { k: { secret: 'generated', allow: { a: { tools: ['x'], resources: ['y'], prompts: ['z'] } } } }
  }
  type Path = readonly (string | number)[]
  const maps: readonly Path[] = [[], ['listen'], ['servers', 'a'], ['keys', 'k'], ['keys', 'k', 'allow', 'a']]
  const change = (path: Path, edit: (map: Record<string, unknown>) => void): string => {
    const tree = structuredClone(good)
    edit(path.reduce<Record<string, any>>((map, step) => map[step], tree))
    return JSON.stringify(tree)
  }

  it('at any level, in any name, stops the start: nothing is opened by what was not understood', () => {
    expect(parse(JSON.stringify(good)).findings).toEqual([])
    for (const path of maps) {
      const names = Object.keys(path.reduce<Record<string, any>>((map, step) => map[step], good))
      for (const name of names.filter(name => !(path.length === 0 && name === 'servers'))) {
        const typos = [name.toUpperCase(), `${name}s`, name.slice(1), ` ${name}`, `${name}.`]
        for (const typo of typos.filter(typo => !names.includes(typo))) {
          const text = change(path, map => {
            map[typo] = map[name]
            delete map[name]
          })
          const { config, findings } = parse(text)
          expect([typo, config]).toEqual([typo, undefined])
          expect(findings.some(({ message }) => /unknown key\. (?:Did you mean `|Known here: )/.test(message))).toBe(
            true
          )
        }
      }
    }
  })

  it('as a value of the wrong type, at any level, does so, too', () => {
    for (const path of maps) {
      for (const name of Object.keys(path.reduce<Record<string, any>>((map, step) => map[step], good))) {
        for (const wrong of [null, 3.5, [[]], [{}], { x: { y: 1 } }]) {
          if (name === 'timeout' && wrong === 3.5) continue
          const { config } = parse(change(path, map => (map[name] = wrong)))
          const read = JSON.stringify([name, wrong])
          if (name === 'max_timeout' && wrong === 3.5) expect(config).toBeDefined()
          else expect([read, config]).toEqual([read, undefined])
        }
      }
    }
  })

  it('exits with 2 and the place', async () => {
    const file = join(temporary(), 'servers.yaml')
    writeFileSync(file, 'servers: { a: { command: node } }\nkeys: { k: { secret: generated, alow: "*" } }\n')
    const { code, stdout, stderr } = await runSwitchboard(['-c', file])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(/servers\.yaml:2:\d+ error: keys\.k\.alow: unknown key\. Did you mean `allow`\?/)
  })
})

describe('C2: what a variable holds', () => {
  it('is text, whatever it looks like: no YAML, no further variable, no file', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ minLength: 1 }),
          fc.constantFrom(
            '}\n  b: { command: evil }\n',
            '"*"',
            '${OTHER}',
            'file:/etc/passwd',
            '&a [*a]',
            '!!js/function x',
            'os.environ/OTHER'
          )
        ),
        value => {
          const { config } = parse('servers: { a: { command: a, env: { X: "${X}", Y: "<${X}>" } } }', {
            X: value,
            OTHER: 'other'
          })
          expect(config?.servers.map(({ id, env }) => [id, env])).toEqual([['a', { X: value, Y: `<${value}>` }]])
        }
      )
    )
  })
})

describe('C3: the same server twice', () => {
  it('is a warning, wherever all that makes it that server is the same', () => {
    const text = `servers:
  one: { command: node, args: [server.js], env: { A: "1" } }
  two: { command: node, args: [server.js], env: { A: "1" }, timeout: 5 }
  other: { command: node, args: [server.js], env: { A: "2" } }
  there: { url: "http://a/mcp" }
  again: { url: "http://a/mcp", description: once more }
`
    expect(say(parse(text))).toEqual([
      '3 warning servers.two: the same server as servers.one. One with aliases may be enough.',
      '6 warning servers.again: the same server as servers.there. One with aliases may be enough.'
    ])
  })
})

describe('C4: YAML made to harm', () => {
  it.each(['123', '1e3', '012', '~', '0x1f', '.inf', '1_000', '2027-02-19'])(
    '%s as the name of a server or key is refused',
    name => {
      expect(parse(`servers: { ${name}: { command: a } }`).config).toBeUndefined()
      expect(
        parse(`servers: { a: { command: a } }\nkeys: { ${name}: { secret: generated, allow: "*" } }`).config
      ).toBeUndefined()
    }
  )

  it('no, off, true and null are names and texts like others', () => {
    expect(parse('servers: { true: { command: a }, null: { command: b } }').config?.servers).toMatchObject([
      { id: 'true' },
      { id: 'null' }
    ])
    const { config } = parse('servers: { no: { command: off, args: [no, yes, on, "1"] } }')
    expect(config?.servers).toMatchObject([{ id: 'no', command: 'off', args: ['no', 'yes', 'on', '1'] }])
  })

  it('numbers where text belongs are refused rather than changed', () => {
    for (const number of ['012', '1e3', '0x10', '1.10']) {
      expect(say(parse(`servers: { a: { command: a, args: [${number}] } }`))[0]).toMatch(
        /expected text in quotes, found a number/
      )
    }
  })

  it.each([
    '!!js/function "x"',
    '!!python/object:os.system x',
    '!custom x',
    '!<tag:x> x',
    '!!set { a }',
    '!!timestamp 2001-01-01'
  ])('the tag %s is an error', tagged => {
    const { config, findings } = parse(`servers: { a: { command: ${tagged} } }`)
    expect(config).toBeUndefined()
    expect(findings[0]?.message).toMatch(/tags \(!\) are not supported/)
  })

  it('ten aliases of ten aliases, nine deep, cost no more than the file', () => {
    const levels = Array.from({ length: 9 }, (_, n) => `l${n + 1}: &l${n + 1} [${Array(10).fill(`*l${n}`).join(', ')}]`)
    const begun = performance.now()
    const { config, findings } = parse(['l0: &l0 [x, x, x, x, x, x, x, x, x, x]', ...levels].join('\n'))
    expect(config).toBeUndefined()
    expect(findings.some(({ message }) => message.includes('aliases (*) repeat too much'))).toBe(true)
    expect(performance.now() - begun).toBeLessThan(5000)
  })

  it.each([
    [
      '50 MB',
      (dir: string) => {
        const file = join(dir, 'servers.yaml')
        writeFileSync(file, Buffer.alloc(50_000_000, '#'))
        return file
      }
    ],
    ['a device without end', () => '/dev/zero']
  ])('%s is refused after its first MiB', async (_, make) => {
    const file = make(temporary())
    const before = process.memoryUsage.rss()
    const { config, findings } = await loadConfig({ file, env: {} })
    expect(config).toBeUndefined()
    expect(findings[0]?.message).toMatch(/is larger than 1 MiB/)
    expect(process.memoryUsage.rss() - before).toBeLessThan(40_000_000)
  })

  it('a folder in its place is a finding', async () => {
    expect((await loadConfig({ file: temporary(), env: {} })).findings[0]?.message).toMatch(/cannot be read \(EISDIR\)/)
  })
})

describe('C5: no secret', () => {
  const secret = 'canary-4f1c-secret'

  it('stands in what check and serve say, whatever is wrong around it', async () => {
    const dir = temporary()
    const files = [
      `servers: { a: { url: "http://user:${secret}@127.0.0.1:1/mcp" } }`,
      `servers: { a: { command: node, args: ["--token=${secret}", "${secret}.mjs"], env: { TOKEN: ${secret} } } }`,
      `servers: { a: { command: "/no/such/${secret.replace('canary', 'program')}", env: { TOKEN: "${secret}" } } }`,
      `servers: { a: { command: node, args: [-e, "process.exit(1)"], env: { TOKEN: "${secret}" } }\n  b: "${secret}`,
      `servers: { a: { url: "http://127.0.0.1:1/mcp?key=${secret}", headers: { Authorization: "Bearer ${secret}" } } }`,
      `servers: { a: { command: a, timeout: ${secret}, era: ${secret}, aliases: [${secret}.] } }`
    ]
    const runs = await Promise.all(
      files.map((text, n) => {
        const file = join(dir, `${n}.yaml`)
        writeFileSync(file, text)
        return runSwitchboard(['check', '-c', file, '--json'])
      })
    )
    for (const [n, { stdout, stderr, code }] of runs.entries()) {
      expect(code).not.toBe(0)
      const said = stdout + stderr
      // What node itself writes on stderr, that it has no such module, is the server's own word.
      if (n !== 1) expect([n, said.includes(secret)]).toEqual([n, false])
      else expect(said).not.toContain(`--token=${secret}`)
    }
  })
})

describe('C6: ten thousand patterns', () => {
  const tools = Array.from({ length: 1000 }, (_, n) => `server_${n * 10}_get_thing`)
  it.each([
    ['that begin with text', (n: number) => `server_${n}_*`, 1000],
    ['that are exact', (n: number) => `server_${n}_get_thing`, 1000],
    ['that end in text', (n: number) => `*_${n}_*thing`, 1000],
    ['that exclude', (n: number) => `!server_${n}_?*`, 0]
  ])('%s decide on a thousand names, and then know', (_, pattern, granted) => {
    const patterns = Array.from({ length: 10_000 }, (_, n) => pattern(n))
    const list = granted === 0 ? ['*', ...patterns] : patterns
    const begun = performance.now()
    const policy = compilePolicy(new Map([['s', { tools: list, resources: [], prompts: [] }]]))
    const seen = () => tools.filter(name => policy.sees('s', 'tools', name)).length
    expect(seen()).toBe(granted)
    const first = performance.now() - begun
    expect(seen()).toBe(granted)
    const second = performance.now() - begun - first
    console.info(`${first.toFixed()} ms, again ${second.toFixed(1)} ms`)
    // 50 ms are wanted, and had, where patterns begin with text.
    expect(first).toBeLessThan(2500)
    expect(second).toBeLessThan(50)
  })

  it.each(['""', '"!"', '"!!x"', `"${'x'.repeat(257)}"`, '3', '[a]'])('%s is no pattern', pattern => {
    const { config } = parse(
      `servers: { a: { command: a } }\nkeys: { k: { secret: generated, allow: { a: [${pattern}] } } }`
    )
    expect(config).toBeUndefined()
  })

  it('a regular expression is text that matches nothing', () => {
    const policy = compilePolicy(
      new Map([['s', { tools: ['(a+)+$', '/.*/', '[a-z]*', '^.*$'], resources: [], prompts: [] }]])
    )
    for (const name of ['a', 'aaaa', 'read', '']) expect(policy.sees('s', 'tools', name)).toBe(false)
  })
})

describe('C7: permissions of servers.yaml', () => {
  const text = `servers:
  a:
    command: node
    args: [server.js, --api-key=abc, "postgres://user:pass@host/db", --verbose]
    env: { API_TOKEN: abc, LOG_LEVEL: warn, PORT: "1", DB: "postgres://user:pass@host/db", GIVEN_TOKEN: "\${T}" }
  b: { url: "http://b", headers: { Authorization: Bearer abc, X-Trace: "1" } }
`
  const about = (mode: number) =>
    parse(text, { T: 'taken' }, mode).findings.map(({ path, severity }) => `${severity} ${path}`)

  it.each([0o644, 0o640, 0o604])('%o while secrets stand in it is a warning at each', mode => {
    expect(about(mode)).toEqual([
      'warning servers.a.args[1]',
      'warning servers.a.args[2]',
      'warning servers.a.env.API_TOKEN',
      'warning servers.a.env.DB',
      'warning servers.b.headers.Authorization'
    ])
  })

  it.each([0o600, 0o400])('%o is nothing to speak of', mode => {
    expect(about(mode)).toEqual([])
    expect(parse('servers: { a: { command: a, env: { LOG_LEVEL: warn } } }', {}, 0o644).findings).toEqual([])
  })

  it('that every user may write is a warning, whatever stands in it', async () => {
    const file = join(temporary(), 'servers.yaml')
    writeFileSync(file, 'servers: { a: { command: a } }\n')
    chmodSync(file, 0o666)
    const { config, findings } = await loadConfig({ file, env: {} })
    expect(config).toBeDefined()
    expect(findings).toMatchObject([
      { severity: 'warning', message: expect.stringMatching(/mode 666.*chmod o-w/) as string }
    ])
    chmodSync(file, 0o664)
    expect((await loadConfig({ file, env: {} })).findings).toEqual([])
  })

  it('are never told with a value', () => {
    expect(JSON.stringify(parse(text, { T: 'taken' }, 0o666).findings)).not.toMatch(/abc|user:pass|taken/)
  })
})

describe('C8: a package without its version', () => {
  const places = (command: string, args: string[]) =>
    parse(JSON.stringify({ servers: { a: { command, args } } })).findings.map(
      ({ path, severity }) => `${severity} ${path}`
    )

  it.each([
    ['npx', ['-y', 'pkg'], [1]],
    ['npx', ['-y', '@scope/pkg', '/data'], [1]],
    ['/usr/bin/npx', ['pkg@latest'], [0]],
    ['npx', ['pkg@^1.2.3'], [0]],
    ['npx', ['pkg@1'], [0]],
    ['npx.cmd', ['--yes', '--registry', 'http://r', 'pkg'], [3]],
    ['npx', ['-y', '-p', 'one', '-p', 'two@1.2.3', 'bin', 'argument'], [2]],
    ['npx', ['--package=one', '--', 'bin'], [0]],
    ['bunx', ['pkg'], [0]],
    ['npm', ['exec', '-y', '--', 'pkg'], [3]],
    ['pnpm', ['dlx', 'pkg'], [1]],
    ['uvx', ['pkg'], [0]],
    ['uvx', ['--python', '3.12', 'pkg', '--flag'], [2]],
    ['uvx', ['--from', 'pkg', 'bin'], [1]],
    ['uvx', ['--with', 'extra', 'pkg==1.0'], [1]],
    ['uvx', ['pkg@latest'], [0]],
    ['uv', ['tool', 'run', 'pkg>=1'], [2]],
    ['pipx', ['run', 'pkg'], [1]]
  ])('%s %j is a warning', (command, args, at) => {
    expect(places(command, args)).toEqual(at.map(index => `warning servers.a.args[${index}]`))
  })

  it.each([
    ['npx', ['-y', 'pkg@1.2.3']],
    ['npx', ['-y', '@scope/pkg@2026.8.31-beta.1', 'other']],
    ['npx', ['--no', 'pkg']],
    ['npx', ['--no-install', 'pkg']],
    ['npx', ['./local']],
    ['npx', ['github:owner/repo#0123abc']],
    ['npx', ['-c', 'some command']],
    ['npm', ['start']],
    ['uvx', ['pkg==1.0']],
    ['uvx', ['pkg@1.0.1', 'pkg']],
    ['uvx', ['--from', 'git+https://host/repo@0123abc', 'bin']],
    ['uv', ['run', 'server.py']],
    ['node', ['npx', 'pkg']],
    ['npx', []]
  ])('%s %j is none', (command, args) => {
    expect(places(command, args)).toEqual([])
  })

  it('a command is one program, never a line for a shell', async () => {
    const dir = temporary()
    const file = join(dir, 'servers.yaml')
    const proof = join(dir, 'proof')
    const commands = [`touch ${proof}`, `true; touch ${proof}`, `$(touch ${proof})`, `sh -c "touch ${proof}"`]
    const servers = Object.fromEntries(
      commands.map((command, n) => [`s${n}`, { command, args: [`;touch ${proof}`, `$(touch ${proof})`] }])
    )
    writeFileSync(
      file,
      JSON.stringify({
        servers: { ...servers, real: { command: 'echo', args: [`; touch ${proof}`, `\`touch ${proof}\``] } }
      })
    )
    const { stdout } = await runSwitchboard(['check', '-c', file])
    expect(stdout.match(/was not found/g)).toHaveLength(4)
    expect(existsSync(proof)).toBe(false)
  })
})

/** The paths of all doors, as they stand in the source. */
function doors(): string[] {
  const source = readFileSync(new URL('../src/downstream/app.ts', import.meta.url), 'utf8')
  const single = [...source.matchAll(/app\.(get|post|put|patch|delete|all)\(\s*'([^']+)'/g)]
  const many = [...source.matchAll(/for \(const path of \[([^\]]+)\]/g)].flatMap(([, list = '']) => [
    ...list.matchAll(/'([^']+)'/g)
  ])
  return [...new Set([...single.map(([, , path = '']) => path), ...many.map(([, path = '']) => path)])].sort()
}

it('C9: no request can name a program or an address: these are all the doors there are', () => {
  expect(doors()).toEqual([
    '/health',
    '/healthz',
    '/mcp',
    '/mcp/',
    '/mcp/:server',
    '/mcp/:server/',
    '/messages',
    '/metrics',
    '/openapi.json',
    '/readyz',
    '/sse',
    '/tools',
    '/tools/:name'
  ])
})

attackFrom(
  'C9',
  'no request to any door, with a command, args, env or url wherever it may stand, starts a process or dials an address',
  async (begin, made) => {
    const dir = temporary()
    const asked: string[] = []
    const lure = createServer((req, res) => {
      asked.push(String(req.url))
      res.end()
    })
    const lurePort = await listening(lure)
    const marker = `attack-config-c9-${randomUUID()}`
    const noted = openLedger(join(dir, 'ledger'))
    made.ledger.watch(() => noncesNoted(noted))
    const raw = { command: 'node', args: [fixture('raw-stdio.mjs')], env: { MARKER: marker, LEDGER: noted.path } }
    const { gateway, url: gatewayUrl, key: secret, call } = await begin({ servers: { raw } })
    const proof = join(dir, 'proof')
    const url = `http://127.0.0.1:${lurePort}/lure`
    const bait = {
      command: 'touch',
      args: [proof],
      env: { PATH: '/bin:/usr/bin' },
      cwd: '/',
      url,
      transport: 'stdio',
      type: 'stdio',
      server: { command: 'touch', args: [proof], url },
      servers: { evil: { command: 'touch', args: [proof], url } },
      mcpServers: { evil: { command: 'touch', args: [proof] } },
      config: { command: 'touch', args: [proof], url },
      serverUrl: url,
      endpoint: url,
      callback: url
    }
    const before = marked(marker)
    expect(before).toHaveLength(1)
    const query = `?${String(new URLSearchParams({ command: 'touch', args: proof, url, transportType: 'stdio', servers: 'raw' }))}`
    const session = await openSession(gatewayUrl, secret)
    const key = bearer(secret)
    const paths = doors().map(path => path.replace(':server', 'raw').replace(':name', 'raw__echo'))
    const invented = [
      '/api/servers',
      '/servers',
      '/config',
      '/connect',
      '/test',
      '/proxy',
      '/register',
      '/admin/reload',
      '/mcp-rest/test/connection',
      '/stdio',
      '/'
    ]
    for (const path of [...paths.filter(path => path !== '/sse'), ...invented]) {
      const target = `${gatewayUrl}${path}${query}`
      for (const headers of [key, session.headers]) {
        for (const body of [
          bait,
          {
            jsonrpc: '2.0',
            id: 1,
            method: 'initialize',
            ...bait,
            params: {
              ...bait,
              protocolVersion: '2025-11-25',
              capabilities: bait,
              clientInfo: { name: 'x', version: '1', ...bait }
            }
          }
        ]) {
          await post(target, body, headers).catch(() => {})
        }
      }
      if (!path.startsWith('/mcp')) await send('GET', target, key).catch(() => {})
      for (const method of ['PUT', 'OPTIONS', 'DELETE'] as const) await send(method, target, key).catch(() => {})
    }
    const methods = [
      'tools/call',
      'tools/list',
      'prompts/get',
      'resources/read',
      'completion/complete',
      'servers/add',
      'config/set',
      'ping'
    ]
    for (const method of methods) {
      const params = {
        ...bait,
        name: 'raw__echo',
        uri: url,
        arguments: { message: 'x', ...bait },
        _meta: { ...envelope, ...bait }
      }
      await session.rpc(method, params).catch(() => {})
      await modern(gatewayUrl, secret, method, params).catch(() => {})
    }
    // A child would have been started by now.
    const { json } = await call('raw__echo', { message: 'end' })
    expect(json.result.content[0].text).toBe('end')
    await waitFor(() => marked(marker).length === 1, 'one server')
    expect(marked(marker)).toEqual(before)
    expect(existsSync(proof)).toBe(false)
    expect(asked).toEqual([])
    expect(gateway.gateway.status().map(({ id }) => id)).toEqual(['healthy', 'raw'])
  }
)
