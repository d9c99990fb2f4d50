//! How the process tells its supervisor that it is ready, and how it learns that it shall end.

use std::io;

use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use tracing::debug;

/// Tells systemd, where it started us, that ports are open and packets flow.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells systemd, where it started us, that the process is ending.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState]) {
    // Without a supervisor nothing is sent. A supervisor that cannot be reached is no reason to stop forwarding.
    if let Err(error) = sd_notify::notify(false, states) {
        debug!(%error, "the supervisor cannot be told");
    }
}

/// Turns SIGTERM and SIGINT into a return from [`wait`](Self::wait).
///
/// Made before any other thread starts, so that no moment is left in which a signal kills the process half way.
///
/// # Concurrency
/// One thread waits; [`Trigger`]s may be pulled by any.
#[derive(Debug)]
pub struct Shutdown {
    signals: Signals,
}

/// Ends the wait of a [`Shutdown`] from inside the process.
#[derive(Debug, Clone)]
pub struct Trigger(Handle);

impl Shutdown {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// The operating system refuses the handlers.
    pub fn new() -> io::Result<Self> {
        Ok(Self { signals: Signals::new([SIGTERM, SIGINT])? })
    }

    /// A trigger for other threads, which may find that going on makes no sense.
    pub fn trigger(&self) -> Trigger {
        Trigger(self.signals.handle())
    }

    /// Waits for a signal or a trigger; returns the signal's name, or `None` for a trigger.
    pub fn wait(&mut self) -> Option<&'static str> {
        let signal = self.signals.forever().next()?;
        signal_hook::low_level::signal_name(signal)
    }
}

impl Trigger {
    /// Ends the wait, now or when it begins.
    pub fn pull(&self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, because signals are the whole process's.
    #[test]
    fn signals_and_triggers_end_the_wait() {
        let mut shutdown = Shutdown::new().unwrap();
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(shutdown.wait(), Some("SIGTERM"));
        signal_hook::low_level::raise(SIGINT).unwrap();
        assert_eq!(shutdown.wait(), Some("SIGINT"));
        let trigger = shutdown.trigger();
        std::thread::spawn(move || trigger.pull());
        assert_eq!(shutdown.wait(), None);
    }
}
