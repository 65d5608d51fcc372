// Drives the unmodified SDK of the client protocol through what the gateway serves, in every form and transport.

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { VARIANTS } from './harness.mjs';

const only = process.argv[2] ?? '';
const folder = new URL('./scenarios/', import.meta.url);
let failed = 0;
let passed = 0;
for (const file of readdirSync(folder).sort()) {
  const scenarios = await import(new URL(file, folder));
  for (const [name, run] of Object.entries(scenarios)) {
    for (const variant of VARIANTS) {
      const title = `${name.replaceAll('_', ' ')} (${variant.name})`;
      if (!title.includes(only)) continue;
      const clients = [];
      try {
        await run(variant, (made) => (clients.push(made), made));
        passed += 1;
        console.log(`ok      ${title}`);
      } catch (error) {
        failed += 1;
        console.log(`FAILED  ${title}\n${error.stack}`);
      }
      for (const made of clients) made.disconnect();
    }
  }
}
console.log(`${passed} passed, ${failed} failed`);
assert.equal(failed, 0);
process.exit(0);
