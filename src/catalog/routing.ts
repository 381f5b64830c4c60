/**
 * Where a URI leads. URIs are not rewritten: clients, models and pages copy them into arguments and texts. So the way
 * back is found by looking, and only a URI that would not lead back to the server it came from is shown as an alias.
 *
 * Routing, first hit wins, servers that may not be seen are skipped at each step: the alias form; who lists the URI (or
 * names it as a tool's page); who has a template for it, the most literal first; who claims its prefix; the only one
 * with resources at all. Nobody is asked: that would tell URIs to third parties.
 */
import { aliasOf, fromAlias } from './entry.js'
import type { ServerPart } from './part.js'
import type { Viewer } from './sight.js'
import { compileTemplate, type UriTemplate } from './uri-template.js'

export interface Route {
  readonly server: string
  /** The URI in the server's own spelling. */
  readonly uri: string
}

export interface Router {
  /** Where a URI leads; undefined when nowhere that this viewer may see. */
  routeUri(viewer: Viewer, uri: string): Route | undefined
  /** Whose template this very string is, for completion and for lists. */
  routeTemplate(viewer: Viewer, template: string): Route | undefined
  /** A URI of that server as this viewer is shown it: as it is if it leads back to the server, else its alias. */
  shownUri(viewer: Viewer, server: string, uri: string): string
  /** The same for a template. */
  shownTemplate(viewer: Viewer, server: string, template: string): string
}

const templateMs = 5

interface Index {
  /** URI -> the servers that have it, in configuration order. */
  readonly owners: ReadonlyMap<string, readonly string[]>
  readonly templateOwners: ReadonlyMap<string, readonly string[]>
  /** Most literal first, then in configuration order. */
  readonly templates: readonly { readonly server: string; readonly template: UriTemplate }[]
  /** What one server's templates may cost a request, in milliseconds. */
  readonly shareMs: number
}

export function createRouter(
  servers: readonly ServerPart[],
  serverOf: (idOrAlias: string) => ServerPart | undefined
): Router {
  let index: Index | undefined
  const indexed = () => (index ??= indexOf(servers))
  const may = ({ sight, scope }: Viewer, server: string, uri: string) =>
    (scope.servers?.includes(server) ?? true) && sight.sees(server, 'resources', uri)

  function aliased(viewer: Viewer, uri: string): Route | 'none' | undefined {
    const alias = fromAlias(uri)
    if (!alias) return undefined
    const server = serverOf(alias.server)?.source.id
    return server !== undefined && may(viewer, server, alias.uri) ? { server, uri: alias.uri } : 'none'
  }

  function owner(viewer: Viewer, uri: string): string | undefined {
    return indexed()
      .owners.get(uri)
      ?.find(server => may(viewer, server, uri))
  }

  function find(viewer: Viewer, uri: string): string | undefined {
    const listed = owner(viewer, uri)
    if (listed !== undefined) return listed
    // Templates are written by servers: however many and however odd they are, a request waits only so long for them.
    const { templates, shareMs } = indexed()
    const spent = new Map<string, number>()
    for (const { server, template } of templates) {
      const before = spent.get(server) ?? 0
      if (before > shareMs || !may(viewer, server, uri)) continue
      const begun = performance.now()
      if (template.matches(uri)) return server
      spent.set(server, before + performance.now() - begun)
    }
    const claiming = servers.find(
      ({ source: { id, claims } }) => claims.some(prefix => uri.startsWith(prefix)) && may(viewer, id, uri)
    )
    if (claiming) return claiming.source.id
    const [only, ...others] = servers.filter(({ source: { id, offer } }) => {
      return (!offer.capabilities || 'resources' in offer.capabilities) && may(viewer, id, uri)
    })
    return others.length === 0 ? only?.source.id : undefined
  }

  return {
    routeUri(viewer, uri) {
      const alias = aliased(viewer, uri)
      if (alias) return alias === 'none' ? undefined : alias
      const server = find(viewer, uri)
      return server === undefined ? undefined : { server, uri }
    },
    routeTemplate(viewer, template) {
      const alias = aliased(viewer, template)
      if (alias) return alias === 'none' ? undefined : alias
      const server = indexed()
        .templateOwners.get(template)
        ?.find(id => may(viewer, id, template))
      return server === undefined ? undefined : { server, uri: template }
    },
    shownUri(viewer, server, uri) {
      // What looks like an alias would be read as one.
      if (fromAlias(uri)) return aliasOf(server, uri)
      // Who asks through one server's own address can only mean that server.
      if (viewer.scope.plain) return uri
      return find(viewer, uri) === server ? uri : aliasOf(server, uri)
    },
    shownTemplate(viewer, server, template) {
      if (fromAlias(template)) return aliasOf(server, template)
      if (viewer.scope.plain) return template
      const first = indexed()
        .templateOwners.get(template)
        ?.find(id => may(viewer, id, template))
      return first === server ? template : aliasOf(server, template)
    }
  }
}

function indexOf(servers: readonly ServerPart[]): Index {
  const owners = new Map<string, string[]>()
  const templateOwners = new Map<string, string[]>()
  const templates: { server: string; template: UriTemplate }[] = []
  const add = (map: Map<string, string[]>, uri: string, server: string) => {
    const known = map.get(uri)
    if (!known) map.set(uri, [server])
    else if (!known.includes(server)) known.push(server)
  }
  for (const { source, entries } of servers) {
    for (const { wireName } of entries.resources) add(owners, wireName, source.id)
    for (const { uri } of entries.tools) if (uri !== undefined) add(owners, uri, source.id)
    for (const { wireName } of entries.templates) {
      add(templateOwners, wireName, source.id)
      templates.push({ server: source.id, template: whenAsked(wireName) })
    }
  }
  templates.sort((a, b) => b.template.literals - a.template.literals)
  const shareMs = templateMs / new Set(templates.map(({ server }) => server)).size
  return { owners, templateOwners, templates, shareMs }
}

/** Compiled when a URI first comes near it: of ten thousand hostile ones that would take seconds. */
function whenAsked(template: string): UriTemplate {
  const start = template.split('{', 1)[0] as string
  let compiled: UriTemplate | 'unusable' | undefined
  return {
    literals: template.replace(/\{[^}]*\}?/g, '').length,
    matches(uri) {
      if (!(start + uri).includes('%') && !uri.startsWith(start)) return false
      compiled ??= compileTemplate(template) ?? 'unusable'
      return compiled !== 'unusable' && compiled.matches(uri)
    }
  }
}
