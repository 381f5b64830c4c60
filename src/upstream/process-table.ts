/**
 * What the system knows of the processes that run: read from /proc, elsewhere asked of `ps`. A process is named by pid
 * and start time together, since a pid alone may come to belong to another.
 */
import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'

export interface ProcessEntry {
  readonly pid: number
  readonly pgid: number
  /** When it began, in a form that is only good to compare; the same after a reboot means another process. */
  readonly started: string
  /** The variable of its first environment that was asked for; unknown without /proc, and for other users' processes. */
  readonly variable?: string
}

export interface ProcessTable {
  /** Whether variables can be read at all. */
  readonly showsVariables: boolean
  /** When a process began; undefined when there is none. */
  startedOf(pid: number): Promise<string | undefined>
  /** Every living process; one that has ended and waits to be collected is left out. */
  list(): Promise<ProcessEntry[]>
}

/** /proc is read in slices, so that a machine with thousands of processes does not hold up the loop. */
const slice = 64

/**
 * @param variable the environment variable that entries show.
 * @param proc where proc(5) is mounted. @default /proc
 */
export function createProcessTable(variable: string, proc = '/proc'): ProcessTable {
  if (!existsSync(`${proc}/self/stat`)) return psTable
  const boot = readOr('', `${proc}/sys/kernel/random/boot_id`).trim()
  const head = `${variable}=`

  function read(pid: number): ProcessEntry | undefined {
    const stat = readOr('', `${proc}/${pid}/stat`)
    // The name before it is in brackets and may hold anything (proc(5), stat): fields count from the last bracket.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const [state, , pgid] = fields
    if (fields.length < 20 || state === 'Z' || state === 'X') return undefined
    const found = readOr('', `${proc}/${pid}/environ`)
      .split('\0')
      .find(entry => entry.startsWith(head))
    return {
      pid,
      pgid: Number(pgid),
      started: `${boot}/${fields[19]}`,
      ...(found !== undefined && { variable: found.slice(head.length) })
    }
  }

  return {
    showsVariables: true,
    startedOf: pid => Promise.resolve(read(pid)?.started),
    async list() {
      const pids = readdirSync(proc).filter(name => /^\d+$/.test(name))
      const entries: ProcessEntry[] = []
      for (let from = 0; from < pids.length; from += slice) {
        if (from > 0) await new Promise(resolve => setImmediate(resolve))
        entries.push(...pids.slice(from, from + slice).flatMap(pid => read(Number(pid)) ?? []))
      }
      return entries
    }
  }
}

const psTable: ProcessTable = {
  showsVariables: false,
  async startedOf(pid) {
    const started = (await ps('-p', String(pid), '-o', 'lstart=')).trim()
    return started === '' ? undefined : started
  },
  async list() {
    const lines = (await ps('-A', '-o', 'pid=', '-o', 'pgid=', '-o', 'stat=', '-o', 'lstart=')).split('\n')
    return lines.flatMap(line => {
      const [, pid, pgid, state, started] = /^\s*(\d+)\s+(\d+)\s+(\S+)\s+(\S.*?)\s*$/.exec(line) ?? []
      if (started === undefined || state?.startsWith('Z')) return []
      return { pid: Number(pid), pgid: Number(pgid), started }
    })
  }
}

/** What `ps` prints; nothing where it fails or is missing. Start times come in one zone and one language. */
function ps(...args: string[]): Promise<string> {
  return new Promise(resolve => {
    const env = { PATH: process.env.PATH, TZ: 'UTC', LC_ALL: 'C' }
    execFile('ps', args, { env, timeout: 5000, maxBuffer: 16 * 1024 * 1024 }, (_error, stdout) => resolve(stdout))
  })
}

function readOr(otherwise: string, file: string): string {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return otherwise
  }
}
