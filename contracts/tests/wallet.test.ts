import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { Address, Cell } from '@ton/core';
import { transfer, walletMessage } from '../scripts/scenario.ts';
import { Chain, Tx, received } from './lib/chain.ts';
import * as p from './lib/protocol.ts';
import { ERR, OP, TON } from './lib/protocol.ts';
import { OURS, PEOPLE, keys } from './lib/world.ts';

const OWNER = PEOPLE.client;
const TO = PEOPLE.stranger;

describe('wallet', () => {
    const key = keys('wallet');
    let chain: Chain;
    let wallet: Address;
    before(async () => {
        chain = await Chain.create();
        const init = { code: OURS.wallet, data: p.walletData(key.publicKey, OWNER) };
        wallet = await chain.deploy(init, TON, OWNER);
    });
    const send = (
        seqno: number,
        messages: { mode: number; message: Cell }[],
        opts: { until?: number; sub?: number; by?: Buffer } = {},
    ) =>
        chain.external(
            wallet,
            walletMessage(opts.by ?? key.secretKey, seqno, opts.until ?? chain.now + 60, messages, opts.sub),
        );
    const seqno = async () => (await chain.data(wallet)).beginParse().loadUint(32);
    const pay = (value: bigint, mode = 1) => ({ mode, message: transfer(TO, value) });
    const notAccepted = (run: Promise<unknown>, code: number) =>
        assert.rejects(run, (e: { exitCode?: number }) => e.exitCode === code);
    const refused = (txs: Tx[], code: number) => {
        assert.equal(txs[0].exit, code);
        assert.equal(txs[1].bounced, true);
    };

    test('sends from a balance of one TON, which the published wallet refuses', async () => {
        const txs = await send(0, [pay(TON / 10n)]);
        assert.equal(received(txs, TO), TON / 10n);
        assert.equal(await seqno(), 1);
    });

    test('sends up to four messages at once', async () => {
        const txs = await send(
            1,
            [1n, 2n, 3n, 4n].map((n) => pay(n * 1_000_000n)),
        );
        assert.equal(received(txs, TO), 10_000_000n);
        assert.equal(txs[0].out.length, 4);
    });

    test('refuses what is replayed, early, expired, for another wallet or by another key', async () => {
        await notAccepted(send(1, [pay(1n)]), ERR.walletSeqno);
        await notAccepted(send(3, [pay(1n)]), ERR.walletSeqno);
        await notAccepted(send(2, [pay(1n)], { until: chain.now }), ERR.walletExpired);
        await notAccepted(send(2, [pay(1n)], { sub: 5 }), ERR.walletSubwallet);
        await notAccepted(send(2, [pay(1n)], { by: keys('somebody else').secretKey }), ERR.walletSignature);
    });

    test('a message that cannot be paid for costs its sequence number and nothing else is lost', async () => {
        const txs = await send(2, [pay(100n * TON), pay(TON / 10n)]);
        assert.equal(received(txs, TO), TON / 10n);
        assert.equal(await seqno(), 3);
        await notAccepted(send(2, [pay(TON / 10n)]), ERR.walletSeqno);
    });

    test('what is not a message at all cannot make a signed message valid twice', async () => {
        const txs = await send(3, [{ mode: 1, message: p.text('not a message') }]);
        assert.equal(txs[0].exit, 0);
        assert.equal(await seqno(), 4);
    });

    test('its owner blocks and unblocks the key', async () => {
        await chain.send({ from: OWNER, to: wallet, value: TON, body: p.text('b') });
        await notAccepted(send(4, [pay(1n)]), ERR.walletBlocked);
        await chain.send({ from: OWNER, to: wallet, value: TON, body: p.text('u') });
        assert.equal(received(await send(4, [pay(1_000n)]), TO), 1_000n);
    });

    test('its owner sends any message through it, also while it is blocked', async () => {
        await chain.send({ from: OWNER, to: wallet, value: TON, body: p.text('b') });
        const body = p
            .head(OP.walletSendMessage)
            .storeUint(1, 8)
            .storeRef(transfer(TO, TON / 4n))
            .endCell();
        assert.equal(received(await chain.send({ from: OWNER, to: wallet, value: TON, body }), TO), TON / 4n);
        await chain.send({ from: OWNER, to: wallet, value: TON, body: p.text('u') });
    });

    test('takes coins, excess, payouts and events from anybody, and commands from its owner only', async () => {
        for (const body of [
            Cell.EMPTY,
            p.head(OP.excesses).endCell(),
            p.head(OP.payout).endCell(),
            p.head(OP.doNotProcess).endCell(),
        ]) {
            const txs = await chain.send({ from: TO, to: wallet, value: TON / 10n, body });
            assert.deepEqual([txs[0].exit, txs.length], [0, 1]);
        }
        for (const c of ['w', 'b', 'u']) {
            refused(await chain.send({ from: TO, to: wallet, value: TON, body: p.text(c) }), ERR.walletNotOwner);
        }
        refused(await chain.send({ from: OWNER, to: wallet, value: TON, body: p.text('x') }), ERR.walletUnknownOp);
        refused(
            await chain.send({ from: OWNER, to: wallet, value: TON, body: p.head(0x1234).endCell() }),
            ERR.walletUnknownOp,
        );
        refused(await chain.send({ from: OWNER, to: wallet, value: TON, body: p.text('ww') }), ERR.cellUnderflow);
    });

    test('answers its get-methods', async () => {
        const contract = await chain.blockchain.getContract(wallet);
        assert.equal((await contract.get('seqno')).stackReader.readNumber(), 5);
        assert.equal(
            (await contract.get('get_public_key')).stackReader.readBigNumber(),
            BigInt('0x' + key.publicKey.toString('hex')),
        );
        assert.ok((await contract.get('get_owner_address')).stackReader.readAddress().equals(OWNER));
    });

    test('gives its owner everything, to the last nano, and works again when coins arrive', async () => {
        const had = await chain.balance(wallet);
        const txs = await chain.send({ from: OWNER, to: wallet, value: TON, body: p.text('w') });
        assert.ok(received(txs, OWNER) > had + (99n * TON) / 100n);
        assert.equal(await chain.balance(wallet), 0n);
        await chain.send({ from: OWNER, to: wallet, value: TON });
        assert.equal(received(await send(5, [pay(TON / 2n)]), TO), TON / 2n);
    });
});
