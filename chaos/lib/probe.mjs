/**
 * Preloaded into the gateway under test, whose own files are untouched: says over the IPC channel, when asked, what only
 * the process itself can know, its heap after a collection and what keeps its event loop alive.
 */
process.on('message', () => {
  globalThis.gc?.()
  // What was found dead may have held handles that are closed a turn later.
  setImmediate(() => {
    globalThis.gc?.()
    const { heapUsed, external } = process.memoryUsage()
    process.send({ held: heapUsed + external, resources: process.getActiveResourcesInfo() })
  })
})
process.channel?.unref()
