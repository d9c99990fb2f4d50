//! The switch under test, asked over its control socket.
//!
//! Its ports are vhost-user sockets that nobody connects to, and a TAP that is the local port: what is decided about a
//! packet does not depend on who listens at the other side.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::control::Control;
use crate::failure::{Context, Failure, Result};
use crate::namespace::Namespace;
use crate::switch::Switch;
use crate::{ensure, fail};

use super::effect;
use super::flow_text;
use super::frame::Frame;
use super::packet::{Headers, Packet};
use super::peer::{FrameTrace, Trace};
use super::rules::RuleSet;

/// A running vsteer with the ports `p1` to `pN` and `local`.
#[derive(Debug)]
pub struct Subject {
    switch: Switch,
    control: Control,
    config: PathBuf,
}

impl Subject {
    /// Starts it, reading so many tags of a frame, with all of its files in `folder` and its TAP in `namespace`.
    pub fn start(folder: &Path, ports: u16, vlan_limit: u8, namespace: &Namespace) -> Result<Self> {
        // The kernel would announce itself at the TAP, and the switch learn from that.
        namespace.run("sysctl -e -w net.ipv6.conf.default.disable_ipv6=1")?;
        let socket = |number| format!("p{number}=vhost-user:{}/p{number}.sock", folder.display());
        // Ports are numbered from 0 in this order.
        let mut specs = vec!["local=tap:vsteer0,local=on".to_owned()];
        specs.extend((1..=ports).map(socket));
        let config = folder.join("vsteer.toml");
        fs::write(&config, "")?;
        let limit = vlan_limit.to_string();
        let options = ["--config", &config.display().to_string(), "--vlan-limit", &limit].map(str::to_owned);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let switch = Switch::start_with(&options, &specs, folder, namespace)?;
        let control = Control::connect(&folder.join("ctl.sock"))?;
        let mut subject = Subject { switch, control, config };
        subject.check_numbers(ports)?;
        Ok(subject)
    }

    /// Says what rules see of fragments, in ovs-ofctl's word.
    pub fn set_fragments(&mut self, mode: &str) -> Result<()> {
        fs::write(&self.config, format!("fragments = {mode:?}\n"))?;
        self.control.call("reload", &json!({}))?;
        let stats = self.control.call("stats", &json!({}))?;
        ensure!(stats["reading"]["fragments"] == mode, "fragments are not {mode}: {}", stats["reading"]);
        Ok(())
    }

    /// Replaces all rules.
    pub fn replace(&mut self, rules: &RuleSet) -> Result<()> {
        self.control.replace_rules(&rules.text)
    }

    /// Asks what would become of a packet. Nothing is learned from it.
    pub fn trace(&mut self, packet: &Packet) -> Result<Trace> {
        let flow = format!("in_port=p{},{}", packet.in_port, packet.text);
        let trace = self.control.call("trace", &json!({"flow": flow})).context(&flow)?;
        executed(&trace, &packet.headers)
    }

    /// The same for a frame.
    pub fn trace_frame(&mut self, frame: &Frame) -> Result<FrameTrace> {
        let (in_port, hex) = (format!("p{}", frame.in_port), frame.hex());
        let query = json!({"packet": {"in_port": in_port, "data": hex}});
        let trace = self.control.call("trace", &query).context(&hex)?;
        let Some(flow) = trace["flow"].as_str() else { fail!("{hex}: no flow in {trace}") };
        let headers = flow_text::read_of(flow, &frame.bytes)?;
        Ok(FrameTrace { trace: executed(&trace, &headers)?, headers })
    }

    /// What it logged, for a failure.
    pub fn diagnosis(&self) -> String {
        self.switch.diagnosis()
    }

    /// Rules that send to the port whose number is in a register need the same numbers on both sides.
    fn check_numbers(&mut self, ports: u16) -> Result<()> {
        let list = self.control.call("port_list", &json!({}))?;
        for number in 1..=ports {
            let name = format!("p{number}");
            let port =
                list.as_array().and_then(|ports| ports.iter().find(|port| port["name"] == name.as_str()));
            let id = port.and_then(|port| port["id"].as_u64());
            ensure!(id == Some(number.into()), "port {name} has the number {id:?}");
        }
        Ok(())
    }
}

/// What becomes of a packet with these headers by its trace.
fn executed(trace: &Value, headers: &Headers) -> Result<Trace> {
    let text = explanation(trace);
    let Some(actions) = trace["actions"].as_str() else { fail!("no actions in {trace}") };
    let verdict = effect::execute(actions, headers, port_name)
        .map_err(|failure| Failure::new(format!("{failure}\n{text}")))?;
    Ok(Trace { verdict, text })
}

fn port_name(name: &str) -> Option<String> {
    let known = name == "local" || name.strip_prefix('p').is_some_and(|number| number.parse::<u16>().is_ok());
    known.then(|| name.to_owned())
}

/// The steps of a trace, as a person reads them.
fn explanation(trace: &Value) -> String {
    let steps = trace["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = String::new();
    for step in steps {
        let depth = usize::try_from(step["depth"].as_u64().unwrap_or_default()).unwrap_or_default();
        text += &format!("{:1$}{2}\n", "", 2 * depth, step["text"].as_str().unwrap_or_default());
    }
    let rest = ["flow", "final_flow", "megaflow", "actions", "drop"];
    rest.iter().fold(text, |text, key| text + &format!("{key}: {}\n", trace[*key]))
}
