//! The kinds of ports: the one place that tells them apart.
//!
//! Everybody else has a `Port` and does to it what any port can do. Here stands, for each of these things, which kind's file
//! does it. A new kind is a file with its words and its driver, a variant of the enums below with the lines that the compiler
//! then asks for, and a line in `KINDS`.
//!
//! An enum and not a trait object, since a worker goes through here several times per burst: a match on two or three kinds
//! is predicted and its arms are inlined, a call through a table is neither. What runs once per port is matched the same way.
//!
//! # A burst on its way
//! 1. [`Driver::receive`] fills the worker's empty burst from one queue. The tails lie where the frames came from: in guest
//!    memory, in a frame of a ring shared with the kernel, in a NIC's buffer. What it returns, a [`Received`], holds them there.
//! 2. The worker switches the burst, and each egress port is given its frames by [`Driver::transmit`], a batch at a time.
//!    When that returns, nobody looks at the frames any more: they were copied, once, to where the port wants them.
//! 3. The worker clears the burst, and [`Received::complete`] gives the memory back to where it came from.
//!
//! So a `Received` is what a kind needs to give back a burst and nothing else: a locked ring, the numbers of the frames to put
//! into a fill ring, the work requests to post anew. It borrows its driver, so it cannot outlive the port.
//!
//! # Wrappers
//! A wrapper is a driver around another one: `trace.rs`, `fault.rs`. It is a variant of its own in a box, so that ports without
//! one are as they were. What it does with bursts and batches it does in its own file, and for all else it asks the inner driver.
//!
//! # What kinds to come need, and where it goes
//! - *AF_XDP.* Frames of the UMEM are handed out as tails; `Received` is the span of the RX ring that they came from, and
//!   `complete` moves it to the fill ring. Ring space, not a lock, says what is held. A ring that wants a system call after new
//!   entries gets one per `complete` and one per `transmit`: both are per burst, not per packet. Several queues have a
//!   descriptor each, which `attach` gives to the worker's epoll set.
//! - *AF_PACKET.* The same with a ring of blocks: `complete` gives the block back to the kernel.
//! - *macvtap.* Another way to open the queues of `tap/`; the rest is the same.
//! - *verbs raw queues.* `Received` is the receive requests to post anew. Completions of what was sent are reaped by the next
//!   `transmit`, and by `receive`, which the assigned worker calls in every round even if nothing comes. `arm` requests
//!   events of the completion channels, looks once more, and the channel's descriptor ends the sleep.
//! - *Zero-copy transmission* breaks rule 2: the NIC reads the tail later. It does so only for bursts whose source can wait,
//!   and the source has to know: `transmit` marks the packets that it keeps in the burst, `complete` gives back the others
//!   at once, and a kept one when the sender has reaped it. Both calls have what that takes: `transmit` sees the whole
//!   burst and its positions, `complete` is the source's and comes after the last `transmit`. Until a NIC is measured
//!   to gain by it, everybody copies.
//! - *Tunnel ports* have no driver: the rules' actions put the outer headers on and the result leaves by another port. They
//!   have a number, words and counters, so they will be a `Port` whose driver has no queues.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use vsteer_switch::counters::PortCounters;
use vsteer_switch::egress::Finisher;
use vsteer_switch::packet::Burst;
use vsteer_switch::port::PortId;

use super::batch::Batch;
use super::fault::{self, Fault};
use super::guest::{self, Guest, GuestDraft, GuestError, GuestSpec};
use super::pcap::{self, PcapDraft, PcapPort, PcapPortError, PcapSpec};
use super::queue_set::QueueSet;
use super::report::{DriverStatus, News};
use super::tap::interface::TapError;
use super::tap::{self, TapDraft, TapPort, TapSpec};
use super::trace::{self, Trace, TraceError};
use super::words::Words;
use crate::config::PortSpec;
use crate::config::error::Problem;
use crate::config::inherited_socket::InheritedSocket;

// What every driver and the workers say to each other about waiting.
pub use vsteer_vhost::net::port::Rest;
pub use vsteer_vhost::net::queue::KickPoller;

type EmptyDraft = fn() -> KindDraft;

/// Every kind, with an empty draft of it.
const KINDS: [(&Words, EmptyDraft); 3] = [
    (&guest::WORDS, || KindDraft::VhostUser(GuestDraft::default())),
    (&tap::WORDS, || KindDraft::Tap(TapDraft::default())),
    (&pcap::WORDS, || KindDraft::Pcap(PcapDraft::default())),
];

/// The words of every kind.
pub fn kinds() -> impl Iterator<Item = &'static Words> + Clone {
    KINDS.iter().map(|&(words, _)| words)
}

/// The kind's own words of a port, while they are read.
#[derive(Debug)]
pub enum KindDraft {
    /// A guest.
    VhostUser(GuestDraft),
    /// The host.
    Tap(TapDraft),
    /// A capture.
    Pcap(PcapDraft),
}

impl KindDraft {
    /// A port of the type `name`.
    pub(crate) fn of_type(name: &str) -> Result<Self, Problem> {
        match KINDS.iter().find(|(words, _)| words.type_name == name) {
            Some((_, draft)) => Ok(draft()),
            None => Err(format!("unknown port type {name:?}; {}", use_types()).into()),
        }
    }

    /// The guest's port of a side-car, whose socket follows.
    pub(crate) fn guest() -> Self {
        KindDraft::VhostUser(GuestDraft::default())
    }

    /// The guest's port of a side-car, on a socket that was passed to us.
    pub(crate) fn guest_on(socket: InheritedSocket) -> Self {
        KindDraft::VhostUser(GuestDraft::on(socket))
    }

    /// What the kind is called and has.
    pub(crate) fn words(&self) -> &'static Words {
        match self {
            KindDraft::VhostUser(_) => &guest::WORDS,
            KindDraft::Tap(_) => &tap::WORDS,
            KindDraft::Pcap(_) => &pcap::WORDS,
        }
    }

    /// Sets what follows the type.
    pub(crate) fn set_address(&mut self, text: &str) -> Result<(), Problem> {
        match self {
            KindDraft::VhostUser(draft) => draft.set_address(text),
            KindDraft::Tap(draft) => draft.set_address(text),
            KindDraft::Pcap(draft) => draft.set_address(text),
        }
    }

    /// Sets one of the kind's options.
    pub(crate) fn set(&mut self, option: &str, text: &str) -> Result<(), Problem> {
        match self {
            KindDraft::VhostUser(draft) => draft.set(option, text),
            KindDraft::Tap(draft) => draft.set(option, text),
            KindDraft::Pcap(draft) => draft.set(option, text),
        }
    }

    /// The specification, if the words make sense together.
    pub(crate) fn finish(self) -> Result<KindSpec, Problem> {
        match self {
            KindDraft::VhostUser(draft) => draft.finish().map(KindSpec::VhostUser),
            KindDraft::Tap(draft) => draft.finish().map(KindSpec::Tap),
            KindDraft::Pcap(draft) => draft.finish().map(KindSpec::Pcap),
        }
    }
}

/// What to write in place of a type that there is not.
pub(crate) fn use_types() -> String {
    let usages: Vec<String> = kinds().map(Words::usage).collect();
    match usages.split_last() {
        Some((last, [])) => format!("use {last}"),
        Some((last, others)) => format!("use {} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// What a port has beside what all ports have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KindSpec {
    /// A guest, reached over the vhost-user protocol.
    VhostUser(GuestSpec),
    /// A TAP interface of the host.
    Tap(TapSpec),
    /// A capture file.
    Pcap(PcapSpec),
}

impl KindSpec {
    /// What the kind is called and has.
    pub fn words(&self) -> &'static Words {
        match self {
            KindSpec::VhostUser(_) => &guest::WORDS,
            KindSpec::Tap(_) => &tap::WORDS,
            KindSpec::Pcap(_) => &pcap::WORDS,
        }
    }

    /// What follows the type: a path, an interface, or `fd N`.
    pub fn address(&self) -> String {
        match self {
            KindSpec::VhostUser(spec) => spec.address(),
            KindSpec::Tap(spec) => spec.interface.clone(),
            KindSpec::Pcap(spec) => spec.file.display().to_string(),
        }
    }

    /// What no two ports may share, of whatever kinds they are, if there is such a thing.
    pub fn exclusive(&self) -> Option<Exclusive> {
        match self {
            KindSpec::VhostUser(spec) => Some(Exclusive::Path(spec.identity())),
            KindSpec::Tap(spec) => Some(Exclusive::Interface(spec.interface.clone())),
            KindSpec::Pcap(spec) => spec.exclusive().map(Exclusive::Path),
        }
    }

    /// Writes the options that are about the address: `,OPTION=VALUE...`.
    pub(crate) fn fmt_address_options(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KindSpec::VhostUser(spec) => spec.fmt_socket_options(f),
            KindSpec::Tap(_) | KindSpec::Pcap(_) => Ok(()),
        }
    }

    /// Writes all other options: `,OPTION=VALUE...`.
    pub(crate) fn fmt_options(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KindSpec::VhostUser(spec) => spec.fmt_options(f),
            KindSpec::Tap(spec) => spec.fmt_options(f),
            KindSpec::Pcap(spec) => spec.fmt_options(f),
        }
    }
}

/// What a port must have alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Exclusive {
    /// A file or a socket, its path in one form however it was written.
    Path(PathBuf),
    /// An interface of the host, by its name.
    Interface(String),
}

impl fmt::Display for Exclusive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exclusive::Path(path) => path.display().fmt(f),
            Exclusive::Interface(name) => name.fmt(f),
        }
    }
}

/// Why a port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The guest's socket cannot be had.
    #[error(transparent)]
    VhostUser(#[from] GuestError),
    /// The TAP interface cannot be had.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A capture or a recording cannot be had.
    #[error(transparent)]
    Pcap(#[from] PcapPortError),
    /// The port cannot be traced.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

/// What a driver is told of its port.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The port's number.
    pub id: PortId,
    /// Its name, for threads and messages.
    pub name: &'a str,
    /// The MTU, where one was set.
    pub mtu: Option<u16>,
}

/// Threads and files of a port that end when this is dropped, by a control thread and before the driver goes.
pub type Keeper = Box<dyn fmt::Debug + Send>;

/// A driver, and what keeps it alive.
#[derive(Debug)]
pub struct Opened<D> {
    /// What moves packets.
    pub driver: D,
    /// What serves the driver.
    pub keeper: Option<Keeper>,
}

impl<D> Opened<D> {
    pub(super) fn map<E>(self, wrap: impl FnOnce(D) -> E) -> Opened<E> {
        Opened { driver: wrap(self.driver), keeper: self.keeper }
    }
}

/// Finds what would keep [`open`] from succeeding now, and changes nothing.
///
/// # Errors
/// As for `open`.
pub fn check(spec: &PortSpec) -> Result<(), OpenError> {
    match &spec.kind {
        KindSpec::VhostUser(spec) => guest::check(spec)?,
        KindSpec::Tap(kind) => tap::check(kind, spec.mtu)?,
        KindSpec::Pcap(spec) => pcap::check(spec)?,
    }
    spec.trace.as_ref().map_or(Ok(()), |file| trace::check(file))
}

/// Opens what `spec` asks for, within the wrappers that it asks for.
///
/// # Errors
/// What the operator can do about it.
pub fn open(spec: &PortSpec, port: &Identity<'_>) -> Result<Opened<Driver>, OpenError> {
    let mut opened = open_kind(&spec.kind, port)?;
    // The trace is next to the driver: it has what passes the other side of the port, faults and all.
    if let Some(file) = &spec.trace {
        opened = trace::wrap(opened, file, port)?;
    }
    Ok(match &spec.fault {
        Some(faults) => fault::wrap(opened, faults, port),
        None => opened,
    })
}

fn open_kind(spec: &KindSpec, port: &Identity<'_>) -> Result<Opened<Driver>, OpenError> {
    match spec {
        KindSpec::VhostUser(spec) => Ok(guest::open(spec, port)?.map(Driver::VhostUser)),
        KindSpec::Tap(spec) => Ok(tap::open(spec, port)?.map(Driver::Tap)),
        KindSpec::Pcap(spec) => Ok(pcap::open(spec, port)?.map(Driver::Pcap)),
    }
}

/// What moves a port's packets.
///
/// # Concurrency
/// One worker at a time receives from a queue: the one that it is assigned to. Any worker may transmit at any time. Control
/// threads ask for the status and take news.
#[derive(Debug)]
pub enum Driver {
    /// A guest.
    VhostUser(Guest),
    /// The host.
    Tap(TapPort),
    /// A capture.
    Pcap(PcapPort),
    /// Any of them, traced.
    Trace(Box<Trace>),
    /// Any of them, with faults on purpose.
    Fault(Box<Fault>),
}

/// A worker's space to receive and transmit in, by any port.
#[derive(Debug, Default)]
pub struct Scratch {
    guest: guest::Scratch,
    /// Also for wrappers.
    pub(super) finisher: Finisher,
}

/// A burst that was received: holds the memory of its tails until the burst has left the switch.
#[derive(Debug)]
#[must_use = "the port gets its buffers back by `complete`"]
pub enum Received<'a> {
    /// From a guest.
    VhostUser(guest::Received<'a>),
    /// From the host.
    Tap(tap::Received<'a>),
    /// From a capture.
    Pcap(pcap::Received<'a>),
    /// From any port with faults.
    Fault(fault::Received<'a>),
}

impl Received<'_> {
    /// Gives the port its buffers back. The burst has been cleared.
    #[inline]
    pub fn complete(self) {
        match self {
            Received::VhostUser(received) => received.complete(),
            Received::Tap(received) => drop(received),
            Received::Pcap(received) => drop(received),
            Received::Fault(received) => drop(received),
        }
    }
}

// Data path: called by workers.
impl Driver {
    /// Queues that packets can be received from.
    pub fn queues(&self) -> usize {
        match self {
            Driver::VhostUser(guest) => guest.queues(),
            Driver::Tap(tap) => tap.queues(),
            Driver::Pcap(_) => 1,
            Driver::Trace(trace) => trace.inner.queues(),
            Driver::Fault(fault) => fault.inner.queues(),
        }
    }

    /// The queues among `assigned` that packets can come from at present.
    #[inline]
    pub fn live_queues(&self, assigned: QueueSet) -> QueueSet {
        match self {
            Driver::VhostUser(guest) => guest.live_queues(assigned),
            Driver::Tap(_) | Driver::Pcap(_) => assigned,
            Driver::Trace(trace) => trace.inner.live_queues(assigned),
            Driver::Fault(fault) => fault.live_queues(assigned),
        }
    }

    /// Fills the empty `burst` from `queue` and counts what came; `None` if there was nothing. The caller clears the burst
    /// before it completes what this returns.
    #[inline]
    pub fn receive<'a>(
        &'a self,
        queue: usize,
        burst: &mut Burst,
        scratch: &mut Scratch,
        counters: &PortCounters,
    ) -> Option<Received<'a>> {
        match self {
            Driver::VhostUser(guest) => {
                guest.receive(queue, burst, &mut scratch.guest, counters).map(Received::VhostUser)
            }
            Driver::Tap(tap) => tap.receive(queue, burst, counters).map(Received::Tap),
            Driver::Pcap(pcap) => pcap.receive(burst, counters).map(Received::Pcap),
            Driver::Trace(trace) => trace.receive(queue, burst, scratch, counters),
            Driver::Fault(fault) => fault.receive(queue, burst, scratch, counters),
        }
    }

    /// The queues among `assigned` that are worth a [`look_ahead`](Self::look_ahead).
    #[inline]
    pub fn queues_to_look_ahead(&self, assigned: QueueSet) -> QueueSet {
        match self {
            Driver::VhostUser(guest) => guest.live_queues(assigned),
            // Their packets lie in the kernel, or are copied as they are taken.
            Driver::Tap(_) | Driver::Pcap(_) => QueueSet::EMPTY,
            Driver::Trace(trace) => trace.inner.queues_to_look_ahead(assigned),
            Driver::Fault(fault) => fault.inner.queues_to_look_ahead(assigned),
        }
    }

    /// Asks the processor for what `queue` holds, so that a [`receive`](Self::receive) a little later finds it in the cache.
    #[inline]
    pub fn look_ahead(&self, queue: usize) {
        match self {
            Driver::VhostUser(guest) => guest.look_ahead(queue),
            Driver::Tap(_) | Driver::Pcap(_) => (),
            Driver::Trace(trace) => trace.inner.look_ahead(queue),
            Driver::Fault(fault) => fault.inner.look_ahead(queue),
        }
    }

    /// Sends a batch and counts each frame, sent or dropped. What the port does not take is finished in software on the way.
    #[inline]
    pub fn transmit(&self, batch: Batch<'_>, scratch: &mut Scratch) {
        match self {
            Driver::VhostUser(guest) => guest.transmit(batch, &mut scratch.guest, &mut scratch.finisher),
            Driver::Tap(tap) => tap.transmit(batch, &mut scratch.finisher),
            Driver::Pcap(pcap) => pcap.transmit(batch, &mut scratch.finisher),
            Driver::Trace(trace) => trace.transmit(batch, scratch),
            Driver::Fault(fault) => fault.transmit(batch, scratch),
        }
    }

    /// Before a worker sleeps: has each of `assigned` end the sleep when a packet comes, and says how long it may sleep.
    pub fn arm(&self, assigned: QueueSet) -> Rest {
        match self {
            Driver::VhostUser(guest) => guest.arm(assigned),
            // The descriptors are watched all the time.
            Driver::Tap(_) => Rest::Long,
            Driver::Pcap(pcap) => pcap.arm(),
            Driver::Trace(trace) => trace.inner.arm(assigned),
            Driver::Fault(fault) => fault.arm(assigned),
        }
    }

    /// After a sleep: `assigned` are polled again.
    pub fn resume(&self, assigned: QueueSet) {
        match self {
            Driver::VhostUser(guest) => guest.resume(assigned),
            Driver::Tap(tap) => tap.resume(assigned),
            Driver::Pcap(pcap) => pcap.resume(),
            Driver::Trace(trace) => trace.inner.resume(assigned),
            Driver::Fault(fault) => fault.resume(assigned),
        }
    }
}

// Control: called by workers that take over an assignment, and by control threads.
impl Driver {
    /// Hands `queue` to the worker behind `poller`, whoever had it.
    pub fn attach(&self, queue: usize, poller: &Arc<dyn KickPoller>) {
        match self {
            Driver::VhostUser(guest) => guest.attach(queue, poller),
            Driver::Tap(tap) => tap.attach(queue, poller),
            Driver::Pcap(pcap) => pcap.attach(poller),
            Driver::Trace(trace) => trace.attach(queue, poller),
            Driver::Fault(fault) => fault.attach(queue, poller),
        }
    }

    /// The worker behind `poller` lets go of `queue`. If another has it by now, that one keeps it.
    pub fn detach(&self, queue: usize, poller: &Arc<dyn KickPoller>) {
        match self {
            Driver::VhostUser(guest) => guest.detach(queue, poller),
            Driver::Tap(tap) => tap.detach(queue, poller),
            Driver::Pcap(pcap) => pcap.detach(poller),
            Driver::Trace(trace) => trace.inner.detach(queue, poller),
            Driver::Fault(fault) => fault.detach(queue, poller),
        }
    }

    /// How the driver stands.
    pub fn status(&self) -> DriverStatus {
        match self {
            Driver::VhostUser(guest) => guest.status(),
            Driver::Tap(tap) => tap.status(),
            Driver::Pcap(pcap) => pcap.status(),
            Driver::Trace(trace) => trace.status(),
            Driver::Fault(fault) => fault.status(),
        }
    }

    /// What has happened to the port that belongs into the log, once. Workers do not log, so somebody has to ask.
    pub fn take_news(&self) -> Option<News> {
        match self {
            Driver::VhostUser(guest) => guest.take_news(),
            Driver::Tap(tap) => tap.take_news(),
            Driver::Pcap(pcap) => pcap.take_news(),
            Driver::Trace(trace) => trace.inner.take_news(),
            Driver::Fault(fault) => fault.inner.take_news(),
        }
    }
}
