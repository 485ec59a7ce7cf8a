// Pages of other origins in a real browser, against a server that asks for tokens and one that does not: one that nobody has
// named can neither read, write nor subscribe; one that is named can, by fetch, by EventSource with a ticket, and by gRPC-Web
// (connect-web).
// Alone: `node tests/peers/origins.mjs` after .ci/run installed things (Debian's chromium, npm's playwright-core).
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { serve, top } from './server.mjs';

const modules = join(top, 'tests/peers/node_modules');
const descriptors = execFileSync(join(modules, '.bin/buf'), ['build', join(top, 'proto'), '-o', '-']);
const at = (name) => `/node_modules/${name}/dist/esm/`;
const imports = Object.fromEntries(['@bufbuild/protobuf', '@connectrpc/connect', '@connectrpc/connect-web']
  .flatMap((name) => [[name, `${at(name)}index.js`], [`${name}/`, at(name)]]));
const page = `<!doctype html><title>a page</title><script type="importmap">${JSON.stringify({ imports })}</script>`;

/** A web server of its own: an origin. */
async function origin() {
  const server = createServer((request, response) => {
    const path = new URL(request.url, 'http://x').pathname;
    if (path === '/') return response.setHeader('content-type', 'text/html').end(page);
    if (path === '/descriptors') return response.end(descriptors);
    try {
      const file = join(modules, path.replace('/node_modules/', ''));
      // A folder is its index, under the name that what it imports is relative to.
      if (statSync(file).isDirectory()) return response.writeHead(302, { location: `${path}/index.js` }).end();
      response.setHeader('content-type', 'text/javascript').end(readFileSync(file));
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  return { url: `http://127.0.0.1:${server.address().port}`, stop: () => server.close() };
}

/** What a page can do with the API: runs there. Each answer says what came of it. */
async function attempts({ api, token }) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const json = { ...headers, 'content-type': 'application/json' };
  const told = (work) => work.then((answer) => `status ${answer.status}`, (error) => error.name);
  const message = JSON.stringify({ text: 'run something', model: 'mock/demo' });
  const listen = (url) => new Promise((resolve) => {
    const source = new EventSource(url);
    const say = (words) => { source.close(); resolve(words); };
    source.onopen = () => say('open');
    source.onerror = () => say('refused');
  });
  const called = async () => {
    const { createFileRegistry, fromBinary } = await import('@bufbuild/protobuf');
    const { FileDescriptorSetSchema } = await import('@bufbuild/protobuf/wkt');
    const { createClient } = await import('@connectrpc/connect');
    const { createGrpcWebTransport } = await import('@connectrpc/connect-web');
    const bytes = new Uint8Array(await (await fetch('/descriptors')).arrayBuffer());
    const service = createFileRegistry(fromBinary(FileDescriptorSetSchema, bytes)).getService('opencode.v1.OpenCodeService');
    const client = createClient(service, createGrpcWebTransport({ baseUrl: api }));
    await client.getSession({}, { headers });
    for await (const event of client.streamEvents({ after: '0' }, { headers })) return `streams from ${event.cursor !== ''}`;
    return 'an empty stream';
  };
  const ticket = async () => {
    const made = await fetch(`${api}/tickets`, { method: 'POST', headers: json, body: '{"path": "/events"}' });
    return listen(`${api}/events?ticket=${(await made.json()).ticket}`);
  };
  return {
    read: await told(fetch(`${api}/session`, { headers })),
    write: await told(fetch(`${api}/messages`, { method: 'POST', headers: { ...json, prefer: 'respond-async' }, body: message })),
    // What needs no leave of the server to be sent.
    simple: await told(fetch(`${api}/messages`, { method: 'POST', mode: 'no-cors', body: message })),
    form: await told(fetch(`${api}/session/reset`, { method: 'POST', mode: 'no-cors', body: new URLSearchParams({ a: '1' }) })),
    subscribe: await listen(`${api}/events?after=0`),
    ticket: await ticket().catch((error) => error.name),
    call: await called().catch((error) => error.name),
  };
}

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const [named, other] = [await origin(), await origin()];
const token = 'a-token-of-the-origins-test';
const settings = { OPENCODE_CORS_ORIGINS: named.url, OPENCODE_MODEL: 'mock/demo' };
const guarded = await serve({ ...settings, OPENCODE_API_TOKEN: token });
const open = await serve(settings);
try {
  const visit = async (from, api) => {
    const visitor = await browser.newPage();
    await visitor.goto(from.url);
    const seen = await visitor.evaluate(attempts, api);
    await visitor.close();
    return seen;
  };
  const refused = { read: 'TypeError', write: 'TypeError', simple: 'status 0', form: 'status 0', subscribe: 'refused',
    ticket: 'TypeError', call: 'ConnectError' };
  // Even with the token, so that a leaked one is of no use to a page.
  assert.deepEqual(await visit(other, { api: guarded.url, token }), refused);
  assert.deepEqual(await visit(other, { api: open.url }), refused);
  const allowed = { read: 'status 200', write: 'status 202', ticket: 'open', call: 'streams from true' };
  const seen = await visit(named, { api: guarded.url, token });
  assert.deepEqual({ ...seen, simple: undefined, form: undefined, subscribe: undefined },
    { ...allowed, simple: undefined, form: undefined, subscribe: undefined });
  assert.equal(seen.subscribe, 'refused', 'without a ticket');
  assert.equal((await visit(named, { api: guarded.url, token: 'a wrong one' })).read, 'status 401', 'a page reads why');
  assert.equal((await visit(named, { api: open.url })).subscribe, 'open');
  // What nobody may send has reached no handler: one turn each, of the page that is named.
  for (const [api, headers] of [[guarded.url, { authorization: `Bearer ${token}` }], [open.url, {}]]) {
    const { turns } = await (await fetch(`${api}/turns`, { headers })).json();
    assert.equal(turns.length, 1, JSON.stringify(turns));
  }
  console.log('origins: a page of another origin is kept out, one that is named gets in, by fetch, EventSource and gRPC-Web');
} catch (error) {
  console.error(guarded.log(), open.log());
  throw error;
} finally {
  await browser.close();
  [named, other, guarded, open].forEach((server) => server.stop());
}
