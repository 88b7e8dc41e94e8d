//! Contracts by the hash of their code.

use cocoon_ton::code;
use cocoon_ton::{Cell, ContractCode, WalletKind};

/// Code of the published contracts: github.com/1IxI1/cocoon-contracts at revision
/// ae5eebf87b0bb68638c93cb16e9109d0b37be63e, by FunC 0.4.6. Their wallet is [`code::published_wallet`].
const PUBLISHED: [(&str, &str); 4] = [
    ("5b07c6bd0c34735874dfa3548cd9a01c78be1e0fdf20d0c5ebe37776396c5400", "published Cocoon root"),
    ("00b2c57d43c1dbc3e12cfa240494a168c78feca90a9b99ebe796b139ed713890", "published Cocoon proxy"),
    ("974d24538e6003b1a393f8708525b81324cf8a78aee88b4585d51b6f64555147", "published Cocoon client"),
    ("1aaa0512c489a0382b163f7d706e2b4182f1a38fcc46208be5fa22d7faed5aa7", "published Cocoon worker"),
];

/// What contract has this code, where that is known.
pub(crate) fn kind_of(code: &Cell) -> Option<&'static str> {
    let hash = code.repr_hash().0;
    let ours: [(&ContractCode, &'static str); 5] = [
        (code::root(), "Cocoon root"),
        (code::proxy(), "Cocoon proxy"),
        (code::client(), "Cocoon client"),
        (code::worker(), "Cocoon worker"),
        (code::wallet(), "Cocoon node wallet"),
    ];
    let wallets = WalletKind::ALL.map(|kind| {
        let name = match kind {
            WalletKind::Cocoon => "Cocoon node wallet",
            WalletKind::Published => "published Cocoon node wallet",
            WalletKind::V4R2 => "wallet v4r2",
            WalletKind::V5R1 => "wallet v5r1",
        };
        (kind.code(), name)
    });
    let known = ours.into_iter().chain(wallets).find(|(code, _)| code.hash() == hash);
    known.map(|(_, name)| name).or_else(|| {
        let hash = hex::encode(hash);
        PUBLISHED.into_iter().find(|(known, _)| *known == hash).map(|(_, name)| name)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn our_codes_are_known_and_the_published_ones_are_those_of_the_yardstick() {
        assert_eq!(kind_of(code::client().cell()), Some("Cocoon client"));
        assert_eq!(kind_of(code::published_wallet().cell()), Some("published Cocoon node wallet"));
        assert_eq!(kind_of(&Cell::default()), None);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contracts/yardstick.json");
        let yardstick: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for (hash, name) in PUBLISHED {
            let contract = name.rsplit(' ').next().unwrap();
            assert_eq!(yardstick["codeHashes"][contract], hash);
        }
    }
}
