/** Notices that nobody has used something for a while. Costs nothing where it is never to end. */
export interface IdleWatch {
  /** A use begins. */
  begin(): void
  /** A use that began has ended. */
  end(): void
  /** The time begins anew, unless it is in use. */
  arm(): void
  close(): void
}

/**
 * @param ms how long without use; 0 means never.
 * @param onIdle called once for each time that it was armed, or used, and then left alone for so long.
 */
export function createIdleWatch(ms: number, onIdle: () => void): IdleWatch {
  let users = 0
  let timer: NodeJS.Timeout | undefined
  const arm = () => {
    clearTimeout(timer)
    if (ms > 0 && users === 0) timer = setTimeout(onIdle, ms).unref()
  }
  return {
    begin() {
      users++
      clearTimeout(timer)
    },
    end() {
      users--
      arm()
    },
    arm,
    close() {
      ms = 0
      clearTimeout(timer)
    }
  }
}
