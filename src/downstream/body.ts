/** Reads a JSON body within its limits, without trusting what the client says of its length. */
import type { IncomingMessage } from 'node:http'
import { SwitchboardError } from '../errors.js'
import { parseBody } from '../wire/json-bytes.js'

export const maxBody = 4 * 1024 * 1024

const parseFaults = {
  utf8: 'The body is not valid UTF-8.',
  depth: 'The body is nested more than 64 levels deep.',
  json: 'The body is not valid JSON.',
  empty: 'The body is empty; JSON was expected.'
} as const

/** Rejects with SwitchboardError `unsupported_media_type`, `too_large`, `parse_error`, or `cancelled` when the client left. */
export function readJson(req: IncomingMessage): Promise<unknown> {
  const { 'content-type': type, 'content-encoding': encoding, 'content-length': length } = req.headers
  if (!isJson(type) || (encoding !== undefined && encoding !== 'identity'))
    return Promise.reject(new SwitchboardError('unsupported_media_type'))
  if (length !== undefined && Number(length) > maxBody) return Promise.reject(new SwitchboardError('too_large'))
  return readAll(req)
}

function isJson(type: string | undefined): boolean {
  if (type === 'application/json') return true
  const [media = '', ...parameters] = (type ?? '')
    .toLowerCase()
    .split(';')
    .map(part => part.trim())
  if (media !== 'application/json') return false
  return parameters.every(parameter => !parameter.startsWith('charset=') || /^charset="?utf-?8"?$/.test(parameter))
}

function readAll(req: IncomingMessage): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    req.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size > maxBody) {
        req.removeAllListeners('data')
        req.pause()
        reject(new SwitchboardError('too_large'))
      } else {
        chunks.push(chunk)
      }
    })
    // `on` where each comes once: `once` makes a wrapper for every call.
    req.on('end', () => {
      const parsed = parseBody(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks))
      if (parsed.ok) resolve(parsed.value)
      else reject(new SwitchboardError('parse_error', parseFaults[parsed.reason]))
    })
    req.on('error', reject)
    // An error costs its stack trace: none is made for the requests that arrive whole.
    req.on('close', () => {
      if (!req.readableEnded) reject(new SwitchboardError('cancelled', 'the client left before its request was whole'))
    })
  })
}
