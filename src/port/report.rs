//! How a port stands, in plain values: what its owner tells, and readers convert to what their own readers want.

use std::sync::Arc;

use vsteer_switch::counters::PortCounters;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::port::PortId;

use crate::config::PortSpec;

/// A port in full.
#[derive(Debug, Clone)]
pub struct PortReport {
    /// Its number.
    pub id: PortId,
    /// What the operator asked for.
    pub spec: Arc<PortSpec>,
    /// Queues that the other side may use, in each direction.
    pub queues: usize,
    /// What the driver says.
    pub status: DriverStatus,
    /// Packets and drops.
    pub counters: CounterSums,
}

/// What a driver says of itself.
#[derive(Debug, Clone, Default)]
pub struct DriverStatus {
    /// Whether packets can pass.
    pub link: Link,
    /// Why they cannot, or why they could not before the other side went.
    pub fault: Option<String>,
    /// What the driver is at, where it is not just moving packets.
    pub activity: Option<String>,
    /// Features in use, by their names in the virtio specification.
    pub features: Vec<&'static str>,
    /// Queues that the other side uses, in each direction.
    pub live_queues: usize,
}

impl DriverStatus {
    /// The same, with what a wrapper is at behind what the driver is at.
    #[must_use]
    pub fn with_activity(self, text: String) -> Self {
        let activity = match self.activity {
            Some(activity) => format!("{activity}; {text}"),
            None => text,
        };
        Self { activity: Some(activity), ..self }
    }
}

/// Whether packets can pass a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// They can.
    #[default]
    Up,
    /// Nobody is at the other side yet, or again.
    Waiting,
    /// The other side broke a rule, or is gone for good.
    Stopped,
}

impl Link {
    /// The state in a word.
    pub fn name(self) -> &'static str {
        match self {
            Link::Up => "connected",
            Link::Waiting => "waiting",
            Link::Stopped => "stopped",
        }
    }
}

/// Something about a port that belongs into the log; see `Driver::take_news`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Packets cannot pass any more, for this reason.
    Stopped(String),
    /// The driver is done with what it had to do.
    Finished(String),
}

/// Counters of a port, all workers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterSums {
    /// Packets received from the port.
    pub rx_pkts: u64,
    /// Bytes of those packets.
    pub rx_bytes: u64,
    /// Packets sent to the port.
    pub tx_pkts: u64,
    /// Bytes of those packets.
    pub tx_bytes: u64,
    /// Packets dropped, by [`DropReason::index`].
    drops: [u64; DropReason::COUNT],
}

impl Default for CounterSums {
    fn default() -> Self {
        Self { rx_pkts: 0, rx_bytes: 0, tx_pkts: 0, tx_bytes: 0, drops: [0; DropReason::COUNT] }
    }
}

impl CounterSums {
    /// The sums over `shards`, one of each worker.
    pub fn of(shards: &[PortCounters]) -> Self {
        let mut sums = Self::default();
        for shard in shards {
            sums.rx_pkts += shard.rx_pkts.get();
            sums.rx_bytes += shard.rx_bytes.get();
            sums.tx_pkts += shard.tx_pkts.get();
            sums.tx_bytes += shard.tx_bytes.get();
            for &reason in DropReason::ALL {
                sums.drops[reason.index()] += shard.drops(reason);
            }
        }
        sums
    }

    /// Packets dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Adds those of another port.
    pub fn add(&mut self, other: &CounterSums) {
        self.rx_pkts += other.rx_pkts;
        self.rx_bytes += other.rx_bytes;
        self.tx_pkts += other.tx_pkts;
        self.tx_bytes += other.tx_bytes;
        for (mine, theirs) in self.drops.iter_mut().zip(other.drops) {
            *mine += theirs;
        }
    }

    /// Packets dropped for each reason that any was dropped for.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|&reason| (reason, self.drops[reason.index()]))
            .filter(|&(_, pkts)| pkts > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_over_all_workers_and_name_only_reasons_that_dropped() {
        let shards = [PortCounters::default(), PortCounters::default()];
        shards[0].rx_pkts.add(1);
        shards[1].rx_pkts.add(2);
        shards[0].tx_bytes.add(60);
        shards[1].dropped(DropReason::TooLong, 5);
        let sums = CounterSums::of(&shards);
        assert_eq!((sums.rx_pkts, sums.tx_bytes), (3, 60));
        assert_eq!(sums.drops().collect::<Vec<_>>(), [(DropReason::TooLong, 5)]);
        let mut both = sums;
        both.add(&sums);
        assert_eq!((both.rx_pkts, both.tx_bytes, both.dropped()), (6, 120, 10));
    }
}
