/**
 * The lists a server offers, one row each: how it is asked for, what tells an item from another, how changes are told.
 * Whoever treats all kinds alike reads this table instead of naming them.
 */

export type ListKind = 'tools' | 'prompts' | 'resources' | 'templates'

/** What a client can be told has changed: templates count as resources. */
export type ChangeKind = 'tools' | 'prompts' | 'resources'

export interface ListRow {
  readonly method: string
  /** The member of the result that holds the items. */
  readonly member: string
  /** The member of an item that is its name. */
  readonly identity: string
  /** The capability a server declares when it has the list. */
  readonly change: ChangeKind
}

export const listRows: Readonly<Record<ListKind, ListRow>> = {
  tools: { method: 'tools/list', member: 'tools', identity: 'name', change: 'tools' },
  prompts: { method: 'prompts/list', member: 'prompts', identity: 'name', change: 'prompts' },
  resources: { method: 'resources/list', member: 'resources', identity: 'uri', change: 'resources' },
  templates: {
    method: 'resources/templates/list',
    member: 'resourceTemplates',
    identity: 'uriTemplate',
    change: 'resources'
  }
}

export const listKinds = Object.keys(listRows) as readonly ListKind[]
export const changeKinds: readonly ChangeKind[] = ['tools', 'prompts', 'resources']

/** The list a method asks for; undefined for every other method. */
export const listOf: ReadonlyMap<string, ListKind> = new Map(listKinds.map(kind => [listRows[kind].method, kind]))

/** `notifications/<kind>/list_changed`, the same in every revision. */
export const listChanged = (change: ChangeKind) => `notifications/${change}/list_changed`

/** The member of a `subscriptions/listen` filter that asks for these changes (2026-07-28, Subscriptions). */
export const changeFilter = (change: ChangeKind) => `${change}ListChanged`

/** Everything one server was last known to offer; a list it never gave is undefined, one it does not have is empty. */
export interface Offer {
  readonly tools?: readonly Record<string, unknown>[]
  readonly prompts?: readonly Record<string, unknown>[]
  readonly resources?: readonly Record<string, unknown>[]
  readonly templates?: readonly Record<string, unknown>[]
  readonly capabilities?: Record<string, unknown>
  readonly instructions?: string
}
