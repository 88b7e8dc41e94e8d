//! The `cocoon` binary.
fn main() {}
