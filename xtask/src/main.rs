//! Every command a developer or CI types.
fn main() {}
