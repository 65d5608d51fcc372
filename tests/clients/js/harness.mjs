// What the scenarios need: clients of the unmodified SDK, tokens, a server that publishes, and bounded waits.

import assert from 'node:assert/strict';
import { createHmac, randomUUID } from 'node:crypto';
import http2 from 'node:http2';
import { fileURLToPath } from 'node:url';
import { Centrifuge as JsonCentrifuge } from 'centrifuge';
import { Centrifuge as ProtobufCentrifuge } from 'centrifuge/build/protobuf';
import { EventSource } from 'eventsource';
import protobuf from 'protobufjs';
import WebSocket from 'ws';

const ADDRESS = process.env.GATEWAY ?? '127.0.0.1:8000';
const INTERNAL = process.env.GATEWAY_INTERNAL ?? '127.0.0.1:18020';
const SECRET = 'secret';
const PATIENCE_MS = 10_000;

// The forms and transports in which every scenario runs.
export const VARIANTS = [
  { name: 'websocket, JSON', transport: 'websocket' },
  { name: 'websocket, Protobuf', transport: 'websocket', protobuf: true },
  { name: 'HTTP stream, JSON', transport: 'http_stream' },
  { name: 'HTTP stream, Protobuf', transport: 'http_stream', protobuf: true },
  { name: 'SSE, JSON', transport: 'sse' },
];

export function unique(name) {
  return `${name}-${randomUUID()}`;
}

export function token(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`;
}

export function inSeconds(seconds) {
  return Math.floor(Date.now() / 1000) + seconds;
}

// Makes a client of one variant. `trace` keeps what its handlers saw, for waiting and for messages.
export function client(variant, claims = { sub: '42' }, options = {}) {
  const Centrifuge = variant.protobuf ? ProtobufCentrifuge : JsonCentrifuge;
  const made = new Centrifuge(endpoint(variant), {
    websocket: WebSocket,
    eventsource: EventSource,
    emulationEndpoint: `http://${ADDRESS}/emulation`,
    getToken: async () => token(claims),
    minReconnectDelay: 20,
    maxReconnectDelay: 100,
    ...options,
  });
  made.on('error', () => {});
  return made;
}

function endpoint({ transport }) {
  if (transport === 'websocket') return `ws://${ADDRESS}/connection/websocket`;
  return [{ transport, endpoint: `http://${ADDRESS}/connection/${transport}` }];
}

// Data are bytes in Protobuf and values in JSON; the gateway takes JSON documents in both.
export function encoded(variant, value) {
  return variant.protobuf ? new TextEncoder().encode(JSON.stringify(value)) : value;
}

export function decoded(variant, data) {
  return variant.protobuf ? JSON.parse(new TextDecoder().decode(data)) : data;
}

// Resolves with the next event of a kind.
export function next(emitter, event) {
  return within(`event ${event}`, new Promise((resolve) => emitter.once(event, resolve)));
}

export async function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not happen within ${PATIENCE_MS} ms`)), PATIENCE_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

// Collects the data of publications and waits for a number of them.
export function inbox(variant, subscription) {
  const seen = [];
  const waiting = [];
  subscription.on('publication', (context) => {
    seen.push({ data: decoded(variant, context.data), offset: context.offset, tags: context.tags });
    for (const wake of waiting.splice(0)) wake();
  });
  return {
    seen,
    async atLeast(count) {
      while (seen.length < count) {
        await within(`publication ${seen.length + 1} of ${count}`, new Promise((resolve) => waiting.push(resolve)));
      }
      return seen.map((one) => one.data);
    },
  };
}

export async function connected(made) {
  const event = next(made, 'connected');
  made.connect();
  return event;
}

export async function subscribed(subscription) {
  const event = next(subscription, 'subscribed');
  subscription.subscribe();
  return event;
}

const schema = protobuf.loadSync(
  fileURLToPath(new URL('../../../proto/mainstay/realtime/v1/realtime.proto', import.meta.url)),
);

// Calls the server side over gRPC: one request message, one response message, each behind five bytes.
async function call(method, request) {
  const service = schema.lookupService('mainstay.realtime.v1.RealtimeService');
  const { requestType, responseType } = service.methods[method];
  const body = schema.lookupType(`mainstay.realtime.v1.${requestType}`).encode(request).finish();
  const head = Buffer.alloc(5);
  head.writeUInt32BE(body.length, 1);
  const session = http2.connect(`http://${INTERNAL}`);
  try {
    const stream = session.request({
      ':method': 'POST',
      ':path': `/mainstay.realtime.v1.RealtimeService/${method}`,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.end(Buffer.concat([head, body]));
    const chunks = [];
    stream.on('data', (chunk) => chunks.push(chunk));
    let status;
    const note = (headers) => {
      if (headers['grpc-status'] !== undefined) status = `${headers['grpc-status']} ${headers['grpc-message'] ?? ''}`;
    };
    stream.on('response', note);
    stream.on('trailers', note);
    await within(`the answer to ${method}`, new Promise((resolve, reject) => stream.on('end', resolve).on('error', reject)));
    assert.equal(status?.trim(), '0', `${method}: ${status}`);
    return schema.lookupType(`mainstay.realtime.v1.${responseType}`).decode(Buffer.concat(chunks).subarray(5));
  } finally {
    session.close();
  }
}

export const server = {
  publish: (channel, value, tags = {}) =>
    call('Publish', { channel, data: Buffer.from(JSON.stringify(value)), tags }),
  disconnect: (user) => call('Disconnect', { user }),
  connections: (user) => call('Connections', { user }),
};
