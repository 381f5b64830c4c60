/**
 * What a request names, found for the one who asks. Tools and prompts go by table, resources by where their URI leads;
 * what may not be seen is not found. Every method but `tools/call` is a row of `askables`.
 */
import { errorTable } from './errors.js'
import type { ToolEntry } from './catalog/tool-entry.js'
import type { Viewer } from './catalog/sight.js'
import type { Catalog } from './catalog/snapshot.js'
import type { Era } from './wire/era.js'
import { isObject, type Json, type RpcError } from './wire/json-rpc.js'
import type { TaskIds } from './tasks.js'
import type { ChangeKind } from './wire/lists.js'

/** Found: whose it is, the server's own name or URI of it, and the params as the server must get them. */
export interface Target {
  readonly server: string
  readonly wireName: string
  readonly params: Json
  /** What it is about, for the audit trail, where that is not its wire name. */
  readonly about?: string
}

export interface Askable {
  /** The list the named thing stands in. */
  readonly kind: ChangeKind
  /** What the params must be, for the sentence of a refusal. */
  readonly expected: string
  /** The name, URI or template the params name; undefined when they do not. */
  nameOf(params: Json): string | undefined
  find(catalog: Catalog, viewer: Viewer, params: Json, keyId: string): Target | undefined
  /** The answer when there is no such thing, or none that may be seen. */
  unknown(name: string, era: Era): RpcError
  /** Whether a server's error says that it does not know what it listed. */
  isUnknown(error: RpcError): boolean
  readonly isCacheable?: boolean
  /** Running it twice would change something. @default false */
  readonly isOnce?: boolean
}

const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)
const { rpc: invalidParams } = errorTable.invalid_params
/** 2025-11-25, Resources: Error Handling; 2026-07-28 has no code of its own for it. */
const resourceNotFound = -32002

const unknownPrompt = (name: string): RpcError => ({ code: invalidParams, message: `Unknown prompt: ${name}` })
const unknownResource = (uri: string, era: Era): RpcError => ({
  code: era === 'legacy' ? resourceNotFound : invalidParams,
  message: `Resource not found: ${uri}`,
  data: { uri }
})

const prompt: Askable = {
  kind: 'prompts',
  expected: 'expected params.name to be the name of a prompt',
  nameOf: ({ name }) => text(name),
  find(catalog, viewer, params) {
    const found = findPrompt(catalog, viewer, params.name as string)
    return found && { ...found, params: { ...params, name: found.wireName } }
  },
  unknown: unknownPrompt,
  isUnknown: ({ code, message }) =>
    code === invalidParams && /unknown|not found/i.test(message) && /prompt/i.test(message)
}

const resource: Askable = {
  kind: 'resources',
  expected: 'expected params.uri to be the URI of a resource',
  nameOf: ({ uri }) => text(uri),
  find(catalog, viewer, params) {
    const route = catalog.routeUri(viewer, params.uri as string)
    return route && { server: route.server, wireName: route.uri, params: { ...params, uri: route.uri } }
  },
  unknown: unknownResource,
  isUnknown: ({ code }) => code === resourceNotFound,
  isCacheable: true
}

const completion: Askable = {
  kind: 'prompts',
  expected: 'expected params.ref to be a reference of type ref/prompt with a name, or of type ref/resource with a uri',
  nameOf({ ref }) {
    if (!isObject(ref)) return undefined
    return ref.type === 'ref/prompt' ? text(ref.name) : ref.type === 'ref/resource' ? text(ref.uri) : undefined
  },
  find(catalog, viewer, params) {
    const ref = params.ref as Json
    if (ref.type === 'ref/prompt') {
      const found = findPrompt(catalog, viewer, ref.name as string)
      return found && { ...found, params: { ...params, ref: { ...ref, name: found.wireName } } }
    }
    const uri = ref.uri as string
    const route = catalog.routeTemplate(viewer, uri) ?? catalog.routeUri(viewer, uri)
    return (
      route && { server: route.server, wireName: route.uri, params: { ...params, ref: { ...ref, uri: route.uri } } }
    )
  },
  unknown: name => ({ code: invalidParams, message: `Unknown reference: ${name}` }),
  isUnknown: () => false
}

/** A task leads back to the server that made it, for the key it was made for, as long as that may see its tool. */
function task(taskIds: TaskIds): Askable {
  return {
    kind: 'tools',
    expected: 'expected params.taskId to be the id of a task',
    nameOf: ({ taskId }) => text(taskId),
    find(_catalog, { sight, scope }, params, keyId) {
      const found = taskIds.open(params.taskId as string, keyId)
      if (!found || !(scope.servers?.includes(found.server) ?? true)) return undefined
      if (!sight.sees(found.server, 'tools', found.tool)) return undefined
      const { server, tool, id } = found
      return { server, wireName: id, params: { ...params, taskId: id }, about: tool }
    },
    unknown: () => ({ code: invalidParams, message: 'Unknown task' }),
    isUnknown: () => false
  }
}

export type Askables = Readonly<Record<string, Askable>>

export function createAskables(taskIds: TaskIds): Askables {
  return {
    'prompts/get': prompt,
    'resources/read': resource,
    'completion/complete': completion,
    'tasks/get': task(taskIds),
    'tasks/update': { ...task(taskIds), isOnce: true },
    'tasks/cancel': task(taskIds)
  }
}

function findPrompt(
  catalog: Catalog,
  { sight, scope }: Viewer,
  name: string
): { readonly server: string; readonly wireName: string } | undefined {
  const { plain, servers } = scope
  const entry = plain
    ? servers?.[0] === undefined
      ? undefined
      : catalog.server(servers[0])?.byPlainName(name, 'prompts')
    : catalog.byPublicName(name, 'prompts')
  if (!entry || !(servers?.includes(entry.server) ?? true)) return undefined
  if (!sight.sees(entry.server, 'prompts', entry.wireName)) return undefined
  return { server: entry.server, wireName: entry.wireName }
}

/** The tool of that name, whether or not it may be seen. */
export function findTool(catalog: Catalog, viewer: Viewer, name: string): ToolEntry | undefined {
  const { plain, servers } = viewer.scope
  if (plain) return servers?.[0] === undefined ? undefined : catalog.server(servers[0])?.byPlainName(name)
  const entry = catalog.byPublicName(name)
  if (!entry) return findBare(catalog, viewer, name)
  return servers && !servers.includes(entry.server) ? undefined : entry
}

/** The one decision: what a key may call is what it sees. */
export function maySee({ sight }: Viewer, { server, wireName }: ToolEntry): boolean {
  return sight.sees(server, 'tools', wireName)
}

/** A tool called by its own name, as apps do, if exactly one that may be seen has it. */
function findBare(catalog: Catalog, viewer: Viewer, name: string): ToolEntry | undefined {
  const { servers } = viewer.scope
  const seen = catalog
    .byBareName(name)
    .filter(entry => maySee(viewer, entry) && (servers?.includes(entry.server) ?? true))
  return seen.length === 1 ? seen[0] : undefined
}
