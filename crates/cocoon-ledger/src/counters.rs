//! What a client or a worker remembers of one proxy: its counters never fall.

use std::fmt;

use crate::codec::{DecodeError, Reader};
use crate::units::{MAX_COUNTER, OutOfRange};

/// Version of the encoding; the first byte.
const VERSION: u8 = 1;

/// The counters that one proxy has shown to this node, in adjusted tokens. The proxy's notices raise them;
/// a proxy that shows less than before has lost its database or was rolled back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerCounters {
    db: u64,
    max: u64,
    signed: u64,
}

/// Which counter of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Tokens in the proxy's database.
    Db,
    /// Tokens that the proxy knows of at most.
    Max,
    /// Tokens that the proxy has signed for.
    Signed,
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Db => "db_tokens",
            Self::Max => "max_tokens",
            Self::Signed => "signed tokens",
        })
    }
}

/// By how much an accepted notice raised the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CounterChange {
    /// Rise of the tokens in the proxy's database.
    pub db: u64,
    /// Rise of the tokens that the proxy knows of at most.
    pub max: u64,
    /// Rise of the tokens signed for.
    pub signed: u64,
}

/// Why a proxy's figures were refused. The remembered counters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CounterError {
    /// A counter fell.
    #[error("the proxy's {counter} went back from {known} to {shown}: its database was lost or rolled back")]
    WentBack {
        /// Which.
        counter: Counter,
        /// What the proxy had shown before.
        known: u64,
        /// What it shows now.
        shown: u64,
    },
    /// A counter is negative, or larger than a counter can be.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// More tokens in the database than known of.
    #[error("the proxy shows more db_tokens ({db}) than max_tokens ({max})")]
    DbAboveMax {
        /// Tokens in the proxy's database.
        db: u64,
        /// Tokens that the proxy knows of at most.
        max: u64,
    },
}

impl PeerCounters {
    /// Tokens in the proxy's database, as last shown.
    pub const fn db(&self) -> u64 {
        self.db
    }

    /// Tokens that the proxy knows of at most, as last shown.
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// Tokens of the newest signed payment.
    pub const fn signed(&self) -> u64 {
        self.signed
    }

    /// Takes the figures of a notice; `signed` is absent where it carries no signed payment.
    ///
    /// # Errors
    /// [`CounterError`]; nothing is remembered of the notice then.
    pub fn observe(
        &mut self,
        db_tokens: i64,
        max_tokens: i64,
        signed: Option<u64>,
    ) -> Result<CounterChange, CounterError> {
        let (db, max) = (counter("db_tokens", db_tokens)?, counter("max_tokens", max_tokens)?);
        if db > max {
            return Err(CounterError::DbAboveMax { db, max });
        }
        let signed = signed.unwrap_or(self.signed);
        let change = CounterChange {
            db: rise(Counter::Db, self.db, db)?,
            max: rise(Counter::Max, self.max, max)?,
            signed: rise(Counter::Signed, self.signed, signed)?,
        };
        *self = Self { db, max, signed };
        Ok(change)
    }

    /// Forgets what the proxy never had in its database. Call at the start of a connection to a proxy that
    /// answers a notice before it is durable (the published one does): a restart may honestly lose that part,
    /// and `max` may then begin again at `db`.
    pub fn begin_connection(&mut self) {
        self.max = self.db;
    }

    /// The binary form, 25 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for counter in [self.db, self.max, self.signed] {
            out.extend_from_slice(&counter.to_le_bytes());
        }
        out
    }

    /// Reads exactly one set of counters.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`PeerCounters::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let (db, max, signed) = (reader.u64()?, reader.u64()?, reader.u64()?);
        reader.end()?;
        if db > max || max > MAX_COUNTER {
            return Err(DecodeError::Contradiction(
                "db_tokens <= max_tokens <= largest counter does not hold",
            ));
        }
        Ok(Self { db, max, signed })
    }
}

fn counter(what: &'static str, value: i64) -> Result<u64, OutOfRange> {
    u64::try_from(value).map_err(|_| OutOfRange { what, value, min: 0, max: i64::MAX })
}

fn rise(counter: Counter, known: u64, shown: u64) -> Result<u64, CounterError> {
    shown.checked_sub(known).ok_or(CounterError::WentBack { counter, known, shown })
}
