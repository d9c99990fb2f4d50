//! `vsteer ctl trace`: what the switch would do with a packet, and why.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ctl::CtlError;
use super::entry::{Command, Entry, Family, Sending};
use super::table::printable;
use crate::appliance::Appliance;
use crate::appliance::refusal::Refusal;
use crate::appliance::trace::{TraceReport, TracedPacket};
use crate::{hex, pcap};

pub(super) const FAMILY: Family = Family::Single(Entry::call::<Trace>());

/// Show what the switch would do with a packet, and why
///
/// Give the packet's fields (vsteer ctl trace 'in_port=vm0,tcp,nw_src=10.0.0.1,tp_dst=22'; fields that are not named are
/// zero) or a megaflow as flow dump shows it, or where it comes in and its bytes in hexadecimal (vsteer ctl trace in_port=vm0
/// 525400...), or a packet from a capture file and the port that it comes in by. Nothing changes by asking.
#[derive(Debug, Args)]
struct Trace {
    /// The packet's fields in ovs-ofctl's syntax, in_port=PORT among them, or in that of a megaflow
    #[arg(required_unless_present = "pcap", conflicts_with = "pcap")]
    flow: Option<String>,
    /// The packet's bytes in hexadecimal; of its fields only the port and the registers count then
    #[arg(value_name = "BYTES", requires = "flow")]
    data: Option<String>,
    /// Take the packet from this capture file
    #[arg(long, value_name = "FILE", requires = "in_port")]
    pcap: Option<PathBuf>,
    /// The port that the packet of --pcap comes in by
    #[arg(long, value_name = "NAME", requires = "pcap")]
    in_port: Option<String>,
    /// Which packet of --pcap, from 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    packet: u32,
}

/// A packet to trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum TraceQuery {
    /// Fields in ovs-ofctl's syntax; what is not named is zero.
    Flow(String),
    /// Fields that say where a packet comes in, and its bytes.
    FlowAndData {
        /// The fields in ovs-ofctl's syntax.
        flow: String,
        /// The bytes in hexadecimal.
        data: String,
    },
    /// A packet.
    Packet {
        /// Name of the port that it comes in by.
        in_port: String,
        /// Its bytes in hexadecimal.
        data: String,
    },
}

/// What the switch would do with a packet now, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TraceInfo {
    /// Which pass through the switch this is: zero for the first, else the number in the action `recirc` that led to it.
    #[serde(default)]
    recirc_id: u32,
    /// The packet's fields in ovs-ofctl's syntax.
    flow: String,
    /// Tables, rules and actions in the order in which they were taken.
    steps: Vec<TraceStep>,
    /// What the rules make of it, in the same syntax; as it came if they change nothing.
    final_flow: String,
    /// What the megaflow that would be installed matches.
    megaflow: String,
    /// What happens to the packet, as `flow dump` has it.
    actions: String,
    /// Why it is dropped, if it is: the name of the counter.
    drop: Option<String>,
    /// What it would teach the switch, and what stands in the way of the actions now.
    remarks: Vec<String>,
    /// Of the first pass: the later ones, and those of copies, in the order in which they are taken.
    #[serde(default)]
    further: Vec<TraceInfo>,
}

/// A step of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TraceStep {
    /// How deep in resubmits it is.
    depth: u16,
    /// What was done.
    text: String,
}

impl From<TraceReport> for TraceInfo {
    fn from(trace: TraceReport) -> Self {
        let steps = trace.steps.into_iter();
        Self {
            recirc_id: trace.recirc_id,
            flow: trace.flow,
            steps: steps.map(|step| TraceStep { depth: step.depth, text: step.text }).collect(),
            final_flow: trace.final_flow,
            megaflow: trace.megaflow,
            actions: trace.actions,
            drop: trace.drop.map(|reason| reason.name().to_owned()),
            remarks: trace.remarks,
            further: trace.further.into_iter().map(TraceInfo::from).collect(),
        }
    }
}

impl Command for Trace {
    const WORD: &'static str = "trace";
    const METHOD: &'static str = "trace";
    type Params = TraceQuery;
    type Reply = TraceInfo;

    fn params(self) -> Result<TraceQuery, CtlError> {
        let (Some(path), Some(in_port)) = (self.pcap, self.in_port) else {
            let flow = self.flow.unwrap_or_default();
            return Ok(match self.data {
                Some(data) => TraceQuery::FlowAndData { flow, data },
                None => TraceQuery::Flow(flow),
            });
        };
        let wrong = |source| CtlError::Pcap { path: path.clone(), source };
        let file = File::open(&path).map_err(|error| wrong(error.into()))?;
        let packet = pcap::read_packet(BufReader::new(file), self.packet as usize).map_err(wrong)?;
        Ok(TraceQuery::Packet { in_port, data: hex::text(&packet) })
    }

    /// A text is taken apart, and a packet's digits become bytes.
    fn weight(query: &TraceQuery, _: &Appliance) -> usize {
        match query {
            TraceQuery::Flow(text) => 64 * text.len(),
            TraceQuery::FlowAndData { flow, data } => 64 * flow.len() + 2 * data.len(),
            TraceQuery::Packet { data, .. } => 2 * data.len(),
        }
    }

    fn carry_out(appliance: &Appliance, query: TraceQuery) -> Result<Sending<TraceInfo>, Refusal> {
        let bytes = |data: &str| {
            hex::bytes(data)
                .ok_or_else(|| Refusal::invalid("the packet's data is not written in hexadecimal"))
        };
        let trace = match &query {
            TraceQuery::Flow(text) => appliance.trace(TracedPacket::Fields(text))?,
            TraceQuery::FlowAndData { flow, data } => {
                appliance.trace(TracedPacket::FieldsAndBytes { fields: flow, bytes: &bytes(data)? })?
            }
            TraceQuery::Packet { in_port, data } => {
                appliance.trace(TracedPacket::Bytes { in_port, bytes: &bytes(data)? })?
            }
        };
        Ok(TraceInfo::from(trace).into())
    }

    /// In the manner of `ovs-appctl ofproto/trace`.
    fn text(_: &TraceQuery, trace: &TraceInfo) -> String {
        text_of(trace)
    }
}

/// The text of a pass, and of those that follow it.
fn text_of(trace: &TraceInfo) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        text.push_str(&printable(line.to_owned()));
        text.push('\n');
    };
    if !trace.flow.is_empty() {
        line(&format!("packet:   {}", trace.flow));
        line("");
    }
    for step in &trace.steps {
        line(&format!("{}{}", "    ".repeat(usize::from(step.depth)), step.text));
    }
    if !trace.steps.is_empty() {
        line("");
    }
    match trace.final_flow.as_str() {
        "" => {}
        same if same == trace.flow => line("final:    unchanged"),
        changed => line(&format!("final:    {changed}")),
    }
    if !trace.megaflow.is_empty() {
        line(&format!("megaflow: {}", trace.megaflow));
    }
    line(&format!("actions:  {}", trace.actions));
    if let Some(reason) = &trace.drop {
        line(&format!("dropped:  {reason}"));
    }
    for remark in &trace.remarks {
        line(&format!("note:     {remark}"));
    }
    for pass in &trace.further {
        text.push_str(&format!(
            "\nrecirc({:#x}): the packet goes through the switch again\n\n",
            pass.recirc_id
        ));
        text.push_str(&text_of(pass));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_shows_depth_by_indentation() {
        let step = |depth, text: &str| TraceStep { depth, text: text.into() };
        let mut info = TraceInfo {
            recirc_id: 0,
            flow: "arp".into(),
            steps: vec![step(0, "table 0: priority=0"), step(1, "NORMAL")],
            final_flow: "arp".into(),
            megaflow: "in_port(vm0)".into(),
            actions: "drop(hairpin)".into(),
            drop: Some("hairpin".into()),
            remarks: vec!["a".into()],
            further: Vec::new(),
        };
        assert_eq!(
            Trace::text(&TraceQuery::Flow("arp".into()), &info),
            "packet:   arp\n\ntable 0: priority=0\n    NORMAL\n\nfinal:    unchanged\nmegaflow: in_port(vm0)\n\
             actions:  drop(hairpin)\ndropped:  hairpin\nnote:     a\n"
        );
        let first = Trace::text(&TraceQuery::Flow("arp".into()), &info);
        let again = TraceInfo { recirc_id: 10, ..info.clone() };
        info.further.push(again);
        assert_eq!(
            Trace::text(&TraceQuery::Flow("arp".into()), &info),
            format!("{first}\nrecirc(0xa): the packet goes through the switch again\n\n{first}")
        );
    }
}
