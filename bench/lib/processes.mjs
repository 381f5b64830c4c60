/**
 * The processes and folders of one run of the bench: made here, looked into through /proc, and ended or removed here,
 * they and no others.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const bench = fileURLToPath(new URL('..', import.meta.url))

export function createProcesses() {
  const running = new Set()
  const root = mkdtempSync(join(tmpdir(), 'switchboard-bench-'))
  const clear = () => rmSync(root, { recursive: true, force: true })

  /** Starts a Node script. @param stdio as in `spawn`; stdout of a server of ours is a pipe. */
  function start(args, { env = {}, stdio = ['ignore', 'ignore', 'ignore'], cwd = bench } = {}) {
    const child = spawn(process.execPath, args, { cwd, stdio, env: { ...inherited(), ...env } })
    running.add(child)
    child.once('exit', () => running.delete(child))
    return child
  }

  /** Ends one: TERM, and KILL after five seconds. */
  async function stop(child) {
    if (!running.has(child)) return
    const exited = once(child, 'exit')
    const last = setTimeout(() => child.kill('SIGKILL'), 5000)
    child.kill('SIGTERM')
    await exited
    clearTimeout(last)
  }

  return {
    start,
    stop,
    /** A new folder, there until the end of the run. */
    folder: () => mkdtempSync(join(root, 'x')),
    /** Starts one of `servers/`, which prints the port it listens on and ends with its stdin, so with us. */
    async serve(name, ...args) {
      const child = start([`servers/${name}.mjs`, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
      const [line] = await once(child.stdout, 'data')
      const port = Number(/listening (\d+)/.exec(line)?.[1])
      if (!port) throw new Error(`${name} did not say where it listens: ${line}`)
      return { child, pid: child.pid, origin: `http://127.0.0.1:${port}`, stop: () => stop(child) }
    },
    async close() {
      await Promise.all([...running].map(stop))
      clear()
    },
    /** The same at once, when there is no time left to ask. */
    kill() {
      for (const child of running) child.kill('SIGKILL')
      clear()
    }
  }
}

function inherited() {
  const names = ['HOME', 'LANG', 'PATH', 'TMPDIR', 'USER']
  return Object.fromEntries(names.flatMap(name => (process.env[name] === undefined ? [] : [[name, process.env[name]]])))
}

/** CPU time of a process so far, user and system, all its threads, in milliseconds; Linux counts it in nanoseconds. */
export const cpuMs = pid => readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => sum + threadMs(pid, thread), 0)

/** The same of its main thread alone. */
export const mainThreadMs = pid => threadMs(pid, pid)

const threadMs = (pid, thread) =>
  Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]) / 1e6

/** Resident memory now and at its highest since `resetPeak`, in bytes. */
export function memoryOf(pid) {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const read = name => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1024
  return { now: read('VmRSS'), peak: read('VmHWM') }
}

export function resetPeak(pid) {
  writeFileSync(`/proc/${pid}/clear_refs`, '5')
}

export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  await new Promise(resolve => server.close(resolve))
  return port
}
