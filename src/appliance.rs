//! The appliance: workers, ports and the revalidator, put together, and what the control socket does to them.
//!
//! Whatever changes ports holds the lock of the port table from beginning to end; whatever changes the snapshot that workers
//! see does so by `Published::update`, so changes of rules, which need no port table, can come from any thread.

/// Rules: `ctl flow`.
mod rules;

/// Mirrors: `ctl mirror`.
mod mirrors;

/// Reading the configuration again: `ctl reload`.
mod reload;

/// What would happen to a packet: `ctl trace`.
mod trace;

/// The header fields of a packet as text.
mod packet_text;

/// How the caches do: `ctl cache`.
mod caches;

/// What is watched while it happens: `ctl monitor` and `ctl top`.
mod watch;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use parking_lot::Mutex;
use vsteer_switch::bridge::config::SwitchConfig;
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::megaflow::Tier;
use vsteer_switch::port::{MAX_PORTS, PortId};
use vsteer_switch::rule::edit::Edit;
use vsteer_switch::rule::set::RuleSet;
use vsteer_switch::wire::vlan::VlanId;
use vsteer_vhost::net::queue::KickPoller;

use self::mirrors::switch_mirrors;
use self::reload::{Configured, read_rules};
use crate::config::{Config, ConfigOrigin, FlowCacheConfig, MirrorSpec, PollMode, PortSpec};
use crate::control::flow_text::{mac_text, match_text, verdict_text};
use crate::control::protocol::{
    CacheInfo, ErrorKind, FdbEntry, FdbFilter, FdbFlushed, FlowDump, FlowFilter, FlowInfo, MirrorInfo,
    MonitorFilter, OperationError, PortCounters, PortInfo, PortState, Reloaded, RuleFilter, RuleInfo,
    RulesChanged, RulesParams, SelectorParams, Stats, TableInfo, TopQuery, TraceInfo, TraceQuery, WorkerInfo,
};
use crate::control::{Operations, Stream};
use crate::fabric::{Alarm, Fabric};
use crate::notify::Trigger;
use crate::port::report::{CounterSums, Link};
use crate::port::{OpenPort, Port, switch_port};
use crate::port_numbers::PortNumbers;
use crate::punt::Punts;
use crate::revalidator::Revalidator;
use crate::topology::{Published, Topology};
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
}

impl Appliance {
    /// Starts workers and opens every port of `config`, which was read from `origin`. Its rules and mirrors are there before
    /// the first port is. A thread that fails pulls `trigger`.
    ///
    /// # Errors
    /// A thread cannot be made, or a port cannot be opened; everything opened so far is closed again.
    pub fn start(config: &Config, origin: ConfigOrigin, trigger: &Trigger) -> Result<Self, OperationError> {
        let worker_count = config.workers.len();
        let fabric = Arc::new(Fabric {
            topology: Published::new(Topology::empty(worker_count)),
            fdb: Fdb::new(FDB_CAPACITY),
            new_flows: SegQueue::new(),
            start: Instant::now(),
            changes: Alarm::default(),
            punts: Arc::new(Punts::new(worker_count)),
        });
        let failed = |error: io::Error| OperationError::failed(format!("cannot start a thread: {error}"));
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
        };
        appliance.load_rules(config)?;
        for spec in &config.ports {
            appliance.port_add(spec.clone())?;
        }
        Ok(appliance)
    }

    /// Takes over rules and mirrors of `config`, whose ports are not open yet.
    fn load_rules(&self, config: &Config) -> Result<(), OperationError> {
        let mut table = self.ports.lock();
        let mut numbers = PortNumbers::default();
        config.ports.iter().try_for_each(|port| self.claim(&mut numbers, &port.name).map(drop))?;
        let rules =
            read_rules(config, &numbers).map_err(|error| OperationError::invalid(error.to_string()))?;
        table.numbers = Arc::new(numbers);
        table.mirrors.clone_from(&config.mirrors);
        self.publish_all(&table, |_| rules.clone().map(Edit::Replace));
        *self.configured.lock() = Configured::new(config, rules);
        Ok(())
    }

    /// Publishes the ports and mirrors of `table` and waits until every worker uses them, and them only.
    fn publish_ports(&self, table: &PortTable) {
        self.publish_all(table, |_| None);
    }

    /// Publishes the ports and mirrors of `table`, and with them the rules that `edit` makes of the present ones, and waits
    /// until every worker uses them. Returns what became of the rules.
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
            if let Some(edit) = edit(&old.rules) {
                match old.rules.edit(&[edit], now_ms) {
                    Ok(edited) => {
                        changed = Some(rules::count(&edited));
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
    fn claim(&self, numbers: &mut PortNumbers, name: &str) -> Result<PortId, OperationError> {
        let rules = Arc::clone(&self.fabric.topology.load().rules);
        let is_meant = |port| rules.rules().any(|rule| rule.spec().names_port(port));
        numbers.claim(name, is_meant).ok_or_else(|| {
            let message = format!(
                "all {MAX_PORTS} port numbers are taken, by ports or by rules about ports that are gone; delete one of \
                 either first"
            );
            OperationError::new(ErrorKind::Exists, message)
        })
    }

    /// The filter's port and VLAN as the forwarding database knows them.
    fn resolve(&self, filter: &FdbFilter) -> Result<(Option<PortId>, Option<VlanId>), OperationError> {
        let port = filter.port.as_ref().map(|name| self.ports.lock().find(name)).transpose()?;
        let vlan = filter
            .vlan
            .map(|number| {
                VlanId::new(number).ok_or_else(|| {
                    OperationError::invalid(format!("vlan {number}: no such VLAN; use 0 (untagged) to 4094"))
                })
            })
            .transpose()?;
        Ok((port.map(|port| port.id), vlan))
    }

    fn port_name(&self, id: u32) -> Option<String> {
        let id = PortId::new(u16::try_from(id).ok()?)?;
        self.fabric.topology.load().numbers.name(id).map(str::to_owned)
    }
}

/// What the slow path knows of the ports and mirrors of `table`.
fn switch_config(table: &PortTable, generation: u64) -> SwitchConfig {
    let specs: Vec<_> = table.open.iter().map(|open| (open.port.id, open.port.spec())).collect();
    let local = specs.iter().find(|(_, spec)| spec.local).map(|&(id, _)| id);
    SwitchConfig::new(generation, specs.iter().map(|(id, spec)| (*id, switch_port(spec))))
        .with_local(local)
        .with_mirrors(switch_mirrors(table))
}

/// Packets and drops of a port, as the protocol has them.
fn port_counters(sums: &CounterSums) -> PortCounters {
    PortCounters {
        rx_pkts: sums.rx_pkts,
        rx_bytes: sums.rx_bytes,
        tx_pkts: sums.tx_pkts,
        tx_bytes: sums.tx_bytes,
        drops: sums.drops().map(|(reason, pkts)| (reason.name().to_owned(), pkts)).collect(),
    }
}

/// A port, as the protocol has it.
fn port_info(port: &Port) -> PortInfo {
    let report = port.report();
    let (spec, status) = (report.spec, report.status);
    let count = |queues: usize| u16::try_from(queues).unwrap_or(u16::MAX);
    PortInfo {
        name: spec.name.clone(),
        id: report.id.number(),
        kind: spec.type_name().to_owned(),
        address: spec.address(),
        state: match status.link {
            Link::Up => PortState::Connected,
            Link::Waiting => PortState::Waiting,
            Link::Stopped => PortState::Stopped,
        },
        fault: status.fault,
        features: status.features.into_iter().map(str::to_owned).collect(),
        queue_pairs_enabled: count(status.live_queues),
        queue_pairs_offered: count(report.queues),
        vlan: spec.vlan.clone(),
        mac_limit: spec.mac_limit,
        mtu: spec.mtu,
        local: spec.local,
        counters: port_counters(&report.counters),
    }
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
    fn find(&self, name: &str) -> Result<Arc<Port>, OperationError> {
        self.open
            .iter()
            .find(|open| open.port.spec().name == name)
            .map(|open| Arc::clone(&open.port))
            .ok_or_else(|| OperationError::no_port(name))
    }

    /// The number of the port `name`, if it is there.
    fn open_id(&self, name: &str) -> Option<PortId> {
        self.open.iter().find(|open| open.port.spec().name == name).map(|open| open.port.id)
    }
}

impl Operations for Appliance {
    fn port_list(&self) -> Result<Vec<PortInfo>, OperationError> {
        let topology = self.fabric.topology.load();
        Ok(topology.ports.iter().flatten().map(|port| port_info(port)).collect())
    }

    fn port_show(&self, name: &str) -> Result<PortInfo, OperationError> {
        let port = self.ports.lock().find(name)?;
        Ok(port_info(&port))
    }

    fn port_add(&self, spec: PortSpec) -> Result<PortInfo, OperationError> {
        let mut table = self.ports.lock();
        if let Some(taken) = table.open.iter().find_map(|open| open.conflict(&spec)) {
            return Err(OperationError::new(ErrorKind::Exists, taken));
        }
        let mut numbers = PortNumbers::clone(&table.numbers);
        let id = self.claim(&mut numbers, &spec.name)?;
        let open = OpenPort::open(id, spec, self.workers.len()).map_err(OperationError::failed)?;
        let port = Arc::clone(&open.port);
        let spec = port.spec();
        table.numbers = Arc::new(numbers);
        table.open.push(open);
        self.publish_ports(&table);
        tracing::info!(port = spec.name, kind = spec.type_name(), address = spec.address(), "port added");
        Ok(port_info(&port))
    }

    fn port_del(&self, name: &str) -> Result<(), OperationError> {
        let mut table = self.ports.lock();
        let port = table.find(name)?;
        let (gone, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut table.open).into_iter().partition(|open| Arc::ptr_eq(&open.port, &port));
        table.open = left;
        Arc::make_mut(&mut table.numbers).release(port.id);
        drop(port);
        self.publish_ports(&table);
        self.retire_ports(gone);
        tracing::info!(port = name, "port deleted");
        Ok(())
    }

    fn fdb_show(&self, filter: &FdbFilter) -> Result<Vec<FdbEntry>, OperationError> {
        let (port, vlan) = self.resolve(filter)?;
        let now_ms = self.fabric.now_ms();
        let mut entries: Vec<_> = self
            .fabric
            .fdb
            .entries()
            .filter(|entry| port.is_none_or(|port| port == entry.port))
            .filter(|entry| vlan.is_none_or(|vlan| vlan == entry.vlan))
            .collect();
        entries.sort_by_key(|entry| (entry.vlan.number(), entry.mac));
        let shown = entries.into_iter().map(|entry| FdbEntry {
            vlan: entry.vlan.number(),
            mac: mac_text(entry.mac),
            port: self.port_name(entry.port.number().into()).unwrap_or_else(|| entry.port.to_string()),
            age_s: (now_ms / 1000).saturating_sub(entry.seen_s),
            is_static: entry.is_static,
        });
        Ok(shown.collect())
    }

    fn fdb_flush(&self, filter: &FdbFilter) -> Result<FdbFlushed, OperationError> {
        let (port, vlan) = self.resolve(filter)?;
        let removed = self.fabric.fdb.flush(port, vlan) as u64;
        self.fabric.changes.ring_now();
        Ok(FdbFlushed { removed })
    }

    fn rule_add(&self, rules: &RulesParams) -> Result<RulesChanged, OperationError> {
        self.add_rules(rules)
    }

    fn rule_replace(&self, rules: &RulesParams) -> Result<RulesChanged, OperationError> {
        self.replace_rules(rules)
    }

    fn rule_modify(&self, change: &SelectorParams) -> Result<RulesChanged, OperationError> {
        self.modify_rules(change)
    }

    fn rule_delete(&self, change: &SelectorParams) -> Result<RulesChanged, OperationError> {
        self.delete_rules(change)
    }

    fn rule_dump(&self, filter: &RuleFilter) -> Result<Vec<RuleInfo>, OperationError> {
        self.dump_rules(filter)
    }

    fn table_dump(&self) -> Result<Vec<TableInfo>, OperationError> {
        Ok(self.dump_tables())
    }

    fn mirror_list(&self) -> Result<Vec<MirrorInfo>, OperationError> {
        Ok(self.list_mirrors())
    }

    fn mirror_add(&self, spec: MirrorSpec) -> Result<MirrorInfo, OperationError> {
        self.add_mirror(spec)
    }

    fn mirror_del(&self, name: &str) -> Result<(), OperationError> {
        self.delete_mirror(name)
    }

    fn cache_show(&self) -> Result<CacheInfo, OperationError> {
        Ok(self.show_caches())
    }

    fn trace(&self, query: &TraceQuery) -> Result<TraceInfo, OperationError> {
        self.trace_packet(query)
    }

    fn monitor(&self, filter: &MonitorFilter) -> Result<Box<dyn Stream>, OperationError> {
        self.watch_punts(filter)
    }

    fn top(&self, query: &TopQuery) -> Result<Box<dyn Stream>, OperationError> {
        self.watch_rates(query)
    }

    fn reload(&self) -> Result<Reloaded, OperationError> {
        self.reload_config()
    }

    fn flow_dump(&self, filter: &FlowFilter) -> Result<FlowDump, OperationError> {
        let now_ms = self.fabric.now_ms();
        let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
        let (busiest, left_out) = self.revalidator.flows.busiest(limit);
        let shown = busiest.iter().map(|flow| {
            let stats = flow.stats();
            FlowInfo {
                match_text: match_text(&flow.masked_key(), flow.mask(), |id| self.port_name(id)),
                actions: verdict_text(flow.verdict(), flow.key().eth_type.get(), |id| self.port_name(id)),
                packets: stats.packets,
                bytes: stats.bytes,
                used_ms: (stats.packets > 0).then(|| now_ms.saturating_sub(stats.last_used_ms)),
                age_ms: now_ms.saturating_sub(flow.created_ms()),
                worker: usize::from(flow.worker()),
                tier: match flow.tier() {
                    Tier::ExactMatch => "exact_match".to_owned(),
                    Tier::Classifier => "classifier".to_owned(),
                },
            }
        });
        Ok(FlowDump { flows: shown.collect(), left_out: left_out as u64 })
    }

    fn stats(&self) -> Result<Stats, OperationError> {
        let uptime = self.fabric.start.elapsed();
        let ports = self.port_list()?;
        let mut totals = PortCounters { drops: BTreeMap::new(), ..PortCounters::default() };
        for port in &ports {
            totals.add(&port.counters);
        }
        let workers = self.workers.iter().enumerate().map(|(index, worker)| {
            let shared = &worker.shared;
            let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            WorkerInfo {
                index,
                cpu: worker.cpu,
                mode: self.started.poll.name().to_owned(),
                iterations: get(&shared.rounds),
                busy_cycles: get(&shared.busy_cycles),
                busy: get(&shared.busy_cycles) as f64 / get(&shared.total_cycles).max(1) as f64,
                sleeps: get(&shared.sleeps),
                exact_hits: get(&shared.pipeline.exact_hits),
                classifier_hits: get(&shared.pipeline.classifier_hits),
                upcalls: get(&shared.pipeline.upcalls),
                flows: get(&shared.pipeline.flows),
            }
        });
        Ok(Stats {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: uptime.as_secs(),
            workers: workers.collect(),
            ports,
            totals,
            revalidator: self.revalidator.info(),
            punts: self.fabric.punts.counters(),
        })
    }
}
