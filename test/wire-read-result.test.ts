/** Answers whose result is passed on as text: only where that is the very result that a full parse finds. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { bridgedCall } from '../src/answers.js'
import type { ToolEntry } from '../src/catalog/tool-entry.js'
import { isObject, readResult, serialiseAnswer } from '../src/wire/json-rpc.js'

describe('an answer read with its text', () => {
  it.each([
    ['{"jsonrpc":"2.0","id":7,"result":{"a":1}}', '{"a":1}'],
    ['{"result":{"a":1},"jsonrpc":"2.0","id":7}', '{"a":1}'],
    ['{"jsonrpc":"2.0","id":7,"result":{"n":1e400, "big":12345678901234567890}}\n', undefined],
    ['{"jsonrpc":"2.0","id":7,"result":{}}', '{}']
  ])('%s', (message, text) => {
    expect(readResult(message)).toMatchObject({ id: 7, ...(text !== undefined && { text }) })
  })

  it.each([
    ['another member after it', '{"jsonrpc":"2.0","id":1,"result":{"a":1},"x":{}}'],
    ['the same member after it', '{"jsonrpc":"2.0","id":1,"result":{"a":1},"result":{"b":2}}'],
    ['the same member before it', '{"result":{"a":1},"result":{"b":2},"jsonrpc":"2.0","id":1}'],
    ['the same member escaped', '{"jsonrpc":"2.0","id":1,"result":{"a":1},"\\u0072esult":{"b":2}}'],
    ['an id of another kind', '{"jsonrpc":"2.0","id":"1","result":{}}'],
    ['an id no JSON has', '{"jsonrpc":"2.0","id":01,"result":{}}'],
    ['spaces between', '{"jsonrpc": "2.0", "id": 1, "result": {}}'],
    ['a line break in it', '{"jsonrpc":"2.0","id":1,"result":{"a":\n1}}'],
    ['a carriage return in it', '{"jsonrpc":"2.0","id":1,"result":{"a":\r1}}'],
    ['no object', '{"jsonrpc":"2.0","id":1,"result":[1]}'],
    ['no end', '{"jsonrpc":"2.0","id":1,"result":{"a":1}'],
    ['an end too many', '{"jsonrpc":"2.0","id":1,"result":{"a":1}}}'],
    ['an error', '{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}'],
    ['no JSON', '{"jsonrpc":"2.0","id":1,"result":{a}}'],
    ['nothing', '']
  ])('is left to a full parse with %s', (_what, message) => {
    expect(readResult(message)).toBeUndefined()
  })

  it('says what a full parse says, of any text around it', () => {
    const piece = fc.constantFrom(
      ...['{"jsonrpc":"2.0","id":1,"result":', '{"result":', ',"jsonrpc":"2.0","id":1}', '}', '{', '{}', '{"a":1}'],
      ...['"', '\\', ',', ':', '"result"', '[', ']', ' ', '\n', 'null', '"}', '{"']
    )
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 8 }), pieces => {
        const message = pieces.join('')
        const raw = readResult(message)
        if (!raw) return
        const whole = JSON.parse(message) as { id: number; result: unknown }
        expect(isObject(whole) && Object.keys(whole).sort()).toEqual(['id', 'jsonrpc', 'result'])
        expect({ id: raw.id, result: raw.result }).toEqual({ id: whole.id, result: whole.result })
        expect(JSON.parse(raw.text)).toEqual(whole.result)
      }),
      { numRuns: 20_000 }
    )
  })
})

describe('a result passed on', () => {
  const entry = { wrapsOutput: false } as ToolEntry
  const read = (result: string) => readResult(`{"jsonrpc":"2.0","id":1,"result":${result}}`)
  const between = (from: 'legacy' | 'modern', to: 'legacy' | 'modern') => ({
    from: { era: from, capabilities: {} },
    to: { era: to, capabilities: {} },
    shownUri: (uri: string) => uri,
    shownTask: (id: string) => id,
    isTask: false
  })
  const content = '"content":[{"type":"text","text":"a\\u00e9"}],"n":1.0'

  it.each([
    ['legacy', 'legacy', `{${content}}`, `{${content}}`],
    ['modern', 'modern', `{"resultType":"complete",${content}}`, `{"resultType":"complete",${content}}`],
    ['legacy', 'modern', `{${content}}`, `{"resultType":"complete",${content}}`],
    ['legacy', 'modern', '{ }', '{"resultType":"complete"}'],
    ['legacy', 'legacy', '{"structuredContent":{"a":1}}', undefined],
    ['modern', 'legacy', `{"resultType":"complete",${content}}`, undefined]
  ] as const)('from a %s server to a %s client: %s', (from, to, given, expected) => {
    const answer = bridgedCall(read(given) ?? { result: {} }, entry, between(from, to))
    const sent = serialiseAnswer(5, answer).toString()
    if (expected !== undefined) expect(sent).toBe(`{"jsonrpc":"2.0","id":5,"result":${expected}}`)
    expect((JSON.parse(sent) as { result: unknown }).result).toEqual(answer.result)
  })
})
