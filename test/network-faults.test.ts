/**
 * A network that fails between the gateway and its servers: slow, broken, cut short or silent, towards the server, from it
 * or both ways, for each kind of server with an address. Goal G7 of the security reference.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished } from 'vitest'
import { openLedger } from './fixtures/ledger.mjs'
import { start as startRawHttp } from './fixtures/raw-http.mjs'
import { start as startRawModern } from './fixtures/raw-modern.mjs'
import { start as startSse } from './fixtures/sse-legacy.mjs'
import { attack, noncesNoted } from './helpers/attack.js'
import type { Reply } from './helpers/http.js'
import { waitFor } from './helpers/with-gateway.js'

const faults = ['latency', 'reset', 'limit', 'timeout'] as const
const directions = ['towards', 'from', 'both'] as const
type Fault = (typeof faults)[number]
type Direction = (typeof directions)[number]

interface Network {
  readonly port: number
  /** What is wrong from now on, also with connections that stand; undefined: nothing. */
  fault: { readonly kind: Fault; readonly direction: Direction } | undefined
  close(): void
}

/** Bytes that pass before a connection is cut. */
const most = 200

/** A connection to `port` of this machine through a network of its own. */
async function networkTo(port: number): Promise<Network> {
  const sockets = new Set<Socket>()
  const server = createServer(near => {
    const far = connect(port, '127.0.0.1')
    pipe(near, far, 'towards')
    pipe(far, near, 'from')
  })
  function pipe(from: Socket, to: Socket, direction: Direction): void {
    let passed = 0
    let last = Promise.resolve()
    sockets.add(from)
    from.setNoDelay(true)
    from.on('error', () => to.destroy())
    from.on('close', () => {
      sockets.delete(from)
      void last.then(() => to.end())
    })
    from.on('data', (chunk: Buffer) => {
      const { fault } = network
      const kind = fault && (fault.direction === direction || fault.direction === 'both') ? fault.kind : undefined
      if (kind === 'timeout') return
      if (kind === 'reset') {
        from.resetAndDestroy()
        to.resetAndDestroy()
        return
      }
      if (kind === 'limit') {
        to.write(chunk.subarray(0, Math.max(0, most - passed)))
        passed += chunk.length
        if (passed >= most) to.end(() => from.destroy())
        return
      }
      const wait = kind === 'latency' ? 150 : 0
      last = last.then(() => new Promise(resolve => (wait ? setTimeout(resolve, wait) : resolve())))
      void last.then(() => to.writable && to.write(chunk))
    })
  }
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const network: Network = {
    port: (server.address() as AddressInfo).port,
    fault: undefined,
    close() {
      server.close()
      for (const socket of sockets) socket.destroy()
    }
  }
  return network
}

const networks = new Map<string, Network>()
const isOwn = ({ json }: Reply) => json?.result?.content?.[0]?.text === '1'
const problemOf = ({ json }: Reply) => json?.result?._meta?.['switchboard/error']
/** Seconds without a sign of life. */
const timeout = 1

attack(
  'G7',
  'calls over a network that is slow, broken, cut short or silent are answered, and the next one after it is well',
  async ({ call, gateway, print }) => {
    const rows: string[] = []
    const answers: Record<string, number> = { answered: 0, 'told why not': 0 }
    for (const kind of faults) {
      for (const direction of directions) {
        const inTime = [...networks].map(async ([id, network]) => {
          network.fault = { kind, direction }
          const begun = performance.now()
          const replies = await Promise.all([0, 1, 2].map(() => call(`${id}__count`, {}, { mayVanish: true })))
          const ms = performance.now() - begun
          for (const reply of replies) {
            expect([kind, direction, id, reply.status]).toEqual([kind, direction, id, 200])
            const problem = problemOf(reply)
            if (!problem) expect([kind, direction, id, isOwn(reply)]).toEqual([kind, direction, id, true])
            else expect(problem).toMatchObject({ server: id, dispatched: expect.any(Boolean) })
            answers[problem ? 'told why not' : 'answered']!++
          }
          // Its time, and what an attempt to connect takes that it waits for.
          expect(ms).toBeLessThan(5 * timeout * 1000)
          network.fault = undefined
          const healed = performance.now()
          await waitFor(
            async () => isOwn(await call(`${id}__count`, {}, { mayVanish: true })),
            `${id} to be well after ${kind} ${direction}`
          )
          rows.push(
            `${id} ${kind} ${direction}: ${ms.toFixed()} ms, well after ${(performance.now() - healed).toFixed()}`
          )
        })
        await Promise.all(inTime)
      }
    }
    expect(rows).toHaveLength(36)
    for (const row of rows) print(row.split(': ')[0] as string, row.split(': ')[1] as string)
    print('all', JSON.stringify(answers))
    expect(gateway.gateway.status().map(({ running, waiting }) => running + waiting)).toEqual([0, 0, 0, 0])
  },
  {
    timeout: 120_000,
    servers: async ({ ledger }) => {
      const dir = mkdtempSync(join(tmpdir(), 'switchboard-network-'))
      onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
      const notes = join(dir, 'ledger')
      ledger.watch(() => noncesNoted(openLedger(notes)))
      const servers: Record<string, object> = {}
      const started = {
        legacy: { ...(await startRawHttp({ ledger: notes })), transport: 'http', era: 'legacy' },
        modern: { ...(await startRawModern({ ledger: notes })), transport: 'http', era: 'modern' },
        sse: { ...(await startSse({ ledger: notes })), transport: 'sse', era: 'legacy' }
      }
      for (const [id, server] of Object.entries(started)) {
        const { url, transport, era } = server
        const address = new URL(url)
        const network = await networkTo(Number(address.port))
        networks.set(id, network)
        address.port = String(network.port)
        servers[id] = { url: address.href, transport, era, timeout, connect_timeout: 2 }
        onTestFinished(async () => {
          network.close()
          await server.close()
        })
      }
      return servers
    }
  }
)
