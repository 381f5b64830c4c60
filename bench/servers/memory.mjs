/**
 * The baseline of a list: `node:http` writing bytes it holds. `process.argv[2]` is a folder of files `0`, `1`, …; the
 * path of a request names one. Prints its port.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'

const folder = process.argv[2]
const pages = new Map(readdirSync(folder).map(name => [`/${name}`, readFileSync(join(folder, name))]))
const server = createServer({ keepAliveTimeout: 60_000 }, (req, res) => {
  const bytes = pages.get(req.url)
  req.resume()
  req.on('end', () => {
    res.writeHead(200, { 'content-type': 'application/json', 'content-length': bytes.length }).end(bytes)
  })
})
server.listen(0, '127.0.0.1', () => console.log(`listening ${server.address().port}`))
process.stdin.resume().once('end', () => process.exit(0)) // the bench is gone
