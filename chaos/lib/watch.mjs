/**
 * Watches the gateway while clients call: its memory, and how long the machine kept it and the clients waiting for a
 * processor. An answer that is late by no more than that is no fault of the gateway's.
 */
import { processorOf, rssOf } from './processes.mjs'

const everyMs = 100

/** @param pid the gateway; the clients are this process. */
export function watch(pid) {
  const samples = []
  const look = () => {
    const [mine, its] = [process.pid, pid].map(processorOf)
    samples.push({ at: Date.now(), rss: rssOf(pid), ran: its.ran, waited: its.waited + mine.waited })
  }
  look()
  const timer = setInterval(look, everyMs)
  return {
    stop() {
      clearInterval(timer)
      look()
    },
    samples,
    /** Milliseconds of waiting for a processor between two moments. */
    waited(from, to) {
      const after = samples.find(({ at }) => at > to + everyMs) ?? samples.at(-1)
      const before = samples.findLast(({ at }) => at <= from) ?? samples[0]
      return after.waited - before.waited
    },
    /** The most of a figure within one second. */
    most(figure) {
      const second = 1000 / everyMs
      const gains = samples.slice(second).map((sample, i) => sample[figure] - samples[i][figure])
      return Math.max(0, ...gains)
    }
  }
}
