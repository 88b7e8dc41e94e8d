//! Wallets: the contracts through which a key holder acts on the chain, and the messages that they are told to send.
//!
//! Each wallet counts the messages from outside that it obeyed. A signed message names the count at which it may run
//! (the sequence number) and until when; of several signed for one number, one can ever run.
//!
//! * [`OutMessage`]     something that a wallet is to send.
//! * [`Wallet`]         one wallet: its address, and how it is told to send.
//! * [`fees::estimate`] what that will cost at most.

mod code;
pub mod fees;
mod message;

use ed25519_dalek::{Signer as _, SigningKey};

pub use message::{
    MODE_CARRY_ALL, MODE_IGNORE_ERRORS, MODE_PAY_FEES_SEPARATELY, OutMessage, external_message,
};

use crate::address::Address;
use crate::cell::{Cell, CellError, ContractCode, Reader, Writer};
use crate::contracts::StateInit;

/// Number of TON's main network, which a v5r1 wallet's address depends on.
pub const MAINNET_ID: i32 = -239;
/// Number of TON's test network, and of the embedded chain.
pub const TESTNET_ID: i32 = -3;
/// The published node wallet obeys no message from outside while it has less than this. Its owner can always take the
/// coins out, by the text `w`.
pub const PUBLISHED_MIN_BALANCE_NANOTON: u64 = 2_000_000_000;

/// Subwallet of Cocoon's wallets: they have only this one.
const COCOON_SUBWALLET: u32 = 0;
/// Number that every program gives to a key's first v4r2 wallet in the basechain.
const V4R2_WALLET_ID: u32 = 698_983_191;
/// What the number of a v5r1 wallet is made of besides the network: a wallet that a program made for a person (the
/// highest bit), in the basechain, of the contract's first version, the first one of its key.
const V5R1_CONTEXT: u32 = 0x8000_0000;
/// `auth_signed_external`.
const V5R1_OP_SIGNED: u32 = 0x7369_676e;
/// `action_send_msg`.
const ACTION_SEND_MESSAGE: u32 = 0x0ec3_c86d;

/// The wallet contracts that this program can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalletKind {
    /// Our node wallet.
    Cocoon,
    /// The published node wallet, which needs [`PUBLISHED_MIN_BALANCE_NANOTON`].
    Published,
    /// The wallet that most programs made until 2024.
    V4R2,
    /// The wallet that most programs make.
    V5R1,
}

impl WalletKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Cocoon, Self::Published, Self::V4R2, Self::V5R1];

    /// The name that people write: `cocoon`, `published`, `v4r2`, `v5r1`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cocoon => "cocoon",
            Self::Published => "published",
            Self::V4R2 => "v4r2",
            Self::V5R1 => "v5r1",
        }
    }

    /// Most messages that the wallet sends at once.
    pub const fn max_messages(self) -> usize {
        match self {
            Self::Cocoon | Self::Published | Self::V4R2 => 4,
            Self::V5R1 => 255,
        }
    }

    /// The contract's code.
    pub fn code(self) -> &'static ContractCode {
        match self {
            Self::Cocoon => crate::code::wallet(),
            Self::Published => crate::code::published_wallet(),
            Self::V4R2 => code::v4r2(),
            Self::V5R1 => code::v5r1(),
        }
    }
}

impl std::fmt::Display for WalletKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One wallet in the basechain, whether or not it is deployed. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wallet {
    kind: WalletKind,
    public_key: [u8; 32],
    owner: Option<Address>,
    wallet_id: u32,
    init: StateInit,
}

/// Why a wallet cannot be told to send that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// More messages than the wallet sends at once.
    #[error("a {kind} wallet sends at most {} messages at once, not {given}", kind.max_messages())]
    TooManyMessages {
        /// The wallet's kind.
        kind: WalletKind,
        /// Messages given.
        given: usize,
    },
    /// The key is not the wallet's.
    #[error("the key does not belong to the wallet {0}")]
    WrongKey(Address),
    /// A body, code or data that does not fit a message.
    #[error("a message for {to} cannot be built: {source}")]
    Message {
        /// Its receiver.
        to: Address,
        /// What does not fit.
        source: CellError,
    },
}

impl Wallet {
    /// Our node wallet. `owner` may always send for it and take its coins.
    pub fn cocoon(public_key: [u8; 32], owner: Address) -> Self {
        Self::owned(WalletKind::Cocoon, public_key, owner)
    }

    /// The published node wallet. `owner` may always send for it and take its coins.
    pub fn published(public_key: [u8; 32], owner: Address) -> Self {
        Self::owned(WalletKind::Published, public_key, owner)
    }

    /// A v4r2 wallet.
    pub fn v4r2(public_key: [u8; 32]) -> Self {
        let data = Writer::new()
            .uint(0, 32) // seqno
            .uint(u64::from(V4R2_WALLET_ID), 32)
            .bytes(&public_key)
            .uint(0, 1) // no plugins
            .build();
        Self::new(WalletKind::V4R2, public_key, None, V4R2_WALLET_ID, data)
    }

    /// A v5r1 wallet for the network with that number ([`MAINNET_ID`], [`TESTNET_ID`]).
    pub fn v5r1(public_key: [u8; 32], network_id: i32) -> Self {
        let wallet_id = network_id.cast_unsigned() ^ V5R1_CONTEXT;
        let data = Writer::new()
            .uint(1, 1) // the key may sign
            .uint(0, 32) // seqno
            .uint(u64::from(wallet_id), 32)
            .bytes(&public_key)
            .uint(0, 1) // no extensions
            .build();
        Self::new(WalletKind::V5R1, public_key, None, wallet_id, data)
    }

    fn owned(kind: WalletKind, public_key: [u8; 32], owner: Address) -> Self {
        let data = Writer::new()
            .uint(0, 32) // seqno
            .uint(u64::from(COCOON_SUBWALLET), 32)
            .bytes(&public_key)
            .uint(0, 32) // status
            .address(&owner)
            .build();
        Self::new(kind, public_key, Some(owner), COCOON_SUBWALLET, data)
    }

    fn new(
        kind: WalletKind,
        public_key: [u8; 32],
        owner: Option<Address>,
        wallet_id: u32,
        data: Cell,
    ) -> Self {
        let init = StateInit { code: kind.code().cell().clone(), data };
        Self { kind, public_key, owner, wallet_id, init }
    }

    /// Which contract it is.
    pub const fn kind(&self) -> WalletKind {
        self.kind
    }

    /// The Ed25519 key that the wallet obeys.
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// Who else commands the wallet; `None` for v4r2 and v5r1.
    pub const fn owner(&self) -> Option<Address> {
        self.owner
    }

    /// Where it is.
    pub fn address(&self) -> Address {
        self.init.address()
    }

    /// What it is deployed with.
    pub const fn state_init(&self) -> &StateInit {
        &self.init
    }

    /// Most messages that the wallet sends at once.
    pub const fn max_messages(&self) -> usize {
        self.kind.max_messages()
    }

    /// The sequence number that the next message from outside must have, from the deployed contract's data. A wallet
    /// that is not deployed has the number 0.
    ///
    /// # Errors
    /// When the data does not have the layout of such a wallet.
    pub fn seqno_from_data(&self, data: &Cell) -> Result<u32, CellError> {
        let mut reader = Reader::new(data, "the wallet's data")?;
        if self.kind == WalletKind::V5R1 {
            reader.bit("is_signature_allowed")?;
        }
        reader.u32("seqno")
    }

    /// A message from outside that has the wallet send `messages` while its sequence number is `seqno` and the chain's
    /// time is before `valid_until` (Unix seconds): [`Self::sign_body`] in [`Self::external`].
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign(
        &self,
        key: &SigningKey,
        seqno: u32,
        valid_until: u32,
        messages: &[OutMessage],
    ) -> Result<Cell, SignError> {
        self.external(seqno, &self.sign_body(key, seqno, valid_until, messages)?)
    }

    /// The body of such a message, by which its transaction is recognised. No message's failure undoes the others:
    /// [`MODE_IGNORE_ERRORS`] is added to each mode, because the same signed message could otherwise run again and
    /// again until it expires, and burn fees each time.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign_body(
        &self,
        key: &SigningKey,
        seqno: u32,
        valid_until: u32,
        messages: &[OutMessage],
    ) -> Result<Cell, SignError> {
        if key.verifying_key().as_bytes() != &self.public_key {
            return Err(SignError::WrongKey(self.address()));
        }
        self.body(|fields| key.sign(&fields.repr_hash().0).to_bytes(), seqno, valid_until, messages)
    }

    /// The message from outside with that body. The one with the sequence number 0 brings the contract along.
    ///
    /// # Errors
    /// [`SignError::Message`] for a body that no wallet of this kind was ever sent.
    pub fn external(&self, seqno: u32, body: &Cell) -> Result<Cell, SignError> {
        let init = (seqno == 0).then_some(&self.init);
        external_message(&self.address(), init, body)
            .map_err(|source| SignError::Message { to: self.address(), source })
    }

    /// The body with the signature that `signature` makes of the cell with all other fields.
    fn body(
        &self,
        signature: impl FnOnce(&Cell) -> [u8; 64],
        seqno: u32,
        valid_until: u32,
        messages: &[OutMessage],
    ) -> Result<Cell, SignError> {
        if messages.len() > self.max_messages() {
            return Err(SignError::TooManyMessages { kind: self.kind, given: messages.len() });
        }
        let cells = messages
            .iter()
            .map(|message| {
                let cell =
                    message.to_cell().map_err(|source| SignError::Message { to: message.to, source })?;
                Ok((u64::from(message.mode | MODE_IGNORE_ERRORS), cell))
            })
            .collect::<Result<Vec<_>, SignError>>()?;

        let numbers = |writer: Writer| {
            writer
                .uint(u64::from(self.wallet_id), 32)
                .uint(u64::from(valid_until), 32)
                .uint(u64::from(seqno), 32)
        };
        Ok(if self.kind == WalletKind::V5R1 {
            let actions = action_list(cells);
            let fields = || {
                numbers(Writer::new().uint(u64::from(V5R1_OP_SIGNED), 32))
                    .maybe_reference(actions.as_ref())
                    .uint(0, 1) // nothing about extensions
            };
            fields().bytes(&signature(&fields().build())).build()
        } else {
            let fields = |writer: Writer| {
                let writer = numbers(writer);
                let writer = if self.kind == WalletKind::V4R2 {
                    writer.uint(0, 8) // plainly send
                } else {
                    writer
                };
                cells
                    .iter()
                    .fold(writer, |writer, (mode, cell)| writer.uint(*mode, 8).reference(cell.clone()))
            };
            fields(Writer::new().bytes(&signature(&fields(Writer::new()).build()))).build()
        })
    }
}

/// The list of actions that a v5r1 wallet runs: each cell refers to the one before; `None` for no action.
fn action_list(messages: Vec<(u64, Cell)>) -> Option<Cell> {
    (!messages.is_empty()).then(|| {
        messages.into_iter().fold(Writer::new().build(), |before, (mode, message)| {
            Writer::new()
                .reference(before)
                .uint(u64::from(ACTION_SEND_MESSAGE), 32)
                .uint(mode, 8)
                .reference(message)
                .build()
        })
    })
}
