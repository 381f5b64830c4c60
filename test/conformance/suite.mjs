/** Runs the official suite against one address and reads what it found. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../clients/process.mjs'

/** A whole run of one version takes a few seconds; a scenario that hangs is given up by the suite after `--timeout`. */
const limit = 120_000

/**
 * @param only names of scenarios; all that the version has if undefined
 * @returns the checks of each scenario, `{ id, status, errorMessage }`; none of one that broke down
 */
export async function runSuite([node, program], { url, version, only, folder }) {
  const found = new Map()
  const common = ['server', '--url', url, '--spec-version', version, '--output-dir', folder, '--timeout', '15000']
  for (const selection of only ? only.map(name => ['--scenario', name]) : [['--suite', 'all']]) {
    const options = { cwd: import.meta.dirname, env: { PATH: process.env.PATH, NO_COLOR: '1' }, limit }
    const { exit, stdout, stderr } = await run(node, [program, ...common, ...selection], options)
    if (exit !== 0 && exit !== 1) throw new Error(`the suite ended with ${exit}: ${(stderr || stdout).slice(-2000)}`)
    if (only && !stdout.startsWith('SKIPPED')) found.set(selection[1], [])
    for (const [, name] of stdout.matchAll(/^=== Running scenario: (\S+) ===$/gm)) found.set(name, [])
  }
  for (const entry of existsSync(folder) ? readdirSync(folder) : []) {
    const checks = join(folder, entry, 'checks.json')
    const [, name] = /^server-(.+)-\d{4}-\d{2}-\d{2}T[\dZ-]+$/.exec(entry) ?? []
    if (name && existsSync(checks)) found.set(name, JSON.parse(readFileSync(checks, 'utf8')))
  }
  return found
}
