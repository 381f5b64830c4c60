/**
 * Server-sent events as bytes (WHATWG HTML, 9.2.5). Line breaks are what the format is made of, so none may come from
 * the content: data that has some goes out as several `data:` lines, which a reader joins again.
 */

/**
 * One event of the default type carrying a JSON-RPC message.
 *
 * @param json the serialised message; bytes are copied as they are, whatever their encoding
 * @param eventId what a client repeats as `Last-Event-ID`
 */
export function sseMessage(json: Buffer | string, eventId?: string): Buffer {
  const head = eventId === undefined ? 'data: ' : `id: ${oneLine(eventId)}\ndata: `
  if (typeof json === 'string') return Buffer.from(`${head}${lines(json, 'data: ')}\n\n`)
  if (json.includes(0x0a) || json.includes(0x0d)) {
    return Buffer.concat([Buffer.from(head), Buffer.from(lines(json.toString('latin1'), 'data: ') + '\n\n', 'latin1')])
  }
  return Buffer.concat([Buffer.from(head), json, Buffer.from('\n\n')])
}

/** A named event, such as the `endpoint` of HTTP+SSE (MCP 2024-11-05, Transports). */
export function sseEvent(name: string, data: string): Buffer {
  return Buffer.from(`event: ${oneLine(name)}\ndata: ${lines(data, 'data: ')}\n\n`)
}

/** A comment: readers ignore it, proxies see traffic. */
export function sseComment(text: string): Buffer {
  return Buffer.from(`: ${lines(text, ': ')}\n\n`)
}

function lines(text: string, prefix: string): string {
  return text.replace(/\r\n|\r|\n/g, `\n${prefix}`)
}

/** A reader ignores an id that has a NUL. */
function oneLine(text: string): string {
  return text.replace(/[\r\n\0]/g, '')
}
