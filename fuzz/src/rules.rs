//! The entry that the `rules` fuzz target and an ordinary test of the switch share.
//!
//! An input is any text, read as a rule, a file of rules, a change, a selector and a packet in turn. Nothing may panic;
//! whatever is read as rules is printed and read back as the same value; an error lies within the line that it names.

use vsteer_switch::port::PortId;
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::text::{
    PortNames, TextError, actions_text, match_text, parse_modification, parse_packet, parse_rule,
    parse_rules, parse_selector, rule_text,
};

/// What one input turned out to be, so that a test can tell that its inputs reach everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    /// A rule.
    pub(crate) rule: bool,
    /// A file of this many rules.
    pub(crate) rules: usize,
    /// A change of rules.
    pub(crate) modification: bool,
    /// A selector, strict or not.
    pub(crate) selector: bool,
    /// A packet.
    pub(crate) packet: bool,
}

/// Ports whose names need care: a word of the syntax, a number, a field.
struct Ports;

const PORTS: [&str; 6] = ["vm0", "vm1", "up-link.7", "all", "17", "reg0"];

impl PortNames for Ports {
    fn number(&self, name: &str) -> Option<PortId> {
        PORTS.iter().position(|port| *port == name).and_then(|at| PortId::new(at.try_into().ok()?))
    }

    fn name(&self, port: PortId) -> Option<String> {
        PORTS.get(port.index()).map(|name| (*name).to_owned())
    }
}

/// Runs one input.
///
/// # Panics
/// If the switch breaks a promise.
pub(crate) fn run(input: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(input);
    let rule = kept(&text, parse_rule(&text, &Ports));
    rule.iter().for_each(|added| check_round_trip(&added.spec));
    let rules = kept(&text, parse_rules(&text, &Ports)).unwrap_or_default();
    let rules: Vec<RuleSpec> = rules.into_iter().map(|added| added.spec).collect();
    rules.iter().for_each(check_round_trip);
    let printed: Vec<String> = rules.iter().map(|rule| rule_text(rule, &Ports)).collect();
    let again = parse_rules(&printed.join("\n"), &Ports).expect("what was printed is read");
    assert!(again.iter().map(|added| &added.spec).eq(&rules));
    Outcome {
        rule: rule.is_some(),
        rules: rules.len(),
        modification: [false, true].map(|strict| check_modification(&text, strict)).contains(&true),
        selector: [false, true].map(|strict| check_selector(&text, strict)).contains(&true),
        packet: kept(&text, parse_packet(&text, &Ports)).is_some(),
    }
}

fn check_round_trip(rule: &RuleSpec) {
    let printed = rule_text(rule, &Ports);
    assert_eq!(parse_rule(&printed, &Ports).as_ref().map(|added| &added.spec), Ok(rule), "{printed}");
}

fn check_modification(text: &str, strict: bool) -> bool {
    let Some(read) = kept(text, parse_modification(text, strict, &Ports)) else { return false };
    let (matching, actions) =
        (match_text(&read.selector.matching, &Ports), actions_text(&read.actions, &Ports));
    let table = read.selector.table.map(|table| format!("table={table},")).unwrap_or_default();
    let printed = format!("{table}{matching} actions={actions}");
    let again = parse_modification(&printed, strict, &Ports).expect("what was printed is read");
    assert_eq!((again.selector.matching, again.actions), (read.selector.matching, read.actions), "{printed}");
    true
}

fn check_selector(text: &str, strict: bool) -> bool {
    let Some(read) = kept(text, parse_selector(text, strict, &Ports)) else { return false };
    let printed = match_text(&read.matching, &Ports);
    let again = parse_selector(&printed, strict, &Ports).expect("what was printed is read");
    assert_eq!(again.matching, read.matching, "{printed}");
    true
}

/// What was read, or nothing after a check of the error.
fn kept<T>(text: &str, read: Result<T, TextError>) -> Option<T> {
    let error = match read {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    let line = match error.line {
        // A single line may hold anything, even a line break.
        1 if !text.lines().next().is_some_and(|line| is_within(line, &error)) => text,
        number => text.lines().nth(number - 1).expect("the line exists"),
    };
    assert!(is_within(line, &error), "{error} of {line:?}");
    assert!(!error.expected.is_empty());
    None
}

/// Whether what was found stands in the line, at its column.
fn is_within(line: &str, error: &TextError) -> bool {
    let behind: String = line.chars().skip(error.column - 1).collect();
    error.column <= line.chars().count() + 1 && behind.starts_with(&error.found)
}
