//! Names in text: of fields, of protocols, of ports, of tables, and what stands in a rule beside them; and which of them
//! Open vSwitch has and this switch does not.

use crate::nearest::nearest;
use crate::port::{MAX_PORTS, PortId};
use crate::rule::field::Field;
use crate::rule::port::RulePort;
use crate::rule::set::TABLES;
use crate::wire::ethernet::{TYPE_ARP, TYPE_IPV4, TYPE_IPV6, TYPE_RARP};
use crate::wire::{icmp, sctp, tcp, udp};

use super::PortNames;
use super::cursor::Piece;
use super::error::TextError;
use super::known::BY_MEANING;
use super::values::number_as;

/// Words before `=` that are no field of a packet.
pub(super) const WORDS: [&str; 9] = [
    "table",
    "priority",
    "cookie",
    "idle_timeout",
    "hard_timeout",
    "importance",
    "out_port",
    "out_group",
    "actions",
];

/// Words that stand alone in a rule and say how it is kept.
pub(super) const FLAGS: [&str; 5] =
    ["send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts", "no_byte_counts"];

/// A word that stands for a type and perhaps a protocol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keyword {
    pub(super) word: &'static str,
    /// None for the word that every packet is.
    pub(super) eth_type: Option<u16>,
    pub(super) ip_proto: Option<u8>,
}

const fn keyword(word: &'static str, eth_type: u16, ip_proto: Option<u8>) -> Keyword {
    Keyword { word, eth_type: Some(eth_type), ip_proto }
}

/// Of several words for the same the first one is printed.
pub(super) const KEYWORDS: [Keyword; 17] = [
    keyword("ip", TYPE_IPV4, None),
    keyword("ipv4", TYPE_IPV4, None),
    keyword("ip4", TYPE_IPV4, None),
    keyword("icmp", TYPE_IPV4, Some(icmp::PROTOCOL_V4)),
    keyword("tcp", TYPE_IPV4, Some(tcp::PROTOCOL)),
    keyword("udp", TYPE_IPV4, Some(udp::PROTOCOL)),
    keyword("sctp", TYPE_IPV4, Some(sctp::PROTOCOL)),
    keyword("ipv6", TYPE_IPV6, None),
    keyword("ip6", TYPE_IPV6, None),
    keyword("icmp6", TYPE_IPV6, Some(icmp::PROTOCOL_V6)),
    keyword("icmpv6", TYPE_IPV6, Some(icmp::PROTOCOL_V6)),
    keyword("tcp6", TYPE_IPV6, Some(tcp::PROTOCOL)),
    keyword("udp6", TYPE_IPV6, Some(udp::PROTOCOL)),
    keyword("sctp6", TYPE_IPV6, Some(sctp::PROTOCOL)),
    keyword("arp", TYPE_ARP, None),
    keyword("rarp", TYPE_RARP, None),
    Keyword { word: "eth", eth_type: None, ip_proto: None },
];

/// Whether a name is one of a field.
pub(super) fn is_field(name: &str) -> bool {
    Field::from_name(name).is_some() || BY_MEANING.contains(&name)
}

/// Open vSwitch's further fields, by name or the first letters of it.
const UNSUPPORTED_FIELDS: [&str; 17] = [
    "ct_",
    "dp_hash",
    "mpls",
    "nd_options_type",
    "nd_reserved",
    "nsh",
    "nsi",
    "nsp",
    "NXM_",
    "NXOXM_",
    "ONFOXM_",
    "OXM_",
    "packet_type",
    "pkt_mark",
    "recirc_id",
    "skb_priority",
    "tun",
];

/// Open vSwitch's further actions, and why each is none of this switch.
const UNSUPPORTED_ACTIONS: [(&str, &str); 26] = [
    ("bundle", BY_HASH),
    ("bundle_load", BY_HASH),
    ("check_pkt_larger", "packets are not told apart by their length"),
    ("ct", CONNECTIONS),
    ("ct_clear", CONNECTIONS),
    ("debug_slow", "it is for tests of Open vSwitch"),
    ("dec_mpls_ttl", MPLS),
    ("dec_nsh_ttl", ENCAPSULATION),
    ("decap", ENCAPSULATION),
    ("delete_field", ENCAPSULATION),
    ("encap", ENCAPSULATION),
    ("fin_timeout", "packets do not change the timeouts of rules"),
    ("group", "there are no groups"),
    ("learn", "rules do not make rules"),
    ("meter", "there are no meters"),
    ("multipath", BY_HASH),
    ("nat", CONNECTIONS),
    ("pop_mpls", MPLS),
    ("push_mpls", MPLS),
    ("sample", "packets are not sampled; a mirror or a controller gets all of them"),
    ("set_mpls_label", MPLS),
    ("set_mpls_tc", MPLS),
    ("set_mpls_ttl", MPLS),
    ("set_tunnel", ENCAPSULATION),
    ("set_tunnel64", ENCAPSULATION),
    ("unroll_xlate", "it is internal to Open vSwitch"),
];

const BY_HASH: &str = "no port or number is chosen by a hash of the packet";
const CONNECTIONS: &str = "connections are not tracked";
const ENCAPSULATION: &str = "packets are not encapsulated";
const MPLS: &str = "labels of MPLS are not read";

/// Every word that begins an action.
const ACTIONS: [&str; 55] = [
    "ALL",
    "CONTROLLER",
    "FLOOD",
    "IN_PORT",
    "LOCAL",
    "NORMAL",
    "TABLE",
    "all",
    "apply_actions",
    "clear_actions",
    "clone",
    "conjunction",
    "controller",
    "debug_recirc",
    "dec_ttl",
    "drop",
    "enqueue",
    "exit",
    "flood",
    "goto_table",
    "in_port",
    "load",
    "local",
    "mod_dl_dst",
    "mod_dl_src",
    "mod_nw_dst",
    "mod_nw_ecn",
    "mod_nw_src",
    "mod_nw_tos",
    "mod_nw_ttl",
    "mod_tp_dst",
    "mod_tp_src",
    "mod_vlan_pcp",
    "mod_vlan_vid",
    "move",
    "normal",
    "note",
    "output",
    "pop",
    "pop_queue",
    "pop_vlan",
    "push",
    "push_vlan",
    "resubmit",
    "set_field",
    "set_nw_ecn",
    "set_nw_tos",
    "set_nw_ttl",
    "set_queue",
    "set_vlan_pcp",
    "set_vlan_vid",
    "strip_vlan",
    "table",
    "write_actions",
    "write_metadata",
];

/// Why an action of Open vSwitch is none here, if it is one.
pub(super) fn unsupported_action(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let (_, why) = UNSUPPORTED_ACTIONS.iter().find(|(own, _)| *own == lower)?;
    Some(format!("Open vSwitch's {name} is not supported: {why}"))
}

/// The action that `name` was most likely meant to be.
pub(super) fn nearest_action(name: &str) -> Option<&'static str> {
    nearest(name, ACTIONS.into_iter())
}

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
    if UNSUPPORTED_FIELDS.iter().any(|start| name.starts_with(start)) {
        return piece.error(format!("{what} that this switch has; Open vSwitch's {name} is not supported"));
    }
    let stem = name.trim_end_matches(|last: char| last.is_ascii_digit());
    if matches!(stem, "reg" | "xreg" | "xxreg") {
        return piece.error("reg0 to reg31, xreg0 to xreg15 or xxreg0 to xxreg7");
    }
    let own: Vec<String> = Field::NAMED.iter().map(|field| field.name()).collect();
    let known = own.iter().map(String::as_str).chain(ALIASES).chain(BY_MEANING).chain(words.iter().copied());
    match nearest(name, known) {
        Some(near) => piece.error(format!("{what}; did you mean {near:?}?")),
        None => piece.error(format!("{what}, as ovs-fields(7) lists them")),
    }
}

/// Longest name of a table, in bytes: that of OpenFlow's messages, which end it with a zero byte.
pub const MAX_TABLE_NAME_BYTES: usize = 31;

/// Whether a table can have this name: rules can say it without quotes, and it is taken for no number and no choice of all
/// tables.
pub fn is_table_name(name: &str) -> bool {
    (1..=MAX_TABLE_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && !is_written_as_number(name.trim_start_matches('-'))
        && !name.eq_ignore_ascii_case("all")
}

/// Whether a text is one of digits, or begins as a hexadecimal number does.
fn is_written_as_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) || text.starts_with("0x") || text.starts_with("0X")
}

/// The table that `piece` numbers or names; in quotes it is always a name.
///
/// # Errors
/// No table has the name or the number.
pub(super) fn table(piece: Piece<'_>, names: &dyn PortNames) -> Result<u8, TextError> {
    let quoted = unquoted(piece.text());
    let name = quoted.unwrap_or(piece.text());
    if quoted.is_none() && !is_table_name(name) {
        return number_as(piece, TABLES - 1);
    }
    names.table(name).ok_or_else(|| {
        let known: Vec<String> = (0..TABLES).filter_map(|table| names.table_name(table)).collect();
        match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => piece.error(format!("a table's number or name; did you mean {near:?}?")),
            None if known.is_empty() => piece.error(format!(
                "a table's number, from 0 to {}, as no table has a name (--table NUMBER=NAME gives one)",
                TABLES - 1
            )),
            None => piece.error(format!("a table's number, from 0 to {}, or its name", TABLES - 1)),
        }
    })
}

/// What a table is called in text.
pub(super) fn table_text(table: u8, names: &dyn PortNames) -> String {
    names.table_name(table).unwrap_or_else(|| table.to_string())
}

/// What stands between quotes.
fn unquoted(text: &str) -> Option<&str> {
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))
}

/// The port that `piece` names or numbers; a name in quotes is always that of a port.
///
/// # Errors
/// There is no such name, or no port can have the number.
pub(super) fn port(piece: Piece<'_>, names: &dyn PortNames) -> Result<RulePort, TextError> {
    let text = piece.text();
    let quoted = unquoted(text);
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
