//! Whole texts: a rule, a file of rules, a change, a selector.

use crate::rule::action::RuleAction;
use crate::rule::entry::{Remarks, RuleSpec};
use crate::rule::matching::Match;
use crate::rule::port::RulePort;
use crate::rule::selector::{DEFAULT_PRIORITY, Selector};

use super::PortNames;
use super::actions::actions_of;
use super::conditions::match_of;
use super::cursor::{Form, Item, Items, Piece};
use super::error::TextError;
use super::names::{FLAGS, WORDS, port, table};
use super::values::number_as;

/// What ovs-ofctl prints of a rule beside what was said of it, and words that it once had; taken back without a meaning.
const IGNORED: [&str; 7] =
    ["duration", "n_packets", "n_bytes", "idle_age", "hard_age", "no_readonly_table", "allow_hidden_fields"];

/// A rule, and how it is to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// The rule.
    pub spec: RuleSpec,
    /// Refuse it if another rule of its priority shares a packet with it.
    pub check_overlap: bool,
    /// Let the counters of the rule whose place it takes begin anew.
    pub reset_counts: bool,
}

/// A change of the rules that a selector chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modification {
    /// Which rules.
    pub selector: Selector,
    /// What they do from now on.
    pub actions: Box<[RuleAction]>,
    /// Their new cookie; else they keep theirs.
    pub cookie: Option<u64>,
    /// Let their counters begin anew.
    pub reset_counts: bool,
}

/// The rule that a line of text describes.
///
/// # Errors
/// It describes none.
pub fn parse_rule(text: &str, names: &dyn PortNames) -> Result<Addition, TextError> {
    let statement = Statement::read(Verb::Add, text, names)?;
    let table = statement.table.unwrap_or(0);
    let matching = match_of(&statement.conditions, names)?;
    let actions = actions_of(statement.actions()?, Some(table), &matching, names)?;
    let spec = RuleSpec {
        table,
        priority: statement.priority.unwrap_or(DEFAULT_PRIORITY),
        cookie: statement.new_cookie.unwrap_or(0),
        idle_timeout_s: statement.idle_timeout_s,
        hard_timeout_s: statement.hard_timeout_s,
        remarks: statement.remarks,
        matching,
        actions,
    };
    Ok(Addition { spec, check_overlap: statement.check_overlap, reset_counts: statement.reset_counts })
}

/// The rules that the lines of a file describe. Empty lines, and what follows a `#`, say nothing.
///
/// # Errors
/// A line describes none: the first such one.
pub fn parse_rules(text: &str, names: &dyn PortNames) -> Result<Vec<Addition>, TextError> {
    rules_of(text, names).collect()
}

/// The rules that the lines of a file describe, read one by one as they are asked for; else as [`parse_rules`].
pub fn rules_of<'a>(
    text: &'a str,
    names: &'a dyn PortNames,
) -> impl Iterator<Item = Result<Addition, TextError>> + 'a {
    let lines = text.lines().enumerate().map(|(index, line)| {
        let line = line.split_once('#').map_or(line, |(before, _)| before);
        (index + 1, line)
    });
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| parse_rule(line, names).map_err(|error| error.in_line(number)))
}

/// The choice of rules that a line of text describes. A strict one chooses by the very match and priority.
///
/// # Errors
/// It describes none.
pub fn parse_selector(text: &str, strict: bool, names: &dyn PortNames) -> Result<Selector, TextError> {
    let statement = Statement::read(Verb::Select { strict }, text, names)?;
    let matching = match_of(&statement.conditions, names)?;
    Ok(statement.selector(matching))
}

/// The change of rules that a line of text describes: a selector and actions. `cookie=` without a mask is the new one.
///
/// # Errors
/// It describes none.
pub fn parse_modification(
    text: &str,
    strict: bool,
    names: &dyn PortNames,
) -> Result<Modification, TextError> {
    let statement = Statement::read(Verb::Modify { strict }, text, names)?;
    let matching = match_of(&statement.conditions, names)?;
    let actions = actions_of(statement.actions()?, statement.table, &matching, names)?;
    let (cookie, reset_counts) = (statement.new_cookie, statement.reset_counts);
    Ok(Modification { selector: statement.selector(matching), actions, cookie, reset_counts })
}

/// What a text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    Modify { strict: bool },
    Select { strict: bool },
}

impl Verb {
    fn is_strict(self) -> bool {
        matches!(self, Verb::Modify { strict: true } | Verb::Select { strict: true })
    }
}

/// A text taken apart: what is about the rule by its meaning, the match still as items.
struct Statement<'a> {
    line: Piece<'a>,
    table: Option<u8>,
    priority: Option<u16>,
    /// Cookie to look for and its mask.
    cookie: (u64, u64),
    /// Cookie to give.
    new_cookie: Option<u64>,
    idle_timeout_s: u16,
    hard_timeout_s: u16,
    remarks: Remarks,
    check_overlap: bool,
    reset_counts: bool,
    out_port: Option<RulePort>,
    conditions: Vec<Item<'a>>,
    actions: Option<Piece<'a>>,
}

impl<'a> Statement<'a> {
    fn read(verb: Verb, text: &'a str, names: &dyn PortNames) -> Result<Self, TextError> {
        let line = Piece::whole(text);
        let mut statement = Self {
            line,
            table: None,
            priority: None,
            cookie: (0, 0),
            new_cookie: None,
            idle_timeout_s: 0,
            hard_timeout_s: 0,
            remarks: Remarks::default(),
            check_overlap: false,
            reset_counts: false,
            out_port: None,
            conditions: Vec::new(),
            actions: None,
        };
        let mut said: Vec<&str> = Vec::new();
        for item in Items::of(line) {
            let item = item?;
            let name = item.name.text();
            if matches!(name, "actions" | "action") {
                statement.begin_actions(verb, &item)?;
                break;
            }
            if WORDS.contains(&name) {
                if said.contains(&name) && name != "cookie" {
                    return Err(item.whole.error(format!("{name} once only")));
                }
                said.push(name);
                statement.word(verb, &item, names)?;
            } else if FLAGS.contains(&name) {
                statement.flag(verb, &item)?;
            } else if verb != Verb::Add || !IGNORED.contains(&name) {
                statement.conditions.push(item);
            }
        }
        Ok(statement)
    }

    fn begin_actions(&mut self, verb: Verb, item: &Item<'a>) -> Result<(), TextError> {
        if let Verb::Select { .. } = verb {
            return Err(item.name.error("no actions, as rules are chosen by what they match"));
        }
        if item.form != Form::Assigned {
            return Err(item.whole.error("actions=ACTION,..."));
        }
        self.actions = Some(item.value.to_end());
        Ok(())
    }

    /// A word that says how a rule is kept or added.
    fn flag(&mut self, verb: Verb, item: &Item<'a>) -> Result<(), TextError> {
        let name = item.name.text();
        item.bare()?;
        let flag = match (name, verb) {
            ("reset_counts", Verb::Add | Verb::Modify { .. }) => &mut self.reset_counts,
            ("check_overlap", Verb::Add) => &mut self.check_overlap,
            ("send_flow_rem", Verb::Add) => &mut self.remarks.send_flow_rem,
            ("no_packet_counts", Verb::Add) => &mut self.remarks.no_packet_counts,
            ("no_byte_counts", Verb::Add) => &mut self.remarks.no_byte_counts,
            (_, Verb::Modify { .. }) => {
                return Err(item.whole.error(format!("no {name}, as a rule keeps what it was added with")));
            }
            _ => return Err(item.whole.error(format!("no {name}, which is for rules that are added"))),
        };
        *flag = true;
        Ok(())
    }

    fn word(&mut self, verb: Verb, item: &Item<'a>, names: &dyn PortNames) -> Result<(), TextError> {
        let name = item.name.text();
        let value = item.value(&format!("{name}=VALUE"))?;
        match name {
            "table" => self.table = Some(table(value, names)?),
            "cookie" => self.cookie(verb, item, value)?,
            "priority" if verb == Verb::Add || verb.is_strict() => {
                self.priority = Some(number_as(value, u16::MAX)?);
            }
            "priority" => return Err(item.whole.error("no priority unless the choice is strict (--strict)")),
            "idle_timeout" if verb == Verb::Add => self.idle_timeout_s = number_as(value, u16::MAX)?,
            "hard_timeout" if verb == Verb::Add => self.hard_timeout_s = number_as(value, u16::MAX)?,
            "importance" if verb == Verb::Add => self.remarks.importance = number_as(value, u16::MAX)?,
            "out_group" if verb == Verb::Add => {
                return Err(item.whole.error("no out_group in a rule, and there are no groups"));
            }
            "out_group" if value.text().eq_ignore_ascii_case("any") => {}
            "out_group" => return Err(value.error("any, as there are no groups")),
            "out_port" if verb != Verb::Add => self.out_port = out_port(value, names)?,
            "out_port" => return Err(item.whole.error("no out_port in a rule; write actions=output:PORT")),
            _ => {
                return Err(item
                    .whole
                    .error(format!("no {name}, as a rule keeps the one it was added with")));
            }
        }
        Ok(())
    }

    /// A cookie with a mask is looked for. Without one it is given by additions and changes, and looked for by others.
    fn cookie(&mut self, verb: Verb, item: &Item<'a>, value: Piece<'a>) -> Result<(), TextError> {
        let whole = u128::from(u64::MAX);
        let twice =
            || item.whole.error("one cookie, or in a change one to give and one with a mask to look for");
        let bits = |piece: Piece<'_>| match piece.text() {
            "-1" => Ok(u64::MAX),
            _ => number_as(piece, u64::MAX),
        };
        match (value.split_once("/"), verb) {
            (Some(_), Verb::Add) => Err(value.error(format!("a cookie from 0 to {whole} without a mask"))),
            (None, Verb::Add | Verb::Modify { .. }) => {
                let earlier = self.new_cookie.replace(bits(value)?);
                if earlier.is_some() { Err(twice()) } else { Ok(()) }
            }
            (masked, _) => {
                if self.cookie.1 != 0 {
                    return Err(twice());
                }
                let (value, mask) = match masked {
                    Some((value, mask)) => (bits(value)?, bits(mask)?),
                    None => (bits(value)?, u64::MAX),
                };
                self.cookie = (value & mask, mask);
                Ok(())
            }
        }
    }

    /// The text of the actions.
    fn actions(&self) -> Result<Piece<'a>, TextError> {
        self.actions.ok_or_else(|| self.line.behind().error("actions=ACTION,...; actions=drop drops"))
    }

    fn selector(&self, matching: Match) -> Selector {
        Selector {
            table: self.table,
            cookie: self.cookie,
            priority: self.priority,
            matching,
            out_port: self.out_port,
        }
    }
}

/// The port of `out_port=`, where `any` leaves the choice open.
fn out_port(value: Piece<'_>, names: &dyn PortNames) -> Result<Option<RulePort>, TextError> {
    port(value, names).map(|port| Some(port).filter(|&port| port != RulePort::NONE))
}
