/** Whether a scenario ended as it should: without a complaint directly, exactly as directly through the gateway. */
import { readFileSync } from 'node:fs'

/** @returns `{ judge, unmet() }`; what `expected-failures.json` says is read once. */
export function createJudge() {
  const file = new URL('./expected-failures.json', import.meta.url)
  const { failures, differences } = JSON.parse(readFileSync(file, 'utf8'))
  const unmet = new Set([...failures, ...differences])

  /** The first entry about that scenario, version and upstream; without versions or upstreams it is about all of them. */
  function find(entries, { scenario, version, upstream }) {
    const entry = entries.find(
      ({ scenarios, versions, upstreams }) =>
        scenarios.includes(scenario) && (versions?.includes(version) ?? true) && (upstreams?.includes(upstream) ?? true)
    )
    unmet.delete(entry)
    return entry
  }

  return {
    /** What ended otherwise than directly, a line each, and the entry that expects it. */
    compare(checks, direct, place) {
      const allowed = find(differences, place)?.checks ?? {}
      const [here, there] = [summarise(checks), summarise(direct)]
      const wrong = checks.length === 0 ? ['the scenario gave no checks'] : []
      for (const id of new Set([...here.keys(), ...there.keys(), ...Object.keys(allowed)])) {
        const [seen, due] = [here.get(id) ?? 'absent', allowed[id] ?? there.get(id) ?? 'absent']
        if (seen !== due) wrong.push(`${id}: ${seen} instead of ${due}${reasons(checks, id)}`)
      }
      return { wrong, expected: find(failures, place) }
    },
    /** Entries about nothing that was run. */
    unmet: () => [...unmet]
  }
}

/** Of a scenario that was run directly: what the suite complains of. */
export function complaints(checks) {
  if (checks.length === 0) return ['the scenario broke down']
  return checks
    .filter(({ status }) => status === 'FAILURE' || status === 'WARNING')
    .map(({ id, status, errorMessage }) => `${id}: ${status}: ${errorMessage}`)
}

/** The statuses of each check: `SUCCESS`, `SUCCESS×3`, `FAILURE SUCCESS×2`. Notes (INFO) are not counted. */
export function summarise(checks) {
  const counts = new Map()
  for (const { id, status } of checks) {
    const ofId = counts.get(id) ?? counts.set(id, new Map()).get(id)
    ofId.set(status, status === 'INFO' ? 1 : (ofId.get(status) ?? 0) + 1)
  }
  const word = ([status, count]) => (count === 1 ? status : `${status}×${count}`)
  return new Map([...counts].map(([id, ofId]) => [id, [...ofId].map(word).sort().join(' ')]))
}

function reasons(checks, id) {
  const all = checks.filter(check => check.id === id && check.errorMessage).map(check => check.errorMessage)
  return all.length > 0 ? `: ${[...new Set(all)].join('; ')}` : ''
}
