// aimock, a model service of somebody else's making, as the second opinion on both dialects: tool calls, an overloaded
// service, and a connection that is cut. Alone: `node tests/peers/aimock.mjs` after .ci/run installed things.
import assert from 'node:assert/strict';
import { LLMock } from '@copilotkit/aimock';
import { serve } from './server.mjs';

const cutText = 'A long text that is cut in the middle of it, before it has said all that it has to say. '.repeat(4);
const calls = [
  { id: 'toolu_1', name: 'bash', arguments: JSON.stringify({ command: 'echo from-bash', description: 'Say a word' }) },
  { id: 'toolu_2', name: 'ls', arguments: JSON.stringify({ path: '.' }) },
];
const overloaded = { error: { message: 'Overloaded', type: 'overloaded_error' }, status: 529 };
const fixtures = [
  { match: { userMessage: 'look around', hasToolResult: true }, response: { content: 'I have looked at it all.' } },
  { match: { userMessage: 'look around' }, response: { content: 'Let me look.', toolCalls: calls } },
  { match: { userMessage: 'overload', sequenceIndex: 0 }, response: overloaded },
  { match: { userMessage: 'overload' }, response: { content: 'There I am again.' } },
  { match: { userMessage: 'cut', sequenceIndex: 0 }, response: { content: cutText }, latency: 20, disconnectAfterMs: 150 },
  { match: { userMessage: 'cut' }, response: { content: 'All of it this time.' } },
];

/** Sends a message and gives the events of its turn. */
async function turn(server, text) {
  const answer = await fetch(`${server.url}/messages`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ text }),
    signal: AbortSignal.timeout(60_000),
  });
  const stream = await answer.text();
  assert.equal(answer.status, 200, stream);
  return stream.split('\n').filter((line) => line.startsWith('data: ')).map((line) => JSON.parse(line.slice(6)));
}

const only = (events, type) => events.filter((event) => event.type === type);
const lastText = (events) => only(events, 'message_updated').map((event) => event.message)
  .filter((message) => message.role === 'assistant').at(-1).parts.find((part) => part.type === 'text')?.text;

/** The events end as those of a good turn. */
function endsWell(events, text) {
  assert.equal(events.at(-1).type, 'turn_completed');
  assert.equal(events.at(-1).finish_reason, 'end_turn', JSON.stringify(only(events, 'turn_failed')));
  assert.equal(only(events, 'turn_failed').length, 0);
  assert.equal(lastText(events), text);
}

async function check(name, settings, path) {
  const model = new LLMock({ port: 0, logLevel: 'silent' });
  model.addFixturesFromJSON(fixtures);
  await model.start();
  const server = await serve(settings(model.url));
  try {
    // Two tool calls in one answer: both run, and the next request has both results, in their order.
    const looked = await turn(server, 'look around, please');
    endsWell(looked, 'I have looked at it all.');
    const [started, completed] = ['tool_call_started', 'tool_call_completed'].map((type) => only(looked, type));
    assert.deepEqual(started.map((event) => event.tool_name), ['bash', 'ls']);
    assert.deepEqual(completed.map((event) => event.is_error), [false, false], JSON.stringify(completed));
    assert.match(completed[0].output, /from-bash/);
    const requests = model.getRequests();
    assert.equal(requests.length, 2);
    assert(requests.every((request) => request.path === path), requests.map((request) => request.path).join());
    const { messages } = requests[1].body;
    const asked = messages.flatMap((message) => message.tool_calls ?? []).map((call) => call.id);
    const results = messages.filter((message) => message.role === 'tool');
    assert.equal(asked.length, 2);
    assert.deepEqual(results.map((message) => message.tool_call_id), asked, 'a result for each call, in their order');
    assert.match(JSON.stringify(results[0].content), /from-bash/);

    // An overloaded service is asked again, and that is told.
    const again = await turn(server, 'overload');
    endsWell(again, 'There I am again.');
    assert.equal(only(again, 'model_retry').length, 1);

    // A cut after words were shown: those stay, marked, and are not in the next prompt; the answer comes anew.
    model.clearRequests();
    const cut = await turn(server, 'cut');
    endsWell(cut, 'All of it this time.');
    const [first, second] = only(cut, 'message_completed');
    assert.equal(first.finish_reason, 'error');
    assert.notEqual(first.message_id, second.message_id);
    assert(only(cut, 'content_delta').some((event) => event.message_id === first.message_id), 'words were shown');
    assert.equal(model.getRequests().length, 2);
    assert(!JSON.stringify(model.getRequests()[1].body.messages).includes('A long text'), 'what was cut is left out');
    console.log(`aimock: ${name}: two tools in one answer, 529 and recovery, cut and recovery`);
  } catch (error) {
    console.error(server.log());
    throw error;
  } finally {
    server.stop();
    await model.stop();
  }
}

await check('Anthropic Messages', (url) => ({ ANTHROPIC_API_KEY: 'x', ANTHROPIC_BASE_URL: url }), '/v1/messages');
await check('OpenAI Chat Completions', (url) => ({ OPENAI_API_KEY: 'x', OPENAI_BASE_URL: `${url}/v1` }),
  '/v1/chat/completions');
