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
/// One thread waits; a [`Trigger`] may be pulled by any.
#[derive(Debug)]
pub struct Shutdown {
    signals: Signals,
}

/// Ends the wait of a [`Shutdown`] from inside the process.
#[derive(Debug, Clone)]
pub struct Trigger(Handle);

/// Held by a thread without which the switch is of no use: if the thread panics, this ends the process in good order, and
/// its supervisor starts it anew. Guests keep their network over that.
#[derive(Debug)]
pub struct Vital(Trigger);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.pull();
        }
    }
}

impl Shutdown {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// The operating system refuses the handlers.
    pub fn new() -> io::Result<Self> {
        Ok(Self { signals: Signals::new([SIGTERM, SIGINT])? })
    }

    /// A trigger for other threads.
    pub fn trigger(&self) -> Trigger {
        Trigger(self.signals.handle())
    }

    /// Waits for a signal or a trigger; returns the signal's name, or `None` for a trigger.
    pub fn wait(&mut self) -> Option<&'static str> {
        let signal = self.signals.forever().next()?;
        signal_hook::low_level::signal_name(signal)
    }
}

/// Ends the process in good order, as SIGTERM does: its work is done.
pub fn end() {
    if let Err(error) = signal_hook::low_level::raise(SIGTERM) {
        tracing::error!(%error, "the process cannot be ended");
    }
}

impl Trigger {
    /// For a thread to hold: a panic of that thread pulls the trigger.
    pub fn vital(&self) -> Vital {
        Vital(self.clone())
    }

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
        let (well, ill) = (trigger.vital(), trigger.vital());
        std::thread::spawn(move || drop(well)).join().unwrap();
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(shutdown.wait(), Some("SIGTERM"), "a thread that ends in peace pulls nothing");
        let panicking = std::thread::spawn(move || {
            let _ill = ill;
            panic!("on purpose");
        });
        assert_eq!(shutdown.wait(), None);
        assert!(panicking.join().is_err());
    }
}
