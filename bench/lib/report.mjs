/** From rounds to one table. */
import { cpus } from 'node:os'

export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/**
 * @param row.base what it is compared with, round by round; absent where only a bound in the unit itself is asked.
 * @param row.mine the gateway's, round by round.
 * @param row.bound @param row.goal of the ratio, or of the gateway's own value where there is no `base`.
 * @param row.higher more is better.
 */
export function judge(row) {
  const { base, mine, bound, goal, higher = false } = row
  const ratios = base && mine.map((value, i) => value / base[i])
  const measured = median(ratios ?? mine)
  const holds = limit => (higher ? measured >= limit : measured <= limit)
  return {
    ...row,
    ratios,
    measured,
    ok: bound === undefined ? undefined : holds(bound),
    reached: goal !== undefined && holds(goal)
  }
}

export function table(rows) {
  const lines = rows.map(row => {
    const { measure, against, base, mine, unit, ratios, measured, bound, goal, higher, ok, reached } = row
    const sign = higher ? '≥' : '≤'
    const limit = value => (value === undefined ? '' : `${sign} ${value}${ratios ? ' ×' : ` ${unit}`}`)
    return [
      measure,
      base ? `${against}: ${spread(base, unit)}` : (against ?? ''),
      spread(mine, unit),
      ratios ? `**${ratio(measured)}** (${ratio(Math.min(...ratios))}–${ratio(Math.max(...ratios))})` : '',
      limit(bound),
      limit(goal),
      ok === undefined ? '' : ok ? (reached ? 'goal' : 'ok') : '**no**'
    ]
  })
  const head = ['Measure', 'Bare or peer', 'Switchboard', 'Ratio', 'Bound', 'Goal', 'Ok?']
  const all = [head, head.map(() => '---'), ...lines]
  return all.map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

export function machine() {
  const { model } = cpus()[0]
  return `${model.trim()}, ${cpus().length} cores, Node ${process.version}, ${new Date().toISOString().slice(0, 10)}`
}

const spread = (values, unit) =>
  `${number(median(values))} ${unit} (${number(Math.min(...values))}–${number(Math.max(...values))})`
const ratio = value => `${value.toFixed(value >= 10 ? 1 : 2)} ×`

function number(value) {
  if (value >= 1000) return Math.round(value).toLocaleString('en')
  return value >= 100 ? value.toFixed(0) : value.toFixed(1)
}
