//! The name of a table of rules as the operator gives it: `NUMBER=NAME`, as in `1=acl`.
//!
//! The configuration file says the same as `1 = "acl"` below `[table-names]`.

use std::fmt;

use vsteer_switch::rule::set::TABLES;
use vsteer_switch::rule::text::{MAX_TABLE_NAME_BYTES, is_table_name};

use super::Placed;
use super::error::{ConfigError, Problem};
use super::words::parse_number;
use crate::table_names::TableNames;

/// A table and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    table: u8,
    name: String,
}

impl TableName {
    /// The table numbered as `number` says, called `name`.
    ///
    /// # Errors
    /// There is no such table, or none can have the name.
    pub(super) fn new(number: &str, name: &str) -> Result<Self, Problem> {
        let table = parse_number(number, 0, TABLES - 1).map_err(|problem| problem.of("table"))?;
        if !is_table_name(name) {
            return Err(format!(
                "table name {name:?} does not fit; use 1 to {MAX_TABLE_NAME_BYTES} of letters, digits, _ . and -, but no \
                 number and not the word all"
            )
            .into());
        }
        Ok(Self { table, name: name.to_owned() })
    }

    /// Reads `NUMBER=NAME`.
    ///
    /// # Errors
    /// The text breaks a rule; the error quotes it after `--table`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let read = match text.split_once('=') {
            Some((number, name)) => Self::new(number, name),
            None => Err("no \"=\"; write NUMBER=NAME, as in 1=acl".into()),
        };
        read.map_err(|problem| ConfigError::new(format!("--table {text}"), problem))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.table, self.name)
    }
}

/// The names of both sources. What the command line says of a table, or of a name, takes the place of what the file says.
pub(super) fn merge_table_names(
    command_line: Vec<Placed<TableName>>,
    mut file: Vec<Placed<TableName>>,
) -> Result<TableNames, ConfigError> {
    let is_same = |a: &TableName, b: &TableName| a.table == b.table || a.name == b.name;
    file.retain(|old| !command_line.iter().any(|new| is_same(&old.value, &new.value)));
    file.extend(command_line);
    for (at, Placed { place, value }) in file.iter().enumerate() {
        let Some(first) = file[..at].iter().find(|first| is_same(&first.value, value)) else { continue };
        let problem = if first.value.table == value.table {
            format!("table {} has a name from {} already; give it one", value.table, first.place)
        } else {
            format!(
                "the name {:?} is given to table {} by {}; use another",
                value.name, first.value.table, first.place
            )
        };
        return Err(ConfigError::new(place, problem));
    }
    Ok(file.into_iter().map(|named| (named.value.table, named.value.name)).collect())
}
