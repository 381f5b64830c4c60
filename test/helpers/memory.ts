/** What is still held, after everything that could be forgotten has been. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
/** A full collection, at once. */
export const collectGarbage = runInNewContext('gc') as () => void

/** Bytes in use after a full collection: heap and buffers. */
export function heldBytes(): number {
  collectGarbage()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}
