// A server of npm `ws` for one channel, as its documentation says: what is posted goes to everybody who subscribed.
import { WebSocketServer } from 'ws';
import { inlet } from './inlet.mjs';

const [port, inletPort] = process.argv.slice(2).map(Number);
const subscribed = new Set();
const server = new WebSocketServer({ host: '127.0.0.1', port, backlog: 4096, perMessageDeflate: false });
server.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('close', () => subscribed.delete(socket));
  socket.on('message', () => {
    subscribed.add(socket);
    socket.send('subscribed');
  });
});
inlet(inletPort, (data) => {
  for (const socket of subscribed) socket.send(data);
});
