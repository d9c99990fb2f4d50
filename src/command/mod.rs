//! The commands of `vsteer ctl`, a file for each family of them.
//!
//! A family's file has all there is to its commands: the words that are typed, the parameters and the reply as they stand
//! on the wire, what a command does to the appliance, and how its reply is printed for the terminal. A new command is such
//! an implementation of `Command` or `Watch` and its line in the family's list; a new family is a file and a line in
//! `FAMILIES`. A family that is not listed the compiler finds unused, a command that is not listed a test finds.
//!
//! The client's side (`ctl.rs`) and the server's side (`Commands`) both work from this registry, and a command that is
//! answered by a stream is of another trait than one that is answered once, so neither can be taken for the other.
//!
//! The control socket (`control`) carries all this and knows nothing of it; the appliance does it and knows no JSON.

/// What can be a command, and how the registry holds it.
mod entry;

/// The client's side: asking, printing, and going on until it is stopped.
mod ctl;

/// Tables and numbers for the terminal.
mod table;

mod cache;
mod drops;
mod fdb;
mod flow;
mod megaflow;
mod mirror;
mod monitor;
mod port;
mod reload;
mod stats;
mod top;
mod trace;

use std::fmt;
use std::sync::Arc;

use clap::{ArgMatches, FromArgMatches, Subcommand};
use serde_json::value::RawValue;

pub use self::ctl::{Ctl, CtlError};
use self::entry::{Entry, Family, Job};
use crate::appliance::Appliance;
use crate::control::protocol::RequestError;
use crate::control::{Prepared, Service};

/// Every family, in the order of the help.
const FAMILIES: &[Family] = &[
    port::FAMILY,
    fdb::FAMILY,
    flow::FAMILY,
    mirror::FAMILY,
    cache::FAMILY,
    trace::FAMILY,
    monitor::FAMILY,
    top::FAMILY,
    reload::FAMILY,
    stats::FAMILY,
    drops::FAMILY,
];

/// Every command.
fn entries() -> impl Iterator<Item = &'static Entry> {
    FAMILIES.iter().flat_map(|family| family.entries())
}

/// The commands of an appliance, for the control socket.
#[derive(Debug)]
pub struct Commands(pub Arc<Appliance>);

impl Service for Commands {
    fn methods(&self) -> Vec<&'static str> {
        entries().map(Entry::method).collect()
    }

    fn prepare(
        &self,
        method: &str,
        params: Option<&RawValue>,
    ) -> Option<Result<Box<dyn Prepared>, RequestError>> {
        let entry = entries().find(|entry| entry.method() == method)?;
        Some(entry.prepare(&self.0, params))
    }
}

/// The command that was typed.
pub struct Chosen(Job);

impl Chosen {
    /// Carries it out and prints what comes of it.
    ///
    /// # Errors
    /// A file that it names cannot be used, the switch cannot be asked or refuses, or nothing can be printed.
    pub fn run(self, ctl: &Ctl) -> Result<(), CtlError> {
        (self.0)(ctl)
    }
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen").finish_non_exhaustive()
    }
}

impl Subcommand for Chosen {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        FAMILIES.iter().fold(command, |command, family| command.subcommand(family.words()))
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        FAMILIES.iter().any(|family| family.word() == name)
    }
}

impl FromArgMatches for Chosen {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (word, matches) = matches.subcommand().ok_or_else(missing)?;
        let family = FAMILIES.iter().find(|family| family.word() == word).ok_or_else(missing)?;
        family.job(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
