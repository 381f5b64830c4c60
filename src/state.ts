/**
 * The state directory: what must outlive the process (seal keys, generated keys, the catalog) and nothing else. It is
 * owned by one process at a time. This is the seam behind which several replicas will share a store one day.
 *
 * Without a writable directory everything runs on, from memory; `problem` then says what a restart will lose.
 */
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  linkSync,
  mkdirSync,
  statSync,
  openSync,
  readFileSync,
  renameSync,
  unlinkSync,
  writeFileSync,
  fsyncSync
} from 'node:fs'
import { join } from 'node:path'
import { reasonOf, SwitchboardError } from './errors.js'

export interface State {
  /** Where it lies; undefined when nothing is kept. */
  readonly path: string | undefined
  /** Why nothing is kept, as a sentence for the operator. */
  readonly problem: string | undefined
  read(name: string): Buffer | undefined
  /** Replaces a file as a whole (write, sync, rename), readable by the owner alone. Failure is logged, never thrown. */
  write(name: string, bytes: Buffer | string): void
  /** Gives the directory free for another process. */
  close(): void
}

export interface StateOptions {
  readonly path: string
  /** Reading only: no lock is taken and nothing is created. @default false */
  readonly readOnly?: boolean
  readonly onProblem?: (message: string) => void
}

/** @throws SwitchboardError when another living process owns the directory. */
export function openState({ path, readOnly = false, onProblem }: StateOptions): State {
  const memory = new Map<string, Buffer>()
  let problem: string | undefined
  let locked = false
  if (!readOnly) {
    try {
      mkdirSync(path, { recursive: true, mode: 0o700 })
      takeLock(join(path, 'lock'), path)
      locked = true
    } catch (error) {
      if (error instanceof SwitchboardError) throw error
      problem = `The state directory ${path} is not writable (${reasonOf(error)}): after a restart, sessions end, generated keys change and the tool lists of servers that are down are unknown. Make it writable, or name another with --state.`
    }
  }
  return {
    path: problem === undefined ? path : undefined,
    problem,
    read(name) {
      const kept = memory.get(name)
      if (kept) return kept
      try {
        return readFileSync(join(path, name))
      } catch {
        return undefined
      }
    },
    write(name, bytes) {
      if (problem !== undefined || readOnly) return void memory.set(name, Buffer.from(bytes))
      const temporary = join(path, `.${name}.${randomBytes(4).toString('hex')}`)
      try {
        const file = openSync(temporary, 'wx', 0o600)
        try {
          writeFileSync(file, bytes)
          fsyncSync(file)
        } finally {
          closeSync(file)
        }
        renameSync(temporary, join(path, name))
        memory.delete(name)
      } catch (error) {
        memory.set(name, Buffer.from(bytes))
        onProblem?.(
          `could not write ${join(path, name)} (${reasonOf(error)}); it is kept in memory until the next restart`
        )
      }
    },
    close() {
      if (!locked) return
      locked = false
      try {
        unlinkSync(join(path, 'lock'))
      } catch {
        // Somebody removed it; there is nothing left to give free.
      }
    }
  }
}

/** The lock names its owner by pid and start time: a pid alone may since belong to another process. */
function takeLock(file: string, path: string): void {
  const own = `${file}.${process.pid}`
  writeFileSync(own, JSON.stringify({ pid: process.pid, started: startTimeOf(process.pid) }), { mode: 0o600 })
  try {
    for (;;) {
      // A link appears with its whole content: nobody ever reads half a lock.
      if (linked(own, file)) return
      const stale = inodeOf(file)
      const owner = readOwner(file)
      if (owner && owner.pid !== process.pid && isAlive(owner.pid, owner.started)) {
        throw new SwitchboardError(
          'internal',
          `Another Switchboard (pid ${owner.pid}) uses the state directory ${path}. Stop it, or give this one a directory of its own with --state.`
        )
      }
      // Taken aside under one name for this one stale lock: of several that found it, one gets it.
      if (stale === undefined) continue
      const aside = `${file}.stale-${process.pid}`
      try {
        renameSync(file, aside)
      } catch {
        continue
      }
      // What was taken was not what was read: another was faster, and gets its lock back.
      if (inodeOf(aside) !== stale) linked(aside, file)
      unlinkSync(aside)
    }
  } finally {
    unlinkSync(own)
  }
}

function linked(from: string, to: string): boolean {
  try {
    linkSync(from, to)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    return false
  }
}

function inodeOf(file: string): bigint | undefined {
  return statSync(file, { bigint: true, throwIfNoEntry: false })?.ino
}

function readOwner(file: string): { pid: number; started: string | undefined } | undefined {
  try {
    const owner = JSON.parse(readFileSync(file, 'utf8')) as { pid?: unknown; started?: unknown }
    if (typeof owner.pid !== 'number') return undefined
    return { pid: owner.pid, started: typeof owner.started === 'string' ? owner.started : undefined }
  } catch {
    return undefined
  }
}

function isAlive(pid: number, started: string | undefined): boolean {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false
  }
  const now = startTimeOf(pid)
  return now === undefined || started === undefined || now === started
}

/** Clock ticks after boot at which the process began (proc(5), field 22 of stat); undefined where there is no /proc. */
function startTimeOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
  } catch {
    return undefined
  }
}
