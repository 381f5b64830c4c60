/**
 * Stands between the suite, which sends no key, and the gateway: adds the one `Authorization` header and passes all else
 * as it came, both ways: Host, Origin and every other header, bodies and streams chunk by chunk, and who hangs up.
 */
import { once } from 'node:events'
import { createServer, request } from 'node:http'

/** Listens on a free port of 127.0.0.1. @param target base URL of the gateway */
export async function startForwarder({ target, key }) {
  const { hostname, port } = new URL(target)
  const server = createServer((req, res) => {
    const headers = [...req.rawHeaders, 'Authorization', `Bearer ${key}`]
    const onward = request({ hostname, port, method: req.method, path: req.url, headers, agent: false })
    onward.on('response', answer => {
      res.writeHead(answer.statusCode, answer.statusMessage, answer.rawHeaders)
      res.flushHeaders()
      answer.on('error', () => res.destroy())
      answer.pipe(res)
    })
    onward.on('error', () => res.destroy())
    res.on('close', () => onward.destroy())
    req.pipe(onward)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    close() {
      server.close()
      server.closeAllConnections()
    }
  }
}
