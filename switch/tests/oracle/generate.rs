//! Random switches, rules and packets. Numbers come from small pools, so that rules overlap and packets meet them.

use vsteer_switch::bridge::config::{PortVlan, SwitchConfig};
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::bridge::mirror::{Mirror, MirroredPorts};
use vsteer_switch::bridge::vlan::{PriorityTags, VlanMode, VlanSet};
use vsteer_switch::port::PortId;
use vsteer_switch::rule::action::{OutputTo, RuleAction, Subfield};
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::fragments::FragmentMode;
use vsteer_switch::rule::matching::Match;
use vsteer_switch::rule::port::RulePort;
use vsteer_switch::wire::vlan::{VlanId, VlanLimit};

use crate::plain::{ARP, ICMP, ICMPV6, IPV4, IPV6, Plain, RARP, SCTP, TCP, Tag, UDP};

/// Ports that there are; some rules name one more.
pub(crate) const PORTS: u16 = 6;
const TABLES: usize = 4;
const SHAPES: usize = 60;
const VLANS: [u16; 5] = [0, 1, 10, 20, 4094];
const MACS: [u64; 6] = [
    0x0200_0000_0001,
    0x0200_0000_0002,
    0x0200_0000_0003,
    0x0200_0000_0103,
    0xffff_ffff_ffff,
    0x0180_c200_0001,
];

/// Marsaglia's xorshift64.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 11).expect("53 bits") % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

fn port(number: u16) -> PortId {
    PortId::new(number).expect("a small number")
}

/// A port as rules number it: one that is there, one that is not, or the local one.
fn rule_port(random: &mut Random) -> RulePort {
    match random.below(8) {
        0 => RulePort::LOCAL,
        _ => port(u16::try_from(random.below(usize::from(PORTS) + 1)).expect("a port")).into(),
    }
}

fn vlan(random: &mut Random) -> VlanId {
    VlanId::new(random.pick(&VLANS)).expect("a VLAN")
}

fn some_ports(random: &mut Random) -> MirroredPorts {
    match random.below(4) {
        0 => MirroredPorts::All,
        count => MirroredPorts::These(
            (0..count - 1).map(|_| port(u16::try_from(random.below(6)).expect("a port"))).collect(),
        ),
    }
}

pub(crate) fn config(random: &mut Random) -> SwitchConfig {
    let ports = (0..PORTS).map(|number| {
        let some_vlans = |random: &mut Random| -> VlanSet { (0..3).map(|_| vlan(random)).collect() };
        let mode = match random.below(7) {
            0 => VlanMode::Access(vlan(random)),
            1 => VlanMode::Trunk(some_vlans(random)),
            2 => VlanMode::Native {
                vlan: vlan(random),
                allowed: some_vlans(random),
                is_tagged: random.one_in(2),
            },
            3 => VlanMode::Tunnel {
                vlan: vlan(random),
                customers: if random.one_in(2) { VlanSet::ALL } else { some_vlans(random) },
                tpid: random.pick(&[0x8100, 0x88a8]),
            },
            _ => VlanMode::default(),
        };
        let priority_tags =
            random.pick(&[PriorityTags::Never, PriorityTags::IfNonzero, PriorityTags::Always]);
        // Nothing is learned, so that every packet meets the same addresses.
        (port(number), PortVlan { mode, priority_tags, mac_limit: 0 })
    });
    let config = SwitchConfig::new(1, ports.collect::<Vec<_>>());
    let mirrors: Vec<_> = (0..random.below(3))
        .map(|nth| Mirror {
            name: format!("m{nth}"),
            sources: some_ports(random),
            destinations: some_ports(random),
            vlans: (0..random.below(3)).map(|_| vlan(random)).collect(),
            output: port(u16::try_from(random.below(6)).expect("a port")),
        })
        .collect();
    config
        .with_mirrors(mirrors)
        .with_local(random.one_in(2).then(|| port(5)))
        .with_vlan_limit(random.pick(&[VlanLimit::One, VlanLimit::Two]))
        .with_fragments(random.pick(&FragmentMode::ALL))
}

pub(crate) fn fdb(random: &mut Random) -> Fdb {
    let fdb = Fdb::new(64);
    for _ in 0..12 {
        let mac: [u8; 8] = random.pick(&MACS[..4]).to_be_bytes();
        let mac = *mac.last_chunk().expect("six bytes");
        let at = port(u16::try_from(random.below(6)).expect("a port"));
        fdb.pin(vlan(random), mac, at, 0);
    }
    fdb
}

/// A value that rules and packets share.
fn value(random: &mut Random, field: Field) -> u128 {
    match field {
        Field::InPort => rule_port(random).number().into(),
        Field::InPortOxm => rule_port(random).number_oxm().into(),
        Field::ActsetOutput => {
            let port = rule_port(random);
            random.pick(&[RulePort::UNSET, port]).number_oxm().into()
        }
        Field::ConjId => random.below(3) as u128,
        Field::FromLocal => 1,
        Field::EthSrc | Field::EthDst | Field::ArpSha | Field::ArpTha | Field::NdSll | Field::NdTll => {
            random.pick(&MACS).into()
        }
        Field::EthType => random.pick(&[IPV4, IPV4, IPV6, ARP, RARP, 0x88b5]).into(),
        Field::VlanTci | Field::InnerVlanTci => {
            let tci = 0x1000 | random.pick(&VLANS) | random.pick(&[0, 0x6000]);
            if random.one_in(3) { 0 } else { tci.into() }
        }
        Field::VlanVid | Field::InnerVlanVid => {
            if random.one_in(3) {
                0
            } else {
                u128::from(0x1000 | random.pick(&VLANS))
            }
        }
        Field::Ipv4Src | Field::Ipv4Dst | Field::ArpSpa | Field::ArpTpa => {
            0x0a00_0000 | (random.below(3) << 16 | random.below(2) << 8 | random.below(4)) as u128
        }
        Field::Ipv6Src | Field::Ipv6Dst | Field::NdTarget => {
            0xfd << 120 | (random.below(3) as u128) << 64 | random.below(4) as u128
        }
        Field::IpProto => random.pick(&[TCP, TCP, UDP, SCTP, ICMP, ICMPV6, 47]).into(),
        Field::IpTtl => random.pick(&[0_u8, 1, 2, 64, 255]).into(),
        Field::IpFrag => random.pick(&[0_u8, 1, 3]).into(),
        Field::TcpSrc
        | Field::TcpDst
        | Field::UdpSrc
        | Field::UdpDst
        | Field::SctpSrc
        | Field::SctpDst
        | Field::TpSrc
        | Field::TpDst => random.pick(&[22_u16, 53, 80, 443, 0x8000]).into(),
        Field::IcmpType | Field::Icmpv6Type => random.pick(&[8_u8, 0, 135, 136, 128]).into(),
        Field::ArpOp => random.pick(&[1_u8, 2]).into(),
        Field::IcmpCode | Field::Icmpv6Code => random.below(2) as u128,
        // Some of them numbers of `TABLE` to `NONE`, for outputs to what a register says.
        Field::Reg(_) if random.one_in(8) => (0xfff9 + random.below(7)) as u128,
        Field::Metadata | Field::Reg(_) | Field::Xreg(_) | Field::Xxreg(_) => random.below(4) as u128,
        Field::VlanPcp
        | Field::InnerVlanPcp
        | Field::Ipv6Label
        | Field::IpTos
        | Field::IpDscp
        | Field::IpEcn
        | Field::TcpFlags => random.wide() & field.full_mask(),
    }
}

/// A mask: all bits, the upper ones, or any.
fn mask(random: &mut Random, field: Field) -> u128 {
    let full = field.full_mask();
    match random.below(6) {
        0 => full & full << random.below(usize::from(field.bits())),
        1 => full & random.wide(),
        _ => full,
    }
}

fn any_field(random: &mut Random) -> Field {
    match random.below(12) {
        0 => Field::Reg(u8::try_from(random.below(3)).expect("a register")),
        1 => random.pick(&[Field::InPort, Field::InPort, Field::FromLocal, Field::ConjId]),
        2 => Field::EthDst,
        3 => Field::Ipv4Dst,
        _ => random.pick(Field::NAMED),
    }
}

/// Rules in at most [`SHAPES`] shapes; no two with one table, priority and match.
pub(crate) fn rules(random: &mut Random, count: usize) -> Vec<RuleSpec> {
    let shapes: Vec<Vec<(Field, u128)>> = (0..SHAPES)
        .map(|_| {
            (0..random.below(5))
                .map(|_| {
                    let field = any_field(random);
                    (field, mask(random, field))
                })
                .collect()
        })
        .collect();
    let mut specs: Vec<RuleSpec> = Vec::new();
    for _ in 0..count {
        let mut matching = Match::ANY;
        for &(field, mask) in &shapes[random.below(SHAPES)] {
            matching.require(field, value(random, field), mask);
        }
        let (table, priority) = place(random);
        let actions = actions(random, table);
        add(&mut specs, table, priority, matching, actions);
    }
    for _ in 0..3 {
        conjunction(random, &mut specs);
    }
    specs
}

/// A table, and a priority in it.
fn place(random: &mut Random) -> (u8, u16) {
    let table = if random.one_in(2) { 0 } else { u8::try_from(random.below(TABLES)).expect("a table") };
    // Not 0: there a rule for every packet would take the place, and the age, of the learning switch's.
    (table, u16::try_from(1 + random.below(12)).expect("a priority"))
}

/// Adds a rule, unless one with its table, priority and match is there.
fn add(specs: &mut Vec<RuleSpec>, table: u8, priority: u16, matching: Match, actions: Box<[RuleAction]>) {
    let is_new =
        !specs.iter().any(|spec| (spec.table, spec.priority, &spec.matching) == (table, priority, &matching));
    if is_new {
        specs.push(RuleSpec {
            table,
            priority,
            cookie: 0,
            idle_timeout_s: 0,
            hard_timeout_s: 0,
            remarks: Default::default(),
            matching,
            actions,
        });
    }
}

/// Adds a conjunction: parts of two or three dimensions, each of a field or two, and most often a rule for what meets it.
fn conjunction(random: &mut Random, specs: &mut Vec<RuleSpec>) {
    let (table, priority) = place(random);
    let id = u32::try_from(1 + random.below(2)).expect("a small number");
    let dimensions = u8::try_from(2 + random.below(2)).expect("a small number");
    for dimension in 0..dimensions {
        for _ in 0..3 {
            let mut matching = Match::ANY;
            for _ in 0..random.below(3) {
                let field = any_field(random);
                matching.require(field, value(random, field), mask(random, field));
            }
            let part = RuleAction::Conjunction { id, dimension, dimensions };
            add(specs, table, priority, matching, Box::new([part]));
        }
    }
    if !random.one_in(4) {
        let mut matching = Match::ANY;
        matching.require(Field::ConjId, id.into(), u128::MAX);
        if random.one_in(3) {
            let field = any_field(random);
            matching.require(field, value(random, field), mask(random, field));
        }
        let (_, priority) = place(random);
        let actions = actions(random, table);
        add(specs, table, priority, matching, actions);
    }
}

/// A field that rules may write and whose new value does not change what the message is.
fn writable(random: &mut Random) -> Field {
    loop {
        let field = any_field(random);
        let field = match random.below(40) {
            0 => Field::TpSrc,
            1 => Field::TpDst,
            2 => Field::InPortOxm,
            _ => field,
        };
        if field.is_writable() && !matches!(field, Field::Icmpv6Type | Field::Icmpv6Code) {
            return field;
        }
    }
}

fn subfield(random: &mut Random, field: Field, bits: u8) -> Subfield {
    let room = usize::from(field.bits() - bits) + 1;
    Subfield { field, offset: u8::try_from(random.below(room)).expect("a bit"), bits }
}

fn output(random: &mut Random) -> RuleAction {
    let any_port = port(u16::try_from(random.below(usize::from(PORTS) + 1)).expect("a port"));
    RuleAction::Output(match random.below(14) {
        0 => OutputTo::Port(RulePort::IN_PORT),
        1..=3 => OutputTo::Port(RulePort::NORMAL),
        4 => OutputTo::Port(RulePort::ALL),
        5 => OutputTo::Port(RulePort::FLOOD),
        6 => OutputTo::Port(RulePort::LOCAL),
        7 => {
            OutputTo::Subfield(Subfield { field: Field::Reg(0), offset: 0, bits: random.pick(&[3, 16, 32]) })
        }
        _ => OutputTo::Port(any_port.into()),
    })
}

/// A step that can be part of an action set, too.
fn change(random: &mut Random) -> RuleAction {
    match random.below(9) {
        0 => RuleAction::PushVlan(random.pick(&[0x8100, 0x88a8])),
        1 => RuleAction::PopVlan,
        2 => RuleAction::ModVlanVid(random.pick(&[1, 10, 20, 4095])),
        3 => RuleAction::ModVlanPcp(u8::try_from(random.below(8)).expect("a priority")),
        4 => RuleAction::DecTtl([].into()),
        5 => {
            let (from, to) = (any_field(random), writable(random));
            let to = if matches!(to, Field::VlanTci | Field::InPort) { Field::Reg(1) } else { to };
            let bits = 1 + random.below(usize::from(from.bits().min(to.bits())));
            let bits = u8::try_from(bits).expect("a width");
            RuleAction::Move { from: subfield(random, from, bits), to: subfield(random, to, bits) }
        }
        _ => {
            let field = writable(random);
            RuleAction::SetField { field, value: value(random, field), mask: mask(random, field) }
        }
    }
}

fn actions(random: &mut Random, table: u8) -> Box<[RuleAction]> {
    let mut steps = Vec::new();
    let later = |random: &mut Random| table + 1 + u8::try_from(random.below(2)).expect("a table");
    if random.one_in(150) {
        // In circles, most likely.
        steps.push(RuleAction::Resubmit { in_port: None, table: Some(0) });
        return steps.into();
    }
    if random.one_in(6) {
        return parts(random);
    }
    for _ in 0..random.below(5) {
        steps.push(match random.below(18) {
            0..=5 => output(random),
            6 => RuleAction::Controller { max_len: 128, id: 1, reason: Default::default() },
            7 => RuleAction::WriteMetadata { value: random.below(4) as u64, mask: random.below(4) as u64 },
            8 => {
                let mut set: Vec<_> = (0..random.below(4)).map(|_| change(random)).collect();
                match random.below(6) {
                    0 => {}
                    1 => set.push(RuleAction::Resubmit { in_port: None, table: Some(later(random)) }),
                    _ => set.push(output(random)),
                }
                RuleAction::WriteActions(set.into())
            }
            9 if random.one_in(3) => RuleAction::ClearActions,
            9 => push_or_pop(random),
            11 => copy(random, table, 0),
            12 if random.one_in(6) => RuleAction::Exit,
            15 if random.one_in(3) => RuleAction::DebugRecirc,
            13 => RuleAction::Enqueue { port: rule_port(random), queue: 1 },
            14 => push_or_pop(random),
            10 => {
                let in_port = random.one_in(2).then(|| rule_port(random));
                RuleAction::Resubmit { in_port, table: Some(later(random)) }
            }
            _ => change(random),
        });
    }
    if random.one_in(3) {
        steps.push(RuleAction::GotoTable(later(random)));
    }
    steps.into()
}

/// Dimensions of a few conjunctions.
fn parts(random: &mut Random) -> Box<[RuleAction]> {
    let one = |random: &mut Random| {
        let id = u32::try_from(1 + random.below(2)).expect("a small number");
        let dimension = u8::try_from(random.below(2)).expect("a dimension");
        RuleAction::Conjunction { id, dimension, dimensions: 2 }
    };
    (0..1 + random.below(2)).map(|_| one(random)).collect()
}

fn push_or_pop(random: &mut Random) -> RuleAction {
    let field = if random.one_in(2) { Field::Reg(0) } else { writable(random) };
    let bits = u8::try_from(1 + random.below(usize::from(field.bits()))).expect("a width");
    let run = subfield(random, field, bits);
    if random.one_in(2) { RuleAction::Push(run) } else { RuleAction::Pop(run) }
}

/// Steps with a copy of the packet, perhaps with copies of it.
fn copy(random: &mut Random, table: u8, depth: usize) -> RuleAction {
    let later = table + 1 + u8::try_from(random.below(2)).expect("a table");
    let one = |random: &mut Random| match random.below(10) {
        9 => RuleAction::DebugRecirc,
        0..=2 => output(random),
        3 => push_or_pop(random),
        4 if depth < 2 => copy(random, table, depth + 1),
        5 => RuleAction::Resubmit { in_port: None, table: Some(later) },
        _ => change(random),
    };
    RuleAction::Clone((0..random.below(5)).map(|_| one(random)).collect())
}

/// A packet, half of the time one that some rule of the first table is about, as a switch sees it that reads so many tags.
pub(crate) fn packet(random: &mut Random, rules: &[RuleSpec], limit: VlanLimit) -> Plain {
    let mut packet = Plain {
        in_port: u32::try_from(random.below(usize::from(PORTS))).expect("a port"),
        eth_type: u16::try_from(value(random, Field::EthType)).expect("a type"),
        ..Plain::default()
    };
    packet.write(Field::EthDst, value(random, Field::EthDst), u128::MAX);
    packet.write(Field::EthSrc, u128::from(random.pick(&MACS[..4])), u128::MAX);
    for _ in 0..random.pick(&[0, 0, 1, 1, 2, 2, 3]) {
        packet.tags.push(Tag {
            tpid: random.pick(&[0x8100, 0x88a8]),
            pcp: random.pick(&[0, 3]),
            vid: random.pick(&VLANS),
        });
    }
    wrap(random, &mut packet, limit);
    let ip = matches!(packet.eth_type, IPV4 | IPV6);
    if ip {
        packet.proto = u8::try_from(value(random, Field::IpProto)).expect("a protocol");
        packet.ttl = u8::try_from(value(random, Field::IpTtl)).expect("a ttl");
        packet.tos = random.pick(&[0, 0xb8, 1]);
        if packet.proto != SCTP {
            packet.frag = random.pick(&[0, 0, 0, 1, 3]);
        }
        if packet.eth_type == IPV6 {
            // 21 of them are 168 bytes: what they stand before lies beyond the head of 192.
            packet.extensions = random.pick(&[0, 1, 1, 1, 9, 21, 30]);
            if packet.frag == 3 {
                packet.proto = 44;
            }
        }
    }
    let addresses = match packet.eth_type {
        IPV4 => Some((Field::Ipv4Src, Field::Ipv4Dst)),
        IPV6 => Some((Field::Ipv6Src, Field::Ipv6Dst)),
        ARP | RARP => Some((Field::ArpSpa, Field::ArpTpa)),
        _ => None,
    };
    if let Some((src, dst)) = addresses {
        packet.write(src, value(random, src), u128::MAX);
        packet.write(dst, value(random, dst), u128::MAX);
    }
    if matches!(packet.eth_type, ARP | RARP) {
        packet.proto = 1;
        packet.hw_src = packet.eth_src;
        packet.hw_dst = random.pick(&MACS);
    }
    if packet.eth_type == IPV6 {
        packet.label = random.pick(&[0, 0xabcde]);
    }
    if packet.frag != 3 {
        transport(random, &mut packet);
    }
    let rule = rules.get(random.below(rules.len().max(1))).filter(|rule| rule.table == 0 && random.one_in(2));
    if let Some(rule) = rule {
        for &field in Field::NAMED {
            let (value, mask) = rule.matching.field(field);
            let is_free = !matches!(
                field,
                Field::InPort
                    | Field::VlanTci
                    | Field::VlanVid
                    | Field::Icmpv6Type
                    | Field::Icmpv6Code
                    | Field::Metadata
            );
            // A neighbour message keeps what makes it one.
            let is_kept = field == Field::IpTtl && packet.nd_option != 0;
            if mask != 0 && is_free && !is_kept && field.is_writable() && packet.has(field.needs()) {
                packet.write(field, value, mask);
            }
        }
    }
    packet
}

/// Puts what is no more to be read as a tag in its place, and now and then SNAP before the Ethernet type.
fn wrap(random: &mut Random, packet: &mut Plain, limit: VlanLimit) {
    let read = packet.tags.len().min(limit.tags().into());
    let beyond = packet.tags.split_off(read);
    let (passed, rest) = beyond.split_at(beyond.iter().take_while(|tag| tag.vid == 0).count());
    packet.between.extend(passed.iter().flat_map(Tag::bytes));
    if random.one_in(8) {
        packet.between.extend([0, 60, 0xaa, 0xaa, 3, 0, 0, 0]);
        if random.one_in(4) {
            packet.between.extend([0x81, 0, 0x60, 0]);
        }
    }
    packet.payload = vec![0x42; 30];
    if let Some(tag) = rest.first() {
        let behind = rest.iter().flat_map(Tag::bytes).chain(packet.eth_type.to_be_bytes()).skip(2);
        packet.payload = behind.chain([0x42; 30]).collect();
        packet.eth_type = tag.tpid;
    }
}

fn transport(random: &mut Random, packet: &mut Plain) {
    match (packet.eth_type, packet.proto) {
        (IPV4 | IPV6, TCP | UDP | SCTP) => {
            packet.tp_src = u16::try_from(value(random, Field::TcpSrc)).expect("a port");
            packet.tp_dst = u16::try_from(value(random, Field::TcpDst)).expect("a port");
            if packet.proto == TCP {
                packet.flags = random.pick(&[0x002, 0x010, 0x018]);
            }
            packet.no_sum = packet.proto == UDP && random.one_in(4);
        }
        (IPV4, ICMP) => {
            packet.tp_src = random.pick(&[8, 0]);
            packet.tp_dst = random.pick(&[0, 1]);
        }
        (IPV6, ICMPV6) => {
            packet.tp_src = random.pick(&[128, 135, 136]);
            if packet.tp_src != 128 {
                packet.ttl = 255;
                packet.nd_option = u8::try_from(packet.tp_src - 134).expect("1 or 2");
                packet.nd_target = value(random, Field::NdTarget);
                let address = random.pick(&MACS);
                if packet.nd_option == 1 {
                    packet.hw_src = address;
                } else {
                    packet.hw_dst = address;
                }
            }
        }
        _ => {}
    }
}
