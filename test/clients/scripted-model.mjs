/**
 * A model on loopback that follows a script: it calls the tool whose name ends in `tool` with `args`, and then says what
 * the tool answered. It speaks the APIs of Anthropic (Messages), OpenAI (Responses, Chat Completions) and Google
 * (generateContent), streamed and whole.
 */
import { once } from 'node:events'
import { createServer } from 'node:http'

/** A call of the script has this id, so that its result is told from the results of all others. */
const callId = 'call_switchboard_1'
const searchId = 'call_search_1'
const model = 'scripted'

export async function startScriptedModel({ tool, args }) {
  /** All it was asked: for the one who looks into a failure. */
  const requests = []
  const seen = { called: undefined, result: undefined }

  /** The script: what is said to a conversation in which these tools are offered and these results came back. */
  function next({ tools, results, mentioned }) {
    const result = results.get(callId)
    if (result !== undefined) {
      seen.result = result
      return { text: `The tool answered: ${result}` }
    }
    const offered = tools.find(({ name }) => name.endsWith(tool))
    if (offered) {
      seen.called = [offered.namespace, offered.name].filter(Boolean).join('/')
      return { call: { ...offered, id: callId, args } }
    }
    // Claude Code tells the model only the names of most tools, until it asks for them.
    const search = tools.find(({ name }) => name === 'ToolSearch')
    const name = mentioned(new RegExp(`mcp__\\w*${tool}\\b`))
    if (search && name && !results.has(searchId))
      return { call: { ...search, id: searchId, args: { query: `select:${name}` } } }
    return { text: 'Nothing to do.' }
  }

  async function answer(req, res) {
    requests.push(`${req.method} ${req.url}`)
    let text = ''
    for await (const chunk of req.setEncoding('utf8')) text += chunk
    const path = req.url.replace(/\?.*/, '')
    const [, reply] = replies.find(([ending]) => req.method === 'POST' && path.endsWith(ending)) ?? []
    if (!reply) return json(res, path.endsWith('/models') ? 200 : 404, { object: 'list', data: [] })
    const say = conversation => next({ ...conversation, mentioned: pattern => pattern.exec(text)?.[0] })
    reply(res, say, JSON.parse(text))
  }
  const http = createServer((req, res) => {
    answer(req, res).catch(error => {
      requests.push(`  could not be answered: ${error.message}`)
      res.destroy()
    })
  })
  http.listen(0, '127.0.0.1')
  await once(http, 'listening')
  return {
    tool,
    args,
    url: `http://127.0.0.1:${http.address().port}`,
    requests,
    seen,
    close() {
      http.close()
      http.closeAllConnections()
    }
  }
}

/** By how its path ends: what answers a request. `say(conversation)` is the script. */
const replies = [
  ['/messages/count_tokens', res => json(res, 200, { input_tokens: 1 })],
  ['/messages', anthropic],
  ['/responses', responses],
  ['/chat/completions', chatCompletions],
  [':countTokens', res => json(res, 200, { totalTokens: 1 })],
  [':generateContent', (res, say, body) => json(res, 200, gemini(say, body))],
  [':streamGenerateContent', (res, say, body) => stream(res, [{ data: gemini(say, body) }])]
]

/** A result as text, whatever it is made of. */
const asText = result => (typeof result === 'string' ? result : JSON.stringify(result))

function anthropic(res, say, { messages, tools = [], stream: streamed }) {
  const blocks = messages.flatMap(({ content }) => (Array.isArray(content) ? content : []))
  const results = new Map(
    blocks.filter(({ type }) => type === 'tool_result').map(block => [block.tool_use_id, asText(block.content)])
  )
  const { call, text } = say({ tools, results })
  const block = call ? { type: 'tool_use', id: call.id, name: call.name, input: call.args } : { type: 'text', text }
  const usage = { input_tokens: 1, output_tokens: 1 }
  const message = { id: 'msg_1', type: 'message', role: 'assistant', model, stop_sequence: null, usage }
  const stop_reason = call ? 'tool_use' : 'end_turn'
  if (!streamed) return json(res, 200, { ...message, content: [block], stop_reason })
  const delta = call
    ? { type: 'input_json_delta', partial_json: JSON.stringify(call.args) }
    : { type: 'text_delta', text }
  stream(
    res,
    [
      { type: 'message_start', message: { ...message, content: [], stop_reason: null } },
      { type: 'content_block_start', index: 0, content_block: { ...block, ...(call ? { input: {} } : { text: '' }) } },
      { type: 'content_block_delta', index: 0, delta },
      { type: 'content_block_stop', index: 0 },
      { type: 'message_delta', delta: { stop_reason, stop_sequence: null }, usage },
      { type: 'message_stop' }
    ].map(data => ({ event: data.type, data }))
  )
}

function responses(res, say, { input, tools = [], stream: streamed }) {
  const items = Array.isArray(input) ? input : []
  const results = new Map(
    items.filter(({ type }) => type === 'function_call_output').map(item => [item.call_id, asText(item.output)])
  )
  // Codex groups the tools of a server in a namespace.
  const offered = tools.flatMap(tool =>
    tool.type === 'namespace' ? tool.tools.map(({ name }) => ({ name, namespace: tool.name })) : tool
  )
  const { call, text } = say({ tools: offered.filter(({ name }) => name), results })
  const item = call
    ? {
        type: 'function_call',
        id: 'fc_1',
        call_id: call.id,
        name: call.name,
        namespace: call.namespace,
        arguments: JSON.stringify(call.args),
        status: 'completed'
      }
    : {
        type: 'message',
        id: 'msg_1',
        role: 'assistant',
        content: [{ type: 'output_text', text, annotations: [] }],
        status: 'completed'
      }
  const usage = { input_tokens: 1, output_tokens: 1, total_tokens: 2 }
  const response = {
    id: 'resp_1',
    object: 'response',
    created_at: 1,
    model,
    output: [item],
    usage,
    status: 'completed'
  }
  if (!streamed) return json(res, 200, response)
  stream(
    res,
    [
      { type: 'response.created', response: { ...response, output: [], status: 'in_progress' } },
      { type: 'response.output_item.added', output_index: 0, item: { ...item, status: 'in_progress' } },
      { type: 'response.output_item.done', output_index: 0, item },
      { type: 'response.completed', response }
    ].map((data, at) => ({ event: data.type, data: { ...data, sequence_number: at } }))
  )
}

function chatCompletions(res, say, { messages, tools = [], stream: streamed }) {
  const results = new Map(
    messages.filter(({ role }) => role === 'tool').map(message => [message.tool_call_id, asText(message.content)])
  )
  const { call, text } = say({ tools: tools.map(({ function: { name } }) => ({ name })), results })
  const finish_reason = call ? 'tool_calls' : 'stop'
  const usage = { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 }
  const calls = call && [
    { index: 0, id: call.id, type: 'function', function: { name: call.name, arguments: JSON.stringify(call.args) } }
  ]
  const message = { role: 'assistant', content: text ?? null, tool_calls: calls }
  const completion = { id: 'chatcmpl_1', created: 1, model }
  if (!streamed) {
    const choices = [{ index: 0, message, finish_reason }]
    return json(res, 200, { ...completion, object: 'chat.completion', choices, usage })
  }
  const chunk = { ...completion, object: 'chat.completion.chunk' }
  stream(res, [
    { data: { ...chunk, choices: [{ index: 0, delta: message, finish_reason: null }] } },
    { data: { ...chunk, choices: [{ index: 0, delta: {}, finish_reason }], usage } },
    { data: '[DONE]' }
  ])
}

function gemini(say, { contents, tools = [] }) {
  const parts = contents.flatMap(content => content.parts ?? [])
  const offered = tools.flatMap(({ functionDeclarations = [] }) => functionDeclarations)
  const results = new Map(
    parts.flatMap(({ functionResponse: result }) => (result ? [[result.id, asText(result.response)]] : []))
  )
  const { call, text } = say({ tools: offered, results })
  const part = call ? { functionCall: { id: call.id, name: call.name, args: call.args } } : { text }
  return {
    candidates: [{ index: 0, content: { role: 'model', parts: [part] }, finishReason: 'STOP' }],
    usageMetadata: { promptTokenCount: 1, candidatesTokenCount: 1, totalTokenCount: 2 },
    modelVersion: model
  }
}

function json(res, status, body) {
  res.writeHead(status, { 'content-type': 'application/json' })
  res.end(JSON.stringify(body))
}

function stream(res, events) {
  res.writeHead(200, { 'content-type': 'text/event-stream' })
  for (const { event, data } of events) {
    if (event) res.write(`event: ${event}\n`)
    res.write(`data: ${asText(data)}\n\n`)
  }
  res.end()
}
