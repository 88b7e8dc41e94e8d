// The unmodified TonClient against the embedded chain: deploys wallets, sends coins, reads transactions, calls
// get-methods. Usage: node client.mjs URL

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mnemonicNew, mnemonicToWalletKey } from '@ton/crypto';
import {
  Address, Cell, SendMode, TonClient, WalletContractV4, WalletContractV5R1, beginCell, comment, contractAddress,
  external, fromNano, internal, storeMessage, toNano,
} from '@ton/ton';

const base = process.argv[2];
const client = new TonClient({ endpoint: `${base}/api/v2/jsonRPC` });

async function post(path, body) {
  const response = await fetch(base + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  return { status: response.status, ...(await response.json()) };
}

async function get(path) {
  const response = await fetch(base + path);
  return { status: response.status, ...(await response.json()) };
}

async function grant(address, ton) {
  const answer = await post('/localchain/grant', { address: address.toString(), amount: toNano(ton).toString() });
  assert.equal(answer.ok, true, JSON.stringify(answer));
}

const checks = {
  async 'the masterchain has a newest block, and blocks have headers and transactions'() {
    await grant(new Address(0, Buffer.alloc(32, 1)), '1');
    const info = await client.getMasterchainInfo();
    assert.equal(info.workchain, -1);
    assert.ok(info.latestSeqno > 0);
    const [shard] = await client.getWorkchainShards(info.latestSeqno);
    assert.equal(shard.workchain, 0);
    const [made] = await client.getShardTransactions(0, shard.seqno, shard.shard);
    assert.ok(made.account.equals(new Address(0, Buffer.alloc(32, 1))));
    const header = await get(`/api/v2/getBlockHeader?workchain=-1&shard=${shard.shard}&seqno=${shard.seqno}`);
    assert.equal(header.result.id.seqno, shard.seqno);
    assert.equal(header.result.prev_blocks[0].seqno, shard.seqno - 1);
    assert.ok(BigInt(made.lt) > BigInt(header.result.start_lt));
  },

  async 'a v4 wallet is deployed by its first transfer'() {
    const { publicKey, secretKey } = await mnemonicToWalletKey(await mnemonicNew());
    await useWallet(WalletContractV4.create({ workchain: 0, publicKey }), secretKey, 'wallet v4 r2');
  },

  async 'a v5r1 wallet is deployed by its first transfer'() {
    const { publicKey, secretKey } = await mnemonicToWalletKey(await mnemonicNew());
    const wallet = WalletContractV5R1.create({ publicKey, walletId: { networkGlobalId: -3 } });
    await useWallet(wallet, secretKey, 'wallet v5 r1');
  },

  async 'get-methods take and answer every kind of value'() {
    const compiled = JSON.parse(readFileSync(new URL('contracts/probe.json', import.meta.url)));
    const init = {
      code: Cell.fromHex(compiled.code),
      data: beginCell().storeUint(0, 32).storeUint(0, 64).storeUint(0, 32).storeUint(7, 32).endCell(),
    };
    const address = contractAddress(0, init);
    assert.equal((await client.runMethodWithError(address, 'state')).exit_code, -13);
    await grant(address, '1');
    const body = beginCell().storeUint(0, 32).storeMaybeRef(null).endCell();
    await client.sendMessage(external({ to: address, init, body }));
    const state = (await client.runMethod(address, 'state')).stack;
    assert.deepEqual([state.readNumber(), state.readNumber(), state.readNumber(), state.readNumber()], [1, 0, 0, 7]);

    const cell = beginCell().storeUint(42, 8).endCell();
    const { stack, gas_used } = await client.runMethod(address, 'echo', [{ type: 'cell', cell }]);
    assert.ok(gas_used > 0);
    assert.ok(stack.readCell().equals(cell));
    assert.ok(stack.readAddress().equals(address));
    assert.equal(stack.readCellOpt(), null);
    // This client gives the contents of tuples as bare values.
    const [one, [minusTwo, again]] = stack.pop().items;
    assert.deepEqual([one, minusTwo], [1n, -2n]);
    assert.ok(again.equals(cell));
    const [least, most] = [-(1n << 256n), (1n << 256n) - 1n];
    const args = (...values) => values.map((value) => ({ type: 'int', value }));
    assert.equal((await client.runMethod(address, 'sum', args(least, most))).stack.readBigNumber(), -1n);
    assert.equal((await client.runMethod(address, 'sum', args(-5n, 2n))).stack.readBigNumber(), -3n);
    assert.equal((await client.runMethodWithError(address, 'sum', args(most, most))).exit_code, 4);
    await assert.rejects(client.runMethod(address, 'fail', args(77n)), /exit_code: 77/);
    const list = (await client.runMethod(address, 'nested', args(3n))).stack.pop();
    assert.deepEqual(list.items, [1n, [2n, [3n, []]]]);
  },

  async 'what cannot be is refused with a reason'() {
    const refused = async (path, status, words) => {
      const answer = await get(path);
      assert.equal(answer.status, status, JSON.stringify(answer));
      assert.equal(answer.ok, false);
      assert.equal(answer.code, status);
      assert.match(answer.error, words);
    };
    const someone = new Address(0, Buffer.alloc(32, 2)).toString();
    await refused('/api/v2/getAddressInformation', 422, /address: is required/);
    await refused('/api/v2/getAddressInformation?address=nonsense', 422, /address: /);
    await refused(`/api/v2/getAddressInformation?address=5:${'00'.repeat(32)}`, 422, /workchain/i);
    await refused(`/api/v2/getTransactions?address=${someone}&limit=1000`, 422, /limit/);
    await refused(`/api/v2/getTransactions?address=${someone}&lt=5&hash=${'00'.repeat(32)}`, 500, /cannot locate/);
    await refused('/api/v2/getBlockHeader?workchain=-1&seqno=4000000000', 500, /block not found/);
    await refused('/api/v2/getBlockHeader?workchain=7&seqno=1', 422, /workchain/);
    await refused('/api/v2/getBlockHeader?workchain=0&shard=1&seqno=1', 422, /shard/);
    await refused('/api/v2/noSuchMethod', 404, /not known/);

    const send = (boc) => post('/api/v2/sendBoc', { boc });
    const outOf = (cell) => send(cell.toBoc().toString('base64'));
    const cases = [
      [send('***'), 422, /not base64/],
      [send(Buffer.alloc(100).toString('base64')), 422, /not a bag of cells/],
      [send(Buffer.alloc(70_000).toString('base64')), 422, /over the limit/],
      [outOf(new Cell()), 422, /not a message/],
      [post('/api/v2/sendBoc', { boc: 'A'.repeat(300_000) }), 413, /limit/],
      [post('/api/v2/sendBoc', []), 422, /not a JSON object/],
      [post('/api/v2/jsonRPC', { id: 5 }), 422, /method/],
      [post('/api/v2/runGetMethod', { address: someone, method: 'x', stack: [['num', 'x']] }), 422, /stack/],
    ];
    for (const [answer, status, words] of cases) {
      const refusal = await answer;
      assert.equal(refusal.status, status, JSON.stringify(refusal));
      assert.match(refusal.error, words);
    }
    let deep = new Cell();
    for (let depth = 0; depth < 600; depth += 1) deep = beginCell().storeRef(deep).endCell();
    assert.match((await outOf(deep)).error, /deep/);
    const rpc = await post('/api/v2/jsonRPC', { id: 'x', jsonrpc: '2.0', method: 'getAddressBalance', params: {} });
    assert.deepEqual([rpc.status, rpc.id, rpc.jsonrpc], [422, 'x', '2.0']);
  },

  async 'time is moved and storage is paid for'() {
    const before = (await get('/api/v2/getMasterchainInfo')).result.last.seqno;
    const moved = await post('/localchain/advance', { seconds: 86_400 });
    assert.ok(moved.result.seqno > before);
  },
};

async function useWallet(contract, secretKey, kind) {
  const wallet = client.open(contract);
  const other = new Address(0, Buffer.from(contract.address.hash).reverse());
  assert.equal(await client.isContractDeployed(contract.address), false);
  await grant(contract.address, '10');
  assert.equal(fromNano(await wallet.getBalance()), '10');
  assert.equal(await wallet.getSeqno(), 0);

  const sendMode = SendMode.PAY_GAS_SEPARATELY;
  const transfer = (text) => ({ secretKey, sendMode, messages: [
    internal({ to: other, value: toNano('1.5'), bounce: false, body: comment(text) }),
    internal({ to: other, value: toNano('0.5'), bounce: false }),
  ] });
  const body = contract.createTransfer({ seqno: 0, ...transfer('first') });
  const { code: initCode, data: initData } = contract.init;
  const { source_fees: fees } = await client.estimateExternalMessageFee(contract.address, {
    body, initCode, initData, ignoreSignature: true,
  });
  const expected = fees.in_fwd_fee + fees.storage_fee + fees.gas_fee + fees.fwd_fee;
  await wallet.sendTransfer({ seqno: 0, ...transfer('first') });
  assert.equal(toNano('10') - toNano('2') - await wallet.getBalance(), BigInt(expected), 'the estimate is what it cost');
  assert.equal(await client.isContractDeployed(contract.address), true);
  assert.equal(await wallet.getSeqno(), 1);
  await wallet.sendTransfer({ seqno: 1, ...transfer('second') });
  await assert.rejects(wallet.sendTransfer({ seqno: 1, ...transfer('again') }), (error) => {
    assert.equal(error.response.status, 500);
    return /exit code (33|133)/.test(error.response.data.error);
  });
  assert.equal(fromNano(await client.getBalance(other)), '4');

  const all = await client.getTransactions(contract.address, { limit: 10 });
  assert.equal(all.length, 3);
  assert.equal(all[2].inMessage.info.value.coins, toNano('10'));
  assert.equal(all[0].outMessagesCount, 2);
  assert.equal(all[0].outMessages.get(0).body.beginParse().skip(32).loadStringTail(), 'second');
  const paid = all.reduce((sum, made) => sum + made.totalFees.coins, 0n);
  const left = await wallet.getBalance();
  assert.ok(left + toNano('4') + paid <= toNano('10') && left > toNano('5.9'));

  const hash = all[0].hash().toString('base64');
  const older = await client.getTransactions(contract.address, { limit: 10, lt: all[0].lt.toString(), hash });
  assert.deepEqual(older.map((made) => made.lt), [all[1].lt, all[2].lt]);
  const found = await client.getTransaction(contract.address, all[0].lt.toString(), hash);
  assert.equal(found.lt, all[0].lt);
  const state = await client.getContractState(contract.address);
  assert.deepEqual(state.lastTransaction, { lt: all[0].lt.toString(), hash });
  assert.ok(state.code.length > 0 && state.data.length > 0);

  const raw = (await get(`/api/v2/getTransactions?address=${contract.address}&limit=1`)).result;
  assert.equal(raw[0].out_msgs[0].message, 'second');
  assert.equal(raw[0].in_msg.source, '');
  const information = (await get(`/api/v2/getWalletInformation?address=${contract.address}`)).result;
  assert.deepEqual([information.wallet, information.wallet_type, information.seqno], [true, kind, 2]);
  assert.equal((await get(`/api/v2/getAddressState?address=${other}`)).result, 'uninitialized');

  const message = external({ to: contract.address, body: beginCell().storeUint(0, 700).endCell() });
  const boc = beginCell().store(storeMessage(message)).endCell().toBoc().toString('base64');
  const refusal = await post('/api/v2/sendBocReturnHash', { boc });
  assert.match(refusal.error, /External message was not accepted/);
}

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok: ${name}`);
  } catch (error) {
    console.error(`failed: ${name}`);
    console.error(error);
    process.exit(1);
  }
}
