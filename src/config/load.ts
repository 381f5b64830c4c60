/**
 * servers.yaml -> one frozen {@link Config} and everything there is to say about the file, each finding with its line.
 * No finding holds a value of the file, the environment or a secret file: names, types and places only.
 *
 * Invariant: `config` is missing exactly when some error is neither a server's nor a key's. What is broken in one server
 * or key leaves only that one out.
 */
import { isUtf8 } from 'node:buffer'
import { closeSync, openSync, readSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { basename, dirname, resolve } from 'node:path'
import { advisePermissions, adviseServers } from './advice.js'
import {
  checkGateway,
  checkKeys,
  checkSchema,
  checkServers,
  endOfDay,
  isRecord,
  showPath,
  type About,
  type Draft
} from './checks.js'
import { mapTexts, resolveScalar, type Path } from './env.js'
import {
  configSchema,
  type Allow,
  type Broken,
  type Config,
  type ConfigFile,
  type Grant,
  type KeyConfig,
  type KeySecret,
  type LimitsConfig,
  type ServerConfig
} from './schema.js'
import { readYaml } from './yaml.js'

export interface Finding {
  readonly severity: 'error' | 'warning'
  /** The server concerned; an error with it leaves only that server out. */
  readonly server?: string
  /** The key concerned; an error with it leaves only that key out. */
  readonly key?: string
  /** Such as `servers.postgres.url`; empty for the file itself. */
  readonly path: string
  /** From 1, as is `column`. */
  readonly line?: number
  readonly column?: number
  /** One or more sentences, `path` in front. */
  readonly message: string
}

export interface Loaded {
  readonly config?: Config
  /** In the order of the file. */
  readonly findings: readonly Finding[]
}

export interface ConfigText {
  readonly text: string
  /** Where the text came from: relative paths in it are relative to its folder. */
  readonly file: string
  readonly env: Readonly<Record<string, string | undefined>>
  /** Reads a secret file by its absolute path. */
  readonly readFile: (path: string) => string
  /** The permissions of the file, which decide what may stand in it; unknown by default. */
  readonly mode?: number
  /** Epoch milliseconds for `expires`; the clock's by default. */
  readonly now?: number
  /** What stands on the command line instead of `listen.host` and `listen.port`; it is checked like the file. */
  readonly listen?: { readonly host?: string; readonly port?: number }
}

const maxBytes = 1_048_576
/** Far more than an environment or a header may be. */
const maxSecretBytes = 65_536

/** Reads and checks a config file. Never throws for what is in the file, nor for a file that cannot be read. */
export async function loadConfig({ file, env, listen }: Pick<ConfigText, 'file' | 'env' | 'listen'>): Promise<Loaded> {
  let bytes: Buffer
  let mode: number
  try {
    ;({ bytes, mode } = await readStart(file, maxBytes + 1))
  } catch (thrown) {
    const code = (thrown as NodeJS.ErrnoException).code ?? 'unknown error'
    return refuse(`${resolve(file)} cannot be read (${code}). Create it, or name another file.`)
  }
  if (bytes.length > maxBytes) return tooLarge(file)
  if (!isUtf8(bytes)) return refuse(`${resolve(file)} is not UTF-8 text. Save it as UTF-8.`)
  return parseConfig({
    text: bytes.toString(),
    file,
    env,
    readFile: readSecret,
    // Elsewhere the bits are made up.
    ...(process.platform !== 'win32' && { mode }),
    ...(listen && { listen })
  })
}

/** What stands in a config file at the moment, of one that is too large its beginning; undefined if it cannot be read. */
export async function readConfigText(file: string): Promise<string | undefined> {
  try {
    return (await readStart(file, maxBytes + 1)).bytes.toString()
  } catch {
    return undefined
  }
}

/** The text of a file that a field names. @throws Error whose `code` says why there is none. */
function readSecret(path: string): string {
  const file = openSync(path, 'r')
  try {
    const bytes = Buffer.alloc(maxSecretBytes + 1)
    let length = 0
    for (let read = 1; read > 0 && length < bytes.length; length += read) {
      read = readSync(file, bytes, length, bytes.length - length, null)
    }
    if (length > maxSecretBytes) throw Object.assign(new Error('too large'), { code: 'it is larger than 64 KiB' })
    return bytes.toString('utf8', 0, length)
  } finally {
    closeSync(file)
  }
}

/** At most so many bytes of a file, which may be a device or a pipe and so without end. */
async function readStart(file: string, most: number): Promise<{ bytes: Buffer; mode: number }> {
  const handle = await open(file)
  try {
    const { mode } = await handle.stat()
    const bytes = Buffer.alloc(most)
    let length = 0
    for (let read = 1; read > 0 && length < most; length += read) {
      read = (await handle.read(bytes, length, most - length)).bytesRead
    }
    return { bytes: bytes.subarray(0, length), mode }
  } finally {
    await handle.close()
  }
}

function tooLarge(file: string): Loaded {
  return refuse(
    `${resolve(file)} is larger than 1 MiB, the most that is read. Name another file, or split it over several gateways.`
  )
}

/** Checks the text of a config file and, unless something is wrong with the whole of it, makes the configuration. */
export function parseConfig({ text, file, env, readFile, listen, mode, now = Date.now() }: ConfigText): Loaded {
  const dir = dirname(resolve(file))
  if (Buffer.byteLength(text) > maxBytes) return tooLarge(file)
  const yaml = readYaml(text)
  if (yaml.syntax.length > 0) {
    return deepFreeze({ findings: yaml.syntax.map(fault => ({ severity: 'error', path: '', ...fault })) })
  }
  if (yaml.tree === null && yaml.faults.length === 0) return refuse(`${basename(file)} is empty. ${smallest}`)

  const findings: Finding[] = []
  const failed = new Set<string>()
  const taken = new Set<string>()
  const report = (path: Path, message: string, { severity = 'error', at = 'value', ...scope }: About = {}) => {
    const shown = showPath(path)
    findings.push({
      severity,
      ...scope,
      path: shown,
      ...yaml.locate(path, at),
      message: shown ? `${shown}: ${message}` : message
    })
  }
  for (const { path, message, at } of yaml.faults) {
    failed.add(JSON.stringify(path))
    report(path, message, { at })
  }

  const tree = mapTexts(withListen(yaml.tree, listen), (written, path) => {
    const readHere = mayNameFile(path) ? (name: string) => readFile(resolve(dir, name)) : undefined
    const resolved = resolveScalar(written, { env, readFile: readHere })
    if (resolved.kind === 'taken') taken.add(JSON.stringify(path))
    if ('value' in resolved) return resolved.value
    failed.add(JSON.stringify(path))
    if (resolved.kind === 'unset') report(path, sayUnset(resolved.names, path), scopeOf(path))
    else report(path, resolved.message, resolved.kind === 'unreadable' ? scopeOf(path) : {})
    return written
  })

  const has = (set: Set<string>) => (path: Path) => set.has(JSON.stringify(path))
  const draft: Draft = { tree: isRecord(tree) ? tree : {}, failed: has(failed), taken: has(taken), report, now }
  checkSchema(tree, draft)
  checkGateway(draft)
  checkServers(draft)
  const secrets = checkKeys(draft)
  advisePermissions(draft, mode)
  adviseServers(draft)

  findings.sort((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0))
  const errors = findings.filter(finding => finding.severity === 'error')
  if (errors.some(error => error.server === undefined && error.key === undefined)) return deepFreeze({ findings })
  const broken = brokenOf(errors)
  const whole = configSchema.parse(without(draft.tree, broken))
  return deepFreeze({ config: build(whole, { file: resolve(file), dir, secrets, broken }), findings })
}

/** The command line's address in place of the file's. */
function withListen(tree: unknown, listen: ConfigText['listen']): unknown {
  if (!listen || !isRecord(tree)) return tree
  const { listen: written = {} } = tree
  return isRecord(written) ? { ...tree, listen: { ...written, ...listen } } : tree
}

const smallest = `The smallest one that works:
servers:
  example:
    url: http://localhost:3000/mcp`

function refuse(message: string): Loaded {
  return deepFreeze({ findings: [{ severity: 'error', path: '', message }] })
}

function sayUnset(names: readonly string[], [top]: Path): string {
  // In a key a default would be a secret in clear text.
  const cure = top === 'keys' || top === 'session_secret' ? '.' : `, or write \${${names[0]}:-default}.`
  if (names.length === 1) return `the variable ${names[0]} is not set. Set it for the gateway${cure}`
  return `the variables ${names.join(', ')} are not set. Set them for the gateway${cure}`
}

/** `file:/path` is read only where a secret may stand. */
function mayNameFile([top, , member]: Path): boolean {
  if (top === 'servers') return member === 'headers' || member === 'env'
  return top === 'session_secret' || (top === 'keys' && member === 'secret')
}

function scopeOf([top, name]: Path): About {
  if (name === undefined) return {}
  return top === 'servers' ? { server: String(name) } : top === 'keys' ? { key: String(name) } : {}
}

function brokenOf(errors: readonly Finding[]): Broken[] {
  const broken = new Map<string, Broken>()
  for (const { server, key, message } of errors) {
    const [kind, id] = server === undefined ? (['key', key ?? ''] as const) : (['server', server] as const)
    const known = broken.get(`${kind} ${id}`)
    broken.set(`${kind} ${id}`, { kind, id, reason: known ? `${known.reason} ${message}` : message })
  }
  return [...broken.values()]
}

function without(tree: Draft['tree'], broken: readonly Broken[]): object {
  const left = (kind: Broken['kind'], all: unknown) => {
    if (!isRecord(all)) return undefined
    return Object.fromEntries(
      Object.entries(all).filter(([id]) => !broken.some(one => one.kind === kind && one.id === id))
    )
  }
  return { ...tree, servers: left('server', tree.servers), keys: left('key', tree.keys) }
}

interface Parts {
  readonly file: string
  readonly dir: string
  readonly secrets: ReadonlyMap<string, readonly KeySecret[]>
  readonly broken: readonly Broken[]
}

function build(whole: ConfigFile, { file, dir, secrets, broken }: Parts): Config {
  const { host, port, title, allowed_hosts, allowed_origins } = whole.listen
  const keys = Object.entries(whole.keys).map(([id, key]) => keyConfig(id, key, secrets.get(id) ?? []))
  const noKeys = keys.length === 0 && !broken.some(one => one.kind === 'key')
  const state = whole.state === undefined ? undefined : { state: resolve(dir, whole.state) }
  const sessionSecret = whole.session_secret === undefined ? undefined : { sessionSecret: whole.session_secret }
  return {
    ...{ file, dir, ...state, ...sessionSecret },
    listen: { host, port, title, allowedHosts: allowed_hosts, allowedOrigins: allowed_origins },
    servers: Object.entries(whole.servers).map(([id, server]) => serverConfig(id, server, dir)),
    keys: noKeys ? [{ id: 'admin', secrets: [{ kind: 'generated' }], allow: '*' }] : keys,
    limits: limitsConfig(whole.limits),
    broken
  }
}

function limitsConfig(limits: ConfigFile['limits']): LimitsConfig {
  return {
    bodyBytes: limits.body_kib * 1024,
    jsonDepth: limits.json_depth,
    headerFields: limits.header_fields,
    headerBytes: limits.header_kib * 1024,
    headerTimeout: limits.header_timeout,
    requestTimeout: limits.request_timeout,
    connections: limits.connections,
    authFailures: limits.auth_failures,
    batchMessages: limits.batch_messages,
    callsPerKey: limits.calls_per_key,
    liveStatePerKey: limits.live_state_per_key,
    streamBytes: limits.stream_kib * 1024,
    stallTimeout: limits.stall_timeout,
    replayBytes: limits.replay_kib * 1024,
    messageBytes: limits.message_kib * 1024,
    stdinBytes: limits.stdin_kib * 1024,
    waitingBytes: limits.waiting_kib * 1024,
    listItems: limits.list_items,
    listPages: limits.list_pages,
    notificationsPerSecond: limits.notifications_per_second,
    drainTimeout: limits.drain_timeout
  }
}

function serverConfig(id: string, server: ConfigFile['servers'][string], dir: string): ServerConfig {
  const {
    max_timeout,
    connect_timeout,
    start_timeout,
    list_timeout,
    queue_timeout,
    resource_claims,
    idle_stop,
    ...same
  } = server
  return {
    ...same,
    id,
    transport: server.transport ?? (server.url === undefined ? 'stdio' : 'auto'),
    cwd: resolve(dir, server.cwd ?? ''),
    maxTimeout: max_timeout,
    connectTimeout: connect_timeout,
    startTimeout: start_timeout,
    listTimeout: list_timeout,
    queueTimeout: queue_timeout,
    resourceClaims: resource_claims,
    idleStop: idle_stop
  }
}

function keyConfig(id: string, key: ConfigFile['keys'][string], secrets: readonly KeySecret[]): KeyConfig {
  const expires = key.expires === undefined ? undefined : { expires: endOfDay(key.expires) }
  return { id, secrets, ...expires, allow: allowOf(key.allow) }
}

function allowOf(allow: ConfigFile['keys'][string]['allow']): Allow {
  if (allow === '*') return '*'
  return new Map(
    Object.entries(allow).map(([server, grant]): [string, Grant] => {
      if (grant === '*') return [server, grant]
      const { tools = [], resources = [], prompts = [] } = Array.isArray(grant) ? { tools: grant } : grant
      return [server, { tools, resources, prompts }]
    })
  )
}

function deepFreeze<T>(value: T): T {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value
  Object.freeze(value)
  for (const inner of value instanceof Map ? value.values() : Object.values(value)) deepFreeze(inner)
  return value
}
