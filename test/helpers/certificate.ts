/** X.509 certificates for tests, made here so that no private key lies in the repository: ECDSA on P-256, written as DER. */
import { generateKeyPairSync, sign, type KeyObject } from 'node:crypto'

export interface Certificate {
  readonly key: string
  readonly cert: string
}

export interface CertificateOptions {
  readonly name: string
  /** Signs it; itself, without one. */
  readonly by?: Authority
  /** Names and addresses it is good for; none makes it an authority. */
  readonly hosts?: readonly string[]
  /** Days from now, negative ones in the past. @default [-1, 30] */
  readonly days?: readonly [number, number]
}

export interface Authority extends Certificate {
  readonly name: string
  readonly privateKey: KeyObject
}

const der = (tag: number, ...parts: readonly Buffer[]): Buffer => {
  const body = Buffer.concat(parts)
  const { length } = body
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255]
  return Buffer.concat([Buffer.from([tag, ...size]), body])
}
const sequence = (...parts: readonly Buffer[]) => der(0x30, ...parts)
const oid = (hex: string) => der(0x06, Buffer.from(hex, 'hex'))
const integer = (value: number) => der(0x02, Buffer.from([value]))
const bits = (bytes: Buffer) => der(0x03, Buffer.from([0]), bytes)
const text = (value: string) => der(0x0c, Buffer.from(value))
const utcTime = (days: number) => {
  const at = new Date(Date.now() + days * 86_400_000).toISOString()
  return der(0x17, Buffer.from(`${at.slice(2, 19).replace(/[-:T]/g, '')}Z`))
}

const ecdsaWithSha256 = sequence(oid('2a8648ce3d040302'))
const nameOf = (name: string) => sequence(der(0x31, sequence(oid('550403'), text(name))))
const extension = (id: string, value: Buffer) => sequence(oid(id), der(0x04, value))
const altName = (host: string) =>
  /^[\d.]+$/.test(host) ? der(0x87, Buffer.from(host.split('.').map(Number))) : der(0x82, Buffer.from(host))

let serial = 1

export function makeCertificate({ name, by, hosts, days = [-1, 30] }: CertificateOptions): Authority {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const extensions = hosts
    ? [extension('551d11', sequence(...hosts.map(altName)))]
    : [extension('551d13', sequence(der(0x01, Buffer.from([0xff]))))]
  const signed = sequence(
    der(0xa0, integer(2)),
    integer(serial++),
    ecdsaWithSha256,
    nameOf(by?.name ?? name),
    sequence(utcTime(days[0]), utcTime(days[1])),
    nameOf(name),
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(...extensions))
  )
  const signature = sign('sha256', signed, by?.privateKey ?? privateKey)
  const base64 = sequence(signed, ecdsaWithSha256, bits(signature)).toString('base64')
  return {
    name,
    privateKey,
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    cert: `-----BEGIN CERTIFICATE-----\n${base64.match(/.{1,64}/g)?.join('\n')}\n-----END CERTIFICATE-----\n`
  }
}
