//! The one error of the harness: a sentence for the person who reads a test's output.
//!
//! A failure is never handled, only reported, so it is text. `Context` adds what was being done; the group of steps
//! (`group.rs`) adds consoles and logs when it reports.

use std::fmt::{self, Debug, Display};

/// What was expected and what was seen.
pub struct Failure(String);

/// Result of everything that a test does.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Failure(text.into())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.to_string())
    }
}

/// Adds to an error what was being done.
pub trait Context<T> {
    /// Puts `what` and a colon before the error's own text.
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|error| Failure(format!("{what}: {error}")))
    }
}

/// Returns a [`Failure`] with the formatted text.
#[macro_export]
macro_rules! fail {
    ($($text:tt)*) => { return Err($crate::failure::Failure::new(format!($($text)*))) };
}

/// Returns a [`Failure`] with the formatted text unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => { if !$condition { $crate::fail!($($text)*) } };
}
