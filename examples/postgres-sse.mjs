// PostgreSQL as an HTTP+SSE MCP server: one database (see embedded-postgres.mjs) for all, one postgres-mcp process per
// connection. DATABASE_URL and EXAMPLE_POSTGRES_PORT as in postgres.mjs.
// Alone: node examples/postgres-sse.mjs --port 8701, then point a client at http://127.0.0.1:8701/sse
import { openDatabase, postgresMcp } from './embedded-postgres.mjs'
import { portArgument, serveSse } from './stdio-to-sse.mjs'

function fail(error) {
  console.error(`postgres example: ${error.message}`)
  process.exit(1)
}

const database = await openDatabase().catch(fail)
database.ready.catch(fail)
await serveSse({
  port: portArgument(8701).port,
  server: postgresMcp(database.url),
  before: message => (message.method === 'tools/call' ? database.ready : undefined)
})
