/**
 * Every behaviour of a tool, seen by five real clients through the gateway, at five real servers. Where an SDK strips or
 * refuses what the protocol allows, the messages are looked at as they came over the wire.
 */
import { randomUUID } from 'node:crypto'
import { expect } from 'vitest'
import {
  definitions,
  echoExtra,
  structuredOnlyResult,
  unknownMembersResult,
  unknownMembersTool
} from './fixtures/tools.mjs'
import { describeMatrix, granted } from './helpers/matrix.js'
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
