/**
 * The composition root: builds everything once, wires it, starts and ends it. The only file that knows everyone.
 * Configuration becomes running parts in `apply`, on the first boot as on every later change.
 */
import { keepApplied } from './catalog/applied.js'
import type { CatalogFinding } from './catalog/part.js'
import { buildCatalog, type Catalog } from './catalog/snapshot.js'
import { createDiskCache } from './catalog/disk-cache.js'
import { createViews } from './catalog/view.js'
import { isLoopback } from './config/checks.js'
import type { Config } from './config/schema.js'
import { createApp } from './downstream/app.js'
import { createReadJson } from './downstream/body.js'
import { createHttpServer } from './downstream/http-server.js'
import type { StreamTerms } from './downstream/event-stream.js'
import { createLegacy, defaultLevel } from './downstream/legacy.js'
import { createListeners } from './downstream/listeners.js'
import { createLiveState } from './downstream/live-state.js'
import { createModern } from './downstream/modern.js'
import { createSessionStreams } from './downstream/session-stream.js'
import { createSessions } from './downstream/sessions.js'
import { createReplays } from './downstream/replay.js'
import { createRest } from './downstream/rest.js'
import { createCutOff } from './downstream/stall.js'
import { createSse } from './downstream/sse.js'
import { createStreamableHttp } from './downstream/streamable-http.js'
import { createAudit } from './observe/audit.js'
import { createMetrics } from './observe/metrics.js'
import type { Log } from './observe/log.js'
import { createAuthFailures } from './policy/auth-failures.js'
import { createKeyRing, type Key, type KeyRing } from './policy/keys.js'
import { createLimits } from './policy/limits.js'
import type { Snapshot } from './parties.js'
import { createRelay } from './relay.js'
import { createGeneratedSecrets, sealSecrets } from './secrets.js'
import type { State } from './state.js'
import { createTaskIds } from './tasks.js'
import type { Verdict } from './upstream/connect.js'
import { Fleet, isSameServer, type FleetChange } from './upstream/fleet.js'
import { createOrphans } from './upstream/orphans.js'
import { Upstream, type UpstreamStatus } from './upstream/upstream.js'
import { version } from './version.js'
import { Deadlines } from './wire/deadlines.js'
import { mostTalkative } from './wire/log-level.js'
import { createSealer } from './wire/sealing.js'

export interface GatewayOptions {
  readonly config: Config
  readonly state: State
  readonly log: Log
  /** Other times than a gateway has, for tests. */
  readonly pace?: { readonly commitMs?: number; readonly keepAliveMs?: number }
  /** How long calls of a server that is replaced or removed may take to end, in milliseconds. @default 30000 */
  readonly retireMs?: number
}

export interface Gateway {
  /** Where it listens: `http://host:port`. */
  readonly url: string
  readonly status: () => readonly UpstreamStatus[]
  readonly catalog: () => Catalog
  readonly keys: () => KeyRing
  /** The clear-text secret of a key configured as `generated`. */
  readonly generatedSecret: (id: string) => string | undefined
  /** Takes another configuration over, by difference: what it leaves alone goes on as if nothing had happened. */
  apply(config: Config): Applied
  /** A configuration could not be taken over; the one before goes on. */
  readonly rejected: () => void
  /** Ends it: no new work, running calls until the drain deadline, then every link and process. */
  close(): Promise<void>
}

/** What a configuration changed, by ids. */
export interface Applied extends FleetChange {
  /** Keys that no longer work, or not with every secret they worked with: their streams and calls are ended. */
  readonly revoked: readonly string[]
  /** Fields whose change takes effect at the next start. */
  readonly restart: readonly string[]
}

/** The longest a client may keep a list; changes are told besides. */
const maxListTtlMs = 60_000
/** Servers are told at most this often that their lists are being read. */
const useEveryMs = 1000
const findingsMs = 1000

/** Listens first, so that a taken port costs no upstream a start. @throws SwitchboardError when the port cannot be had. */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const { config: first, state, log, pace, retireMs = 30_000 } = options
  const { limits } = first
  const identity = { name: 'switchboard', version }
  const serverInfo = { name: 'switchboard', title: first.listen.title, version }
  const generated = createGeneratedSecrets(state)
  const cache = createDiskCache(state)
  const orphans = createOrphans({ store: state, log })
  let config = first
  let keyRing = createKeyRing({ keys: config.keys, generated })
  const keyNow = (key: Key) => keyRing.byId(key.id) ?? key
  let ready = true
  let snapshot: Snapshot = emptySnapshot()
  let told = new Set<string>()
  const reload = { ok: true, at: Date.now() }

  let logLevel: string | undefined
  const fleet = new Fleet({
    drainMs: retireMs,
    make(serverConfig, before) {
      const same = before && isSameServer(before.config, serverConfig)
      const own = same && before.id === serverConfig.id ? before : cache.get(serverConfig)
      const cached = own ?? before
      const verdict = own?.verdict ?? (same ? before.verdict : undefined)
      const upstream: Upstream = new Upstream({
        config: serverConfig,
        identity,
        limits,
        log,
        orphans,
        ...(cached && { cached: cached.offer }),
        ...(verdict && { verdict }),
        isGuess: own === undefined,
        onOffer: changed => {
          if (!fleet.isCurrent(upstream)) return
          const { offer, verdict } = upstream
          // What may be shown of a tool depends on how its server is reached, too.
          const reached = snapshot.catalog.server(upstream.id)?.source.overModernHttp
          if (changed || reached !== isModernHttp(verdict)) rebuild()
          if (offer.tools) cache.put(serverConfig, { offer, confirmed: Date.now(), ...(verdict && { verdict }) })
        }
      })
      if (logLevel !== undefined) upstream.setLogLevel(logLevel)
      return upstream
    }
  })
  const upstreams = () => fleet.upstreams.values()

  const swapCatalog = () => {
    const sources = [...fleet.members].map(({ config, upstream: { id, offer, verdict } }) => {
      const { aliases, namespace, instructions, resourceClaims: claims } = config
      return { id, aliases, namespace, instructions, claims, offer, overModernHttp: isModernHttp(verdict) }
    })
    const catalog = buildCatalog(sources, snapshot.catalog)
    snapshot = { catalog, views: createViews(catalog), upstreams: fleet.upstreams }
    relay.swapped()
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
      for (const upstream of upstreams()) upstream.listUsed()
    }
    let ttlMs = maxListTtlMs
    for (const { freshMs } of upstreams()) if (freshMs < ttlMs) ttlMs = freshMs
    return Math.round(ttlMs)
  }

  const metrics = createMetrics({
    upstreams: function* () {
      for (const { status } of upstreams()) {
        const { id, state, restarts, unattributed, running, waiting, tools = 0 } = status
        yield { id, ready: state === 'ready' || state === 'idle', restarts, unattributed, running, waiting, tools }
      }
    },
    sessions: () => sessions.size,
    streams: () => listeners.size,
    logDropped: () => log.dropped?.() ?? 0,
    keyExpiry: function* () {
      for (const { id, expires } of keyRing.keys) if (expires !== undefined) yield [id, (expires - Date.now()) / 1000]
    },
    reload: () => reload
  })
  const writeAudit = createAudit(log)
  const audit: typeof writeAudit = record => {
    writeAudit(record)
    metrics.call(record)
  }
  const sealer = createSealer({ secrets: sealSecrets(first.sessionSecret, state) })
  const calls = createLimits({ inFlight: limits.callsPerKey })
  const relay = createRelay({
    snapshot: () => snapshot,
    onList,
    limits: calls,
    perSecond: limits.notificationsPerSecond,
    audit,
    serverInfo,
    taskIds: createTaskIds(sealer),
    keyNow
  })
  const listeners = createListeners((key, scope, change) => relay.signature(keyNow(key), scope, change))
  const held = createLiveState(limits.liveStatePerKey)
  const onLevel = () => {
    logLevel = mostTalkative([defaultLevel, ...sessions.levels(), ...sse.levels()])
    if (logLevel !== undefined) for (const upstream of upstreams()) upstream.setLogLevel(logLevel)
  }
  const cutOff = createCutOff(log)
  const commitMs = pace?.commitMs ?? 10_000
  const terms: StreamTerms = {
    maxWaiting: limits.streamBytes,
    cutOff,
    keepAliveMs: pace?.keepAliveMs ?? 15_000,
    commits: new Deadlines(commitMs, commitMs)
  }
  const legacy = createLegacy({ relay, serverInfo, held, onLevel })
  const modern = createModern({ relay, listeners, serverInfo, held, terms })
  const readJson = createReadJson(limits)
  const sse = createSse({ legacy, listeners, held, readJson, terms })
  const sessionStreams = createSessionStreams({
    relay,
    listeners,
    held,
    replays: createReplays(limits.replayBytes),
    terms
  })
  const sessions = createSessions({ sealer })
  const failures = createAuthFailures({ perMinute: limits.authFailures })
  const app = createApp({
    guard: { ...first.listen, loopback: isLoopback(first.listen.host), headerFields: limits.headerFields },
    keys: () => keyRing,
    failures,
    catalog: () => snapshot.catalog,
    streamableHttp: createStreamableHttp({
      legacy,
      modern,
      sessions,
      sessionStreams,
      relay,
      readJson,
      terms,
      batchMessages: limits.batchMessages
    }),
    sse,
    rest: createRest({ relay, readJson, terms, serverInfo }),
    metrics: ({ id, policy }) =>
      metrics.scrape(policy.seesAll ? undefined : { keyId: id, seesServer: server => policy.seesServer(server) }),
    log,
    ready: () => ready
  })
  const server = createHttpServer({
    ...app,
    knows: headers => keyRing.authenticate(headers).key !== undefined,
    limits,
    cutOff,
    log
  })
  const url = await server.listen(first.listen.host, first.listen.port)

  void orphans.reap(config.servers.some(({ command }) => command !== undefined))
  const { start } = fleet.apply(config.servers)
  swapCatalog()
  start()
  keepApplied(state, config)
  // What was wrong with the lists of the last run can be read when everybody has been answered.
  const tellTimer = setTimeout(rebuild, findingsMs)

  /** Nothing that was begun with what no longer opens a key goes on: calls are answered, streams end. */
  function revoke(before: KeyRing, now: KeyRing): readonly string[] {
    const revoked = before.revoke(now)
    if (revoked.length === 0) return revoked
    const ended = calls.endRevoked()
    for (const id of revoked) {
      const key = now.byId(id)
      if (!key || key.revocation.reason) sessions.forgetKey(id)
      log.info({ event: 'auth.revoked', key: id, calls: ended.get(id) ?? 0 })
    }
    return revoked
  }
  const expiryTimer = setInterval(() => revoke(keyRing, keyRing), 1000)
  expiryTimer.unref()

  function apply(next: Config): Applied {
    if (!ready) return { started: [], restarted: [], ended: [], revoked: [], restart: [] }
    const before = keyRing
    keyRing = createKeyRing({ keys: next.keys, generated, before })
    config = next
    const revoked = revoke(before, keyRing)
    const { change, start } = fleet.apply(next.servers)
    start()
    rebuild()
    keepApplied(state, next)
    Object.assign(reload, { ok: true, at: Date.now() })
    return { ...change, revoked, restart: needsRestart(first, next) }
  }

  async function close(): Promise<void> {
    ready = false
    server.stopListening()
    const deadline = performance.now() + limits.drainTimeout * 1000
    while (calls.running > 0 && performance.now() < deadline) await new Promise(resolve => setTimeout(resolve, 20))
    sessions.close()
    sse.close()
    modern.close()
    await server.answered(deadline)
    await fleet.close()
    await server.close()
    clearTimeout(tellTimer)
    clearInterval(expiryTimer)
    failures.close()
    orphans.close()
    cache.flush()
    metrics.close()
    state.close()
  }

  return {
    url,
    status: () => [...upstreams()].map(upstream => upstream.status),
    apply,
    rejected: () => (reload.ok = false),
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

function emptySnapshot(): Snapshot {
  const catalog = buildCatalog([])
  return { catalog, views: createViews(catalog), upstreams: new Map() }
}

/** What was decided once and for all when the gateway began to listen. */
function needsRestart(before: Config, after: Config): string[] {
  const fixed = ({ listen, limits, state, sessionSecret }: Config) => ({
    ...Object.fromEntries(Object.entries(limits).map(([name, value]) => [`limits.${name}`, value as unknown])),
    ...Object.fromEntries(Object.entries(listen).map(([name, value]) => [`listen.${name}`, value as unknown])),
    state,
    session_secret: sessionSecret
  })
  const was: Record<string, unknown> = fixed(before)
  return Object.entries(fixed(after)).flatMap(([name, value]) =>
    JSON.stringify(was[name]) === JSON.stringify(value)
      ? []
      : [name.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`)]
  )
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
