/**
 * undici's pool by its own file: the package's front door loads fetch, WebSocket, caches and mocks besides, which costs
 * every start 50 ms.
 */
import { createRequire } from 'node:module'
import type { Pool as UndiciPool } from 'undici'

const require = createRequire(import.meta.url)

export type Pool = UndiciPool
export const Pool = require('undici/lib/dispatcher/pool.js') as typeof UndiciPool
