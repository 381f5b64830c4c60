/** The world of a run: upstreams of every transport and era, those that fail and those that do not, and the keys. */
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { join } from 'node:path'
import { createClient } from './clients.mjs'
import { chaos, freePort, until } from './processes.mjs'

/** Seconds. Short ones, so that a call that gets no answer is over soon. */
export const timeouts = { timeout: 2, max_timeout: 4, queue_timeout: 2 }
/** Servers that are well may take their time on a busy machine: their callers are to see no error. */
const patience = { timeout: 60, max_timeout: 120, queue_timeout: 60 }
const limits = { ...timeouts, connect_timeout: 3, start_timeout: 15, list_timeout: 5, concurrency: 16 }

/** Where a key for nobody in particular may go: everywhere. */
export const keyNames = ['ann', 'ben', 'cleo', 'dan', 'eve']
export const bystanderKey = 'bystander'
const secretOf = name => `swb_chaos_${name}_0123456789abcdefghijklmnopqrst`

const frailServers = [
  ...['s1', 's2', 's3', 's4'].map(id => ({ id, transport: 'stdio', era: 'legacy' })),
  ...['s5', 's6', 's7'].map(id => ({ id, transport: 'stdio', era: 'modern' })),
  { id: 's8', transport: 'stdio', era: 'legacy', found: true },
  { id: 'h1', transport: 'http-legacy', form: 'json' },
  { id: 'h2', transport: 'http-legacy', form: 'sse' },
  { id: 'w1', transport: 'http-legacy', form: 'json', served: true },
  { id: 'm1', transport: 'http-modern', form: 'json' },
  { id: 'm2', transport: 'http-modern', form: 'sse' },
  { id: 'e1', transport: 'sse' },
  { id: 'e2', transport: 'sse' }
]
const healthyServers = [
  { id: 'b1', transport: 'stdio', era: 'legacy', healthy: true },
  { id: 'b2', transport: 'http-modern', form: 'json', healthy: true }
]

/** What a key may use: all that fail; only those over stdio; and so on, by patterns. */
const allowed = {
  ann: ({ transport }) => transport !== undefined,
  ben: ({ transport }) => transport === 'stdio',
  cleo: ({ transport }) => transport !== 'stdio',
  dan: ({ id }) => /[1357]$/.test(id),
  eve: ({ id }) => !/[13]$/.test(id)
}

/** @returns the running world. `reached` counts requests at an address to which only a redirect leads. */
export async function createWorld(processes) {
  const capture = createServer((_req, res) => {
    world.reached++
    res.end()
  }).listen(0, '127.0.0.1')
  await once(capture, 'listening')
  const { port: captured } = capture.address()

  const servers = {}
  const killers = {}
  for (const server of [...frailServers, ...healthyServers]) servers[server.id] = await entryOf(server, captured)

  async function entryOf({ id, transport, era, form, found, served, healthy }, captured) {
    const times = { ...limits, ...(healthy && patience) }
    const args = ['--name', id, '--capture', String(captured)]
    const command = script => ({ command: process.execPath, args: [join(chaos, 'servers', script), ...args] })
    if (transport === 'stdio') {
      args.push('--era', era)
      return { ...command('stdio.mjs'), env: processes.env, ...(!found && { era }), ...times }
    }
    const port = await freePort()
    const script = transport === 'sse' ? 'sse.mjs' : 'http.mjs'
    if (transport !== 'sse') args.push('--era', transport.slice('http-'.length), '--form', form)
    const url = `http://127.0.0.1:${port}/${transport === 'sse' ? 'sse' : 'mcp'}`
    if (served) {
      args.push('--port', String(port))
      return { ...command(script), env: processes.env, url, transport: 'http', ...times }
    }
    killers[id] = await processes.keepAlive(script, args, port)
    return { url, transport: transport === 'sse' ? 'sse' : 'http', ...times }
  }

  const keys = {}
  const env = {}
  const may = {}
  const addKey = (name, list) => {
    env[`KEY_${name.toUpperCase()}`] = secretOf(name)
    may[name] = list
    const allow = Object.fromEntries(list.map(({ id }) => [id, ['wor*', 'sometimes', '!none_*']]))
    keys[name] = { secret: `\${KEY_${name.toUpperCase()}}`, allow }
  }
  for (const name of keyNames) addKey(name, frailServers.filter(allowed[name]))
  addKey(bystanderKey, healthyServers)
  const config = join(processes.folder, 'servers.yaml')
  // JSON is YAML.
  const write = content => writeFileSync(config, JSON.stringify(content))
  write({ servers, keys })

  const port = await freePort()
  const gateway = processes.startGateway({ config, keys: env, port })
  const origin = `http://127.0.0.1:${port}`

  const listens = () =>
    fetch(`${origin}/healthz`).then(
      ({ ok }) => ok,
      () => false
    )
  if (!(await until(listens, 30_000))) throw new Error('the gateway does not listen')

  const world = {
    gateway,
    origin,
    /** What servers.yaml says, to be changed and written again. */
    config: { servers, keys },
    write,
    writeText: text => writeFileSync(config, text),
    frail: frailServers,
    healthy: healthyServers,
    /** Key -> the servers it may use. */
    may,
    reached: 0,
    /** Ends the process of a server with SIGKILL. @returns whether there was one. */
    kill(id) {
      if (killers[id]) return killers[id]()
      const pid = processes.named(id)
      return pid !== undefined && process.kill(Number(pid), 'SIGKILL')
    },
    client: options => createClient({ origin, secret: secretOf(options.key), ...options }),
    close: () => capture.close()
  }
  return world
}

/** Waits until every server has answered a call. @returns how long each took, in milliseconds. */
export async function untilAnswering(world, ms, tag) {
  const started = Date.now()
  const took = {}
  const clients = [
    { client: await world.client({ door: 'modern', key: 'ann' }), servers: world.frail },
    { client: await world.client({ door: 'legacy', key: bystanderKey }), servers: world.healthy }
  ]
  const answers = async (client, id) => {
    const { outcome } = client.call(`${id}__work`, { nonce: `n-${tag}-0-${id}` }, {})
    const { messages } = await outcome
    return messages.some(({ result }) => result && result.isError !== true)
  }
  await Promise.all(
    clients.flatMap(({ client, servers }) =>
      servers.map(async ({ id }) => {
        if (await until(() => answers(client, id), ms, 100)) took[id] = Date.now() - started
      })
    )
  )
  for (const { client } of clients) client.close()
  const missing = [...world.frail, ...world.healthy].map(({ id }) => id).filter(id => !(id in took))
  return { took, missing }
}
