// A server of npm `socket.io` with one room: what is posted is emitted to the room.
import { createServer } from 'node:http';
import { Server } from 'socket.io';
import { inlet } from './inlet.mjs';

const [port, inletPort] = process.argv.slice(2).map(Number);
const http = createServer();
const io = new Server(http, { transports: ['websocket'], perMessageDeflate: false, serveClient: false });
io.on('connection', (socket) => {
  socket.on('subscribe', () => {
    socket.join('bench');
    socket.emit('subscribed');
  });
});
http.listen({ port, host: '127.0.0.1', backlog: 4096 });
inlet(inletPort, (data) => io.to('bench').emit('m', data));
