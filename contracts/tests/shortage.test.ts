// Too little gas, too little value, too much time: at each step either everything happens or
// nothing does, and the coins are where they can be reached.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Address, Cell, Dictionary, beginCell } from '@ton/core';
import { Chain, received } from './lib/chain.ts';
import * as p from './lib/protocol.ts';
import { OP, TON } from './lib/protocol.ts';
import { PEOPLE, World, person } from './lib/world.ts';

const E = PEOPLE.excess;
const YEAR = 365 * 86400;
/** Early enough for ninety years to fit before the clock's 32 bits are full. */
const EARLY = 100_000_000;

interface Step {
    name: string;
    to: (w: World, a: { client: Address; worker: Address }) => Address;
    from: Address;
    body: (w: World, a: { client: Address; worker: Address }) => Cell;
    coins?: bigint;
}

const STEPS: Step[] = [
    {
        name: 'client top up',
        to: (_, a) => a.client,
        from: PEOPLE.stranger,
        body: () => p.withCoins(OP.clientTopUp, TON, E),
        coins: TON,
    },
    { name: 'client withdraw', to: (_, a) => a.client, from: PEOPLE.client, body: () => p.plain(OP.clientWithdraw, E) },
    {
        name: 'client refund request',
        to: (_, a) => a.client,
        from: PEOPLE.client,
        body: () => p.plain(OP.clientRequestRefund, E),
    },
    {
        name: 'client stake',
        to: (_, a) => a.client,
        from: PEOPLE.client,
        body: () => p.withCoins(OP.clientIncreaseStake, 3n * TON, E),
    },
    {
        name: 'client charge',
        to: (_, a) => a.client,
        from: PEOPLE.stranger,
        body: (w, a) => w.signed(p.usageOrder(OP.clientChargeSigned, 100n, a.client)),
    },
    {
        name: 'client grant',
        to: (_, a) => a.client,
        from: PEOPLE.stranger,
        body: (w, a) => w.signed(p.usageOrder(OP.clientGrantRefundSigned, 100n, a.client)),
    },
    {
        name: 'worker payout',
        to: (_, a) => a.worker,
        from: PEOPLE.stranger,
        body: (w, a) => w.signed(p.usageOrder(OP.workerPayoutSigned, 100n, a.worker)),
    },
    {
        name: 'worker last payout',
        to: (_, a) => a.worker,
        from: PEOPLE.stranger,
        body: (w, a) => w.signed(p.usageOrder(OP.workerLastPayoutSigned, 100n, a.worker)),
    },
    {
        name: 'proxy stake',
        to: (w) => w.proxy,
        from: PEOPLE.proxy,
        body: () => p.withCoins(OP.proxyIncreaseStake, TON, E),
        coins: TON,
    },
    { name: 'proxy close', to: (w) => w.proxy, from: PEOPLE.proxy, body: () => p.plain(OP.proxyOwnerClose, E) },
];

describe('a message with any value', () => {
    // From too little for any gas, over too little for the work, to the published commission and more.
    const VALUES = [
        1n,
        100_000n,
        1_000_000n,
        2_000_000n,
        3_500_000n,
        5_000_000n,
        8_000_000n,
        20_000_000n,
        60_000_000n,
        99_999_999n,
        100_000_001n,
    ];
    for (const step of STEPS) {
        test(`${step.name}: all or nothing`, async () => {
            for (const value of VALUES) {
                const w = await World.create();
                const a = { client: await w.client(10n * TON), worker: await w.worker() };
                const datas = async () =>
                    [await w.chain.data(w.proxy), await w.chain.data(a.client), await w.chain.data(a.worker)].map((c) =>
                        c.hash().toString('hex'),
                    );
                const before = await datas();
                const heldBefore = await w.chain.balance(w.proxy);
                const total = await w.chain.total();
                const sent = value + (step.coins ?? 0n);
                const fees = w.chain.fees;
                const txs = await w.say(step.from, step.to(w, a), step.body(w, a), sent);
                assert.equal(await w.chain.total(), total + sent - (w.chain.fees - fees));
                const after = await datas();
                if (
                    txs.some(
                        (t, i) =>
                            t.aborted &&
                            (i === 0 || t.value > 1n) &&
                            [w.proxy, a.client, a.worker].some((x) => x.equals(t.to)),
                    )
                ) {
                    assert.deepEqual(after, before, `${value}: state changed although the work was not done`);
                    assert.ok((await w.chain.balance(w.proxy)) >= heldBefore, `${value}`);
                } else {
                    assert.notDeepEqual(after, before, `${value}`);
                }
            }
        });
    }
});

describe('the proxy contract reached by a request with too little left', () => {
    // The value that arrives is lowered on the way, far below what the commission leaves.
    for (const left of [6_000_000n, 8_000_000n, 12_000_000n]) {
        test(`${left} nano: it is served or it comes back`, async () => {
            const w = await World.create();
            const client = await w.client(10n * TON);
            const worker = await w.worker();
            const cases: [Address, Cell, Address][] = [
                [client, p.plain(OP.clientWithdraw, E), PEOPLE.client],
                [worker, w.signed(p.usageOrder(OP.workerPayoutSigned, 100n, worker)), PEOPLE.stranger],
            ];
            for (const [to, body, from] of cases) {
                const before = (await w.chain.data(to)).hash();
                w.chain.post({ from, to, value: TON, body });
                await w.chain.deliver();
                const info = w.chain.queue[0].info;
                assert.ok(info.type === 'internal');
                info.value.coins = left;
                const txs = await w.chain.drain();
                const paid = received(txs, PEOPLE.client, OP.payout) + received(txs, PEOPLE.worker, OP.payout);
                const undone = (await w.chain.data(to)).hash().equals(before);
                assert.ok(undone ? paid === 0n : paid > 0n);
            }
        });
    }

    test('when gas becomes dearer, so does the commission', async () => {
        const w = await World.create();
        const client = await w.client(10n * TON);
        const worker = await w.worker();
        const config = Dictionary.loadDirect(
            Dictionary.Keys.Int(32),
            Dictionary.Values.Cell(),
            w.chain.blockchain.config,
        );
        // gas_flat_pfx, flat limit and price, gas_prices_ext, then the price itself: fifty times as high.
        const prices = config.get(21)!.beginParse();
        const head = prices.loadBits(8 + 64 + 64 + 8);
        const price = prices.loadUintBig(64) * 50n;
        config.set(21, beginCell().storeBits(head).storeUint(price, 64).storeSlice(prices).endCell());
        w.chain.blockchain.setConfig(beginCell().storeDictDirect(config).endCell());
        const a = await w.say(PEOPLE.client, client, p.plain(OP.clientWithdraw, E), TON / 2n);
        const b = await w.order(OP.workerPayoutSigned, 100n, worker, 7n, TON / 2n);
        assert.deepEqual([a[0].exit, b[0].exit], [p.ERR.lowMessageValue, p.ERR.lowMessageValue]);
        const c = await w.say(PEOPLE.client, client, p.plain(OP.clientWithdraw, E), 2n * TON);
        assert.equal(received(c, PEOPLE.client, OP.payout), 8n * TON);
    });
});

describe('years of storage', () => {
    test('an idle client gets its coins after twenty years, less the storage of the proxy contract', async () => {
        const w = await World.create({ endowment: 0n });
        await w.chain.deploy(w.proxyInit, TON / 3n, PEOPLE.proxy);
        const client = await w.client(10n * TON);
        w.chain.sleep(20 * YEAR);
        await w.say(PEOPLE.client, client, p.plain(OP.clientRequestRefund, E));
        w.chain.sleep(w.params.clientDelay + 1);
        const txs = await w.say(PEOPLE.client, client, p.plain(OP.clientRequestRefund, E));
        const got = received(w.chain.queue.length ? [] : txs, PEOPLE.client, OP.payout) + 8n * TON;
        const left = (await w.clientState(client)).balance;
        const rent = w.chain.storageFees.get(w.proxy.toString())!;
        assert.ok(rent < TON, `${rent} nano of storage in twenty years`);
        assert.ok(got + left >= 10n * TON && got >= 10n * TON - rent, `${got}`);
    });

    test("with the endowment that nodes deploy with, storage of ten years is nobody's loss", async () => {
        const w = await World.create({ endowment: (4n * TON) / 10n });
        const client = await w.client(10n * TON);
        const worker = await w.worker();
        for (let year = 1; year <= 10; year++) {
            w.chain.sleep(YEAR);
            await w.say(PEOPLE.proxy, w.proxy, p.head(OP.doNotProcess).endCell(), 1n);
        }
        const paid = await w.order(OP.workerPayoutSigned, 5_000n, worker);
        assert.equal(received(paid, PEOPLE.worker, OP.payout), 3n * TON);
        await w.say(PEOPLE.client, client, p.plain(OP.clientRequestRefund, E));
        await w.order(OP.clientChargeSigned, 5_000n, client);
        w.chain.sleep(w.params.clientDelay + 1);
        const state = await w.clientState(client);
        assert.equal(state.balance, 0n); // 8 TON at once, 2 TON used up by the charge
        assert.ok((await w.chain.balance(w.proxy)) >= 0n);
    });

    test('an account whose reserve is used up and in debt works again with the next message', async () => {
        const w = await World.create();
        const client = await w.client(10n * TON);
        const worker = await w.worker();
        w.chain.sleep(25 * YEAR);
        const a = await w.say(PEOPLE.client, client, p.plain(OP.clientWithdraw, E));
        assert.equal(received(a, PEOPLE.client, OP.payout), 8n * TON);
        const b = await w.order(OP.workerPayoutSigned, 100n, worker);
        assert.ok(received(b, PEOPLE.worker, OP.payout) > 0n);
        assert.ok(
            (await w.chain.balance(client)) >= p.ACCOUNT_RESERVE &&
                (await w.chain.balance(worker)) >= p.ACCOUNT_RESERVE,
        );
    });

    test('an account frozen for its debt is thawed with the state it had, and its coins are there', async () => {
        const w = await World.create({ chain: await Chain.create(EARLY) });
        const client = await w.client(10n * TON);
        await w.order(OP.clientChargeSigned, 1_000n, client);
        const data = await w.chain.data(client);
        w.chain.sleep(90 * YEAR);
        await w.chain.send({ from: PEOPLE.stranger, to: client, value: 1n, bounce: false });
        assert.equal(await w.chain.status(client), 'frozen');
        const back = await w.chain.send({
            from: PEOPLE.client,
            to: client,
            value: 2n * TON,
            init: { code: w.codes.client, data },
            body: p.plain(OP.clientWithdraw, E),
        });
        assert.equal(await w.chain.status(client), 'active');
        assert.equal(received(back, PEOPLE.client, OP.payout), 7n * TON);
    });

    test('a frozen account cannot be brought back with its first state, to use orders again', async () => {
        const w = await World.create({ chain: await Chain.create(EARLY) });
        const worker = await w.worker();
        await w.client(10n * TON);
        await w.order(OP.workerPayoutSigned, 1_000n, worker);
        w.chain.sleep(90 * YEAR);
        await w.chain.send({ from: PEOPLE.stranger, to: worker, value: 1n, bounce: false });
        assert.equal(await w.chain.status(worker), 'frozen');
        const body = w.signed(p.usageOrder(OP.workerPayoutSigned, 1_000n, worker));
        const txs = await w.chain.send({
            from: PEOPLE.worker,
            to: worker,
            value: 2n * TON,
            init: w.workerInit(),
            body,
        });
        assert.equal(received(txs, PEOPLE.worker, OP.payout), 0n);
        assert.notEqual(await w.chain.status(worker), 'active');
    });

    test('a proxy contract lost to its storage debt sends requests back whole', async () => {
        const w = await World.create({ endowment: p.RENT, chain: await Chain.create(EARLY) });
        const client = await w.client(0n, person('late client'));
        w.chain.sleep(10 * YEAR);
        await w.chain.send({ from: PEOPLE.stranger, to: w.proxy, value: 1n, bounce: false });
        assert.notEqual(await w.chain.status(w.proxy), 'active');
        const late = person('late client');
        const txs = await w.chain.send({
            from: late,
            to: client,
            value: 6n * TON,
            body: p.withCoins(OP.clientTopUp, 5n * TON, late),
        });
        assert.ok(received(txs, late) > (56n * TON) / 10n, `${received(txs, late)}`);
        assert.equal((await w.clientState(client)).balance, 0n);
    });
});
