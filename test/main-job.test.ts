/**
 * The main job: a freshly started gateway process on the shipped servers.yaml, with nothing but its own state directory.
 * What each of its three servers answers, through the clients of both SDKs and with both keys, is compared with the truth
 * got another way.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { PGlite } from '@electric-sql/pglite'
import { PGLiteSocketServer } from '@electric-sql/pglite-socket'
import { Client as ModernClient, StreamableHTTPClientTransport as ModernTransport } from '@modelcontextprotocol/client'
import { Client as LegacyClient } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport as LegacyTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { isFree, repository, startGatewayProcess, type GatewayProcess } from './helpers/gateway-process.js'
import { openSession } from './helpers/http.js'
import { waitFor } from './helpers/with-gateway.js'

const datnames = 'SELECT datname FROM pg_database WHERE datistemplate = false;'
const workspace = join(repository, 'examples/workspace')
const files = readdirSync(workspace, { recursive: true, withFileTypes: true })
  .filter(entry => entry.isFile())
  .map(entry => join(entry.parentPath, entry.name))

interface Client {
  readonly callTool: (params: { name: string; arguments?: Record<string, unknown> }) => Promise<any>
  readonly listTools: () => Promise<{ tools: { name: string }[] }>
  readonly close: () => Promise<void>
}

const eras: Record<string, (url: string, key: string) => Promise<Client>> = {
  'the v1 client of the 2025 era': async (url, key) => {
    const client = new LegacyClient({ name: 'v1', version: '1' })
    await client.connect(new LegacyTransport(new URL(url), authorization(key)))
    return client
  },
  'the v2 client pinned to 2026-07-28': async (url, key) => {
    const versionNegotiation = { mode: { pin: '2026-07-28' } }
    const client = new ModernClient({ name: 'v2', version: '1' }, { versionNegotiation })
    await client.connect(new ModernTransport(new URL(url), authorization(key)))
    return client
  }
}

const authorization = (key: string) => ({ requestInit: { headers: { authorization: `Bearer ${key}` } } })

/** Servers of the shipped servers.yaml that it starts on a port of their own. */
const shipped = parse(readFileSync(join(repository, 'servers.yaml'), 'utf8')) as {
  servers: Record<string, { command?: string; url?: string }>
}
const fixedPorts = Object.entries(shipped.servers).flatMap(([server, { command, url }]) =>
  command !== undefined && url !== undefined ? [{ server, port: Number(new URL(url).port) }] : []
)

/** A gateway on the shipped configuration, all three servers ready. */
async function startShipped(env: Record<string, string> = {}): Promise<GatewayProcess> {
  for (const { server, port } of fixedPorts) {
    await waitFor(() => isFree(port), `port ${port}`, 30_000).catch(() => {
      throw new Error(
        `Port ${port} is taken by another program (see "ss -ltnp"), and the shipped servers.yaml needs it for its server ${server}. Stop that program, perhaps another Switchboard, and run this test again.`
      )
    })
  }
  const gateway = await startGatewayProcess({ config: 'servers.yaml', args: ['--log', 'debug'], env })
  try {
    await waitFor(() => gateway.logged('upstream.ready').length >= 3, 'three ready servers', 60_000)
  } catch (error) {
    await gateway.stop()
    throw new Error(`${(error as Error).message}\n${gateway.stderr()}`, { cause: error })
  }
  return gateway
}

/** The rows a direct connection gets. */
async function queryDirectly(connectionString: string, text: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString })
  await client.connect()
  try {
    return (await client.query<Record<string, unknown>>(text)).rows
  } finally {
    await client.end()
  }
}

/** The rows in the text that postgres-mcp answers: a heading, then JSON. */
function rowsOf(result: any): unknown {
  expect(result.isError, JSON.stringify(result)).not.toBe(true)
  const text = String(result.content[0].text)
  return JSON.parse(text.slice(text.search(/^\[/m)))
}

function readMeminfo(): { total: number; available: number } {
  const text = readFileSync('/proc/meminfo', 'utf8')
  const bytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1]) * 1024
  return { total: bytes('MemTotal'), available: bytes('MemAvailable') }
}

const keys = ['admin', 'developer']
const cases = keys.flatMap(key => Object.keys(eras).map(era => [era, key] as const))

describe('a freshly started gateway on the shipped servers.yaml', () => {
  let gateway: GatewayProcess
  const clients = new Map<string, Client>()
  const client = (key: string, era: string) => clients.get(`${key}, ${era}`) as Client

  beforeAll(async () => {
    gateway = await startShipped()
    for (const [era, key] of cases) {
      clients.set(`${key}, ${era}`, await eras[era]!(`${gateway.url}/mcp`, gateway.keys[key] ?? ''))
    }
  }, 120_000)

  afterAll(async () => {
    await Promise.all([...clients.values()].map(each => each.close()))
    await gateway?.stop()
  })

  it.each(cases)('returns exactly the bytes of a file to %s with the %s key', async (era, key) => {
    expect(files.length).toBeGreaterThan(2)
    for (const path of files) {
      const result = await client(key, era).callTool({ name: 'filesystem__read_text_file', arguments: { path } })
      expect(Buffer.from(result.content[0].text as string).equals(readFileSync(path)), path).toBe(true)
    }
  })

  it.each(cases)('returns the rows of the embedded database to %s with the %s key', async (era, key) => {
    let url: string | undefined
    await waitFor(() => {
      url = gateway
        .logged('upstream.stderr')
        .map(({ line }) => /embedded PostgreSQL at (\S+)/.exec(String(line))?.[1])
        .find(found => found !== undefined)
      return url !== undefined
    }, 'the address of the embedded database in the log')
    for (const query of [datnames, 'SELECT id, name, role, cpu_cores FROM hosts ORDER BY id']) {
      const result = await client(key, era).callTool({
        name: 'postgres__pg_execute_query',
        arguments: { operation: 'select', query }
      })
      const truth = await queryDirectly(url ?? '', query)
      expect(truth.length).toBeGreaterThan(0)
      expect(rowsOf(result)).toEqual(truth)
    }
  })

  it.each(cases)('returns the memory of this host to %s with the %s key', async (era, key) => {
    const before = readMeminfo()
    const { structuredContent } = await client(key, era).callTool({ name: 'monitoring__memory' })
    const after = readMeminfo()
    expect(structuredContent.total).toBe(before.total)
    expect(structuredContent.available).toBeGreaterThan(Math.min(before.available, after.available) * 0.95)
    expect(structuredContent.available).toBeLessThan(Math.max(before.available, after.available) * 1.05)
  })

  it.each(Object.keys(eras))('shows the developer key its tools and none that writes, to %s', async era => {
    const seen = async (key: string) => (await client(key, era).listTools()).tools.map(({ name }) => name)
    const [all, own] = [await seen('admin'), await seen('developer')]
    const writing = ['filesystem__write_file', 'filesystem__edit_file', 'postgres__pg_execute_mutation']
    expect(all).toEqual(expect.arrayContaining([...writing, ...own]))
    expect(own).toEqual(
      expect.arrayContaining(['filesystem__read_text_file', 'postgres__pg_execute_query', 'monitoring__memory'])
    )
    expect(
      own.filter(name => /write|edit|create|move|delete|mutation|execute_sql|manage|import|copy/.test(name))
    ).toEqual([])
  })

  it.each(Object.keys(eras))(
    'writes nothing for the developer key, whose call is an unknown tool, from %s',
    async era => {
      const path = join(workspace, `must-not-be-written-${process.pid}.txt`)
      const call = client('developer', era).callTool({
        name: 'filesystem__write_file',
        arguments: { path, content: 'written all the same' }
      })
      await expect(call).rejects.toMatchObject({
        code: -32602,
        message: expect.stringMatching(/Unknown tool: filesystem__write_file$/) as string
      })
      expect(existsSync(path)).toBe(false)
    }
  )

  it('says in plain JSON-RPC that a tool which the developer key may not use is unknown', async () => {
    const path = join(workspace, `must-not-be-written-${process.pid}.txt`)
    const session = await openSession(gateway.url, gateway.keys.developer ?? '')
    const { json } = await session.rpc('tools/call', {
      name: 'filesystem__write_file',
      arguments: { path, content: 'written all the same' }
    })
    expect(json.error).toMatchObject({ code: -32602, message: 'Unknown tool: filesystem__write_file' })
    expect(existsSync(path)).toBe(false)
  })

  it('prints one block with its address and the state of each server, and nothing else on stdout', () => {
    expect(gateway.block).toContain(`Switchboard is listening at ${gateway.url}/mcp\n`)
    for (const server of ['filesystem', 'postgres', 'monitoring']) {
      expect(gateway.block).toMatch(new RegExp(`^  ${server} +(starting|ready: \\d+ tools \\(.+\\))$`, 'm'))
    }
    expect(gateway.stdout()).toBe(gateway.block)
  })

  it('prints the block within seconds of listening', () => {
    console.info(`listening after ${gateway.listeningMs.toFixed()} ms, block after ${gateway.blockMs.toFixed()} ms`)
    // It is to be one second; the margin is for busy machines.
    expect(gateway.blockMs - gateway.listeningMs).toBeLessThan(5000)
  })

  it('shows the admin key before the developer key, and what each sees', () => {
    expect(Object.keys(gateway.keys)).toEqual(['admin', 'developer'])
    expect(gateway.block).toMatch(/^ {2}admin sees everything$/m)
    expect(gateway.block).toMatch(/^ {2}developer sees filesystem: read_\*, .*; postgres: .*; monitoring: /m)
  })

  it.each(keys)('prints a line for Claude Code whose %s key works as it stands there', async key => {
    expect(gateway.addLines[key]).toMatch(
      new RegExp(
        `^claude mcp add --transport http switchboard http://127\\.0\\.0\\.1:${gateway.port}/mcp --header "Authorization: Bearer swb_[\\w-]{43}"$`
      )
    )
    // As the shell and then Claude Code take it apart.
    const words = [...(gateway.addLines[key] ?? '').matchAll(/"([^"]*)"|\S+/g)].map(([word, quoted]) => quoted ?? word)
    const { positionals, values } = parseArgs({
      args: words,
      allowPositionals: true,
      options: { transport: { type: 'string' }, header: { type: 'string' } }
    })
    const [, , , name, url] = positionals
    const [header = '', value = ''] = values.header?.split(': ') ?? []
    expect([name, values.transport]).toEqual(['switchboard', 'http'])
    const probe = new LegacyClient({ name: 'claude-code', version: '1' })
    await probe.connect(new LegacyTransport(new URL(url ?? ''), { requestInit: { headers: { [header]: value } } }))
    expect((await probe.listTools()).tools.length).toBeGreaterThan(5)
    await probe.close()
  })

  it('prints and logs no key anywhere else', () => {
    for (const secret of Object.values(gateway.keys)) expect(gateway.stderr()).not.toContain(secret)
  })
})

describe('a freshly started gateway with DATABASE_URL set', () => {
  let gateway: GatewayProcess
  let db: PGlite
  let server: PGLiteSocketServer
  let url: string

  beforeAll(async () => {
    db = await PGlite.create()
    await db.exec("CREATE TABLE only_here (id int, word text); INSERT INTO only_here VALUES (1, 'eins'), (2, 'zwei')")
    server = new PGLiteSocketServer({ db, host: '127.0.0.1', port: 0, maxConnections: 20 })
    await server.start()
    url = `postgresql://postgres:secret-of-${process.pid}@${server.getServerConn()}/postgres`
    gateway = await startShipped({ DATABASE_URL: url })
  }, 120_000)

  afterAll(async () => {
    await gateway?.stop()
    await server?.stop()
    await db?.close()
  })

  it.each(cases)('returns the rows of that database to %s with the %s key', async (era, key) => {
    const client = await eras[era]!(`${gateway.url}/mcp`, gateway.keys[key] ?? '')
    for (const query of [datnames, 'SELECT id, word FROM only_here ORDER BY id']) {
      const result = await client.callTool({
        name: 'postgres__pg_execute_query',
        arguments: { operation: 'select', query }
      })
      const truth = await queryDirectly(url, query)
      expect(truth.length).toBeGreaterThan(0)
      expect(rowsOf(result)).toEqual(truth)
    }
    await client.close()
  })

  it('starts no embedded database and shows the password of that one to nobody', () => {
    expect(gateway.stderr()).not.toContain('embedded PostgreSQL')
    expect(gateway.stdout() + gateway.stderr()).not.toContain(`secret-of-${process.pid}`)
    for (const { command } of gateway.servers()) expect(command).not.toContain('postgresql://')
  })
})
