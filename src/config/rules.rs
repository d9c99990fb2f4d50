//! Rules in the configuration: texts in ovs-ofctl's syntax, in the configuration file itself or in files of their own.
//!
//! A text is kept with the place of its lines, so that an error points at the line the operator wrote. It is read again
//! whenever the configuration is, and turned into rules once it is known which ports there are: a rule names ports, and a
//! name that means nothing is an error.

use std::path::{Path, PathBuf};

use vsteer_switch::port::PortId;
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::text::{PortNames, TextError, rules_of};

use super::error::ConfigError;
use super::port_spec::PortSpec;

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

    /// The rules of the text, whose ports and tables are called as `names` says.
    ///
    /// # Errors
    /// Something in the text is no rule: the error names its line and column.
    pub fn parse(&self, names: &dyn PortNames) -> Result<Vec<RuleSpec>, ConfigError> {
        let rules = rules_of(&self.text, names).map(|added| added.map(|added| added.spec));
        rules.collect::<Result<_, _>>().map_err(|error| {
            let line = self.lines_before + error.line;
            ConfigError::new(format!("{}:{line}:{}", self.source, error.column), text_problem(&error))
        })
    }
}

/// What is wrong with a text of rules, without the place.
pub(crate) fn text_problem(error: &TextError) -> String {
    let found = match error.found.as_str() {
        "" => "the end".to_owned(),
        found => format!("{found:?}"),
    };
    format!("found {found}, expected {}", error.expected)
}

/// The line of the rule at `index`, from 1, in a text that is one of rules.
pub(crate) fn rule_line(text: &str, index: usize) -> usize {
    let is_rule = |line: &str| !line.split('#').next().unwrap_or_default().trim().is_empty();
    text.lines().enumerate().filter(|(_, line)| is_rule(line)).nth(index).map_or(1, |(line, _)| line + 1)
}

/// The ports of a configuration, numbered as they stand: enough to see whether the names in rules mean something.
pub(super) struct ListedPorts<'a>(pub(super) &'a [PortSpec]);

impl PortNames for ListedPorts<'_> {
    fn number(&self, name: &str) -> Option<PortId> {
        let at = self.0.iter().position(|port| port.name == name)?;
        u16::try_from(at).ok().and_then(PortId::new)
    }

    fn name(&self, port: PortId) -> Option<String> {
        self.0.get(port.index()).map(|port| port.name.clone())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_rules_are_counted_past_comments_and_blanks() {
        let text = "# head\n\nactions=drop\n  # note\npriority=1,actions=drop # tail\n";
        assert_eq!((rule_line(text, 0), rule_line(text, 1)), (3, 5));
    }
}
