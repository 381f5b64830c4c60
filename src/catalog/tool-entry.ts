/**
 * One tool as the gateway exports it. The definition passes as the server wrote it; touched are only its name, the 2025
 * task member (tasks are not bridged), and what is invalid or measured to break a current client's whole conversation:
 * an input schema whose root is no object, an array without `items`, property keys outside `[a-zA-Z0-9_.-]{1,64}`.
 */
import { createHash } from 'node:crypto'
import type { Era } from '../wire/era.js'
import { isObject, type Json } from '../wire/json-rpc.js'
import { paramAnnotations, type ParamAnnotations } from '../wire/mirrored-headers.js'
import { aliasOf, definitions, type Entry, type EntryNames } from './entry.js'

export interface ToolEntry extends Entry {
  readonly kind: 'tools'
  /** Running it twice does no harm, by its own annotations. */
  readonly repeatable: boolean
  /** Exported argument name -> the upstream's, where a property key had to be renamed. */
  readonly renamedArguments: ReadonlyMap<string, string> | undefined
  /** Its output schema is no object, so 2025-era clients are shown it as the member `result` of one. */
  readonly wrapsOutput: boolean
  /** Arguments that 2026-07-28 mirrors into headers, for checking and for sending; empty for most tools. */
  readonly paramAnnotations: ParamAnnotations
}

/**
 * What a thousand tools cost at a start is what is looked at here: everything else is worked out when first asked for.
 *
 * @param overModernHttp the server is reached over Streamable HTTP of 2026-07-28, where a tool with an invalid
 * `x-mcp-header` must be left out (2026-07-28, Tools).
 * @returns the entry, or the reason why the tool cannot be shown to anybody.
 */
export function toolEntry(
  server: string,
  names: EntryNames,
  tool: Json,
  overModernHttp = false
): ToolEntry | { readonly hidden: string } {
  const { execution, inputSchema } = tool
  if (isObject(execution) && execution.taskSupport === 'required') {
    return { hidden: 'it can only run as a 2025-11-25 task, which is not bridged' }
  }
  const fault = rootFault(inputSchema)
  if (fault !== undefined) return { hidden: fault }
  const entry = new LazyToolEntry(server, names, tool)
  return overModernHttp && entry.invalid !== undefined ? { hidden: entry.invalid } : entry
}

/** A class and no object of closures: ten thousand are made at a start. */
class LazyToolEntry implements ToolEntry {
  readonly kind = 'tools'
  readonly wireName: string
  readonly publicName: string
  readonly plainName: string
  readonly uri: string | undefined
  readonly repeatable: boolean
  readonly wrapsOutput: boolean
  readonly #tool: Json
  #bytes: Entry['bytes'] | undefined
  #repaired: Repaired | undefined
  #mirrored: ReturnType<typeof paramAnnotations> | undefined

  constructor(
    readonly server: string,
    { wireName, publicName, plainName }: EntryNames,
    tool: Json
  ) {
    const { outputSchema, annotations } = tool
    this.wireName = wireName
    this.publicName = publicName
    this.plainName = plainName
    this.uri = appUri(tool)
    this.repeatable =
      isObject(annotations) && (annotations.readOnlyHint === true || annotations.idempotentHint === true)
    this.wrapsOutput = isObject(outputSchema) && outputSchema.type !== 'object'
    this.#tool = tool
  }

  /** Why a server reached over Streamable HTTP of 2026-07-28 may not have it. */
  get invalid(): string | undefined {
    return this.#annotated.invalid
  }

  get paramAnnotations(): ParamAnnotations {
    return this.#annotated.annotations
  }

  get renamedArguments(): ReadonlyMap<string, string> | undefined {
    return this.#schema.renamed
  }

  bytes(era: Era, plain: boolean, aliased = false): Buffer {
    this.#bytes ??= definitions((...form) => this.#definition(...form))
    return this.#bytes(era, plain, aliased)
  }

  get #annotated(): ReturnType<typeof paramAnnotations> {
    return (this.#mirrored ??= paramAnnotations(this.#tool.inputSchema))
  }

  get #schema(): Repaired {
    return (this.#repaired ??= repairSchema(this.#tool.inputSchema))
  }

  #definition(era: Era, plain: boolean, aliased: boolean): Json {
    const { name: _name, execution, inputSchema: _inputSchema, ...rest } = this.#tool
    const { taskSupport: _taskSupport, ...otherExecution } = isObject(execution) ? execution : {}
    const kept = era === 'legacy' && Object.keys(otherExecution).length > 0 && { execution: otherExecution }
    const { uri, server } = this
    return {
      name: plain ? this.plainName : this.publicName,
      ...rest,
      ...(aliased && uri !== undefined && { _meta: withAppUri(rest._meta as Json, aliasOf(server, uri)) }),
      inputSchema: this.#schema.schema,
      ...(this.wrapsOutput && era === 'legacy' && { outputSchema: wrapSchema(rest.outputSchema as Json) }),
      ...kept
    }
  }
}

/** MCP Apps: the page that shows a tool's results, in the current or the older form. */
function appUri({ _meta }: Json): string | undefined {
  if (!isObject(_meta)) return undefined
  const uri = (isObject(_meta.ui) ? _meta.ui.resourceUri : undefined) ?? _meta['ui/resourceUri']
  return typeof uri === 'string' ? uri : undefined
}

function withAppUri(meta: Json, uri: string): Json {
  return {
    ...meta,
    ...(isObject(meta.ui) && 'resourceUri' in meta.ui && { ui: { ...meta.ui, resourceUri: uri } }),
    ...('ui/resourceUri' in meta && { 'ui/resourceUri': uri })
  }
}

interface Repaired {
  readonly schema: Json
  readonly renamed: ReadonlyMap<string, string> | undefined
}

/** Why no client could use an input schema, if that is so. */
function rootFault(given: unknown): string | undefined {
  if (given === undefined || given === null) return undefined
  if (!isObject(given)) return 'its inputSchema is no JSON object'
  const { type } = given
  if (type === undefined || type === 'object' || (Array.isArray(type) && type.includes('object'))) return undefined
  return `the root of its inputSchema is of type ${JSON.stringify(type).slice(0, 60)}; tools take an object`
}

function repairSchema(given: unknown): Repaired {
  if (!isObject(given) || Object.keys(given).length === 0) return { schema: { type: 'object' }, renamed: undefined }
  const typed = given.type === 'object' ? given : { ...given, type: 'object' }
  return renameProperties(withItems(typed, 0) as Json)
}

/** Where JSON Schema 2020-12 and draft-07 keep further schemas: one, a list of them, or a map of them by name. */
const schemaKeywords = new Set([
  'items', 'additionalItems', 'additionalProperties', 'unevaluatedItems', 'unevaluatedProperties', 'contains', 'contentSchema',
  'propertyNames', 'not', 'if', 'then', 'else', 'allOf', 'anyOf', 'oneOf', 'prefixItems'
]) // prettier-ignore
const schemaMaps = new Set(['properties', 'patternProperties', 'dependentSchemas', '$defs', 'definitions'])

/** Gives arrays the `items` they lack; the same object where nothing was missing, so that a valid schema stays as it is. */
function withItems(schema: unknown, depth: number): unknown {
  if (depth > 64 || typeof schema !== 'object' || schema === null) return schema
  if (Array.isArray(schema)) return changedOnly(schema, item => withItems(item, depth + 1))
  const mended = changedOnly(schema as Json, (value, key) => {
    if (schemaKeywords.has(key)) return withItems(value, depth + 1)
    return schemaMaps.has(key) && isObject(value) ? changedOnly(value, inner => withItems(inner, depth + 1)) : value
  })
  const { type, items, prefixItems } = mended
  const isArray = type === 'array' || (Array.isArray(type) && type.includes('array'))
  return isArray && items === undefined && prefixItems === undefined ? { ...mended, items: {} } : mended
}

/** The members mapped; the very same object when none of them changed. */
function changedOnly<T extends Json | unknown[]>(whole: T, map: (value: unknown, key: string) => unknown): T {
  let changed = false
  const entries = Object.entries(whole).map(([key, value]): [string, unknown] => {
    const mapped = map(value, key)
    changed ||= mapped !== value
    return [key, mapped]
  })
  if (!changed) return whole
  return (Array.isArray(whole) ? entries.map(([, value]) => value) : Object.fromEntries(entries)) as T
}

const propertyKey = /^[a-zA-Z0-9_.-]{1,64}$/

function renameProperties(schema: Json): Repaired {
  const { properties, required } = schema
  if (!isObject(properties) || Object.keys(properties).every(key => propertyKey.test(key))) {
    return { schema, renamed: undefined }
  }
  const renamed = new Map<string, string>()
  const exported = (key: string) => {
    if (propertyKey.test(key)) return key
    const hash = createHash('sha256').update(key).digest('hex').slice(0, 8)
    const name = `${key.replace(/[^a-zA-Z0-9_.-]/g, '_').slice(0, 55)}_${hash}`
    renamed.set(name, key)
    return name
  }
  return {
    schema: {
      ...schema,
      properties: Object.fromEntries(Object.entries(properties).map(([key, value]) => [exported(key), value])),
      ...(Array.isArray(required) && {
        required: required.map(key => (typeof key === 'string' ? exported(key) : (key as unknown)))
      })
    },
    renamed
  }
}

/** `{result: <schema>}`, with local references moved along (the SDKs' servers do the same for 2025-era clients). */
function wrapSchema(schema: Json): Json {
  return { type: 'object', properties: { result: moveReferences(schema, 0) }, required: ['result'] }
}

function moveReferences(value: unknown, depth: number): unknown {
  if (depth > 64) return value
  if (Array.isArray(value)) return value.map(item => moveReferences(item, depth + 1))
  if (!isObject(value)) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, member]) => {
      const local = key === '$ref' && typeof member === 'string' && (member === '#' || member.startsWith('#/'))
      return [key, local ? `#/properties/result${member.slice(1)}` : moveReferences(member, depth + 1)]
    })
  )
}
