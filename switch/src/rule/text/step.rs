//! One action: from its text to the step of a rule.
//!
//! A field can be changed where the match, or an action before, makes sure that the packet has it. Actions with a name of
//! their own, such as `mod_nw_src` and `dec_ttl`, come from OpenFlow 1.0, where they do nothing with packets that they are
//! not for; they are refused only if no packet of the rule can be one that they are for.

use crate::rule::action::{OutputTo, Reason, RuleAction, Subfield};
use crate::rule::field::Field;
use crate::rule::needs::Needs;
use crate::rule::port::RulePort;
use crate::wire::vlan::is_tag;

use super::PortNames;
use super::cursor::{Form, Item, Items, Piece};
use super::error::TextError;
use super::known::{Known, PRESENT};
use super::names::{nearest_action, port, table, table_text, unsupported_action};
use super::values::{check_value, number, number_as, single, value_and_mask};

/// The part of the type of service that `nw_tos` stands for.
pub(super) const DSCP: u128 = 0xfc;

/// OpenFlow's notes have eight bytes, or eight more, of which the first two lie in their header.
const NOTE_UNIT: usize = 8;
const NOTE_HEADER: usize = 2;

/// Reads the actions of a rule one by one.
pub(super) struct Step<'a> {
    /// The rule's table, if that is known.
    pub(super) table: Option<u8>,
    pub(super) names: &'a dyn PortNames,
    /// What is known of the packets at this action.
    pub(super) known: &'a Known,
}

impl Step<'_> {
    /// The step that `item` describes.
    ///
    /// # Errors
    /// It is no action, or one that such packets cannot undergo.
    pub(super) fn read(&self, item: &Item<'_>) -> Result<RuleAction, TextError> {
        let name = item.name.text().to_ascii_lowercase();
        let value = || item.value(&format!("{name}:VALUE"));
        match name.as_str() {
            "output" => self.output(value()?).map(sent_to),
            "enqueue" => self.enqueue(item),
            "set_queue" => number_as(value()?, u32::MAX).map(RuleAction::SetQueue),
            "pop_queue" => item.bare().map(|()| RuleAction::PopQueue),
            "controller" => controller(item),
            "push_vlan" => push_vlan(value()?),
            "pop_vlan" | "strip_vlan" => item.bare().map(|()| RuleAction::PopVlan),
            "mod_vlan_vid" => number_as(value()?, 0xfff).map(RuleAction::ModVlanVid),
            "mod_vlan_pcp" => number_as(value()?, 7).map(RuleAction::ModVlanPcp),
            "set_vlan_vid" => {
                let (field, vid) = (Field::VlanVid, number(value()?, 0xfff)?);
                self.known.require_possible(Needs::Vlan, item.whole)?;
                Ok(RuleAction::SetField { field, value: PRESENT | vid, mask: field.full_mask() })
            }
            "set_vlan_pcp" => self.mod_field(Field::VlanPcp, item),
            "mod_dl_src" => self.mod_field(Field::EthSrc, item),
            "mod_dl_dst" => self.mod_field(Field::EthDst, item),
            "mod_nw_src" => self.mod_field(Field::Ipv4Src, item),
            "mod_nw_dst" => self.mod_field(Field::Ipv4Dst, item),
            "mod_nw_tos" | "set_nw_tos" => self.mod_field(Field::IpTos, item),
            "mod_nw_ecn" | "set_nw_ecn" => self.mod_field(Field::IpEcn, item),
            "mod_nw_ttl" | "set_nw_ttl" => self.mod_field(Field::IpTtl, item),
            "mod_tp_src" => self.mod_field(Field::TpSrc, item),
            "mod_tp_dst" => self.mod_field(Field::TpDst, item),
            "set_field" => self.set_field(value()?),
            "load" => self.load(value()?),
            "move" => self.move_bits(value()?),
            "push" => self.subfield(value()?).map(RuleAction::Push),
            "pop" => self.pop(value()?),
            "dec_ttl" => self.dec_ttl(item),
            "resubmit" => self.resubmit(item),
            "exit" => item.bare().map(|()| RuleAction::Exit),
            "debug_recirc" => item.bare().map(|()| RuleAction::DebugRecirc),
            "note" => note(item),
            "conjunction" => conjunction(item),
            "write_metadata" => write_metadata(value()?),
            "clear_actions" => item.bare().map(|()| RuleAction::ClearActions),
            "goto_table" => self.goto_table(value()?),
            _ => self.bare_port(item),
        }
    }

    /// What follows `output:`.
    fn output(&self, value: Piece<'_>) -> Result<OutputTo, TextError> {
        let text = value.text();
        if text.contains('=') {
            return Err(value
                .error("a port; packets are not cut short here, other than for controller(max_len=BYTES)"));
        }
        let is_field = text.contains('[') || Field::from_name(text).is_some();
        let is_port = RulePort::from_name(text).is_some() || self.names.number(text).is_some();
        if is_field && !is_port {
            return self.subfield(value).map(OutputTo::Subfield);
        }
        self.port_to_send_to(value).map(OutputTo::Port)
    }

    fn port_to_send_to(&self, value: Piece<'_>) -> Result<RulePort, TextError> {
        match port(value, self.names)? {
            RulePort::NONE | RulePort::UNSET => Err(value.error("a port; to send nowhere, write drop")),
            port => Ok(port),
        }
    }

    /// `enqueue:PORT:QUEUE` or `enqueue(PORT,QUEUE)`.
    fn enqueue(&self, item: &Item<'_>) -> Result<RuleAction, TextError> {
        let example = "enqueue(PORT,QUEUE)";
        let value = item.value(example)?;
        let parts = value.split_once(",").or_else(|| value.split_once(":"));
        let (to, queue) = parts.ok_or_else(|| value.error(format!("a port and a queue, as in {example}")))?;
        let port = self.port_to_send_to(to.trim())?;
        Ok(RuleAction::Enqueue { port, queue: number_as(queue.trim(), u32::MAX)? })
    }

    /// A port's name or number as an action of its own.
    fn bare_port(&self, item: &Item<'_>) -> Result<RuleAction, TextError> {
        let name = item.name.text();
        if let Some(why) = unsupported_action(name) {
            return Err(item.whole.error(format!("an action that this switch has; {why}")));
        }
        let is_port = name.starts_with('"')
            || name.bytes().all(|byte| byte.is_ascii_digit())
            || RulePort::from_name(name).is_some()
            || self.names.number(name).is_some();
        if is_port {
            item.bare()?;
            return self.port_to_send_to(item.name).map(|port| sent_to(OutputTo::Port(port)));
        }
        Err(match nearest_action(name) {
            Some(near) => item.name.error(format!("an action or a port; did you mean {near:?}?")),
            None => item.name.error("an action, as ovs-actions(7) lists them, or a port"),
        })
    }

    /// `mod_nw_src:10.0.0.1` and its like: all of a field, of the packets that have it.
    fn mod_field(&self, field: Field, item: &Item<'_>) -> Result<RuleAction, TextError> {
        let text = item.value(&format!("{}:VALUE", item.name.text()))?;
        let value = single(field, text, self.names)?;
        let mask = whole_of(field, value, text)?;
        self.known.require_possible(field.needs(), item.whole)?;
        Ok(RuleAction::SetField { field, value, mask })
    }

    /// `VALUE[/MASK]->FIELD`.
    fn set_field(&self, text: Piece<'_>) -> Result<RuleAction, TextError> {
        let (value, to) = text.split_once("->").ok_or_else(|| text.error("set_field:VALUE->FIELD"))?;
        let to = to.strip_suffix("[]").unwrap_or(to);
        if let Some((_, range)) = to.split_once("[") {
            return Err(range.error("a whole field; write load:VALUE->FIELD[FIRST..LAST] for a part of it"));
        }
        let field = self.known.field(to)?;
        let (bits, mask) = match value.split_once("/") {
            Some((_, mask)) => {
                let (bits, ones) = value_and_mask(field, value, self.names)?;
                if ones == 0 {
                    return Err(mask.error("a mask with a bit in it"));
                }
                (bits, ones)
            }
            None => {
                let bits = single(field, value, self.names)?;
                (bits, whole_of(field, bits, value)?)
            }
        };
        self.set(field, bits, mask, to)
    }

    /// `VALUE->FIELD[FIRST..LAST]`.
    fn load(&self, text: Piece<'_>) -> Result<RuleAction, TextError> {
        let (value, to) =
            text.split_once("->").ok_or_else(|| text.error("load:VALUE->FIELD[FIRST..LAST]"))?;
        let run = self.subfield(to)?;
        let ones = u128::MAX >> (128 - u32::from(run.bits));
        let bits = number(value, ones)?;
        check_value(run.field, bits << run.offset, value)?;
        self.set(run.field, bits << run.offset, ones << run.offset & run.field.full_mask(), to)
    }

    /// The action that overwrites bits of a field, if packets have it.
    fn set(&self, field: Field, value: u128, mask: u128, piece: Piece<'_>) -> Result<RuleAction, TextError> {
        self.check_writable(field, piece)?;
        // Whoever writes a VLAN means a tag of that VLAN, with or without the present bit in the number.
        let present = match field {
            Field::VlanVid | Field::InnerVlanVid if mask == field.full_mask() => PRESENT,
            _ => 0,
        };
        Ok(RuleAction::SetField { field, value: value | present, mask })
    }

    fn check_writable(&self, field: Field, piece: Piece<'_>) -> Result<(), TextError> {
        if !field.is_writable() {
            return Err(piece.error(format!("a field that can be changed, which {} cannot", field.name())));
        }
        match field {
            // A match on them asks for nothing, as it may be about the lack of a tag.
            Field::VlanVid => self.known.require(Needs::Vlan, piece).map_err(|error| {
                let expected = format!("{}, or push_vlan or mod_vlan_vid before it", error.expected);
                TextError { expected, ..error }
            }),
            Field::InnerVlanVid => self.known.require(Needs::InnerVlan, piece),
            _ => self.known.require(field.needs(), piece),
        }
    }

    /// `FIELD[FIRST..LAST]->FIELD[FIRST..LAST]`.
    fn move_bits(&self, text: Piece<'_>) -> Result<RuleAction, TextError> {
        let (from_text, to_text) =
            text.split_once("->").ok_or_else(|| text.error("move:FIELD[FIRST..LAST]->FIELD[FIRST..LAST]"))?;
        let (from, to) = (self.subfield(from_text)?, self.subfield(to_text)?);
        if from.bits != to.bits {
            return Err(to_text.error(format!("{} bits, as many as are moved", from.bits)));
        }
        self.check_writable(to.field, to_text)?;
        Ok(RuleAction::Move { from, to })
    }

    fn pop(&self, text: Piece<'_>) -> Result<RuleAction, TextError> {
        let to = self.subfield(text)?;
        self.check_writable(to.field, text)?;
        Ok(RuleAction::Pop(to))
    }

    /// A run of bits of a field that packets have.
    fn subfield(&self, text: Piece<'_>) -> Result<Subfield, TextError> {
        let run = self.known.subfield(text)?;
        self.known.require(run.field.needs(), text)?;
        Ok(run)
    }

    /// `dec_ttl`, or `dec_ttl(ID,...)` with the listeners that are to be told.
    fn dec_ttl(&self, item: &Item<'_>) -> Result<RuleAction, TextError> {
        self.known.require_possible(Needs::Ip, item.whole)?;
        if item.form == Form::Bare {
            return Ok(RuleAction::DecTtl(Box::default()));
        }
        let ids = item.value("dec_ttl(1,2)")?.arguments();
        ids.map(|id| number_as(id, u16::MAX)).collect::<Result<_, _>>().map(RuleAction::DecTtl)
    }

    /// `resubmit:PORT`, `resubmit(PORT)`, `resubmit(PORT,TABLE)` with either left out.
    fn resubmit(&self, item: &Item<'_>) -> Result<RuleAction, TextError> {
        if item.form == Form::Bare {
            return Err(item.whole.error("resubmit(PORT,TABLE), resubmit(,TABLE) or resubmit:PORT"));
        }
        let parts: Vec<Piece<'_>> = item.value.arguments().collect();
        if let Some(further) = parts.get(2) {
            return Err(further.error("a port and a table at most, as connections are not tracked here"));
        }
        let in_port = match parts.first() {
            Some(piece) if !piece.text().is_empty() => Some(port(*piece, self.names)?),
            _ => None,
        };
        let in_port = in_port.filter(|&port| port != RulePort::IN_PORT);
        let table = match parts.get(1) {
            Some(piece) if !piece.text().is_empty() && piece.text() != "255" => {
                Some(table(*piece, self.names)?)
            }
            _ => None,
        };
        if in_port.is_none() && table.is_none() {
            return Err(item
                .whole
                .error("another port or table than the packet's own, or it would go round for ever"));
        }
        Ok(RuleAction::Resubmit { in_port, table })
    }

    fn goto_table(&self, text: Piece<'_>) -> Result<RuleAction, TextError> {
        let to = table(text, self.names)?;
        match self.table {
            None => Err(text.error("table=TABLE beside it, as it must lead to a later one")),
            Some(own) if to <= own => {
                let own = table_text(own, self.names);
                Err(text.error(format!("a later table than the rule's own, which is {own}")))
            }
            Some(_) => Ok(RuleAction::GotoTable(to)),
        }
    }
}

/// The mask of a field that is set without one.
fn whole_of(field: Field, value: u128, piece: Piece<'_>) -> Result<u128, TextError> {
    match field {
        Field::IpTos if value & !DSCP != 0 => {
            Err(piece.error("a multiple of 4, as the two low bits are ECN's (nw_ecn)"))
        }
        Field::IpTos => Ok(DSCP),
        _ => Ok(field.full_mask()),
    }
}

/// The action that sends a packet to `to`, or hands it out.
fn sent_to(to: OutputTo) -> RuleAction {
    match to {
        OutputTo::Port(RulePort::CONTROLLER) => {
            RuleAction::Controller { max_len: u16::MAX, id: 0, reason: Reason::Action }
        }
        _ => RuleAction::Output(to),
    }
}

fn push_vlan(text: Piece<'_>) -> Result<RuleAction, TextError> {
    number_as(text, u16::MAX)
        .ok()
        .filter(|&tpid| is_tag(tpid))
        .map(RuleAction::PushVlan)
        .ok_or_else(|| text.error("0x8100 or 0x88a8"))
}

/// `controller`, `controller:BYTES` or `controller(max_len=BYTES,id=LISTENER,reason=REASON)`.
fn controller(item: &Item<'_>) -> Result<RuleAction, TextError> {
    let (mut max_len, mut id, mut reason) = (u16::MAX, 0, Reason::Action);
    match item.form {
        Form::Bare => {}
        Form::Assigned => max_len = number_as(item.value("controller:128")?, u16::MAX)?,
        Form::Called if item.value.text().bytes().all(|byte| byte.is_ascii_digit()) => {
            max_len = number_as(item.value("controller(128)")?, u16::MAX)?;
        }
        Form::Called => {
            for option in Items::of(item.value) {
                let option = option?;
                match option.name.text() {
                    "max_len" => max_len = number_as(option.value("max_len=128")?, u16::MAX)?,
                    "id" => id = number_as(option.value("id=1")?, u16::MAX)?,
                    "reason" => reason = reason_of(option.value("reason=action")?)?,
                    "userdata" => {
                        return Err(option.whole.error("no userdata, as listeners get packets alone"));
                    }
                    "pause" => {
                        return Err(option.whole.error("no pause, as no listener can resume a packet"));
                    }
                    "meter_id" => return Err(option.whole.error("no meter_id, as there are no meters")),
                    _ => return Err(option.whole.error("max_len=, id= or reason=")),
                }
            }
        }
    }
    Ok(RuleAction::Controller { max_len, id, reason })
}

fn reason_of(text: Piece<'_>) -> Result<Reason, TextError> {
    let found = Reason::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.text()));
    found
        .map(|&(_, reason)| reason)
        .ok_or_else(|| text.error(format!("one of {}", Reason::NAMES.map(|(name, _)| name).join(", "))))
}

/// `note:41.42.43`, filled up with zeros as OpenFlow does.
fn note(item: &Item<'_>) -> Result<RuleAction, TextError> {
    let digits: Vec<u8> = item.value.text().bytes().filter(|&byte| byte != b'.').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit) && digits.len().is_multiple_of(2);
    let bytes: Option<Vec<u8>> = if is_hex { digits.chunks(2).map(byte).collect() } else { None };
    let mut bytes = bytes.ok_or_else(|| item.value.error("bytes in hexadecimal, as in note:41.42.43"))?;
    let len = (bytes.len() + NOTE_HEADER).next_multiple_of(NOTE_UNIT) - NOTE_HEADER;
    bytes.resize(len.max(NOTE_UNIT - NOTE_HEADER), 0);
    Ok(RuleAction::Note(bytes.into()))
}

/// `conjunction(ID,K/N)`.
fn conjunction(item: &Item<'_>) -> Result<RuleAction, TextError> {
    let example = "conjunction(ID,K/N)";
    let value = item.value(example)?;
    let parts = value.split_once(",").and_then(|(id, rest)| Some((id, rest.split_once("/")?)));
    let (id, (nth, count)) = parts.ok_or_else(|| value.error(format!("{example}: dimension K of N")))?;
    let dimensions: u8 = number_as(count.trim(), 64)?;
    if dimensions < 2 {
        return Err(count.error("at least 2 dimensions; with one, other rules can do without a conjunction"));
    }
    let dimension = number_as(nth.trim(), dimensions).ok().and_then(|nth| nth.checked_sub(1));
    let dimension = dimension.ok_or_else(|| nth.error(format!("a dimension from 1 to {dimensions}")))?;
    Ok(RuleAction::Conjunction { id: number_as(id.trim(), u32::MAX)?, dimension, dimensions })
}

/// `VALUE[/MASK]`.
fn write_metadata(text: Piece<'_>) -> Result<RuleAction, TextError> {
    let (value, mask) = match text.split_once("/") {
        Some((value, mask)) => (number_as(value, u64::MAX)?, number_as(mask, u64::MAX)?),
        None => (number_as(text, u64::MAX)?, u64::MAX),
    };
    Ok(RuleAction::WriteMetadata { value: value & mask, mask })
}
