//! `vsteer ctl cache`: show.

use clap::Args;
use serde::{Deserialize, Serialize};
use vsteer_switch::classifier::SubtableStats;

use super::ctl::CtlError;
use super::entry::{Command, Entry, Family, Rows, Sending};
use super::table::{Table, count};
use crate::appliance::Appliance;
use crate::appliance::caches::{CacheReport, TierReport};
use crate::appliance::refusal::Refusal;
use crate::control::protocol::NoParams;
use crate::flow_text::mask_text;

pub(super) const FAMILY: Family =
    Family::Group { word: "cache", about: "Caches of the workers", commands: &[Entry::call::<Show>()] };

/// Caches of all workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CacheInfo<L = Vec<WorkerCache>> {
    /// Each worker's.
    workers: L,
}

/// The caches of one worker; `L` is the list of its subtables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WorkerCache<L = Vec<SubtableInfo>> {
    /// The worker's index.
    worker: usize,
    /// Every counter of its pipeline by name, since the start.
    counters: Vec<(String, u64)>,
    /// The ways in which packets are decided, fastest first, and what follows the decision.
    tiers: Vec<TierInfo>,
    /// Subtables of its classifier, in the order in which they are searched; `None` if the worker did not answer in time.
    subtables: Option<L>,
}

/// One way in which packets are decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct TierInfo {
    /// Its name.
    name: String,
    /// Packets decided there.
    packets: u64,
    /// Their share of all packets, 0 to 1.
    share: f64,
    /// Cycles spent there for each packet that came that far, as far as they were measured.
    cycles_per_packet: Option<f64>,
}

/// A subtable of a classifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SubtableInfo {
    /// The fields that its mask looks at.
    mask: String,
    /// Megaflows in it.
    flows: u64,
    /// Packets found in it.
    hits: u64,
}

impl From<SubtableStats> for SubtableInfo {
    fn from(stats: SubtableStats) -> Self {
        Self { mask: mask_text(&stats.mask), flows: stats.flows as u64, hits: stats.hits }
    }
}

impl From<TierReport> for TierInfo {
    fn from(tier: TierReport) -> Self {
        let TierReport { name, packets, share, cycles_per_packet } = tier;
        Self { name: name.to_owned(), packets, share, cycles_per_packet }
    }
}

impl WorkerCache<Rows<SubtableInfo>> {
    fn of(worker: usize, report: CacheReport) -> Self {
        let CacheReport { counters, tiers, subtables } = report;
        Self {
            worker,
            counters: counters.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            tiers: tiers.into_iter().map(TierInfo::from).collect(),
            subtables: subtables.map(|list| Rows::new(list.into_iter().map(SubtableInfo::from))),
        }
    }
}

/// Show how packets are decided, by worker and tier, and the subtables with their hits
#[derive(Debug, Args)]
struct Show {}

impl Command for Show {
    const WORD: &'static str = "show";
    const METHOD: &'static str = "cache_show";
    type Params = NoParams;
    type Reply = CacheInfo;

    fn params(self) -> Result<NoParams, CtlError> {
        Ok(NoParams {})
    }

    /// What the workers write down: a subtable has a megaflow at least, and their sheets have room for twice as many.
    fn weight(_: &NoParams, appliance: &Appliance) -> usize {
        2 * appliance.megaflow_count() * size_of::<SubtableStats>()
    }

    fn carry_out(appliance: &Appliance, _: NoParams) -> Result<Sending<CacheInfo>, Refusal> {
        let reports = appliance.caches().into_iter().enumerate();
        let workers = Rows::new(reports.map(|(worker, report)| WorkerCache::of(worker, report)));
        Ok(Sending::shaped(CacheInfo { workers }))
    }

    /// A part for each worker.
    fn text(_: &NoParams, caches: &CacheInfo) -> String {
        caches.workers.iter().map(worker_text).collect::<Vec<_>>().join("\n")
    }
}

fn worker_text(cache: &WorkerCache) -> String {
    let mut tiers = Table::new(["DECIDED BY", ">PACKETS", ">SHARE", ">CYCLES/PACKET"]);
    for tier in &cache.tiers {
        tiers.row([
            tier.name.clone(),
            count(tier.packets),
            format!("{:.1} %", tier.share * 100.0),
            tier.cycles_per_packet.map_or("-".to_owned(), |cycles| format!("{cycles:.0}")),
        ]);
    }
    let mut counters = Table::plain();
    for (name, value) in &cache.counters {
        counters.row([name.replace('_', " "), count(*value)]);
    }
    let subtables = match &cache.subtables {
        None => "the worker did not answer in time\n".to_owned(),
        Some(subtables) => {
            let mut table = Table::new([">FLOWS", ">HITS", "LOOKS AT"]);
            for subtable in subtables {
                table.row([count(subtable.flows), count(subtable.hits), subtable.mask.clone()]);
            }
            table.finish("no subtables")
        }
    };
    format!("worker {}\n\n{}\n{}\n{subtables}", cache.worker, tiers.finish(""), counters.finish(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_show_tiers_counters_and_subtables() {
        let tier =
            TierInfo { name: "exact match".into(), packets: 750, share: 0.75, cycles_per_packet: Some(61.7) };
        let cache = WorkerCache {
            worker: 0,
            counters: vec![("exact_hits".into(), 750)],
            tiers: vec![tier],
            subtables: Some(vec![SubtableInfo { mask: "in_port,eth_dst".into(), flows: 2, hits: 1234 }]),
        };
        let workers = vec![cache.clone(), WorkerCache { worker: 1, subtables: None, ..cache }];
        assert_eq!(
            Show::text(&NoParams {}, &CacheInfo { workers }),
            "\
worker 0

DECIDED BY   PACKETS   SHARE  CYCLES/PACKET
exact match      750  75.0 %             62

exact hits  750

FLOWS   HITS  LOOKS AT
    2  1 234  in_port,eth_dst

worker 1

DECIDED BY   PACKETS   SHARE  CYCLES/PACKET
exact match      750  75.0 %             62

exact hits  750

the worker did not answer in time
"
        );
    }
}
