/**
 * What a key sees and may call: one decision on (server, wire name), asked by lists and by calls alike, so the two can
 * never disagree. Which key it is, is decided in `keys.ts`; how a pattern reads, in `patterns.ts`.
 */
import { createHash } from 'node:crypto'
import type { Allow } from '../config/schema.js'
import { decideNames, decideUris, grantsAnything, type Decide } from './patterns.js'

export type Kind = 'tools' | 'prompts' | 'resources'

export interface Policy {
  /** A digest of the grants: keys with equal grants share one policy, and so one view of the catalog. */
  readonly id: string
  /** Whether this item may be listed and used; `wireName` is the upstream's own name, or the URI of a resource. */
  sees(server: string, kind: Kind, wireName: string): boolean
  /** Whether everything of every server is granted. */
  readonly seesAll: boolean
  /** Whether anything at all is granted on this server. */
  seesServer(server: string): boolean
  /** Whether anything of that kind is granted on this server. */
  seesAny(server: string, kind: Kind): boolean
  /** One short line a server, for people. */
  describe(): readonly string[]
}

type Grant = Readonly<Record<Kind, readonly string[]>>
type Rule = '*' | { readonly grants: Readonly<Record<Kind, boolean>>; readonly decide: Readonly<Record<Kind, Decide>> }

const maxDecisions = 20_000
/** Longer names are decided anew each time, so that a caller's made-up URIs cannot fill the memory. */
const maxRemembered = 256

/** Compiles the `allow` of a key. A leading `!` excludes, wherever it stands in its list; an absent kind grants nothing. */
export function compilePolicy(allow: Allow): Policy {
  const rules = new Map<string, Rule>()
  if (allow !== '*') for (const [server, grant] of allow) rules.set(server, grant === '*' ? grant : compileRule(grant))
  // Kind, server and name one after the other: a question put together as one string would cost every call.
  const decisions: Record<Kind, Map<string, Map<string, boolean>>> = {
    tools: new Map(),
    prompts: new Map(),
    resources: new Map()
  }
  let remembered = 0

  function decide(server: string, kind: Kind, wireName: string): boolean {
    const rule = rules.get(server)
    return rule === '*' || (rule?.decide[kind](wireName) ?? false)
  }

  function seesAny(server: string, kind: Kind): boolean {
    const rule = rules.get(server)
    return allow === '*' || rule === '*' || (rule?.grants[kind] ?? false)
  }

  return Object.freeze<Policy>({
    id: createHash('sha256').update(canonical(allow)).digest('hex').slice(0, 32),
    seesAll: allow === '*',
    sees(server, kind, wireName) {
      if (allow === '*') return true
      if (wireName.length > maxRemembered) return decide(server, kind, wireName)
      const known = decisions[kind].get(server)?.get(wireName)
      if (known !== undefined) return known
      if (remembered++ >= maxDecisions) {
        for (const ofKind of Object.values(decisions)) ofKind.clear()
        remembered = 1
      }
      const decision = decide(server, kind, wireName)
      let ofServer = decisions[kind].get(server)
      if (!ofServer) decisions[kind].set(server, (ofServer = new Map<string, boolean>()))
      ofServer.set(wireName, decision)
      return decision
    },
    seesServer: server => (['tools', 'prompts', 'resources'] as const).some(kind => seesAny(server, kind)),
    seesAny,
    describe: () =>
      allow === '*' ? ['everything'] : [...allow].map(([server, grant]) => `${server}: ${describeGrant(grant)}`)
  })
}

function compileRule(grant: Grant): Rule {
  return {
    grants: {
      tools: grantsAnything(grant.tools),
      prompts: grantsAnything(grant.prompts),
      resources: grantsAnything(grant.resources)
    },
    decide: {
      tools: decideNames(grant.tools),
      prompts: decideNames(grant.prompts),
      resources: decideUris(grant.resources)
    }
  }
}

/** Equal for equal grants: the order of servers and of patterns decides nothing. */
function canonical(allow: Allow): string {
  if (allow === '*') return '*'
  const sorted = (patterns: readonly string[]): readonly string[] => [...new Set(patterns)].sort()
  const servers = [...allow].sort(([a], [b]) => (a < b ? -1 : 1))
  return JSON.stringify(
    servers.map(([server, grant]) => {
      return [server, grant === '*' || [sorted(grant.tools), sorted(grant.prompts), sorted(grant.resources)]]
    })
  )
}

/** What a grant gives, in a line for people. */
export function describeGrant(grant: '*' | Grant): string {
  if (grant === '*') return 'everything'
  const parts = [grant.tools.join(', ')]
  if (grant.prompts.length > 0) parts.push(`prompts ${grant.prompts.join(', ')}`)
  if (grant.resources.length > 0) parts.push(`resources ${grant.resources.join(', ')}`)
  return parts.filter(Boolean).join('; ') || 'nothing'
}
