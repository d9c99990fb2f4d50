//! VLAN membership of a port as the operator writes it: an access port, or a trunk with an optional native VLAN.

use std::fmt;
use std::ops::RangeInclusive;

use vsteer_switch::wire::vlan::VlanId;

use super::error::Problem;

/// Largest VLAN that a frame can carry (IEEE 802.1Q reserves 4095).
pub const MAX_VLAN: u16 = 4094;

/// Which VLANs a port carries, and which of them goes without a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VlanSpec {
    /// The port is in one VLAN and sees no tags.
    Access {
        /// The VLAN, which is not VLAN 0.
        vlan: VlanId,
    },
    /// The port sees tags.
    Trunk {
        /// VLANs it carries with a tag; `None` carries all.
        trunks: Option<VlanSet>,
        /// VLAN of untagged frames, which is not VLAN 0; with `None` they belong to no VLAN if `trunks` names some, and to
        /// VLAN 0, the frames that carry no tag anywhere, if it does not.
        native: Option<VlanId>,
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
/// Ranges, from their first VLAN to their last, are ascending, disjoint and not adjacent; none contains VLAN 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VlanSet(Vec<(VlanId, VlanId)>);

impl VlanSet {
    /// Every VLAN of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = VlanId> + '_ {
        // What lies between two VLANs is one.
        self.0.iter().flat_map(|&range| numbers(range)).filter_map(VlanId::new)
    }

    /// Whether `vlan` is in the set.
    pub fn contains(&self, vlan: VlanId) -> bool {
        self.0.iter().any(|(first, last)| (first..=last).contains(&&vlan))
    }

    /// Reads `10+20-29`.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let mut set = Self::default();
        for part in text.split('+') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (parse_vlan(first)?, parse_vlan(last)?),
                None => {
                    let vlan = parse_vlan(part)?;
                    (vlan, vlan)
                }
            };
            if first > last {
                return Err(format!("the range {part:?} is upside down; write the smaller VLAN first").into());
            }
            set.0.push((first, last));
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
        self.0.sort_unstable();
        let mut merged: Vec<(VlanId, VlanId)> = Vec::with_capacity(self.0.len());
        for (first, last) in self.0.drain(..) {
            match merged.last_mut() {
                Some((_, before)) if first.number() <= before.number() + 1 => *before = last.max(*before),
                _ => merged.push((first, last)),
            }
        }
        self.0 = merged;
    }
}

fn numbers((first, last): (VlanId, VlanId)) -> RangeInclusive<u16> {
    first.number()..=last.number()
}

impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "+" };
            match first == last {
                true => write!(f, "{separator}{first}")?,
                false => write!(f, "{separator}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Reads the number of one VLAN.
pub(crate) fn parse_vlan(text: &str) -> Result<VlanId, Problem> {
    text.parse().ok().and_then(tagged).ok_or_else(|| not_a_vlan(text))
}

/// The VLAN `number`, of those that a tag can name.
fn tagged(number: u16) -> Option<VlanId> {
    VlanId::new(number).filter(|&vlan| vlan != VlanId::UNTAGGED)
}

fn not_a_vlan(text: &str) -> Problem {
    format!("{text:?} is no VLAN; use a number from 1 to {MAX_VLAN}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_normalised() {
        let set = VlanSet::parse("30+10+20-29+22-25").unwrap();
        assert_eq!(set.to_string(), "10+20-30");
        assert_eq!(set.iter().count(), 12);
        let contains = |number| set.contains(VlanId::new(number).unwrap());
        assert!(contains(30) && contains(20) && !contains(11) && !contains(31));
        assert_eq!(VlanSet::parse("1-4094").unwrap().to_string(), "1-4094");
    }

    #[test]
    fn bad_sets_say_which_part() {
        let error = |text| VlanSet::parse(text).unwrap_err().to_string();
        assert_eq!(error("10+4095"), "\"4095\" is no VLAN; use a number from 1 to 4094");
        assert_eq!(error("10+"), "\"\" is no VLAN; use a number from 1 to 4094");
        assert_eq!(error("29-20"), "the range \"29-20\" is upside down; write the smaller VLAN first");
    }
}
