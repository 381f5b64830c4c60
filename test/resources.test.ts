/**
 * Resources, prompts and completion through the gateway: where a URI leads and how it is shown, that what a key may not
 * use does not exist for it, and what is answered when there is nothing, or nobody, to answer.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { CatalogSource } from '../src/catalog/part.js'
import { buildCatalog } from '../src/catalog/snapshot.js'
import { start as startRawOffer } from './fixtures/raw-offer.mjs'
import type { RawOffer, RawOfferOptions } from './fixtures/types.d.mts'
import { bearer, envelope, modern, openSession, type Reply } from './helpers/http.js'
import { openStream, type Stream } from './helpers/matrix.js'
import { secrets, startTestGateway, waitFor, type TestGateway } from './helpers/with-gateway.js'

const eras = ['legacy', 'modern'] as const
type Era = (typeof eras)[number]
type Params = Record<string, any>

const open: { close(): unknown }[] = []
async function closeAll(): Promise<void> {
  for (const each of open.splice(0).reverse()) await each.close()
}
/** Ends it after the test or suite, unless that does. */
function keep<T extends { close(): unknown }>(each: T): T {
  open.push(each)
  return each
}

interface Offered extends RawOfferOptions {
  /** More of its entry in servers.yaml. */
  readonly config?: object
}

interface House<Id extends string> {
  readonly gateway: TestGateway
  readonly servers: Readonly<Record<Id, RawOffer>>
}

const everything = { admin: '*' }
const secretOf: Readonly<Record<string, string>> = { admin: '${ADMIN}', developer: '${DEVELOPER}', other: '${OTHER}' }

const entryOf = ({ url }: { readonly url: string }, { era = 'legacy', config }: Offered) => ({
  url,
  transport: 'http',
  era,
  ...config
})

/** A gateway over these servers, in this order. @param allow of the keys admin, developer and other. */
async function startOver<Id extends string>(
  offered: Readonly<Record<Id, Offered>>,
  allow: object = everything,
  stateDir?: string
): Promise<House<Id>> {
  const ids = Object.keys(offered) as Id[]
  const started = await Promise.all(ids.map(async name => keep(await startRawOffer({ name, ...offered[name] }))))
  const servers = Object.fromEntries(started.map(server => [server.name, server])) as Record<Id, RawOffer>
  const entries = Object.fromEntries(ids.map(id => [id, entryOf(servers[id], offered[id])]))
  const keys = Object.fromEntries(
    Object.entries(allow).map(([id, allow]) => [id, { secret: secretOf[id], allow: allow as object }])
  )
  const gateway = keep(
    await startTestGateway(
      `servers: ${JSON.stringify(entries)}\nkeys: ${JSON.stringify(keys)}\n`,
      stateDir === undefined ? {} : { stateDir }
    )
  )
  for (const id of ids) await gateway.until(id)
  return { gateway, servers }
}

type Send = (method: string, params?: Params, path?: string) => Promise<Reply>

/** Requests of one client of that era. */
async function clientOf({ url }: TestGateway, era: Era, secret = secrets.ADMIN): Promise<Send> {
  if (era === 'modern') return (method, params, path = '/mcp') => modern(url, secret, method, params, { path })
  const session = await openSession(url, secret)
  return (method, params, path = '/mcp') => session.rpc(method, params, { path })
}

/** The stream of a client of 2026 that listens. */
async function listen(
  { url }: TestGateway,
  notifications: object,
  secret = secrets.ADMIN,
  path = '/mcp'
): Promise<Stream> {
  const method = 'subscriptions/listen'
  const body = { jsonrpc: '2.0', id: 'sub', method, params: { notifications, _meta: envelope } }
  const headers = { ...bearer(secret), 'mcp-protocol-version': '2026-07-28', 'mcp-method': method }
  const stream = keep(await openStream(url + path, headers, body))
  await stream.until(1)
  return stream
}

const textOf = ({ json }: Reply): string => json.result.contents[0].text
const urisOf = ({ json }: Reply): string[] => json.result.resources.map(({ uri }: any) => uri as string)
const templatesOf = ({ json }: Reply): string[] =>
  json.result.resourceTemplates.map(({ uriTemplate }: any) => uriTemplate as string)
const promptsOf = ({ json }: Reply): string[] => json.result.prompts.map(({ name }: any) => name as string)
const resources = (...uris: string[]) => uris.map(uri => ({ uri, name: uri }))
const templates = (...all: string[]) => all.map(uriTemplate => ({ uriTemplate, name: uriTemplate }))
const prompts = (...names: string[]) => names.map(name => ({ name }))
const page = (name: string, _meta: object) => ({ name, inputSchema: { type: 'object' }, _meta })
/** A server without resources. */
const toolsOnly = { capabilities: { tools: {} } }

describe('a URI', () => {
  let gateway: TestGateway
  beforeAll(async () => {
    const offered: Record<'alpha' | 'beta' | 'gamma', Offered> = {
      alpha: {
        resources: resources('both://x', 'alpha://only', 'alpha://listed-by-one/fits-a-template-of-another'),
        resourceTemplates: templates('t://{+any}', 'same://{x}'),
        tools: [
          page('new', { ui: { resourceUri: 'ui://alpha/new' } }),
          page('old', { 'ui/resourceUri': 'ui://alpha/old' }),
          page('mixed', { ui: { visibility: ['app'] }, 'ui/resourceUri': 'ui://alpha/mixed' }),
          page('shared', { ui: { resourceUri: 'ui://shared' } })
        ]
      },
      beta: {
        era: 'modern',
        resources: resources('both://x', 'beta://only'),
        resourceTemplates: templates('t://users/{id}', 'same://{x}', 'alpha://{+any}'),
        tools: [page('shared', { ui: { resourceUri: 'ui://shared' } })],
        config: { resource_claims: ['gh://', 'alpha://'], aliases: ['second'] }
      },
      gamma: { ...toolsOnly, tools: [page('of-a-server-without-resources', { ui: { resourceUri: 'ui://gamma' } })] }
    }
    const allow = {
      admin: '*',
      developer: { alpha: { resources: ['both://*', 't://users/*'] }, beta: { resources: ['t://**', 'same://*'] } },
      other: { beta: '*', gamma: '*' }
    }
    gateway = (await startOver(offered, allow)).gateway
  })
  afterAll(closeAll)

  type Leads = [why: string, uri: string, to: string]
  const leads: Leads[] = [
    ['its alias names', 'mcpgw:beta:both://x', 'beta both://x'],
    ['its alias names, by the alias of the server', 'mcpgw:second:both://x', 'beta both://x'],
    ['its alias names, in another case', 'mcpgw:Beta:both://x', 'beta both://x'],
    ['its alias names, although nobody lists it', 'mcpgw:beta:nobody://lists/it?a=b#c', 'beta nobody://lists/it?a=b#c'],
    ['its alias names, although another one lists it', 'mcpgw:beta:alpha://only', 'beta alpha://only'],
    ['stands first in servers.yaml of those that list it', 'both://x', 'alpha both://x'],
    ['alone lists it', 'beta://only', 'beta beta://only'],
    [
      'lists it, before those with a template or a claim',
      'alpha://listed-by-one/fits-a-template-of-another',
      'alpha alpha://listed-by-one/fits-a-template-of-another'
    ],
    ['has the template with most letters for it', 't://users/7', 'beta t://users/7'],
    ['alone has a template for it', 't://others/7', 'alpha t://others/7'],
    ['stands first of those with an equal template', 'same://thing', 'alpha same://thing'],
    ['has a template for it, before one that claims it', 'alpha://unlisted', 'beta alpha://unlisted'],
    ['claims it', 'gh://owner/repo', 'beta gh://owner/repo']
  ]

  test.each(eras.flatMap(era => leads.map(([why, uri, to]) => [era, why, uri, to] as const)))(
    'leads in the %s era to the server that %s: %s',
    async (era, _, uri, to) => {
      const send = await clientOf(gateway, era)
      expect(textOf(await send('resources/read', { uri }))).toBe(to)
    }
  )

  test.each(eras.flatMap(era => ['new', 'old', 'mixed'].map(form => [era, form] as const)))(
    'of an app leads in the %s era to the server of the tool that names it, in the %s form (§6.16)',
    async (era, form) => {
      const uri = `ui://alpha/${form}`
      const send = await clientOf(gateway, era)
      const { tools } = (await send('tools/list')).json.result
      const { _meta } = tools.find(({ name }: any) => name === `alpha__${form}`)
      expect(_meta.ui?.resourceUri ?? _meta['ui/resourceUri']).toBe(uri)
      expect(textOf(await send('resources/read', { uri }))).toBe(`alpha ${uri}`)
      const plain = (await send('tools/list', {}, '/mcp/alpha')).json.result.tools
      expect(plain.find(({ name }: any) => name === form)._meta).toEqual(_meta)
      expect(textOf(await send('resources/read', { uri }, '/mcp/alpha'))).toBe(`alpha ${uri}`)
    }
  )

  test.each(eras)(
    'of two apps is shown in the %s era as an alias of the second, and both can be read (§6.16)',
    async era => {
      const send = await clientOf(gateway, era)
      const { tools } = (await send('tools/list')).json.result
      const shown = (name: string) => tools.find((tool: any) => tool.name === name)._meta.ui.resourceUri
      expect([shown('alpha__shared'), shown('beta__shared')]).toEqual(['ui://shared', 'mcpgw:beta:ui://shared'])
      for (const server of ['alpha', 'beta']) {
        expect(textOf(await send('resources/read', { uri: shown(`${server}__shared`) }))).toBe(`${server} ui://shared`)
        const [{ _meta }] = (await send('tools/list', {}, `/mcp/${server}`)).json.result.tools.slice(-1)
        expect(_meta.ui.resourceUri).toBe('ui://shared')
        expect(textOf(await send('resources/read', { uri: 'ui://shared' }, `/mcp/${server}`))).toBe(
          `${server} ui://shared`
        )
      }
    }
  )

  test.each(eras)('that nobody has is not found in the %s era, with the code of that era', async era => {
    const send = await clientOf(gateway, era)
    for (const uri of ['nobody://has/it', 'mcpgw:delta:both://x', 'mcpgw:both://x', 'mcpgw:', '']) {
      const { status, json } = await send('resources/read', { uri })
      expect([status, json.error]).toEqual([
        200,
        { code: era === 'legacy' ? -32002 : -32602, message: `Resource not found: ${uri}`, data: { uri } }
      ])
    }
    for (const uri of [undefined, 7, null, ['both://x']])
      expect((await send('resources/read', { uri })).json.error.code).toBe(-32602)
  })

  test.each(eras)('goes past servers that the key may not see, at every step, in the %s era (§6.24)', async era => {
    const developer = await clientOf(gateway, era, secrets.DEVELOPER)
    const other = await clientOf(gateway, era, secrets.OTHER)
    const read = async (send: Send, uri: string) => textOf(await send('resources/read', { uri }))
    // Of those that list it, of those with a template, of those with equal templates.
    expect(await read(developer, 'both://x')).toBe('alpha both://x')
    expect(await read(other, 'both://x')).toBe('beta both://x')
    expect(await read(developer, 't://others/7')).toBe('beta t://others/7')
    expect(await read(developer, 'same://thing')).toBe('beta same://thing')
    expect(await read(other, 'same://thing')).toBe('beta same://thing')
    // The one server left that has resources is asked for everything else.
    expect(await read(other, 'nobody://has/it')).toBe('beta nobody://has/it')
    for (const uri of ['mcpgw:alpha:alpha://only', 'mcpgw:beta:both://x', 'alpha://only', 'gh://owner/repo'])
      expect((await developer('resources/read', { uri })).json.error.message).toBe(`Resource not found: ${uri}`)
  })

  test.each(eras)('leads nowhere but to the servers a request speaks of, in the %s era', async era => {
    const send = await clientOf(gateway, era)
    for (const path of ['/mcp?servers=beta', '/mcp/beta', '/mcp/second']) {
      expect(textOf(await send('resources/read', { uri: 'both://x' }, path))).toBe('beta both://x')
      expect(textOf(await send('resources/read', { uri: 'mcpgw:beta:both://x' }, path))).toBe('beta both://x')
      const elsewhere = await send('resources/read', { uri: 'mcpgw:alpha:both://x' }, path)
      expect(elsewhere.json.error.message).toBe('Resource not found: mcpgw:alpha:both://x')
    }
  })
})

describe('a URI is shown', () => {
  let house: House<'alpha' | 'beta'>
  const link = (uri: string) => ({ type: 'resource_link', uri, name: 'a link', 'x-vendor': { at: 'link' } })
  const embedded = (uri: string) => ({ type: 'resource', resource: { uri, text: uri, 'x-vendor': 1 }, 'x-vendor': 2 })
  /** Whatever beta may name: its own, listed and not, and what others have. */
  const named = ['beta://only', 'both://x', 'alpha://only', 'unlisted://beta', 'rows://7', 'ui://shared']
  const shownByBeta: Record<string, string> = {
    'beta://only': 'beta://only',
    'both://x': 'mcpgw:beta:both://x',
    'alpha://only': 'mcpgw:beta:alpha://only',
    'unlisted://beta': 'mcpgw:beta:unlisted://beta',
    'rows://7': 'rows://7',
    'ui://shared': 'mcpgw:beta:ui://shared'
  }

  beforeAll(async () => {
    house = await startOver(
      {
        alpha: {
          resources: resources('both://x', 'alpha://only', 'ui://shared'),
          resourceTemplates: templates('same://{x}')
        },
        beta: {
          resources: [
            { uri: 'both://x', name: 'the second', 'x-vendor': { deep: [null] }, _meta: { 'v.example/r': 1 } },
            ...resources('beta://only')
          ],
          resourceTemplates: templates('same://{x}', 'rows://{id}'),
          tools: [{ name: 'links', inputSchema: { type: 'object' } }],
          prompts: prompts('one', 'many'),
          answers: {
            'tools/call': () => ({
              result: {
                content: [{ type: 'text', text: 'unlisted://beta' }, ...named.map(link), ...named.map(embedded)]
              }
            }),
            'prompts/get': ({ name }) => {
              const message = (content: unknown) => ({ role: 'user', content, 'x-vendor': { at: 'message' } })
              if (name === 'one') return { result: { messages: named.map(uri => message(embedded(uri))) } }
              return { result: { messages: [message(named.map(link)), message({ type: 'text', text: 'both://x' })] } }
            },
            'resources/read': ({ uri }) => ({
              result: {
                contents: [uri, ...named].map(uri => ({ uri, text: `beta ${uri}`, 'x-vendor': 3 })),
                'x-vendor': { at: 'result' }
              }
            })
          }
        }
      },
      { admin: '*', developer: { beta: '*' } }
    )
  })
  afterAll(closeAll)

  /** Every URI that stands in the answer where a client takes it for one, in order. */
  const linksIn = (items: any[]): string[] =>
    items.flatMap(({ uri, resource }) => (uri ?? resource?.uri ?? []) as string)
  const shown = named.map(uri => shownByBeta[uri] as string)

  test.each(eras)(
    'in lists as it is where it leads back to its server, else as an alias, in the %s era (§6.14)',
    async era => {
      const admin = await clientOf(house.gateway, era)
      expect(urisOf(await admin('resources/list'))).toEqual([
        'both://x',
        'alpha://only',
        'ui://shared',
        'mcpgw:beta:both://x',
        'beta://only'
      ])
      expect(templatesOf(await admin('resources/templates/list'))).toEqual([
        'same://{x}',
        'mcpgw:beta:same://{x}',
        'rows://{id}'
      ])
      // To a key that has one of them only, nothing collides.
      const developer = await clientOf(house.gateway, era, secrets.DEVELOPER)
      for (const [send, path] of [
        [developer, '/mcp'],
        [admin, '/mcp/beta'],
        [admin, '/mcp?servers=beta']
      ] as const) {
        expect(urisOf(await send('resources/list', {}, path))).toEqual(['both://x', 'beta://only'])
        expect(templatesOf(await send('resources/templates/list', {}, path))).toEqual(['same://{x}', 'rows://{id}'])
      }
    }
  )

  test.each(eras)('in lists with all else unaltered, in the %s era (§6.1)', async era => {
    const { result } = (await (await clientOf(house.gateway, era))('resources/list')).json
    expect(result.resources[3]).toEqual({ ...house.servers.beta.resources[0], uri: 'mcpgw:beta:both://x' })
  })

  test.each(eras)('in results of tools: links and embedded resources, and no text, in the %s era', async era => {
    const send = await clientOf(house.gateway, era)
    const { content } = (await send('tools/call', { name: 'beta__links' })).json.result
    expect(linksIn(content)).toEqual([...shown, ...shown])
    expect(content[0]).toEqual({ type: 'text', text: 'unlisted://beta' })
    expect(content.slice(1)).toEqual([
      ...shown.map(link),
      ...named.map((uri, i) => ({ ...embedded(uri), resource: { ...embedded(uri).resource, uri: shown[i] } }))
    ])
  })

  test.each(eras)('in messages of prompts, in the %s era', async era => {
    const send = await clientOf(house.gateway, era)
    const messages = async (name: string) => (await send('prompts/get', { name })).json.result.messages as any[]
    const one = await messages('beta__one')
    expect(linksIn(one.map(({ content }) => content))).toEqual(shown)
    expect(one[1]).toMatchObject({
      'x-vendor': { at: 'message' },
      content: { 'x-vendor': 2, resource: { 'x-vendor': 1 } }
    })
    const [many, text] = await messages('beta__many')
    expect(many.content).toEqual(shown.map(link))
    expect(text.content.text).toBe('both://x')
  })

  test.each(eras)('in contents, in the %s era', async era => {
    const send = await clientOf(house.gateway, era)
    const { result } = (await send('resources/read', { uri: 'mcpgw:beta:both://x' })).json
    expect(linksIn(result.contents)).toEqual(['mcpgw:beta:both://x', ...shown])
    expect(result).toMatchObject({ 'x-vendor': { at: 'result' }, contents: [{ text: 'beta both://x', 'x-vendor': 3 }, {}, {}, {}, {}, {}, {}] }) // prettier-ignore
  })

  test.each(eras)(
    'so that every one can be read where it came from, listed or not, in the %s era (§6.15)',
    async era => {
      const send = await clientOf(house.gateway, era)
      const { content } = (await send('tools/call', { name: 'beta__links' })).json.result
      for (const [i, uri] of linksIn(content).entries())
        expect([uri, textOf(await send('resources/read', { uri }))]).toEqual([uri, `beta ${named[i % named.length]}`])
      for (const path of ['/mcp/beta', '/mcp?servers=beta']) {
        const { content } = (await send('tools/call', { name: path === '/mcp/beta' ? 'links' : 'beta__links' }, path))
          .json.result
        expect(linksIn(content)).toEqual([...named, ...named])
        for (const uri of named) expect(textOf(await send('resources/read', { uri }, path))).toBe(`beta ${uri}`)
      }
    }
  )

  test('alike by another gateway with the same servers.yaml (§6.15)', async () => {
    const { alpha, beta } = house.servers
    const entries = { alpha: entryOf(alpha, {}), beta: entryOf(beta, {}) }
    const replica = await startTestGateway(
      `servers: ${JSON.stringify(entries)}\nkeys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`
    )
    try {
      for (const id of ['alpha', 'beta']) await replica.until(id)
      const here = await clientOf(house.gateway, 'legacy')
      const there = await clientOf(replica, 'modern')
      const { content } = (await here('tools/call', { name: 'beta__links' })).json.result
      for (const [i, uri] of linksIn(content).entries())
        expect(textOf(await there('resources/read', { uri }))).toBe(`beta ${named[i % named.length]}`)
    } finally {
      await replica.close()
    }
  })

  test.each(eras)('in word of updates as the client asked for it, in the %s era', async era => {
    const { gateway, servers } = house
    const { beta } = servers
    const wanted = ['beta://only', 'mcpgw:beta:both://x', 'rows://7', 'mcpgw:beta:unlisted://beta']
    let stream: Stream
    if (era === 'modern') stream = await listen(gateway, { resourceSubscriptions: wanted })
    else {
      const session = await openSession(gateway.url, secrets.ADMIN)
      stream = keep(await openStream(`${gateway.url}/mcp`, session.headers))
      for (const uri of wanted) expect((await session.rpc('resources/subscribe', { uri })).json.result).toEqual({})
    }
    await waitFor(() => beta.streams.size === 1, 'the stream of the gateway')
    for (const uri of [
      'beta://only',
      'both://x',
      'alpha://only',
      'rows://7',
      'rows://7/part',
      'unlisted://beta',
      'rows://70'
    ])
      beta.notify('notifications/resources/updated', { uri })
    const updates = () => stream.messages.filter(({ method }) => method === 'notifications/resources/updated')
    await waitFor(() => updates().length >= 5, 'the updates')
    await new Promise(resolve => setTimeout(resolve, 100))
    // A part of what was asked for goes by its own URI, which is shown like any other.
    expect(updates().map(({ params }) => params.uri)).toEqual([
      'beta://only',
      'mcpgw:beta:both://x',
      'rows://7',
      'mcpgw:beta:rows://7/part',
      'mcpgw:beta:unlisted://beta'
    ])
    stream.close()
  })
})

describe('a server that is itself a gateway, or writes URIs like one', () => {
  afterEach(closeAll)

  test.each(eras)('has its aliases lead to itself, not to a server of that name here, in the %s era', async era => {
    const { gateway } = await startOver({
      alpha: { resources: resources('x://secret') },
      beta: {
        resources: resources('mcpgw:alpha:x://secret', 'mcpgw:inner:y://z'),
        resourceTemplates: templates('mcpgw:inner:rows://{id}')
      }
    })
    const send = await clientOf(gateway, era)
    const shown = urisOf(await send('resources/list')).slice(1)
    for (const [i, uri] of shown.entries()) {
      const own = ['mcpgw:alpha:x://secret', 'mcpgw:inner:y://z'][i]
      expect([uri, (await send('resources/read', { uri })).json.result?.contents[0].text]).toEqual([uri, `beta ${own}`])
    }
    for (const [i, uri] of urisOf(await send('resources/list', {}, '/mcp/beta')).entries()) {
      const own = ['mcpgw:alpha:x://secret', 'mcpgw:inner:y://z'][i]
      const { json } = await send('resources/read', { uri }, '/mcp/beta')
      expect([uri, json.result?.contents[0].text]).toEqual([uri, `beta ${own}`])
    }
    const [template] = templatesOf(await send('resources/templates/list'))
    const ref = { type: 'ref/resource', uri: template }
    const { json } = await send('completion/complete', { ref, argument: { name: 'id', value: '7' } })
    expect(json.result?.completion.values).toEqual(['beta', 'mcpgw:inner:rows://{id}', '7'])
  })
})

describe('a URI that two servers have', () => {
  let dir: string
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'switchboard-resources-'))
  })
  afterEach(async () => {
    await closeAll()
    rmSync(dir, { recursive: true, force: true })
  })

  test('stays with the first while that one restarts, and after a restart of the gateway (§6.14, §6.10)', async () => {
    const offered = {
      alpha: { resources: resources('both://x'), resourceTemplates: templates('same://{x}') },
      beta: { resources: resources('both://x'), resourceTemplates: templates('same://{x}') }
    }
    const { gateway, servers } = await startOver(offered, everything, dir)
    const send = await clientOf(gateway, 'legacy')
    const look = async (send: Send) => [
      ...urisOf(await send('resources/list')),
      ...templatesOf(await send('resources/templates/list'))
    ]
    const before = ['both://x', 'mcpgw:beta:both://x', 'same://{x}', 'mcpgw:beta:same://{x}']
    expect(await look(send)).toEqual(before)

    await servers.alpha.close()
    await gateway.until('alpha', 'down')
    expect(await look(send)).toEqual(before)
    for (const uri of ['both://x', 'same://thing']) {
      const { json } = await send('resources/read', { uri })
      expect(json.error).toMatchObject({ code: -31503, data: { server: 'alpha', dispatched: false } })
      expect(textOf(await send('resources/read', { uri: `mcpgw:beta:${uri}` }))).toBe(`beta ${uri}`)
    }
    expect(servers.beta.asked('resources/read').map(({ uri }) => uri as string)).toEqual(['both://x', 'same://thing'])

    const again = keep(await startRawOffer({ name: 'alpha', ...offered.alpha, port: servers.alpha.port }))
    await gateway.until('alpha')
    expect(await look(send)).toEqual(before)
    expect(textOf(await send('resources/read', { uri: 'both://x' }))).toBe('alpha both://x')

    // The gateway comes back, and alpha does not.
    await again.close()
    await gateway.close()
    const entries = { alpha: entryOf(servers.alpha, {}), beta: entryOf(servers.beta, {}) }
    const second = keep(
      await startTestGateway(
        `servers: ${JSON.stringify(entries)}\nkeys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`,
        { stateDir: dir }
      )
    )
    const later = await clientOf(second, 'modern')
    expect(await look(later)).toEqual(before)
    await second.until('beta')
    expect(await look(later)).toEqual(before)
    expect((await later('resources/read', { uri: 'both://x' })).json.error).toMatchObject({
      code: -31503,
      data: { server: 'alpha' }
    })
  })

  test('goes to the second when the first no longer lists it', async () => {
    const { gateway, servers } = await startOver({
      alpha: { resources: resources('both://x', 'alpha://only') },
      beta: { resources: resources('both://x') }
    })
    const send = await clientOf(gateway, 'modern')
    await waitFor(() => servers.alpha.streams.size === 1, 'the stream of the gateway')
    servers.alpha.resources = resources('alpha://only')
    servers.alpha.notify('notifications/resources/list_changed')
    await waitFor(async () => urisOf(await send('resources/list')).length === 2, 'the new list', 8000)
    expect(urisOf(await send('resources/list'))).toEqual(['alpha://only', 'both://x'])
    expect(textOf(await send('resources/read', { uri: 'both://x' }))).toBe('beta both://x')
  })
})

describe('templates made to keep the gateway busy', () => {
  afterEach(closeAll)
  const nested = `{${'{'.repeat(5000)}a${'}'.repeat(5000)}`
  const long = `x://${'{+a}b'.repeat(2000)}`
  const adjacent = `${'{+a}'.repeat(32)}z`
  const uri = `x://${'ab'.repeat(4000)}`

  const source = (id: string, all: readonly string[]): CatalogSource => ({
    id,
    aliases: [],
    namespace: true,
    overModernHttp: false,
    claims: [],
    instructions: true,
    offer: { tools: [], resources: [], templates: templates(...all), capabilities: { resources: {} } }
  })
  const viewer = {
    sight: { id: '*', sees: () => true },
    scope: { key: '*', servers: undefined, plain: false }
  }
  /** The quickest of three, in milliseconds. */
  function quickest(what: () => void): number {
    return Math.min(
      ...[1, 2, 3].map(() => {
        const begun = performance.now()
        what()
        return performance.now() - begun
      })
    )
  }

  test.each([
    ['one nested 10,000 deep', [nested]],
    ['one of 10,000 characters', [long]],
    ['one of nothing but wildcards', [adjacent]],
    ['a thousand of nothing but wildcards', Array.from({ length: 1000 }, (_, i) => `${'{+a}'.repeat(31)}${i}z`)]
  ])('%s: routing a long URI takes 5 ms and no more (§6.18)', (_, all) => {
    const catalog = buildCatalog([source('hostile', all), source('friendly', ['x://{id}'])])
    catalog.routeUri(viewer, 'x://warm')
    const ms = quickest(() => catalog.routeUri(viewer, uri))
    console.log(`routed in ${ms.toFixed(1)} ms`)
    expect(ms).toBeLessThan(5 * 5)
  })

  test.each([
    ['wildcards', (i: number) => `{+a}${'b{+a}'.repeat(25)}${i}`],
    ['long names', (i: number) => `{?${'v'.repeat(900)},${'w'.repeat(900)}}${i}`]
  ])('ten thousand of them with %s do not hold up the first one after a change either (§6.18)', (_, template) => {
    const hostile = source(
      'hostile',
      Array.from({ length: 10_000 }, (_, i) => template(i))
    )
    const ms = quickest(() => {
      const catalog = buildCatalog([hostile, source('friendly', ['x://{id}'])])
      catalog.routeUri(viewer, 'x://7')
    })
    console.log(`routed for the first time in ${ms.toFixed(1)} ms`)
    // Building the catalog of so many costs 50 ms by itself; what it must not cost is seconds.
    expect(ms).toBeLessThan(300)
  })

  test('ten thousand of them do not take the URIs of another server away from it (§6.18)', async () => {
    const { gateway } = await startOver({
      hostile: {
        resourceTemplates: templates(
          ...Array.from({ length: 10_000 }, (_, i) => `{+a}${'b{+a}'.repeat(25)}${String(i).padStart(40, 'x')}`)
        )
      },
      friendly: { resourceTemplates: templates('rows://{id}') }
    })
    const send = await clientOf(gateway, 'modern')
    for (let round = 0; round < 2; round++) {
      const { json } = await send('resources/read', { uri: 'rows://7' })
      expect(json.result?.contents[0].text ?? json.error.message).toBe('friendly rows://7')
    }
  })
})

describe('what is denied does not exist', () => {
  let house: House<'alpha' | 'beta'>
  const sessions = new Map<string, Awaited<ReturnType<typeof openSession>>>()

  beforeAll(async () => {
    house = await startOver(
      {
        alpha: {
          resources: resources('data://open/a', 'data://shut/a'),
          resourceTemplates: templates('data://open/{x}', 'data://shut/{x}', 'data://{+path}'),
          prompts: prompts('allowed', 'refused')
        },
        beta: { resources: resources('beta://r'), prompts: prompts('foreign'), config: { resource_claims: ['gh://'] } }
      },
      {
        admin: '*',
        developer: { alpha: { prompts: ['all*', '!allotted'], resources: ['data://**', '!data://shut/**'] } },
        other: { alpha: ['echo'] }
      }
    )
    for (const secret of [secrets.DEVELOPER, secrets.OTHER])
      sessions.set(secret, await openSession(house.gateway.url, secret))
  })
  afterAll(closeAll)

  const sendAs = (era: Era, secret: string): Send =>
    era === 'modern'
      ? (method, params, path = '/mcp') => modern(house.gateway.url, secret, method, params, { path })
      : (method, params, path = '/mcp') => sessions.get(secret)!.rpc(method, params, { path, id: 1 })

  /** All of an answer, with the name in it replaced. */
  async function bytes(answer: Promise<Reply>, name: string): Promise<string> {
    const { status, headers, text } = await answer
    const { date: _date, ...rest } = headers
    return JSON.stringify([status, rest, text]).replaceAll(name, '<name>')
  }
  const seen = () => Object.values(house.servers).map(({ requests }) => requests.length)

  test.each(eras)('lists have what the key may use and no trace of the rest, in the %s era (§6.23)', async era => {
    const send = sendAs(era, secrets.DEVELOPER)
    const listed = await Promise.all(
      ['prompts/list', 'resources/list', 'resources/templates/list'].map(method => send(method))
    )
    expect(promptsOf(listed[0]!)).toEqual(['alpha__allowed'])
    expect(urisOf(listed[1]!)).toEqual(['data://open/a'])
    expect(templatesOf(listed[2]!)).toEqual(['data://open/{x}', 'data://{+path}'])
    for (const { text } of listed) expect(text).not.toMatch(/beta|shut|refused|foreign/)
    // Tools alone were granted.
    for (const method of ['prompts/list', 'resources/list', 'resources/templates/list']) {
      const { result } = (await sendAs(era, secrets.OTHER)(method)).json
      expect(Object.values(result as object).filter(Array.isArray)).toEqual([[]])
    }
  })

  const asks: [what: string, method: string, of: (name: string) => Params, denied: string, unknown: string][] = [
    ['a prompt', 'prompts/get', name => ({ name }), 'alpha__refused', 'alpha__refuzed'],
    ['a prompt of another server', 'prompts/get', name => ({ name }), 'beta__foreign', 'bexa__foreign'],
    ['a resource', 'resources/read', uri => ({ uri }), 'data://shut/a', 'dada://shut/a'],
    ['a resource of a template', 'resources/read', uri => ({ uri }), 'data://shut/zz', 'dada://shut/zz'],
    [
      'a resource by its alias',
      'resources/read',
      uri => ({ uri }),
      'mcpgw:alpha:data://shut/a',
      'mcpgw:alpxa:data://shut/a'
    ],
    ['a resource of another server', 'resources/read', uri => ({ uri }), 'beta://r', 'bexa://r'],
    ['a resource another server claims', 'resources/read', uri => ({ uri }), 'gh://a/b', 'gx://a/b'],
    [
      'completion of a prompt',
      'completion/complete',
      name => ({ ref: { type: 'ref/prompt', name }, argument: { name: 'a', value: 'b' } }),
      'alpha__refused',
      'alpha__refuzed'
    ],
    [
      'completion of a template',
      'completion/complete',
      uri => ({ ref: { type: 'ref/resource', uri }, argument: { name: 'x', value: 'b' } }),
      'data://shut/{x}',
      'dada://shut/{x}'
    ],
    [
      'completion of a template by its alias',
      'completion/complete',
      uri => ({ ref: { type: 'ref/resource', uri }, argument: { name: 'x', value: 'b' } }),
      'mcpgw:alpha:data://shut/{x}',
      'mcpgw:alpxa:data://shut/{x}'
    ]
  ]

  test.each(eras.flatMap(era => asks.map(ask => [era, ...ask] as const)))(
    'in the %s era %s: denied and unknown get the same bytes, and nothing is sent (§6.23)',
    async (era, _, method, of, denied, unknown) => {
      const before = seen()
      for (const secret of [secrets.DEVELOPER, secrets.OTHER]) {
        const send = sendAs(era, secret)
        const [first, second] = [
          await bytes(send(method, of(denied)), denied),
          await bytes(send(method, of(unknown)), unknown)
        ]
        expect(second).toBe(first)
        expect(first).toMatch(/^\[200,/)
        expect(first).toContain(method === 'resources/read' && era === 'legacy' ? '-32002' : '-32602')
      }
      expect(seen()).toEqual(before)
    }
  )

  test('and the log tells a denied one from an unknown one', async () => {
    const since = house.gateway.logged('call').length
    const send = sendAs('modern', secrets.DEVELOPER)
    for (const name of ['alpha__refused', 'alpha__refuzed']) await send('prompts/get', { name })
    for (const uri of ['data://shut/a', 'dada://shut/a']) await send('resources/read', { uri })
    expect(
      house.gateway.logged('call').slice(since).map(({ method, server, tool, outcome }) => [method, server, tool, outcome])
    ).toEqual([
      ['prompts/get', 'alpha', 'refused', 'denied'],
      ['prompts/get', undefined, 'alpha__refuzed', 'unknown'],
      ['resources/read', 'alpha', 'data://shut/a', 'denied'],
      ['resources/read', undefined, 'dada://shut/a', 'unknown']
    ]) // prettier-ignore
  })

  test('a legacy client subscribes to it as to what nobody has, and unsubscribes alike (§6.23)', async () => {
    const before = seen()
    for (const secret of [secrets.DEVELOPER, secrets.OTHER]) {
      const send = sendAs('legacy', secret)
      for (const method of ['resources/subscribe', 'resources/unsubscribe']) {
        const denied = await bytes(send(method, { uri: 'data://shut/a' }), 'data://shut/a')
        expect(await bytes(send(method, { uri: 'dada://shut/a' }), 'dada://shut/a')).toBe(denied)
        if (method === 'resources/subscribe') expect(denied).toContain('-32002')
      }
    }
    expect(seen()).toEqual(before)
  })

  test('a modern client hears nothing of it, and its acknowledgement leaves it out like what nobody has (§6.23, §6.44)', async () => {
    const { alpha } = house.servers
    const stream = await listen(
      house.gateway,
      {
        resourceSubscriptions: [
          'data://shut/a',
          'data://open/a',
          'dada://shut/a',
          'beta://r',
          'mcpgw:alpha:data://shut/a'
        ]
      },
      secrets.DEVELOPER
    )
    expect(stream.messages[0].params.notifications).toEqual({ resourceSubscriptions: ['data://open/a'] })
    await waitFor(() => alpha.streams.size === 1, 'the stream of the gateway')
    expect(alpha.asked('resources/subscribe')).toEqual([{ uri: 'data://open/a' }])
    for (const uri of ['data://shut/a', 'data://open/a']) alpha.notify('notifications/resources/updated', { uri })
    await stream.until(2)
    await new Promise(resolve => setTimeout(resolve, 100))
    expect(stream.messages.slice(1).map(({ params }) => params.uri)).toEqual(['data://open/a'])
    stream.close()
  })

  test('nor does a part of what was subscribed to, where that part is denied (§6.23)', async () => {
    const { alpha } = house.servers
    const stream = await listen(house.gateway, { resourceSubscriptions: ['data://'] }, secrets.ADMIN)
    stream.close()
    const session = await openSession(house.gateway.url, secrets.DEVELOPER)
    const own = keep(await openStream(`${house.gateway.url}/mcp`, session.headers))
    expect((await session.rpc('resources/subscribe', { uri: 'data://open' })).json.result).toEqual({})
    for (const uri of ['data://open/a', 'data://open/../shut/a', 'data://shut/a'])
      alpha.notify('notifications/resources/updated', { uri })
    await own.until(1)
    await new Promise(resolve => setTimeout(resolve, 100))
    expect(own.messages.map(({ params }) => params.uri)).toEqual(['data://open/a'])
    own.close()
  })

  test.each(eras)('what is granted is reached, in the %s era (§6.24)', async era => {
    const send = sendAs(era, secrets.DEVELOPER)
    expect(textOf(await send('resources/read', { uri: 'data://open/a' }))).toBe('alpha data://open/a')
    expect(textOf(await send('resources/read', { uri: 'data://else/where' }))).toBe('alpha data://else/where')
    const got = await send('prompts/get', { name: 'alpha__allowed', arguments: { a: 'b' } })
    expect(got.json.result.messages[0].content.text).toBe('alpha allowed {"a":"b"}')
    const ref = { type: 'ref/prompt', name: 'alpha__allowed' }
    const { json } = await send('completion/complete', { ref, argument: { name: 'a', value: 'b' } })
    expect(json.result.completion.values).toEqual(['alpha', 'allowed', 'b'])
  })

  test('an old session is answered by the policy of the moment (§6.24)', async () => {
    const { alpha } = house.servers
    const dir = mkdtempSync(join(tmpdir(), 'switchboard-resources-'))
    const run = async (grant: object, use: (gateway: TestGateway) => Promise<void>) => {
      const gateway = await startTestGateway(
        `servers: ${JSON.stringify({ alpha: entryOf(alpha, {}) })}\nkeys: ${JSON.stringify({ developer: { secret: secretOf.developer, allow: { alpha: grant } } })}\n`,
        { stateDir: dir }
      )
      try {
        await gateway.until('alpha')
        await use(gateway)
      } finally {
        await gateway.close()
      }
    }
    try {
      let headers: Record<string, string> = {}
      const ask = async (gateway: TestGateway, method: string, params: Params) => {
        const session = await openSession(gateway.url, secrets.DEVELOPER)
        return (await session.rpc(method, params, { headers })).json
      }
      await run({ resources: ['data://**'], prompts: ['*'] }, async gateway => {
        const session = await openSession(gateway.url, secrets.DEVELOPER)
        headers = { 'mcp-session-id': session.id }
        expect((await ask(gateway, 'resources/read', { uri: 'data://shut/a' })).result).toBeDefined()
        expect((await ask(gateway, 'prompts/get', { name: 'alpha__refused' })).result).toBeDefined()
      })
      await run({ resources: ['data://open/**'], prompts: ['allowed'] }, async gateway => {
        expect((await ask(gateway, 'resources/read', { uri: 'data://shut/a' })).error.code).toBe(-32002)
        expect((await ask(gateway, 'prompts/get', { name: 'alpha__refused' })).error.code).toBe(-32602)
        expect((await ask(gateway, 'resources/subscribe', { uri: 'data://shut/a' })).error.code).toBe(-32002)
        expect((await ask(gateway, 'resources/read', { uri: 'data://open/a' })).result).toBeDefined()
      })
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  })
})

describe('prompts and completion', () => {
  let house: House<'alpha' | 'beta' | 'gamma'>
  const longName = 'a_prompt_whose_name_is_much_too_long_for_every_client_there_is'
  beforeAll(async () => {
    house = await startOver({
      alpha: {
        prompts: [
          { name: 'review', description: 'of alpha', arguments: [{ name: 'code', required: true, 'x-vendor': 1 }], 'x-vendor': { deep: [null] }, icons: [{ src: 'data:,' }], _meta: { 'v.example/p': 1 } }, // prettier-ignore
          ...prompts('__odd__name__', longName)
        ],
        resourceTemplates: templates('rows://{table}/{id}')
      },
      beta: { era: 'modern', prompts: prompts('review'), resourceTemplates: templates('rows://{table}/{id}') },
      gamma: { prompts: prompts('review'), capabilities: { prompts: {}, resources: {} }, resources: resources('g://r') }
    })
  })
  afterAll(closeAll)

  test.each(eras)(
    'are listed under names of their own, and got by them, in the %s era (§6.11, §6.12, §6.13)',
    async era => {
      const send = await clientOf(house.gateway, era)
      const listed = await send('prompts/list')
      const names = promptsOf(listed)
      expect(names).toEqual(['alpha__review', 'alpha____odd__name__', expect.stringMatching(/^alpha__a_prompt_.*_[0-9a-f]{8}$/), 'beta__review', 'gamma__review']) // prettier-ignore
      expect(names.every(name => name.length <= 46)).toBe(true)
      expect(listed.json.result.prompts[0]).toEqual({ ...house.servers.alpha.prompts[0], name: 'alpha__review' })
      const wire = ['alpha review', 'alpha __odd__name__', `alpha ${longName}`, 'beta review', 'gamma review']
      for (const [i, name] of names.entries()) {
        const { json } = await send('prompts/get', { name, arguments: { code: 'x' } })
        expect(json.result.messages[0].content.text).toBe(`${wire[i]} {"code":"x"}`)
      }
      expect(promptsOf(await send('prompts/list', {}, '/mcp/alpha'))).toEqual(['review', '__odd__name__', longName])
      const plain = await send('prompts/get', { name: 'review' }, '/mcp/beta')
      expect(plain.json.result.messages[0].content.text).toBe('beta review {}')
    }
  )

  test.each(eras)('an unknown prompt is -32602 in the %s era, by whatever spelling', async era => {
    const send = await clientOf(house.gateway, era)
    for (const name of [
      'review',
      'alpha__Review',
      'alpha__alpha__review',
      'delta__review',
      '',
      '__proto__',
      'constructor'
    ])
      expect((await send('prompts/get', { name })).json.error).toEqual({
        code: -32602,
        message: `Unknown prompt: ${name}`
      })
    for (const name of [undefined, 7, null, {}])
      expect((await send('prompts/get', { name })).json.error.code).toBe(-32602)
  })

  const argument = { name: 'id', value: 'v' }
  test.each(eras)('completion goes to the server of the prompt or template, in the %s era (§6.19)', async era => {
    const send = await clientOf(house.gateway, era)
    const complete = async (ref: object, path?: string) =>
      (await send('completion/complete', { ref, argument }, path)).json.result.completion.values as string[]
    const ofPrompt = (name: string) => ({ type: 'ref/prompt', name })
    const ofTemplate = (uri: string) => ({ type: 'ref/resource', uri })
    expect(await complete(ofPrompt('alpha__review'))).toEqual(['alpha', 'review', 'v'])
    expect(await complete(ofPrompt('beta__review'))).toEqual(['beta', 'review', 'v'])
    expect(await complete(ofPrompt('review'), '/mcp/beta')).toEqual(['beta', 'review', 'v'])
    expect(await complete(ofTemplate('rows://{table}/{id}'))).toEqual(['alpha', 'rows://{table}/{id}', 'v'])
    expect(await complete(ofTemplate('mcpgw:beta:rows://{table}/{id}'))).toEqual(['beta', 'rows://{table}/{id}', 'v'])
    expect(await complete(ofTemplate('rows://{table}/{id}'), '/mcp/beta')).toEqual(['beta', 'rows://{table}/{id}', 'v'])
  })

  test.each(eras)(
    'completion is empty where the server has none, and -32602 where nothing is meant, in the %s era',
    async era => {
      const send = await clientOf(house.gateway, era)
      const { json } = await send('completion/complete', {
        ref: { type: 'ref/prompt', name: 'gamma__review' },
        argument
      })
      expect(json.result).toEqual({ completion: { values: [] }, ...(era === 'modern' && { resultType: 'complete' }) })
      expect(house.servers.gamma.asked('completion/complete')).toEqual([])
      for (const ref of [
        { type: 'ref/prompt', name: 'delta__review' },
        { type: 'ref/resource', uri: 'nothing://{like}/it' },
        { type: 'ref/tool', name: 'alpha__review' },
        { type: 'ref/prompt' },
        'alpha__review',
        undefined
      ])
        expect((await send('completion/complete', { ref, argument })).json.error.code).toBe(-32602)
    }
  )

  test.each(eras)(
    'unknown members reach the server, envelope and all as its era wants it, in the %s era (§6.1, §6.6)',
    async era => {
      const send = await clientOf(house.gateway, era)
      const more = {
        'x-vendor': { deep: [1, { two: null }] },
        _meta: { 'v.example/x': { deep: [null] }, traceparent: '00-1' }
      }
      for (const server of ['alpha', 'beta'] as const) {
        const upstream = house.servers[server]
        const asks: [string, Params, Params][] = [
        ['prompts/get', { name: `${server}__review`, arguments: { code: 'x' } }, { name: 'review', arguments: { code: 'x' } }],
        ['resources/read', { uri: `mcpgw:${server}:any://thing` }, { uri: 'any://thing' }],
        [
          'completion/complete',
          { ref: { type: 'ref/prompt', name: `${server}__review`, 'x-vendor': 1 }, argument: { ...argument, 'x-vendor': 2 }, context: { arguments: { a: 'b' } } },
          { ref: { type: 'ref/prompt', name: 'review', 'x-vendor': 1 }, argument: { ...argument, 'x-vendor': 2 }, context: { arguments: { a: 'b' } } }
        ]
      ] // prettier-ignore
        for (const [method, params, wire] of asks) {
          expect((await send(method, { ...params, ...more })).json.error).toBeUndefined()
          const { _meta, ...rest } = upstream.asked(method).at(-1)
          expect(rest).toEqual({ ...wire, 'x-vendor': more['x-vendor'] })
          const own = Object.fromEntries(
            Object.entries(_meta as object).filter(([key]) => !key.startsWith('io.modelcontextprotocol/'))
          )
          expect(own).toEqual(more._meta)
          const has = Object.keys(_meta as object).length > Object.keys(own).length
          expect(has).toBe(server === 'beta')
        }
      }
    }
  )
})

describe('an answer about resources or prompts', () => {
  afterEach(closeAll)

  test.each(eras)('of a server that is down is -31503 with what is known of it, in the %s era', async era => {
    const { gateway, servers } = await startOver({
      alpha: { era, prompts: prompts('p'), resources: resources('x://r'), resourceTemplates: templates('x://{+t}') }
    })
    await servers.alpha.close()
    await gateway.until('alpha', 'down')
    const send = await clientOf(gateway, era)
    const asks: [string, Params, string][] = [
      ['prompts/get', { name: 'alpha__p' }, 'p'],
      ['resources/read', { uri: 'x://r' }, 'x://r'],
      [
        'completion/complete',
        { ref: { type: 'ref/prompt', name: 'alpha__p' }, argument: { name: 'a', value: '' } },
        'p'
      ]
    ]
    for (const [method, params, name] of asks) {
      const { status, json } = await send(method, params)
      expect([status, json.error]).toEqual([
        200,
        {
          code: -31503,
          message: expect.stringContaining(`Server "alpha" could not answer ${method} for "${name}": `),
          data: { server: 'alpha', dispatched: false, retryAfterMs: expect.any(Number) }
        }
      ])
    }
    expect(promptsOf(await send('prompts/list'))).toEqual(['alpha__p'])
    expect(urisOf(await send('resources/list'))).toEqual(['x://r'])
  })

  test.each(eras.flatMap(era => eras.map(upstream => [era, upstream] as const)))(
    "is the server's own error, in the words of the %s era, from a %s server",
    async (era, upstream) => {
      const own = { code: -32002, message: 'Resource not found', data: { uri: 'x://r' }, 'x-vendor': { at: 'error' } }
      const { gateway } = await startOver({
        alpha: {
          era: upstream,
          prompts: prompts('p'),
          resources: resources('x://r'),
          answers: {
            'resources/read': () => ({ error: own }),
            'prompts/get': () => ({ error: { code: -32011, message: 'odd', data: [1] } })
          }
        }
      })
      const send = await clientOf(gateway, era)
      expect((await send('resources/read', { uri: 'x://r' })).json.error).toEqual({
        ...own,
        code: era === 'legacy' ? -32002 : -32602
      })
      expect((await send('prompts/get', { name: 'alpha__p' })).json.error).toEqual({
        code: -32011,
        message: 'odd',
        data: [1]
      })
    }
  )

  test.each(eras.flatMap(era => eras.map(upstream => [era, upstream] as const)))(
    'has the members of its era and no others, for a %s client of a %s server (§6.8)',
    async (era, upstream) => {
      const { gateway } = await startOver({
        alpha: {
          era: upstream,
          prompts: prompts('p'),
          resources: resources('x://r'),
          answers: {
            'resources/read': ({ uri }) => ({
              result: {
                contents: [{ uri, text: 'x' }],
                ...(upstream === 'modern' && { ttlMs: 4321, cacheScope: 'public' })
              }
            })
          }
        }
      })
      const send = await clientOf(gateway, era)
      const ref = { type: 'ref/prompt', name: 'alpha__p' }
      const results = await Promise.all(
        (
          [
            ['prompts/get', { name: 'alpha__p' }],
            ['completion/complete', { ref, argument: { name: 'a', value: '' } }],
            ['resources/read', { uri: 'x://r' }],
            ['prompts/list', {}],
            ['resources/list', {}],
            ['resources/templates/list', {}]
          ] as [string, Params][]
        ).map(async ([method, params]) => (await send(method, params)).json.result)
      )
      if (era === 'legacy') {
        for (const result of results)
          for (const member of ['resultType', 'ttlMs', 'cacheScope']) expect(result).not.toHaveProperty(member)
        return
      }
      for (const result of results) expect(result.resultType).toBe('complete')
      const [got, completed, read, ...lists] = results
      for (const result of [got, completed]) expect(Object.keys(result as object)).not.toContain('ttlMs')
      // What one key may read is for that key alone, whatever the server thinks of it.
      expect(read).toMatchObject({ ttlMs: upstream === 'modern' ? 4321 : 0, cacheScope: 'private' })
      for (const list of lists) expect(list).toMatchObject({ ttlMs: expect.any(Number), cacheScope: 'private' })
    }
  )

  test.each(eras)('is an empty list where a %s server does not know templates', async upstream => {
    const { gateway } = await startOver({
      alpha: {
        era: upstream,
        resources: resources('x://r'),
        answers: { 'resources/templates/list': () => ({ error: { code: -32601, message: 'Method not found' } }) }
      }
    })
    for (const era of eras) {
      const send = await clientOf(gateway, era)
      expect(templatesOf(await send('resources/templates/list'))).toEqual([])
      expect(urisOf(await send('resources/list'))).toEqual(['x://r'])
    }
    expect(gateway.gateway.status()[0]).toMatchObject({ state: 'ready' })
    expect(gateway.gateway.status()[0]?.problem).toBeUndefined()
  })

  test.each(eras)('is an empty list, never an error, where no server has any of it, in the %s era', async era => {
    const { gateway } = await startOver({ alpha: toolsOnly })
    const send = await clientOf(gateway, era)
    expect(promptsOf(await send('prompts/list'))).toEqual([])
    expect(urisOf(await send('resources/list'))).toEqual([])
    expect(templatesOf(await send('resources/templates/list'))).toEqual([])
  })

  test.each(['prompts/list', 'resources/list', 'resources/templates/list'])(
    'waits at the start for a server that answers everything but %s quickly',
    async slow => {
      const server = keep(
        await startRawOffer({
          name: 'alpha',
          prompts: prompts('p'),
          resources: resources('x://r'),
          resourceTemplates: templates('x://{t}'),
          answers: { [slow]: () => new Promise(resolve => setTimeout(() => resolve(undefined), 700)) }
        })
      )
      const gateway = keep(
        await startTestGateway(
          `servers: ${JSON.stringify({ alpha: entryOf(server, {}) })}\nkeys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`
        )
      )
      await waitFor(() => server.asked(slow).length === 1, 'the gateway to ask for the list')
      const { result } = (await modern(gateway.url, secrets.ADMIN, slow)).json
      expect(
        Object.values(result as object)
          .filter(Array.isArray)
          .flat()
      ).toHaveLength(1)
    }
  )
})

describe('long lists', () => {
  const count = 1200
  const numbers = Array.from({ length: count }, (_, i) => i)
  /** In pages of 400, the second of which has an empty cursor. */
  const paged =
    (member: string, items: readonly object[]) =>
    ({ cursor }: { cursor?: string }) => {
      const start = cursor === undefined ? 0 : cursor === '' ? 400 : 800
      const nextCursor = [undefined, '', 'third'][start / 400 + 1]
      return {
        result: { [member]: items.slice(start, start + 400), ...(nextCursor !== undefined && { nextCursor }) }
      }
    }
  const all = {
    'prompts/list': numbers.map(i => ({ name: `p_${i}` })),
    'resources/list': numbers.map(i => ({ uri: `x://${i}`, name: `${i}` })),
    'resources/templates/list': numbers.map(i => ({ uriTemplate: `x://${i}/{id}`, name: `${i}` }))
  }
  const member = { 'prompts/list': 'prompts', 'resources/list': 'resources', 'resources/templates/list': 'resourceTemplates' } as const // prettier-ignore
  const methods = Object.keys(all) as (keyof typeof all)[]
  let gateway: TestGateway

  beforeAll(async () => {
    const answers = Object.fromEntries(methods.map(method => [method, paged(member[method], all[method])]))
    const tools = numbers.map(i => ({ name: `t_${i}`, inputSchema: { type: 'object' } }))
    gateway = (
      await startOver(
        { alpha: { answers, tools } },
        { admin: '*', developer: { alpha: { prompts: ['p_?'], resources: ['x://7*/**'] } } }
      )
    ).gateway
  })
  afterAll(closeAll)

  const identify = (item: any): string => item.uriTemplate ?? item.uri ?? item.name
  const wanted = (method: keyof typeof all) =>
    all[method].map(item => (method === 'prompts/list' ? `alpha__${identify(item)}` : identify(item)))

  test.each(eras.flatMap(era => methods.map(method => [method, era] as const)))(
    '%s is fetched whole, over an empty cursor too, and walked page by page in the %s era (§6.20, §6.22)',
    async (method, era) => {
      const send = await clientOf(gateway, era)
      const pages: string[][] = []
      for (let cursor: string | undefined; ;) {
        const { result } = (await send(method, cursor === undefined ? {} : { cursor })).json
        pages.push(result[member[method]].map(identify) as string[])
        if (result.nextCursor === undefined) break
        cursor = result.nextCursor as string
      }
      expect(pages.map(({ length }) => length)).toEqual([500, 500, 200])
      expect(pages.flat()).toEqual(wanted(method))
    }
  )

  test.each(eras)('refuse a cursor of another kind, and what is no cursor at all, in the %s era (§6.21)', async era => {
    const send = await clientOf(gateway, era)
    const kinds = ['tools/list', ...methods] as const
    const cursors = await Promise.all(kinds.map(async kind => (await send(kind)).json.result.nextCursor as string))
    for (const [i, kind] of kinds.entries()) {
      for (const [j, cursor] of [...cursors, 'garbage', '', 7, null].entries()) {
        const { json } = await send(kind, { cursor })
        expect([kind, cursor, json.error?.code]).toEqual([kind, cursor, i === j ? undefined : -32602])
      }
    }
  })

  test.each(eras)('are one page for a key that sees little of them, in the %s era', async era => {
    const send = await clientOf(gateway, era, secrets.DEVELOPER)
    const seen = await Promise.all(methods.map(async method => (await send(method)).json.result))
    expect(seen.map(result => result.nextCursor as unknown)).toEqual([undefined, undefined, undefined])
    expect(seen[0].prompts.map(identify)).toEqual(wanted('prompts/list').slice(0, 10))
    expect(seen[1].resources.map(identify)).toEqual(wanted('resources/list').filter(uri => /^x:\/\/7/.test(uri)))
    expect(seen[2].resourceTemplates.map(identify)).toEqual(
      wanted('resources/templates/list').filter(uri => /^x:\/\/7/.test(uri))
    )
  })
})
