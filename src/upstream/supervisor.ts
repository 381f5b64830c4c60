/**
 * When the next attempt to connect may happen: pure functions of what is known, so that a fake clock can test them.
 * An upstream is never given up; a call may pull the next attempt forward, but not into a crash loop.
 */

const baseMs = 1000
const capMs = 60_000
const crashWindowMs = 5 * 60_000
const crashLoop = { crashes: 5, waitMs: 10_000 }
/** A link that lived this long was healthy: the next failure counts as the first. */
export const healthyMs = 60_000

/**
 * Milliseconds to wait after the n-th failure in a row (n ≥ 1): 1 s · 2ⁿ⁻¹ up to 60 s, spread by ±50 %.
 * @param random a number in [0, 1).
 */
export function backoffMs(failures: number, random: number): number {
  const full = Math.min(baseMs * 2 ** Math.min(Math.max(failures, 1) - 1, 30), capMs)
  return Math.round(Math.min(full * (0.5 + random), capMs))
}

/** The earliest moment (same clock as its arguments, ms) at which an arriving call may cause an attempt. */
export function earliestAttempt(lastAttempt: number, crashes: readonly number[], now: number): number {
  const recent = crashes.filter(at => at > now - crashWindowMs).length
  return lastAttempt + (recent >= crashLoop.crashes ? crashLoop.waitMs : baseMs)
}
