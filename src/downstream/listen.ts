/**
 * `subscriptions/listen`, the one request of 2026-07-28 that stays open: its acknowledgement comes first and says what is
 * honoured of the filter, every message names the request it belongs to, and an end of ours is its result.
 */
import type { ServerResponse } from 'node:http'
import type { Relay } from '../relay.js'
import { metaKey } from '../wire/era.js'
import { isObject, serialiseAnswer, type Json, type RpcRequest } from '../wire/json-rpc.js'
import { changeFilter, changeKinds } from '../wire/lists.js'
import type { Caller } from './caller.js'
import { EventStream, type StreamTerms } from './event-stream.js'
import { changeNotice, type Listeners } from './listeners.js'
import type { LiveState } from './live-state.js'
import { errorAnswer, replyAnswer } from './reply.js'

export interface ListenOptions {
  readonly relay: Pick<Relay, 'describe' | 'subscribe' | 'watchTask'>
  readonly listeners: Listeners
  readonly held: LiveState
  readonly terms: StreamTerms
  /** The ends of all open ones, for a shutdown. */
  readonly subscriptions: Set<() => void>
}

const maxUris = 1000
/** How long the acknowledgement waits for servers to agree; what has not been by then is not honoured. */
const placedMs = 3000
const late = () => new Promise<undefined>(resolve => setTimeout(resolve, placedMs, undefined).unref())

export async function listen(
  { relay, listeners, held, terms, subscriptions }: ListenOptions,
  { key, scope }: Caller,
  { id, params }: RpcRequest,
  res: ServerResponse
): Promise<void> {
  const wanted = params?.notifications
  if (!isObject(wanted))
    return replyAnswer(res, id, errorAnswer('invalid_params', 'expected params.notifications to be an object'))

  const _meta = { [metaKey.subscriptionId]: id }
  const releases: (() => void)[] = []
  // Nothing may come before the acknowledgement, and nothing that happens meanwhile may be lost.
  const early: Json[] = []
  const open: { stream?: EventStream; closed?: boolean } = {}
  const send = (notification: { readonly method: string; readonly params?: Json }) => {
    const message = { jsonrpc: '2.0', method: notification.method, params: withMeta(notification.params, _meta) }
    if (open.stream) open.stream.send(JSON.stringify(message))
    else early.push(message)
  }
  const release = () => {
    open.closed = true
    for (const end of releases.splice(0)) end()
  }
  res.once('close', release)

  const { capabilities } = relay.describe(key, scope, 'modern')
  const changes = changeKinds.filter(change => wanted[changeFilter(change)] === true && change in capabilities)
  const honoured: Json = Object.fromEntries(changes.map(change => [changeFilter(change), true]))
  if (changes.length > 0)
    releases.push(listeners.add({ key, scope, changes, tell: change => send(changeNotice(change)) }))

  const asker = { key, scope, era: 'modern' } as const
  if (Array.isArray(wanted.resourceSubscriptions)) {
    const uris = texts(wanted.resourceSubscriptions)
    const answers = await Promise.all(
      uris.map(async uri => {
        const tell = (params: Json) => send({ method: 'notifications/resources/updated', params })
        const placed = relay.subscribe(asker, { uri }, tell)
        // A server that does not answer must not keep the others from being heard.
        const release = await Promise.race([placed.then(({ release }) => release), late()])
        if (release) releases.push(release)
        else void placed.then(({ release }) => release?.())
        return release ? [uri] : []
      })
    )
    honoured.resourceSubscriptions = answers.flat()
  }
  if (Array.isArray(wanted.taskIds)) {
    const watched = await Promise.all(
      texts(wanted.taskIds).map(async taskId => {
        const release = await relay.watchTask(asker, taskId, params => send({ method: 'notifications/tasks', params }))
        if (release) releases.push(release)
        return release ? [taskId] : []
      })
    )
    honoured.taskIds = watched.flat()
  }
  if (open.closed) return release()
  if (key.revocation.reason) {
    release()
    return replyAnswer(res, id, errorAnswer('revoked'))
  }

  const end = () => open.stream?.end(serialiseAnswer(id, { result: { resultType: 'complete', _meta } }))
  subscriptions.add(end)
  releases.push(() => subscriptions.delete(end), held.hold(key, end))
  const stream = (open.stream = new EventStream(res, terms))
  send({ method: 'notifications/subscriptions/acknowledged', params: { notifications: honoured } })
  for (const message of early) stream.send(JSON.stringify(message))
}

const texts = (list: readonly unknown[]) =>
  [...new Set(list.filter(item => typeof item === 'string'))].slice(0, maxUris)

function withMeta(params: Json | undefined, ours: Json): Json {
  return { ...params, _meta: { ...(isObject(params?._meta) && params._meta), ...ours } }
}
