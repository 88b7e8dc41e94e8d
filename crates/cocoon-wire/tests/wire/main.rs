//! The wire against three witnesses: the published scheme, captured bytes, and arbitrary messages.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    missing_docs
)]

mod capture;
mod corpus;
mod frames;
mod messages;
mod proof_of_work;
mod round_trips;
mod scheme;
mod strictness;
