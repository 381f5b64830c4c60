/** Another key that calls a healthy server ten times a second while something bad happens: it must not notice. */
import { setTimeout as sleep } from 'node:timers/promises'
import { modern } from './http.js'

export interface Neighbour {
  /** Ends it. @returns how many calls it made, which of them failed and how, and the slowest but one in a hundred. */
  leave(): Promise<{ readonly calls: number; readonly errors: readonly string[]; readonly p99: number }>
}

/** @param call names the tool and its arguments; what it answers must be a result without isError. */
export function neighbour(url: string, secret: string, call: { name: string; arguments?: object }): Neighbour {
  const errors: string[] = []
  const times: number[] = []
  let left = false
  const one = async () => {
    const begun = performance.now()
    try {
      const { status, text, json } = await modern(url, secret, 'tools/call', call)
      if (status !== 200 || !json.result || json.result.isError) errors.push(`${status} ${text.slice(0, 300)}`)
    } catch (error) {
      errors.push(String(error))
    }
    times.push(performance.now() - begun)
  }
  const all: Promise<void>[] = []
  const done = (async () => {
    while (!left) {
      all.push(one())
      await sleep(100)
    }
    await Promise.all(all)
  })()
  return {
    async leave() {
      left = true
      await done
      const sorted = times.toSorted((a, b) => a - b)
      return { calls: times.length, errors, p99: sorted[Math.ceil(sorted.length * 0.99) - 1] ?? NaN }
    }
  }
}
