import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { Address, Cell } from '@ton/core';
import { Tx, received } from './lib/chain.ts';
import * as p from './lib/protocol.ts';
import { ERR, OP, TON } from './lib/protocol.ts';
import { PEOPLE, World, keys } from './lib/world.ts';

const E = PEOPLE.excess;
const register = (nonce = 42n) => p.head(OP.clientRegister).storeUint(nonce, 64).storeAddress(E).endCell();
const secret = (hash = 99n) => p.head(OP.clientChangeSecretHash).storeUint(hash, 256).storeAddress(E).endCell();
const secretTopUp = (coins: bigint, hash = 98n) =>
    p.head(OP.clientChangeSecretHashAndTopUp).storeCoins(coins).storeUint(hash, 256).storeAddress(E).endCell();

/** The request a client contract sent to the proxy contract, as the proxy's node reads it. */
function request(tx: Tx) {
    const s = tx.message.body.beginParse();
    assert.equal(s.loadUint(32), OP.clientProxyRequest);
    const queryId = s.loadUintBig(64);
    const owner = s.loadAddress();
    const c = s.loadRef().beginParse();
    const payload = s.loadMaybeRef();
    s.endParse();
    const counters = {
        state: c.loadUint(2),
        balance: c.loadCoins(),
        stake: c.loadCoins(),
        tokensUsed: c.loadUintBig(64),
        secretHash: c.loadUintBig(256),
    };
    c.endParse();
    return { queryId, owner, ...counters, payload };
}

describe('client contract', () => {
    let w: World;
    let client: Address;
    const restart = async (amount = 10n * TON, params: Partial<p.Params> = {}) => {
        w = await World.create({ params });
        client = await w.client(amount);
    };
    const state = () => w.clientState(client);
    const owner = (body: Cell, value = TON) => w.say(PEOPLE.client, client, body, value);
    const refused = (txs: Tx[], code: number) => {
        assert.equal(txs[0].exit, code);
        assert.equal(txs[1].bounced, true);
        assert.equal(txs.length, 2);
    };

    describe('open', () => {
        before(() => restart());

        test('starts with the published data and answers the published get-method', async () => {
            const fresh = await World.create();
            const a = await fresh.client(0n);
            assert.ok((await fresh.chain.data(a)).equals(fresh.clientInit().data));
            const got = await (await fresh.chain.blockchain.getContract(a)).get('get_cocoon_client_data');
            const items = got.stackReader;
            assert.ok(items.readAddress().equals(PEOPLE.client));
            assert.ok(items.readAddress().equals(fresh.proxy));
            assert.equal(items.readBigNumber(), BigInt('0x' + fresh.proxyKeys.publicKey.toString('hex')));
            const numbers = Array.from({ length: 6 }, () => items.readBigNumber());
            assert.deepEqual(numbers, [0n, 0n, fresh.params.minClientStake, 0n, 0n, 0n]);
        });

        test('a top-up, by anybody, reaches the proxy contract in full and the rest comes back', async () => {
            const had = await w.chain.balance(w.proxy);
            const txs = await w.topUp(client, 5n * TON);
            assert.equal((await state()).balance, 15n * TON);
            assert.ok((await w.chain.balance(w.proxy)) >= had + 5n * TON);
            assert.ok(received(txs, E, OP.excesses) > (68n * TON) / 100n);
            const told = request(txs[1]);
            assert.deepEqual([told.balance, told.queryId], [15n * TON, 7n]);
            const payload = told.payload!.beginParse();
            assert.deepEqual([payload.loadUint(32), payload.loadCoins()], [OP.clientProxyTopUp, 5n * TON]);
        });

        test('a registration tells the proxy its nonce in a message of one nano', async () => {
            const txs = await owner(register(77n));
            const told = txs.find((t) => t.to.equals(w.proxy))!;
            assert.equal(told.value, 1n);
            const payload = request(told).payload!.beginParse();
            assert.deepEqual([payload.loadUint(32), payload.loadUintBig(64)], [OP.clientProxyRegister, 77n]);
            payload.endParse();
            assert.ok(received(txs, E, OP.excesses) > (98n * TON) / 100n);
        });

        test('a new secret is stored and told', async () => {
            const txs = await owner(secret(123n));
            assert.equal((await state()).secretHash, 123n);
            const told = request(txs.find((t) => t.to.equals(w.proxy))!);
            assert.deepEqual([told.secretHash, told.payload], [123n, null]);
        });

        test('a new secret and a top-up go in one message', async () => {
            const had = (await state()).balance;
            await owner(secretTopUp(TON, 55n), 2n * TON);
            assert.deepEqual([(await state()).secretHash, (await state()).balance], [55n, had + TON]);
        });

        test('a stake only grows', async () => {
            await owner(p.withCoins(OP.clientIncreaseStake, 3n * TON, E));
            assert.equal((await state()).stake, 3n * TON);
            refused(await owner(p.withCoins(OP.clientIncreaseStake, 3n * TON, E)), ERR.lowMessageValue);
            refused(await owner(p.withCoins(OP.clientIncreaseStake, TON, E)), ERR.lowMessageValue);
        });

        test('a withdrawal pays what is above the stake', async () => {
            const txs = await owner(p.plain(OP.clientWithdraw, E));
            assert.equal(received(txs, PEOPLE.client, OP.payout), 13n * TON);
            assert.equal((await state()).balance, 3n * TON);
            refused(await owner(p.plain(OP.clientWithdraw, E)), ERR.lowContractBalance);
        });

        test('empty messages and do_not_process are accepted and change nothing', async () => {
            const was = await w.chain.data(client);
            const a = await w.chain.send({ from: PEOPLE.stranger, to: client, value: TON / 10n });
            const b = await w.say(PEOPLE.stranger, client, p.head(OP.doNotProcess).endCell());
            assert.deepEqual([a[0].exit, b[0].exit, a.length, b.length], [0, 0, 1, 1]);
            assert.ok((await w.chain.data(client)).equals(was));
        });

        test('what is not meant for a client contract is refused', async () => {
            refused(await owner(p.plain(OP.workerRegister, E)), ERR.unknownOp);
            refused(await owner(p.withCoins(OP.clientTopUpReopen, 1n, E)), ERR.unknownOp);
            refused(await owner(p.withCoins(OP.proxyClientUnpaid, 1n, E)), ERR.unknownOp);
            refused(await owner(p.text('w')), ERR.cellUnderflow);
        });
    });

    describe('charging', () => {
        before(() => restart());

        test('a charge lowers the balance by the price of the new use', async () => {
            await w.order(OP.clientChargeSigned, 2_000n, client);
            assert.deepEqual([(await state()).tokensUsed, (await state()).balance], [2_000n, 8n * TON]);
        });

        test('the same or an older charge is refused', async () => {
            refused(await w.order(OP.clientChargeSigned, 2_000n, client), ERR.oldMessage);
            refused(await w.order(OP.clientChargeSigned, 1_999n, client), ERR.oldMessage);
        });

        test('charges overtaken on the way charge once', async () => {
            await w.order(OP.clientChargeSigned, 3_000n, client, 2n);
            refused(await w.order(OP.clientChargeSigned, 2_500n, client, 1n), ERR.oldMessage);
            assert.equal((await state()).balance, 7n * TON);
        });

        test('a charge above the balance leaves none', async () => {
            await w.order(OP.clientChargeSigned, 1_000_000n, client);
            assert.deepEqual([(await state()).tokensUsed, (await state()).balance], [1_000_000n, 0n]);
        });

        test('an order counts only as signed, for this contract, this operation and this query', async () => {
            const order = (op: number, to = client) => p.usageOrder(op, 2_000_000n, to);
            const put = (body: Cell) => w.say(PEOPLE.stranger, client, body);
            for (const op of [OP.clientChargeSigned, OP.clientGrantRefundSigned]) {
                refused(await put(w.signed(order(op), keys('somebody else'))), ERR.badSignature);
                refused(await put(w.signed(order(op, w.proxy))), ERR.orderForAnother);
                refused(await put(w.signed(order(op), w.proxyKeys, { queryId: 8n })), ERR.orderMismatch);
            }
            const swapped = w.signed(order(OP.clientChargeSigned), w.proxyKeys, { op: OP.clientGrantRefundSigned });
            refused(await put(swapped), ERR.orderMismatch);
            const longer = p
                .head(OP.clientChargeSigned)
                .storeUint(2_000_000n, 64)
                .storeAddress(client)
                .storeBit(1)
                .endCell();
            refused(await put(w.signed(longer)), ERR.cellUnderflow);
        });
    });

    describe('leaving by grant', () => {
        before(() => restart());

        test('a granted refund charges, pays the rest and closes', async () => {
            const txs = await w.order(OP.clientGrantRefundSigned, 1_000n, client);
            assert.equal(received(txs, PEOPLE.client, OP.payout), 9n * TON);
            const now = await state();
            assert.deepEqual([now.state, now.balance, now.tokensUsed, now.unlockTs], [p.CLOSED, 0n, 1_000n, 0]);
            assert.equal(request(txs.find((t) => t.to.equals(w.proxy))!).state, p.CLOSED);
        });

        test('nothing but sweeping works on a closed contract', async () => {
            refused(await w.topUp(client, TON), ERR.closed);
            refused(await owner(secretTopUp(TON), 2n * TON), ERR.closed);
            refused(await owner(register()), ERR.closed);
            refused(await owner(secret()), ERR.closed);
            refused(await owner(p.withCoins(OP.clientIncreaseStake, 9n * TON, E)), ERR.closed);
            refused(await owner(p.plain(OP.clientRequestRefund, E)), ERR.closed);
            refused(await w.order(OP.clientChargeSigned, 9_000n, client), ERR.closed);
            refused(await w.order(OP.clientGrantRefundSigned, 9_000n, client), ERR.closed);
            refused(await w.say(PEOPLE.stranger, client, p.plain(OP.clientWithdraw, E)), ERR.closed);
        });
    });

    test('a grant older than the use on chain is refused', async () => {
        await restart();
        await w.order(OP.clientChargeSigned, 500n, client);
        refused(await w.order(OP.clientGrantRefundSigned, 499n, client), ERR.oldMessage);
        const txs = await w.order(OP.clientGrantRefundSigned, 500n, client);
        assert.equal(received(txs, PEOPLE.client, OP.payout), (95n * TON) / 10n);
    });

    describe('leaving by force', () => {
        before(() => restart());

        test('the first request starts the delay and pays what is above the stake', async () => {
            const txs = await owner(p.plain(OP.clientRequestRefund, E));
            assert.equal(received(txs, PEOPLE.client, OP.payout), 8n * TON);
            const now = await state();
            assert.deepEqual(
                [now.state, now.balance, now.unlockTs],
                [p.CLOSING, 2n * TON, w.chain.now + w.params.clientDelay],
            );
        });

        test('while closing, topping up and charging still work, withdrawing does not', async () => {
            await w.topUp(client, TON);
            await w.order(OP.clientChargeSigned, 500n, client);
            assert.equal((await state()).balance, (25n * TON) / 10n);
            refused(await owner(p.plain(OP.clientWithdraw, E)), ERR.closed);
        });

        test('the second request is refused until the delay is over, to the second', async () => {
            w.chain.sleep(w.params.clientDelay);
            refused(await owner(p.plain(OP.clientRequestRefund, E)), ERR.notUnlockedYet);
            w.chain.sleep(1);
            const txs = await owner(p.plain(OP.clientRequestRefund, E));
            assert.equal(received(txs, PEOPLE.client, OP.payout), (25n * TON) / 10n);
            assert.deepEqual([(await state()).state, (await state()).balance], [p.CLOSED, 0n]);
        });
    });

    test('the first request with no more than the stake is a notice only', async () => {
        await restart(2n * TON);
        const txs = await owner(p.plain(OP.clientRequestRefund, E));
        const told = txs.find((t) => t.to.equals(w.proxy))!;
        assert.deepEqual([told.value, request(told).state, request(told).payload], [1n, p.CLOSING, null]);
        assert.equal(received(txs, PEOPLE.client, OP.payout), 0n);
    });

    test('a client that never paid in leaves without a payout', async () => {
        await restart(0n);
        await owner(p.plain(OP.clientRequestRefund, E));
        w.chain.sleep(w.params.clientDelay + 1);
        const txs = await owner(p.plain(OP.clientRequestRefund, E));
        assert.equal(received(txs, PEOPLE.client, OP.payout), 0n);
        assert.equal((await state()).state, p.CLOSED);
    });

    test("only the owner may do what is the owner's", async () => {
        await restart();
        const stranger = (body: Cell, value = TON) => w.say(PEOPLE.stranger, client, body, value);
        refused(await stranger(register()), ERR.messageNotFromOwner);
        refused(await stranger(secret()), ERR.messageNotFromOwner);
        refused(await stranger(secretTopUp(TON), 2n * TON), ERR.messageNotFromOwner);
        refused(await stranger(p.withCoins(OP.clientIncreaseStake, 9n * TON, E)), ERR.messageNotFromOwner);
        refused(await stranger(p.plain(OP.clientWithdraw, E)), ERR.notOwner);
        refused(await stranger(p.plain(OP.clientRequestRefund, E)), ERR.notOwner);
    });

    test("every operation asks for its commission, and for the account's reserve where it is not full", async () => {
        await restart();
        const bodies: [string, Cell, bigint][] = [
            ['top up', p.withCoins(OP.clientTopUp, TON, E), TON],
            ['secret and top up', secretTopUp(TON), TON],
            ['register', register(), 0n],
            ['secret', secret(), 0n],
            ['stake', p.withCoins(OP.clientIncreaseStake, 9n * TON, E), 0n],
            ['withdraw', p.plain(OP.clientWithdraw, E), 0n],
            ['refund', p.plain(OP.clientRequestRefund, E), 0n],
            ['charge', w.signed(p.usageOrder(OP.clientChargeSigned, 10n, client)), 0n],
            ['grant', w.signed(p.usageOrder(OP.clientGrantRefundSigned, 10n, client)), 0n],
        ];
        for (const [name, body, coins] of bodies) {
            assert.equal((await owner(body, coins + p.COMMISSION - 1n))[0].exit, ERR.lowMessageValue, name);
        }
        const poor = await World.create();
        const account = await poor.chain.deploy(poor.clientInit(), 0n, PEOPLE.client);
        await poor.chain.send({ from: PEOPLE.client, to: account, value: TON / 100n, init: poor.clientInit() });
        for (const [name, body, coins] of bodies.slice(0, 7)) {
            const txs = await poor.say(PEOPLE.client, account, body, coins + p.COMMISSION + TON / 20n);
            assert.equal(txs[0].exit, ERR.lowContractBalance, name);
            assert.equal(txs[1].bounced, true);
        }
    });
});
