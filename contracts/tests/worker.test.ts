import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { Address, Cell } from '@ton/core';
import { Tx, received } from './lib/chain.ts';
import * as p from './lib/protocol.ts';
import { ERR, OP, TON } from './lib/protocol.ts';
import { PEOPLE, World, keys } from './lib/world.ts';

const E = PEOPLE.excess;

function request(tx: Tx) {
    const s = tx.message.body.beginParse();
    assert.equal(s.loadUint(32), OP.workerProxyRequest);
    const seen = {
        queryId: s.loadUintBig(64),
        owner: s.loadAddress(),
        state: s.loadUint(2),
        tokens: s.loadUintBig(64),
        payload: s.loadMaybeRef(),
    };
    s.endParse();
    return seen;
}

describe('worker contract', () => {
    let w: World;
    let worker: Address;
    before(async () => {
        w = await World.create({ params: { minProxyStake: 0n } });
        await w.client(50n * TON);
        worker = await w.worker();
    });
    const state = () => w.workerState(worker);
    const refused = (txs: Tx[], code: number) => {
        assert.equal(txs[0].exit, code);
        assert.equal(txs[1].bounced, true);
        assert.equal(txs.length, 2);
    };

    test('starts with the published data and answers the published get-method', async () => {
        assert.ok((await w.chain.data(worker)).equals(w.workerInit().data));
        const items = (await (await w.chain.blockchain.getContract(worker)).get('get_cocoon_worker_data')).stackReader;
        assert.ok(items.readAddress().equals(PEOPLE.worker));
        assert.ok(items.readAddress().equals(w.proxy));
        assert.equal(items.readBigNumber(), BigInt('0x' + w.proxyKeys.publicKey.toString('hex')));
        assert.deepEqual([items.readNumber(), items.readBigNumber()], [p.NORMAL, 0n]);
    });

    test('a registration is a message of one nano to the proxy contract', async () => {
        const txs = await w.say(PEOPLE.worker, worker, p.plain(OP.workerRegister, E));
        const told = txs.find((t) => t.to.equals(w.proxy))!;
        assert.deepEqual([told.value, request(told).payload, request(told).queryId], [1n, null, 7n]);
        assert.ok(received(txs, E, OP.excesses) > (98n * TON) / 100n);
    });

    test("a payout pays the worker's part to the owner and counts the proxy's", async () => {
        const had = (await w.proxyState()).balance;
        const txs = await w.order(OP.workerPayoutSigned, 1_000n, worker);
        assert.equal(received(txs, PEOPLE.worker, OP.payout), 1_000n * w.params.workerFeePerToken);
        assert.equal(
            (await w.proxyState()).balance - had,
            1_000n * (w.params.pricePerToken - w.params.workerFeePerToken),
        );
        assert.equal((await state()).tokens, 1_000n);
        const told = request(txs.find((t) => t.to.equals(w.proxy))!);
        assert.deepEqual([told.state, told.tokens], [p.NORMAL, 1_000n]);
        const payload = told.payload!.beginParse();
        assert.equal(payload.loadUint(32), OP.workerProxyPayoutRequest);
        assert.deepEqual([payload.loadCoins(), payload.loadCoins()], [(TON * 6n) / 10n, (TON * 4n) / 10n]);
        assert.ok(payload.loadAddress().equals(E));
        payload.endParse();
    });

    test('the same or an older payout is refused', async () => {
        refused(await w.order(OP.workerPayoutSigned, 1_000n, worker), ERR.oldMessage);
        refused(await w.order(OP.workerPayoutSigned, 999n, worker), ERR.oldMessage);
        refused(await w.order(OP.workerLastPayoutSigned, 999n, worker), ERR.oldMessage);
    });

    test('payouts overtaken on the way pay once', async () => {
        const a = await w.order(OP.workerPayoutSigned, 3_000n, worker, 2n);
        const b = await w.order(OP.workerPayoutSigned, 2_000n, worker, 1n);
        assert.equal(received([...a, ...b], PEOPLE.worker, OP.payout), 2_000n * w.params.workerFeePerToken);
    });

    test('an order counts only as signed, for this contract, this operation and this query', async () => {
        const put = (body: Cell) => w.say(PEOPLE.stranger, worker, body);
        for (const op of [OP.workerPayoutSigned, OP.workerLastPayoutSigned]) {
            const order = (to = worker) => p.usageOrder(op, 9_000n, to);
            refused(await put(w.signed(order(), keys('somebody else'))), ERR.badSignature);
            refused(await put(w.signed(order(w.proxy))), ERR.orderForAnother);
            refused(await put(w.signed(order(), w.proxyKeys, { queryId: 8n })), ERR.orderMismatch);
        }
        const swapped = w.signed(p.usageOrder(OP.workerPayoutSigned, 9_000n, worker), w.proxyKeys, {
            op: OP.workerLastPayoutSigned,
        });
        refused(await put(swapped), ERR.orderMismatch);
        const charge = w.signed(p.usageOrder(OP.clientChargeSigned, 9_000n, worker));
        refused(await put(charge), ERR.unknownOp);
    });

    test('a payout that cannot be counted in coins is refused, not lost', async () => {
        const huge = await World.create({ params: { workerFeePerToken: 2n ** 119n, pricePerToken: 2n ** 119n } });
        const a = await huge.worker();
        const txs = await huge.order(OP.workerPayoutSigned, 2n ** 64n - 1n, a);
        assert.equal(txs[0].exit, 5);
        assert.equal(txs[1].bounced, true);
    });

    test('every operation asks for more than its commission, and for a full reserve', async () => {
        const register = p.plain(OP.workerRegister, E);
        const payout = w.signed(p.usageOrder(OP.workerPayoutSigned, 9_000n, worker));
        refused(await w.say(PEOPLE.worker, worker, register, p.COMMISSION), ERR.lowMessageValue);
        refused(await w.say(PEOPLE.worker, worker, payout, p.COMMISSION), ERR.lowMessageValue);
        const poor = await World.create();
        await poor.chain.send({
            from: PEOPLE.worker,
            to: p.addressOf(poor.workerInit()),
            value: TON / 100n,
            init: poor.workerInit(),
        });
        const a = p.addressOf(poor.workerInit());
        const order = poor.signed(p.usageOrder(OP.workerPayoutSigned, 1n, a));
        refused(await poor.say(PEOPLE.worker, a, order, p.COMMISSION + TON / 20n), ERR.lowContractBalance);
        const tooPoor = await poor.say(PEOPLE.worker, a, register, p.COMMISSION + 1n);
        assert.ok(tooPoor[0].aborted && tooPoor[1].bounced, 'a reserve that cannot be kept sends the message back');
    });

    test('only the owner registers, and nothing else is understood', async () => {
        refused(await w.say(PEOPLE.stranger, worker, p.plain(OP.workerRegister, E)), ERR.messageNotFromOwner);
        refused(await w.say(PEOPLE.worker, worker, p.plain(OP.clientWithdraw, E)), ERR.unknownOp);
        refused(await w.say(PEOPLE.worker, worker, p.text('w')), ERR.cellUnderflow);
        const a = await w.chain.send({ from: PEOPLE.stranger, to: worker, value: TON / 10n });
        const b = await w.say(PEOPLE.stranger, worker, p.head(OP.doNotProcess).endCell());
        assert.deepEqual([a[0].exit, b[0].exit, a.length, b.length], [0, 0, 1, 1]);
    });

    test('the last payout pays, closes, and tells so', async () => {
        const txs = await w.order(OP.workerLastPayoutSigned, 4_000n, worker);
        assert.equal(received(txs, PEOPLE.worker, OP.payout), 1_000n * w.params.workerFeePerToken);
        const told = request(txs.find((t) => t.to.equals(w.proxy))!);
        assert.deepEqual([told.state, told.tokens], [p.CLOSED, 4_000n]);
        assert.deepEqual([(await state()).state, (await state()).tokens], [p.CLOSED, 4_000n]);
    });

    test('a closed worker contract is closed for orders, registrations of strangers and anything else', async () => {
        refused(await w.order(OP.workerPayoutSigned, 9_000n, worker), ERR.closed);
        refused(await w.order(OP.workerLastPayoutSigned, 9_000n, worker), ERR.closed);
        refused(await w.say(PEOPLE.worker, worker, p.plain(OP.clientWithdraw, E)), ERR.closed);
    });

    test('the last payout may be for nothing new', async () => {
        const fresh = await World.create();
        const a = await fresh.worker();
        const txs = await fresh.order(OP.workerLastPayoutSigned, 0n, a);
        assert.equal(received(txs, PEOPLE.worker, OP.payout), 0n);
        assert.equal((await fresh.workerState(a)).state, p.CLOSED);
    });
});
