/**
 * The shape of servers.yaml, one sentence a field, and the frozen types the rest of the gateway sees. The schema knows
 * one field at a time; what fields mean together is `checks.ts`. Every rule carries its own "expected …" text, so that
 * a finding never has to quote the value it found.
 */
import { z } from 'zod'

const idPattern = /^[A-Za-z][A-Za-z0-9]*(?:[_-][A-Za-z0-9]+)*$/
const expectedId =
  'expected a name such as `postgres` or `my-db`: a letter, then letters and digits, single - or _ between them, at most 32 characters'
const expectedPattern = 'expected a pattern of 1 to 256 characters such as "read_*" or "!delete_*"'
const expectedHeader = 'expected the value of an HTTP header: no line breaks or control characters, Latin-1 only'
const expectedGrant = 'expected "*", a list of tool patterns, or a map with tools, resources and prompts'
const expectedAllow = 'expected "*" or a map from server names to what the key may use there'

const expectedIdle = 'expected a number of seconds from 0 (never) to 86400'
const expectedSecret = 'expected a secret as text, or a list of them'

const id = z.string(expectedId).max(32, expectedId).regex(idPattern, expectedId)
const text = z.string('expected text').min(1, 'expected text that is not empty')
const pattern = z
  .string(expectedPattern)
  .max(256, expectedPattern)
  .regex(/^!?[^!]/, expectedPattern)
const patterns = z.array(pattern, 'expected a list of patterns')
const texts = z.array(text, 'expected a list of texts')

function seconds(byDefault: number, sentence: string) {
  const expected = 'expected a number of seconds above 0 and at most 86400'
  const number = z.number(expected).gt(0, expected).max(86_400, expected)
  return number.default(byDefault).describe(`${sentence} In seconds; default ${byDefault}.`)
}

function count(range: { min: number; max: number }, byDefault: number, sentence: string) {
  const expected = `expected a whole number from ${range.min} to ${range.max}`
  const number = z.number(expected).int(expected).min(range.min, expected).max(range.max, expected)
  return number.default(byDefault).describe(`${sentence} Default ${byDefault}.`)
}

export const listenSchema = z.strictObject(
  {
    host: text
      .default('127.0.0.1')
      .describe('Address to listen on; default 127.0.0.1. Anything but loopback requires keys.'),
    port: count({ min: 0, max: 65_535 }, 8585, 'TCP port; 0 takes any free one.'),
    title: text
      .max(64, 'expected at most 64 characters')
      .default('switchboard')
      .describe(
        'Name that clients show for this gateway; default switchboard. Keep it short: VS Code makes it a prefix.'
      ),
    allowed_hosts: texts
      .default([])
      .describe('Host names a request may address; default [], which means any when keys guard a wider address.'),
    allowed_origins: texts
      .default([])
      .describe('Origins of web pages that may call, besides the same host; default [].')
  },
  'expected a map with host, port, title, allowed_hosts and allowed_origins'
)

export const serverSchema = z.strictObject(
  {
    transport: z
      .enum(['stdio', 'sse', 'http'], 'expected stdio, sse or http')
      .optional()
      .describe(
        'How to talk to the server; default: stdio for a command, Streamable HTTP falling back to SSE for a url.'
      ),
    command: text
      .optional()
      .describe('Program to start. Together with url: a process that is started first and then dialled.'),
    args: z
      .array(z.string('expected text in quotes'), 'expected a list of texts')
      .default([])
      .describe('Arguments of the command; default [].'),
    env: z
      .record(
        z.string().regex(/^[^=\0]+$/, 'expected the name of an environment variable: not empty and without ='),
        z.string('expected text in quotes'),
        'expected a map from variable names to texts'
      )
      .default({})
      .describe(
        "Environment of the command, added to a minimal one and never the gateway's own; default {}. `file:/path` reads the value from a file."
      ),
    cwd: text.optional().describe('Working directory of the command; default: the folder of this file.'),
    start: z
      .enum(['eager', 'lazy'], 'expected eager or lazy')
      .default('eager')
      .describe(
        'When the command is started: eager with the gateway, lazy by the first call once its tools are known; default eager.'
      ),
    idle_stop: z
      .number(expectedIdle)
      .min(0, expectedIdle)
      .max(86_400, expectedIdle)
      .default(0)
      .describe(
        'Time without calls after which the process is ended; its tools stay listed and the next call starts it. In seconds; default 0, which means never.'
      ),
    url: text.optional().describe('http or https address of the server.'),
    headers: z
      .record(
        z
          .string()
          .regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/, 'expected the name of an HTTP header, then a colon and a space'),
        z.string(expectedHeader).regex(/^[\t\x20-\x7e\x80-\xff]*$/, expectedHeader),
        'expected a map from header names to texts'
      )
      .default({})
      .describe('HTTP headers sent to the url; default {}. `file:/path` reads the value from a file.'),
    description: text.optional().describe('What the server is for, shown to people and clients; default none.'),
    aliases: z
      .array(id, 'expected a list of names')
      .default([])
      .describe('Other names accepted in /mcp/<alias>, ?servers= and x-mcp-servers, never in tool names; default [].'),
    namespace: z
      .boolean('expected true or false')
      .default(true)
      .describe('Whether tool names get the prefix <server>__; default true.'),
    instructions: z
      .boolean('expected true or false')
      .default(true)
      .describe("Whether the server's own instructions are passed on to clients, under its name; default true."),
    resource_claims: z
      .array(text, 'expected a list of URI prefixes such as "gh://"')
      .default([])
      .describe(
        'Beginnings of resource URIs that lead to this server although it lists nothing of the kind; default [].'
      ),
    timeout: seconds(300, 'Silence after which a call fails; progress resets it.'),
    max_timeout: seconds(1800, 'Longest a call may take, whatever its progress.'),
    connect_timeout: seconds(10, 'Longest a connection to the url may take to open.'),
    start_timeout: seconds(60, 'Longest a started process may take until it answers initialize.'),
    list_timeout: seconds(15, 'Longest the server may take to list its tools, resources or prompts.'),
    concurrency: count({ min: 1, max: 10_000 }, 20, 'Calls the server gets at the same time.'),
    queue: count(
      { min: 0, max: 100_000 },
      200,
      'Calls that may wait for their turn, half of them of one key at most; further ones are refused.'
    ),
    queue_timeout: seconds(10, 'Longest a call waits for its turn.'),
    era: z
      .enum(['legacy', 'modern', 'auto'], 'expected legacy, modern or auto')
      .default('auto')
      .describe('Protocol generation to speak: legacy (up to 2025-11-25), modern (2026-07-28) or auto; default auto.'),
    retry: z
      .enum(['never', 'annotated'], 'expected never or annotated')
      .default('never')
      .describe('Whether a failed call of a tool annotated as read-only or idempotent is sent again; default never.'),
    isolation: z
      .literal('shared', 'expected shared (key and session are not available yet)')
      .default('shared')
      .describe('Who shares one connection or process; default shared, the only one for now.')
  },
  'expected a map with at least command or url'
)

export const limitsSchema = z.strictObject(
  {
    body_kib: count({ min: 1, max: 65_536 }, 4096, 'Longest request body a client may send, in KiB.'),
    json_depth: count({ min: 8, max: 1000 }, 64, 'Deepest nesting of arrays and objects in a request body.'),
    header_fields: count({ min: 20, max: 1000 }, 100, 'Header fields a request may have.'),
    header_kib: count({ min: 4, max: 256 }, 16, 'Size of all header fields of a request, in KiB.'),
    header_timeout: seconds(10, 'Longest a client may take to send its header fields.'),
    request_timeout: seconds(30, 'Longest a client may take to send a request, body included.'),
    connections: count(
      { min: 1, max: 1_000_000 },
      2000,
      'Connections of clients at the same time; further ones are refused.'
    ),
    auth_failures: count(
      { min: 1, max: 1_000_000 },
      20,
      'Wrong keys one address (IPv6: one /64) may send a minute until further ones are answered with 429; a key that works always passes.'
    ),
    batch_messages: count({ min: 1, max: 1000 }, 20, 'Messages in one batch of a 2025-03-26 client.'),
    calls_per_key: count({ min: 1, max: 100_000 }, 100, 'Calls one key may have running or waiting at the same time.'),
    live_state_per_key: count(
      { min: 1, max: 100_000 },
      100,
      'Streams and subscriptions one key may hold open; a further one ends the oldest.'
    ),
    stream_kib: count(
      { min: 16, max: 65_536 },
      1024,
      'What may wait behind a client that does not read its stream, in KiB; further progress and log messages are dropped, a change it must hear of ends the stream.'
    ),
    stall_timeout: seconds(30, 'Time after which a client that takes nothing of what waits for it is cut off.'),
    replay_kib: count(
      { min: 0, max: 1_048_576 },
      32_768,
      'What all streams together keep for 2025 clients that come back with Last-Event-ID, in KiB.'
    ),
    message_kib: count(
      { min: 64, max: 524_288 },
      32_768,
      'Longest message a server may send, in KiB; its call fails and a stdio server is started again.'
    ),
    stdin_kib: count(
      { min: 64, max: 524_288 },
      8192,
      'What may wait for a server that does not read its stdin, in KiB; further calls fail unsent.'
    ),
    waiting_kib: count(
      { min: 64, max: 4_194_304 },
      65_536,
      'What calls may hold while they wait for one server, for their turn or its start, half of it of one key at most, in KiB; further ones are refused.'
    ),
    list_items: count(
      { min: 1, max: 1_000_000 },
      10_000,
      'Tools, resources, templates or prompts taken of one server; further ones are left out.'
    ),
    list_pages: count({ min: 1, max: 10_000 }, 100, 'Pages read of one list of a server.'),
    notifications_per_second: count(
      { min: 1, max: 100_000 },
      200,
      'Progress and log messages of one call passed on within a second; further ones of that second are dropped.'
    ),
    drain_timeout: seconds(8, 'Longest a shutdown waits for calls that are running.')
  },
  'expected a map with limits'
)

export const grantSchema = z.strictObject(
  {
    tools: patterns.optional().describe('Patterns of tool names the key sees and may call; default none.'),
    resources: patterns.optional().describe('Patterns of resource URIs the key sees and may read; default none.'),
    prompts: patterns.optional().describe('Patterns of prompt names the key sees and may get; default none.')
  },
  expectedGrant
)

export const keySchema = z.strictObject(
  {
    secret: z
      .union(
        [z.string(expectedSecret), z.array(z.string(expectedSecret), expectedSecret).min(1, expectedSecret)],
        expectedSecret
      )
      .describe(
        'sha256:<64 hex digits>, generated, ${VAR}, os.environ/VAR or file:/path; a list while a key is being rotated. Never clear text.'
      ),
    expires: z.iso
      .date('expected a date such as 2027-02-19')
      .optional()
      .describe('Last day on which the key works, until its end in UTC; default: it never expires.'),
    allow: z
      .union(
        [
          z.literal('*'),
          z.record(z.string(), z.union([z.literal('*'), patterns, grantSchema], expectedGrant), expectedAllow)
        ],
        expectedAllow
      )
      .describe(
        'What the key sees and may use: "*" for everything, or per server "*", a list of tool patterns, or a map.'
      )
  },
  'expected a map with secret and allow'
)

export const configSchema = z.strictObject(
  {
    listen: listenSchema.prefault({}).describe('Where the gateway listens; default 127.0.0.1, port 8585.'),
    state: text
      .optional()
      .describe(
        'Folder for what must outlive a restart; default .switchboard beside this file, to which it is relative.'
      ),
    session_secret: z
      .string('expected text')
      .optional()
      .describe(
        'Secret that seals session ids, so that they survive a fresh container; default: one kept in the state folder.'
      ),
    servers: z
      .record(id, serverSchema, 'expected a map from server names to servers')
      .describe('The MCP servers behind the gateway, by name.'),
    keys: z
      .record(id, keySchema, 'expected a map from key names to keys')
      .default({})
      .describe('The API keys, by name; default: one generated key `admin` that may use everything, on loopback only.'),
    limits: limitsSchema.prefault({}).describe('What nobody may exceed; the defaults suit a small team.')
  },
  'expected a map with servers, and maybe keys and listen'
)

/** servers.yaml after substitution and with defaults, still under its YAML names. */
export type ConfigFile = z.output<typeof configSchema>

/** One configuration, frozen. Seconds stay seconds. */
export interface Config {
  /** Absolute path of servers.yaml. */
  readonly file: string
  /** Its folder: what relative paths in it are relative to. */
  readonly dir: string
  readonly listen: Listen
  /** Absolute. */
  readonly state?: string
  readonly sessionSecret?: string
  /** In file order, without the broken ones. */
  readonly servers: readonly ServerConfig[]
  readonly keys: readonly KeyConfig[]
  readonly limits: LimitsConfig
  /** Servers and keys left out because a variable or file of theirs is missing. */
  readonly broken: readonly Broken[]
}

export interface Listen {
  readonly host: string
  readonly port: number
  readonly title: string
  readonly allowedHosts: readonly string[]
  readonly allowedOrigins: readonly string[]
}

/** What nobody may exceed, each as its field in {@link limitsSchema} says; bytes are bytes here, times are seconds. */
export interface LimitsConfig {
  readonly bodyBytes: number
  readonly jsonDepth: number
  readonly headerFields: number
  readonly headerBytes: number
  readonly headerTimeout: number
  readonly requestTimeout: number
  readonly connections: number
  readonly authFailures: number
  readonly batchMessages: number
  readonly callsPerKey: number
  readonly liveStatePerKey: number
  readonly streamBytes: number
  readonly stallTimeout: number
  readonly replayBytes: number
  readonly messageBytes: number
  readonly stdinBytes: number
  readonly waitingBytes: number
  readonly listItems: number
  readonly listPages: number
  readonly notificationsPerSecond: number
  readonly drainTimeout: number
}

export interface ServerConfig {
  readonly id: string
  /** `auto`: a url without a transport, which is Streamable HTTP first and then SSE. */
  readonly transport: 'stdio' | 'sse' | 'http' | 'auto'
  readonly command?: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
  /** Absolute. */
  readonly cwd: string
  readonly start: 'eager' | 'lazy'
  /** 0: never. */
  readonly idleStop: number
  readonly url?: string
  readonly headers: Readonly<Record<string, string>>
  readonly description?: string
  readonly aliases: readonly string[]
  readonly namespace: boolean
  readonly instructions: boolean
  readonly resourceClaims: readonly string[]
  readonly timeout: number
  readonly maxTimeout: number
  readonly connectTimeout: number
  readonly startTimeout: number
  readonly listTimeout: number
  readonly concurrency: number
  readonly queue: number
  readonly queueTimeout: number
  readonly era: 'legacy' | 'modern' | 'auto'
  readonly retry: 'never' | 'annotated'
  readonly isolation: 'shared'
}

export interface KeyConfig {
  readonly id: string
  readonly secrets: readonly KeySecret[]
  /** Epoch milliseconds: the end of its last day in UTC. */
  readonly expires?: number
  readonly allow: Allow
}

/** Secrets from the environment or a file are hashed at load and dropped. */
export type KeySecret = { readonly kind: 'digest'; readonly sha256: string } | { readonly kind: 'generated' }

export type Allow = '*' | ReadonlyMap<string, Grant>

/** What a key may use of one server: everything, or what the patterns of each kind match. */
export type Grant =
  | '*'
  | { readonly tools: readonly string[]; readonly resources: readonly string[]; readonly prompts: readonly string[] }

export interface Broken {
  readonly kind: 'server' | 'key'
  readonly id: string
  readonly reason: string
}
