//! The actions of a rule, and OpenFlow's instructions among them.
//!
//! Actions run in the order in which they stand. The instructions behind them have one order only, which is checked:
//! `clear_actions`, `write_actions`, `write_metadata`, `goto_table`. A field can be changed where the match, or an action
//! before, makes sure that the packet has it.

use crate::rule::action::{OutputTo, RuleAction, Subfield};
use crate::rule::field::Field;
use crate::rule::matching::Match;
use crate::rule::needs::Needs;
use crate::rule::port::RulePort;
use crate::rule::set::TABLES;
use crate::wire::vlan::is_tag;

use super::PortNames;
use super::cursor::{Form, Item, Items, Piece};
use super::error::TextError;
use super::known::{Known, PRESENT};
use super::names::port;
use super::values::{number, number_as, single, value_and_mask};

/// The part of the type of service that `nw_tos` stands for.
pub(super) const DSCP: u128 = 0xfc;

/// Every word that begins an action.
const ACTIONS: [&str; 45] = [
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
    "controller",
    "dec_ttl",
    "drop",
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
    "output",
    "pop_vlan",
    "push_vlan",
    "resubmit",
    "set_field",
    "set_nw_ecn",
    "set_nw_tos",
    "set_nw_ttl",
    "set_vlan_pcp",
    "set_vlan_vid",
    "strip_vlan",
    "table",
    "write_actions",
    "write_metadata",
];

/// Open vSwitch's further actions.
const UNSUPPORTED: [&str; 35] = [
    "bundle",
    "bundle_load",
    "check_pkt_larger",
    "clone",
    "conjunction",
    "ct",
    "ct_clear",
    "debug_recirc",
    "debug_slow",
    "dec_mpls_ttl",
    "dec_nsh_ttl",
    "decap",
    "delete_field",
    "encap",
    "enqueue",
    "exit",
    "fin_timeout",
    "group",
    "learn",
    "meter",
    "multipath",
    "nat",
    "note",
    "pop",
    "pop_mpls",
    "pop_queue",
    "push",
    "push_mpls",
    "sample",
    "set_mpls_label",
    "set_mpls_tc",
    "set_mpls_ttl",
    "set_queue",
    "set_tunnel",
    "set_tunnel64",
];

/// Where an action may stand: none before one of a lower stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Apply,
    Clear,
    Write,
    Metadata,
    Goto,
}

impl Stage {
    fn of(action: &RuleAction) -> Self {
        match action {
            RuleAction::ClearActions => Stage::Clear,
            RuleAction::WriteActions(_) => Stage::Write,
            RuleAction::WriteMetadata { .. } => Stage::Metadata,
            RuleAction::GotoTable(_) => Stage::Goto,
            RuleAction::Output(_)
            | RuleAction::Controller { .. }
            | RuleAction::PushVlan(_)
            | RuleAction::PopVlan
            | RuleAction::ModVlanVid(_)
            | RuleAction::ModVlanPcp(_)
            | RuleAction::SetField { .. }
            | RuleAction::Move { .. }
            | RuleAction::DecTtl
            | RuleAction::Resubmit { .. } => Stage::Apply,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Stage::Apply => "other actions",
            Stage::Clear => "clear_actions",
            Stage::Write => "write_actions",
            Stage::Metadata => "write_metadata",
            Stage::Goto => "goto_table",
        }
    }
}

/// Where a list of actions stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind `actions=`.
    Rule,
    /// In `apply_actions(...)`.
    Apply,
    /// In `write_actions(...)`.
    Set,
}

/// Actions that stand in a rule alone.
const INSTRUCTIONS: [&str; 5] =
    ["apply_actions", "clear_actions", "goto_table", "write_actions", "write_metadata"];

/// Actions without a place in OpenFlow's order of an action set.
const NOT_IN_SETS: [&str; 3] = ["CONTROLLER", "controller", "resubmit"];

/// The actions that `text` describes, for packets of `matching` in `table`, if that is known.
///
/// # Errors
/// One of them is no action, stands where it cannot, or changes what packets need not have.
pub(super) fn actions_of(
    text: Piece<'_>,
    table: Option<u8>,
    matching: &Match,
    names: &dyn PortNames,
) -> Result<Box<[RuleAction]>, TextError> {
    let mut list =
        List { table, names, known: Known::of(matching), stage: Stage::Apply, actions: Vec::new() };
    list.read(text, Place::Rule)?;
    Ok(list.actions.into_boxed_slice())
}

/// A list of actions in the making.
struct List<'a> {
    table: Option<u8>,
    names: &'a dyn PortNames,
    /// What is known of packets behind the actions so far.
    known: Known,
    stage: Stage,
    actions: Vec<RuleAction>,
}

impl List<'_> {
    fn read(&mut self, text: Piece<'_>, place: Place) -> Result<(), TextError> {
        let items = Items::of(text).collect::<Result<Vec<_>, _>>()?;
        for item in &items {
            let name = item.name.text();
            // Instructions do not nest, so neither does this function by more than one call.
            if place != Place::Rule && INSTRUCTIONS.contains(&name) {
                return Err(item.whole.error("an action, no instruction"));
            }
            if place == Place::Set && NOT_IN_SETS.contains(&name) {
                return Err(item.whole.error("an action that has a place in the order of an action set"));
            }
            match name {
                "drop" => {
                    item.bare()?;
                    if items.len() > 1 {
                        return Err(item.whole.error("no drop beside other actions"));
                    }
                }
                "apply_actions" if self.stage == Stage::Apply => {
                    self.read(item.called("apply_actions(output:1)")?, Place::Apply)?;
                }
                _ => {
                    let action = self.action(item)?;
                    self.push(action, item.whole)?;
                }
            }
        }
        Ok(())
    }

    /// Adds an action, if it may stand here, and follows what it does to packets.
    fn push(&mut self, action: RuleAction, piece: Piece<'_>) -> Result<(), TextError> {
        let stage = Stage::of(&action);
        if stage < self.stage {
            return Err(piece.error(format!("{} before {}", stage.name(), self.stage.name())));
        }
        if stage == self.stage && stage != Stage::Apply {
            return Err(piece.error(format!("{} once only", stage.name())));
        }
        self.stage = stage;
        match &action {
            RuleAction::PushVlan(_) => self.known.push_vlan(),
            RuleAction::PopVlan => self.known.pop_vlan(),
            RuleAction::ModVlanVid(_) | RuleAction::ModVlanPcp(_) => self.known.has_vlan(),
            RuleAction::SetField { field: Field::VlanTci, value, mask } if value & mask & PRESENT != 0 => {
                self.known.has_vlan();
            }
            RuleAction::DecTtl => self.known.require(Needs::Ip, piece)?,
            RuleAction::SetField { .. }
            | RuleAction::Output(_)
            | RuleAction::Controller { .. }
            | RuleAction::Move { .. }
            | RuleAction::Resubmit { .. }
            | RuleAction::WriteMetadata { .. }
            | RuleAction::ClearActions
            | RuleAction::WriteActions(_)
            | RuleAction::GotoTable(_) => {}
        }
        self.actions.push(action);
        Ok(())
    }

    fn action(&self, item: &Item<'_>) -> Result<RuleAction, TextError> {
        let name = item.name.text();
        let value = || item.assigned(&format!("{name}:VALUE"));
        match name {
            "output" if item.form == Form::Called => {
                Err(item.whole.error("output:PORT; to cut packets short is not supported"))
            }
            "output" => self.output(value()?).map(sent_to),
            "controller" | "CONTROLLER" => controller(item),
            "push_vlan" => push_vlan(value()?),
            "pop_vlan" | "strip_vlan" => item.bare().map(|()| RuleAction::PopVlan),
            "mod_vlan_vid" => number_as(value()?, 0xfff).map(RuleAction::ModVlanVid),
            "mod_vlan_pcp" => number_as(value()?, 7).map(RuleAction::ModVlanPcp),
            "set_vlan_vid" => {
                let vid = number(value()?, 0xfff)?;
                self.set(Field::VlanVid, PRESENT | vid, Field::VlanVid.full_mask(), item.whole)
            }
            "set_vlan_pcp" => self.mod_field(Field::VlanPcp, item),
            "mod_dl_src" => self.mod_field(Field::EthSrc, item),
            "mod_dl_dst" => self.mod_field(Field::EthDst, item),
            "mod_nw_src" => self.mod_field(Field::Ipv4Src, item),
            "mod_nw_dst" => self.mod_field(Field::Ipv4Dst, item),
            "mod_nw_tos" | "set_nw_tos" => self.mod_field(Field::IpTos, item),
            "mod_nw_ecn" | "set_nw_ecn" => self.mod_field(Field::IpEcn, item),
            "mod_nw_ttl" | "set_nw_ttl" => self.mod_field(Field::IpTtl, item),
            "mod_tp_src" => self.mod_port(item, [Field::TcpSrc, Field::UdpSrc, Field::SctpSrc]),
            "mod_tp_dst" => self.mod_port(item, [Field::TcpDst, Field::UdpDst, Field::SctpDst]),
            "set_field" => self.set_field(value()?),
            "load" => self.load(value()?),
            "move" => self.move_bits(value()?),
            "dec_ttl" if item.form != Form::Bare => {
                Err(item.value.error("dec_ttl alone; ids of controllers are not supported"))
            }
            "dec_ttl" => Ok(RuleAction::DecTtl),
            "resubmit" => self.resubmit(item),
            "write_metadata" => write_metadata(value()?),
            "clear_actions" => item.bare().map(|()| RuleAction::ClearActions),
            "write_actions" => self.write_actions(item.called("write_actions(output:1)")?),
            "apply_actions" => Err(item.whole.error(format!("apply_actions before {}", self.stage.name()))),
            "goto_table" => self.goto_table(value()?),
            _ => self.bare_port(item),
        }
    }

    /// What follows `output:`.
    fn output(&self, value: Piece<'_>) -> Result<OutputTo, TextError> {
        let text = value.text();
        let is_field = text.contains('[') || Field::from_name(text).is_some();
        let is_port = RulePort::from_name(text).is_some() || self.names.number(text).is_some();
        if is_field && !is_port {
            return self.subfield(value).map(OutputTo::Subfield);
        }
        match port(value, self.names)? {
            RulePort::NONE | RulePort::UNSET => Err(value.error("a port; to send nowhere, write drop")),
            port => Ok(OutputTo::Port(port)),
        }
    }

    /// A port's name or number as an action of its own.
    fn bare_port(&self, item: &Item<'_>) -> Result<RuleAction, TextError> {
        let name = item.name.text();
        if UNSUPPORTED.contains(&name.to_ascii_lowercase().as_str()) {
            let what = format!("an action that this switch has; Open vSwitch's {name} is not supported");
            return Err(item.whole.error(what));
        }
        let is_port = name.starts_with('"')
            || name.bytes().all(|byte| byte.is_ascii_digit())
            || RulePort::from_name(name).is_some()
            || self.names.number(name).is_some();
        if is_port {
            item.bare()?;
            return self.output(item.name).map(sent_to);
        }
        Err(match crate::nearest::nearest(name, ACTIONS.into_iter()) {
            Some(near) => item.name.error(format!("an action or a port; did you mean {near:?}?")),
            None => item.name.error("an action, as ovs-actions(7) lists them, or a port"),
        })
    }

    /// `mod_nw_src:10.0.0.1` and its like: all of a field.
    fn mod_field(&self, field: Field, item: &Item<'_>) -> Result<RuleAction, TextError> {
        let text = item.assigned(&format!("{}:VALUE", item.name.text()))?;
        let value = single(field, text, self.names)?;
        let mask = self.whole_of(field, value, text)?;
        self.set(field, value, mask, item.whole)
    }

    /// `mod_tp_src` and `mod_tp_dst`, of whichever protocol the packets have.
    fn mod_port(&self, item: &Item<'_>, fields: [Field; 3]) -> Result<RuleAction, TextError> {
        let field = fields.into_iter().find(|field| self.known.states(field.needs()));
        let field =
            field.ok_or_else(|| item.whole.error("tcp, udp or sctp (tcp6 ... for IPv6) in the match"))?;
        self.mod_field(field, item)
    }

    /// The mask of a field that is set without one.
    fn whole_of(&self, field: Field, value: u128, piece: Piece<'_>) -> Result<u128, TextError> {
        match field {
            Field::IpTos if value & !DSCP != 0 => {
                Err(piece.error("a multiple of 4, as the two low bits are ECN's (nw_ecn)"))
            }
            Field::IpTos => Ok(DSCP),
            _ => Ok(field.full_mask()),
        }
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
                (bits, self.whole_of(field, bits, value)?)
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
        self.set(run.field, bits << run.offset, ones << run.offset, to)
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

    /// `FIELD`, `FIELD[]`, `FIELD[BIT]` or `FIELD[FIRST..LAST]`, of a field that packets have.
    fn subfield(&self, text: Piece<'_>) -> Result<Subfield, TextError> {
        let (name, range) = match text.split_once("[") {
            None => (text, None),
            Some((name, range)) => {
                let range = range.strip_suffix("]").ok_or_else(|| range.behind().error("a closing \"]\""))?;
                (name, Some(range).filter(|range| !range.text().is_empty()))
            }
        };
        let field = self.known.field(name)?;
        self.known.require(field.needs(), name)?;
        let Some(range) = range else { return Ok(Subfield { field, offset: 0, bits: field.bits() }) };
        let bit = |piece: Piece<'_>| {
            number_as(piece, field.bits() - 1).map_err(|_| {
                piece.error(format!("a bit of {}, from 0 to {}", field.name(), field.bits() - 1))
            })
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

    /// `resubmit:PORT`, `resubmit(PORT)`, `resubmit(PORT,TABLE)` with either left out.
    fn resubmit(&self, item: &Item<'_>) -> Result<RuleAction, TextError> {
        if item.form == Form::Bare {
            return Err(item.whole.error("resubmit(PORT,TABLE), resubmit(,TABLE) or resubmit:PORT"));
        }
        let parts: Vec<Piece<'_>> = item.value.arguments().collect();
        if let Some(further) = parts.get(2) {
            return Err(
                further.error("a port and a table at most; what else Open vSwitch takes is not supported")
            );
        }
        let in_port = match parts.first() {
            Some(piece) if !piece.text().is_empty() && !piece.text().eq_ignore_ascii_case("in_port") => {
                Some(port(*piece, self.names)?)
            }
            _ => None,
        };
        let table = match parts.get(1) {
            Some(piece) if !piece.text().is_empty() && piece.text() != "255" => {
                Some(number_as(*piece, TABLES - 1)?)
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

    /// The actions in `write_actions(...)`.
    fn write_actions(&self, text: Piece<'_>) -> Result<RuleAction, TextError> {
        let mut set = List {
            table: None,
            names: self.names,
            known: self.known,
            stage: Stage::Apply,
            actions: Vec::new(),
        };
        set.read(text, Place::Set)?;
        let subfield = |action: &RuleAction| matches!(action, RuleAction::Output(OutputTo::Subfield(_)));
        if set.actions.iter().any(subfield) {
            return Err(text.error("outputs to ports in an action set, not to the number in a field"));
        }
        Ok(RuleAction::WriteActions(set.actions.into_boxed_slice()))
    }

    fn goto_table(&self, text: Piece<'_>) -> Result<RuleAction, TextError> {
        let to = number_as(text, TABLES - 1)?;
        match self.table {
            None => Err(text.error("table=TABLE beside it, as it must lead to a later one")),
            Some(table) if to <= table => {
                Err(text.error(format!("a later table than the rule's own, which is {table}")))
            }
            Some(_) => Ok(RuleAction::GotoTable(to)),
        }
    }
}

/// The action that sends a packet to `to`, or hands it out.
fn sent_to(to: OutputTo) -> RuleAction {
    match to {
        OutputTo::Port(RulePort::CONTROLLER) => RuleAction::Controller { max_len: u16::MAX, id: 0 },
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

/// `controller`, `controller:BYTES` or `controller(max_len=BYTES,id=LISTENER)`.
fn controller(item: &Item<'_>) -> Result<RuleAction, TextError> {
    let (mut max_len, mut id) = (u16::MAX, 0);
    match item.form {
        Form::Bare => {}
        Form::Assigned => max_len = number_as(item.assigned("controller:128")?, u16::MAX)?,
        Form::Called => {
            for option in Items::of(item.value) {
                let option = option?;
                match option.name.text() {
                    "max_len" => max_len = number_as(option.assigned("max_len=128")?, u16::MAX)?,
                    "id" => id = number_as(option.assigned("id=1")?, u16::MAX)?,
                    _ => return Err(option.whole.error("max_len= or id=; others are not supported")),
                }
            }
        }
    }
    Ok(RuleAction::Controller { max_len, id })
}

/// `VALUE[/MASK]`.
fn write_metadata(text: Piece<'_>) -> Result<RuleAction, TextError> {
    let (value, mask) = match text.split_once("/") {
        Some((value, mask)) => (number_as(value, u64::MAX)?, number_as(mask, u64::MAX)?),
        None => (number_as(text, u64::MAX)?, u64::MAX),
    };
    Ok(RuleAction::WriteMetadata { value: value & mask, mask })
}
