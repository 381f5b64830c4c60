/**
 * Somebody who has nothing to do with it: with a key of their own they call a healthy server ten times a second, in both
 * eras, for as long as something else is attacked. Not one of their calls may fail.
 */
import { expect } from 'vitest'
import { modern, openSession, type Reply } from './http.js'
import type { CallLedger } from './ledger.js'

export interface BystanderResult {
  readonly calls: number
  readonly errors: readonly string[]
  readonly p99Ms: number
}

export interface Bystander {
  /** Ends after the calls under way, and no sooner than `fewest` calls. */
  stop(): Promise<BystanderResult>
}

const everyMs = 100
const fewest = 3
/** The goal is 250 ms; on a loaded machine five times that is let pass. */
export const slowestMs = 5 * 250

export interface BystanderOptions {
  readonly url: string
  readonly secret: string
  /** The tool to call: it answers with its argument `message`. */
  readonly tool: string
  /** Goes along as an argument, and must not come back anywhere. */
  readonly canary: string
  readonly ledger: CallLedger
}

export async function startBystander({ url, secret, tool, canary, ledger }: BystanderOptions): Promise<Bystander> {
  const session = await openSession(url, secret)
  const errors: string[] = []
  const tookMs: number[] = []
  const underWay = new Set<Promise<void>>()
  let count = 0

  const call = (nonce: string): Promise<Reply> => {
    const params = { name: tool, arguments: { message: nonce, nonce, secret: canary } }
    return count++ % 2 === 0 ? modern(url, secret, 'tools/call', params) : session.rpc('tools/call', params)
  }
  const once = async () => {
    const begun = performance.now()
    let sent = ''
    try {
      const reply = await ledger.call(nonce => call((sent = nonce)))
      const text: unknown = reply?.json?.result?.content?.[0]?.text
      if (reply?.status !== 200 || text !== sent) errors.push(`${reply?.status} ${reply?.text.slice(0, 300)}`)
    } catch (error) {
      errors.push(String(error))
    }
    tookMs.push(performance.now() - begun)
  }
  const begin = () => {
    const running = once().finally(() => underWay.delete(running))
    underWay.add(running)
  }
  begin()
  const timer = setInterval(begin, everyMs)

  return {
    async stop() {
      while (tookMs.length + underWay.size < fewest) await new Promise(resolve => setTimeout(resolve, everyMs / 4))
      clearInterval(timer)
      await Promise.all(underWay)
      return { calls: tookMs.length, errors, p99Ms: percentile(tookMs, 0.99) }
    }
  }
}

export function expectUnharmed({ calls, errors, p99Ms }: BystanderResult): void {
  expect(calls).toBeGreaterThanOrEqual(fewest)
  expect(errors, 'errors of the bystander').toEqual([])
  expect(p99Ms, 'p99 of the bystander').toBeLessThan(slowestMs)
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN
}
