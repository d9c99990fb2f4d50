//! The control socket without a process for each question: one connection, JSON-RPC, a line each way.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fail;
use crate::failure::{Context, Result};

const LIMIT: Duration = Duration::from_secs(10);

/// A connection to the switch.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
    requests: u64,
}

impl Control {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).context(path.display())?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Control { stream: BufReader::new(stream), requests: 0 })
    }

    /// Sends a request and returns its result.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.requests += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.requests, "method": method, "params": params});
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).context(method)?;
        let mut line = String::new();
        self.stream.read_line(&mut line).context(method)?;
        let mut reply: Value = serde_json::from_str(&line).context(format!("{method}: reply {line:?}"))?;
        if let Some(message) = reply["error"]["message"].as_str() {
            fail!("{message}");
        }
        Ok(reply["result"].take())
    }

    /// Megaflows at present.
    pub fn megaflows(&mut self) -> Result<u64> {
        let dump = self.call("flow_dump", &json!({"limit": 1}))?;
        let shown = dump["flows"].as_array().map(|flows| flows.len() as u64);
        let (Some(shown), Some(left_out)) = (shown, dump["left_out"].as_u64()) else {
            fail!("flow_dump: {dump}")
        };
        Ok(shown + left_out)
    }

    /// Puts these rules, one a line, in place of all others.
    pub fn replace_rules(&mut self, rules: &str) -> Result<()> {
        self.call("rule_replace", &json!({"text": rules})).map(drop)
    }
}
