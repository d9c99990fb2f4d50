//! The switch under test: starting, killing and asking it, all through its command line.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failure::{Context, Result};
use crate::guest::last_lines;
use crate::namespace::Namespace;
use crate::process::{self, Process};
use crate::{assets, ensure, fail, wait};

/// From start to an answer on the control socket.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The longest that a control command may take.
const CONTROL_LIMIT: Duration = Duration::from_secs(5);

/// A running switch, killed when dropped.
#[derive(Debug)]
pub struct Switch {
    options: Vec<String>,
    folder: PathBuf,
    process: Process,
}

/// Packet counters of one port, as the control socket shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames that the switch took from the port.
    pub rx_pkts: u64,
    /// Frames that the switch delivered to the port.
    pub tx_pkts: u64,
    /// Frames dropped at the port, over all reasons.
    pub drops: u64,
}

impl Switch {
    /// Starts `vsteer run` with one `--port` for each of `ports` and waits until it answers.
    pub fn start(ports: &[String], folder: &Path, namespace: &Namespace) -> Result<Self> {
        Switch::start_with(&["--poll", "adaptive"], ports, folder, namespace)
    }

    /// [`start`](Self::start) with further options, which say how workers run.
    pub fn start_with(
        options: &[&str],
        ports: &[String],
        folder: &Path,
        namespace: &Namespace,
    ) -> Result<Self> {
        let ports = ports.iter().flat_map(|port| ["--port", port]);
        let options: Vec<String> = options.iter().copied().chain(ports).map(Into::into).collect();
        let process = spawn(&options, folder, namespace)?;
        let mut switch = Switch { options, folder: folder.into(), process };
        switch.wait_ready()?;
        Ok(switch)
    }

    /// Starts the switch again, with the same options; it must have ended.
    pub fn restart(&mut self, namespace: &Namespace) -> Result<()> {
        self.process = spawn(&self.options, &self.folder, namespace)?;
        self.wait_ready()
    }

    /// The switch's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Asks the switch to end; how long it took.
    pub fn terminate(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.process.terminate()?;
        let status = self.process.wait(Duration::from_secs(10))?;
        ensure!(status.success(), "after SIGTERM vsteer ended with {status}\n{}", self.diagnosis());
        Ok(start.elapsed())
    }

    /// Runs `vsteer ctl` and returns the text that it prints for people.
    pub fn ctl_text(&self, command: &str) -> Result<String> {
        self.ctl_with(&[], command)
    }

    /// Runs `vsteer ctl --json`.
    pub fn ctl(&self, command: &str) -> Result<Value> {
        let text = self.ctl_with(&["--json"], command)?;
        serde_json::from_str(&text).context(format!("vsteer ctl --json {command} printed {text:?}"))
    }

    /// The counters of the port called `name`, from `stats`.
    pub fn counters(&self, name: &str) -> Result<PortCounters> {
        let stats = self.ctl("stats")?;
        let ports = stats["ports"].as_array().map_or(&[][..], Vec::as_slice);
        let Some(port) = ports.iter().find(|port| port["name"] == name) else {
            fail!("stats know no port {name}: {stats}")
        };
        let counters = &port["counters"];
        let count = |key: &str| match counters[key].as_u64() {
            Some(count) => Ok(count),
            None => fail!("port {name} has no counter {key}: {counters}"),
        };
        let Some(drops) = counters["drops"].as_object() else {
            fail!("port {name} has no drop counters: {counters}")
        };
        Ok(PortCounters {
            rx_pkts: count("rx_pkts")?,
            tx_pkts: count("tx_pkts")?,
            drops: drops.values().filter_map(Value::as_u64).sum(),
        })
    }

    /// What the switch logged, for a failure.
    pub fn diagnosis(&self) -> String {
        format!("--- vsteer {}\n{}\n", self.options.join(" "), last_lines(&self.process.output()))
    }

    fn ctl_with(&self, flags: &[&str], words: &str) -> Result<String> {
        let mut command = Command::new(assets::vsteer()?);
        command.arg("ctl").arg("--socket").arg(self.folder.join("ctl.sock")).args(flags);
        command.args(words.split_whitespace());
        let finished = process::run("vsteer ctl", command, CONTROL_LIMIT, None)?;
        ensure!(finished.status.success(), "vsteer ctl {words}: {}\n{}", finished.status, finished.stderr);
        Ok(finished.stdout)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.ended()? {
                fail!("vsteer ended at once: {status}\n{}", self.diagnosis());
            }
            match self.ctl("port list") {
                Ok(_) => return Ok(()),
                Err(failure) if start.elapsed() > START_LIMIT => {
                    fail!("vsteer answers nothing: {failure}\n{}", self.diagnosis())
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

/// Waits until the process holds what `expected` says; a connection's end is seen a moment after it happened.
pub fn settles(process: &Process, expected: process::Holdings, limit: Duration) -> Result<()> {
    let mut last = process.holdings()?;
    wait::until("vsteer to let go", limit, || {
        last = process.holdings()?;
        Ok((last == expected).then_some(()))
    })
    .context(format!("vsteer holds {last:?}, before it held {expected:?}\n{}", process.inventory()))
}

fn spawn(options: &[String], folder: &Path, namespace: &Namespace) -> Result<Process> {
    let mut command = Command::new(assets::vsteer()?);
    command.arg("run").args(options);
    command.arg("--control").arg(folder.join("ctl.sock"));
    Process::spawn("vsteer", command, &folder.join("vsteer.log"), Some(namespace))
}
