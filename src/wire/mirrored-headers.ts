/**
 * The headers in which a 2026-07-28 client repeats parts of its body so that intermediaries need not read it:
 * `Mcp-Method`, `Mcp-Name` and, for arguments annotated with `x-mcp-header`, `Mcp-Param-*` (Streamable HTTP, Standard
 * Request Headers and Custom Headers; protocol reference 3.11). Whether they agree with the body, and which to send
 * upstream. They are only ever checked: nothing is routed or allowed by them.
 */

import { isUtf8 } from 'node:buffer'
import { isObject } from './json-rpc.js'

/** As Node gives them: names in lower case. */
export type IncomingHeaders = Readonly<Record<string, string | string[] | undefined>>

/** One annotated property of a tool's input schema. */
export interface ParamAnnotation {
  /** Property names from the arguments' root down to the value. */
  readonly path: readonly string[]
  /** The header's full name as declared, `Mcp-Param-<value>`. */
  readonly header: string
  readonly type: 'string' | 'integer' | 'boolean' | 'number'
}

/** Keyed by what follows `mcp-param-` in the lower-case header name. */
export type ParamAnnotations = ReadonlyMap<string, ParamAnnotation>

const sentinelStart = '=?base64?'
const sentinelEnd = '?='
const plainValue = /^[!-~](?:[ -~]*[!-~])?$/
const decimal = /^-?\d+(?:\.\d+)?$/
const placeRule = 'may stand only on a property reached through "properties" alone'
const typeRule = 'needs the type string, integer or boolean'
const headerToken = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/

/** The value behind a header: base64 form decoded, plain form as it is; undefined if the base64 form is malformed. */
export function decodeHeaderValue(raw: string): string | undefined {
  if (!hasSentinel(raw)) return raw
  const base64 = raw.slice(sentinelStart.length, -sentinelEnd.length)
  const bytes = Buffer.from(base64, 'base64')
  const canonical = raw.length >= sentinelStart.length + sentinelEnd.length && bytes.toString('base64') === base64
  return canonical && isUtf8(bytes) ? bytes.toString('utf8') : undefined
}

/** `value` as a header may carry it: itself if it is plain ASCII and unambiguous, else `=?base64?…?=`. */
export function encodeHeaderValue(value: string): string {
  if (plainValue.test(value) && !hasSentinel(value)) return value
  return `${sentinelStart}${Buffer.from(value, 'utf8').toString('base64')}${sentinelEnd}`
}

function hasSentinel(value: string): boolean {
  return value.startsWith(sentinelStart) && value.endsWith(sentinelEnd)
}

/** The member of params that `Mcp-Name` repeats, for the methods that need it. */
export const nameSources: Readonly<Record<string, string>> = {
  'tools/call': 'name',
  'prompts/get': 'name',
  'resources/read': 'uri',
  'tasks/get': 'taskId',
  'tasks/update': 'taskId',
  'tasks/cancel': 'taskId'
}

/**
 * What is wrong with `Mcp-Method` and `Mcp-Name` of a request, as a sentence for its sender; undefined if nothing is.
 * A body that lacks the member `Mcp-Name` repeats is left to whoever checks params.
 */
export function checkMirroredHeaders(
  headers: IncomingHeaders,
  message: { readonly method: string; readonly params?: Readonly<Record<string, unknown>> }
): string | undefined {
  const wrongMethod = compare('Mcp-Method', headers['mcp-method'], 'method', message.method)
  if (wrongMethod !== undefined) return wrongMethod
  const source = Object.hasOwn(nameSources, message.method) ? nameSources[message.method] : undefined
  const value = source === undefined ? undefined : message.params?.[source]
  return typeof value === 'string' ? compare('Mcp-Name', headers['mcp-name'], `params.${source}`, value) : undefined
}

function compare(
  header: string,
  raw: string | string[] | undefined,
  member: string,
  value: string
): string | undefined {
  if (raw === undefined) return `The ${header} header is missing: the body says ${member} is ${shown(value)}.`
  if (typeof raw !== 'string') return `The ${header} header was sent more than once.`
  const decoded = decodeHeaderValue(raw)
  if (decoded === undefined) return `The ${header} header is not valid base64 of UTF-8.`
  if (decoded === value) return undefined
  return `The ${header} header says ${shown(decoded)}, but in the body ${member} is ${shown(value)}.`
}

function shown(value: string): string {
  return JSON.stringify(value.length > 100 ? `${value.slice(0, 100)}…` : value)
}

/** Where JSON Schema keeps subschemas besides `properties`, directly or under names: no annotation may be below. */
const directKeywords = [
  ...['items', 'prefixItems', 'contains', 'additionalProperties', 'unevaluatedProperties', 'unevaluatedItems'],
  ...['propertyNames', 'oneOf', 'anyOf', 'allOf', 'not', 'if', 'then', 'else']
]
const namedKeywords = ['patternProperties', 'dependentSchemas', '$defs', 'definitions']

interface Place {
  readonly schema: unknown
  /** The property this schema is for, or the keyword it stands under; absent at the root. */
  readonly key?: string
  readonly parent?: Place
  /** Whether only `properties` lead here from the root. */
  readonly reachable: boolean
}

/**
 * Collects the `x-mcp-header` annotations of a tool's input schema. `invalid` says the first rule broken, which makes
 * the whole tool definition invalid; `annotations` is empty then, unless the only fault is a property of type `number`:
 * a client may not send such headers, but those that come are still checked.
 */
export function paramAnnotations(inputSchema: unknown): { annotations: ParamAnnotations; invalid?: string } {
  const annotations = new Map<string, ParamAnnotation>()
  let numberFault: string | undefined
  const places: Place[] = [{ schema: inputSchema, reachable: true }]
  // The list grows while it is walked; recursion would let a deep schema overflow the stack.
  for (const place of places) {
    if (!isObject(place.schema)) continue
    if (Object.hasOwn(place.schema, 'x-mcp-header')) {
      const { type, 'x-mcp-header': name } = place.schema
      const path = pathOf(place)
      const fault = (rule: string) => ({
        annotations: new Map<string, ParamAnnotation>(),
        invalid: `x-mcp-header at ${path.length === 0 ? 'the root' : shown(path.join('.'))} ${rule}`
      })
      if (!place.reachable || path.length === 0) return fault(placeRule)
      if (typeof name !== 'string' || !headerToken.test(name)) return fault('is not an RFC 9110 token')
      if (!isHeaderType(type)) return fault(typeRule)
      if (annotations.has(name.toLowerCase())) return fault(`repeats ${shown(name)}; case does not count`)
      if (type === 'number') numberFault ??= fault(typeRule).invalid
      annotations.set(name.toLowerCase(), { path, header: `Mcp-Param-${name}`, type })
    }
    for (const below of placesBelow(place, place.schema)) places.push(below)
  }
  return numberFault === undefined ? { annotations } : { annotations, invalid: numberFault }
}

function placesBelow(parent: Place, schema: Record<string, unknown>): Place[] {
  return Object.entries(schema).flatMap(([keyword, value]): Place[] => {
    if (keyword === 'properties' && isObject(value)) {
      return Object.entries(value).map(([key, child]) => ({ schema: child, key, parent, reachable: parent.reachable }))
    }
    let children: unknown[] = []
    if (directKeywords.includes(keyword)) children = Array.isArray(value) ? value : [value]
    else if (namedKeywords.includes(keyword) && isObject(value)) children = Object.values(value)
    return children.map(child => ({ schema: child, key: `<${keyword}>`, parent, reachable: false }))
  })
}

function pathOf(place: Place): string[] {
  const path: string[] = []
  for (let at: Place | undefined = place; at?.key !== undefined; at = at.parent) path.push(at.key)
  return path.reverse()
}

function isHeaderType(type: unknown): type is ParamAnnotation['type'] {
  return type === 'string' || type === 'integer' || type === 'boolean' || type === 'number'
}

/** The `Mcp-Param-*` headers for a call with these arguments; none for null, absent or unprintable values. */
export function paramHeaders(annotations: ParamAnnotations, args: unknown): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const { header, path } of annotations.values()) {
    const text = textOf(valueAt(args, path))
    if (text !== undefined) headers[header] = encodeHeaderValue(text)
  }
  return headers
}

/**
 * What is wrong with the `Mcp-Param-*` headers of a call, as a sentence that does not repeat argument values; undefined
 * if nothing is. A header whose argument is null or absent is ignored, as the SDK does. Numbers compare by value: 42.0 is 42.
 */
export function checkParamHeaders(
  headers: IncomingHeaders,
  annotations: ParamAnnotations,
  args: unknown
): string | undefined {
  for (const [suffix, { header, path, type }] of annotations) {
    const value = valueAt(args, path)
    const text = textOf(value)
    if (text === undefined) continue
    const argument = `the argument ${shown(path.join('.'))}`
    const raw = headers[`mcp-param-${suffix}`]
    if (raw === undefined) return `The ${header} header is missing: it has to repeat ${argument}.`
    const decoded = typeof raw === 'string' ? decodeHeaderValue(raw) : undefined
    if (decoded === undefined)
      return `The ${header} header is not a valid value: send it once, plain or as base64 of UTF-8.`
    const numeric = (type === 'integer' || type === 'number') && typeof value === 'number' && decimal.test(decoded)
    if (numeric ? Number(decoded) !== value : decoded !== text)
      return `The ${header} header does not match ${argument}.`
  }
  return undefined
}

function valueAt(root: unknown, path: readonly string[]): unknown {
  let value = root
  for (const key of path) {
    if (!isObject(value) || !Object.hasOwn(value, key)) return undefined
    value = value[key]
  }
  return value
}

/** Strings as they are, booleans and numbers as JSON writes them; integers that JSON may have rounded are left out. */
function textOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  if (typeof value === 'boolean') return String(value)
  if (typeof value !== 'number' || !Number.isFinite(value)) return undefined
  return Number.isInteger(value) && !Number.isSafeInteger(value) ? undefined : String(value)
}
