import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { configJsonSchema } from '../src/config/json-schema.js'
import { loadConfig, parseConfig, type Loaded } from '../src/config/load.js'

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
const digest = `sha256:${sha256('a')}`

interface Around {
  env?: Record<string, string>
  files?: Record<string, string>
}

function parse(text: string, { env = {}, files = {} }: Around = {}): Loaded {
  const read = (path: string) => {
    const content = files[path]
    if (content === undefined) throw Object.assign(new Error('no such file'), { code: 'ENOENT' })
    return content
  }
  return parseConfig({ text, file: '/etc/sb/servers.yaml', env, readFile: read, now: Date.UTC(2026, 8, 1) })
}

/** The findings as `line:column severity message`, with the server or key they are limited to. */
function say({ findings }: Loaded): string[] {
  return findings.map(({ line, column, severity, server, key, message }) => {
    const scope = server === undefined ? (key === undefined ? '' : ` (key ${key})`) : ` (server ${server})`
    return `${line}:${column} ${severity}${scope} ${message}`
  })
}

function sayOnly(text: string, around?: Around): string {
  const lines = say(parse(text, around))
  expect(lines).toHaveLength(1)
  return lines[0]!
}

const oneServer = 'servers:\n  a: { url: "http://a/mcp" }\n'

describe('a good servers.yaml', () => {
  test('a url is all a server needs, and everything else has its default', () => {
    const { config, findings } = parse(oneServer)
    expect(findings).toEqual([])
    expect(config).toEqual({
      file: '/etc/sb/servers.yaml',
      dir: '/etc/sb',
      listen: { host: '127.0.0.1', port: 8585, title: 'switchboard', allowedHosts: [], allowedOrigins: [] },
      servers: [
        {
          id: 'a',
          transport: 'auto',
          args: [],
          env: {},
          cwd: '/etc/sb',
          start: 'eager',
          idleStop: 0,
          url: 'http://a/mcp',
          headers: {},
          aliases: [],
          namespace: true,
          instructions: true,
          resourceClaims: [],
          timeout: 300,
          maxTimeout: 1800,
          connectTimeout: 10,
          startTimeout: 60,
          listTimeout: 15,
          concurrency: 20,
          queue: 200,
          queueTimeout: 10,
          era: 'auto',
          retry: 'never',
          isolation: 'shared'
        }
      ],
      keys: [{ id: 'admin', secrets: [{ kind: 'generated' }], allow: '*' }],
      limits: expect.any(Object),
      broken: []
    })
  })

  test('every field arrives', () => {
    const text = `
listen: { host: 0.0.0.0, port: 0, title: Lab, allowed_hosts: [lab], allowed_origins: ["http://lab"] }
state: var/state
session_secret: \${SESSION}
servers:
  zeta:
    transport: sse
    command: node
    args: [server.js, "\${PORT:-9000}"]
    env: { TOKEN: "file:token", LEVEL: warn }
    cwd: zeta
    start: lazy
    idle_stop: 7
    url: http://localhost:9000/sse
    headers: { Authorization: "Bearer \${TOKEN}" }
    description: The last letter
    aliases: [last]
    namespace: false
    instructions: false
    resource_claims: ["gh://"]
    timeout: 1.5
    max_timeout: 20
    connect_timeout: 3
    start_timeout: 4
    list_timeout: 5
    concurrency: 6
    queue: 0
    queue_timeout: 8
    era: legacy
    retry: annotated
    isolation: shared
  alpha: { command: alpha }
keys:
  one:
    secret: [ "${digest.replace(/[a-f0-9]{64}/, hex => hex.toUpperCase())}", "\${ONE_KEY}", file:/run/one, generated ]
    expires: 2027-02-19
    allow: { zeta: ["read_*", "!read_all"], alpha: { tools: [x], prompts: ["*"] } }
  two: { secret: os.environ/TWO_KEY, allow: { alpha: "*" } }
  three: { secret: generated, allow: "*" }
`
    const env = {
      SESSION: 's'.repeat(32),
      TOKEN: 't0ken',
      ONE_KEY: 'one-one-one-one-one',
      TWO_KEY: 'two-two-two-two-two'
    }
    const { config, findings } = parse(text, {
      env,
      files: { '/etc/sb/token': 'from-file\n', '/run/one': 'file-one-file-one\n' }
    })
    expect(findings).toEqual([])
    expect(config?.listen).toEqual({
      host: '0.0.0.0',
      port: 0,
      title: 'Lab',
      allowedHosts: ['lab'],
      allowedOrigins: ['http://lab']
    })
    expect(config?.state).toBe('/etc/sb/var/state')
    expect(config?.sessionSecret).toBe('s'.repeat(32))
    expect(config?.servers.map(server => [server.id, server.transport])).toEqual([
      ['zeta', 'sse'],
      ['alpha', 'stdio']
    ])
    expect(config?.servers[0]).toEqual({
      id: 'zeta',
      transport: 'sse',
      command: 'node',
      args: ['server.js', '9000'],
      env: { TOKEN: 'from-file', LEVEL: 'warn' },
      cwd: '/etc/sb/zeta',
      start: 'lazy',
      idleStop: 7,
      url: 'http://localhost:9000/sse',
      headers: { Authorization: 'Bearer t0ken' },
      description: 'The last letter',
      aliases: ['last'],
      namespace: false,
      instructions: false,
      resourceClaims: ['gh://'],
      timeout: 1.5,
      maxTimeout: 20,
      connectTimeout: 3,
      startTimeout: 4,
      listTimeout: 5,
      concurrency: 6,
      queue: 0,
      queueTimeout: 8,
      era: 'legacy',
      retry: 'annotated',
      isolation: 'shared'
    })
    expect(config?.keys).toEqual([
      {
        id: 'one',
        secrets: [
          { kind: 'digest', sha256: sha256('a') },
          { kind: 'digest', sha256: sha256('one-one-one-one-one') },
          { kind: 'digest', sha256: sha256('file-one-file-one') },
          { kind: 'generated' }
        ],
        expires: Date.UTC(2027, 1, 20) - 1,
        allow: new Map([
          ['zeta', { tools: ['read_*', '!read_all'], resources: [], prompts: [] }],
          ['alpha', { tools: ['x'], resources: [], prompts: ['*'] }]
        ])
      },
      {
        id: 'two',
        secrets: [{ kind: 'digest', sha256: sha256('two-two-two-two-two') }],
        allow: new Map([['alpha', '*']])
      },
      { id: 'three', secrets: [{ kind: 'generated' }], allow: '*' }
    ])
  })

  test('nothing of it can be changed afterwards', () => {
    const { config, findings } = parse(`${oneServer}keys:\n  k: { secret: generated, allow: { a: ["!x"] } }\n`)
    const frozen = (value: unknown): boolean => {
      if (typeof value !== 'object' || value === null) return true
      const inner = value instanceof Map ? [...value.values()] : Object.values(value)
      return Object.isFrozen(value) && inner.every(frozen)
    }
    expect(findings.length).toBeGreaterThan(0)
    expect(frozen(config)).toBe(true)
    expect(frozen(findings)).toBe(true)
  })

  test('a hash that arrives in a variable is a hash, not a password', () => {
    const { config } = parse(`${oneServer}keys: { k: { secret: "\${K}", allow: "*" } }\n`, { env: { K: digest } })
    expect(config?.keys[0]?.secrets).toEqual([{ kind: 'digest', sha256: sha256('a') }])
  })

  test('resource patterns that begin with file: are not read as files', () => {
    const { config, findings } = parse(
      `${oneServer}keys: { k: { secret: generated, allow: { a: { resources: ["file:///data/**"] } } } }\n`
    )
    expect(findings).toEqual([])
    expect(config?.keys[0]?.allow).toEqual(new Map([['a', { tools: [], resources: ['file:///data/**'], prompts: [] }]]))
  })

  test('an entry may be repeated with an anchor and aliases, and each finding has the line where it takes effect', () => {
    const servers = Array.from(
      { length: 20 },
      (_, index) => `  s${index}: { url: "http://s${index}", headers: *auth }\n`
    ).join('')
    const text = `servers:\n  first: { url: "http://f", headers: &auth { X-Key: "\${KEY}" } }\n${servers}`
    expect(parse(text, { env: { KEY: 'k' } }).config?.servers).toHaveLength(21)
    const { config, findings } = parse(text)
    expect(config?.broken).toHaveLength(21)
    expect(findings.every(({ line }) => line === 2)).toBe(true)
  })
})

describe('an unset variable', () => {
  test('in one server leaves out that server and keeps the rest serving', () => {
    const text = `servers:
  good: { url: "http://good" }
  bad:
    url: http://bad
    headers:
      Authorization: "Bearer \${MONITORING_TOKEN}"
keys:
  k: { secret: generated, allow: { bad: "*", good: "*" } }
`
    const loaded = parse(text)
    const message =
      'servers.bad.headers.Authorization: the variable MONITORING_TOKEN is not set. Set it for the gateway, or write ${MONITORING_TOKEN:-default}.'
    expect(loaded.findings).toEqual([
      { severity: 'error', server: 'bad', path: 'servers.bad.headers.Authorization', line: 6, column: 22, message }
    ])
    expect(loaded.config?.servers.map(server => server.id)).toEqual(['good'])
    expect(loaded.config?.broken).toEqual([{ kind: 'server', id: 'bad', reason: message }])
  })

  test('in a field of any type is the only finding about it', () => {
    const { config, findings } = parse(
      'servers:\n  a: { url: "${A}", timeout: "${B}", era: "${C}", aliases: ["${D} ${E}"] }\n'
    )
    expect(findings.map(({ path }) => path)).toEqual([
      'servers.a.url',
      'servers.a.timeout',
      'servers.a.era',
      'servers.a.aliases[0]'
    ])
    expect(findings[3]?.message).toBe(
      'servers.a.aliases[0]: the variables D, E are not set. Set them for the gateway, or write ${D:-default}.'
    )
    expect(config?.broken[0]?.reason).toBe(findings.map(({ message }) => message).join(' '))
  })

  test('in one key leaves out that key, and never opens the gateway by it', () => {
    const { config, findings } = parse(
      `listen: { host: 0.0.0.0 }\n${oneServer}keys:\n  k: { secret: ["${digest}", "\${NEXT}"], allow: "*" }\n`
    )
    const message = 'keys.k.secret[1]: the variable NEXT is not set. Set it for the gateway.'
    expect(findings).toMatchObject([{ key: 'k', message, line: 5 }])
    expect(config?.keys).toEqual([])
    expect(config?.broken).toEqual([{ kind: 'key', id: 'k', reason: message }])
  })

  test.each(['listen: { title: "${X}" }\n', 'state: ${X}\n', 'session_secret: ${X}\n'])(
    'outside servers and keys stops the whole file: %j',
    text => {
      const loaded = parse(text + oneServer)
      expect(loaded.config).toBeUndefined()
      expect(say(loaded)).toEqual([expect.stringMatching(/^1:\d+ error \S+: the variable X is not set\. /)])
    }
  )

  test('a secret file that cannot be read breaks only its server or key', () => {
    const { config, findings } = parse(`servers:
  a: { url: "http://a" }
  b: { url: "http://b", headers: { X: file:none } }
keys:
  k: { secret: file:/run/none, allow: "*" }
  l: { secret: generated, allow: "*" }
`)
    expect(findings.map(({ message }) => message)).toEqual([
      'servers.b.headers.X: cannot read file:none (ENOENT). Create the file or correct the path.',
      'keys.k.secret: cannot read file:/run/none (ENOENT). Create the file or correct the path.'
    ])
    expect(config?.broken.map(({ kind, id }) => `${kind} ${id}`)).toEqual(['server b', 'key k'])
    expect(config?.servers.map(server => server.id)).toEqual(['a'])
    expect(config?.keys.map(key => key.id)).toEqual(['l'])
  })

  test('a server that is broken may still be named by a key', () => {
    const loaded = parse('servers:\n  a: { url: "${A}" }\nkeys: { k: { secret: generated, allow: { a: "*" } } }\n')
    expect(loaded.findings.map(({ path }) => path)).toEqual(['servers.a.url'])
    expect(loaded.config).toBeDefined()
  })

  test('a malformed ${ is a mistake in the file and stops it', () => {
    const loaded = parse('servers:\n  a: { url: "${A:-${B}}" }\n')
    expect(loaded.config).toBeUndefined()
    expect(say(loaded)).toEqual([
      '2:13 error servers.a.url: a ${…} cannot stand inside another. Write the default as plain text.'
    ])
  })
})

describe('a mistake in servers.yaml', () => {
  test('everything that is wrong is said at once, in the order of the file', () => {
    const loaded = parse(`listen: { hots: 127.0.0.1, port: "8080" }
servers:
  postgres:
    url: ftp://pg
    timout: 3
    transport: ssee
    timeout: 2000
  files:
    args: 7
    concurrency: 0
    isolation: session
  1x: { command: x, env: { PORT: 8080 } }
keys:
  dev:
    secret: hunter2hunter2hunter2
    allow: { postgers: ["a"], files: { tool: [a] }, 1x: [""] }
  ops: { secret: ["sha256:abc"], allow: [x] }
  old: { secret: [], expires: 2027-02-30 }
mcp_servers: {}
`)
    expect(loaded.config).toBeUndefined()
    expect(say(loaded)).toEqual([
      '1:11 error listen.hots: unknown key. Did you mean `host`?',
      '1:34 error listen.port: expected a whole number from 0 to 65535, found text (quotes and variables make text).',
      '4:10 error servers.postgres.url: expected an http or https address such as http://localhost:3000/mcp, found other text.',
      '5:5 error servers.postgres.timout: unknown key. Did you mean `timeout`?',
      '6:16 error servers.postgres.transport: expected stdio, sse or http, found other text. Did you mean `sse`?',
      '7:14 error servers.postgres.timeout: timeout (2000 s) is longer than max_timeout (1800 s). Raise max_timeout or lower timeout.',
      '8:3 error servers.files: needs command (a program to start) or url (an address to dial).',
      '9:11 error servers.files.args: expected a list of texts, found a number.',
      '10:18 error servers.files.concurrency: expected a whole number from 1 to 10000, found 0.',
      '11:16 error servers.files.isolation: expected shared (key and session are not available yet), found other text.',
      '12:3 error servers.1x: expected a name such as `postgres` or `my-db`: a letter, then letters and digits, single - or _ between them, at most 32 characters.',
      '15:13 error keys.dev.secret: a secret must not stand here in clear text. Run `switchboard key new dev` and paste the sha256: line it prints.',
      '16:14 error keys.dev.allow.postgers: there is no such server. Did you mean `postgres`?',
      '16:40 error keys.dev.allow.files.tool: unknown key. Did you mean `tools`?',
      '16:58 error keys.dev.allow.1x[0]: expected a pattern of 1 to 256 characters such as "read_*" or "!delete_*", found an empty text.',
      '17:19 error keys.ops.secret[0]: expected sha256: and 64 hexadecimal digits, found sha256: and 3 characters. Run `switchboard key new ops` and paste the sha256: line it prints.',
      '17:41 error keys.ops.allow: expected "*" or a map from server names to what the key may use there, found a list.',
      '18:3 error keys.old.allow: missing; expected "*" or a map from server names to what the key may use there.',
      '18:18 error keys.old.secret: expected a secret as text, or a list of them, found an empty list.',
      '18:31 error keys.old.expires: expected a date such as 2027-02-19, found other text.',
      '19:1 error mcp_servers: unknown key. Did you mean `servers`?'
    ])
  })

  test('a typo that is like nothing known is answered with what is known', () => {
    expect(sayOnly(`${oneServer}keys:\n  k: { secret: generated, allow: "*", permissions: 1 }\n`)).toBe(
      '4:39 error keys.k.permissions: unknown key. Known here: secret, expires, allow.'
    )
  })

  test('a misspelt allow grants nothing: the key is refused', () => {
    const loaded = parse(`${oneServer}keys:\n  k: { secret: generated, alow: "*" }\n`)
    expect(loaded.config).toBeUndefined()
    expect(loaded.findings.map(({ message }) => message)).toEqual([
      'keys.k.allow: missing; expected "*" or a map from server names to what the key may use there.',
      'keys.k.alow: unknown key. Did you mean `allow`?'
    ])
  })

  test.each([
    [
      'servers: { a: { url: "http://a", transport: stdio } }',
      'servers.a.transport: stdio has no url. Remove the url, or write sse or http.'
    ],
    [
      'servers: { a: { command: a, transport: http } }',
      'servers.a.transport: http needs a url. Add it, or write stdio.'
    ],
    ['servers: { a: { url: "http://a", cwd: x } }', 'servers.a.cwd: needs a command. Add one, or remove this.'],
    ['servers: { a: { url: "http://a", start: lazy } }', 'servers.a.start: needs a command. Add one, or remove this.'],
    [
      'servers: { a: { url: "http://a", idle_stop: 9 } }',
      'servers.a.idle_stop: needs a command. Add one, or remove this.'
    ],
    ['servers: { a: { url: "http://a", args: [x] } }', 'servers.a.args: needs a command. Add one, or remove this.'],
    ['servers: { a: { url: "http://a", env: { A: b } } }', 'servers.a.env: needs a command. Add one, or remove this.'],
    ['servers: { a: { command: a, headers: { A: b } } }', 'servers.a.headers: needs a url. Add one, or remove this.'],
    ['servers: { a: { command: a, env: { A: 1 } } }', 'servers.a.env.A: expected text in quotes, found a number.'],
    [
      'servers: { a: { command: a, timeout: .inf } }',
      'servers.a.timeout: expected a number of seconds above 0 and at most 86400, found Infinity.'
    ],
    [
      'servers: { a: { command: a, namespace: "no" } }',
      'servers.a.namespace: expected true or false, found text (quotes and variables make text).'
    ],
    [
      'servers: { a: { command: a, max_timeout: 100 } }',
      'servers.a.max_timeout: timeout (300 s) is longer than max_timeout (100 s). Raise max_timeout or lower timeout.'
    ],
    ['servers: { a: }', 'servers.a: expected a map with at least command or url, found nothing.'],
    [
      'servers: { a: { url: "http://a", headers: { X: "a\\nb" } } }',
      'servers.a.headers.X: expected the value of an HTTP header: no line breaks or control characters, Latin-1 only, found other text.'
    ],
    ['listen: {}', 'servers: missing; expected a map from server names to servers.'],
    ['- a', 'expected a map with servers, and maybe keys and listen, found a list.'],
    ['servers: { a: { command: a } }\nkeys:', 'keys: expected a map from key names to keys, found nothing.'],
    [
      'servers: { a: { command: a, aliases: [db] } }\nkeys: { k: { secret: generated, allow: { db: "*", a: "*" } } }',
      'keys.k.allow.db: there is no such server. It is an alias: write `a`.'
    ],
    [
      'servers: { a: { command: a } }\nkeys: { k: { secret: generated, allow: { other: "*", a: "*" } } }',
      'keys.k.allow.other: there is no such server. Known servers: a.'
    ]
  ])('%j', (text, message) => {
    const loaded = parse(text)
    expect(loaded.config).toBeUndefined()
    expect(loaded.findings.map(finding => finding.message)).toEqual([message])
  })

  test('names that differ only by case, - or _ are the same name', () => {
    const loaded = parse(`servers:
  my-db: { command: a }
  My_DB: { command: b }
  other: { command: c, aliases: [MY_db, more, other] }
`)
    expect(say(loaded)).toEqual([
      '3:3 error servers.My_DB: the same name as servers.my-db: case, - and _ make no difference. Rename one.',
      '4:34 error servers.other.aliases[0]: the same name as servers.my-db: case, - and _ make no difference. Rename one.',
      '4:47 error servers.other.aliases[2]: the same name as servers.other: case, - and _ make no difference. Rename one.'
    ])
  })

  test.each(['tools', 'Invoke', 'servers', 'api'])('a server cannot be called %s', name => {
    expect(sayOnly(`servers:\n  ${name}: { command: a }\n`)).toBe(
      `2:3 error servers.${name}: this name is reserved (tools, invoke, servers, api). Choose another.`
    )
  })

  test.each(['a__b', 'a_', '-a', 'a.b', 'x'.repeat(33), 'größe', '"a b"', '""'])('%s is not a name', name => {
    const { config, findings } = parse(`servers:\n  ${name}: { command: a }\n`)
    expect(config).toBeUndefined()
    expect(findings).toHaveLength(1)
    expect(findings[0]?.message).toContain('expected a name such as `postgres`')
  })

  test.each(['__proto__', 'constructor', 'toString'])('%s is not a name either', name => {
    expect(sayOnly(`servers:\n  ${name}: { command: a }\n`)).toBe(
      `2:3 error servers.${name}: this name is reserved. Choose another.`
    )
  })

  test('a name that stands twice is an error with both lines', () => {
    expect(sayOnly('servers:\n  a: { command: a }\n  b: { command: b }\n  a: { command: c }\n')).toBe(
      '2:3 error servers.a: appears again on line 4. Keep one of them.'
    )
  })

  test('two keys with the same secret are named, both', () => {
    const text = `${oneServer}keys:\n  one: { secret: "\${K}", allow: "*" }\n  two: { secret: "sha256:${sha256('same-same-same-same')}", allow: "*" }\n`
    expect(sayOnly(text, { env: { K: 'same-same-same-same' } })).toBe(
      '5:18 error keys.two.secret: the same secret as that of keys.one. Give each key its own.'
    )
  })

  test('an address that others can reach needs keys', () => {
    const message =
      '1:17 error listen.host: other machines can reach this address, but there are no keys. Run `switchboard key new admin` and put what it prints under keys, or listen on 127.0.0.1.'
    for (const host of ['0.0.0.0', '"::"', '10.0.0.1', 'lan.example', '127.evil.example']) {
      expect(sayOnly(`listen: { host: ${host} }\n${oneServer}`)).toBe(message)
      expect(parse(`listen: { host: ${host} }\n${oneServer}keys: {}\n`).config).toBeUndefined()
      expect(
        parse(`listen: { host: ${host} }\n${oneServer}keys: { a: { secret: generated, allow: "*" } }`).findings
      ).toEqual([])
    }
    for (const host of ['localhost', '"::1"', '127.0.0.1', '127.1.2.3']) {
      expect(parse(`listen: { host: ${host} }\n${oneServer}`).findings).toEqual([])
    }
  })
})

describe('a warning', () => {
  test('is given for what will not work as it looks, and the gateway starts', () => {
    const loaded = parse(
      `session_secret: 0123456789abcdef
servers:
  used: { command: a }
  unused: { command: b }
keys:
  short: { secret: "\${SHORT}", allow: { used: "*" } }
  old: { secret: generated, expires: 2026-08-31, allow: {} }
  denied:
    secret: generated
    allow:
      unused: ["!a", "!b"]
      used: { resources: ["!file:///**"], tools: [a, "!b"] }
`,
      { env: { SHORT: 'only-15-letters' } }
    )
    expect(say(loaded)).toEqual([
      '1:17 warning session_secret: stands here in clear text. Write ${VAR} or file:/path instead.',
      '4:3 warning (server unused) servers.unused: no key may use this server. Name it in the allow of a key, or remove it.',
      '6:20 warning (key short) keys.short.secret: this secret is shorter than 16 characters and could be guessed. Use a longer one.',
      '7:38 warning (key old) keys.old.expires: this key has expired. Give it a later date, or remove it.',
      '11:15 warning (key denied) keys.denied.allow.unused: only exclusions (!) grant nothing. Add what is allowed, such as "*".',
      '12:26 warning (key denied) keys.denied.allow.used.resources: only exclusions (!) grant nothing. Add what is allowed, such as "*".'
    ])
    expect(loaded.config?.servers).toHaveLength(2)
    expect(loaded.config?.keys).toHaveLength(3)
    expect(loaded.config?.broken).toEqual([])
  })

  test('a key works on its last day', () => {
    expect(parse(`${oneServer}keys: { k: { secret: generated, expires: 2026-09-01, allow: "*" } }`).findings).toEqual(
      []
    )
  })

  test('a file without servers is allowed', () => {
    const loaded = parse('servers: {}\n')
    expect(say(loaded)).toEqual(['1:1 warning servers: there are no servers, so there is nothing to serve. Add one.'])
    expect(loaded.config?.servers).toEqual([])
  })
})

describe('a secret', () => {
  const secret = 'sk-live-0123456789'
  const cure = 'Run `switchboard key new k` and paste the sha256: line it prints.'

  test('in clear text is refused, and so is one that is only the default of a variable', () => {
    for (const written of [secret, `\${UNSET:-${secret}}`, `$\${${secret}}`]) {
      expect(sayOnly(`${oneServer}keys:\n  k: { secret: '${written}', allow: "*" }\n`)).toBe(
        `4:16 error keys.k.secret: a secret must not stand here in clear text. ${cure}`
      )
    }
  })

  test('that is empty breaks its key', () => {
    const loaded = parse(`${oneServer}keys:\n  k: { secret: "\${K}", allow: "*" }\n`, { env: { K: '' } })
    expect(say(loaded)).toEqual([
      '4:16 error (key k) keys.k.secret: this secret is empty. Give the variable or file a value.'
    ])
    expect(loaded.config?.keys).toEqual([])
  })

  test.each([
    `servers: { a: { url: "http://user:${secret}@host/" } }`,
    `servers: { a: { url: "${secret}" } }`,
    `servers: { a: { url: "http://a", headers: { Authorization:Bearer ${secret} } } }`,
    `servers: { a: { url: "http://a", headers: "Authorization: ${secret}" } }`,
    `servers: { a: { url: "http://a", headers: { Authorization: "\${S}\\n" } } }`,
    `servers: { a: { url: "\${S}", transport: "\${S}", timeout: "\${S}", aliases: ["\${S}"] } }`,
    `listen: { host: "\${S}" }\nservers: { a: { command: "\${S}" } }`,
    `servers: { a: { command: a } }\nkeys: { k: { secret: ${secret}, allow: "*" } }`,
    `servers: { a: { command: a } }\nkeys: { k: { secret: !${secret}, allow: "*" } }`,
    `servers: { a: { command: a } }\nkeys: { k: { secret: *${secret}, allow: "*" } }`,
    `servers: { a: { command: a } }\nkeys: { k: { secret: ["${secret}", 1], allow: "*" } }`,
    `servers: { a: { command: a } }\nkeys: { k: { secret: sha256:${secret}, allow: "*", expires: ${secret} } }`,
    `servers: { a: { command: a } }\nkeys: { k: { secret: ["\${S}", "\${UNSET} \${S}"], allow: "\${S}" }, l: { secret: "\${S}", allow: "*" } }`,
    `servers: { a: { command: a } }\nkeys: { k: { secret: "x" ${secret}, allow: "*" } }`,
    `servers:\n  a:\n    url: x\n   secret: ${secret}\n  b: [ "${secret}`,
    `session_secret: ${secret}\nservers: { a: { command: a, isolation: ${secret}, era: ${secret} } }`,
    `${secret}`
  ])('is not quoted in any finding about it (%#)', text => {
    const loaded = parse(text, { env: { S: secret } })
    expect(loaded.findings.length).toBeGreaterThan(0)
    expect(JSON.stringify(loaded.findings)).not.toContain(secret)
    expect(JSON.stringify(loaded.findings)).not.toContain(secret.slice(3))
  })

  test('from the environment or a file is not kept', () => {
    const { config } = parse(`${oneServer}keys: { k: { secret: ["\${S}", file:/s], allow: "*" } }`, {
      env: { S: secret },
      files: { '/s': 'another-secret-of-mine' }
    })
    expect(config?.keys[0]?.secrets).toHaveLength(2)
    expect(JSON.stringify(config)).not.toContain(secret)
    expect(JSON.stringify(config)).not.toContain('another-secret-of-mine')
  })
})

describe('a file that is no good YAML', () => {
  test.each(['', '\n\n', '# only a comment\n', '~', '---\n'])(
    'empty, %j, is answered with the smallest one that works',
    text => {
      const loaded = parse(text)
      expect(loaded).toEqual({
        findings: [
          {
            severity: 'error',
            path: '',
            message:
              'servers.yaml is empty. The smallest one that works:\nservers:\n  example:\n    url: http://localhost:3000/mcp'
          }
        ]
      })
      const example = loaded.findings[0]?.message.split(':\n').slice(1).join(':\n') ?? ''
      expect(parse(example).findings).toEqual([])
    }
  )

  test.each([
    ['servers:\n  a: !!binary aGk=\n', '2:6 error tags (!) are not supported. If it is text, put it in quotes.'],
    ['servers:\n  a: !!js/function x\n', '2:6 error tags (!) are not supported. If it is text, put it in quotes.'],
    ['servers: {}\n---\nservers: {}\n', '2:1 error expected one document, found a second one (---). Remove it.'],
    ['servers:\n\ta: {}\n', '2:1 error a tab is used as indentation. Use spaces.'],
    ['servers: @a\n', '1:10 error a value cannot begin with this character. Put it in quotes.'],
    ['servers: { a: { command: "x }\n', '2:1 error a quote, bracket, comma or colon is missing, here or before.'],
    ['servers:\n  a: { ? [x] : y }\n', '2:10 error expected only plain names as keys. Write each key as text.'],
    [
      'servers:\n  a: { command: *x }\n',
      '2:17 error servers.a.command: this alias (*) names no anchor (&) that ends before it. If it is text, put it in quotes.'
    ],
    [
      'servers: &s { a: *s }\n',
      '1:18 error servers.a: this alias (*) names no anchor (&) that ends before it. If it is text, put it in quotes.'
    ],
    ['*x', '1:1 error this alias (*) names no anchor (&) that ends before it. If it is text, put it in quotes.'],
    [
      'servers:\n  a: &a { command: x }\n  b: { <<: *a, command: y }\n',
      '3:8 error servers.b["…"]: merge keys (<<) are not supported. Write the entries out.'
    ]
  ])('%j', (text, message) => {
    const loaded = parse(text)
    expect(loaded.config).toBeUndefined()
    expect(say(loaded)[0]).toBe(message)
  })

  test.each([
    ['lists in lists', '['.repeat(50_000)],
    ['closed lists in lists', `servers: ${'['.repeat(900)}${']'.repeat(900)}`],
    ['maps in maps', '{a: '.repeat(5000)],
    ['indentation', Array.from({ length: 1000 }, (_, depth) => `${' '.repeat(depth)}a:`).join('\n')],
    [
      'aliases that multiply',
      [
        'a: &a0 [x, x, x, x, x, x, x, x, x]',
        ...Array.from({ length: 9 }, (_, n) => `b${n}: &a${n + 1} [${`*a${n},`.repeat(9)}]`)
      ].join('\n')
    ],
    ['a list that holds itself', 'servers: &s [*s, *s]'],
    ['a hundred thousand keys', Array.from({ length: 100_000 }, (_, n) => `k${n}:`).join('\n')],
    ['ten thousand anchors', Array.from({ length: 10_000 }, (_, n) => `- &k${n} 1\n- *k${n}`).join('\n')],
    ['more than 1 MiB', `#${'x'.repeat(1_048_576)}`]
  ])('%s cannot hang or crash it', (_, text) => {
    const started = performance.now()
    const { config, findings } = parse(text)
    expect(config).toBeUndefined()
    expect(findings.length).toBeGreaterThan(0)
    expect(performance.now() - started).toBeLessThan(20_000)
  })
})

describe('whatever stands in the file', () => {
  const word = fc.constantFrom(
    'a',
    'b',
    'A',
    'tools',
    '${SET}',
    '${UNSET}',
    '${',
    'file:x',
    '*',
    '!x',
    'generated',
    digest,
    ''
  )
  const leaf = fc.oneof(
    word,
    word,
    fc.string(),
    fc.constantFrom('http://a', 'sse', 'stdio', '0.0.0.0'),
    fc.integer(),
    fc.double(),
    fc.boolean(),
    fc.constant(null)
  )
  const value = fc.oneof(
    { weight: 3, arbitrary: leaf },
    fc.array(leaf, { maxLength: 3 }),
    fc.dictionary(word, leaf, { maxKeys: 3 })
  )
  const name = fc.oneof({ weight: 5, arbitrary: fc.constantFrom('a', 'b', 'A', 'a-b', 'a_b') }, word)
  const some = (members: string[]) =>
    fc.dictionary(fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...members) }, word), value, { maxKeys: 4 })
  const server = some(['command', 'url', 'url', 'transport', 'args', 'env', 'headers', 'aliases', 'timeout', 'cwd'])
  const key = some(['secret', 'secret', 'allow', 'allow', 'expires'])
  const file = fc.record(
    {
      listen: fc.oneof(some(['host', 'port', 'title']), value),
      state: value,
      session_secret: value,
      servers: fc.oneof(
        { weight: 9, arbitrary: fc.dictionary(name, fc.oneof({ weight: 9, arbitrary: server }, value)) },
        value
      ),
      keys: fc.oneof(
        { weight: 9, arbitrary: fc.dictionary(name, fc.oneof({ weight: 9, arbitrary: key }, value)) },
        value
      )
    },
    { requiredKeys: [] }
  )
  const env = { SET: 'a-value-nobody-sees' }

  test('there is a config exactly when every error is limited to a server or key, which it then leaves out', () => {
    fc.assert(
      fc.property(file, tree => {
        const { config, findings } = parse(stringify(tree), { env, files: { '/etc/sb/x': 'file-content-nobody-sees' } })
        const errors = findings.filter(({ severity }) => severity === 'error')
        expect(config === undefined).toBe(errors.some(error => error.server === undefined && error.key === undefined))
        expect(JSON.stringify(findings)).not.toContain('nobody-sees')
        const ids = (kind: string) => config?.broken.filter(one => one.kind === kind).map(({ id }) => id)
        if (!config) return
        expect(new Set(errors.map(({ server }) => server).filter(Boolean))).toEqual(new Set(ids('server')))
        expect(new Set(errors.map(error => error.key).filter(Boolean))).toEqual(new Set(ids('key')))
        for (const { id } of config.servers) expect(ids('server')).not.toContain(id)
        for (const { id, secrets } of config.keys) {
          expect(ids('key')).not.toContain(id)
          expect(secrets.length).toBeGreaterThan(0)
        }
      }),
      { numRuns: 500 }
    )
  })

  test('it never throws, and every finding has its place', () => {
    const piece = fc.constantFrom(
      'a',
      ':',
      ' ',
      '\n',
      '  ',
      '- ',
      '{',
      '}',
      '[',
      ']',
      ',',
      '"',
      "'",
      '&a',
      '*a',
      '!',
      '<<',
      '?',
      '#',
      '|',
      '>',
      '%',
      '---',
      '\t',
      'servers',
      'keys',
      '${A}'
    )
    fc.assert(
      fc.property(
        fc.array(piece, { maxLength: 40 }).map(pieces => pieces.join('')),
        text => {
          const { config, findings } = parse(text)
          expect(config === undefined).toBe(findings.some(({ severity }) => severity === 'error'))
          for (const { line, message } of findings)
            expect(line !== undefined || / is empty\. /.test(message)).toBe(true)
        }
      ),
      { numRuns: 500 }
    )
  })
})

describe('loading from disk', () => {
  test('relative paths are relative to the file, and a missing file is a finding', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'switchboard-config-'))
    try {
      const file = join(folder, 'servers.yaml')
      await writeFile(join(folder, 'key'), 'a-key-in-a-file-of-its-own\n')
      await writeFile(file, '\ufeffservers: { a: { command: a } }\r\nkeys: { k: { secret: file:key, allow: "*" } }\r\n')
      const { config, findings } = await loadConfig({ file, env: {} })
      expect(findings).toEqual([])
      expect(config?.dir).toBe(folder)
      expect(config?.servers[0]?.cwd).toBe(folder)
      expect(config?.keys[0]?.secrets).toEqual([{ kind: 'digest', sha256: sha256('a-key-in-a-file-of-its-own') }])

      const missing = join(folder, 'none.yaml')
      expect((await loadConfig({ file: missing, env: {} })).findings).toEqual([
        { severity: 'error', path: '', message: `${missing} cannot be read (ENOENT). Create it, or name another file.` }
      ])
      await writeFile(file, Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from('servers: {}', 'utf16le')]))
      expect((await loadConfig({ file, env: {} })).findings[0]?.message).toBe(
        `${file} is not UTF-8 text. Save it as UTF-8.`
      )
    } finally {
      await rm(folder, { recursive: true })
    }
  })
})

describe('servers.schema.json', () => {
  test('is what the schema says; if not, write it anew from configJsonSchema()', async () => {
    const committed: unknown = JSON.parse(await readFile(new URL('../servers.schema.json', import.meta.url), 'utf8'))
    expect(committed).toEqual(configJsonSchema())
  })

  test('has a sentence for every field', () => {
    const silent: string[] = []
    const visit = (node: any, path: string) => {
      for (const [name, field] of Object.entries<any>(node.properties ?? {})) {
        if (!/\S+.*\.$/.test(field.description ?? '')) silent.push(`${path}.${name}`)
        visit(field, `${path}.${name}`)
      }
      for (const inner of [...(node.anyOf ?? []), node.additionalProperties, node.items]) {
        if (typeof inner === 'object') visit(inner, `${path}.*`)
      }
    }
    visit(configJsonSchema(), '')
    expect(silent).toEqual([])
  })
})
