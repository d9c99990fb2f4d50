//! The vsteer appliance.
fn main() {}
