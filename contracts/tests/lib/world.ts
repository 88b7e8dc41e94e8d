// A whole Cocoon network on a test chain: root, proxy, clients and workers with their owners.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createHash } from 'node:crypto';
import { Address, Cell } from '@ton/core';
import { KeyPair, keyPairFromSeed } from '@ton/crypto';
import { Chain, Tx } from './chain.ts';
import * as p from './protocol.ts';

export type Name = 'root' | 'proxy' | 'client' | 'worker' | 'wallet';
export type Codes = Record<Name, Cell>;

const built = (name: Name) =>
    Cell.fromBase64(
        JSON.parse(readFileSync(join(import.meta.dirname, '../../build', `${name}.json`), 'utf8')).bocBase64,
    );

export const OURS: Codes = {
    root: built('root'),
    proxy: built('proxy'),
    client: built('client'),
    worker: built('worker'),
    wallet: built('wallet'),
};

/** A person's address: an account without code, where coins simply arrive. */
export function person(name: string): Address {
    return new Address(0, createHash('sha256').update(name).digest());
}

export function keys(name: string): KeyPair {
    return keyPairFromSeed(createHash('sha256').update(`key of ${name}`).digest());
}

export const PEOPLE = {
    root: person('root owner'),
    proxy: person('proxy owner'),
    client: person('client owner'),
    worker: person('worker owner'),
    excess: person('whoever gets the excess'),
    stranger: person('stranger'),
};

export const DEFAULT_PARAMS: p.Params = {
    structVersion: 3,
    paramsVersion: 1,
    uniqueId: 12345,
    isTest: true,
    pricePerToken: 1_000_000n,
    workerFeePerToken: 600_000n,
    promptMultiplier: 11000,
    cachedMultiplier: 12000,
    completionMultiplier: 13000,
    reasoningMultiplier: 14000,
    proxyDelay: 86400,
    clientDelay: 3600,
    minProxyStake: p.TON,
    minClientStake: 2n * p.TON,
    proxyCode: null,
    workerCode: null,
    clientCode: null,
};

export class World {
    readonly proxyKeys = keys('proxy');
    readonly params: p.Params;
    readonly rootInit: p.Init;
    readonly proxyInit: p.Init;
    readonly root: Address;
    readonly proxy: Address;

    private constructor(
        readonly chain: Chain,
        readonly codes: Codes,
        overrides: Partial<p.Params>,
    ) {
        this.params = {
            ...DEFAULT_PARAMS,
            proxyCode: codes.proxy,
            workerCode: codes.worker,
            clientCode: codes.client,
            ...overrides,
        };
        this.rootInit = { code: codes.root, data: p.rootData(PEOPLE.root, p.paramsCell(this.params)) };
        this.root = p.addressOf(this.rootInit);
        const proxyParams = p.paramsCell({ ...this.params, proxyCode: null });
        this.proxyInit = {
            code: codes.proxy,
            data: p.proxyData(PEOPLE.proxy, this.proxyKeys.publicKey, this.root, proxyParams),
        };
        this.proxy = p.addressOf(this.proxyInit);
    }

    /** Root and proxy deployed, the proxy with `endowment` for its storage. */
    static async create(
        opts: { codes?: Codes; params?: Partial<p.Params>; endowment?: bigint; chain?: Chain } = {},
    ): Promise<World> {
        const w = new World(opts.chain ?? (await Chain.create()), opts.codes ?? OURS, opts.params ?? {});
        await w.chain.deploy(w.rootInit, p.TON, PEOPLE.root);
        const endowment = opts.endowment ?? p.TON;
        if (endowment > 0n) {
            await w.chain.deploy(w.proxyInit, endowment, PEOPLE.proxy);
        }
        return w;
    }

    private get bareParams(): Cell {
        return p.paramsCell({ ...this.params, proxyCode: null, workerCode: null, clientCode: null });
    }

    clientInit(owner = PEOPLE.client): p.Init {
        return {
            code: this.codes.client,
            data: p.clientData(
                owner,
                this.proxy,
                this.proxyKeys.publicKey,
                this.params.minClientStake,
                this.bareParams,
            ),
        };
    }

    workerInit(owner = PEOPLE.worker): p.Init {
        return {
            code: this.codes.worker,
            data: p.workerData(owner, this.proxy, this.proxyKeys.publicKey, this.bareParams),
        };
    }

    /** Deploys a client contract and tops it up with `amount`. */
    async client(amount: bigint, owner = PEOPLE.client): Promise<Address> {
        const to = await this.chain.deploy(this.clientInit(owner), p.TON, owner);
        if (amount > 0n) {
            await this.topUp(to, amount);
        }
        return to;
    }

    async worker(owner = PEOPLE.worker): Promise<Address> {
        return this.chain.deploy(this.workerInit(owner), p.TON / 2n, owner);
    }

    async say(from: Address, to: Address, body: Cell, value = p.TON): Promise<Tx[]> {
        return this.chain.send({ from, to, value, body });
    }

    async topUp(client: Address, amount: bigint, value = amount + (7n * p.TON) / 10n): Promise<Tx[]> {
        return this.say(PEOPLE.stranger, client, p.withCoins(p.OP.clientTopUp, amount, PEOPLE.excess), value);
    }

    /** Puts a signed usage order on chain, as anybody may. */
    async order(op: number, tokens: bigint, contract: Address, queryId = 7n, value = p.TON): Promise<Tx[]> {
        return this.say(PEOPLE.stranger, contract, this.signed(p.usageOrder(op, tokens, contract, queryId)), value);
    }

    signed(order: Cell, by = this.proxyKeys, outer?: { op?: number; queryId?: bigint }): Cell {
        return p.signedBody(order, by, PEOPLE.excess, outer);
    }

    async close(value = p.TON): Promise<Tx[]> {
        return this.say(PEOPLE.proxy, this.proxy, p.plain(p.OP.proxyOwnerClose, PEOPLE.excess), value);
    }

    async proxyState() {
        return p.parseProxy(await this.chain.data(this.proxy));
    }

    async clientState(a: Address) {
        return p.parseClient(await this.chain.data(a));
    }

    async workerState(a: Address) {
        return p.parseWorker(await this.chain.data(a));
    }
}
