//! A port of the appliance: what the switch knows of it by number, and the driver that moves its packets.
//!
//! Modules in the order in which a port meets them: its words, its kind, the kinds' own files, what they share.

/// What a kind of port adds to the words that describe any port.
pub mod words;

/// The kinds of ports: the one place that tells them apart.
pub mod driver;

/// A guest's port: vhost-user.
pub mod guest;

/// Ports towards the host: TAP interfaces.
pub mod tap;

/// Captures that are played, and recorded.
pub mod pcap;

/// A trace of any port, as a wrapper.
pub mod trace;

/// Faults on purpose at any port, as a wrapper.
pub mod fault;

/// Frames on their way out, and the work that a port leaves to software.
pub mod batch;

/// Sets of queues.
pub mod queue_set;

/// Files that frames are recorded in.
pub mod recorder;

/// How a port stands, in plain values.
pub mod report;

/// The virtio-net header as the host kernel speaks it.
pub mod vnet_header;

/// Memory that frames from the host are read into.
pub mod rx_area;

/// Spaces out polls that are system calls.
mod poll_pacer;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use vsteer_switch::bridge::config::PortVlan;
use vsteer_switch::counters::PortCounters;
use vsteer_switch::packet::Burst;
use vsteer_switch::port::PortId;
use vsteer_switch::wire::ethernet;
use vsteer_switch::wire::vlan::TAG_LEN;

use self::batch::Batch;
use self::driver::{Driver, Identity, Keeper, OpenError, Opened, Received, Scratch};
use self::report::{CounterSums, PortReport};
use crate::config::PortSpec;

/// Bytes of a link-layer header: Ethernet with two VLAN tags.
const LINK_HEADER_BYTES: usize = ethernet::HEADER_LEN + 2 * TAG_LEN;

/// Longest frame of a port without an MTU of its own: jumbo frames with two tags.
const DEFAULT_MAX_FRAME_BYTES: usize = 9000 + LINK_HEADER_BYTES;

/// A port.
///
/// # Concurrency
/// Workers and control threads share it. What the operator asked for is replaced by control threads; what packets depend on
/// does not change while the port lives, or comes with a snapshot.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// What moves its packets.
    pub driver: Driver,
    spec: ArcSwap<PortSpec>,
    /// Counters of each worker, by the worker's index.
    counters: Box<[PortCounters]>,
    /// Longest frame that may leave by it, not counting offloads.
    max_frame_bytes: usize,
}

impl Port {
    /// A port with counters for `workers` workers.
    fn new(id: PortId, spec: PortSpec, driver: Driver, workers: usize) -> Self {
        let max_frame_bytes =
            spec.mtu.map_or(DEFAULT_MAX_FRAME_BYTES, |mtu| usize::from(mtu) + LINK_HEADER_BYTES);
        let counters = (0..workers).map(|_| PortCounters::default()).collect();
        Self { id, driver, spec: ArcSwap::from_pointee(spec), counters, max_frame_bytes }
    }

    /// What the operator asked for.
    pub fn spec(&self) -> Arc<PortSpec> {
        self.spec.load_full()
    }

    /// Takes over `spec`, which asks for no other driver; see [`PortSpec::is_same_driver`].
    pub fn set_spec(&self, spec: PortSpec) {
        debug_assert!(self.spec().is_same_driver(&spec));
        self.spec.store(Arc::new(spec));
    }

    /// Worker `worker`'s counters.
    #[inline]
    pub fn counters(&self, worker: usize) -> &PortCounters {
        &self.counters[worker]
    }

    /// Fills the empty `burst` from `queue`, for `worker`: see [`Driver::receive`].
    #[inline]
    pub fn receive<'a>(
        &'a self,
        queue: usize,
        burst: &mut Burst,
        worker: usize,
        scratch: &mut Scratch,
    ) -> Option<Received<'a>> {
        self.driver.receive(queue, burst, scratch, &self.counters[worker])
    }

    /// Sends the frames of `burst` at `indices`, for `worker`: see [`Driver::transmit`].
    #[inline]
    pub fn transmit(&self, burst: &Burst, indices: &[u8], worker: usize, scratch: &mut Scratch) {
        let counters = &self.counters[worker];
        let batch = Batch { burst, indices, worker, counters, max_frame_bytes: self.max_frame_bytes };
        self.driver.transmit(batch, scratch);
    }

    /// Packets and drops, all workers together.
    pub fn counter_sums(&self) -> CounterSums {
        CounterSums::of(&self.counters)
    }

    /// The port in full.
    pub fn report(&self) -> PortReport {
        PortReport {
            id: self.id,
            spec: self.spec(),
            queues: self.driver.queues(),
            status: self.driver.status(),
            counters: self.counter_sums(),
        }
    }
}

/// A port and what keeps it alive: dropping it ends what serves the port.
#[derive(Debug)]
pub struct OpenPort {
    /// The port.
    pub port: Arc<Port>,
    _keeper: Option<Keeper>,
}

impl OpenPort {
    /// Finds what would keep [`open`](Self::open) from succeeding now, and changes nothing.
    ///
    /// # Errors
    /// As for `open`.
    pub fn check(spec: &PortSpec) -> Result<(), OpenError> {
        driver::check(spec)
    }

    /// Opens the port numbered `id` for `workers` workers.
    ///
    /// # Errors
    /// What the operator can do about it.
    pub fn open(id: PortId, spec: PortSpec, workers: usize) -> Result<Self, OpenError> {
        let identity = Identity { id, name: &spec.name, mtu: spec.mtu };
        let Opened { driver, keeper } = driver::open(&spec, &identity)?;
        Ok(Self { port: Arc::new(Port::new(id, spec, driver, workers)), _keeper: keeper })
    }

    /// Why there cannot be a port as `spec` asks for beside this one, if there cannot.
    pub fn conflict(&self, spec: &PortSpec) -> Option<String> {
        let mine = self.port.spec();
        if mine.name == spec.name {
            return Some(format!("port {}: the name is taken; choose another", spec.name));
        }
        if mine.local && spec.local {
            return Some(format!(
                "port {}: {} is the local port already; drop local=on",
                spec.name, mine.name
            ));
        }
        mine.shared_with(spec).map(|shared| {
            format!("port {}: {} is already port {}'s; choose another", spec.name, shared, mine.name)
        })
    }
}

impl fmt::Display for OpenPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.port.spec().name.fmt(f)
    }
}

/// What the slow path knows of a port: its place in VLANs, and how many addresses it may teach.
pub fn switch_port(spec: &PortSpec) -> PortVlan {
    PortVlan { mode: spec.vlan.switch_mode(), priority_tags: spec.priority_tags, mac_limit: spec.mac_limit }
}
