//! Replies as text for the terminal: aligned columns, units, and nothing that a program should read. Programs use
//! `--json`.

use std::fmt::Write as _;

/// Rules, tables, mirrors, and what a change or a reload did.
mod rules;

/// Caches, traces, punted packets and live rates.
mod watch;

pub use self::rules::{mirrors, reloaded, rules, rules_changed, tables};
pub use self::watch::{caches, punt, top, trace};
use super::protocol::{
    FdbEntry, FdbFlushed, FlowDump, PortCounters, PortInfo, RevalidatorInfo, Stats, WorkerInfo,
};

/// Ports, one a line.
pub fn ports(ports: &[PortInfo]) -> String {
    let mut table =
        Table::new(["NAME", "ID", "TYPE", "ADDRESS", "STATE", "QUEUES", "VLAN", ">RX", ">TX", ">DROPPED"]);
    for port in ports {
        table.row([
            port.name.clone(),
            port.id.to_string(),
            port.kind.clone(),
            port.address.clone(),
            state(port),
            format!("{}/{}", port.queue_pairs_enabled, port.queue_pairs_offered),
            port.vlan.to_string(),
            count(port.counters.rx_pkts),
            count(port.counters.tx_pkts),
            count(port.counters.dropped()),
        ]);
    }
    table.finish("no ports; add one with vsteer ctl port add SPEC")
}

fn state(port: &PortInfo) -> String {
    match &port.fault {
        Some(fault) => format!("{}: {fault}", port.state.name()),
        None => port.state.name().to_owned(),
    }
}

/// One port in full, a property a line.
pub fn port(port: &PortInfo) -> String {
    let mut table = Table::plain();
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
    line("name", port.name.clone());
    line("id", port.id.to_string());
    line("type", port.kind.clone());
    line("address", port.address.clone());
    line("state", state(port));
    line("queue pairs", format!("{} of {} enabled", port.queue_pairs_enabled, port.queue_pairs_offered));
    line("vlan", port.vlan.to_string());
    line("mac limit", port.mac_limit.to_string());
    line("mtu", port.mtu.map_or("not set".to_owned(), |mtu| mtu.to_string()));
    if port.local {
        line("role", "the local port".to_owned());
    }
    line("features", if port.features.is_empty() { "none".to_owned() } else { port.features.join(" ") });
    counter_lines(&port.counters, line);
    table.finish("")
}

fn counter_lines(counters: &PortCounters, mut line: impl FnMut(&str, String)) {
    line("received", traffic(counters.rx_pkts, counters.rx_bytes));
    line("sent", traffic(counters.tx_pkts, counters.tx_bytes));
    line("dropped", format!("{} packets", count(counters.dropped())));
    for (reason, &dropped) in counters.drops.iter().filter(|&(_, &dropped)| dropped > 0) {
        line(&format!("  {reason}"), count(dropped));
    }
}

fn traffic(packets: u64, byte_count: u64) -> String {
    format!("{} packets, {}", count(packets), bytes(byte_count))
}

/// The forwarding database, an address a line.
pub fn fdb(entries: &[FdbEntry]) -> String {
    let mut table = Table::new([">VLAN", "MAC", "PORT", ">AGE"]);
    for entry in entries {
        let age = if entry.is_static { "static".to_owned() } else { duration(entry.age_s * 1000) };
        table.row([entry.vlan.to_string(), entry.mac.clone(), entry.port.clone(), age]);
    }
    table.finish("no addresses learned")
}

/// What a flush did.
pub fn fdb_flushed(flushed: &FdbFlushed) -> String {
    match flushed.removed {
        1 => "1 address forgotten\n".to_owned(),
        removed => format!("{removed} addresses forgotten\n"),
    }
}

/// Megaflows, one a line, in the manner of ovs-dpctl.
pub fn flows(dump: &FlowDump) -> String {
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
        let _ = writeln!(text, "and {} more with fewer packets; --limit shows more", count(dump.left_out));
    }
    if text.is_empty() { "no flows\n".to_owned() } else { text }
}

/// Statistics of the whole switch: a head, workers, ports, sums.
pub fn stats(stats: &Stats) -> String {
    let mut totals = Table::plain();
    counter_lines(&stats.totals, |name, value| totals.row([name.to_owned(), value]));
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
        ports(&stats.ports),
        totals.finish("")
    )
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

/// A number in groups of three digits: `1 234 567`.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A size with three digits or so: `1.5 MB`; units are powers of 1000.
fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit_size = 1000;
    for (i, unit) in UNITS.iter().enumerate() {
        let last = i == UNITS.len() - 1;
        if number < unit_size {
            break;
        }
        if last || number / 1000 < unit_size {
            let (whole, tenth) = (number / unit_size, number % unit_size / (unit_size / 10));
            return format!("{whole}.{tenth} {unit}");
        }
        unit_size *= 1000;
    }
    format!("{number} B")
}

/// A time in its two largest units: `0.250s`, `59.0s`, `3m20s`, `2h5m`, `4d3h`.
fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("0.{:03}s", ms),
        1..60 => format!("{s}.{}s", ms % 1000 / 100),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3600 % 24),
    }
}

/// Columns as wide as their widest cell.
struct Table<const N: usize> {
    heads: Option<[&'static str; N]>,
    /// Whether a column's cells stand at its right edge.
    to_right: [bool; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with heads; a head that begins with `>` has its column aligned to the right.
    fn new(heads: [&'static str; N]) -> Self {
        Self {
            to_right: heads.map(|head| head.starts_with('>')),
            heads: Some(heads.map(|head| head.trim_start_matches('>'))),
            rows: Vec::new(),
        }
    }

    fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(printable));
    }

    /// The table's text, or `empty` where it has no rows.
    fn finish(self, empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        let heads = self.heads.map(|heads| heads.map(str::to_owned));
        let lines: Vec<[String; N]> = heads.into_iter().chain(self.rows).collect();
        let widths: [usize; N] =
            std::array::from_fn(|i| lines.iter().map(|cells| cells[i].chars().count()).max().unwrap_or(0));
        lines.iter().map(|cells| line(cells, &widths, &self.to_right)).collect()
    }
}

impl Table<2> {
    /// Names and values, without heads.
    fn plain() -> Self {
        Self { heads: None, to_right: [false; 2], rows: Vec::new() }
    }
}

fn line<const N: usize>(cells: &[String; N], widths: &[usize; N], to_right: &[bool; N]) -> String {
    let padded: Vec<String> = cells
        .iter()
        .zip(widths.iter().zip(to_right))
        .map(
            |(cell, (&width, &to_right))| {
                if to_right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            },
        )
        .collect();
    format!("{}\n", padded.join("  ").trim_end())
}

/// Text of a guest's making, such as a fault, must not move the cursor.
fn printable(text: String) -> String {
    if text.chars().any(char::is_control) { text.replace(char::is_control, "?") } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flow, port_info, sample_stats};
    use super::*;

    #[test]
    fn numbers_have_groups_and_units() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
        let sizes = [0, 999, 1000, 1549, 2_500_000, 7_000_000_000, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "1.5 kB", "2.5 MB", "7.0 GB", "18.4 EB"]);
        let times = [0, 42, 1500, 59_999, 200_000, 7_500_000, 356_400_000].map(duration);
        assert_eq!(times, ["0.000s", "0.042s", "1.5s", "59.9s", "3m20s", "2h5m", "4d3h"]);
    }

    #[test]
    fn port_table_is_aligned() {
        let mut stopped = port_info("vm10");
        stopped.state = super::super::protocol::PortState::Stopped;
        stopped.fault = Some("bad\ndescriptor".into());
        stopped.counters.rx_pkts = 7;
        assert_eq!(
            ports(&[port_info("vm0"), stopped]),
            "\
NAME  ID  TYPE        ADDRESS    STATE                    QUEUES  VLAN          RX  TX  DROPPED
vm0   1   vhost-user  /run/vm0   connected                1/16    access 10  1 234   5        6
vm10  1   vhost-user  /run/vm10  stopped: bad?descriptor  1/16    access 10      7   5        6
"
        );
    }

    #[test]
    fn port_in_full_shows_drops_by_reason() {
        assert_eq!(
            port(&port_info("vm0")),
            "\
name               vm0
id                 1
type               vhost-user
address            /run/vm0
state              connected
queue pairs        1 of 16 enabled
vlan               access 10
mac limit          4096
mtu                9000
features           VERSION_1 MRG_RXBUF
received           1 234 packets, 99.5 kB
sent               5 packets, 300 B
dropped            6 packets
  no_guest_buffer  6
"
        );
    }

    #[test]
    fn fdb_and_flows_have_one_line_each() {
        let learned = FdbEntry {
            vlan: 10,
            mac: "52:54:00:00:00:01".into(),
            port: "vm0".into(),
            age_s: 5,
            is_static: false,
        };
        let fixed = FdbEntry { vlan: 0, port: "host".into(), is_static: true, ..learned.clone() };
        assert_eq!(
            fdb(&[learned, fixed]),
            "\
VLAN  MAC                PORT     AGE
  10  52:54:00:00:00:01  vm0     5.0s
   0  52:54:00:00:00:01  host  static
"
        );
        assert_eq!(
            flows(&FlowDump { flows: vec![flow()], left_out: 3 }),
            "worker:1, in_port(vm0),eth(dst=52:54:00:00:00:02), packets:3, bytes:180, used:0.250s, age:1m1s, \
             tier:exact_match, actions:push_vlan(vid=10),vm1\nand 3 more with fewer packets; --limit shows more\n"
        );
    }

    #[test]
    fn statistics_show_workers_ports_and_sums() {
        let text = stats(&sample_stats());
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
        assert!(totals.contains("4 of 200 000, unused ones for 10.0s\n"), "{totals}");
        assert!(totals.contains("12, the last in 0.3 ms, the longest in 1.2 ms\n"), "{totals}");
    }

    #[test]
    fn nothing_to_show_says_so() {
        assert_eq!(ports(&[]), "no ports; add one with vsteer ctl port add SPEC\n");
        assert_eq!(fdb(&[]), "no addresses learned\n");
        assert_eq!(flows(&FlowDump::default()), "no flows\n");
        assert_eq!(fdb_flushed(&FdbFlushed { removed: 1 }), "1 address forgotten\n");
    }
}
