//! The chain of a run, and the wallets that act on it.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use cocoon_localchain::{ChainConfig, Core, ExternalMessage, SUPPLY_NANOTON};
use cocoon_settle::{Plan, Transfer, WalletFunds};
use cocoon_ton::wallet::{OutMessage, Wallet};
use cocoon_ton::{Address, Cell, SigningKey};

/// When every run begins, in Unix seconds. Fees do not depend on it.
const START: u32 = 1_780_000_000;
/// How long a signed message is good for, in seconds.
const VALID_SECONDS: u32 = 60;
/// Fees come on top of a message's value.
const MODE_PAY_FEES_SEPARATELY: u8 = 3;

/// An embedded chain whose coins all went to somebody this program knows of.
pub(super) struct World {
    core: Core,
    /// Chain time, in Unix seconds.
    pub(super) now: u32,
    granted_nanoton: u64,
    /// Transactions that were executed.
    pub(super) transactions: u64,
}

impl World {
    pub(super) fn new(config: Arc<ChainConfig>) -> anyhow::Result<Self> {
        let core = Core::new(config, START).context("the chain's first block")?;
        Ok(Self { core, now: START, granted_nanoton: 0, transactions: 0 })
    }

    pub(super) fn grant(&mut self, to: Address, nanoton: u64) -> anyhow::Result<()> {
        self.core.grant(to, nanoton).context("a grant")?;
        self.granted_nanoton += nanoton;
        self.block()?;
        Ok(())
    }

    pub(super) fn held(&self, address: Address) -> anyhow::Result<u64> {
        Ok(self.core.account(address)?.balance_nanoton)
    }

    /// Reads a contract's data, where it is deployed.
    pub(super) fn read<T, E>(
        &self,
        address: Address,
        read: impl FnOnce(&Cell) -> Result<T, E>,
    ) -> anyhow::Result<Option<T>>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let data = self.core.account(address)?.data;
        data.map(|data| read(&data).with_context(|| format!("the data of {address}"))).transpose()
    }

    /// Fees that validators took since the first block.
    pub(super) fn collected(&self) -> u64 {
        self.core.collected_nanoton()
    }

    /// All coins there are, and all that were granted, are accounted for to the nano.
    ///
    /// # Errors
    /// They are not: a mistake in the chain, the contracts, or this program.
    pub(super) fn check_balance(&self, held: impl IntoIterator<Item = u64>) -> anyhow::Result<()> {
        let supply = self.core.supply()?;
        ensure!(supply.total_nanoton() == SUPPLY_NANOTON, "coins came or went: {supply:?}");
        ensure!(supply.queue_nanoton == 0, "coins are still under way: {supply:?}");
        let held: u64 = held.into_iter().sum();
        let accounted = held + self.collected();
        ensure!(
            accounted == self.granted_nanoton,
            "{} nanoton were granted, but {held} are held and {} were fees",
            self.granted_nanoton,
            self.collected()
        );
        Ok(())
    }

    /// Runs everything that waits. Returns the accounts that had a transaction.
    fn block(&mut self) -> anyhow::Result<Vec<Address>> {
        let mut touched = Vec::new();
        while self.core.has_work() {
            let block = self.core.produce_block(self.now)?;
            ensure!(block.refused.is_empty(), "the chain refused {:?}", block.refused);
            self.transactions += block.transactions.len() as u64;
            touched.extend(block.transactions.iter().map(|transaction| transaction.account));
        }
        Ok(touched)
    }
}

/// A wallet with its key.
pub(super) struct Node {
    pub(super) wallet: Wallet,
    key: SigningKey,
    /// What it began with, in nanoton.
    pub(super) granted: u64,
    /// The wallet's number, which only this program's messages change.
    seqno: u32,
}

impl Node {
    /// A node with a key of its own and coins.
    pub(super) fn new(world: &mut World, number: u32, nanoton: u64) -> anyhow::Result<Self> {
        let key = SigningKey::from_bytes(&seed(b'k', number));
        let owner = Address::basechain(seed(b'o', number));
        let wallet = Wallet::cocoon(key.verifying_key().to_bytes(), owner);
        world.grant(wallet.address(), nanoton)?;
        Ok(Self { wallet, key, granted: nanoton, seqno: 0 })
    }

    pub(super) fn address(&self) -> Address {
        self.wallet.address()
    }

    pub(super) fn owner(&self) -> anyhow::Result<Address> {
        self.wallet.owner().context("the wallet has no owner")
    }

    /// Signs a plan, sends it, and waits until all of it has arrived. `None` where there was nothing to send.
    pub(super) fn carry_out(&mut self, world: &mut World, plan: Plan) -> anyhow::Result<Option<Sent>> {
        let funds = WalletFunds {
            address: self.address(),
            balance_nanoton: world.held(self.address())?,
            max_messages: self.wallet.max_messages(),
        };
        let plan = plan.fit(&funds);
        if let Some(needs) = plan.needs {
            anyhow::bail!("a run was given too few coins: {needs}");
        }
        if plan.transfers.is_empty() {
            return Ok(None);
        }
        let messages: Vec<_> = plan.transfers.iter().map(message).collect();
        let signed = self.wallet.sign(&self.key, self.seqno, world.now + VALID_SECONDS, &messages)?;
        let before = world.collected();
        world.core.submit(ExternalMessage::from_cell(signed)?, world.now)?;
        let touched = world.block()?;
        self.seqno += 1;
        let seqno = world.read(self.address(), |data| self.wallet.seqno_from_data(data))?;
        ensure!(seqno == Some(self.seqno), "a wallet did not carry out its message");
        Ok(Some(Sent { transfers: plan.transfers, touched, fee_nanoton: world.collected() - before }))
    }
}

/// A message that was carried out, with all that followed from it.
pub(super) struct Sent {
    pub(super) transfers: Vec<Transfer>,
    /// Accounts that changed, with repetition.
    pub(super) touched: Vec<Address>,
    /// What validators took.
    pub(super) fee_nanoton: u64,
}

fn message(transfer: &Transfer) -> OutMessage {
    OutMessage {
        to: transfer.to,
        value_nanoton: transfer.value_nanoton,
        bounce: true,
        mode: MODE_PAY_FEES_SEPARATELY,
        init: transfer.init.clone(),
        body: Some(transfer.body.to_cell()),
    }
}

/// Distinct bytes for each purpose and number.
pub(super) fn seed(purpose: u8, number: u32) -> [u8; 32] {
    let mut bytes = [purpose; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// What one message of a wallet, with all that followed from it, did and cost.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// What it was for, in the order sent.
    pub(super) what: Vec<&'static str>,
    pub(super) payer: &'static str,
    pub(super) times: u64,
    pub(super) fee_nanoton: u64,
}

/// All steps of a run, in the order of their first occurrence.
#[derive(Debug, Default, Clone)]
pub(super) struct Tallies(pub(super) Vec<Step>);

impl Tallies {
    pub(super) fn add(&mut self, payer: &'static str, sent: &Sent) {
        let what: Vec<_> = sent.transfers.iter().map(step_name).collect();
        match self.0.iter_mut().find(|step| step.what == what) {
            Some(step) => {
                step.times += 1;
                step.fee_nanoton += sent.fee_nanoton;
            }
            None => self.0.push(Step { what, payer, times: 1, fee_nanoton: sent.fee_nanoton }),
        }
    }

    /// How often something was done, alone or with other things.
    pub(super) fn times(&self, name: &str) -> u64 {
        let in_step =
            |step: &Step| step.times * step.what.iter().filter(|what| **what == name).count() as u64;
        self.0.iter().map(in_step).sum()
    }
}

/// What a step is called in the report.
fn step_name(transfer: &Transfer) -> &'static str {
    use cocoon_settle::Purpose::*;
    match transfer.purpose {
        DeployProxy { .. } => "deploy the proxy contract",
        AddStake { .. } => "pay in the proxy's stake",
        Charge { .. } => "charge",
        GrantRefund { .. } => "grant a refund",
        Commit { .. } => "commit",
        TakeEarnings { .. } => "take earnings",
        CloseProxy => "start closing the proxy contract",
        CompleteClose => "complete closing it",
        TakeRest => "take unclaimed coins",
        OpenChannel { .. } => "open a channel",
        TopUp { .. } => "top up",
        Register => "register",
        ChangeSecret => "change the secret",
        RequestRefund => "ask for a refund",
        ForceRefund { .. } => "force a refund",
        TakeLeftover => "take leftovers",
        PayWorker { .. } if transfer.init.is_some() => "first payout",
        PayWorker { .. } => "payout",
    }
}
