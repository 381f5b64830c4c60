/**
 * Task ids as clients get them (2026-07-28, Tasks extension): the server's own id, sealed with whose task it is and which
 * tool made it. So a task needs no table here, survives a restart, and is nothing to any other key.
 */
import { isObject } from './wire/json-rpc.js'
import type { Sealer } from './wire/sealing.js'

export interface Task {
  readonly server: string
  /** The wire name of the tool whose call became the task: who may not see it, may not see the task. */
  readonly tool: string
  /** The server's own id. */
  readonly id: string
}

export interface TaskIds {
  /** @throws RangeError when the server's id is too long to be sealed. */
  seal(task: Task, keyId: string): string
  /** The task of an id given to this key; undefined for every other text. */
  open(sealed: string, keyId: string): Task | undefined
}

export function createTaskIds(sealer: Sealer): TaskIds {
  return {
    seal: ({ server, tool, id }, keyId) => sealer.seal('task', { k: keyId, u: server, n: tool, i: id }),
    open(sealed, keyId) {
      const payload = sealer.open('task', sealed)
      if (!isObject(payload) || payload.k !== keyId) return undefined
      const { u: server, n: tool, i: id } = payload
      if (typeof server !== 'string' || typeof tool !== 'string' || typeof id !== 'string') return undefined
      return { server, tool, id }
    }
  }
}
