/**
 * Public names: wire name -> the name shown downstream, valid and distinct in every client. Pure; going back from a
 * public name is a look-up in the snapshot, never a split.
 *
 * Distinct within a server, after folding: `distinctNames` returns only when no two names fold alike. Distinct across
 * servers: a valid id neither contains two separators in a row nor ends in one, and `<id>__` is never cut, so the first
 * `__` of a folded name ends the folded id; ids differ after folding, hence so do the names. For the same reason a name
 * depends on nothing but the names of its own server.
 */
import { createHash } from 'node:crypto'

/** What clients make equal: case, and `-` against `_`. */
export function fold(name: string): string {
  return name.toLowerCase().replaceAll('-', '_')
}

/**
 * The public names of one server's tools or prompts, in the order given: `<server>__<wire>`. One that has other
 * characters than `[A-Za-z0-9_-]`, is too long, or folds like another of this server ends in `_` and 8 hexadecimal digits.
 *
 * @param maxLength at least the length of the server id + 11
 */
export function publicNames(server: string, wireNames: readonly string[], maxLength = 46): readonly string[] {
  const prefix = `${server}__`
  if (prefix.length + suffixLength > maxLength) {
    throw new RangeError(
      `expected room for ${prefix.length + suffixLength} characters in the names of ${server}, got ${maxLength}`
    )
  }
  return distinctNames(wireNames, { server, prefix, foreign: /[^A-Za-z0-9_-]/gu, maxLength, alike: fold })
}

/** The names of one server's tools or prompts where they stand without prefix: unchanged if `^[A-Za-z0-9_.-]{1,128}$`. */
export function plainNames(wireNames: readonly string[]): readonly string[] {
  return distinctNames(wireNames, {
    server: '',
    prefix: '',
    foreign: /[^A-Za-z0-9_.-]/gu,
    maxLength: 128,
    alike: name => name
  })
}

interface Style {
  readonly server: string
  readonly prefix: string
  /** The characters to replace; global. */
  readonly foreign: RegExp
  readonly maxLength: number
  /** Two names for which this is equal may not stand together. */
  readonly alike: (name: string) => string
}

const suffixLength = 1 + 8

/**
 * Rounds of proposals: attempt 0 is the natural name, attempt n the n-th suffixed one. Where several meet, a natural
 * name that is the only one stays and the others try again; without one, all do. Each round looks at all of them at
 * once, so the outcome does not depend on the order of the list.
 */
function distinctNames(wireNames: readonly string[], style: Style): readonly string[] {
  if (areDistinct(wireNames, style)) return wireNames.map(wire => style.prefix + wire)
  const attempts = new Map<string, number>()
  const names = new Map<string, string>()
  const meetings = new Map<string, Set<string>>()
  const isNatural = (wire: string): boolean => attempts.get(wire) === 0

  let homeless = new Set(wireNames)
  for (const wire of homeless) attempts.set(wire, fits(wire, style) ? 0 : 1)

  while (homeless.size > 0) {
    const touched = new Set<Set<string>>()
    for (const wire of homeless) {
      const name = spell(wire, attempts.get(wire) ?? 1, style)
      names.set(wire, name)
      const place = style.alike(name)
      const meeting = meetings.get(place) ?? new Set()
      meetings.set(place, meeting.add(wire))
      touched.add(meeting)
    }
    homeless = new Set()
    for (const meeting of touched) {
      if (meeting.size === 1) continue
      const naturals = [...meeting].filter(isNatural)
      for (const wire of meeting) {
        if (naturals.length === 1 && wire === naturals[0]) continue
        meeting.delete(wire)
        homeless.add(wire)
      }
    }
    for (const wire of homeless) attempts.set(wire, (attempts.get(wire) ?? 0) + 1)
  }
  return wireNames.map(wire => names.get(wire) ?? wire)
}

/** Whether all natural names fit and none meets another: nearly every server, and a start has to name all tools. */
function areDistinct(wireNames: readonly string[], style: Style): boolean {
  const places = new Set<string>()
  for (const wire of wireNames) {
    if (!fits(wire, style)) return false
    places.add(style.alike(style.prefix + wire))
  }
  return places.size === wireNames.length
}

function fits(wire: string, { prefix, foreign, maxLength }: Style): boolean {
  const name = prefix + wire
  return name.length > 0 && name.length <= maxLength && wire.search(foreign) === -1
}

function spell(wire: string, attempt: number, { server, prefix, foreign, maxLength }: Style): string {
  if (attempt === 0) return prefix + wire
  const stem = (prefix + wire.replace(foreign, '_')).slice(0, maxLength - suffixLength)
  return `${stem}_${digest(server, wire, attempt)}`
}

/** From the second attempt on over UTF-16: in UTF-8 all lone surrogates are one character, and would meet for ever. */
function digest(server: string, wire: string, attempt: number): string {
  const text = `${server}\0${wire}`
  const bytes = attempt === 1 ? Buffer.from(text) : Buffer.from(`${text}\0${attempt}`, 'utf16le')
  return createHash('sha256').update(bytes).digest('hex').slice(0, 8)
}
