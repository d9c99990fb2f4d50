//! What is known of the packets of a rule, from its match and then behind each of its actions.
//!
//! Some names stand for different fields in different packets, as `tp_dst` does. What is known decides, and the same
//! knowledge says whether packets have a field at all.

use crate::flow::fields::Fields;
use crate::rule::action::{RuleAction, Subfield};
use crate::rule::field::Field;
use crate::rule::matching::Match;
use crate::rule::needs::{Condition, Needs};
use crate::rule::port::RulePort;

use super::cursor::Piece;
use super::error::TextError;
use super::names::unknown_field;
use super::values::number_as;

/// The bit of a tag control that says that the tag is there.
pub(super) const PRESENT: u128 = crate::flow::key::VLAN_PRESENT as u128;

/// Names that stand for the first of several fields that the packets have, or else for the last.
const BY_PACKET: [(&str, &[Field]); 7] = [
    ("nw_src", &[Field::ArpSpa, Field::Ipv4Src]),
    ("nw_dst", &[Field::ArpTpa, Field::Ipv4Dst]),
    ("nw_proto", &[Field::ArpOp, Field::IpProto]),
    ("icmp_type", &[Field::Icmpv6Type, Field::IcmpType]),
    ("icmp_code", &[Field::Icmpv6Code, Field::IcmpCode]),
    ("dl_vlan", &[Field::VlanVid]),
    ("dl_vlan_pcp", &[Field::VlanPcp]),
];

/// Names that stand for one of several fields, and for none unless the packets have one of them.
const BY_PROTOCOL: [(&str, &[Field]); 2] = [
    ("tp_src", &[Field::TcpSrc, Field::UdpSrc, Field::SctpSrc, Field::IcmpType, Field::Icmpv6Type]),
    ("tp_dst", &[Field::TcpDst, Field::UdpDst, Field::SctpDst, Field::IcmpCode, Field::Icmpv6Code]),
];

/// Names of fields that [`Field::from_name`] does not know, as what they mean depends on the packet.
pub(super) const BY_MEANING: [&str; 4] = ["dl_vlan", "dl_vlan_pcp", "tp_src", "tp_dst"];

/// The field and value by which a match or a packet has an ingress port. Which port is the local one, packets know.
pub(super) fn ingress(port: u128) -> (Field, u128) {
    if port == u128::from(RulePort::LOCAL.number()) { (Field::FromLocal, 1) } else { (Field::InPort, port) }
}

/// What is known of packets at some point of a rule: bits that they all have. Also a match in the making.
///
/// # Invariants
/// 1. `value` is zero wherever `mask` is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    value: Fields,
    mask: Fields,
}

impl Known {
    /// What a match says of the packets that it is about.
    pub(super) fn of(matching: &Match) -> Self {
        Self { value: matching.value(), mask: matching.mask() }
    }

    /// The match on packets that have these bits.
    pub(super) fn to_match(self) -> Match {
        Match::new(&self.value, &self.mask)
    }

    /// Value and mask of what is known of a field.
    pub(super) fn bits(&self, field: Field) -> (u128, u128) {
        (field.get(&self.value), field.get(&self.mask))
    }

    /// Notes that bits of a field have this value.
    pub(super) fn know(&mut self, field: Field, value: u128, mask: u128) {
        field.look_at(&mut self.mask, mask);
        field.set(&mut self.value, value, mask);
    }

    /// The value of all that is known, zero elsewhere.
    pub(super) fn value(&self) -> &Fields {
        &self.value
    }

    /// What is known behind an action. Tags alone come and go; what a field holds is not followed.
    pub(super) fn follow(&mut self, action: &RuleAction) {
        match action {
            RuleAction::PushVlan(_) => {
                self.set_tag(Field::InnerVlanTci, self.states(Needs::Vlan));
                self.set_tag(Field::VlanTci, true);
            }
            RuleAction::PopVlan => {
                self.set_tag(Field::VlanTci, self.states(Needs::InnerVlan));
                self.set_tag(Field::InnerVlanTci, false);
            }
            RuleAction::ModVlanVid(_) | RuleAction::ModVlanPcp(_) => self.set_tag(Field::VlanTci, true),
            RuleAction::SetField { field: Field::VlanTci, value, mask } if value & mask & PRESENT != 0 => {
                self.set_tag(Field::VlanTci, true);
            }
            RuleAction::SetField { .. }
            | RuleAction::Output(_)
            | RuleAction::Enqueue { .. }
            | RuleAction::SetQueue(_)
            | RuleAction::PopQueue
            | RuleAction::Controller { .. }
            | RuleAction::Move { .. }
            | RuleAction::Push(_)
            | RuleAction::Pop(_)
            | RuleAction::DecTtl(_)
            | RuleAction::Resubmit { .. }
            | RuleAction::Clone(_)
            | RuleAction::Exit
            | RuleAction::DebugRecirc
            | RuleAction::Note(_)
            | RuleAction::Conjunction { .. }
            | RuleAction::WriteMetadata { .. }
            | RuleAction::ClearActions
            | RuleAction::WriteActions(_)
            | RuleAction::GotoTable(_) => {}
        }
    }

    /// Whether it is known that there is a tag, whose other bits are not.
    fn set_tag(&mut self, tci: Field, is_there: bool) {
        let bits = if is_there { PRESENT } else { 0 };
        for fields in [&mut self.value, &mut self.mask] {
            tci.set(fields, bits, u128::MAX);
        }
    }

    fn is_met(&self, condition: &Condition) -> bool {
        let (value, mask) = self.bits(condition.field);
        let is_said = condition.is_assumed || mask & condition.mask == condition.mask;
        is_said && condition.values.contains(&(value & condition.mask))
    }

    /// Whether all is known that a match on such a field must state.
    pub(super) fn states(&self, needs: Needs) -> bool {
        needs.conditions().iter().all(|condition| condition.is_assumed || self.is_met(condition))
    }

    /// Whether such packets have a field, as far as a match tells.
    pub(super) fn has(&self, needs: Needs) -> bool {
        needs.conditions().iter().all(|condition| self.is_met(condition))
    }

    /// Makes sure that a match on a field states all that it needs.
    ///
    /// # Errors
    /// It does not; says so of `piece`.
    pub(super) fn require_stated(&self, needs: Needs, piece: Piece<'_>) -> Result<(), TextError> {
        if self.states(needs) { Ok(()) } else { Err(piece.error(format!("{} in the match", missing(needs)))) }
    }

    /// Makes sure that every such packet has a field, to read or change it.
    ///
    /// # Errors
    /// It need not have it; says so of `piece`.
    pub(super) fn require(&self, needs: Needs, piece: Piece<'_>) -> Result<(), TextError> {
        if self.has(needs) {
            return Ok(());
        }
        self.require_stated(needs, piece)?;
        Err(match needs.conditions().iter().find(|condition| !self.is_met(condition)) {
            Some(Condition { field: Field::Icmpv6Code, .. }) => {
                piece.error("icmp_code=0, or none, in the match")
            }
            _ => piece.error("no nw_frag=later in the match, as later fragments have no such field"),
        })
    }

    /// Makes sure that some such packet may have a field. An action with a name of its own, such as `mod_nw_src`, does
    /// nothing with packets that lack the field, as in OpenFlow 1.0.
    ///
    /// # Errors
    /// None can; says so of `piece`.
    pub(super) fn require_possible(&self, needs: Needs, piece: Piece<'_>) -> Result<(), TextError> {
        let is_denied = |condition: &Condition| {
            let (value, mask) = self.bits(condition.field);
            condition.values.iter().all(|wanted| (wanted ^ value) & mask & condition.mask != 0)
        };
        if needs.conditions().iter().any(is_denied) { self.require(needs, piece) } else { Ok(()) }
    }

    /// The field called `piece` in such packets.
    ///
    /// # Errors
    /// There is none, or the name means nothing without a protocol.
    pub(super) fn field(&self, piece: Piece<'_>) -> Result<Field, TextError> {
        let name = piece.text();
        let of_packet = |fields: &[Field]| fields.iter().copied().find(|field| self.states(field.needs()));
        if let Some((_, fields)) = BY_PROTOCOL.iter().find(|(own, _)| *own == name) {
            return of_packet(fields).ok_or_else(|| {
                piece.error(if self.states(Needs::Ipv6) {
                    "one of tcp6, udp6, sctp6 or icmp6 in the match"
                } else {
                    "one of tcp, udp, sctp or icmp (tcp6 ... for IPv6) in the match"
                })
            });
        }
        match BY_PACKET.iter().find(|(own, _)| *own == name) {
            Some((_, fields)) => of_packet(fields).or(fields.last().copied()),
            None => Field::from_name(name),
        }
        .ok_or_else(|| unknown_field(piece))
    }

    /// `FIELD`, `FIELD[]`, `FIELD[BIT]` or `FIELD[FIRST..LAST]` of such packets.
    ///
    /// # Errors
    /// It is none of these, or there is no such field.
    pub(super) fn subfield(&self, text: Piece<'_>) -> Result<Subfield, TextError> {
        let (name, range) = match text.split_once("[") {
            None => (text, None),
            Some((name, range)) => {
                let range = range.strip_suffix("]").ok_or_else(|| range.behind().error("a closing \"]\""))?;
                (name, Some(range).filter(|range| !range.text().is_empty()))
            }
        };
        let field = self.field(name)?;
        let Some(range) = range else { return Ok(Subfield { field, offset: 0, bits: field.width() }) };
        let last_bit = field.width() - 1;
        let bit = |piece: Piece<'_>| {
            let of = || piece.error(format!("a bit of {}, from 0 to {last_bit}", field.name()));
            number_as(piece, last_bit).map_err(|_| of())
        };
        let (first, last) = match range.split_once("..") {
            Some((first, last)) => (bit(first)?, bit(last)?),
            None => (bit(range)?, bit(range)?),
        };
        if last < first {
            return Err(range.error("the lower bit first"));
        }
        Ok(Subfield { field, offset: first, bits: last - first + 1 })
    }
}

/// What to add to a match so that packets have such fields.
fn missing(needs: Needs) -> &'static str {
    match needs {
        Needs::Nothing => "nothing",
        Needs::Vlan => "dl_vlan or vlan_tci=0x1000/0x1000",
        Needs::InnerVlan => "inner_vlan_vid or inner_vlan_tci=0x1000/0x1000",
        Needs::Arp => "arp or rarp",
        Needs::Ipv4 => "ip or one of its protocols (the names for IPv6 begin with ipv6_)",
        Needs::Ipv6 => "ipv6 or one of its protocols",
        Needs::Ip => "ip, ipv6 or one of their protocols",
        Needs::Tcp => "tcp or tcp6",
        Needs::Udp => "udp or udp6",
        Needs::Sctp => "sctp or sctp6",
        Needs::Ports => "tcp, udp or sctp (tcp6 ... for IPv6)",
        Needs::Icmp => "icmp (icmp6 for IPv6)",
        Needs::Icmpv6 => "icmp6",
        Needs::Nd => "icmp6 and icmp_type=135 or icmp_type=136",
        Needs::NdSolicit => "icmp6 and icmp_type=135",
        Needs::NdAdvert => "icmp6 and icmp_type=136",
    }
}
