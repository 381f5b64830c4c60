/** Loads servers.yaml for a command and says what is wrong with it, all at once. */
import { resolve } from 'node:path'
import { loadConfig, type Finding } from '../config/load.js'
import type { Config } from '../config/schema.js'
import type { CommandContext } from './command.js'

/** The configuration, or undefined after every error has been told on stderr. */
export async function readConfiguration(
  context: CommandContext,
  listen?: { readonly host?: string; readonly port?: number }
): Promise<{ config: Config; findings: readonly Finding[] } | undefined> {
  const { config, findings } = await loadConfig({
    file: resolve(context.config),
    env: context.env,
    ...(listen && { listen })
  })
  for (const finding of findings) context.err(describeFinding(context.config, finding))
  return config && { config, findings }
}

/** `servers.yaml:12:5 error servers.postgres.url: …` */
export function describeFinding(file: string, { severity, line, column, message }: Finding): string {
  const where = line === undefined ? file : `${file}:${line}${column === undefined ? '' : `:${column}`}`
  return `${where} ${severity}: ${message}`
}

/** The state directory: `--state`, else `state:`, else `.switchboard` beside the configuration file. */
export function statePath(context: CommandContext, { state, dir }: Pick<Config, 'state' | 'dir'>): string {
  return resolve(context.state ?? (state === undefined ? resolve(dir, '.switchboard') : resolve(dir, state)))
}
