// Mainstay with JavaScript (Node.js 20 or later; in a browser WebSocket is there already).
// npm install centrifuge ws; EDGE, API_KEY, WEBSOCKET and TOKEN say where and as whom.
import assert from 'node:assert/strict';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const { EDGE, API_KEY, WEBSOCKET, TOKEN } = process.env;

async function call(method, path, body, type = 'application/json') {
  const answer = await fetch(EDGE + path, { method, body, headers: { 'x-api-key': API_KEY, 'content-type': type } });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer;
}

// --- cache
await call('PUT', '/cache/quickstart/javascript', 'hello', 'text/plain');
assert.equal(await (await call('GET', '/cache/quickstart/javascript')).text(), 'hello');
await call('DELETE', '/cache/quickstart/javascript');
console.log('cache: stored, read, deleted');

// --- database
const query = { sql: 'select $1::int + 1 as next', params: [41] };
const answer = await (await call('POST', '/database/query', JSON.stringify(query))).json();
assert.deepEqual(answer.rows, [[42]]);
console.log('database: answered by', answer.served.node);

// --- realtime
const client = new Centrifuge(WEBSOCKET, { token: TOKEN, websocket: WebSocket });
const subscription = client.newSubscription('news');
const received = new Promise((resolve) => subscription.on('publication', (context) => resolve(context.data)));
const subscribed = new Promise((resolve) => subscription.on('subscribed', resolve));
subscription.subscribe();
client.connect();
await subscribed;
await call('POST', '/realtime/publish', JSON.stringify({ channel: 'news', data: { from: 'javascript' } }));
console.log('realtime: received', await received);
client.disconnect();
