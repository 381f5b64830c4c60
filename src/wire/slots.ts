/**
 * What is alive at the moment, where something comes and goes with every call. V8 gives a Set or Map that changes like
 * that a new table every few calls, and the old ones, once grown old, keep all they held from being collected young:
 * that was a quarter of a call. So what is heavy stands in slots that are used again, or in records that are emptied.
 */

/** A Set whose values are added once and removed by whoever added them. */
export class Slots<T> {
  readonly #slots: (T | undefined)[] = []
  readonly #free: number[] = []

  get size(): number {
    return this.#slots.length - this.#free.length
  }

  /** Adds `value` until its slot is given to `remove`, which must happen once. */
  add(value: T): number {
    const slot = this.#free.pop() ?? this.#slots.length
    this.#slots[slot] = value
    return slot
  }

  remove(slot: number): void {
    this.#slots[slot] = undefined
    this.#free.push(slot)
  }

  *[Symbol.iterator](): Iterator<T> {
    for (const value of this.#slots) if (value !== undefined) yield value
  }
}

/** As much of a Map as a table of running requests needs. */
export class Running<K, V> {
  readonly #records = new Map<K, { value: V | undefined }>()

  get size(): number {
    return this.#records.size
  }

  has(key: K): boolean {
    return this.#records.has(key)
  }

  get(key: K): V | undefined {
    return this.#records.get(key)?.value
  }

  /** @param key one that is not there. */
  set(key: K, value: V): void {
    this.#records.set(key, { value })
  }

  /** Removes it and returns what it was; undefined if it was not there. */
  take(key: K): V | undefined {
    const record = this.#records.get(key)
    if (!record) return undefined
    const { value } = record
    record.value = undefined
    this.#records.delete(key)
    return value
  }

  *[Symbol.iterator](): Iterator<readonly [K, V]> {
    for (const [key, { value }] of this.#records) if (value !== undefined) yield [key, value]
  }
}
