//! Code of the contracts that this program deploys: our own, as built in `contracts/`, and the published node wallet.

use std::sync::OnceLock;

use serde::Deserialize;

use crate::cell::ContractCode;

/// Code of the root contract.
pub fn root() -> &'static ContractCode {
    static CODE: OnceLock<ContractCode> = OnceLock::new();
    CODE.get_or_init(|| {
        built(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../contracts/build/root.json")))
    })
}

/// Code of the proxy contract.
pub fn proxy() -> &'static ContractCode {
    static CODE: OnceLock<ContractCode> = OnceLock::new();
    CODE.get_or_init(|| {
        built(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../contracts/build/proxy.json")))
    })
}

/// Code of the client contract.
pub fn client() -> &'static ContractCode {
    static CODE: OnceLock<ContractCode> = OnceLock::new();
    CODE.get_or_init(|| {
        built(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../contracts/build/client.json")))
    })
}

/// Code of the worker contract.
pub fn worker() -> &'static ContractCode {
    static CODE: OnceLock<ContractCode> = OnceLock::new();
    CODE.get_or_init(|| {
        built(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../contracts/build/worker.json")))
    })
}

/// Code of our node wallet.
pub fn wallet() -> &'static ContractCode {
    static CODE: OnceLock<ContractCode> = OnceLock::new();
    CODE.get_or_init(|| {
        built(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../contracts/build/wallet.json")))
    })
}

/// Code of the published node wallet, as it runs on the main network: copyright 2025 Telegram FZ-LLC, Apache License
/// 2.0, compiled from github.com/1IxI1/cocoon-contracts with FunC 0.4.6. Needed to take coins out of such wallets.
pub fn published_wallet() -> &'static ContractCode {
    static CODE: OnceLock<ContractCode> = OnceLock::new();
    CODE.get_or_init(|| from_hex(&include_str!("code/published_wallet.hex").replace('\n', "")))
}

/// What we need of a file in `contracts/build`.
#[derive(Deserialize)]
struct Built {
    boc: String,
}

const COMPILED_IN: &str = "the code is part of the program, and a test decodes every one";

fn built(json: &str) -> ContractCode {
    from_hex(&serde_json::from_str::<Built>(json).expect(COMPILED_IN).boc)
}

fn from_hex(boc: &str) -> ContractCode {
    ContractCode::from_boc(&hex::decode(boc).expect(COMPILED_IN)).expect(COMPILED_IN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::contracts::{WALLET_CODE_DEPTH, WALLET_CODE_HASH};

    #[test]
    fn every_code_has_the_hash_that_its_build_names() {
        for (name, code) in [
            ("root", root()),
            ("proxy", proxy()),
            ("client", client()),
            ("worker", worker()),
            ("wallet", wallet()),
        ] {
            let path = format!("{}/../../contracts/build/{name}.json", env!("CARGO_MANIFEST_DIR"));
            let file: serde_json::Value =
                serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            assert_eq!(file["contract"], name);
            assert_eq!(file["hash"], hex::encode(code.hash()), "{name}");
        }
    }

    #[test]
    fn the_published_wallet_has_its_known_hash_and_depth() {
        assert_eq!(published_wallet().hash(), WALLET_CODE_HASH);
        assert_eq!(published_wallet().depth(), WALLET_CODE_DEPTH);
    }
}
