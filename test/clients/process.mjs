/** Runs one program in a process group of its own and leaves nothing of it behind. */
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'

/** Every process we start carries this in its environment: so those that leave their group are found again. */
const markName = 'SWITCHBOARD_CLIENT_RUN'
const running = new Set()

process.once('exit', () => {
  for (const end of running) end()
})

/**
 * Starts it. The environment is `env` alone. `stdout()` and `stderr()` give what came so far, `exited` its exit code or
 * signal, `end()` kills whatever of it still runs, also what it left in other process groups.
 */
export function start(command, args, { cwd, env }) {
  const mark = randomUUID()
  const child = spawn(command, args, {
    cwd,
    env: { ...env, [markName]: mark },
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const text = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr']) child[name].setEncoding('utf8').on('data', chunk => (text[name] += chunk))

  const end = () => {
    if (child.pid !== undefined) kill(-child.pid)
    for (const pid of marked(mark)) kill(pid)
    running.delete(end)
  }
  running.add(end)
  const exited = Promise.race([
    once(child, 'exit').then(([code, signal]) => signal ?? code),
    once(child, 'error').then(([error]) => error.message)
  ]).catch(error => error.message)
  const closed = once(child, 'close').catch(() => {})
  return { child, exited, closed, end, stdout: () => text.stdout, stderr: () => text.stderr }
}

/** Runs it to its end, or for `limit` milliseconds: then `exit` is "overdue". */
export async function run(command, args, { limit, ...options }) {
  const program = start(command, args, options)
  const stop = new AbortController()
  const exit = await Promise.race([program.exited, pause(limit, 'overdue', { signal: stop.signal }).catch(() => {})])
  stop.abort()
  program.end()
  await Promise.race([program.closed, pause(2000, undefined, { ref: false })])
  return { exit, stdout: program.stdout(), stderr: program.stderr() }
}

function kill(pid) {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended already.
  }
}

/** Processes with our mark in their environment; only Linux lets us look. */
function marked(mark) {
  if (process.platform !== 'linux') return []
  const carries = pid => {
    try {
      return readFileSync(`/proc/${pid}/environ`, 'latin1').includes(`${markName}=${mark}`)
    } catch {
      return false
    }
  }
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name) && carries(name))
    .map(Number)
}
