//! Random rule sets in ovs-ofctl's words.
//!
//! Matches and actions of a rule fit together, since both switches refuse a rule whose action needs what its match does
//! not promise; what they refuse is tested elsewhere. Rules lead to later tables only, so that every packet comes to an
//! end; the rare set with a loop must end in a drop on both sides.
//!
//! No two rules of a table have one priority: which of two equal ones counts is left open by OpenFlow.

use super::packet::{IPV4, IPV6, MACS, PORTS, TOS, TTLS, VLANS};
use super::random::Random;

/// What a rule's match promises of its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Arp,
    Ipv4,
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Ipv6,
    Tcp6,
    Udp6,
    Icmp6,
    Solicitation,
    Advertisement,
}

const KINDS: [Kind; 16] = [
    Kind::Any,
    Kind::Any,
    Kind::Any,
    Kind::Arp,
    Kind::Ipv4,
    Kind::Ipv4,
    Kind::Tcp,
    Kind::Tcp,
    Kind::Udp,
    Kind::Sctp,
    Kind::Icmp,
    Kind::Ipv6,
    Kind::Tcp6,
    Kind::Udp6,
    Kind::Icmp6,
    Kind::Solicitation,
];

impl Kind {
    fn word(self) -> Option<&'static str> {
        match self {
            Kind::Any => None,
            Kind::Arp => Some("arp"),
            Kind::Ipv4 => Some("ip"),
            Kind::Tcp => Some("tcp"),
            Kind::Udp => Some("udp"),
            Kind::Sctp => Some("sctp"),
            Kind::Icmp => Some("icmp"),
            Kind::Ipv6 => Some("ipv6"),
            Kind::Tcp6 => Some("tcp6"),
            Kind::Udp6 => Some("udp6"),
            Kind::Icmp6 => Some("icmp6"),
            Kind::Solicitation => Some("icmp6,icmp_type=135,icmp_code=0"),
            Kind::Advertisement => Some("icmp6,icmp_type=136,icmp_code=0"),
        }
    }

    fn is_ipv4(self) -> bool {
        matches!(self, Kind::Ipv4 | Kind::Tcp | Kind::Udp | Kind::Sctp | Kind::Icmp)
    }

    fn is_ipv6(self) -> bool {
        matches!(self, Kind::Ipv6 | Kind::Tcp6 | Kind::Udp6 | Kind::Icmp6) || self.is_neighbour()
    }

    fn is_neighbour(self) -> bool {
        matches!(self, Kind::Solicitation | Kind::Advertisement)
    }

    /// The names of its ports begin with this.
    fn transport(self) -> Option<&'static str> {
        match self {
            Kind::Tcp | Kind::Tcp6 => Some("tcp"),
            Kind::Udp | Kind::Udp6 => Some("udp"),
            Kind::Sctp => Some("sctp"),
            _ => None,
        }
    }
}

/// Which of OpenFlow's dialects a set is written in; Open vSwitch takes no mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Version 1.0 with Nicira's extensions: `mod_vlan_vid`, `strip_vlan`, `resubmit`.
    Nicira,
    /// Version 1.3: `push_vlan`, action sets, `goto_table`.
    OpenFlow13,
}

/// A set of rules.
#[derive(Debug, Clone)]
pub struct RuleSet {
    /// One rule a line, each with its table.
    pub text: String,
    /// Its dialect.
    pub dialect: Dialect,
}

struct Generator<'a> {
    random: &'a mut Random,
    dialect: Dialect,
    ports: u16,
    tables: u64,
    loops: bool,
}

/// What is known of the packet while the actions of a rule are chosen.
#[derive(Clone, Copy)]
struct Known {
    kind: Kind,
    table: u64,
    tagged: bool,
}

/// A random rule set for a switch with the ports `p1` to `pN`.
pub fn random(random: &mut Random, ports: u16) -> RuleSet {
    let dialect = if random.chance(30) { Dialect::Nicira } else { Dialect::OpenFlow13 };
    let (tables, loops) = (1 + random.below(5), random.chance(3));
    let mut generator = Generator { random, dialect, ports, tables, loops };
    let mut rules = Vec::new();
    for table in 0..tables {
        let count = 3 + generator.random.below(30);
        for priority in 1..=count {
            rules.push(generator.rule(table, priority * 10));
        }
        // Where no rule matches, OpenFlow 1.3 (§5.4) drops the packet with its action set; Open vSwitch carries the set out.
        let may_miss = table == 0 || dialect == Dialect::Nicira;
        if !may_miss || generator.random.chance(60) {
            let actions = generator.default_actions(table);
            rules.push(format!("table={table},priority=0,actions={actions}"));
        }
    }
    RuleSet { text: rules.join("\n") + "\n", dialect }
}

impl Generator<'_> {
    fn rule(&mut self, table: u64, priority: u64) -> String {
        let mut kind = self.random.pick(&KINDS);
        if kind == Kind::Solicitation && self.random.chance(50) {
            kind = Kind::Advertisement;
        }
        let mut words = vec![format!("table={table},priority={priority}")];
        words.extend(kind.word().map(Into::into));
        let tagged = self.link_match(&mut words, table);
        kind = self.network_match(&mut words, kind);
        let actions = self.actions(Known { kind, table, tagged });
        format!("{},actions={actions}", words.join(","))
    }

    /// What a rule without a match does.
    fn default_actions(&mut self, table: u64) -> String {
        match self.random.below(4) {
            0 => "normal".into(),
            1 if table + 1 < self.tables => format!("resubmit(,{})", table + 1),
            2 => "drop".into(),
            _ => "flood".into(),
        }
    }

    /// Adds matches below the network layer; returns whether they promise a tag.
    fn link_match(&mut self, words: &mut Vec<String>, table: u64) -> bool {
        if self.random.chance(20) {
            words.push(format!("in_port={}", self.port()));
        }
        if self.random.chance(20) {
            words.push(format!("dl_src={}", self.mac()));
        }
        if self.random.chance(20) {
            let mask =
                self.random.pick(&["", "/ff:ff:ff:00:00:00", "/01:00:00:00:00:00", "/00:00:00:00:ff:ff"]);
            words.push(format!("dl_dst={}{mask}", self.mac()));
        }
        if table > 0 && self.random.chance(25) {
            let value = self.random.below(4);
            let word = match self.random.below(4) {
                0 => format!("metadata={value:#x}/0x3"),
                1 => format!("reg1={value:#x}"),
                2 => format!("reg0={:#x}/0xf00", value << 8),
                _ => format!("xreg1={value:#x}"),
            };
            words.push(word);
        }
        if !self.random.chance(30) {
            return false;
        }
        let vlan = self.random.pick(&VLANS);
        let (word, tagged) = match self.random.below(5) {
            0 => ("vlan_tci=0x0000/0x1fff".into(), false),
            1 => ("vlan_tci=0x1000/0x1000".into(), true),
            2 => (format!("dl_vlan={vlan},dl_vlan_pcp={}", self.random.below(8)), true),
            3 => (format!("vlan_tci={:#06x}/0x1003", 0x1000 | vlan & 3), true),
            _ => (format!("dl_vlan={vlan}"), true),
        };
        words.push(word);
        tagged
    }

    /// Adds the other matches; returns what they leave of the promise: a later fragment has no ports.
    fn network_match(&mut self, words: &mut Vec<String>, kind: Kind) -> Kind {
        let kind = match self.fragment_match(words, kind) {
            Some("later") if kind.is_ipv4() => Kind::Ipv4,
            Some("later") => Kind::Ipv6,
            _ => kind,
        };
        if kind == Kind::Arp {
            self.arp_match(words);
        }
        if kind.is_ipv4() {
            for name in ["nw_src", "nw_dst"] {
                if self.random.chance(35) {
                    let address = self.random.pick(&IPV4);
                    let mask =
                        self.random.pick(&["", "/8", "/16", "/24", "/31", "/0.0.255.3", "/255.0.0.255"]);
                    words.push(format!("{name}={address}{mask}"));
                }
            }
        }
        if kind.is_ipv6() {
            for name in ["ipv6_src", "ipv6_dst"] {
                if self.random.chance(35) {
                    let address = self.random.pick(&IPV6);
                    let mask = self.random.pick(&["", "/8", "/64", "/127", "/::ffff"]);
                    words.push(format!("{name}={address}{mask}"));
                }
            }
            if self.random.chance(10) {
                words.push("ipv6_label=0x00045/0x000ff".into());
            }
        }
        if kind.is_ipv4() || kind.is_ipv6() {
            self.ip_match(words);
        }
        self.transport_match(words, kind);
        kind
    }

    fn fragment_match(&mut self, words: &mut Vec<String>, kind: Kind) -> Option<&'static str> {
        let plain = kind.is_ipv4() || kind.is_ipv6() && !kind.is_neighbour();
        if !plain || !self.random.chance(10) {
            return None;
        }
        let word = self.random.pick(&["no", "yes", "first", "later", "not_later"]);
        words.push(format!("nw_frag={word}"));
        Some(word)
    }

    fn arp_match(&mut self, words: &mut Vec<String>) {
        if self.random.chance(40) {
            words.push(format!("arp_op={}", 1 + self.random.below(2)));
        }
        for name in ["arp_spa", "arp_tpa"] {
            if self.random.chance(30) {
                words.push(format!(
                    "{name}={}{}",
                    self.random.pick(&IPV4),
                    self.random.pick(&["", "/16", "/24"])
                ));
            }
        }
        for name in ["arp_sha", "arp_tha"] {
            if self.random.chance(15) {
                words.push(format!("{name}={}", self.mac()));
            }
        }
    }

    fn ip_match(&mut self, words: &mut Vec<String>) {
        if self.random.chance(10) {
            let tos = self.random.pick(&TOS);
            let word = match self.random.below(3) {
                0 => format!("nw_tos={}", tos & 0xfc),
                1 => format!("ip_dscp={}", tos >> 2),
                _ => format!("nw_ecn={}", tos & 3),
            };
            words.push(word);
        }
        if self.random.chance(10) {
            words.push(format!("nw_ttl={}", self.random.pick(&TTLS)));
        }
    }

    fn transport_match(&mut self, words: &mut Vec<String>, kind: Kind) {
        if let Some(prefix) = kind.transport() {
            for side in ["src", "dst"] {
                if self.random.chance(35) {
                    let mask = self.random.pick(&["", "", "", "/0xfff0", "/0x8001"]);
                    let port = self.random.pick(&PORTS);
                    words.push(format!("{prefix}_{side}={port:#x}{mask}"));
                }
            }
        }
        match kind {
            Kind::Tcp | Kind::Tcp6 if self.random.chance(20) => {
                let flags = ["+syn-ack", "+ack", "-rst", "+syn+ack", "0x002/0x002"];
                words.push(format!("tcp_flags={}", self.random.pick(&flags)));
            }
            Kind::Icmp if self.random.chance(50) => {
                words.push(format!("icmp_type={}", self.random.pick(&[0, 3, 8])));
                if self.random.chance(50) {
                    words.push(format!("icmp_code={}", self.random.below(2)));
                }
            }
            Kind::Icmp6 if self.random.chance(50) => {
                words.push(format!("icmp_type={}", 128 + self.random.below(2)));
            }
            Kind::Solicitation | Kind::Advertisement => {
                if self.random.chance(40) {
                    words.push(format!(
                        "nd_target={}{}",
                        self.random.pick(&IPV6),
                        self.random.pick(&["", "/64"])
                    ));
                }
                if self.random.chance(20) {
                    let name = if kind == Kind::Solicitation { "nd_sll" } else { "nd_tll" };
                    words.push(format!("{name}={}", self.mac()));
                }
            }
            _ => {}
        }
    }

    fn actions(&mut self, mut known: Known) -> String {
        if self.random.chance(8) {
            return "drop".into();
        }
        let mut steps: Vec<String> = Vec::new();
        let count = 1 + self.random.below(6);
        for _ in 0..count {
            let step = self.step(&mut known);
            steps.push(step);
        }
        let ended = self.random.chance(80);
        if ended {
            let output = self.output();
            steps.push(output);
        }
        if self.dialect == Dialect::OpenFlow13 {
            self.instructions(&mut steps, known);
        } else if !ended {
            steps.extend(self.onward(known.table));
        }
        // Every step may have found nothing to do.
        if steps.is_empty() {
            return "drop".into();
        }
        steps.join(",")
    }

    /// What follows the list of actions, in the order that OpenFlow demands.
    fn instructions(&mut self, steps: &mut Vec<String>, mut known: Known) {
        if self.random.chance(5) {
            steps.push("clear_actions".into());
        }
        if self.random.chance(30) {
            let mut set = Vec::new();
            // The set holds one action of a kind, and may not look the packet up again.
            for _ in 0..self.random.below(3) {
                let step = self.rewrite(&mut known);
                set.push(step);
            }
            if self.random.chance(80) {
                set.push(format!("output:{}", self.port()));
            }
            if !set.is_empty() {
                steps.push(format!("write_actions({})", set.join(",")));
            }
        }
        if self.random.chance(20) {
            steps.push(format!(
                "write_metadata:{:#x}/{:#x}",
                self.random.below(4),
                self.random.pick(&[3, 0xff])
            ));
        }
        if known.table + 1 < self.tables && self.random.chance(35) {
            let later = self.later(known.table);
            steps.push(format!("goto_table:{later}"));
        }
    }

    /// One action of a list.
    fn step(&mut self, known: &mut Known) -> String {
        match self.random.below(10) {
            0..2 => self.output(),
            2 => self.onward(known.table).unwrap_or_else(|| self.output()),
            3 => self.register(),
            _ => self.rewrite(known),
        }
    }

    fn output(&mut self) -> String {
        match self.random.below(24) {
            0 => "in_port".into(),
            1 => "flood".into(),
            2 => "all".into(),
            3 => "local".into(),
            4 => "normal".into(),
            5 => "controller".into(),
            6 => {
                let port = 1 + self.random.below(self.ports.into());
                format!("load:{port}->NXM_NX_REG2[0..15],output:NXM_NX_REG2[0..15]")
            }
            _ => format!("output:{}", self.port()),
        }
    }

    /// A look into another table, where there is one.
    fn onward(&mut self, table: u64) -> Option<String> {
        if self.loops && self.random.chance(10) {
            return Some(format!("resubmit(,{table})"));
        }
        (table + 1 < self.tables).then(|| {
            let later = self.later(table);
            if self.random.chance(15) {
                format!("resubmit({},{later})", self.port())
            } else {
                format!("resubmit(,{later})")
            }
        })
    }

    fn register(&mut self) -> String {
        let value = self.random.below(4);
        match self.random.below(8) {
            0 => format!("load:{value:#x}->NXM_NX_REG0[8..11]"),
            1 => format!("set_field:{value:#x}->reg1"),
            2 => format!("set_field:{value:#x}->xreg1"),
            3 => format!("set_field:{value:#x}/0x3->metadata"),
            4 => "move:NXM_OF_ETH_SRC[0..1]->NXM_NX_REG1[0..1]".into(),
            5 => "move:NXM_NX_REG1[]->NXM_NX_REG0[]".into(),
            6 => "move:NXM_OF_VLAN_TCI[0..11]->NXM_NX_REG1[0..11]".into(),
            _ => format!("load:{}->NXM_NX_REG2[0..15]", 1 + self.random.below(self.ports.into())),
        }
    }

    /// A change of the packet.
    fn rewrite(&mut self, known: &mut Known) -> String {
        if self.random.chance(30) {
            return self.tag(known);
        }
        if self.random.chance(30) || matches!(known.kind, Kind::Any) {
            return match self.random.below(5) {
                0 => format!("mod_dl_src:{}", self.station()),
                1 => format!("mod_dl_dst:{}", self.mac()),
                2 => format!("set_field:{}->eth_src", self.station()),
                3 => "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]".into(),
                _ => self.masked(
                    "set_field:00:00:00:00:00:77/00:00:00:00:00:ff->eth_dst",
                    "load:0x77->NXM_OF_ETH_DST[0..7]",
                ),
            };
        }
        match known.kind {
            Kind::Any => "mod_dl_dst:02:00:00:00:00:01".into(),
            Kind::Arp => self.rewrite_arp(),
            kind if kind.transport().is_some() && self.random.chance(40) => self.rewrite_ports(kind),
            Kind::Icmp if self.random.chance(40) => {
                self.random.pick(&["set_field:0->icmp_type", "set_field:1->icmp_code"]).into()
            }
            Kind::Solicitation if self.random.chance(50) => self
                .random
                .pick(&["set_field:fd00::9->nd_target", "set_field:02:00:00:00:00:aa->nd_sll"])
                .into(),
            Kind::Advertisement if self.random.chance(50) => self
                .random
                .pick(&["set_field:fd00::9->nd_target", "set_field:02:00:00:00:00:bb->nd_tll"])
                .into(),
            kind => self.rewrite_ip(kind),
        }
    }

    fn tag(&mut self, known: &mut Known) -> String {
        let vlan = self.random.pick(&VLANS);
        let choice = self.random.below(4);
        match (self.dialect, known.tagged) {
            (Dialect::OpenFlow13, true) => match choice {
                0 => {
                    // Another tag may or may not lie behind it.
                    known.tagged = false;
                    "pop_vlan".into()
                }
                1 => format!("set_field:{}->vlan_pcp", self.random.below(8)),
                2 => format!("set_field:{:#x}/0x3->vlan_vid", vlan & 3),
                _ => format!("set_field:{}->vlan_vid", 4096 + vlan),
            },
            (Dialect::OpenFlow13, false) => {
                known.tagged = true;
                // The priority too: Open vSwitch begins with 0, OpenFlow with that of the tag behind.
                format!("push_vlan:0x8100,set_field:{}->vlan_vid,set_field:{choice}->vlan_pcp", 4096 + vlan)
            }
            (Dialect::Nicira, _) => match choice {
                0 => {
                    known.tagged = false;
                    "strip_vlan".into()
                }
                1 => {
                    // Never a tag of VLAN 0: NORMAL takes it off in Open vSwitch (`priority-tags`) and leaves it in vsteer,
                    // and OpenFlow leaves NORMAL to the switch.
                    known.tagged = true;
                    format!("mod_vlan_vid:{vlan},mod_vlan_pcp:{}", self.random.below(8))
                }
                2 => {
                    known.tagged = true;
                    format!("load:{:#x}->NXM_OF_VLAN_TCI[]", 0x1000 | vlan)
                }
                _ => {
                    known.tagged = true;
                    format!("mod_vlan_vid:{vlan}")
                }
            },
        }
    }

    fn rewrite_arp(&mut self) -> String {
        match self.random.below(5) {
            0 => "set_field:2->arp_op".into(),
            1 => format!("set_field:{}->arp_spa", self.random.pick(&IPV4)),
            2 => format!("set_field:{}->arp_sha", self.mac()),
            3 => "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[]".into(),
            _ => "move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[]".into(),
        }
    }

    fn rewrite_ports(&mut self, kind: Kind) -> String {
        let (name, port) = (kind.transport().unwrap_or_default(), self.random.pick(&PORTS));
        match self.random.below(4) {
            0 => format!("mod_tp_src:{port}"),
            1 => format!("set_field:{port}->{name}_dst"),
            2 if self.dialect == Dialect::Nicira => format!("mod_tp_dst:{port}"),
            2 => format!("set_field:0x8000/0xf000->{name}_src"),
            _ => {
                let name = name.to_uppercase();
                match name.as_str() {
                    "SCTP" => format!("mod_tp_dst:{port}"),
                    _ => format!("move:NXM_OF_{name}_SRC[]->NXM_OF_{name}_DST[]"),
                }
            }
        }
    }

    fn rewrite_ip(&mut self, kind: Kind) -> String {
        match self.random.below(7) {
            0 => "dec_ttl".into(),
            1 => format!("mod_nw_tos:{}", self.random.pick(&TOS) & 0xfc),
            2 => format!("set_field:{}->nw_ecn", self.random.below(4)),
            3 => format!("set_field:{}->nw_ttl", self.random.pick(&[2, 64])),
            4 if kind.is_ipv6() => "move:NXM_NX_IPV6_SRC[0..63]->NXM_NX_IPV6_DST[64..127]".into(),
            5 if kind.is_ipv6() => {
                self.random.pick(&["set_field:0x00011->ipv6_label", "set_field:::77/::ffff->ipv6_dst"]).into()
            }
            _ if kind.is_ipv6() => format!("set_field:{}->ipv6_src", self.random.pick(&IPV6)),
            4 => "move:NXM_OF_IP_SRC[]->NXM_OF_IP_DST[]".into(),
            5 => self.masked("set_field:0.0.7.0/0.0.255.0->nw_dst", "load:0x7->NXM_OF_IP_DST[8..15]"),
            _ => format!("mod_nw_src:{}", self.random.pick(&IPV4)),
        }
    }

    /// A change of some bits of a field. The messages of OpenFlow 1.0 have no mask, and ovs-ofctl would silently write all
    /// bits; there it is Nicira's extension that does it.
    fn masked(&self, standard: &str, nicira: &str) -> String {
        match self.dialect {
            Dialect::Nicira => nicira.into(),
            Dialect::OpenFlow13 => standard.into(),
        }
    }

    fn port(&mut self) -> String {
        format!("p{}", 1 + self.random.below(self.ports.into()))
    }

    /// An address that is no group's: a bridge does not forward for such a source (IEEE 802.3 §3.2.3), while Open vSwitch
    /// does, and OpenFlow leaves NORMAL to the switch.
    fn station(&mut self) -> &'static str {
        self.random.pick(&MACS[..4])
    }

    fn mac(&mut self) -> &'static str {
        self.random.pick(&MACS)
    }

    /// A table after `table`; there is one.
    fn later(&mut self, table: u64) -> u64 {
        table + 1 + self.random.below(self.tables - table - 1)
    }
}
