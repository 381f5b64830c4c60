/** A raw upstream over stdio with `process.argv[2]` tools; ends when its stdin does. */
import { createAnswer } from './answer.mjs'

const answer = createAnswer({ tools: Number(process.argv[2] ?? 10) })
let rest = ''
process.stdin.setEncoding('utf8')
process.stdin.on('data', chunk => {
  const lines = (rest + chunk).split('\n')
  rest = lines.pop()
  for (const line of lines) {
    const json = line.trim() === '' ? undefined : answer(JSON.parse(line))
    if (json !== undefined) process.stdout.write(json + '\n')
  }
})
process.stdin.on('end', () => process.exit(0))
