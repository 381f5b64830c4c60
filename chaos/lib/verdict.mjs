/**
 * What became of a call, told from what came back: exactly one answer, under its own id, with nobody's nonce but its own.
 * The gateway's own failures carry no nonce and say whether the call was sent.
 */
const nonces = /\bn-[a-z]+-\d+-\w+/g

/** Nonces of others in a text. @param own whether a nonce is one's own. */
export const foreign = (text, own) => (text?.match(nonces) ?? []).filter(nonce => !own(nonce))

/** @returns `state`: ok, failed, refused or lost; and what is wrong with it. */
export function judge({ id, nonce, outcome: { broken, status, text, messages } }) {
  if (broken !== undefined) return { state: 'lost', why: broken }
  if (foreign(text, each => each === nonce).length > 0) return { state: 'misdelivered', why: text }
  if (status !== 200) return { state: 'refused', sent: false, why: `HTTP ${status}` }
  const answers = messages.filter(({ method }) => method === undefined)
  if (answers.length === 0) return { state: 'lost', why: 'the response ended without an answer' }
  if (answers.length > 1) return { state: 'doubled', why: `${answers.length} answers in one response` }
  const [{ id: answered, result, error }] = answers
  if (answered !== id) return { state: 'misdelivered', why: `its answer has id ${answered} instead of ${id}` }
  const failure = result?._meta?.['switchboard/error'] ?? error?.data
  if (error || failure) return { state: 'failed', sent: failure?.dispatched, code: error?.code ?? failure.code }
  if (!text.includes(nonce)) return { state: 'misdelivered', why: `not its answer: ${text.slice(0, 300)}` }
  return { state: 'ok' }
}
