/** What every raw upstream of the bench offers: tools of a usual size, a result of about 2 KB, and one of 10 MB. */

export const marker = 'end of the measured result'
const line =
  'A line as tools write it: a path /var/lib/service/data.db, a number 1048576, a date 2026-07-28T12:00:00Z.\n'

export const bigBytes = 10 * 1024 * 1024
export const bigTool = 'big'
export const toolName = index => `tool_${String(index).padStart(5, '0')}`

/** The serialised `result` of a call. */
export function resultOf(name) {
  return name === bigTool ? (big ??= serialise(bigBytes)) : usual
}

/** Definitions of about 450 bytes each, as one serialised array. */
export function toolsOf(count) {
  const names = [...Array.from({ length: count }, (_, index) => toolName(index)), bigTool]
  return JSON.stringify(names.map(definition))
}

const serialise = bytes => {
  const text = line.repeat(Math.ceil(bytes / line.length)).slice(0, bytes - marker.length) + marker
  return JSON.stringify({ content: [{ type: 'text', text }] })
}
const usual = serialise(2000)
let big

const definition = name => ({
  name,
  title: `The tool ${name}`,
  description: `Reads what ${name} knows about a path and returns it as text, newest lines first, at most "limit" of them.`,
  inputSchema: {
    type: 'object',
    properties: {
      path: { type: 'string', description: 'The path to look at.' },
      limit: { type: 'integer', minimum: 1, maximum: 1000, description: 'Most lines to return.' }
    },
    required: ['path']
  },
  annotations: { readOnlyHint: true }
})
