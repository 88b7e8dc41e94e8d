// The theorem of the README, tried out: random operations of everybody on all contracts together, with
// requests lost on the way to the proxy contract, messages overtaking each other, too little value, and time.
//   RUNS=200 STEPS=300 node --import tsx --test tests/invariants.test.ts     more of it
//   SEED=12345 node --import tsx --test tests/invariants.test.ts             one run again
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Address, beginCell } from '@ton/core';
import * as p from './lib/protocol.ts';
import { OP, TON } from './lib/protocol.ts';
import { Client, Model, Worker } from './lib/model.ts';
import { Random } from './lib/random.ts';
import { PEOPLE } from './lib/world.ts';

const RUNS = Number(process.env.RUNS ?? 12);
const STEPS = Number(process.env.STEPS ?? 150);
const FIRST = Number(process.env.SEED ?? 1);
const E = PEOPLE.excess;

/** Messages' values, from hopeless to ample. */
const VALUES = [1n, TON / 100n, TON / 10n - 1n, TON / 10n, TON / 10n + 1n, (7n * TON) / 10n, TON];

async function step(m: Model, late: boolean): Promise<void> {
    const { rnd, w } = m;
    const client = rnd.pick(m.clients);
    const worker = rnd.pick(m.workers);
    const value = rnd.chance(0.7) ? TON : rnd.pick(VALUES);
    const owner = rnd.chance(0.95) ? client.owner : PEOPLE.stranger;
    const proxyOwner = rnd.chance(0.9) ? PEOPLE.proxy : PEOPLE.stranger;
    const old = (orders: bigint[]) => (rnd.chance(0.7) ? orders.at(-1)! : rnd.pick(orders));
    const state = await w.clientState(client.contract);
    const kind = rnd.below(100);
    if (kind < 25) {
        await m.job(client, worker, 1n + rnd.big(1_500n));
    } else if (kind < 37) {
        const amount = rnd.big(6n * TON);
        m.post(PEOPLE.stranger, client.contract, p.withCoins(OP.clientTopUp, amount, E), amount + value);
    } else if (kind < 39) {
        const body = p
            .head(OP.clientChangeSecretHashAndTopUp)
            .storeCoins(TON)
            .storeUint(rnd.below(1000), 256)
            .storeAddress(E)
            .endCell();
        m.post(owner, client.contract, body, TON + value);
    } else if (kind < 50 && client.orders.length > 0) {
        m.order(OP.clientChargeSigned, old(client.orders), client.contract, value);
    } else if (kind < 65 && worker.orders.length > 0) {
        m.order(OP.workerPayoutSigned, old(worker.orders), worker.contract, value);
    } else if (kind < 70) {
        m.post(owner, client.contract, p.plain(OP.clientWithdraw, E), value);
    } else if (kind < 73) {
        m.post(owner, client.contract, p.plain(OP.clientRequestRefund, E), value);
    } else if (kind < 75) {
        m.post(owner, client.contract, p.withCoins(OP.clientIncreaseStake, state.stake + rnd.big(TON), E), value);
    } else if (kind < 77) {
        m.post(owner, client.contract, p.head(OP.clientRegister).storeUint(1, 64).storeAddress(E).endCell(), value);
    } else if (kind < 78) {
        client.granted = true;
        m.order(OP.clientGrantRefundSigned, client.signed, client.contract, value);
    } else if (kind < 79) {
        worker.last = true;
        m.order(OP.workerLastPayoutSigned, worker.signed, worker.contract, value);
    } else if (kind < 82) {
        const amount = rnd.big(2n * TON);
        m.post(proxyOwner, w.proxy, p.withCoins(OP.proxyIncreaseStake, amount, E), amount + value);
    } else if (kind < 85) {
        m.post(proxyOwner, w.proxy, rnd.chance(0.5) ? p.plain(OP.proxyPayoutRequest, E) : p.text('w'), value);
    } else if (kind < 88 && late) {
        w.chain.sleep(w.params.proxyDelay);
        m.post(proxyOwner, w.proxy, p.plain(rnd.chance(0.8) ? OP.proxyOwnerClose : OP.proxyPayoutRequest, E), TON);
    } else if (kind < 88 && m.dishonest) {
        m.overSign(worker, rnd.big(2_000n));
    } else if (kind < 90) {
        forge(m, client, worker);
    } else {
        w.chain.sleep(rnd.pick([1, 60, 3600, 3601, 7200, 86_400, late ? 8_000_000 : 864_000]));
    }
}

/** What no contract may fall for. */
function forge(m: Model, client: Client, worker: Worker): void {
    const pay = (op: number) => beginCell().storeUint(op, 32).storeCoins(TON).storeAddress(E).endCell();
    const payout = beginCell()
        .storeUint(OP.workerProxyPayoutRequest, 32)
        .storeCoins(TON)
        .storeCoins(0)
        .storeAddress(E)
        .endCell();
    const forgeries: [Address, ReturnType<typeof pay>][] = [
        [
            m.w.proxy,
            p
                .head(OP.clientProxyRequest)
                .storeAddress(client.owner)
                .storeRef(payout)
                .storeMaybeRef(pay(OP.clientProxyRefundForce))
                .endCell(),
        ],
        [
            m.w.proxy,
            p.head(OP.workerProxyRequest).storeAddress(worker.owner).storeUint(0, 66).storeMaybeRef(payout).endCell(),
        ],
        [client.contract, p.withCoins(OP.proxyClientUnpaid, TON, E)],
        [
            client.contract,
            beginCell().storeUint(0xfffffffe, 32).storeRef(payout).storeRef(payout).storeUint(0, 41).endCell(),
        ],
        [
            m.w.proxy,
            beginCell()
                .storeUint(m.rnd.below(2 ** 31), 32)
                .endCell(),
        ],
    ];
    const [to, body] = m.rnd.pick(forgeries);
    m.post(PEOPLE.stranger, to, body, TON);
}

/** Checked after every transaction. */
async function always(m: Model): Promise<void> {
    assert.equal(await m.w.chain.total(), m.w.chain.injected - m.w.chain.fees, 'coins are conserved to the nano');
    for (const c of m.clients) {
        const state = await m.w.clientState(c.contract);
        assert.ok(c.refunded >= 0n && state.balance >= 0n);
    }
}

/** Checked whenever nothing is under way: what a client got and may still claim is what it paid in less its charges. */
async function atRest(m: Model): Promise<void> {
    const { w } = m;
    let clients = 0n;
    let uncharged = 0n;
    for (const c of m.clients) {
        const state = await w.clientState(c.contract);
        const due = c.paidIn - state.tokensUsed * m.price + c.forgiven;
        assert.equal(c.refunded + state.balance, due, 'refunds and claim are what was paid in less what was charged');
        clients += state.balance;
        // Uncharged use is in the clients' balances and in the workers' claims: once is enough.
        uncharged += state.state === p.CLOSED ? 0n : (c.signed - state.tokensUsed) * m.price;
    }
    const fee = w.params.workerFeePerToken;
    // What the proxy will be credited with when its workers are paid is claimed already.
    const workers = m.workers.reduce((sum, k) => sum + (k.signed - k.paid / fee) * m.price, 0n);
    const proxy = await w.proxyState();
    const held = await w.chain.balance(w.proxy);
    if (!m.swept) {
        const endowment = m.endowment - w.chain.storageFees.get(w.proxy.toString())!;
        const claims = proxy.stake + proxy.balance + clients - uncharged + workers - m.shortfall;
        assert.ok(
            held >= claims + endowment,
            `the proxy contract holds ${held - endowment}, and ${claims} are claimed`,
        );
    }
}

async function settle(m: Model, loseRequests: boolean): Promise<void> {
    while (m.w.chain.queue.length > 0) {
        const index = m.rnd.pick(m.deliverable());
        if (loseRequests && m.canBounce(index) && m.rnd.chance(0.1)) {
            m.bounce(index);
        } else {
            await m.deliver(index);
        }
        await always(m);
    }
    await atRest(m);
}

/** Everybody leaves, in any order, the proxy being gone; who acts in time gets what is due. */
async function leave(m: Model): Promise<void> {
    const { w, rnd } = m;
    const fee = w.params.workerFeePerToken;
    const everybody: (() => Promise<void>)[] = [
        ...m.clients.map((c) => async () => {
            // An honest client puts the newest charge on chain itself before it takes the rest.
            const honest = rnd.chance(0.6);
            const state = await w.clientState(c.contract);
            if (honest && state.state !== p.CLOSED && c.signed > state.tokensUsed) {
                m.order(OP.clientChargeSigned, c.signed, c.contract, TON);
                await settle(m, false);
            }
            for (let i = 0; i < 2; i++) {
                m.post(c.owner, c.contract, p.plain(OP.clientRequestRefund, E), TON);
                await settle(m, false);
                w.chain.sleep(w.params.clientDelay + 1);
            }
        }),
        ...m.workers.map((k) => async () => {
            m.order(OP.workerPayoutSigned, k.signed, k.contract, TON);
            await settle(m, false);
        }),
    ];
    while (everybody.length > 0) {
        await everybody.splice(rnd.below(everybody.length), 1)[0]();
    }
    let missing = 0n;
    for (const c of m.clients) {
        const state = await w.clientState(c.contract);
        const due = c.paidIn - state.tokensUsed * m.price + c.forgiven;
        missing += due - c.refunded;
        assert.ok(c.refunded <= due, 'no client takes more than it paid in less its charges');
    }
    for (const k of m.workers) {
        missing += k.signed * fee - k.paid;
    }
    if (!m.swept) {
        assert.ok(
            missing <= (m.shortfall > 0n ? m.shortfall : 0n),
            `${missing} nano are missing, ${m.shortfall} were taken uncharged beyond the proxy's own coins`,
        );
    }
}

for (let seed = FIRST; seed < FIRST + (process.env.SEED ? 1 : RUNS); seed++) {
    test(`nothing is lost, and everybody gets what is signed: seed ${seed}`, async () => {
        try {
            const m = await Model.create(new Random(seed), seed % 3 === 0);
            for (let i = 0; i < STEPS; i++) {
                await step(m, i > STEPS / 2);
                while (m.w.chain.queue.length > 0 && m.rnd.chance(0.7)) {
                    const index = m.rnd.pick(m.deliverable());
                    if (m.canBounce(index) && m.rnd.chance(0.1)) {
                        m.bounce(index);
                    } else {
                        await m.deliver(index);
                    }
                    await always(m);
                }
                if (m.w.chain.queue.length === 0) {
                    await atRest(m);
                }
            }
            await settle(m, true);
            await leave(m);
        } catch (e) {
            console.error(`seed ${seed}: run again with SEED=${seed} STEPS=${STEPS}`);
            throw e;
        }
    });
}
