//! Intel TDX: reading quotes and verifying them.
//!
//! Two independent readings of the same evidence must agree before a quote is accepted: this module's own, step by step
//! and each step a named check of the verdict, and that of the `dcap-qvl` library as a whole. A step that cannot be made
//! for lack of collateral is shown as skipped, and the verdict is a refusal.

mod quote;

pub use quote::{QuoteError, Register, Td15Measurements, TdBody, TdxMeasurements, TdxQuote};
