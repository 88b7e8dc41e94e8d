//! Message bodies: round trips, bodies made by the contracts and their own tests, and bodies that are none.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "messages/fixture.rs"]
mod fixture;
#[path = "messages/hostile.rs"]
mod hostile;
#[path = "messages/round_trips.rs"]
mod round_trips;
