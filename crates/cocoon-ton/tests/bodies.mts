// Makes bodies.json: message bodies as the contracts' own tests build them, and as the contracts themselves send and
// return them on TON's emulator.
//
//   cd contracts && npm ci
//   node --import tsx ../crates/cocoon-ton/tests/bodies.mts > ../crates/cocoon-ton/tests/bodies.json
//
// Run once with the versions of contracts/package-lock.json. Nothing in it is random: it gives the same file each time.
import { createRequire } from 'node:module';
import * as p from '../../../contracts/tests/lib/protocol.ts';
import { PEOPLE, World, keys } from '../../../contracts/tests/lib/world.ts';

const { beginCell } = createRequire(new URL('../../../contracts/', import.meta.url))('@ton/core');
const { OP, TON } = p;
const E = PEOPLE.excess;
const w = await World.create();
const client = await w.client(0n);
const worker = await w.worker();
const clientB = await w.client(0n, PEOPLE.stranger);

const text = (t: string) => beginCell().storeUint(0, 32).storeStringTail(t).endCell();
const entry = '10.0.0.2:1 10.0.0.2:2';
const hash = (op: number) => p.head(op).storeUint(11, 256).endCell();
const [code1, code2, code3] = [1, 2, 3].map((n) => beginCell().storeUint(n, 8).endCell());

const built = {
    empty: beginCell().endCell(),
    withdraw_command: p.text('w'),
    long_text: text('0123456789'.repeat(40)),
    excesses: p.head(OP.excesses).endCell(),
    payout: p.head(OP.payout).endCell(),
    do_not_process: p.head(OP.doNotProcess).endCell(),
    save_state: p.head(OP.doNotProcess).storeUint(OP.proxySaveState, 32).storeUint(5, 32).storeUint(11, 256).endCell(),
    increase_proxy_stake: p.withCoins(OP.proxyIncreaseStake, 3n * TON, E),
    proxy_payout: p.plain(OP.proxyPayoutRequest, E),
    owner_close_proxy: p.plain(OP.proxyOwnerClose, E),
    proxy_close_signed: p.signedBody(p.closeOrder(OP.proxyCloseSigned, w.proxy), w.proxyKeys, E),
    proxy_close_complete_signed: p.signedBody(p.closeOrder(OP.proxyCloseCompleteSigned, w.proxy), w.proxyKeys, E),
    worker_payout_signed: p.signedBody(p.usageOrder(OP.workerPayoutSigned, 100n, worker), w.proxyKeys, E),
    worker_last_payout_signed: p.signedBody(p.usageOrder(OP.workerLastPayoutSigned, 100n, worker), w.proxyKeys, E),
    client_charge_signed: p.signedBody(p.usageOrder(OP.clientChargeSigned, 100n, client), w.proxyKeys, E),
    client_grant_refund_signed: p.signedBody(p.usageOrder(OP.clientGrantRefundSigned, 100n, client), w.proxyKeys, E),
    register_worker: p.plain(OP.workerRegister, E),
    top_up_client: p.withCoins(OP.clientTopUp, 5n * TON, E),
    register_client: p.head(OP.clientRegister).storeUint(99, 64).storeAddress(E).endCell(),
    change_secret_hash: p.head(OP.clientChangeSecretHash).storeUint(11, 256).storeAddress(E).endCell(),
    change_secret_hash_and_top_up: p
        .head(OP.clientChangeSecretHashAndTopUp)
        .storeCoins(5n * TON)
        .storeUint(11, 256)
        .storeAddress(E)
        .endCell(),
    request_refund: p.plain(OP.clientRequestRefund, E),
    increase_client_stake: p.withCoins(OP.clientIncreaseStake, 3n * TON, E),
    withdraw_client: p.plain(OP.clientWithdraw, E),
    wallet_send: p.head(OP.walletSendMessage).storeUint(3, 8).storeRef(code1).endCell(),
    root_add_worker_type: hash(OP.rootAddWorkerType),
    root_del_worker_type: hash(OP.rootDelWorkerType),
    root_add_model_type: hash(OP.rootAddModelType),
    root_del_model_type: hash(OP.rootDelModelType),
    root_add_proxy_type: hash(OP.rootAddProxyType),
    root_del_proxy_type: hash(OP.rootDelProxyType),
    root_register_proxy: p
        .head(OP.rootRegisterProxy)
        .storeUint(0, 1)
        .storeUint(entry.length, 7)
        .storeBuffer(Buffer.from(entry))
        .endCell(),
    root_unregister_proxy: p.head(OP.rootUnregisterProxy).storeUint(2, 32).endCell(),
    root_update_proxy: p
        .head(OP.rootUpdateProxy)
        .storeUint(2, 32)
        .storeUint(0, 1)
        .storeUint(entry.length, 7)
        .storeBuffer(Buffer.from(entry))
        .endCell(),
    root_change_price: p.head(OP.rootChangePrice).storeCoins(50).storeCoins(40).endCell(),
    root_change_params: p
        .head(OP.rootChangeParams)
        .storeCoins(51)
        .storeCoins(41)
        .storeUint(600, 32)
        .storeUint(300, 32)
        .storeCoins(5)
        .storeCoins(6)
        .endCell(),
    root_upgrade_contracts: p.head(OP.rootUpgradeContracts).storeRef(code1).storeRef(code2).storeRef(code3).endCell(),
    root_upgrade: p.head(OP.rootUpgrade).storeRef(code1).endCell(),
    root_reset: p.head(OP.rootReset).endCell(),
    root_upgrade_full: p.head(OP.rootUpgradeFull).storeRef(code1).storeRef(code2).endCell(),
    root_change_owner: p.head(OP.rootChangeOwner).storeAddress(E).endCell(),
};

// What follows from messages to the contracts, each transaction's incoming body in order.
const sent: { of: string; bodies: string[] }[] = [];
const boc = (cell: any) => cell.toBoc({ idx: false, crc32: false }).toString('hex');
async function say(of: string, from: any, to: any, body: any, value = TON) {
    const txs = await w.say(from, to, body, value);
    sent.push({ of, bodies: txs.slice(1).map((t: any) => boc(t.message.body)) });
}
await say('top_up_client', PEOPLE.client, client, built.top_up_client, 6n * TON);
await say('register_client', PEOPLE.client, client, built.register_client);
await say('change_secret_hash', PEOPLE.client, client, built.change_secret_hash);
await say('client_charge_signed', PEOPLE.client, client, built.client_charge_signed);
await say('register_worker', PEOPLE.worker, worker, built.register_worker);
await say('worker_payout_signed', PEOPLE.worker, worker, built.worker_payout_signed);
await say('withdraw_client', PEOPLE.client, client, built.withdraw_client);
await say('request_refund', PEOPLE.stranger, clientB, built.request_refund);
await say('refused', PEOPLE.stranger, worker, built.register_worker);
w.chain.sleep(2 * 86400);
await say('force_refund', PEOPLE.stranger, clientB, built.request_refund);
await say('proxy_close_signed', PEOPLE.stranger, w.proxy, built.proxy_close_signed);
w.chain.sleep(2 * 86400);
await say('proxy_close_complete_signed', PEOPLE.stranger, w.proxy, built.proxy_close_complete_signed);
await say('top_up_after_close', PEOPLE.client, client, built.top_up_client, 6n * TON);
await say('client_grant_refund_signed', PEOPLE.client, client, built.client_grant_refund_signed);

console.log(
    JSON.stringify(
        {
            proxy_seed: Buffer.from(keys('proxy').secretKey.subarray(0, 32)).toString('hex'),
            addresses: Object.fromEntries(
                Object.entries({
                    excess: E,
                    client_owner: PEOPLE.client,
                    stranger: PEOPLE.stranger,
                    worker_owner: PEOPLE.worker,
                    root_owner: PEOPLE.root,
                    proxy_owner: PEOPLE.proxy,
                    root: w.root,
                    proxy: w.proxy,
                    client,
                    worker,
                }).map(([name, a]) => [name, a.toRawString()]),
            ),
            params: boc(p.paramsCell(w.params)),
            root_data: boc(w.rootInit.data),
            built: Object.fromEntries(Object.entries(built).map(([name, cell]) => [name, boc(cell)])),
            sent,
        },
        null,
        1,
    ),
);
