/**
 * The composition root: builds everything once, wires it, starts and ends it. The only file that knows everyone.
 * Configuration becomes running parts in `apply`, on the first boot as on every later change.
 */
import { createHash, randomBytes } from 'node:crypto'
import { buildCatalog, type Catalog, type CatalogFinding } from './catalog/snapshot.js'
import { createDiskCache } from './catalog/disk-cache.js'
import { createViews } from './catalog/view.js'
import { isLoopback } from './config/checks.js'
import type { Config } from './config/schema.js'
import { createApp } from './downstream/app.js'
import { createHttpServer } from './downstream/http-server.js'
import { createLegacy } from './downstream/legacy.js'
import { createListeners } from './downstream/listeners.js'
import { createLiveState } from './downstream/live-state.js'
import { createModern } from './downstream/modern.js'
import { createSessionStreams } from './downstream/session-stream.js'
import { createSessions } from './downstream/sessions.js'
import { createReplays } from './downstream/replay.js'
import { createRest } from './downstream/rest.js'
import { createSse } from './downstream/sse.js'
import { createStreamableHttp } from './downstream/streamable-http.js'
import { createAudit } from './observe/audit.js'
import { createMetrics } from './observe/metrics.js'
import type { Log } from './observe/log.js'
import { createKeyRing, newSecret, type KeyRing } from './policy/keys.js'
import { createLimits } from './policy/limits.js'
import { createRelay, type Snapshot } from './relay.js'
import type { State } from './state.js'
import { createTaskIds } from './tasks.js'
import type { Verdict } from './upstream/connect.js'
import { createOrphans } from './upstream/orphans.js'
import { Upstream, type UpstreamStatus } from './upstream/upstream.js'
import { version } from './version.js'
import { mostTalkative } from './wire/log-level.js'
import { createSealer } from './wire/sealing.js'

export interface GatewayOptions {
  readonly config: Config
  readonly state: State
  readonly log: Log
}

export interface Gateway {
  /** Where it listens: `http://host:port`. */
  readonly url: string
  readonly status: () => readonly UpstreamStatus[]
  readonly catalog: () => Catalog
  readonly keys: () => KeyRing
  /** The clear-text secret of a key configured as `generated`. */
  readonly generatedSecret: (id: string) => string | undefined
  /** Ends it: no new work, running calls until the drain deadline, then every link and process. */
  close(): Promise<void>
}

const drainMs = 8000
/** The longest a client may keep a list; changes are told besides. */
const maxListTtlMs = 60_000
/** Servers are told at most this often that their lists are being read. */
const useEveryMs = 1000
const findingsMs = 1000

/** Listens first, so that a taken port costs no upstream a start. @throws SwitchboardError when the port cannot be had. */
export async function startGateway({ config, state, log }: GatewayOptions): Promise<Gateway> {
  const identity = { name: 'switchboard', version }
  const serverInfo = { name: 'switchboard', title: config.listen.title, version }
  const generated = createGeneratedSecrets(state)
  const keyRing = createKeyRing({ keys: config.keys, generated })
  const cache = createDiskCache(state)
  const upstreams = new Map<string, Upstream>()
  let ready = true
  let snapshot: Snapshot = emptySnapshot(upstreams)
  let told = new Set<string>()

  const swapCatalog = () => {
    const sources = [...upstreams.values()].map(({ id, config, offer, verdict }) => {
      const { aliases, namespace, instructions, resourceClaims: claims } = config
      return { id, aliases, namespace, instructions, claims, offer, overModernHttp: isModernHttp(verdict) }
    })
    const catalog = buildCatalog(sources, snapshot.catalog)
    snapshot = { catalog, views: createViews(catalog), upstreams }
    listeners.changed()
  }
  const rebuild = () => {
    swapCatalog()
    told = tellFindings(snapshot.catalog.findings(), told, log)
  }

  let usedAt = -Infinity
  const onList = () => {
    const now = performance.now()
    if (now - usedAt > useEveryMs) {
      usedAt = now
      for (const upstream of upstreams.values()) upstream.listUsed()
    }
    let ttlMs = maxListTtlMs
    for (const { freshMs } of upstreams.values()) if (freshMs < ttlMs) ttlMs = freshMs
    return Math.round(ttlMs)
  }

  const metrics = createMetrics({
    upstreams: function* () {
      for (const { status } of upstreams.values()) {
        const { id, state, restarts, unattributed, running, waiting, tools = 0 } = status
        yield { id, ready: state === 'ready' || state === 'idle', restarts, unattributed, running, waiting, tools }
      }
    },
    sessions: () => sessions.size,
    streams: () => listeners.size,
    keyExpiry: function* () {
      for (const { id, expires } of keyRing.keys) if (expires !== undefined) yield [id, (expires - Date.now()) / 1000]
    }
  })
  const writeAudit = createAudit(log)
  const audit: typeof writeAudit = record => {
    writeAudit(record)
    metrics.call(record)
  }
  const sealer = createSealer({ secrets: sealSecrets(config, state) })
  const relay = createRelay({
    snapshot: () => snapshot,
    onList,
    limits: createLimits(),
    audit,
    serverInfo,
    taskIds: createTaskIds(sealer)
  })
  const listeners = createListeners((key, scope, change) => relay.signature(key, scope, change))
  const held = createLiveState()
  const onLevel = () => {
    const level = mostTalkative([...sessions.levels(), ...sse.levels()])
    if (level !== undefined) for (const upstream of upstreams.values()) upstream.setLogLevel(level)
  }
  const legacy = createLegacy({ relay, serverInfo, held, onLevel })
  const modern = createModern({ relay, listeners, serverInfo, held })
  const sse = createSse({ legacy, listeners, held })
  const sessionStreams = createSessionStreams({ relay, listeners, held, replays: createReplays() })
  const sessions = createSessions({ sealer })
  const app = createApp({
    guard: { ...config.listen, loopback: isLoopback(config.listen.host) },
    keys: () => keyRing,
    catalog: () => snapshot.catalog,
    streamableHttp: createStreamableHttp({ legacy, modern, sessions, sessionStreams, relay }),
    sse,
    rest: createRest({ relay, serverInfo }),
    metrics: ({ id, policy }) =>
      metrics.scrape(policy.seesAll ? undefined : { keyId: id, seesServer: server => policy.seesServer(server) }),
    log,
    ready: () => ready
  })
  const server = createHttpServer({
    ...app,
    knows: headers => keyRing.authenticate(headers).key !== undefined,
    log
  })
  const url = await server.listen(config.listen.host, config.listen.port)

  const orphans = createOrphans({ store: state, log })
  void orphans.reap(config.servers.some(({ command }) => command !== undefined))
  for (const serverConfig of config.servers) {
    const cached = cache.get(serverConfig)
    const upstream: Upstream = new Upstream({
      config: serverConfig,
      identity,
      log,
      orphans,
      ...(cached && { cached: cached.offer }),
      ...(cached?.verdict && { verdict: cached.verdict }),
      onOffer: changed => {
        const { offer, verdict } = upstream
        // What may be shown of a tool depends on how its server is reached, too.
        if (changed || snapshot.catalog.server(upstream.id)?.source.overModernHttp !== isModernHttp(verdict)) rebuild()
        if (offer.tools) cache.put(serverConfig, { offer, confirmed: Date.now(), ...(verdict && { verdict }) })
      }
    })
    upstreams.set(upstream.id, upstream)
  }
  swapCatalog()
  for (const upstream of upstreams.values()) upstream.start()
  // What was wrong with the lists of the last run can be read when everybody has been answered.
  const tellTimer = setTimeout(rebuild, findingsMs)

  async function close(): Promise<void> {
    ready = false
    server.stopListening()
    const deadline = Date.now() + drainMs
    while (relay.running > 0 && Date.now() < deadline) await new Promise(resolve => setTimeout(resolve, 20))
    sessions.close()
    sse.close()
    modern.close()
    await server.answered(deadline)
    await Promise.all([...upstreams.values()].map(upstream => upstream.close()))
    await server.close()
    clearTimeout(tellTimer)
    orphans.close()
    cache.flush()
    metrics.close()
    state.close()
  }

  return {
    url,
    status: () => [...upstreams.values()].map(upstream => upstream.status),
    catalog: () => snapshot.catalog,
    keys: () => keyRing,
    generatedSecret: id =>
      config.keys.some(key => key.id === id && key.secrets.some(({ kind }) => kind === 'generated'))
        ? generated(id)
        : undefined,
    close
  }
}

const isModernHttp = (verdict: Verdict | undefined) => verdict?.era === 'modern' && verdict.transport === 'http'

function emptySnapshot(upstreams: ReadonlyMap<string, Upstream>): Snapshot {
  const catalog = buildCatalog([])
  return { catalog, views: createViews(catalog), upstreams }
}

/** Tells each finding once, until it has gone and comes back. */
function tellFindings(findings: readonly CatalogFinding[], told: ReadonlySet<string>, log: Log): Set<string> {
  const now = new Set<string>()
  for (const { server, tool, message } of findings) {
    const id = JSON.stringify([server, tool, message])
    if (!told.has(id)) log.warn({ event: 'catalog.finding', server, ...(tool !== undefined && { tool }), message })
    now.add(id)
  }
  return now
}

/** Secrets that seal session ids: the configured one, or one made at the first start and kept. */
function sealSecrets({ sessionSecret }: Config, state: State): Buffer[] {
  if (sessionSecret !== undefined) return [createHash('sha256').update(sessionSecret).digest()]
  const kept = state
    .read('seal.key')
    ?.toString()
    .split('\n')
    .filter(line => /^[0-9a-f]{64}$/.test(line))
  if (kept && kept.length > 0) return kept.map(line => Buffer.from(line, 'hex'))
  const secret = randomBytes(32)
  state.write('seal.key', secret.toString('hex') + '\n')
  return [secret]
}

/** Secrets of keys configured as `generated`: made when first asked for, kept in the state directory. */
export function createGeneratedSecrets(state: State): (id: string) => string {
  return id => {
    const kept = readGeneratedSecrets(state)
    const secret = kept[id]
    if (secret !== undefined) return secret
    const made = newSecret()
    state.write('keys.json', JSON.stringify({ ...kept, [id]: made }, null, 2) + '\n')
    return made
  }
}

export function readGeneratedSecrets(state: State): Record<string, string> {
  try {
    const value: unknown = JSON.parse(state.read('keys.json')?.toString() ?? '{}')
    return typeof value === 'object' && value !== null ? (value as Record<string, string>) : {}
  } catch {
    return {}
  }
}
