//! The state of the switch that decisions rest on: configuration, addresses and rules.
//!
//! The slow path reads it, on a worker or on the revalidator; megaflows remember which state they were made from.

use std::fmt;

use crate::bridge::config::SwitchConfig;
use crate::bridge::fdb::Fdb;
use crate::rule::set::RuleSet;

/// The state of the switch, by reference.
#[derive(Clone, Copy)]
pub struct SwitchState<'a> {
    /// The ports.
    pub config: &'a SwitchConfig,
    /// The addresses.
    pub fdb: &'a Fdb,
    /// The rules.
    pub rules: &'a RuleSet,
}

/// Which state a translation read, as generations of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// [`SwitchConfig::generation`].
    pub config: u64,
    /// [`Fdb::generation`], read before the translation.
    pub fdb: u64,
    /// [`RuleSet::generation`].
    pub rules: u64,
}

impl SwitchState<'_> {
    /// Which state this is: taken before a translation, what changes after it will show as a difference.
    pub fn generations(&self) -> Seen {
        let Self { config, fdb, rules } = self;
        Seen { config: config.generation(), fdb: fdb.generation(), rules: rules.generation() }
    }
}

impl fmt::Debug for SwitchState<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.generations().fmt(f)
    }
}
