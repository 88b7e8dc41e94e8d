//! The chain of a local network: embedded, with a root contract, and coins for every node from its owner's wallet.

use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use cocoon_localchain::{
    DEFAULT_MAX_FILE_BYTES, ExternalMessage, GLOBAL_ID, LocalChain, Options, Production, RootedChain,
    TimeSource,
};
use cocoon_ton::contracts::{StateInit, root_state_init};
use cocoon_ton::wallet::{MODE_PAY_FEES_SEPARATELY, OutMessage, Wallet};
use cocoon_ton::{
    Address, Body, NANOTON_PER_TON, ProxyEndpoints, RootChange, RootConfig, SigningKey, StructVersion, code,
};
use sha2::{Digest as _, Sha256};

use crate::dir::{StateDir, write_whole};
use crate::keys;

/// What a client pays for an adjusted token, in nanoton, in a new network.
const PRICE_PER_TOKEN: u64 = 20;
/// What a worker gets of it, in nanoton; the proxy keeps the rest.
const WORKER_FEE_PER_TOKEN: u64 = 18;
/// What a client must leave in a channel, in nanoton, and at the same time what it may use before it is charged on chain:
/// enough for thousands of requests at once, each of which reserves the most that it may cost.
const MIN_CLIENT_STAKE: u64 = 10 * NANOTON_PER_TON;
/// The chain's file.
const CHAIN_FILE: &str = "chain.sqlite";
/// The key of an owner's wallet.
pub(crate) const OWNER_KEY: &str = "owner-key.hex";
/// Where it is written which root contract is the network's.
const ROOT_ADDRESS: &str = "root-address.txt";
/// What the network's owner gets from the faucet, in nanoton, when it has less than half of that.
const OWNER_COINS: u64 = 10_000 * NANOTON_PER_TON;
/// What the root contract is deployed with, in nanoton: storage of many years.
const ROOT_COINS: u64 = NANOTON_PER_TON;
/// What a message to the root contract carries for its fees, in nanoton.
const CHANGE_COINS: u64 = NANOTON_PER_TON / 20;
/// How long a signed message of the owner is good, in seconds.
const VALID_SECONDS: u32 = 60;

/// The wallet of an owner: a standard one, made from a key in a file.
///
/// # Errors
/// The key file cannot be used.
pub(crate) fn owner_wallet(dir: &Path) -> anyhow::Result<(Wallet, SigningKey)> {
    let key = SigningKey::from_bytes(&*keys::load_or_create(&dir.join(OWNER_KEY), None)?);
    Ok((Wallet::v5r1(key.verifying_key().to_bytes(), GLOBAL_ID), key))
}

/// The chain of a local network, and the wallet of its owner.
pub(crate) struct Treasury {
    /// The chain.
    pub(crate) chain: LocalChain,
    /// The chain with the network's root contract.
    pub(crate) rooted: Arc<RootedChain>,
    /// The root contract.
    pub(crate) root: Address,
    wallet: Wallet,
    key: SigningKey,
}

/// The hashes of the images that the root lists.
pub(crate) struct Images {
    /// Of proxies.
    pub(crate) proxy: Vec<[u8; 32]>,
    /// Of workers.
    pub(crate) worker: Vec<[u8; 32]>,
}

impl Treasury {
    /// Opens the chain in `dir`; makes it, with a root contract, where it is new.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(crate) async fn open(dir: &StateDir) -> anyhow::Result<Self> {
        let path = dir.path().join(CHAIN_FILE);
        let options = Options {
            path: Some(path.clone()),
            production: Production::OnMessage,
            time: TimeSource::System,
            max_file_bytes: DEFAULT_MAX_FILE_BYTES,
        };
        let opened = tokio::task::spawn_blocking(move || LocalChain::open(&options)).await?;
        let chain = opened.with_context(|| format!("the chain in {}", path.display()))?;
        let (wallet, key) = owner_wallet(dir.path())?;
        if coins(&chain, wallet.address()).await? < OWNER_COINS / 2 {
            chain.grant(wallet.address(), OWNER_COINS).await?;
            chain.settle().await?;
        }
        let noted = dir.path().join(ROOT_ADDRESS);
        let root = match std::fs::read_to_string(&noted) {
            Ok(text) => text.trim().parse().with_context(|| format!("the address in {}", noted.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let init = new_root(&wallet);
                deploy(&chain, &wallet, &key, &init).await?;
                write_whole(&noted, &format!("{}\n", init.address()))?;
                init.address()
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", noted.display())),
        };
        let hint = || {
            format!(
                "the root contract {root} of this network; remove {} for a new network",
                dir.path().display()
            )
        };
        let rooted = Arc::new(chain.follow_root(root).await.with_context(hint)?);
        Ok(Self { chain, rooted, root, wallet, key })
    }

    /// The network's owner.
    pub(crate) fn owner(&self) -> Address {
        self.wallet.address()
    }

    /// The root configuration in force.
    pub(crate) fn config(&self) -> Arc<RootConfig> {
        Arc::clone(&cocoon_chain::Chain::subscribe_root(self.rooted.as_ref()).borrow())
    }

    /// Puts on the root's lists what is not there yet, and pays every node that has less than half of what it is meant to
    /// have.
    ///
    /// # Errors
    /// The chain refuses it.
    pub(crate) async fn prepare(
        &self,
        images: &Images,
        model: [u8; 32],
        nodes: &[(Address, u64)],
    ) -> anyhow::Result<()> {
        let config = self.config();
        let mut messages = Vec::new();
        for image in images.proxy.iter().filter(|image| !config.proxy_hashes.contains(*image)) {
            messages.push(self.change(RootChange::AddProxyImage(*image)));
        }
        for image in images.worker.iter().filter(|image| !config.worker_hashes.contains(*image)) {
            messages.push(self.change(RootChange::AddWorkerImage(*image)));
        }
        if !config.model_hashes.contains(&model) {
            messages.push(self.change(RootChange::AddModel(model)));
        }
        for &(wallet, nanoton) in nodes {
            if coins(&self.chain, wallet).await? < nanoton / 2 {
                messages.push(payment(wallet, nanoton));
            }
        }
        self.send(&messages).await
    }

    /// Tells everybody where the proxy listens: the first entry of the root's list is this network's proxy.
    ///
    /// # Errors
    /// The chain refuses it.
    pub(crate) async fn register_proxy(
        &self,
        for_workers: SocketAddrV4,
        for_clients: SocketAddrV4,
    ) -> anyhow::Result<()> {
        let endpoints = ProxyEndpoints { for_workers, for_clients };
        let change = match self.config().registered_proxies.first() {
            None => RootChange::RegisterProxy(endpoints),
            Some(known) if known.endpoints == endpoints => return Ok(()),
            Some(known) => RootChange::UpdateProxy { seqno: known.seqno, endpoints },
        };
        self.send(&[self.change(change)]).await
    }

    /// Ends the chain, once all is on the disk.
    pub(crate) async fn close(self) {
        self.chain.close().await;
    }

    fn change(&self, change: RootChange) -> OutMessage {
        message(self.root, CHANGE_COINS, &Body::Root { query_id: 0, change })
    }

    async fn send(&self, messages: &[OutMessage]) -> anyhow::Result<()> {
        send(&self.chain, &self.wallet, &self.key, messages).await
    }
}

/// Coins of an account, in nanoton.
///
/// # Errors
/// The chain does not answer.
pub(crate) async fn coins(chain: &LocalChain, address: Address) -> anyhow::Result<u64> {
    Ok(chain.account(address).await?.0.balance_nanoton)
}

fn message(to: Address, value_nanoton: u64, body: &Body) -> OutMessage {
    let (mode, body) = (MODE_PAY_FEES_SEPARATELY, Some(body.to_cell()));
    OutMessage { to, value_nanoton, bounce: true, mode, init: None, body }
}

fn payment(to: Address, value_nanoton: u64) -> OutMessage {
    OutMessage { to, value_nanoton, bounce: false, mode: MODE_PAY_FEES_SEPARATELY, init: None, body: None }
}

fn new_root(owner: &Wallet) -> StateInit {
    let mut config = RootConfig::test_mode(owner.address());
    let id = Sha256::digest(owner.public_key());
    let params = &mut config.params;
    params.struct_version = StructVersion::V3;
    params.params_version = 1;
    params.unique_id = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
    params.price_per_token_nanoton = PRICE_PER_TOKEN;
    params.worker_fee_per_token_nanoton = WORKER_FEE_PER_TOKEN;
    params.min_client_stake_nanoton = MIN_CLIENT_STAKE;
    params.proxy_code = Some(code::proxy().clone());
    params.worker_code = Some(code::worker().clone());
    params.client_code = Some(code::client().clone());
    root_state_init(&config)
}

async fn deploy(
    chain: &LocalChain,
    wallet: &Wallet,
    key: &SigningKey,
    init: &StateInit,
) -> anyhow::Result<()> {
    let mut deploying = message(init.address(), ROOT_COINS, &Body::DoNotProcess { query_id: 0 });
    deploying.init = Some(init.clone());
    send(chain, wallet, key, &[deploying]).await
}

/// Sends messages, a wallet's fill at a time. The embedded chain carries each out at once, so its number tells.
async fn send(
    chain: &LocalChain,
    wallet: &Wallet,
    key: &SigningKey,
    messages: &[OutMessage],
) -> anyhow::Result<()> {
    for messages in messages.chunks(wallet.max_messages()) {
        let number = number(chain, wallet).await?;
        let valid_until = chain.now().await?.saturating_add(VALID_SECONDS);
        let signed = wallet.sign(key, number, valid_until, messages)?;
        chain.submit(ExternalMessage::from_cell(signed)?).await?;
        chain.settle().await?;
        let now = self::number(chain, wallet).await?;
        ensure!(
            now == number + 1,
            "the owner's wallet did not send its messages; see its account on the chain"
        );
    }
    Ok(())
}

async fn number(chain: &LocalChain, wallet: &Wallet) -> anyhow::Result<u32> {
    let (account, frozen) = chain.account(wallet.address()).await?;
    if frozen.is_some() {
        bail!("the owner's wallet {} is frozen", wallet.address());
    }
    Ok(account.data.as_ref().map(|data| wallet.seqno_from_data(data)).transpose()?.unwrap_or(0))
}
