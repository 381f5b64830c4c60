/**
 * A server of both eras on SDK v2, over Streamable HTTP, that offers what `everything.mjs` and `input-required.mjs`
 * describe: `node server-v2.mjs`, on the port PORT, or a free one that it prints.
 */
import { randomUUID } from 'node:crypto'
import {
  localhostHostValidation,
  localhostOriginValidation,
  NodeStreamableHTTPServerTransport,
  toNodeHandler
} from '@modelcontextprotocol/node'
import {
  classifyInboundRequest,
  createMcpHandler,
  fromJsonSchema,
  inputRequired,
  McpServer,
  ResourceTemplate
} from '@modelcontextprotocol/server'
import { listen, readBody, runIfMain, sendJson } from '../fixtures/serve.mjs'
import * as everything from './everything.mjs'
import * as rounds from './input-required.mjs'

const { offered } = everything

/** Of each session the last tool and prompt, which are replaced; 2026-07-28 makes a server for each request. */
const sessionsLast = new Set()

function change(kind) {
  everything.replace(kind)
  const { name } = offered[kind]().at(-1)
  for (const last of sessionsLast) last[kind].update({ name })
  if (kind === 'tools') modern.notify.toolsChanged()
  else modern.notify.promptsChanged()
}

function contextOf({ mcpReq, http }) {
  return {
    progressToken: mcpReq._meta?.progressToken,
    notify: (method, params) => mcpReq.notify({ method, params }),
    log: mcpReq.log,
    async ask(method, params) {
      if (mcpReq.inputResponses) return mcpReq.inputResponses.answer
      throw Object.assign(new Error('asks the client'), { inputRequests: { answer: { method, params } } })
    },
    closeStream: () => http?.closeSSE?.(),
    change
  }
}

function schemaOf(args) {
  const properties = Object.fromEntries(args.map(({ name, description }) => [name, { type: 'string', description }]))
  return fromJsonSchema({
    type: 'object',
    properties,
    required: args.filter(each => each.required).map(each => each.name)
  })
}

function createServer() {
  const { capabilities, serverInfo, completion, template } = everything
  const product = new McpServer(serverInfo, {
    capabilities,
    requestState: { verify: rounds.stateCodec.verify }
  })

  const last = {}
  for (const { name, description, inputSchema = { type: 'object' }, call } of offered.tools()) {
    const config = { description, inputSchema: fromJsonSchema(inputSchema) }
    last.tools = product.registerTool(name, config, async (args, ctx) => {
      try {
        return await call(args, contextOf(ctx))
      } catch (thrown) {
        // The SDK asks a client of the 2025 era itself, and calls again with the answer.
        if (thrown.inputRequests) return inputRequired({ inputRequests: thrown.inputRequests })
        throw thrown
      }
    })
  }
  for (const { name, description, call } of rounds.tools) {
    product.registerTool(name, { description }, ctx => call(ctx.mcpReq))
  }

  for (const { name, description, arguments: args, get } of offered.prompts()) {
    last.prompts = product.registerPrompt(name, { description, ...(args && { argsSchema: schemaOf(args) }) }, get)
  }
  const { name, description, get } = rounds.prompt
  product.registerPrompt(name, { description }, ctx => get(ctx.mcpReq))
  product.server.setRequestHandler('completion/complete', () => completion)

  for (const { definition, read } of everything.resources) {
    const { uri, name, ...config } = definition
    product.registerResource(name, uri, config, read)
  }
  const { uriTemplate, ...config } = template.definition
  const served = new ResourceTemplate(uriTemplate, { list: undefined })
  product.registerResource(config.name, served, config, (uri, { id }) => template.read(uri.href, id))
  product.server.setRequestHandler('resources/subscribe', () => ({}))
  product.server.setRequestHandler('resources/unsubscribe', () => ({}))
  return { product, last }
}

const modern = createMcpHandler(() => createServer().product)
const serveModern = toNodeHandler(modern)

/** The 2025 era with sessions whose streams can be resumed: the SDK's own entry would serve it without. */
function createLegacy() {
  const sessions = new Map()
  return async (req, res, body) => {
    const id = req.headers['mcp-session-id']
    if (id !== undefined) {
      const transport = sessions.get(id)
      if (transport) return transport.handleRequest(req, res, body)
      return sendJson(res, 404, { jsonrpc: '2.0', id: null, error: { code: -32001, message: 'Session not found' } })
    }
    const transport = new NodeStreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      onsessioninitialized: id => void sessions.set(id, transport),
      onsessionclosed: id => void sessions.delete(id),
      eventStore: everything.createEventStore(),
      retryInterval: everything.retryInterval
    })
    const { product, last } = createServer()
    sessionsLast.add(last)
    product.server.onclose = () => sessionsLast.delete(last)
    await product.connect(transport)
    return transport.handleRequest(req, res, body)
  }
}

function parse(body) {
  try {
    return JSON.parse(body)
  } catch {
    return undefined
  }
}

async function start({ port }) {
  const guards = [localhostHostValidation(), localhostOriginValidation()]
  const serveLegacy = createLegacy()
  const { close, ...address } = await listen(
    async (req, res) => {
      if (!guards.every(passes => passes(req, res))) return
      const body = req.method === 'POST' ? parse(await readBody(req)) : undefined
      const inbound = {
        httpMethod: req.method,
        protocolVersionHeader: req.headers['mcp-protocol-version'],
        mcpMethodHeader: req.headers['mcp-method'],
        body
      }
      const serve = classifyInboundRequest(inbound).kind === 'legacy' ? serveLegacy : serveModern
      return serve(req, res, body)
    },
    { port }
  )
  return { ...address, close: () => modern.close().then(close) }
}

await runIfMain(import.meta.url, start)
