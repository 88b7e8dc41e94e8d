//! Code of the wallets that are not ours: what @ton/ton 16.3.0 deploys, which is what the authors of these contracts
//! published (v4r2: github.com/ton-blockchain/wallet-contract; v5r1: github.com/ton-blockchain/wallet-contract-v5).

use std::sync::OnceLock;

use crate::cell::ContractCode;

pub(super) fn v4r2() -> &'static ContractCode {
    static CODE: OnceLock<ContractCode> = OnceLock::new();
    CODE.get_or_init(|| from_hex(include_str!("v4r2.boc.hex")))
}

pub(super) fn v5r1() -> &'static ContractCode {
    static CODE: OnceLock<ContractCode> = OnceLock::new();
    CODE.get_or_init(|| from_hex(include_str!("v5r1.boc.hex")))
}

fn from_hex(text: &str) -> ContractCode {
    const COMPILED_IN: &str = "the code is part of the program, and tests decode it";
    ContractCode::from_boc(&hex::decode(text.trim_ascii()).expect(COMPILED_IN)).expect(COMPILED_IN)
}
