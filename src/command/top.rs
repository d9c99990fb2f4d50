//! `vsteer ctl top`: live rates of ports and flows.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ctl::CtlError;
use super::entry::{Entry, Family, Feed, Viewer, Watch};
use super::table::{Table, count};
use crate::appliance::Appliance;
use crate::appliance::refusal::Refusal;
use crate::appliance::watch::{self, RateReport};

pub(super) const FAMILY: Family = Family::Single(Entry::watch::<Top>());

/// Puts the cursor home and clears what is below.
const HOME: &str = "\x1b[H\x1b[J";

/// Show live packets/s and bits/s of ports and of the busiest flows; ends at Ctrl-C
#[derive(Debug, Args)]
struct Top {
    /// Seconds between pictures
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// End after so many pictures
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Flows in each picture
    #[arg(long, value_name = "N", default_value_t = 10)]
    flows: usize,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("use seconds from 0.1 to 3600".to_owned()),
    }
}

/// How live rates are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopQuery {
    /// Milliseconds between samples.
    interval_ms: u64,
    /// Flows in each sample at most.
    flows: usize,
}

/// Rates over one interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct TopSample {
    /// Length of the interval in milliseconds.
    interval_ms: u64,
    /// Each port.
    ports: Vec<PortRate>,
    /// The busiest flows, busiest first.
    flows: Vec<FlowRate>,
    /// Flows there are.
    flow_count: u64,
}

/// Rates of a port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct PortRate {
    /// Its name.
    name: String,
    /// Packets a second received from it.
    rx_pps: f64,
    /// Bits a second received from it.
    rx_bps: f64,
    /// Packets a second sent to it.
    tx_pps: f64,
    /// Bits a second sent to it.
    tx_bps: f64,
    /// Packets a second dropped at it.
    drop_pps: f64,
}

/// Rates of a megaflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FlowRate {
    /// What it matches.
    #[serde(rename = "match")]
    match_text: String,
    /// What it does.
    actions: String,
    /// Index of the worker that has it.
    worker: usize,
    /// Packets a second.
    pps: f64,
    /// Bits a second.
    bps: f64,
}

impl From<RateReport> for TopSample {
    fn from(rates: RateReport) -> Self {
        Self {
            interval_ms: u64::try_from(rates.interval.as_millis()).unwrap_or(u64::MAX),
            ports: rates.ports.into_iter().map(PortRate::from).collect(),
            flows: rates.flows.into_iter().map(FlowRate::from).collect(),
            flow_count: rates.flow_count as u64,
        }
    }
}

impl From<watch::PortRate> for PortRate {
    fn from(rate: watch::PortRate) -> Self {
        let watch::PortRate { name, rx_pps, rx_bps, tx_pps, tx_bps, drop_pps } = rate;
        Self { name, rx_pps, rx_bps, tx_pps, tx_bps, drop_pps }
    }
}

impl From<watch::FlowRate> for FlowRate {
    fn from(rate: watch::FlowRate) -> Self {
        let watch::FlowRate { match_text, actions, worker, pps, bps } = rate;
        Self { match_text, actions, worker, pps, bps }
    }
}

impl Watch for Top {
    const WORD: &'static str = "top";
    const METHOD: &'static str = "top";
    type Params = TopQuery;
    type Item = TopSample;

    fn params(&self) -> TopQuery {
        // Between 100 and 3 600 000: see `interval`.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
        let interval_ms = (self.interval * 1000.0) as u64;
        TopQuery { interval_ms, flows: self.flows }
    }

    fn count(&self) -> Option<u64> {
        self.count
    }

    fn carry_out(appliance: &Appliance, query: TopQuery) -> Result<Feed<TopSample>, Refusal> {
        let mut rates = appliance.watch_rates(Duration::from_millis(query.interval_ms), query.flows)?;
        Ok(Box::new(move |wait| rates.next(wait).map(TopSample::from)))
    }

    /// A picture in place of the last one on a terminal, below it elsewhere.
    fn viewer(self) -> Result<Viewer<TopSample>, CtlError> {
        let is_terminal = io::stdout().is_terminal();
        Ok(Box::new(move |sample| {
            let text = picture(sample);
            Ok(if is_terminal { format!("{HOME}{text}") } else { format!("{text}\n") })
        }))
    }
}

/// Rates over one interval: ports, then flows.
fn picture(sample: &TopSample) -> String {
    let mut ports = Table::new(["PORT", ">RX PKT/S", ">RX BIT/S", ">TX PKT/S", ">TX BIT/S", ">DROP PKT/S"]);
    for port in &sample.ports {
        ports.row([
            port.name.clone(),
            rate(port.rx_pps),
            rate(port.rx_bps),
            rate(port.tx_pps),
            rate(port.tx_bps),
            rate(port.drop_pps),
        ]);
    }
    let mut flows = Table::new([">PKT/S", ">BIT/S", ">WORKER", "FLOW", "ACTIONS"]);
    for flow in &sample.flows {
        flows.row([
            rate(flow.pps),
            rate(flow.bps),
            flow.worker.to_string(),
            flow.match_text.clone(),
            flow.actions.clone(),
        ]);
    }
    let shown = sample.flows.len();
    format!(
        "{}\n{} flows, the busiest {shown} in the last {:.1} s:\n{}",
        ports.finish("no ports"),
        count(sample.flow_count),
        sample.interval_ms as f64 / 1000.0,
        flows.finish("no packets")
    )
}

/// A rate with three digits or so: `1.23 M`.
fn rate(per_s: f64) -> String {
    let (scaled, unit) = match per_s {
        ..1e3 => return format!("{per_s:.0}"),
        ..1e6 => (per_s / 1e3, "k"),
        ..1e9 => (per_s / 1e6, "M"),
        _ => (per_s / 1e9, "G"),
    };
    format!("{scaled:.2} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        assert_eq!(
            [0.0, 999.4, 1500.0, 2.5e6, 9.871e9].map(rate),
            ["0", "999", "1.50 k", "2.50 M", "9.87 G"]
        );
        let port = PortRate {
            name: "vm0".into(),
            rx_pps: 1500.0,
            rx_bps: 1e6,
            tx_pps: 0.0,
            tx_bps: 0.0,
            drop_pps: 0.0,
        };
        let flow = FlowRate {
            match_text: "in_port(vm0)".into(),
            actions: "vm1".into(),
            worker: 0,
            pps: 10.0,
            bps: 80.0,
        };
        let sample = TopSample { interval_ms: 1000, ports: vec![port], flows: vec![flow], flow_count: 4 };
        assert_eq!(
            picture(&sample),
            "\
PORT  RX PKT/S  RX BIT/S  TX PKT/S  TX BIT/S  DROP PKT/S
vm0     1.50 k    1.00 M         0         0           0

4 flows, the busiest 1 in the last 1.0 s:
PKT/S  BIT/S  WORKER  FLOW          ACTIONS
   10     80       0  in_port(vm0)  vm1
"
        );
    }
}
