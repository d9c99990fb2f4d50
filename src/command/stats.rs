//! `vsteer ctl stats`: workers, ports, and the sums of all.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ctl::CtlError;
use super::entry::{Command, Entry, Family, Sending};
use super::port::{self, PortCounters, PortInfo};
use super::table::{Table, count, duration};
use crate::appliance::Appliance;
use crate::appliance::refusal::Refusal;
use crate::config::PollMode;
use crate::control::protocol::NoParams;
use crate::port::report::CounterSums;
use crate::worker::report::WorkerReport;
use crate::{punt, revalidator};

pub(super) const FAMILY: Family = Family::Single(Entry::call::<Show>());

/// Statistics of the whole switch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stats {
    /// Version of the switch.
    version: String,
    /// Seconds since it started.
    uptime_s: u64,
    /// Each worker.
    workers: Vec<WorkerInfo>,
    /// Each port.
    ports: Vec<PortInfo>,
    /// Sums over all ports.
    totals: PortCounters,
    /// The revalidator.
    #[serde(default)]
    revalidator: RevalidatorInfo,
    /// Packets that rules handed out.
    #[serde(default)]
    punts: PuntCounters,
    /// How much of a packet is read.
    #[serde(default)]
    reading: ReadingInfo,
}

/// How much of a packet is read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct ReadingInfo {
    /// VLAN tags that rules see.
    vlan_limit: u8,
    /// What rules see of fragments: `normal`, `nx-match` or `drop`.
    fragments: String,
}

/// A worker thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WorkerInfo {
    /// Its index.
    index: usize,
    /// CPU it is pinned to.
    cpu: Option<usize>,
    /// `busy`, `adaptive` or `interrupt`.
    mode: String,
    /// Rounds over its queues.
    iterations: u64,
    /// Share of recent time spent on packets, 0 to 1.
    busy: f64,
    /// Cycles in rounds that found packets, since the start.
    busy_cycles: u64,
    /// Times it went to sleep.
    sleeps: u64,
    /// Packets that the exact-match cache decided.
    exact_hits: u64,
    /// Packets that the classifier decided.
    classifier_hits: u64,
    /// Packets that went to the slow path.
    upcalls: u64,
    /// Megaflows installed now.
    flows: u64,
}

/// What the revalidator does about megaflows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct RevalidatorInfo {
    /// Passes over all megaflows since the start.
    passes: u64,
    /// Microseconds that the last one took.
    last_pass_us: u64,
    /// Microseconds that the longest one took.
    longest_pass_us: u64,
    /// Megaflows in all workers.
    flows: u64,
    /// Most megaflows that there may be; adapts to what it costs to keep them right.
    flow_limit: u64,
    /// Milliseconds after which an unused megaflow goes at present.
    idle_ms: u64,
    /// Megaflows since the start by what was done with them; zeros may be left out.
    done: BTreeMap<String, u64>,
    /// Rules taken out because their time was over.
    rules_expired: u64,
}

/// What became of the packets that rules handed out to whoever listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct PuntCounters {
    /// Copies that listeners got.
    delivered: u64,
    /// Copies that came faster than a listener took them.
    lost: u64,
    /// Packets that nobody listened to.
    unheard: u64,
}

impl WorkerInfo {
    fn of(index: usize, mode: PollMode, worker: WorkerReport) -> Self {
        let WorkerReport {
            cpu,
            rounds,
            busy,
            busy_cycles,
            sleeps,
            exact_hits,
            classifier_hits,
            upcalls,
            flows,
        } = worker;
        Self {
            index,
            cpu,
            mode: mode.name().to_owned(),
            iterations: rounds,
            busy,
            busy_cycles,
            sleeps,
            exact_hits,
            classifier_hits,
            upcalls,
            flows,
        }
    }
}

impl From<revalidator::Report> for RevalidatorInfo {
    fn from(report: revalidator::Report) -> Self {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let done = report.total.counts().filter(|&(_, count)| count > 0);
        Self {
            passes: report.passes,
            last_pass_us: us(report.last_pass),
            longest_pass_us: us(report.longest_pass),
            flows: report.flows as u64,
            flow_limit: report.flow_limit as u64,
            idle_ms: report.idle_ms,
            done: done.map(|(name, count)| (name.to_owned(), count)).collect(),
            rules_expired: report.rules_expired,
        }
    }
}

impl From<punt::Report> for PuntCounters {
    fn from(punt::Report { delivered, lost, unheard }: punt::Report) -> Self {
        Self { delivered, lost, unheard }
    }
}

/// Statistics of workers and ports
#[derive(Debug, Args)]
struct Show {}

impl Command for Show {
    const WORD: &'static str = "stats";
    const METHOD: &'static str = "stats";
    type Params = NoParams;
    type Reply = Stats;

    fn params(self) -> Result<NoParams, CtlError> {
        Ok(NoParams {})
    }

    fn carry_out(appliance: &Appliance, _: NoParams) -> Result<Sending<Stats>, Refusal> {
        let ports = appliance.ports();
        let mut totals = CounterSums::default();
        ports.iter().for_each(|port| totals.add(&port.counters));
        let mode = appliance.poll_mode();
        let (vlan_limit, fragments) = appliance.reading();
        let workers = appliance.workers().into_iter().enumerate();
        let stats = Stats {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: appliance.uptime().as_secs(),
            workers: workers.map(|(index, worker)| WorkerInfo::of(index, mode, worker)).collect(),
            ports: ports.into_iter().map(PortInfo::from).collect(),
            totals: totals.into(),
            revalidator: appliance.revalidator().into(),
            punts: appliance.punts().into(),
            reading: ReadingInfo { vlan_limit: vlan_limit.tags(), fragments: fragments.name().to_owned() },
        };
        Ok(stats.into())
    }

    /// A head, workers, ports, sums.
    fn text(_: &NoParams, stats: &Stats) -> String {
        let mut totals = Table::plain();
        stats.totals.lines(|name, value| totals.row([name.to_owned(), value]));
        // A switch from before these could be chosen says nothing.
        let ReadingInfo { vlan_limit, fragments } = &stats.reading;
        if *vlan_limit > 0 {
            totals.row(["vlan-limit".to_owned(), vlan_limit.to_string()]);
            totals.row(["fragments".to_owned(), fragments.clone()]);
        }
        let RevalidatorInfo { passes, last_pass_us, longest_pass_us, flows, flow_limit, idle_ms, .. } =
            stats.revalidator;
        if passes > 0 {
            let idle = duration(idle_ms);
            totals.row([
                "megaflows".to_owned(),
                format!("{} of {}, unused ones for {idle}", count(flows), count(flow_limit)),
            ]);
            let [last, longest] = [last_pass_us, longest_pass_us].map(|us| us as f64 / 1000.0);
            totals.row([
                "passes".to_owned(),
                format!("{}, the last in {last:.1} ms, the longest in {longest:.1} ms", count(passes)),
            ]);
        }
        let punts = &stats.punts;
        if punts.delivered + punts.lost + punts.unheard > 0 {
            let text = format!(
                "{} copies, {} lost by slow monitors, {} packets nobody listened to",
                count(punts.delivered),
                count(punts.lost),
                count(punts.unheard)
            );
            totals.row(["handed out".to_owned(), text]);
        }
        format!(
            "vsteer {}, up {}\n\n{}\n{}\n{}",
            stats.version,
            duration(stats.uptime_s * 1000),
            workers(&stats.workers),
            port::table(&stats.ports),
            totals.finish("")
        )
    }
}

fn workers(workers: &[WorkerInfo]) -> String {
    let mut table = Table::new([
        ">WORKER",
        "CPU",
        "MODE",
        ">BUSY",
        ">ROUNDS",
        ">SLEEPS",
        ">EXACT",
        ">CLASSIFIER",
        ">UPCALLS",
        ">FLOWS",
    ]);
    for worker in workers {
        table.row([
            worker.index.to_string(),
            worker.cpu.map_or("any".to_owned(), |cpu| cpu.to_string()),
            worker.mode.clone(),
            format!("{:.1} %", worker.busy * 100.0),
            count(worker.iterations),
            count(worker.sleeps),
            count(worker.exact_hits),
            count(worker.classifier_hits),
            count(worker.upcalls),
            count(worker.flows),
        ]);
    }
    table.finish("no workers")
}

#[cfg(test)]
mod tests {
    use super::super::port::tests::port_info;
    use super::*;

    #[test]
    fn statistics_show_workers_ports_and_sums() {
        let port = port_info("vm0");
        let worker = WorkerReport {
            cpu: None,
            rounds: 1000,
            busy: 0.125,
            busy_cycles: 125_000_000,
            sleeps: 10,
            exact_hits: 900,
            classifier_hits: 90,
            upcalls: 10,
            flows: 4,
        };
        let stats = Stats {
            version: "0.1.0".into(),
            uptime_s: 61,
            workers: vec![WorkerInfo::of(0, PollMode::Adaptive, worker)],
            totals: port.counters.clone(),
            revalidator: RevalidatorInfo {
                passes: 12,
                last_pass_us: 340,
                longest_pass_us: 1_200,
                flows: 4,
                flow_limit: 200_000,
                idle_ms: 10_000,
                ..RevalidatorInfo::default()
            },
            punts: PuntCounters::default(),
            reading: ReadingInfo { vlan_limit: 2, fragments: "nx-match".into() },
            ports: vec![port],
        };
        let text = Show::text(&NoParams {}, &stats);
        let mut parts = text.split("\n\n");
        assert_eq!(parts.next().unwrap(), "vsteer 0.1.0, up 1m1s");
        assert_eq!(
            parts.next().unwrap(),
            "\
WORKER  CPU  MODE        BUSY  ROUNDS  SLEEPS  EXACT  CLASSIFIER  UPCALLS  FLOWS
     0  any  adaptive  12.5 %   1 000      10    900          90       10      4"
        );
        assert!(parts.next().unwrap().starts_with("NAME  ID"));
        let totals = parts.next().unwrap();
        assert!(totals.starts_with("received"));
        let has = |name, value| totals.lines().any(|line| line.split_whitespace().eq([name, value]));
        assert!(has("vlan-limit", "2") && has("fragments", "nx-match"), "{totals}");
        assert!(totals.contains("4 of 200 000, unused ones for 10.0s\n"), "{totals}");
        assert!(totals.contains("12, the last in 0.3 ms, the longest in 1.2 ms\n"), "{totals}");
    }
}
