//! A trace of any port: what comes from its other side and goes to it, written to a file for packet analysers.
//!
//! A wrapper: another driver moves the packets, and each burst and batch is recorded on its way (see `recorder.rs`). The file
//! is a pcapng, which says of each packet which way it went and, in a comment, what work on it is left to others: a checksum
//! to complete, segments to cut. No packet waits for the file: what finds no room is left out of the trace and counted.
//!
//! Ports without a trace have no wrapper, and pay nothing for this.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vsteer_switch::counters::PortCounters;
use vsteer_switch::packet::{Burst, Frame};
use vsteer_vhost::net::queue::KickPoller;

use super::batch::Batch;
use super::driver::{Driver, Identity, OpenError, Opened, Received, Scratch};
use super::recorder::{self, Format, Output, OutputError, Tape, Way};
use super::report::DriverStatus;
use crate::config::error::Problem;

/// Bytes of a packet that are recorded.
const SNAP_BYTES: usize = 2048;

/// Reads the value of `trace=`: a file.
pub(crate) fn parse(text: &str) -> Result<PathBuf, Problem> {
    match text {
        "" => Err("the file's path is empty; name a file".into()),
        path => Ok(path.into()),
    }
}

/// Why a port cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be had.
    #[error("trace={0}")]
    Output(#[from] OutputError),
    /// The system has no threads left.
    #[error("a thread cannot be started: {0}; raise the limit of threads")]
    System(#[from] std::io::Error),
}

/// A driver that is traced.
#[derive(Debug)]
pub struct Trace {
    /// What moves the packets.
    pub(super) inner: Driver,
    tape: Arc<Tape>,
    file: String,
    /// Packets that the trace has no room for.
    missed: AtomicU64,
}

/// Finds what would keep [`wrap`] from succeeding now, and changes nothing.
pub(super) fn check(file: &Path) -> Result<(), OpenError> {
    Ok(Output::check(file, None).map_err(TraceError::from)?)
}

/// Puts a trace to `file` around `opened`.
pub(super) fn wrap(
    opened: Opened<Driver>,
    file: &Path,
    port: &Identity<'_>,
) -> Result<Opened<Driver>, OpenError> {
    let output = Output::open(file, None).map_err(TraceError::from)?;
    let format = Format::PcapNg { snap_bytes: SNAP_BYTES };
    let (tape, recording) = output.record(port.name, format).map_err(TraceError::from)?;
    let Opened { driver: inner, keeper } = opened;
    let trace = Trace { inner, tape, file: file.display().to_string(), missed: AtomicU64::new(0) };
    // What serves the driver ends before the recording.
    Ok(Opened { driver: Driver::Trace(Box::new(trace)), keeper: Some(Box::new((keeper, recording))) })
}

impl Trace {
    #[cold]
    pub(super) fn receive<'a>(
        &'a self,
        queue: usize,
        burst: &mut Burst,
        scratch: &mut Scratch,
        counters: &PortCounters,
    ) -> Option<Received<'a>> {
        let received = self.inner.receive(queue, burst, scratch, counters)?;
        self.record(Way::In, (0..burst.len()).map(|index| burst.frame(index)));
        Some(received)
    }

    #[cold]
    pub(super) fn transmit(&self, batch: Batch<'_>, scratch: &mut Scratch) {
        self.record(Way::Out, batch.frames());
        self.inner.transmit(batch, scratch);
    }

    fn record<'f>(&self, way: Way, frames: impl Iterator<Item = Frame<'f>>) {
        let time_us = recorder::now_us();
        for frame in frames {
            if !self.tape.record(time_us, way, &frame) {
                self.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.tape.flush();
    }

    pub(super) fn attach(&self, queue: usize, poller: &Arc<dyn KickPoller>) {
        self.tape.begin();
        self.inner.attach(queue, poller);
    }

    pub(super) fn status(&self) -> DriverStatus {
        let mut text = format!("trace: {} packets in {}", self.tape.recorded(), self.file);
        let missed = self.missed.load(Ordering::Relaxed);
        if missed > 0 {
            text += &format!(", {missed} missed");
        }
        if let Some(fault) = self.tape.fault() {
            text += &format!(" ({fault})");
        }
        self.inner.status().with_activity(text)
    }
}
