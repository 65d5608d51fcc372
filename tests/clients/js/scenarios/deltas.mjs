import assert from 'node:assert/strict';
import { client, connected, inbox, next, server, subscribed, unique } from '../harness.mjs';

// Documents that differ a little, with characters of one to four bytes.
function documents(count) {
  const words = ['price', 'h\u00f6he', '\u65e5\u672c', '\u{1f600}', '"quoted"', '\\', 'x'.repeat(40)];
  const rows = Array.from({ length: 30 }, (_, n) => `${words[n % words.length]} ${n}`);
  return Array.from({ length: count }, (_, n) => {
    rows[(n * 7) % rows.length] = `${words[n % words.length]} ${n * n}`;
    if (n % 5 === 0) rows.reverse();
    if (n % 11 === 0) return { other: n };
    return { n, rows: [...rows] };
  });
}

export async function deltas_add_up_to_what_was_published(variant, own) {
  const reader = own(client(variant));
  await connected(reader);
  const channel = `delta:${unique('doc')}`;
  const subscription = reader.newSubscription(channel, { delta: 'fossil' });
  const received = inbox(variant, subscription);
  await subscribed(subscription);
  const sent = documents(60);
  for (const document of sent.slice(0, 40)) await server.publish(channel, document);
  assert.deepEqual(await received.atLeast(40), sent.slice(0, 40));
  const stats = subscription.deltaStats();
  assert.ok(stats.numDeltaPayloads >= 30, JSON.stringify(stats));
  assert.ok(stats.compressionRatio > 0.5, JSON.stringify(stats));
  reader.disconnect();
  for (const document of sent.slice(40, 50)) await server.publish(channel, document);
  const again = next(subscription, 'subscribed');
  reader.connect();
  assert.equal((await again).recovered, true);
  for (const document of sent.slice(50)) await server.publish(channel, document);
  assert.deepEqual(await received.atLeast(60), sent);
}

export async function the_latest_value_and_its_changes_come_as_deltas(variant, own) {
  const channel = `last:${unique('doc')}`;
  const sent = documents(10);
  await server.publish(channel, sent[1]);
  const reader = own(client(variant));
  await connected(reader);
  const subscription = reader.newSubscription(channel, { delta: 'fossil' });
  const received = inbox(variant, subscription);
  await subscribed(subscription);
  for (const document of sent.slice(2)) await server.publish(channel, document);
  assert.deepEqual(await received.atLeast(9), sent.slice(1));
  assert.ok(subscription.deltaStats().numDeltaPayloads >= 6);
}
