/**
 * The tools and the prompt of 2026-07-28 that answer `input_required` until the client repeats its request with what they
 * need. They are SDK v2's own: no server of the 2025 era has the like.
 */
import { randomBytes } from 'node:crypto'
import {
  acceptedContent,
  CLIENT_CAPABILITIES_META_KEY,
  createRequestStateCodec,
  inputRequired
} from '@modelcontextprotocol/server'
import { inText, text } from './everything.mjs'

/** Seals `requestState`; the SDK refuses what its `verify` does not open. */
export const stateCodec = createRequestStateCodec({ key: randomBytes(32) })

const form = (message, name, type = 'string') =>
  inputRequired.elicit({
    message,
    requestedSchema: { type: 'object', properties: { [name]: { type } }, required: [name] }
  })
const sample = prompt =>
  inputRequired.createMessage({ messages: [{ role: 'user', content: text(prompt) }], maxTokens: 100 })
const userName = () => form('What is your name?', 'name')
const confirm = () => form('Please confirm', 'ok', 'boolean')
const accepted = (request, key, name) => acceptedContent(request.inputResponses, key)?.[name]

const require = async (inputRequests, state) =>
  inputRequired({ inputRequests, ...(state && { requestState: await stateCodec.mint(state) }) })

/** `call` is given the SDK's view of the request. */
export const tools = [
  {
    name: 'test_missing_capability',
    description: 'Needs a client that samples.',
    call: () => require({ answer: sample('Reply with the single word: pong') })
  },
  {
    name: 'test_input_required_result_elicitation',
    description: 'Asks for a name.',
    call(request) {
      const name = accepted(request, 'user_name', 'name')
      return typeof name === 'string' ? inText(`Hello, ${name}!`) : require({ user_name: userName() })
    }
  },
  {
    name: 'test_input_required_result_sampling',
    description: 'Asks the model of the client.',
    call(request) {
      const answer = request.inputResponses?.capital_question
      return answer
        ? inText(`Sampling response: ${answer.content?.text}`)
        : require({ capital_question: sample('What is the capital of France?') })
    }
  },
  {
    name: 'test_input_required_result_list_roots',
    description: 'Asks for the roots.',
    call(request) {
      const roots = request.inputResponses?.client_roots?.roots
      return roots
        ? inText(`Client exposed ${roots.map(root => root.uri).join(', ')}`)
        : require({ client_roots: inputRequired.listRoots() })
    }
  },
  {
    name: 'test_input_required_result_request_state',
    description: 'Gives a state that comes back.',
    call(request) {
      if (accepted(request, 'confirm', 'ok') === undefined) return require({ confirm: confirm() }, { round: 1 })
      return inText(request.requestState()?.round === 1 ? 'state-ok' : 'the state is missing')
    }
  },
  {
    name: 'test_input_required_result_multiple_inputs',
    description: 'Asks for three things at once.',
    call(request) {
      const name = accepted(request, 'user_name', 'name')
      const { greeting, client_roots } = request.inputResponses ?? {}
      if (name && greeting && client_roots) return inText(`${greeting.content?.text} ${name}`)
      const inputRequests = {
        user_name: userName(),
        greeting: sample('Generate a greeting'),
        client_roots: inputRequired.listRoots()
      }
      return require(inputRequests, { round: 1 })
    }
  },
  {
    name: 'test_input_required_result_multi_round',
    description: 'Asks twice; which round it is stands in the state.',
    call(request) {
      const { round = 0, name } = request.requestState() ?? {}
      if (round === 0) return require({ step1: form('Step 1: What is your name?', 'name') }, { round: 1 })
      if (round === 1) {
        const state = { round: 2, name: accepted(request, 'step1', 'name') }
        return require({ step2: form('Step 2: What is your favorite color?', 'color') }, state)
      }
      return inText(`${name} likes ${accepted(request, 'step2', 'color')}`)
    }
  },
  {
    name: 'test_input_required_result_tampered_state',
    description: 'Gives a state that must come back as it was.',
    call: request =>
      request.requestState() === undefined
        ? require({ confirm: confirm() }, { round: 1 })
        : inText('the state is whole')
  },
  {
    name: 'test_input_required_result_capabilities',
    description: 'Asks only for what the client can give.',
    call(request) {
      if (request.inputResponses) return inText('thank you')
      const can = request.envelope?.[CLIENT_CAPABILITIES_META_KEY] ?? {}
      return require({
        ...(can.elicitation && { user_name: userName() }),
        ...(can.sampling && { greeting: sample('Generate a short greeting') }),
        ...(can.roots && { client_roots: inputRequired.listRoots() })
      })
    }
  }
]

export const prompt = {
  name: 'test_input_required_result_prompt',
  description: 'Asks for its context.',
  get(request) {
    const context = accepted(request, 'user_context', 'context')
    if (context === undefined) return require({ user_context: form('What context should the prompt use?', 'context') })
    return { messages: [{ role: 'user', content: text(`Use the following context: ${context}`) }] }
  }
}
