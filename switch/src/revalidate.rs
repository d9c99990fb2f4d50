//! Checking megaflows against the present state of the switch; the thread that does so is the caller's.
//!
//! The revalidator holds a reference to every megaflow. Whenever the configuration or the forwarding database changed
//! since a flow was last checked (`Megaflow::seen` for a new one), it asks `still_valid` and kills those that are
//! not. From time to time it calls `refresh_source`, as packets that only the caches see would otherwise let their
//! addresses age.

use crate::fdb::{Fdb, Learned};
use crate::megaflow::Megaflow;
use crate::slow_path;
use crate::vlan::SwitchConfig;

/// Whether a packet of `flow` would be decided in the same way today.
///
/// The flow's own masked key stands for all its packets: translation gives keys that agree under a mask the same
/// verdict. A flow whose source is now known at another port counts as over, too: should the station come back, its
/// packets must miss, or nobody would learn that it moved.
pub fn still_valid(flow: &Megaflow, config: &SwitchConfig, fdb: &Fdb) -> bool {
    let now = slow_path::translate(flow.key(), config, fdb);
    let moved = flow.source().is_some_and(|source| {
        fdb.entry(source.vlan, source.mac).is_some_and(|entry| !entry.is_static && entry.port != source.port)
    });
    !moved && now.verdict == *flow.verdict() && now.mask == **flow.mask() && now.learn == flow.source()
}

/// Keeps the source address of a living flow as fresh as its last packet; learns it again if it was flushed or had found
/// no place. Returns whether the forwarding database changed.
///
/// `used_since_ms` is when the caller last refreshed this flow: one without packets since then teaches nothing.
pub fn refresh_source(flow: &Megaflow, used_since_ms: u64, config: &SwitchConfig, fdb: &Fdb) -> bool {
    let used_ms = flow.stats().last_used_ms;
    let Some(source) = flow.source().filter(|_| used_ms >= used_since_ms && flow.is_alive()) else {
        return false;
    };
    match fdb.entry(source.vlan, source.mac) {
        // Known elsewhere: only a packet that misses may move an address, not the memory of an older one.
        Some(entry) if entry.port != source.port => false,
        Some(_) => {
            fdb.touch(source.vlan, source.mac, source.port, used_ms);
            false
        }
        None => slow_path::learn(source, used_ms, config, fdb) == Learned::New,
    }
}
