/** What the upstreams wrote down: which calls began, which were refused, which faults hit and who died with what running. */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs'

export function readLedger(file) {
  const ledger = { ran: new Map(), began: new Map(), refused: new Set(), faults: [], deaths: [] }
  for (const line of readFileSync(file, 'utf8').split('\n')) {
    if (line === '') continue
    const { event, nonce, ...facts } = JSON.parse(line)
    if (event === 'ran') {
      ledger.ran.set(nonce, (ledger.ran.get(nonce) ?? 0) + 1)
      ledger.began.set(nonce, facts.at)
    } else if (event === 'refused') ledger.refused.add(nonce)
    else if (event === 'fault') ledger.faults.push({ nonce, ...facts })
    else if (event === 'death') ledger.deaths.push({ nonce, ...facts })
  }
  return ledger
}

/** The gateway's log as it grows: how often each event stands in it, and the lines that tell of a bug. */
export function createLogReader(file) {
  const buffer = Buffer.alloc(1 << 20)
  const counts = {}
  const faults = []
  let at = 0
  let rest = ''
  return {
    counts,
    faults,
    read() {
      const log = openSync(file, 'r')
      for (let size; (size = readSync(log, buffer, 0, buffer.length, at)) > 0; at += size) {
        const lines = (rest + buffer.latin1Slice(0, size)).split('\n')
        rest = lines.pop()
        for (const line of lines) {
          const event = /"event":"([^"]+)"/.exec(line)?.[1]
          counts[event] = (counts[event] ?? 0) + 1
          if (event === 'fault' || /^\s+at |Warning: |exited with code 70/.test(line)) faults.push(line)
        }
      }
      closeSync(log)
    },
    /** Its end, for people. */
    tail: () => readFileSync(file, 'utf8').slice(-4000)
  }
}
