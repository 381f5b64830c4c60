/** What `npm run chaos` and `npm run soak` found: calls that met a server just as it was replaced, or as it lied. */
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { parseConfig } from '../src/config/load.js'
import { freePort } from './helpers/gateway-process.js'
import { openSession } from './helpers/http.js'
import { fixture, secrets, startTestGateway, waitFor } from './helpers/with-gateway.js'

const keys = 'keys: { admin: { secret: "${ADMIN}", allow: "*" } }'

async function caller(url: string) {
  const { rpc } = await openSession(url, secrets.ADMIN)
  return (name: string, args: object) => rpc('tools/call', { name, arguments: args })
}

it('two processes never serve one address, not even for a call that comes between them', async () => {
  const port = await freePort()
  const yaml = (maxTimeout: number) =>
    `listen: { port: 0 }\nservers: ${JSON.stringify({
      served: {
        command: process.execPath,
        args: [fixture('raw-http.mjs')],
        env: { PORT: String(port) },
        url: `http://127.0.0.1:${port}/mcp`,
        transport: 'http',
        era: 'legacy',
        max_timeout: maxTimeout
      }
    })}\n${keys}\n`
  const gateway = await startTestGateway(yaml(400))
  onTestFinished(() => gateway.close())
  await gateway.until('served')
  const call = await caller(gateway.url)

  const slow = call('served__slow', { ms: 1500, nonce: 'slow' })
  await waitFor(() => gateway.gateway.status()[0]?.running === 1, 'the slow call to run')
  const { config } = parseConfig({ text: yaml(500), file: 'servers.yaml', env: secrets, readFile: () => '' })
  if (!config) throw new Error('the changed configuration is not valid')
  gateway.gateway.apply(config)
  const between = call('served__echo', { message: 'between' })

  expect((await slow).json.result).toMatchObject({ content: [{ text: 'waited 1500 ms' }] })
  expect((await between).json.result).toMatchObject({ content: [{ text: 'between' }] })
  expect(gateway.logged('upstream.down')).toEqual([])
})

it('an event stream that leads elsewhere is over, for the calls that wait on it too', async () => {
  let stream: ServerResponse | undefined
  const say = (message: object) => stream?.write(`event: message\ndata: ${JSON.stringify(message)}\n\n`)
  const http = createServer((req, res) => {
    if (req.method === 'GET') {
      stream = res.writeHead(200, { 'content-type': 'text/event-stream' })
      return void stream.write('event: endpoint\ndata: /messages\n\n')
    }
    let body = ''
    req.setEncoding('utf8').on('data', text => (body += text))
    req.on('end', () => {
      res.writeHead(202).end()
      const { id, method, params } = JSON.parse(body)
      if (method === 'initialize') {
        const serverInfo = { name: 'liar', version: '1.0.0' }
        const { protocolVersion } = params
        say({ jsonrpc: '2.0', id, result: { protocolVersion, capabilities: { tools: {} }, serverInfo } })
      } else if (method === 'tools/list') {
        say({ jsonrpc: '2.0', id, result: { tools: [{ name: 'work', inputSchema: { type: 'object' } }] } })
      } else if (method === 'tools/call') {
        stream?.write('event: endpoint\ndata: http://127.0.0.2:9/messages\n\n')
      }
    })
  }).listen(0, '127.0.0.1')
  onTestFinished(() => void (http.close(), http.closeAllConnections()))
  await waitFor(() => http.listening, 'the server to listen')
  const { port } = http.address() as AddressInfo
  const gateway = await startTestGateway(
    `servers: { liar: { url: "http://127.0.0.1:${port}/sse", transport: sse } }\n${keys}\n`
  )
  onTestFinished(() => gateway.close())
  await gateway.until('liar')
  const call = await caller(gateway.url)

  const { result } = (await call('liar__work', {})).json
  expect(result).toMatchObject({ isError: true, _meta: { 'switchboard/error': { code: -31502, dispatched: true } } })
  expect(result.content[0].text).toContain('names an address on another host')
  expect(gateway.logged('upstream.down')).toHaveLength(1)
})
