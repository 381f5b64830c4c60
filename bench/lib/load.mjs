/** The bench's end of the load generator, and the requests it sends. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { marker } from '../servers/offer.mjs'
import { bench, cpuMs } from './processes.mjs'

export const modernVersion = '2026-07-28'
const envelope = {
  'io.modelcontextprotocol/protocolVersion': modernVersion,
  'io.modelcontextprotocol/clientInfo': { name: 'bench', version: '1.0.0' },
  'io.modelcontextprotocol/clientCapabilities': {}
}

export function createLoad() {
  const child = fork(join(bench, 'lib/load-process.mjs'), { serialization: 'advanced' })
  const waiting = new Map()
  let nextId = 1
  child.on('message', ({ id, result, error }) => {
    const { resolve, reject } = waiting.get(id)
    waiting.delete(id)
    if (error === undefined) resolve(result)
    else reject(new Error(error))
  })
  child.once('exit', (code, signal) => {
    for (const { reject } of waiting.values()) reject(new Error(`the load generator ended (${signal ?? code})`))
  })

  function ask(command, params) {
    const id = nextId++
    return new Promise((resolve, reject) => {
      waiting.set(id, { resolve, reject })
      child.send({ id, command, params })
    })
  }

  return {
    pid: child.pid,
    /**
     * Opens lanes to a target.
     * @param job what `load-process.mjs` takes, plus `target`: what is measured (`pid`), and who counts the calls made.
     */
    async open({ target, ...job }) {
      const set = await ask('open', { lanes: 32, expected: marker, ...job })
      const run = async limits => {
        const done = await ask('run', { set, ...limits })
        target.made?.(done.calls)
        if (done.failed > 0) throw new Error(`${done.failed} of ${done.calls} calls failed; first: ${done.firstFault}`)
        return done
      }
      return {
        run,
        /** CPU of the target per call, in microseconds, after a short run that opens its connections again. */
        async cpuPerCall(limits) {
          await run({ ...limits, calls: 200 })
          const before = cpuMs(target.pid)
          const { calls } = await run(limits)
          return ((cpuMs(target.pid) - before) * 1000) / calls
        },
        close: () => ask('close', { set })
      }
    },
    async stop() {
      if (!child.connected) return
      const exited = once(child, 'exit')
      child.disconnect()
      await exited
    }
  }
}

const json = ['content-type', 'application/json', 'accept', 'application/json, text/event-stream']
const bearer = secret => (secret === undefined ? [] : ['authorization', `Bearer ${secret}`])
export const callArguments = {
  path: '/var/lib/service/data.db',
  limit: 20,
  filter: 'an argument of a usual length, as models write them'
}

/** The rest of a `tools/call` after its id, with the headers that go with it. */
export function callRequest({ era, tool, secret, path }) {
  const params = { name: tool, arguments: callArguments, ...(era === 'modern' && { _meta: envelope }) }
  return {
    path,
    headers: [...json, ...bearer(secret), ...(era === 'modern' ? modernHeaders('tools/call', tool) : [])],
    body: `"method":"tools/call","params":${JSON.stringify(params)}}`
  }
}

/** A 2025-era session a lane, or nothing where there are none. */
export const sessionOf = ({ era, secret }) => (era === 'legacy' ? { headers: bearer(secret) } : undefined)

export function listRequest({ secret, session, cursor }) {
  const params = cursor === undefined ? {} : { cursor }
  return {
    headers: [...json, ...bearer(secret), ...(session === undefined ? [] : ['mcp-session-id', session])],
    body: `"method":"tools/list","params":${JSON.stringify(params)}}`
  }
}

function modernHeaders(method, name) {
  return ['mcp-protocol-version', modernVersion, 'mcp-method', method, 'mcp-name', name]
}
