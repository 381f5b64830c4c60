/**
 * The tools as plain HTTP, for callers that speak no MCP: `GET /tools`, `POST /tools/<name>`, `GET /openapi.json`. The same
 * exchange and relay as every other door, so a key sees and may call exactly the same.
 *
 * A tool's own error is a result (HTTP 200 with `isError`); a failure of ours has the HTTP status of its code.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { errorTable, SwitchboardError, toSwitchboardError } from '../errors.js'
import type { Exchange } from '../parties.js'
import type { Relay } from '../relay.js'
import { Cancellation } from '../wire/cancellation.js'
import { isObject, type Answer, type Json, type RpcNotification } from '../wire/json-rpc.js'
import type { Caller } from './caller.js'
import type { ReadJson } from './body.js'
import { EventStream, type StreamTerms } from './event-stream.js'
import { replyJson, replyRefusal, unreadBody, type ReplyHeaders } from './reply.js'

export interface RestDoor {
  listTools(caller: Caller, req: IncomingMessage, res: ServerResponse): Promise<void>
  callTool(caller: Caller, name: string, req: IncomingMessage, res: ServerResponse): Promise<void>
  openApi(caller: Caller, req: IncomingMessage, res: ServerResponse): Promise<void>
}

export interface RestOptions {
  readonly relay: Relay
  readonly readJson: ReadJson
  readonly terms: StreamTerms
  readonly serverInfo: { readonly title: string; readonly version: string }
}

const progressToken = 'rest'

export function createRest({ relay, readJson, terms, serverInfo }: RestOptions): RestDoor {
  function exchangeOf(caller: Caller, res: ServerResponse, notify: (notification: RpcNotification) => void): Exchange {
    const cancellation = new Cancellation()
    res.once('close', () => {
      if (!res.writableFinished)
        cancellation.cancel(new SwitchboardError('cancelled', 'the client closed the connection'))
    })
    return {
      ...caller,
      era: 'modern',
      client: { capabilities: {}, clientInfo: { name: 'http' } },
      logLevel: undefined,
      cancellation,
      notify
    }
  }

  /** All pages of what the key sees, as parsed definitions. */
  async function allTools(exchange: Exchange): Promise<Json[]> {
    const tools: Json[] = []
    let cursor: string | undefined
    do {
      const { pieces = [] } = await relay.list(exchange, 'tools', cursor === undefined ? {} : { cursor })
      const page = JSON.parse(Buffer.concat(pieces).toString() || '{}') as { tools?: Json[]; nextCursor?: string }
      tools.push(...(page.tools ?? []))
      cursor = page.nextCursor
    } while (cursor !== undefined)
    return tools
  }

  return {
    async listTools(caller, _req, res) {
      replyJson(res, 200, JSON.stringify({ tools: await allTools(exchangeOf(caller, res, () => {})) }))
    },

    async openApi(caller, _req, res) {
      replyJson(res, 200, JSON.stringify(openApiOf(await allTools(exchangeOf(caller, res, () => {})), serverInfo)))
    },

    async callTool(caller, name, req, res) {
      try {
        const body = await readJson(req)
        const { arguments: given, ...others } = isObject(body) ? body : { body }
        if (Object.keys(others).length > 0 || (given !== undefined && !isObject(given))) {
          throw new SwitchboardError('invalid_request', 'Expected a body like {"arguments": {…}} and nothing besides.')
        }
        const streams = req.headers.accept?.includes('text/event-stream') === true
        let stream: EventStream | undefined
        const exchange = exchangeOf(caller, res, notification => {
          if (!stream?.full) stream?.sendEvent('progress', JSON.stringify(notification.params))
        })
        if (streams) stream = new EventStream(res, terms)
        const params = {
          name: (await relay.publicNameOf(exchange, name)) ?? name,
          arguments: given ?? {},
          ...(streams && { _meta: { progressToken } })
        }
        const answer = await relay.callTool(exchange, params)
        const { status, text, headers } = outcomeOf(answer)
        if (!stream) return replyJson(res, status, text, headers)
        stream.sendEvent(status === 200 ? 'result' : 'error', text)
        stream.end()
      } catch (thrown) {
        const error = toSwitchboardError(thrown)
        if (error.code === 'cancelled') res.destroy()
        else replyRefusal(res, error, undefined, unreadBody(req))
      }
    }
  }
}

/** The result as it is, or the failure with its HTTP status; own codes are -(31000 + HTTP analogue). */
function outcomeOf(answer: Answer): { status: number; text: string; headers?: ReplyHeaders } {
  if (answer.error) {
    const unknown =
      answer.error.code === errorTable.invalid_params.rpc && answer.error.message.startsWith('Unknown tool: ')
    return { status: unknown ? 404 : 502, text: JSON.stringify({ error: answer.error }) }
  }
  const { resultType: _resultType, ...result } = answer.result ?? {}
  const ours = isObject(result._meta) ? result._meta['switchboard/error'] : undefined
  const code = isObject(ours) && typeof ours.code === 'number' ? ours.code : 0
  const status = code <= -31400 && code > -31600 ? -code - 31000 : 200
  const wait = isObject(ours) && typeof ours.retryAfterMs === 'number' ? Math.ceil(ours.retryAfterMs / 1000) : undefined
  return {
    status,
    text: JSON.stringify(result),
    ...(wait !== undefined && { headers: { 'retry-after': String(wait) } })
  }
}

function openApiOf(tools: readonly Json[], { title, version }: RestOptions['serverInfo']): Json {
  const paths = Object.fromEntries(
    tools.map(({ name, title: toolTitle, description, inputSchema }) => [
      `/tools/${encodeURIComponent(String(name))}`,
      {
        post: {
          operationId: String(name),
          ...(typeof toolTitle === 'string' && { summary: toolTitle }),
          ...(typeof description === 'string' && { description }),
          requestBody: {
            required: true,
            content: {
              'application/json': {
                schema: {
                  type: 'object',
                  properties: { arguments: rooted(String(name), inputSchema) },
                  required: ['arguments']
                }
              }
            }
          },
          responses: {
            200: {
              description: 'What the tool answered; `isError` marks an error of the tool itself.',
              content: { 'application/json': { schema: { $ref: '#/components/schemas/ToolResult' } } }
            },
            default: {
              description: 'The call was not answered; the text says why and what to do.',
              content: { 'application/json': { schema: { type: 'object' } } }
            }
          }
        }
      }
    ])
  )
  return {
    openapi: '3.1.0',
    info: { title, version, description: 'The tools this key may use, as plain HTTP.' },
    servers: [{ url: '/' }],
    security: [{ key: [] }],
    paths,
    components: {
      securitySchemes: { key: { type: 'http', scheme: 'bearer' } },
      schemas: {
        ToolResult: {
          type: 'object',
          properties: {
            content: { type: 'array', items: { type: 'object' } },
            structuredContent: {},
            isError: { type: 'boolean' }
          },
          required: ['content']
        }
      }
    }
  }
}

/** A schema of its own has a root of its own: with an identifier its local references stay inside it. */
function rooted(name: string, schema: unknown): unknown {
  return isObject(schema) && JSON.stringify(schema).includes('"$ref":"#')
    ? { $id: `urn:switchboard:${name}`, ...schema }
    : schema
}
