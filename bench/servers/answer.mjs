/** The MCP of the raw upstreams, both eras, without an SDK: a message in, the serialised answer out. */
import { resultOf, toolsOf } from './offer.mjs'

const modernVersion = '2026-07-28'
const serverInfo = { name: 'raw', version: '1.0.0' }
const capabilities = { tools: {} }

/**
 * @param tools how many tools the server has.
 * @param modern it speaks 2026-07-28 only; otherwise the revisions before.
 * @returns the answer as JSON, or undefined for a notification.
 */
export function createAnswer({ tools, modern = false }) {
  let list
  const complete = modern ? '"resultType":"complete",' : ''

  function resultFor({ method, params = {} }) {
    switch (method) {
      case 'tools/call':
        return `{${complete}${resultOf(params.name).slice(1)}`
      case 'tools/list':
        list ??= toolsOf(tools)
        return modern ? `{${complete}"tools":${list},"ttlMs":600000,"cacheScope":"private"}` : `{"tools":${list}}`
      case 'initialize':
        if (modern) return undefined
        return JSON.stringify({ protocolVersion: params.protocolVersion, capabilities, serverInfo })
      case 'server/discover':
        if (!modern) return undefined
        return JSON.stringify({
          resultType: 'complete',
          supportedVersions: [modernVersion],
          capabilities,
          ttlMs: 600_000,
          cacheScope: 'private',
          serverInfo
        })
      case 'ping':
        return '{}'
      default:
        return undefined
    }
  }

  return message => {
    if (message.id === undefined || message.method === undefined) return undefined
    const head = `{"jsonrpc":"2.0","id":${JSON.stringify(message.id)},`
    const result = resultFor(message)
    if (result === undefined) return `${head}"error":{"code":-32601,"message":"Method not found"}}`
    return `${head}"result":${result}}`
  }
}
