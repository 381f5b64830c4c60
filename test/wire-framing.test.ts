import { createParser } from 'eventsource-parser'
import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import { createLineSplitter } from '../src/wire/framing.js'
import { sseComment, sseEvent, sseMessage } from '../src/wire/sse-format.js'
import { collectGarbage } from './helpers/memory.js'

function split(chunks: readonly Buffer[], maxBytes?: number) {
  const lines: string[] = []
  const oversize: number[] = []
  const splitter = createLineSplitter({
    ...(maxBytes !== undefined && { maxBytes }),
    onLine: line => lines.push(line.toString()),
    onOversize: bytes => oversize.push(bytes)
  })
  for (const chunk of chunks) splitter.push(chunk)
  splitter.end()
  return { lines, oversize, droppedBytes: splitter.droppedBytes }
}

function cut(bytes: Buffer, borders: readonly number[]): Buffer[] {
  const at = [0, ...borders.map(border => border % (bytes.length + 1)).sort((a, b) => a - b), bytes.length]
  return at.slice(1).map((end, i) => bytes.subarray(at[i], end))
}

const message = fc.record({ id: fc.integer(), text: fc.string({ unit: 'binary' }), more: fc.jsonValue() })
const serialised = fc.array(message).map(list => list.map(one => JSON.stringify(one)))
const lineEnd = fc.constantFrom('\n', '\r\n', '\n\n', '\n \t\r\n')

describe('messages of a server on stdio', () => {
  it('arrive whole and in order when the stream is cut at any one byte', () => {
    fc.assert(
      fc.property(serialised, lineEnd, (messages, end) => {
        const bytes = Buffer.from(messages.map(text => text + end).join(''))
        for (let at = 0; at <= bytes.length; at++) {
          expect(split([bytes.subarray(0, at), bytes.subarray(at)]).lines).toEqual(messages)
        }
      }),
      { numRuns: 60 }
    )
  })

  it('arrive whole and in order when the stream is cut after every byte', () => {
    fc.assert(
      fc.property(serialised, lineEnd, (messages, end) => {
        const bytes = Buffer.from(messages.map(text => text + end).join(''))
        expect(split(Array.from(bytes, byte => Buffer.of(byte))).lines).toEqual(messages)
      })
    )
  })

  it('come without the blank lines between them, whose bytes are told', () => {
    const lines: string[] = []
    let blank = 0
    const splitter = createLineSplitter({
      onLine: line => lines.push(line.toString()),
      onBlank: bytes => (blank += bytes),
      onOversize: () => {}
    })
    for (const chunk of ['\n\n{}\n\n\n', '\n \t', '\r\n[]', '\r\n', '\n']) splitter.push(Buffer.from(chunk))
    expect(lines).toEqual(['{}', '[]'])
    expect(blank).toBe('\n\n'.length + '\n\n'.length + '\n \t\r\n'.length + '\n'.length)
  })

  it('arrive whole and in order however the stream is cut', () => {
    fc.assert(
      fc.property(serialised, lineEnd, fc.array(fc.nat()), (messages, end, borders) => {
        const bytes = Buffer.from(messages.map(text => text + end).join(''))
        expect(split(cut(bytes, borders)).lines).toEqual(messages)
      })
    )
  })

  it('arrive even if the last one has no newline', () => {
    expect(split([Buffer.from('{"a":1}\n{"b":'), Buffer.from('"é"}')]).lines).toEqual(['{"a":1}', '{"b":"é"}'])
  })

  it('are handed over without copying when a chunk holds them whole', () => {
    const chunk = Buffer.from('{"a":1}\n{"b":2}\n')
    const lines: Buffer[] = []
    createLineSplitter({ onLine: line => lines.push(line), onOversize: () => {} }).push(chunk)
    expect(lines.map(line => line.buffer === chunk.buffer)).toEqual([true, true])
  })

  it('are counted as one report each when too long, and the next one arrives', () => {
    const limit = 20
    const body = fc.string({ minLength: 1, maxLength: 60 }).map(text => JSON.stringify(text))
    fc.assert(
      fc.property(fc.array(body), fc.array(fc.nat()), (messages, borders) => {
        const bytes = Buffer.from(messages.map(text => text + '\n').join(''))
        const fitting = messages.filter(text => Buffer.byteLength(text) <= limit)
        const tooLong = messages.filter(text => Buffer.byteLength(text) > limit)
        const { lines, oversize, droppedBytes } = split(cut(bytes, borders), limit)
        expect(lines).toEqual(fitting)
        expect(oversize).toHaveLength(tooLong.length)
        expect(oversize.every(size => size > limit)).toBe(true)
        expect(droppedBytes).toBe(tooLong.reduce((sum, text) => sum + Buffer.byteLength(text), 0))
      })
    )
  })

  it('are reported as too long before their newline comes, and their memory is let go', async () => {
    const mebibyte = 1024 * 1024
    const oversize: number[] = []
    const lines: string[] = []
    const splitter = createLineSplitter({
      maxBytes: 32 * mebibyte,
      onLine: line => lines.push(line.toString()),
      onOversize: bytes => oversize.push(bytes)
    })
    collectGarbage()
    const before = process.memoryUsage().arrayBuffers
    for (let i = 0; i < 33; i++) splitter.push(Buffer.alloc(mebibyte, 'x'))
    expect(oversize).toEqual([33 * mebibyte])
    // Buffers are swept beside the main thread, some time after they were found dead.
    await vi.waitFor(() => {
      collectGarbage()
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(6 * mebibyte)
    }, 10_000)
    for (let i = 0; i < 100; i++) splitter.push(Buffer.alloc(mebibyte, 'x'))
    expect(oversize).toHaveLength(1)
    expect(splitter.droppedBytes).toBe(133 * mebibyte)
    splitter.push(Buffer.from('x\n{"next":true}\n'))
    expect(lines).toEqual(['{"next":true}'])
  })

  it('of 20 MB in small chunks cost about four times what 5 MB cost', () => {
    const cost = (bytes: number) => {
      const chunks = Array.from({ length: Math.ceil(bytes / 65_536) }, () => Buffer.alloc(65_536, 'x'))
      let length = 0
      const splitter = createLineSplitter({ onLine: line => (length = line.length), onOversize: () => {} })
      collectGarbage()
      const cpu = process.cpuUsage()
      for (const chunk of chunks) splitter.push(chunk)
      splitter.push(Buffer.from('\n'))
      const { user, system } = process.cpuUsage(cpu)
      expect(length).toBe(chunks.length * 65_536)
      return user + system
    }
    let [short, long] = [Infinity, Infinity]
    for (let round = 0; round < 8; round++) {
      short = Math.min(short, cost(5e6))
      long = Math.min(long, cost(20e6))
    }
    // Joining again at every chunk would cost sixteen times, and more than a second. The floor of 5 ms is for the noise.
    expect(long).toBeLessThan(8 * Math.max(short, 5000))
  })

  it('written byte by byte do not cost a Buffer a byte', () => {
    const bytes = 1_000_000
    const lines: number[] = []
    const splitter = createLineSplitter({ onLine: line => lines.push(line.length), onOversize: () => {} })
    const source = Buffer.alloc(bytes, 'x')
    collectGarbage()
    const before = process.memoryUsage().heapUsed
    for (let i = 0; i < bytes; i++) splitter.push(source.subarray(i, i + 1))
    collectGarbage()
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(10 * bytes)
    splitter.push(Buffer.from('\n'))
    expect(lines).toEqual([bytes])
  })
})

describe('events on a stream', () => {
  const read = (bytes: Buffer) => {
    const seen: { id: string | undefined; event: string | undefined; data: string }[] = []
    const comments: string[] = []
    const parser = createParser({
      onEvent: ({ id, event, data }) => seen.push({ id, event, data }),
      onComment: text => comments.push(text)
    })
    parser.feed(bytes.toString())
    return { seen, comments }
  }

  it('carry any message to a reader unchanged, as text or as bytes', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.boolean(), (value, pretty) => {
        const json = JSON.stringify(value, null, pretty ? 2 : 0)
        for (const written of [sseMessage(json, '7.1'), sseMessage(Buffer.from(json), '7.1')]) {
          expect(read(written).seen).toEqual([{ id: '7.1', event: undefined, data: json }])
        }
      })
    )
  })

  it('cannot be forged by line breaks in data, names, ids or comments', () => {
    const evil = 'a\r\nevent: x\rdata: forged\n\nid: 9'
    expect(read(sseMessage(evil)).seen).toEqual([
      { id: undefined, event: undefined, data: evil.replace(/\r\n?/g, '\n') }
    ])
    expect(read(sseMessage(Buffer.from(evil), evil)).seen).toHaveLength(1)
    expect(read(sseMessage(Buffer.from('a\rid: 9'))).seen).toEqual([
      { id: undefined, event: undefined, data: 'a\nid: 9' }
    ])
    expect(read(sseEvent(evil, evil)).seen).toHaveLength(1)
    expect(read(sseComment(evil)).seen).toEqual([])
  })

  it('can be named, like the endpoint of HTTP+SSE', () => {
    expect(sseEvent('endpoint', '/messages?sessionId=1').toString()).toBe(
      'event: endpoint\ndata: /messages?sessionId=1\n\n'
    )
    expect(read(sseComment('still here')).comments).toEqual(['still here'])
  })
})
