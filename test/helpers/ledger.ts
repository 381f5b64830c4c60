/**
 * What clients sent against what servers got, call by call: every call carries a nonce of its own, every server notes
 * the nonces that arrive. Joined at the end, nothing may be lost, doubled or given to another, and nothing that was
 * refused may have arrived.
 */
import { randomUUID } from 'node:crypto'
import type { Reply } from './http.js'

export interface Balance {
  readonly calls: number
  /** Neither answered nor refused. */
  readonly lost: readonly string[]
  /** Arrived more than once. */
  readonly doubled: readonly string[]
  /** Answered with what was another call's. */
  readonly misdelivered: readonly string[]
  /** Refused, or said not to have been sent, and yet arrived; or answered and yet never arrived. */
  readonly untrue: readonly string[]
}

export interface CallLedger {
  /** A server that counts: what it returns are the nonces of all the calls that arrived there. */
  watch(arrivals: () => readonly string[]): void
  /**
   * Makes one call with a nonce of its own. `gaveUp` says that its client left, and expects no answer; `mayVanish` that the
   * network may swallow what was sent, so that one that failed after it was sent need not have arrived.
   */
  call(
    send: (nonce: string) => Promise<Reply>,
    options?: { gaveUp?: boolean; mayVanish?: boolean }
  ): Promise<Reply | undefined>
  /** Waits for what is still under way, at most `ms`, and joins both sides. */
  balance(ms?: number): Promise<Balance>
}

interface Call {
  readonly gaveUp: boolean
  readonly mayVanish: boolean
  readonly end: Promise<unknown>
  reply?: Reply
  failure?: unknown
}

export function openCallLedger(): CallLedger {
  const calls = new Map<string, Call>()
  const servers: (() => readonly string[])[] = []
  return {
    watch: arrivals => void servers.push(arrivals),

    async call(send, { gaveUp = false, mayVanish = false } = {}) {
      const nonce = `nonce-${randomUUID()}`
      const sent = send(nonce)
      const call: Call = { gaveUp, mayVanish, end: sent.catch(() => {}) }
      calls.set(nonce, call)
      try {
        return (call.reply = await sent)
      } catch (error) {
        call.failure = error
        if (gaveUp) return undefined
        throw error
      }
    },

    async balance(ms = 5000) {
      let timer: NodeJS.Timeout | undefined
      const late = new Promise(resolve => (timer = setTimeout(resolve, ms)))
      await Promise.race([Promise.all([...calls.values()].map(({ end }) => end)), late])
      clearTimeout(timer)

      const arrived = new Map<string, number>()
      for (const nonce of servers.flatMap(server => server())) arrived.set(nonce, (arrived.get(nonce) ?? 0) + 1)
      const names = (holds: (nonce: string, call: Call, count: number) => boolean) =>
        [...calls].filter(([nonce, call]) => holds(nonce, call, arrived.get(nonce) ?? 0)).map(([nonce]) => nonce)
      return {
        calls: calls.size,
        lost: names((_, { gaveUp, reply }) => !gaveUp && !isTerminal(reply)),
        doubled: names((_nonce, _call, count) => count > 1),
        misdelivered: names((nonce, { reply }) =>
          [...(reply?.text.matchAll(/nonce-[0-9a-f-]{36}/g) ?? [])].some(([other]) => other !== nonce)
        ),
        untrue: names((_, { reply, mayVanish }, count) => {
          const said = wasSent(reply)
          if (mayVanish && said && problemOf(reply)) return false
          return said !== undefined && said !== count > 0
        })
      }
    }
  }
}

/** Refused with a status, or exactly one message that answers. */
function isTerminal(reply: Reply | undefined): boolean {
  if (!reply) return false
  if (reply.status >= 400) return true
  return reply.messages.filter(message => 'result' in message || 'error' in message).length === 1
}

/** Whether an answer says that its call reached the server; undefined where it says nothing of it. */
function wasSent(reply: Reply | undefined): boolean | undefined {
  if (!reply) return undefined
  if (reply.status >= 400) return false
  const { error } = reply.json ?? {}
  const ours = problemOf(reply)
  if (ours) return ours.dispatched
  if (error) return error.data?.dispatched as boolean | undefined
  return true
}

function problemOf(reply: Reply | undefined): { readonly dispatched: boolean } | undefined {
  return reply?.json?.result?._meta?.['switchboard/error']
}
