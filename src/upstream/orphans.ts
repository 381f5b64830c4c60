/**
 * No process outlives the gateway that started it, whatever became of either. Every child bears a mark, a variable of
 * its environment that all below it inherit; marks and process groups stand in the state directory. What left its group
 * is found by its mark when its server ends; what a killed gateway left behind is found by the next one, before that
 * starts anything itself.
 *
 * Never a stranger's process: one is ended only if it bears a mark of ours, or is in a group whose leader is, by pid and
 * start time, the very process we started. A group without its leader and without marks is left alone.
 */
import { randomBytes } from 'node:crypto'
import type { Log } from '../observe/log.js'
import { createParentDeath, type ParentDeath } from './parent-death.js'
import { createProcessTable, type ProcessEntry } from './process-table.js'

/** The variable that children inherit. One that is to outlive its server has to be started without it. */
export const markVariable = 'SWITCHBOARD_CHILD'

export interface Orphans {
  /** How children are tied to our life where the system can do that. */
  readonly tie: ParentDeath['tie']
  /** The value of {@link markVariable} for one child to come. */
  mark(server: string): string
  /** The child has been started and leads a process group of its own. */
  note(mark: string, pgid: number): void
  /** Whether a process of the group lives. One that ended and that nobody collects, for want of an init, does not count. */
  inhabited(pgid: number): Promise<boolean>
  /** Its group has been ended: whatever else bears the mark is ended too. Resolves when it is gone; never rejects. */
  forget(mark: string): Promise<void>
  /**
   * Ends what an earlier gateway with this state directory left behind: TERM, after 2 s KILL. Done once; resolves when
   * children may be started, and never rejects.
   * @param starts whether children will be. @default true
   */
  reap(starts?: boolean): Promise<void>
  /** Call when all children have ended: the next start then has nothing to look for. */
  close(): void
}

export interface OrphansOptions {
  /** Where marks are kept: the state directory. */
  readonly store: { read(name: string): Buffer | undefined; write(name: string, bytes: string): void }
  readonly log: Pick<Log, 'warn'>
  /** Where proc(5) is mounted. @default /proc */
  readonly proc?: string
}

interface Group {
  readonly mark: string
  readonly pgid: number
  started?: string
}

/** One gateway process; the marks it gives begin with its id. */
interface Run {
  readonly id: string
  readonly pid: number
  readonly started?: string
}

interface Kept {
  readonly runs: readonly Run[]
  readonly groups: readonly Group[]
}

const file = 'children.json'
const nothing: Kept = { runs: [], groups: [] }
/** How long processes may take to end after TERM: those of an earlier run, and those that left their group. */
const graceMs = { reap: 2000, forget: 500 }
/** How often to look whether they have: soon at first, then less often. */
const lookMs = { first: 10, most: 200 }
/** What even KILL does not end hangs in the kernel: nobody waits for that. */
const killMs = 1000

export function createOrphans({ store, log, proc }: OrphansOptions): Orphans {
  const table = createProcessTable(markVariable, proc)
  const parentDeath = createParentDeath()
  let run: Run = { id: randomBytes(12).toString('hex'), pid: process.pid }
  const own = new Map<string, Group>()
  let former = read(store)
  let children = 0
  let closed = false
  let reaped: Promise<void> | undefined
  let save: NodeJS.Immediate | undefined
  let sweep: Promise<void> = Promise.resolve()
  /** The sweep that has not begun, and the marks it is to look for. */
  let nextSweep: Promise<void> | undefined
  let unwanted = new Set<string>()
  /** Several that end side by side look together. */
  let listing: Promise<ProcessEntry[]> | undefined

  function saveNow(runs: readonly Run[] = [run]): void {
    clearImmediate(save)
    save = undefined
    const groups = [...former.groups, ...own.values()]
    store.write(file, JSON.stringify({ version: 1, runs: [...former.runs, ...runs], groups }))
  }

  async function endFormer(): Promise<void> {
    const gone: Run[] = []
    // A state directory may have been copied from a gateway that is still alive: its children are in good hands.
    for (const each of former.runs) if ((await table.startedOf(each.pid)) !== each.started) gone.push(each)
    const bears = (mark: string) => gone.some(({ id }) => mark.startsWith(`${id}.`))
    const left = former.groups.filter(({ mark }) => bears(mark))
    const groups = new Map<number, string>()
    if (gone.length === 0) return
    const ended = await endAll(async () => {
      const entries = await table.list()
      for (const { mark, pgid, started } of left) {
        // A number is not given to another process as long as a group has it: once ours, it is until the group is gone.
        if (entries.some(entry => entry.pid === pgid && entry.started === started)) groups.set(pgid, serverOf(mark))
      }
      return entries.flatMap(entry => {
        const { variable } = entry
        const server = variable !== undefined && bears(variable) ? serverOf(variable) : groups.get(entry.pgid)
        return server === undefined ? [] : { ...entry, server }
      })
    }, graceMs.reap)
    for (const server of new Set(ended.map(each => each.server))) {
      const pids = ended.filter(each => each.server === server).map(({ pid }) => pid)
      const message = 'processes of an earlier gateway, which was killed, still ran and were ended'
      log.warn({ event: 'upstream.orphans', server, pids, message })
    }
    former = nothing
    saveNow()
  }

  /** Signals what `find` finds until it finds nothing, and tells what that was. */
  async function endAll<T extends ProcessEntry>(find: () => Promise<T[]>, ms: number): Promise<T[]> {
    const seen = new Map<string, T>()
    const deadline = performance.now() + ms
    for (let pause = lookMs.first; ; pause = Math.min(pause * 2, lookMs.most)) {
      const found = (await find()).filter(({ pid }) => pid !== process.pid)
      const late = performance.now() - deadline
      if (found.length === 0 || late > killMs) return [...seen.values()]
      for (const entry of found) {
        const name = `${entry.pid} ${entry.started}`
        if (late < 0 && seen.has(name)) continue
        seen.set(name, entry)
        if ((await table.startedOf(entry.pid)) === entry.started) signal(entry.pid, late < 0 ? 'SIGTERM' : 'SIGKILL')
      }
      await new Promise(resolve => setTimeout(resolve, pause))
    }
  }

  async function sweepNow(): Promise<void> {
    const marks = unwanted
    unwanted = new Set()
    nextSweep = undefined
    if (table.showsVariables) {
      await endAll(
        async () => (await table.list()).filter(({ variable }) => variable !== undefined && marks.has(variable)),
        graceMs.forget
      )
    }
    for (const mark of marks) own.delete(mark)
    saveSoon()
  }

  /** Notes of one moment share one write; the run itself is on disk before any child is there. */
  function saveSoon(): void {
    if (!closed) save ??= setImmediate(saveNow)
  }

  return {
    tie: (program, where) => parentDeath.tie(program, where),
    mark: server => `${run.id}.${++children}.${server}`,
    note(mark, pgid) {
      const group: Group = { mark, pgid }
      own.set(mark, group)
      void table.startedOf(pgid).then(started => {
        if (started === undefined || !own.has(mark)) return
        group.started = started
        saveSoon()
      })
    },
    async inhabited(pgid) {
      listing ??= table.list().finally(() => (listing = undefined))
      const entries = await listing
      return entries.length === 0 || entries.some(entry => entry.pgid === pgid)
    },
    forget(mark) {
      unwanted.add(mark)
      return (nextSweep ??= sweep = sweep.then(sweepNow).catch(() => {}))
    },
    async reap(starts = true) {
      reaped ??= (async () => {
        const started = await table.startedOf(process.pid)
        if (started !== undefined) run = { ...run, started }
        saveNow()
        await endFormer()
      })().catch(() => {})
      await Promise.all([reaped, starts && parentDeath.check()])
    },
    close() {
      closed = true
      saveNow(own.size > 0 ? [run] : [])
    }
  }
}

/** A mark is run, number and server. */
const serverOf = (mark: string) => mark.split('.')[2] ?? ''

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // It has just ended, or belongs to another user by now.
  }
}

/** Reads the file; one that is damaged or of another version is as good as none. */
function read(store: OrphansOptions['store']): Kept {
  try {
    const { version, runs, groups } = JSON.parse(store.read(file)?.toString() ?? '{}') as Record<string, unknown>
    if (version !== 1 || !Array.isArray(runs) || !Array.isArray(groups)) return nothing
    return { runs: runs.filter(isRun), groups: groups.filter(isGroup) }
  } catch {
    return nothing
  }
}

function isRun(value: unknown): value is Run {
  const { id, pid, started } = (value ?? {}) as Record<string, unknown>
  return typeof id === 'string' && id.length >= 16 && typeof pid === 'number' && typeof started === 'string'
}

function isGroup(value: unknown): value is Group {
  const { mark, pgid, started } = (value ?? {}) as Record<string, unknown>
  return typeof mark === 'string' && typeof pgid === 'number' && pgid > 1 && typeof started === 'string'
}
