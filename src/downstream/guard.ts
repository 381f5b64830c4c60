/**
 * What is checked of a request before anything else, on every door: how many headers it has, whether one that may stand
 * once stands twice (a proxy and we could read different ones), and whether Host and Origin are ours (DNS rebinding).
 */
import type { IncomingMessage } from 'node:http'
import { createRequire } from 'node:module'
import type * as Sdk from '@modelcontextprotocol/server'
import { SwitchboardError } from '../errors.js'

export interface GuardOptions {
  /** Whether only this machine can reach the address we listen at. */
  readonly loopback: boolean
  readonly allowedHosts: readonly string[]
  readonly allowedOrigins: readonly string[]
  /** Header fields a request may have. */
  readonly headerFields: number
}

/** Returns why a request is refused, or undefined. */
export type Guard = (req: IncomingMessage) => SwitchboardError | undefined

const singletons: readonly string[] = [
  'host', 'origin', 'authorization', 'x-api-key', 'content-type', 'content-length', 'mcp-session-id',
  'mcp-protocol-version', 'mcp-method', 'mcp-name', 'last-event-id', 'x-mcp-servers'
] // prettier-ignore
/** Name -> a bit of its own. */
const singletonBits: ReadonlyMap<string, number> = new Map(singletons.map((name, i) => [name, 1 << i]))
const knownHosts = 1000
/** What `localhostAllowedHostnames` of the SDK says, without its 100 ms at every start. */
const loopbackNames = ['localhost', '127.0.0.1', '[::1]']
/** A host that a URL would hold as it is, with a port that a URL may have. */
const plainHost = /^([a-z0-9.-]+|\[::1\])(?::(?:\d{1,4}|[1-5]\d{4}))?$/

export function createGuard({ loopback, allowedHosts, allowedOrigins, headerFields }: GuardOptions): Guard {
  // Loopback names always pass where hosts are checked at all: health checks on the machine itself use them.
  const restricted = loopback || allowedHosts.length > 0
  const hostnames = restricted ? [...loopbackNames, ...allowedHosts.map(withoutPort)] : undefined
  const exact = new Set(hostnames?.filter(isNormal))
  const origins = new Set(allowedOrigins.map(origin => origin.toLowerCase().replace(/\/$/, '')))
  const verdicts = new Map<string, boolean>()

  function hostAllowed(value: string): boolean {
    if (!hostnames) return true
    let verdict = verdicts.get(value)
    if (verdict === undefined) {
      if (verdicts.size >= knownHosts) verdicts.clear()
      verdict = exact.has(plainHost.exec(value)?.[1] ?? '') || validHost(value, hostnames)
      verdicts.set(value, verdict)
    }
    return verdict
  }

  /** A browser says where a page comes from: it may be this very host, or one that is listed. */
  function originAllowed(origin: string, hostHeader: string): boolean {
    if (origins.has(origin.toLowerCase())) return true
    let url: URL
    try {
      url = new URL(origin)
    } catch {
      return false
    }
    return (
      (url.protocol === 'http:' || url.protocol === 'https:') && url.host.toLowerCase() === hostHeader.toLowerCase()
    )
  }

  return ({ rawHeaders, headers, url = '/' }) => {
    if (rawHeaders.length > headerFields * 2)
      return new SwitchboardError('headers_too_many', `More than ${headerFields} header fields were sent.`)
    // As many names as fields: none stands twice.
    const twice = Object.keys(headers).length * 2 < rawHeaders.length ? repeated(rawHeaders) : undefined
    if (twice)
      return new SwitchboardError('duplicate_header', `The header "${twice}" was sent twice; it may stand only once.`)
    const { host: hostHeader, origin } = headers
    if (hostHeader === undefined || !hostAllowed(hostHeader)) return new SwitchboardError('forbidden_host')
    // An absolute-form target names a host of its own, which must not differ from the one that was checked.
    if (!url.startsWith('/') && !sameAuthority(url, hostHeader)) return new SwitchboardError('forbidden_host')
    if (origin !== undefined && !originAllowed(origin, hostHeader)) return new SwitchboardError('forbidden_origin')
    return undefined
  }
}

const withoutPort = (host: string) => host.toLowerCase().replace(/:\d+$/, '')

/** Loads the SDK at the first Host that is neither of the machine nor word for word a configured one. */
function validHost(value: string, hostnames: string[]): boolean {
  const require = createRequire(import.meta.url)
  const { validateHostHeader } = require('@modelcontextprotocol/server') as typeof Sdk
  return validateHostHeader(value, hostnames).ok
}

/** Whether a URL keeps this hostname as it is; of `127.1`, for example, it makes another. */
function isNormal(hostname: string): boolean {
  try {
    return new URL(`http://${hostname}`).hostname === hostname
  } catch {
    return false
  }
}

function repeated(rawHeaders: readonly string[]): string | undefined {
  let seen = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = (rawHeaders[i] as string).toLowerCase()
    const bit = singletonBits.get(name)
    if (bit === undefined) continue
    if (seen & bit) return name
    seen |= bit
  }
  return undefined
}

function sameAuthority(target: string, hostHeader: string): boolean {
  try {
    return new URL(target).host.toLowerCase() === hostHeader.toLowerCase()
  } catch {
    return false
  }
}
