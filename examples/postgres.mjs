// PostgreSQL as a stdio MCP server: the published @henkey/postgres-mcp-server on $DATABASE_URL or, without it, on an
// embedded sample database (port: EXAMPLE_POSTGRES_PORT, or any free one; its address is printed on stderr).
// Alone: node examples/postgres.mjs, with an MCP client on stdin and stdout.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { openDatabase, postgresMcp } from './embedded-postgres.mjs'

function fail(error) {
  console.error(`postgres example: ${error.message}`)
  process.exit(1)
}

const database = await openDatabase().catch(fail)
const { command, args, env } = postgresMcp(database.url)
const child = spawn(command, args, { env, stdio: ['pipe', 'inherit', 'inherit'] })
let ready = false
database.ready.then(
  () => (ready = true),
  error => (child.kill('SIGKILL'), fail(error))
)

child.on('error', fail)
child.on('exit', (code, signal) => process.exit(code ?? (signal === 'SIGTERM' ? 143 : 137)))
child.stdin.on('error', () => {}) // it is ending: 'exit' follows

function stop() {
  child.stdin.end()
  child.kill('SIGTERM')
  setTimeout(() => child.kill('SIGKILL'), 1500)
}
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, stop)
process.stdin.on('end', () => setTimeout(stop, 2000)) // the server ends by itself once it has answered; if not, this
process.stdin.on('error', stop)

// Everything passes through as it is; only a call waits until the database is up.
let tail = ''
for await (const chunk of process.stdin) {
  if (!ready && (tail += chunk.toString('latin1')).includes('tools/call')) await database.ready
  tail = tail.slice(-16)
  if (!child.stdin.write(chunk)) await once(child.stdin, 'drain').catch(() => {})
}
child.stdin.end()
