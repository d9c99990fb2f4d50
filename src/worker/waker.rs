//! What ends a worker's sleep: an epoll set over the kick descriptors of its queues, and one event of its own.
//!
//! Everything is edge-triggered: each kick is a new edge, so nobody ever reads the descriptors, and a kick that comes
//! while the worker is awake only makes its next sleep end at once.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use epoll::{ControlOptions, Event, Events};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::port::driver::KickPoller;

/// The epoll set of one worker.
///
/// # Concurrency
/// Only the worker sleeps; any thread may add, remove and wake.
#[derive(Debug)]
pub struct Waker {
    epoll: OwnedFd,
    event: EventFd,
}

impl Waker {
    /// A set that contains only the worker's own event.
    ///
    /// # Errors
    /// The process has no descriptors left.
    #[allow(unsafe_code, reason = "the epoll crate hands out a bare descriptor")]
    pub fn new() -> io::Result<Self> {
        let fd = epoll::create(true)?;
        // SAFETY: the descriptor was just made for us and nobody else knows it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let waker = Self { epoll, event: EventFd::new(EFD_NONBLOCK)? };
        waker.control(ControlOptions::EPOLL_CTL_ADD, waker.event.as_raw_fd())?;
        Ok(waker)
    }

    /// Sleeps until something happens, `timeout_ms` at most.
    pub fn sleep(&self, timeout_ms: i32) {
        let mut events = [Event { events: 0, data: 0 }; 8];
        // An interrupted sleep is a sleep that ended; what happened is found by polling, not from the events.
        let _ = epoll::wait(self.epoll.as_raw_fd(), timeout_ms, &mut events);
    }

    fn control(&self, operation: ControlOptions, fd: i32) -> io::Result<()> {
        let event = Event::new(Events::EPOLLIN | Events::EPOLLET, 0);
        epoll::ctl(self.epoll.as_raw_fd(), operation, fd, event)
    }
}

impl KickPoller for Waker {
    fn watch(&self, kick: BorrowedFd<'_>) -> bool {
        match self.control(ControlOptions::EPOLL_CTL_ADD, kick.as_raw_fd()) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "a kick descriptor cannot be waited for; its queue is polled once a millisecond until its front-end \
                     starts it anew"
                );
                false
            }
        }
    }

    fn forget(&self, kick: BorrowedFd<'_>) {
        // It is gone from the set already if its last other holder closed it.
        let _ = self.control(ControlOptions::EPOLL_CTL_DEL, kick.as_raw_fd());
    }

    fn wake(&self) {
        // A full counter means that the event is pending already.
        let _ = self.event.write(1);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::*;

    fn sleep_ms(waker: &Waker, timeout_ms: i32) -> Duration {
        let start = Instant::now();
        waker.sleep(timeout_ms);
        start.elapsed()
    }

    #[test]
    fn every_kick_ends_one_sleep_though_nobody_reads_it() {
        let waker = Waker::new().unwrap();
        let kick = std::fs::File::from(EventFd::new(EFD_NONBLOCK).map(into_owned).unwrap());
        waker.watch(kick.as_fd());
        for _ in 0..3 {
            std::io::Write::write_all(&mut &kick, &1u64.to_ne_bytes()).unwrap();
            assert!(sleep_ms(&waker, 5_000) < Duration::from_secs(1));
            assert!(sleep_ms(&waker, 20) >= Duration::from_millis(15));
        }
        waker.forget(kick.as_fd());
        std::io::Write::write_all(&mut &kick, &1u64.to_ne_bytes()).unwrap();
        assert!(sleep_ms(&waker, 20) >= Duration::from_millis(15));
        waker.wake();
        assert!(sleep_ms(&waker, 5_000) < Duration::from_secs(1));
    }

    #[allow(unsafe_code, reason = "takes the descriptor out of an EventFd")]
    fn into_owned(event: EventFd) -> OwnedFd {
        use std::os::fd::IntoRawFd;
        // SAFETY: the descriptor was just given up by its owner.
        unsafe { OwnedFd::from_raw_fd(event.into_raw_fd()) }
    }
}
