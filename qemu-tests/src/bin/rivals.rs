//! The same two guests behind one switch after the other: ping and TCP between them, as ratios of vsteer to its peers.
//!
//! `rivals [ROUNDS [SECONDS [SWITCH...]]]`, started by `bench/guests.sh`. Every round boots the pair anew behind each
//! switch, in turns forwards and backwards, so that a machine which slows down meanwhile favours none. QEMU gets the
//! same command line each time (it creates the sockets, all switches connect to them), and no process is pinned but
//! those of a switch that demands it.
//!
//! Guests are slow beside a switch, under TCG by far: the ratios tell how much a switch leaves to guests or takes from
//! them (processor time, offloads, wake-ups), not how many packets it could forward. `bench/bench.sh` measures that.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use vsteer_qemu_tests::assets::Assets;
use vsteer_qemu_tests::failure::{Context, Failure, Result};
use vsteer_qemu_tests::guest::{self, Guest, GuestSpec, Nic};
use vsteer_qemu_tests::namespace::Namespace;
use vsteer_qemu_tests::ovs::{Ovs, PMD_CPU};
use vsteer_qemu_tests::process::Process;
use vsteer_qemu_tests::series::Series;
use vsteer_qemu_tests::switch::Switch;
use vsteer_qemu_tests::testpmd::Testpmd;
use vsteer_qemu_tests::{ensure, fail};

const USAGE: &str = "rivals [ROUNDS [SECONDS [SWITCH...]]]";

/// A switch and how it is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rival {
    Vsteer,
    VsteerBusy,
    Ovs,
    OvsTso,
    Testpmd,
}

const RIVALS: [(Rival, &str, &str); 5] = [
    (Rival::Vsteer, "vsteer", "as users run it: adaptive, one worker, not pinned"),
    (Rival::VsteerBusy, "vsteer-busy", "one worker that spins on CPU 1"),
    (Rival::Ovs, "ovs", "OVS-DPDK, NORMAL, one PMD thread that spins on CPU 1"),
    (Rival::OvsTso, "ovs-tso", "the same with userspace-tso-enable"),
    (Rival::Testpmd, "testpmd", "DPDK's forwarder: no lookup, one thread that spins, not pinned"),
];

impl Rival {
    fn name(self) -> &'static str {
        RIVALS.iter().find(|(rival, ..)| *rival == self).map_or("", |(_, name, _)| name)
    }
}

impl FromStr for Rival {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        let names = RIVALS.map(|(_, name, _)| name).join(", ");
        let found = RIVALS.iter().find(|(_, name, _)| *name == text);
        found
            .map(|(rival, ..)| *rival)
            .ok_or_else(|| Failure::new(format!("no switch called {text}: say {names}")))
    }
}

/// What the command line asks for.
struct Plan {
    rounds: usize,
    seconds: u32,
    rivals: Vec<Rival>,
}

impl Plan {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut number = |what: &str, default: u32| match words.next().map(|word| word.parse()) {
            None => Ok(default),
            Some(Ok(number @ 1..=1000)) => Ok(number),
            Some(_) => fail!("{what} is a number from 1 to 1000: {USAGE}"),
        };
        let (rounds, seconds) = (number("ROUNDS", 3)?, number("SECONDS", 5)?);
        let mut rivals = words.map(|word| word.parse()).collect::<Result<Vec<Rival>>>()?;
        if rivals.is_empty() {
            rivals = vec![Rival::Vsteer, Rival::Ovs, Rival::OvsTso];
        }
        Ok(Plan { rounds: usize::try_from(rounds)?, seconds, rivals })
    }

    /// The switches of a round, in their order there.
    fn order(&self, round: usize) -> Vec<Rival> {
        let mut order = self.rivals.clone();
        if round % 2 == 1 {
            order.reverse();
        }
        order
    }
}

/// What one pair of guests behind one switch showed.
#[derive(Debug, Clone, Copy)]
struct Sample {
    ping_ms: f64,
    there_gbits: f64,
    back_gbits: f64,
    /// Processors that the switch kept busy during both TCP runs.
    cpus: f64,
    /// Whether the switch offered the guests segmentation offload.
    tso: bool,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = COLUMNS.map(|(title, value)| format!("{title} {:.3}", value(self)));
        f.write_str(&values.join(", "))
    }
}

/// A quantity of the table.
type Column = (&'static str, fn(&Sample) -> f64);

const COLUMNS: [Column; 4] = [
    ("TCP vm0 to vm1 Gbit/s", |sample| sample.there_gbits),
    ("TCP vm1 to vm0 Gbit/s", |sample| sample.back_gbits),
    ("round trip ms", |sample| sample.ping_ms),
    ("switch's CPUs", |sample| sample.cpus),
];

/// Samples of each switch, by round.
type Samples = BTreeMap<Rival, Vec<Option<Sample>>>;

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("error: failed runs: {failed}; the table is not whole");
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; the number of runs that failed.
fn run() -> Result<usize> {
    let plan = Plan::read(env::args().skip(1))?;
    Assets::get()?;
    let mut samples = Samples::new();
    for round in 0..plan.rounds {
        for rival in plan.order(round) {
            let sample = measure(rival, plan.seconds);
            match &sample {
                Ok(sample) => eprintln!("round {} {}: {sample}", round + 1, rival.name()),
                Err(failure) => eprintln!("round {} {}: failed: {failure}", round + 1, rival.name()),
            }
            samples.entry(rival).or_default().push(sample.ok());
        }
    }
    print(&plan, &samples)?;
    Ok(samples.values().flatten().filter(|sample| sample.is_none()).count())
}

/// A switch with two vhost-user ports that connect to sockets of QEMU.
#[derive(Debug)]
enum Running {
    Vsteer(Switch),
    Ovs(Ovs),
    Testpmd(Testpmd),
}

impl Running {
    fn start(rival: Rival, sockets: [&Path; 2], folder: &Path, host: &Namespace) -> Result<Self> {
        let vsteer = |options: &[&str]| {
            let port =
                |(n, socket): (usize, &&Path)| format!("vm{n}=vhost-user:{},mode=client", socket.display());
            let ports: Vec<String> = sockets.iter().enumerate().map(port).collect();
            Switch::start_with(options, &ports, folder, host).map(Running::Vsteer)
        };
        match rival {
            Rival::Vsteer => vsteer(&["--poll", "adaptive"]),
            Rival::VsteerBusy => vsteer(&["--poll", "busy", "--workers", &PMD_CPU.to_string()]),
            Rival::Ovs => Ovs::start(sockets, false, folder, host).map(Running::Ovs),
            Rival::OvsTso => Ovs::start(sockets, true, folder, host).map(Running::Ovs),
            Rival::Testpmd => Testpmd::back_end(sockets, true, folder).map(Running::Testpmd),
        }
    }

    fn process(&mut self) -> &mut Process {
        match self {
            Running::Vsteer(switch) => switch.process(),
            Running::Ovs(ovs) => ovs.process(),
            Running::Testpmd(testpmd) => testpmd.process(),
        }
    }

    fn diagnosis(&mut self) -> String {
        match self {
            Running::Vsteer(switch) => switch.diagnosis(),
            Running::Ovs(ovs) => ovs.diagnosis(),
            Running::Testpmd(testpmd) => guest::last_lines(&testpmd.process().output()),
        }
    }
}

fn measure(rival: Rival, seconds: u32) -> Result<Sample> {
    let folder = tempfile::Builder::new().prefix("rivals").tempdir()?;
    let host = Namespace::new()?;
    let sockets = ["vm0", "vm1"].map(|name| folder.path().join(format!("{name}.sock")));
    let mut switch = Running::start(rival, [&sockets[0], &sockets[1]], folder.path(), &host)?;
    let boot = |n: usize| {
        let nic = Nic::new(sockets[n].clone()).qemu_listens().address(&format!("10.0.0.{}/24", n + 1));
        Guest::spawn(GuestSpec::new(&format!("vm{n}"), nic), folder.path())
    };
    let mut guests = [boot(0)?, boot(1)?];
    talk(&mut switch, &mut guests, seconds).map_err(|failure| {
        let consoles = guests.iter().map(Guest::diagnosis).collect::<String>();
        Failure::new(format!("{failure}\n{}{consoles}", switch.diagnosis()))
    })
}

fn talk(switch: &mut Running, guests: &mut [Guest; 2], seconds: u32) -> Result<Sample> {
    guests.iter_mut().try_for_each(Guest::wait_ready)?;
    let [vm0, vm1] = guests;
    vm0.wait_reachable("10.0.0.2", Duration::from_secs(20))?;
    let ping = vm0.ping("10.0.0.2", 20, 0.1)?;
    ensure!(ping.lost() == 0, "ping lost packets: {ping}");
    let tso = vm0.run("ethtool -k eth0")?.contains("tcp-segmentation-offload: on");

    vm1.run("iperf3 -s -D")?;
    let (start, cpu) = (Instant::now(), switch.process().cpu_time()?);
    let there = vm0.iperf("10.0.0.2", seconds, "").context("vm0 to vm1")?;
    let back = vm0.iperf("10.0.0.2", seconds, "-R").context("vm1 to vm0")?;
    let cpu = switch.process().cpu_time()? - cpu;
    Ok(Sample {
        ping_ms: ping.average_ms(),
        there_gbits: there.gbits_per_s,
        back_gbits: back.gbits_per_s,
        cpus: cpu.as_secs_f64() / start.elapsed().as_secs_f64(),
        tso,
    })
}

fn print(plan: &Plan, samples: &Samples) -> Result<()> {
    let (accelerator, processors) = (guest::accelerator()?, thread::available_parallelism()?);
    println!(
        "Two guests ({accelerator}) and a switch on {processors} processors; rounds: {}; TCP: {} s each way.",
        plan.rounds, plan.seconds
    );
    println!(
        "Rates and times are those of the guests more than of the switches: only the ratios are a claim.\n"
    );
    for (_, name, what) in RIVALS.iter().filter(|(rival, ..)| plan.rivals.contains(rival)) {
        println!("{name:<12} {what}");
    }

    println!("\n{}", row("median least..greatest", COLUMNS.map(|(title, _)| title.into()), "guest's TSO"));
    for rival in &plan.rivals {
        let cells = COLUMNS.map(|(_, value)| series(samples, *rival, value).to_string());
        println!("{}", row(rival.name(), cells, segmentation(samples, *rival)));
    }
    let Some(own) = plan.rivals.first() else { return Ok(()) };
    let title = format!("{} is ... times", own.name());
    println!("\n{}", row(&title, ["as fast", "as fast", "as quick", ""].map(Into::into), ""));
    for peer in &plan.rivals[1..] {
        println!("{}", row(peer.name(), ratios(samples, *own, *peer), ""));
    }
    println!(
        "(the ratio of medians, and in brackets that of each round; above 1 is better for {})",
        own.name()
    );
    Ok(())
}

/// For each column how much better `own` is than `peer`: more of a rate, less of a time.
fn ratios(samples: &Samples, own: Rival, peer: Rival) -> [String; 4] {
    let ratio = |(_, value): Column, more_is_better: bool| {
        let (own, peer) = (series(samples, own, value), series(samples, peer, value));
        let ratio = if more_is_better { own.over(&peer) } else { peer.over(&own) };
        ratio.map_or("-".into(), |ratio| ratio.to_string())
    };
    let [there, back, ping, _] = COLUMNS;
    [ratio(there, true), ratio(back, true), ratio(ping, false), String::new()]
}

fn series(samples: &Samples, rival: Rival, value: fn(&Sample) -> f64) -> Series {
    samples.get(&rival).into_iter().flatten().map(|sample| sample.as_ref().map(value)).collect()
}

fn segmentation(samples: &Samples, rival: Rival) -> &'static str {
    let seen = samples.get(&rival).into_iter().flatten().flatten().map(|sample| sample.tso);
    match seen.collect::<Vec<_>>()[..] {
        [] => "-",
        ref all if all.iter().all(|tso| *tso) => "on",
        ref all if all.iter().all(|tso| !*tso) => "off",
        _ => "varied",
    }
}

fn row(name: &str, cells: [String; 4], last: &str) -> String {
    let cells: String = cells.iter().map(|cell| format!(" | {cell:<21}")).collect();
    format!("{name:<22}{cells} | {last}").trim_end_matches([' ', '|']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &str) -> Result<Plan> {
        Plan::read(words.split_whitespace().map(Into::into))
    }

    #[test]
    fn order_alternates_between_rounds() {
        let plan = plan("2 4 vsteer ovs testpmd").unwrap();
        assert_eq!((plan.rounds, plan.seconds), (2, 4));
        assert_eq!(plan.order(0), [Rival::Vsteer, Rival::Ovs, Rival::Testpmd]);
        assert_eq!(plan.order(1), [Rival::Testpmd, Rival::Ovs, Rival::Vsteer]);
    }

    #[test]
    fn bad_words_say_what_to_try() {
        for (words, expected) in
            [("0", "ROUNDS"), ("2 x", "SECONDS"), ("2 4 vpp", "vsteer, vsteer-busy, ovs, ovs-tso, testpmd")]
        {
            let failure = plan(words).err().unwrap().to_string();
            assert!(failure.contains(expected), "{words}: {failure}");
        }
    }

    #[test]
    fn shorter_round_trip_is_a_ratio_above_one() {
        let sample = |gbits, ping_ms| {
            vec![Some(Sample { ping_ms, there_gbits: gbits, back_gbits: gbits, cpus: 1.0, tso: true })]
        };
        let samples = Samples::from([(Rival::Vsteer, sample(3.0, 0.5)), (Rival::Ovs, sample(1.0, 2.0))]);
        let ratios = ratios(&samples, Rival::Vsteer, Rival::Ovs);
        assert_eq!(ratios, ["3.00 (3.00)", "3.00 (3.00)", "4.00 (4.00)", ""]);
    }

    #[test]
    fn every_switch_has_its_name() {
        for (rival, name, _) in RIVALS {
            assert_eq!((name.parse::<Rival>().unwrap(), rival.name()), (rival, name));
        }
    }
}
