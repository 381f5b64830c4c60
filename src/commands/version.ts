/** `switchboard --version`. */
export { version } from '../version.js'
