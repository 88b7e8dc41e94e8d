//! Strangers must not use up a proxy's turns at the chain.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cocoon_attest::Policy;
use cocoon_chain::{
    AccountState, Chain, ChainError, ContractView, GetMethodResult, MessageHash, StackItem, StaticChain,
    Transaction, TransactionId,
};
use cocoon_network_tests::{Options, TestClient, proxy_config, root, tls, until, wallet, within};
use cocoon_ton::contracts::ClientState;
use cocoon_ton::{Address, RootConfig};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};

/// A chain that looks clients up when it is told to.
#[derive(Debug)]
struct Slow {
    chain: StaticChain,
    now: AtomicUsize,
    most: AtomicUsize,
    go: Semaphore,
}

impl Chain for Slow {
    fn subscribe_root(&self) -> watch::Receiver<Arc<RootConfig>> {
        self.chain.subscribe_root()
    }

    fn account_state(&self, address: Address) -> BoxFuture<'_, Result<AccountState, ChainError>> {
        self.chain.account_state(address)
    }

    fn transactions_since(
        &self,
        address: Address,
        after_lt: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Transaction>, ChainError>> {
        self.chain.transactions_since(address, after_lt, limit)
    }

    fn run_get_method<'a>(
        &'a self,
        address: Address,
        method: &'a str,
        stack: Vec<StackItem>,
    ) -> BoxFuture<'a, Result<GetMethodResult, ChainError>> {
        self.chain.run_get_method(address, method, stack)
    }

    fn send(&self, boc: Vec<u8>) -> BoxFuture<'_, Result<MessageHash, ChainError>> {
        self.chain.send(boc)
    }

    fn subscribe(&self, address: Address) -> Result<watch::Receiver<Option<TransactionId>>, ChainError> {
        self.chain.subscribe(address)
    }

    fn client_state(&self, address: Address) -> BoxFuture<'_, Result<ContractView<ClientState>, ChainError>> {
        async move {
            self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            self.go.acquire().await.unwrap().forget();
            self.now.fetch_sub(1, Ordering::SeqCst);
            self.chain.client_state(address).await
        }
        .boxed()
    }
}

#[tokio::test]
async fn few_strangers_are_looked_up_at_a_time_and_all_have_their_turn() {
    const STRANGERS: u8 = 6;
    let dir = TempDir::new().unwrap();
    let chain = StaticChain::from_config(root()).unwrap();
    let (now, most, go) = (AtomicUsize::new(0), AtomicUsize::new(0), Semaphore::new(0));
    let slow = Arc::new(Slow { chain, now, most, go });
    let show = || tls("none", Policy::any());
    let config = proxy_config(&dir.path().join("proxy.db"), &Options::default());
    let proxy = cocoon_proxy::start(config, show(), show(), slow.clone()).await.unwrap();
    let mut clients = Vec::new();
    for number in 0..STRANGERS {
        let (root, to) = (slow.chain.subscribe_root().borrow().clone(), proxy.clients_addr());
        clients.push(TestClient::dial(to, &show(), wallet(20 + number), root, true).await.unwrap());
    }
    for left in (0..STRANGERS).rev() {
        let expected = usize::from(left + 1).min(2);
        until("lookups", || slow.now.load(Ordering::SeqCst) >= expected).await;
        slow.go.add_permits(1);
        until("a lookup's end", || slow.go.available_permits() == 0).await;
    }
    for client in &clients {
        assert!(within("a client to be let in", client.let_in()).await);
    }
    assert_eq!(slow.most.load(Ordering::SeqCst), 2);

    // Whom the books know does not stand behind strangers.
    let dial = async |number: u8| {
        let (root, to) = (slow.chain.subscribe_root().borrow().clone(), proxy.clients_addr());
        TestClient::dial(to, &show(), wallet(number), root, true).await.unwrap()
    };
    let _strangers = [dial(40).await, dial(41).await, dial(42).await];
    until("the strangers' lookups", || slow.now.load(Ordering::SeqCst) == 2).await;
    let _known = dial(20).await;
    until("the lookup of one that is known", || slow.now.load(Ordering::SeqCst) == 3).await;
    slow.go.add_permits(10);
    within("the proxy to stop", proxy.shutdown()).await;
}
