/**
 * From the bytes of a body to a JSON value, without trust: what Node would silently repair (invalid UTF-8) or survive
 * now and choke on later (nesting: `JSON.stringify` overflows the stack near 5,000) is refused before it is parsed.
 * RFC 8259: UTF-8 without a byte order mark (8.1); a depth limit of our own (9).
 */

import { isUtf8 } from 'node:buffer'

export type ParsedBody =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly reason: 'utf8' | 'depth' | 'json' | 'empty' }

export interface ParseBodyOptions {
  /** Deepest nesting of arrays and objects that is accepted; `[]` is 1. @default 64 */
  readonly maxDepth?: number
}

/**
 * Parses one body. Never throws; `reason` says the first thing wrong: no bytes at all (`empty`), invalid UTF-8 (`utf8`),
 * nested deeper than `maxDepth` (`depth`), or not JSON (`json`), which includes a leading byte order mark.
 */
export function parseBody(bytes: Buffer, { maxDepth = 64 }: ParseBodyOptions = {}): ParsedBody {
  if (bytes.length === 0) return { ok: false, reason: 'empty' }
  if (!isUtf8(bytes)) return { ok: false, reason: 'utf8' }
  if (exceedsDepth(bytes, maxDepth)) return { ok: false, reason: 'depth' }
  try {
    // Buffer, unlike TextDecoder, keeps a byte order mark, so JSON.parse refuses it.
    return { ok: true, value: JSON.parse(bytes.toString('utf8')) as unknown }
  } catch {
    return { ok: false, reason: 'json' }
  }
}

const quote = 0x22
const backslash = 0x5c
const openArray = 0x5b
const closeArray = 0x5d
const openObject = 0x7b
const closeObject = 0x7d

/**
 * Whether arrays and objects are nested deeper than `max` anywhere in the JSON text `bytes`; brackets inside strings do
 * not count. One pass, no allocation; of text that is not JSON it says something, but always ends.
 */
export function exceedsDepth(bytes: Buffer, max: number): boolean {
  let depth = 0
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]
    if (byte === quote) i = endOfString(bytes, i + 1)
    else if (byte === openArray || byte === openObject) {
      if (++depth > max) return true
    } else if (byte === closeArray || byte === closeObject) depth--
  }
  return false
}

/** What a server says may be nested so deep: written again, JSON of 5,000 levels would overflow the stack. */
const deepest = 1000
/** A shorter text cannot be nested deeply enough to do harm; most are shorter. */
const harmless = 4096

export const tooDeep = `it is nested more than ${deepest} levels deep`

/** Whether a message of a server is nested too deeply to be passed on. */
export function nestsTooDeep(text: Buffer | string): boolean {
  if (text.length <= harmless) return false
  return exceedsDepth(typeof text === 'string' ? Buffer.from(text) : text, deepest)
}

/** Calls into native code pay only on long strings, so the first bytes of each are looked at here. */
const shortString = 64

/** The index of the quote that ends the string whose first byte is at `start`, or the length if none does. */
function endOfString(bytes: Buffer, start: number): number {
  const near = Math.min(start + shortString, bytes.length)
  let i = start
  for (; i < near; i++) {
    const byte = bytes[i]
    if (byte === quote) return i
    if (byte === backslash) i++
  }
  let from = i
  for (;;) {
    const end = bytes.indexOf(quote, from)
    if (end === -1) return bytes.length
    let escapes = 0
    while (end - escapes > from && bytes[end - escapes - 1] === backslash) escapes++
    if (escapes % 2 === 0) return end
    from = end + 1
  }
}

/** About how many bytes a JSON value holds in memory: of small parts many times as much as of their text. */
export function bytesHeld(value: unknown): number {
  if (typeof value === 'string') return 16 + value.length
  if (typeof value !== 'object' || value === null) return 8
  let bytes = 32
  if (Array.isArray(value)) for (const item of value) bytes += 8 + bytesHeld(item)
  else for (const name in value) bytes += 16 + name.length + bytesHeld((value as Record<string, unknown>)[name])
  return bytes
}

/** A number of bytes for people: whole MiB where it is that, else KiB. */
export function sizeText(bytes: number): string {
  const mib = bytes / 1024 / 1024
  return Number.isInteger(mib) ? `${mib} MiB` : `${Math.floor(bytes / 1024)} KiB`
}
