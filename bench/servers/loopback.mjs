/** Preloaded into peers that cannot be told an address: whatever they listen on, they listen on loopback. */
import { Server } from 'node:net'

const { listen } = Server.prototype
Server.prototype.listen = function (port, ...rest) {
  const onlyPort = (typeof port === 'number' || typeof port === 'string') && typeof rest[0] !== 'string'
  return onlyPort ? listen.call(this, port, '127.0.0.1', ...rest) : listen.call(this, port, ...rest)
}
