/** The house of ARCHITECTURE.md as a test: which room may import which, no circles, nothing alive at module level. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, it } from 'vitest'

const root = resolve(import.meta.dirname, '..', 'src')

/** Room -> rooms it may import; `types` marks those from which only types may come. */
const table: Record<string, { may: readonly string[]; types?: readonly string[] }> = {
  cli: { may: ['commands', 'config', 'version'] },
  commands: {
    may: [
      'gateway',
      'config',
      'upstream',
      'catalog',
      'policy',
      'observe',
      'errors',
      'wire',
      'secrets',
      'state',
      'version'
    ]
  },
  gateway: {
    may: [
      'relay',
      'parties',
      'tasks',
      'secrets',
      'backchannel',
      'config',
      'downstream',
      'catalog',
      'policy',
      'upstream',
      'observe',
      'errors',
      'wire',
      'state',
      'version'
    ]
  },
  relay: {
    may: [
      'shown',
      'told',
      'finding',
      'answers',
      'targets',
      'legs',
      'tasks',
      'parties',
      'catalog',
      'policy',
      'errors',
      'wire',
      'observe'
    ]
  },
  parties: { may: [], types: ['catalog', 'policy', 'wire'] },
  finding: { may: ['targets', 'parties', 'catalog', 'wire'] },
  shown: { may: ['finding', 'parties', 'catalog', 'policy', 'errors', 'wire'] },
  told: { may: ['answers', 'finding', 'subscriptions', 'targets', 'parties', 'policy', 'errors', 'wire'] },
  answers: { may: ['catalog', 'errors', 'wire', 'observe'] },
  legs: { may: ['parties', 'catalog', 'wire'] },
  targets: { may: ['catalog', 'tasks', 'errors', 'wire'] },
  subscriptions: { may: [] },
  tasks: { may: ['wire'] },
  backchannel: { may: ['catalog', 'policy', 'errors', 'wire', 'observe'] },
  downstream: { may: ['relay', 'parties', 'backchannel', 'policy', 'errors', 'wire', 'observe'], types: ['catalog'] },
  upstream: { may: ['errors', 'wire', 'observe'], types: ['config'] },
  catalog: { may: ['errors', 'wire'], types: ['config'] },
  policy: { may: ['errors', 'wire'], types: ['config'] },
  observe: { may: ['errors'], types: ['config'] },
  config: { may: ['errors'] },
  secrets: { may: ['policy'], types: ['state'] },
  state: { may: ['errors'] },
  wire: { may: [] },
  errors: { may: [] },
  version: { may: [] }
}

interface Import {
  readonly from: string
  readonly to: string
  readonly typeOnly: boolean
}

const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter(file => file.endsWith('.ts'))
const roomOf = (file: string) => (file.includes('/') ? (file.split('/')[0] as string) : file.replace(/\.ts$/, ''))
const imports: Import[] = files.flatMap(file => {
  const text = readFileSync(join(root, file), 'utf8')
  return [...text.matchAll(/^(?:import|export)\s+(type\s+)?([^'"]*?)from\s+'(\.[^']+)'|import\('(\.[^']+)'\)/gm)].map(
    ([, type, names = '', path, dynamic]) => ({
      from: file,
      to: relative(root, resolve(root, dirname(file), (path ?? dynamic) as string)).replace(/\.js$/, '.ts'),
      typeOnly:
        type !== undefined ||
        (/^\{[^}]*\}\s*$/.test(names) &&
          names
            .replace(/[{}]/g, '')
            .split(',')
            .every(name => name.trim() === '' || name.trim().startsWith('type ')))
    })
  )
})

describe('the house', () => {
  it('has no room the table does not know', () => {
    expect([...new Set(files.map(roomOf))].filter(room => !(room in table))).toEqual([])
  })

  it.each(Object.keys(table))('%s imports only what it may', room => {
    const { may, types = [] } = table[room] as { may: readonly string[]; types?: readonly string[] }
    const breaches = imports
      .filter(({ from, to }) => roomOf(from) === room && roomOf(to) !== room)
      .filter(({ to, typeOnly }) => !may.includes(roomOf(to)) && !(typeOnly && types.includes(roomOf(to))))
    expect(breaches).toEqual([])
  })

  it('has no circle of imports, be they of types alone', () => {
    const next = new Map(files.map(file => [file, imports.filter(({ from }) => from === file).map(({ to }) => to)]))
    const circles: string[] = []
    const done = new Set<string>()
    const walk = (file: string, path: readonly string[]) => {
      if (path.includes(file)) return void circles.push([...path.slice(path.indexOf(file)), file].join(' → '))
      if (done.has(file)) return
      for (const to of next.get(file) ?? []) walk(to, [...path, file])
      done.add(file)
    }
    for (const file of files) walk(file, [])
    expect(circles).toEqual([])
  })

  it('keeps nothing alive at module level', () => {
    const alive = files.flatMap(file =>
      readFileSync(join(root, file), 'utf8')
        .split('\n')
        .filter(
          line =>
            /^(?:export )?(?:let|var) |^(?:export )?const \w+(?:: [^=]+)? = new (?!Set\(\[|Map\(\[)/.test(line) &&
            !/ReadonlySet|ReadonlyMap/.test(line)
        )
        .map(line => `${file}: ${line}`)
    )
    expect(alive).toEqual([])
  })

  it('is the one ARCHITECTURE.md draws', () => {
    const drawn = readFileSync(resolve(root, '..', 'ARCHITECTURE.md'), 'utf8')
    const missing = files.filter(file => !drawn.includes(file.split('/').at(-1) as string))
    expect(missing).toEqual([])
  })
})
