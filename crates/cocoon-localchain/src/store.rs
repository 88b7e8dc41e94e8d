//! The chain on disk: one SQLite file, one commit per block.
//!
//! A commit holds the block, its transactions, the accounts that changed and the change of the queue, and is synced
//! before anybody learns of the block. So whatever moment the process is killed at, the file holds the chain as after
//! some block. Inputs that wait for a block are not stored: as on the network, a message is safe once its transaction
//! is seen.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use cocoon_ton::cell::encode_boc;
use cocoon_ton::{Address, Cell};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tycho_types::boc::Boc;

use crate::core::{Block, BlockHeader, CommittedTransaction, Core, Restored};

/// Marks a file as ours ("COLC"), in SQLite's header.
const APPLICATION_ID: i64 = 0x434f_4c43;
/// The newest format that this program knows.
const FORMAT: i64 = 1;
/// How long to wait for another process to let go of the file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Amounts and times are below 2^63: all coins there are fit, and logical times rise by some millions per block.
const SCHEMA: &str = "
    CREATE TABLE totals (one INTEGER PRIMARY KEY CHECK (one = 1), collected INTEGER NOT NULL) STRICT;
    INSERT INTO totals VALUES (1, 0);
    CREATE TABLE blocks (seqno INTEGER PRIMARY KEY, unix_time INTEGER NOT NULL, start_lt INTEGER NOT NULL,
        end_lt INTEGER NOT NULL, transactions INTEGER NOT NULL, previous BLOB NOT NULL, hash BLOB NOT NULL) STRICT;
    CREATE TABLE accounts (address BLOB PRIMARY KEY, state BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE queue (lt INTEGER NOT NULL, hash BLOB NOT NULL, message BLOB NOT NULL, PRIMARY KEY (lt, hash))
        STRICT, WITHOUT ROWID;
    CREATE TABLE transactions (number INTEGER PRIMARY KEY, block INTEGER NOT NULL, account BLOB NOT NULL,
        lt INTEGER NOT NULL, hash BLOB NOT NULL, boc BLOB NOT NULL) STRICT;
    CREATE UNIQUE INDEX transactions_of_account ON transactions (account, lt);
    CREATE INDEX transactions_of_block ON transactions (block);
";

/// The file.
#[derive(Debug)]
pub(crate) struct Store(Connection);

/// Which transactions of an account to read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Span {
    /// Those with a larger logical time, oldest first.
    After(u64),
    /// The one of this logical time, and older ones down to but without the second time, newest first.
    From(u64, u64),
}

impl Store {
    /// Opens or creates the file (`None`: a chain that ends with the process), of at most `max_bytes`, and reads the
    /// chain in it; `None` where there is none yet.
    pub(crate) fn open(path: Option<&Path>, max_bytes: u64) -> Result<(Self, Option<Restored>), StoreError> {
        let connection = match path {
            Some(path) => {
                create_private(path)?;
                Connection::open(path)?
            }
            None => Connection::open_in_memory()?,
        };
        connection.busy_timeout(LOCK_TIMEOUT)?;
        // The lock is held as long as the process lives: nobody else can continue the same chain.
        connection.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let pragma = |name| connection.pragma_query_value::<i64, _>(None, name, |row| row.get(0));
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        match (tables, pragma("application_id")?, pragma("user_version")?) {
            (0, 0, 0) => {
                let script = format!(
                    "BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; \
                     PRAGMA user_version = {FORMAT}; COMMIT;"
                );
                connection.execute_batch(&script)?;
            }
            (_, APPLICATION_ID, FORMAT) => {}
            (_, APPLICATION_ID, found) if found > FORMAT => return Err(StoreError::Newer { found }),
            _ => return Err(StoreError::NotAChain),
        }
        let page_bytes: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = i64::try_from(max_bytes).unwrap_or(i64::MAX) / page_bytes.max(1);
        connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
        let store = Self(connection);
        let restored = store.load()?;
        Ok((store, restored))
    }

    /// Makes room for a test that ran out of it.
    #[cfg(test)]
    pub(crate) fn raise_limit(&self) {
        self.0.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).unwrap();
    }

    fn load(&self) -> Result<Option<Restored>, StoreError> {
        let head = self.0.query_row("SELECT * FROM blocks ORDER BY seqno DESC LIMIT 1", [], header);
        let Some(head) = head.optional()? else { return Ok(None) };
        let collected = self.0.query_row("SELECT collected FROM totals", [], |row| row.get(0))?;
        let mut select = self.0.prepare("SELECT address, state FROM accounts")?;
        let rows = select.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        let accounts = rows.map(|row| {
            let (address, state) = row?;
            Ok((address_from(&address)?, cell_from(&state)?))
        });
        let accounts = accounts.collect::<Result<Vec<_>, StoreError>>()?;
        let mut select = self.0.prepare("SELECT lt, hash, message FROM queue")?;
        let rows =
            select.query_map([], |row| Ok((unsigned(row, 0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?)))?;
        let queue = rows.map(|row| {
            let (lt, hash, message) = row?;
            Ok(((lt, hash), cell_from(&message)?))
        });
        let queue = queue.collect::<Result<Vec<_>, StoreError>>()?;
        let collected_nanoton = nonnegative(collected)?;
        Ok(Some(Restored { head, collected_nanoton, accounts, queue }))
    }

    /// Stores the first block, which has only accounts.
    pub(crate) fn begin(&mut self, core: &Core) -> Result<(), StoreError> {
        let block = Block {
            header: *core.head(),
            transactions: Vec::new(),
            refused: Vec::new(),
            changed: vec![crate::core::faucet()],
            delivered: Vec::new(),
            queued: Vec::new(),
        };
        self.commit(&block, core)
    }

    /// Stores a block, with the accounts as they are after it. Returns once it is on disk.
    pub(crate) fn commit(&mut self, block: &Block, core: &Core) -> Result<(), StoreError> {
        let transaction = self.0.transaction()?;
        let head = &block.header;
        let collected = signed(core.collected_nanoton())?;
        transaction.execute("UPDATE totals SET collected = ?1", [collected])?;
        transaction.execute(
            "INSERT INTO blocks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                head.seqno,
                head.unix_time,
                signed(head.start_lt)?,
                signed(head.end_lt)?,
                head.transactions,
                head.previous,
                head.hash
            ],
        )?;
        {
            let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO accounts VALUES (?1, ?2)")?;
            for &address in &block.changed {
                let cell =
                    core.account_cell(address).map_err(|error| StoreError::Broken(error.to_string()))?;
                put.execute(params![address_bytes(address), encode_boc(&cell)])?;
            }
            let mut remove = transaction.prepare_cached("DELETE FROM queue WHERE lt = ?1 AND hash = ?2")?;
            for (lt, hash) in &block.delivered {
                remove.execute(params![signed(*lt)?, hash])?;
            }
            let mut add = transaction.prepare_cached("INSERT INTO queue VALUES (?1, ?2, ?3)")?;
            for ((lt, hash), message) in &block.queued {
                add.execute(params![signed(*lt)?, hash, encode_boc(message)])?;
            }
            let mut add = transaction.prepare_cached(
                "INSERT INTO transactions (block, account, lt, hash, boc) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for made in &block.transactions {
                let account = address_bytes(made.account);
                add.execute(params![
                    head.seqno,
                    account,
                    signed(made.lt)?,
                    made.hash,
                    encode_boc(&made.cell)
                ])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Transactions of `address`, at most `limit`.
    pub(crate) fn transactions(
        &self,
        address: Address,
        span: Span,
        limit: usize,
    ) -> Result<Vec<CommittedTransaction>, StoreError> {
        let (low, high, order) = match span {
            Span::After(lt) => (lt, u64::MAX, "ASC"),
            Span::From(newest, down_to) => (down_to, newest, "DESC"),
        };
        let mut select = self.0.prepare_cached(&format!(
            "SELECT account, lt, hash, boc FROM transactions WHERE account = ?1 AND lt > ?2 AND lt <= ?3 \
             ORDER BY lt {order} LIMIT ?4"
        ))?;
        let clamped = |lt: u64| i64::try_from(lt).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows =
            select.query_map(params![address_bytes(address), clamped(low), clamped(high), limit], stored)?;
        rows.map(|row| committed(row?)).collect()
    }

    /// The block with that sequence number.
    pub(crate) fn block(&self, seqno: u32) -> Result<Option<BlockHeader>, StoreError> {
        Ok(self.0.query_row("SELECT * FROM blocks WHERE seqno = ?1", [seqno], header).optional()?)
    }

    /// The first block up to `newest` for which `reached` holds. Once it holds, it must hold from there on.
    pub(crate) fn first_block(
        &self,
        newest: u32,
        reached: impl Fn(&BlockHeader) -> bool,
    ) -> Result<Option<BlockHeader>, StoreError> {
        let missing = |seqno| StoreError::Broken(format!("block {seqno} is missing"));
        let (mut low, mut high, mut found) = (0, u64::from(newest) + 1, None);
        while low < high {
            let middle = low.midpoint(high);
            // At most `newest`.
            let seqno = u32::try_from(middle).unwrap_or(newest);
            let block = self.block(seqno)?.ok_or_else(|| missing(seqno))?;
            if reached(&block) {
                (high, found) = (middle, Some(block));
            } else {
                low = middle + 1;
            }
        }
        Ok(found)
    }

    /// Transactions of that block in the order of execution, at most `limit`.
    pub(crate) fn block_transactions(
        &self,
        seqno: u32,
        limit: usize,
    ) -> Result<Vec<CommittedTransaction>, StoreError> {
        let mut select = self.0.prepare_cached(
            "SELECT account, lt, hash, boc FROM transactions WHERE block = ?1 ORDER BY number LIMIT ?2",
        )?;
        let rows = select.query_map(params![seqno, i64::try_from(limit).unwrap_or(i64::MAX)], stored)?;
        rows.map(|row| committed(row?)).collect()
    }
}

/// Creates the file where it is missing, readable by its owner only.
fn create_private(path: &Path) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?;
    Ok(())
}

type StoredTransaction = (Vec<u8>, u64, [u8; 32], Vec<u8>);

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredTransaction> {
    Ok((row.get(0)?, unsigned(row, 1)?, row.get(2)?, row.get(3)?))
}

fn committed((account, lt, hash, boc): StoredTransaction) -> Result<CommittedTransaction, StoreError> {
    Ok(CommittedTransaction { account: address_from(&account)?, lt, hash, cell: cell_from(&boc)? })
}

fn header(row: &Row<'_>) -> rusqlite::Result<BlockHeader> {
    Ok(BlockHeader {
        seqno: row.get(0)?,
        unix_time: row.get(1)?,
        start_lt: unsigned(row, 2)?,
        end_lt: unsigned(row, 3)?,
        transactions: row.get(4)?,
        previous: row.get(5)?,
        hash: row.get(6)?,
    })
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

fn nonnegative(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Broken(format!("negative number {value}")))
}

fn signed(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Broken(format!("number {value} over 63 bits")))
}

fn address_bytes(address: Address) -> [u8; 33] {
    let mut bytes = [0; 33];
    bytes[0] = address.workchain().to_be_bytes()[0];
    bytes[1..].copy_from_slice(address.hash());
    bytes
}

fn address_from(bytes: &[u8]) -> Result<Address, StoreError> {
    let broken = || StoreError::Broken("an account's address".to_owned());
    let (workchain, hash) = bytes.split_first().ok_or_else(broken)?;
    let hash = hash.try_into().map_err(|_| broken())?;
    Address::new(i8::from_be_bytes([*workchain]), hash).map_err(|_| broken())
}

/// Reads what this program wrote; contracts may nest deeper than messages from outside.
fn cell_from(bytes: &[u8]) -> Result<Cell, StoreError> {
    Boc::decode(bytes).map_err(|error| StoreError::Broken(error.to_string()))
}

/// Why the chain cannot be read from or written to its file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be created or read.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// SQLite failed; where the database is locked, another process runs this chain.
    #[error("{0}{hint}", hint = lock_hint(.0))]
    Sqlite(#[from] rusqlite::Error),
    /// Another program's file.
    #[error("the file is not a chain of this program; choose another path")]
    NotAChain,
    /// A later version of this program wrote it.
    #[error("the file has format {found}, and this program knows {FORMAT}; use a newer version of it")]
    Newer {
        /// The file's format.
        found: i64,
    },
    /// What is stored cannot be.
    #[error("the file is damaged ({0}); restore it from a backup, or remove it to begin a new chain")]
    Broken(String),
}

impl StoreError {
    /// Whether there is no room, or the file has reached its limit.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Sqlite(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
    }
}

fn lock_hint(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            ": another process runs this chain; end that one first"
        }
        _ => "",
    }
}
