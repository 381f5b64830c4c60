/** Requests and answers leave at the end of the turn of the event loop they were made in: until then they can be taken back. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { HttpLink } from '../src/upstream/http-link.js'
import { Cancellation } from '../src/wire/cancellation.js'
import { start as startRawHttp } from './fixtures/raw-http.mjs'

describe('a request that has not left yet', () => {
  async function startLink() {
    const server = await startRawHttp()
    const unexpected = (what: string) => () => expect.unreachable(what)
    const link = new HttpLink(
      {
        server: 'remote',
        url: server.url,
        headers: {},
        connectTimeoutMs: 1000,
        messageBytes: 1024,
        supervised: false,
        renegotiate: () => Promise.resolve()
      },
      { onNotification: unexpected('a notification'), onLost: unexpected('a lost link') },
      'legacy'
    )
    onTestFinished(() => server.close())
    onTestFinished(() => link.close())
    const sent: boolean[] = []
    const cancellation = new Cancellation()
    const leg = {
      cancellation,
      client: { capabilities: {} },
      wantsProgress: false,
      onSent: (is: boolean) => sent.push(is)
    }
    return { server, link, cancellation, leg, sent }
  }

  it('never does when it is cancelled, and its server need not be told', async () => {
    const { server, link, cancellation, leg, sent } = await startLink()
    const answer = link.request('tools/call', { name: 'echo' }, leg)
    const reason = new Error('the client left')
    cancellation.cancel(reason)
    await expect(answer).rejects.toBe(reason)
    await nextTurn()
    await link.request('tools/list', undefined, { ...leg, cancellation: new Cancellation() })
    expect(server.requests.map(({ message }) => message?.method)).toEqual(['tools/list'])
    expect(sent).toEqual([true])
  })

  it('never does when its link is closed, and may be sent on another', async () => {
    const { server, link, leg, sent } = await startLink()
    const answer = link.request('tools/call', { name: 'echo' }, leg)
    const closed = link.close()
    await expect(answer).rejects.toMatchObject({ code: 'upstream_down', facts: { dispatched: false } })
    await closed
    await nextTurn()
    expect(server.requests).toEqual([])
    expect(sent).toEqual([])
  })
})
