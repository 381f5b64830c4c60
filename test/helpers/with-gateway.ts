/** Starts a real gateway on a free port from the text of a servers.yaml, for one test; everything ends with `close`. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseConfig } from '../../src/config/load.js'
import type { Config } from '../../src/config/schema.js'
import { startGateway, type Applied, type Gateway, type GatewayOptions } from '../../src/gateway.js'
import { createLog } from '../../src/observe/log.js'
import { openState } from '../../src/state.js'

export const secrets = {
  ADMIN: 'admin-secret-for-tests-0123456789',
  DEVELOPER: 'developer-secret-for-tests-012345',
  OTHER: 'other-secret-for-tests-0123456789'
}

export const fixture = (name: string) => new URL(`../fixtures/${name}`, import.meta.url).pathname

export interface TestGateway {
  readonly gateway: Gateway
  readonly url: string
  readonly stateDir: string
  readonly log: Record<string, unknown>[]
  /** Log lines of one event. */
  logged(event: string): Record<string, unknown>[]
  /** Takes another servers.yaml over; `edit` changes what cannot be written in one. */
  apply(yaml: string, edit?: (config: Config) => Config): Applied
  /** Waits until the server has that state (default ready). */
  until(server: string, state?: string): Promise<void>
  close(): Promise<void>
}

export interface TestGatewayOptions {
  readonly env?: Record<string, string>
  /** An existing state directory, left in place by `close`. */
  readonly stateDir?: string
  /** Other times than a gateway has. */
  readonly pace?: GatewayOptions['pace']
  /** How long calls of a server that is replaced or removed may take, in milliseconds. */
  readonly retireMs?: number
}

/** @param yaml servers.yaml; `listen` is set to a free port on loopback unless the text has one. */
export async function startTestGateway(
  yaml: string,
  { env, stateDir, pace, retireMs }: TestGatewayOptions = {}
): Promise<TestGateway> {
  const dir = stateDir ?? mkdtempSync(join(tmpdir(), 'switchboard-test-'))
  const parse = (yaml: string): Config => {
    const { config, findings } = parseConfig({
      text: /^listen:/m.test(yaml) ? yaml : `listen: { port: 0 }\n${yaml}`,
      file: join(dir, 'servers.yaml'),
      env: { ...secrets, ...env },
      readFile: path => readFileSync(path, 'utf8')
    })
    if (!config) throw new Error(findings.map(finding => finding.message).join('\n'))
    return config
  }
  const lines: Record<string, unknown>[] = []
  const log = createLog('debug', { write: line => lines.push(JSON.parse(line) as Record<string, unknown>) })
  const gateway = await startGateway({
    config: parse(yaml),
    state: openState({ path: join(dir, 'state') }),
    log,
    ...(pace && { pace }),
    ...(retireMs !== undefined && { retireMs })
  })
  return {
    gateway,
    url: gateway.url,
    stateDir: dir,
    log: lines,
    logged: event => lines.filter(line => line.event === event),
    apply: (yaml, edit = config => config) => gateway.apply(edit(parse(yaml))),
    until: (server, state = 'ready') =>
      waitFor(() => gateway.status().some(s => s.id === server && s.state === state), `${server} ${state}`),
    close: async () => {
      await gateway.close()
      if (stateDir === undefined) rmSync(dir, { recursive: true, force: true })
    }
  }
}

/** Polls until `condition` holds; fails with `what` after `ms`. */
export async function waitFor(condition: () => boolean | Promise<boolean>, what: string, ms = 15_000): Promise<void> {
  const deadline = Date.now() + ms
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`waited ${ms} ms in vain for: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}
