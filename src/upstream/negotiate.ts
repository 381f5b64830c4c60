/** Opens the conversation on a fresh link: `initialize` for legacy servers, `server/discover` for modern ones. */
import { SwitchboardError } from '../errors.js'
import { Cancellation } from '../wire/cancellation.js'
import { isLegacyVersion, legacyVersions, modernVersion, withoutTasks, type Era } from '../wire/era.js'
import { isObject, type Answer, type Json } from '../wire/json-rpc.js'
import type { ClientFacts } from '../wire/leg.js'
import type { GatewayIdentity, Link, LinkInfo } from './link.js'

/** A link whose facts are still to be found out. */
export interface Negotiable extends Link {
  info: LinkInfo
  notify(method: string, params?: Json): void
}

/** The gateway as a client in its own right: it declares nothing it could not answer. */
export const ownFacts = (identity: GatewayIdentity): ClientFacts => ({
  clientInfo: { name: identity.name, version: identity.version },
  capabilities: {}
})

/**
 * One request of the gateway's own (handshake, lists) with a deadline in milliseconds.
 * @throws SwitchboardError, `upstream_timeout` when the deadline passes.
 */
export async function ask(
  link: Link,
  method: string,
  params: Json | undefined,
  client: ClientFacts,
  ms: number
): Promise<Answer> {
  const cancellation = new Cancellation()
  const timer = setTimeout(
    () =>
      cancellation.cancel(
        new SwitchboardError('upstream_timeout', `it did not answer ${method} within ${ms / 1000} s`)
      ),
    ms
  )
  try {
    return await link.request(method, params, { cancellation, client, wantsProgress: false })
  } finally {
    clearTimeout(timer)
  }
}

/** The 2025-era handshake (2025-11-25, Lifecycle). @throws SwitchboardError with the reason. */
export async function initialize(link: Negotiable, identity: GatewayIdentity, ms: number): Promise<void> {
  const { clientInfo, capabilities } = ownFacts(identity)
  const answer = await ask(
    link,
    'initialize',
    { protocolVersion: legacyVersions[0], capabilities, clientInfo },
    ownFacts(identity),
    ms
  )
  if (!answer.result) throw refused('initialize', answer)
  const { protocolVersion } = answer.result
  if (typeof protocolVersion !== 'string' || !isLegacyVersion(protocolVersion)) {
    const shown = typeof protocolVersion === 'string' ? protocolVersion.slice(0, 40) : 'no version'
    throw new SwitchboardError(
      'upstream_garbage',
      `it answered initialize with ${shown}; known are ${legacyVersions.join(', ')}`
    )
  }
  link.info = infoOf('legacy', protocolVersion, answer.result)
  link.notify('notifications/initialized')
}

/**
 * The modern opening (2026-07-28, Discovery), which also tells the eras apart: a server that refuses it is legacy, one
 * that cannot be reached, or does not let us in, is neither.
 *
 * @returns the era; for `modern` the link is ready for use.
 * @throws SwitchboardError when nothing can be concluded, or when the server is modern but no revision is shared.
 */
export async function discover(link: Negotiable, identity: GatewayIdentity, ms: number): Promise<Era> {
  let answer: Answer
  try {
    answer = await ask(link, 'server/discover', {}, ownFacts(identity), ms)
  } catch (error) {
    const status =
      error instanceof SwitchboardError && error.code === 'upstream_garbage' ? error.facts.data?.status : undefined
    if (typeof status === 'number' && status >= 400 && status < 500) return 'legacy'
    throw error
  }
  if (answer.error) {
    if (!modernErrors.has(answer.error.code)) return 'legacy'
    throw refused('server/discover', answer)
  }
  const { supportedVersions } = answer.result as Json
  if (!Array.isArray(supportedVersions) || !supportedVersions.includes(modernVersion)) {
    throw new SwitchboardError('upstream_garbage', `it answered server/discover without supporting ${modernVersion}`)
  }
  link.info = infoOf('modern', modernVersion, answer.result as Json)
  return 'modern'
}

/** Only servers of 2026-07-28 and later use these: header mismatch, missing capability, unsupported version. */
const modernErrors: ReadonlySet<number> = new Set([-32020, -32021, -32022])

function infoOf(era: LinkInfo['era'], version: string, result: Json): LinkInfo {
  const { capabilities: declared, serverInfo, instructions } = result
  const capabilities = isObject(declared) ? declared : {}
  return {
    era,
    version,
    capabilities: era === 'legacy' ? withoutTasks(capabilities) : capabilities,
    serverInfo: isObject(serverInfo) ? serverInfo : {},
    ...(typeof instructions === 'string' && { instructions })
  }
}

function refused(method: string, answer: Answer): SwitchboardError {
  const said = answer.error ? `${answer.error.message.slice(0, 300)} (${answer.error.code})` : 'nothing usable'
  return new SwitchboardError('upstream_garbage', `it answered ${method} with an error: ${said}`)
}
