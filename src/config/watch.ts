/**
 * Notices that a file may have changed, however that was done: written in place, replaced by an editor, swapped as a
 * symbolic link by Kubernetes, or changed behind a mount that tells nobody.
 */
import { statSync, watch, type FSWatcher } from 'node:fs'
import { basename, dirname } from 'node:path'

export interface WatchOptions {
  /** A change is told when nothing more happened for so long. @default 200 */
  readonly quietMs?: number
  /** It is told after so long in any case: a file that is never quiet would never be looked at. @default 2000 */
  readonly longestMs?: number
  /** How often the file is looked at besides: a file mounted by itself tells its folder nothing. @default 250 */
  readonly pollMs?: number
}

/** Calls `onChange` after each change, and perhaps without one. @returns what ends it. */
export function watchFile(file: string, onChange: () => void, options: WatchOptions = {}): () => void {
  const { quietMs = 200, longestMs = 2000, pollMs = 250 } = options
  let quiet: NodeJS.Timeout | undefined
  let firstAt: number | undefined
  let seen = stampOf(file)
  const soon = () => {
    const now = performance.now()
    firstAt ??= now
    clearTimeout(quiet)
    quiet = setTimeout(tell, Math.max(0, Math.min(quietMs, firstAt + longestMs - now)))
    quiet.unref()
  }
  const tell = () => {
    firstAt = undefined
    onChange()
  }
  const look = () => {
    const now = stampOf(file)
    if (now === seen) return
    seen = now
    soon()
  }
  let watcher: FSWatcher | undefined
  try {
    // The folder and not the file: what replaces a file is another one.
    watcher = watch(dirname(file), { persistent: false }, (_what, name) => {
      // A log that is kept in the same folder tells of every write. What is swapped under another name is found below.
      if (name === null || name === basename(file)) look()
    })
    watcher.on('error', () => watcher?.close())
  } catch {
    // Some file systems cannot be watched; then looking has to do.
  }
  const poll = setInterval(look, pollMs)
  poll.unref()
  return () => {
    watcher?.close()
    clearInterval(poll)
    clearTimeout(quiet)
  }
}

/** What is another when the file is. */
function stampOf(file: string): string {
  try {
    const { mtimeMs, size, ino } = statSync(file)
    return `${mtimeMs} ${size} ${ino}`
  } catch {
    return 'missing'
  }
}
