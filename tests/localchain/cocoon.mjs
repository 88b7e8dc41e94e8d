// The same random programs of a whole network through the embedded chain and through the reference emulator: owners
// with their wallets and root, proxy, client and worker contracts, all of this repository's build, do everything they
// can do, well and badly. What is compared is in both.mjs. The contracts' interface and the packages are those of
// contracts/.
//
// Usage: [SEED=1] [PROGRAMS=10] [STEPS=40] node cocoon.mjs URL     at most ten programs: they share the chain's time

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { comparison, random } from './both.mjs';

const contracts = new URL('../../contracts/', import.meta.url);
const require = createRequire(new URL('package.json', contracts));
(await import(new URL('node_modules/tsx/dist/esm/api/index.mjs', contracts).href)).register();
const core = require('@ton/core');
const sandbox = require('@ton/sandbox');
const { sign } = require('@ton/crypto');
const p = await import(new URL('tests/lib/protocol.ts', contracts).href);
const { DEFAULT_PARAMS, OURS, keys } = await import(new URL('tests/lib/world.ts', contracts).href);

const { Address, Cell, Dictionary, beginCell, external, internal, storeMessageRelaxed } = core;
const { OP, TON } = p;
const seed = Number(process.env.SEED ?? 1);
const programs = Number(process.env.PROGRAMS ?? 10);
const steps = Number(process.env.STEPS ?? 40);
const { Both, post } = comparison(process.argv[2], { core, sandbox });

// From hopeless to ample.
const VALUES = [1n, TON / 1000n, TON / 100n, TON / 10n - 1n, TON / 10n, TON / 10n + 1n, (7n * TON) / 10n];
const DELAYS = [1, 60, 3600, 3601, 7200, 86_400, 864_000];
// The emulator's time has room for some decades from 1973 on. In seconds: one of ten programs waits for so long that
// what has no coins left freezes, and each at most for so long.
const LONG = 1_000_000_000;
const SHARE = 79_000_000;

const tally = { transactions: 0, refusals: 0, answers: 0, bounces: 0, returned: 0, skipped: 0, frozen: 0, deleted: 0 };
const operations = new Map();
const exits = new Map();
const refusals = new Map();
const count = (map, key) => map.set(key, (map.get(key) ?? 0) + 1);

function person(name, owner, subwallet) {
  const pair = keys(name);
  const init = { code: OURS.wallet, data: p.walletData(pair.publicKey, owner, 0, subwallet) };
  return { name, pair, init, address: p.addressOf(init), subwallet };
}

class Network {
  static async create(number) {
    const network = new Network();
    network.chance = random(number);
    network.both = await Both.start();
    network.build(number);
    await network.begin();
    return network;
  }

  build(number) {
    const { chance } = this;
    const price = chance.of([1n, 1_000n, 1_000_000n, 20_000_000n]);
    this.params = {
      ...DEFAULT_PARAMS,
      uniqueId: number,
      pricePerToken: price,
      workerFeePerToken: chance.odds(8) ? price + 1n : (price * BigInt(chance.below(11))) / 10n,
      proxyDelay: chance.of([0, 3600, 86_400, 2 ** 32 - 1]),
      clientDelay: chance.of([0, 60, 3600, 2 ** 32 - 1]),
      minProxyStake: chance.of([0n, TON, 10n * TON]),
      minClientStake: chance.of([0n, TON / 2n, 2n * TON]),
      proxyCode: OURS.proxy,
      workerCode: OURS.worker,
      clientCode: OURS.client,
    };
    const admin = person('admin', new Address(0, Buffer.alloc(32, 7)), number);
    const people = ['root', 'proxy', 'client 0', 'client 1', 'worker 0', 'worker 1', 'stranger'];
    this.people = [admin, ...people.map((name) => person(name, admin.address, number))];
    [this.admin, this.rootOwner, this.proxyOwner, , , , , this.stranger] = this.people;
    // Where the excess goes: an account without a contract, and one in the masterchain.
    const bytes = Buffer.alloc(32, 9);
    bytes.writeUInt32BE(number);
    this.sinks = [new Address(0, bytes), new Address(-1, bytes)];

    const bare = p.paramsCell({ ...this.params, proxyCode: null, workerCode: null, clientCode: null });
    this.root = { init: { code: OURS.root, data: p.rootData(this.rootOwner.address, p.paramsCell(this.params)) } };
    this.root.address = p.addressOf(this.root.init);
    const proxyParams = p.paramsCell({ ...this.params, proxyCode: null });
    const proxy = (owner, name) => {
      const pair = keys(name);
      const data = p.proxyData(owner.address, pair.publicKey, this.root.address, proxyParams);
      const init = { code: OURS.proxy, data };
      return { owner, pair, init, address: p.addressOf(init) };
    };
    // The second one is deployed late or never: what is sent there comes back.
    this.proxies = [proxy(this.proxyOwner, `proxy ${number}`), proxy(this.stranger, `other proxy ${number}`)];
    const at = (owner, of, init) => ({ owner, proxy: of, init, address: p.addressOf(init), signed: 0n, orders: [0n] });
    const client = (owner, of) => at(owner, of, {
      code: OURS.client,
      data: p.clientData(owner.address, of.address, of.pair.publicKey, this.params.minClientStake, bare),
    });
    const worker = (owner, of) => at(owner, of, {
      code: OURS.worker,
      data: p.workerData(owner.address, of.address, of.pair.publicKey, bare),
    });
    const [one, other] = this.proxies;
    const [, , , firstClient, secondClient, firstWorker, secondWorker] = this.people;
    this.clients = [client(firstClient, one), client(secondClient, one), client(firstClient, other)];
    this.workers = [worker(firstWorker, one), worker(secondWorker, one), worker(firstWorker, other)];
    this.contracts = [this.root, ...this.proxies, ...this.clients, ...this.workers];
  }

  async begin() {
    const { chance } = this;
    for (const { address } of this.people) {
      this.note(await this.both.grant(address, 20n * TON + this.coins(80n)));
    }
    const deploy = ({ init, address }) => ({ to: address, init, value: TON / 5n + this.coins(1n), bounce: false });
    await this.say(this.rootOwner, [deploy(this.root)]);
    await this.say(this.proxyOwner, [deploy(this.proxies[0])]);
    for (const contract of [...this.clients, ...this.workers]) {
      if (!chance.odds(10)) await this.say(contract.owner, [deploy(contract)]);
    }
  }

  coins(ton) {
    return BigInt(this.chance.below(1_000_000_007)) * ton;
  }

  value() {
    return this.chance.below(10) < 7 ? TON : this.chance.of(VALUES);
  }

  excess() {
    const { chance, sinks, people } = this;
    if (chance.odds(20)) return new Address(5, Buffer.alloc(32));
    return chance.odds(3) ? chance.of(people).address : chance.of(sinks);
  }

  // The wallet's message from outside, which may be flawed in one way.
  externalOf(who, state, sends, flaw) {
    const seqno = state ? state.loadUint(32) : 0;
    const now = this.both.now;
    let signed = beginCell()
      .storeUint(flaw === 'subwallet' ? who.subwallet + 1 : who.subwallet, 32)
      .storeUint(flaw === 'expired' ? now : now + 60, 32)
      .storeUint({ early: seqno + 1, late: Math.max(seqno - 1, 0) }[flaw] ?? seqno, 32);
    for (const { mode = 1, to, value, body, init, bounce = true, flags = 0n } of sends) {
      const message = internal({ to, value, bounce, init, body });
      message.info.ihrFee = flags;
      signed = signed.storeUint(mode, 8).storeRef(beginCell().store(storeMessageRelaxed(message)).endCell());
    }
    const cell = signed.endCell();
    const pair = flaw === 'key' ? keys('somebody else') : who.pair;
    const body = beginCell().storeBuffer(sign(cell.hash(), pair.secretKey)).storeSlice(cell.beginParse()).endCell();
    const cut = beginCell().storeBits(body.bits.substring(0, 100)).endCell();
    const init = flaw === 'no contract' || (state && !this.chance.odds(10)) ? undefined : who.init;
    return external({ to: who.address, init, body: flaw === 'cut' ? cut : body });
  }

  async say(who, sends, flaw) {
    const state = await this.both.data(who.address);
    const { refused, transactions } = await this.both.send(this.externalOf(who, state, sends, flaw));
    if (refused !== undefined) count(refusals, refused);
    this.note(transactions);
  }

  note(transactions) {
    for (const { description, inMessage, endStatus, oldStatus } of transactions) {
      const { computePhase: compute, bouncePhase } = description;
      if (compute.type === 'vm') {
        count(exits, compute.exitCode);
        const { body: whole, info } = inMessage;
        // A request in a message is counted as well.
        for (const part of whole.refs) if (part.bits.length >= 32) count(operations, part.beginParse().loadUint(32));
        const body = whole.beginParse();
        const op = body.remainingBits >= 32 ? body.loadUint(32) : 0;
        if (info.type === 'internal' && !info.bounced) count(operations, op);
        if (op === OP.doNotProcess && body.remainingBits >= 96) count(operations, body.skip(64).loadUint(32));
        // A request that came back whole.
        tally.returned += info.type === 'internal' && info.bounced && op === 0xfffffffe;
      }
      tally.bounces += bouncePhase !== undefined;
      tally.skipped += compute.type !== 'vm';
      tally.frozen += endStatus === 'frozen' && oldStatus !== 'frozen';
      tally.deleted += endStatus === 'non-existing' && oldStatus !== 'non-existing';
    }
  }

  // A signed order, which may be flawed in one way.
  order(op, fields, contract, pair) {
    const { chance } = this;
    const queryId = BigInt(chance.below(1000));
    const to = chance.odds(15) ? chance.of(this.contracts).address : contract.address;
    const order = fields(p.head(op, queryId)).storeAddress(to).endCell();
    const outer = chance.odds(20) ? { queryId: queryId + 1n } : chance.odds(20) ? { op: OP.clientChargeSigned } : {};
    return p.signedBody(order, chance.odds(15) ? keys('somebody else') : pair, this.excess(), outer);
  }

  usage(op, contract) {
    const { chance } = this;
    if (chance.odds(2)) {
      contract.signed += BigInt(chance.below(3000));
      contract.orders.push(contract.signed);
    }
    const tokens = chance.odds(50) ? 2n ** 64n - 1n : chance.odds(4) ? chance.of(contract.orders) : contract.signed;
    return this.order(op, (head) => head.storeUint(tokens, 64), contract, contract.proxy.pair);
  }

  // Each gives who sends what where; of the sender the network may make somebody else.
  clientActs() {
    const { chance } = this;
    const client = chance.of(this.clients);
    const numbered = (op, bits) => p.head(op).storeUint(chance.below(99), bits).storeAddress(excess).endCell();
    const { owner: by, address: to } = client;
    const value = this.value();
    const amount = this.coins(5n);
    const excess = this.excess();
    return chance.of([
      ...Array(4).fill(() => ({ to, value: amount + value, body: p.withCoins(OP.clientTopUp, amount, excess) })),
      ...Array(3).fill(() => ({ to, value, body: this.usage(OP.clientChargeSigned, client) })),
      () => ({ to, value, body: this.usage(OP.clientGrantRefundSigned, client) }),
      () => ({ by, to, value, body: p.plain(OP.clientWithdraw, excess) }),
      ...Array(2).fill(() => ({ by, to, value, body: p.plain(OP.clientRequestRefund, excess) })),
      () => ({ by, to, value, body: p.withCoins(OP.clientIncreaseStake, this.coins(4n), excess) }),
      () => ({ by, to, value, body: numbered(OP.clientRegister, 64) }),
      () => ({ by, to, value, body: numbered(OP.clientChangeSecretHash, 256) }),
      () => ({
        by,
        to,
        value: amount + value,
        body: p.head(OP.clientChangeSecretHashAndTopUp).storeCoins(amount).storeUint(chance.below(99), 256)
          .storeAddress(excess).endCell(),
      }),
      () => ({ by, to, value, body: p.withCoins(OP.clientTopUpReopen, amount, excess) }),
    ])();
  }

  workerActs() {
    const worker = this.chance.of(this.workers);
    const { owner: by, address: to } = worker;
    const value = this.value();
    return this.chance.of([
      ...Array(5).fill(() => ({ to, value, body: this.usage(OP.workerPayoutSigned, worker) })),
      () => ({ to, value, body: this.usage(OP.workerLastPayoutSigned, worker) }),
      ...Array(2).fill(() => ({ by, to, value, body: p.plain(OP.workerRegister, this.excess()) })),
    ])();
  }

  proxyActs() {
    const { chance } = this;
    const proxy = chance.below(5) ? this.proxies[0] : this.proxies[1];
    const { owner: by, address: to } = proxy;
    const value = this.value();
    const amount = this.coins(2n);
    const excess = this.excess();
    const text = (letter) => ({ by, to, value, body: p.text(letter) });
    const close = (op) => ({ to, value, body: this.order(op, (head) => head, proxy, proxy.pair) });
    return chance.of([
      ...Array(4).fill(() => (
        { by, to, value: amount + value, body: p.withCoins(OP.proxyIncreaseStake, amount, excess) }
      )),
      ...Array(4).fill(() => ({ by, to, value, body: p.plain(OP.proxyPayoutRequest, excess) })),
      ...Array(2).fill(() => text('w')),
      () => text(chance.of(['c', 'x', 'ww'])),
      () => ({ by, to, value, body: p.plain(OP.proxyOwnerClose, excess) }),
      () => close(OP.proxyCloseSigned),
      () => close(OP.proxyCloseCompleteSigned),
      () => ({ to, value: amount }),
    ])();
  }

  async rootActs() {
    const { chance, params } = this;
    const { address: to } = this.root;
    const state = await this.both.state(to);
    const data = state?.type === 'active' ? state.state.data : this.root.init.data;
    const owner = p.parseRoot(data).owner;
    const by = this.people.find(({ address }) => address.equals(owner));
    const hashed = (op) => p.head(op).storeUint(chance.below(4), 256);
    const entry = (head) => {
      const text = '10.0.0.1:8080'.repeat(chance.below(5));
      return head.storeUint(chance.odds(10) ? 1 : 0, 1).storeUint(text.length, 7).storeBuffer(Buffer.from(text));
    };
    const bodies = {
      rootRegisterProxy: entry,
      rootUnregisterProxy: (head) => head.storeUint(chance.below(4), 32),
      rootUpdateProxy: (head) => entry(head.storeUint(chance.below(4), 32)),
      rootChangePrice: (head) => head.storeCoins(this.coins(1n)).storeCoins(1000),
      rootChangeParams: (head) => head.storeCoins(params.pricePerToken).storeCoins(params.workerFeePerToken)
        .storeUint(chance.below(4000), 32).storeUint(60, 32).storeCoins(TON).storeCoins(this.coins(1n)),
      rootUpgradeContracts: (head) => head.storeRef(OURS.proxy).storeRef(chance.of([OURS.worker, Cell.EMPTY]))
        .storeRef(OURS.client),
      rootUpgrade: (head) => head.storeRef(OURS.root),
      rootUpgradeFull: (head) => head.storeRef(chance.of([data, this.root.init.data])).storeRef(OURS.root),
      rootReset: (head) => head,
      rootChangeOwner: (head) => head.storeAddress(chance.of(this.people).address),
    };
    for (const name of ['AddWorker', 'DelWorker', 'AddModel', 'DelModel', 'AddProxy', 'DelProxy']) {
      bodies[`root${name}Type`] = () => hashed(OP[`root${name}Type`]);
    }
    const name = chance.of(Object.keys(bodies));
    const body = chance.odds(12) ? p.text('w') : bodies[name](p.head(OP[name])).endCell();
    return { by, to, value: this.value(), body };
  }

  async walletActs() {
    const { chance } = this;
    const who = chance.of(this.people);
    const { address: to } = who;
    const value = this.value();
    const by = who === this.admin ? this.stranger : this.admin;
    const inner = (await this.act(false));
    const message = internal({ to: inner.to, value: inner.value, bounce: true, init: inner.init, body: inner.body });
    message.info.ihrFee = chance.of([0n, 1n, 3n]);
    const sent = p.head(OP.walletSendMessage).storeUint(chance.of([0, 1, 2, 3, 16, 64, 128, 130, 33, 160]), 8)
      .storeRef(beginCell().store(storeMessageRelaxed(message)).endCell()).endCell();
    // A wallet that gave all away gets something now and then.
    return chance.of([
      ...Array(4).fill(() => ({ by, to, value, body: sent })),
      ...Array(2).fill(() => ({ by, to, value: this.coins(20n) })),
      () => ({ by, to, value, body: p.text(chance.of(['w', 'b', 'u', 'u', 'q'])) }),
    ])();
  }

  // What no contract may fall for, and what is only to be read.
  strangeActs() {
    const { chance } = this;
    const { address: to, init } = chance.of(this.contracts);
    const payout = beginCell().storeUint(OP.workerProxyPayoutRequest, 32).storeCoins(TON).storeCoins(0)
      .storeAddress(this.excess()).endCell();
    const forced = beginCell().storeUint(OP.clientProxyRefundForce, 32).storeCoins(TON).storeAddress(this.excess())
      .endCell();
    const owner = chance.of(this.people).address;
    const saved = p.head(OP.doNotProcess).storeUint(OP.proxySaveState, 32).storeUint(1, 32).storeUint(2, 256).endCell();
    const bodies = [
      p.head(OP.clientProxyRequest).storeAddress(owner).storeRef(payout).storeMaybeRef(forced).endCell(),
      p.head(OP.workerProxyRequest).storeAddress(owner).storeUint(0, 66).storeMaybeRef(payout).endCell(),
      p.withCoins(OP.proxyClientUnpaid, TON, this.excess()),
      beginCell().storeUint(0xfffffffe, 32).storeRef(payout).storeRef(payout).storeUint(0, 41).endCell(),
      beginCell().storeUint(0xffffffff, 32).storeUint(5, 256).endCell(),
      p.head(chance.of(Object.values(OP))).endCell(),
      beginCell().storeUint(chance.below(2 ** 32), chance.of([32, 40, 7 + 32])).endCell(),
      beginCell().storeUint(1, 5).endCell(),
      Cell.EMPTY,
    ];
    return chance.of([
      () => ({ to, value: 1n, body: saved }),
      () => ({ to, value: this.value(), body: saved }),
      () => ({ to, value: this.coins(1n), init, bounce: false }),
      ...Array(3).fill(() => ({ to, value: this.value(), body: chance.of(bodies) })),
    ])();
  }

  async act(all = true) {
    const kind = this.chance.below(20);
    if (kind < 6) return this.clientActs();
    if (kind < 9) return this.workerActs();
    if (kind < 12) return this.proxyActs();
    if (kind < 16) return this.rootActs();
    if (kind < 18 && all) return this.walletActs();
    return this.strangeActs();
  }

  async step(budget) {
    const { chance, both } = this;
    if (chance.odds(8)) {
      const seconds = chance.odds(6) ? Math.min(p.LATE_CLAIMS, budget) : chance.of(DELAYS);
      if (seconds <= budget && await both.advance(seconds)) return seconds;
    }
    const first = await this.act();
    const who = !first.by || chance.odds(12) ? chance.of(this.people) : first.by;
    const sends = [first];
    while (sends.length < 4 && chance.odds(3)) sends.push(await this.act());
    for (const sent of sends) {
      sent.mode = chance.below(5) ? 1 : chance.of([0, 1, 2, 3, 16, 64, 128, 130, 33, 160]);
      sent.flags = chance.of([0n, 0n, 1n, 3n]);
      sent.bounce ??= !chance.odds(6);
    }
    const flaw = chance.odds(6)
      ? chance.of(['subwallet', 'expired', 'early', 'late', 'key', 'cut', 'no contract'])
      : undefined;
    await this.say(who, sends, flaw);
    return 0;
  }

  // Years without coins freeze what there is of wallets and contracts; some come back.
  async sleepLong() {
    const { both, chance } = this;
    for (const who of this.people) await this.say(who, [{ mode: 130, to: this.sinks[0], value: 0n, bounce: false }]);
    if (!await both.advance(LONG)) return;
    for (const { address } of [...this.people, ...this.contracts]) this.note(await both.grant(address, 1n));
    await both.advance(LONG / 4);
    for (const { address } of [...this.people, ...this.contracts]) {
      this.note(await both.grant(address, chance.of([1n, TON, 20n * TON])));
    }
    for (const who of this.people) await this.say(who, [this.strangeActs()], chance.of([undefined, 'no contract']));
  }

  async finish() {
    const { both } = this;
    const methods = [
      [this.root, ['get_cocoon_data', 'get_cur_params', 'last_proxy_seqno']],
      ...this.proxies.map((one) => [one, ['get_cocoon_proxy_data']]),
      ...this.clients.map((one) => [one, ['get_cocoon_client_data']]),
      ...this.workers.map((one) => [one, ['get_cocoon_worker_data', 'no_such_method']]),
      ...this.people.map((one) => [one, ['seqno', 'get_public_key', 'get_owner_address']]),
    ];
    for (const [{ address }, names] of methods) {
      for (const name of names) await both.getMethod(address, name);
    }
    for (const kind of ['proxy', 'worker', 'model']) {
      await both.getMethod(this.root.address, `${kind}_hash_is_valid`, [1n]);
    }
    await both.compareAllAccounts();
    for (const name of ['transactions', 'refusals', 'answers']) tally[name] += both[name];
  }
}

async function program(number) {
  const network = await Network.create(number);
  let left = SHARE;
  for (let step = 0; step < steps; step += 1) {
    try {
      left -= await network.step(left);
    } catch (error) {
      console.error(`seed ${number}, step ${step}: run again with SEED=${number} PROGRAMS=1`);
      throw error;
    }
  }
  if (number % 10 === 1) await network.sleepLong();
  await network.finish();
}

// Which prices and limits the contracts' own tests run under, and which the chain does.
async function compareConfigurations() {
  const dictionary = (cell) => cell.beginParse().loadDictDirect(Dictionary.Keys.Int(32), Dictionary.Values.Cell());
  const ours = dictionary(Cell.fromBase64((await post('/localchain/config', {})).bytes));
  const theirs = dictionary(sandbox.setGlobalVersion(Cell.fromBase64(sandbox.defaultConfig), 12));
  // Storage prices, gas prices and forwarding prices of both workchains.
  for (const id of [18, 20, 21, 24, 25]) assert.ok(ours.get(id).equals(theirs.get(id)), `parameter ${id} differs`);
  assert.equal(ours.get(8).beginParse().skip(8).loadUint(32), theirs.get(8).beginParse().skip(8).loadUint(32));
}

await compareConfigurations();
for (let number = seed; number < seed + programs; number += 1) await program(number);
const unheard = Object.entries(OP).filter(([, op]) => !operations.has(op));
if (programs >= 10 && steps >= 40) {
  assert.ok(unheard.length <= 6, `never heard: ${unheard.map(([name]) => name)}`);
  for (const [name, number] of Object.entries(tally)) assert.ok(number > 0, `no ${name}`);
}
const codes = (map) => (
  [...map].sort(([one], [other]) => one - other).map(([code, times]) => `${code}×${times}`).join(' ')
);
console.log(
  `${programs} programs from seed ${seed}: ${tally.transactions} transactions, ${tally.refusals} refusals and `
  + `${tally.answers} answers of get-methods agree; ${tally.bounces} bounces, ${tally.returned} requests came back, `
  + `${tally.skipped} without a run, ${tally.frozen} freezings, ${tally.deleted} deletions, `
  + `${Object.keys(OP).length - unheard.length} of ${Object.keys(OP).length} operations`,
);
console.log(`exit codes ${codes(exits)}; refused with ${codes(refusals)}`);
