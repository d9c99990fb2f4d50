//! vsteer beside Open vSwitch: random rules, random packets, the same verdict. Packets are described by their fields, or are
//! frames as bytes, right and wrong ones, of which both must also say that they read the same.
//!
//! `VSTEER_OFPROTO_SETS` says how many rule sets are compared (default 20 for fields and 200 for frames, the full run is 200)
//! and `VSTEER_OFPROTO_SEED` which (default 1); each set meets 50 packets. A difference is printed with both traces.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write;
use std::time::Instant;

use vsteer_qemu_tests::failure::{Context, Result};
use vsteer_qemu_tests::namespace::Namespace;
use vsteer_qemu_tests::ofproto::effect::{Departure, Verdict};
use vsteer_qemu_tests::ofproto::frame::{self, Frame, Oddity};
use vsteer_qemu_tests::ofproto::packet::{self, Headers, Packet};
use vsteer_qemu_tests::ofproto::peer::{FrameTrace, Peer, Trace};
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
    let mut peer = Peer::start(peer_folder.path(), PORTS, 2)?;
    let mut subject = Subject::start(folder.path(), PORTS, 2, &namespace)?;
    peer.set_fragments("nx-match")?;
    subject.set_fragments("nx-match")?;

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

#[test]
fn both_switches_read_every_frame_alike_and_give_it_the_same_verdict() -> Result<()> {
    let sets = number("VSTEER_OFPROTO_SETS", 200)?;
    let seed = number("VSTEER_OFPROTO_SEED", 1)?;
    let (peer_folder, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let namespace = Namespace::new()?;
    // One tag is what both read unless they are told otherwise.
    let mut peer = Peer::start(peer_folder.path(), PORTS, 1)?;
    let mut subject = Subject::start(folder.path(), PORTS, 1, &namespace)?;

    let start = Instant::now();
    let mut tally = FrameTally::default();
    for set in 0..sets {
        let mut random = Random::new(seed.wrapping_mul(1_000_033).wrapping_add(set));
        let rules = rules::random(&mut random, PORTS);
        let fragments = random.pick(&["normal", "normal", "nx-match", "drop"]);
        peer.set_fragments(fragments)?;
        subject.set_fragments(fragments)?;
        peer.replace(&rules).context(format!("set {set}, Open vSwitch"))?;
        subject.replace(&rules).context(format!("set {set}, vsteer"))?;
        for _ in 0..PACKETS {
            let frame = frame::random(&mut random, PORTS);
            let expected = peer.trace_frame(&frame).context(format!("set {set}, Open vSwitch"))?;
            let found = subject.trace_frame(&frame).context(format!("set {set}, vsteer"))?;
            tally.add(&format!("set {set}, fragments {fragments}"), &frame, &expected, &found);
        }
    }
    let FrameTally { frames, forwarded, odd, unwritten, third_tags, expired, different } = &tally;
    println!(
        "ofproto: {sets} rule sets, {frames} frames in {:.1} s: {forwarded} forwarded, {different} different",
        start.elapsed().as_secs_f64()
    );
    println!(
        "ofproto: different as documented: {odd:?}; {unwritten} malformed ones that Open vSwitch does not rewrite, {third_tags} \
         with a third tag, {expired} rejected for their time to live"
    );
    ensure!(*forwarded * 4 > *frames, "most frames are dropped; the rules compare nothing");
    ensure!(*different == 0, "{different} of {frames} frames are read or treated differently");
    Ok(())
}

/// What was compared.
#[derive(Default)]
struct FrameTally {
    frames: usize,
    forwarded: usize,
    /// Frames that receivers read in a way of which Open vSwitch's rules see nothing, and README lists.
    odd: BTreeMap<Oddity, usize>,
    unwritten: usize,
    third_tags: usize,
    expired: usize,
    different: usize,
}

impl FrameTally {
    fn add(&mut self, set: &str, frame: &Frame, expected: &FrameTrace, found: &FrameTrace) {
        self.frames += 1;
        self.forwarded += usize::from(!expected.trace.verdict.is_empty());
        let is_same = expected.trace.verdict == found.trace.verdict;
        if expected.headers == found.headers && is_same {
            return;
        }
        // NORMAL of Open vSwitch drops a frame that ends within its tag.
        if let Some(oddity) =
            frame.oddity.filter(|oddity| expected.headers != found.headers || *oddity == Oddity::CutTag)
        {
            *self.odd.entry(oddity).or_default() += 1;
            return;
        }
        if expected.headers == found.headers {
            if tags_pushed(expected.headers.tags.len(), &expected.trace) > 2 {
                self.third_tags += 1;
                return;
            }
            if expires_before_the_action_set(&expected.trace) {
                self.expired += 1;
                return;
            }
            if is_of_no_protocol(&expected.headers)
                && unwritten(&expected.trace.verdict) == unwritten(&found.trace.verdict)
            {
                self.unwritten += 1;
                return;
            }
        }
        self.different += 1;
        if self.different > SHOWN {
            return;
        }
        println!("=== {set}: in_port=p{} {} {:?}", frame.in_port, frame.hex(), frame.oddity);
        if expected.headers != found.headers {
            println!("--- Open vSwitch reads {}\n--- vsteer reads {}", expected.headers, found.headers);
        }
        println!("--- only Open vSwitch:\n{}", beyond(&expected.trace.verdict, &found.trace.verdict));
        println!("--- only vsteer:\n{}", beyond(&found.trace.verdict, &expected.trace.verdict));
        println!("--- Open vSwitch\n{}\n--- vsteer\n{}", expected.trace.text, found.trace.text);
    }
}

/// A packet whose network header is malformed, or whose ARP is of other addresses, has protocol 0. Of such a packet Open vSwitch
/// rewrites nothing above Ethernet; vsteer drops it where a rule would rewrite what it does not have (`cannot_rewrite`).
fn is_of_no_protocol(headers: &Headers) -> bool {
    ["nw_proto", "arp_op"].iter().any(|name| headers.fields.get(name) == Some(&0))
}

/// Packets that leave, without what stands above Ethernet.
fn unwritten(verdict: &Verdict) -> Verdict {
    let bare = |headers: &Headers| {
        let fields = headers.fields.iter().filter(|(name, _)| name.starts_with("eth_"));
        Headers { tags: headers.tags.clone(), fields: fields.map(|(name, value)| (*name, *value)).collect() }
    };
    let mut verdict: Verdict = verdict
        .iter()
        .map(|departure| match departure {
            Departure::Port(port, headers) => Departure::Port(port.clone(), bare(headers)),
            Departure::Controller(headers) => Departure::Controller(bare(headers)),
        })
        .collect();
    verdict.sort();
    verdict
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
        if tags_pushed(packet.headers.tags.len(), expected) > 2 {
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

/// The most tags that a packet of `tags` tags has on its way.
///
/// Open vSwitch forgets the innermost tag when a third one is pushed (`FLOW_MAX_VLAN_HEADERS`); OpenFlow knows no limit.
/// The third one may be gone again when the packet leaves, so the steps of the trace are counted.
fn tags_pushed(mut tags: usize, trace: &Trace) -> usize {
    let counts = trace.text.lines().map(|line| {
        match line.trim() {
            step if step.starts_with("push_vlan:") => tags += 1,
            "pop_vlan" => tags = tags.saturating_sub(1),
            _ => {}
        }
        tags
    });
    counts.max().unwrap_or_default()
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
