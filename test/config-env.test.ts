import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { resolveScalar } from '../src/config/env.js'

const env = { TOKEN: 'abc', EMPTY: '', NESTED: 'x ${TOKEN} os.environ/TOKEN file:/etc/passwd' }

describe('variables in servers.yaml', () => {
  test.each([
    ['plain text', 'literal', 'plain text'],
    ['Bearer ${TOKEN}', 'taken', 'Bearer abc'],
    ['${TOKEN}${TOKEN}', 'taken', 'abcabc'],
    ['${TOKEN:-other}', 'taken', 'abc'],
    ['${MISSING:-other}', 'literal', 'other'],
    ['${EMPTY:-other}', 'literal', 'other'],
    ['${MISSING:-}', 'literal', ''],
    ['${MISSING:-a:-b\nc}', 'literal', 'a:-b\nc'],
    ['${EMPTY}', 'taken', ''],
    ['os.environ/TOKEN', 'taken', 'abc'],
    ['see os.environ/TOKEN', 'literal', 'see os.environ/TOKEN'],
    ['$TOKEN costs $5 {TOKEN}', 'literal', '$TOKEN costs $5 {TOKEN}'],
    ['$${TOKEN}', 'literal', '${TOKEN}'],
    ['$$${TOKEN}', 'literal', '$${TOKEN}'],
    ['$${TOKEN} ${TOKEN}', 'taken', '${TOKEN} abc'],
    ['${NESTED}', 'taken', env.NESTED]
  ])('%j becomes %s text', (text, kind, value) => {
    expect(resolveScalar(text, { env })).toEqual({ kind, value })
  })

  test('an unset variable is named, each once, in the order of the text', () => {
    expect(resolveScalar('${B}${TOKEN}${A}${B}', { env })).toEqual({ kind: 'unset', names: ['B', 'A'] })
    expect(resolveScalar('os.environ/B', { env })).toEqual({ kind: 'unset', names: ['B'] })
  })

  test('what every object inherits is not a variable', () => {
    expect(resolveScalar('${constructor}${__proto__}', { env })).toEqual({
      kind: 'unset',
      names: ['constructor', '__proto__']
    })
  })

  test.each([
    ['${A:-${B}}', 'a ${…} cannot stand inside another. Write the default as plain text.'],
    ['${TOKEN', 'a ${ is not closed. Close it with }, or write $${ for a literal ${.'],
    ['${}', 'expected ${VAR} or ${VAR:-default}. Write $${ for a literal ${.'],
    ['${A:?message}', 'expected ${VAR} or ${VAR:-default}. Write $${ for a literal ${.'],
    ['${env:TOKEN}', 'expected ${VAR} or ${VAR:-default}. Write $${ for a literal ${.'],
    ['os.environ/MY-TOKEN', 'expected a variable name after os.environ/, such as os.environ/MY_TOKEN.']
  ])('%j is refused with a sentence that says what to write', (text, message) => {
    expect(resolveScalar(text, { env })).toEqual({ kind: 'malformed', message })
  })
})

describe('file: in servers.yaml', () => {
  const read = (content: string) => (path: string) => `${path}|${content}`

  test('a file is read as it is, without its last line break', () => {
    expect(resolveScalar('file:/a', { env, readFile: read('${TOKEN}\n\n') })).toEqual({
      kind: 'taken',
      value: '/a|${TOKEN}\n'
    })
    expect(resolveScalar('file:/a', { env, readFile: read('x\r\n') })).toEqual({ kind: 'taken', value: '/a|x' })
  })

  test('its path may hold variables', () => {
    expect(resolveScalar('file:/run/${TOKEN}', { env, readFile: read('x') })).toEqual({
      kind: 'taken',
      value: '/run/abc|x'
    })
    expect(resolveScalar('file:/run/${A}', { env, readFile: read('x') })).toEqual({ kind: 'unset', names: ['A'] })
  })

  test('where files are not read it is text like any other, and so is a default', () => {
    expect(resolveScalar('file:///data/${TOKEN}', { env })).toEqual({ kind: 'taken', value: 'file:///data/abc' })
    expect(resolveScalar('${A:-file:./dev.db}', { env, readFile: read('x') })).toEqual({
      kind: 'literal',
      value: 'file:./dev.db'
    })
  })

  test('a file that cannot be read is named as it was written', () => {
    const readFile = () => {
      throw Object.assign(new Error('ENOENT: /run/abc'), { code: 'ENOENT' })
    }
    expect(resolveScalar('file:/run/${TOKEN}', { env, readFile })).toEqual({
      kind: 'unreadable',
      message: 'cannot read file:/run/${TOKEN} (ENOENT). Create the file or correct the path.'
    })
  })
})

describe('for any text', () => {
  const piece = fc.constantFrom('$', '{', '}', '${', '$${', '${TOKEN}', ':-', 'os.environ/', 'a', '\n')
  const awkward = fc.oneof(
    fc.string(),
    fc.array(piece).map(pieces => pieces.join(''))
  )
  const name = fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,8}$/)

  test('a text without ${ stays as it is', () => {
    fc.assert(
      fc.property(awkward, text => {
        fc.pre(!text.includes('${') && !text.startsWith('os.environ/'))
        expect(resolveScalar(text, { env })).toEqual({ kind: 'literal', value: text })
      })
    )
  })

  test('a value is never expanded again, whatever it holds', () => {
    fc.assert(
      fc.property(name, awkward, (variable, value) => {
        const own = { [variable]: value }
        expect(resolveScalar(`\${${variable}}`, { env: own })).toEqual({ kind: 'taken', value })
        expect(resolveScalar(`<\${${variable}}\${${variable}}>`, { env: own })).toEqual({
          kind: 'taken',
          value: `<${value}${value}>`
        })
        expect(resolveScalar(`os.environ/${variable}`, { env: own })).toEqual({ kind: 'taken', value })
      })
    )
  })

  test('with every ${ written as $${ it comes back as it was', () => {
    fc.assert(
      fc.property(awkward, text => {
        fc.pre(!text.startsWith('os.environ/'))
        expect(resolveScalar(text.split('${').join('$${'), { env })).toEqual({ kind: 'literal', value: text })
      })
    )
  })

  test('exactly the variables that are not set are reported', () => {
    fc.assert(
      fc.property(fc.array(name), fc.array(name), (set, unset) => {
        const own = Object.fromEntries(set.map(variable => [variable, 'value']))
        const missing = new Set(unset.filter(variable => !Object.hasOwn(own, variable)))
        const text = [...set, ...unset].map(variable => `\${${variable}}`).join(' ')
        const resolved = resolveScalar(text, { env: own })
        if (missing.size > 0) expect(resolved).toEqual({ kind: 'unset', names: [...missing] })
        else expect(resolved.kind).toBe(set.length > 0 ? 'taken' : 'literal')
      })
    )
  })

  test('it never throws', () => {
    fc.assert(fc.property(awkward, text => void resolveScalar(text, { env, readFile: () => 'x' })))
  })
})
