// Compiles contracts/probe.tolk, and writes or (with --check) compares contracts/probe.json.

import { readFileSync, writeFileSync } from 'node:fs';
import { runTolkCompiler, getTolkCompilerVersion } from '@ton/tolk-js';

const here = new URL('contracts/', import.meta.url);
const result = await runTolkCompiler({
  entrypointFileName: 'probe.tolk',
  fsReadCallback: (path) => readFileSync(new URL(path, here), 'utf8'),
});
if (result.status === 'error') {
  console.error(result.message);
  process.exit(1);
}
const code = Buffer.from(result.codeBoc64, 'base64').toString('hex');
const compiled = { compiler: `tolk ${await getTolkCompilerVersion()}`, hash: result.codeHashHex.toLowerCase(), code };
const target = new URL('probe.json', here);
if (process.argv.includes('--check')) {
  if (JSON.stringify(JSON.parse(readFileSync(target, 'utf8'))) !== JSON.stringify(compiled)) {
    console.error('contracts/probe.json is not what contracts/probe.tolk compiles to; run node compile.mjs');
    process.exit(1);
  }
} else {
  writeFileSync(target, `${JSON.stringify(compiled, null, 2)}\n`);
}
