/** A real gateway process in front of one fixture server. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { start } from './process.mjs'

export const repository = new URL('../..', import.meta.url).pathname

/** What the fixture is called in servers.yaml: its tool `echo` is listed as `fixture__echo`. */
export const server = 'fixture'

/** Starts `switchboard serve` with its files in `folder` and waits for the start block. */
export async function startGateway(folder) {
  const [config, state, requests] = ['servers.yaml', 'state', 'requests.ndjson'].map(name => join(folder, name))
  const fixture = join(repository, 'test/fixtures/stdio-legacy.mjs')
  // JSON is YAML too.
  writeFileSync(
    config,
    JSON.stringify({
      servers: { [server]: { command: process.execPath, args: [fixture] } },
      keys: { admin: { secret: 'generated', allow: '*' } }
    })
  )
  const recorder = new URL('./record-requests.mjs', import.meta.url).href
  const serve = ['serve', '--config', config, '--state', state, '--port', '0']
  const program = start(process.execPath, ['--import', recorder, join(repository, 'dist/cli.js'), ...serve], {
    cwd: folder,
    env: { PATH: process.env.PATH, HOME: folder, SWITCHBOARD_REQUESTS: requests }
  })

  const ended = program.exited.then(exit => {
    throw new Error(`the gateway ended (${exit}): ${program.stderr() || program.stdout()}`)
  })
  ended.catch(() => {})
  const overdue = pause(20_000, undefined, { ref: false }).then(() => {
    throw new Error(`the gateway printed no start block: ${program.stdout()} ${program.stderr()}`)
  })
  overdue.catch(() => {})
  let printed
  while (
    !(printed = /^ *(claude mcp add .* (http:\S+) --header "Authorization: Bearer (\S+)")$/m.exec(program.stdout()))
  )
    await Promise.race([pause(20), ended, overdue])
  const [, addLine, url, key] = printed

  const linesOf = text =>
    text
      .split('\n')
      .filter(line => line.startsWith('{') && line.endsWith('}'))
      .map(line => JSON.parse(line))
  const audit = () => linesOf(program.stderr()).filter(({ event }) => event === 'call')
  const received = () =>
    (existsSync(requests) ? linesOf(readFileSync(requests, 'utf8')) : []).sort((a, b) => a.number - b.number)
  return {
    /** The line of the start block that adds it to Claude Code. */
    addLine,
    /** The address of its `/mcp`. */
    url,
    key,
    /** What happens from now on: audit lines, and HTTP requests whose response is closed. */
    watch() {
      const [calls, last] = [audit().length, received().at(-1)?.number ?? 0]
      return {
        audit: () => audit().slice(calls),
        requests: () => received().filter(({ number }) => number > last)
      }
    },
    async stop() {
      program.child.kill('SIGTERM')
      await Promise.race([program.exited, pause(10_000, undefined, { ref: false })])
      program.end()
    }
  }
}
