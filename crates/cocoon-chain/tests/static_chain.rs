//! The chain that never moves, through the trait that all chains have.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use cocoon_chain::{
    AccountStatus, Chain, ChainError, SIMULATED_CONTRACT_BALANCE_NANOTON, StaticChain, TestModeClient,
};
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::{Address, RootConfig};

const ACCOUNT: Address = Address::basechain([7; 32]);

fn config(price: u64, fee: u64) -> RootConfig {
    let mut config = RootConfig::test_mode(Address::basechain([1; 32]));
    config.params.price_per_token_nanoton = price;
    config.params.worker_fee_per_token_nanoton = fee;
    config
}

fn write(path: &Path, config: &RootConfig) {
    std::fs::write(path, config.to_published_json().unwrap()).unwrap();
}

#[tokio::test]
async fn a_client_has_what_published_nodes_simulate() {
    let chain: Arc<dyn Chain> = Arc::new(StaticChain::from_config(config(2, 1)).unwrap());
    let view = chain.client_state(ACCOUNT).await.unwrap();
    let client = view.state.unwrap();
    assert_eq!(client.status, ContractStatus::Open);
    assert_eq!(client.balance_nanoton, 1_000_000_000_000_000);
    assert_eq!(client.stake_nanoton, 1_000_000_000_000_000);
    assert_eq!(client.tokens_used, 0);
    // The hash that the captured session's short authorisation shows.
    let hash: String = client.secret_hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert!(!view.proven, "nothing proves a simulated balance");
    assert!(view.at.unix_time > 0);
}

#[tokio::test]
async fn the_simulated_client_can_be_configured() {
    let poor = TestModeClient { balance_nanoton: 5, ..TestModeClient::default() }.with_secret(b"open sesame");
    let chain = StaticChain::from_config(config(2, 1)).unwrap().with_test_mode_client(poor);
    let client = chain.client_state(ACCOUNT).await.unwrap().state.unwrap();
    assert_eq!(client.balance_nanoton, 5);
    assert_ne!(client.secret_hash, TestModeClient::default().secret_hash);
}

#[tokio::test]
async fn a_worker_contract_looks_as_before_its_first_payment() {
    let chain = StaticChain::from_config(config(2, 1)).unwrap();
    assert_eq!(chain.worker_state(ACCOUNT).await.unwrap().state, None);
    let account = chain.account_state(ACCOUNT).await.unwrap();
    assert_eq!(account.status, AccountStatus::Active);
    assert_eq!(account.balance_nanoton, SIMULATED_CONTRACT_BALANCE_NANOTON);
    assert!(chain.transactions_since(ACCOUNT, 0, 10).await.unwrap().is_empty());
    let watcher = chain.subscribe(ACCOUNT).unwrap();
    assert_eq!(*watcher.borrow(), None);
    assert!(watcher.has_changed().is_ok(), "the subscription lives although nothing happens");
}

#[tokio::test]
async fn what_needs_a_chain_says_so() {
    let chain = StaticChain::from_config(config(2, 1)).unwrap();
    let errors = [
        chain.run_get_method(ACCOUNT, "seqno", Vec::new()).await.unwrap_err(),
        chain.send(vec![1]).await.unwrap_err(),
        chain.reload().await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, ChainError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("not possible here: "), "{error}");
    }
}

#[tokio::test]
async fn a_changed_file_reaches_the_subscribers_on_reload() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.json");
    write(&path, &config(2, 1));
    let chain = StaticChain::from_file(&path).await.unwrap();
    let mut root = chain.subscribe_root();
    assert_eq!(**root.borrow_and_update(), config(2, 1));

    assert!(!chain.reload().await.unwrap(), "nothing changed");
    assert!(!root.has_changed().unwrap());

    write(&path, &config(30, 20));
    assert!(chain.reload().await.unwrap());
    assert!(root.has_changed().unwrap());
    assert_eq!(**root.borrow_and_update(), config(30, 20));
}

#[tokio::test]
async fn a_file_that_became_useless_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.json");
    write(&path, &config(2, 1));
    let chain = StaticChain::from_file(&path).await.unwrap();
    for broken in ["{", "{}", "\u{feff}", &"x".repeat(2 << 20)] {
        std::fs::write(&path, broken).unwrap();
        let error = chain.reload().await.unwrap_err();
        assert!(error.to_string().contains("root.json"), "{error}");
    }
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(chain.reload().await, Err(ChainError::File { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(chain.reload().await, Err(ChainError::File { .. })));
    assert_eq!(*chain.root(), config(2, 1));
}

#[tokio::test]
async fn a_fee_over_the_price_is_refused_everywhere() {
    assert!(StaticChain::from_config(config(2, 2)).is_ok(), "a proxy may work for nothing");
    assert!(matches!(StaticChain::from_config(config(1, 2)), Err(ChainError::FeeOverPrice { .. })));
    let chain = StaticChain::from_config(config(2, 1)).unwrap();
    assert!(matches!(chain.replace(config(1, 2)), Err(ChainError::FeeOverPrice { .. })));
    assert_eq!(*chain.root(), config(2, 1));
    assert!(chain.replace(config(3, 2)).unwrap());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.json");
    write(&path, &config(1, 2));
    let error = StaticChain::from_file(&path).await.unwrap_err();
    assert!(
        error.to_string().contains("root.json") && error.to_string().contains("lower the fee"),
        "{error}"
    );
}

#[tokio::test]
async fn the_published_file_of_the_captured_session_loads() {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/session-v2.keys.json");
    // The configuration is one object inside the file.
    let text = std::fs::read_to_string(keys).unwrap();
    let start = text.find("\"root_config\": ").unwrap() + "\"root_config\": ".len();
    let end = text.find(",\n \"addresses\"").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.json");
    std::fs::write(&path, &text[start..end]).unwrap();
    let chain = StaticChain::from_file(&path).await.unwrap();
    let root = chain.root();
    assert_eq!((root.version, root.params.price_per_token_nanoton), (3, 2));
    assert_eq!(root.registered_proxies.len(), 1);
}
