/** `limits:` in servers.yaml: each arrives where it holds, and is documented once. */
import { readFileSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { configJsonSchema } from '../src/config/json-schema.js'
import { parseConfig } from '../src/config/load.js'
import type { LimitsConfig } from '../src/config/schema.js'
import { bearer, modern, openSession, post } from './helpers/http.js'
import { openStream, type Stream } from './helpers/matrix.js'
import { fixture, secrets, startTestGateway, waitFor } from './helpers/with-gateway.js'

interface Field {
  readonly default: number
  readonly description: string
}

const fields: Record<string, Field> = (configJsonSchema() as any).properties.limits.properties
const server = { command: process.execPath, args: [fixture('raw-stdio.mjs')], era: 'legacy' }

async function start(limits: object, servers: object = { raw: server }) {
  const gateway = await startTestGateway(
    `servers: ${JSON.stringify(servers)}\nlimits: ${JSON.stringify(limits)}\nkeys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`
  )
  onTestFinished(() => gateway.close())
  for (const id of Object.keys(servers)) await gateway.until(id)
  return gateway
}

function limitsOf(yaml: string): LimitsConfig | undefined {
  const text = `servers: { a: { url: "http://a/mcp" } }\n${yaml}`
  return parseConfig({ text, file: '/etc/servers.yaml', env: {}, readFile: () => '' }).config?.limits
}

const camel = (name: string) =>
  name.replace('_kib', '_bytes').replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())
const inUnits = (name: string, value: number) => (name.endsWith('_kib') ? value * 1024 : value)

describe('limits in servers.yaml', () => {
  it('have the defaults of the design', () => {
    expect(limitsOf('')).toMatchObject({
      bodyBytes: 4 * 1024 * 1024,
      messageBytes: 32 * 1024 * 1024,
      jsonDepth: 64,
      headerBytes: 16 * 1024,
      headerFields: 100,
      listItems: 10_000,
      listPages: 100,
      liveStatePerKey: 100,
      callsPerKey: 100,
      connections: 2000,
      streamBytes: 1024 * 1024,
      stallTimeout: 30,
      drainTimeout: 8
    })
  })

  it('all arrive, under one name each', () => {
    const written = Object.entries(fields).map(([name, field]) => [name, field.default + 1] as const)
    expect(limitsOf(`limits: ${JSON.stringify(Object.fromEntries(written))}\n`)).toEqual(
      Object.fromEntries(written.map(([name, value]) => [camel(name), inUnits(name, value)]))
    )
  })

  it('are strict: a typo is an error with a hint', () => {
    const text = 'servers: { a: { url: "http://a/mcp" } }\nlimits: { conections: 5 }\n'
    const { config, findings } = parseConfig({ text, file: '/etc/servers.yaml', env: {}, readFile: () => '' })
    expect(config).toBeUndefined()
    expect(findings).toMatchObject([
      { path: 'limits.conections', line: 2, message: expect.stringContaining('Did you mean `connections`?') }
    ])
  })

  it('are one table in docs/operations.md; if not, it is written anew with UPDATE=1', () => {
    const file = new URL('../docs/operations.md', import.meta.url)
    const page = readFileSync(file, 'utf8')
    const rows = Object.entries(fields).map(([name, { default: value, description }]) => {
      const says = description.replace(/ (?:In seconds; d|D)efault [\d.]+\.$/, '')
      return `| \`${name}\` | ${value}${name.endsWith('_timeout') ? ' s' : ''} | ${says} |`
    })
    const table = ['| limit | default | what it bounds |', '|---|---|---|', ...rows].join('\n')
    const place = /\| limit \| default \|.*?\n(?=\n)/s
    if (process.env.UPDATE) writeFileSync(file, page.replace(place, `${table}\n`))
    expect(place.exec(readFileSync(file, 'utf8'))?.[0]).toBe(`${table}\n`)
  })
})

describe('a limit that was set', () => {
  it('bounds body, depth, header fields and batches, and is named in the refusal', async () => {
    const { url } = await start({ body_kib: 2, json_depth: 8, header_fields: 20, batch_messages: 2 })
    const key = bearer(secrets.ADMIN)
    const large = await post(`${url}/mcp`, { padding: 'x'.repeat(2048) }, key)
    expect([large.status, large.json.error.message]).toEqual([413, 'The request body is larger than 2 KiB.'])
    const deep = await post(`${url}/mcp`, '['.repeat(9) + ']'.repeat(9), key)
    expect([deep.status, deep.json.error.message]).toEqual([400, 'The body is nested more than 8 levels deep.'])
    const many = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`x-${i}`, 'y']))
    const fields = await post(`${url}/mcp`, {}, { ...key, ...many })
    expect([fields.status, fields.json.error.message]).toEqual([431, 'More than 20 header fields were sent.'])

    const session = await openSession(url, secrets.ADMIN, { version: '2025-03-26' })
    const batch = (count: number) =>
      post(
        `${url}/mcp`,
        Array.from({ length: count }, (_, id) => ({ jsonrpc: '2.0', id, method: 'ping' })),
        session.headers
      )
    expect((await batch(2)).status).toBe(200)
    expect((await batch(3)).json.error.message).toMatch(/2 are the most/)
  })

  it('bounds what is taken of a server: messages and lists', async () => {
    const gateway = await start({ message_kib: 64, list_items: 3 })
    const { json } = await modern(gateway.url, secrets.ADMIN, 'tools/list')
    expect(json.result.tools).toHaveLength(3)
    expect(gateway.logged('upstream.list')).toMatchObject([{ reason: expect.stringMatching(/more than 3 items/) }])

    const large = await start({ message_kib: 64 })
    const big = (bytes: number) =>
      modern(large.url, secrets.ADMIN, 'tools/call', { name: 'raw__echo', arguments: { message: 'x'.repeat(bytes) } })
    expect((await big(60 * 1024)).json.result.isError).toBeUndefined()
    expect((await big(65 * 1024)).json.result.content[0].text).toMatch(/more than 64 KiB/)
  })

  it('bounds what a key holds open: the oldest stream ends, its session stays', async () => {
    const { url } = await start({ live_state_per_key: 2 })
    const sessions = await Promise.all([1, 2, 3].map(() => openSession(url, secrets.ADMIN)))
    const streams: Stream[] = []
    for (const { headers } of sessions) streams.push(await openStream(`${url}/mcp`, headers))
    await waitFor(() => streams[0]?.ended() === true, 'the oldest stream to end')
    expect(streams.map(stream => stream.ended())).toEqual([true, false, false])
    expect((await sessions[0]?.rpc('ping'))?.json.result).toEqual({})
    for (const stream of streams) stream.close()
  })

  it('bounds connections: further ones are refused and told, those that stand work on', async () => {
    const gateway = await start({ connections: 3 })
    const { hostname, port } = new URL(gateway.url)
    const open: Socket[] = []
    onTestFinished(() => open.forEach(socket => socket.destroy()))
    const ends = async (socket: Socket) => {
      open.push(socket)
      socket.on('error', () => {})
      return new Promise<boolean>(resolve => {
        socket.once('close', () => resolve(true))
        setTimeout(() => resolve(false), 500)
      })
    }
    const first = connect(Number(port), hostname)
    const kept = [first, connect(Number(port), hostname), connect(Number(port), hostname)]
    expect(await Promise.all(kept.map(ends))).toEqual([false, false, false])
    expect(await Promise.all([1, 2].map(() => ends(connect(Number(port), hostname))))).toEqual([true, true])
    expect(gateway.logged('connections.refused')).toMatchObject([{ level: 'warn', connections: 1, most: 3 }])

    let answer = ''
    first.on('data', chunk => (answer += chunk.toString()))
    first.write(`GET /healthz HTTP/1.1\r\nHost: ${hostname}:${port}\r\n\r\n`)
    await waitFor(() => answer.startsWith('HTTP/1.1 200'), 'the health of the gateway')
    kept[1]?.destroy()
    await waitFor(async () => !(await ends(connect(Number(port), hostname))), 'a place for another')
  })
})
