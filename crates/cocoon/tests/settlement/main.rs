//! Settlement with every role and the chain as a process of its own.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod fleet;
mod kills;
mod load;
mod old_books;
