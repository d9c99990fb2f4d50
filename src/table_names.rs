//! Which table of rules has which name.
//!
//! The configuration gives tables names, and rules may say a name wherever they may say a table's number. A rule keeps the
//! number: a name that moves to another table means that one in the rules that are read from then on.

use std::collections::BTreeMap;

use vsteer_switch::port::PortId;
use vsteer_switch::rule::text::PortNames;

/// Names of tables; a table has one at most, and no two have the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableNames(BTreeMap<u8, String>);

impl TableNames {
    /// The table called `name`.
    pub fn number(&self, name: &str) -> Option<u8> {
        self.iter().find(|&(_, own)| own == name).map(|(table, _)| table)
    }

    /// What a table is called.
    pub fn name(&self, table: u8) -> Option<&str> {
        self.0.get(&table).map(String::as_str)
    }

    /// Tables that have names, and these.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &str)> {
        self.0.iter().map(|(&table, name)| (table, name.as_str()))
    }
}

/// Takes pairs of which neither the numbers nor the names repeat.
impl FromIterator<(u8, String)> for TableNames {
    fn from_iter<T: IntoIterator<Item = (u8, String)>>(names: T) -> Self {
        Self(names.into_iter().collect())
    }
}

/// All names that a rule may say: those of ports and those of tables.
#[derive(Clone, Copy)]
pub struct RuleNames<'a> {
    ports: &'a dyn PortNames,
    tables: &'a TableNames,
}

impl<'a> RuleNames<'a> {
    /// The names that `ports` and `tables` have.
    pub fn new(ports: &'a dyn PortNames, tables: &'a TableNames) -> Self {
        Self { ports, tables }
    }
}

impl std::fmt::Debug for RuleNames<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuleNames").field("tables", self.tables).finish_non_exhaustive()
    }
}

impl PortNames for RuleNames<'_> {
    fn number(&self, name: &str) -> Option<PortId> {
        self.ports.number(name)
    }

    fn name(&self, port: PortId) -> Option<String> {
        self.ports.name(port)
    }

    fn table(&self, name: &str) -> Option<u8> {
        self.tables.number(name)
    }

    fn table_name(&self, table: u8) -> Option<String> {
        self.tables.name(table).map(str::to_owned)
    }
}
