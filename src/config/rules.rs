//! Rules in the configuration: texts in ovs-ofctl's syntax, in the configuration file itself or in files of their own.
//!
//! A text is kept with the place of its lines, so that an error points at the line the operator wrote. It is read again
//! whenever the configuration is, and turned into rules once it is known which ports there are: a rule names ports, and a
//! name that means nothing is an error.

use std::path::{Path, PathBuf};

use super::error::ConfigError;

/// A text of rules and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesText {
    /// The file it stands in, as errors name it.
    pub source: String,
    /// Lines of that file before the first of the text.
    pub lines_before: usize,
    /// The text.
    pub text: String,
}

impl RulesText {
    /// The text of the file at `path`, which the operator named at `place`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn from_file(place: &str, path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::new(place, format!("{} cannot be read: {error}; check the path", path.display()))
        })?;
        Ok(Self { source: path.display().to_string(), lines_before: 0, text })
    }
}

/// Where a configuration says that its rules are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulesSource {
    /// In a file of their own.
    File {
        /// Where the file is named.
        place: String,
        /// The file.
        path: PathBuf,
    },
    /// In the configuration file.
    Inline(RulesText),
}

impl RulesSource {
    /// The rules' text as it is now.
    pub(super) fn read(&self) -> Result<RulesText, ConfigError> {
        match self {
            RulesSource::File { place, path } => RulesText::from_file(place, path),
            RulesSource::Inline(text) => Ok(text.clone()),
        }
    }
}
