/** Finds the processes that a test has caused, however far below it they are; from /proc. */
import { readdirSync, readFileSync } from 'node:fs'

const pids = () => readdirSync('/proc').filter(name => /^\d+$/.test(name)).map(Number) // prettier-ignore

/** The living processes with the marker in their environment; one that waits to be collected has none any more. */
export function marked(marker: string): number[] {
  return pids().filter(pid => {
    try {
      return readFileSync(`/proc/${pid}/environ`).includes(marker)
    } catch {
      return false
    }
  })
}

/** The children of a process that have ended and were not collected. */
export function zombiesOf(parent: number): number[] {
  return pids().filter(pid => {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      const [state, itsParent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      return state === 'Z' && Number(itsParent) === parent
    } catch {
      return false
    }
  })
}
