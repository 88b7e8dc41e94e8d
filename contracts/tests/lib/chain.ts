// A chain for tests on the sandbox's emulator: every message waits in a queue between its two
// contracts until it is delivered, one transaction at a time, and every transaction is checked to
// neither make nor lose a nano.
import { Address, Cell, Message, Transaction } from '@ton/core';
import { Blockchain, SmartContractTransaction, defaultConfig, setGlobalVersion } from '@ton/sandbox';
import { Init, addressOf } from './protocol.ts';

/** The contracts may need no more than this. */
const TVM_VERSION = 12;

export interface Send {
    from: Address;
    to: Address;
    value: bigint;
    body?: Cell;
    bounce?: boolean;
    init?: Init;
}

export class Chain {
    /** Everything that was ever brought in from outside, in nano. */
    injected = 0n;
    /** Everything that validators have taken, in nano. */
    fees = 0n;
    /** Storage fees among them, by account. */
    readonly storageFees = new Map<string, bigint>();
    readonly queue: Message[] = [];
    readonly accounts = new Set<string>();

    private constructor(readonly blockchain: Blockchain) {}

    static async create(now = 1_800_000_000): Promise<Chain> {
        const blockchain = await Blockchain.create({
            config: setGlobalVersion(Cell.fromBase64(defaultConfig), TVM_VERSION),
        });
        blockchain.now = now;
        return new Chain(blockchain);
    }

    get now(): number {
        return this.blockchain.now!;
    }

    sleep(seconds: number): void {
        this.blockchain.now = this.now + seconds;
    }

    /** Puts an internal message into the queue, its value coming from outside the tested world. */
    post(m: Send): void {
        this.injected += m.value;
        this.queue.push({
            info: {
                type: 'internal',
                ihrDisabled: true,
                bounce: m.bounce ?? true,
                bounced: false,
                src: m.from,
                dest: m.to,
                value: { coins: m.value },
                ihrFee: 0n,
                forwardFee: 0n,
                createdLt: 0n,
                createdAt: this.now,
            },
            init: m.init,
            body: m.body ?? Cell.EMPTY,
        });
    }

    /** Delivers the message at `index` of the queue. */
    async deliver(index = 0): Promise<Tx> {
        const [message] = this.queue.splice(index, 1);
        return this.run(message);
    }

    /** Posts a message and runs everything that follows from it, in order. */
    async send(m: Send): Promise<Tx[]> {
        this.post(m);
        return this.drain();
    }

    async drain(): Promise<Tx[]> {
        const done: Tx[] = [];
        while (this.queue.length > 0) {
            done.push(await this.deliver());
        }
        return done;
    }

    /** An external message; throws when the contract does not accept it. */
    async external(to: Address, body: Cell, init?: Init): Promise<Tx[]> {
        const first = await this.run({ info: { type: 'external-in', src: null, dest: to, importFee: 0n }, init, body });
        return [first, ...(await this.drain())];
    }

    async deploy(init: Init, value: bigint, from: Address, body?: Cell): Promise<Address> {
        const to = addressOf(init);
        await this.send({ from, to, value, init, body, bounce: false });
        return to;
    }

    async balance(a: Address): Promise<bigint> {
        return (await this.blockchain.getContract(a)).balance;
    }

    async data(a: Address): Promise<Cell> {
        const state = (await this.blockchain.getContract(a)).accountState;
        if (state?.type !== 'active') {
            throw new Error(`${a} is not active`);
        }
        return state.state.data!;
    }

    async status(a: Address): Promise<string> {
        return (await this.blockchain.getContract(a)).accountState?.type ?? 'none';
    }

    /** All coins there are: on accounts and under way. Equals what was injected less the fees. */
    async total(): Promise<bigint> {
        let sum = 0n;
        for (const a of this.accounts) {
            sum += await this.balance(Address.parse(a));
        }
        for (const m of this.queue) {
            sum += inTransit(m);
        }
        return sum;
    }

    private async run(message: Message): Promise<Tx> {
        const to = message.info.dest as Address;
        const contract = await this.blockchain.getContract(to);
        this.accounts.add(to.toString());
        const before = contract.balance;
        (this.blockchain as unknown as { increaseLt(): void }).increaseLt();
        const raw = await contract.receiveMessage(message);
        const tx = new Tx(raw, message);
        const brought = message.info.type === 'internal' ? message.info.value.coins : 0n;
        const inFee = message.info.type === 'internal' ? message.info.forwardFee : 0n;
        const out = tx.out.reduce((sum, m) => sum + inTransit(m), 0n);
        const change = contract.balance - before;
        const lost = brought - out - raw.totalFees.coins - change;
        if (lost !== 0n) {
            throw new Error(`${lost} nano lost in a transaction of ${to}`);
        }
        this.fees += raw.totalFees.coins + inFee;
        const rent = tx.storageFee;
        const key = to.toString();
        this.storageFees.set(key, (this.storageFees.get(key) ?? 0n) + rent);
        this.queue.push(...tx.out);
        return tx;
    }
}

function inTransit(m: Message): bigint {
    return m.info.type === 'internal' ? m.info.value.coins + m.info.forwardFee : 0n;
}

/** One transaction, with what tests ask of it. */
export class Tx {
    constructor(
        readonly raw: SmartContractTransaction & Transaction,
        readonly message: Message,
    ) {}

    get to(): Address {
        return this.message.info.dest as Address;
    }

    get from(): Address {
        return this.message.info.src as Address;
    }

    get value(): bigint {
        return this.message.info.type === 'internal' ? this.message.info.value.coins : 0n;
    }

    get bounced(): boolean {
        return this.message.info.type === 'internal' && this.message.info.bounced;
    }

    /** The operation of the message received; -1 where it has none. */
    get op(): number {
        const s = this.message.body.beginParse();
        return s.remainingBits >= 32 ? s.loadUint(32) : -1;
    }

    get out(): Message[] {
        return this.raw.outMessages.values().filter((m) => m.info.type === 'internal');
    }

    /** Exit code of the compute phase; -1000 where it was skipped. */
    get exit(): number {
        const d = this.raw.description;
        return d.type === 'generic' && d.computePhase.type === 'vm' ? d.computePhase.exitCode : -1000;
    }

    get actionCode(): number {
        const d = this.raw.description;
        return d.type === 'generic' && d.actionPhase ? d.actionPhase.resultCode : 0;
    }

    get aborted(): boolean {
        const d = this.raw.description;
        return d.type === 'generic' && d.aborted;
    }

    get gas(): bigint {
        const d = this.raw.description;
        return d.type === 'generic' && d.computePhase.type === 'vm' ? d.computePhase.gasUsed : 0n;
    }

    get storageFee(): bigint {
        const d = this.raw.description;
        return d.type === 'generic' ? (d.storagePhase?.storageFeesCollected ?? 0n) : 0n;
    }
}

/** What `to` got by messages of this operation, with or without it (bounces aside). */
export function received(txs: Tx[], to: Address, op?: number): bigint {
    return txs
        .filter((t) => t.to.equals(to) && (op === undefined || t.op === op))
        .reduce((sum, t) => sum + t.value, 0n);
}
