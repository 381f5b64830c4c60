/**
 * On a shared machine the speed of everything drifts within seconds, so what is compared by CPU is measured in many short
 * runs side by side instead of a few long ones.
 */

/** So many in a round. */
export const shortRuns = 4

export const shortRun = quick => (quick ? { calls: 800, ms: 160 } : { calls: 6000, ms: 1000 })
