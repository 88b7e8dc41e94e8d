import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { Cell, Slice, beginCell } from '@ton/core';
import { Tx, received } from './lib/chain.ts';
import * as p from './lib/protocol.ts';
import { ERR, OP, TON } from './lib/protocol.ts';
import { OURS, PEOPLE, World } from './lib/world.ts';

const entry = (address: string) =>
    beginCell().storeUint(0, 1).storeUint(address.length, 7).storeBuffer(Buffer.from(address)).endCell().beginParse();

/** Parameters with their codes named by hash. */
const named = (q: p.Params) => ({
    ...q,
    proxyCode: q.proxyCode?.hash().toString('hex'),
    workerCode: q.workerCode?.hash().toString('hex'),
    clientCode: q.clientCode?.hash().toString('hex'),
});

describe('root contract', () => {
    let w: World;
    before(async () => {
        w = await World.create();
    });
    const state = async () => p.parseRoot(await w.chain.data(w.root));
    const owner = (op: number, body?: Slice) => {
        const b = p.head(op);
        return w.say(PEOPLE.root, w.root, (body ? b.storeSlice(body) : b).endCell());
    };
    const hash = (n: bigint) => beginCell().storeUint(n, 256).endCell().beginParse();
    const seqno = (n: number, rest?: Slice) => {
        const b = beginCell().storeUint(n, 32);
        return (rest ? b.storeSlice(rest) : b).endCell().beginParse();
    };
    const refused = (txs: Tx[], code: number) => {
        assert.equal(txs[0].exit, code);
        assert.equal(txs[1].bounced, true);
    };
    const getter = async (name: string, args: bigint[] = []) =>
        (
            await (
                await w.chain.blockchain.getContract(w.root)
            ).get(
                name,
                args.map((value) => ({ type: 'int' as const, value })),
            )
        ).stackReader;

    test('starts with the published data', async () => {
        assert.ok((await w.chain.data(w.root)).equals(w.rootInit.data));
    });

    for (const [what, add, del, field, query] of [
        ['proxy', OP.rootAddProxyType, OP.rootDelProxyType, 'proxyHashes', 'proxy_hash_is_valid'],
        ['worker', OP.rootAddWorkerType, OP.rootDelWorkerType, 'workerHashes', 'worker_hash_is_valid'],
        ['model', OP.rootAddModelType, OP.rootDelModelType, 'modelHashes', 'model_hash_is_valid'],
    ] as const) {
        test(`${what} hashes are added and deleted, each time with a new version`, async () => {
            const version = (await state()).version;
            const txs = await owner(add, hash(11n));
            assert.ok(received(txs, PEOPLE.root, OP.excesses) > (99n * TON) / 100n);
            await owner(add, hash(12n));
            await owner(add, hash(12n));
            assert.deepEqual([...(await state())[field].keys()].sort(), [11n, 12n]);
            assert.deepEqual(
                [(await getter(query, [11n])).readNumber(), (await getter(query, [13n])).readNumber()],
                [-1, 0],
            );
            await owner(del, hash(11n));
            await owner(del, hash(77n));
            assert.deepEqual([...(await state())[field].keys()], [12n]);
            assert.equal((await state()).version, version + 5);
        });
    }

    test('proxies are registered under numbers that are never used again', async () => {
        await owner(OP.rootRegisterProxy, entry('10.0.0.1:1'));
        await owner(OP.rootRegisterProxy, entry('10.0.0.2:1 10.0.0.2:2'));
        await owner(OP.rootUnregisterProxy, seqno(2));
        await owner(OP.rootRegisterProxy, entry('10.0.0.3:1'));
        await owner(OP.rootUpdateProxy, seqno(1, entry('10.0.0.9:1')));
        const now = await state();
        assert.deepEqual(
            [...now.proxies],
            [
                [1, '0:10.0.0.9:1'],
                [3, '0:10.0.0.3:1'],
            ],
        );
        assert.deepEqual([now.lastProxySeqno, (await getter('last_proxy_seqno')).readNumber()], [3, 3]);
        refused(await owner(OP.rootUpdateProxy, seqno(2, entry('10.0.0.4:1'))), ERR.unknownProxy);
    });

    test("an entry that is not a proxy's is refused", async () => {
        const other = beginCell().storeUint(1, 1).storeUint(1, 7).storeUint(65, 8).endCell().beginParse();
        refused(await owner(OP.rootRegisterProxy, other), ERR.messageFormat);
        refused(await owner(OP.rootUpdateProxy, seqno(1, other)), ERR.messageFormat);
        const short = beginCell().storeUint(0, 1).storeUint(5, 7).storeUint(65, 8).endCell().beginParse();
        refused(await owner(OP.rootRegisterProxy, short), ERR.cellUnderflow);
        const long = beginCell().storeUint(0, 1).storeUint(0, 7).storeUint(65, 8).endCell().beginParse();
        refused(await owner(OP.rootRegisterProxy, long), ERR.cellUnderflow);
    });

    test('prices and parameters change, and count their versions', async () => {
        const was = await state();
        await owner(OP.rootChangePrice, beginCell().storeCoins(50).storeCoins(40).endCell().beginParse());
        assert.deepEqual(named((await state()).params), {
            ...named(was.params),
            paramsVersion: 2,
            pricePerToken: 50n,
            workerFeePerToken: 40n,
        });
        const fields = beginCell()
            .storeCoins(51)
            .storeCoins(41)
            .storeUint(600, 32)
            .storeUint(300, 32)
            .storeCoins(5)
            .storeCoins(6);
        await owner(OP.rootChangeParams, fields.endCell().beginParse());
        const now = await state();
        assert.deepEqual(named(now.params), {
            ...named(was.params),
            paramsVersion: 3,
            pricePerToken: 51n,
            workerFeePerToken: 41n,
            proxyDelay: 600,
            clientDelay: 300,
            minProxyStake: 5n,
            minClientStake: 6n,
        });
        assert.equal(now.version, was.version + 2);
    });

    test('contract codes are replaced', async () => {
        const [a, b, c] = [1, 2, 3].map((n) => beginCell().storeUint(n, 8).endCell());
        await w.say(PEOPLE.root, w.root, p.head(OP.rootUpgradeContracts).storeRef(a).storeRef(b).storeRef(c).endCell());
        const { params } = await state();
        assert.ok(params.proxyCode!.equals(a) && params.workerCode!.equals(b) && params.clientCode!.equals(c));
        assert.equal(params.paramsVersion, 4);
    });

    test('the get-methods answer as published', async () => {
        const { params, version, lastProxySeqno } = await state();
        const data = await getter('get_cocoon_data');
        const head = Array.from({ length: 9 }, () => data.readBigNumber());
        assert.deepEqual(head, [
            BigInt(version),
            BigInt(lastProxySeqno),
            BigInt(params.paramsVersion),
            12345n,
            1n,
            params.pricePerToken,
            params.workerFeePerToken,
            params.minProxyStake,
            params.minClientStake,
        ]);
        assert.ok(data.readAddress().equals(PEOPLE.root));
        const cur = await getter('get_cur_params');
        const rest = Array.from({ length: 14 }, () => cur.readBigNumber());
        const h = (c: Cell | null) => BigInt('0x' + c!.hash().toString('hex'));
        assert.deepEqual(rest, [
            BigInt(params.paramsVersion),
            12345n,
            1n,
            params.pricePerToken,
            params.workerFeePerToken,
            12000n,
            14000n,
            600n,
            300n,
            5n,
            6n,
            h(params.proxyCode),
            h(params.workerCode),
            h(params.clientCode),
        ]);
    });

    test('only the owner changes anything', async () => {
        for (const op of [
            OP.rootAddProxyType,
            OP.rootDelProxyType,
            OP.rootAddWorkerType,
            OP.rootDelWorkerType,
            OP.rootAddModelType,
            OP.rootDelModelType,
            OP.rootRegisterProxy,
            OP.rootUnregisterProxy,
            OP.rootUpdateProxy,
            OP.rootChangePrice,
            OP.rootChangeParams,
            OP.rootUpgradeContracts,
            OP.rootUpgrade,
            OP.rootReset,
            OP.rootUpgradeFull,
            OP.rootChangeOwner,
        ]) {
            refused(await w.say(PEOPLE.stranger, w.root, p.head(op).endCell()), ERR.messageNotFromOwner);
        }
        refused(await w.say(PEOPLE.stranger, w.root, p.text('w')), ERR.messageNotFromOwner);
    });

    test('what it does not know is refused; empty messages and do_not_process are not', async () => {
        refused(await owner(0x9f1e69dc), ERR.unknownOp);
        refused(await w.say(PEOPLE.root, w.root, p.text('x')), ERR.unknownTextOp);
        refused(await owner(OP.rootReset, beginCell().storeBit(1).endCell().beginParse()), ERR.cellUnderflow);
        const a = await w.chain.send({ from: PEOPLE.stranger, to: w.root, value: 3n * TON });
        const b = await w.say(PEOPLE.stranger, w.root, p.head(OP.doNotProcess).endCell());
        assert.deepEqual([a[0].exit, b[0].exit, a.length, b.length], [0, 0, 1, 1]);
    });

    test('coins left at the root can be taken by its owner', async () => {
        const txs = await w.say(PEOPLE.root, w.root, p.text('w'));
        assert.ok(received(txs, PEOPLE.root, OP.payout) > (35n * TON) / 10n);
        assert.equal(await w.chain.balance(w.root), TON / 2n);
    });

    test('a message with too little to leave the storage reserve is sent back', async () => {
        const poor = await World.create();
        poor.chain.sleep(86400 * 365 * 21);
        const txs = await poor.say(PEOPLE.root, poor.root, p.head(OP.rootReset).endCell(), TON / 100n);
        assert.ok(txs[0].aborted && txs[1].bounced);
        assert.equal(p.parseRoot(await poor.chain.data(poor.root)).version, 0);
    });

    test('reset empties the lists', async () => {
        const was = await state();
        await owner(OP.rootReset);
        const now = await state();
        assert.deepEqual(
            [now.proxyHashes.size, now.proxies.size, now.workerHashes.size, now.modelHashes.size],
            [0, 0, 0, 0],
        );
        assert.deepEqual([now.lastProxySeqno, now.version], [was.lastProxySeqno, was.version + 1]);
    });

    test('the owner hands over, and upgrades code alone or with data', async () => {
        await w.say(PEOPLE.root, w.root, p.head(OP.rootChangeOwner).storeAddress(PEOPLE.stranger).endCell());
        refused(await owner(OP.rootReset), ERR.messageNotFromOwner);
        await w.say(
            PEOPLE.stranger,
            w.root,
            p.head(OP.rootUpgradeFull).storeRef(w.rootInit.data).storeRef(OURS.root).endCell(),
        );
        assert.ok((await w.chain.data(w.root)).equals(w.rootInit.data));
        await w.say(PEOPLE.root, w.root, p.head(OP.rootUpgrade).storeRef(OURS.wallet).endCell());
        const contract = await w.chain.blockchain.getContract(w.root);
        const now = contract.accountState;
        assert.ok(now?.type === 'active' && now.state.code!.equals(OURS.wallet));
    });
});
