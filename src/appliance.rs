//! The appliance: workers, ports and the revalidator, put together, and what can be asked of them.
//!
//! It answers in plain types. Whoever reads them, such as the commands of the control socket, turns them into a format of
//! its own. Called from any thread, several at once; calls answer from snapshots and counters, or publish a change, and
//! none waits for a worker longer than a burst takes.
//!
//! Whatever changes ports holds the lock of the port table from beginning to end; whatever changes the snapshot that workers
//! see does so by `Published::update`, so changes of rules, which need no port table, can come from any thread.

/// Why the appliance did not do what it was asked to.
pub mod refusal;

/// Ports: adding, removing, and how they do.
pub mod ports;

/// Learned and static addresses.
pub mod addresses;

/// Rules: adding, replacing, changing, removing, and what they count.
pub mod rules;

/// The megaflows of all workers.
pub mod megaflows;

/// Mirrors: adding and removing.
pub mod mirrors;

/// Reading the configuration again.
pub mod reload;

/// What would happen to a packet.
pub mod trace;

/// The header fields of a packet as text.
mod packet_text;

/// How the caches do.
pub mod caches;

/// What is watched while it happens: packets that rules hand out, and live rates.
pub mod watch;

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use parking_lot::Mutex;
use vsteer_switch::bridge::config::SwitchConfig;
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::port::{MAX_PORTS, PortId};
use vsteer_switch::rule::edit::Edit;
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::fragments::FragmentMode;
use vsteer_switch::rule::set::RuleSet;
use vsteer_switch::wire::vlan::VlanLimit;
use vsteer_vhost::net::queue::KickPoller;

use self::mirrors::switch_mirrors;
use self::refusal::Refusal;
use self::reload::{Configured, read_rules};
use self::rules::RulesChanged;
use crate::config::{Config, ConfigOrigin, FlowCacheConfig, MirrorSpec, PollMode};
use crate::fabric::{Alarm, Fabric};
use crate::notify::Trigger;
use crate::port::{OpenPort, Port, switch_port};
use crate::port_numbers::PortNumbers;
use crate::punt::{self, Punts};
use crate::revalidator::{self, Revalidator};
use crate::table_names::{RuleNames, TableNames};
use crate::topology::{Published, Topology};
use crate::worker::report::WorkerReport;
use crate::worker::{Message, WorkerHandle};

/// Addresses that can be learned in all.
const FDB_CAPACITY: usize = 32_768;

/// Longest that a control thread waits for the workers to take over a snapshot. They do so between two bursts.
const RETIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The running appliance; stops everything when dropped, ports last.
#[derive(Debug)]
pub struct Appliance {
    /// Where the configuration comes from, and what it said about what cannot change.
    origin: ConfigOrigin,
    started: Started,
    workers: Vec<WorkerHandle>,
    revalidator: Revalidator,
    fabric: Arc<Fabric>,
    ports: Mutex<PortTable>,
    /// Locked after `ports`.
    configured: Mutex<Configured>,
    /// Held while the configuration is read again; locked before `ports`.
    reloading: Mutex<()>,
    /// Watches of rates that are running.
    rate_watches: Arc<AtomicUsize>,
}

/// What the configuration said at the start about what cannot change while the switch runs.
#[derive(Debug)]
struct Started {
    workers: Vec<Option<usize>>,
    poll: PollMode,
    control: Option<PathBuf>,
    flow_cache: FlowCacheConfig,
}

/// The ports as control threads see them.
#[derive(Debug, Default)]
struct PortTable {
    open: Vec<OpenPort>,
    numbers: Arc<PortNumbers>,
    mirrors: Vec<MirrorSpec>,
    table_names: Arc<TableNames>,
    vlan_limit: VlanLimit,
    fragments: FragmentMode,
}

impl Appliance {
    /// Finds what would keep [`start`](Self::start) from succeeding now, and changes nothing.
    ///
    /// # Errors
    /// All that was found, one thing a line.
    pub fn check(config: &Config) -> Result<(), Refusal> {
        let mut numbers = PortNumbers::default();
        config.ports.iter().try_for_each(|port| claim(&mut numbers, &port.name, |_| false).map(drop))?;
        let problems: Vec<String> = check_rules(config, &numbers)
            .err()
            .into_iter()
            .map(|refusal| refusal.text)
            .chain(
                config
                    .ports
                    .iter()
                    .filter_map(|port| OpenPort::check(port).err().map(|error| error.to_string())),
            )
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(Refusal::failed(problems.join("\n"))) }
    }

    /// Starts workers and opens every port of `config`, which was read from `origin`. Its rules and mirrors are there before
    /// the first port is. A thread that fails pulls `trigger`.
    ///
    /// # Errors
    /// A thread cannot be made, or a port cannot be opened. What can be found beforehand is, and then nothing was touched;
    /// else everything opened so far is closed again.
    pub fn start(config: &Config, origin: ConfigOrigin, trigger: &Trigger) -> Result<Self, Refusal> {
        Self::check(config)?;
        let worker_count = config.workers.len();
        let fabric = Arc::new(Fabric {
            topology: Published::new(Topology::empty(worker_count)),
            fdb: Fdb::new(FDB_CAPACITY),
            new_flows: SegQueue::new(),
            start: Instant::now(),
            changes: Alarm::default(),
            punts: Arc::new(Punts::new(worker_count)),
        });
        let failed = |error: io::Error| Refusal::failed(format!("cannot start a thread: {error}"));
        let workers = (0..)
            .zip(&config.workers)
            .map(|(index, &cpu)| {
                let bounds = config.flow_cache;
                WorkerHandle::start(index, cpu, config.poll, bounds, Arc::clone(&fabric), trigger.vital())
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        let shared = workers.iter().map(|worker| Arc::downgrade(&worker.shared)).collect();
        let revalidator = Revalidator::start(Arc::clone(&fabric), shared, config.flow_cache, trigger.vital())
            .map_err(failed)?;
        let Config { workers: cpus, poll, control, flow_cache, .. } = config.clone();
        let appliance = Self {
            origin,
            started: Started { workers: cpus, poll, control, flow_cache },
            workers,
            revalidator,
            fabric,
            ports: Mutex::default(),
            configured: Mutex::default(),
            reloading: Mutex::default(),
            rate_watches: Arc::default(),
        };
        appliance.load_rules(config)?;
        appliance.add_ports(&config.ports)?;
        Ok(appliance)
    }

    /// Takes over rules, names of tables and mirrors of `config`, whose ports are not open yet.
    fn load_rules(&self, config: &Config) -> Result<(), Refusal> {
        let mut table = self.ports.lock();
        let mut numbers = PortNumbers::default();
        config.ports.iter().try_for_each(|port| self.claim(&mut numbers, &port.name).map(drop))?;
        let rules = check_rules(config, &numbers)?;
        table.numbers = Arc::new(numbers);
        table.mirrors.clone_from(&config.mirrors);
        table.table_names = Arc::new(config.table_names.clone());
        (table.vlan_limit, table.fragments) = (config.vlan_limit, config.fragments);
        self.publish_all(&table, |_| rules.clone().map(Edit::Replace));
        *self.configured.lock() = Configured::new(config, rules);
        Ok(())
    }

    /// Publishes the ports and mirrors of `table` and waits until every worker uses them, and them only.
    fn publish_ports(&self, table: &PortTable) {
        self.publish_all(table, |_| None);
    }

    /// Publishes the ports, mirrors and names of tables of `table`, and with them the rules that `edit` makes of the present
    /// ones, and waits until every worker uses them. Returns what became of the rules.
    fn publish_all(
        &self,
        table: &PortTable,
        edit: impl FnOnce(&RuleSet) -> Option<Edit>,
    ) -> Option<RulesChanged> {
        let ports: Vec<_> = table.open.iter().map(|open| Arc::clone(&open.port)).collect();
        let now_ms = self.fabric.now_ms();
        let mut changed = None;
        let change = |old: &Topology| {
            let mut new =
                old.with_ports(&ports, Arc::clone(&table.numbers), |epoch| switch_config(table, epoch));
            new.table_names = Arc::clone(&table.table_names);
            if let Some(edit) = edit(&old.rules) {
                match old.rules.edit(&[edit], now_ms) {
                    Ok(edited) => {
                        changed = Some(RulesChanged::of(&edited));
                        new.rules = Arc::new(edited.set);
                    }
                    // Was tried before. What came in between by `ctl` can only have made it too large.
                    Err(error) => tracing::error!(%error, "rules of the configuration are not loaded"),
                }
            }
            Ok::<_, Infallible>(Some(new))
        };
        let Ok(epoch) = self.fabric.topology.update(change);
        self.settle(epoch);
        changed
    }

    /// Waits until every worker uses the snapshot numbered `epoch` or a later one.
    ///
    /// Nothing that a worker touches can go before that: it holds the snapshot that it uses.
    fn settle(&self, epoch: u64) {
        let deadline = Instant::now() + RETIRE_TIMEOUT;
        for worker in &self.workers {
            worker.shared.waker.wake();
        }
        for (index, worker) in self.workers.iter().enumerate() {
            // Acquire: what the worker did with older snapshots is done; partner: the release in `Worker::adopt_topology`.
            if !soon(deadline, || worker.shared.seen_epoch.load(Ordering::Acquire) >= epoch) {
                tracing::error!(worker = index, "does not take over a change; it may be stuck");
            }
        }
        self.fabric.topology.free_replaced();
        self.fabric.changes.ring_now();
    }

    /// Lets go of ports that the present snapshot has no more.
    ///
    /// Workers have let go of them; the revalidator is next, which would teach the addresses of their flows again; then what
    /// was learned from them goes, and only then their sockets.
    fn retire_ports(&self, gone: Vec<OpenPort>) {
        let ports: Vec<_> = gone.iter().map(|open| Arc::clone(&open.port)).collect();
        if !self.sync_revalidator() {
            tracing::error!("the revalidator does not take over that ports are gone; it may be stuck");
        }
        for port in &ports {
            self.fabric.fdb.remove_port(port.id);
            for worker in &self.workers {
                worker.send(Message::ForgetPort(port.id));
            }
        }
        self.fabric.changes.ring_now();
        drop(gone);
        // The revalidator and readers of statistics hold a snapshot for a moment. An interface can be opened again once
        // the last of them let go.
        soon(Instant::now() + RETIRE_TIMEOUT, || {
            self.fabric.topology.free_replaced();
            ports.iter().all(|port| Arc::strong_count(port) == 1)
        });
    }

    /// Waits until the revalidator has gone through all megaflows: none goes by anything older than what is published now, and
    /// the counters of rules are up to date. Says whether that came in time.
    fn sync_revalidator(&self) -> bool {
        self.revalidator.sync(Instant::now() + RETIRE_TIMEOUT)
    }

    /// Gives `name` its number.
    fn claim(&self, numbers: &mut PortNumbers, name: &str) -> Result<PortId, Refusal> {
        let rules = Arc::clone(&self.fabric.topology.load().rules);
        claim(numbers, name, |port| rules.rules().any(|rule| rule.spec().names_port(port)))
    }

    /// What ports are called, those that are gone included.
    pub fn port_numbers(&self) -> Arc<PortNumbers> {
        Arc::clone(&self.fabric.topology.load().numbers)
    }

    /// How long it has been running.
    pub fn uptime(&self) -> Duration {
        self.fabric.start.elapsed()
    }

    /// How many VLAN tags of a frame are read, and what rules see of fragments.
    pub fn reading(&self) -> (VlanLimit, FragmentMode) {
        let switch = Arc::clone(&self.fabric.topology.load().switch);
        (switch.vlan_limit(), switch.fragments())
    }

    /// How workers wait for packets.
    pub fn poll_mode(&self) -> PollMode {
        self.started.poll
    }

    /// What each worker has done.
    pub fn workers(&self) -> Vec<WorkerReport> {
        self.workers.iter().map(WorkerReport::of).collect()
    }

    /// What the revalidator has done.
    pub fn revalidator(&self) -> revalidator::Report {
        self.revalidator.report()
    }

    /// What became of the packets that rules handed out.
    pub fn punts(&self) -> punt::Report {
        self.fabric.punts.report()
    }
}

/// Gives `name` its number, which is none that `is_meant` by rules about a port that is gone.
fn claim(
    numbers: &mut PortNumbers,
    name: &str,
    is_meant: impl Fn(PortId) -> bool,
) -> Result<PortId, Refusal> {
    numbers.claim(name, is_meant).ok_or_else(|| {
        let message = format!(
            "all {MAX_PORTS} port numbers are taken, by ports or by rules about ports that are gone; delete one of \
             either first"
        );
        Refusal::taken(message)
    })
}

/// The rules to start with, if a set takes them.
fn check_rules(config: &Config, numbers: &PortNumbers) -> Result<Option<Vec<RuleSpec>>, Refusal> {
    let names = RuleNames::new(numbers, &config.table_names);
    let rules = read_rules(config, &names).map_err(|error| Refusal::invalid(error.to_string()))?;
    if let Some(rules) = &rules {
        let edit = Edit::Replace(rules.clone());
        let edited = RuleSet::learning_switch(0).edit(&[edit], 0);
        edited.map_err(|error| Refusal::invalid(format!("rules: {error}")))?;
    }
    Ok(rules)
}

/// What the slow path knows of the ports and mirrors of `table`.
fn switch_config(table: &PortTable, generation: u64) -> SwitchConfig {
    let specs: Vec<_> = table.open.iter().map(|open| (open.port.id, open.port.spec())).collect();
    let local = specs.iter().find(|(_, spec)| spec.local).map(|&(id, _)| id);
    SwitchConfig::new(generation, specs.iter().map(|(id, spec)| (*id, switch_port(spec))))
        .with_local(local)
        .with_mirrors(switch_mirrors(table))
        .with_vlan_limit(table.vlan_limit)
        .with_fragments(table.fragments)
}

/// Waits until `done`, or until `deadline`; says whether it is done.
fn soon(deadline: Instant, done: impl Fn() -> bool) -> bool {
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_micros(50));
    }
    true
}

impl PortTable {
    fn find(&self, name: &str) -> Result<Arc<Port>, Refusal> {
        self.open
            .iter()
            .find(|open| open.port.spec().name == name)
            .map(|open| Arc::clone(&open.port))
            .ok_or_else(|| Refusal::no_port(name))
    }

    /// The number of the port `name`, if it is there.
    fn open_id(&self, name: &str) -> Option<PortId> {
        self.open.iter().find(|open| open.port.spec().name == name).map(|open| open.port.id)
    }
}
