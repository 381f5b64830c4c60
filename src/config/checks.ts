/**
 * What can be wrong with a substituted servers.yaml: its shape, put into sentences, and what its fields mean together.
 * The checks look at the draft as it stands, valid or not, so that one run finds everything. Each skips what is not of
 * the type it needs: the shape check speaks of that.
 */
import { createHash } from 'node:crypto'
import type { z } from 'zod'
import type { Path } from './env.js'
import {
  configSchema,
  grantSchema,
  keySchema,
  limitsSchema,
  listenSchema,
  serverSchema,
  type KeySecret
} from './schema.js'

type Tree = Readonly<Record<string, unknown>>
type Issue = z.core.$ZodIssue

/** Whom a finding concerns: an error that names a server or key leaves only that one out. */
export interface About {
  readonly severity?: 'error' | 'warning'
  readonly server?: string
  readonly key?: string
  /** Whether its place is the entry's name or, by default, its value. */
  readonly at?: 'key' | 'value'
}

/** The file after substitution and before validation. */
export interface Draft {
  readonly tree: Tree
  /** Whether there is a finding on the value at this path already: it stands there unresolved, or as null. */
  readonly failed: (path: Path) => boolean
  /** Whether the text at this path came from the environment or a file. */
  readonly taken: (path: Path) => boolean
  readonly report: (path: Path, message: string, about?: About) => void
  /** Epoch milliseconds. */
  readonly now: number
}

const ofCommands = ['args', 'env', 'cwd', 'start', 'idle_stop']
const reserved = ['tools', 'invoke', 'servers', 'api']
const minSecretLength = 16

export function isRecord(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** `servers.files.args[0]`. A key that does not look like a name could be a misplaced secret: it is not shown. */
export function showPath(path: Path): string {
  const steps = path.map(step => {
    if (typeof step === 'number') return `[${step}]`
    if (/^[\w-]{1,64}$/.test(step)) return `.${step}`
    return /^[\w@/.-]{1,64}$/.test(step) ? `["${step}"]` : '["…"]'
  })
  return steps.join('').replace(/^\./, '')
}

/** The last millisecond of a day such as 2027-02-19, in UTC. */
export function endOfDay(day: string): number {
  return Date.parse(`${day}T23:59:59.999Z`)
}

/** Whether an address to listen on is reachable from this machine only. */
export function isLoopback(host: string): boolean {
  return host.toLowerCase() === 'localhost' || host === '::1' || /^127(?:\.\d{1,3}){3}$/.test(host)
}

/** Unknown keys, missing ones, and values of the wrong type or form. `tree` need not even be a map. */
export function checkSchema(tree: unknown, { failed, report }: Draft): void {
  const issues = configSchema.safeParse(tree).error?.issues ?? []
  for (const issue of issues.flatMap(outer => innermost(outer, []))) {
    const path = issue.path as Path
    if (failed(path)) continue
    if (issue.code === 'unrecognized_keys') {
      const known = knownKeys(path)
      for (const name of issue.keys.filter(key => !failed([...path, key]))) {
        const hint = didYouMean(name, known) || `Known here: ${known.join(', ')}.`
        report([...path, name], `unknown key. ${hint}`, { at: 'key' })
      }
    } else if (issue.code === 'invalid_key') {
      report(path, `${issue.issues[0]?.message ?? issue.message}.`, { at: 'key' })
    } else {
      const value = path.reduce<unknown>((inner, step) => (inner as Tree | undefined)?.[step], tree)
      const hint = issue.code === 'invalid_value' && typeof value === 'string' ? didYouMean(value, issue.values) : ''
      const sentence =
        value === undefined ? `missing; ${issue.message}.` : `${issue.message}, found ${found(issue, value)}.`
      report(path, hint ? `${sentence} ${hint}` : sentence, { at: value === undefined ? 'key' : 'value' })
    }
  }
}

/** The address and the keys that guard it; the secret of sessions; whether there is anything to serve. */
export function checkGateway({ tree, failed, taken, report }: Draft): void {
  const host = isRecord(tree.listen) ? tree.listen.host : undefined
  const noKeys = tree.keys === undefined || (isRecord(tree.keys) && Object.keys(tree.keys).length === 0)
  if (noKeys && typeof host === 'string' && host !== '' && !failed(['listen', 'host']) && !isLoopback(host)) {
    report(
      ['listen', 'host'],
      'other machines can reach this address, but there are no keys. Run `switchboard key new admin` and put what it prints under keys, or listen on 127.0.0.1.'
    )
  }
  if (isRecord(tree.servers) && Object.keys(tree.servers).length === 0) {
    report(['servers'], 'there are no servers, so there is nothing to serve. Add one.', {
      severity: 'warning',
      at: 'key'
    })
  }
  const path = ['session_secret']
  const secret = tree.session_secret
  if (typeof secret !== 'string' || failed(path)) return
  if (secret === '') report(path, 'is empty. Give it a value, or remove it.')
  else if (secret.length < minSecretLength) report(path, tooShort, { severity: 'warning' })
  if (secret !== '' && !taken(path)) {
    report(path, 'stands here in clear text. Write ${VAR} or file:/path instead.', { severity: 'warning' })
  }
}

/** Names, and which fields of a server go together. */
export function checkServers(draft: Draft): void {
  const { tree, failed, report } = draft
  const servers = entriesOf(tree.servers)
  checkNames(draft, servers)
  for (const [id, server] of servers) {
    const path = ['servers', id]
    const [command, url] = [server.command !== undefined, server.url !== undefined]
    const { transport } = server
    const [timeout, most] = [secondsOf(server, 'timeout'), secondsOf(server, 'max_timeout')]
    if (!command && !url) {
      report(path, 'needs command (a program to start) or url (an address to dial).', { at: 'key' })
    }
    if (transport === 'stdio' && url) {
      report([...path, 'transport'], 'stdio has no url. Remove the url, or write sse or http.')
    }
    if ((transport === 'sse' || transport === 'http') && command && !url) {
      report([...path, 'transport'], `${transport} needs a url. Add it, or write stdio.`)
    }
    for (const member of ofCommands.filter(name => url && !command && server[name] !== undefined)) {
      report([...path, member], 'needs a command. Add one, or remove this.', { at: 'key' })
    }
    if (command && !url && server.headers !== undefined) {
      report([...path, 'headers'], 'needs a url. Add one, or remove this.', { at: 'key' })
    }
    if (typeof server.url === 'string' && server.url !== '' && !failed([...path, 'url'])) {
      const fault = urlFault(server.url)
      if (fault) report([...path, 'url'], fault)
    }
    if (timeout > most) {
      const sentence = `timeout (${timeout} s) is longer than max_timeout (${most} s).`
      const member = server.timeout === undefined ? 'max_timeout' : 'timeout'
      report([...path, member], `${sentence} Raise max_timeout or lower timeout.`)
    }
  }
}

/** Ids and aliases are one space of names, in which case and the choice of - or _ make no difference. */
function checkNames({ report }: Draft, servers: readonly (readonly [string, Tree])[]): void {
  const ids = servers.map(([id]) => ({ path: ['servers', id] as Path, name: id, at: 'key' as const }))
  const aliases = servers.flatMap(([id, server]) =>
    textsOf(server.aliases).map(({ text, index }) => ({
      path: ['servers', id, 'aliases', index],
      name: text,
      at: 'value' as const
    }))
  )
  const owners = new Map<string, Path>()
  for (const { path, name, at } of [...ids, ...aliases]) {
    const folded = name.toLowerCase().replaceAll('-', '_')
    const owner = owners.get(folded)
    let fault: string | undefined
    if (reserved.includes(folded)) fault = `this name is reserved (${reserved.join(', ')}). Choose another.`
    else if (owner) fault = `the same name as ${showPath(owner)}: case, - and _ make no difference. Rename one.`
    else owners.set(folded, path)
    if (fault) report(path, fault, { at })
  }
}

/** Secrets, expiry and grants. Returns the secrets of every key, in order and without what findings speak of. */
export function checkKeys(draft: Draft): Map<string, KeySecret[]> {
  const { tree, failed, report, now } = draft
  const keys = entriesOf(tree.keys)
  const secrets = new Map<string, KeySecret[]>()
  const owners = new Map<string, string>()
  for (const [id, key] of keys) {
    const path = ['keys', id]
    const own: KeySecret[] = []
    const written =
      typeof key.secret === 'string'
        ? [{ text: key.secret, at: [...path, 'secret'] }]
        : textsOf(key.secret).map(({ text, index }) => ({ text, at: [...path, 'secret', index] }))
    for (const { text, at } of written.filter(({ at }) => !failed(at))) {
      const secret = readSecret(draft, id, at, text)
      if (!secret) continue
      own.push(secret)
      if (secret.kind === 'generated') continue
      const owner = owners.get(secret.sha256) ?? id
      if (owner !== id) report(at, `the same secret as that of ${showPath(['keys', owner])}. Give each key its own.`)
      owners.set(secret.sha256, owner)
    }
    secrets.set(id, own)
    if (typeof key.expires === 'string' && endOfDay(key.expires) < now) {
      report([...path, 'expires'], 'this key has expired. Give it a later date, or remove it.', {
        severity: 'warning',
        key: id
      })
    }
    checkAllow(draft, id, key.allow)
  }
  for (const [id] of keys.length > 0 ? entriesOf(tree.servers) : []) {
    if (keys.some(([, key]) => mayUse(key.allow, id))) continue
    const about: About = { severity: 'warning', server: id, at: 'key' }
    report(['servers', id], 'no key may use this server. Name it in the allow of a key, or remove it.', about)
  }
  return secrets
}

const tooShort = `this secret is shorter than ${minSecretLength} characters and could be guessed. Use a longer one.`

function readSecret({ taken, report }: Draft, id: string, path: Path, text: string): KeySecret | undefined {
  const isTaken = taken(path)
  if (text === 'generated' && !isTaken) return { kind: 'generated' }
  // Also where it was taken: nobody's key looks like this, and hashing the hash would make it the password.
  if (/^sha256:[0-9a-f]{64}$/i.test(text)) return { kind: 'digest', sha256: text.slice('sha256:'.length).toLowerCase() }
  const cure = `Run \`switchboard key new ${/^[\w-]+$/.test(id) ? id : 'NAME'}\` and paste the sha256: line it prints.`
  if (text === '') {
    report(path, `this secret is empty. ${isTaken ? 'Give the variable or file a value.' : cure}`, { key: id })
  } else if (isTaken) {
    if (text.length < minSecretLength) report(path, tooShort, { severity: 'warning', key: id })
    return { kind: 'digest', sha256: createHash('sha256').update(text).digest('hex') }
  } else if (text.startsWith('sha256:')) {
    const length = text.length - 'sha256:'.length
    report(path, `expected sha256: and 64 hexadecimal digits, found sha256: and ${length} characters. ${cure}`)
  } else {
    report(path, `a secret must not stand here in clear text. ${cure}`)
  }
  return undefined
}

function checkAllow({ tree, report }: Draft, id: string, allow: unknown): void {
  if (!isRecord(allow)) return
  const servers = isRecord(tree.servers) ? Object.keys(tree.servers) : []
  for (const [server, grant] of Object.entries(allow)) {
    const path = ['keys', id, 'allow', server]
    if (isRecord(tree.servers) && !servers.includes(server)) {
      const owner = entriesOf(tree.servers).find(([, other]) =>
        textsOf(other.aliases).some(({ text }) => text === server)
      )
      const hint = owner
        ? `It is an alias: write \`${owner[0]}\`.`
        : didYouMean(server, servers) || `Known servers: ${servers.join(', ') || 'none'}.`
      report(path, `there is no such server. ${hint}`, { at: 'key' })
    }
    const lists: [Path, unknown][] = isRecord(grant)
      ? Object.entries(grant).map(([kind, list]) => [[...path, kind], list])
      : [[path, grant]]
    for (const [at, list] of lists) {
      const written = textsOf(list)
      if (written.length > 0 && !written.some(grants)) {
        report(at, 'only exclusions (!) grant nothing. Add what is allowed, such as "*".', {
          severity: 'warning',
          key: id
        })
      }
    }
  }
}

/** Whether a grant gives anything of this server. What is not valid counts as yes: it has a finding of its own. */
function mayUse(allow: unknown, server: string): boolean {
  if (!isRecord(allow)) return true
  const grant = allow[server]
  const lists = Array.isArray(grant) ? [grant] : isRecord(grant) ? Object.values(grant) : undefined
  return lists ? lists.some(list => textsOf(list).some(grants)) : grant !== undefined
}

function grants({ text }: { text: string }): boolean {
  return !text.startsWith('!')
}

function urlFault(text: string): string | undefined {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (!url || !/^https?:$/.test(url.protocol)) {
    return 'expected an http or https address such as http://localhost:3000/mcp, found other text.'
  }
  const open = url.username === '' && url.password === ''
  return open ? undefined : 'must not hold a user name or password. Send them in headers, such as Authorization.'
}

/** What was written or else the default; NaN, which is longer than nothing, where no number was written. */
function secondsOf(server: Tree, member: 'timeout' | 'max_timeout'): number {
  const written = server[member]
  if (written === undefined) return serverSchema.shape[member].parse(undefined)
  return typeof written === 'number' && Number.isFinite(written) ? written : NaN
}

export function entriesOf(map: unknown): [string, Tree][] {
  return isRecord(map) ? Object.entries(map).filter((entry): entry is [string, Tree] => isRecord(entry[1])) : []
}

export function textsOf(list: unknown): { text: string; index: number }[] {
  return Array.isArray(list)
    ? list.flatMap((text: unknown, index) => (typeof text === 'string' ? [{ text, index }] : []))
    : []
}

/** Of a value that may take several forms, the faults within the form it was meant to have. */
function innermost(issue: Issue, base: Path): Issue[] {
  const path = [...base, ...(issue.path as Path)]
  const meant =
    issue.code === 'invalid_union' &&
    issue.errors.find(form => form.every(inner => inner.path.length > 0 || inner.code === 'unrecognized_keys'))
  return meant ? meant.flatMap(inner => innermost(inner, path)) : [{ ...issue, path }]
}

function knownKeys(path: Path): string[] {
  if (path.length === 0) return Object.keys(configSchema.shape)
  if (path[0] === 'listen') return Object.keys(listenSchema.shape)
  if (path[0] === 'limits') return Object.keys(limitsSchema.shape)
  if (path[0] === 'servers') return Object.keys(serverSchema.shape)
  return Object.keys(path.length === 2 ? keySchema.shape : grantSchema.shape)
}

/** The type of a value, or the value itself where a number of the wrong size stands. */
function found(issue: Issue, value: unknown): string {
  if (value === null) return 'nothing'
  if (value === '') return 'an empty text'
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : 'a list'
  if (typeof value === 'object') return 'a map'
  if (typeof value === 'boolean') return 'true or false'
  const typed = issue.code === 'invalid_type' ? issue.expected : undefined
  const sized = issue.code === 'too_small' || issue.code === 'too_big' || typed === 'int' || typed === 'number'
  if (typeof value === 'number') return sized ? String(value) : 'a number'
  if (typed === 'number' || typed === 'boolean') return 'text (quotes and variables make text)'
  return typed === undefined && issue.code !== 'invalid_union' ? 'other text' : 'text'
}

function didYouMean(name: string, candidates: readonly unknown[]): string {
  const plain = (text: string) => text.toLowerCase().replace(/[-_]/g, '')
  const [nearest] = candidates
    .map(candidate => ({ candidate: String(candidate), far: distance(plain(name), plain(String(candidate))) }))
    .filter(({ candidate, far }) => far <= Math.ceil(candidate.length / 3))
    .sort((a, b) => a.far - b.far)
  return nearest ? `Did you mean \`${nearest.candidate}\`?` : ''
}

/** Levenshtein distance: how many letters to add, drop or change. */
function distance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 16) return Infinity
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1]
    for (let j = 0; j < b.length; j++) {
      next.push(Math.min(row[j + 1]! + 1, next[j]! + 1, row[j]! + (b[j] === letter ? 0 : 1)))
    }
    row = next
  }
  return row[b.length]!
}
