/**
 * Clients that leave before their request is complete, at every byte of it, and connections that are made only to be
 * reset: T14 of the security reference. Nothing of it reaches a server, and nothing of it stays. Clients that hang up
 * while they wait for an answer are in streams.test.ts.
 */
import { readdirSync } from 'node:fs'
import { connect } from 'node:net'
import { expect, onTestFinished } from 'vitest'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import { attack, attackFrom, noncesOf, type Attack } from './helpers/attack.js'
import { bearer, envelope, openSession } from './helpers/http.js'
import { heldBytes } from './helpers/memory.js'
import { waitFor } from './helpers/with-gateway.js'

const descriptors = () => readdirSync('/proc/self/fd').length
const timers = () => process.getActiveResourcesInfo().filter(kind => kind === 'Timeout').length

/** What client and gateway hold together, in this process. @returns waits until it is no more than that again. */
function holdings(): () => Promise<void> {
  const before = { descriptors: descriptors(), timers: timers(), bytes: heldBytes() }
  return async () => {
    // The bystander has a connection and a timer more at one moment than at another.
    const fits = () => descriptors() <= before.descriptors + 4 && timers() <= before.timers + 4
    await waitFor(fits, `${JSON.stringify(before)}, has ${descriptors()} descriptors and ${timers()} timers`)
    expect(heldBytes() - before.bytes).toBeLessThan(4 * 1024 * 1024)
  }
}

type Leaves = 'closes' | 'resets'

/** Connects, writes that much, leaves in that way, and resolves when nothing of the connection is left here. */
function visit(url: string, bytes: Buffer, leaves: Leaves): Promise<void> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`still open after ${bytes.length} bytes`)), 10_000)
    const socket = connect(Number(port), hostname, () => {
      const leave = () => (leaves === 'closes' ? socket.end() : socket.resetAndDestroy())
      if (bytes.length === 0) leave()
      else socket.write(bytes, leave)
    })
    socket.resume()
    socket.on('error', () => {})
    socket.once('close', () => {
      clearTimeout(late)
      resolve()
    })
  })
}

/** Runs `task` for each number below `count`, so many at a time. */
async function each(count: number, atOnce: number, task: (n: number) => Promise<void>): Promise<void> {
  let next = 0
  const worker = async () => {
    while (next < count) await task(next++)
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
}

/** A whole call in that era under a nonce, as bytes; as long for one nonce as for another. */
async function callIn(era: string, { url, key }: Attack): Promise<(nonce: string) => Buffer> {
  const isModern = era === '2026-07-28'
  const headers = isModern
    ? { ...bearer(key), 'mcp-protocol-version': era, 'mcp-method': 'tools/call', 'mcp-name': 'raw__echo' }
    : (await openSession(url, key, { version: era })).headers
  return nonce => {
    const params = { name: 'raw__echo', arguments: { nonce }, ...(isModern && { _meta: envelope }) }
    const body = JSON.stringify({ jsonrpc: '2.0', id: nonce, method: 'tools/call', params })
    const lines = Object.entries({
      host: new URL(url).host,
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      'content-length': String(Buffer.byteLength(body)),
      ...headers
    }).map(([name, value]) => `${name}: ${value}\r\n`)
    return Buffer.from(`POST /mcp HTTP/1.1\r\n${lines.join('')}\r\n${body}`)
  }
}

for (const era of ['2025-11-25', '2026-07-28']) {
  attackFrom(
    'T14',
    `a client of ${era} that leaves at any byte of its request: the call is not sent, and nothing stays`,
    async (begin, { ledger }) => {
      const server = await startRawHttp()
      onTestFinished(() => server.close())
      ledger.watch(() => noncesOf(server.requests))
      const attacked = await begin({ servers: { raw: { url: server.url } } })
      const { url, print } = attacked
      const call = await callIn(era, attacked)
      const nonceOf = (leaves: Leaves, at: number) => `${leaves}-${String(at).padStart(6, '0')}`
      const { length } = call(nonceOf('closes', 0))
      const arrived = () => noncesOf(server.requests)

      await visit(url, call(nonceOf('closes', 999_999)), 'closes')
      await waitFor(() => arrived().length === 1, 'a whole call to arrive')
      const back = holdings()
      const begun = performance.now()
      for (const leaves of ['closes', 'resets'] as const)
        await each(length, 25, at => visit(url, call(nonceOf(leaves, at)).subarray(0, at), leaves))
      print(`${2 * length} clients that left took ms`, performance.now() - begun)
      await back()
      // Another that comes after them all: what was begun before it would have arrived.
      await visit(url, call(nonceOf('closes', 999_998)), 'closes')
      await waitFor(() => arrived().includes(nonceOf('closes', 999_998)), 'the last call to arrive')
      expect(arrived()).toEqual([nonceOf('closes', 999_999), nonceOf('closes', 999_998)])
    },
    { timeout: 120_000 }
  )
}

attack(
  'T14',
  'ten thousand connections that are reset at once, or in the middle of a header, leave nothing behind',
  async ({ url, print }) => {
    const half = Buffer.from('POST /mcp HTTP/1.1\r\nHost: 127.0')
    const reset = (n: number) => visit(url, n % 2 === 0 ? Buffer.alloc(0) : half, 'resets')
    await each(100, 50, reset)
    const back = holdings()
    const begun = performance.now()
    await each(10_000, 50, reset)
    const ms = performance.now() - begun
    print('10,000 connections took ms', ms)
    expect(ms).toBeLessThan(60_000)
    await back()
  },
  { timeout: 120_000 }
)
