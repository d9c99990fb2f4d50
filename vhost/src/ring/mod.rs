//! Virtqueues.
//!
//! A ring is walked by our own code, a burst at a time: every descriptor is read once, the used index is published once
//! per burst. Modules in the order in which a burst meets them.
//!
//! # Source
//! virtio 1.3 §2.7 "Split Virtqueues".

/// Where a ring's three parts lie, and the only code that touches them.
mod layout;

/// What a guest did wrong.
mod fault;

/// Chains that were looked at but not taken, on their way into the cache.
mod ahead;

/// The split ring: which chains are available, which are given back.
mod split;

/// From a head descriptor to the pieces of memory its chain describes.
mod chain;

/// Kicks (guest to us) and calls (us to guest): who wants to be told.
mod notify;

pub(crate) use self::ahead::AvailChain;
pub(crate) use self::chain::Access;
pub use self::fault::{RingFault, RingPart};
pub(crate) use self::layout::RingSetup;
pub(crate) use self::split::{RingFeatures, SplitRing};
