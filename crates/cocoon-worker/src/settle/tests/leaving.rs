use std::sync::Arc;

use cocoon_chain::Chain;
use cocoon_ton::wallet::Wallet;

use super::town::{FEE, ONE_TON_OF_TOKENS, OWNER, PROXY_DELAY, TON, Town, key};
use crate::{LeaveConfig, Left, Rest, SettlementConfig, leave, open_store};

async fn go(town: &Town, wallet: &Wallet, exit: bool, from_nanoton: u64) -> (Left, usize) {
    let settlement = SettlementConfig { wallet: wallet.clone(), ..town.config() };
    let config = LeaveConfig { store: town.store(), owner: OWNER, settlement, exit };
    let mut steps = 0;
    let chain = Arc::clone(&town.line) as Arc<dyn Chain>;
    let left = leave(config, chain, from_nanoton, |_| steps += 1).await.unwrap();
    (left, steps)
}

/// Two proxies owe something; one is gone for good, its contract is closed.
async fn indebted(wallet_nanoton: u64) -> Town {
    let town = Town::new(wallet_nanoton).await;
    let (here, gone) = (town.proxy(1, 10 * TON).await, town.proxy(2, 10 * TON).await);
    let (store, channels) = open_store(town.store()).await.unwrap();
    town.show(&channels, &here, ONE_TON_OF_TOKENS / 10).unwrap();
    town.show(&channels, &gone, 2 * ONE_TON_OF_TOKENS).unwrap();
    drop((store, channels));
    town.close(&gone).await;
    town.line.chain.advance(PROXY_DELAY + 1).await.unwrap();
    town.close(&gone).await;
    town
}

const OWED: u64 = (ONE_TON_OF_TOKENS / 10 + 2 * ONE_TON_OF_TOKENS) * FEE;

#[tokio::test]
async fn who_leaves_is_paid_everywhere_and_takes_the_wallets_coins_along_once() {
    let town = indebted(5 * TON).await;
    let wallet = town.wallet.clone();
    let (withdrawn, steps) = go(&town, &wallet, false, 1).await;
    assert_eq!((withdrawn.paid_nanoton, steps), (OWED, 2));
    assert!(withdrawn.proxies.iter().all(|due| due.due_nanoton() == Some(0) && due.error.is_none()));
    let Rest::Kept { nanoton: kept } = withdrawn.rest else { panic!("{withdrawn:?}") };
    let owner_has = town.paid().await;
    assert_eq!(owner_has, OWED);

    let (left, steps) = go(&town, &wallet, true, 1).await;
    assert_eq!((left.paid_nanoton, steps), (0, 0));
    let Rest::Sent { to, nanoton, .. } = left.rest else { panic!("{left:?}") };
    assert!(to == OWNER && nanoton <= kept && kept - nanoton < TON / 100, "{kept} {nanoton}");
    assert!(town.paid().await >= owner_has + nanoton - TON / 1000);
    assert_eq!(town.line.balance(wallet.address()).await, 0);

    let again = town.paid().await;
    let (left, steps) = go(&town, &wallet, true, 1).await;
    assert_eq!((left.paid_nanoton, left.rest, steps), (0, Rest::Kept { nanoton: 0 }, 0));
    assert_eq!(town.paid().await, again);
}

#[tokio::test]
async fn what_is_not_worth_it_stays() {
    let town = indebted(5 * TON).await;
    let wallet = town.wallet.clone();
    let (left, steps) = go(&town, &wallet, false, TON).await;
    assert_eq!((left.paid_nanoton, steps), (2 * ONE_TON_OF_TOKENS * FEE, 1));
    let small = ONE_TON_OF_TOKENS / 10 * FEE;
    assert_eq!(left.proxies.iter().filter_map(|due| due.due_nanoton()).sum::<u64>(), small);
}

#[tokio::test]
async fn a_wallet_that_cannot_pay_the_fees_keeps_its_coins_and_says_what_it_needs() {
    let town = indebted(TON / 5).await;
    let wallet = town.wallet.clone();
    let (left, steps) = go(&town, &wallet, true, 1).await;
    assert_eq!((left.paid_nanoton, steps, left.rest), (0, 0, Rest::Kept { nanoton: TON / 5 }));
    town.line.grant(wallet.address(), left.needs.unwrap().missing_nanoton + TON).await;
    let (left, _) = go(&town, &wallet, true, 1).await;
    assert_eq!((left.paid_nanoton, left.needs), (OWED, None));
    assert!(matches!(left.rest, Rest::Sent { .. }), "{left:?}");
}

#[tokio::test]
async fn of_a_published_wallet_below_its_least_balance_the_owner_must_take_the_coins() {
    let town = Town::new(0).await;
    let wallet = Wallet::published(key().verifying_key().to_bytes(), OWNER);
    town.line.grant(wallet.address(), TON).await;
    let (left, _) = go(&town, &wallet, true, 1).await;
    assert_eq!(left.rest, Rest::OwnerMustTake { owner: OWNER, nanoton: TON });
    town.line.grant(wallet.address(), 2 * TON).await;
    let (left, _) = go(&town, &wallet, true, 1).await;
    assert!(matches!(left.rest, Rest::Sent { to: OWNER, .. }), "{left:?}");
    assert_eq!(town.line.balance(wallet.address()).await, 0);
}
