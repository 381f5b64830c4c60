/**
 * Raw upstreams over Streamable HTTP, as many as are asked for: the path says which one and what it is,
 * `/<legacy|modern>/<tools>/<any name>`. Prints its port.
 */
import { createServer } from 'node:http'
import { createAnswer } from './answer.mjs'

const kinds = new Map()

function kindOf(url) {
  let answer = kinds.get(url)
  if (!answer) {
    const [, era, tools] = url.split('/')
    const kind = `${era} ${tools}`
    answer = kinds.get(kind) ?? createAnswer({ tools: Number(tools), modern: era === 'modern' })
    kinds.set(kind, answer).set(url, answer)
  }
  return answer
}

const server = createServer({ keepAliveTimeout: 60_000 }, (req, res) => {
  if (req.method !== 'POST') return void res.writeHead(req.method === 'GET' ? 405 : 200).end()
  const chunks = []
  req.on('data', chunk => chunks.push(chunk))
  req.on('end', () => {
    const message = JSON.parse(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks))
    const body = kindOf(req.url)(message)
    if (body === undefined) return void res.writeHead(202).end()
    const bytes = Buffer.from(body)
    const headers = { 'content-type': 'application/json', 'content-length': bytes.length }
    if (message.method === 'initialize') headers['mcp-session-id'] = '6d1f7f0e-3c7e-4f0b-9d39-6f2b0c5f8a11'
    res.writeHead(200, headers).end(bytes)
  })
})
server.listen(0, '127.0.0.1', () => console.log(`listening ${server.address().port}`))
process.stdin.resume().once('end', () => process.exit(0)) // the bench is gone
