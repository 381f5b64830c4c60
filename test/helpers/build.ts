/** Tests that start the gateway as a process run what is built: it is built once, before any of them. */
import { execFileSync } from 'node:child_process'

export default function build(): void {
  execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-b', 'tsconfig.build.json'], { stdio: 'inherit' })
}
