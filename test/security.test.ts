/** Holds the list of attacks against the tests that show them, and writes its page. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { expect, test } from 'vitest'
import { attacks, attended, elsewhere, securityPage, type Shown } from './security.js'

const folder = new URL('.', import.meta.url)
const ids = '[ATUCOGZ]\\d+(?:, [ATUCOGZ]\\d+)*'
/** `attack('T3', …` and its like, and names of tests: `'T3: …` and `… (T3)'`. */
const asAttack = new RegExp(`\\battack(?:From|Process)?\\(\\s*'(${ids})'`, 'g')
const asName = new RegExp(`['"\`](${ids}): |\\((${ids})\\)['"\`]`, 'g')

const shown = new Map<string, { named: string[]; attended: string[] }>()
function note(file: string, pattern: RegExp, isAttended: boolean): void {
  for (const [, first, second] of readFileSync(new URL(file, folder), 'utf8').matchAll(pattern)) {
    for (const id of (first ?? second ?? '').split(', ')) {
      const entry = shown.get(id) ?? { named: [], attended: [] }
      if (!entry.named.includes(file)) entry.named.push(file)
      if (isAttended && !entry.attended.includes(file)) entry.attended.push(file)
      shown.set(id, entry)
    }
  }
}
for (const file of readdirSync(folder).sort()) {
  if (!file.endsWith('.test.ts') || file === basename(import.meta.filename)) continue
  note(file, asAttack, true)
  note(file, asName, false)
}
const shownBy = (id: string): Shown => shown.get(id) ?? { named: [], attended: [] }

test('the list has each attack once', () => {
  expect(attacks.map(({ id }) => id).filter((id, i, all) => all.indexOf(id) !== i)).toEqual([])
})

test('no test names an attack that does not exist', () => {
  const known = new Set(attacks.map(({ id }) => id))
  expect([...shown.keys()].filter(id => !known.has(id) && !elsewhere.test(id))).toEqual([])
})

test('every attack is shown by an `attack`, or the list says why it does not need the company of one', () => {
  const unattended = attacks.filter(
    ({ id, alone }) => attended.test(id) && shownBy(id).attended.length === 0 && alone === undefined
  )
  expect(unattended.map(({ id }) => id)).toEqual([])
})

test('no reason is given for what has that company, nor for what no test shows', () => {
  const reasoned = attacks.filter(({ alone }) => alone !== undefined)
  expect(reasoned.filter(({ id }) => shownBy(id).attended.length > 0).map(({ id }) => id)).toEqual([])
  expect(reasoned.filter(({ id }) => shownBy(id).named.length === 0).map(({ id }) => id)).toEqual([])
})

test('files that show an attack without naming it exist', () => {
  const files = attacks.flatMap(({ also = [] }) => also)
  expect(files.filter(file => !existsSync(new URL(file, folder)))).toEqual([])
})

test('security.md says what the list and the tests say', async () => {
  await expect(securityPage(shownBy)).toMatchFileSnapshot('security.md')
})
