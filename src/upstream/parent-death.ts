/**
 * Lets the kernel end a child the moment the gateway is gone, also when that was killed and could end nothing itself:
 * util-linux' `setpriv` asks for a signal at the parent's death and becomes the program (prctl(2), PR_SET_PDEATHSIG).
 * The signal is TERM, which wrappers such as npx pass on; what it does not reach is left to `orphans.ts`.
 */
import { execFile } from 'node:child_process'
import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, resolve } from 'node:path'

export interface Program {
  readonly command: string
  readonly args: readonly string[]
}

export interface ParentDeath {
  /** Finds out, once, whether this system can do it; never rejects. */
  check(): Promise<void>
  /**
   * The program that starts `program` so that it ends with us; unchanged where that is impossible, or where the program
   * cannot be started at all: its own start then says why.
   * @param where the child's working directory and its PATH.
   */
  tie(program: Program, where: { readonly cwd: string; readonly path: string | undefined }): Program
}

const options = ['--pdeathsig', 'TERM', '--']

/** @param setpriv where the tool is; by default it is looked for on our own PATH. */
export function createParentDeath(setpriv = findProgram('setpriv', process.cwd(), process.env.PATH)): ParentDeath {
  let works = false
  let checked: Promise<void> | undefined
  return {
    check() {
      return (checked ??= new Promise(done => {
        if (process.platform !== 'linux' || setpriv === undefined) return done()
        // Older ones, and busybox's, do not know the option.
        execFile(setpriv, [...options, 'true'], { timeout: 2000 }, error => {
          works = error === null
          done()
        })
      }))
    },
    tie(program, { cwd, path }) {
      if (!works || setpriv === undefined || !findProgram(program.command, cwd, path)) return program
      return { command: setpriv, args: [...options, program.command, ...program.args] }
    }
  }
}

/** The executable file a command stands for, looked for as execvp(3) does. */
function findProgram(command: string, cwd: string, path: string | undefined): string | undefined {
  const places = command.includes('/') ? [''] : (path ?? '').split(delimiter)
  return places.map(place => resolve(cwd, place, command)).find(isExecutable)
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return statSync(file).isFile()
  } catch {
    return false
  }
}
