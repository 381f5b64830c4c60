/**
 * What a request is answered, in the caller's era: the upstream's own answer with what that era adds or lacks, or a failure
 * of the way there, for a tool call as a result that a model can act on.
 */
import type { ToolEntry } from './catalog/tool-entry.js'
import { SwitchboardError } from './errors.js'
import type { Outcome } from './observe/audit.js'
import { adjustError, adjustResult, understandsResult, type Era } from './wire/era.js'
import { isObject, type Answer, type Json, type RpcError } from './wire/json-rpc.js'

/** Between whom an answer passes: who asked, and what the server that answered speaks. */
export interface Between {
  /** The caller's era and capabilities. */
  readonly to: { readonly era: Era; readonly capabilities: Json }
  readonly from: { readonly era: Era; readonly capabilities: Json }
  /** A URI of that server as the caller is shown it. */
  readonly shownUri: (uri: string) => string
  /** A task id of that server as the caller is shown it. */
  readonly shownTask: (id: string) => string
  /** The request was about a task. */
  readonly isTask: boolean
}

/** The upstream's answer in the caller's era. @throws SwitchboardError for what this client must not be shown. */
export function bridged(answer: Answer, between: Between): Answer {
  return answer.result ? adjusted(answer, answer.result, between) : adjustedError(answer, between)
}

/** The same for `tools/call`. */
export function bridgedCall(answer: Answer, entry: ToolEntry, between: Between): Answer {
  if (!answer.result) return adjustedError(answer, between)
  return adjusted(answer, withText(wrapped(answer.result, entry, between.to.era)), between)
}

function adjustedError({ error }: Answer, { to, from }: Between): Answer {
  if (!error) throw new SwitchboardError('upstream_garbage', 'it answered nothing', { dispatched: true })
  const shown = adjustError(error, to.era)
  if (shown) return { error: shown }
  throw new SwitchboardError('upstream_garbage', `it refused the request as malformed: ${error.message}`, {
    dispatched: from.era === 'legacy'
  })
}

/** @param whole the answer's result with what was added to it. */
function adjusted(answer: Answer, whole: Json, { to, from, shownUri, shownTask, isTask }: Between): Answer {
  const { result = {} } = answer
  const text = answer.result ? answer.text : undefined
  if (from.era === 'modern' && !understandsResult(result, to.capabilities, from.capabilities)) {
    const type = JSON.stringify(result.resultType)
    throw new SwitchboardError(
      'upstream_garbage',
      `it answered with a result of type ${type}, which this client does not understand`,
      { dispatched: true }
    )
  }
  const hasTask = from.era === 'modern' && (isTask || result.resultType === 'task')
  const untasked = withShownUris(whole, shownUri)
  const shown = hasTask ? withShownTask(untasked, shownTask) : untasked
  const final = adjustResult(shown, from.era, to.era)
  if (final === result) return answer
  if (shown !== result || text === undefined || to.era === 'legacy' || Object.keys(result).length === 0)
    return { result: final }
  // All that a modern client was missing is the first member.
  return { result: final, text: `{"resultType":"complete",${text.slice(1)}` }
}

/** A call that became a task, or what became of one (Tasks extension); its own result is shown like any other. */
function withShownTask(result: Json, shownTask: Between['shownTask']): Json {
  return typeof result.taskId === 'string' ? { ...result, taskId: shownTask(result.taskId) } : result
}

/** URIs where a client will take them for such: links and embedded resources in content, messages and contents. */
export function withShownUris(result: Json, shownUri: Between['shownUri']): Json {
  const { content, messages, contents, result: inner, taskId } = result
  // A task that is done holds the result of its call.
  if (typeof taskId === 'string' && isObject(inner)) return { ...result, result: withShownUris(inner, shownUri) }
  if (Array.isArray(content)) return changed(result, 'content', content, item => inContent(item, shownUri))
  if (Array.isArray(contents)) return changed(result, 'contents', contents, item => withUri(item, shownUri))
  if (!Array.isArray(messages)) return result
  return changed(result, 'messages', messages, message => {
    if (!isObject(message)) return message
    const { content } = message
    if (Array.isArray(content)) return changed(message, 'content', content, item => inContent(item, shownUri))
    const shown = inContent(content, shownUri)
    return shown === content ? message : { ...message, content: shown }
  })
}

function inContent(item: unknown, shownUri: Between['shownUri']): unknown {
  if (!isObject(item)) return item
  if (item.type === 'resource_link') return withUri(item, shownUri)
  if (item.type !== 'resource') return item
  const resource = withUri(item.resource, shownUri)
  return resource === item.resource ? item : { ...item, resource }
}

function withUri(item: unknown, shownUri: Between['shownUri']): unknown {
  if (!isObject(item) || typeof item.uri !== 'string') return item
  const uri = shownUri(item.uri)
  return uri === item.uri ? item : { ...item, uri }
}

/** The very same object where nothing changes, which is nearly always. */
function changed(whole: Json, member: string, items: readonly unknown[], map: (item: unknown) => unknown): Json {
  let mapped: unknown[] | undefined
  items.forEach((item, i) => {
    const now = map(item)
    if (now !== item) (mapped ??= [...items])[i] = now
  })
  return mapped ? { ...whole, [member]: mapped } : whole
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
  const called = name === wireName ? `"${wireName}"` : `"${wireName}" (called as "${name}")`
  const text = `Server "${server}" could not answer tool ${called}: ${why(error, 'call')}`
  return {
    ...(era === 'modern' && { resultType: 'complete' }),
    content: [{ type: 'text', text }],
    isError: true,
    _meta: {
      'switchboard/error': { code: error.rpc, server, dispatched, ...(retryAfterMs !== undefined && { retryAfterMs }) }
    }
  }
}

/** The same for every other request, as an error. */
export function failedError(
  error: SwitchboardError,
  method: string,
  { server, wireName }: { readonly server: string; readonly wireName: string }
): RpcError {
  const { dispatched = false, retryAfterMs } = error.facts
  return {
    code: error.rpc,
    message: `Server "${server}" could not answer ${method} for "${wireName}": ${why(error, 'request')}`,
    data: { server, dispatched, ...(retryAfterMs !== undefined && { retryAfterMs }) }
  }
}

/** The reason, whether it was sent, and what to do. */
function why(
  { message, facts: { dispatched = false, retryAfterMs } }: SwitchboardError,
  what: 'call' | 'request'
): string {
  const again = retryAfterMs === undefined ? '' : `; try again in ${Math.max(1, Math.ceil(retryAfterMs / 1000))} s`
  const sent = !dispatched
    ? `The ${what} was not sent${again}.`
    : what === 'call'
      ? 'The call had been sent, so it may or may not have run: check before you repeat it.'
      : 'The request had been sent, but its answer is lost; it may be repeated.'
  return `${message.replace(/[.\s]+$/, '')}. ${sent}`
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
