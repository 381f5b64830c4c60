/** An upstream of the run over stdio, of either era; ends when its stdin does. */
import { spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { createUpstream, notification, options, pieces, subscribed } from './upstream.mjs'

let subscription
/** Whatever is written slowly has stdout for itself. */
let writing = Promise.resolve()
const write = text => new Promise(resolve => process.stdout.write(text, resolve))
const queued = act => (writing = writing.then(act))
const line = message => (typeof message === 'string' ? message : JSON.stringify(message)) + '\n'
const say = message => queued(() => write(line(message)))

const upstream = createUpstream({
  broadcast: method => say(subscription === undefined ? notification(method) : subscribed(method, subscription)),
  own: {
    async 'kill-orphan'(call) {
      spawn('sleep', ['30'], { stdio: ['ignore', 'inherit', 'inherit'] }).unref()
      await sleep(call.hold / 2)
      upstream.die(call.nonce, upstream.killed)
      return false
    },
    async 'hang-deaf'() {
      process.stdin.pause()
      await sleep(1000)
      process.stdin.resume()
      return true
    },
    noise() {
      for (let i = 0; i < 20; i++) say(`[info] line ${i}\n\n{ not json\n{"level":30}\nnull\n\u001b[31mred\u001b[0m`)
      return true
    },
    'noise-flood'() {
      say('this is no message\n'.repeat(11_000))
      return true
    },
    'stderr-flood'() {
      process.stderr.write('something went wrong, or not\n'.repeat(2000))
      return true
    },
    // The next answer is written on the same line, and lost with it.
    'half-line'(call) {
      queued(() => write(JSON.stringify(call.answer).slice(0, 30)))
      return false
    }
  }
})

function receive(message) {
  const { id, method, params } = message
  if (method === 'notifications/cancelled') return upstream.cancelled(params?.requestId)
  if (method === undefined || id === undefined) return
  if (method === 'subscriptions/listen' && options.era === 'modern') {
    subscription = id
    return say(upstream.acknowledge(message))
  }
  if (method !== 'tools/call') return say(upstream.answerTo(message))
  upstream.begin(message, {
    say,
    finish: say,
    half: text => queued(() => write(text.slice(0, text.length / 2))),
    drip: (text, ms) => queued(() => pieces(`${text}\n`, ms, write))
  })
}

let rest = ''
process.stdin.setEncoding('utf8')
process.stdin.on('data', chunk => {
  const lines = (rest + chunk).split('\n')
  rest = lines.pop()
  for (const each of lines) if (each.trim() !== '') receive(JSON.parse(each))
})
process.stdin.on('end', () => process.exit(0))
