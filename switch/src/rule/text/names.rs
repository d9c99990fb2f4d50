//! Names in text: of fields, of protocols, of ports, and what stands in a rule beside them; and which of them Open vSwitch
//! has and this switch does not.

use crate::nearest::nearest;
use crate::port::{MAX_PORTS, PortId};
use crate::rule::field::Field;
use crate::rule::port::RulePort;
use crate::wire::ethernet::{TYPE_ARP, TYPE_IPV4, TYPE_IPV6, TYPE_RARP};
use crate::wire::{icmp, sctp, tcp, udp};

use super::PortNames;
use super::cursor::Piece;
use super::error::TextError;
use super::known::BY_MEANING;

/// Words before `=` that are no field of a packet.
pub(super) const WORDS: [&str; 7] =
    ["table", "priority", "cookie", "idle_timeout", "hard_timeout", "out_port", "actions"];

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

/// Whether a name is one of a field.
pub(super) fn is_field(name: &str) -> bool {
    Field::from_name(name).is_some() || BY_MEANING.contains(&name)
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

/// The port that `piece` names or numbers; a name in quotes is always that of a port.
///
/// # Errors
/// There is no such name, or no port can have the number.
pub(super) fn port(piece: Piece<'_>, names: &dyn PortNames) -> Result<RulePort, TextError> {
    let text = piece.text();
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if quoted.is_none() {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let port = text.parse().ok().and_then(RulePort::new);
            return port.ok_or_else(|| {
                piece.error(
                    "a port's name, its number below 65280, or a number that stands for a name such as LOCAL",
                )
            });
        }
        if let Some(port) = RulePort::from_name(text) {
            return Ok(port);
        }
    }
    let name = quoted.unwrap_or(text);
    names.number(name).map(RulePort::from).ok_or_else(|| {
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
pub(super) fn port_text(port: RulePort, names: &dyn PortNames) -> String {
    if let Some(name) = port.name() {
        return name.to_owned();
    }
    let Some(name) = port.port().and_then(|port| names.name(port)) else { return port.number().to_string() };
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    let ambiguous = RulePort::from_name(&name).is_some()
        || Field::from_name(&name).is_some()
        || name.bytes().all(|byte| byte.is_ascii_digit());
    if plain && !ambiguous && !name.is_empty() { name } else { format!("\"{name}\"") }
}
