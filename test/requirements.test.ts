/** Holds the manifest of the protocol's statements against the tests that cite them, and writes its page. */
import { readdirSync, readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { expect, test } from 'vitest'
import { requirements, requirementsPage, type Status } from './requirements.js'

const folder = new URL('.', import.meta.url)
const citation = /\((§6\.\d+(?:, §6\.\d+)*)\)/g

/** Statement -> the test files in which the name of a test cites it. */
const citations = new Map<number, string[]>()
for (const file of readdirSync(folder).sort()) {
  if (!file.endsWith('.test.ts') || file === basename(import.meta.filename)) continue
  const cited = readFileSync(new URL(file, folder), 'utf8').matchAll(citation)
  const ids = new Set([...cited].flatMap(([, list = '']) => list.split(', ').map(each => Number(each.slice(3)))))
  for (const id of ids) citations.set(id, [...(citations.get(id) ?? []), file])
}
const shownBy = (id: number) => citations.get(id) ?? []
const idsOf = (kind: Status['kind']) => requirements.filter(({ status }) => status.kind === kind).map(({ id }) => id)

test('the manifest has each of the 70 statements once, in order', () => {
  expect(requirements.map(({ id }) => id)).toEqual(Array.from({ length: 70 }, (_, i) => i + 1))
})

test('every statement that is said to pass is cited by a test', () => {
  expect(idsOf('pass').filter(id => shownBy(id).length === 0)).toEqual([])
})

test('no statement is cited by a test and yet said to be open or not to apply', () => {
  const others = [...idsOf('open'), ...idsOf('not applicable')]
  expect(others.map(id => [id, ...shownBy(id)]).filter(row => row.length > 1)).toEqual([])
})

test('no test cites a statement that does not exist', () => {
  const known = requirements.map(({ id }) => id)
  expect([...citations.keys()].filter(id => !known.includes(id))).toEqual([])
})

test('requirements.md says what the manifest and the tests say', async () => {
  await expect(requirementsPage(shownBy)).toMatchFileSnapshot('requirements.md')
})
