// The known ways in which the published contracts lose coins, and what ours do instead.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { received } from './lib/chain.ts';
import * as p from './lib/protocol.ts';
import { OP, TON } from './lib/protocol.ts';
import { PEOPLE, World, person } from './lib/world.ts';

async function forcedRefund(w: World, client: Awaited<ReturnType<World['client']>>, owner = PEOPLE.client) {
    const first = await w.say(owner, client, p.plain(OP.clientRequestRefund, owner));
    w.chain.sleep(w.params.clientDelay + 1);
    const second = await w.say(owner, client, p.plain(OP.clientRequestRefund, owner));
    return [...first, ...second];
}

test('a forced refund is paid in full although the proxy never put up a stake', async () => {
    const w = await World.create();
    const client = await w.client(15n * TON);
    assert.equal((await w.proxyState()).stake, 0n);
    const txs = await forcedRefund(w, client);
    assert.equal(received(txs, PEOPLE.client, OP.payout), 15n * TON);
    const state = await w.clientState(client);
    assert.deepEqual([state.state, state.balance], [p.CLOSED, 0n]);
});

test('a refund forced from a silent proxy counts against its stake, then against what its owner may withdraw', async () => {
    const w = await World.create();
    const client = await w.client(15n * TON);
    const worker = await w.worker();
    await w.say(PEOPLE.proxy, w.proxy, p.withCoins(OP.proxyIncreaseStake, 2n * TON, PEOPLE.excess), 3n * TON);
    await w.order(OP.clientChargeSigned, 10_000n, client);
    await w.order(OP.workerPayoutSigned, 10_000n, worker);
    const before = await w.proxyState();
    assert.deepEqual([before.stake, before.balance], [2n * TON, 4n * TON]);
    await w.say(PEOPLE.client, client, p.plain(OP.clientRequestRefund, PEOPLE.client));
    assert.deepEqual([(await w.proxyState()).stake, (await w.proxyState()).balance], [2n * TON, 4n * TON]);
    w.chain.sleep(w.params.clientDelay + 1);
    const txs = await w.say(PEOPLE.client, client, p.plain(OP.clientRequestRefund, PEOPLE.client));
    assert.equal(received(txs, PEOPLE.client, OP.payout), 2n * TON);
    assert.deepEqual([(await w.proxyState()).stake, (await w.proxyState()).balance], [0n, 4n * TON]);
});

test('use that nobody charged a leaving client for is paid to the worker out of the stake, not by other clients', async () => {
    const w = await World.create();
    await w.say(PEOPLE.proxy, w.proxy, p.withCoins(OP.proxyIncreaseStake, 2n * TON, PEOPLE.excess), 3n * TON);
    const leaving = await w.client(2n * TON);
    const other = await w.client(5n * TON, person('another client'));
    const worker = await w.worker();
    // The proxy signed 2000 tokens of work, the client's order never reaches the chain, the proxy is gone.
    await forcedRefund(w, leaving);
    const paid = await w.order(OP.workerPayoutSigned, 2_000n, worker);
    assert.equal(received(paid, PEOPLE.worker, OP.payout), 2_000n * w.params.workerFeePerToken);
    const txs = await forcedRefund(w, other, person('another client'));
    assert.equal(received(txs, person('another client'), OP.payout), 5n * TON);
});

test('a proxy that completes its close gets its own coins only; clients and workers are paid afterwards', async () => {
    const w = await World.create();
    const client = await w.client(15n * TON);
    const worker = await w.worker();
    await w.say(PEOPLE.proxy, w.proxy, p.withCoins(OP.proxyIncreaseStake, 3n * TON, PEOPLE.excess), 4n * TON);
    await w.order(OP.clientChargeSigned, 5_000n, client);
    await w.close();
    w.chain.sleep(w.params.proxyDelay + 1);
    const closing = await w.close();
    const toOwner = received(closing, PEOPLE.proxy, OP.payout);
    assert.ok(toOwner > 3n * TON && toOwner < 4n * TON, `${toOwner}`);
    assert.equal((await w.proxyState()).state, p.CLOSED);

    const paid = await w.order(OP.workerLastPayoutSigned, 5_000n, worker);
    assert.equal(received(paid, PEOPLE.worker, OP.payout), 5_000n * w.params.workerFeePerToken);
    const txs = await forcedRefund(w, client);
    assert.equal(received(txs, PEOPLE.client, OP.payout), 10n * TON);
});

test('what nobody claims in 180 days after the close goes to the owner of the proxy', async () => {
    const w = await World.create();
    await w.client(15n * TON);
    await w.close();
    w.chain.sleep(w.params.proxyDelay);
    await w.close();
    const early = await w.say(PEOPLE.stranger, w.proxy, p.plain(OP.proxyPayoutRequest, PEOPLE.stranger));
    assert.equal(early[0].exit, p.ERR.closed);
    w.chain.sleep(p.LATE_CLAIMS);
    const late = await w.say(PEOPLE.stranger, w.proxy, p.plain(OP.proxyPayoutRequest, PEOPLE.stranger));
    assert.ok(received(late, PEOPLE.proxy, OP.payout) > (159n * TON) / 10n);
    assert.ok((await w.chain.balance(w.proxy)) <= p.RENT);
});

test('a refund that the proxy contract cannot pay at all leaves the claim standing', async () => {
    const w = await World.create();
    const client = await w.client(15n * TON);
    await w.close();
    w.chain.sleep(w.params.proxyDelay);
    await w.close();
    w.chain.sleep(p.LATE_CLAIMS);
    await w.say(PEOPLE.proxy, w.proxy, p.text('w'));
    const txs = await forcedRefund(w, client);
    assert.equal(received(txs, PEOPLE.client, OP.payout), 0n);
    assert.deepEqual(
        [(await w.clientState(client)).state, (await w.clientState(client)).balance],
        [p.CLOSED, 15n * TON],
    );
    // Nothing but fees has gone: both messages came back as excess.
    assert.ok(received(txs, PEOPLE.client) > (19n * TON) / 10n);

    await w.chain.send({ from: PEOPLE.stranger, to: w.proxy, value: 20n * TON });
    const again = await w.say(PEOPLE.client, client, p.plain(OP.clientRequestRefund, PEOPLE.client));
    assert.equal(received(again, PEOPLE.client, OP.payout), 15n * TON);
    assert.equal((await w.clientState(client)).balance, 0n);
});

test('a refund that can be paid in part is, and the rest can be asked for again', async () => {
    const w = await World.create({ params: { workerFeePerToken: 1_000_000n }, endowment: p.RENT * 2n });
    const client = await w.client(15n * TON);
    const worker = await w.worker();
    await w.order(OP.workerPayoutSigned, 4_000n, worker);
    const first = await forcedRefund(w, client);
    const got = received(first, PEOPLE.client, OP.payout);
    const left = (await w.clientState(client)).balance;
    assert.ok(got > 10n * TON && got < 12n * TON);
    assert.equal(got + left, 15n * TON);
    assert.equal(
        first.some((t) => t.op === OP.proxyClientUnpaid),
        true,
    );
    await w.chain.send({ from: PEOPLE.stranger, to: w.proxy, value: 5n * TON });
    const second = await w.say(PEOPLE.client, client, p.plain(OP.clientRequestRefund, PEOPLE.client));
    assert.equal(got + received(second, PEOPLE.client, OP.payout), 15n * TON);
});

test('a granted refund that came back can be claimed with the same order again, by anybody', async () => {
    const w = await World.create({ endowment: 0n });
    const client = await w.client(0n);
    await w.topUp(client, 3n * TON); // comes back: there is no proxy contract yet
    assert.equal((await w.clientState(client)).balance, 0n);
    await w.chain.deploy(w.proxyInit, p.TON, PEOPLE.proxy);
    await w.topUp(client, 9n * TON);
    const worker = await w.worker();
    await w.order(OP.workerPayoutSigned, 16_000n, worker); // more than was ever paid in: 9.6 TON
    const first = await w.order(OP.clientGrantRefundSigned, 0n, client);
    const got = received(first, PEOPLE.client, OP.payout);
    assert.equal((await w.clientState(client)).balance, 9n * TON - got);
    await w.chain.send({ from: PEOPLE.stranger, to: w.proxy, value: 10n * TON });
    const second = await w.order(OP.clientGrantRefundSigned, 0n, client);
    assert.equal(got + received(second, PEOPLE.client, OP.payout), 9n * TON);
    const third = await w.order(OP.clientGrantRefundSigned, 0n, client);
    assert.equal(third[0].exit, p.ERR.closed);
});

test('a top-up to a proxy that is closing is kept for the client, who takes it along', async () => {
    const w = await World.create();
    const client = await w.client(4n * TON);
    await w.close();
    await w.topUp(client, 10n * TON);
    assert.equal((await w.clientState(client)).balance, 14n * TON);
    const txs = await forcedRefund(w, client);
    assert.equal(received(txs, PEOPLE.client, OP.payout), 14n * TON);
});

async function closed(w: World) {
    await w.close();
    w.chain.sleep(w.params.proxyDelay);
    await w.close();
}

test('a top-up to a proxy that has closed goes back to the owner of the client and is not counted', async () => {
    const w = await World.create();
    const client = await w.client(4n * TON);
    await closed(w);
    const txs = await w.topUp(client, 10n * TON);
    assert.equal(received(txs, PEOPLE.client, OP.payout), 10n * TON);
    assert.ok(received(txs, PEOPLE.excess, OP.excesses) > (6n * TON) / 10n);
    assert.equal((await w.clientState(client)).balance, 4n * TON);
    // The proxy's node hears of the right balance again.
    const last = txs.filter((t) => t.to.equals(w.proxy)).at(-1)!;
    assert.equal(last.value, 1n);
});

test('coins that were under way and are spent before they come back are made good to the proxy contract', async () => {
    const w = await World.create();
    const client = await w.client(2n * TON);
    await w.client(50n * TON, person('another client'));
    await closed(w);
    const held = await w.chain.balance(w.proxy);
    w.chain.post({
        from: PEOPLE.client,
        to: client,
        value: 11n * TON,
        body: p.withCoins(OP.clientTopUp, 10n * TON, PEOPLE.client),
    });
    w.chain.post({ from: PEOPLE.client, to: client, value: TON, body: p.plain(OP.clientWithdraw, PEOPLE.client) });
    const txs = await w.chain.drain();
    // 2 TON were the client's, 10 TON came back: it gets those 12 and no more.
    assert.equal(received(txs, PEOPLE.client, OP.payout), 12n * TON);
    assert.equal((await w.clientState(client)).balance, 0n);
    assert.ok((await w.chain.balance(w.proxy)) >= held - 2n * TON);
});

test('a payout that the proxy contract cannot make leaves the order as good as it was', async () => {
    const w = await World.create();
    const worker = await w.worker();
    const first = await w.order(OP.workerPayoutSigned, 10_000n, worker);
    assert.equal(first[1].exit, p.ERR.lowContractBalance);
    assert.equal((await w.workerState(worker)).tokens, 0n);
    assert.ok(received(first, PEOPLE.excess, OP.excesses) > (9n * TON) / 10n);
    await w.client(20n * TON);
    const second = await w.order(OP.workerPayoutSigned, 10_000n, worker);
    assert.equal(received(second, PEOPLE.worker, OP.payout), 6n * TON);
});

test('a last payout that comes back opens the worker contract again', async () => {
    const w = await World.create();
    const worker = await w.worker();
    await w.order(OP.workerLastPayoutSigned, 10_000n, worker);
    assert.deepEqual([(await w.workerState(worker)).state, (await w.workerState(worker)).tokens], [p.NORMAL, 0n]);
    await w.client(20n * TON);
    const second = await w.order(OP.workerLastPayoutSigned, 10_000n, worker);
    assert.equal(received(second, PEOPLE.worker, OP.payout), 6n * TON);
    assert.equal((await w.workerState(worker)).state, p.CLOSED);
});

test('an earlier payout that comes back after the last one opens the worker contract again', async () => {
    const w = await World.create();
    const worker = await w.worker();
    await w.client(5n * TON);
    const say = (op: number, tokens: bigint, queryId: bigint) =>
        w.chain.post({
            from: PEOPLE.stranger,
            to: worker,
            value: TON,
            body: w.signed(p.usageOrder(op, tokens, worker, queryId)),
        });
    say(OP.workerPayoutSigned, 20_000n, 1n); // 12 TON: cannot be paid
    say(OP.workerLastPayoutSigned, 25_000n, 2n); // 3 TON more: can
    const txs = await w.chain.drain();
    assert.equal(received(txs, PEOPLE.worker, OP.payout), 3n * TON);
    assert.deepEqual([(await w.workerState(worker)).state, (await w.workerState(worker)).tokens], [p.NORMAL, 5_000n]);
    await w.client(20n * TON, person('another client'));
    const rest = await w.order(OP.workerLastPayoutSigned, 25_000n, worker, 3n);
    assert.equal(received(rest, PEOPLE.worker, OP.payout), 12n * TON);
});

test('parameters that pay a worker more than a client is charged do not stop payouts', async () => {
    const w = await World.create({ params: { pricePerToken: 1_000_000n, workerFeePerToken: 2_000_000n } });
    await w.client(20n * TON);
    const worker = await w.worker();
    const txs = await w.order(OP.workerPayoutSigned, 1_000n, worker);
    assert.equal(received(txs, PEOPLE.worker, OP.payout), 2n * TON);
    assert.deepEqual([(await w.proxyState()).stake, (await w.proxyState()).balance], [0n, 0n]);
});

test('free work that cannot reach the proxy contract is no error', async () => {
    const w = await World.create({ params: { pricePerToken: 0n, workerFeePerToken: 0n }, endowment: 0n });
    const worker = await w.worker();
    const txs = await w.order(OP.workerPayoutSigned, 1_000n, worker);
    assert.ok(received(txs, PEOPLE.excess, OP.excesses) > (9n * TON) / 10n);
});

test('the first earnings of a proxy fill its stake up to the minimum and stay until it closes', async () => {
    const w = await World.create();
    await w.client(20n * TON);
    const worker = await w.worker();
    await w.order(OP.workerPayoutSigned, 5_000n, worker); // the proxy's part is 2 TON
    assert.deepEqual([(await w.proxyState()).stake, (await w.proxyState()).balance], [TON, TON]);
    const txs = await w.say(PEOPLE.stranger, w.proxy, p.plain(OP.proxyPayoutRequest, PEOPLE.stranger));
    assert.equal(received(txs, PEOPLE.proxy, OP.payout), TON);
    assert.deepEqual([(await w.proxyState()).stake, (await w.proxyState()).balance], [TON, 0n]);
});

test('the owner of a proxy whose key is lost closes it and gets its coins', async () => {
    const w = await World.create();
    await w.say(PEOPLE.proxy, w.proxy, p.withCoins(OP.proxyIncreaseStake, 5n * TON, PEOPLE.excess), 6n * TON);
    await w.say(PEOPLE.proxy, w.proxy, p.text('c'));
    const early = await w.say(PEOPLE.proxy, w.proxy, p.text('c'));
    assert.equal(early[0].exit, p.ERR.notUnlockedYet);
    w.chain.sleep(w.params.proxyDelay);
    const txs = await w.say(PEOPLE.proxy, w.proxy, p.text('c'));
    assert.ok(received(txs, PEOPLE.proxy, OP.payout) > 5n * TON);
});

test('the text w pays the owner of a proxy what it has earned', async () => {
    const w = await World.create({ params: { minProxyStake: 0n } });
    await w.client(20n * TON);
    const worker = await w.worker();
    await w.order(OP.workerPayoutSigned, 5_000n, worker);
    const txs = await w.say(PEOPLE.proxy, w.proxy, p.text('w'));
    assert.ok(received(txs, PEOPLE.proxy, OP.payout) > (29n * TON) / 10n);
    assert.equal((await w.proxyState()).balance, 0n);
});

test('a delay too long to be counted does not make closing impossible', async () => {
    const w = await World.create({ params: { proxyDelay: 0xffffffff, clientDelay: 0xffffffff } });
    const client = await w.client(5n * TON);
    await w.close();
    await w.say(PEOPLE.client, client, p.plain(OP.clientRequestRefund, PEOPLE.client));
    assert.deepEqual(
        [(await w.proxyState()).unlockTs, (await w.clientState(client)).unlockTs],
        [0xffffffff, 0xffffffff],
    );
});

test('a closing account gives its own reserve back to its owner, whoever sent the order', async () => {
    const w = await World.create();
    const client = await w.client(5n * TON);
    const worker = await w.worker();
    const held = [await w.chain.balance(client), await w.chain.balance(worker)];
    const a = await w.order(OP.clientGrantRefundSigned, 0n, client);
    const b = await w.order(OP.workerLastPayoutSigned, 0n, worker);
    assert.ok(received(a, PEOPLE.client, OP.excesses) >= held[0] - TON / 1000n);
    assert.ok(received(b, PEOPLE.worker, OP.excesses) >= held[1] - TON / 1000n);
    assert.deepEqual([await w.chain.balance(client), await w.chain.balance(worker)], [0n, 0n]);
});

test('coins that reach a closed account by mistake can be taken back by its owner alone', async () => {
    const w = await World.create();
    const client = await w.client(5n * TON);
    const worker = await w.worker();
    await w.order(OP.clientGrantRefundSigned, 0n, client);
    await w.order(OP.workerLastPayoutSigned, 0n, worker);
    for (const [to, op, owner] of [
        [client, OP.clientWithdraw, PEOPLE.client],
        [worker, OP.workerRegister, PEOPLE.worker],
    ] as const) {
        await w.chain.send({ from: PEOPLE.stranger, to, value: 3n * TON });
        const wrong = await w.say(PEOPLE.stranger, to, p.plain(op, PEOPLE.stranger));
        assert.ok(wrong[0].exit === p.ERR.closed || wrong[0].exit === p.ERR.messageNotFromOwner);
        const txs = await w.say(owner, to, p.plain(op, owner));
        assert.ok(received(txs, owner, OP.excesses) > (39n * TON) / 10n);
    }
});

test('a message that says to send the excess where nothing can be sent is refused before anything happens', async () => {
    const w = await World.create();
    const client = await w.client(5n * TON);
    const nowhere = p.head(OP.clientWithdraw).storeUint(0, 2).endCell();
    assert.equal((await w.say(PEOPLE.client, client, nowhere))[0].exit, p.ERR.cellUnderflow);
    const elsewhere = p.head(OP.clientWithdraw).storeUint(0b100, 3).storeInt(5, 8).storeUint(1, 256).endCell();
    const txs = await w.say(PEOPLE.client, client, elsewhere);
    assert.equal(txs[0].exit, p.ERR.messageFormat);
    assert.equal(txs[1].bounced, true);
    assert.equal((await w.clientState(client)).balance, 5n * TON);
});
