#!/usr/bin/env node
/** argv -> command -> exit code. */
import { parseArgs } from 'node:util'
import { check } from './commands/check.js'
import type { CommandContext, ExitCode } from './commands/command.js'
import { diff } from './commands/diff.js'
import { keyNew, keyShow } from './commands/key.js'
import { serve } from './commands/serve.js'
import { version } from './version.js'

const usage = `Usage: switchboard [command] [options]

Commands
  serve             the gateway (default)
  check             validate servers.yaml, connect to each server, show one table
  check --diff [OLD]
                    what each key would gain, lose and see renamed, against what
                    runs or against the file OLD; starts no server
  key new NAME      make a key: prints it once, and the lines for servers.yaml
  key show NAME     show a key configured as "secret: generated"

Options
  -c, --config FILE    default: servers.yaml
      --state DIR      default: .switchboard beside the configuration file
      --host HOST      instead of listen.host
      --port PORT      instead of listen.port
      --log LEVEL      serve: debug, info (default), warn, error or silent; JSON lines on stderr
      --json           check: machine-readable
      --diff           check: compare instead of connecting
  -h, --help
  -v, --version
`

const levels = ['debug', 'info', 'warn', 'error', 'silent'] as const

async function run(argv: readonly string[]): Promise<ExitCode> {
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: {
      config: { type: 'string', short: 'c', default: 'servers.yaml' },
      state: { type: 'string' },
      host: { type: 'string' },
      port: { type: 'string' },
      log: { type: 'string', default: 'info' },
      json: { type: 'boolean', default: false },
      diff: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
      version: { type: 'boolean', short: 'v', default: false }
    }
  })
  const context: CommandContext = {
    config: values.config,
    state: values.state,
    env: process.env,
    out: text => process.stdout.write(text + '\n'),
    err: text => process.stderr.write(text + '\n')
  }
  if (values.help) return say(usage)
  if (values.version) return say(version + '\n')

  const [command = 'serve', ...words] = positionals
  switch (command) {
    case 'serve':
    case 'check': {
      const { host, port, log, json } = values
      const logLevel = levels.find(level => level === log)
      if (values.diff && command === 'check' && words.length < 2) return diff(context, { json, old: words[0] })
      if (values.diff) return misused('--diff is for check, with at most one file to compare with')
      if (words.length > 0) return misused(`"${command}" takes no further words, but got "${words.join(' ')}"`)
      if (port !== undefined && !(/^\d+$/.test(port) && Number(port) <= 65535))
        return misused(`--port takes a number from 0 to 65535, but got "${port}"`)
      if (!logLevel) return misused(`--log takes one of ${levels.join(', ')}, but got "${log}"`)
      const listen = { ...(host !== undefined && { host }), ...(port !== undefined && { port: Number(port) }) }
      return command === 'serve' ? serve(context, { listen, logLevel }) : check(context, { listen, json })
    }
    case 'key': {
      const [action, name, ...more] = words
      if (name === undefined || more.length > 0)
        return misused('"key" takes an action and one name: key new NAME, key show NAME')
      if (action === 'new') return keyNew(context, name)
      if (action === 'show') return keyShow(context, name)
      return misused(`"key" knows new and show, but got "${action}"`)
    }
    default:
      return misused(`unknown command "${command}"`)
  }
}

function say(text: string): ExitCode {
  process.stdout.write(text)
  return 0
}

function misused(why: string): ExitCode {
  process.stderr.write(`${why}.\n\n${usage}`)
  return 2
}

// What cannot be told (a full disk, a reader that is gone) must not keep it from running.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
try {
  process.exitCode = await run(process.argv.slice(2))
} catch (error) {
  const { code, message, stack } = error as NodeJS.ErrnoException
  const usageFault = code?.startsWith('ERR_PARSE_ARGS') === true
  process.stderr.write(usageFault ? `${message}\n\n${usage}` : `Switchboard failed: ${stack ?? message}\n`)
  process.exitCode = usageFault ? 2 : 1
}
