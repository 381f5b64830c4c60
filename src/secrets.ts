/** Secrets the gateway makes up itself, once, and keeps in the state directory. */
import { createHash, randomBytes } from 'node:crypto'
import { newSecret } from './policy/keys.js'
import type { State } from './state.js'

/** Those that seal session ids, newest first: the configured one, or one made at the first start and kept. */
export function sealSecrets(configured: string | undefined, state: State): readonly Buffer[] {
  if (configured !== undefined) return [createHash('sha256').update(configured).digest()]
  const kept = state
    .read('seal.key')
    ?.toString()
    .split('\n')
    .filter(line => /^[0-9a-f]{64}$/.test(line))
  if (kept && kept.length > 0) return kept.map(line => Buffer.from(line, 'hex'))
  const secret = randomBytes(32)
  state.write('seal.key', secret.toString('hex') + '\n')
  return [secret]
}

/** Those of keys configured as `generated`, by key id: made when first asked for. */
export function createGeneratedSecrets(state: State): (id: string) => string {
  return id => {
    const kept = readGeneratedSecrets(state)
    const secret = kept[id]
    if (secret !== undefined) return secret
    const made = newSecret()
    state.write('keys.json', JSON.stringify({ ...kept, [id]: made }, null, 2) + '\n')
    return made
  }
}

/** Those that were made so far. */
export function readGeneratedSecrets(state: State): Readonly<Record<string, string>> {
  try {
    const value: unknown = JSON.parse(state.read('keys.json')?.toString() ?? '{}')
    return typeof value === 'object' && value !== null ? (value as Record<string, string>) : {}
  } catch {
    return {}
  }
}
