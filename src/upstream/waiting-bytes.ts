/** What calls may hold while they wait for one server, for its start or for their turn: a bounded number of bytes. */
import { SwitchboardError } from '../errors.js'
import { bytesHeld, sizeText } from '../wire/json-bytes.js'
import type { Json } from '../wire/json-rpc.js'
import { Shares } from './places.js'

export class WaitingBytes {
  readonly #server: string
  readonly #most: number
  readonly #shares: Shares
  #held = 0

  /** @param most bytes of all keys together; no key may have more than half. */
  constructor(server: string, most: number) {
    this.#server = server
    this.#most = most
    this.#shares = new Shares(most)
  }

  /** Counts what `params` hold until `wait` has ended. @throws SwitchboardError `upstream_overloaded` when that is too much. */
  async during<T>(key: string, params: Json | undefined, wait: () => Promise<T>): Promise<T> {
    const bytes = bytesHeld(params)
    if (this.#held + bytes > this.#most)
      throw this.#overloaded(`with this call more than ${sizeText(this.#most)} of arguments would wait for it`)
    if (!this.#shares.take(key, bytes)) {
      const share = `with this call more than ${sizeText(this.#most / 2)} of arguments of this key would wait for it`
      throw this.#overloaded(`${share}, and no key may have more`)
    }
    this.#held += bytes
    try {
      return await wait()
    } finally {
      this.#shares.giveBack(key, bytes)
      this.#held -= bytes
    }
  }

  #overloaded(why: string): SwitchboardError {
    const facts = { server: this.#server, dispatched: false, retryAfterMs: 1000 }
    return new SwitchboardError('upstream_overloaded', why, facts)
  }
}
