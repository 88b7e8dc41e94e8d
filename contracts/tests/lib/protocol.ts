// The interface of the contracts, written down once more and independently of the Tolk sources, so
// that a slip there fails a test here.
import { Address, Builder, Cell, Dictionary, beginCell, contractAddress } from '@ton/core';
import { KeyPair, sign } from '@ton/crypto';

export const OP = {
    excesses: 0x2565934c,
    payout: 0xc59a7cd3,
    doNotProcess: 0x9a1247c0,
    proxySaveState: 0x53109c0f,
    rootAddWorkerType: 0xe34b1c60,
    rootDelWorkerType: 0x8d94a79a,
    rootAddModelType: 0xc146134d,
    rootDelModelType: 0x92b11c18,
    rootAddProxyType: 0x71860e80,
    rootDelProxyType: 0x3c41d0b2,
    rootRegisterProxy: 0x927c7cb5,
    rootUnregisterProxy: 0x6d49eaf2,
    rootUpdateProxy: 0x9c7924ba,
    rootChangePrice: 0xc52ed8d4,
    rootChangeParams: 0x022fa189,
    rootUpgradeContracts: 0xa2370f61,
    rootUpgrade: 0x11aefd51,
    rootReset: 0x563c1d96,
    rootUpgradeFull: 0x4f7c5789,
    rootChangeOwner: 0xc4a1ae54,
    workerProxyRequest: 0x4d725d2c,
    workerProxyPayoutRequest: 0x08e7d036,
    clientProxyRequest: 0x65448ff4,
    clientProxyTopUp: 0x5cfc6b87,
    clientProxyRegister: 0xa35cb580,
    clientProxyRefundGranted: 0xc68ebc7b,
    clientProxyRefundForce: 0xf4c354c9,
    proxyClientUnpaid: 0x1b6e0f5d,
    proxyIncreaseStake: 0x9713f187,
    proxyPayoutRequest: 0x7610e6eb,
    proxyOwnerClose: 0xb51d5a01,
    proxyCloseSigned: 0x636a4391,
    proxyCloseCompleteSigned: 0xe511abc7,
    workerPayoutSigned: 0xa040ad28,
    workerLastPayoutSigned: 0xf5f26a36,
    workerRegister: 0x26ed7f65,
    clientTopUp: 0xf172e6c2,
    clientChargeSigned: 0xbb63ff93,
    clientGrantRefundSigned: 0xefd711e1,
    clientTopUpReopen: 0x29111ceb,
    clientRegister: 0xc45f9f3b,
    clientChangeSecretHash: 0xa9357034,
    clientChangeSecretHashAndTopUp: 0x8473b408,
    clientRequestRefund: 0xfafa6cc1,
    clientIncreaseStake: 0x6a1f6a60,
    clientWithdraw: 0xda068e78,
    walletSendMessage: 0x9c69f376,
} as const;

export const ERR = {
    oldMessage: 1000,
    lowContractBalance: 1001,
    lowMessageValue: 1003,
    messageFormat: 1004,
    orderMismatch: 1005,
    closed: 1006,
    badSignature: 1007,
    storedDataDamaged: 1008,
    notOwner: 1009,
    messageNotFromOwner: 1010,
    notUnlockedYet: 1011,
    unknownOp: 1012,
    unknownTextOp: 1013,
    senderMismatch: 1014,
    orderForAnother: 1015,
    walletExpired: 1030,
    walletBlocked: 1031,
    walletSeqno: 1032,
    walletSubwallet: 1033,
    walletSignature: 1034,
    walletNotOwner: 1040,
    walletUnknownOp: 1041,
    unknownProxy: 2000,
    cellUnderflow: 9,
} as const;

export const NORMAL = 0;
export const CLOSING = 1;
export const CLOSED = 2;

export const TON = 1_000_000_000n;
export const COMMISSION = TON / 10n;
export const RENT = TON / 100n;
export const ACCOUNT_RESERVE = COMMISSION + RENT;
export const LATE_CLAIMS = 180 * 86400;

export interface Params {
    structVersion: number;
    paramsVersion: number;
    uniqueId: number;
    isTest: boolean;
    pricePerToken: bigint;
    workerFeePerToken: bigint;
    promptMultiplier: number;
    cachedMultiplier: number;
    completionMultiplier: number;
    reasoningMultiplier: number;
    proxyDelay: number;
    clientDelay: number;
    minProxyStake: bigint;
    minClientStake: bigint;
    proxyCode: Cell | null;
    workerCode: Cell | null;
    clientCode: Cell | null;
}

export function paramsCell(p: Params): Cell {
    return beginCell()
        .storeUint(p.structVersion, 8)
        .storeUint(p.paramsVersion, 32)
        .storeUint(p.uniqueId, 32)
        .storeBit(p.isTest)
        .storeCoins(p.pricePerToken)
        .storeCoins(p.workerFeePerToken)
        .storeUint(p.promptMultiplier, 32)
        .storeUint(p.cachedMultiplier, 32)
        .storeUint(p.completionMultiplier, 32)
        .storeUint(p.reasoningMultiplier, 32)
        .storeUint(p.proxyDelay, 32)
        .storeUint(p.clientDelay, 32)
        .storeCoins(p.minProxyStake)
        .storeCoins(p.minClientStake)
        .storeMaybeRef(p.proxyCode)
        .storeMaybeRef(p.workerCode)
        .storeMaybeRef(p.clientCode)
        .endCell();
}

export interface Init {
    code: Cell;
    data: Cell;
}

export function addressOf(init: Init): Address {
    return contractAddress(0, init);
}

export function rootData(owner: Address, params: Cell): Cell {
    const lists = beginCell().storeUint(0, 2).storeUint(0, 32).storeUint(0, 2).endCell();
    return beginCell().storeAddress(owner).storeUint(0, 32).storeRef(lists).storeRef(params).endCell();
}

export function proxyData(owner: Address, publicKey: Buffer, root: Address, params: Cell): Cell {
    return beginCell()
        .storeAddress(owner)
        .storeBuffer(publicKey)
        .storeAddress(root)
        .storeUint(NORMAL, 2)
        .storeCoins(0)
        .storeCoins(0)
        .storeUint(0, 32)
        .storeRef(params)
        .endCell();
}

export function workerData(owner: Address, proxy: Address, publicKey: Buffer, params: Cell): Cell {
    return beginCell()
        .storeAddress(owner)
        .storeAddress(proxy)
        .storeBuffer(publicKey)
        .storeUint(NORMAL, 2)
        .storeUint(0, 64)
        .storeRef(params)
        .endCell();
}

export function clientData(owner: Address, proxy: Address, publicKey: Buffer, stake: bigint, params: Cell): Cell {
    const identity = beginCell().storeAddress(owner).storeAddress(proxy).storeBuffer(publicKey).endCell();
    return beginCell()
        .storeUint(NORMAL, 2)
        .storeCoins(0)
        .storeCoins(stake)
        .storeUint(0, 64)
        .storeUint(0, 32)
        .storeUint(0, 256)
        .storeRef(identity)
        .storeRef(params)
        .endCell();
}

export function walletData(publicKey: Buffer, owner: Address, seqno = 0, subwallet = 0, status = 0): Cell {
    return beginCell()
        .storeUint(seqno, 32)
        .storeUint(subwallet, 32)
        .storeBuffer(publicKey)
        .storeUint(status, 32)
        .storeAddress(owner)
        .endCell();
}

/** The start of every message but texts: operation and query id. */
export function head(op: number, queryId = 7n): Builder {
    return beginCell().storeUint(op, 32).storeUint(queryId, 64);
}

export function text(comment: string): Cell {
    return beginCell().storeUint(0, 32).storeBuffer(Buffer.from(comment)).endCell();
}

/** A message that is an operation and where the excess goes. */
export function plain(op: number, excessTo: Address, queryId = 7n): Cell {
    return head(op, queryId).storeAddress(excessTo).endCell();
}

export function withCoins(op: number, coins: bigint, excessTo: Address): Cell {
    return head(op).storeCoins(coins).storeAddress(excessTo).endCell();
}

/** A charge, a granted refund or a payout: "up to `tokens` in all", made out to one contract. */
export function usageOrder(op: number, tokens: bigint, contract: Address, queryId = 7n): Cell {
    return head(op, queryId).storeUint(tokens, 64).storeAddress(contract).endCell();
}

export function closeOrder(op: number, proxy: Address, queryId = 7n): Cell {
    return head(op, queryId).storeAddress(proxy).endCell();
}

export function signedBody(
    order: Cell,
    keys: KeyPair,
    excessTo: Address,
    outer?: { op?: number; queryId?: bigint },
): Cell {
    const peek = order.beginParse();
    const op = peek.loadUint(32);
    const queryId = peek.loadUintBig(64);
    return head(outer?.op ?? op, outer?.queryId ?? queryId)
        .storeAddress(excessTo)
        .storeBuffer(sign(order.hash(), keys.secretKey))
        .storeRef(order)
        .endCell();
}

export function parseParams(cell: Cell): Params {
    const s = cell.beginParse();
    const p: Params = {
        structVersion: s.loadUint(8),
        paramsVersion: s.loadUint(32),
        uniqueId: s.loadUint(32),
        isTest: s.loadBit(),
        pricePerToken: s.loadCoins(),
        workerFeePerToken: s.loadCoins(),
        promptMultiplier: s.loadUint(32),
        cachedMultiplier: s.loadUint(32),
        completionMultiplier: s.loadUint(32),
        reasoningMultiplier: s.loadUint(32),
        proxyDelay: s.loadUint(32),
        clientDelay: s.loadUint(32),
        minProxyStake: s.loadCoins(),
        minClientStake: s.loadCoins(),
        proxyCode: s.loadMaybeRef(),
        workerCode: s.loadMaybeRef(),
        clientCode: s.loadMaybeRef(),
    };
    s.endParse();
    return p;
}

export function parseRoot(cell: Cell) {
    const s = cell.beginParse();
    const owner = s.loadAddress();
    const version = s.loadUint(32);
    const l = s.loadRef().beginParse();
    const params = parseParams(s.loadRef());
    s.endParse();
    const flags = { serialize: () => undefined, parse: () => true };
    const lists = {
        proxyHashes: l.loadDict(Dictionary.Keys.BigUint(256), flags),
        proxies: l.loadDict(Dictionary.Keys.Uint(32), {
            serialize: () => undefined,
            parse: (v) => {
                const kind = v.loadUint(1);
                return `${kind}:${v.loadBuffer(v.loadUint(7)).toString()}`;
            },
        }),
        lastProxySeqno: l.loadUint(32),
        workerHashes: l.loadDict(Dictionary.Keys.BigUint(256), flags),
        modelHashes: l.loadDict(Dictionary.Keys.BigUint(256), flags),
    };
    l.endParse();
    return { owner, version, params, ...lists };
}

export function parseProxy(cell: Cell) {
    const s = cell.beginParse();
    const data = {
        owner: s.loadAddress(),
        publicKey: s.loadBuffer(32),
        root: s.loadAddress(),
        state: s.loadUint(2),
        balance: s.loadCoins(),
        stake: s.loadCoins(),
        unlockTs: s.loadUint(32),
        params: parseParams(s.loadRef()),
    };
    s.endParse();
    return data;
}

export function parseWorker(cell: Cell) {
    const s = cell.beginParse();
    const data = {
        owner: s.loadAddress(),
        proxy: s.loadAddress(),
        publicKey: s.loadBuffer(32),
        state: s.loadUint(2),
        tokens: s.loadUintBig(64),
        params: parseParams(s.loadRef()),
    };
    s.endParse();
    return data;
}

export function parseClient(cell: Cell) {
    const s = cell.beginParse();
    const data = {
        state: s.loadUint(2),
        balance: s.loadCoins(),
        stake: s.loadCoins(),
        tokensUsed: s.loadUintBig(64),
        unlockTs: s.loadUint(32),
        secretHash: s.loadUintBig(256),
        identity: s.loadRef(),
        params: parseParams(s.loadRef()),
    };
    s.endParse();
    return data;
}
