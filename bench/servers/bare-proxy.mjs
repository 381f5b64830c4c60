/**
 * The baseline: a reverse proxy as one writes it with `node:http` and an undici pool for each upstream, which its path
 * names. Bodies are piped both ways and nothing is parsed, checked or logged. `process.argv[2]` is the origin behind it.
 * Prints its port.
 */
import { createServer } from 'node:http'
import { Pool } from 'undici'

const pools = new Map()
function poolOf(path) {
  let pool = pools.get(path)
  if (!pool) pools.set(path, (pool = new Pool(process.argv[2], { pipelining: 1, headersTimeout: 0, bodyTimeout: 0 })))
  return pool
}

const hopByHop = ['connection', 'keep-alive', 'transfer-encoding', 'upgrade', 'te', 'trailer', 'proxy-authorization']

function endToEnd(given) {
  const headers = { ...given }
  for (const name of hopByHop) delete headers[name]
  return headers
}

const server = createServer({ keepAliveTimeout: 60_000 }, (req, res) => {
  const { method, url: path } = req
  const body = method === 'POST' ? req : null
  poolOf(path)
    .stream({ method, path, headers: endToEnd(req.headers), body }, ({ statusCode, headers }) => {
      res.writeHead(statusCode, endToEnd(headers))
      return res
    })
    .catch(() => res.destroy())
})
server.listen(0, '127.0.0.1', () => console.log(`listening ${server.address().port}`))
process.stdin.resume().once('end', () => process.exit(0)) // the bench is gone
