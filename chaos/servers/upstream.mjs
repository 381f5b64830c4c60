/**
 * What the upstreams of the run have in common, whatever carries their messages: one tool, a ledger in which every call
 * that begins is written before anything else happens to it, and the faults. No SDK: it would not let them misbehave.
 */
import { spawn } from 'node:child_process'
import { openSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { faults } from './faults.mjs'

const modernVersion = '2026-07-28'
const meta = 'io.modelcontextprotocol/'
const inputSchema = { type: 'object', properties: { nonce: { type: 'string' } }, required: ['nonce'] }
const storm = 200

export const options = parseArgs({
  options: {
    name: { type: 'string' },
    era: { type: 'string', default: 'legacy' },
    form: { type: 'string', default: 'json' },
    port: { type: 'string' },
    capture: { type: 'string' }
  }
}).values
const { name, era } = options
const modern = era === 'modern'

/** Lines of one file, shared by all servers; each is in the file before the next thing happens. */
const ledger = openSync(process.env.LEDGER, 'a')
export const note = (event, facts) =>
  writeSync(ledger, `${JSON.stringify({ at: Date.now(), server: name, pid: process.pid, event, ...facts })}\n`)

/** Calls that have begun and are not answered. */
const running = new Map()
const inFlight = () => [...running.values()].map(({ nonce }) => nonce)
let extraTools = 0

/**
 * @param wire.own faults of this transport: name -> what it does to a call.
 * @param wire.broadcast sends a notification that belongs to no request.
 */
export function createUpstream({ own = {}, broadcast }) {
  const result = members => ({ ...(modern && { resultType: 'complete' }), ...members })
  const tools = () => ['work', ...(extraTools % 2 === 1 ? ['sometimes'] : [])]

  /** The result of everything but calls; undefined for what is unknown. */
  function resultOf({ method, params = {} }) {
    switch (method) {
      case 'initialize':
        if (modern) return undefined
        return {
          protocolVersion: params.protocolVersion,
          capabilities: { tools: { listChanged: true }, logging: {} },
          serverInfo: { name, version: '1.0.0' }
        }
      case 'server/discover':
        if (!modern) return undefined
        return result({
          supportedVersions: [modernVersion],
          capabilities: { tools: { listChanged: true } },
          ttlMs: 60_000,
          cacheScope: 'private',
          _meta: { [`${meta}serverInfo`]: { name, version: '1.0.0' } }
        })
      case 'tools/list': {
        const list = tools().map(tool => ({ name: tool, description: `Tool ${tool} of ${name}`, inputSchema }))
        return result({ tools: list, ...(modern && { ttlMs: 60_000, cacheScope: 'private' }) })
      }
      case 'ping':
      case 'logging/setLevel':
        return modern ? undefined : {}
      default:
        return undefined
    }
  }

  /** The answer to a request other than a call. */
  function answerTo(message) {
    const head = { jsonrpc: '2.0', id: message.id }
    const members = resultOf(message)
    return members ? { ...head, result: members } : { ...head, error: { code: -32601, message: 'Method not found' } }
  }

  /** The process ends now; what was in flight is written down first. */
  function die(nonce, end) {
    note('death', { nonce, running: inFlight() })
    end()
  }
  const killed = () => process.kill(process.pid, 'SIGKILL')

  /**
   * Faults that need nothing but what every transport has: `say` a message beside the answer, `finish` with it,
   * write `half` of it, `drip` it. @returns whether the call is answered as usual afterwards.
   */
  const common = {
    async kill(call) {
      await sleep(call.hold / 2)
      die(call.nonce, killed)
      return false
    },
    async 'kill-half'(call) {
      await call.half(JSON.stringify(call.answer))
      die(call.nonce, killed)
      return false
    },
    'exit-after': async call => {
      await sleep(call.hold)
      running.delete(call)
      await call.finish(call.answer)
      die(call.nonce, () => process.exit(0))
      return false
    },
    'exit-between': async call => {
      await sleep(call.hold)
      running.delete(call)
      await call.finish(call.answer)
      await sleep(20)
      die(call.nonce, () => process.exit(3))
      return false
    },
    hang: () => false,
    async 'hang-progress'(call) {
      for (let progress = 1; !call.gone && progress < 30; progress++) {
        if (call.token !== undefined)
          call.say(notification('notifications/progress', { ...step(call, progress), progressToken: call.token }))
        await sleep(300)
      }
      return false
    },
    async drip(call) {
      await call.drip(JSON.stringify(call.answer), 400)
      return false
    },
    'unknown-notifications'(call) {
      for (let i = 0; i < 20; i++) call.say(notification('notifications/x-unknown/thing', { i, deep: { er: [i] } }))
      return true
    },
    'notification-storm'(call) {
      for (let i = 0; i < storm; i++) {
        call.say(notification('notifications/message', { level: 'info', data: `about ${call.mark} ${i}` }))
        call.say(notification('notifications/progress', { progressToken: 900_000 + i, progress: i }))
        call.say(notification('notifications/resources/updated', { uri: `x://${i}` }))
      }
      return true
    },
    requests(call) {
      const methods = ['ping', 'sampling/createMessage', 'elicitation/create', 'roots/list', 'x/unknown']
      for (let i = 0; i < 25; i++) call.say({ jsonrpc: '2.0', id: `q${i}`, method: methods[i % 5], params: {} })
      return true
    },
    'wrong-id'(call) {
      for (const id of [call.id + 500_000, -1, 0.5]) call.say({ ...call.answer, id })
      return true
    },
    'string-id'(call) {
      call.say({ ...call.answer, id: String(call.id) })
      return true
    },
    async duplicate(call) {
      await sleep(call.hold)
      call.say(call.answer)
      call.say(call.answer)
      setTimeout(() => call.gone || call.say(call.answer), 50)
      return true
    },
    types(call) {
      call.finish({ jsonrpc: '2.0', id: call.id, result: result({ content: 7, isError: 'no', x: [call.nonce, null] }) })
      return false
    },
    'no-result'(call) {
      call.say({ jsonrpc: '2.0', id: call.id, result: 42 })
      call.say({ jsonrpc: '2.0', id: call.id, error: 'no' })
      return true
    },
    garbage(call) {
      call.say(`{"jsonrpc":"2.0","id":${call.id},"result":{"content":[`)
      return true
    },
    'list-storm'() {
      for (let i = 0; i < storm; i++) broadcast('notifications/tools/list_changed')
      extraTools++
      return true
    },
    async 'too-late'(call) {
      setTimeout(() => call.say(call.answer), 3500)
      return false
    },
    async 'after-cancel'(call) {
      for (let waited = 0; !call.cancelled && waited < 800; waited += 20) await sleep(20)
      if (call.cancelled) note('fault', { nonce: call.nonce, fault: 'after-cancel', running: inFlight() })
      call.say(call.answer)
      return false
    },
    grandchild() {
      spawn('sleep', ['4'], { stdio: ['ignore', 'inherit', 'inherit'] }).unref()
      return true
    }
  }
  const misbehave = { ...common, ...own }

  /** Runs a call. @param wire `say`, `finish`, `half` and `drip` of its transport. */
  async function begin({ id, params }, wire) {
    const { nonce, fault, hold = 0 } = params.arguments
    const text = `${name} did ${nonce}`
    const call = Object.assign(wire, {
      id,
      nonce,
      hold,
      mark: nonce.split('-')[1],
      token: params._meta?.progressToken,
      answer: { jsonrpc: '2.0', id, result: result({ content: [{ type: 'text', text }] }) }
    })
    running.set(call, call)
    note('ran', { nonce })
    // A call that was refused and is sent again has no fault left.
    const act = fault && misbehave[fault]
    if (act && !faults[fault].cancelled) note('fault', { nonce, fault, running: inFlight() })
    try {
      if (act && !(await act(call))) {
        // It is in flight until its caller gives up.
        for (let waited = 0; faults[fault].silent && !call.gone && waited < 5000; waited += 50) await sleep(50)
        return
      }
      await sleep(hold)
      await call.finish(call.answer)
    } finally {
      running.delete(call)
    }
  }

  return {
    answerTo,
    begin,
    cancelled(id) {
      for (const call of running.values()) if (call.id === id) call.gone = call.cancelled = true
    },
    acknowledge: ({ id, params = {} }) =>
      notification('notifications/subscriptions/acknowledged', {
        notifications: params.notifications ?? {},
        _meta: { [`${meta}subscriptionId`]: id }
      }),
    die,
    killed,
    inFlight
  }
}

export const subscribed = (method, id) => notification(method, { _meta: { [`${meta}subscriptionId`]: id } })

export function notification(method, params) {
  return { jsonrpc: '2.0', method, ...(params && { params }) }
}

function step({ nonce }, progress) {
  return { progress, message: `step ${progress} of ${nonce}` }
}

/** In pieces over so many milliseconds. */
export async function pieces(text, ms, write) {
  const size = Math.ceil(text.length / 10)
  for (let at = 0; at < text.length; at += size) {
    await write(text.slice(at, at + size))
    await sleep(ms / 10)
  }
}

process.on('uncaughtException', error => {
  // A caller that went away in the middle is no fault of ours.
  if (error.code === 'EPIPE' || error.code === 'ECONNRESET') return
  process.stderr.write(`upstream ${name}: ${error.stack}\n`)
  process.exit(70)
})
