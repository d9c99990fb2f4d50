//! Open vSwitch as the one that knows: a private one on its dummy datapath, which opens nothing and moves no packets.
//!
//! Rules go in through `ovs-ofctl`; packets are traced over the daemon's own control socket (JSON-RPC), since a process
//! for each of ten thousand packets would take minutes.
//!
//! # Source
//! ovs-vswitchd(8) and ofproto-dpif-unixctl(8) for `ofproto/trace`; ovs-appctl(8) for the protocol.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Deserializer, Value, json};

use crate::failure::{Context, Failure, Result};
use crate::ovs::Tools;
use crate::process::{self, Process};
use crate::{ensure, fail, wait};

use super::effect::{self, Verdict};
use super::flow_text;
use super::frame::Frame;
use super::packet::{Headers, Packet};
use super::rules::{Dialect, RuleSet};

const VSWITCHD: &str = "/usr/sbin/ovs-vswitchd";
const LIMIT: Duration = Duration::from_secs(20);

/// The datapath's number of the bridge's own port.
const LOCAL: &str = "100";

/// What Open vSwitch says about a packet.
#[derive(Debug)]
pub struct Trace {
    /// What leaves.
    pub verdict: Verdict,
    /// Every table and rule, for people.
    pub text: String,
}

/// What Open vSwitch, or the switch under test, says about a frame.
#[derive(Debug)]
pub struct FrameTrace {
    /// How it reads the frame.
    pub headers: Headers,
    /// What becomes of a packet with these headers.
    pub trace: Trace,
}

/// A running Open vSwitch with a bridge of `p1` to `pN`, killed when dropped: the daemon before its database.
#[derive(Debug)]
pub struct Peer {
    _vswitchd: Process,
    _database: Process,
    control: UnixStream,
    folder: PathBuf,
    requests: u64,
}

impl Peer {
    /// Starts it, reading so many tags of a frame, with all of its files in `folder`.
    pub fn start(folder: &Path, ports: u16, vlan_limit: u8) -> Result<Self> {
        let tools = Tools { folder: folder.into() };
        let database = tools.start_database()?;
        tools.vsctl(&["--no-wait", "init"])?;
        let limit = format!("other_config:vlan-limit={vlan_limit}");
        tools.vsctl(&["--no-wait", "set", "Open_vSwitch", ".", &limit])?;
        let mut daemon = tools.command(VSWITCHD);
        daemon.arg(tools.database()).arg(tools.unixctl("vswitchd.ctl"));
        daemon.args(["--enable-dummy=override", "--disable-system", "-vconsole:info", "-vsyslog:off"]);
        let vswitchd = Process::spawn("ovs-vswitchd", daemon, &folder.join("vswitchd.log"), None)
            .context("needs Debian's package openvswitch-switch")?;
        let control = wait::until("ovs-vswitchd's control socket", LIMIT, || {
            Ok(UnixStream::connect(folder.join("vswitchd.ctl")).ok())
        })
        .map_err(|failure| Failure::new(format!("{failure}\n{}", vswitchd.output())))?;
        control.set_read_timeout(Some(LIMIT))?;
        let vlans: Vec<String> = (0..4096).map(|vlan| vlan.to_string()).collect();
        tools.vsctl(&[
            "add-br",
            "br0",
            "--",
            "set",
            "bridge",
            "br0",
            "datapath_type=dummy",
            "fail-mode=secure",
            // A trace of a frame learns from it, unless there is no VLAN that is learned in.
            &format!("flood_vlans={}", vlans.join(",")),
        ])?;
        for number in 1..=ports {
            let (name, request) = (format!("p{number}"), format!("ofport_request={number}"));
            tools.vsctl(&[
                "add-port",
                "br0",
                &name,
                "--",
                "set",
                "Interface",
                &name,
                "type=dummy",
                &request,
            ])?;
        }
        Ok(Peer { _vswitchd: vswitchd, _database: database, control, folder: folder.into(), requests: 0 })
    }

    /// Says what rules see of fragments, in ovs-ofctl's word.
    pub fn set_fragments(&mut self, mode: &str) -> Result<()> {
        self.ofctl(Dialect::OpenFlow13, &["set-frags"], Some(Path::new(mode)))
    }

    /// Replaces all rules.
    pub fn replace(&mut self, rules: &RuleSet) -> Result<()> {
        let file = self.folder.join("rules");
        fs::write(&file, &rules.text)?;
        // Not `replace-flows`: it does not speak OpenFlow 1.0 to a bridge that speaks later versions too.
        self.ofctl(rules.dialect, &["del-flows"], None)?;
        self.ofctl(rules.dialect, &["add-flows"], Some(&file))
    }

    fn ofctl(&self, dialect: Dialect, words: &[&str], file: Option<&Path>) -> Result<()> {
        let tools = Tools { folder: self.folder.clone() };
        let mut command = tools.command("ovs-ofctl");
        command.arg(match dialect {
            Dialect::Nicira => "-OOpenFlow10",
            Dialect::OpenFlow13 => "-OOpenFlow13",
        });
        command.args(words).arg(tools.bridge()).args(file);
        let finished = process::run("ovs-ofctl", command, LIMIT, None)?;
        ensure!(finished.status.success(), "ovs-ofctl: {}{}", finished.stdout, finished.stderr);
        Ok(())
    }

    /// Asks what would become of a packet. Nothing is learned from it.
    pub fn trace(&mut self, packet: &Packet) -> Result<Trace> {
        let flow = format!("in_port={},{}", packet.in_port, packet.text);
        let text = self.call("ofproto/trace", &["br0", &flow]).context(&flow)?;
        executed(text, &packet.headers)
    }

    /// The same for a frame.
    pub fn trace_frame(&mut self, frame: &Frame) -> Result<FrameTrace> {
        let (flow, hex) = (format!("in_port={}", frame.in_port), frame.hex());
        let text = self.call("ofproto/trace", &["br0", &flow, &hex]).context(&hex)?;
        let Some(flow) = text.lines().find_map(|line| line.strip_prefix("Flow: ")) else {
            fail!("{hex}: no flow in\n{text}")
        };
        let headers = flow_text::read_of(flow, &frame.bytes)?;
        Ok(FrameTrace { trace: executed(text, &headers)?, headers })
    }

    fn call(&mut self, method: &str, params: &[&str]) -> Result<String> {
        self.requests += 1;
        let request = json!({"id": self.requests, "method": method, "params": params});
        self.control.write_all(request.to_string().as_bytes())?;
        // Replies are not separated by anything but their braces.
        let mut answer = Vec::new();
        let mut buffer = [0; 16384];
        loop {
            let count = self.control.read(&mut buffer)?;
            ensure!(count > 0, "ovs-vswitchd closed its control socket");
            answer.extend_from_slice(&buffer[..count]);
            let mut replies = Deserializer::from_slice(&answer).into_iter::<Value>();
            match replies.next() {
                Some(Ok(reply)) => match reply["result"].as_str() {
                    Some(result) => return Ok(result.into()),
                    None => fail!("{}", reply["error"]),
                },
                Some(Err(error)) if !error.is_eof() => return Err(error.into()),
                _ => {}
            }
        }
    }
}

/// What becomes of a packet with these headers by the text of its trace.
fn executed(text: String, headers: &Headers) -> Result<Trace> {
    let actions = text.lines().rev().find_map(|line| line.strip_prefix("Datapath actions: "));
    let Some(actions) = actions else { fail!("no actions in\n{text}") };
    let verdict = effect::execute(actions.trim(), headers, port_name)
        .map_err(|failure| Failure::new(format!("{failure}\n{text}")))?;
    Ok(Trace { verdict, text })
}

/// Dummy ports have the number in their name as their number in the datapath.
fn port_name(number: &str) -> Option<String> {
    let value: u16 = number.parse().ok()?;
    Some(if number == LOCAL { "local".into() } else { format!("p{value}") })
}
