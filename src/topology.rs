//! Which ports there are, which worker receives from which queue, the rules, and what ports and tables are called, as a
//! snapshot.
//!
//! Control threads never make a worker wait. They publish a new snapshot; each worker takes it over between two bursts and
//! says so; when all have, nobody uses what the new snapshot left out, and it can be let go. Snapshots share what they have
//! in common: one that only differs in its rules has the same ports and assignments, not equal ones, and a worker that
//! takes it over leaves its queues alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use vsteer_switch::bridge::config::SwitchConfig;
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::port::PortId;
use vsteer_switch::rule::set::RuleSet;
use vsteer_switch::state::SwitchState;

use crate::assignment::{RxPort, deal_out};
use crate::port::Port;
use crate::port_numbers::PortNumbers;
use crate::table_names::{RuleNames, TableNames};

/// A snapshot of ports, assignments and rules.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Counts snapshots.
    pub epoch: u64,
    /// Ports by number.
    pub ports: Arc<[Option<Arc<Port>>]>,
    /// Names of all numbers, those of ports that are gone included.
    pub numbers: Arc<PortNumbers>,
    /// Names of tables.
    pub table_names: Arc<TableNames>,
    /// What the slow path knows of the ports. Its generation is the epoch of the snapshot that it was made for.
    pub switch: Arc<SwitchConfig>,
    /// What each worker receives from, by the worker's index.
    pub assignments: Arc<[Vec<RxPort>]>,
    /// The rules.
    pub rules: Arc<RuleSet>,
}

impl Topology {
    /// The first snapshot: no ports, and the rules of a learning switch.
    pub fn empty(workers: usize) -> Self {
        Self {
            epoch: 0,
            ports: Arc::default(),
            numbers: Arc::default(),
            table_names: Arc::default(),
            switch: Arc::new(SwitchConfig::new(0, [])),
            assignments: vec![Vec::new(); workers].into(),
            rules: Arc::new(RuleSet::learning_switch(0)),
        }
    }

    /// The port numbered `id`.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Arc<Port>> {
        self.ports.get(id.index())?.as_ref()
    }

    /// All names that a rule may say.
    pub fn names(&self) -> RuleNames<'_> {
        RuleNames::new(&*self.numbers, &self.table_names)
    }

    /// What decisions rest on: this snapshot's configuration and rules, and the addresses in `fdb`.
    #[inline]
    pub fn state<'a>(&'a self, fdb: &'a Fdb) -> SwitchState<'a> {
        SwitchState { config: &self.switch, fdb, rules: &self.rules }
    }

    /// The snapshot after this one that has `ports` in place of its own, their queues dealt out to the workers;
    /// `switch` makes what the slow path knows of them, with the generation that it is given.
    #[must_use]
    pub fn with_ports(
        &self,
        ports: &[Arc<Port>],
        numbers: Arc<PortNumbers>,
        switch: impl FnOnce(u64) -> SwitchConfig,
    ) -> Self {
        let table_len = ports.iter().map(|port| port.id.index() + 1).max().unwrap_or(0);
        let mut table = vec![None; table_len];
        for port in ports {
            table[port.id.index()] = Some(Arc::clone(port));
        }
        let epoch = self.epoch + 1;
        Self {
            epoch,
            ports: table.into(),
            numbers,
            table_names: Arc::clone(&self.table_names),
            switch: Arc::new(switch(epoch)),
            assignments: deal_out(ports, self.assignments.len()).into(),
            rules: Arc::clone(&self.rules),
        }
    }

    /// The snapshot after this one that has `rules` in place of its own.
    #[must_use]
    pub fn with_rules(&self, rules: RuleSet) -> Self {
        Self { epoch: self.epoch + 1, rules: Arc::new(rules), ..self.clone() }
    }
}

/// The current snapshot.
///
/// # Concurrency
/// Control threads and the revalidator publish, one at a time: who changes a snapshot holds the lock from the look at the
/// old one until the new one is out, so no change is lost. Workers look at `epoch` before each round, which costs a
/// load, and take the snapshot only when it moved. Replaced snapshots wait here until their last user has let go, so that
/// none is ever freed by a worker: that can be a hundred thousand rules.
#[derive(Debug)]
pub struct Published {
    current: ArcSwap<Topology>,
    epoch: AtomicU64,
    /// Held while publishing; the replaced snapshots that may be in use.
    replaced: Mutex<Vec<Arc<Topology>>>,
}

impl Published {
    /// Starts with `topology`.
    pub fn new(topology: Topology) -> Self {
        Self {
            epoch: AtomicU64::new(topology.epoch),
            current: ArcSwap::from_pointee(topology),
            replaced: Mutex::default(),
        }
    }

    /// Replaces the snapshot by what `change` makes of it, if anything, and returns the number of the one that is then
    /// current. Also frees the snapshots that nobody uses any more.
    ///
    /// # Errors
    /// That of `change`; nothing is replaced.
    pub fn update<E>(&self, change: impl FnOnce(&Topology) -> Result<Option<Topology>, E>) -> Result<u64, E> {
        let mut replaced = self.replaced.lock();
        let old = self.current.load_full();
        let changed = change(&old)?;
        let epoch = changed.as_ref().map_or(old.epoch, |new| new.epoch);
        if let Some(new) = changed {
            debug_assert!(epoch > old.epoch);
            self.current.store(Arc::new(new));
            replaced.push(old);
            // Release: the snapshot is in place before the number says so; partner: the acquire load in `epoch`.
            self.epoch.store(epoch, Ordering::Release);
        }
        free_unused(&mut replaced);
        Ok(epoch)
    }

    /// Frees replaced snapshots that nobody uses any more.
    pub fn free_replaced(&self) {
        free_unused(&mut self.replaced.lock());
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

fn free_unused(replaced: &mut Vec<Arc<Topology>>) {
    // Nobody can come by a replaced snapshot again, so a count of one stays one.
    replaced.retain(|old| Arc::strong_count(old) > 1);
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn learning() -> RuleSet {
        RuleSet::learning_switch(0)
    }

    #[test]
    fn change_of_rules_leaves_ports_and_assignments_the_very_same() {
        let published = Published::new(Topology::empty(2));
        let old = published.load();
        let epoch = published.update(|topology| Ok::<_, Infallible>(Some(topology.with_rules(learning()))));
        let new = published.load();
        assert_eq!((epoch, published.epoch(), new.epoch), (Ok(1), 1, 1));
        assert!(Arc::ptr_eq(&old.assignments, &new.assignments) && Arc::ptr_eq(&old.switch, &new.switch));
        assert!(!Arc::ptr_eq(&old.rules, &new.rules));
    }

    #[test]
    fn replaced_snapshot_is_freed_by_a_publisher_and_only_when_its_last_user_has_let_go() {
        let published = Published::new(Topology::empty(1));
        let in_use = published.load();
        let rules = Arc::downgrade(&in_use.rules);
        let change = || published.update(|old| Ok::<_, Infallible>(Some(old.with_rules(learning()))));
        change().unwrap();
        drop(in_use);
        assert!(rules.upgrade().is_some(), "the user does not free it");
        published.free_replaced();
        assert!(rules.upgrade().is_none());
    }

    #[test]
    fn refused_change_replaces_nothing() {
        let published = Published::new(Topology::empty(1));
        assert_eq!(published.update(|_| Err("no")), Err("no"));
        assert_eq!(published.update(|_| Ok::<_, Infallible>(None)), Ok(0));
    }
}
