//! `cocoon wallet create` and `cocoon wallet import`: the file with a wallet's secret.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use cocoon_ton::mnemonic::{MAX_TEXT_BYTES, WORDS};
use cocoon_ton::wallet::{MAINNET_ID, TESTNET_ID};
use cocoon_ton::{Mnemonic, SigningKey, Wallet};
use zeroize::Zeroizing;

use super::{print, with_address};
use crate::cli::{CreateWallet, ImportWallet, PersonKind};
use crate::keys;
use crate::record::{Record, Telling, Value};
use crate::terminal::{self, Style};

/// Hexadecimal digits of a key.
const KEY_DIGITS: usize = 64;

/// Makes a wallet's file with a new mnemonic.
///
/// # Errors
/// The file is there already, or cannot be written.
pub(super) async fn create(options: CreateWallet) -> anyhow::Result<()> {
    if options.show_words && !std::io::stdout().is_terminal() {
        bail!("--show-words is for terminals only: what is piped or logged stays behind; nothing was made");
    }
    refuse_existing(&options.file)?;
    let made = tokio::task::spawn_blocking(|| {
        let mnemonic = Mnemonic::generate(|bytes| rand::Rng::fill(&mut rand::rng(), bytes))?;
        let key = mnemonic.signing_key();
        anyhow::Ok((mnemonic, key))
    });
    let (mnemonic, key) = made.await??;
    write(&options.file, mnemonic.phrase())?;
    tell("Made a wallet", &options.file, options.kind, &key, options.json)?;
    if options.show_words {
        terminal::print("\n")?;
        for (number, word) in (1..).zip(mnemonic.words()) {
            let end = if number % 4 == 0 { "\n" } else { "" };
            terminal::print(&format!("{number:4} {word:<8}{end}"))?;
        }
    }
    Ok(())
}

/// Makes a wallet's file with a secret from standard input.
///
/// # Errors
/// There is none, it is damaged, or the file cannot be written.
pub(super) async fn import(options: ImportWallet) -> anyhow::Result<()> {
    refuse_existing(&options.file)?;
    let read = {
        let stdin = std::io::stdin();
        // Dropped, and the terminal's echo on again, also where this is interrupted.
        let _unseen = stdin.is_terminal().then(|| Unseen::begin(&options.file));
        tokio::task::spawn_blocking(read_secret).await?
    };
    let (secret, key) = tokio::task::spawn_blocking(move || parse(&read?)).await??;
    write(&options.file, &secret)?;
    tell("Took a wallet over", &options.file, options.kind, &key, options.json)
}

fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    if path.symlink_metadata().is_ok() {
        bail!("{} is there already, and a wallet is never overwritten: choose another name", path.display());
    }
    Ok(())
}

fn write(path: &Path, secret: &str) -> anyhow::Result<()> {
    keys::write_new(path, secret)
        .with_context(|| format!("cannot write the wallet's file {}", path.display()))
}

/// Reads up to 24 words, a key, an empty line after something, or the end.
fn read_secret() -> anyhow::Result<Zeroizing<String>> {
    // With room for all, nothing is ever moved, so no copy is left behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT_BYTES + 1));
    let limit = u64::try_from(MAX_TEXT_BYTES + 1).unwrap_or(u64::MAX);
    let mut input = std::io::stdin().lock().take(limit);
    loop {
        let before = text.len();
        let length = input.read_line(&mut text).context("cannot read standard input as text")?;
        let empty_line = text[before..].trim().is_empty() && !text.trim().is_empty();
        let words = text.split_whitespace().count();
        let key = words == 1 && text.trim().len() == KEY_DIGITS;
        if length == 0 || empty_line || key || words >= WORDS {
            break;
        }
    }
    // A terminal hands over line by line; what else is piped in belongs to it.
    if !std::io::stdin().is_terminal() {
        input.read_to_string(&mut text).context("cannot read standard input as text")?;
    }
    Ok(text)
}

/// What goes into the file, and the key.
fn parse(text: &str) -> anyhow::Result<(Zeroizing<String>, SigningKey)> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        bail!("standard input is empty: give the wallet's 24 words, or a key of 64 hexadecimal digits");
    }
    if trimmed.contains(char::is_whitespace) {
        let mnemonic = Mnemonic::parse(trimmed)?;
        return Ok((Zeroizing::new(mnemonic.phrase().to_owned()), mnemonic.signing_key()));
    }
    let mut bytes = Zeroizing::new([0; 32]);
    // What the decoder says could repeat digits of the key.
    if hex::decode_to_slice(trimmed, &mut *bytes).is_err() {
        bail!("one word that is not 64 hexadecimal digits is neither a key nor 24 words");
    }
    Ok((Zeroizing::new(hex::encode(*bytes)), SigningKey::from_bytes(&bytes)))
}

fn tell(
    what: &'static str,
    file: &Path,
    kind: PersonKind,
    key: &SigningKey,
    json: bool,
) -> anyhow::Result<()> {
    let public = key.verifying_key().to_bytes();
    let (name, main, test) = match kind {
        PersonKind::V5r1 => ("v5r1", Wallet::v5r1(public, MAINNET_ID), Wallet::v5r1(public, TESTNET_ID)),
        PersonKind::V4r2 => ("v4r2", Wallet::v4r2(public), Wallet::v4r2(public)),
    };
    let place = |words, wallet: &Wallet, testnet| {
        Value::Part(with_address(Record::new("place", "", words), wallet.address(), testnet))
    };
    let record = Record::new("wallet", "", what)
        .with("file", Value::Text(file.display().to_string()))
        .with("wallet", Value::Text(name.to_owned()))
        .with("main_network", place("coins with a value", &main, false))
        .with("test_networks", place("cocoon chain included", &test, true));
    let style = Style::stdout();
    print(&record, json, Telling { testnet: false, style })?;
    if json {
        return Ok(());
    }
    let mut text = format!(
        "\n{}\nWallet programs now call the coin Gram, \"TON (GRAM)\": it is the same coin.\n",
        style.warn("What is in that file is the money: keep a copy of it on paper, and show it to nobody.")
    );
    if kind == PersonKind::V4r2 {
        text += "With this file say --wallet-kind v4r2.\n";
    }
    Ok(terminal::print(&text)?)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Unseen;

impl Unseen {
    fn begin(file: &Path) -> Self {
        // Where there is no such program, the words are seen; they still work.
        stty("-echo");
        let prompt =
            format!("The 24 words, or the key, for {} (what you type is not shown): ", file.display());
        // Without the prompt, it still works.
        let _ = std::io::stderr().lock().write_all(prompt.as_bytes());
        Self
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        stty("echo");
        let _ = std::io::stderr().lock().write_all(b"\n");
    }
}

fn stty(setting: &str) {
    let _ = Command::new("stty").arg(setting).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
