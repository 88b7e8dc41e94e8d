import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { table } from '../scripts/gas.ts';

test('GAS.md says what the committed code costs, and no operation takes more gas than the published one', async () => {
    const { markdown, dearer } = await table();
    assert.deepEqual(dearer, []);
    assert.equal(readFileSync(join(import.meta.dirname, '../GAS.md'), 'utf8'), markdown);
});
