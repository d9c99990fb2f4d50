//! A port's place in VLANs as the operator writes it, with the modes and words of Open vSwitch.

use std::fmt;
use std::ops::RangeInclusive;

use vsteer_switch::bridge::vlan::{self, PriorityTags, VlanMode};
use vsteer_switch::wire::vlan::{TYPE_CUSTOMER, TYPE_SERVICE, VlanId};

use super::error::Problem;
use super::words::set_once;

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
        /// VLANs it carries with a tag, VLAN 0 for frames without one; `None` carries all.
        trunks: Option<VlanSet>,
        /// VLAN of untagged frames, which is not VLAN 0; with `None` they are in VLAN 0, if `trunks` has it.
        native: Option<VlanId>,
    },
    /// The port sees tags, even of the VLAN that untagged frames are in when they arrive.
    NativeTagged {
        /// Other VLANs that it carries; `None` carries all.
        trunks: Option<VlanSet>,
        /// VLAN of untagged frames, which is not VLAN 0.
        native: VlanId,
    },
    /// The port is where a customer's frames, tags and all, enter and leave a VLAN.
    Dot1qTunnel {
        /// The VLAN, which is not VLAN 0.
        vlan: VlanId,
        /// VLANs of the customer that pass, VLAN 0 for frames without a tag; `None` passes all.
        cvlans: Option<VlanSet>,
        /// Protocol of the VLAN's tag elsewhere.
        qinq_ethtype: QinqEthtype,
    },
}

/// Protocol of a service tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QinqEthtype {
    /// 0x88a8.
    #[default]
    Service,
    /// 0x8100.
    Customer,
}

impl QinqEthtype {
    const ALL: [QinqEthtype; 2] = [QinqEthtype::Service, QinqEthtype::Customer];

    /// How `qinq-ethtype=` is written.
    pub(crate) fn word(self) -> &'static str {
        match self {
            QinqEthtype::Service => "802.1ad",
            QinqEthtype::Customer => "802.1q",
        }
    }
}

impl VlanSpec {
    /// The mode as the slow path knows it.
    pub fn switch_mode(&self) -> VlanMode {
        let set = |set: &Option<VlanSet>| set.as_ref().map_or(vlan::VlanSet::ALL, |set| set.iter().collect());
        let native = |vlan: &VlanId, trunks, is_tagged| VlanMode::Native {
            vlan: *vlan,
            allowed: set(trunks),
            is_tagged,
        };
        match self {
            VlanSpec::Access { vlan } => VlanMode::Access(*vlan),
            VlanSpec::Trunk { trunks, native: None } => VlanMode::Trunk(set(trunks)),
            VlanSpec::Trunk { trunks, native: Some(vlan) } => native(vlan, trunks, false),
            VlanSpec::NativeTagged { trunks, native: vlan } => native(vlan, trunks, true),
            VlanSpec::Dot1qTunnel { vlan, cvlans, qinq_ethtype } => VlanMode::Tunnel {
                vlan: *vlan,
                customers: set(cvlans),
                tpid: match qinq_ethtype {
                    QinqEthtype::Service => TYPE_SERVICE,
                    QinqEthtype::Customer => TYPE_CUSTOMER,
                },
            },
        }
    }

    /// Writes the options that are read to it, each behind a comma.
    pub(super) fn fmt_options(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write_set = |f: &mut fmt::Formatter<'_>, option: &str, set: &Option<VlanSet>| match set {
            Some(set) => write!(f, ",{option}={set}"),
            None => Ok(()),
        };
        match self {
            VlanSpec::Access { vlan } => write!(f, ",vlan={vlan}"),
            VlanSpec::Trunk { trunks, native } => {
                write_set(f, "trunks", trunks)?;
                native.map_or(Ok(()), |vlan| write!(f, ",native={vlan}"))
            }
            VlanSpec::NativeTagged { trunks, native } => {
                write_set(f, "trunks", trunks)?;
                write!(f, ",native={native},vlan-mode=native-tagged")
            }
            VlanSpec::Dot1qTunnel { vlan, cvlans, qinq_ethtype } => {
                write!(f, ",vlan={vlan},vlan-mode=dot1q-tunnel")?;
                write_set(f, "cvlans", cvlans)?;
                write!(f, ",qinq-ethtype={}", qinq_ethtype.word())
            }
        }
    }
}

impl Default for VlanSpec {
    /// Every VLAN, tags and all: without configuration, ports of one switch all see each other.
    fn default() -> Self {
        VlanSpec::Trunk { trunks: None, native: None }
    }
}

/// A port's mode as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModeWord {
    Access,
    Trunk,
    NativeTagged,
    NativeUntagged,
    Dot1qTunnel,
}

impl ModeWord {
    const ALL: [(&'static str, ModeWord); 5] = [
        ("access", ModeWord::Access),
        ("trunk", ModeWord::Trunk),
        ("native-tagged", ModeWord::NativeTagged),
        ("native-untagged", ModeWord::NativeUntagged),
        ("dot1q-tunnel", ModeWord::Dot1qTunnel),
    ];
}

/// The words of `priority-tags=`; the first that means something is the one that is written.
const PRIORITY_TAGS: [(&str, PriorityTags); 4] = [
    ("never", PriorityTags::Never),
    ("if-nonzero", PriorityTags::IfNonzero),
    ("always", PriorityTags::Always),
    ("no", PriorityTags::Never),
];

/// How `priority-tags=` is written.
pub(crate) fn priority_tags_word(tags: PriorityTags) -> &'static str {
    PRIORITY_TAGS.iter().find(|(_, value)| *value == tags).map_or("never", |&(word, _)| word)
}

/// What one of `words` stands for.
fn parse_word<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, Problem> {
    let found = words.iter().find(|(word, _)| *word == text);
    found
        .map(|&(_, value)| value)
        .ok_or_else(|| Problem::unknown("value", text, words.iter().map(|&(word, _)| word)))
}

/// The VLAN words of a port while they are read.
#[derive(Debug, Default)]
pub(super) struct VlanDraft {
    vlan: Option<VlanId>,
    trunks: Option<VlanSet>,
    native: Option<VlanId>,
    mode: Option<ModeWord>,
    cvlans: Option<VlanSet>,
    qinq_ethtype: Option<QinqEthtype>,
    priority_tags: Option<PriorityTags>,
}

type Setter = fn(&mut VlanDraft, &str) -> Result<(), Problem>;

/// Every option, with the reader of its value.
const OPTIONS: [(&str, Setter); 8] = [
    ("vlan", |draft, text| set_once(&mut draft.vlan, parse_vlan(text)?)),
    ("trunks", |draft, text| VlanSet::add(&mut draft.trunks, text)),
    ("trunk", |draft, text| VlanSet::add(&mut draft.trunks, text)),
    ("native", |draft, text| set_once(&mut draft.native, parse_vlan(text)?)),
    ("vlan-mode", |draft, text| set_once(&mut draft.mode, parse_word(text, &ModeWord::ALL)?)),
    ("priority-tags", |draft, text| set_once(&mut draft.priority_tags, parse_word(text, &PRIORITY_TAGS)?)),
    ("cvlans", |draft, text| VlanSet::add(&mut draft.cvlans, text)),
    ("qinq-ethtype", |draft, text| {
        set_once(
            &mut draft.qinq_ethtype,
            parse_word(text, &QinqEthtype::ALL.map(|kind| (kind.word(), kind)))?,
        )
    }),
];

impl VlanDraft {
    /// Names of all options.
    pub(super) fn option_names() -> impl Iterator<Item = &'static str> + Clone {
        OPTIONS.iter().map(|&(name, _)| name)
    }

    /// Sets the option `key` from the text `value`; `None` if it is none of these.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Problem>> {
        OPTIONS.iter().find(|(name, _)| *name == key).map(|(_, setter)| setter(self, value))
    }

    /// The port's place in VLANs, and which frames get a priority tag, if the words make sense together.
    pub(super) fn finish(self) -> Result<(VlanSpec, PriorityTags), Problem> {
        let priority_tags = self.priority_tags.unwrap_or_default();
        let mode = match (self.mode, self.vlan) {
            (Some(mode), _) => mode,
            (None, Some(_)) => ModeWord::Access,
            (None, None) if self.native.is_some() => ModeWord::NativeUntagged,
            (None, None) => ModeWord::Trunk,
        };
        self.refuse_words_of_other_modes(mode)?;
        let Self { vlan, trunks, native, cvlans, qinq_ethtype, .. } = self;
        let spec = match mode {
            ModeWord::Access => {
                VlanSpec::Access { vlan: vlan.ok_or("an access port needs its VLAN; add vlan=VLAN")? }
            }
            ModeWord::Trunk => VlanSpec::Trunk { trunks, native: None },
            ModeWord::NativeTagged | ModeWord::NativeUntagged => {
                let native =
                    native.ok_or("the port needs the VLAN of its untagged frames; add native=VLAN")?;
                if trunks.as_ref().is_some_and(|trunks| trunks.contains(VlanId::UNTAGGED)) {
                    return Err("native= puts untagged frames into a VLAN, and VLAN 0 in trunks= is that of untagged \
                                frames; drop one of them"
                        .into());
                }
                match mode {
                    ModeWord::NativeTagged => VlanSpec::NativeTagged { trunks, native },
                    _ => VlanSpec::Trunk { trunks, native: Some(native) },
                }
            }
            ModeWord::Dot1qTunnel => VlanSpec::Dot1qTunnel {
                vlan: vlan.ok_or("a tunnel needs its VLAN; add vlan=VLAN")?,
                cvlans,
                qinq_ethtype: qinq_ethtype.unwrap_or_default(),
            },
        };
        Ok((spec, priority_tags))
    }

    fn refuse_words_of_other_modes(&self, mode: ModeWord) -> Result<(), Problem> {
        let is_trunk = matches!(mode, ModeWord::Trunk | ModeWord::NativeTagged | ModeWord::NativeUntagged);
        let is_tunnel = mode == ModeWord::Dot1qTunnel;
        let has_trunk_words = self.trunks.is_some() || self.native.is_some();
        if is_tunnel && has_trunk_words {
            return Err(
                "a tunnel carries one VLAN, that of vlan=; drop trunks= and native= (cvlans= names the \
                        customer's VLANs)"
                    .into(),
            );
        }
        if is_trunk && self.vlan.is_some() || !is_trunk && has_trunk_words {
            return Err("vlan= makes an access port, trunks= and native= a trunk; for a trunk with untagged frames in a \
                        VLAN, use native= in place of vlan="
                .into());
        }
        if mode == ModeWord::Trunk && self.native.is_some() {
            return Err("native= makes the mode native-untagged; drop vlan-mode=trunk".into());
        }
        if !is_tunnel && (self.cvlans.is_some() || self.qinq_ethtype.is_some()) {
            return Err(
                "cvlans= and qinq-ethtype= are for tunnels; add vlan-mode=dot1q-tunnel, or drop them".into(),
            );
        }
        Ok(())
    }
}

/// A set of VLANs, written `10+20-29`.
///
/// # Invariants
/// Ranges, from their first VLAN to their last, are ascending, disjoint and not adjacent.
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

    /// Reads `10+20-29`. VLAN 0 is that of frames without a tag.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let mut set = Self::default();
        for part in text.split('+') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (parse_member(first)?, parse_member(last)?),
                None => {
                    let vlan = parse_member(part)?;
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

    /// Reads a set and adds it to one that may be there.
    fn add(slot: &mut Option<Self>, text: &str) -> Result<(), Problem> {
        let set = slot.get_or_insert_default();
        set.0.extend(Self::parse(text)?.0);
        set.normalise();
        Ok(())
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

/// Reads the number of a VLAN in a set, where VLAN 0 is that of frames without a tag.
fn parse_member(text: &str) -> Result<VlanId, Problem> {
    let problem = || format!("{text:?} is no VLAN; use a number from 0 to {MAX_VLAN}");
    text.parse().ok().and_then(VlanId::new).ok_or_else(|| problem().into())
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
        assert_eq!(error("10+4095"), "\"4095\" is no VLAN; use a number from 0 to 4094");
        assert_eq!(error("10+"), "\"\" is no VLAN; use a number from 0 to 4094");
        assert_eq!(error("29-20"), "the range \"29-20\" is upside down; write the smaller VLAN first");
    }
}
