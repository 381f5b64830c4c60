/**
 * MCP clients without an SDK: of 2026-07-28, of the 2025 era with a session, and over HTTP+SSE. Each sends one call at a
 * time under the ids 1, 2, 3, …, the same as every other client, and tells the raw outcome: the messages that came back.
 */
import { request } from 'undici'
import { createWire, messageOfEvent, messagesIn } from './wires.mjs'

const modernVersion = '2026-07-28'
const meta = 'io.modelcontextprotocol/'
const json = { 'content-type': 'application/json', accept: 'application/json, text/event-stream' }

const envelope = {
  [`${meta}protocolVersion`]: modernVersion,
  [`${meta}clientInfo`]: { name: 'chaos', version: '1.0.0' },
  [`${meta}clientCapabilities`]: {}
}

/**
 * @param options.wire bare, undici or fetch. @param options.version of the 2025 era.
 * @param options.session an id it has from earlier. @param options.onText hears all that comes on a stream that belongs to no single call.
 */
export async function createClient({
  door,
  origin,
  secret,
  wire: kind = 'undici',
  version = '2025-11-25',
  session,
  onText = () => {}
}) {
  const wire = createWire(kind, origin)
  const bearer = { authorization: `Bearer ${secret}` }
  const make = { modern: modernClient, legacy: legacyClient, sse: sseClient }[door]
  const client = await make({ wire, bearer, version, origin, session, onText })
  return { door, kind, ...client, secret }
}

function paramsOf(name, args, token, more) {
  const _meta = { ...more, ...(token !== undefined && { progressToken: token }) }
  return { name, arguments: args, ...(Object.keys(_meta).length > 0 && { _meta }) }
}

/** What came back, whatever it was: `messages`, or `status` of a refusal, or `broken`. */
async function outcomeOf(sent) {
  try {
    const { status, headers, text } = await sent
    if (status !== 200) return { status, text, messages: [] }
    return { status, text, messages: messagesIn({ headers, text }) }
  } catch (error) {
    return { broken: error.message || error.code || String(error), messages: [] }
  }
}

function modernClient({ wire, bearer }) {
  let id = 0
  function post(method, params, signal) {
    const headers = { ...json, ...bearer, 'mcp-protocol-version': modernVersion, 'mcp-method': method }
    if (params.name !== undefined) headers['mcp-name'] = params.name
    const body = JSON.stringify({ jsonrpc: '2.0', id: ++id, method, params })
    return { id, outcome: outcomeOf(wire.send({ path: '/mcp', headers, body, signal })) }
  }
  return {
    call: (name, args, { token, signal }) => post('tools/call', paramsOf(name, args, token, envelope), signal),
    list: () => post('tools/list', { _meta: envelope }).outcome,
    /** 2026-07-28: closing the request cancels it. */
    cancels: 'close',
    cancel() {},
    close: () => wire.close()
  }
}

async function legacyClient({ wire, bearer, version, origin, session, onText }) {
  let id = 0
  const post = (message, signal) =>
    wire.send({
      path: '/mcp',
      headers: { ...json, ...bearer, ...(session && { 'mcp-session-id': session, 'mcp-protocol-version': version }) },
      body: JSON.stringify({ jsonrpc: '2.0', ...message }),
      signal
    })
  async function open() {
    session = undefined
    const clientInfo = { name: 'chaos', version: '1.0.0' }
    const params = { protocolVersion: version, capabilities: {}, clientInfo }
    const { status, headers, text } = await post({ id: 0, method: 'initialize', params })
    if (status !== 200) throw new Error(`initialize: HTTP ${status} ${text}`)
    session = headers['mcp-session-id']
    id = 0
    await post({ method: 'notifications/initialized' })
  }
  if (session === undefined) await open()
  return {
    session: () => session,
    call(name, args, { token, signal }) {
      const params = paramsOf(name, args, token)
      return { id: ++id, outcome: outcomeOf(post({ id, method: 'tools/call', params }, signal)) }
    },
    list: () => outcomeOf(post({ id: ++id, method: 'tools/list', params: {} })),
    reopen: open,
    /** Opens the session's stream. */
    async listen() {
      const headers = { accept: 'text/event-stream', ...bearer, 'mcp-session-id': session }
      const { body } = await request(`${origin}/mcp`, { headers, dispatcher: wire.agent })
      body.on('data', chunk => onText(chunk.toString()))
      body.on('error', () => {})
      return body
    },
    cancels: 'say',
    cancel: requestId =>
      outcomeOf(post({ method: 'notifications/cancelled', params: { requestId, reason: 'nobody waits' } })),
    close: () => wire.close()
  }
}

/** HTTP+SSE of 2024-11-05: everything comes on one stream. */
async function sseClient({ wire, bearer, origin, onText }) {
  let id = 0
  let rest = ''
  let endpoint
  let named
  const waiting = new Map()
  const abandoned = new Set()
  const stray = []
  const dispatcher = wire.agent
  const { statusCode, body } = await request(`${origin}/sse`, {
    headers: { accept: 'text/event-stream', ...bearer },
    dispatcher
  })
  if (statusCode !== 200) throw new Error(`/sse: HTTP ${statusCode}`)
  const opened = new Promise(resolve => (named = resolve))
  body.setEncoding('utf8').on('data', chunk => {
    const blocks = (rest + chunk).replaceAll('\r\n', '\n').split('\n\n')
    rest = blocks.pop()
    for (const block of blocks) {
      if (/^event: ?endpoint$/m.test(block)) named((endpoint = /^data: ?(.*)$/m.exec(block)[1]))
      else for (const message of messageOfEvent(block)) take(message)
      onText(block)
    }
  })
  const lost = error => {
    for (const call of waiting.values()) call.resolve({ broken: error.message, messages: call.messages })
    waiting.clear()
  }
  body.on('error', lost)
  body.on('close', () => lost(new Error('the stream was closed')))
  await opened

  function take(message) {
    const progress = message.method === 'notifications/progress' ? message.params.progressToken : undefined
    const call = waiting.get(message.id ?? progress)
    if (!call) {
      if (message.method === undefined && !abandoned.delete(message.id)) stray.push(message)
      return
    }
    call.messages.push(message)
    if (message.method !== undefined) return
    waiting.delete(message.id)
    call.resolve({ status: 200, messages: call.messages, text: call.messages.map(each => JSON.stringify(each)).join() })
  }
  const post = message =>
    wire.send({ path: endpoint, headers: { ...json, ...bearer }, body: JSON.stringify({ jsonrpc: '2.0', ...message }) })

  function ask(method, params, signal) {
    const own = ++id
    const outcome = new Promise(resolve => {
      waiting.set(own, { messages: [], resolve })
      signal?.addEventListener('abort', () => {
        if (waiting.delete(own)) abandoned.add(own)
        resolve({ broken: 'aborted', messages: [] })
      })
      post({ id: own, method, params }).then(
        ({ status, text }) => {
          if (status < 300 || !waiting.delete(own)) return
          resolve({ status, text, messages: [] })
        },
        error => waiting.delete(own) && resolve({ broken: error.message, messages: [] })
      )
    })
    return { id: own, outcome }
  }
  await ask('initialize', {
    protocolVersion: '2024-11-05',
    capabilities: {},
    clientInfo: { name: 'chaos', version: '1.0.0' }
  }).outcome
  await post({ method: 'notifications/initialized' })

  return {
    // The token of a call is its id: nothing else tells apart what comes on the stream.
    call: (name, args, { token, signal }) =>
      ask('tools/call', paramsOf(name, args, token === undefined ? undefined : id + 1), signal),
    list: () => ask('tools/list', {}).outcome,
    cancels: 'say',
    cancel: requestId => outcomeOf(post({ method: 'notifications/cancelled', params: { requestId } })),
    /** Answers to requests that were answered already, or never made. */
    stray,
    close() {
      body.destroy()
      wire.close()
    }
  }
}
