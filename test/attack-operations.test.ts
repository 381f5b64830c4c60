/**
 * What a machine does to a gateway: signals, taken ports, logs that nobody reads, disks that are full, clocks that jump,
 * descriptors that run out, bugs. The numbers O1 to O4 are those of the attack list. A kill with SIGKILL and what comes
 * after it is restart.test.ts; a port that is taken, as a user sees it, commands.test.ts.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { modern, openSession } from './helpers/http.js'
import { fixture, secrets, startTestGateway, waitFor } from './helpers/with-gateway.js'

function temporary(): string {
  const dir = mkdtempSync(join(tmpdir(), 'switchboard-operations-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

const raw = (dir: string, more = '') =>
  `  raw: { command: node, args: [${JSON.stringify(fixture('raw-stdio.mjs'))}], env: { LEDGER: ${JSON.stringify(join(dir, 'ledger'))} }${more} }\n`

describe('O4: a clock that jumps', () => {
  afterEach(() => void vi.useRealTimers())
  /** From now on the clock stands still, and jumps. */
  const holdClock = () => void vi.useFakeTimers({ toFake: ['Date'] })
  const jump = (ms: number) => void vi.setSystemTime(Date.now() + ms)
  const hour = 3_600_000

  it.each([
    ['an hour ahead', hour],
    ['an hour back', -hour]
  ])('%s: running calls, sessions, lists and restarts do not notice', async (_, by) => {
    holdClock()
    const dir = temporary()
    const gateway = await startTestGateway(
      `servers:\n${raw(dir, ', timeout: 5, max_timeout: 10')}keys: { admin: { secret: "\${ADMIN}", allow: "*" } }\n`
    )
    onTestFinished(() => gateway.close())
    await gateway.until('raw')
    const session = await openSession(gateway.url, secrets.ADMIN)
    const call = session.rpc('tools/call', { name: 'raw__slow', arguments: { ms: 500, nonce: 'a' } })
    await waitFor(() => readFileSync(join(dir, 'ledger'), 'utf8').includes('started a'), 'the call to run')
    jump(by)
    expect((await call).json.result.content[0].text).toBe('waited 500 ms')
    expect((await session.rpc('tools/list')).status).toBe(200)
    expect((await openSession(gateway.url, secrets.ADMIN)).opened.status).toBe(200)
    const [pid] = [...readFileSync(join(dir, 'ledger'), 'utf8').matchAll(/^process (\d+)$/gm)].slice(-1)[0]!.slice(1)
    process.kill(Number(pid), 'SIGKILL')
    await waitFor(() => gateway.logged('upstream.down').length > 0, 'the server to be down')
    const begun = performance.now()
    const { json } = await session.rpc('tools/call', { name: 'raw__echo', arguments: { message: 'back' } })
    expect(json.result.content[0].text).toBe('back')
    expect(performance.now() - begun).toBeLessThan(10_000)
    expect(gateway.logged('upstream.down')).toHaveLength(1)
    // Ending it waits for nothing that the clock would have to reach.
    const ending = performance.now()
    await gateway.close()
    expect(performance.now() - ending).toBeLessThan(10_000)
  })

  it('into 2038 and beyond: keys expire by it, everything else goes on', async () => {
    holdClock()
    const gateway = await startTestGateway(
      `servers:\n${raw(temporary())}keys:\n  admin: { secret: "\${ADMIN}", allow: "*" }\n  developer: { secret: "\${DEVELOPER}", allow: "*", expires: 2037-12-31 }\n`
    )
    onTestFinished(() => gateway.close())
    await gateway.until('raw')
    const ask = async (secret: string) =>
      (await modern(gateway.url, secret, 'tools/call', { name: 'raw__echo', arguments: { message: 'x' } })).status
    expect([await ask(secrets.ADMIN), await ask(secrets.DEVELOPER)]).toEqual([200, 200])
    for (const day of ['2038-01-19T03:14:08Z', '2107-01-01T00:00:00Z']) {
      jump(Date.parse(day) - Date.now())
      expect([await ask(secrets.ADMIN), await ask(secrets.DEVELOPER)]).toEqual([200, 401])
      expect((await openSession(gateway.url, secrets.ADMIN)).opened.status).toBe(200)
    }
    jump(Date.parse('2037-12-31T23:59:59Z') - Date.now())
    expect(await ask(secrets.DEVELOPER)).toBe(200)
    expect(gateway.logged('upstream.down')).toEqual([])
  })
})
