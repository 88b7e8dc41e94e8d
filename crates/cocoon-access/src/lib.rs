//! Who may use a gateway, how fast, and for how many coins: API keys, their limits and budgets, and what was used.
//!
//! All of it is arithmetic on what is handed in: no clock, no randomness, no disk. [`Desk`] is the one place where it comes
//! together; the gateway asks it at each step of a request and writes down what it says has changed.
//!
//! **A budget holds whatever happens at the same time**, because coins are set aside before a request is sent: the most
//! that it can cost ([`Desk::hold`]). What it did cost replaces that at its end ([`Desk::settle`]). What was set aside when
//! the process died counts as spent ([`Spending::unsettled_nanoton`]), so that a crash can make a budget smaller, never
//! larger.

mod day;
mod desk;
mod key;
mod pattern;
mod purse;
mod rate;
mod record;
mod stored;
mod usage;

pub use day::{Day, Moment, NotADay};
pub use desk::{
    BadEntry, ChangeError, Denied, Desk, KeyView, MAX_KEYS, MAX_SUMS, Refused, RequestEnd, Ticket, Unwritten,
};
pub use key::{KeyHash, KeySecret, SECRET_PREFIX, SecretError};
pub use pattern::{BadPattern, ModelPattern};
pub use purse::{Budget, Exhausted, Settled, Spending};
pub use rate::{Bucket, RateView};
pub use record::{ENDPOINTS, KeyId, KeyRecord, KeySettings, METRICS, SettingsError, is_endpoint};
pub use stored::{StoredChange, day_prefix, key_entry, usage_entry};
pub use usage::{Counts, DayUsage, MAX_ROWS, OTHER_MODELS, UsageRow};
