import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { Address, Cell, beginCell } from '@ton/core';
import { Tx, received } from './lib/chain.ts';
import * as p from './lib/protocol.ts';
import { ERR, OP, TON } from './lib/protocol.ts';
import { PEOPLE, World, keys, person } from './lib/world.ts';

const E = PEOPLE.excess;

function workerRequest(owner: Address, payload: Cell | null): Cell {
    return p.head(OP.workerProxyRequest).storeAddress(owner).storeUint(0, 66).storeMaybeRef(payload).endCell();
}

function clientRequest(owner: Address, payload: Cell | null): Cell {
    return p.head(OP.clientProxyRequest).storeAddress(owner).storeRef(Cell.EMPTY).storeMaybeRef(payload).endCell();
}

const part = (op: number, coins: bigint) => beginCell().storeUint(op, 32).storeCoins(coins).storeAddress(E).endCell();

describe('proxy contract', () => {
    let w: World;
    let client: Address;
    let worker: Address;
    const restart = async () => {
        w = await World.create({ params: { minProxyStake: 0n } });
        client = await w.client(20n * TON);
        worker = await w.worker();
    };
    const refused = (txs: Tx[], code: number) => {
        assert.equal(txs[0].exit, code);
        assert.equal(txs[1].bounced, true);
    };

    describe('open', () => {
        before(restart);

        test('starts with the published data and answers the published get-method', async () => {
            const fresh = await World.create();
            assert.ok((await fresh.chain.data(fresh.proxy)).equals(fresh.proxyInit.data));
            const items = (await (await fresh.chain.blockchain.getContract(fresh.proxy)).get('get_cocoon_proxy_data'))
                .stackReader;
            assert.ok(items.readAddress().equals(PEOPLE.proxy));
            assert.equal(items.readBigNumber(), BigInt('0x' + fresh.proxyKeys.publicKey.toString('hex')));
            assert.ok(items.readAddress().equals(fresh.root));
            const numbers = Array.from({ length: 9 }, () => items.readBigNumber());
            const q = fresh.params;
            assert.deepEqual(numbers, [
                0n,
                0n,
                0n,
                0n,
                q.pricePerToken,
                q.workerFeePerToken,
                q.minProxyStake,
                q.minClientStake,
                1n,
            ]);
        });

        test('only the client contract of that owner speaks for it', async () => {
            const pay = clientRequest(PEOPLE.client, part(OP.clientProxyRefundGranted, TON));
            refused(await w.say(PEOPLE.stranger, w.proxy, pay), ERR.senderMismatch);
            refused(await w.say(PEOPLE.client, w.proxy, pay), ERR.senderMismatch);
            refused(
                await w.say(client, w.proxy, clientRequest(PEOPLE.stranger, part(OP.clientProxyRefundGranted, TON))),
                ERR.senderMismatch,
            );
            refused(
                await w.say(worker, w.proxy, clientRequest(PEOPLE.worker, part(OP.clientProxyRefundGranted, TON))),
                ERR.senderMismatch,
            );
            const elsewhere = new Address(-1, client.hash);
            refused(await w.say(elsewhere, w.proxy, pay), ERR.senderMismatch);
        });

        test('only the worker contract of that owner speaks for it', async () => {
            const pay = beginCell()
                .storeUint(OP.workerProxyPayoutRequest, 32)
                .storeCoins(TON)
                .storeCoins(0)
                .storeAddress(E)
                .endCell();
            refused(await w.say(PEOPLE.stranger, w.proxy, workerRequest(PEOPLE.worker, pay)), ERR.senderMismatch);
            refused(await w.say(worker, w.proxy, workerRequest(PEOPLE.stranger, pay)), ERR.senderMismatch);
            refused(await w.say(client, w.proxy, workerRequest(PEOPLE.client, pay)), ERR.senderMismatch);
        });

        test('a request without payload, or a registration, is an event', async () => {
            for (const [from, body] of [
                [client, clientRequest(PEOPLE.client, null)],
                [worker, workerRequest(PEOPLE.worker, null)],
                [
                    client,
                    clientRequest(
                        PEOPLE.client,
                        beginCell().storeUint(OP.clientProxyRegister, 32).storeUint(1, 64).endCell(),
                    ),
                ],
            ] as const) {
                const txs = await w.say(from, w.proxy, body);
                assert.deepEqual([txs[0].exit, txs.length], [0, 1]);
            }
        });

        test('an unknown request is refused', async () => {
            refused(await w.say(client, w.proxy, clientRequest(PEOPLE.client, part(0x1234, TON))), ERR.unknownOp);
            refused(await w.say(worker, w.proxy, workerRequest(PEOPLE.worker, part(0x1234, TON))), ERR.unknownOp);
            refused(await w.say(PEOPLE.proxy, w.proxy, p.plain(OP.clientTopUp, E)), ERR.unknownOp);
            refused(await w.say(PEOPLE.proxy, w.proxy, p.text('x')), ERR.unknownTextOp);
            refused(await w.say(PEOPLE.proxy, w.proxy, p.text('ww')), ERR.cellUnderflow);
        });

        test('saved states are events; empty messages are gifts', async () => {
            const save = p
                .head(OP.doNotProcess)
                .storeUint(OP.proxySaveState, 32)
                .storeUint(5, 32)
                .storeUint(6, 256)
                .endCell();
            const a = await w.say(PEOPLE.proxy, w.proxy, save, 1n);
            assert.equal(a[0].exit, -1000);
            const b = await w.say(PEOPLE.proxy, w.proxy, save);
            const c = await w.chain.send({ from: PEOPLE.stranger, to: w.proxy, value: TON });
            assert.deepEqual([b[0].exit, b.length, c[0].exit, c.length], [0, 1, 0, 1]);
        });

        test('stake is added by anybody and stays in the contract', async () => {
            const had = await w.chain.balance(w.proxy);
            await w.say(PEOPLE.stranger, w.proxy, p.withCoins(OP.proxyIncreaseStake, 2n * TON, E), 3n * TON);
            assert.equal((await w.proxyState()).stake, 2n * TON);
            assert.ok((await w.chain.balance(w.proxy)) >= had + 2n * TON);
            refused(
                await w.say(PEOPLE.proxy, w.proxy, p.withCoins(OP.proxyIncreaseStake, TON, E), TON + p.COMMISSION - 1n),
                ERR.lowMessageValue,
            );
        });

        test('earnings go to the owner, whoever asks', async () => {
            await w.order(OP.workerPayoutSigned, 1_000n, worker);
            const txs = await w.say(PEOPLE.stranger, w.proxy, p.plain(OP.proxyPayoutRequest, E));
            assert.equal(received(txs, PEOPLE.proxy, OP.payout), 400_000_000n);
            assert.equal((await w.proxyState()).balance, 0n);
            assert.ok(received(txs, E, OP.excesses) > (98n * TON) / 100n);
            const again = await w.say(PEOPLE.stranger, w.proxy, p.plain(OP.proxyPayoutRequest, E));
            assert.equal(received(again, PEOPLE.proxy, OP.payout), 0n);
        });

        test('owner and orders are checked, and every message brings its commission', async () => {
            const close = (op: number, to = w.proxy) => p.closeOrder(op, to);
            refused(await w.say(PEOPLE.stranger, w.proxy, p.plain(OP.proxyOwnerClose, E)), ERR.messageNotFromOwner);
            refused(await w.say(PEOPLE.stranger, w.proxy, p.text('c')), ERR.messageNotFromOwner);
            refused(await w.say(PEOPLE.stranger, w.proxy, p.text('w')), ERR.messageNotFromOwner);
            const bodies = [
                p.plain(OP.proxyOwnerClose, E),
                p.plain(OP.proxyPayoutRequest, E),
                p.text('c'),
                p.text('w'),
                w.signed(close(OP.proxyCloseSigned)),
                w.signed(close(OP.proxyCloseCompleteSigned)),
            ];
            for (const body of bodies) {
                refused(await w.say(PEOPLE.proxy, w.proxy, body, p.COMMISSION - 1n), ERR.lowMessageValue);
            }
            const put = (body: Cell) => w.say(PEOPLE.stranger, w.proxy, body);
            refused(await put(w.signed(close(OP.proxyCloseSigned), keys('somebody else'))), ERR.badSignature);
            refused(await put(w.signed(close(OP.proxyCloseSigned, client))), ERR.orderForAnother);
            refused(await put(w.signed(close(OP.proxyCloseSigned), w.proxyKeys, { queryId: 1n })), ERR.orderMismatch);
            refused(
                await put(w.signed(close(OP.proxyCloseSigned), w.proxyKeys, { op: OP.proxyCloseCompleteSigned })),
                ERR.orderMismatch,
            );
            refused(await put(w.signed(close(OP.proxyCloseCompleteSigned))), ERR.closed);
        });
    });

    for (const [how, start, complete] of [
        ['the owner', () => w.close(), () => w.close()],
        ['text', () => w.say(PEOPLE.proxy, w.proxy, p.text('c')), () => w.say(PEOPLE.proxy, w.proxy, p.text('c'))],
        [
            'signed orders',
            () => w.say(PEOPLE.stranger, w.proxy, w.signed(p.closeOrder(OP.proxyCloseSigned, w.proxy))),
            () => w.say(PEOPLE.stranger, w.proxy, w.signed(p.closeOrder(OP.proxyCloseCompleteSigned, w.proxy))),
        ],
    ] as const) {
        describe(`closed by ${how}`, () => {
            before(restart);

            test('closing starts its delay', async () => {
                await w.say(PEOPLE.proxy, w.proxy, p.withCoins(OP.proxyIncreaseStake, 2n * TON, E), 3n * TON);
                await start();
                const now = await w.proxyState();
                assert.deepEqual([now.state, now.unlockTs], [p.CLOSING, w.chain.now + w.params.proxyDelay]);
            });

            test('while closing, workers, refunds and the owner are paid, and stake may be added', async () => {
                const paid = await w.order(OP.workerPayoutSigned, 1_000n, worker);
                assert.equal(received(paid, PEOPLE.worker, OP.payout), 600_000_000n);
                const back = await w.say(PEOPLE.client, client, p.plain(OP.clientWithdraw, E));
                assert.equal(received(back, PEOPLE.client, OP.payout), 18n * TON);
                const own = await w.say(PEOPLE.proxy, w.proxy, p.text('w'));
                assert.ok(received(own, PEOPLE.proxy, OP.payout) > (13n * TON) / 10n);
                await w.say(PEOPLE.proxy, w.proxy, p.withCoins(OP.proxyIncreaseStake, TON, E), 2n * TON);
                assert.equal((await w.proxyState()).stake, 3n * TON);
            });

            test('a start replayed is refused', async () => {
                const again = await w.say(
                    PEOPLE.stranger,
                    w.proxy,
                    w.signed(p.closeOrder(OP.proxyCloseSigned, w.proxy)),
                );
                refused(again, ERR.closed);
            });

            test('completing is refused until the delay is over, to the second', async () => {
                w.chain.sleep(w.params.proxyDelay - 1);
                refused(await complete(), ERR.notUnlockedYet);
                w.chain.sleep(1);
                const txs = await complete();
                assert.ok(received(txs, PEOPLE.proxy, OP.payout) >= 3n * TON);
                const now = await w.proxyState();
                assert.deepEqual(
                    [now.state, now.balance, now.stake, now.unlockTs],
                    [p.CLOSED, 0n, 0n, w.chain.now + p.LATE_CLAIMS],
                );
            });

            test('completing replayed, stakes and withdrawals are refused afterwards', async () => {
                refused(await complete(), ERR.closed);
                refused(
                    await w.say(PEOPLE.proxy, w.proxy, p.withCoins(OP.proxyIncreaseStake, TON, E), 2n * TON),
                    ERR.closed,
                );
                refused(await w.say(PEOPLE.proxy, w.proxy, p.plain(OP.proxyPayoutRequest, E)), ERR.closed);
                refused(await w.say(PEOPLE.proxy, w.proxy, p.text('w')), ERR.closed);
                refused(await w.say(PEOPLE.proxy, w.proxy, p.plain(OP.proxyOwnerClose, E)), ERR.closed);
                const topUp = await w.topUp(client, 3n * TON);
                assert.equal(received(topUp, PEOPLE.client, OP.payout), 3n * TON);
            });
        });
    }

    test('parameters of another version are not guessed at', async () => {
        const old = await World.create({ params: { structVersion: 2 } });
        refused(
            await old.say(client, old.proxy, clientRequest(PEOPLE.client, part(OP.clientProxyTopUp, TON))),
            ERR.storedDataDamaged,
        );
    });

    test('the owner cannot withdraw what the stake or the clients need', async () => {
        const short = await World.create({
            params: { minProxyStake: 0n, workerFeePerToken: 500_000n },
            endowment: p.RENT,
        });
        const a = await short.worker();
        await short.client(2n * TON);
        await short.say(PEOPLE.proxy, short.proxy, p.withCoins(OP.proxyIncreaseStake, TON, E), 2n * TON);
        await short.order(OP.workerPayoutSigned, 4_000n, a); // 2 TON to the worker, 2 TON to the proxy that nobody paid in
        assert.equal((await short.proxyState()).balance, 2n * TON);
        const txs = await short.say(PEOPLE.proxy, short.proxy, p.plain(OP.proxyPayoutRequest, E));
        assert.ok(received(txs, PEOPLE.proxy, OP.payout) < TON / 20n);
        assert.ok((await short.chain.balance(short.proxy)) >= TON);
        await short.client(9n * TON, person('another client'));
        const later = await short.say(PEOPLE.proxy, short.proxy, p.plain(OP.proxyPayoutRequest, E));
        assert.ok(received(later, PEOPLE.proxy, OP.payout) > (19n * TON) / 10n);
    });
});
