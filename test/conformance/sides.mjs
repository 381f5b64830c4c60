/** What the suite is pointed at: a fixture server directly, or a gateway process in front of one. */
import { randomUUID } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { start } from '../clients/process.mjs'
import { startForwarder } from './forwarder.mjs'

const repository = new URL('../..', import.meta.url).pathname
const v1 = join(import.meta.dirname, 'server-v1.mjs')
const v2 = join(import.meta.dirname, 'server-v2.mjs')

/** Each upstream: the fixture, and what servers.yaml says of it besides its address. */
const upstreams = {
  'v2-modern': { args: [v2], path: '/mcp', config: { transport: 'http', era: 'modern' } },
  'v2-legacy': { args: [v2], path: '/mcp', config: { transport: 'http', era: 'legacy' } },
  'v1-http': { args: [v1, 'http'], path: '/mcp', config: { transport: 'http' } },
  'v1-sse': { args: [v1, 'sse'], path: '/sse', config: { transport: 'sse' } },
  'v1-stdio': { args: [v1, 'stdio'], config: { transport: 'stdio' } }
}

export const upstreamNames = Object.keys(upstreams)

/** @returns `{ url, log(), stop() }`, `url` being that of its MCP endpoint */
export async function startDirect() {
  const fixture = await startFixture(upstreams['v2-modern'])
  return { url: fixture.url, log: fixture.log, stop: fixture.stop }
}

/** The same for a gateway in front of the upstream of that name; its files are kept in `folder`. */
export async function startBehindGateway(name, folder) {
  const { args, path, config } = upstreams[name]
  const fixture = path && (await startFixture(upstreams[name]))
  const server = fixture ? { url: fixture.url } : { command: process.execPath, args }
  const gateway = await startGateway({ ...server, ...config, namespace: false }, folder).catch(async error => {
    await fixture?.stop()
    throw error
  })
  const forwarder = await startForwarder({ target: gateway.url, key: gateway.key })
  return {
    url: `${forwarder.url}/mcp`,
    log: () => `${fixture?.log() ?? ''}${gateway.log()}`,
    async stop() {
      forwarder.close()
      await gateway.stop()
      await fixture?.stop()
    }
  }
}

async function startFixture({ args, path }) {
  const program = start(process.execPath, args, { cwd: import.meta.dirname, env: { PATH: process.env.PATH } })
  const [, port] = await printed(program, 'stdout', /^listening on (\d+)$/m)
  return { url: `http://127.0.0.1:${port}${path}`, log: program.stderr, stop: () => stop(program) }
}

async function startGateway(server, folder) {
  mkdirSync(folder, { recursive: true })
  const config = join(folder, 'servers.yaml')
  const keys = { suite: { secret: '${CONFORMANCE_KEY}', allow: '*' } }
  // JSON is YAML too.
  writeFileSync(config, JSON.stringify({ servers: { everything: server }, keys }, null, 2))
  const key = randomUUID()
  const serve = ['serve', '--config', config, '--state', join(folder, 'state'), '--port', '0']
  const program = start(process.execPath, [join(repository, 'dist/cli.js'), ...serve], {
    cwd: folder,
    env: { PATH: process.env.PATH, HOME: folder, CONFORMANCE_KEY: key }
  })
  const [, url] = await printed(program, 'stdout', /^Switchboard is listening at (http:\S+)\/mcp$/m)
  await printed(program, 'stderr', /"event":"upstream.ready"/)
  return { url, key, log: program.stderr, stop: () => stop(program) }
}

/** Waits until the program prints that. */
async function printed(program, where, pattern, limit = 20_000) {
  const deadline = Date.now() + limit
  let ended
  void program.exited.then(exit => (ended = exit))
  for (;;) {
    const found = pattern.exec(program[where]())
    if (found) return found
    if (ended !== undefined || Date.now() > deadline) {
      program.end()
      const why = ended === undefined ? `printed no ${pattern}` : `ended with ${ended}`
      throw new Error(`${program.child.spawnargs.join(' ')} ${why}: ${program.stdout()}${program.stderr()}`)
    }
    await pause(20)
  }
}

async function stop(program) {
  program.child.kill('SIGTERM')
  await Promise.race([program.exited, pause(5000, undefined, { ref: false })])
  program.end()
}
