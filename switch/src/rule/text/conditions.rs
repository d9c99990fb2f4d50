//! The match of a rule: keywords and fields with values.
//!
//! Their order means nothing: types and protocols are read first, since names such as `nw_src` and `tp_dst` depend on
//! them, and a field whose prerequisites no other condition states is refused rather than ignored.

use crate::rule::action::Subfield;
use crate::rule::field::Field;
use crate::rule::matching::Match;

use super::PortNames;
use super::cursor::{Form, Item, Piece};
use super::error::TextError;
use super::known::{Known, PRESENT, ingress};
use super::names::{KEYWORDS, Keyword, WORDS, is_field, unknown_word};
use super::values::{check_value, number, single, value_and_mask};

/// `dl_vlan` of packets without a tag.
const NO_VLAN: u128 = 0xffff;

/// What is being described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    /// The packets of a rule, with masks.
    Packets,
    /// One packet.
    Packet,
}

/// Conditions that have been read, in the making.
struct Conditions<'a> {
    subject: Subject,
    names: &'a dyn PortNames,
    known: Known,
    /// Fields that were named, and where.
    named: Vec<(Field, Piece<'a>)>,
}

/// The match that `items` describe.
///
/// # Errors
/// One of them is no condition, contradicts another, is repeated, or lacks its prerequisites.
pub(super) fn match_of(items: &[Item<'_>], names: &dyn PortNames) -> Result<Match, TextError> {
    read(Subject::Packets, items, names).map(Known::to_match)
}

/// What `items`, in the words of a match, say of one packet.
///
/// # Errors
/// As those of [`match_of`]; also masks.
pub(super) fn packet_of(items: &[Item<'_>], names: &dyn PortNames) -> Result<Known, TextError> {
    read(Subject::Packet, items, names)
}

fn read<'a>(subject: Subject, items: &[Item<'a>], names: &'a dyn PortNames) -> Result<Known, TextError> {
    let mut conditions = Conditions { subject, names, known: Known::default(), named: Vec::new() };
    // 1. What the meaning of other names depends on: types, then protocols.
    let mut fields = Vec::new();
    for item in items {
        match KEYWORDS.iter().find(|keyword| keyword.word == item.name.text()) {
            Some(keyword) if item.form == Form::Bare => conditions.keyword(keyword, item.whole)?,
            _ => fields.push(item),
        }
    }
    let rank = |item: &Item<'_>| match Field::from_name(item.name.text().trim_end_matches("[]")) {
        Some(Field::EthType) => 0,
        Some(Field::IpProto) => 1,
        _ => 2,
    };
    // 2. All fields.
    for wanted in 0..=2 {
        for item in fields.iter().filter(|item| rank(item) == wanted) {
            conditions.condition(item)?;
        }
    }
    // 3. Whether packets have them.
    for &(field, piece) in &conditions.named {
        conditions.known.require_stated(field.needs(), piece)?;
    }
    Ok(conditions.known)
}

impl<'a> Conditions<'a> {
    fn keyword(&mut self, keyword: &Keyword, piece: Piece<'a>) -> Result<(), TextError> {
        if let Some(eth_type) = keyword.eth_type {
            self.require(Field::EthType, u128::from(eth_type), u128::MAX, piece)?;
        }
        match keyword.ip_proto {
            Some(proto) => self.require(Field::IpProto, u128::from(proto), u128::MAX, piece),
            None => Ok(()),
        }
    }

    fn condition(&mut self, item: &Item<'a>) -> Result<(), TextError> {
        let name = item.name.text();
        if KEYWORDS.iter().any(|keyword| keyword.word == name) {
            return item.bare();
        }
        if name.contains('[') {
            return self.part(item);
        }
        if !is_field(name) {
            let words: Vec<&str> = KEYWORDS.iter().map(|keyword| keyword.word).chain(WORDS).collect();
            return Err(unknown_word(item.name, "a field or keyword", &words));
        }
        let field = match self.known.field(item.name)? {
            // The same port, in the bits of an older OpenFlow.
            Field::InPortOxm => Field::InPort,
            field => field,
        };
        if self.named.iter().any(|&(earlier, _)| earlier == field) {
            return Err(item.whole.error(format!("{} once only", field.name())));
        }
        let text = item.value(&format!("{name}=VALUE"))?;
        if name == "dl_vlan" {
            self.dl_vlan(item, text)?;
        } else {
            let (value, mask) = match self.subject {
                Subject::Packets => value_and_mask(field, text, self.names)?,
                Subject::Packet => (single(field, text, self.names)?, field.full_mask()),
            };
            self.bits(field, value, mask, item)?;
        }
        self.named.push((field, item.name));
        Ok(())
    }

    /// `FIELD[FIRST..LAST]=VALUE`: a part of a field, of which there may be several.
    fn part(&mut self, item: &Item<'a>) -> Result<(), TextError> {
        let Subfield { field, offset, bits } = self.known.subfield(item.name)?;
        let ones = u128::MAX >> (128 - u32::from(bits));
        let text = item.value(&format!("{}=VALUE", item.name.text()))?;
        let (value, mask) = (number(text, ones)? << offset, ones << offset);
        check_value(field, value, text)?;
        let mask = mask & field.full_mask();
        if matches!(field, Field::InPort | Field::InPortOxm) && mask != field.full_mask() {
            return Err(item.name.error("all of the port's number, as a port is either meant or not"));
        }
        let field = if field == Field::InPortOxm { Field::InPort } else { field };
        self.bits(field, value, mask, item)?;
        self.named.push((field, item.name));
        Ok(())
    }

    /// `dl_vlan`, which is `vlan_vid` with the tag understood to be there.
    fn dl_vlan(&mut self, item: &Item<'a>, text: Piece<'a>) -> Result<(), TextError> {
        if self.subject == Subject::Packets && matches!(text.text(), "*" | "ANY") {
            return Ok(());
        }
        match number(text, NO_VLAN) {
            Ok(NO_VLAN) => self.require(Field::VlanTci, 0, u128::MAX, item.whole),
            Ok(vid) if vid < PRESENT => self.require(Field::VlanVid, PRESENT | vid, u128::MAX, item.whole),
            _ => Err(text.error("a VLAN from 0 to 4095, or 0xffff for packets without a tag")),
        }
    }

    /// Adds a field with the meaning that its name gives to its bits.
    fn bits(&mut self, field: Field, value: u128, mask: u128, item: &Item<'a>) -> Result<(), TextError> {
        let whole = mask == field.full_mask();
        if field == Field::InPort && mask != 0 {
            let (field, value) = ingress(value);
            return self.require(field, value, field.full_mask(), item.whole);
        }
        let (value, mask) = match field {
            // Without ECN, as Open vSwitch has it; of a packet the whole byte may be told.
            Field::IpTos if whole && (self.subject == Subject::Packets || value & 3 == 0) => {
                (value & 0xfc, 0xfc)
            }
            // OpenFlow asks for the present bit, which is easily forgotten and without which no packet has the VLAN.
            Field::VlanVid | Field::InnerVlanVid if whole && value != 0 => (value | PRESENT, mask),
            _ => (value, mask),
        };
        let tag = match field {
            Field::VlanPcp => Some(Field::VlanTci),
            Field::InnerVlanPcp => Some(Field::InnerVlanTci),
            _ => None,
        };
        if let Some(tag) = tag.filter(|_| mask != 0) {
            self.require(tag, PRESENT, PRESENT, item.whole)?;
        }
        self.require(field, value, mask, item.whole)
    }

    /// Adds bits, which must not contradict those before.
    fn require(&mut self, field: Field, value: u128, mask: u128, piece: Piece<'a>) -> Result<(), TextError> {
        let (old, asked) = self.known.bits(field);
        if (old ^ value) & asked & mask & field.full_mask() != 0 {
            let what = match field {
                Field::EthType => "no other type than the one given before".to_owned(),
                Field::IpProto => "no other protocol than the one given before".to_owned(),
                _ => format!("no contradiction to an earlier condition on the same bits ({})", field.name()),
            };
            return Err(piece.error(what));
        }
        self.known.know(field, value, mask);
        Ok(())
    }
}
