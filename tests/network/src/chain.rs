//! An embedded chain with a root contract, for networks that settle.

use cocoon_localchain::{ExternalMessage, LocalChain};
use cocoon_ton::contracts::{StateInit, StructVersion};
use cocoon_ton::message::Body;
use cocoon_ton::wallet::{OutMessage, Wallet};
use cocoon_ton::{Address, RootConfig, SigningKey, code};

use crate::root;

/// Nanoton in a coin.
pub const TON: u64 = 1_000_000_000;

/// A root configuration with our contracts' code. A client's contract is closing for `client_delay` seconds, a proxy's for
/// `proxy_delay`.
pub fn settling_root(
    owner: Address,
    price: u64,
    fee: u64,
    (client_delay, proxy_delay): (u32, u32),
) -> RootConfig {
    let mut root = root();
    root.owner = owner;
    let params = &mut root.params;
    params.struct_version = StructVersion::V3;
    params.price_per_token_nanoton = price;
    params.worker_fee_per_token_nanoton = fee;
    params.client_delay_before_close_seconds = client_delay;
    params.proxy_delay_before_close_seconds = proxy_delay;
    params.proxy_code = Some(code::proxy().clone());
    params.worker_code = Some(code::worker().clone());
    params.client_code = Some(code::client().clone());
    root
}

/// Sends 1 TON from a wallet, and waits until all that comes of it has landed.
pub async fn send_ton(
    chain: &LocalChain,
    (wallet, key): &(Wallet, SigningKey),
    to: Address,
    init: Option<StateInit>,
    body: &Body,
) {
    let (account, _) = chain.account(wallet.address()).await.unwrap();
    let seqno = account.data.map_or(0, |data| wallet.seqno_from_data(&data).unwrap());
    let message =
        OutMessage { to, value_nanoton: TON, bounce: false, mode: 1, init, body: Some(body.to_cell()) };
    let signed = wallet.sign(key, seqno, chain.now().await.unwrap() + 60, &[message]).unwrap();
    chain.submit(ExternalMessage::from_cell(signed).unwrap()).await.unwrap();
    chain.settle().await.unwrap();
}
