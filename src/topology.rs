//! Which ports there are and which worker receives from which queue, as a snapshot.
//!
//! Control threads never make a worker wait. They publish a new snapshot; each worker takes it over between two bursts and
//! says so; when all have, nobody uses what the new snapshot left out, and it can be let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use vsteer_switch::port::PortId;
use vsteer_switch::vlan::SwitchConfig;
use vsteer_vhost::net::port::PairSet;

use crate::port::{Port, switch_port};

/// The queues of one port that one worker receives from.
#[derive(Debug, Clone)]
pub struct RxPort {
    /// The port.
    pub port: Arc<Port>,
    /// Its queues, one bit each.
    pub queues: PairSet,
}

/// A snapshot of ports and assignments.
#[derive(Debug)]
pub struct Topology {
    /// Counts snapshots; also the generation of `switch`.
    pub epoch: u64,
    /// Ports by number.
    pub ports: Box<[Option<Arc<Port>>]>,
    /// What the slow path knows of the ports.
    pub switch: Arc<SwitchConfig>,
    /// What each worker receives from, by the worker's index.
    pub assignments: Box<[Vec<RxPort>]>,
}

impl Topology {
    /// The port numbered `id`.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Arc<Port>> {
        self.ports.get(id.index())?.as_ref()
    }

    /// The snapshot with `ports`, their queues dealt out to `workers` workers.
    ///
    /// Queue `q` of the `n`th port goes to worker `n + q`, so the first queues of the ports, often their only live ones,
    /// spread over all workers, as do the queues of one busy port.
    pub fn new(epoch: u64, ports: &[Arc<Port>], workers: usize) -> Self {
        let table_len = ports.iter().map(|port| port.id.index() + 1).max().unwrap_or(0);
        let mut table = vec![None; table_len];
        let mut assignments = vec![Vec::new(); workers];
        for (nth, port) in ports.iter().enumerate() {
            table[port.id.index()] = Some(Arc::clone(port));
            for (index, assigned) in assignments.iter_mut().enumerate() {
                let mut queues = PairSet::default();
                for queue in (0..port.queues()).filter(|queue| (nth + queue) % workers == index) {
                    queues[queue / 64] |= 1 << (queue % 64);
                }
                if queues != PairSet::default() {
                    assigned.push(RxPort { port: Arc::clone(port), queues });
                }
            }
        }
        let switch = SwitchConfig::new(epoch, ports.iter().map(|port| (port.id, switch_port(&port.spec))));
        Self { epoch, ports: table.into(), switch: Arc::new(switch), assignments: assignments.into() }
    }
}

/// The numbers in `queues`, lowest first.
#[inline]
pub fn members(queues: PairSet) -> impl Iterator<Item = usize> {
    queues.into_iter().enumerate().flat_map(|(index, word)| {
        std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)))
            .take_while(|&word| word != 0)
            .map(move |word| 64 * index + word.trailing_zeros() as usize)
    })
}

/// The current snapshot.
///
/// # Concurrency
/// Control threads publish, one at a time; workers look at `epoch` before each round, which costs a load, and take the
/// snapshot only when it moved.
#[derive(Debug)]
pub struct Published {
    current: ArcSwap<Topology>,
    epoch: AtomicU64,
}

impl Published {
    /// Starts with `topology`.
    pub fn new(topology: Topology) -> Self {
        Self { epoch: AtomicU64::new(topology.epoch), current: ArcSwap::from_pointee(topology) }
    }

    /// Replaces the snapshot.
    pub fn publish(&self, topology: Topology) {
        let epoch = topology.epoch;
        self.current.store(Arc::new(topology));
        // Release: the snapshot is in place before the number says so; partner: the acquire load in `epoch`.
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Number of the snapshot that [`load`](Self::load) gives, or of an older one.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The snapshot.
    pub fn load(&self) -> Arc<Topology> {
        self.current.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_set_come_in_order() {
        assert_eq!(members([0b1011, 1 << 63]).collect::<Vec<_>>(), [0, 1, 3, 127]);
        assert_eq!(members([0, 0]).count(), 0);
        assert_eq!(members([u64::MAX, u64::MAX]).count(), 128);
    }
}
