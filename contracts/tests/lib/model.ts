// What is owed to whom, kept from the messages alone, beside contracts driven at random.
import assert from 'node:assert/strict';
import { Address, Cell, Message, beginCell } from '@ton/core';
import { Chain, Tx } from './chain.ts';
import * as p from './protocol.ts';
import { OP, TON } from './protocol.ts';
import { PEOPLE, World, person } from './world.ts';
import { Random } from './random.ts';

export interface Client {
    owner: Address;
    contract: Address;
    /** Coins that stay paid in, in nano; top-ups that came back are taken off again. */
    paidIn: bigint;
    /** Refunds paid by the proxy contract. */
    refunded: bigint;
    /** The newest use the proxy has signed, in tokens. */
    signed: bigint;
    /** Every order signed so far, as tokens. */
    orders: bigint[];
    /** Whether the proxy has signed its refund: it signs no use after that. */
    granted: boolean;
    /** Charges that found no balance, in nano. */
    forgiven: bigint;
}

export interface Worker {
    owner: Address;
    contract: Address;
    signed: bigint;
    orders: bigint[];
    paid: bigint;
    last: boolean;
}

export class Model {
    readonly clients: Client[] = [];
    readonly workers: Worker[] = [];
    /**
     * Use that clients took away uncharged, and work signed that no client pays for, less what forced refunds were counted against the proxy's own
     * coins: above zero, so much is missing; below, so much more is there.
     */
    shortfall = 0n;
    /** What the proxy's owner got, and what it put in. */
    ownerPaid = 0n;
    ownerStaked = 0n;
    proxyParts = 0n;
    swept = false;
    /** What the proxy contract held before anybody paid in. */
    endowment = 0n;
    private queryId = 1n;

    private constructor(
        readonly w: World,
        readonly rnd: Random,
        /** Whether the proxy also signs what no client pays for. */
        readonly dishonest: boolean,
    ) {}

    static async create(rnd: Random, dishonest: boolean): Promise<Model> {
        const w = await World.create({ chain: await Chain.create(), endowment: TON });
        const m = new Model(w, rnd, dishonest);
        m.endowment = await w.chain.balance(w.proxy);
        for (let i = 0; i < 3; i++) {
            const c = person(`client ${i}`);
            m.clients.push({
                owner: c,
                contract: await w.client(0n, c),
                paidIn: 0n,
                refunded: 0n,
                signed: 0n,
                orders: [],
                granted: false,
                forgiven: 0n,
            });
            const k = person(`worker ${i}`);
            m.workers.push({ owner: k, contract: await w.worker(k), signed: 0n, orders: [], paid: 0n, last: false });
        }
        return m;
    }

    get price(): bigint {
        return this.w.params.pricePerToken;
    }

    post(from: Address, to: Address, body: Cell, value: bigint): void {
        this.w.chain.post({ from, to, value, body });
    }

    order(op: number, tokens: bigint, contract: Address, value: bigint): void {
        const body = p.signedBody(p.usageOrder(op, tokens, contract, this.queryId++), this.w.proxyKeys, PEOPLE.excess);
        this.post(PEOPLE.stranger, contract, body, value);
    }

    /** One job, signed to client and worker, if the client's coins on the chain cover it. */
    async job(client: Client, worker: Worker, tokens: bigint): Promise<void> {
        const busy = this.w.chain.queue.some(
            (m) =>
                m.info.dest instanceof Address &&
                (m.info.dest.equals(client.contract) || client.contract.equals(m.info.src as Address)),
        );
        const state = await this.w.clientState(client.contract);
        const proxy = await this.w.proxyState();
        if (busy || client.granted || state.state !== p.NORMAL || proxy.state !== p.NORMAL || worker.last) {
            return;
        }
        const cover = state.balance < state.stake ? state.balance : state.stake;
        if ((client.signed + tokens - state.tokensUsed) * this.price > cover) {
            return;
        }
        client.signed += tokens;
        client.orders.push(client.signed);
        worker.signed += tokens;
        worker.orders.push(worker.signed);
    }

    /** A proxy that signs away what no client has paid for: what it signs counts, and is missing at the end. */
    overSign(worker: Worker, tokens: bigint): void {
        if (!worker.last) {
            worker.signed += tokens;
            worker.orders.push(worker.signed);
            this.shortfall += tokens * this.price;
        }
    }

    /** Queue positions that may be delivered next: the first between any two contracts. */
    deliverable(): number[] {
        const seen = new Set<string>();
        return this.w.chain.queue.flatMap((m, i) => {
            const key = `${m.info.src}>${m.info.dest}`;
            if (seen.has(key)) {
                return [];
            }
            seen.add(key);
            return [i];
        });
    }

    async deliver(index: number): Promise<Tx> {
        const message = this.w.chain.queue[index];
        const before = await this.before(message);
        const tx = await this.w.chain.deliver(index);
        await this.observe(tx, before);
        return tx;
    }

    /** Sends a request to the proxy contract back, as if it had failed there. */
    bounce(index: number): void {
        const [m] = this.w.chain.queue.splice(index, 1);
        assert.ok(m.info.type === 'internal');
        const fee = 3_000_000n;
        const info = {
            ...m.info,
            src: m.info.dest,
            dest: m.info.src,
            bounced: true,
            bounce: false,
            value: { coins: m.info.value.coins - fee },
            forwardFee: 0n,
        };
        this.w.chain.fees += fee + m.info.forwardFee;
        const original = beginCell().storeCoins(m.info.value.coins).storeBit(0).storeUint(0, 96).endCell();
        const body = beginCell()
            .storeUint(0xfffffffe, 32)
            .storeRef(m.body)
            .storeRef(original)
            .storeUint(1, 8)
            .storeInt(-14, 32)
            .storeBit(0)
            .endCell();
        this.w.chain.queue.push({ info, body } as Message);
    }

    canBounce(index: number): boolean {
        const info = this.w.chain.queue[index].info;
        return (
            info.type === 'internal' &&
            info.bounce &&
            info.dest.equals(this.w.proxy) &&
            info.value.coins > TON / 20n &&
            this.byClient(info.src) !== undefined
        );
    }

    private byClient(a: Address): Client | Worker | undefined {
        return this.clients.find((c) => c.contract.equals(a)) ?? this.workers.find((k) => k.contract.equals(a));
    }

    private async before(m: Message) {
        const dest = m.info.dest as Address;
        const client = this.clients.find((c) => c.contract.equals(dest));
        return {
            proxy: await this.w.proxyState(),
            held: await this.w.chain.balance(this.w.proxy),
            client: client && (await this.w.clientState(client.contract)),
        };
    }

    private async observe(tx: Tx, before: Awaited<ReturnType<Model['before']>>): Promise<void> {
        const { w } = this;
        const client = this.clients.find((c) => c.contract.equals(tx.to));
        const done = !tx.aborted;
        if (client && before.client) {
            const after = await w.clientState(client.contract);
            if (done && !tx.bounced && (tx.op === OP.clientTopUp || tx.op === OP.clientChangeSecretHashAndTopUp)) {
                client.paidIn += after.balance - before.client.balance;
            }
            if (done && tx.bounced && after.balance < before.client.balance) {
                client.paidIn -= before.client.balance - after.balance;
            }
            if (done && (tx.op === OP.clientChargeSigned || tx.op === OP.clientGrantRefundSigned)) {
                const cost = (after.tokensUsed - before.client.tokensUsed) * this.price;
                const unpaid = cost > before.client.balance ? cost - before.client.balance : 0n;
                client.forgiven += unpaid;
                this.shortfall += unpaid;
            }
            if (done && tx.op === OP.clientRequestRefund && before.client.state === p.CLOSING) {
                const uncharged = (client.signed - after.tokensUsed) * this.price;
                this.shortfall += uncharged;
            }
            assert.ok(after.tokensUsed <= client.signed, 'nobody is charged more than signed');
            assert.ok(after.tokensUsed >= before.client.tokensUsed, 'counters never fall');
        }
        if (tx.to.equals(w.proxy)) {
            await this.observeProxy(tx, before);
        }
    }

    private async observeProxy(tx: Tx, before: Awaited<ReturnType<Model['before']>>): Promise<void> {
        const after = await this.w.proxyState();
        const payouts = (to: Address) =>
            tx.out
                .filter((m) => (m.info.dest as Address).equals(to))
                .map((m) => ({ m, s: m.body.beginParse() }))
                .filter(({ s }) => s.remainingBits >= 32 && s.preloadUint(32) === OP.payout)
                .reduce((sum, { m }) => sum + (m.info.type === 'internal' ? m.info.value.coins : 0n), 0n);
        for (const c of this.clients) {
            c.refunded += payouts(c.owner);
        }
        for (const k of this.workers) {
            k.paid += payouts(k.owner);
            assert.ok(k.paid <= k.signed * this.w.params.workerFeePerToken, 'no worker takes more than signed');
        }
        this.ownerPaid += payouts(PEOPLE.proxy);
        if (tx.op === OP.proxyIncreaseStake && !tx.aborted) {
            this.ownerStaked += after.stake - before.proxy.stake;
        }
        const counted = before.proxy.stake + before.proxy.balance - after.stake - after.balance;
        const request = tx.op === OP.clientProxyRequest ? payloadOf(tx) : undefined;
        if (!tx.aborted && request?.op === OP.clientProxyRefundForce) {
            this.shortfall -= counted;
        }
        if (
            tx.op === OP.workerProxyRequest &&
            tx.value > TON / 50n &&
            this.workers.some((k) => k.contract.equals(tx.from))
        ) {
            const asked = payloadOf(tx)!;
            const enough = asked.coins <= before.held - tx.storageFee;
            assert.equal(!tx.aborted, enough, 'a worker is paid exactly when the contract holds the coins');
            if (!tx.aborted) {
                this.proxyParts += asked.more;
            }
        }
        if (after.state === p.CLOSED && before.proxy.state === p.CLOSED && payouts(PEOPLE.proxy) > 0n) {
            this.swept = true;
        }
    }
}

function payloadOf(tx: Tx): { op: number; coins: bigint; more: bigint } | undefined {
    const s = tx.message.body.beginParse();
    const op = s.loadUint(32);
    s.loadUintBig(64);
    s.loadAddress();
    if (op === OP.clientProxyRequest) {
        s.loadRef();
    } else {
        s.skip(66);
    }
    const cell = s.loadMaybeRef();
    if (!cell) {
        return undefined;
    }
    const payload = cell.beginParse();
    const inner = payload.loadUint(32);
    const coins = inner === OP.clientProxyRegister ? 0n : payload.loadCoins();
    const more = inner === OP.workerProxyPayoutRequest ? payload.loadCoins() : 0n;
    return { op: inner, coins, more };
}
