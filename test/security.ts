/**
 * The attacks of the security reference, groups A, T, U, C and O, and its goals, and what becomes of each here. A test shows
 * one by `attack('T3', …)`, `attackFrom` or `attackProcess`, which run it beside a bystander, a ledger of calls and a search
 * for secrets, or by its name: `T3: …` at the beginning or `(T3)` at the end. `security.md` is made of both.
 */

export interface Attacked {
  readonly id: string
  readonly says: string
  /** Where the design has other numbers, codes or ways than the reference. */
  readonly replaced?: string
  /** Files whose tests show it without naming it. */
  readonly also?: readonly string[]
  /** What of it no test shows yet. */
  readonly lacks?: string
  /** Why no test of it runs beside them, where the others of its group do. */
  readonly alone?: string
}

type More = Omit<Attacked, 'id' | 'says'>

const parsed = 'no gateway runs: the file is parsed, or checked'

const sections: Readonly<Record<string, readonly (readonly [string, string, More?])[]>> = {
  'A: keys': [
    ['A1', 'No key: 401 on every door, no body read, nothing started', { replaced: '-31401 for 4010' }],
    ['A2', 'A malformed credential', { replaced: 'the bare key is one; several spaces are one' }],
    ['A3', 'A wrong key: the same bytes whatever is wrong'],
    ['A4', 'A key that is revoked or expired'],
    ['A5', 'Timing', { replaced: 'a look-up by digest for `timingSafeEqual`', alone: 'it needs no gateway' }],
    ['A6', 'A key in the wrong place', { replaced: '`x-api-key` is a right one' }],
    ['A7', 'Doubled and conflicting headers', { replaced: 'two different keys are 401' }],
    ['A8', 'Huge and many headers'],
    ['A9', 'Guessing']
  ],
  'T: transport and input': [
    ['T1', 'Bad JSON'],
    ['T2', 'Batches'],
    ['T3', 'Depth and size of structure', { replaced: 'no limit of members: bytes and depth' }],
    ['T4', 'A body of 100 MB', { replaced: '-31413 for 4130' }],
    ['T5', 'Bytes that are no UTF-8, and all that are'],
    ['T6', 'Content-Type and Accept', { replaced: 'no 406' }],
    ['T7', 'Versions and mirrored headers', { replaced: 'a second initialize opens another session' }],
    ['T8', 'Host, Origin, rebinding', { replaced: '-31403 for 4030; an Origin of the same host may be https' }],
    ['T9', 'CORS'],
    ['T10', 'Methods, framings, GET and DELETE', { replaced: '405 without a session; a second GET replaces' }],
    ['T11', 'Idle sessions and streams', { replaced: 'ids without a cap; 100 streams a key' }],
    ['T12', 'A client that stops reading'],
    ['T13', 'Slow headers and bodies, too many connections'],
    ['T14', 'Churn and early ends'],
    ['T15', 'An id in use, a flood of calls', { replaced: 'a limit of calls at once for a rate' }],
    ['T16', 'Anything at all']
  ],
  'U: servers': [
    ['U1', 'Fails at start'],
    ['U2', 'Crashes in the middle of calls', { replaced: '25 kills in CI; the 1,000 of ATTACK_FULL lost none of 20,000 calls' }],
    ['U3', 'Hangs'],
    ['U4', 'Does not read'],
    ['U5', 'Noise'],
    ['U6', 'A message without an end', { replaced: '32 MiB for 10' }],
    ['U7', 'Answers that are none', { replaced: 'errors pass unaltered; an HTTP answer with -32021 is 400' }],
    ['U8', 'Ids of nobody'],
    ['U9', 'Lists without end', { replaced: '10,000 tools; a list that takes too long is left as it was' }],
    ['U10', 'A storm of list_changed', { replaced: 'every 2 s for 5' }],
    ['U11', 'Poisoned descriptions', { replaced: 'flagged, never edited, no sizes' }],
    ['U13', 'Schemas, patterns and templates made to hang', { also: ['uri-template.test.ts', 'listen.test.ts'] }],
    ['U15', 'Redirects and other origins', { replaced: '-31502 for 5031' }],
    ['U16', 'TLS', { replaced: 'no `caFile` and no switch: NODE_EXTRA_CA_CERTS, and certificates are always checked' }],
    ['U17', 'Statuses, versions and capabilities that lie', { replaced: 'attempts that calls pull forward for a breaker' }],
    ['U18', 'Nothing is left of a server'],
    ['U19', 'The environment of a server']
  ],
  'C: configuration': [
    ['C1', 'Unknown members and typos', { alone: parsed }],
    ['C2', 'Variables', { alone: parsed }],
    ['C3', 'Duplicates', { alone: parsed }],
    ['C4', 'YAML made to harm', { alone: parsed }],
    ['C5', 'Secrets in errors', { alone: parsed }],
    ['C6', 'Globs', { alone: parsed }],
    ['C7', 'Permissions of files', { alone: parsed }],
    ['C8', 'Packages without a version', { alone: parsed }],
    ['C9', 'No configuration from afar'],
    ['C10', 'Reload']
  ],
  'O: operations': [
    ['O1', 'An end in order, and one that is not'],
    ['O2', 'An address that cannot be had', { alone: 'no gateway comes up' }],
    ['O3', 'A log that cannot be written'],
    ['O4', 'Clock, descriptors, memory, faults']
  ],
  'Goals (§4.3)': [
    ['G1', '500 calls a second for 30 minutes', { replaced: '3 s in CI, 2 minutes with ATTACK_FULL', lacks: '28 minutes' }],
    ['G2', '1,500 calls a second for a minute', { replaced: '2 s in CI, a minute with ATTACK_FULL' }],
    ['G3', 'Twice the peak', { replaced: 'twice what one server can do', lacks: "twice the gateway's own peak", also: ['overload.test.ts'] }],
    ['G4', 'No call is lost, doubled or given to another', { replaced: '4,000 calls in CI, a million with ATTACK_FULL', also: ['../chaos/chaos.mjs', 'children.test.ts', 'reload.test.ts', 'upstream-http.test.ts', 'attack-links.test.ts'] }],
    ['G5', '2,000 sessions', { replaced: 'some hundreds in CI, 2,000 with ATTACK_FULL; 100,000 abandoned ones with soak --sessions', also: ['../chaos/soak.mjs', 'clients-as-they-are.test.ts', 'overload.test.ts'] }],
    ['G6', 'Slow readers', { also: ['streams.test.ts'] }],
    ['G7', 'Every fault of this page, and faults of the network', { also: ['../chaos/chaos.mjs'] }],
    ['G8', '200,000 bad inputs', { replaced: 'some thousands in CI; the 10⁵ of each of ATTACK_FULL caused no fault', also: ['attack-fuzz.test.ts'] }],
    ['G9', 'No amplification', { also: ['attack-transport.test.ts', 'attack-upstream.test.ts'] }],
    ['G10', 'No secret is said', { replaced: '4,000 lines in CI, a million with ATTACK_FULL', also: ['observe.test.ts', 'attack-keys.test.ts', 'attack-transport.test.ts', 'attack-upstream.test.ts'] }],
    ['G11', 'Times of start, return and reload', { also: ['restart.test.ts', 'upstream-faults.test.ts', 'reload.test.ts'] }],
    ['G12', 'Eight hours', { lacks: 'a run of that length', also: ['../chaos/soak.mjs'] }],
    ['G13', 'Ends under load', { replaced: 'twice in CI, 50 times with ATTACK_FULL', also: ['attack-operations.test.ts'] }],
    ['G14', 'Coverage and mutations', { lacks: 'a measurement' }]
  ]
} // prettier-ignore

export const attacks: readonly Attacked[] = Object.values(sections).flatMap(rows =>
  rows.map(([id, says, more = {}]) => ({ id, says, ...more }))
)

/** Ids of the reference that belong to other pages or were left for later. */
export const elsewhere = /^(?:A10|U12|U14|Z\d+)$/

/** Groups whose tests run beside a bystander, a ledger and a search for secrets, wherever a gateway runs. */
export const attended = /^[ATUCO]/

export interface Shown {
  /** Files that name it. */
  readonly named: readonly string[]
  /** Those of them in which it is an `attack`. */
  readonly attended: readonly string[]
}

export const isOpen = ({ also = [], lacks }: Attacked, { named }: Shown): boolean =>
  named.length === 0 && (also.length === 0 || lacks !== undefined)

/** The page that lists them all. */
export function securityPage(shownBy: (id: string) => Shown): string {
  const open = attacks.filter(attack => isOpen(attack, shownBy(attack.id)))
  const beside = attacks.filter(({ id }) => shownBy(id).attended.length > 0)
  const lines = [
    '# The security reference, attack by attack',
    '',
    'Made by `test/security.test.ts` from `test/security.ts` and the names of the tests; after a change:',
    '`npx vitest run test/security.test.ts -u`. The ids are those of the security reference.',
    '',
    `${attacks.length - open.length} of ${attacks.length} are shown, ${beside.length} of them beside a bystander whose calls must not suffer, a ledger of calls`,
    'that must come out even, and a search for secrets in all that is said. Open:',
    `${open.map(({ id }) => id).join(', ')}.`
  ]
  for (const [title, rows] of Object.entries(sections)) {
    lines.push('', `## ${title}`, '', '| id | Attack | Shown by | Bystander, ledger, secrets | Here instead | Lacks |', '|---|---|---|---|---|---|') // prettier-ignore
    for (const [id, says, more = {}] of rows) {
      const { also = [], replaced = '', lacks = '', alone }: More = more
      const shown = shownBy(id)
      const files = [...new Set([...shown.named, ...also])].sort()
      const beside = shown.attended.length > 0 ? 'yes' : files.length > 0 && attended.test(id) ? (alone ?? '') : ''
      lines.push(`| ${id} | ${says} | ${files.join(', ') || 'open'} | ${beside} | ${replaced} | ${lacks} |`)
    }
  }
  return `${lines.join('\n')}\n`
}
