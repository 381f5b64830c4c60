/** The levels of log messages (RFC 5424, section 6.2.1, in the names of MCP), least severe first. */
const levels: readonly unknown[] = ['debug', 'info', 'notice', 'warning', 'error', 'critical', 'alert', 'emergency']

export function isLogLevel(level: unknown): level is string {
  return levels.includes(level)
}

/** Whether a message of that level is for somebody who wants `least` and above. @param least undefined: nothing. */
export function isLoud(level: unknown, least: string | undefined): boolean {
  return least !== undefined && levels.indexOf(level) >= levels.indexOf(least)
}

/** The least severe of these; undefined when there are none. */
export function mostTalkative(wanted: Iterable<string>): string | undefined {
  let lowest: string | undefined
  for (const level of wanted) if (lowest === undefined || levels.indexOf(level) < levels.indexOf(lowest)) lowest = level
  return lowest
}
