/**
 * What the suite calls, described once for both SDKs: its tools, prompts and resources, by the names it knows. A tool is
 * `{ name, description, inputSchema?, call(args, context) }`; the context is the SDK's, made alike by `server-v1.mjs` and
 * `server-v2.mjs`:
 *
 *   progressToken            of this call, if the client gave one
 *   notify(method, params)   to the client, on the stream of this call
 *   log(level, data)         the same for a log message, where the client wants any
 *   ask(method, params)      a request to the client; a tool asks once, and first
 *   closeStream()            closes the response stream, not the call
 *   change(kind)             makes the list of `tools` or `prompts` another one, and says so
 *
 * `offered` is what a server lists at the moment.
 */
import { setTimeout as pause } from 'node:timers/promises'

const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=='
const wav = 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA='

export const text = value => ({ type: 'text', text: value })
export const inText = value => ({ content: [text(value)] })
const image = { type: 'image', data: png, mimeType: 'image/png' }
const embedded = (uri, mimeType, value) => ({ type: 'resource', resource: { uri, mimeType, text: value } })

export const serverInfo = { name: 'conformance-everything', version: '1.0.0' }
export const capabilities = {
  tools: { listChanged: true },
  prompts: { listChanged: true },
  resources: { subscribe: true, listChanged: true },
  logging: {},
  completions: {}
}

/** How long a client is asked to wait before it comes back to a stream that was closed on it. */
export const retryInterval = 500

const stringArgument = name => ({ type: 'object', properties: { [name]: { type: 'string' } }, required: [name] })

/** An elicitation whose answer is the text of the result; so is a refusal. */
const elicit = async (ask, message, requestedSchema) => {
  const { action, content } = await ask('elicitation/create', { message, requestedSchema })
  return inText(`action=${action}, content=${JSON.stringify(content ?? {})}`)
}

const steps = ['First', 'Second', 'Third']
const titled = noun => steps.map((step, at) => ({ const: `value${at + 1}`, title: `${step} ${noun}` }))
const options = ['option1', 'option2', 'option3']

const tools = [
  {
    // The first of the list: the suite calls that one without arguments.
    name: 'test_simple_text',
    description: 'Returns a text.',
    call: () => inText('This is a simple text response for testing.')
  },
  { name: 'test_image_content', description: 'Returns an image.', call: () => ({ content: [image] }) },
  {
    name: 'test_audio_content',
    description: 'Returns a sound.',
    call: () => ({ content: [{ type: 'audio', data: wav, mimeType: 'audio/wav' }] })
  },
  {
    name: 'test_embedded_resource',
    description: 'Returns an embedded resource.',
    call: () => ({
      content: [embedded('test://embedded-resource', 'text/plain', 'This is an embedded resource content.')]
    })
  },
  {
    name: 'test_multiple_content_types',
    description: 'Returns a text, an image and a resource.',
    call: () => ({
      content: [
        text('Multiple content types test:'),
        image,
        embedded('test://mixed-content-resource', 'application/json', '{"test":"data","value":123}')
      ]
    })
  },
  {
    name: 'test_error_handling',
    description: 'Fails.',
    call() {
      throw new Error('This tool intentionally returns an error for testing')
    }
  },
  {
    name: 'test_tool_with_logging',
    description: 'Logs three times.',
    async call(_, { notify }) {
      for (const data of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
        await notify('notifications/message', { level: 'info', data })
        await pause(50)
      }
      return inText('Tool with logging executed successfully')
    }
  },
  {
    // No pause after the last event: whether it still comes before the result is what the scenario is about.
    name: 'test_tool_with_progress',
    description: 'Reports 0, 50 and 100 of 100.',
    async call(_, { progressToken, notify }) {
      for (const progress of [0, 50, 100]) {
        if (progress > 0) await pause(50)
        if (progressToken === undefined) continue
        await notify('notifications/progress', { progressToken, progress, total: 100, message: `at ${progress}` })
      }
      return inText(String(progressToken))
    }
  },
  {
    name: 'test_reconnection',
    description: 'Closes its stream in the middle of the call: the result is for a client that comes back.',
    async call(_, { closeStream }) {
      closeStream()
      await pause(100)
      return inText('Reconnection test completed successfully.')
    }
  },
  {
    name: 'test_sampling',
    description: 'Asks the model of the client.',
    inputSchema: stringArgument('prompt'),
    async call({ prompt }, { ask }) {
      const messages = [{ role: 'user', content: text(prompt) }]
      const { content } = await ask('sampling/createMessage', { messages, maxTokens: 100 })
      return inText(`LLM response: ${content?.text}`)
    }
  },
  {
    name: 'test_elicitation',
    description: 'Asks the user.',
    inputSchema: stringArgument('message'),
    call: ({ message }, { ask }) =>
      elicit(ask, message, {
        type: 'object',
        properties: { username: { type: 'string' }, email: { type: 'string' } },
        required: ['username', 'email']
      })
  },
  {
    name: 'test_elicitation_sep1034_defaults',
    description: 'Asks the user, with a default for every primitive type.',
    call: (_, { ask }) =>
      elicit(ask, 'Please review and update the form fields with defaults', {
        type: 'object',
        properties: {
          name: { type: 'string', default: 'John Doe' },
          age: { type: 'integer', default: 30 },
          score: { type: 'number', default: 95.5 },
          status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
          verified: { type: 'boolean', default: true }
        }
      })
  },
  {
    name: 'test_elicitation_sep1330_enums',
    description: 'Asks the user, with every kind of enum.',
    call: (_, { ask }) =>
      elicit(ask, 'Please select options from the enum fields', {
        type: 'object',
        properties: {
          untitledSingle: { type: 'string', enum: options },
          titledSingle: { type: 'string', oneOf: titled('Option') },
          legacyEnum: {
            type: 'string',
            enum: ['opt1', 'opt2', 'opt3'],
            enumNames: ['Option One', 'Option Two', 'Option Three']
          },
          untitledMulti: { type: 'array', minItems: 1, maxItems: 3, items: { type: 'string', enum: options } },
          titledMulti: { type: 'array', minItems: 1, maxItems: 3, items: { anyOf: titled('Choice') } }
        }
      })
  },
  {
    name: 'json_schema_2020_12_tool',
    description: 'Has a schema that is easily damaged.',
    inputSchema: {
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      type: 'object',
      $defs: {
        address: {
          $anchor: 'addressDef',
          type: 'object',
          properties: { street: { type: 'string' }, city: { type: 'string' } }
        }
      },
      properties: {
        name: { type: 'string' },
        address: { $ref: '#/$defs/address' },
        contactMethod: { type: 'string', enum: ['phone', 'email'] },
        phone: { type: 'string' },
        email: { type: 'string' }
      },
      allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
      if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
      then: { required: ['phone'] },
      else: { required: ['email'] },
      additionalProperties: false
    },
    call: args => inText(JSON.stringify(args))
  },
  {
    name: 'test_x_mcp_header',
    description: 'Has an argument that clients of 2026-07-28 mirror into a header.',
    inputSchema: {
      type: 'object',
      properties: { region: { type: 'string', 'x-mcp-header': 'Region' }, level: { type: 'integer' } }
    },
    call: ({ region }) => inText(`region=${region}`)
  },
  {
    name: 'test_streaming_elicitation',
    description: 'Answers: its stream carries no request of its own.',
    call: () => inText('result frames only, no top-level requests')
  },
  {
    name: 'test_logging_tool',
    description: 'Logs to those who want it.',
    async call(_, { log }) {
      await log('info', 'test_logging_tool ran')
      return inText('logged')
    }
  },
  {
    name: 'test_trigger_tool_change',
    description: 'Replaces a tool by another one.',
    call(_, { change }) {
      change('tools')
      return inText('changed')
    }
  },
  {
    name: 'test_trigger_prompt_change',
    description: 'Replaces a prompt by another one.',
    call(_, { change }) {
      change('prompts')
      return inText('changed')
    }
  }
]

const message = content => ({ role: 'user', content })
const argument = (name, description) => ({ name, description, required: true })

const prompts = [
  {
    name: 'test_simple_prompt',
    description: 'A prompt without arguments.',
    get: () => ({ messages: [message(text('This is a simple prompt for testing.'))] })
  },
  {
    name: 'test_prompt_with_arguments',
    description: 'A prompt with arguments.',
    arguments: [argument('arg1', 'The first'), argument('arg2', 'The second')],
    get: ({ arg1, arg2 }) => ({
      messages: [message(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`))]
    })
  },
  {
    name: 'test_prompt_with_embedded_resource',
    description: 'A prompt with an embedded resource.',
    arguments: [argument('resourceUri', 'What is embedded')],
    get: ({ resourceUri }) => ({
      messages: [
        message(embedded(resourceUri, 'text/plain', 'Embedded resource content for testing.')),
        message(text('Please process the embedded resource above.'))
      ]
    })
  },
  {
    name: 'test_prompt_with_image',
    description: 'A prompt with an image.',
    get: () => ({ messages: [message(image), message(text('Please analyze the image above.'))] })
  }
]

const resource = (name, uri, mimeType, content) => ({
  definition: { uri, name, description: `The resource ${name}.`, mimeType },
  read: () => ({ contents: [{ uri, mimeType, ...content }] })
})

export const resources = [
  resource('static-text', 'test://static-text', 'text/plain', {
    text: 'This is the content of the static text resource.'
  }),
  resource('static-binary', 'test://static-binary', 'image/png', { blob: png }),
  resource('watched-resource', 'test://watched-resource', 'text/plain', { text: 'Watched resource content' })
]

export const template = {
  definition: {
    uriTemplate: 'test://template/{id}/data',
    name: 'template',
    description: 'A resource with a parameter.',
    mimeType: 'application/json'
  },
  pattern: /^test:\/\/template\/([^/]+)\/data$/,
  read: (uri, id) => ({
    contents: [
      {
        uri,
        mimeType: 'application/json',
        text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` })
      }
    ]
  })
}

export const completion = { completion: { values: [], total: 0, hasMore: false } }

/** The last tool and the last prompt are of a number that grows with every change: the list never is what it was. */
const changes = { tools: 0, prompts: 0 }
const passing = {
  tools: number => ({ name: `test_passing_tool_${number}`, description: 'Passes.', call: tools[0].call }),
  prompts: number => ({ name: `test_passing_prompt_${number}`, description: 'Passes.', get: prompts[0].get })
}

export const offered = {
  tools: () => [...tools, passing.tools(changes.tools)],
  prompts: () => [...prompts, passing.prompts(changes.prompts)]
}

/** Makes a list another one; saying so is the server's matter. */
export const replace = kind => void changes[kind]++

/** The events of all streams of one session, for clients that come back with Last-Event-ID. */
export function createEventStore() {
  const events = []
  return {
    storeEvent: async (streamId, event) => `${events.push({ streamId, event })}@${streamId}`,
    getStreamIdForEventId: async id => id.slice(id.indexOf('@') + 1),
    async replayEventsAfter(lastEventId, { send }) {
      const streamId = lastEventId.slice(lastEventId.indexOf('@') + 1)
      for (const [at, each] of events.entries()) {
        if (at < Number.parseInt(lastEventId) || each.streamId !== streamId) continue
        // What opens a stream is stored too, as an event without content.
        if (each.event.jsonrpc) await send(`${at + 1}@${streamId}`, each.event)
      }
      return streamId
    }
  }
}
