/**
 * What a `tools/call` is answered, in the caller's era: the upstream's own answer with what that era adds or lacks, or a
 * failure of the way there as a result that a model can act on.
 */
import type { ToolEntry } from './catalog/tool-entry.js'
import { SwitchboardError } from './errors.js'
import type { Outcome } from './observe/audit.js'
import { adjustError, adjustResult, understandsResult, type Era } from './wire/era.js'
import type { Answer, Json } from './wire/json-rpc.js'

/** Between whom an answer passes: who asked, and what the server that answered speaks. */
export interface Between {
  /** The caller's era and capabilities. */
  readonly to: { readonly era: Era; readonly capabilities: Json }
  readonly from: { readonly era: Era; readonly capabilities: Json }
}

/** The upstream's answer in the caller's era. @throws SwitchboardError for what this client must not be shown. */
export function bridged(answer: Answer, entry: ToolEntry, { to, from }: Between): Answer {
  if (answer.error) {
    const error = adjustError(answer.error, to.era)
    if (error) return { error }
    throw new SwitchboardError('upstream_garbage', `it refused the request as malformed: ${answer.error.message}`, {
      dispatched: false
    })
  }
  const result = answer.result as Json
  if (from.era === 'modern' && !understandsResult(result, to.capabilities, from.capabilities)) {
    const type = JSON.stringify(result.resultType)
    throw new SwitchboardError(
      'upstream_garbage',
      `it answered with a result of type ${type}, which this client does not understand`,
      { dispatched: true }
    )
  }
  const whole = withText(wrapped(result, entry, to.era))
  const adjusted = adjustResult(whole, from.era, to.era)
  const { text } = answer
  if (adjusted === result) return answer
  if (whole !== result || text === undefined || to.era === 'legacy' || Object.keys(result).length === 0)
    return { result: adjusted }
  // All that a modern client was missing is the first member.
  return { result: adjusted, text: `{"resultType":"complete",${text.slice(1)}` }
}

/** A 2025-era client was shown an object schema around an output that is none: what it gets is wrapped alike. */
function wrapped(result: Json, { wrapsOutput }: ToolEntry, era: Era): Json {
  if (era === 'modern' || !wrapsOutput || result.structuredContent === undefined) return result
  return { ...result, structuredContent: { result: result.structuredContent } }
}

/** Some clients show a model nothing but `content`: an empty one gets what `structuredContent` says. */
function withText(result: Json): Json {
  const { content, structuredContent } = result
  const empty = content === undefined || (Array.isArray(content) && content.length === 0)
  if (!empty || structuredContent === undefined) return result
  return { ...result, content: [{ type: 'text', text: JSON.stringify(structuredContent) }] }
}

/** A failure as a result: which server and tool, why, whether the call was sent, and the same for programs in `_meta`. */
export function failedResult(error: SwitchboardError, { server, wireName }: ToolEntry, name: string, era: Era): Json {
  const { dispatched = false, retryAfterMs } = error.facts
  const sent = dispatched
    ? 'The call had been sent, so it may or may not have run: check before you repeat it.'
    : `The call was not sent${retryAfterMs === undefined ? '' : `; try again in ${Math.max(1, Math.ceil(retryAfterMs / 1000))} s`}.`
  const called = name === wireName ? `"${wireName}"` : `"${wireName}" (called as "${name}")`
  const text = `Server "${server}" could not answer tool ${called}: ${error.message.replace(/[.\s]+$/, '')}. ${sent}`
  return {
    ...(era === 'modern' && { resultType: 'complete' }),
    content: [{ type: 'text', text }],
    isError: true,
    _meta: {
      'switchboard/error': { code: error.rpc, server, dispatched, ...(retryAfterMs !== undefined && { retryAfterMs }) }
    }
  }
}

/** The failure's word in the audit trail. */
export function outcomeOf({ code }: SwitchboardError): Outcome {
  switch (code) {
    case 'upstream_down':
      return 'down'
    case 'upstream_died':
    case 'upstream_broke':
      return 'died'
    case 'upstream_timeout':
      return 'timeout'
    case 'upstream_overloaded':
    case 'overloaded':
    case 'draining':
      return 'shed'
    case 'cancelled':
      return 'cancelled'
    default:
      return 'failed'
  }
}
