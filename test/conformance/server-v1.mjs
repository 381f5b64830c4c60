/**
 * A server of the 2025 era on SDK v1 that offers what `everything.mjs` describes:
 * `node server-v1.mjs http|sse|stdio`, over HTTP on the port PORT, or a free one that it prints.
 */
import { randomUUID } from 'node:crypto'
import { Server } from '@modelcontextprotocol/sdk/server/index.js'
import { SSEServerTransport } from '@modelcontextprotocol/sdk/server/sse.js'
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js'
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js'
import * as types from '@modelcontextprotocol/sdk/types.js'
import { listen, runIfMain, sendJson } from '../fixtures/serve.mjs'
import * as everything from './everything.mjs'

const servers = new Set()
const { offered } = everything

function change(kind) {
  everything.replace(kind)
  for (const server of servers) {
    void (kind === 'tools' ? server.sendToolListChanged() : server.sendPromptListChanged()).catch(() => {})
  }
}

const rpcError = (code, message, data) => Object.assign(new Error(message), { code, data })

/** What only a client of 2026-07-28 asks for: it names its capabilities with each call. */
const missingCapability = {
  name: 'test_missing_capability',
  description: 'Needs a client that samples.',
  call() {
    throw rpcError(-32021, 'The client does not sample', { requiredCapabilities: { sampling: {} } })
  }
}

function createServer() {
  const { capabilities, serverInfo } = everything
  const server = new Server(serverInfo, { capabilities })
  const tools = () => [...offered.tools(), missingCapability]
  const find = (list, name) => {
    const found = list.find(each => each.name === name)
    if (!found) throw rpcError(-32602, `Unknown: ${name}`)
    return found
  }

  server.setRequestHandler(types.ListToolsRequestSchema, () => ({
    tools: tools().map(({ name, description, inputSchema = { type: 'object' } }) => ({
      name,
      description,
      inputSchema
    }))
  }))
  server.setRequestHandler(types.CallToolRequestSchema, async ({ params }, extra) => {
    const notify = (method, params) => extra.sendNotification({ method, params })
    const context = {
      progressToken: params._meta?.progressToken,
      notify,
      log: (level, data) => notify('notifications/message', { level, data }),
      ask: (method, params) => extra.sendRequest({ method, params }, types.ResultSchema),
      closeStream: () => extra.closeSSEStream?.(),
      change
    }
    try {
      return await find(tools(), params.name).call(params.arguments ?? {}, context)
    } catch (error) {
      if (Number.isInteger(error.code)) throw error
      return { ...everything.inText(error.message), isError: true }
    }
  })

  server.setRequestHandler(types.ListPromptsRequestSchema, () => ({
    prompts: offered.prompts().map(({ name, description, arguments: args }) => ({ name, description, arguments: args }))
  }))
  server.setRequestHandler(types.GetPromptRequestSchema, ({ params }) =>
    find(offered.prompts(), params.name).get(params.arguments ?? {})
  )
  server.setRequestHandler(types.CompleteRequestSchema, () => everything.completion)

  server.setRequestHandler(types.ListResourcesRequestSchema, () => ({
    resources: everything.resources.map(each => each.definition)
  }))
  server.setRequestHandler(types.ListResourceTemplatesRequestSchema, () => ({
    resourceTemplates: [everything.template.definition]
  }))
  server.setRequestHandler(types.ReadResourceRequestSchema, ({ params: { uri } }) => {
    const id = everything.template.pattern.exec(uri)?.[1]
    if (id !== undefined) return everything.template.read(uri, id)
    const resource = everything.resources.find(each => each.definition.uri === uri)
    if (!resource) throw rpcError(-32002, 'Resource not found', { uri })
    return resource.read()
  })
  server.setRequestHandler(types.SubscribeRequestSchema, () => ({}))
  server.setRequestHandler(types.UnsubscribeRequestSchema, () => ({}))

  servers.add(server)
  server.onclose = () => servers.delete(server)
  return server
}

/** Streamable HTTP with sessions whose streams can be resumed. */
async function serveHttp({ port }) {
  const sessions = new Map()
  const running = await listen(
    async (req, res) => {
      const id = req.headers['mcp-session-id']
      if (id !== undefined) {
        const transport = sessions.get(id)
        if (transport) return transport.handleRequest(req, res)
        return sendJson(res, 404, { jsonrpc: '2.0', id: null, error: { code: -32001, message: 'Session not found' } })
      }
      const transport = new StreamableHTTPServerTransport({
        sessionIdGenerator: randomUUID,
        onsessioninitialized: id => void sessions.set(id, transport),
        onsessionclosed: id => void sessions.delete(id),
        eventStore: everything.createEventStore(),
        retryInterval: everything.retryInterval,
        enableDnsRebindingProtection: true,
        allowedHosts: [new URL(running.url).host]
      })
      await createServer().connect(transport)
      return transport.handleRequest(req, res)
    },
    { port }
  )
  return running
}

/** HTTP+SSE of 2024-11-05. */
function serveSse({ port }) {
  const sessions = new Map()
  return listen(
    async (req, res) => {
      const { pathname, searchParams } = new URL(req.url, 'http://localhost')
      if (pathname === '/sse' && req.method === 'GET') {
        const transport = new SSEServerTransport('/messages', res)
        sessions.set(transport.sessionId, transport)
        res.on('close', () => sessions.delete(transport.sessionId))
        return createServer().connect(transport)
      }
      const session = pathname === '/messages' && sessions.get(searchParams.get('sessionId'))
      return session ? session.handlePostMessage(req, res) : res.writeHead(404).end('Not found')
    },
    { port, path: '/sse' }
  )
}

const [, , transport] = process.argv
if (transport === 'stdio') {
  process.stdin.on('end', () => process.exit(0))
  await createServer().connect(new StdioServerTransport())
} else {
  await runIfMain(import.meta.url, transport === 'sse' ? serveSse : serveHttp)
}
