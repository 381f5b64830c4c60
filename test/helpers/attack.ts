/**
 * `attack('T3', 'what it is', body)` is a test of the security reference, which runs its body against a gateway of its
 * own while three things go on: a bystander whose calls must not suffer, a ledger of calls that must come out even, and a
 * search for secrets in everything the gateway says. What they found stands in the meta data of the test.
 */
import { request, type Dispatcher } from 'undici'
import { expect, onTestFinished, test, type TestContext } from 'vitest'
import { start as startRawHttp } from '../fixtures/raw-http.mjs'
import { expectUnharmed, startBystander, type BystanderResult } from './bystander.js'
import { openCanaries } from './canary.js'
import { bearer, modern, type Reply } from './http.js'
import { openCallLedger, type Balance, type CallLedger } from './ledger.js'
import { rawTo, requestText, type Raw, type RawReply } from './raw.js'
import { startTestGateway, type TestGateway } from './with-gateway.js'

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

export interface Attack {
  readonly gateway: TestGateway
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
}

export interface CallOptions {
  readonly secret?: string
  readonly meta?: object
}

export interface AttackOptions {
  /** Further servers, as in servers.yaml; `healthy` is always there. */
  readonly servers?: (made: {
    readonly ledger: CallLedger
    readonly canary: (what: string) => string
  }) => Promise<Record<string, object>> | Record<string, object>
  /** Fields of `listen` besides the port. */
  readonly listen?: object
  /** Fields of `limits`; wrong keys are not counted unless they are set here. */
  readonly limits?: object
  /** Those of `servers` that need not be ready when the body begins. */
  readonly sick?: readonly string[]
  readonly timeout?: number
}

/** Nonces of all calls that a server of the fixtures got. */
export const noncesOf = (requests: readonly { message: any }[]): string[] =>
  requests.flatMap(({ message }) =>
    message?.method === 'tools/call' ? ((message.params?.arguments?.nonce as string | undefined) ?? []) : []
  )

export function attack(
  id: string,
  title: string,
  body: (attack: Attack) => Promise<void>,
  options: AttackOptions = {}
): void {
  test(`${id}: ${title}`, options.timeout === undefined ? {} : { timeout: options.timeout }, context =>
    run(id, body, options, context)
  )
}

async function run(
  id: string,
  body: (attack: Attack) => Promise<void>,
  { servers, listen = {}, limits = {}, sick = [] }: AttackOptions,
  { task }: TestContext
): Promise<void> {
  let gateway: TestGateway | undefined
  const canaries = openCanaries(() => gateway?.url)
  onTestFinished(() => canaries.close())
  const canary = (what: string) => canaries.make(what)
  const ledger = openCallLedger()
  const healthy = await startRawHttp()
  onTestFinished(() => healthy.close())
  ledger.watch(() => noncesOf(healthy.requests))

  const env = { KEY: canary('key'), OTHER: canary('other key'), TOKEN: canary('header of a server') }
  const config = {
    listen: { port: 0, ...listen },
    limits: { auth_failures: 1_000_000, ...limits },
    servers: {
      healthy: { url: healthy.url, headers: { Authorization: 'Bearer ${TOKEN}' } },
      ...(await servers?.({ ledger, canary }))
    },
    keys: {
      attacker: { secret: '${KEY}', allow: '*' },
      bystander: { secret: '${OTHER}', allow: { healthy: '*' } }
    }
  }
  const yaml = Object.entries(config).map(([name, value]) => `${name}: ${JSON.stringify(value)}\n`)
  const running = (gateway = await startTestGateway(yaml.join(''), { env }))
  let closed = false
  const close = async () => {
    if (!closed) await running.close()
    closed = true
  }
  onTestFinished(close)
  const { url } = running
  const well = Object.keys(config.servers).filter(server => !sick.includes(server))
  await Promise.all(well.map(server => running.until(server)))

  const raw = rawTo(url, canaries.hear)
  const bystander = await startBystander({
    url,
    secret: env.OTHER,
    tool: 'healthy__echo',
    canary: canary('argument'),
    ledger
  })
  await body({
    gateway: running,
    url,
    key: env.KEY,
    other: env.OTHER,
    ledger,
    raw,
    canary,
    hear: canaries.hear,
    request: (line, headers, content) => raw(requestText(url, line, headers, content)),
    call: async (name, args = {}, { secret = env.KEY, meta } = {}) =>
      (await ledger.call(nonce =>
        modern(url, secret, 'tools/call', { name, arguments: { nonce, ...args }, ...(meta && { _meta: meta }) })
      )) as Reply,
    print: (what, figure) => console.log(`${id}, ${what}: ${typeof figure === 'number' ? rounded(figure) : figure}`)
  })

  const besides = await bystander.stop()
  const balance = await ledger.balance()
  for (const path of ['/healthz', '/readyz', '/metrics', '/tools'])
    await fetched(await request(url + path, { headers: bearer(env.KEY) }))
  await close()
  for (const line of running.log) canaries.hear(JSON.stringify(line))
  const { found, heardBytes: bytes } = canaries
  task.meta.attack = { id, bystander: besides, ledger: balance, canary: { bytes, found } }
  console.log(
    `${id} beside it ${besides.calls} calls, p99 ${rounded(besides.p99Ms)} ms; ${balance.calls} calls even; ${bytes} bytes searched`
  )
  expectUnharmed(besides)
  expect(balance).toEqual({ calls: balance.calls, lost: [], doubled: [], misdelivered: [], untrue: [] })
  expect(bytes).toBeGreaterThan(0)
  expect(found, 'secrets that were said').toEqual([])
  expect(running.logged('fault'), 'faults of the gateway').toEqual([])
}

const fetched = ({ body }: Dispatcher.ResponseData) => body.dump()
const rounded = (figure: number) => Number(figure.toFixed(figure < 10 ? 2 : 0))
