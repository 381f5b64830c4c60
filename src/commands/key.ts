/** `switchboard key new NAME` makes a key for servers.yaml; `switchboard key show NAME` shows a generated one again. */
import { readGeneratedSecrets } from '../secrets.js'
import { digestOf, newSecret } from '../policy/keys.js'
import { openState } from '../state.js'
import type { CommandContext, ExitCode } from './command.js'
import { readConfiguration, statePath } from './configuration.js'
import { addCommand } from './serve.js'

const namePattern = /^[A-Za-z][A-Za-z0-9]*(?:[_-][A-Za-z0-9]+)*$/

/** Prints the key, which is kept nowhere, and the lines for servers.yaml that let it in. */
export function keyNew(context: CommandContext, name: string): ExitCode {
  if (!namePattern.test(name) || name.length > 32) {
    context.err(
      `"${name}" cannot be the name of a key: expected a letter, then letters and digits, single "-" or "_" between them, at most 32 characters.`
    )
    return 2
  }
  const secret = newSecret()
  context.out(
    [
      `The key, shown this once: ${secret}`,
      '',
      `Under "keys:" in servers.yaml:`,
      `  ${name}:`,
      `    secret: sha256:${digestOf(secret)}`,
      '    allow: "*"   # or a server and its tools: { filesystem: ["read_*"] }'
    ].join('\n')
  )
  return 0
}

/** Shows a key configured as `secret: generated`, with the line that adds it to a client. */
export async function keyShow(context: CommandContext, name: string): Promise<ExitCode> {
  const loaded = await readConfiguration(context)
  if (!loaded) return 2
  const { config } = loaded
  const key = config.keys.find(({ id }) => id === name)
  if (!key) {
    const known = config.keys.map(({ id }) => id).join(', ')
    context.err(`There is no key "${name}" in ${config.file}. Known are: ${known || 'none'}.`)
    return 2
  }
  if (!key.secrets.some(({ kind }) => kind === 'generated')) {
    context.err(
      `The key "${name}" is not a generated one, so only its hash is known here. Make a new one with "switchboard key new ${name}".`
    )
    return 2
  }
  const path = statePath(context, config)
  const secret = readGeneratedSecrets(openState({ path, readOnly: true }))[name]
  if (secret === undefined) {
    context.err(
      `The key "${name}" has not been made yet, or ${path} is not the state directory it lies in. Start the gateway once with "switchboard serve".`
    )
    return 1
  }
  context.out(secret)
  const { host, port } = config.listen
  const shown = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  context.out(addCommand(`http://${shown}:${port}`, secret))
  return 0
}
