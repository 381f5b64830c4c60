/** `switchboard check --diff`: what would change for each key if the file replaced what runs. Starts and dials nothing. */
import { resolve } from 'node:path'
import { appliedOf, readApplied, type Applied } from '../catalog/applied.js'
import { difference, type Difference, type Item, type KeyChange, type Side } from '../catalog/difference.js'
import { createDiskCache } from '../catalog/disk-cache.js'
import { loadConfig } from '../config/load.js'
import type { Broken } from '../config/schema.js'
import { compilePolicy, describeGrant } from '../policy/policy.js'
import { openState } from '../state.js'
import type { CommandContext, ExitCode } from './command.js'
import { describeFinding, statePath } from './configuration.js'

export interface DiffOptions {
  readonly json: boolean
  /** The file to compare with; undefined: what runs, or ran last. */
  readonly old: string | undefined
}

export async function diff(context: CommandContext, { json, old }: DiffOptions): Promise<ExitCode> {
  const { config, findings } = await loadConfig({ file: resolve(context.config), env: context.env })
  if (!json) for (const finding of findings) context.err(describeFinding(context.config, finding))
  const fail = (problem: string | undefined): ExitCode => {
    if (json) context.out(JSON.stringify({ ok: false, ...(problem && { problem }), findings }, null, 2))
    else if (problem) context.err(problem)
    return 2
  }
  if (!config) return fail(undefined)

  const state = openState({ path: statePath(context, config), readOnly: true })
  let before: Applied | undefined
  const broken: Broken[] = [...config.broken]
  if (old === undefined) {
    before = readApplied(state)
    if (!before) {
      return fail(
        `Nothing is known of what runs: no gateway has served from the state directory ${state.path}. Name it with --state, or a file to compare with: --diff OLD.yaml.`
      )
    }
  } else {
    const loaded = await loadConfig({ file: resolve(old), env: context.env })
    if (!loaded.config) {
      const errors = loaded.findings.filter(({ severity }) => severity === 'error')
      return fail(errors.map(finding => describeFinding(old, finding)).join('\n'))
    }
    before = appliedOf(loaded.config)
    broken.push(
      ...loaded.config.broken.filter(one => !config.broken.some(({ kind, id }) => kind === one.kind && id === one.id))
    )
  }
  const skip = (kind: Broken['kind']) => new Set(broken.flatMap(one => (one.kind === kind ? [one.id] : [])))
  const found = difference(sideOf(before), sideOf(appliedOf(config)), createDiskCache(state), {
    servers: skip('server'),
    keys: skip('key')
  })
  const changed = found.servers.length > 0 || found.keys.some(({ change }) => change !== 'same')
  if (json) context.out(JSON.stringify({ ok: true, changed, ...found, notCompared: broken, findings }, null, 2))
  else context.out(describe(found, changed, broken))
  return broken.length > 0 ? 2 : 0
}

function sideOf({ servers, keys }: Applied): Side {
  return {
    servers,
    keys: keys.map(({ id, allow, expires }) => ({
      id,
      ...(expires !== undefined && { expires }),
      sight: compilePolicy(allow),
      grant: server => {
        const grant = allow === '*' ? allow : allow.get(server)
        return grant && describeGrant(grant)
      }
    }))
  }
}

function describe({ servers, keys }: Difference, changed: boolean, broken: readonly Broken[]): string {
  const lines: string[] = []
  const touched = keys.filter(({ change }) => change !== 'same').length
  lines.push(changed ? `${touched} of ${keys.length} keys would see something else.` : 'Nothing would change.')
  if (servers.length > 0) {
    const rows = servers.map(({ id, change, was, unknown }): Row => {
      if (change === 'added') return [id, [`+ new${unknown ? ': what it offers is known once it has run' : ''}`]]
      if (change === 'removed') return [id, ['- removed']]
      if (change === 'renamed') return [id, [`> was called ${was}`]]
      return [id, ['~ starts anew: another command, arguments or address; taken to offer what it offered']]
    })
    lines.push('', 'Servers', ...table(rows))
  }
  const rows = keys.filter(({ change }) => change !== 'same').map((key): Row => [key.id, describeKey(key)])
  if (rows.length > 0) lines.push('', 'Keys', ...table(rows))
  const same = keys.filter(({ change }) => change === 'same').map(({ id }) => id)
  if (changed && same.length > 0) lines.push('', `Nothing changes for ${same.join(', ')}.`)
  if (broken.length > 0) lines.push('', 'Not compared', ...table(broken.map(({ id, reason }) => [id, [reason]])))
  return lines.join('\n')
}

type Row = readonly [name: string, lines: readonly string[]]

function table(rows: readonly Row[]): string[] {
  const width = Math.max(...rows.map(([name]) => name.length))
  return rows.flatMap(([name, lines]) => lines.map((line, i) => `  ${(i === 0 ? name : '').padEnd(width)}  ${line}`))
}

function describeKey({ change, gained, lost, renamed, unknown, expires }: KeyChange): string[] {
  const lines = [
    ...listed('+', gained, ({ name }) => name),
    ...listed('-', lost, ({ name }) => name),
    ...listed('>', renamed, ({ was, name }) => `${was} → ${name}`),
    ...unknown.map(({ server, was, grant }) => {
      const before = was === undefined ? '' : `, was: ${was}`
      return `? ${server}: ${grant ?? 'nothing'}${before}; what it offers is not known yet`
    }),
    ...(expires ? [`! expires ${dayOf(expires.now)}, was: ${dayOf(expires.was)}`] : [])
  ]
  if (change === 'added') return ['new', ...lines]
  if (change === 'removed') return ['removed: who uses it is refused', ...lines]
  return lines
}

const shownNames = 8
const words = {
  tools: ['tool', 'tools'],
  prompts: ['prompt', 'prompts'],
  resources: ['resource', 'resources'],
  templates: ['resource template', 'resource templates']
} as const

/** `+ 12 tools: a, b, … and 4 more`, a line a kind. */
function listed<T extends Item>(sign: string, items: readonly T[], say: (item: T) => string): string[] {
  return (Object.keys(words) as (keyof typeof words)[]).flatMap(kind => {
    const some = items.filter(item => item.kind === kind)
    if (some.length === 0) return []
    const names = some.slice(0, shownNames).map(say).map(printable).join(', ')
    const more = some.length > shownNames ? ` and ${some.length - shownNames} more` : ''
    return [`${sign} ${some.length} ${words[kind][some.length === 1 ? 0 : 1]}: ${names}${more}`]
  })
}

/** A URI is a server's own text: it must not steer the terminal. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}]/gu, '?').slice(0, 200)
}

function dayOf(ms: number | undefined): string {
  return ms === undefined ? 'never' : new Date(ms).toISOString().slice(0, 10)
}
