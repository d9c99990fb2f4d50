//! Named steps that share one boot.
//!
//! Booting guests costs seconds, so tests of one set-up run as steps of one `#[test]`. A step that fails does not stop
//! those after it, unless the switch has ended: then nothing that follows could tell anything. Each step prints its
//! result and duration as it ends; `Group::finish` fails if any step did.

use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::world::World;

/// Steps over one [`World`].
#[derive(Debug)]
pub struct Group {
    name: &'static str,
    world: World,
    start: Instant,
    limit: Duration,
    failed: Vec<String>,
    stopped: bool,
}

impl Group {
    /// A group that may take `limit` in all; steps that would begin later fail unrun.
    pub fn new(name: &'static str, world: World, limit: Duration) -> Self {
        Group { name, world, start: Instant::now(), limit, failed: Vec::new(), stopped: false }
    }

    /// Runs one step. Its text completes the sentence "NAME: ...", and what it returns is printed beside it.
    pub fn step<T: AsRef<str>>(&mut self, what: &str, step: impl FnOnce(&mut World) -> Result<T>) {
        let start = Instant::now();
        let result = match self.refusal() {
            Some(refusal) => Err(refusal),
            None => step(&mut self.world),
        };
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(note) => println!("{}: {what}: ok ({seconds:.1} s) {}", self.name, note.as_ref()),
            Err(failure) => {
                let evidence = self.evidence();
                println!("{}: {what}: FAILED ({seconds:.1} s): {failure}\n{evidence}", self.name);
                self.failed.push(what.into());
            }
        }
    }

    /// The verdict.
    pub fn finish(self) -> Result<()> {
        let seconds = self.start.elapsed().as_secs_f64();
        println!("{}: {seconds:.1} s", self.name);
        crate::ensure!(self.failed.is_empty(), "{}: failed: {}", self.name, self.failed.join("; "));
        Ok(())
    }

    fn refusal(&mut self) -> Option<Failure> {
        if self.start.elapsed() > self.limit {
            return Some(Failure::new(format!("not run: the group's {} s are over", self.limit.as_secs())));
        }
        let status = self.world.switch.process().ended().ok()??;
        Some(Failure::new(format!("not run: vsteer has ended ({status})")))
    }

    /// Consoles and logs, once: after the switch ended they do not change.
    fn evidence(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        self.stopped = !matches!(self.world.switch.process().ended(), Ok(None));
        self.world.diagnosis()
    }
}
