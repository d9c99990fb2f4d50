//! Whatever rule is printed is read back as it was.

use proptest::prelude::*;

use super::cursor::Piece;
use super::known::{Known, PRESENT};
use super::tests::Ports;
use super::*;
use crate::port::MAX_PORTS;
use crate::rule::action::{OutputTo, Reason, RuleAction, Subfield};
use crate::rule::entry::{Remarks, RuleSpec};
use crate::rule::field::{Field, Notation};
use crate::rule::matching::Match;
use crate::rule::needs::Needs;
use crate::rule::port::RulePort;

/// Marsaglia's xorshift64, as a source of rules.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn of<T: TryFrom<u64>>(&mut self, bound: u64) -> T
    where
        T::Error: std::fmt::Debug,
    {
        T::try_from(self.below(bound)).unwrap()
    }

    fn port(&mut self) -> PortId {
        let bound = if self.one_in(4) { MAX_PORTS as u64 } else { 8 };
        PortId::new(self.of(bound)).unwrap()
    }

    /// A port as rules number it, with or without a port behind it.
    fn rule_port(&mut self) -> RulePort {
        let names =
            RulePort::NAMES.map(|(_, port)| port).into_iter().filter(|&port| port != RulePort::IN_PORT);
        let names: Vec<RulePort> = names.collect();
        match self.below(4) {
            0 => names[self.of::<usize>(names.len() as u64)],
            1 => RulePort::new(self.of(0xff00)).unwrap(),
            _ => self.port().into(),
        }
    }

    /// Bits of a field and a mask with a bit in it.
    fn bits(&mut self, field: Field) -> (u128, u128) {
        let full = field.full_mask();
        if field.notation() == Notation::Port {
            let port = self.rule_port();
            return (
                u128::from(if field.bits() == 32 { port.number_oxm() } else { port.number().into() }),
                full,
            );
        }
        let random = u128::from(self.next()) << 64 | u128::from(self.next());
        let width = u64::from(field.bits());
        let mask = match self.below(4) {
            0 => full << self.below(width) & full,
            1 => full >> self.below(width),
            2 => (u128::from(self.next()) << 64 | u128::from(self.next())) & full,
            _ => full,
        };
        let mask = if mask == 0 { full } else { mask };
        (random & mask, mask)
    }

    fn field(&mut self) -> Field {
        match self.below(8) {
            0 => Field::Reg(self.of(32)),
            1 => Field::Xreg(self.of(16)),
            2 => Field::Xxreg(self.of(8)),
            _ => Field::NAMED[self.of::<usize>(Field::NAMED.len() as u64)],
        }
    }

    fn matching(&mut self) -> Match {
        let mut matching = Match::ANY;
        let eth_type =
            [None, Some(0x800), Some(0x86dd), Some(0x806), Some(0x8035), Some(0x5ff)][self.of::<usize>(6)];
        if let Some(eth_type) = eth_type {
            matching.require(Field::EthType, eth_type, u128::MAX);
        }
        let proto = [None, Some(1), Some(6), Some(17), Some(58), Some(132), Some(89)][self.of::<usize>(7)];
        if let Some(proto) = proto.filter(|_| matches!(eth_type, Some(0x800 | 0x86dd))) {
            matching.require(Field::IpProto, proto, u128::MAX);
        }
        let nd = [None, Some(135), Some(136), Some(1)][self.of::<usize>(4)];
        if let Some(nd) = nd.filter(|_| Known::of(&matching).has(Needs::Icmpv6)) {
            matching.require(Field::Icmpv6Type, nd, u128::MAX);
        }
        for _ in 0..self.below(8) {
            let field = self.field();
            let known = Known::of(&matching);
            let settled = match field {
                Field::EthType | Field::IpProto | Field::Icmpv6Type => true,
                Field::VlanPcp | Field::InnerVlanPcp => true,
                Field::InPort => matching.field(Field::FromLocal).1 != 0,
                _ => false,
            };
            if !settled && known.has(field.needs()) {
                let (value, mask) = self.bits(field);
                let is_port = field == Field::InPort;
                let is_local = is_port && value == u128::from(RulePort::LOCAL.number());
                if is_local && matching.field(Field::InPort).1 == 0 {
                    matching.require(Field::FromLocal, 1, 1);
                } else if !is_local {
                    matching.require(field, value, mask);
                }
            }
        }
        matching
    }

    /// A run of bits of a field that packets have.
    fn run(&mut self, known: &Known, writable: bool) -> Subfield {
        loop {
            let field = self.field();
            let vlan = !matches!(field, Field::VlanVid | Field::InnerVlanVid);
            if known.has(field.needs()) && (field.is_writable() && vlan || !writable) {
                let offset = self.of::<u8>(field.bits().into());
                let bits = 1 + self.of::<u8>((field.bits() - offset).into());
                return Subfield { field, offset, bits };
            }
        }
    }

    fn set_field(&mut self, known: &Known) -> RuleAction {
        let Subfield { field, .. } = self.run(known, true);
        let (value, mask) = self.bits(field);
        RuleAction::SetField { field, value, mask }
    }

    fn move_bits(&mut self, known: &Known) -> RuleAction {
        let (mut from, mut to) = (self.run(known, false), self.run(known, true));
        from.bits = from.bits.min(to.bits);
        to.bits = from.bits;
        RuleAction::Move { from, to }
    }

    /// An action that a set can hold too; follows what it does to the tags.
    fn simple(&mut self, known: &mut Known) -> RuleAction {
        let action = match self.below(12) {
            0 => RuleAction::Output(OutputTo::Port(self.port().into())),
            1 => {
                let to = [
                    RulePort::IN_PORT,
                    RulePort::TABLE,
                    RulePort::NORMAL,
                    RulePort::ALL,
                    RulePort::FLOOD,
                    RulePort::LOCAL,
                ];
                RuleAction::Output(OutputTo::Port(to[self.of::<usize>(6)]))
            }
            2 => RuleAction::PushVlan([0x8100, 0x88a8][self.of::<usize>(2)]),
            3 => RuleAction::PopVlan,
            4 => RuleAction::ModVlanVid(self.of(4096)),
            5 => RuleAction::ModVlanPcp(self.of(8)),
            // Whether or not all packets have a time to live.
            6 if known.require_possible(Needs::Ip, Piece::whole("")).is_ok() => {
                RuleAction::DecTtl((0..self.below(3)).map(|_| self.of(1 << 16)).collect())
            }
            7 if known.require_possible(Needs::Vlan, Piece::whole("")).is_ok() => {
                let (field, mask) = (Field::VlanVid, Field::VlanVid.full_mask());
                RuleAction::SetField { field, value: PRESENT | u128::from(self.below(4096)), mask }
            }
            8 => self.move_bits(known),
            9 => RuleAction::SetQueue(self.of(1 << 32)),
            10 => self.mod_field(known),
            _ => self.set_field(known),
        };
        known.follow(&action);
        action
    }

    /// What an action with a name of its own sets, of packets that may or may not have it.
    fn mod_field(&mut self, known: &Known) -> RuleAction {
        use Field::*;
        let fields = [EthSrc, Ipv4Src, IpEcn, IpTtl, TpSrc, TpDst, VlanPcp];
        loop {
            let field = fields[self.of::<usize>(7)];
            if known.require_possible(field.needs(), Piece::whole("")).is_ok() {
                let mask = field.full_mask();
                return RuleAction::SetField { field, value: u128::from(self.next()) & mask, mask };
            }
        }
    }

    /// An action that stands in rules and copies alone.
    fn listed(&mut self, known: &mut Known, depth: usize) -> RuleAction {
        match self.below(17) {
            0 => {
                let (_, reason) = Reason::NAMES[self.of::<usize>(6)];
                RuleAction::Controller { max_len: self.of(1 << 16), id: self.of(3), reason }
            }
            1 => {
                let in_port = self.one_in(2).then(|| self.rule_port());
                let table = (in_port.is_none() || self.one_in(2)).then(|| self.of(255));
                RuleAction::Resubmit { in_port, table }
            }
            2 => RuleAction::Output(OutputTo::Subfield(self.run(known, false))),
            3 => RuleAction::Push(self.run(known, false)),
            4 => RuleAction::Pop(self.run(known, true)),
            5 => RuleAction::Exit,
            6 => RuleAction::Note((0..6 + 8 * self.below(3)).map(|_| self.of(256)).collect()),
            7 => RuleAction::Enqueue { port: self.port().into(), queue: self.of(1 << 32) },
            8 => RuleAction::PopQueue,
            10 => RuleAction::DebugRecirc,
            9 if depth < 3 => {
                let mut inner = *known;
                RuleAction::Clone((0..self.below(4)).map(|_| self.listed(&mut inner, depth + 1)).collect())
            }
            _ => self.simple(known),
        }
    }

    /// Dimensions of conjunctions, and notes.
    fn conjunctions(&mut self) -> Box<[RuleAction]> {
        let one = |random: &mut Self| {
            let dimensions = 2 + random.of::<u8>(63);
            let dimension = random.of(dimensions.into());
            RuleAction::Conjunction { id: random.of(1 << 32), dimension, dimensions }
        };
        (0..1 + self.below(3))
            .map(|_| one(self))
            .chain([RuleAction::Note([1, 2, 3, 4, 5, 0xab].into())])
            .collect()
    }

    fn actions(&mut self, matching: &Match, table: u8) -> Box<[RuleAction]> {
        if self.one_in(8) {
            return self.conjunctions();
        }
        let mut known = Known::of(matching);
        let mut actions: Vec<RuleAction> = (0..self.below(6)).map(|_| self.listed(&mut known, 0)).collect();
        if self.one_in(3) {
            actions.push(RuleAction::ClearActions);
        }
        if self.one_in(3) {
            let set = (0..self.below(4)).map(|_| self.simple(&mut known)).collect();
            actions.push(RuleAction::WriteActions(set));
        }
        if self.one_in(3) {
            let mask = if self.one_in(2) { u64::MAX } else { self.next() };
            actions.push(RuleAction::WriteMetadata { value: self.next() & mask, mask });
        }
        if self.one_in(3) && table < 254 {
            actions.push(RuleAction::GotoTable(table + 1 + self.of::<u8>((254 - table).into())));
        }
        actions.into()
    }

    fn rule(&mut self) -> RuleSpec {
        let (matching, table) = (self.matching(), self.of(255));
        let actions = self.actions(&matching, table);
        RuleSpec {
            table,
            priority: self.of(1 << 16),
            cookie: if self.one_in(2) { 0 } else { self.next() },
            idle_timeout_s: self.of(3),
            hard_timeout_s: self.of(1 << 16),
            remarks: Remarks {
                importance: self.of(3),
                send_flow_rem: self.one_in(4),
                no_packet_counts: self.one_in(4),
                no_byte_counts: self.one_in(4),
            },
            matching,
            actions,
        }
    }
}

proptest! {
    #[test]
    fn printed_rule_is_read_back_as_it_was(seed in 1_u64..) {
        let mut random = Random(seed);
        random.next();
        for _ in 0..20 {
            let rule = random.rule();
            let text = rule_text(&rule, &Ports);
            match parse_rule(&text, &Ports) {
                Ok(read) => prop_assert_eq!(read.spec, rule, "{}", text),
                Err(error) => prop_assert!(false, "{}: {}", text, error),
            }
        }
    }
}
