// The same random programs through the embedded chain and through the reference emulator (@ton/sandbox): standard
// wallets and contracts that do what their messages say send coins, deploy, bounce, run out of gas, destroy
// themselves, and wait for years. After each step both must agree on every account's balance, status, code and data, and on
// every transaction's outcome, gas, fees and messages.
//
// Usage: [SEED=1] [PROGRAMS=12] node differential.mjs URL

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { keyPairFromSeed } from '@ton/crypto';
import { Blockchain } from '@ton/sandbox';
import {
  Address, Cell, WalletContractV4, WalletContractV5R1, beginCell, contractAddress, external, internal, loadTransaction,
  storeMessage, storeMessageRelaxed, storeStateInit,
} from '@ton/ton';

const base = process.argv[2];
const { SEED: seedText = '1', PROGRAMS: programsText = '12' } = process.env;
const STEPS = 25;
const MODES = [0, 1, 2, 3, 16, 17, 64, 65, 66, 80, 128, 130, 160, 32, 33, 5];
const FAUCET = new Address(0, Buffer.from('cocoon localchain faucet'.padEnd(32, '\0')));

// A small generator of random numbers (mulberry32), so that a seed tells the whole program.
function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  return { below: (bound) => next() % bound, of: (list) => list[next() % list.length] };
}

async function post(path, body) {
  const response = await fetch(base + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  const answer = await response.json();
  if (!answer.ok) throw new Error(answer.error);
  return answer.result;
}

const compiled = JSON.parse(readFileSync(new URL('contracts/probe.json', import.meta.url)));

function probe(salt) {
  const data = beginCell().storeUint(0, 32).storeUint(0, 64).storeUint(0, 32).storeUint(salt, 32).endCell();
  const init = { code: Cell.fromHex(compiled.code), data };
  return { kind: 'probe', init, address: contractAddress(0, init), seqno: 0 };
}

function wallet(number, version) {
  const seed = Buffer.alloc(32, 1);
  seed.writeUInt32BE(number);
  const { publicKey, secretKey } = keyPairFromSeed(seed);
  const contract = version === 4
    ? WalletContractV4.create({ workchain: 0, publicKey })
    : WalletContractV5R1.create({ publicKey, walletId: { networkGlobalId: -3 } });
  return { kind: `v${version}`, contract, secretKey, init: contract.init, address: contract.address, seqno: 0 };
}

// Mode, message, and the rest of the list, as the probe reads it.
function list(entries) {
  return entries.reduceRight(
    (rest, { mode, message }) => beginCell()
      .storeUint(mode, 8).storeRef(beginCell().store(storeMessageRelaxed(message)).endCell()).storeMaybeRef(rest)
      .endCell(),
    null,
  );
}

function amount(chance) {
  const kind = chance.below(10);
  if (kind === 0) return 0n;
  if (kind === 1) return BigInt(chance.below(100));
  if (kind < 4) return BigInt(chance.below(20_000_000));
  if (kind < 9) return BigInt(chance.below(2_000_000_000));
  return 1_000_000_000_000n;
}

// A random message for a contract to send; what it carries may make the receiver send more.
function message(chance, actors, depth) {
  const to = chance.of(actors);
  const stranger = chance.below(12) === 0;
  const next = depth > 0 && chance.below(2) === 0
    ? [{ mode: chance.of(MODES), message: message(chance, actors, depth - 1) }]
    : [];
  const op = chance.below(9);
  const number = op === 5 ? chance.below(20_000) : chance.below(4_000_000);
  const body = chance.below(8) === 0
    ? beginCell().storeUint(0, chance.below(64)).endCell()
    : beginCell().storeUint(op, 32).storeUint(number, 32).storeMaybeRef(list(next)).endCell();
  return internal({
    to: stranger ? chance.of(actors.strangers) : to.address,
    value: amount(chance),
    bounce: chance.below(2) === 0,
    init: chance.below(3) === 0 ? (chance.below(5) === 0 ? chance.of(actors).init : to.init) : undefined,
    body,
  });
}

function externalFrom(chance, actor, actors) {
  const messages = Array.from({ length: chance.below(4) }, () => message(chance, actors, 2));
  const seqno = chance.below(15) === 0 ? actor.seqno + 1 : actor.seqno;
  let body;
  if (actor.kind === 'probe') {
    const entries = messages.map((sent) => ({ mode: chance.of(MODES), message: sent }));
    body = beginCell().storeUint(seqno, 32).storeMaybeRef(list(entries)).endCell();
  } else {
    // The newer wallet insists on errors being ignored. An unknown bit in such a mode is one of them here, and not
    // there: see the README.
    const mode = chance.of(MODES);
    const sendMode = actor.kind === 'v5' ? (mode | 2) & ~4 : mode;
    const timeout = 0xffffffff;
    body = actor.contract.createTransfer({ seqno, secretKey: actor.secretKey, timeout, sendMode, messages });
  }
  return external({ to: actor.address, init: chance.below(4) === 0 || actor.seqno === 0 ? actor.init : undefined, body });
}

const hash = (cell) => (cell ? cell.hash().toString('hex') : null);

// What came of a transaction, without logical times and hashes.
function effects(transaction) {
  const { description: told } = transaction;
  const compute = told.computePhase;
  const action = told.actionPhase;
  return {
    account: `${transaction.address.toString(16).padStart(64, '0')}`,
    now: transaction.now,
    status: `${transaction.oldStatus}->${transaction.endStatus}`,
    fees: `${transaction.totalFees.coins}`,
    aborted: told.aborted,
    destroyed: told.destroyed,
    storage: `${told.storagePhase?.storageFeesCollected} ${told.storagePhase?.storageFeesDue ?? 0} `
      + `${told.storagePhase?.statusChange}`,
    compute: compute.type === 'vm'
      ? `exit ${compute.exitCode} gas ${compute.gasUsed} fees ${compute.gasFees} steps ${compute.vmSteps}`
      : `skipped: ${compute.reason}`,
    // A failed phase charges nothing; the emulator records all the same what it would have charged.
    action: action && `${action.success} ${action.valid} ${action.noFunds} ${action.resultCode} `
      + `${action.messagesCreated} ${action.skippedActions} `
      + (action.success ? `${action.totalFwdFees ?? 0} ${action.totalActionFees ?? 0}` : ''),
    bounce: told.bouncePhase && told.bouncePhase.type,
    out: transaction.outMessages.values().map(({ info, init, body }) => (
      `${info.type} ${info.dest} ${info.value?.coins} ${info.bounce} ${info.bounced} ${info.forwardFee} `
      + `${hash(body)} ${init ? hash(beginCell().store(storeStateInit(init)).endCell()) : null}`
    )),
  };
}

// Whether messages of several senders were under way to one account, so that their order decides.
function raced(transactions) {
  const sources = new Map();
  for (const { address, inMessage } of transactions) {
    const known = sources.get(address) ?? new Set();
    sources.set(address, known.add(`${inMessage.info.src}`));
  }
  return [...sources.values()].some((known) => known.size > 1 + known.has('null'));
}

class OtherOrder extends Error {}

const order = (one, other) => (JSON.stringify(one) < JSON.stringify(other) ? -1 : 1);

class Both {
  static async start(actors) {
    const both = new Both();
    both.actors = actors;
    both.watched = [...actors.map(({ address }) => address), ...actors.strangers];
    both.config = Cell.fromBase64((await post('/localchain/config', {})).bytes);
    both.sandbox = await Blockchain.create({ config: both.config });
    both.sandbox.verbosity = { ...both.sandbox.verbosity, print: false, vmLogs: 'none' };
    both.transactions = 0;
    both.answers = 0;
    // The emulator would begin each account as one that exists and occupies no storage; on a chain it does not exist.
    for (const address of both.watched) {
      const nothing = { account: null, lastTransactionHash: 0n, lastTransactionLt: 0n };
      await both.sandbox.setShardAccount(address, nothing);
    }
    both.sandbox.now = (await post('/localchain/now', {})).now;
    return both;
  }

  async advance(seconds) {
    // The emulator's time has 31 bits, and all programs of a run share one chain: a long run uses that up.
    if (this.sandbox.now + seconds >= 2 ** 31) return;
    this.sandbox.now += seconds;
    await post('/localchain/advance', { seconds });
  }

  async grant(address, value) {
    await post('/localchain/grant', { address: address.toRawString(), amount: `${value}` });
    const ours = await this.produce();
    const granted = internal({ to: address, value, bounce: false });
    const info = { ...granted.info, src: FAUCET, forwardFee: 0n };
    const { transactions } = await this.sandbox.sendMessage({ ...granted, info });
    await this.compare(ours, transactions);
  }

  // Whether both took the message.
  async send(sent) {
    const boc = beginCell().store(storeMessage(sent)).endCell().toBoc().toString('base64');
    let refusal = null;
    await post('/api/v2/sendBoc', { boc }).catch((error) => { refusal = error; });
    const ours = await this.produce();
    let theirs = [];
    let theirRefusal = null;
    try {
      ({ transactions: theirs } = await this.sandbox.sendMessage(sent));
    } catch (error) {
      theirRefusal = error;
    }
    assert.equal(refusal !== null, theirRefusal !== null, `${refusal} / ${theirRefusal}`);
    await this.compare(ours, theirs);
    return refusal === null;
  }

  // Get-methods give the same values for the same gas.
  async getMethods(address, chance) {
    const [a, b] = [BigInt(chance.below(2 ** 31)) - 2n ** 30n, BigInt(chance.below(1_000))];
    for (const [method, ...values] of [['state'], ['sum', a, b], ['fail', b], ['burn', b], ['nothing']]) {
      const stack = values.map((value) => ['num', `${value}`]);
      const params = { address: address.toRawString(), method, stack };
      const ours = await post('/api/v2/runGetMethod', params);
      let theirs;
      try {
        const args = values.map((value) => ({ type: 'int', value }));
        const { stack: items, exitCode, gasUsed } = await this.sandbox.runGetMethod(address, method, args);
        theirs = { exit: exitCode, gas: Number(gasUsed), items: items.map(({ value }) => `${value}`) };
      } catch (error) {
        // Without a contract the emulator runs nothing.
        if (error.exitCode === undefined) continue;
        theirs = { exit: error.exitCode, gas: Number(error.gasUsed) };
      }
      const bare = (text) => `${text.startsWith('-') ? -BigInt(text.slice(1)) : BigInt(text)}`;
      const items = ours.exit_code === 0 ? { items: ours.stack.map(([, value]) => bare(value)) } : {};
      assert.deepEqual({ exit: ours.exit_code, gas: ours.gas_used, ...items }, theirs, method);
      this.answers += 1;
    }
  }

  // Everything that waits, over as many blocks as it takes.
  async produce() {
    const made = [];
    const { blocks } = await post('/localchain/settle', {});
    for (const seqno of blocks) {
      for (const workchain of [-1, 0]) {
        const params = { workchain, seqno, count: 10_000 };
        for (const { account, lt, hash: name } of (await post('/api/v2/getBlockTransactions', params)).transactions) {
          const one = { address: account, lt, hash: name, limit: 1 };
          const [found] = await post('/api/v2/getTransactions', one);
          made.push(loadTransaction(Cell.fromBase64(found.data).beginParse()));
        }
      }
    }
    return made;
  }

  async compare(ours, theirs) {
    this.transactions += theirs.length;
    try {
      assert.deepEqual(ours.map(effects).sort(order), theirs.map(effects).sort(order));
    } catch (error) {
      throw raced(ours) && raced(theirs) ? new OtherOrder() : error;
    }
    for (const address of this.watched) {
      const account = await post('/api/v2/getAddressInformation', { address: address.toRawString() });
      const cell = (base64) => (base64 ? hash(Cell.fromBase64(base64)) : null);
      const contract = await this.sandbox.getContract(address);
      const state = contract.accountState;
      const theirState = {
        balance: `${contract.balance}`,
        state: { uninit: 'uninitialized' }[state?.type ?? 'uninit'] ?? state.type,
        code: hash(state?.state?.code),
        data: hash(state?.state?.data),
      };
      const { balance, state: status } = account;
      const ourState = { balance, state: status, code: cell(account.code), data: cell(account.data) };
      assert.deepEqual(ourState, theirState, address.toRawString());
    }
  }
}

async function program(seed) {
  const chance = random(seed);
  const first = seed * 1000;
  const actors = [
    probe(first), probe(first + 1), probe(first + 2), wallet(first + 3, 4), wallet(first + 4, 4), wallet(first + 5, 5),
  ];
  // Accounts without a contract, in both workchains.
  actors.strangers = [6, 7, 8, 9].map((number) => {
    const hash = Buffer.alloc(32, number);
    hash.writeUInt32BE(first + number);
    return new Address(-(number % 2), hash);
  });
  const both = await Both.start(actors);
  for (const actor of actors) await both.grant(actor.address, BigInt(1 + chance.below(50)) * 1_000_000_000n);
  for (let step = 0; step < STEPS; step += 1) {
    try {
      const kind = chance.below(10);
      if (kind === 0) {
        await both.advance(chance.below(40_000_000));
      } else if (kind === 1) {
        await both.grant(chance.of(actors).address, amount(chance) + 1n);
      } else {
        const actor = chance.of(actors);
        const account = await both.sandbox.getContract(actor.address);
        const data = account.accountState?.state?.data;
        const bits = data?.beginParse();
        // The newer wallet has a flag before its number.
        actor.seqno = bits ? (actor.kind === 'v5' ? bits.skip(1) : bits).loadUint(32) : 0;
        await both.send(externalFrom(chance, actor, actors));
      }
    } catch (error) {
      if (error instanceof OtherOrder) {
        // From here on the two are in different states.
        reordered += 1;
        return both.transactions;
      }
      console.error(`seed ${seed}, step ${step}`);
      throw error;
    }
  }
  // Each time takes sixteen years.
  if (frozen < 2) await freezeAndThaw(both, actors[0], actors[1]);
  for (const { address, kind } of actors) if (kind === 'probe') await both.getMethods(address, chance);
  answers += both.answers;
  return both.transactions;
}

// The contract's state as the emulator has it; its number for the next message comes first.
async function stateOf(both, { address }) {
  return (await both.sandbox.getContract(address)).accountState;
}

// An account gives everything away, is frozen for its debt after years, and comes back with the state it had.
async function freezeAndThaw(both, victim, helper) {
  const send = async (actor, mode, sent) => {
    const seqno = (await stateOf(both, actor)).state.data.beginParse().loadUint(32);
    const body = beginCell().storeUint(seqno, 32).storeMaybeRef(list([{ mode, message: sent }])).endCell();
    assert.ok(await both.send(external({ to: actor.address, body })));
  };
  for (const { address } of [victim, helper]) await both.grant(address, 10_000_000_000n);
  for (const actor of [victim, helper]) {
    if ((await stateOf(both, actor))?.type !== 'active') return;
  }
  await send(victim, 128, internal({ to: both.actors.strangers[0], value: 0n, bounce: false }));
  const { code, data } = (await stateOf(both, victim)).state;
  await both.advance(500_000_000);
  await both.grant(victim.address, 1n);
  assert.equal((await stateOf(both, victim)).type, 'frozen');
  const body = beginCell().storeUint(1, 32).storeUint(5, 32).endCell();
  const thaw = { to: victim.address, value: 5_000_000_000n, bounce: false, init: { code, data }, body };
  await both.grant(helper.address, 20_000_000_000n);
  await send(helper, 1, internal(thaw));
  assert.equal((await stateOf(both, victim)).type, 'active');
  frozen += 1;
}

let transactions = 0;
let answers = 0;
let reordered = 0;
let frozen = 0;
const seed = Number(seedText);
for (let each = seed; each < seed + Number(programsText); each += 1) transactions += await program(each);
assert.ok(transactions > 10 * Number(programsText), `only ${transactions} transactions: the programs did little`);
assert.ok(reordered * 10 <= Number(programsText), `${reordered} programs ended at messages in another order`);
assert.ok(frozen > 0 || Number(programsText) < 5, 'no account was frozen');
assert.ok(answers > Number(programsText), `only ${answers} get-methods were compared`);
console.log(`${programsText} programs from seed ${seed}: ${transactions} transactions and ${answers} answers agree, `
  + `${reordered} programs ended at messages in another order`);
