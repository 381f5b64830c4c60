/** Tables, figures, and the end of a run. */
export function table(head, rows) {
  const all = [head, head.map((_, i) => (i === 0 ? '---' : '--:')), ...rows]
  return all.map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

export const count = value => value.toLocaleString('en')
export const mib = bytes => `${(bytes / 1024 / 1024).toFixed(1)} MiB`

/** Least squares over `[milliseconds, bytes]`: MiB a minute. */
export function slope(samples) {
  const n = samples.length
  if (n < 2) return 0
  const [meanX, meanY] = [0, 1].map(i => samples.reduce((sum, sample) => sum + sample[i], 0) / n)
  const over = samples.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0)
  const under = samples.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0)
  return ((over / under) * 60_000) / 1024 / 1024
}

/** How far above the start something may be in the end. Processes are exactly as many as before. */
const margins = { descriptors: 6, threads: 4, timers: 4, handles: 6, heap: 16 * 1024 * 1024, rss: 150 * 1024 * 1024 }
const names = {
  processes: 'processes below the gateway',
  descriptors: 'open descriptors',
  threads: 'threads',
  timers: 'timers that keep it alive',
  handles: 'other handles',
  heap: 'heap after a collection',
  rss: 'resident memory'
}

/** What was held before and after. @returns rows of a table, and what is above its margin. */
export function compare(before, after, own = {}) {
  const allowed = { ...margins, ...own }
  const show = (name, value) => (name === 'heap' || name === 'rss' ? mib(value) : String(value))
  const breaches = []
  const rows = Object.entries(names).map(([name, title]) => {
    const margin = allowed[name] ?? 0
    const good = name === 'processes' ? after[name] === before[name] : after[name] <= before[name] + margin
    if (!good) breaches.push(`${title}: ${show(name, before[name])} before, ${show(name, after[name])} after`)
    return [title, show(name, before[name]), show(name, after[name]), margin ? `+ ${show(name, margin)}` : 'the same']
  })
  return { rows, breaches }
}
