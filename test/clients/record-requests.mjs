/**
 * Preloaded into the gateway process (`node --import`): notes every HTTP request, one JSON line each when its response is
 * closed, in the file that SWITCHBOARD_REQUESTS names. It alters nothing. The audit line does not say which era a client
 * spoke, and a failure is easier to understand with the sequence at hand.
 */
import { subscribe } from 'node:diagnostics_channel'
import { appendFileSync } from 'node:fs'

const path = process.env.SWITCHBOARD_REQUESTS
let count = 0

subscribe('http.server.request.start', ({ request, response }) => {
  const number = ++count
  const chunks = []
  const push = request.push
  request.push = function (chunk, ...rest) {
    if (chunk) chunks.push(Buffer.from(chunk))
    return push.call(this, chunk, ...rest)
  }
  response.once('close', () => {
    const { jsonrpc, method, params, id } = parse(Buffer.concat(chunks).toString('utf8'))
    const line = {
      number,
      verb: request.method,
      path: request.url,
      status: response.statusCode,
      ...(jsonrpc && { method: method ?? `answer ${id}` }),
      ...(params?.protocolVersion && { asks: params.protocolVersion }),
      version: request.headers['mcp-protocol-version'],
      agent: request.headers['user-agent']
    }
    appendFileSync(path, JSON.stringify(line) + '\n')
  })
})

function parse(text) {
  try {
    return JSON.parse(text)
  } catch {
    return {}
  }
}
