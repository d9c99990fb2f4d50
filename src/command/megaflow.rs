//! `vsteer ctl flow dump`: the megaflows of every worker.

use std::fmt::Write as _;

use clap::Args;
use serde::{Deserialize, Serialize};
use vsteer_switch::megaflow::{Megaflow, Tier};

use super::ctl::CtlError;
use super::entry::{Command, Rows, Sending};
use super::table::{count, duration};
use crate::appliance::Appliance;
use crate::appliance::refusal::Refusal;
use crate::flow_text::{match_text, verdict_text};
use crate::port_numbers::PortNumbers;

/// Megaflows shown unless told otherwise: a few megabytes of text.
const DEFAULT_LIMIT: u64 = 10_000;

/// Show megaflows of every worker, those with the most packets first
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Dump {
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_LIMIT)]
    limit: u64,
}

impl Default for Dump {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT }
    }
}

impl Dump {
    fn limit(&self) -> usize {
        usize::try_from(self.limit).unwrap_or(usize::MAX)
    }
}

/// Megaflows; `L` is the list of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct FlowDump<L = Vec<FlowInfo>> {
    /// Those with the most packets, these first.
    flows: L,
    /// How many there are beyond the limit.
    left_out: u64,
}

/// A megaflow of one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FlowInfo {
    /// What it matches, see `flow_text.rs`.
    #[serde(rename = "match")]
    match_text: String,
    /// What it does, `drop` when nothing.
    actions: String,
    /// Packets that matched.
    packets: u64,
    /// Bytes that matched.
    bytes: u64,
    /// Milliseconds since a packet last matched; `None` when none has.
    used_ms: Option<u64>,
    /// Milliseconds since it was installed.
    age_ms: u64,
    /// Index of the worker that has it.
    worker: usize,
    /// The table that finds its packets: `exact_match` or `classifier`.
    tier: String,
}

impl FlowInfo {
    fn of(flow: &Megaflow, numbers: &PortNumbers, now_ms: u64) -> Self {
        let stats = flow.stats();
        let name = |number| numbers.name_of_number(number);
        Self {
            match_text: match_text(&flow.masked_key(), flow.mask(), name),
            actions: verdict_text(flow.verdict(), flow.key(), name),
            packets: stats.packets,
            bytes: stats.bytes,
            used_ms: (stats.packets > 0).then(|| now_ms.saturating_sub(stats.last_used_ms)),
            age_ms: now_ms.saturating_sub(flow.created_ms()),
            worker: usize::from(flow.worker()),
            tier: match flow.tier() {
                Tier::ExactMatch => "exact_match".to_owned(),
                Tier::Classifier => "classifier".to_owned(),
            },
        }
    }
}

impl Command for Dump {
    const WORD: &'static str = "dump";
    const METHOD: &'static str = "flow_dump";
    type Params = Self;
    type Reply = FlowDump;

    fn params(self) -> Result<Self, CtlError> {
        Ok(self)
    }

    /// The list of all, of which the busiest are chosen; and those that are shown and go meanwhile, which it keeps.
    fn weight(params: &Self, appliance: &Appliance) -> usize {
        let all = appliance.megaflow_count();
        all * 2 * size_of::<usize>() + all.min(params.limit()) * (size_of::<usize>() + size_of::<Megaflow>())
    }

    fn carry_out(appliance: &Appliance, params: Self) -> Result<Sending<FlowDump>, Refusal> {
        let report = appliance.megaflows(params.limit());
        let rows = report.flows.into_iter();
        let flows = Rows::new(rows.map(move |flow| FlowInfo::of(&flow, &report.numbers, report.now_ms)));
        Ok(Sending::shaped(FlowDump { flows, left_out: report.left_out as u64 }))
    }

    /// One a line, in the manner of ovs-dpctl.
    fn text(_: &Self, dump: &FlowDump) -> String {
        let mut text = String::new();
        for flow in &dump.flows {
            let used = flow.used_ms.map_or("never".to_owned(), duration);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "worker:{}, {}, packets:{}, bytes:{}, used:{used}, age:{}, tier:{}, actions:{}",
                flow.worker,
                flow.match_text,
                flow.packets,
                flow.bytes,
                duration(flow.age_ms),
                flow.tier,
                flow.actions,
            );
        }
        if dump.left_out > 0 {
            let _ =
                writeln!(text, "and {} more with fewer packets; --limit shows more", count(dump.left_out));
        }
        if text.is_empty() { "no flows\n".to_owned() } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn megaflows_have_one_line_each() {
        let flow = FlowInfo {
            match_text: "in_port(vm0),eth(dst=52:54:00:00:00:02)".into(),
            actions: "push_vlan(vid=10),vm1".into(),
            packets: 3,
            bytes: 180,
            used_ms: Some(250),
            age_ms: 61_000,
            worker: 1,
            tier: "exact_match".into(),
        };
        assert_eq!(
            Dump::text(&Dump::default(), &FlowDump { flows: vec![flow], left_out: 3 }),
            "worker:1, in_port(vm0),eth(dst=52:54:00:00:00:02), packets:3, bytes:180, used:0.250s, age:1m1s, \
             tier:exact_match, actions:push_vlan(vid=10),vm1\nand 3 more with fewer packets; --limit shows more\n"
        );
        assert_eq!(Dump::text(&Dump::default(), &FlowDump::default()), "no flows\n");
    }
}
