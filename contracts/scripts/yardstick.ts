// Measures the published FunC contracts once, as the yardstick that ours are held against:
//   npx tsx scripts/yardstick.ts DIRECTORY-OF-THEIR-SOURCES REVISION
// Only the figures are kept, in yardstick.json.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { compileFunc, compilerVersion } from '@ton-community/func-js';
import { Cell } from '@ton/core';
import { Name } from '../tests/lib/world.ts';
import { measure } from './scenario.ts';

const [dir, revision] = process.argv.slice(2);
if (!dir || !revision) {
    throw new Error('usage: yardstick.ts DIRECTORY REVISION');
}
const codes = {} as Record<Name, Cell>;
const hashes: Record<string, string> = {};
for (const name of ['root', 'proxy', 'client', 'worker', 'wallet'] as const) {
    const result = await compileFunc({
        targets: [`cocoon_${name}.fc`],
        sources: (path) => readFileSync(join(dir, path), 'utf8'),
    });
    if (result.status === 'error') {
        throw new Error(result.message);
    }
    codes[name] = Cell.fromBase64(result.codeBoc);
    hashes[name] = codes[name].hash().toString('hex');
}
const yardstick = {
    repository: 'github.com/1IxI1/cocoon-contracts',
    revision,
    compiler: `func ${(await compilerVersion()).funcVersion}`,
    codeHashes: hashes,
    costs: await measure(codes),
};
writeFileSync(join(import.meta.dirname, '../yardstick.json'), JSON.stringify(yardstick, null, 2) + '\n');
