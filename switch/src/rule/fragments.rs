//! What rules see of IP fragments.
//!
//! # Source
//! ovs-ofctl(8), `set-frags`.

/// What rules see of IP fragments.
///
/// A fragment other than the first has no transport header in any mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FragmentMode {
    /// No fragment has ports, or a type and a code of ICMP: rules that ask for them find zeros, in the first fragment too.
    #[default]
    Normal,
    /// The first fragment has what its transport header says.
    NxMatch,
    /// No rule is asked about a fragment: it is dropped.
    Drop,
}

impl FragmentMode {
    /// Every mode.
    pub const ALL: [FragmentMode; 3] = [FragmentMode::Normal, FragmentMode::NxMatch, FragmentMode::Drop];

    /// The mode in the operator's word, which is Open vSwitch's.
    pub fn name(self) -> &'static str {
        match self {
            FragmentMode::Normal => "normal",
            FragmentMode::NxMatch => "nx-match",
            FragmentMode::Drop => "drop",
        }
    }

    /// The mode that is called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}
