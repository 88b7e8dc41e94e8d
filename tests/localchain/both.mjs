// The embedded chain and the reference emulator (@ton/sandbox, TON's own C++ executor) side by side: what is done is
// done on the chain first, then the emulator runs the same messages in the chain's order, under the same configuration,
// at the same times, logical ones included, and everything that comes of them is compared.

import assert from 'node:assert/strict';

const FAUCET_NAME = 'cocoon localchain faucet'.padEnd(32, '\0');
// The emulator's time has 31 bits.
const END_OF_TIME = 2 ** 31;

// A small generator of random numbers (mulberry32), so that a seed tells the whole program.
export function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  return { below: (bound) => next() % bound, of: (list) => list[next() % list.length], odds: (n) => next() % n === 0 };
}

// The comparison, with the caller's copies of the packages: values of two copies do not mix.
export function comparison(base, { core, sandbox }) {
  const {
    Address, Cell, Slice, beginCell, loadMessage, loadTransaction, storeMessage, storeShardAccount, storeStateInit,
  } = core;
  const FAUCET = new Address(0, Buffer.from(FAUCET_NAME));
  const hash = (cell) => (cell ? cell.hash().toString('hex') : null);

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

  // The cells of a transaction's messages as they are in it.
  function messageCells(transaction) {
    const messages = transaction.raw.refs[0].beginParse();
    const incoming = messages.loadMaybeRef();
    const values = { serialize: () => assert.fail(), parse: (slice) => slice.loadRef() };
    const outgoing = messages.loadDict(core.Dictionary.Keys.Uint(15), values).values();
    return { incoming, outgoing };
  }

  function told({ info, init, body }, cell) {
    return `${info.type} ${info.dest} ${info.value?.coins} ${info.bounce} ${info.bounced} ${info.forwardFee} `
      + `${info.createdLt} ${hash(body)} ${init ? hash(beginCell().store(storeStateInit(init)).endCell()) : null} `
      + hash(cell);
  }

  // Everything in a transaction but the hash of the one before it and what README.md leaves out. The account's new
  // state is compared by its hash.
  function effects(transaction) {
    const { computePhase: compute, actionPhase: action, bouncePhase: bounce, ...phases } = transaction.description;
    // A contract that never changed is frozen by forgetting it. The emulator then still calls it frozen, in the
    // transaction though not in the account.
    const frozen = phases.storagePhase?.statusChange === 'frozen';
    // Why a frozen account that is not brought back does not run: there it has no state, here a bad one.
    const unthawed = transaction.oldStatus === 'frozen' && !transaction.inMessage.init;
    return {
      ...phases,
      account: transaction.address.toString(16).padStart(64, '0'),
      lt: transaction.lt,
      now: transaction.now,
      status: `${transaction.oldStatus}->${frozen ? 'no contract' : transaction.endStatus}`,
      fees: transaction.totalFees.coins,
      compute: {
        ...compute,
        messageStateUsed: undefined,
        accountActivated: undefined,
        reason: unthawed ? 'frozen' : compute.reason,
      },
      action: action && {
        ...action,
        // An index of zero is left out there, and not here.
        resultArg: action.resultArg ?? 0,
        totalFwdFees: action.success ? action.totalFwdFees : undefined,
        totalActionFees: action.success ? action.totalActionFees : undefined,
      },
      // What a bounce would have cost that there were no coins for: the whole fee there, what was lacking here.
      bounce: bounce?.type === 'no-funds' ? { ...bounce, requiredForwardFees: undefined } : bounce,
      out: transaction.outMessages.values().map((sent, index) => (
        told(sent, messageCells(transaction).outgoing[index])
      )),
    };
  }

  class Both {
    static async start() {
      const both = new Both();
      both.config = Cell.fromBase64((await post('/localchain/config', {})).bytes);
      both.sandbox = await sandbox.Blockchain.create({ config: both.config });
      both.sandbox.verbosity = { ...both.sandbox.verbosity, print: false, vmLogs: 'none' };
      both.sandbox.now = (await post('/localchain/now', {})).now;
      // By account: what the emulator knows.
      both.known = new Map();
      // Messages under way, by the hashes of their cells.
      both.waiting = new Map();
      both.transactions = 0;
      both.refusals = 0;
      both.answers = 0;
      return both;
    }

    get now() {
      return this.sandbox.now;
    }

    // All programs of a run share one chain; the last of a long run wait for less than they would.
    async advance(seconds) {
      if (this.sandbox.now + seconds >= END_OF_TIME) return false;
      this.sandbox.now += seconds;
      await post('/localchain/advance', { seconds });
      assert.equal((await post('/localchain/now', {})).now, this.sandbox.now);
      return true;
    }

    // The emulator would begin each account as one that exists and occupies no storage; on a chain it does not exist.
    async contract(address) {
      if (!this.known.has(address.toRawString())) {
        const nothing = { account: null, lastTransactionHash: 0n, lastTransactionLt: 0n };
        await this.sandbox.setShardAccount(address, nothing);
        this.known.set(address.toRawString(), address);
      }
      return this.sandbox.getContract(address);
    }

    // The account's state as the emulator has it.
    async state(address) {
      return (await this.contract(address)).accountState;
    }

    async data(address) {
      const state = await this.state(address);
      return state?.type === 'active' ? state.state.data.beginParse() : undefined;
    }

    async run(cell, lt) {
      const address = loadMessage(cell.beginParse()).info.dest;
      const contract = await this.contract(address);
      this.sandbox.currentLt = lt;
      const args = { ...contract.createCommonArgs(), message: cell };
      return contract.runCommon(() => this.sandbox.executor.runTransaction(args));
    }

    // Covers balance, code, data, storage in use and debt. Of an account with many cells the emulator also keeps a hash
    // that spares validators some counting; the chain does not.
    async stateHash(address, transaction) {
      const { account, ...shard } = (await this.contract(address)).account;
      if (!account?.storageStats.storageExtra) return transaction.stateUpdate.newHash.toString('hex');
      const bare = { ...account, storageStats: { ...account.storageStats, storageExtra: null } };
      return hash(beginCell().store(storeShardAccount({ ...shard, account: bare })).endCell().refs[0]);
    }

    async grant(address, value) {
      await post('/localchain/grant', { address: address.toRawString(), amount: `${value}` });
      const ours = await this.produce();
      const granted = messageCells(ours[0]).incoming;
      const { info } = loadMessage(granted.beginParse());
      assert.ok(info.src.equals(FAUCET) && info.dest.equals(address) && info.value.coins === value);
      this.waiting.set(hash(granted), granted);
      return this.compare(ours);
    }

    // Gives the transactions that came of the message, or the exit code with which both refused it.
    async send(sent) {
      const cell = beginCell().store(storeMessage(sent)).endCell();
      let refusal = null;
      await post('/api/v2/sendBoc', { boc: cell.toBoc().toString('base64') }).catch((error) => { refusal = error; });
      if (refusal !== null) {
        const [, ourCode] = /exit code (-?\d+)/.exec(refusal.message) ?? [];
        let theirs;
        await this.run(cell, this.sandbox.currentLt).catch((error) => { theirs = error; });
        assert.ok(theirs, `refused here only: ${refusal}`);
        // Of a contract that did not run the emulator says zero, or nothing.
        assert.equal(`${ourCode}`, `${theirs.exitCode || undefined}`, `${refusal} / ${theirs}`);
        assert.deepEqual(await this.produce(), []);
        this.refusals += 1;
        return { refused: ourCode === undefined ? null : Number(ourCode), transactions: [] };
      }
      this.waiting.set(hash(cell), cell);
      return { refused: undefined, transactions: await this.compare(await this.produce()) };
    }

    // The transactions of everything that waits, over as many blocks as it takes, in the order of their logical times.
    async produce() {
      const made = [];
      const { blocks } = await post('/localchain/settle', {});
      for (const seqno of blocks) {
        const block = [];
        for (const workchain of [-1, 0]) {
          const params = { workchain, seqno, count: 10_000 };
          const { transactions } = await post('/api/v2/getBlockTransactions', params);
          block.push(...await Promise.all(transactions.map(async ({ account, lt, hash: name }) => {
            const [found] = await post('/api/v2/getTransactions', { address: account, lt, hash: name, limit: 1 });
            return loadTransaction(Cell.fromBase64(found.data).beginParse());
          })));
        }
        made.push(...block.sort((one, other) => (one.lt < other.lt ? -1 : Number(one.lt > other.lt))));
      }
      return made;
    }

    // Has the emulator do what the chain did, message by message.
    async compare(ours) {
      const touched = new Map();
      for (const one of ours) {
        const { incoming } = messageCells(one);
        assert.ok(this.waiting.delete(hash(incoming)), 'the chain delivered a message that is not under way');
        const other = await this.run(incoming, one.lt);
        assert.deepEqual(effects(one), effects(other));
        assert.equal(one.stateUpdate.newHash.toString('hex'), await this.stateHash(one.inMessage.info.dest, other));
        this.transactions += 1;
        for (const cell of messageCells(other).outgoing) {
          if (loadMessage(cell.beginParse()).info.type === 'internal') this.waiting.set(hash(cell), cell);
        }
        const { dest } = one.inMessage.info;
        touched.set(dest.toRawString(), dest);
      }
      assert.equal(this.waiting.size, 0, 'a message was not delivered');
      for (const address of touched.values()) await this.compareAccount(address);
      return ours;
    }

    // What the chain's API says of an account.
    async compareAccount(address) {
      const account = await post('/api/v2/getAddressInformation', { address: address.toRawString() });
      const cell = (base64) => (base64 ? hash(Cell.fromBase64(base64)) : null);
      const contract = await this.contract(address);
      const state = contract.accountState;
      const theirs = {
        balance: `${contract.balance}`,
        state: { uninit: 'uninitialized' }[state?.type ?? 'uninit'] ?? state.type,
        code: hash(state?.state?.code),
        data: hash(state?.state?.data),
      };
      const { balance, state: status } = account;
      const ours = { balance, state: status, code: cell(account.code), data: cell(account.data) };
      assert.deepEqual(ours, theirs, address.toRawString());
    }

    async compareAllAccounts() {
      for (const address of this.known.values()) await this.compareAccount(address);
    }

    // A get-method gives the same values for the same gas.
    async getMethod(address, method, values = []) {
      const stack = values.map((value) => ['num', `${value}`]);
      const answer = await post('/api/v2/runGetMethod', { address: address.toRawString(), method, stack });
      let theirs;
      try {
        const args = values.map((value) => ({ type: 'int', value }));
        const { stack: items, exitCode, gasUsed } = await this.sandbox.runGetMethod(address, method, args);
        theirs = { exit: exitCode, gas: Number(gasUsed), items: items.map(plain) };
      } catch (error) {
        // Without a contract the emulator runs nothing.
        if (error.exitCode === undefined) return;
        theirs = { exit: error.exitCode, gas: Number(error.gasUsed) };
      }
      const items = answer.exit_code === 0 ? { items: answer.stack.map(ourPlain) } : {};
      assert.deepEqual({ exit: answer.exit_code, gas: answer.gas_used, ...items }, theirs, method);
      this.answers += 1;
    }
  }

  const plain = (item) => {
    if (item.type === 'int') return `${item.value}`;
    if (item.type === 'null') return 'null';
    return hash(item.cell instanceof Slice ? item.cell.asCell() : item.cell);
  };
  const ourPlain = ([kind, value]) => {
    if (kind === 'num') return `${value.startsWith('-') ? -BigInt(value.slice(1)) : BigInt(value)}`;
    return kind === 'null' || value === null ? 'null' : hash(Cell.fromBase64(value.bytes ?? value));
  };

  return { Both, post, hash };
}
