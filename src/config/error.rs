//! The one error of configuration: where the operator wrote it, what is wrong with it, and what to try.

use std::fmt;

use vsteer_switch::nearest::nearest;

/// A configuration that cannot be used.
///
/// Displays as `PLACE: PROBLEM`, where the place quotes what the operator wrote (`--port vm0=tap:x,vlan=0`, or
/// `vsteer.toml:12: port.vm0.vlan`) and the problem ends with what to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    place: String,
    problem: Problem,
}

impl ConfigError {
    /// The problem `problem` with what stands at `place`.
    pub(crate) fn new(place: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self { place: place.into(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem.0)
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong with a value, without the place it stands at: parsers of values know the one, their callers the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem(String);

impl Problem {
    /// Names `what` has no meaning among `known`: lists them, or suggests the one that was probably meant.
    pub(crate) fn unknown<'a>(what: &str, got: &str, known: impl Iterator<Item = &'a str> + Clone) -> Self {
        match nearest(got, known.clone()) {
            Some(near) => Self(format!("unknown {what} {got:?}; did you mean {near:?}?")),
            None => {
                let known: Vec<&str> = known.collect();
                Self(format!("unknown {what} {got:?}; use one of {}", known.join(", ")))
            }
        }
    }

    /// The same problem, said of `subject`.
    pub(crate) fn of(self, subject: &str) -> Self {
        Self(format!("{subject}: {}", self.0))
    }
}

impl<S: Into<String>> From<S> for Problem {
    fn from(text: S) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
