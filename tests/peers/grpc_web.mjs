// gRPC-Web as browsers speak it (connect-web over fetch), gRPC-Web from Node over HTTP/1.1 and HTTP/2, and gRPC from
// Node, all by connect-es, with the types of the descriptors that `buf build` writes.
// Alone: `node tests/peers/grpc_web.mjs` after .ci/run installed things.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createFileRegistry, fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { createGrpcTransport, createGrpcWebTransport as fromNode } from '@connectrpc/connect-node';
import { createGrpcWebTransport as fromBrowser } from '@connectrpc/connect-web';
import { serve, top } from './server.mjs';

const folder = mkdtempSync(join(tmpdir(), 'opencode-peer-'));
const file = join(folder, 'descriptors.binpb');
execFileSync(join(top, 'tests/peers/node_modules/.bin/buf'), ['build', join(top, 'proto'), '-o', file]);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(file)));
rmSync(folder, { recursive: true });
const service = registry.getService('opencode.v1.OpenCodeService');

const server = await serve();
const transports = {
  'gRPC-Web by fetch': fromBrowser({ baseUrl: server.url }),
  'gRPC-Web over HTTP/1.1': fromNode({ baseUrl: server.url, httpVersion: '1.1' }),
  'gRPC-Web over HTTP/2': fromNode({ baseUrl: server.url, httpVersion: '2' }),
  'gRPC over HTTP/2': createGrpcTransport({ baseUrl: server.url }),
};
const message = (text) => ({ parts: [{ content: { case: 'text', value: { text } } }], model: 'mock/demo' });

async function refused(code, call) {
  try {
    await call();
  } catch (error) {
    assert(error instanceof ConnectError, String(error));
    assert.equal(Code[error.code], Code[code], error.message);
    return error;
  }
  assert.fail(`was not refused with ${Code[code]}`);
}

async function check(transport) {
  const client = createClient(service, transport);
  assert.equal((await client.health({})).status, 1, 'SERVING');
  let trailers;
  const { session } = await client.getSession({}, { onHeader: (headers) => { trailers = headers; } });
  assert.match(session.id, /^ses_/);
  assert.match(trailers.get('event-cursor') ?? '', /^e/, 'a read of state says where to follow from');

  // A turn streams while it runs.
  const kinds = [], times = [];
  let text = '', last;
  for await (const event of client.sendMessage(message('hello'))) {
    times.push(performance.now());
    if (!event.response.case) continue;
    kinds.push(event.response.case);
    if (event.response.case === 'contentDelta') text += event.response.value.text;
    last = event.response;
  }
  assert(times.at(-1) - times[0] > 500, 'the whole turn came at once');
  assert(text.includes('talk to a real model.'), text);
  for (const kind of ['messageStarted', 'toolCallStarted', 'toolCallCompleted', 'messageCompleted']) {
    assert(kinds.includes(kind), `${kind} came`);
  }
  assert.deepEqual([last.case, last.value.event.case], ['other', 'turnCompleted']);

  // Errors keep their code and say which field is wrong; a message that cannot be sent starts nothing.
  const wrong = await refused(Code.InvalidArgument, () => client.listMessages({ pagination: { limit: -1 } }));
  assert.match(wrong.message, /limit/);
  assert(wrong.details.some((detail) => detail.type === 'google.rpc.ErrorInfo'), 'it has rich details');
  const drain = async (stream) => { for await (const _ of stream); };
  await refused(Code.InvalidArgument, () => drain(client.sendMessage({ parts: [], model: 'mock/demo' })));

  // A deadline ends the view, never the turn.
  let turn;
  await refused(Code.DeadlineExceeded, async () => {
    for await (const event of client.sendMessage(message('again'), { timeoutMs: 400 })) {
      if (event.response.case === 'other') turn = event.response.value.turnId;
    }
  });
  const { turn: ended } = await client.getTurn({ turnId: turn, wait: 20 });
  assert.equal(ended.finishReason, 1, 'END_TURN');
  return session.id;
}

const ids = new Set();
try {
  for (const [name, transport] of Object.entries(transports)) {
    ids.add(await check(transport));
    console.log(`grpc-web: ${name}`);
  }
  assert.equal(ids.size, 1, 'one session for all');
} catch (error) {
  console.error(server.log());
  throw error;
} finally {
  server.stop();
}
// Connections that are kept alive would keep this process alive too.
process.exit();
