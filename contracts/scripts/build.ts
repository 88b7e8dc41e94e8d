// Compiles src/*.tolk into build/*.json; with --check compares instead of writing.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { getTolkCompilerVersion, runTolkCompiler } from '@ton/tolk-js';
import { Cell } from '@ton/core';

const ROOT = join(import.meta.dirname, '..');
export const CONTRACTS = ['root', 'proxy', 'client', 'worker', 'wallet'] as const;

async function compile(name: string): Promise<string> {
    const result = await runTolkCompiler({
        entrypointFileName: `${name}.tolk`,
        fsReadCallback: (path) => readFileSync(join(ROOT, 'src', path), 'utf8'),
    });
    if (result.status === 'error') {
        throw new Error(`${name}: ${result.message}`);
    }
    if (result.stderr) {
        process.stderr.write(`${name}: ${result.stderr}\n`);
    }
    const code = Cell.fromBase64(result.codeBoc64);
    const built = {
        contract: name,
        compiler: `tolk ${await getTolkCompilerVersion()}`,
        tvmVersion: 12,
        hash: code.hash().toString('hex'),
        hashBase64: code.hash().toString('base64'),
        boc: code.toBoc().toString('hex'),
        bocBase64: code.toBoc().toString('base64'),
    };
    return JSON.stringify(built, null, 2) + '\n';
}

const check = process.argv.includes('--check');
let stale = 0;
for (const name of CONTRACTS) {
    const path = join(ROOT, 'build', `${name}.json`);
    const built = await compile(name);
    if (!check) {
        writeFileSync(path, built);
        console.log(
            `${name}: ${JSON.parse(built).hash}, ${Buffer.from(JSON.parse(built).bocBase64, 'base64').length} bytes`,
        );
    } else if (readFileSync(path, 'utf8') !== built) {
        stale += 1;
        console.error(`${name}: build/${name}.json is not what src/${name}.tolk compiles to; run "npm run build"`);
    }
}
if (stale > 0) {
    process.exit(1);
}
