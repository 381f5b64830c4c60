/**
 * The load generator: a process of its own, so that its CPU is nobody else's. Each lane is one client with one
 * keep-alive connection that sends its next request when the answer to the last one is whole. Every answer is looked at:
 * its status, its id, and that it is the measured result and no error.
 *
 * Speaks over IPC: `open` makes lanes, `run` drives them, `close` ends them.
 */
import { get } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { Connection } from './connection.mjs'

const protocolVersion = '2025-11-25'
const clientInfo = { name: 'bench', version: '1.0.0' }
const sets = new Map()
let nextSet = 1
let nextId = 1

/** Why an answer is not the expected one; undefined if it is. */
function faultOf({ status, text }, id, expected) {
  if (status !== 200) return `HTTP ${status}: ${text.slice(0, 300)}`
  const at = id === undefined ? 0 : text.indexOf(`"id":${id}`)
  const after = at < 0 || id === undefined ? ',' : text[at + `"id":${id}`.length]
  if (at < 0 || (after !== ',' && after !== '}')) return `not the answer to ${id}: ${text.slice(0, 300)}`
  if (!text.includes(expected) || text.includes('"isError":true')) return `not the result: ${text.slice(0, 300)}`
  return undefined
}

/** A lane over HTTP: the answer comes on the response, as JSON or as events. */
async function openHttp({ origin, path, session, expected, withId = true }) {
  const connection = new Connection(origin)
  const own = session ? await openSession(connection, { path, ...session }) : []
  return {
    async send({ path: specific = path, headers, body }) {
      const id = withId ? nextId++ : undefined
      const sent = id === undefined ? body : `{"jsonrpc":"2.0","id":${id},${body}`
      const all = own.length > 0 ? [...headers, ...own] : headers
      return faultOf(await connection.exchange({ path: specific, headers: all, body: sent }), id, expected)
    },
    close: () => connection.close()
  }
}

/** The 2025-era handshake; returns the headers that later requests carry. */
async function openSession(connection, { path, headers = [] }) {
  const json = ['content-type', 'application/json', 'accept', 'application/json, text/event-stream', ...headers]
  const params = { protocolVersion, capabilities: {}, clientInfo }
  const body = JSON.stringify({ jsonrpc: '2.0', id: 0, method: 'initialize', params })
  const { status, head, text } = await connection.exchange({ path, headers: json, body })
  if (status !== 200) throw new Error(`initialize: HTTP ${status}: ${text.slice(0, 300)}`)
  const id = /\r\nmcp-session-id: (\S+)/i.exec(head)?.[1]
  const own = ['mcp-protocol-version', protocolVersion, ...(id === undefined ? [] : ['mcp-session-id', id])]
  const initialized = JSON.stringify({ jsonrpc: '2.0', method: 'notifications/initialized' })
  await connection.exchange({ path, headers: [...json, ...own], body: initialized })
  return own
}

/** A lane over the older HTTP+SSE transport: requests are posted, answers come on one stream. */
async function openSse({ origin, path, expected }) {
  const posts = new Connection(origin)
  const waiting = new Map()
  const ready = withResolvers()
  let endpoint
  let text = ''
  const stream = get(`${origin}${path}`, { agent: false, headers: { accept: 'text/event-stream' } }, response => {
    response.setEncoding('latin1')
    response.on('data', received => {
      text += received
      for (let end = text.indexOf('\n\n'); end !== -1; end = text.indexOf('\n\n')) {
        take(text.slice(0, end))
        text = text.slice(end + 2)
      }
    })
    response.on('close', () => fail(new Error('the stream ended')))
  })
  stream.on('error', fail)
  function take(event) {
    const data = event.slice(event.indexOf('data: ') + 6)
    if (!event.startsWith('event: endpoint')) return settle(data)
    endpoint = data
    ready.resolve()
  }
  function fail(error) {
    ready.reject(error)
    for (const { reject } of waiting.values()) reject(error)
  }
  function settle(data) {
    const id = Number(/"id":(\d+)[,}]/.exec(data.slice(-40) + data.slice(0, 60))?.[1])
    waiting.get(id)?.resolve(data)
    waiting.delete(id)
  }
  const headers = ['content-type', 'application/json']
  const post = body => posts.exchange({ path: endpoint, headers, body })
  async function ask(body) {
    const id = nextId++
    const { promise, resolve, reject } = withResolvers()
    waiting.set(id, { resolve, reject })
    const { status, text: refusal } = await post(`{"jsonrpc":"2.0","id":${id},${body}`)
    if (status >= 300) throw new Error(`HTTP ${status}: ${refusal.slice(0, 300)}`)
    return { id, text: await promise }
  }
  await ready.promise
  const params = { protocolVersion, capabilities: {}, clientInfo }
  await ask(`"method":"initialize","params":${JSON.stringify(params)}}`)
  await post('{"jsonrpc":"2.0","method":"notifications/initialized"}')
  return {
    async send({ body }) {
      const { id, text: answer } = await ask(body)
      return faultOf({ status: 200, text: answer }, id, expected)
    },
    close() {
      stream.destroy()
      posts.close()
    }
  }
}

function withResolvers() {
  let resolve, reject
  const promise = new Promise((yes, no) => {
    resolve = yes
    reject = no
  })
  promise.catch(() => {})
  return { promise, resolve, reject }
}

const commands = {
  /** @param job.kind http or sse. @param job.lanes how many. @param job.requests sent in turn by all lanes together. */
  async open({ kind, lanes, requests, ...job }) {
    const open = kind === 'sse' ? openSse : openHttp
    const opened = await Promise.all(Array.from({ length: lanes }, () => open(job)))
    sets.set(nextSet, { lanes: opened, requests, next: 0 })
    return nextSet++
  },

  /**
   * Drives the lanes for so many calls or so many milliseconds, as fast as answers come or at so many calls a second.
   * Calls begun are calls finished.
   */
  async run({ set, calls = Infinity, ms = Infinity, rate = Infinity }) {
    const state = sets.get(set)
    const { lanes, requests } = state
    const begun = performance.now()
    let made = 0
    let failed = 0
    let firstFault
    async function drive(lane) {
      while (made < calls && performance.now() - begun < ms) {
        const due = begun + (made++ * 1000) / rate
        if (due > performance.now()) await sleep(due - performance.now())
        const request = requests[state.next++ % requests.length]
        const fault = await lane.send(request).catch(error => String(error))
        if (fault === undefined) continue
        failed++
        firstFault ??= fault
      }
    }
    await Promise.all(lanes.map(drive))
    return { calls: made, failed, firstFault, seconds: (performance.now() - begun) / 1000 }
  },

  async close({ set }) {
    const { lanes } = sets.get(set)
    sets.delete(set)
    for (const lane of lanes) lane.close()
  }
}

process.on('message', ({ id, command, params }) => {
  commands[command](params).then(
    result => process.send({ id, result }),
    error => process.send({ id, error: error.stack ?? String(error) })
  )
})
process.on('disconnect', () => process.exit(0))
