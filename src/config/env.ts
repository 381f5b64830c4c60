/**
 * Substitution in the scalars of servers.yaml: after YAML parsing, once, and what comes out is never looked at again.
 * Pure: the environment and the way to read a file come in. Says which variables are missing, never what any holds.
 */

/** Where a value stands in servers.yaml. */
export type Path = readonly (string | number)[]

export interface Sources {
  readonly env: Readonly<Record<string, string | undefined>>
  /** Reads what `file:/path` names; absent where `file:` has no special meaning. */
  readonly readFile?: (path: string) => string
}

export type Resolved =
  /** The text as written in the file, its defaults included, `$${` unescaped. */
  | { readonly kind: 'literal'; readonly value: string }
  /** The text with something taken from the environment or a file. */
  | { readonly kind: 'taken'; readonly value: string }
  | { readonly kind: 'unset'; readonly names: readonly string[] }
  | { readonly kind: 'unreadable' | 'malformed'; readonly message: string }

const variableName = /^[A-Za-z_][A-Za-z0-9_]*$/

/** Resolves one scalar: `${VAR}`, `${VAR:-default}`, `$${`, a whole `os.environ/VAR`, and a whole `file:/path` if it can be read. */
export function resolveScalar(text: string, { env, readFile }: Sources): Resolved {
  if (text.startsWith('os.environ/')) return fromEnvironment(text.slice('os.environ/'.length), env)
  if (!text.startsWith('file:') || !readFile) return expand(text, env)
  const path = expand(text.slice('file:'.length), env)
  if (path.kind !== 'literal' && path.kind !== 'taken') return path
  try {
    return { kind: 'taken', value: readFile(path.value).replace(/\r?\n$/, '') }
  } catch (thrown) {
    const code = thrown instanceof Error && 'code' in thrown ? ` (${String(thrown.code)})` : ''
    // The path as written: the expanded one could hold the value of a variable.
    return { kind: 'unreadable', message: `cannot read ${text}${code}. Create the file or correct the path.` }
  }
}

/** Rebuilds a tree of maps and lists with every text in it passed through `replace`. */
export function mapTexts(tree: unknown, replace: (text: string, path: Path) => string, path: Path = []): unknown {
  if (typeof tree === 'string') return replace(tree, path)
  if (Array.isArray(tree)) return tree.map((item, index) => mapTexts(item, replace, [...path, index]))
  if (typeof tree !== 'object' || tree === null) return tree
  return Object.fromEntries(Object.entries(tree).map(([key, value]) => [key, mapTexts(value, replace, [...path, key])]))
}

function fromEnvironment(name: string, env: Sources['env']): Resolved {
  if (!variableName.test(name)) {
    return { kind: 'malformed', message: 'expected a variable name after os.environ/, such as os.environ/MY_TOKEN.' }
  }
  const value = lookUp(name, env)
  return value === undefined ? { kind: 'unset', names: [name] } : { kind: 'taken', value }
}

function expand(text: string, env: Sources['env']): Resolved {
  const unset = new Set<string>()
  let fault: string | undefined
  let taken = false
  // One pass over the original text, so a value that contains ${…} stays as it is.
  const value = text.replace(/\$\$\{|\$\{([^}]*)(\}?)/g, (match, inside: string | undefined, end: string) => {
    if (inside === undefined) return '${'
    const [, name, byDefault] = /^([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?$/s.exec(inside) ?? []
    if (end === '') fault = 'a ${ is not closed. Close it with }, or write $${ for a literal ${.'
    else if (inside.includes('${')) fault = 'a ${…} cannot stand inside another. Write the default as plain text.'
    else if (name === undefined) fault = 'expected ${VAR} or ${VAR:-default}. Write $${ for a literal ${.'
    else {
      const found = lookUp(name, env)
      if (byDefault !== undefined && !found) return byDefault
      if (found === undefined) unset.add(name)
      else {
        taken = true
        return found
      }
    }
    return match
  })
  if (fault !== undefined) return { kind: 'malformed', message: fault }
  if (unset.size > 0) return { kind: 'unset', names: [...unset] }
  return { kind: taken ? 'taken' : 'literal', value }
}

function lookUp(name: string, env: Sources['env']): string | undefined {
  return Object.hasOwn(env, name) ? env[name] : undefined
}
