/** What `npm run chaos` and `npm run soak` found: calls that met a server just as it was replaced, or as it lied. */
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
