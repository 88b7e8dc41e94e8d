//! What is asked of a root contract, as the message that does it.

use anyhow::bail;
use cocoon_ton::message::RootChange;
use cocoon_ton::root::model_hash;
use cocoon_ton::{Address, ProxyEndpoints, RootConfig, RootParams, code};

use crate::cli::{Hash, ImageOf, LimitArgs, Place, PriceArgs};

/// Something to change.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    Prices(PriceArgs),
    Params(PriceArgs, LimitArgs),
    Image { role: ImageOf, hash: Hash, accepted: bool },
    Model { name: String, accepted: bool },
    Register(Place),
    Update(u32, Place),
    Unregister(u32),
    UpgradeContracts,
    UpgradeRoot,
    Owner(Address),
}

/// The change that makes `current` what is wanted.
///
/// # Errors
/// It is so already, or would make the contract useless.
pub(super) fn change(wanted: &Wanted, current: &RootConfig) -> anyhow::Result<RootChange> {
    Ok(match wanted {
        Wanted::Prices(prices) => {
            let (price, worker_fee) = self::prices(prices, &current.params)?;
            RootChange::ChangePrices { price, worker_fee }
        }
        Wanted::Params(prices, limits) => params(prices, limits, &current.params)?,
        Wanted::Image { role, hash, accepted } => image(*role, *hash, *accepted, current)?,
        Wanted::Model { name, accepted } => model(name, *accepted, current)?,
        Wanted::Register(place) => {
            let endpoints = endpoints(*place)?;
            if let Some(proxy) = current.registered_proxies.iter().find(|proxy| proxy.endpoints == endpoints)
            {
                bail!("the proxy at {endpoints} is listed already, under the number {}", proxy.seqno);
            }
            RootChange::RegisterProxy(endpoints)
        }
        Wanted::Update(seqno, place) => {
            let endpoints = endpoints(*place)?;
            if listed(*seqno, current)? == endpoints {
                bail!("the proxy with the number {seqno} is listed at {endpoints} already");
            }
            RootChange::UpdateProxy { seqno: *seqno, endpoints }
        }
        Wanted::Unregister(seqno) => {
            listed(*seqno, current)?;
            RootChange::UnregisterProxy(*seqno)
        }
        Wanted::UpgradeContracts => upgrade_contracts(&current.params)?,
        Wanted::UpgradeRoot => RootChange::UpgradeCode(code::root().clone()),
        Wanted::Owner(owner) => {
            if *owner == current.owner {
                bail!("the root contract belongs to {owner} already");
            }
            RootChange::ChangeOwner(*owner)
        }
    })
}

fn prices(wanted: &PriceArgs, current: &RootParams) -> anyhow::Result<(u64, u64)> {
    let price = wanted.price.map_or(current.price_per_token_nanoton, |price| price.nano());
    let fee = wanted.worker_fee.map_or(current.worker_fee_per_token_nanoton, |fee| fee.nano());
    check_prices(price, fee)?;
    if (price, fee) == (current.price_per_token_nanoton, current.worker_fee_per_token_nanoton) {
        bail!("the prices are so already; give --price or --worker-fee");
    }
    Ok((price, fee))
}

/// Least time for a proxy to charge a client that leaves, in seconds: a minute for its requests, and the chain's own time.
const SHORTEST_CLIENT_DELAY: u32 = 150;

/// The proxy must not pay more than it takes.
///
/// # Errors
/// It would.
pub(super) fn check_prices(price: u64, worker_fee: u64) -> anyhow::Result<()> {
    if worker_fee > price {
        bail!(
            "a worker would get {worker_fee} nanoton of a token that costs {price}: the proxy would pay more than it \
             takes; lower the fee or raise the price"
        );
    }
    Ok(())
}

/// A client must be able to leave before the proxy is gone.
///
/// # Errors
/// It would not be.
pub(super) fn check_delays(proxy: u32, client: u32) -> anyhow::Result<()> {
    if client >= proxy {
        bail!(
            "a client's contract would stay closing for {client} s and a proxy's for {proxy} s: a client's must be \
             shorter, so that it can leave while the proxy's contract still pays"
        );
    }
    if client < SHORTEST_CLIENT_DELAY {
        bail!(
            "a client's contract would stay closing for {client} s only; a proxy needs {SHORTEST_CLIENT_DELAY} s to charge \
             what was used, requests under way included"
        );
    }
    Ok(())
}

/// A client's stake is what it may use before it is charged on chain.
///
/// # Errors
/// It is nothing.
pub(super) fn check_client_stake(nanoton: u64) -> anyhow::Result<()> {
    if nanoton == 0 {
        bail!("without a stake no client may use anything before it is charged; ask for some, such as 1 TON");
    }
    Ok(())
}

fn params(prices: &PriceArgs, limits: &LimitArgs, current: &RootParams) -> anyhow::Result<RootChange> {
    let price = prices.price.map_or(current.price_per_token_nanoton, |price| price.nano());
    let worker_fee = prices.worker_fee.map_or(current.worker_fee_per_token_nanoton, |fee| fee.nano());
    let proxy_delay = limits.proxy_delay.unwrap_or(current.proxy_delay_before_close_seconds);
    let client_delay = limits.client_delay.unwrap_or(current.client_delay_before_close_seconds);
    let min_proxy_stake =
        limits.min_proxy_stake.map_or(current.min_proxy_stake_nanoton, |stake| stake.nano());
    let min_client_stake =
        limits.min_client_stake.map_or(current.min_client_stake_nanoton, |stake| stake.nano());
    check_prices(price, worker_fee)?;
    check_delays(proxy_delay, client_delay)?;
    check_client_stake(min_client_stake)?;
    let same = price == current.price_per_token_nanoton
        && worker_fee == current.worker_fee_per_token_nanoton
        && proxy_delay == current.proxy_delay_before_close_seconds
        && client_delay == current.client_delay_before_close_seconds
        && min_proxy_stake == current.min_proxy_stake_nanoton
        && min_client_stake == current.min_client_stake_nanoton;
    if same {
        bail!("all of it is so already; say what shall be different");
    }
    Ok(RootChange::ChangeParams {
        price,
        worker_fee,
        proxy_delay,
        client_delay,
        min_proxy_stake,
        min_client_stake,
    })
}

fn image(role: ImageOf, hash: Hash, accepted: bool, current: &RootConfig) -> anyhow::Result<RootChange> {
    let list = match role {
        ImageOf::Proxy => &current.proxy_hashes,
        ImageOf::Worker => &current.worker_hashes,
    };
    check_listed("this image", list.contains(&hash), accepted)?;
    Ok(match (role, accepted) {
        (ImageOf::Proxy, true) => RootChange::AddProxyImage(hash),
        (ImageOf::Proxy, false) => RootChange::DelProxyImage(hash),
        (ImageOf::Worker, true) => RootChange::AddWorkerImage(hash),
        (ImageOf::Worker, false) => RootChange::DelWorkerImage(hash),
    })
}

fn model(name: &str, accepted: bool, current: &RootConfig) -> anyhow::Result<RootChange> {
    let hash = model_hash(name);
    check_listed("this model", current.model_hashes.contains(&hash), accepted)?;
    Ok(if accepted { RootChange::AddModel(hash) } else { RootChange::DelModel(hash) })
}

fn check_listed(what: &str, listed: bool, wanted: bool) -> anyhow::Result<()> {
    match (listed, wanted) {
        (true, true) => bail!("{what} is accepted already"),
        (false, false) => bail!("{what} is not accepted now; `cocoon root show` lists what is"),
        _ => Ok(()),
    }
}

/// Checked against what the contract has room for.
fn endpoints(place: Place) -> anyhow::Result<ProxyEndpoints> {
    let for_clients = place.for_clients.unwrap_or(place.for_workers);
    Ok(ProxyEndpoints { for_workers: place.for_workers, for_clients }.to_string().parse()?)
}

fn listed(seqno: u32, current: &RootConfig) -> anyhow::Result<ProxyEndpoints> {
    match current.registered_proxies.iter().find(|proxy| proxy.seqno == seqno) {
        Some(proxy) => Ok(proxy.endpoints),
        None => bail!("no proxy is listed under the number {seqno}; `cocoon root show` lists all"),
    }
}

fn upgrade_contracts(current: &RootParams) -> anyhow::Result<RootChange> {
    let (proxy, worker, client) = (code::proxy(), code::worker(), code::client());
    let same = current.proxy_code.as_ref() == Some(proxy)
        && current.worker_code.as_ref() == Some(worker)
        && current.client_code.as_ref() == Some(client);
    if same {
        bail!("the root contract has the codes in this program already");
    }
    Ok(RootChange::UpgradeContracts { proxy: proxy.clone(), worker: worker.clone(), client: client.clone() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cocoon_ledger::Nanoton;

    use super::*;

    fn current() -> RootConfig {
        let mut config = RootConfig::test_mode(Address::basechain([1; 32]));
        config.params.price_per_token_nanoton = 20;
        config.params.worker_fee_per_token_nanoton = 18;
        config.worker_hashes.insert([5; 32]);
        config.model_hashes.insert(model_hash("a@b:c"));
        let endpoints = "10.0.0.1:1 10.0.0.1:2".parse().unwrap();
        config.registered_proxies.push(cocoon_ton::RegisteredProxy { seqno: 4, endpoints });
        config
    }

    fn complaint(wanted: &Wanted) -> String {
        change(wanted, &current()).unwrap_err().to_string()
    }

    fn place(text: &str) -> Place {
        Place { for_workers: text.parse().unwrap(), for_clients: None }
    }

    #[test]
    fn what_is_not_given_stays_as_it_is() {
        let prices = PriceArgs { price: Some(Nanoton(30)), worker_fee: None };
        let changed = change(&Wanted::Prices(prices.clone()), &current()).unwrap();
        assert_eq!(changed, RootChange::ChangePrices { price: 30, worker_fee: 18 });
        let limits = LimitArgs { client_delay: Some(200), ..LimitArgs::default() };
        let changed = change(&Wanted::Params(prices, limits), &current()).unwrap();
        let RootChange::ChangeParams {
            price: 30, worker_fee: 18, client_delay: 200, proxy_delay: 600, ..
        } = changed
        else {
            panic!("{changed:?}")
        };
    }

    #[test]
    fn a_change_that_would_hurt_or_change_nothing_is_not_made() {
        let prices = |price, worker_fee| PriceArgs {
            price: Some(Nanoton(price)),
            worker_fee: Some(Nanoton(worker_fee)),
        };
        let delays = |proxy, client| LimitArgs {
            proxy_delay: Some(proxy),
            client_delay: Some(client),
            ..LimitArgs::default()
        };
        let worker = |hash, accepted| Wanted::Image { role: ImageOf::Worker, hash, accepted };
        let model = |name: &str, accepted| Wanted::Model { name: name.to_owned(), accepted };
        for (wanted, words) in [
            (Wanted::Prices(prices(17, 18)), "pay more than it takes"),
            (Wanted::Prices(prices(20, 18)), "so already"),
            (Wanted::Params(prices(17, 18), LimitArgs::default()), "pay more than it takes"),
            (Wanted::Params(PriceArgs::default(), delays(300, 300)), "must be shorter"),
            (Wanted::Params(PriceArgs::default(), delays(300, 149)), "needs 150 s"),
            (Wanted::Params(PriceArgs::default(), LimitArgs::default()), "so already"),
            (worker([5; 32], true), "accepted already"),
            (worker([6; 32], false), "not accepted now"),
            (model("a@b:c", true), "accepted already"),
            (model("a@b:d", false), "not accepted now"),
            (Wanted::Unregister(5), "no proxy is listed"),
            (Wanted::Update(5, place("10.0.0.9:1")), "no proxy is listed"),
            (Wanted::Register(place("10.0.0.9:0")), "port from 1"),
            (Wanted::Owner(Address::basechain([1; 32])), "already"),
        ] {
            let complaint = complaint(&wanted);
            assert!(complaint.contains(words), "{wanted:?}: {complaint}");
        }
    }

    #[test]
    fn lists_are_changed_by_what_is_named() {
        let changed = |wanted| change(&wanted, &current()).unwrap();
        let image = |role, hash, accepted| changed(Wanted::Image { role, hash, accepted });
        assert_eq!(image(ImageOf::Proxy, [5; 32], true), RootChange::AddProxyImage([5; 32]));
        assert_eq!(image(ImageOf::Worker, [5; 32], false), RootChange::DelWorkerImage([5; 32]));
        assert_eq!(changed(Wanted::Unregister(4)), RootChange::UnregisterProxy(4));
        let endpoints = "10.0.0.9:7".parse().unwrap();
        assert_eq!(
            changed(Wanted::Update(4, place("10.0.0.9:7"))),
            RootChange::UpdateProxy { seqno: 4, endpoints }
        );
        assert_eq!(changed(Wanted::Register(place("10.0.0.9:7"))), RootChange::RegisterProxy(endpoints));
        let RootChange::UpgradeContracts { client, .. } = changed(Wanted::UpgradeContracts) else { panic!() };
        assert_eq!(&client, code::client());
    }
}
