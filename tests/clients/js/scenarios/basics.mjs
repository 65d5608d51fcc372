import assert from 'node:assert/strict';
import {
  client, connected, decoded, encoded, inbox, inSeconds, next, server, subscribed, token, unique, within,
} from '../harness.mjs';

export async function what_is_published_reaches_whoever_subscribed(variant, own) {
  const [sender, reader] = [own(client(variant, { sub: '1', info: { name: 'Ann' } })), own(client(variant, { sub: '2' }))];
  await Promise.all([connected(sender), connected(reader)]);
  const channel = unique('talk');
  const [from, to] = [sender.newSubscription(channel), reader.newSubscription(channel)];
  const joined = next(to, 'join');
  await subscribed(to);
  assert.equal((await joined).info.user, '2');
  const received = next(to, 'publication');
  await subscribed(from);
  await from.publish(encoded(variant, { text: 'h\u00e4, "line"\n' }));
  const context = await received;
  assert.deepEqual(decoded(variant, context.data), { text: 'h\u00e4, "line"\n' });
  assert.equal(context.info.user, '1');
  assert.deepEqual(decoded(variant, context.info.connInfo), { name: 'Ann' });
  const left = next(to, 'leave');
  from.unsubscribe();
  assert.equal((await left).info.user, '1');
}

export async function presence_and_history_are_told(variant, own) {
  const one = own(client(variant, { sub: '7' }));
  await connected(one);
  const subscription = one.newSubscription(unique('room'));
  await subscribed(subscription);
  for (const n of [1, 2, 3]) await subscription.publish(encoded(variant, n));
  const { clients } = await subscription.presence();
  assert.deepEqual(Object.values(clients).map((info) => info.user), ['7']);
  assert.deepEqual(await subscription.presenceStats(), { numClients: 1, numUsers: 1 });
  const all = await subscription.history({ limit: -1 });
  assert.deepEqual(all.publications.map((item) => decoded(variant, item.data)), [1, 2, 3]);
  const page = await subscription.history({ limit: 1, since: { offset: 1, epoch: all.epoch } });
  assert.deepEqual(page.publications.map((item) => item.offset), [2]);
  const back = await subscription.history({ limit: 2, reverse: true });
  assert.deepEqual(back.publications.map((item) => item.offset), [3, 2]);
}

export async function what_was_missed_is_recovered(variant, own) {
  const [reader, sender] = [own(client(variant, { sub: 'away' })), own(client(variant, { sub: 'here' }))];
  await Promise.all([connected(reader), connected(sender)]);
  const channel = unique('recover');
  const subscription = reader.newSubscription(channel);
  const received = inbox(variant, subscription);
  await subscribed(subscription);
  await server.publish(channel, 1);
  await received.atLeast(1);
  reader.disconnect();
  for (const n of [2, 3, 4]) await server.publish(channel, n);
  const again = next(subscription, 'subscribed');
  reader.connect();
  const context = await again;
  assert.equal(context.wasRecovering && context.recovered, true);
  assert.deepEqual(await received.atLeast(4), [1, 2, 3, 4]);
  await server.publish(channel, 5);
  assert.deepEqual(await received.atLeast(5), [1, 2, 3, 4, 5]);
}

export async function what_cannot_be_recovered_is_not_called_recovered(variant, own) {
  const reader = own(client(variant));
  await connected(reader);
  const channel = `smallhistory:${unique('x')}`;
  const subscription = reader.newSubscription(channel);
  const received = inbox(variant, subscription);
  await subscribed(subscription);
  await server.publish(channel, 1);
  await received.atLeast(1);
  reader.disconnect();
  for (const n of [2, 3, 4, 5]) await server.publish(channel, n);
  const again = next(subscription, 'subscribed');
  reader.connect();
  const context = await again;
  assert.deepEqual([context.wasRecovering, context.recovered], [true, false]);
  await server.publish(channel, 6);
  assert.deepEqual(await received.atLeast(2), [1, 6]);
}

export async function the_latest_value_comes_at_once(variant, own) {
  const channel = `last:${unique('price')}`;
  await server.publish(channel, { price: 1 });
  await server.publish(channel, { price: 2 });
  const reader = own(client(variant));
  await connected(reader);
  const subscription = reader.newSubscription(channel);
  const received = inbox(variant, subscription);
  await subscribed(subscription);
  assert.deepEqual(await received.atLeast(1), [{ price: 2 }]);
}

export async function a_filter_lets_through_what_it_names(variant, own) {
  const reader = own(client(variant));
  await connected(reader);
  const channel = unique('ticks');
  const filter = {
    op: 'and',
    nodes: [{ key: 'ticker', cmp: 'in', vals: ['A', 'B'] }, { key: 'price', cmp: 'gte', val: '10' }],
  };
  const subscription = reader.newSubscription(channel, { tagsFilter: filter });
  const received = inbox(variant, subscription);
  await subscribed(subscription);
  await server.publish(channel, 'low', { ticker: 'A', price: '9.99' });
  await server.publish(channel, 'other', { ticker: 'C', price: '11' });
  await server.publish(channel, 'good', { ticker: 'B', price: '10.0' });
  assert.deepEqual(await received.atLeast(1), ['good']);
  reader.disconnect();
  await server.publish(channel, 'other again', { ticker: 'C', price: '11' });
  await server.publish(channel, 'missed', { ticker: 'A', price: '12' });
  const again = next(subscription, 'subscribed');
  reader.connect();
  assert.equal((await again).recovered, true);
  assert.deepEqual(await received.atLeast(2), ['good', 'missed']);
}

export async function connections_are_refreshed(variant, own) {
  let given = 0;
  const made = own(client(variant, {}, {
    getToken: async () => {
      given += 1;
      return token({ sub: 'short', exp: inSeconds(given === 1 ? 2 : 3600) });
    },
  }));
  await connected(made);
  let reconnected = false;
  made.on('connecting', () => (reconnected = true));
  await within('a refresh', (async () => {
    while (given < 2) await new Promise((resolve) => setTimeout(resolve, 20));
  })());
  const subscription = made.newSubscription(unique('after'));
  await subscribed(subscription);
  assert.equal(reconnected, false);
}

export async function subscriptions_by_token_are_refreshed(variant, own) {
  const made = own(client(variant));
  await connected(made);
  const channel = `private:${unique('x')}`;
  let given = 0;
  const subscription = made.newSubscription(channel, {
    getToken: async () => {
      given += 1;
      return token({ sub: '42', channel, exp: inSeconds(given === 1 ? 2 : 3600) });
    },
  });
  let ended = false;
  await subscribed(subscription);
  subscription.on('subscribing', () => (ended = true));
  await within('a refresh', (async () => {
    while (given < 2) await new Promise((resolve) => setTimeout(resolve, 20));
  })());
  await server.publish(channel, 1);
  assert.equal(ended, false);
}

export async function whoever_has_no_right_is_told(variant, own) {
  const made = own(client(variant));
  await connected(made);
  for (const [channel, code] of [[`private:${unique('x')}`, 103], ['nowhere:x', 102]]) {
    const subscription = made.newSubscription(channel);
    const event = next(subscription, 'unsubscribed');
    subscription.subscribe();
    assert.equal((await event).code, code, channel);
  }
  await assert.rejects(made.publish(unique('not-mine'), encoded(variant, 1)), { code: 103 });
  const ended = next(made, 'disconnected');
  const user = unique('ended');
  const other = own(client(variant, { sub: user }));
  await connected(other);
  const end = next(other, 'disconnected');
  await server.disconnect(user);
  assert.equal((await end).code, 3503);
  const bad = own(client(variant, {}, { getToken: async () => `${token({ sub: '42' })}x` }));
  const refused = next(bad, 'disconnected');
  bad.connect();
  assert.equal((await refused).code, 3500);
  made.disconnect();
  assert.equal((await ended).code, 0);
}

export async function channels_of_the_token_come_with_the_connection(variant, own) {
  const channel = unique('news');
  const made = own(client(variant, { sub: '42', channels: [channel] }));
  const begun = next(made, 'subscribed');
  const seen = [];
  made.on('publication', (context) => seen.push(decoded(variant, context.data)));
  await connected(made);
  await within('the server-side subscription', begun);
  const got = next(made, 'publication');
  await server.publish(channel, 'hello');
  await got;
  assert.deepEqual(seen, ['hello']);
}
