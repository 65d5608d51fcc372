// Takes what is to be published: `POST /publish?times=n` publishes the body n times and answers when that is done.
import { createServer } from 'node:http';

export function inlet(port, publish) {
  createServer((request, response) => {
    const times = Number(new URL(request.url, 'http://localhost').searchParams.get('times'));
    let body = '';
    request.on('data', (chunk) => (body += chunk));
    request.on('end', () => {
      for (let n = 0; n < times; n += 1) publish(body);
      response.writeHead(200, { 'content-length': 0 }).end();
    });
  }).listen(port, '127.0.0.1');
}
