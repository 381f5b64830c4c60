/** The JSON Schema of servers.yaml, from which editors complete and check. It is committed as servers.schema.json. */
import { z } from 'zod'
import { configSchema } from './schema.js'

/** The schema of the file as people write it. Draft 7, because the YAML language server knows that one best. */
export function configJsonSchema(): object {
  const { $schema, ...rest } = z.toJSONSchema(configSchema, { io: 'input', target: 'draft-7' })
  return {
    $schema,
    title: 'servers.yaml of Switchboard',
    description: 'The MCP servers behind one Switchboard gateway, and the keys that may use them.',
    ...rest
  }
}
