// @medplum/hl7 as a server that acknowledges and stores nothing: node server.mjs PORT [quiet]
// Prints "listening", then (unless quiet) one JSON line per message: its control id.
import { createRequire } from 'node:module';

const require = createRequire(process.cwd() + '/');
const { Hl7Server } = require('@medplum/hl7');

const quiet = process.argv[3] === 'quiet';
const server = new Hl7Server((connection) => {
  connection.addEventListener('message', ({ message }) => {
    connection.send(message.buildAck());
    if (!quiet) {
      console.log(JSON.stringify(message.getSegment('MSH').getField(10).toString()));
    }
  });
  connection.addEventListener('error', () => {});
});
await server.start(Number(process.argv[2]));
console.log('listening');
