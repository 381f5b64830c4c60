/**
 * What works and is still worth a warning: who else may read or write the file, programs that are fetched anew at every
 * start, the same server twice. Nothing here stops anything.
 */
import { basename } from 'node:path'
import { entriesOf, isRecord, textsOf, type Draft } from './checks.js'
import type { Path } from './env.js'

/** Where a secret would stand, by the name it is given. A guess, which is why it is only a warning. */
const secretName =
  /token|secret|passw|credential|authorization|cookie|api[_-]?key|private[_-]?key|access[_-]?key|[_-](?:key|pass|pwd)$/i
const secretArgument = /^--?[\w-]*(?:token|secret|password|api-?key)[\w-]*=./i
/** `postgres://user:password@host` */
const secretInUrl = /^[a-z][a-z0-9+.-]*:\/\/[^/?#\s:@]*:[^/?#\s@]+@/i

/** @param mode the permissions of the file; undefined where they say nothing. */
export function advisePermissions(draft: Draft, mode: number | undefined): void {
  if (mode === undefined) return
  const shown = (mode & 0o777).toString(8)
  if (mode & 0o002) {
    draft.report(
      [],
      `every user of this machine may change this file (mode ${shown}), and with it what the gateway runs. Run \`chmod o-w\` on it.`,
      { severity: 'warning' }
    )
  }
  if (!(mode & 0o044)) return
  for (const { path, server } of clearSecrets(draft)) {
    draft.report(
      path,
      `looks like a secret in clear text, and other users of this machine may read this file (mode ${shown}). Write \${VAR} or file:/path instead, or run \`chmod 600\` on the file.`,
      { severity: 'warning', server }
    )
  }
}

function clearSecrets({ tree, failed, taken }: Draft): { path: Path; server: string }[] {
  return entriesOf(tree.servers).flatMap(([server, { env, headers, args }]) => {
    const named = Object.entries({ env, headers }).flatMap(([member, map]) =>
      Object.entries(isRecord(map) ? map : {}).flatMap(([name, value]) => {
        const secret = typeof value === 'string' && value !== '' && (secretName.test(name) || secretInUrl.test(value))
        return secret ? [['servers', server, member, name]] : []
      })
    )
    const listed = textsOf(args)
      .filter(({ text }) => secretArgument.test(text) || secretInUrl.test(text))
      .map(({ index }): Path => ['servers', server, 'args', index])
    return [...named, ...listed].filter(path => !failed(path) && !taken(path)).map(path => ({ path, server }))
  })
}

/** Programs that are fetched in whatever version is newest, and servers that are there twice. */
export function adviseServers({ tree, failed, report }: Draft): void {
  const owners = new Map<string, string>()
  for (const [id, server] of entriesOf(tree.servers)) {
    const { command, args, env, cwd, url, headers } = server
    if (typeof command === 'string') {
      const words = textsOf(args)
      for (const at of unpinned(command, words)) {
        const path = ['servers', id, 'args', at]
        if (failed(path)) continue
        report(
          path,
          'whatever version of this package is newest will run. Write the exact one behind its name: @1.2.3 for npm, ==1.2.3 for Python.',
          { severity: 'warning', server: id }
        )
      }
    }
    const same = JSON.stringify([command, args, env, cwd, url, headers])
    const owner = owners.get(same)
    if (owner !== undefined && (command !== undefined || url !== undefined)) {
      report(['servers', id], `the same server as servers.${owner}. One with aliases may be enough.`, {
        severity: 'warning',
        server: id,
        at: 'key'
      })
    }
    owners.set(same, owner ?? id)
  }
}

interface Runner {
  /** Program, and the words that make it fetch and run. */
  readonly starts: readonly string[]
  /** Options whose value is the package, or another one that runs with it. */
  readonly packages: readonly string[]
  /** Other options that take a value of their own. */
  readonly valued: readonly string[]
  /** Options with which nothing is fetched. */
  readonly local: readonly string[]
  readonly pinned: RegExp
}

const npm = {
  packages: ['-p', '--package'],
  valued: ['-c', '--call', '-w', '--workspace', '--registry', '--cache', '--prefix', '--userconfig'],
  local: ['--no', '--no-install', '--offline'],
  // A path, a commit, or an exact version.
  pinned: /^(?:[./~]|file:)|#|.@\d+\.\d+\.\d+[\w.+-]*$/
}
const python = {
  packages: ['--from', '--with', '--spec'],
  valued: ['-p', '--python', '-i', '--index', '--index-url', '--default-index', '--directory', '--project', '--cache-dir'],
  local: ['--offline'],
  pinned: /^[./~]|==\d|@/
} // prettier-ignore
const latest = /@(?:latest|next)$/
const runners: readonly Runner[] = [
  ...[['npx'], ['bunx'], ['npm', 'exec'], ['npm', 'x'], ['pnpm', 'dlx'], ['yarn', 'dlx'], ['bun', 'x']].map(starts => ({ starts, ...npm })),
  ...[['uvx'], ['uv', 'tool', 'run'], ['uv', 'x'], ['pipx', 'run']].map(starts => ({ starts, ...python }))
] // prettier-ignore

/** The places of the packages that are fetched without an exact version. */
function unpinned(command: string, words: readonly { text: string; index: number }[]): number[] {
  const name = basename(command).replace(/\.(?:cmd|exe)$/i, '')
  const runner = runners.find(({ starts: [program, ...first] }) => {
    return program === name && first.every((word, i) => words[i]?.text === word)
  })
  if (!runner) return []
  const { starts, packages, valued, local, pinned } = runner
  const found: { text: string; index: number }[] = []
  let named = false
  for (let i = starts.length - 1; i < words.length; i++) {
    const { text, index } = words[i]!
    if (local.includes(text)) return []
    const [, option, value] = /^(--?[\w-]+)(?:=(.*))?$/s.exec(text) ?? []
    if (option === undefined) {
      // With a package named by an option, what comes first is only the command in it.
      if (!named && text !== '--') found.push({ text, index })
      if (text !== '--') break
    } else if (packages.includes(option)) {
      named ||= option !== '--with'
      const next = value === undefined ? words[++i] : { text: value, index }
      if (next) found.push(next)
    } else if (valued.includes(option) && value === undefined) i++
  }
  return found.filter(({ text }) => !pinned.test(text) || latest.test(text)).map(({ index }) => index)
}
