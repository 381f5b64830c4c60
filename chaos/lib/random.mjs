/** Random numbers that a seed repeats (mulberry32), and what is chosen with them. */
export function createRandom(seed) {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  return {
    next,
    chance: share => next() < share,
    between: (from, to) => Math.floor(from + next() * (to - from)),
    pick: list => list[Math.floor(next() * list.length)],
    /** Another sequence, the same for the same number. */
    fork: number => createRandom(Math.imul(seed ^ 0x9e3779b9, 2 * number + 1) + number)
  }
}
