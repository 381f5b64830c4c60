/** `switchboard check --diff`: what each key would gain, lose and see renamed, said before it happens and without starting anything. */
import { createHash } from 'node:crypto'
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
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { appliedOf, keepApplied, readApplied, type Applied } from '../src/catalog/applied.js'
import { difference, type Difference, type Side } from '../src/catalog/difference.js'
import { parseConfig } from '../src/config/load.js'
import { compilePolicy, describeGrant } from '../src/policy/policy.js'
import type { Offer } from '../src/wire/lists.js'
import { descendants, runSwitchboard, startGatewayProcess } from './helpers/gateway-process.js'
import { fixture, waitFor } from './helpers/with-gateway.js'

function temporary(): string {
  const dir = mkdtempSync(join(tmpdir(), 'switchboard-diff-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

function configOf(text: string) {
  const { config, findings } = parseConfig({
    text,
    file: '/etc/sb/servers.yaml',
    env: { SECRET: 'a-secret-nobody-may-see', OTHER: 'another-secret-of-mine' },
    readFile: () => ''
  })
  if (!config) throw new Error(findings.map(({ message }) => message).join('\n'))
  return config
}

const tools = (...names: string[]) => names.map(name => ({ name, inputSchema: { type: 'object' } }))

/** The kept catalog as it would stand in the state directory: tools by the command of their server. */
function keptCatalog(offers: Record<string, { command: string; offer: object }>): string {
  const digest = (command: string) =>
    createHash('sha256')
      .update(JSON.stringify([command, [], undefined]))
      .digest('hex')
      .slice(0, 32)
  const servers = Object.entries(offers).map(([id, { command, offer }]) => {
    return [id, { digest: digest(command), offer, confirmed: Date.now() }]
  })
  return JSON.stringify({ version: 2, servers: Object.fromEntries(servers) })
}

describe('check --diff', () => {
  it('compares the file with what runs, by what is known of its servers, and starts nothing', async () => {
    const dir = temporary()
    const [file, next, state] = ['servers.yaml', 'next.yaml', 'state'].map(name => join(dir, name)) as [
      string,
      string,
      string
    ]
    const server = (mode: string) =>
      `{ command: node, args: [${JSON.stringify(fixture('raw-stdio.mjs'))}], env: { LEDGER: ${JSON.stringify(join(dir, 'ledger'))}, MODE: ${mode} } }`
    writeFileSync(
      file,
      `servers:\n  raw: ${server('a')}\nkeys:\n  admin: { secret: generated, allow: "*" }\n  guest: { secret: generated, allow: { raw: [echo, slow] } }\n  old: { secret: generated, allow: { raw: [echo] } }\n`
    )
    const args = ['check', '--diff', '-c', next, '--state', state]
    const gateway = await startGatewayProcess({ config: file, stateDir: state })
    onTestFinished(() => gateway.stop())
    await waitFor(() => {
      const kept = existsSync(join(state, 'catalog.json')) && readFileSync(join(state, 'catalog.json'), 'utf8')
      return kept !== false && kept.includes('progress')
    }, 'the kept catalog')
    const same = await runSwitchboard(['check', '--diff', '-c', file, '--state', state])
    expect(same).toMatchObject({ code: 0, stdout: 'Nothing would change.\n', stderr: '' })

    writeFileSync(
      next,
      `servers:\n  raw: ${server('b')}\n  new: { command: nothing-like-it }\nkeys:\n  admin: { secret: generated, allow: "*" }\n  guest: { secret: generated, allow: { raw: [echo, "pro*"] } }\n  fresh: { secret: generated, allow: { raw: [echo], new: ["get_*"] } }\n`
    )
    const [starts, below] = [readFileSync(join(dir, 'ledger'), 'utf8'), descendants(gateway.pid)]
    const { code, stdout, stderr } = await runSwitchboard(args)
    expect(stdout).toBe(`4 of 4 keys would see something else.

Servers
  new  + new: what it offers is known once it has run

Keys
  admin  ? new: everything; what it offers is not known yet
  guest  + 1 tool: raw__progress
         - 1 tool: raw__slow
  fresh  new
         + 1 tool: raw__echo
         ? new: get_*; what it offers is not known yet
  old    removed: who uses it is refused
         - 1 tool: raw__echo
`)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(readFileSync(join(dir, 'ledger'), 'utf8')).toBe(starts)
    expect(descendants(gateway.pid)).toEqual(below)

    // What ran last is known as well, and what is taken over is what runs.
    copyFileSync(next, file)
    await waitFor(() => gateway.logged('config.applied').length > 0, 'the file to be taken over')
    expect((await runSwitchboard(args)).stdout).toBe('Nothing would change.\n')
    await gateway.kill('SIGTERM')
    expect((await runSwitchboard(args)).stdout).toBe('Nothing would change.\n')
    const applied = readFileSync(join(state, 'applied.json'), 'utf8')
    for (const secret of Object.values(gateway.keys)) expect(applied).not.toContain(secret)
    expect(existsSync(join(state, 'lock'))).toBe(false)
  })

  const older = `servers:
  db: { command: db }
  files: { command: files }
  gone: { command: gone }
keys:
  admin: { secret: generated, allow: "*" }
  dev: { secret: generated, expires: 2099-01-01, allow: { db: ["read_*"], files: "*", gone: "*" } }
  quiet: { secret: generated, allow: { files: [cat] } }
`
  const newer = `servers:
  postgres: { command: db }
  files: { command: files, args: [--fast], namespace: true }
keys:
  admin: { secret: generated, allow: "*" }
  dev: { secret: generated, allow: { postgres: ["read_*"], files: { tools: ["*"] } } }
  quiet: { secret: generated, allow: { files: [cat] } }
`

  function comparison(): { dir: string; file: string; old: string } {
    const dir = temporary()
    const [file, old, state] = [join(dir, 'servers.yaml'), join(dir, 'old.yaml'), join(dir, '.switchboard')]
    writeFileSync(file, newer)
    writeFileSync(old, older)
    mkdirSync(state)
    writeFileSync(
      join(state, 'catalog.json'),
      keptCatalog({
        db: { command: 'db', offer: { tools: tools('read_a', 'read_b', 'write') } },
        files: {
          command: 'files',
          offer: { tools: tools('cat'), resources: [{ uri: 'file:///a\u001b[31m', name: 'a' }] }
        },
        gone: { command: 'gone', offer: { tools: tools(...Array.from({ length: 12 }, (_, n) => `t${n}`)) } }
      })
    )
    return { dir, file, old }
  }

  it('compares the file with another one, and tells a server that has a new name from one that is new', async () => {
    const { dir, file, old } = comparison()
    const before = readdirSync(join(dir, '.switchboard'))
    const { code, stdout, stderr } = await runSwitchboard(['check', '--diff', old, '-c', file])
    expect(stdout).toBe(`2 of 3 keys would see something else.

Servers
  postgres  > was called db
  files     ~ starts anew: another command, arguments or address; taken to offer what it offered
  gone      - removed

Keys
  admin  - 12 tools: gone__t0, gone__t1, gone__t2, gone__t3, gone__t4, gone__t5, gone__t6, gone__t7 and 4 more
         > 3 tools: db__read_a → postgres__read_a, db__read_b → postgres__read_b, db__write → postgres__write
  dev    - 12 tools: gone__t0, gone__t1, gone__t2, gone__t3, gone__t4, gone__t5, gone__t6, gone__t7 and 4 more
         - 1 resource: file:///a?[31m
         > 2 tools: db__read_a → postgres__read_a, db__read_b → postgres__read_b
         ! expires never, was: 2099-01-01

Nothing changes for quiet.
`)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(readdirSync(join(dir, '.switchboard'))).toEqual(before)
  })

  it('says the same as data with --json', async () => {
    const { file, old } = comparison()
    const { code, stdout, stderr } = await runSwitchboard(['check', '--diff', old, '--json', '-c', file])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const { ok, changed, servers, keys, notCompared, findings } = JSON.parse(stdout)
    expect({ ok, changed, notCompared, findings }).toEqual({ ok: true, changed: true, notCompared: [], findings: [] })
    expect(servers).toEqual([
      { id: 'postgres', change: 'renamed', was: 'db', unknown: false },
      { id: 'files', change: 'restarted', unknown: false },
      { id: 'gone', change: 'removed', unknown: false }
    ])
    const [admin, dev, quiet] = keys
    expect(admin.lost).toHaveLength(12)
    expect(dev).toMatchObject({
      id: 'dev',
      change: 'changed',
      gained: [],
      renamed: [
        { kind: 'tools', name: 'postgres__read_a', was: 'db__read_a' },
        { kind: 'tools', name: 'postgres__read_b', was: 'db__read_b' }
      ],
      expires: { was: Date.UTC(2099, 0, 2) - 1 }
    })
    expect(quiet).toMatchObject({ id: 'quiet', change: 'same', gained: [], lost: [], renamed: [], unknown: [] })
  })

  it('says nothing of servers and keys of which it cannot know, and exits with 2', async () => {
    const { file, old } = comparison()
    writeFileSync(
      file,
      newer
        .replace('{ command: db }', '{ command: "${SWITCHBOARD_TEST_UNSET}" }')
        .replace('quiet: { secret: generated', 'quiet: { secret: "${SWITCHBOARD_TEST_UNSET}"')
    )
    const { code, stdout, stderr } = await runSwitchboard(['check', '--diff', old, '-c', file])
    expect(code).toBe(2)
    expect(stderr.match(/SWITCHBOARD_TEST_UNSET is not set/g)).toHaveLength(2)
    expect(stdout).toMatch(
      /\n\nNot compared\n {2}postgres {2}servers\.postgres\.command: .*\n {2}quiet {5}keys\.quiet\.secret: .*\n$/
    )
    expect(stdout).not.toMatch(/^ {2}quiet {2}(?:removed|-)/m)
  })

  it.each([
    ['no gateway has served yet', [], /^Nothing is known of what runs: .*--diff OLD\.yaml\.\n$/],
    ['the other file is missing', ['none.yaml'], /none\.yaml cannot be read \(ENOENT\)/],
    ['the other file is wrong', ['wrong.yaml'], /^wrong\.yaml:1:\d+ error: servers\.a\.tiemout: unknown key\. .*\n$/]
  ])('exits with 2 and says so when %s', async (_, words, sentence) => {
    const dir = temporary()
    writeFileSync(join(dir, 'servers.yaml'), 'servers: { a: { command: a } }\n')
    writeFileSync(join(dir, 'wrong.yaml'), 'servers: { a: { command: a, tiemout: 3 } }\n')
    const { code, stdout, stderr } = await runSwitchboard(['check', '--diff', ...words], { cwd: dir })
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(sentence)
    expect(existsSync(join(dir, '.switchboard'))).toBe(false)
  })

  it.each([[['check', '--diff', 'a', 'b']], [['serve', '--diff']], [['--diff']]])('refuses %j', async args => {
    const { code, stdout, stderr } = await runSwitchboard(args)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(/^--diff is for check, with at most one file to compare with\.\n/)
  })
})

describe('what is kept of the configuration that runs', () => {
  const text = `servers:
  a: { command: a, args: [--token=hush-hush], env: { T: hush-hush, S: "\${SECRET}" } }
  b: { url: "http://b/mcp?key=\${SECRET}", headers: { Authorization: "Bearer \${SECRET}" }, namespace: false }
keys:
  k: { secret: ["\${SECRET}", "\${OTHER}"], expires: 2027-02-19, allow: { a: ["x*", "!xy"], b: "*" } }
  l: { secret: generated, allow: "*" }
`

  function store() {
    const files = new Map<string, string>()
    let writes = 0
    return {
      files,
      read: (name: string) => (files.has(name) ? Buffer.from(files.get(name)!) : undefined),
      write(name: string, bytes: string) {
        writes++
        files.set(name, bytes)
      },
      writes: () => writes
    }
  }

  it('has no secret, no value of a variable, no argument and no address', () => {
    const kept = store()
    keepApplied(kept, configOf(text))
    const written = [...kept.files.values()].join('')
    expect(written).toContain('"x*"')
    expect(written).not.toMatch(/hush-hush|nobody-may-see|another-secret|http:|--token/)
    const digest = (secret: string) => createHash('sha256').update(secret).digest('hex')
    expect(written).not.toContain(digest('a-secret-nobody-may-see'))
  })

  it('comes back as it was, and is written only when it changes', () => {
    const kept = store()
    keepApplied(kept, configOf(text))
    expect(readApplied(kept)).toEqual(appliedOf(configOf(text)))
    keepApplied(kept, configOf(text))
    expect(kept.writes()).toBe(1)
    keepApplied(kept, configOf(text.replace('"!xy"', '"!xz"')))
    expect(kept.writes()).toBe(2)
  })

  it.each([
    '',
    'null',
    '[]',
    '{}',
    '{"version":1}',
    '{"version":2,"servers":[],"keys":[]}',
    '{"version":1,"servers":[]'
  ])('is as good as nothing when it is damaged: %j', damaged => {
    const kept = store()
    kept.files.set('applied.json', damaged)
    expect(readApplied(kept)).toBeUndefined()
  })
})

describe('the difference', () => {
  const side = ({ servers, keys }: Applied): Side => ({
    servers,
    keys: keys.map(({ id, allow }) => ({
      id,
      sight: compilePolicy(allow),
      grant: server => {
        const grant = allow === '*' ? allow : allow.get(server)
        return grant && describeGrant(grant)
      }
    }))
  })
  const none = { servers: new Set<string>(), keys: new Set<string>() }
  function between(before: string, after: string, offers: Record<string, Offer>): Difference {
    const last = (id: string) => offers[id] && { offer: offers[id], confirmed: 0, digest: '' }
    return difference(side(appliedOf(configOf(before))), side(appliedOf(configOf(after))), { last }, none)
  }

  it('names what is renamed by namespace: false, and what then is hidden by a clash', () => {
    const yaml = (more: string) => `servers:\n  a: { command: a, namespace: false }\n  b: { command: b${more} }\n`
    const { keys, servers } = between(yaml(''), yaml(', namespace: false'), {
      a: { tools: tools('x', 'y') },
      b: { tools: tools('y', 'z') }
    })
    expect(servers).toEqual([])
    expect(keys).toMatchObject([
      {
        id: 'admin',
        change: 'changed',
        gained: [],
        lost: [{ kind: 'tools', name: 'b__y' }],
        renamed: [{ kind: 'tools', name: 'z', was: 'b__z' }]
      }
    ])
  })

  it('does not take one of two servers that are started alike for a renamed one', () => {
    const { servers } = between(
      'servers:\n  a: { command: x }\n',
      'servers:\n  b: { command: x }\n  c: { command: x }\n',
      {}
    )
    expect(servers.map(({ id, change }) => [id, change])).toEqual([
      ['b', 'added'],
      ['c', 'added'],
      ['a', 'removed']
    ])
  })

  it('of a configuration and itself is nothing, whatever the order', () => {
    const before =
      'servers:\n  a: { command: a }\n  b: { command: b }\nkeys:\n  k: { secret: generated, allow: { a: [x, "y*"], b: "*" } }\n'
    const after =
      'servers:\n  b: { command: b }\n  a: { command: a }\nkeys:\n  k: { secret: generated, allow: { b: "*", a: ["y*", x] } }\n'
    const { servers, keys } = between(before, after, { a: { tools: tools('x', 'y1', 'z') } })
    expect(servers).toEqual([])
    expect(keys).toMatchObject([{ id: 'k', change: 'same' }])
  })
})
