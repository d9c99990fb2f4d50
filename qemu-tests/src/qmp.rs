//! QEMU's monitor protocol: one JSON object a line, events mixed with answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::{Context, Failure, Result};
use crate::{fail, wait};

/// The longest that QEMU may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The longest that a live migration may take.
const MIGRATION_LIMIT: Duration = Duration::from_secs(60);

/// The longest stop of the guest that QEMU may plan; its default of 300 ms would be most of what the tests allow for the
/// whole outage.
const DOWNTIME_LIMIT_MS: u32 = 100;

/// A connection to the monitor of one QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and leaves negotiation mode.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context(socket.display())?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut qmp = Qmp { stream: BufReader::new(stream) };
        qmp.read()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and returns what it returned.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).context(command)?;
        loop {
            let mut answer = self.read().context(command)?;
            if let Some(error) = answer.get("error") {
                fail!("QMP {command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Moves the guest to the QEMU that listens on `socket`, and waits until it runs there.
    pub fn migrate(&mut self, socket: &Path) -> Result<()> {
        self.execute("migrate-set-parameters", json!({ "downtime-limit": DOWNTIME_LIMIT_MS }))?;
        self.execute("migrate", json!({ "uri": format!("unix:{}", socket.display()) }))?;
        wait::until("the migration to complete", MIGRATION_LIMIT, || {
            let state = self.execute("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => Ok(Some(())),
                Some("failed" | "cancelled") => Err(Failure::new(format!("migration failed: {state}"))),
                _ => Ok(None),
            }
        })
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("no answer from QEMU's monitor")?;
        serde_json::from_str(&line).context(format!("QEMU's monitor said {line:?}"))
    }
}
