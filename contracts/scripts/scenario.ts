// One fixed run through the life of a network, and what each operation in it costs.
import { Address, Cell, beginCell } from '@ton/core';
import { sign } from '@ton/crypto';
import { Chain, Tx } from '../tests/lib/chain.ts';
import * as p from '../tests/lib/protocol.ts';
import { OP, TON } from '../tests/lib/protocol.ts';
import { Codes, PEOPLE, World, keys, person } from '../tests/lib/world.ts';

export interface Cost {
    /** Gas of the contract the message is sent to. */
    gas: number;
    /** Gas of the proxy contract, where the operation goes on there. */
    proxyGas: number;
    /** All fees of the operation from the first message to the last, in nanoton. */
    fee: number;
}

export type Costs = Record<string, Cost>;

export async function measure(codes: Codes): Promise<Costs> {
    const costs: Costs = {};
    const w = await World.create({ codes, params: { minProxyStake: 0n } });

    const record = async (name: string, run: () => Promise<Tx[]>, mayBounceTo?: Address) => {
        const before = w.chain.fees;
        const txs = await run();
        if (txs[0].exit !== 0 || txs.some((t) => t.bounced && !t.to.equals(mayBounceTo ?? w.root))) {
            throw new Error(`${name}: exit code ${txs.map((t) => t.exit)}`);
        }
        const proxyTx = txs.slice(1).find((t) => t.to.equals(w.proxy));
        costs[name] = {
            gas: Number(txs[0].gas),
            proxyGas: Number(proxyTx?.gas ?? 0n),
            fee: Number(w.chain.fees - before),
        };
    };
    const say = (name: string, from: Address, to: Address, body: Cell, value = TON) =>
        record(name, () => w.say(from, to, body, value));

    const client = await w.client(0n);
    const worker = await w.worker();
    const order = (name: string, op: number, tokens: bigint, to: Address) =>
        say(name, PEOPLE.stranger, to, w.signed(p.usageOrder(op, tokens, to)));

    await say(
        'client: top up',
        PEOPLE.stranger,
        client,
        p.withCoins(OP.clientTopUp, 20n * TON, PEOPLE.excess),
        21n * TON,
    );
    await say(
        'client: register',
        PEOPLE.client,
        client,
        p.head(OP.clientRegister).storeUint(1, 64).storeAddress(PEOPLE.excess).endCell(),
    );
    await say(
        'client: change secret',
        PEOPLE.client,
        client,
        p.head(OP.clientChangeSecretHash).storeUint(5, 256).storeAddress(PEOPLE.excess).endCell(),
    );
    await say(
        'client: change secret and top up',
        PEOPLE.client,
        client,
        p
            .head(OP.clientChangeSecretHashAndTopUp)
            .storeCoins(TON)
            .storeUint(6, 256)
            .storeAddress(PEOPLE.excess)
            .endCell(),
        2n * TON,
    );
    await say(
        'client: increase stake',
        PEOPLE.client,
        client,
        p.withCoins(OP.clientIncreaseStake, 3n * TON, PEOPLE.excess),
    );
    await order('client: charge', OP.clientChargeSigned, 1_000n, client);
    await say('client: withdraw', PEOPLE.client, client, p.plain(OP.clientWithdraw, PEOPLE.excess));
    await say(
        'client: top up',
        PEOPLE.stranger,
        client,
        p.withCoins(OP.clientTopUp, 20n * TON, PEOPLE.excess),
        21n * TON,
    );
    await say('worker: register', PEOPLE.worker, worker, p.plain(OP.workerRegister, PEOPLE.excess));
    await order('worker: payout', OP.workerPayoutSigned, 900n, worker);
    await order('worker: last payout', OP.workerLastPayoutSigned, 1_000n, worker);
    await say(
        'proxy: increase stake',
        PEOPLE.proxy,
        w.proxy,
        p.withCoins(OP.proxyIncreaseStake, 5n * TON, PEOPLE.excess),
        6n * TON,
    );
    await say('proxy: payout to owner', PEOPLE.stranger, w.proxy, p.plain(OP.proxyPayoutRequest, PEOPLE.excess));
    await say(
        'proxy: save state',
        PEOPLE.proxy,
        w.proxy,
        p.head(OP.doNotProcess).storeUint(OP.proxySaveState, 32).storeUint(1, 32).storeUint(1, 256).endCell(),
    );
    await say('client: start refund', PEOPLE.client, client, p.plain(OP.clientRequestRefund, PEOPLE.excess));
    w.chain.sleep(w.params.clientDelay + 1);
    await say('client: forced refund', PEOPLE.client, client, p.plain(OP.clientRequestRefund, PEOPLE.excess));
    const second = await w.client(20n * TON, person('second client'));
    await order('client: granted refund', OP.clientGrantRefundSigned, 10n, second);
    await say('proxy: close', PEOPLE.proxy, w.proxy, p.plain(OP.proxyOwnerClose, PEOPLE.excess));
    w.chain.sleep(w.params.proxyDelay);
    await say(
        'proxy: complete close',
        PEOPLE.stranger,
        w.proxy,
        w.signed(p.closeOrder(OP.proxyCloseCompleteSigned, w.proxy)),
    );
    const signedClose = await World.create({ codes, chain: await Chain.create() });
    const closeBefore = signedClose.chain.fees;
    const txs = await signedClose.say(
        PEOPLE.stranger,
        signedClose.proxy,
        signedClose.signed(p.closeOrder(OP.proxyCloseSigned, signedClose.proxy)),
    );
    costs['proxy: close, signed'] = {
        gas: Number(txs[0].gas),
        proxyGas: 0,
        fee: Number(signedClose.chain.fees - closeBefore),
    };

    const root = (name: string, op: number, fill: (b: ReturnType<typeof p.head>) => typeof b) =>
        say(`root: ${name}`, PEOPLE.root, w.root, fill(p.head(op)).endCell());
    const entry = (b: ReturnType<typeof p.head>) =>
        b.storeUint(0, 1).storeUint(15, 7).storeBuffer(Buffer.from('127.0.0.1:16001'));
    await root('add proxy type', OP.rootAddProxyType, (b) => b.storeUint(1, 256));
    await root('add worker type', OP.rootAddWorkerType, (b) => b.storeUint(2, 256));
    await root('add model type', OP.rootAddModelType, (b) => b.storeUint(3, 256));
    await root('register proxy', OP.rootRegisterProxy, entry);
    await root('update proxy', OP.rootUpdateProxy, (b) => entry(b.storeUint(1, 32)));
    await root('unregister proxy', OP.rootUnregisterProxy, (b) => b.storeUint(1, 32));
    await root('delete proxy type', OP.rootDelProxyType, (b) => b.storeUint(1, 256));
    await root('delete worker type', OP.rootDelWorkerType, (b) => b.storeUint(2, 256));
    await root('delete model type', OP.rootDelModelType, (b) => b.storeUint(3, 256));
    await root('change price', OP.rootChangePrice, (b) => b.storeCoins(5).storeCoins(4));
    await root('change parameters', OP.rootChangeParams, (b) =>
        b.storeCoins(5).storeCoins(4).storeUint(600, 32).storeUint(300, 32).storeCoins(TON).storeCoins(TON),
    );
    await root('upgrade contracts', OP.rootUpgradeContracts, (b) =>
        b.storeRef(codes.proxy).storeRef(codes.worker).storeRef(codes.client),
    );
    await root('change owner', OP.rootChangeOwner, (b) => b.storeAddress(PEOPLE.root));
    await root('upgrade', OP.rootUpgrade, (b) => b.storeRef(codes.root));
    await root('upgrade with data', OP.rootUpgradeFull, (b) => b.storeRef(w.rootInit.data).storeRef(codes.root));
    await root('reset', OP.rootReset, (b) => b);

    await measureWallet(codes, w, record);
    Object.assign(costs, await measureStorage(codes));
    return costs;
}

/** What a year of lying on the chain costs each contract. */
async function measureStorage(codes: Codes): Promise<Costs> {
    const w = await World.create({ codes });
    const accounts = { root: w.root, proxy: w.proxy, client: await w.client(2n * TON), worker: await w.worker() };
    w.chain.storageFees.clear();
    w.chain.sleep(365 * 86400);
    const costs: Costs = {};
    for (const [name, to] of Object.entries(accounts)) {
        await w.chain.send({ from: PEOPLE.stranger, to, value: 1n });
        costs[`a year of storage: ${name}`] = {
            gas: 0,
            proxyGas: 0,
            fee: Number(w.chain.storageFees.get(to.toString())),
        };
    }
    return costs;
}

export function walletMessage(
    secretKey: Buffer,
    seqno: number,
    validUntil: number,
    messages: { mode: number; message: Cell }[],
    subwallet = 0,
): Cell {
    const body = beginCell().storeUint(subwallet, 32).storeUint(validUntil, 32).storeUint(seqno, 32);
    for (const m of messages) {
        body.storeUint(m.mode, 8).storeRef(m.message);
    }
    const signed = body.endCell();
    return beginCell().storeBuffer(sign(signed.hash(), secretKey)).storeSlice(signed.beginParse()).endCell();
}

export function transfer(to: Address, value: bigint, body?: Cell): Cell {
    const m = beginCell()
        .storeUint(0x10, 6)
        .storeAddress(to)
        .storeCoins(value)
        .storeUint(0, 1 + 4 + 4 + 64 + 32 + 1);
    return (body ? m.storeBit(1).storeRef(body) : m.storeBit(0)).endCell();
}

async function measureWallet(
    codes: Codes,
    w: World,
    record: (name: string, run: () => Promise<Tx[]>, mayBounceTo?: Address) => Promise<void>,
): Promise<void> {
    const key = keys('wallet');
    const init = { code: codes.wallet, data: p.walletData(key.publicKey, PEOPLE.client) };
    const wallet = await w.chain.deploy(init, 20n * TON, PEOPLE.client);
    const until = w.chain.now + 60;
    const one = { mode: 1, message: transfer(PEOPLE.stranger, TON / 10n) };
    await record('wallet: send one', () => w.chain.external(wallet, walletMessage(key.secretKey, 0, until, [one])));
    await record('wallet: send four', () =>
        w.chain.external(wallet, walletMessage(key.secretKey, 1, until, [one, one, one, one])),
    );
    await record('wallet: block', () => w.say(PEOPLE.client, wallet, p.text('b')));
    await record('wallet: unblock', () => w.say(PEOPLE.client, wallet, p.text('u')));
    const inner = p.head(OP.walletSendMessage).storeUint(1, 8).storeRef(one.message).endCell();
    await record("wallet: owner's message", () => w.say(PEOPLE.client, wallet, inner));
    // The published wallet's message bounces from an owner's account that has no code.
    await record('wallet: withdraw', () => w.say(PEOPLE.client, wallet, p.text('w')), wallet);
}
