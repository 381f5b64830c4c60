/**
 * Installs clients from the npm registry into a scratch folder, one folder a package and version, which later runs find
 * again. Install scripts are never run: what they would link is found where it lies.
 */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from './process.mjs'

const scratch = join(tmpdir(), 'switchboard-clients')

/** What clients run on when our own Node is older than they need; this package carries the binary. */
const node = { package: `node-${process.platform}-${process.arch}`, version: '24.21.0', program: 'bin/node' }

/**
 * Installs a client unless it is there, and puts its command into the folder `bin`. `programs` are the places below
 * `node_modules` where its program may lie: an executable, or a script for Node. `home` is for the trial run.
 * @throws Error with the reason on one line when it cannot be installed or does not run here
 */
export async function installClient({ package: name, version, command, programs }, { bin, home }) {
  const modules = await install(name, version)
  const env = { HOME: home, TMPDIR: home, PATH: process.env.PATH }
  let problem = `has no program for ${process.platform}-${process.arch}`
  for (const program of programs.map(path => join(modules, path)).filter(existsSync)) {
    await link(program, join(bin, command))
    const { exit, stdout, stderr } = await run(join(bin, command), ['--version'], { cwd: home, env, limit: 60_000 })
    if (stdout.includes(version)) return
    problem = `does not run here: ${lastLine(stderr) || lastLine(stdout) || exit}`
    rmSync(join(bin, command))
  }
  throw new Error(`${name}@${version} ${problem}`)
}

async function link(program, target) {
  if (!/\.[cm]?js$/.test(program)) return symlinkSync(program, target)
  writeFileSync(target, `#!/bin/sh\nexec "${await newNode()}" "${program}" "$@"\n`)
  chmodSync(target, 0o755)
}

/** A Node that every client runs on. */
async function newNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > 22 || (major === 22 && minor >= 19)) return process.execPath
  return join(await install(node.package, node.version), node.package, node.program)
}

/** Installs a package unless it is there. @returns its folder `node_modules` */
async function install(name, version) {
  const folder = join(scratch, `${name.replace('/', '+')}@${version}`)
  const modules = join(folder, 'node_modules')
  if (existsSync(modules)) return modules
  mkdirSync(scratch, { recursive: true })
  const draft = mkdtempSync(join(scratch, 'draft-'))
  const discard = () => rmSync(draft, { recursive: true, force: true })
  process.once('exit', discard)
  try {
    const args = ['install', '--prefix', draft, '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
    const options = { cwd: draft, env: process.env, limit: 300_000 }
    const { exit, stderr } = await run('npm', [...args, `${name}@${version}`], options)
    if (exit !== 0) throw new Error(`npm cannot install ${name}@${version}: ${npmReason(stderr) ?? exit}`)
    // Whole or not at all, also when two runs meet here.
    if (!existsSync(folder)) renameSync(draft, folder)
    return modules
  } finally {
    process.off('exit', discard)
    discard()
  }
}

const npmReason = stderr =>
  stderr
    .split('\n')
    .map(line => line.replace(/^npm (error|ERR!) /, ''))
    .find(line => line && !/^(npm |code |errno |syscall )/.test(line))

export const lastLine = text => text.trim().split('\n').at(-1)
