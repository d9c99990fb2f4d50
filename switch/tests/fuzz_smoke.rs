//! Short, repeatable passes of the `extract` and `rules` fuzz targets, for machines without a fuzzer.

use std::collections::HashMap;

#[path = "../../fuzz/src/extract.rs"]
mod extract;

#[path = "../../fuzz/src/translate.rs"]
mod translate;

#[path = "../../fuzz/src/rules.rs"]
mod rules;

use extract::Outcome;

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    /// Control bytes at random, with offloads often as a guest's stack gives them; then a frame that is its template
    /// but for a few bytes.
    fn input(&mut self) -> Vec<u8> {
        let len = match self.below(4) {
            0 => self.below(80),
            1 | 2 => self.below(600),
            _ => self.below(9000),
        };
        let mut input: Vec<u8> = (0..18).map(|_| self.byte()).collect();
        let kind = self.below(4);
        if kind == 2 {
            // Datagrams to be cut, without tags.
            (input[0], input[8], input[9], input[10]) = (1, 2, 34, 6);
            input[13] |= 3;
            input[15] %= 6;
        } else if kind < 2 {
            // TCP without tags to an IP version that often fits, and the checksum where it belongs.
            let v6 = self.below(2) == 1;
            input[0] = if v6 { 3 } else { 2 };
            input[8] = 2;
            (input[9], input[10]) = (if v6 { 54 } else { 34 }, 16);
            input[15] %= 6;
        }
        input.resize(18 + usize::try_from(len).expect("a short frame"), 0);
        for _ in 0..self.below(4) {
            let at = 18 + usize::try_from(self.below(80)).expect("a short frame");
            if let Some(byte) = input.get_mut(at) {
                *byte = self.next().to_le_bytes()[0];
            }
        }
        input
    }
}

#[test]
fn random_inputs_keep_every_promise_and_reach_every_outcome() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut outcomes: HashMap<Outcome, usize> = HashMap::new();
    for _ in 0..20_000 {
        *outcomes.entry(extract::run(&random.input())).or_default() += 1;
    }
    use vsteer_switch::drop_reason::DropReason::{BadOffload, TooLong};
    for outcome in [
        Outcome::Passed,
        Outcome::Completed,
        Outcome::Segmented,
        Outcome::Refused(BadOffload),
        Outcome::Refused(TooLong),
    ] {
        assert!(outcomes.get(&outcome).is_some_and(|&count| count > 20), "{outcome:?} in {outcomes:?}");
    }
    assert_eq!(extract::run(&[0; 17]), Outcome::NoFrame);
}

/// Pieces of conditions and of actions that fit together now and then.
const CONDITIONS: [&str; 40] = [
    "table=1",
    "priority=7",
    "cookie=0x5",
    "cookie=1/3",
    "idle_timeout=10",
    "out_port=vm1",
    "in_port=vm0",
    "in_port=\"17\"",
    "ip",
    "ipv6",
    "tcp",
    "tcp6",
    "udp",
    "icmp",
    "icmp6",
    "arp",
    "dl_vlan=10",
    "dl_vlan_pcp=3",
    "vlan_tci=0x1000/0x1000",
    "inner_vlan_vid=20",
    "dl_src=02:00:00:00:00:01",
    "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00",
    "nw_src=10.0.0.0/8",
    "nw_dst=10.0.0.1/255.0.0.255",
    "ipv6_dst=fd00::/64",
    "nw_tos=184",
    "nw_ecn=1",
    "nw_ttl=64",
    "nw_frag=not_later",
    "tp_src=0x50/0xfff0",
    "tp_dst=22",
    "tcp_flags=+syn-ack",
    "icmp_type=135",
    "nd_target=fe80::1",
    "metadata=0x5/0x7",
    "reg0=1",
    "xreg1=2",
    "xxreg3=3",
    "dl_type=0x88cc",
    "nw_proto=89",
];
const ACTIONS: [&str; 32] = [
    "drop",
    "vm1",
    "\"all\"",
    "normal",
    "flood",
    "in_port",
    "output:reg0[0..15]",
    "output:\"reg0\"",
    "controller",
    "controller(max_len=100,id=3)",
    "push_vlan:0x88a8",
    "pop_vlan",
    "mod_vlan_vid:5",
    "mod_vlan_pcp:2",
    "set_vlan_vid:6",
    "mod_dl_src:02:00:00:00:00:01",
    "mod_nw_src:10.0.0.9",
    "mod_nw_tos:4",
    "mod_tp_dst:80",
    "set_field:fd00::2->ipv6_src",
    "set_field:0x1/0x3->reg1",
    "load:5->reg2[4..7]",
    "move:eth_src[]->eth_dst[]",
    "move:reg0[0..7]->reg1[8..15]",
    "dec_ttl",
    "resubmit:vm1",
    "resubmit(,4)",
    "apply_actions(vm0,dec_ttl)",
    "clear_actions",
    "write_actions(set_field:1->reg0,vm0)",
    "write_metadata:5/7",
    "goto_table:9",
];

impl Random {
    fn pieces(&mut self, pieces: &[&str], text: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            let at = usize::try_from(self.below(pieces.len() as u64)).expect("a short list");
            text.extend(pieces[at].as_bytes());
            text.push(if self.below(30) == 0 { b' ' } else { b',' });
        }
    }

    /// A few lines of conditions and actions, now and then with a wrong byte.
    fn rules(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        for line in 0..=self.below(3) {
            if line > 0 {
                text.push(b'\n');
            }
            self.pieces(&CONDITIONS, &mut text);
            if self.below(4) > 0 {
                text.extend(b"actions=");
                self.pieces(&ACTIONS, &mut text);
            }
        }
        let len = text.len() as u64;
        if self.below(3) == 0 && len > 0 {
            let at = usize::try_from(self.below(len)).expect("a short text");
            text[at] = if self.below(2) == 0 { self.byte() } else { b"()[]\"=:/,->."[at % 12] };
        }
        text
    }
}

#[test]
fn random_texts_are_read_as_everything_that_text_can_be() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut counts = [0; 6];
    for _ in 0..20_000 {
        let read = rules::run(&random.rules());
        let kinds =
            [read.rule, read.rules > 0, read.rules > 1, read.modification, read.selector, read.packet];
        for (count, is) in counts.iter_mut().zip(kinds) {
            *count += usize::from(is);
        }
    }
    assert!(counts.iter().all(|&count| count > 20), "{counts:?}");
}

/// Frames that rules have something to change in.
const FRAMES: [&[u8]; 4] = [
    // UDP over IPv4 in VLAN 10.
    &[
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0x60, 10, 8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0,
        0, 10, 0, 0, 1, 10, 0, 0, 2, 4, 0xd2, 0, 53, 0, 12, 1, 2, 0, 0, 0, 0,
    ],
    // SCTP over IPv4.
    &[
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 36, 0, 0, 0, 0, 64, 132, 0, 0, 10, 0, 0, 1, 10,
        0, 0, 2, 0, 80, 0, 81, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0,
    ],
    // An ARP request.
    &[
        255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10,
        0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
    ],
    // A neighbour solicitation.
    &[
        0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255, 0xfd, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 135, 0, 1, 2,
        0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 1, 2, 0, 0, 0, 0, 1,
    ],
];

impl Random {
    /// A few rules, often without a condition, and a frame, often unharmed.
    fn rules_and_frame(&mut self) -> Vec<u8> {
        let rules = self.below(8);
        let mut input = vec![u8::try_from(rules).expect("few rules")];
        input.extend((0..rules * 14 + 7).map(|_| self.byte()));
        for rule in 0..usize::try_from(rules).expect("few rules") {
            input[1 + rule * 14] %= 3;
            if self.below(2) == 0 {
                input[1 + rule * 14 + 2] &= !1;
            }
        }
        let at = input.len();
        input.extend(FRAMES[usize::try_from(self.below(4)).expect("four")]);
        if self.below(3) == 0 {
            let len = input.len() - at;
            input[at + usize::try_from(self.below(len as u64)).expect("a short frame")] = self.byte();
            input.truncate(at + 14 + usize::try_from(self.below(len as u64)).expect("a short frame"));
        }
        input
    }
}

#[test]
fn random_rules_and_frames_keep_every_promise_and_reach_every_outcome() {
    use vsteer_switch::drop_reason::DropReason::{NoEgress, NoRule, ResubmitTooDeep, RuleDrop};
    let mut random = Random(0xfeed_5eed_1234_5679);
    let mut outcomes: HashMap<translate::Outcome, usize> = HashMap::new();
    for _ in 0..20_000 {
        *outcomes.entry(translate::run(&random.rules_and_frame())).or_default() += 1;
    }
    let dropped = [NoEgress, NoRule, ResubmitTooDeep, RuleDrop].map(translate::Outcome::Dropped);
    for outcome in [translate::Outcome::Passed, translate::Outcome::Rewritten].into_iter().chain(dropped) {
        assert!(outcomes.get(&outcome).is_some_and(|&count| count > 20), "{outcome:?} in {outcomes:?}");
    }
    assert_eq!(translate::run(&[1; 14]), translate::Outcome::NoFrame);
}
