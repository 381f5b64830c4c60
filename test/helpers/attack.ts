/**
 * `attack('T3', 'what it is', body)` is a test of the security reference, which runs its body against a gateway of its
 * own while three things go on: a bystander whose calls must not suffer, a ledger of calls that must come out even, and a
 * search for secrets in everything the gateway says. What they found stands in the meta data of the test.
 *
 * `attackFrom` leaves it to the body to start that gateway, and `attackProcess` has it start `dist/cli.js` as users do.
 * Where the gateway ends before the body does, the bystander leaves before: `leave`.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { request } from 'undici'
import { expect, onTestFinished, test, type TestContext } from 'vitest'
import type { Config } from '../../src/config/schema.js'
import type { Applied } from '../../src/gateway.js'
import { start as startRawHttp } from '../fixtures/raw-http.mjs'
import { expectUnharmed, startBystander, type Bystander, type BystanderResult } from './bystander.js'
import { openCanaries } from './canary.js'
import { startGatewayProcess, type GatewayProcess, type GatewayProcessOptions } from './gateway-process.js'
import { bearer, modern, type Reply } from './http.js'
import { openCallLedger, type Balance, type CallLedger } from './ledger.js'
import { rawTo, requestText, type Raw, type RawReply } from './raw.js'
import { startTestGateway, waitFor, type TestGateway, type TestGatewayOptions } from './with-gateway.js'

export interface AttackResult {
  readonly id: string
  readonly bystander: BystanderResult
  readonly ledger: Balance
  readonly canary: { readonly bytes: number; readonly found: readonly string[] }
}

declare module 'vitest' {
  interface TaskMeta {
    attack?: AttackResult
  }
}

/** What an attack has at hand, whatever kind of gateway it runs against. */
interface Attacking {
  readonly url: string
  /** A key that may everything, and one that may nothing but `healthy`. */
  readonly key: string
  readonly other: string
  readonly ledger: CallLedger
  readonly raw: Raw
  /** One request by hand, with a Host if it has none, on a connection of its own. */
  readonly request: (line: string, headers?: readonly string[], body?: string | Buffer) => Promise<RawReply>
  /** Calls a tool under a nonce, for the ledger. */
  readonly call: (name: string, args?: object, options?: CallOptions) => Promise<Reply>
  /** Another secret to look for. */
  readonly canary: (what: string) => string
  /** Searched for secrets like everything else that a client receives. */
  readonly hear: (text: string) => void
  /** A figure for people: never asserted. */
  readonly print: (what: string, figure: number | string) => void
  /** Sees the bystander off, before the attack ends its gateway. */
  readonly leave: () => Promise<void>
}

export interface Attack extends Attacking {
  readonly gateway: TestGateway
  /** Takes over other servers, keys or limits; what the bystander needs stays. `edit` changes what cannot be written. */
  readonly apply: (parts: Parts, edit?: (config: Config) => Config) => Applied
  /** Sees the bystander off, and ends the gateway. */
  readonly end: () => Promise<void>
}

export interface ProcessAttack extends Attacking {
  readonly gateway: GatewayProcess
  /** Its servers.yaml, and the variables in it. */
  readonly file: string
  readonly env: Readonly<Record<string, string>>
  /** Waits until the server is ready. */
  readonly until: (server: string) => Promise<void>
}

export interface CallOptions {
  readonly secret?: string
  readonly meta?: object
  /** Its client left, and expects no answer. */
  readonly gaveUp?: boolean
  /** The network may swallow what was sent. */
  readonly mayVanish?: boolean
}

/** What is in servers.yaml besides what every attack has. */
export interface Parts {
  /** Further servers; `healthy` is always there. */
  readonly servers?: Record<string, object>
  /** Further keys; `attacker` and `bystander` are always there. */
  readonly keys?: Record<string, object>
  /** Fields of `listen` besides the port. */
  readonly listen?: object
  /** Fields of `limits`; wrong keys are not counted unless they are set here. */
  readonly limits?: object
}

interface Readiness {
  /** Those of `servers` that need not be ready when the attack begins. */
  readonly sick?: readonly string[]
}

export type BeginOptions = Parts & Readiness & TestGatewayOptions
export type BeginProcessOptions = Parts & Readiness & Omit<GatewayProcessOptions, 'config'>

export interface AttackOptions extends Omit<Parts, 'servers'>, Readiness {
  readonly servers?: (made: Made) => Promise<Record<string, object>> | Record<string, object>
  readonly timeout?: number
}

/** What there is before there is a gateway. */
export interface Made {
  readonly ledger: CallLedger
  readonly canary: (what: string) => string
}

export interface Judgement {
  readonly timeout?: number
  /** Faults of the gateway that the attack causes on purpose. */
  readonly faults?: number
}

/** Nonces of all calls that a server of the fixtures got. */
export const noncesOf = (requests: readonly { message: any }[]): string[] =>
  requests.flatMap(({ message }) =>
    message?.method === 'tools/call' ? ((message.params?.arguments?.nonce as string | undefined) ?? []) : []
  )

/** The same of what a program of the fixtures wrote into its ledger: `echo`, `slow` and `count` note them. */
export const noncesNoted = (ledger: { lines(): readonly string[] }): string[] =>
  ledger.lines().flatMap(line => /^(?:started|called) (nonce-.*)$/.exec(line)?.[1] ?? [])

export function attack(
  id: string,
  title: string,
  body: (attack: Attack) => Promise<void>,
  { servers, timeout, ...parts }: AttackOptions = {}
): void {
  attackFrom(
    id,
    title,
    async (begin, made) => body(await begin({ ...parts, servers: (await servers?.(made)) ?? {} })),
    timeout === undefined ? {} : { timeout }
  )
}

/** An attack that starts its gateway itself, once. */
export function attackFrom(
  id: string,
  title: string,
  body: (begin: (options?: BeginOptions) => Promise<Attack>, made: Made) => Promise<void>,
  judgement: Judgement = {}
): void {
  run(id, title, judgement, company => {
    const begin = async ({ sick = [], env, ...options }: BeginOptions = {}): Promise<Attack> => {
      const written = (parts: Parts) => yamlOf(company.config(parts))
      const gateway = await startTestGateway(written(options), { ...options, env: { ...env, ...company.env } })
      onTestFinished(() => gateway.close())
      await company.join({
        url: gateway.url,
        log: () => gateway.log,
        said: () => gateway.log.map(line => JSON.stringify(line)).join('\n'),
        close: () => gateway.close()
      })
      const well = Object.keys(options.servers ?? {}).filter(server => !sick.includes(server))
      await Promise.all(well.map(server => gateway.until(server)))
      return {
        ...company.attacking(gateway.url),
        gateway,
        apply: (parts, edit) => gateway.apply(written(parts), edit),
        end: async () => {
          await company.leave()
          await gateway.close()
        }
      }
    }
    return body(begin, company)
  })
}

/** An attack on `switchboard serve` as a process, which it starts itself, once. */
export function attackProcess(
  id: string,
  title: string,
  body: (begin: (options?: BeginProcessOptions) => Promise<ProcessAttack>, made: Made) => Promise<void>,
  judgement: Judgement = {}
): void {
  run(id, title, judgement, company => {
    const begin = async ({
      servers = {},
      keys = {},
      listen = {},
      limits = {},
      sick = [],
      ...options
    }: BeginProcessOptions = {}): Promise<ProcessAttack> => {
      const folder = mkdtempSync(join(tmpdir(), 'switchboard-attack-'))
      onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
      const file = join(folder, 'servers.yaml')
      const { listen: _, ...config } = company.config({ servers, keys, limits })
      // The port is chosen on the command line.
      writeFileSync(file, yamlOf({ ...config, ...(Object.keys(listen).length > 0 && { listen }) }), { mode: 0o600 })
      const gateway = await startGatewayProcess({ ...options, config: file, env: { ...options.env, ...company.env } })
      onTestFinished(() => gateway.stop())
      const until = (server: string) =>
        waitFor(
          async () =>
            (await company.metrics(gateway.url)).includes(`switchboard_upstream_ready{server="${server}"} 1\n`),
          `${server} to be ready`
        )
      await company.join({
        url: gateway.url,
        log: () => gateway.stderr().split('\n').flatMap(parsed),
        said: () => gateway.stdout() + gateway.stderr(),
        close: () => gateway.stop()
      })
      await Promise.all(
        Object.keys(servers)
          .filter(server => !sick.includes(server))
          .map(until)
      )
      return { ...company.attacking(gateway.url), gateway, file, env: company.env, until }
    }
    return body(begin, company)
  })
}

type Company = Awaited<ReturnType<typeof openCompany>>

function run(
  id: string,
  title: string,
  { timeout, faults = 0 }: Judgement,
  body: (company: Company) => Promise<void>
): void {
  test(`${id}: ${title}`, timeout === undefined ? {} : { timeout }, async ({ task }: TestContext) => {
    const company = await openCompany(id)
    await body(company)
    const result = await company.part()
    task.meta.attack = result
    const { bystander, ledger, canary } = result
    console.log(
      `${id} beside it ${bystander.calls} calls, p99 ${rounded(bystander.p99Ms)} ms; ${ledger.calls} calls even; ${canary.bytes} bytes searched`
    )
    expectUnharmed(bystander)
    expect(ledger).toEqual({ calls: ledger.calls, lost: [], doubled: [], misdelivered: [], untrue: [] })
    expect(canary.bytes).toBeGreaterThan(0)
    expect(canary.found, 'secrets that were said').toEqual([])
    expect(company.faults(), 'faults of the gateway').toHaveLength(faults)
  })
}

/** A gateway that was started. */
interface Running {
  readonly url: string
  readonly log: () => readonly Record<string, unknown>[]
  /** All that it wrote, its log included. */
  readonly said: () => string
  readonly close: () => Promise<void>
}

/** The bystander, the ledger and the search for secrets around one gateway, whoever starts it. */
async function openCompany(id: string) {
  let running: Running | undefined
  let bystander: Bystander | undefined
  let besides: BystanderResult | undefined
  const canaries = openCanaries(() => running?.url)
  onTestFinished(() => canaries.close())
  const { hear, make: canary } = canaries
  const ledger = openCallLedger()
  const healthy = await startRawHttp()
  onTestFinished(() => healthy.close())
  ledger.watch(() => noncesOf(healthy.requests))
  const env = { KEY: canary('key'), OTHER: canary('other key'), TOKEN: canary('header of a server') }
  const get = async (path: string) => (await request(path, { headers: bearer(env.KEY) })).body.text()

  const leave = async () => {
    if (!running || !bystander) throw new Error('an attack starts its gateway')
    if (besides) return
    besides = await bystander.stop()
    for (const path of ['/healthz', '/readyz', '/metrics', '/tools']) await get(running.url + path)
  }
  return {
    env,
    ledger,
    canary,
    leave,
    faults: () => running?.log().filter(({ event }) => event === 'fault'),
    metrics: (url: string) => get(`${url}/metrics`),

    /** servers.yaml with what every attack has. */
    config: ({ servers, keys, listen, limits }: Parts): Record<string, object> => ({
      listen: { port: 0, ...listen },
      limits: { auth_failures: 1_000_000, ...limits },
      servers: { healthy: { url: healthy.url, headers: { Authorization: 'Bearer ${TOKEN}' } }, ...servers },
      keys: {
        attacker: { secret: '${KEY}', allow: '*' },
        bystander: { secret: '${OTHER}', allow: { healthy: '*' } },
        ...keys
      }
    }),

    /** Lets the bystander begin. */
    async join(gateway: Running) {
      if (running) throw new Error('an attack starts one gateway')
      running = gateway
      const { url } = gateway
      const ready = 'switchboard_upstream_ready{server="healthy"} 1\n'
      await waitFor(async () => (await get(`${url}/metrics`)).includes(ready), 'healthy to be ready')
      const argument = canary('argument')
      bystander = await startBystander({ url, secret: env.OTHER, tool: 'healthy__echo', canary: argument, ledger })
      onTestFinished(() => leave().catch(() => {}))
    },

    attacking(url: string): Attacking {
      const raw = rawTo(url, hear)
      return {
        url,
        key: env.KEY,
        other: env.OTHER,
        ledger,
        raw,
        canary,
        hear,
        leave,
        request: (line, headers, content) => raw(requestText(url, line, headers, content)),
        call: async (name, args = {}, { secret = env.KEY, meta, gaveUp = false, mayVanish = false } = {}) =>
          (await ledger.call(
            nonce =>
              modern(url, secret, 'tools/call', { name, arguments: { nonce, ...args }, ...(meta && { _meta: meta }) }),
            { gaveUp, mayVanish }
          )) as Reply,
        print: (what, figure) => console.log(`${id}, ${what}: ${typeof figure === 'number' ? rounded(figure) : figure}`)
      }
    },

    /** Ends it all. */
    async part(): Promise<AttackResult> {
      await leave()
      const balance = await ledger.balance()
      await running?.close()
      hear(running?.said() ?? '')
      const { found, heardBytes: bytes } = canaries
      return { id, bystander: besides as BystanderResult, ledger: balance, canary: { bytes, found } }
    }
  }
}

const yamlOf = (config: Record<string, object>): string =>
  Object.entries(config)
    .map(([name, value]) => `${name}: ${JSON.stringify(value)}\n`)
    .join('')

/** A line of the log, unless it is none. */
function parsed(line: string): Record<string, unknown>[] {
  if (!line.startsWith('{')) return []
  try {
    return [JSON.parse(line) as Record<string, unknown>]
  } catch {
    return []
  }
}

const rounded = (figure: number) => Number(figure.toFixed(figure < 10 ? 2 : 0))
