//! Readers of single words, of which the descriptions of ports and mirrors are made: names, numbers, choices.

use std::fmt;

use vsteer_switch::rule::fragments::FragmentMode;
use vsteer_switch::wire::vlan::VlanLimit;

use super::error::Problem;

/// Longest name of a port, in bytes.
pub const MAX_NAME_BYTES: usize = 15;

/// Sets an option, unless it is set.
pub(crate) fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), Problem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("given twice; keep one".into()),
    }
}

/// Reads a number from `least` to `most`.
pub(crate) fn parse_number<T>(text: &str, least: T, most: T) -> Result<T, Problem>
where
    T: std::str::FromStr + PartialOrd + fmt::Display + Copy,
{
    match text.parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("{text:?} is out of range; use a number from {least} to {most}").into()),
    }
}

/// Whether `text` is the second of two words.
pub(crate) fn parse_choice(text: &str, [no, yes]: [&str; 2]) -> Result<bool, Problem> {
    match text {
        _ if text == yes => Ok(true),
        _ if text == no => Ok(false),
        _ => Err(format!("unknown value {text:?}; use {yes} or {no}").into()),
    }
}

/// Reads `on` or `off`.
pub(crate) fn parse_switch(text: &str) -> Result<bool, Problem> {
    parse_choice(text, ["off", "on"])
}

/// The word that [`parse_switch`] reads.
pub(crate) fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Refuses names that no port and no mirror can have.
pub(crate) fn check_name(name: &str) -> Result<(), Problem> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(format!("port name {name:?} does not fit; use 1 to {MAX_NAME_BYTES} of letters, digits, _ . and -")
        .into())
}

/// Reads how many VLAN tags of a frame are read.
pub(crate) fn vlan_limit(text: &str) -> Result<VlanLimit, Problem> {
    text.parse()
        .ok()
        .and_then(VlanLimit::from_tags)
        .ok_or_else(|| format!("{text:?} is no number of tags that can be read; use 1 or 2").into())
}

/// Reads what rules see of fragments.
pub(crate) fn fragments(text: &str) -> Result<FragmentMode, Problem> {
    FragmentMode::from_name(text)
        .ok_or_else(|| Problem::unknown("mode", text, FragmentMode::ALL.iter().map(|mode| mode.name())))
}
