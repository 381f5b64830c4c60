/** The processes and folders of one run: started here, looked into through /proc, and ended here, they and no others. */
import { fork, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

export const chaos = fileURLToPath(new URL('..', import.meta.url))
/** In the environment of everything below the gateway, by which it is found wherever it went. */
const markVariable = 'CHAOS_RUN'
/** The exit code of an upstream with a bug that nobody has planned. */
const ownFault = 70

export function createProcesses() {
  const mark = randomUUID()
  const folder = mkdtempSync(join(tmpdir(), 'switchboard-chaos-'))
  const running = new Set()
  const bugs = []
  let closing = false

  const known = child => {
    running.add(child)
    child.once('exit', () => running.delete(child))
    return child
  }

  async function stop(child) {
    if (!running.has(child)) return child.exitCode
    const exited = once(child, 'exit')
    const last = setTimeout(() => child.kill('SIGKILL'), 15_000)
    child.kill('SIGTERM')
    const [code] = await exited
    clearTimeout(last)
    return code
  }

  return {
    folder,
    /** Upstreams that ended by a fault of this folder's own. */
    bugs,
    /** The environment of upstreams. */
    env: { LEDGER: join(folder, 'ledger'), [markVariable]: mark },
    /** Everything that bears the mark of this run. */
    marked: () => processes().filter(pid => textOf(pid, 'environ').includes(`${markVariable}=${mark}`)),
    /** The process of the upstream of that name which the gateway has started. */
    named(name) {
      return this.marked().find(pid => textOf(pid, 'cmdline').includes(`--name\0${name}\0`))
    },

    /** The gateway as it is run, with the probe beside it. */
    startGateway({ config, keys, port }) {
      const log = openSync(join(folder, 'log'), 'a')
      const args = ['serve', '--config', config, '--state', join(folder, 'state'), '--port', String(port)]
      const child = fork(join(chaos, '../dist/cli.js'), args, {
        cwd: folder,
        env: { ...inherited(), ...keys },
        execArgv: ['--expose-gc', '--import', join(chaos, 'lib/probe.mjs')],
        stdio: ['ignore', log, log, 'ipc']
      })
      closeSync(log)
      return known(child)
    },

    /** An upstream with an address, started again whenever it ends. @returns what kills it. */
    async keepAlive(script, args, port) {
      let child
      const listening = () =>
        new Promise(resolve => {
          child = known(
            spawn(process.execPath, [join(chaos, 'servers', script), ...args, '--port', String(port)], {
              cwd: folder,
              env: { ...inherited(), LEDGER: join(folder, 'ledger') },
              stdio: ['pipe', 'pipe', 'inherit']
            })
          )
          child.stdin.on('error', () => {})
          child.stdout.once('data', resolve)
          child.once('exit', code => {
            if (code === ownFault) bugs.push(script)
            resolve()
            setTimeout(() => closing || void listening(), 50)
          })
        })
      await listening()
      return () => child.kill('SIGKILL')
    },

    stop,
    async close() {
      closing = true
      await Promise.all([...running].map(stop))
      rmSync(folder, { recursive: true, force: true })
    },
    /** The same at once, when there is no time left to ask. */
    kill() {
      closing = true
      for (const child of running) child.kill('SIGKILL')
      rmSync(folder, { recursive: true, force: true })
    }
  }
}

function inherited() {
  const names = ['HOME', 'LANG', 'PATH', 'TMPDIR', 'USER']
  return Object.fromEntries(names.flatMap(name => (process.env[name] === undefined ? [] : [[name, process.env[name]]])))
}

const processes = () => readdirSync('/proc').filter(name => /^\d+$/.test(name))

function textOf(pid, file) {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8')
  } catch {
    return ''
  }
}

const status = (pid, field) =>
  Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`))[1])

/** Resident memory now, in bytes. */
export const rssOf = pid => status(pid, 'VmRSS') * 1024

/** Milliseconds its main thread has run so far, and has waited for a processor; the second is 0 where nobody counts. */
export function processorOf(pid) {
  try {
    const [ran, waited] = readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')
    return { ran: Number(ran) / 1e6, waited: Number(waited) / 1e6 }
  } catch {
    return { ran: 0, waited: 0 }
  }
}

/** What a process holds: descriptors, threads, memory, and what it says itself. */
export async function heldBy(child) {
  const { pid } = child
  const told = once(child, 'message')
  child.send('')
  const [{ held, resources }] = await told
  const timers = resources.filter(name => name === 'Timeout' || name === 'Immediate').length
  return {
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    threads: status(pid, 'Threads'),
    timers,
    handles: resources.length - timers,
    heap: held,
    rss: rssOf(pid)
  }
}

export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  await new Promise(resolve => server.close(resolve))
  return port
}

/** Waits until `probe` is true, at most so long. @returns whether it became so. */
export async function until(probe, ms, everyMs = 50) {
  for (const end = Date.now() + ms; ;) {
    if (await probe()) return true
    if (Date.now() > end) return false
    await sleep(everyMs)
  }
}
