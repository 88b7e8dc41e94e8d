//! Sending from a wallet, with each step shown: what will be sent and what it costs at most, a question, and what came
//! of it.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use cocoon_chain::wallet::{Landing, WalletDriver, WalletView};
use cocoon_chain::{Chain, Compute};
use cocoon_ledger::Nanoton;
use cocoon_ton::message::{Body, exit_code_words};
use cocoon_ton::mnemonic::MAX_TEXT_BYTES;
use cocoon_ton::wallet::{MODE_CARRY_ALL, MODE_PAY_FEES_SEPARATELY, fees};
use cocoon_ton::{Address, Cell, Mnemonic, OutMessage, SigningKey, StateInit, Wallet};
use zeroize::Zeroizing;

use crate::chain_access::{ChainAccess, NetworkKind};
use crate::keys;
use crate::record::{Record, Telling, Value};
use crate::terminal::{self, Style};
use crate::tx::{Known, describe_body};

/// The wallet that sends.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Wallet")]
pub(crate) struct WalletArgs {
    /// A private file with the wallet's 24 words, or with its key as 64 hexadecimal digits
    #[arg(long, value_name = "FILE", env = "COCOON_WALLET")]
    wallet: PathBuf,

    /// Which contract the wallet is; the same key has another address in each
    #[arg(long, value_enum, value_name = "KIND", default_value = "v5r1")]
    wallet_kind: Kind,

    /// The owner of a node wallet (cocoon or published), part of its address
    #[arg(long, value_name = "ADDRESS")]
    wallet_owner: Option<Address>,

    /// Send without asking
    #[arg(long, short)]
    yes: bool,
}

/// Wallet contracts, as people name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// What most wallets make today.
    V5r1,
    /// What most wallets made until 2024.
    V4r2,
    /// This project's node wallet.
    Cocoon,
    /// The published node wallet.
    Published,
}

/// A wallet that can send.
pub(crate) struct Sender {
    driver: WalletDriver,
    yes: bool,
    /// Whether steps are left untold, for machines.
    quiet: bool,
    telling: Telling,
}

impl WalletArgs {
    /// The wallet and its key. `network` matters to the address of a v5r1 wallet.
    ///
    /// # Errors
    /// As [`Sender::open`].
    pub(crate) fn load(&self, network: NetworkKind) -> anyhow::Result<(Wallet, SigningKey)> {
        let key = load_key(&self.wallet)?;
        Ok((wallet(self.wallet_kind, &key, self.wallet_owner, network)?, key))
    }

    /// Whether nobody is to be asked.
    pub(crate) const fn yes(&self) -> bool {
        self.yes
    }
}

/// One message to a contract; fees come on top of the value.
pub(crate) fn message(to: Address, value: Nanoton, body: &Body, init: Option<StateInit>) -> OutMessage {
    OutMessage {
        to,
        value_nanoton: value.nano(),
        // What deploys a contract must not come back: there is nobody yet who could send it back.
        bounce: init.is_none(),
        mode: MODE_PAY_FEES_SEPARATELY,
        init,
        body: (*body != Body::Empty).then(|| body.to_cell()),
    }
}

impl Sender {
    /// Reads the wallet's secret. Nothing is asked of the chain yet.
    ///
    /// # Errors
    /// The file cannot be used, or the wallet's owner is missing.
    pub(crate) fn open(
        args: &WalletArgs,
        access: &ChainAccess,
        chain: Arc<dyn Chain>,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        let network = access.network()?;
        let (wallet, key) = args.load(network)?;
        let telling = Telling { testnet: network.is_testnet(), style: Style::stdout() };
        Ok(Self::new(WalletDriver::new(chain, wallet, key), args.yes, quiet, telling))
    }

    /// Sends with `driver`; without asking where `yes`, without a word where `quiet`.
    pub(crate) const fn new(driver: WalletDriver, yes: bool, quiet: bool, telling: Telling) -> Self {
        Self { driver, yes, quiet, telling }
    }

    /// The wallet's address.
    pub(crate) fn address(&self) -> Address {
        self.driver.wallet().address()
    }

    /// How addresses and amounts are told.
    pub(crate) const fn telling(&self) -> Telling {
        self.telling
    }

    /// Waits for what was sent before, shows what will be sent, asks, sends, and waits until all has arrived. Tells
    /// what came of it.
    ///
    /// # Errors
    /// The chain or the wallet cannot do it, nobody agreed, or a receiver refused its message.
    pub(crate) async fn send(&self, messages: Vec<OutMessage>) -> anyhow::Result<Record> {
        let view = self.driver.settled().await?;
        let fee = fees::estimate(self.driver.wallet(), view.deployed, &messages)?;
        let intent = Record::new("sending", "", "To be sent")
            .with("from", Value::Address(view.address))
            .with("wallet", Value::Text(view.kind.to_string()))
            .with("balance", Value::Coins(view.balance_nanoton))
            .with("fee_at_most", Value::Coins(fee))
            .with("messages", Value::Parts(messages.iter().map(told).collect()));
        self.say(&intent.to_text(self.telling))?;
        let needed = messages.iter().fold(fee, |sum, message| sum.saturating_add(message.value_nanoton));
        self.check_funds(&view, needed)?;
        if !self.yes {
            confirm("Send this?").await?;
        }
        self.say("Sending, and waiting until it has arrived ...\n")?;
        let sent = self.driver.send(&view, messages).await?;
        let record = Record::new("sent", "", "Sent")
            .with("transaction", Value::Hash(sent.transaction.id.hash))
            .with("time", Value::Time(sent.transaction.unix_time))
            .with("fee", Value::Coins(sent.transaction.fee_nanoton))
            .with("arrived", Value::Parts(sent.landed.iter().map(arrived).collect()));
        self.say(&record.to_text(self.telling))?;
        sent.landed.iter().try_for_each(|landing| self.check(landing))?;
        Ok(record)
    }

    /// Before anybody is asked for nothing.
    fn check_funds(&self, view: &WalletView, needed: u64) -> anyhow::Result<()> {
        let missing = needed.saturating_sub(view.balance_nanoton);
        if missing > 0 {
            bail!(
                "funds needed: send at least {} to {} (this is the {} wallet of that key; as another --wallet-kind it \
                 has another address)",
                Nanoton(missing),
                view.address.to_wire_string(self.telling.testnet),
                view.kind
            );
        }
        Ok(())
    }

    /// Whether the receiver did what it was told.
    fn check(&self, landing: &Landing) -> anyhow::Result<()> {
        let to = landing.to.to_wire_string(self.telling.testnet);
        let Some(transaction) = &landing.transaction else {
            if landing.came_back {
                bail!("there is nothing at {to}; the coins came back, less fees");
            }
            bail!("the wallet had too few coins for its message to {to}, and left it out");
        };
        if let Compute::Ran { exit_code, .. } = transaction.compute
            && !matches!(exit_code, 0 | 1)
        {
            bail!("{to} refused the message: {} (exit code {exit_code})", exit_code_words(exit_code));
        }
        Ok(())
    }

    fn say(&self, text: &str) -> std::io::Result<()> {
        if self.quiet { Ok(()) } else { terminal::print(text) }
    }
}

fn told(message: &OutMessage) -> Record {
    let body = message
        .body
        .as_ref()
        .map(|body: &Cell| Value::Part(describe_body(&Body::parse(body), Known::default())));
    let value = match message.mode & MODE_CARRY_ALL {
        0 => Value::Coins(message.value_nanoton),
        _ => Value::Text("all that the wallet has, less fees".to_owned()),
    };
    Record::new("message", "", "message")
        .with("to", Value::Address(message.to))
        .with("value", value)
        .with_some("deploys", message.init.as_ref().map(|_| Value::Flag(true)))
        .with_some("body", body)
}

fn arrived(landing: &Landing) -> Record {
    let record = Record::new("arrival", "", "message").with("to", Value::Address(landing.to));
    match &landing.transaction {
        None => record.with("outcome", Value::Text("left out: the wallet could not pay for it".to_owned())),
        Some(transaction) => {
            let outcome = match transaction.compute {
                Compute::Ran { exit_code, .. } => exit_code_words(exit_code),
                Compute::Skipped(_) => "arrived; no contract ran",
            };
            let value = transaction.in_message.as_ref().map(|message| Value::Coins(message.value_nanoton));
            record
                .with_some("value", value)
                .with("outcome", Value::Text(outcome.to_owned()))
                .with("transaction", Value::Hash(transaction.id.hash))
        }
    }
}

/// Asks on the terminal; whoever is not there cannot agree.
///
/// # Errors
/// Nobody agreed.
pub(crate) async fn confirm(question: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!(
            "this asks before it acts ({question}), and there is no terminal to ask on; add --yes to go ahead"
        );
    }
    let question = format!("{question} [y/N] ");
    let answer = tokio::task::spawn_blocking(move || {
        let mut error = std::io::stderr().lock();
        error.write_all(question.as_bytes()).and_then(|()| error.flush())?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer = answer.await?.context("cannot read the answer")?;
    if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        bail!("nothing was done, as answered");
    }
    Ok(())
}

/// The key in a private file: 24 words, or 64 hexadecimal digits.
///
/// # Errors
/// The file cannot be read, is open to others, or holds neither.
pub(crate) fn load_key(path: &Path) -> anyhow::Result<SigningKey> {
    let limit = u64::try_from(MAX_TEXT_BYTES).unwrap_or(u64::MAX);
    let text = keys::load_private(path, limit)?;
    let text = text.trim();
    let shown = path.display();
    if !text.contains(char::is_whitespace) {
        let mut bytes = Zeroizing::new([0; 32]);
        // What the decoder says could repeat digits of the key.
        if hex::decode_to_slice(text, &mut *bytes).is_err() {
            bail!("{shown} holds neither 24 words nor 64 hexadecimal digits");
        }
        return Ok(SigningKey::from_bytes(&bytes));
    }
    let mnemonic = Mnemonic::parse(text).with_context(|| format!("the words in {shown} are no mnemonic"))?;
    Ok(mnemonic.signing_key())
}

/// The wallet of that kind which obeys `key`.
///
/// # Errors
/// A node wallet's owner is missing.
pub(crate) fn wallet(
    kind: Kind,
    key: &SigningKey,
    owner: Option<Address>,
    network: NetworkKind,
) -> anyhow::Result<Wallet> {
    let public = key.verifying_key().to_bytes();
    let owner = || owner.context("a node wallet's address depends on its owner: say --wallet-owner ADDRESS");
    Ok(match kind {
        Kind::V5r1 => Wallet::v5r1(public, network.id()),
        Kind::V4r2 => Wallet::v4r2(public),
        Kind::Cocoon => Wallet::cocoon(public, owner()?),
        Kind::Published => Wallet::published(public, owner()?),
    })
}
