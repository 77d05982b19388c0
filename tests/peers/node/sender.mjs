// @medplum/hl7 as a sender: node sender.mjs PORT WINDOW RETURN_ACK < messages as JSON lines
// Prints one JSON line per message, in the order of the messages: {"code": "AA", "control": "…"} or {"error": "…"}.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const require = createRequire(process.cwd() + '/');
const { Hl7Client } = require('@medplum/hl7');
const { Hl7Message } = require('@medplum/core');

const [port, window, returnAck] = [Number(process.argv[2]), Number(process.argv[3]), process.argv[4] ?? 'first'];
const client = new Hl7Client({ host: '127.0.0.1', port, keepAlive: true });
const waiting = [];

async function ask(text) {
  try {
    const answer = await client.sendAndWait(Hl7Message.parse(text), { timeoutMs: 10000, returnAck });
    const msa = answer.getSegment('MSA');
    return { code: msa.getField(1).toString(), control: msa.getField(2).toString() };
  } catch (error) {
    return { error: error.message };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  waiting.push(ask(JSON.parse(line)));
  if (waiting.length >= window) {
    console.log(JSON.stringify(await waiting.shift()));
  }
}
for (const answer of waiting) {
  console.log(JSON.stringify(await answer));
}
await client.close();
process.exit(0); // its timers outlive its answers
