//! VLAN membership of a port as the operator writes it: an access port, or a trunk with an optional native VLAN.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::error::Problem;

/// Largest VLAN that a frame can carry (IEEE 802.1Q reserves 4095).
pub const MAX_VLAN: u16 = 4094;

/// Which VLANs a port carries, and which of them goes without a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum VlanSpec {
    /// The port is in one VLAN and sees no tags.
    Access {
        /// The VLAN, 1 to [`MAX_VLAN`].
        vlan: u16,
    },
    /// The port sees tags.
    Trunk {
        /// VLANs it carries with a tag; `None` carries all.
        trunks: Option<VlanSet>,
        /// VLAN of untagged frames, 1 to [`MAX_VLAN`]; `None` is VLAN 0, the frames that carry no tag anywhere.
        native: Option<u16>,
    },
}

impl Default for VlanSpec {
    /// Every VLAN, tags and all: without configuration, ports of one switch all see each other.
    fn default() -> Self {
        VlanSpec::Trunk { trunks: None, native: None }
    }
}

impl fmt::Display for VlanSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VlanSpec::Access { vlan } => write!(f, "access {vlan}"),
            VlanSpec::Trunk { trunks, native } => {
                match trunks {
                    Some(set) => write!(f, "trunk {set}")?,
                    None => f.write_str("trunk all")?,
                }
                native.map_or(Ok(()), |vlan| write!(f, " native {vlan}"))
            }
        }
    }
}

/// A set of VLANs, written `10+20-29`.
///
/// # Invariants
/// Ranges are ascending, disjoint and not adjacent; each lies in `1..=MAX_VLAN`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct VlanSet(Vec<RangeInclusive<u16>>);

impl VlanSet {
    /// The set's ranges, ascending.
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.0
    }

    /// Every VLAN of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().cloned().flatten()
    }

    /// Whether `vlan` is in the set.
    pub fn contains(&self, vlan: u16) -> bool {
        self.0.iter().any(|range| range.contains(&vlan))
    }

    /// Reads `10+20-29`.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let mut set = Self::default();
        for part in text.split('+') {
            let range = match part.split_once('-') {
                Some((first, last)) => parse_vlan(first)?..=parse_vlan(last)?,
                None => {
                    let vlan = parse_vlan(part)?;
                    vlan..=vlan
                }
            };
            if range.is_empty() {
                return Err(format!("the range {part:?} is upside down; write the smaller VLAN first").into());
            }
            set.0.push(range);
        }
        set.normalise();
        Ok(set)
    }

    /// Adds every VLAN of `other`.
    pub(crate) fn unite(&mut self, other: VlanSet) {
        self.0.extend(other.0);
        self.normalise();
    }

    fn normalise(&mut self) {
        self.0.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(self.0.len());
        for range in self.0.drain(..) {
            match merged.last_mut() {
                Some(last) if *range.start() <= *last.end() + 1 => {
                    *last = *last.start()..=*range.end().max(last.end());
                }
                _ => merged.push(range),
            }
        }
        self.0 = merged;
    }
}

impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "+" };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{separator}{first}")?,
                (first, last) => write!(f, "{separator}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl From<VlanSet> for String {
    fn from(set: VlanSet) -> Self {
        set.to_string()
    }
}

impl TryFrom<String> for VlanSet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        VlanSet::parse(&text).map_err(|problem| problem.to_string())
    }
}

/// Reads the number of one VLAN.
pub(crate) fn parse_vlan(text: &str) -> Result<u16, Problem> {
    match text.parse::<u16>() {
        Ok(vlan) if (1..=MAX_VLAN).contains(&vlan) => Ok(vlan),
        _ => Err(format!("{text:?} is no VLAN; use a number from 1 to {MAX_VLAN}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_normalised() {
        let set = VlanSet::parse("30+10+20-29+22-25").unwrap();
        assert_eq!(set.to_string(), "10+20-30");
        assert_eq!(set.iter().count(), 12);
        assert!(set.contains(30) && set.contains(20) && !set.contains(11) && !set.contains(31));
        assert_eq!(VlanSet::parse("1-4094").unwrap().to_string(), "1-4094");
    }

    #[test]
    fn bad_sets_say_which_part() {
        let error = |text| VlanSet::parse(text).unwrap_err().to_string();
        assert_eq!(error("10+4095"), "\"4095\" is no VLAN; use a number from 1 to 4094");
        assert_eq!(error("10+"), "\"\" is no VLAN; use a number from 1 to 4094");
        assert_eq!(error("29-20"), "the range \"29-20\" is upside down; write the smaller VLAN first");
    }

    #[test]
    fn json_form_round_trips_and_is_checked() {
        let spec = VlanSpec::Trunk { trunks: Some(VlanSet::parse("10+20-29").unwrap()), native: Some(5) };
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(json, r#"{"mode":"trunk","trunks":"10+20-29","native":5}"#);
        assert_eq!(serde_json::from_str::<VlanSpec>(&json).unwrap(), spec);
        let bad = r#"{"mode":"trunk","trunks":"0","native":null}"#;
        assert!(serde_json::from_str::<VlanSpec>(bad).unwrap_err().to_string().contains("no VLAN"));
    }
}
