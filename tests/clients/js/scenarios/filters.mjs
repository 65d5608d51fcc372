import assert from 'node:assert/strict';
import { client, connected, inbox, inSeconds, next, server, subscribed, token, unique } from '../harness.mjs';

const not = (filter) => ({ op: 'not', nodes: [filter] });
const equal = (key, val) => ({ key, cmp: 'eq', val });

async function publishAll(channel, from, to) {
  for (let n = from; n <= to; n += 1) {
    const tags = { tier: n % 2 ? 'free' : 'paid', sport: n % 3 ? 'tennis' : 'golf' };
    await server.publish(channel, { n }, tags);
  }
}

const numbers = (...all) => all.map((n) => ({ n }));

export async function what_a_namespace_holds_back_is_not_seen_whatever_is_asked_for(variant, own) {
  const reader = own(client(variant));
  const thief = own(client(variant, { sub: '43' }));
  await Promise.all([connected(reader), connected(thief)]);
  const channel = `free:${unique('x')}`;
  const subscription = reader.newSubscription(channel, { tagsFilter: equal('sport', 'tennis') });
  const stolen = thief.newSubscription(channel, { tagsFilter: not(equal('tier', 'free')) });
  const [received, loot] = [inbox(variant, subscription), inbox(variant, stolen)];
  await Promise.all([subscribed(subscription), subscribed(stolen)]);
  await publishAll(channel, 1, 5);
  assert.deepEqual(await received.atLeast(2), numbers(1, 5));
  reader.disconnect();
  await publishAll(channel, 6, 11);
  const again = next(subscription, 'subscribed');
  reader.connect();
  assert.equal((await again).recovered, true);
  assert.deepEqual(await received.atLeast(4), numbers(1, 5, 7, 11));
  await publishAll(channel, 12, 13);
  assert.deepEqual(await received.atLeast(5), numbers(1, 5, 7, 11, 13));
  const seen = (await stolen.history({ limit: 100 })).publications.map((publication) => publication.offset);
  assert.deepEqual(seen, [1, 3, 5, 7, 9, 11, 13]);
  assert.deepEqual(await loot.atLeast(0), []);
}

export async function a_token_says_what_is_seen(variant, own) {
  const reader = own(client(variant));
  await connected(reader);
  const channel = `private:${unique('x')}`;
  const getToken = async () =>
    token({ sub: '42', channel, exp: inSeconds(600), tf: equal('sport', 'golf') });
  const subscription = reader.newSubscription(channel, { getToken });
  const received = inbox(variant, subscription);
  await subscribed(subscription);
  await publishAll(channel, 1, 9);
  assert.deepEqual(await received.atLeast(3), numbers(3, 6, 9));
}
