// Makes wallets.json: what the JavaScript libraries of TON derive from mnemonics and sign with them.
//
//   npm ci --prefix tests/localchain
//   node crates/cocoon-ton/tests/wallets.mjs > crates/cocoon-ton/tests/wallets.json
//
// Run once with @ton/ton 16.3.0 and @ton/crypto 3.3.0. Nothing in it is random: it gives the same file each time.
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';

const require = createRequire(new URL('../../../tests/localchain/', import.meta.url));
const { mnemonicToPrivateKey, mnemonicValidate, mnemonicWordList } = require('@ton/crypto');
const { WalletContractV4, WalletContractV5R1 } = require('@ton/ton');
const { Address, beginCell, external, internal, storeMessage } = require('@ton/core');

const VALID_UNTIL = 1_780_000_060;
const to = Address.parseRaw('0:' + '5a'.repeat(32));
const init = { code: beginCell().storeUint(7, 9).endCell(), data: beginCell().storeUint(5, 3).endCell() };
const long = beginCell().storeBuffer(Buffer.alloc(120, 9)).endCell();
const messages = [
    internal({ to, value: 1n, bounce: false }),
    internal({ to, value: 1_500_000_000n, bounce: true, body: beginCell().storeUint(0, 32).storeStringTail('hello').endCell() }),
    internal({ to, value: 20_000_000n, bounce: false, init, body: beginCell().storeUint(9, 64).storeRef(long).endCell() }),
    internal({ to, value: 0n, bounce: true, init, body: long }),
];

function transfer(wallet, secretKey, seqno, count) {
    const body = wallet.createTransfer({
        seqno, secretKey, messages: messages.slice(0, count), sendMode: 3, timeout: VALID_UNTIL,
    });
    const message = external({ to: wallet.address, init: seqno === 0 ? wallet.init : undefined, body });
    const hash = beginCell().store(storeMessage(message)).endCell().hash().toString('hex');
    return { seqno, messages: count, hash };
}

function described(wallet, secretKey) {
    const transfers = [[0, 1], [0, 4], [7, 4], [4_000_000_000, 2], [1, 0]];
    return {
        address: wallet.address.toRawString(),
        transfers: transfers.map(([seqno, count]) => transfer(wallet, secretKey, seqno, count)),
    };
}

// The first valid mnemonic among those that follow from a name.
async function mnemonic(name) {
    for (let attempt = 0; ; attempt++) {
        const bytes = createHash('sha512').update(`${name} ${attempt}`).digest();
        const words = Array.from({ length: 24 }, (_, i) => mnemonicWordList[bytes.readUInt16BE(2 * i) % 2048]);
        if (await mnemonicValidate(words)) return words;
    }
}

const wallets = [];
for (const name of ['first', 'second', 'third', 'fourth']) {
    const words = await mnemonic(`cocoon test mnemonic, the ${name}`);
    const { publicKey, secretKey } = await mnemonicToPrivateKey(words);
    const v5r1 = (networkGlobalId) => WalletContractV5R1.create({ publicKey, walletId: { networkGlobalId } });
    wallets.push({
        mnemonic: words.join(' '),
        public_key: publicKey.toString('hex'),
        v4r2: described(WalletContractV4.create({ workchain: 0, publicKey }), secretKey),
        v5r1_mainnet: described(v5r1(-239), secretKey),
        v5r1_testnet: described(v5r1(-3), secretKey),
    });
}
console.log(JSON.stringify({ valid_until: VALID_UNTIL, wallets }, null, 1));
