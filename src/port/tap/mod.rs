//! TAP ports: the host itself as a neighbour on the switch.
//!
//! Here are the port's words and its driver: queues, each with a receiver that one worker has and a transmitter that all
//! may use.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use parking_lot::{Mutex, MutexGuard};
use vsteer_switch::counters::PortCounters;
use vsteer_switch::egress::{Finisher, OffloadCaps};
use vsteer_switch::packet::{Burst, Frame};
use vsteer_switch::port::PortId;
use vsteer_vhost::net::queue::KickPoller;

use super::batch::{Batch, Sink};
use super::driver::{Identity, Opened};
use super::queue_set::QueueSet;
use super::report::{DriverStatus, Link, News};
use super::words::{Offloads, OffloadsDraft, Words, parse_queues};
use crate::config::error::Problem;
use crate::config::words::set_once;

/// Opens an interface and sets it up.
pub mod interface;

/// Whether an interface could be opened.
mod existing;

/// One queue: frames from the host into a burst, frames from the switch to the host.
pub mod queue;

#[cfg(test)]
mod tests;

use self::interface::{Tap, TapConfig, TapError};
use self::queue::{TapReceiver, TapTransmitter};

/// What these ports are called.
pub(super) const WORDS: Words = Words {
    type_name: "tap",
    address: "IFNAME",
    address_key: "interface",
    options: &["queues", "csum", "tso"],
};

/// What a TAP port has beside what all ports have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSpec {
    /// Name of the interface; created when it does not exist.
    pub interface: String,
    /// Its queues.
    pub queues: u16,
    /// Offloads asked of the host and offered to it.
    pub offloads: Offloads,
}

impl TapSpec {
    pub(super) fn fmt_options(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ",queues={}{}", self.queues, self.offloads)
    }
}

/// A TAP port whose words are still being read.
#[derive(Debug, Default)]
pub struct TapDraft {
    interface: Option<String>,
    queues: Option<u16>,
    offloads: OffloadsDraft,
}

impl TapDraft {
    pub(super) fn set_address(&mut self, name: &str) -> Result<(), Problem> {
        check_interface(name)?;
        set_once(&mut self.interface, name.to_owned())
    }

    pub(super) fn set(&mut self, option: &str, text: &str) -> Result<(), Problem> {
        match option {
            "queues" => set_once(&mut self.queues, parse_queues(text)?),
            "csum" => self.offloads.set_csum(text),
            "tso" => self.offloads.set_tso(text),
            _ => Err(Problem::unknown("option", option, WORDS.options.iter().copied())),
        }
    }

    pub(super) fn finish(self) -> Result<TapSpec, Problem> {
        Ok(TapSpec {
            interface: self.interface.ok_or("no interface; use interface = \"NAME\"")?,
            queues: self.queues.unwrap_or(1),
            offloads: self.offloads.finish()?,
        })
    }
}

/// Refuses names that Linux gives no interface.
fn check_interface(name: &str) -> Result<(), Problem> {
    let fits = (1..=interface::MAX_NAME_LEN).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(format!("interface name {name:?} does not fit; use 1 to 15 characters without / : % and space")
        .into())
}

/// A TAP interface with its queues.
///
/// # Concurrency
/// One worker receives from a queue and holds its receiver until the burst has left the switch; nobody else takes it while
/// the worker is assigned. Transmitting needs no lock: the kernel takes whole frames.
#[derive(Debug)]
pub struct TapPort {
    id: PortId,
    receivers: Box<[Mutex<TapReceiver>]>,
    transmitters: Box<[TapTransmitter]>,
    /// What the host takes unfinished.
    caps: OffloadCaps,
    /// The errno with which a queue failed for good; 0 while none has. Written by workers, read by control threads.
    failed: AtomicI32,
    /// That has not been told yet.
    is_news: AtomicBool,
}

fn tap_config(spec: &TapSpec, mtu: Option<u16>) -> TapConfig {
    TapConfig {
        queues: spec.queues,
        offload: spec.offloads.csum && spec.offloads.tso,
        mtu: mtu.map(u32::from),
        ..TapConfig::new(&spec.interface)
    }
}

/// Finds what would keep [`open`] from succeeding now, and changes nothing.
pub(super) fn check(spec: &TapSpec, mtu: Option<u16>) -> Result<(), TapError> {
    existing::check(&tap_config(spec, mtu))
}

/// Makes the interface, or attaches to it, and brings it up.
pub(super) fn open(spec: &TapSpec, port: &Identity<'_>) -> Result<Opened<TapPort>, TapError> {
    let tap = Tap::open(&tap_config(spec, port.mtu))?;
    let (checksum, tso, uso) = (tap.checksum(), tap.tso(), tap.uso());
    let (receivers, transmitters): (Vec<_>, Vec<_>) =
        tap.into_queues().into_iter().map(|queue| (Mutex::new(queue.receiver), queue.transmitter)).unzip();
    let driver = TapPort {
        id: port.id,
        receivers: receivers.into(),
        transmitters: transmitters.into(),
        caps: OffloadCaps { checksum, tso4: tso, tso6: tso, uso, ecn: tso },
        failed: AtomicI32::new(0),
        is_news: AtomicBool::new(false),
    };
    Ok(Opened { driver, keeper: None })
}

/// A burst that was read from a queue: nothing else is read to the same place while it lives.
#[derive(Debug)]
pub struct Received<'a>(
    #[expect(dead_code, reason = "held until the burst has left")] MutexGuard<'a, TapReceiver>,
);

// Data path: called by workers.
impl TapPort {
    pub(super) fn queues(&self) -> usize {
        self.receivers.len()
    }

    pub(super) fn receive<'a>(
        &'a self,
        queue: usize,
        burst: &mut Burst,
        counters: &PortCounters,
    ) -> Option<Received<'a>> {
        let mut receiver = self.receivers[queue].try_lock()?;
        let outcome = receiver.fill(self.id, burst);
        outcome.count(counters);
        if let Some(errno) = outcome.failed {
            self.fail(errno);
        }
        (!burst.is_empty()).then_some(Received(receiver))
    }

    #[cold]
    fn fail(&self, errno: i32) {
        self.failed.store(errno, Ordering::Relaxed);
        // Release: whoever takes the news sees the number; partner: the acquire in `take_news`.
        self.is_news.store(true, Ordering::Release);
    }

    pub(super) fn transmit(&self, batch: Batch<'_>, finisher: &mut Finisher) {
        let transmitter = &self.transmitters[batch.worker % self.transmitters.len()];
        batch.finish(self.caps, finisher, &mut Queue { transmitter, counters: batch.counters });
    }

    pub(super) fn resume(&self, assigned: QueueSet) {
        for queue in assigned.iter() {
            if let Some(mut receiver) = self.receivers[queue].try_lock() {
                receiver.resume();
            }
        }
    }
}

// Control.
impl TapPort {
    pub(super) fn attach(&self, queue: usize, poller: &Arc<dyn KickPoller>) {
        self.receivers[queue].lock().set_poller(Arc::clone(poller));
    }

    pub(super) fn detach(&self, queue: usize, poller: &Arc<dyn KickPoller>) {
        self.receivers[queue].lock().release_poller(poller);
    }

    pub(super) fn status(&self) -> DriverStatus {
        let fault = self.fault();
        let link = if fault.is_some() { Link::Stopped } else { Link::Up };
        DriverStatus { link, fault, live_queues: self.queues(), ..DriverStatus::default() }
    }

    pub(super) fn take_news(&self) -> Option<News> {
        let is_news = self.is_news.swap(false, Ordering::Acquire);
        is_news.then(|| self.fault()).flatten().map(News::Stopped)
    }

    /// Why nothing comes from the host any more, if a queue failed.
    fn fault(&self) -> Option<String> {
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

/// A queue while a batch is sent.
struct Queue<'a> {
    transmitter: &'a TapTransmitter,
    counters: &'a PortCounters,
}

impl Sink for Queue<'_> {
    fn send<'f>(&mut self, frames: impl ExactSizeIterator<Item = Frame<'f>>) {
        self.transmitter.transmit(frames).count(self.counters);
    }

    /// The kernel has each frame at once.
    fn show(&mut self) {}
}
