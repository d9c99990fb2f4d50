//! How the other side is told: of used buffers by the call descriptor, of a broken ring by the error descriptor.
//!
//! Workers call `Notifier::notify`, under a queue's lock and in the middle of their work, and the front-end shares the
//! descriptor. So only an eventfd is written to at once, since the kernel does next to nothing there, and that under watch
//! (`watchdog.rs`): the front-end can still make it wait. Any other kind of descriptor may wait inside the kernel where no
//! signal ends it (a pipe's lock is held while its other writer's memory is read, which may never arrive), so the session
//! thread writes to it, on a detour: what that thread waits for holds up its own front-end and nobody else. The detour is
//! also for every descriptor of a front-end that was once found to make a worker wait.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::port::MAX_QUEUE_PAIRS;
use crate::watchdog;

/// What is told of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Buffers were used.
    Call,
    /// The ring is broken.
    Error,
}

/// The write had to be interrupted: the descriptor makes its writer wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stuck;

/// Tells the other side of one notice of one queue.
#[derive(Debug)]
pub(crate) enum Notifier {
    /// An eventfd, written to at once.
    Event(File),
    /// The session thread writes.
    Detour {
        /// Which of its errands it is.
        errand: Errand,
        /// The way to it.
        detour: Arc<Detour>,
    },
}

impl Notifier {
    /// Tells the other side. A full counter means that it was told already; a closed one that nobody listens.
    ///
    /// # Errors
    /// The descriptor makes its writer wait. The caller lets go of it.
    #[inline]
    pub(crate) fn notify(&self) -> Result<(), Stuck> {
        match self {
            Self::Event(event) => {
                let write = || (&mut &*event).write(&1u64.to_ne_bytes()).map(drop);
                match watchdog::watched(write) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(Stuck),
                    _ => Ok(()),
                }
            }
            Self::Detour { errand, detour } => {
                detour.ask(*errand);
                Ok(())
            }
        }
    }
}

/// One notice of one queue, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errand(usize);

impl Errand {
    /// The errand of `notice` for `queue`, which is below twice [`MAX_QUEUE_PAIRS`].
    pub(crate) fn new(queue: usize, notice: Notice) -> Self {
        debug_assert!(queue < 2 * MAX_QUEUE_PAIRS as usize);
        Self(2 * queue + usize::from(notice == Notice::Error))
    }

    /// The queue and the notice.
    pub(crate) fn parts(self) -> (usize, Notice) {
        (self.0 / 2, if self.0.is_multiple_of(2) { Notice::Call } else { Notice::Error })
    }
}

/// Words of a set of errands.
const WORDS: usize = 4 * MAX_QUEUE_PAIRS as usize / 64;

/// Errands for a session thread.
///
/// # Concurrency
/// Any thread asks; the session thread takes all that were asked for. The event is written after the bit is set, and read
/// before the bits are taken, so no errand is left lying. The event is ours alone: nobody else can make it wait.
#[derive(Debug)]
pub(crate) struct Detour {
    asked: [AtomicU64; WORDS],
    event: EventFd,
}

impl Detour {
    /// No errands.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(0, flags)?;
        Ok(Self { asked: [const { AtomicU64::new(0) }; WORDS], event })
    }

    fn ask(&self, errand: Errand) {
        self.asked[errand.0 / 64].fetch_or(1 << (errand.0 % 64), Ordering::Release);
        self.wake();
    }

    /// Ends the session thread's wait.
    pub(crate) fn wake(&self) {
        // A full counter means that it was woken already.
        let _ = self.event.write(1);
    }

    /// What the session thread waits on.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Takes everything that was asked for.
    pub(crate) fn take(&self) -> Vec<Errand> {
        // It may have been woken for something else, and then there is nothing to read.
        let _ = self.event.read();
        let mut taken = Vec::new();
        for (base, word) in self.asked.iter().enumerate() {
            let mut word = word.swap(0, Ordering::Acquire);
            // Bound: 64 bits.
            while word != 0 {
                taken.push(Errand(64 * base + word.trailing_zeros() as usize));
                word &= word - 1;
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errands_arrive_once_each_whoever_asked() {
        let detour = Arc::new(Detour::new().unwrap());
        let last = 2 * usize::from(MAX_QUEUE_PAIRS) - 1;
        for (queue, notice) in
            [(0, Notice::Call), (last, Notice::Error), (0, Notice::Call), (40, Notice::Error)]
        {
            let notifier =
                Notifier::Detour { errand: Errand::new(queue, notice), detour: Arc::clone(&detour) };
            notifier.notify().unwrap();
        }
        let taken: Vec<_> = detour.take().into_iter().map(Errand::parts).collect();
        assert_eq!(taken, [(0, Notice::Call), (40, Notice::Error), (last, Notice::Error)]);
        assert!(detour.take().is_empty());
    }
}
