//! Ends a write that would never end.
//!
//! A front-end shares the descriptors by which it is told of used buffers, open file description included: it can clear
//! O_NONBLOCK after we set it, fill the counter, and the next write waits until somebody reads it, which nobody will. No
//! system call writes to an eventfd without that flag's say, and asking for the flag before each write would be a second
//! system call and still a race. So threads say when they are inside such a write, by a counter of their own, and one
//! thread looks at the counters every `PERIOD`. A write that it finds twice is interrupted by a signal whose handler
//! does nothing: the write returns EINTR, and its caller lets go of the descriptor.
//!
//! A write that is only slow is found twice as well now and then, on a machine that is busy. The signal does it no harm:
//! a write that does not wait is not interrupted.
//!
//! While nobody writes, the watchdog sleeps until it is woken: an idle switch stays idle.
//!
//! # Concurrency
//! A caller's counter has one writer, the caller. `PARKED` is set by the watchdog, which then looks at the counters once
//! more, and cleared by whoever finds it set after moving its counter: one of the two sees the other.

#![allow(unsafe_code, reason = "signals are sent to threads, and handled, by system calls")]

use std::cell::OnceCell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;

/// How often the watchdog looks. A write that never ends is interrupted after two periods at most.
const PERIOD: Duration = Duration::from_millis(10);

/// Looks without any write between them after which the watchdog sleeps.
const QUIET_LOOKS: u32 = 3;

/// The signal. Its default action is to be ignored, so that a stray one from elsewhere is harmless.
const SIGNAL: i32 = libc::SIGURG;

/// A thread that writes.
#[derive(Debug)]
struct Caller {
    tid: libc::pid_t,
    /// Moves at the beginning and at the end of each write: odd while there is one.
    moves: AtomicU64,
}

/// Every thread that has written and lives.
static CALLERS: Mutex<Vec<Arc<Caller>>> = Mutex::new(Vec::new());

/// The watchdog sleeps until it is woken.
static PARKED: AtomicBool = AtomicBool::new(false);

/// The watchdog's thread, or nothing where it could not be made.
static WATCHDOG: OnceLock<Option<Thread>> = OnceLock::new();

/// Takes the thread off the list when it ends.
struct Registration(Arc<Caller>);

impl Drop for Registration {
    fn drop(&mut self) {
        // Under the lock: no signal is sent to this thread's number afterwards.
        CALLERS.lock().retain(|caller| !Arc::ptr_eq(caller, &self.0));
    }
}

thread_local! {
    static CALLER: OnceCell<Registration> = const { OnceCell::new() };
}

/// Starts the watchdog, once; false if that fails, and then nothing may be written under its watch.
pub(crate) fn start() -> bool {
    let start = || {
        install_handler().ok()?;
        let watchdog = thread::Builder::new().name("watchdog".into()).spawn(watch).ok()?;
        Some(watchdog.thread().clone())
    };
    WATCHDOG.get_or_init(start).is_some()
}

/// Calls `write`, which fails with [`io::ErrorKind::Interrupted`] if it would have waited for long. [`start`] was called.
#[inline]
pub(crate) fn watched(write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    CALLER.with(|cell| {
        let moves = &cell.get_or_init(register).0.moves;
        // SeqCst: the counter is seen odd by a watchdog that parks now, or PARKED is seen set below; partner: `park`.
        moves.fetch_add(1, Ordering::SeqCst);
        if PARKED.load(Ordering::SeqCst) {
            wake();
        }
        let result = write();
        // Relaxed: one writer; nothing is ordered by it.
        moves.store(moves.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        result
    })
}

#[cold]
fn register() -> Registration {
    // SAFETY: gettid takes no arguments and cannot fail.
    let tid = unsafe { libc::gettid() };
    let caller = Arc::new(Caller { tid, moves: AtomicU64::new(0) });
    CALLERS.lock().push(Arc::clone(&caller));
    Registration(caller)
}

#[cold]
fn wake() {
    if PARKED.swap(false, Ordering::SeqCst)
        && let Some(Some(watchdog)) = WATCHDOG.get()
    {
        watchdog.unpark();
    }
}

/// The watchdog's life.
fn watch() {
    let mut seen: Vec<(libc::pid_t, u64)> = Vec::new();
    let mut quiet = 0;
    loop {
        thread::sleep(PERIOD);
        let now = look(&seen);
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
        let is_nobody_inside = seen.iter().all(|(_, moves)| moves % 2 == 0);
        if quiet >= QUIET_LOOKS && is_nobody_inside {
            park(&seen);
            quiet = 0;
        }
    }
}

/// Looks at every caller, and interrupts those that are inside the write in which they were `seen`.
fn look(seen: &[(libc::pid_t, u64)]) -> Vec<(libc::pid_t, u64)> {
    let callers = CALLERS.lock();
    let look = |caller: &Arc<Caller>| {
        let now = (caller.tid, caller.moves.load(Ordering::Relaxed));
        if now.1 % 2 == 1 && seen.contains(&now) {
            interrupt(caller.tid);
        }
        now
    };
    callers.iter().map(look).collect()
}

fn interrupt(tid: libc::pid_t) {
    // SAFETY: getpid takes no arguments and cannot fail.
    let pid = unsafe { libc::getpid() };
    // SAFETY: tgkill takes numbers only. The thread lives: it is on the list, whose lock is held. A failure leaves it where
    // it is, and the next look tries again.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, SIGNAL) };
}

/// Sleeps until somebody writes, unless somebody has since `seen`.
fn park(seen: &[(libc::pid_t, u64)]) {
    PARKED.store(true, Ordering::SeqCst);
    // SeqCst: after PARKED is out; partner: `watched`.
    let callers = CALLERS.lock();
    let is_same = callers.len() == seen.len()
        && callers.iter().all(|caller| seen.contains(&(caller.tid, caller.moves.load(Ordering::SeqCst))));
    drop(callers);
    if !is_same {
        PARKED.store(false, Ordering::SeqCst);
    }
    while PARKED.load(Ordering::SeqCst) {
        thread::park();
    }
}

extern "C" fn ignore(_signal: i32) {}

fn install_handler() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value. Without SA_RESTART, an interrupted write returns.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as *const () as usize;
    // On the alternate stack where there is one, as Rust asks of handlers.
    action.sa_flags = libc::SA_ONSTACK;
    // SAFETY: the action is complete, and its handler does nothing.
    match unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::sys::eventfd::EventFd;

    use super::*;

    fn write(event: &EventFd, value: u64) -> io::Result<()> {
        event.write(value).map(drop).map_err(Into::into)
    }

    #[test]
    fn write_that_would_wait_for_ever_is_ended_and_others_are_left_alone() {
        assert!(start());
        // Blocking, and full but for one.
        let full = EventFd::from_value(0).unwrap();
        full.write(u64::MAX - 1).unwrap();
        for _ in 0..3 {
            let begin = Instant::now();
            let error = watched(|| write(&full, 1)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted);
            assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
            // Long enough for the watchdog to park.
            thread::sleep(10 * PERIOD);
        }
        let free = EventFd::from_value(0).unwrap();
        for _ in 0..1000 {
            watched(|| write(&free, 1)).unwrap();
        }
        assert_eq!(free.read().unwrap(), 1000);
    }

    #[test]
    fn threads_that_end_are_forgotten() {
        assert!(start());
        let free = Arc::new(EventFd::from_value(0).unwrap());
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let free = Arc::clone(&free);
                thread::spawn(move || {
                    watched(|| write(&free, 1)).unwrap();
                    // SAFETY: gettid takes no arguments and cannot fail.
                    unsafe { libc::gettid() }
                })
            })
            .collect();
        for thread in threads {
            let tid = thread.join().unwrap();
            assert!(CALLERS.lock().iter().all(|caller| caller.tid != tid));
        }
    }
}
