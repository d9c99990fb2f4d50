//! The appliance: workers, ports and the revalidator, put together, and what the control socket does to them.
//!
//! Whatever changes ports holds the lock of the port table from beginning to end; whatever changes the snapshot that workers
//! see does so by `Published::update`, so changes of rules, which need no port table, can come from any thread.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use parking_lot::Mutex;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::fdb::Fdb;
use vsteer_switch::port::{MAX_PORTS, PortId};
use vsteer_switch::vlan::{SwitchConfig, VlanId};
use vsteer_vhost::net::queue::KickPoller;

use crate::config::{Config, PollMode, PortSpec};
use crate::control::Operations;
use crate::control::flow_text::{mac_text, match_text, verdict_text};
use crate::control::protocol::{
    ErrorKind, FdbEntry, FdbFilter, FdbFlushed, FlowInfo, OperationError, PortCounters, PortInfo, PortState,
    Stats, WorkerInfo,
};
use crate::driver::{OpenPort, open};
use crate::fabric::{Alarm, Fabric};
use crate::notify::Trigger;
use crate::port::{Driver, Port, switch_port};
use crate::port_numbers::PortNumbers;
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
    mode: PollMode,
    workers: Vec<WorkerHandle>,
    revalidator: Revalidator,
    fabric: Arc<Fabric>,
    ports: Mutex<PortTable>,
}

/// The ports as control threads see them.
#[derive(Debug, Default)]
struct PortTable {
    open: Vec<OpenPort>,
    numbers: Arc<PortNumbers>,
}

impl Appliance {
    /// Starts workers and opens every port of `config`. A thread that fails pulls `trigger`.
    ///
    /// # Errors
    /// A thread cannot be made, or a port cannot be opened; everything opened so far is closed again.
    pub fn start(config: &Config, trigger: &Trigger) -> Result<Self, OperationError> {
        let worker_count = config.workers.len();
        let fabric = Arc::new(Fabric {
            topology: Published::new(Topology::empty(worker_count)),
            fdb: Fdb::new(FDB_CAPACITY),
            new_flows: SegQueue::new(),
            start: Instant::now(),
            changes: Alarm::default(),
        });
        let failed = |error: io::Error| OperationError::failed(format!("cannot start a thread: {error}"));
        let workers = (0..)
            .zip(&config.workers)
            .map(|(index, &cpu)| {
                let max_flows = config.flow_cache.max_flows;
                WorkerHandle::start(index, cpu, config.poll, max_flows, Arc::clone(&fabric), trigger.vital())
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        let shared = workers.iter().map(|worker| Arc::downgrade(&worker.shared)).collect();
        let revalidator = Revalidator::start(Arc::clone(&fabric), shared, config.flow_cache, trigger.vital())
            .map_err(failed)?;
        let appliance = Self { mode: config.poll, workers, revalidator, fabric, ports: Mutex::default() };
        for spec in &config.ports {
            appliance.port_add(spec.clone())?;
        }
        Ok(appliance)
    }

    /// Publishes the ports of `table` and waits until every worker uses them, and them only.
    fn publish_ports(&self, table: &PortTable) {
        let ports: Vec<_> = table.open.iter().map(|open| Arc::clone(&open.port)).collect();
        let members = ports.iter().map(|port| (port.id, switch_port(&port.spec())));
        let config = |generation| SwitchConfig::new(generation, members);
        let change = |old: &Topology| {
            Ok::<_, Infallible>(Some(old.with_ports(&ports, Arc::clone(&table.numbers), config)))
        };
        let Ok(epoch) = self.fabric.topology.update(change);
        self.settle(epoch);
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
        self.fabric.changes.ring();
    }

    fn info(&self, port: &Port) -> PortInfo {
        let mut counters = PortCounters::default();
        for shard in &port.counters {
            counters.rx_pkts += shard.rx_pkts.get();
            counters.rx_bytes += shard.rx_bytes.get();
            counters.tx_pkts += shard.tx_pkts.get();
            counters.tx_bytes += shard.tx_bytes.get();
            for &reason in DropReason::ALL {
                let drops = shard.drops(reason);
                if drops > 0 {
                    *counters.drops.entry(reason.name().to_owned()).or_default() += drops;
                }
            }
        }
        let spec = port.spec();
        let mut info = PortInfo {
            name: spec.name.clone(),
            id: port.id.number(),
            kind: spec.type_name().to_owned(),
            address: spec.address(),
            state: PortState::Connected,
            fault: None,
            features: Vec::new(),
            queue_pairs_enabled: u16::try_from(port.queues()).unwrap_or(u16::MAX),
            queue_pairs_offered: u16::try_from(port.queues()).unwrap_or(u16::MAX),
            vlan: spec.vlan.clone(),
            mac_limit: spec.mac_limit,
            mtu: spec.mtu,
            counters,
        };
        match &port.driver {
            Driver::VhostUser(guest) => {
                let status = guest.status();
                info.state = match (&status.fault, status.connected) {
                    (Some(_), true) => PortState::Stopped,
                    (None, true) => PortState::Connected,
                    (_, false) => PortState::Waiting,
                };
                info.fault = status.fault.map(|fault| fault.to_string());
                info.features = status.negotiated.names().into_iter().map(str::to_owned).collect();
                info.queue_pairs_enabled = status.live_pairs;
            }
            Driver::Tap(tap) => {
                info.fault = tap.fault();
                if info.fault.is_some() {
                    info.state = PortState::Stopped;
                }
            }
        }
        info
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
}

impl Operations for Appliance {
    fn port_list(&self) -> Result<Vec<PortInfo>, OperationError> {
        let topology = self.fabric.topology.load();
        Ok(topology.ports.iter().flatten().map(|port| self.info(port)).collect())
    }

    fn port_show(&self, name: &str) -> Result<PortInfo, OperationError> {
        let port = self.ports.lock().find(name)?;
        Ok(self.info(&port))
    }

    fn port_add(&self, spec: PortSpec) -> Result<PortInfo, OperationError> {
        let mut table = self.ports.lock();
        if let Some(taken) = table.open.iter().find_map(|open| open.conflict(&spec)) {
            return Err(OperationError::new(ErrorKind::Exists, taken));
        }
        let rules = Arc::clone(&self.fabric.topology.load().rules);
        let is_meant = |port| rules.rules().any(|rule| rule.spec().names_port(port));
        let mut numbers = PortNumbers::clone(&table.numbers);
        let id = numbers.claim(&spec.name, is_meant).ok_or_else(|| {
            OperationError::new(
                ErrorKind::Exists,
                format!(
                    "all {MAX_PORTS} port numbers are taken, by ports or by rules about ports that are gone; delete one \
                     of either first"
                ),
            )
        })?;
        let open = open(id, spec, self.workers.len()).map_err(OperationError::failed)?;
        let port = Arc::clone(&open.port);
        let spec = port.spec();
        table.numbers = Arc::new(numbers);
        table.open.push(open);
        self.publish_ports(&table);
        tracing::info!(port = spec.name, kind = spec.type_name(), address = spec.address(), "port added");
        Ok(self.info(&port))
    }

    fn port_del(&self, name: &str) -> Result<(), OperationError> {
        let mut table = self.ports.lock();
        let port = table.find(name)?;
        let (gone, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut table.open).into_iter().partition(|open| Arc::ptr_eq(&open.port, &port));
        table.open = left;
        Arc::make_mut(&mut table.numbers).release(port.id);
        // Workers let go of the port first, then the revalidator, which would teach the addresses of its flows again; then
        // what was learned from it goes, and only then its sockets.
        self.publish_ports(&table);
        if !self.revalidator.sync(Instant::now() + RETIRE_TIMEOUT) {
            tracing::error!(
                port = name,
                "the revalidator does not take over that the port is gone; it may be stuck"
            );
        }
        self.fabric.fdb.remove_port(port.id);
        self.fabric.changes.ring();
        for worker in &self.workers {
            worker.send(Message::ForgetPort(port.id));
        }
        drop(gone);
        // The revalidator and readers of statistics hold a snapshot for a moment. An interface can be opened again once
        // the last of them let go.
        soon(Instant::now() + RETIRE_TIMEOUT, || {
            self.fabric.topology.free_replaced();
            Arc::strong_count(&port) == 1
        });
        drop(port);
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
        self.fabric.changes.ring();
        Ok(FdbFlushed { removed })
    }

    fn flow_dump(&self) -> Result<Vec<FlowInfo>, OperationError> {
        let now_ms = self.fabric.now_ms();
        let shown = self.revalidator.flows.flows().map(|flow| {
            let stats = flow.stats();
            FlowInfo {
                match_text: match_text(flow.key(), flow.mask(), |id| self.port_name(id)),
                actions: verdict_text(flow.verdict(), |id| self.port_name(id)),
                packets: stats.packets,
                bytes: stats.bytes,
                used_ms: (stats.packets > 0).then(|| now_ms.saturating_sub(stats.last_used_ms)),
                age_ms: now_ms.saturating_sub(flow.created_ms()),
                worker: usize::from(flow.worker()),
            }
        });
        Ok(shown.collect())
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
                mode: self.mode.name().to_owned(),
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
        })
    }
}
