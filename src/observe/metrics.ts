/**
 * Numbers for Prometheus. Labels are servers from the configuration, outcomes and codes from our own tables, key ids from
 * the configuration: never a tool, a client or anything a caller could make up, so that the number of series is bounded.
 */
import { monitorEventLoopDelay, type IntervalHistogram } from 'node:perf_hooks'
import type { Counter, Gauge, Metric, Registry } from 'prom-client'
import type { CallRecord } from './audit.js'

/** What is read at the moment of a scrape. */
export interface MetricSources {
  readonly upstreams: () => Iterable<{
    readonly id: string
    readonly ready: boolean
    readonly restarts: number
    readonly unattributed: number
    readonly running: number
    readonly waiting: number
    readonly tools: number
  }>
  /** Sessions with something alive or recently used in memory. */
  readonly sessions: () => number
  /** Open streams of all kinds. */
  readonly streams: () => number
  /** Whether the last change of the configuration was taken over, and when one was, epoch milliseconds. */
  readonly reload: () => { readonly ok: boolean; readonly at: number }
  /** Lines of the log that were given up. */
  readonly logDropped: () => number
  /** Seconds until each key that expires does; negative once it has. */
  readonly keyExpiry: () => Iterable<readonly [id: string, seconds: number]>
}

/** A reader that may not see everything: nothing names a server or key it does not know. */
export interface MetricReader {
  readonly keyId: string
  readonly seesServer: (server: string) => boolean
}

export interface Metrics {
  /** Counts one call: exactly one for every line of the audit trail. */
  call(record: CallRecord): void
  /**
   * The text of `/metrics` and its content type.
   * @param reader what may be shown; undefined: everything.
   */
  scrape(reader?: MetricReader): Promise<{ readonly type: string; readonly text: string }>
  close(): void
}

const seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]

/** Calls that are counted together. */
interface Counted {
  readonly labels: Readonly<Record<'server' | 'outcome' | 'code', string>>
  count: number
}

/** How long the calls of one server took: how many were within each bound, and not within the one before. */
interface Timed {
  readonly within: number[]
  sum: number
  count: number
}

export function createMetrics(sources: MetricSources): Metrics {
  const delay = monitorEventLoopDelay({ resolution: 20 })
  delay.enable()
  /** By server, then by outcome and code. */
  const calls = new Map<string, Map<string, Counted>>()
  const durations = new Map<string, Timed>()
  let registry: Promise<Registry> | undefined

  return {
    call({ server = '', outcome, code, ms }) {
      const shown = knownCode(code)
      const name = shown === '' ? outcome : `${outcome} ${shown}`
      let ofServer = calls.get(server)
      if (!ofServer) calls.set(server, (ofServer = new Map<string, Counted>()))
      let counted = ofServer.get(name)
      if (!counted) ofServer.set(name, (counted = { labels: { server, outcome, code: shown }, count: 0 }))
      counted.count++
      // A call that reached no server says nothing of one; and a denied one must not show where it would have gone.
      const of = outcome === 'denied' ? '' : server
      let timed = durations.get(of)
      if (!timed) durations.set(of, (timed = { within: seconds.map(() => 0), sum: 0, count: 0 }))
      timed.sum += ms / 1000
      timed.count++
      const bound = seconds.findIndex(bound => ms / 1000 <= bound)
      if (bound >= 0) (timed.within[bound] as number)++
    },
    async scrape(reader) {
      const made = await (registry ??= createRegistry({ ...sources, calls, durations, delay }))
      const text = await made.metrics()
      return { type: made.contentType, text: reader ? visibleTo(reader, text) : text }
    },
    close: () => delay.disable()
  }
}

interface RegistrySources extends MetricSources {
  readonly calls: ReadonlyMap<string, ReadonlyMap<string, Counted>>
  readonly durations: ReadonlyMap<string, Timed>
  readonly delay: IntervalHistogram
}

/** Made for the first scrape: loading prom-client is a tenth of a start. */
async function createRegistry({ calls, durations, delay, ...sources }: RegistrySources): Promise<Registry> {
  const { Counter, Gauge, Registry } = await import('prom-client')
  const registry = new Registry()
  const registers = [registry]
  const counter: Counter<'server' | 'outcome' | 'code'> = new Counter({
    name: 'switchboard_calls_total',
    help: 'Tool calls by server ("" when no tool had the name), outcome and JSON-RPC code.',
    labelNames: ['server', 'outcome', 'code'] as const,
    registers,
    collect() {
      counter.reset()
      for (const ofServer of calls.values())
        for (const { labels, count } of ofServer.values()) counter.inc(labels, count)
    }
  })
  const histogram = {
    name: 'switchboard_call_seconds',
    help: 'Time from a tool call to its answer.',
    type: 'histogram',
    get: () => ({ ...histogram, values: [...durations].flatMap(histogramLines) })
  }
  registry.registerMetric(histogram as unknown as Metric)
  gauge('switchboard_upstream_ready', 'Whether a server is connected (1) or not (0).', ({ ready }) => Number(ready))
  total('switchboard_upstream_restarts_total', 'Links to a server that were lost.', ({ restarts }) => restarts)
  total(
    'switchboard_upstream_unattributed_total',
    'Messages of a server that belonged to no request and nobody in particular, and were dropped.',
    ({ unattributed }) => unattributed
  )
  gauge('switchboard_upstream_running', 'Requests a server is working on.', ({ running }) => running)
  gauge('switchboard_upstream_waiting', 'Requests waiting for a place at a server.', ({ waiting }) => waiting)
  gauge('switchboard_upstream_tools', 'Tools a server lists.', ({ tools }) => tools)
  single('switchboard_config_last_reload_success', 'Whether the last change of servers.yaml was taken over.', () =>
    Number(sources.reload().ok)
  )
  single(
    'switchboard_config_applied_timestamp_seconds',
    'When the configuration that runs was taken over, in Unix time.',
    () => sources.reload().at / 1000
  )
  single('switchboard_sessions', 'Sessions held in memory.', sources.sessions)
  single('switchboard_streams', 'Open streams to clients.', sources.streams)
  const droppedLines: Counter = new Counter({
    name: 'switchboard_log_dropped_total',
    help: 'Lines of the log that could not be written and were given up.',
    registers,
    collect() {
      droppedLines.reset()
      droppedLines.inc(sources.logDropped())
    }
  })
  single('process_resident_memory_bytes', 'Resident memory of the gateway.', () => process.memoryUsage.rss())
  single(
    'switchboard_event_loop_delay_seconds',
    'The 99th percentile of event loop delay since the last scrape.',
    () => {
      const p99 = delay.percentile(99) / 1e9
      delay.reset()
      return p99
    }
  )
  const expiry = new Gauge({
    name: 'switchboard_key_expires_seconds',
    help: 'Seconds until a key expires.',
    labelNames: ['key'] as const,
    registers,
    collect() {
      this.reset()
      for (const [id, left] of sources.keyExpiry()) expiry.set({ key: id }, left)
    }
  })

  type Source = ReturnType<MetricSources['upstreams']> extends Iterable<infer U> ? U : never

  function total(name: string, help: string, read: (upstream: Source) => number): void {
    const metric: Counter<'server'> = new Counter({
      name,
      help,
      labelNames: ['server'] as const,
      registers,
      collect() {
        metric.reset()
        for (const upstream of sources.upstreams()) metric.inc({ server: upstream.id }, read(upstream))
      }
    })
  }

  function gauge(name: string, help: string, read: (upstream: Source) => number): void {
    const metric: Gauge<'server'> = new Gauge({
      name,
      help,
      labelNames: ['server'] as const,
      registers,
      collect() {
        metric.reset()
        for (const upstream of sources.upstreams()) metric.set({ server: upstream.id }, read(upstream))
      }
    })
  }

  function single(name: string, help: string, read: () => number): void {
    const metric: Gauge = new Gauge({ name, help, registers, collect: () => metric.set(read()) })
  }
  return registry
}

/** As prom-client writes a histogram of its own; that one cannot be filled with what was counted before. */
function histogramLines([server, { within, sum, count }]: [string, Timed]): object[] {
  const name = 'switchboard_call_seconds'
  let so = 0
  return [
    ...seconds.map((le, i) => ({
      metricName: `${name}_bucket`,
      labels: { le, server },
      value: (so += within[i] ?? 0)
    })),
    { metricName: `${name}_bucket`, labels: { le: '+Inf', server }, value: count },
    { metricName: `${name}_sum`, labels: { server }, value: sum },
    { metricName: `${name}_count`, labels: { server }, value: count }
  ]
}

/** An upstream may answer with any number as its error code: only those of JSON-RPC, MCP and ours become a label. */
function knownCode(code: number | undefined): string {
  if (code === undefined) return ''
  const known = (code >= -32768 && code <= -32000) || (code >= -31599 && code <= -31400)
  return known ? String(code) : 'other'
}

function visibleTo({ keyId, seesServer }: MetricReader, text: string): string {
  const kept = text.split('\n').filter(line => {
    const server = /[{,]server="([^"]*)"/.exec(line)?.[1]
    const key = /[{,]key="([^"]*)"/.exec(line)?.[1]
    // Denied and unknown are one to a caller; here, too, unless it may see everything.
    if (/outcome="(?:denied|unknown)"/.test(line)) return false
    return (server === undefined || server === '' || seesServer(server)) && (key === undefined || key === keyId)
  })
  return kept.join('\n')
}
