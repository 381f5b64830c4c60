/** `switchboard check`: validates servers.yaml, connects to each server once, and shows what came of it in one table. */
import { resolve } from 'node:path'
import { loadConfig } from '../config/load.js'
import { createLog } from '../observe/log.js'
import { createOrphans } from '../upstream/orphans.js'
import { Upstream, type UpstreamStatus } from '../upstream/upstream.js'
import { version } from '../version.js'
import type { CommandContext, ExitCode } from './command.js'
import { describeFinding } from './configuration.js'

interface Row {
  readonly server: string
  readonly state: string
  readonly era: string
  readonly transport: string
  readonly tools: number | null
  readonly ms: number | null
  readonly problem: string | null
}

export interface CheckOptions {
  readonly json: boolean
  /** Checked instead of what the file says, as `serve` would. */
  readonly listen: { readonly host?: string; readonly port?: number }
}

export async function check(context: CommandContext, { json, listen }: CheckOptions): Promise<ExitCode> {
  const { config, findings } = await loadConfig({ file: resolve(context.config), env: context.env, listen })
  if (!json) for (const finding of findings) context.err(describeFinding(context.config, finding))
  if (!config) {
    if (json) context.out(JSON.stringify({ ok: false, findings, servers: [] }, null, 2))
    return 2
  }
  const log = createLog('silent')
  const identity = { name: 'switchboard', version }
  const orphans = createOrphans({ store: { read: () => undefined, write() {} }, log })
  const upstreams = config.servers.map(
    server => new Upstream({ config: server, identity, limits: config.limits, log, orphans, onOffer() {} })
  )
  for (const upstream of upstreams) upstream.start()
  await Promise.all(upstreams.map(async upstream => upstream.firstAttempt))
  const rows = upstreams.map(({ status }) => rowOf(status))
  await Promise.all(upstreams.map(upstream => upstream.close()))
  orphans.close()
  for (const { kind, id, reason } of config.broken) {
    if (kind === 'server')
      rows.push({ server: id, state: 'misconfigured', era: '', transport: '', tools: null, ms: null, problem: reason })
  }
  const ok = rows.every(({ state, problem }) => state === 'ready' && problem === null)
  if (json) context.out(JSON.stringify({ ok: ok && config.broken.length === 0, findings, servers: rows }, null, 2))
  else context.out(table(rows))
  if (config.broken.length > 0) return 2
  return ok ? 0 : 1
}

function rowOf({ id, state, era, transport, tools, connectMs, problem }: UpstreamStatus): Row {
  return {
    server: id,
    state,
    era: era ?? '',
    transport,
    tools: tools ?? null,
    ms: connectMs ?? null,
    problem: problem ?? null
  }
}

function table(rows: readonly Row[]): string {
  const head = ['server', 'state', 'era', 'transport', 'tools', 'ms', '']
  const body = rows.map(({ server, state, era, transport, tools, ms, problem }) => [
    server, state, era, transport, tools === null ? '' : String(tools), ms === null ? '' : String(ms), problem ?? ''
  ]) // prettier-ignore
  const widths = head.map((title, i) => Math.max(title.length, ...body.map(row => row[i]?.length ?? 0)))
  return [head, ...body]
    .map(row =>
      row
        .map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd(widths[i] ?? 0)))
        .join('  ')
        .trimEnd()
    )
    .join('\n')
}
