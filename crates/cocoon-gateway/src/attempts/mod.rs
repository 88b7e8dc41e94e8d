//! Whether a request that failed is sent again, where to, and when: decisions without I/O, clock or randomness.
//!
//! - [`RetryBudget`]: how many second attempts all requests together may make, so that they cannot multiply an outage.
//! - [`Breakers`]: which proxies are left alone for a while because what went there failed.
//! - [`Plan`]: what one request does after a failure.
//!
//! `dispatch` carries out what is decided here.

mod breaker;
mod budget;
mod plan;

pub(crate) use breaker::Breakers;
pub(crate) use budget::RetryBudget;
pub(crate) use plan::{Plan, Step, Why};
