//! Traffic from one port to another, with an account of every frame.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::ensure;
use crate::failure::{Context, Result};
use crate::world::World;

use super::driver::Driver;
use super::frame::{self, Stamp, Udp};

/// Frames that are sent at once.
const BURST: usize = 32;

/// A packet that came later than it may.
#[derive(Debug, Clone, Copy)]
pub struct Late {
    /// When it was sent, nanoseconds on the traffic's clock.
    pub sent_ns: u64,
    /// When it arrived.
    pub arrived_ns: u64,
}

/// What became of the frames.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// Frames put on the ring.
    pub sent: u64,
    /// Frames that arrived.
    pub received: u64,
    /// Frames that arrived after one that was sent later.
    pub overtaken: u64,
    /// Longest way of a frame, in nanoseconds.
    pub longest_ns: u64,
    /// Frames that took longer than the limit.
    pub late: Vec<Late>,
}

/// The number of the next traffic, by which its frames are told from those of others that come to the same port.
static NEXT_STREAM: AtomicU32 = AtomicU32::new(1);

/// Frames from one driver to another.
#[derive(Debug)]
pub struct Traffic {
    stream: u32,
    from: Driver,
    to: Driver,
    clock: Instant,
    limit_ns: u64,
    expected: u64,
    account: Account,
}

impl Traffic {
    /// Between the ports `from` and `to` of the switch; a frame is late after `limit_ns`. Times count from `clock`.
    pub fn between(world: &World, from: &str, to: &str, clock: Instant, limit_ns: u64) -> Result<Self> {
        Traffic::connect(&world.socket(from), &world.socket(to), clock, limit_ns)
    }

    /// Between two ports whose switch listens at these sockets.
    pub fn connect(from: &Path, to: &Path, clock: Instant, limit_ns: u64) -> Result<Self> {
        Ok(Traffic::over([Driver::connect(from)?, Driver::connect(to)?], clock, limit_ns))
    }

    /// Sockets for a switch that connects by itself: from the first to the second port.
    pub fn listen(sockets: [&Path; 2]) -> Result<[UnixListener; 2]> {
        let listen = |socket: &Path| UnixListener::bind(socket).context(socket.display());
        Ok([listen(sockets[0])?, listen(sockets[1])?])
    }

    /// Between two ports whose switch connects to these sockets.
    pub fn accept(sockets: &[UnixListener; 2], clock: Instant, limit_ns: u64) -> Result<Self> {
        let drivers = [Driver::accept(&sockets[0])?, Driver::accept(&sockets[1])?];
        Ok(Traffic::over(drivers, clock, limit_ns))
    }

    fn over([from, to]: [Driver; 2], clock: Instant, limit_ns: u64) -> Self {
        let stream = NEXT_STREAM.fetch_add(1, Ordering::Relaxed);
        Traffic { stream, from, to, clock, limit_ns, expected: 0, account: Account::default() }
    }

    /// Sends a frame with these headers the other way, so that the switch learns where the receiver is, and waits for it.
    ///
    /// # Errors
    /// It does not arrive within a second.
    pub fn answer(&mut self, headers: &Udp) -> Result<()> {
        let Traffic { stream, from, to, clock, .. } = self;
        let answer = Stamp { stream: *stream, sequence: u64::MAX, sent_ns: frame::nanoseconds(*clock) };
        to.send(1, |buffer| frame::write(buffer, headers, answer));
        let (start, mut has_arrived) = (Instant::now(), false);
        while !has_arrived && start.elapsed() < Duration::from_secs(1) {
            from.receive(|bytes| has_arrived |= frame::stamp(bytes) == Some(answer));
        }
        ensure!(has_arrived, "the answer {headers:?} was lost");
        Ok(())
    }

    /// Sends at most one burst, keeping at most `window` frames on their way. `headers` are asked for by number.
    pub fn send(&mut self, window: u64, mut headers: impl FnMut(u64) -> Udp) -> usize {
        let under_way = self.account.sent.saturating_sub(self.account.received);
        let room = usize::try_from(window.saturating_sub(under_way)).unwrap_or(BURST);
        let sent_ns = frame::nanoseconds(self.clock);
        let mut sequence = self.account.sent;
        let stream = self.stream;
        let sent = self.from.send(room.min(BURST), |buffer| {
            let stamp = Stamp { stream, sequence, sent_ns };
            sequence += 1;
            frame::write(buffer, &headers(stamp.sequence), stamp)
        });
        self.account.sent = sequence;
        sent
    }

    /// Takes what has arrived, and counts its own frames.
    pub fn receive(&mut self) -> usize {
        let Traffic { stream, to, clock, limit_ns, expected, account, .. } = self;
        let arrived_ns = frame::nanoseconds(*clock);
        to.receive(|bytes| {
            let own = frame::stamp(bytes).filter(|stamp| stamp.stream == *stream);
            let Some(Stamp { sequence, sent_ns, .. }) = own else { return };
            account.received += 1;
            account.overtaken += u64::from(sequence < *expected);
            *expected = sequence + 1;
            let way_ns = arrived_ns.saturating_sub(sent_ns);
            account.longest_ns = account.longest_ns.max(way_ns);
            if way_ns > *limit_ns {
                account.late.push(Late { sent_ns, arrived_ns });
            }
        })
    }

    /// The account so far.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Begins a new account. Frames still on their way are forgotten: drain first where that matters.
    pub fn restart(&mut self) -> Account {
        self.expected = 0;
        std::mem::take(&mut self.account)
    }
}
