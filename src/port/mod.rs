//! A port of the appliance: what the switch knows of it by number, and the driver that moves its packets.

/// Opening what a port specification asks for.
pub mod driver;

/// Ports towards the host: TAP interfaces.
pub mod tap;

/// The virtio-net header as the host kernel speaks it.
pub mod vnet_header;

/// Memory that frames from the host are read into.
mod rx_area;

/// Spaces out polls that are system calls.
mod poll_pacer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use vsteer_switch::bridge::config::PortVlan;
use vsteer_switch::bridge::vlan::{VlanMode, VlanSet};
use vsteer_switch::counters::PortCounters;
use vsteer_switch::egress::OffloadCaps;
use vsteer_switch::port::PortId;
use vsteer_switch::wire::vlan::VlanId;
use vsteer_vhost::net::port::VhostPort;

use crate::config::{PortSpec, VlanSpec};
use crate::port::tap::{TapReceiver, TapTransmitter};

/// Longest frame of a port without an MTU of its own: jumbo frames with two tags.
const DEFAULT_MAX_FRAME_BYTES: usize = 9000 + LINK_HEADER_BYTES;

/// Ethernet header and two VLAN tags.
const LINK_HEADER_BYTES: usize = 14 + 8;

/// What moves a port's packets.
#[derive(Debug)]
pub enum Driver {
    /// A guest.
    VhostUser(Arc<VhostPort>),
    /// The host.
    Tap(TapPort),
}

/// A TAP interface with its queues.
///
/// # Concurrency
/// One worker receives from a queue and holds its receiver from fill to clear; nobody else takes it while the worker is
/// assigned. Transmitting needs no lock: the kernel takes whole frames.
#[derive(Debug)]
pub struct TapPort {
    /// One per queue.
    pub receivers: Box<[Mutex<TapReceiver>]>,
    /// One per queue.
    pub transmitters: Box<[TapTransmitter]>,
    /// What the host takes unfinished.
    pub caps: OffloadCaps,
    /// The errno with which a queue failed for good; 0 while none has. Written by workers, read by control threads.
    pub failed: AtomicI32,
}

impl TapPort {
    /// Why nothing comes from the host any more, if a queue failed.
    pub fn fault(&self) -> Option<String> {
        // Relaxed: the number stands alone.
        let errno = self.failed.load(Ordering::Relaxed);
        (errno != 0).then(|| {
            let error = io::Error::from_raw_os_error(errno);
            format!(
                "reading from the interface failed: {error}; was it deleted? delete the port and add it again"
            )
        })
    }
}

/// A port.
///
/// # Concurrency
/// Workers and control threads share it. What the operator asked for is replaced by control threads, and workers read it
/// only to report a failure; what packets depend on does not change while the port lives, or comes with a snapshot.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    spec: ArcSwap<PortSpec>,
    /// What moves its packets.
    pub driver: Driver,
    /// Counters of each worker, by the worker's index.
    pub counters: Box<[PortCounters]>,
    /// Longest frame that may leave by it, not counting offloads.
    pub max_frame_bytes: usize,
}

impl Port {
    /// A port with counters for `workers` workers.
    pub fn new(id: PortId, spec: PortSpec, driver: Driver, workers: usize) -> Self {
        let max_frame_bytes =
            spec.mtu.map_or(DEFAULT_MAX_FRAME_BYTES, |mtu| usize::from(mtu) + LINK_HEADER_BYTES);
        let counters = (0..workers).map(|_| PortCounters::default()).collect();
        Self { id, spec: ArcSwap::from_pointee(spec), driver, counters, max_frame_bytes }
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

    /// Queues that packets can be received from.
    pub fn queues(&self) -> usize {
        match &self.driver {
            Driver::VhostUser(port) => port.queue_pairs(),
            Driver::Tap(tap) => tap.receivers.len(),
        }
    }
}

/// What the slow path knows of a port: its place in VLANs, and how many addresses it may teach.
pub fn switch_port(spec: &PortSpec) -> PortVlan {
    let mode = match &spec.vlan {
        VlanSpec::Access { vlan } => VlanMode::Access(*vlan),
        VlanSpec::Trunk { trunks: None, native } => {
            VlanMode::Trunk { native: Some(native.unwrap_or(VlanId::UNTAGGED)), allowed: VlanSet::ALL }
        }
        VlanSpec::Trunk { trunks: Some(trunks), native } => {
            VlanMode::Trunk { native: *native, allowed: trunks.iter().collect() }
        }
    };
    PortVlan { mode, mac_limit: spec.mac_limit }
}

/// The offloads that the guest behind `port` takes.
#[inline]
pub fn guest_caps(port: &VhostPort) -> OffloadCaps {
    let negotiated = port.negotiated();
    OffloadCaps {
        checksum: negotiated.guest_takes_partial(),
        tso4: negotiated.guest_takes_tso4(),
        tso6: negotiated.guest_takes_tso6(),
        ecn: negotiated.guest_takes_ecn(),
    }
}
