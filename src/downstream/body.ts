/** Reads a JSON body within its limits, without trusting what the client says of its length. */
import type { IncomingMessage } from 'node:http'
import { SwitchboardError } from '../errors.js'
import { parseBody, sizeText } from '../wire/json-bytes.js'

export interface BodyLimits {
  readonly bodyBytes: number
  readonly jsonDepth: number
}

/** Rejects with SwitchboardError `unsupported_media_type`, `too_large`, `parse_error`, or `cancelled` when the client left. */
export type ReadJson = (req: IncomingMessage) => Promise<unknown>

const parseFaults = {
  utf8: 'The body is not valid UTF-8.',
  json: 'The body is not valid JSON.',
  empty: 'The body is empty; JSON was expected.'
} as const

export function createReadJson(limits: BodyLimits): ReadJson {
  return req => readJson(req, limits)
}

function readJson(req: IncomingMessage, limits: BodyLimits): Promise<unknown> {
  const { 'content-type': type, 'content-encoding': encoding, 'content-length': length } = req.headers
  if (!isJson(type) || (encoding !== undefined && encoding !== 'identity'))
    return Promise.reject(new SwitchboardError('unsupported_media_type'))
  if (length !== undefined && Number(length) > limits.bodyBytes) return Promise.reject(tooLarge(limits))
  return readAll(req, limits)
}

function tooLarge({ bodyBytes }: BodyLimits): SwitchboardError {
  return new SwitchboardError('too_large', `The request body is larger than ${sizeText(bodyBytes)}.`)
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

function readAll(req: IncomingMessage, limits: BodyLimits): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    req.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size > limits.bodyBytes) {
        req.removeAllListeners('data')
        req.pause()
        reject(tooLarge(limits))
      } else {
        chunks.push(chunk)
      }
    })
    // `on` where each comes once: `once` makes a wrapper for every call.
    req.on('end', () => {
      const { jsonDepth: maxDepth } = limits
      const bytes = chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks)
      // The request lives as long as its call, and would keep the body beside what was made of it.
      chunks.length = 0
      const parsed = parseBody(bytes, { maxDepth })
      if (parsed.ok) return resolve(parsed.value)
      const fault =
        parsed.reason === 'depth' ? `The body is nested more than ${maxDepth} levels deep.` : parseFaults[parsed.reason]
      reject(new SwitchboardError('parse_error', fault))
    })
    req.on('error', reject)
    // An error costs its stack trace: none is made for the requests that arrive whole.
    req.on('close', () => {
      if (!req.readableEnded) reject(new SwitchboardError('cancelled', 'the client left before its request was whole'))
    })
  })
}
