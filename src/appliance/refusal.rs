//! Why the appliance did not do what it was asked to.

use std::fmt;

/// The reason and what to try, for people, and what kind of reason it is, for programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// What kind of reason.
    pub reason: Reason,
    /// The reason, and what to try.
    pub text: String,
}

/// Kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The named thing does not exist.
    NotFound,
    /// The name or the resource is taken.
    Taken,
    /// What was asked makes no sense.
    Invalid,
    /// The system or the switch could not.
    Failed,
}

impl Refusal {
    /// There is no port `name`.
    pub fn no_port(name: &str) -> Self {
        Self::not_found(format!("no port {name:?}; see port list"))
    }

    /// The named thing does not exist.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self { reason: Reason::NotFound, text: text.into() }
    }

    /// The name or the resource is taken.
    pub fn taken(text: impl Into<String>) -> Self {
        Self { reason: Reason::Taken, text: text.into() }
    }

    /// What was asked makes no sense.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self { reason: Reason::Invalid, text: text.into() }
    }

    /// The system or the switch could not.
    pub fn failed(cause: impl fmt::Display) -> Self {
        Self { reason: Reason::Failed, text: cause.to_string() }
    }
}
