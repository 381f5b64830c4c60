/**
 * The faults of the run, one row each: its kind, the transports it is possible on, whether the connection to the server is
 * lost by it (`down`) and whether the call gets no answer (`silent`). The caller names the fault in the arguments of its
 * call, so that both sides know which call it hit.
 */
const channels = ['stdio', 'sse']
const http = ['http-legacy', 'http-modern']
const all = [...channels, ...http]

export const faults = {
  // SIGKILL while calls run: before the answer, in the middle of writing it, with a grandchild that holds stdout.
  kill: { kind: 'kill', on: all, down: true },
  'kill-half': { kind: 'kill', on: all, down: true },
  'kill-orphan': { kind: 'kill', on: ['stdio'], down: true },
  cut: { kind: 'kill', on: ['sse'], down: true },
  // The process ends right after an answer, or a little later, between calls.
  'exit-after': { kind: 'exit', on: all, down: true },
  'exit-between': { kind: 'exit', on: all, down: true },
  hang: { kind: 'hang', on: all, silent: true },
  'hang-progress': { kind: 'hang', on: all, progress: true, silent: true },
  'hang-deaf': { kind: 'hang', on: ['stdio'] },
  drip: { kind: 'drip', on: all },
  'drip-endless': { kind: 'drip', on: http, silent: true },
  noise: { kind: 'babble', on: ['stdio'] },
  'noise-flood': { kind: 'babble', on: ['stdio'], down: true },
  'stderr-flood': { kind: 'babble', on: ['stdio'] },
  'unknown-notifications': { kind: 'babble', on: all },
  'notification-storm': { kind: 'babble', on: all },
  requests: { kind: 'babble', on: all },
  'wrong-id': { kind: 'lie', on: all },
  'string-id': { kind: 'lie', on: all },
  'foreign-id': { kind: 'lie', on: http },
  duplicate: { kind: 'lie', on: all },
  types: { kind: 'lie', on: all },
  'no-result': { kind: 'lie', on: all },
  garbage: { kind: 'lie', on: all },
  'list-storm': { kind: 'lie', on: all },
  'too-late': { kind: 'lie', on: channels, silent: true },
  // Only of calls that are cancelled: the server answers all the same.
  'after-cancel': { kind: 'lie', on: channels, cancelled: true },
  'session-lost': { kind: 'lie', on: ['http-legacy'] },
  redirect: { kind: 'lie', on: http },
  'status-500': { kind: 'lie', on: http },
  html: { kind: 'lie', on: http },
  'post-500': { kind: 'lie', on: ['sse'] },
  'endpoint-elsewhere': { kind: 'lie', on: ['sse'] },
  // What is never closed: an answered stream, a response without its end, half an event, half a line, a grandchild.
  'never-closed': { kind: 'leak', on: http },
  'half-open': { kind: 'leak', on: http, silent: true },
  'half-event': { kind: 'leak', on: http, silent: true },
  'half-line': { kind: 'leak', on: ['stdio'], silent: true },
  grandchild: { kind: 'leak', on: ['stdio'] }
}

export const kinds = [...new Set(Object.values(faults).map(({ kind }) => kind))]
