// The database behind postgres.mjs and postgres-sse.mjs: $DATABASE_URL if it is set, else a PostgreSQL inside this
// process (PGlite, in memory) with the tables of sample.sql, listening on 127.0.0.1. A library; to see it alone, run
// `node examples/postgres.mjs` and connect to the address it prints.
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { PGlite } from '@electric-sql/pglite'
import { PGLiteSocketServer } from '@electric-sql/pglite-socket'

// → { url, ready, close }: connections wait until `ready`, when the tables are there (some seconds).
export async function openDatabase({ DATABASE_URL, EXAMPLE_POSTGRES_PORT } = process.env) {
  if (DATABASE_URL) return { url: DATABASE_URL, ready: Promise.resolve(), close: async () => {} }
  return startEmbeddedPostgres({ port: Number(EXAMPLE_POSTGRES_PORT || 0) })
}

// In a thread of its own: PGlite keeps its thread busy while it sets up, and stdout here belongs to the protocol.
export async function startEmbeddedPostgres({ port = 0 } = {}) {
  const worker = new Worker(new URL(import.meta.url), { workerData: { port }, stdout: true })
  worker.stdout.pipe(process.stderr)
  const [url] = await once(worker, 'message') // rejects when the thread fails
  const ready = once(worker, 'message').then(() => void console.error(`embedded PostgreSQL at ${url}`))
  return { url, ready, close: () => worker.terminate() }
}

// How to run the published MCP server on that database. The address goes in by the environment: arguments show in `ps`.
export const postgresMcp = url => ({
  command: process.execPath,
  args: [createRequire(import.meta.url).resolve('@henkey/postgres-mcp-server')],
  // Outside production it sets up pg-monitor, which can print queries to stdout.
  env: { ...process.env, POSTGRES_CONNECTION_STRING: url, NODE_ENV: 'production' }
})

async function serve({ port }) {
  let pglite, ready
  // What the socket server asks of PGlite, waiting for it: so that it listens before PGlite is there.
  const db = {
    waitReady: Promise.resolve(),
    isInTransaction: () => pglite.isInTransaction(),
    runExclusive: async work => (await ready, pglite.runExclusive(work)),
    execProtocolRawStream: (...args) => pglite.execProtocolRawStream(...args),
    exec: (...args) => pglite.exec(...args)
  }
  // PGlite has one backend: this many connections share it, statement by statement, a transaction at a time.
  const server = new PGLiteSocketServer({ db, host: '127.0.0.1', port, maxConnections: 100 })
  await server.start().catch(error => {
    if (error.code !== 'EADDRINUSE') throw error
    throw new Error(`port ${port} on 127.0.0.1 is taken: choose another with EXAMPLE_POSTGRES_PORT`, { cause: error })
  })
  parentPort.postMessage(`postgresql://postgres:postgres@${server.getServerConn()}/postgres`)
  pglite = new PGlite()
  ready = readFile(new URL('sample.sql', import.meta.url), 'utf8').then(sql => pglite.exec(sql))
  await ready
  parentPort.postMessage('ready')
}

if (!isMainThread && workerData?.port !== undefined) await serve(workerData)
