//! Names in text: of fields, of protocols, of ports; and which of them Open vSwitch has and this switch does not.
//!
//! Some names stand for different fields in different packets, as `tp_dst` does. What is known of a packet from the
//! match decides, and the same knowledge says whether a packet has a field at all.

use crate::nearest::nearest;
use crate::port::{MAX_PORTS, PortId};
use crate::rule::field::{Field, Needs};
use crate::rule::matching::Match;
use crate::wire::ethernet::{TYPE_ARP, TYPE_IPV4, TYPE_IPV6, TYPE_RARP};
use crate::wire::{icmp, ndp, sctp, tcp, udp};

use super::PortNames;
use super::cursor::Piece;
use super::error::TextError;

/// The bit of a tag control that says that the tag is there.
pub(super) const PRESENT: u128 = crate::flow::key::VLAN_PRESENT as u128;

/// A word that stands for a type and perhaps a protocol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keyword {
    pub(super) word: &'static str,
    pub(super) eth_type: u16,
    pub(super) ip_proto: Option<u8>,
}

const fn keyword(word: &'static str, eth_type: u16, ip_proto: Option<u8>) -> Keyword {
    Keyword { word, eth_type, ip_proto }
}

pub(super) const KEYWORDS: [Keyword; 12] = [
    keyword("ip", TYPE_IPV4, None),
    keyword("icmp", TYPE_IPV4, Some(icmp::PROTOCOL_V4)),
    keyword("tcp", TYPE_IPV4, Some(tcp::PROTOCOL)),
    keyword("udp", TYPE_IPV4, Some(udp::PROTOCOL)),
    keyword("sctp", TYPE_IPV4, Some(sctp::PROTOCOL)),
    keyword("ipv6", TYPE_IPV6, None),
    keyword("icmp6", TYPE_IPV6, Some(icmp::PROTOCOL_V6)),
    keyword("tcp6", TYPE_IPV6, Some(tcp::PROTOCOL)),
    keyword("udp6", TYPE_IPV6, Some(udp::PROTOCOL)),
    keyword("sctp6", TYPE_IPV6, Some(sctp::PROTOCOL)),
    keyword("arp", TYPE_ARP, None),
    keyword("rarp", TYPE_RARP, None),
];

/// What is known of a packet at some point of a rule.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    eth_type: Option<u16>,
    ip_proto: Option<u8>,
    icmpv6_type: Option<u8>,
    vlan: bool,
    inner_vlan: bool,
}

impl Known {
    /// What a match says of the packets that it is about.
    pub(super) fn of(matching: &Match) -> Self {
        let exact = |field: Field| {
            let (value, mask) = matching.field(field);
            (mask == field.full_mask()).then_some(value)
        };
        let present = |field: Field| matching.field(field).0 & PRESENT != 0;
        Self {
            eth_type: exact(Field::EthType).and_then(|value| value.try_into().ok()),
            ip_proto: exact(Field::IpProto).and_then(|value| value.try_into().ok()),
            icmpv6_type: exact(Field::Icmpv6Type).and_then(|value| value.try_into().ok()),
            vlan: present(Field::VlanTci),
            inner_vlan: present(Field::InnerVlanTci),
        }
    }

    /// After a tag was inserted.
    pub(super) fn push_vlan(&mut self) {
        self.inner_vlan = self.vlan;
        self.vlan = true;
    }

    /// After the outer tag was removed.
    pub(super) fn pop_vlan(&mut self) {
        self.vlan = self.inner_vlan;
        self.inner_vlan = false;
    }

    /// After the outer tag was changed, or inserted if there was none.
    pub(super) fn has_vlan(&mut self) {
        self.vlan = true;
    }

    fn is_ip(&self) -> bool {
        matches!(self.eth_type, Some(TYPE_IPV4 | TYPE_IPV6))
    }

    /// Whether every such packet is what a field needs.
    pub(super) fn has(&self, needs: Needs) -> bool {
        let ip_proto = |proto| self.is_ip() && self.ip_proto == Some(proto);
        let icmpv6 = self.eth_type == Some(TYPE_IPV6) && self.ip_proto == Some(icmp::PROTOCOL_V6);
        match needs {
            Needs::Nothing => true,
            Needs::Vlan => self.vlan,
            Needs::InnerVlan => self.inner_vlan,
            Needs::Arp => self.eth_type == Some(TYPE_ARP),
            Needs::Ipv4 => self.eth_type == Some(TYPE_IPV4),
            Needs::Ipv6 => self.eth_type == Some(TYPE_IPV6),
            Needs::Ip => self.is_ip(),
            Needs::Tcp => ip_proto(tcp::PROTOCOL),
            Needs::Udp => ip_proto(udp::PROTOCOL),
            Needs::Sctp => ip_proto(sctp::PROTOCOL),
            Needs::Icmp => self.eth_type == Some(TYPE_IPV4) && self.ip_proto == Some(icmp::PROTOCOL_V4),
            Needs::Icmpv6 => icmpv6,
            Needs::Nd => icmpv6 && matches!(self.icmpv6_type, Some(ndp::SOLICITATION | ndp::ADVERTISEMENT)),
            Needs::NdSolicit => icmpv6 && self.icmpv6_type == Some(ndp::SOLICITATION),
            Needs::NdAdvert => icmpv6 && self.icmpv6_type == Some(ndp::ADVERTISEMENT),
        }
    }

    /// Makes sure that every such packet is what a field needs.
    ///
    /// # Errors
    /// It need not be; says so of `piece`.
    pub(super) fn require(&self, needs: Needs, piece: Piece<'_>) -> Result<(), TextError> {
        if self.has(needs) {
            Ok(())
        } else {
            Err(piece.error(format!("{} in the match", how_to_have(needs))))
        }
    }

    /// The field called `piece` in such packets.
    ///
    /// # Errors
    /// There is none, or the name means nothing without a protocol.
    pub(super) fn field(&self, piece: Piece<'_>) -> Result<Field, TextError> {
        let name = piece.text();
        let arp = self.has(Needs::Arp);
        let icmpv6 = self.has(Needs::Icmpv6);
        let field = match name {
            "tp_src" | "tp_dst" => return self.port_field(piece),
            "dl_vlan" => Field::VlanVid,
            "dl_vlan_pcp" => Field::VlanPcp,
            "nw_src" if arp => Field::ArpSpa,
            "nw_dst" if arp => Field::ArpTpa,
            "nw_proto" if arp => Field::ArpOp,
            "icmp_type" if icmpv6 => Field::Icmpv6Type,
            "icmp_code" if icmpv6 => Field::Icmpv6Code,
            _ => return Field::from_name(name).ok_or_else(|| unknown_field(piece)),
        };
        Ok(field)
    }

    /// The field that `tp_src` or `tp_dst` stands for.
    fn port_field(&self, piece: Piece<'_>) -> Result<Field, TextError> {
        let src = piece.text() == "tp_src";
        let pick = |if_src, if_dst| Ok(if src { if_src } else { if_dst });
        match (self.eth_type, self.ip_proto) {
            (Some(TYPE_IPV4 | TYPE_IPV6), Some(tcp::PROTOCOL)) => pick(Field::TcpSrc, Field::TcpDst),
            (Some(TYPE_IPV4 | TYPE_IPV6), Some(udp::PROTOCOL)) => pick(Field::UdpSrc, Field::UdpDst),
            (Some(TYPE_IPV4 | TYPE_IPV6), Some(sctp::PROTOCOL)) => pick(Field::SctpSrc, Field::SctpDst),
            (Some(TYPE_IPV4), Some(icmp::PROTOCOL_V4)) => pick(Field::IcmpType, Field::IcmpCode),
            (Some(TYPE_IPV6), Some(icmp::PROTOCOL_V6)) => pick(Field::Icmpv6Type, Field::Icmpv6Code),
            (Some(TYPE_IPV6), _) => Err(piece.error("one of tcp6, udp6, sctp6 or icmp6 in the match")),
            _ => Err(piece.error("one of tcp, udp, sctp or icmp (tcp6 ... for IPv6) in the match")),
        }
    }
}

/// Names of fields that are those of a protocol, or of what the manuals keep from older versions.
const BY_MEANING: [&str; 4] = ["dl_vlan", "dl_vlan_pcp", "tp_src", "tp_dst"];

/// Whether a name is one of a field.
pub(super) fn is_field(name: &str) -> bool {
    Field::from_name(name).is_some() || BY_MEANING.contains(&name)
}

/// What to add to a match so that packets have such fields.
fn how_to_have(needs: Needs) -> &'static str {
    match needs {
        Needs::Nothing => "nothing",
        Needs::Vlan => "dl_vlan or vlan_tci=0x1000/0x1000",
        Needs::InnerVlan => "inner_vlan_vid or inner_vlan_tci=0x1000/0x1000",
        Needs::Arp => "arp",
        Needs::Ipv4 => "ip or one of its protocols (the names for IPv6 begin with ipv6_)",
        Needs::Ipv6 => "ipv6 or one of its protocols",
        Needs::Ip => "ip, ipv6 or one of their protocols",
        Needs::Tcp => "tcp or tcp6",
        Needs::Udp => "udp or udp6",
        Needs::Sctp => "sctp or sctp6",
        Needs::Icmp => "icmp",
        Needs::Icmpv6 => "icmp6",
        Needs::Nd => "icmp6 and icmp_type=135 or icmp_type=136",
        Needs::NdSolicit => "icmp6 and icmp_type=135",
        Needs::NdAdvert => "icmp6 and icmp_type=136",
    }
}

/// Open vSwitch's further fields and flags, by name or the first letters of it.
const UNSUPPORTED: [&str; 26] = [
    "actset_output",
    "check_overlap",
    "conj_id",
    "ct_",
    "dp_hash",
    "importance",
    "in_port_oxm",
    "mpls",
    "nd_options_type",
    "nd_reserved",
    "no_byte_counts",
    "no_packet_counts",
    "nsh",
    "nsi",
    "nsp",
    "NXM_",
    "NXOXM_",
    "out_group",
    "OXM_",
    "packet_type",
    "pkt_mark",
    "recirc_id",
    "reset_counts",
    "send_flow_rem",
    "skb_priority",
    "tun",
];

/// Names that [`Field::name`] gives none of, for suggestions.
const ALIASES: [&str; 8] =
    ["dl_src", "dl_dst", "dl_type", "ip_src", "ip_dst", "ip_frag", "ip_proto", "ip_ecn"];

/// The error that `piece` names no field.
pub(super) fn unknown_field(piece: Piece<'_>) -> TextError {
    unknown_word(piece, "a field", &[])
}

/// The error that `piece` names neither a field nor one of `words`.
pub(super) fn unknown_word(piece: Piece<'_>, what: &str, words: &[&str]) -> TextError {
    let name = piece.text();
    if UNSUPPORTED.iter().any(|start| name.starts_with(start)) {
        return piece.error(format!("{what} that this switch has; Open vSwitch's {name} is not supported"));
    }
    let stem = name.trim_end_matches(|last: char| last.is_ascii_digit());
    if matches!(stem, "reg" | "xreg" | "xxreg") {
        return piece.error("reg0 to reg15, xreg0 to xreg7 or xxreg0 to xxreg3");
    }
    let own: Vec<String> = Field::NAMED.iter().map(|field| field.name()).collect();
    let known = own.iter().map(String::as_str).chain(ALIASES).chain(BY_MEANING).chain(words.iter().copied());
    match nearest(name, known) {
        Some(near) => piece.error(format!("{what}; did you mean {near:?}?")),
        None => piece.error(format!("{what}, as ovs-fields(7) lists them")),
    }
}

/// The port that `piece` names or numbers; a name in quotes is never a number.
///
/// # Errors
/// There is no such port.
pub(super) fn port(piece: Piece<'_>, names: &dyn PortNames) -> Result<PortId, TextError> {
    let text = piece.text();
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if quoted.is_none() && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .ok()
            .and_then(PortId::new)
            .ok_or_else(|| piece.error(format!("a port's name or its number below {MAX_PORTS}")));
    }
    let name = quoted.unwrap_or(text);
    names.number(name).ok_or_else(|| {
        let known: Vec<String> = (0..u16::try_from(MAX_PORTS).unwrap_or(u16::MAX))
            .filter_map(|number| names.name(PortId::new(number)?))
            .collect();
        match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => piece.error(format!("a port's name or number; did you mean {near:?}?")),
            None => piece.error("the name or number of a port"),
        }
    })
}

/// What a port is called in text: its name, in quotes where it would be taken for something else.
pub(super) fn port_text(port: PortId, names: &dyn PortNames) -> String {
    let Some(name) = names.name(port) else { return port.to_string() };
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    let taken = RESERVED.iter().any(|word| word.eq_ignore_ascii_case(&name));
    let ambiguous =
        taken || Field::from_name(&name).is_some() || name.bytes().all(|byte| byte.is_ascii_digit());
    if plain && !ambiguous && !name.is_empty() { name } else { format!("\"{name}\"") }
}

/// OpenFlow's ports that are no port's number.
pub(super) const RESERVED: [&str; 10] =
    ["in_port", "table", "normal", "flood", "all", "controller", "local", "any", "none", "unset"];
