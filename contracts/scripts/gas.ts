// Writes GAS.md: what each operation costs, beside the published contracts' figures. With --check,
// fails if the committed table is not what the committed code costs, or if anything became dearer.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Cost, measure } from './scenario.ts';
import { OURS } from '../tests/lib/world.ts';

const ROOT = join(import.meta.dirname, '..');
const yardstick = JSON.parse(readFileSync(join(ROOT, 'yardstick.json'), 'utf8'));

export async function table(): Promise<{ markdown: string; dearer: string[] }> {
    const costs = await measure(OURS);
    const dearer: string[] = [];
    const rows = Object.entries(costs).map(([name, ours]) => {
        const theirs: Cost = yardstick.costs[name];
        if (ours.gas + ours.proxyGas > theirs.gas + theirs.proxyGas) {
            dearer.push(name);
        }
        const proxy = (c: Cost) => (c.proxyGas > 0 ? ` + ${c.proxyGas}` : '');
        const share = ((100 * ours.fee) / theirs.fee).toFixed(0);
        return `| ${name} | ${ours.gas}${proxy(ours)} | ${theirs.gas}${proxy(theirs)} | ${ours.fee} | ${theirs.fee} | ${share} % |`;
    });
    const hashes = Object.entries(OURS).map(([name, code]) => `- ${name}: \`${code.hash().toString('hex')}\``);
    const markdown = [
        '# What the contracts cost',
        '',
        'Made by `npm run gas`, checked by `npm test`. Gas is that of the contract addressed, plus, where the operation goes on',
        'there, that of the proxy contract. The fee is everything validators take from the first message to the last (gas, forwarding,',
        'storage), in nanoton, at the basechain prices in force (400 nanoton per unit of gas).',
        '',
        `The yardstick is the published FunC build: ${yardstick.repository} at revision \`${yardstick.revision}\`, compiled with`,
        `${yardstick.compiler}; its figures are in \`yardstick.json\`, its code is not kept here.`,
        '',
        'Code hashes measured:',
        '',
        ...hashes,
        '',
        '| Operation | Gas | Published | Fee | Published | Fee share |',
        '|---|---:|---:|---:|---:|---:|',
        ...rows,
        '',
    ].join('\n');
    return { markdown, dearer };
}

if (process.argv[1] === import.meta.filename) {
    const { markdown, dearer } = await table();
    const path = join(ROOT, 'GAS.md');
    if (!process.argv.includes('--check')) {
        writeFileSync(path, markdown);
        if (dearer.length > 0) {
            console.log(`dearer than the published contracts: ${dearer.join(', ')}`);
        }
    } else if (readFileSync(path, 'utf8') !== markdown || dearer.length > 0) {
        console.error(`GAS.md is stale ("npm run gas"), or dearer: ${dearer.join(', ')}`);
        process.exit(1);
    }
}
