/** Which processes of an earlier gateway are ended, and which are strangers. U18 of the security reference. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createLog } from '../src/observe/log.js'
import { createOrphans, markVariable } from '../src/upstream/orphans.js'
import { createProcessTable } from '../src/upstream/process-table.js'
import { waitFor } from './helpers/with-gateway.js'

describe('U18: a process that is not ours is left alone', () => {
  const file = 'children.json'
  const run = { id: 'f'.repeat(24), pid: 2 ** 22 + 1, started: 'long ago' }

  /** A state directory in memory, as a killed gateway left it. */
  function leftBehind(kept: object, proc?: string) {
    const files = new Map([[file, JSON.stringify({ version: 1, runs: [run], groups: [], ...kept })]])
    const warned: Record<string, unknown>[] = []
    const orphans = createOrphans({
      store: {
        read: name => (files.has(name) ? Buffer.from(files.get(name) as string) : undefined),
        write: (name, bytes) => void files.set(name, bytes)
      },
      log: { warn: (line: unknown) => void warned.push(line as Record<string, unknown>) } as never,
      ...(proc !== undefined && { proc })
    })
    return { orphans, warned, kept: () => JSON.parse(files.get(file) as string) as Record<string, unknown[]> }
  }

  /** A group of two: its leader and one that lives on without it. */
  function startGroup(env: Record<string, string> = {}) {
    const child = spawn('sh', ['-c', 'sleep 60 & exec sleep 60'], {
      detached: true,
      stdio: 'ignore',
      env: { PATH: process.env.PATH, ...env }
    })
    const pgid = child.pid as number
    const exited = once(child, 'exit')
    onTestFinished(() => {
      try {
        process.kill(-pgid, 'SIGKILL')
      } catch {
        // Ended by what is tested.
      }
    })
    const members = () =>
      readdirSync('/proc').filter(pid => {
        try {
          const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
          const [state, , group] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
          return state !== 'Z' && Number(group) === pgid
        } catch {
          return false
        }
      }).length
    return { pgid, exited, members, up: () => waitFor(() => members() === 2, 'both') }
  }

  const startedOf = (pid: number, proc?: string) => createProcessTable('X', proc).startedOf(pid)
  const mark = `${run.id}.1.files`
  const noProc = '/nowhere'

  it.each([
    ['', undefined],
    [' (without /proc)', noProc]
  ])('though it has the number of a group we started%s', async (_, proc) => {
    const stranger = startGroup()
    await stranger.up()
    const { orphans, warned, kept } = leftBehind(
      { groups: [{ mark, pgid: stranger.pgid, started: 'at another time' }] },
      proc
    )
    await orphans.reap()
    expect(stranger.members()).toBe(2)
    expect(warned).toEqual([])
    expect(kept()).toMatchObject({ runs: [{ pid: process.pid }], groups: [] })
  })

  it.each([
    ['', undefined],
    [' (without /proc)', noProc]
  ])('but a group whose leader we started ends as a whole%s', async (_, proc) => {
    const group = startGroup()
    await group.up()
    const started = await startedOf(group.pgid, proc)
    const { orphans, warned } = leftBehind({ groups: [{ mark, pgid: group.pgid, started }] }, proc)
    await orphans.reap()
    expect(group.members()).toBe(0)
    expect(warned).toMatchObject([
      { event: 'upstream.orphans', server: 'files', pids: [group.pgid, expect.any(Number)] }
    ])
  })

  it('nor a group without its leader and without marks, though its number is known', async () => {
    const group = startGroup()
    await group.up()
    const started = await startedOf(group.pgid)
    process.kill(group.pgid, 'SIGKILL')
    await group.exited
    const { orphans } = leftBehind({ groups: [{ mark, pgid: group.pgid, started }] })
    await orphans.reap()
    expect(group.members()).toBe(1)
  })

  it('but one that bears our mark ends, whatever its group', async () => {
    const group = startGroup({ [markVariable]: mark })
    await group.up()
    process.kill(group.pgid, 'SIGKILL')
    await group.exited
    const { orphans, warned } = leftBehind({})
    await orphans.reap()
    expect(group.members()).toBe(0)
    expect(warned).toMatchObject([{ server: 'files' }])
  })

  it('nor one of a gateway that lives, from which the state directory was copied', async () => {
    const group = startGroup({ [markVariable]: mark })
    await group.up()
    const started = await startedOf(group.pgid)
    const alive = { ...run, pid: process.pid, started: await startedOf(process.pid) }
    const { orphans } = leftBehind({ runs: [alive], groups: [{ mark, pgid: group.pgid, started }] })
    await orphans.reap()
    expect(group.members()).toBe(2)
  })

  it('nor one with a mark that only looks like ours', async () => {
    const group = startGroup({ [markVariable]: `${run.id}0.1.files` })
    await group.up()
    const { orphans } = leftBehind({})
    await orphans.reap()
    expect(group.members()).toBe(2)
  })

  it.each(['', 'null', '[]', '{"version":1,"runs":[{"id":""}],"groups":[null]}', '{"version":2}', 'no json'])(
    'and a file that says %o means nothing',
    async text => {
      const files = new Map([[file, text]])
      const orphans = createOrphans({
        store: {
          read: name => Buffer.from(files.get(name) ?? ''),
          write: (name, bytes) => void files.set(name, bytes)
        },
        log: createLog('silent')
      })
      await orphans.reap()
      orphans.close()
      expect(JSON.parse(files.get(file) as string)).toEqual({ version: 1, runs: [], groups: [] })
    }
  )
})
