//! How a switch bears growth: packets a second, cycles a packet and bytes a flow as megaflows and masks become many;
//! misses that one worker sustains; how fast flows come and go. Prints one table, vsteer beside OVS-DPDK.
//!
//! `growth [vsteer|ovs]...`, started by `bench/growth.sh`. One thread sends to one port and receives from the other; the
//! switch has one worker on the other processor. Every packet goes the same way; rules differ only in what they look at:
//!
//! - *flows*: one mask, which the destination address is in; as many destinations as flows, in scattered order.
//! - *masks*: one flow a mask. Bits that no mask looks at are random, so that exact-match caches, keyed on whole packets,
//!   find what they can.
//! - *misses*: every packet has a destination that never was before.

use std::env;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use vsteer_qemu_tests::control::Control;
use vsteer_qemu_tests::failure::{Context, Failure, Result};
use vsteer_qemu_tests::load::frame::Udp;
use vsteer_qemu_tests::load::traffic::Traffic;
use vsteer_qemu_tests::namespace::Namespace;
use vsteer_qemu_tests::ovs::Ovs;
use vsteer_qemu_tests::process::Process;
use vsteer_qemu_tests::switch::Switch;
use vsteer_qemu_tests::{ensure, fail, processor};

const FLOWS: [u64; 4] = [1, 100, 10_000, 1_000_000];
const MASKS: [u64; 4] = [1, 16, 128, 1024];

const LOAD_CPU: usize = 0;
const WORKER_CPU: usize = 1;

/// Packets on their way at one time: all that the receiving ring holds.
const WINDOW: u64 = 224;

const WINDOW_OF_MEASUREMENT: Duration = Duration::from_secs(2);

/// The longest that flows are waited for.
const WARM_UP: Duration = Duration::from_secs(60);

/// New flows that are sent beyond those that are known to be installed.
const AHEAD: u64 = 50_000;

/// A switch under measurement.
enum Rival {
    Vsteer { switch: Switch, control: Control },
    Ovs(Ovs),
}

/// What a switch counted so far.
#[derive(Clone, Copy, Default)]
struct Counts {
    packets: u64,
    cycles: f64,
    upcalls: u64,
    flows: u64,
}

fn main() -> Result<()> {
    let names: Vec<String> = env::args().skip(1).collect();
    let names = if names.is_empty() { vec!["vsteer".into(), "ovs".into()] } else { names };
    println!(
        "{:<8} {:>10} {:>10} {:>9} {:>9} {:>11}  remark",
        "switch", "flows", "masks", "Mpps", "cyc/pkt", "bytes/flow"
    );
    for name in &names {
        for flows in FLOWS {
            Bench::start(name)?.flows(flows).context(format!("{name}, {flows} flows"))?;
        }
        for masks in MASKS {
            Bench::start(name)?.masks(masks).context(format!("{name}, {masks} masks"))?;
        }
        Bench::start(name)?.misses().context(format!("{name}, misses"))?;
    }
    Ok(())
}

/// One switch, freshly started, and the traffic through it.
struct Bench {
    name: String,
    rival: Rival,
    traffic: Traffic,
    _namespace: Namespace,
    _folder: TempDir,
}

impl Bench {
    fn start(name: &str) -> Result<Self> {
        // The switch shall not inherit the confinement of the load.
        processor::keep_to(&[LOAD_CPU, WORKER_CPU])?;
        let folder = tempfile::Builder::new().prefix("growth").tempdir()?;
        let namespace = Namespace::new()?;
        let clock = Instant::now();
        let sockets = ["vm0", "vm1"].map(|port| folder.path().join(format!("{port}.sock")));
        let (rival, traffic) = match name {
            "vsteer" => {
                let rival = start_vsteer(folder.path(), &namespace)?;
                let [from, to] = &sockets;
                (rival, Traffic::connect(from, to, clock, u64::MAX)?)
            }
            "ovs" => {
                let listeners = Traffic::listen([&sockets[0], &sockets[1]])?;
                let ovs = Ovs::start([&sockets[0], &sockets[1]], false, folder.path(), &namespace)?;
                ovs.set(&["flow-limit=2000000", "max-idle=3600000"])?;
                (Rival::Ovs(ovs), Traffic::accept(&listeners, clock, u64::MAX)?)
            }
            other => fail!("what is {other}? say vsteer or ovs"),
        };
        processor::keep_to(&[LOAD_CPU])?;
        Ok(Bench { name: name.into(), rival, traffic, _namespace: namespace, _folder: folder })
    }

    fn flows(mut self, flows: u64) -> Result<()> {
        self.rival.replace_rules(EXACT_DESTINATION)?;
        let before_kib = self.rival.resident_kib()?;
        // In order up to AHEAD beyond those that are installed, so that a switch is not only asked for new ones; then in any.
        self.warm_up(flows, |number, known| destination(number % flows.min(known + AHEAD)))?;
        let remark = self.remark(flows)?;
        let flows = flows.min(self.rival.counts()?.flows).max(1);
        let header = |number: u64| destination(scatter(number) % flows);
        let grown = self.rival.resident_kib()?.saturating_sub(before_kib) * 1024;
        // Below that, what a flow takes is lost among what a process takes.
        let bytes = if flows < 10_000 { "-".into() } else { (grown / flows).to_string() };
        self.measure(flows, 1, &bytes, &remark, header)
    }

    fn masks(mut self, masks: u64) -> Result<()> {
        self.rival.replace_rules(&staircase(masks))?;
        let header = |number: u64| step_of_staircase(scatter(number) % masks, scatter(number ^ 0x5555));
        self.warm_up(masks, |number, _| header(number))?;
        let remark = self.remark(masks)?;
        self.measure(masks, masks, "-", &remark, header)
    }

    fn misses(mut self) -> Result<()> {
        self.rival.replace_rules(EXACT_DESTINATION)?;
        let mut next = 0;
        let before = self.rival.counts()?;
        let start = Instant::now();
        while start.elapsed() < WINDOW_OF_MEASUREMENT {
            // Packets over a budget are dropped, so the window is not kept.
            self.traffic.send(u64::MAX, |number| {
                next = number;
                destination(number)
            });
            self.traffic.receive();
        }
        let seconds = start.elapsed().as_secs_f64();
        let after = self.rival.counts()?;
        let per_second = (after.upcalls - before.upcalls) as f64 / seconds;
        println!(
            "{:<8} misses: {per_second:.0}/s decided, {:.0}/s sent; {} flows after {seconds:.1} s: {:.0} installed/s",
            self.name,
            next as f64 / seconds,
            after.flows,
            (after.flows - before.flows) as f64 / seconds
        );
        let start = Instant::now();
        let flows = after.flows;
        self.rival.remove_flows()?;
        let left = loop {
            let left = self.rival.counts()?.flows;
            if left <= flows / 100 || start.elapsed() > WARM_UP {
                break left;
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        println!("{:<8} deletes: {:.0}/s ({left} left)", self.name, (flows - left) as f64 / seconds);
        Ok(())
    }

    /// Sends until `flows` megaflows are installed, or no more come.
    ///
    /// `header` is told the number of the packet and how many megaflows there are.
    fn warm_up(&mut self, flows: u64, header: impl Fn(u64, u64) -> Udp) -> Result<()> {
        let (start, mut looked) = (Instant::now(), Instant::now());
        let mut known = 0;
        while start.elapsed() < WARM_UP && known < flows {
            self.traffic.send(u64::MAX, |number| header(number, known));
            self.traffic.receive();
            if looked.elapsed() > Duration::from_millis(50) {
                known = self.rival.counts()?.flows;
                looked = Instant::now();
            }
        }
        // What the first packets of flows left in the rings.
        let pause = Instant::now();
        while pause.elapsed() < Duration::from_millis(200) {
            self.traffic.receive();
        }
        self.traffic.restart();
        Ok(())
    }

    /// Why a row is not what it says.
    fn remark(&mut self, flows: u64) -> Result<String> {
        let counts = self.rival.counts()?;
        let few = counts.flows < flows;
        Ok(if few { format!("only {} flows installed", counts.flows) } else { String::new() })
    }

    fn measure(
        &mut self,
        flows: u64,
        masks: u64,
        bytes: &str,
        remark: &str,
        header: impl Fn(u64) -> Udp,
    ) -> Result<()> {
        let before = self.rival.counts()?;
        let start = Instant::now();
        while start.elapsed() < WINDOW_OF_MEASUREMENT {
            self.traffic.send(WINDOW, &header);
            self.traffic.receive();
        }
        let seconds = start.elapsed().as_secs_f64();
        let after = self.rival.counts()?;
        let received = self.traffic.account().received;
        ensure!(received > 1000, "next to nothing arrived: {:?}", self.traffic.account());
        println!(
            "{:<8} {flows:>10} {masks:>10} {:>9.3} {:>9.0} {bytes:>11}  {remark}",
            self.name,
            received as f64 / seconds / 1e6,
            (after.cycles - before.cycles) / (after.packets - before.packets).max(1) as f64,
        );
        Ok(())
    }
}

const EXACT_DESTINATION: &str = "in_port=vm0,udp,actions=move:NXM_OF_IP_DST[]->NXM_NX_REG0[],output:vm1\n";

fn destination(flow: u64) -> Udp {
    let mut udp = Udp::between(1, 2);
    udp.ips[1] = 0x1400_0000_u32.wrapping_add(low_u32(flow));
    udp
}

/// Tables of a staircase: each adds 16 masks.
const STEPS: u64 = 16;

/// Rules whose megaflows have `masks` masks: tables by source port, which look at 1 to 32 bits of the destination, and in
/// each up to 16 prefixes of the source.
fn staircase(masks: u64) -> String {
    let mut rules = String::new();
    for mask in 0..masks {
        let (table, step) = (mask / STEPS, mask % STEPS);
        if step == 0 {
            rules += &format!("in_port=vm0,udp,tp_src={},actions=resubmit(,{})\n", 1000 + table, table + 1);
        }
        let port = if table < 32 { "" } else { "tp_dst=1001," };
        rules += &format!(
            "table={},priority={},udp,{port}nw_src={}.0.0.0/{},nw_dst=20.0.0.0/{},actions=output:vm1\n",
            table + 1,
            100 - step,
            10 + step,
            17 + step,
            1 + table % 32
        );
    }
    rules
}

/// A packet of mask `mask`; bits that the mask does not look at are taken from `noise`.
fn step_of_staircase(mask: u64, noise: u64) -> Udp {
    let (table, step) = (mask / STEPS, mask % STEPS);
    let mut udp = Udp::between(1, 2);
    let below = |bits: u64| low_u32(noise) & u32::try_from((1_u64 << bits) - 1).unwrap_or(u32::MAX);
    udp.ips[0] = low_u32(10 + step) << 24 | below(15 - step);
    udp.ips[1] = 0x1400_0000 ^ below(31 - table % 32);
    udp.ports[0] = u16::try_from(1000 + table).unwrap_or_default();
    udp
}

fn low_u32(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default()
}

/// A permutation that leaves nothing of the order.
fn scatter(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

fn start_vsteer(folder: &Path, namespace: &Namespace) -> Result<Rival> {
    let config = folder.join("vsteer.toml");
    // The budget of upcalls is lifted: it is what a worker can do that is asked for.
    let bounds = "[flow-cache]\nmax-flows = 2000000\nmax-idle-ms = 3600000\nupcalls-per-s = 10000000\n";
    fs::write(&config, bounds)?;
    let config = config.display().to_string();
    let ports = ["vm0", "vm1"].map(|port| format!("{port}=vhost-user:{}/{port}.sock", folder.display()));
    let options = ["--poll", "busy", "--workers", "1", "--config", &config];
    let mut switch = Switch::start_with(&options, &ports, folder, namespace)?;
    processor::part_workers(switch.process(), LOAD_CPU)?;
    let control = Control::connect(&folder.join("ctl.sock"))?;
    Ok(Rival::Vsteer { switch, control })
}

impl Rival {
    fn replace_rules(&mut self, rules: &str) -> Result<()> {
        match self {
            Rival::Vsteer { control, .. } => control.replace_rules(rules),
            Rival::Ovs(ovs) => ovs.replace_rules(rules),
        }
    }

    /// Makes the switch take all megaflows out: no rule is left, or what Open vSwitch has for the purpose.
    fn remove_flows(&mut self) -> Result<()> {
        match self {
            Rival::Vsteer { control, .. } => control.replace_rules("actions=drop\n"),
            Rival::Ovs(ovs) => ovs.appctl(&["revalidator/purge"]).map(drop),
        }
    }

    fn counts(&mut self) -> Result<Counts> {
        match self {
            Rival::Vsteer { control, .. } => vsteer_counts(&control.call("stats", &json!({}))?),
            Rival::Ovs(ovs) => {
                ovs_counts(&ovs.appctl(&["dpif-netdev/pmd-stats-show"])?, &ovs.appctl(&["upcall/show"])?)
            }
        }
    }

    fn resident_kib(&mut self) -> Result<u64> {
        let process: &Process = match self {
            Rival::Vsteer { switch, .. } => switch.process(),
            Rival::Ovs(ovs) => ovs.process(),
        };
        process.resident_kib()
    }
}

fn vsteer_counts(stats: &Value) -> Result<Counts> {
    let worker = &stats["workers"][0];
    let count = |value: &Value| value.as_u64().ok_or_else(|| Failure::new(format!("no count in {stats}")));
    Ok(Counts {
        packets: count(&stats["totals"]["rx_pkts"])?,
        cycles: count(&worker["busy_cycles"])? as f64,
        upcalls: count(&worker["upcalls"])?,
        flows: count(&worker["flows"])?,
    })
}

/// Reads the polling thread's part of `pmd-stats-show`, and the flows of `upcall/show`.
fn ovs_counts(stats: &str, upcalls: &str) -> Result<Counts> {
    let thread = stats.split("pmd thread").nth(1).unwrap_or_default();
    let thread = thread.split("main thread").next().unwrap_or_default();
    let number = |label: &str| {
        let line = thread.lines().find_map(|line| line.trim().strip_prefix(label));
        let word = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
        word.and_then(|word| word.parse::<u64>().ok())
    };
    let flows = upcalls.split("(current ").nth(1).and_then(|rest| rest.split(')').next());
    Ok(Counts {
        packets: number("packets received").context_of(stats)?,
        // None at all stands in the report as no line.
        cycles: number("processing cycles").unwrap_or_default() as f64,
        upcalls: number("miss with success upcall").context_of(stats)?,
        flows: flows.and_then(|flows| flows.parse().ok()).context_of(upcalls)?,
    })
}

trait ContextOf<T> {
    /// A failure that shows where the value was looked for.
    fn context_of(self, text: &str) -> Result<T>;
}

impl<T> ContextOf<T> for Option<T> {
    fn context_of(self, text: &str) -> Result<T> {
        self.ok_or_else(|| Failure::new(format!("a count is missing in\n{text}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staircase_has_as_many_steps_as_masks_and_packets_that_meet_them() {
        for masks in MASKS {
            let rules = staircase(masks);
            assert_eq!(rules.matches("output:vm1").count() as u64, masks);
        }
        let udp = step_of_staircase(5 * STEPS + 3, u64::MAX);
        assert_eq!(udp.ports[0], 1005);
        assert_eq!(udp.ips[0] >> 12, 13 << 12, "the first 20 bits are the rule's");
        assert_eq!(udp.ips[1] >> 26, 0x14 >> 2, "so are 6 bits of the destination");
    }
}
