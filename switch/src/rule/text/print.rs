//! Rules as text again, in the words and the order that ovs-ofctl prints them in.

use crate::rule::action::{OutputTo, Reason, RuleAction, Subfield};
use crate::rule::entry::{Remarks, RuleSpec};
use crate::rule::field::Field;
use crate::rule::matching::Match;
use crate::rule::port::RulePort;

use super::PortNames;
use super::known::{Known, PRESENT};
use super::names::{KEYWORDS, Keyword, port_text, table_text};
use super::step::DSCP;
use super::values::{masked_text, single_text};

/// A rule as a line that [`parse_rule`](super::parse_rule) reads.
pub fn rule_text(rule: &RuleSpec, names: &dyn PortNames) -> String {
    let mut parts = vec![format!("table={}", table_text(rule.table, names))];
    if rule.cookie != 0 {
        parts.push(format!("cookie={:#x}", rule.cookie));
    }
    for (name, seconds) in [("idle_timeout", rule.idle_timeout_s), ("hard_timeout", rule.hard_timeout_s)] {
        if seconds != 0 {
            parts.push(format!("{name}={seconds}"));
        }
    }
    parts.extend(remarks(&rule.remarks));
    parts.push(format!("priority={}", rule.priority));
    parts.extend(conditions(&rule.matching, names));
    format!("{} actions={}", parts.join(","), actions_text(&rule.actions, names))
}

/// What is kept with a rule, empty if nothing is.
pub fn remarks_text(kept: &Remarks) -> String {
    remarks(kept).join(",")
}

fn remarks(kept: &Remarks) -> Vec<String> {
    let Remarks { importance, send_flow_rem, no_packet_counts, no_byte_counts } = *kept;
    let parts = [
        (importance != 0).then(|| format!("importance={importance}")),
        send_flow_rem.then(|| "send_flow_rem".to_owned()),
        no_packet_counts.then(|| "no_packet_counts".to_owned()),
        no_byte_counts.then(|| "no_byte_counts".to_owned()),
    ];
    parts.into_iter().flatten().collect()
}

/// A match, empty if every packet meets it. Bits that no parsed match could ask for are left out.
pub fn match_text(matching: &Match, names: &dyn PortNames) -> String {
    conditions(matching, names).join(",")
}

/// Actions; without any, `drop`.
pub fn actions_text(actions: &[RuleAction], names: &dyn PortNames) -> String {
    if actions.is_empty() {
        return "drop".to_owned();
    }
    let texts: Vec<String> = actions.iter().map(|action| action_text(action, names)).collect();
    texts.join(",")
}

/// The conditions of a match, each as `keyword` or `field=value`.
fn conditions(matching: &Match, names: &dyn PortNames) -> Vec<String> {
    let known = Known::of(matching);
    let (mut parts, proto_said) = type_texts(matching, names);
    if matching.field(Field::FromLocal) == (1, 1) {
        parts.push(format!("{}={}", Field::FromLocal.name(), port_text(RulePort::LOCAL, names)));
    }
    for field in (0..32).map(Field::Reg).chain(Field::NAMED.iter().copied()) {
        let (value, mask) = matching.field(field);
        if mask == 0 || !known.states(field.needs()) {
            continue;
        }
        match field {
            Field::EthType => {}
            Field::IpProto if proto_said => {}
            Field::VlanTci | Field::InnerVlanTci => parts.extend(tag_texts(field, value, mask, names)),
            Field::VlanVid | Field::VlanPcp | Field::InnerVlanVid | Field::InnerVlanPcp => {}
            Field::IpDscp if mask == field.full_mask() => parts.push(format!("nw_tos={}", value << 2)),
            // Its parts follow under their own names.
            Field::IpTos => {}
            _ => parts.push(format!("{}={}", field.name(), masked_text(field, value, mask, names))),
        }
    }
    parts
}

/// The Ethernet type, by its keyword if it has one, and whether that says the protocol too.
fn type_texts(matching: &Match, names: &dyn PortNames) -> (Vec<String>, bool) {
    let (eth_type, mask) = matching.field(Field::EthType);
    if mask == 0 {
        return (Vec::new(), false);
    }
    let (proto, proto_mask) = matching.field(Field::IpProto);
    let whole = mask == Field::EthType.full_mask();
    let is_type =
        |keyword: &&Keyword| whole && keyword.eth_type.is_some_and(|own| u128::from(own) == eth_type);
    let of_type = KEYWORDS.iter().filter(is_type);
    let with_proto = of_type.clone().find(|keyword| {
        proto_mask == Field::IpProto.full_mask()
            && keyword.ip_proto.is_some_and(|own| u128::from(own) == proto)
    });
    let keyword = with_proto.or_else(|| of_type.clone().find(|keyword| keyword.ip_proto.is_none()));
    let text = match keyword {
        Some(keyword) => keyword.word.to_owned(),
        None => format!("dl_type={}", masked_text(Field::EthType, eth_type, mask, names)),
    };
    (vec![text], with_proto.is_some())
}

/// What is asked of a tag, `field` being its tag control.
fn tag_texts(field: Field, tci: u128, mask: u128, names: &dyn PortNames) -> Vec<String> {
    const VID: u128 = 0x0fff;
    const PCP: u128 = 0xe000;
    let (vid_name, pcp_name) = match field {
        Field::VlanTci => ("dl_vlan", "dl_vlan_pcp"),
        _ => ("inner_vlan_vid", "inner_vlan_pcp"),
    };
    let whole = |part: u128| mask & part == part || mask & part == 0;
    // Only as names say it that imply the tag itself, and never as inner_vlan_vid=0, which denies it.
    let named = tci & PRESENT != 0 && mask != PRESENT && whole(VID) && whole(PCP);
    if !named || field != Field::VlanTci && mask & VID != 0 && tci & VID == 0 {
        return vec![format!("{}={}", field.name(), masked_text(field, tci, mask, names))];
    }
    let vid = (mask & VID != 0).then(|| format!("{vid_name}={}", tci & VID));
    let pcp = (mask & PCP != 0).then(|| format!("{pcp_name}={}", (tci & PCP) >> 13));
    vid.into_iter().chain(pcp).collect()
}

/// An action.
fn action_text(action: &RuleAction, names: &dyn PortNames) -> String {
    match action {
        RuleAction::Output(to) => output_text(*to, names),
        RuleAction::Enqueue { port, queue } => format!("enqueue:{}:{queue}", port_text(*port, names)),
        RuleAction::SetQueue(queue) => format!("set_queue:{queue}"),
        RuleAction::PopQueue => "pop_queue".to_owned(),
        RuleAction::Controller { max_len, id, reason } => controller_text(*max_len, *id, *reason),
        RuleAction::PushVlan(tpid) => format!("push_vlan:{tpid:#06x}"),
        RuleAction::PopVlan => "pop_vlan".to_owned(),
        RuleAction::ModVlanVid(vid) => format!("mod_vlan_vid:{vid}"),
        RuleAction::ModVlanPcp(pcp) => format!("mod_vlan_pcp:{pcp}"),
        RuleAction::SetField { field, value, mask } => set_text(*field, *value, *mask, names),
        RuleAction::Move { from, to } => format!("move:{}->{}", subfield_text(*from), subfield_text(*to)),
        RuleAction::Push(from) => format!("push:{}", subfield_text(*from)),
        RuleAction::Pop(to) => format!("pop:{}", subfield_text(*to)),
        RuleAction::DecTtl(ids) if ids.is_empty() => "dec_ttl".to_owned(),
        RuleAction::DecTtl(ids) => {
            let ids: Vec<String> = ids.iter().map(u16::to_string).collect();
            format!("dec_ttl({})", ids.join(","))
        }
        RuleAction::Resubmit { in_port, table } => resubmit_text(*in_port, *table, names),
        RuleAction::Clone(steps) => format!("clone({})", actions_text(steps, names)),
        RuleAction::Exit => "exit".to_owned(),
        RuleAction::DebugRecirc => "debug_recirc".to_owned(),
        RuleAction::Note(bytes) => {
            let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("note:{}", bytes.join("."))
        }
        RuleAction::Conjunction { id, dimension, dimensions } => {
            format!("conjunction({id},{}/{dimensions})", dimension + 1)
        }
        RuleAction::WriteMetadata { value, mask: u64::MAX } => format!("write_metadata:{value:#x}"),
        RuleAction::WriteMetadata { value, mask } => format!("write_metadata:{value:#x}/{mask:#x}"),
        RuleAction::ClearActions => "clear_actions".to_owned(),
        RuleAction::WriteActions(set) => format!("write_actions({})", actions_text(set, names)),
        RuleAction::GotoTable(table) => format!("goto_table:{}", table_text(*table, names)),
    }
}

fn controller_text(max_len: u16, id: u16, reason: Reason) -> String {
    if (id, reason) == (0, Reason::Action) {
        return format!("CONTROLLER:{max_len}");
    }
    let name = Reason::NAMES.iter().find(|(_, own)| *own == reason).map_or("action", |(name, _)| name);
    let parts = [
        (reason != Reason::Action).then(|| format!("reason={name}")),
        (max_len != u16::MAX).then(|| format!("max_len={max_len}")),
        (id != 0).then(|| format!("id={id}")),
    ];
    format!("controller({})", parts.into_iter().flatten().collect::<Vec<_>>().join(","))
}

fn output_text(to: OutputTo, names: &dyn PortNames) -> String {
    match to {
        OutputTo::Port(port) => match port.name() {
            Some(name) => name.to_owned(),
            None => format!("output:{}", port_text(port, names)),
        },
        OutputTo::Subfield(subfield) => format!("output:{}", subfield_text(subfield)),
    }
}

/// Fields that actions with a name of their own set as a whole, and which bits of them that is.
const OWN_NAMES: [(&str, Field, u128); 9] = [
    ("mod_dl_src", Field::EthSrc, Field::EthSrc.full_mask()),
    ("mod_dl_dst", Field::EthDst, Field::EthDst.full_mask()),
    ("mod_nw_src", Field::Ipv4Src, Field::Ipv4Src.full_mask()),
    ("mod_nw_dst", Field::Ipv4Dst, Field::Ipv4Dst.full_mask()),
    ("mod_nw_tos", Field::IpTos, DSCP),
    ("mod_nw_ecn", Field::IpEcn, Field::IpEcn.full_mask()),
    ("mod_nw_ttl", Field::IpTtl, Field::IpTtl.full_mask()),
    ("mod_tp_src", Field::TpSrc, Field::TpSrc.full_mask()),
    ("mod_tp_dst", Field::TpDst, Field::TpDst.full_mask()),
];

/// A setting, by the name that asks for no prerequisite if there is one.
fn set_text(field: Field, value: u128, mask: u128, names: &dyn PortNames) -> String {
    if let Some((own, ..)) = OWN_NAMES.iter().find(|(_, of, bits)| (*of, *bits) == (field, mask)) {
        return format!("{own}:{}", single_text(field, value, names));
    }
    let name = field.name();
    let whole = mask == field.full_mask();
    match field {
        Field::VlanVid if whole => format!("set_vlan_vid:{}", value & !PRESENT),
        Field::VlanPcp if whole => format!("set_vlan_pcp:{value}"),
        Field::IpTos => format!("set_field:{value}/{mask:#x}->{name}"),
        // Ports have no masks.
        Field::InPort | Field::InPortOxm if !whole => {
            let run = Subfield { field, offset: low_bit(mask), bits: low_bit(!(mask >> low_bit(mask))) };
            format!("load:{:#x}->{}", value >> run.offset, subfield_text(run))
        }
        _ => format!("set_field:{}->{name}", masked_text(field, value, mask, names)),
    }
}

/// The lowest bit that is set, 0 if there is none.
fn low_bit(bits: u128) -> u8 {
    (0..128).find(|&bit| bits >> bit & 1 == 1).unwrap_or(0)
}

fn subfield_text(subfield: Subfield) -> String {
    let Subfield { field, offset, bits } = subfield;
    let name = field.name();
    match bits {
        _ if (offset, bits) == (0, field.width()) => format!("{name}[]"),
        0 | 1 => format!("{name}[{offset}]"),
        _ => format!("{name}[{offset}..{}]", offset + bits - 1),
    }
}

fn resubmit_text(in_port: Option<RulePort>, table: Option<u8>, names: &dyn PortNames) -> String {
    let port = in_port.map(|port| port_text(port, names));
    match (port, table) {
        (Some(port), None) => format!("resubmit:{port}"),
        // No text says so; here it stands for what the operator would see happen.
        (None, None) => "resubmit:in_port".to_owned(),
        (port, Some(table)) => {
            format!("resubmit({},{})", port.unwrap_or_default(), table_text(table, names))
        }
    }
}
