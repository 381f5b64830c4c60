/**
 * What clients wait to be told of by a server, whatever becomes of it: another may take its place, or it is left out of
 * the configuration and comes back. Each that serves under that id is asked the same.
 */

export interface Subscriptions<Server> {
  /**
   * Asks the server of that id, and every one that takes its place; `open` resolves with what ends it there.
   * @returns the end of it all. Rejects as the first `open` does.
   */
  keep(id: string, server: Server, open: (server: Server) => Promise<() => void>): Promise<() => void>
  /** Other servers serve. */
  follow(servers: ReadonlyMap<string, Server>): void
}

interface Kept<Server> {
  readonly id: string
  readonly open: (server: Server) => Promise<() => void>
  /** The one that was asked; undefined while none has that id. */
  server: Server | undefined
  release: () => void
}

const nothing = () => {}

/** @param serving who serves at this moment. */
export function createSubscriptions<Server>(serving: () => ReadonlyMap<string, Server>): Subscriptions<Server> {
  const all = new Set<Kept<Server>>()

  function move(kept: Kept<Server>, server: Server | undefined): void {
    if (server === kept.server) return
    kept.release()
    kept.server = server
    kept.release = nothing
    if (server === undefined) return
    kept.open(server).then(
      release => {
        if (all.has(kept) && kept.server === server) kept.release = release
        else release()
      },
      // It has refused, and nobody is there to be told so.
      nothing
    )
  }

  return {
    async keep(id, server, open) {
      const kept = { id, server, open, release: await open(server) }
      all.add(kept)
      move(kept, serving().get(id))
      return () => {
        all.delete(kept)
        kept.release()
      }
    },
    follow(servers) {
      for (const kept of all) move(kept, servers.get(kept.id))
    }
  }
}
