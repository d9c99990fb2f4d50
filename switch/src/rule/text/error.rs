//! What is wrong with a text, and where.

use std::fmt;

/// A text that is no rule, selector or packet.
///
/// Displays as `line 3, column 17: found "tpdst", expected ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError {
    /// Line, from 1; always 1 where the text is a single one.
    pub line: usize,
    /// Character within the line, from 1; one past the last where something is missing at its end.
    pub column: usize,
    /// What stands there; empty at the end of the line.
    pub found: String,
    /// What would be right there, and often what was probably meant.
    pub expected: String,
}

impl TextError {
    /// The same in line `line`.
    pub(super) fn in_line(self, line: usize) -> Self {
        Self { line, ..self }
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: found ", self.line, self.column)?;
        match self.found.as_str() {
            "" => f.write_str("nothing")?,
            found => write!(f, "{found:?}")?,
        }
        write!(f, ", expected {}", self.expected)
    }
}

impl std::error::Error for TextError {}
