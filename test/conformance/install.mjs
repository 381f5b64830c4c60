/** Installs the pinned suite beside this file, once for each state of the lockfile. */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../clients/process.mjs'

const folder = import.meta.dirname
const modules = join(folder, 'node_modules')

/** @returns the suite's command line: a Node that is new enough for it, and its program */
export async function installSuite() {
  const wanted = createHash('sha256')
    .update(readFileSync(join(folder, 'package-lock.json')))
    .digest('hex')
  const mark = join(modules, '.installed')
  if (!existsSync(mark) || readFileSync(mark, 'utf8') !== wanted) {
    const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
    const { exit, stderr } = await run('npm', args, { cwd: folder, env: process.env, limit: 300_000 })
    if (exit !== 0) throw new Error(`npm ci for the conformance suite ended with ${exit}: ${stderr.trim()}`)
    writeFileSync(mark, wanted)
  }
  return [newNode(), join(modules, '@modelcontextprotocol/conformance/dist/index.js')]
}

/** The suite needs Node 22; the gateway and its fixtures stay on the Node that runs this. */
function newNode() {
  const packaged = join(modules, `node-${process.platform}-${process.arch}/bin/node`)
  if (existsSync(packaged)) return packaged
  if (Number.parseInt(process.versions.node) >= 22) return process.execPath
  throw new Error(`the suite needs Node 22 or newer; this is ${process.version}`)
}
