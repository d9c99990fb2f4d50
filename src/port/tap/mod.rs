//! TAP ports: the host itself as a neighbour on the switch.

/// Opens an interface and sets it up.
pub mod interface;

/// One queue: frames from the host into a burst, frames from the switch to the host.
pub mod queue;

#[cfg(test)]
mod tests;

pub use self::interface::{Tap, TapConfig, TapError};
pub use self::queue::{RxOutcome, TapQueue, TapReceiver, TapTransmitter, TxOutcome};
