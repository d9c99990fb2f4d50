//! vsteer beside Open vSwitch: random rules, random packets, the same verdict.
//!
//! `VSTEER_OFPROTO_SETS` says how many rule sets are compared (default 20, the full run is 200) and
//! `VSTEER_OFPROTO_SEED` which (default 1); each set meets 50 packets. A difference is printed with both traces.

use std::env;
use std::fmt::Write;
use std::time::Instant;

use vsteer_qemu_tests::failure::{Context, Result};
use vsteer_qemu_tests::namespace::Namespace;
use vsteer_qemu_tests::ofproto::effect::Verdict;
use vsteer_qemu_tests::ofproto::packet::{self, Packet};
use vsteer_qemu_tests::ofproto::peer::{Peer, Trace};
use vsteer_qemu_tests::ofproto::random::Random;
use vsteer_qemu_tests::ofproto::rules::{self, RuleSet};
use vsteer_qemu_tests::ofproto::subject::Subject;
use vsteer_qemu_tests::{ensure, fail};

const PORTS: u16 = 5;
const PACKETS: u32 = 50;

/// Differences that are printed in full; all are counted.
const SHOWN: usize = 10;

#[test]
fn both_switches_give_every_packet_the_same_verdict() -> Result<()> {
    let sets = number("VSTEER_OFPROTO_SETS", 20)?;
    let seed = number("VSTEER_OFPROTO_SEED", 1)?;
    let (peer_folder, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let namespace = Namespace::new()?;
    let mut peer = Peer::start(peer_folder.path(), PORTS)?;
    let mut subject = Subject::start(folder.path(), PORTS, &namespace)?;

    let start = Instant::now();
    let mut tally = Tally::default();
    for set in 0..sets {
        // Each set by its own seed, so that one can be run alone.
        let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(set));
        let rules = rules::random(&mut random, PORTS);
        peer.replace(&rules).context(format!("set {set}, Open vSwitch"))?;
        subject.replace(&rules).context(format!("set {set}, vsteer"))?;
        for _ in 0..PACKETS {
            let packet = packet::random(&mut random, PORTS);
            let expected = peer.trace(&packet).context(format!("set {set}, Open vSwitch"))?;
            let found = subject.trace(&packet).context(format!("set {set}, vsteer"))?;
            tally.add(set, &rules, &packet, &expected, &found);
        }
    }
    println!(
        "ofproto: {sets} rule sets, {} packets in {:.1} s: {} forwarded, {} dropped, {} different",
        tally.packets,
        start.elapsed().as_secs_f64(),
        tally.forwarded,
        tally.packets - tally.forwarded,
        tally.different
    );
    println!(
        "ofproto: different by OpenFlow's leave: {} with a third tag, {} rejected for their time to live",
        tally.third_tags, tally.expired
    );
    // A generator whose rules all packets miss would agree, too.
    ensure!(tally.forwarded * 2 > tally.packets, "most packets are dropped; the rules compare nothing");
    ensure!(tally.different == 0, "{} of {} verdicts differ", tally.different, tally.packets);
    Ok(())
}

#[derive(Default)]
struct Tally {
    packets: usize,
    forwarded: usize,
    third_tags: usize,
    expired: usize,
    different: usize,
}

impl Tally {
    fn add(&mut self, set: u64, rules: &RuleSet, packet: &Packet, expected: &Trace, found: &Trace) {
        self.packets += 1;
        self.forwarded += usize::from(!expected.verdict.is_empty());
        if expected.verdict == found.verdict {
            return;
        }
        if pushes_a_third_tag(packet, expected) {
            self.third_tags += 1;
            return;
        }
        if expires_before_the_action_set(expected) {
            self.expired += 1;
            return;
        }
        self.different += 1;
        if self.different > SHOWN {
            return;
        }
        println!("=== set {set} ({:?}): in_port=p{},{}", rules.dialect, packet.in_port, packet.text);
        println!("--- only Open vSwitch:\n{}", beyond(&expected.verdict, &found.verdict));
        println!("--- only vsteer:\n{}", beyond(&found.verdict, &expected.verdict));
        println!("--- Open vSwitch\n{}\n--- vsteer\n{}", expected.text, found.text);
    }
}

/// Open vSwitch forgets the innermost tag when a third one is pushed (`FLOW_MAX_VLAN_HEADERS`); OpenFlow knows no limit.
/// The third one may be gone again when the packet leaves, so the steps of the trace are counted.
fn pushes_a_third_tag(packet: &Packet, trace: &Trace) -> bool {
    let mut tags = packet.headers.tags.len();
    trace.text.lines().any(|line| {
        match line.trim() {
            step if step.starts_with("push_vlan:") => tags += 1,
            "pop_vlan" => tags = tags.saturating_sub(1),
            _ => {}
        }
        tags > 2
    })
}

/// A packet whose time to live runs out is rejected (OpenFlow 1.3.5 §5.12); Open vSwitch ends the rule, but carries out
/// the action set all the same.
fn expires_before_the_action_set(trace: &Trace) -> bool {
    trace.text.contains("decrement TTL exception") && trace.text.contains("Executing action set")
}

/// What is in `these` more often than in `those`, one a line.
fn beyond(these: &Verdict, those: &Verdict) -> String {
    let mut rest = those.clone();
    these.iter().fold(String::new(), |mut text, departure| {
        match rest.iter().position(|other| other == departure) {
            Some(at) => drop(rest.remove(at)),
            // Writing to a string cannot fail.
            None => drop(writeln!(text, "  {departure}")),
        }
        text
    })
}

fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => match text.parse() {
            Ok(number) => Ok(number),
            Err(_) => fail!("{variable}={text}: give a number"),
        },
        Err(_) => Ok(default),
    }
}
