/**
 * Every behaviour of tools, prompts and resources, seen by five real clients through the gateway, at five real servers. Where an SDK strips or
 * refuses what the protocol allows, the messages are looked at as they came over the wire.
 */
import { randomUUID } from 'node:crypto'
import * as v2 from '@modelcontextprotocol/client'
import { Client as V1Client } from '@modelcontextprotocol/sdk/client/index.js'
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js'
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { expect } from 'vitest'
import {
  logLevels,
  prompts,
  resources,
  resourceTemplates,
  unknownMembersPrompt,
  unknownMembersPromptResult,
  unknownMembersReadResult,
  unknownMembersResource
} from './fixtures/offer.mjs'
import {
  definitions,
  echoExtra,
  structuredOnlyResult,
  unknownMembersResult,
  unknownMembersTool
} from './fixtures/tools.mjs'
import { bearer } from './helpers/http.js'
import { describeMatrix, granted, type Cell, type Era, type ServerKind } from './helpers/matrix.js'
import { secrets, waitFor } from './helpers/with-gateway.js'

const text = (result: any) => result.content[0].text
const names = (tools: readonly any[]) => tools.map(({ name }) => name as string)

describeMatrix('lists every tool of the server under its public name', async ({ connect }) => {
  const client = await connect()
  const tools = await client.listTools()
  const described = new Map(tools.map(tool => [tool.name, tool]))
  for (const { name, description } of definitions) expect(described.get(`up__${name}`)).toMatchObject({ description })
  expect(tools.length).toBe(new Set(names(tools)).size)
})

describeMatrix('calls a tool and gets its answer', async ({ connect }) => {
  const client = await connect()
  await client.listTools()
  expect(text(await client.callTool('up__echo', { message: 'grüße, 世界 🌍' }))).toBe('grüße, 世界 🌍')
  const { params } = JSON.parse(text(await client.callTool('up__args', { a: 1, b: [true, null] })))
  expect(params).toMatchObject({ name: 'args', arguments: { a: 1, b: [true, null] } })
})

describeMatrix('hears three progress events before the result, under its own token', async ({ connect }) => {
  const client = await connect()
  // A client of the v1 line drops events that it reads in one breath with the result: the wire is what counts.
  const result = await client.callTool('up__progress', { gap: 30 }, { onprogress: () => {} })
  expect(text(result)).toBe('done after 3 steps')
  const call = client.sent.find(({ method }) => method === 'tools/call')
  const { progressToken } = call.params._meta
  const since = client.received.filter(({ method, id }) => method === 'notifications/progress' || id === call.id)
  expect(since.map(({ method }) => method ?? 'the result')).toEqual([
    ...Array.from({ length: 3 }, () => 'notifications/progress'),
    'the result'
  ])
  expect(since.slice(0, 3).map(({ params }) => params)).toEqual(
    [1, 2, 3].map(step => ({
      progressToken,
      progress: step,
      total: 3,
      message: `step ${step} of 3`,
      'x-vendor': { step }
    }))
  )
})

describeMatrix("cancels a call, and the server's tool sees it (§6.43, §6.51)", async ({ connect, server }) => {
  const client = await connect()
  const nonce = randomUUID()
  const abort = new AbortController()
  const call = client.callTool('up__slow', { ms: 20_000, nonce }, { signal: abort.signal })
  const refused = expect(call).rejects.toThrow()
  await waitFor(() => server.ledger.count(`started ${nonce}`) === 1, 'the call to run', 5000)
  abort.abort()
  await refused
  await waitFor(() => server.ledger.count(`cancelled ${nonce}`) === 1, 'the cancellation inside the tool', 1000)
  expect(text(await client.callTool('up__echo', { message: 'still there' }))).toBe('still there')
})

describeMatrix(
  'is told when a tool comes or goes, and then lists what is there',
  async ({ connect }) => {
    const client = await connect()
    const before = names(await client.listTools())
    const added = 'late_arrival'
    expect(before).not.toContain(`up__${added}`)

    await client.callTool('up__add_tool', { name: added })
    await waitFor(() => client.told() === 1, 'word of the new tool', 8000)
    expect(names(await client.listTools()).sort()).toEqual([...before, `up__${added}`].sort())
    expect(text(await client.callTool(`up__${added}`))).toBe('added at runtime')

    await client.callTool('up__remove_tool', { name: added })
    await waitFor(() => client.told() === 2, 'word of the tool that went', 8000)
    expect(names(await client.listTools()).sort()).toEqual([...before].sort())
    expect(client.told()).toBe(2)
  },
  { alone: true }
)

describeMatrix('gets a failure of the tool as its result, and an error as an error', async ({ connect }) => {
  const client = await connect()
  const failed = await client.callTool('up__fail', { reason: 'no disk' })
  expect(failed).toMatchObject({ isError: true, content: [{ type: 'text', text: 'failed: no disk' }] })
  expect(failed._meta?.['switchboard/error']).toBeUndefined()
  const { error } = await client.answerTo('up__throw')
  expect(error).toEqual({
    code: -32011,
    message: 'thrown on purpose',
    data: { reason: 'fixture', nested: { list: [1, null, 'drei'] } }
  })
})

describeMatrix('is told that a tool is unknown, in words a model understands', async ({ connect }) => {
  const client = await connect()
  const { error } = await client.answerTo('up__no_such_tool')
  expect(error).toEqual({ code: -32602, message: 'Unknown tool: up__no_such_tool' })
  await expect(client.callTool('up__no_such_tool')).rejects.toThrow('Unknown tool: up__no_such_tool')
})

describeMatrix(
  'with another key neither sees nor reaches what is denied: to it the tool does not exist (§6.23, §6.24)',
  async ({ connect, server }) => {
    const client = await connect(secrets.DEVELOPER)
    expect(names(await client.listTools()).sort()).toEqual(granted.map(name => `up__${name}`).sort())
    expect(text(await client.callTool('up__echo', { message: 'granted' }))).toBe('granted')
    const nonce = randomUUID()
    const denied = await client.answerTo('up__count', { nonce })
    const unknown = await client.answerTo('up__cuont', { nonce })
    expect(JSON.stringify({ ...denied, id: 0 })).toBe(
      JSON.stringify({ ...unknown, id: 0 }).replace('up__cuont', 'up__count')
    )
    expect(denied.error).toEqual({ code: -32602, message: 'Unknown tool: up__count' })
    expect(server.ledger.count(`called ${nonce}`)).toBe(0)
  }
)

describeMatrix(
  'gets members and content types that nobody knows, at every depth, unaltered (§6.1, §6.2)',
  async ({ connect }) => {
    const client = await connect()
    await client.listTools()
    const { result } = await client.answerTo('up__unknown_members')
    // Five depths: the result, its _meta, a content item, that item's annotations and _meta, and structuredContent.
    const { content, structuredContent, isError, _meta, 'x-vendor': vendor } = unknownMembersResult
    expect(result).toMatchObject({ content, structuredContent, isError, 'x-vendor': vendor })
    expect(result.content).toEqual(content)
    expect(result.structuredContent).toEqual(structuredContent)
    expect(result._meta).toMatchObject(_meta)

    const listed = client.received
      .flatMap(message => message.result?.tools ?? [])
      .find(({ name }) => name === 'up__unknown_members')
    expect(listed).toEqual({ ...unknownMembersTool, name: 'up__unknown_members' })
  }
)

describeMatrix(
  'sends members that nobody knows, and the server gets them, at every depth (§6.1, §6.4, §6.6, §6.7)',
  async ({ connect, server }) => {
    const client = await connect()
    const trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    const args = { deep: { 'x-vendor': [1, { two: null }] }, 'x-vendor': false }
    const _meta = {
      traceparent: trace,
      tracestate: 'a=1',
      baggage: 'k=v',
      'vendor.example/call': { deep: [null, 1.5] }
    }
    const { result } = await client.answerTo('up__args', args, { 'x-vendor': { at: 'params' }, _meta })
    const { params } = JSON.parse(text(result))
    expect(params).toMatchObject({ name: 'args', arguments: args, 'x-vendor': { at: 'params' }, _meta })
    expect(params.arguments).toEqual(args)
    const envelope = Object.keys(params._meta as object).filter(key => key.startsWith('io.modelcontextprotocol/'))
    if (server.era === 'legacy') expect(envelope).toEqual([])
    else
      expect(params._meta).toMatchObject({
        'io.modelcontextprotocol/protocolVersion': '2026-07-28',
        'io.modelcontextprotocol/clientCapabilities': expect.any(Object)
      })
  }
)

describeMatrix('gets structured content, and text where the server sent none (§6.3, §6.8)', async ({ connect }) => {
  const client = await connect()
  await client.listTools()
  expect(await client.callTool('up__add', { a: 2, b: 40 })).toMatchObject({
    content: [{ type: 'text', text: '{"sum":42}' }],
    structuredContent: { sum: 42 }
  })
  const { structuredContent } = structuredOnlyResult
  const only = await client.callTool('up__structured_only')
  expect(only.structuredContent).toEqual(structuredContent)
  expect(only.content).toEqual([{ type: 'text', text: JSON.stringify(structuredContent) }])

  const { result } = await client.answerTo('up__echo', { message: 'plain' })
  expect(result).toMatchObject({ ...echoExtra, content: [{ type: 'text', text: 'plain', ...echoExtra }] })
  if (client.era === 'modern') expect(result.resultType).toBe('complete')
  else for (const member of ['resultType', 'ttlMs', 'cacheScope']) expect(result).not.toHaveProperty(member)
})

describeMatrix('gets a result of 1 MB whole', async ({ connect }) => {
  const client = await connect()
  const bytes = 1024 * 1024
  const result = await client.callTool('up__big', { bytes })
  expect(result.content).toHaveLength(1)
  expect(text(result) === '0123456789abcdef'.repeat(bytes / 16)).toBe(true)
})

/** What both SDKs call alike, besides tools. */
interface SdkClient {
  connect(transport: any): Promise<void>
  listPrompts(): Promise<{ prompts: any[] }>
  listResources(): Promise<{ resources: any[] }>
  listResourceTemplates(): Promise<{ resourceTemplates: any[] }>
  getPrompt(params: any): Promise<any>
  readResource(params: any): Promise<any>
  complete(params: any): Promise<any>
  subscribeResource(params: any): Promise<unknown>
  unsubscribeResource(params: any): Promise<unknown>
  setLoggingLevel(level: any): Promise<unknown>
  close(): Promise<void>
}

/** A real SDK client that is asked for all but tools. */
interface Reader {
  readonly era: Era
  readonly client: SdkClient
  /** Every message the gateway sent it, before the client looked at it. */
  readonly received: any[]
  /** The gateway's whole message in answer to what is done, whatever the client thinks of it. */
  readonly answerTo: (method: string, doing: () => Promise<unknown>) => Promise<any>
  /** Has a resource watched, in the way of the client's era. @returns the end of it. */
  readonly watch: (uri: string) => Promise<() => Promise<unknown>>
}

/** Does something with a client of this cell's kind, and closes it. */
async function asReader({ clientKind, gateway }: Cell, use: (reader: Reader) => Promise<void>): Promise<void> {
  const who = { name: clientKind.replaceAll(' ', '-'), version: '1.0.0' }
  const requestInit = { headers: bearer(secrets.ADMIN) }
  const silent = { autoRefresh: false, debounceMs: 0, onChanged: () => {} }
  const listChanged = { prompts: silent, resources: silent }
  const isV1 = clientKind.startsWith('v1')
  const mode = clientKind === 'v2 auto' ? 'auto' : clientKind === 'v2 pinned' ? { pin: '2026-07-28' } : 'legacy'
  const real = isV1
    ? new V1Client(who, { listChanged })
    : new v2.Client(who, { listChanged, versionNegotiation: { mode } as never })
  const client = real as unknown as SdkClient
  const at = new URL(clientKind === 'v1 over SSE' ? '/sse' : '/mcp', gateway.url)
  const transport: any = !isV1
    ? new v2.StreamableHTTPClientTransport(at, { requestInit })
    : clientKind === 'v1 over SSE'
      ? new SSEClientTransport(at, { requestInit })
      : new StreamableHTTPClientTransport(at, { requestInit })
  const received: any[] = []
  const sent: any[] = []
  transport.onmessage = (message: unknown) => void received.push(message)
  const send = transport.send.bind(transport)
  transport.send = (...args: unknown[]) => {
    sent.push(args[0])
    return send(...args)
  }
  const era = clientKind === 'v2 auto' || clientKind === 'v2 pinned' ? 'modern' : 'legacy'
  await client.connect(transport)
  try {
    await use({
      era,
      client,
      received,
      async answerTo(method, doing) {
        const before = sent.length
        await doing().catch(() => {})
        const { id } = sent.slice(before).find(message => message.method === method)
        return received.find(message => message.id === id && message.method === undefined)
      },
      async watch(uri) {
        if (era === 'modern') {
          const subscription = await (real as v2.Client).listen({ resourceSubscriptions: [uri] })
          expect(subscription.honoredFilter).toEqual({ resourceSubscriptions: [uri] })
          return () => subscription.close()
        }
        await client.subscribeResource({ uri })
        return () => client.unsubscribeResource({ uri })
      }
    })
  } finally {
    await client.close()
  }
}

const gotText = (result: any) => result.messages[0].content.text as string
const readText = (result: any) => result.contents[0].text as string

describeMatrix('lists prompts, resources and templates as the server does (§6.1)', cell =>
  asReader(cell, async ({ era, client, received }) => {
    const listed = await client.listPrompts()
    expect(names(listed.prompts)).toEqual(expect.arrayContaining(prompts.map(({ name }) => `up__${name}`)))
    expect((await client.listResources()).resources.map(({ uri }) => uri as string)).toEqual(
      expect.arrayContaining(resources.map(({ uri }) => uri as string))
    )
    expect(await client.listResourceTemplates()).toMatchObject({
      resourceTemplates: [{ uriTemplate: resourceTemplates[0].uriTemplate }]
    })
    const results = received.flatMap(({ result }) => result ?? [])
    const items = results.flatMap(result => result.prompts ?? result.resources ?? result.resourceTemplates ?? [])
    expect(items.find(({ name }) => name === 'up__unknown_members')).toEqual({
      ...unknownMembersPrompt,
      name: 'up__unknown_members'
    })
    expect(items.find(({ uri }) => uri === unknownMembersResource.uri)).toEqual(unknownMembersResource)
    expect(items.find(({ uriTemplate }) => uriTemplate !== undefined)).toEqual(resourceTemplates[0])
    for (const result of results.filter(result => result.prompts ?? result.resources ?? result.resourceTemplates)) {
      if (era === 'modern')
        expect(result).toMatchObject({ resultType: 'complete', ttlMs: expect.any(Number), cacheScope: 'private' })
      else for (const member of ['resultType', 'ttlMs', 'cacheScope']) expect(result).not.toHaveProperty(member)
    }
  })
)

describeMatrix('gets a prompt, reads a resource and what a template stands for (§6.8)', cell =>
  asReader(cell, async ({ era, client, answerTo }) => {
    const got = await client.getPrompt({ name: 'up__greet', arguments: { person: 'Zoë 🌍', style: 'formal' } })
    expect(gotText(got)).toBe('Greet Zoë 🌍 in formal style.')
    expect(readText(await client.readResource({ uri: 'fixture://text' }))).toBe('fixture://text')
    const uri = 'fixture://rows/users/7'
    const { result } = await answerTo('resources/read', () => client.readResource({ uri }))
    expect(result.contents).toEqual([{ uri, mimeType: 'text/plain', text: uri }])
    if (era === 'modern')
      expect(result).toMatchObject({ resultType: 'complete', ttlMs: expect.any(Number), cacheScope: 'private' })
    else for (const member of ['resultType', 'ttlMs', 'cacheScope']) expect(result).not.toHaveProperty(member)

    const prompt = await answerTo('prompts/get', () => client.getPrompt({ name: 'up__no_such_prompt' }))
    expect(prompt.error).toEqual({ code: -32602, message: 'Unknown prompt: up__no_such_prompt' })
    // The server's own word for it: 2026-07-28 has no code of its own.
    const missing = await answerTo('resources/read', () => client.readResource({ uri: 'fixture://missing' }))
    expect(missing.error.code).toBe(era === 'modern' || cell.server.era === 'modern' ? -32602 : -32002)
  })
)

describeMatrix('completes an argument of a prompt and of a template (§6.19)', cell =>
  asReader(cell, async ({ client }) => {
    const { uriTemplate } = resourceTemplates[0]
    const refs = [
      [
        { type: 'ref/prompt', name: 'up__greet' },
        { type: 'ref/prompt', name: 'greet' }
      ],
      [
        { type: 'ref/resource', uri: uriTemplate },
        { type: 'ref/resource', uri: uriTemplate }
      ]
    ]
    for (const [ref, wire] of refs) {
      const argument = { name: 'person', value: 'Zo' }
      const { completion } = await client.complete({ ref, argument, context: { arguments: { style: 'formal' } } })
      expect(completion).toMatchObject({ total: 1, hasMore: false })
      const { params } = JSON.parse(completion.values[0] as string)
      expect(params).toMatchObject({ ref: wire, argument, context: { arguments: { style: 'formal' } } })
    }
  })
)

describeMatrix('gets and sends members nobody knows in prompts, resources and completion (§6.1, §6.4, §6.6)', cell =>
  asReader(cell, async ({ client, answerTo }) => {
    const got = await answerTo('prompts/get', () => client.getPrompt({ name: 'up__unknown_members' }))
    expect(got.result).toMatchObject(unknownMembersPromptResult)
    expect(got.result.messages).toEqual(unknownMembersPromptResult.messages)
    const { uri } = unknownMembersResource
    const read = await answerTo('resources/read', () => client.readResource({ uri }))
    expect(read.result).toMatchObject(unknownMembersReadResult)
    expect(read.result.contents).toEqual(unknownMembersReadResult.contents)

    const more = { 'x-vendor': { at: 'params', deep: [1, { two: null }] } }
    const _meta = { traceparent: '00-0af7-b7ad-01', 'vendor.example/call': { deep: [null, 1.5] } }
    const ref = { type: 'ref/prompt', name: 'up__greet', 'x-vendor': { at: 'ref' } }
    const argument = { name: 'person', value: '', 'x-vendor': { at: 'argument' } }
    const asked = [
      await answerTo('prompts/get', () =>
        client.getPrompt({ name: 'up__args', arguments: { a: 'b' }, ...more, _meta })
      ),
      await answerTo('resources/read', () => client.readResource({ uri: 'fixture://args', ...more, _meta })),
      await answerTo('completion/complete', () => client.complete({ ref, argument, ...more, _meta }))
    ].map(({ result }) => JSON.parse(gotOf(result)).params)
    expect(asked[0]).toMatchObject({ name: 'args', arguments: { a: 'b' }, ...more, _meta })
    expect(asked[1]).toMatchObject({ uri: 'fixture://args', ...more, _meta })
    expect(asked[2]).toMatchObject({ ref: { ...ref, name: 'greet' }, argument, ...more, _meta })
    for (const params of asked) {
      const envelope = Object.keys(params._meta as object).filter(key => key.startsWith('io.modelcontextprotocol/'))
      expect(envelope.length > 0).toBe(cell.server.era === 'modern')
    }
  })
)

const gotOf = ({ messages, contents, completion }: any): string =>
  completion ? completion.values[0] : messages ? gotText({ messages }) : readText({ contents })

const attributable = (server: ServerKind) =>
  server.startsWith('HTTP') ? undefined : 'what it logs belongs to no call as far as the wire tells'

describeMatrix(
  'hears what a call logs, from the level on that it asked for (§6.46)',
  cell =>
    asReader(cell, async ({ era, client, received }) => {
      const logged = async (level?: string) => {
        const before = received.length
        const _meta = { 'io.modelcontextprotocol/logLevel': level }
        await client.getPrompt({ name: 'up__log', ...(era === 'modern' && level !== undefined && { _meta }) })
        const messages = received.slice(before).filter(({ method }) => method === 'notifications/message')
        for (const { params } of messages)
          expect(params).toMatchObject({ logger: 'fixture', data: { depth: params.level } })
        return messages.map(({ params }) => params.level as string)
      }
      const from = (level: string) => logLevels.slice(logLevels.indexOf(level))
      expect(await logged()).toEqual(era === 'modern' ? [] : from('info'))
      for (const level of ['error', 'debug']) {
        if (era === 'legacy') await client.setLoggingLevel(level)
        expect(await logged(level)).toEqual(from(level))
      }
    }),
  { skip: (_, server) => attributable(server) }
)

describeMatrix('watches a resource and is told of its updates until it no longer wants to', cell =>
  asReader(cell, async ({ client, received, watch }) => {
    const uri = `fixture://rows/watched/${randomUUID()}`
    const updates = () =>
      received.filter(({ method, params }) => method === 'notifications/resources/updated' && params.uri === uri).length
    const touch = () => client.getPrompt({ name: 'up__touch', arguments: { uri } })
    const end = await watch(uri)
    if (cell.server.era === 'legacy') expect(cell.server.ledger.count(`subscribe ${uri}`)).toBe(1)
    // A client of 2025 may still be about to open the stream on which it is told.
    await waitFor(
      async () => {
        await touch()
        await new Promise(resolve => setTimeout(resolve, 50))
        return updates() > 0
      },
      'word of an update',
      5000
    )
    await end()
    await new Promise(resolve => setTimeout(resolve, 200))
    const before = updates()
    await touch()
    await new Promise(resolve => setTimeout(resolve, 200))
    expect(updates()).toBe(before)
    // It lingers at the server: clients come back.
    expect(cell.server.ledger.count(`unsubscribe ${uri}`)).toBe(0)
  })
)

describeMatrix('is told when prompts and resources change, and then lists what is there', cell =>
  asReader(cell, async ({ client, received }) => {
    const [name, uri] = [`late_${randomUUID().slice(0, 8)}`, `fixture://late/${randomUUID()}`]
    const told = (kind: string) =>
      received.filter(({ method }) => method === `notifications/${kind}/list_changed`).length
    const lists = {
      prompts: async () => names((await client.listPrompts()).prompts).includes(`up__${name}`),
      resources: async () => (await client.listResources()).resources.some(resource => resource.uri === uri)
    }
    expect([await lists.prompts(), await lists.resources()]).toEqual([false, false])
    const before = { prompts: told('prompts'), resources: told('resources') }
    await client.getPrompt({ name: 'up__add_prompt', arguments: { name } })
    await client.getPrompt({ name: 'up__add_resource', arguments: { uri } })
    // Others add theirs at the same time: told of theirs, one looks again.
    for (const kind of ['prompts', 'resources'] as const) {
      await waitFor(() => told(kind) > before[kind] && lists[kind](), `word of the new ${kind}`, 12_000)
    }
    expect(gotText(await client.getPrompt({ name: `up__${name}` }))).toBe('added at runtime')
    expect(readText(await client.readResource({ uri }))).toBe(uri)
  })
)

describeMatrix(
  'loses its server and gets it back: the tools stay listed, the next call works (§6.65, §6.67)',
  async ({ connect, gateway, server }) => {
    const client = await connect()
    const before = names(await client.listTools())
    const lists: number[] = []
    const look = async () => lists.push((await client.listTools()).length)
    const nonce = randomUUID()
    const inFlight = client.callTool('up__slow', { ms: 20_000, nonce })
    await waitFor(() => server.ledger.count(`started ${nonce}`) === 1, 'the call to run', 5000)

    await server.kill(gateway)
    const lost = await inFlight
    expect(lost.isError).toBe(true)
    expect(lost._meta['switchboard/error']).toMatchObject({ server: 'up', dispatched: true })
    await look()
    await server.revive()
    await look()
    expect(text(await client.callTool('up__echo', { message: 'back again' }))).toBe('back again')
    await look()
    await gateway.until('up')
    expect(names(await client.listTools())).toEqual(before)
    expect(lists).toEqual(lists.map(() => before.length))
    expect(client.told()).toBe(0)
  },
  { alone: true }
)
