//! The actions of a rule, and OpenFlow's instructions among them: which may stand where.
//!
//! Actions run in the order in which they stand. The instructions behind them have one order only, which is checked:
//! `clear_actions`, `write_actions`, `write_metadata`, `goto_table`.

use crate::rule::action::{OutputTo, RuleAction};
use crate::rule::matching::Match;

use super::PortNames;
use super::cursor::{Item, Items, Piece};
use super::error::TextError;
use super::known::Known;
use super::step::Step;

/// Where an action may stand: none before one of a lower stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Apply,
    Clear,
    Write,
    Metadata,
    Goto,
}

impl Stage {
    fn of(action: &RuleAction) -> Self {
        match action {
            RuleAction::ClearActions => Stage::Clear,
            RuleAction::WriteActions(_) => Stage::Write,
            RuleAction::WriteMetadata { .. } => Stage::Metadata,
            RuleAction::GotoTable(_) => Stage::Goto,
            RuleAction::Output(_)
            | RuleAction::Enqueue { .. }
            | RuleAction::SetQueue(_)
            | RuleAction::PopQueue
            | RuleAction::Controller { .. }
            | RuleAction::PushVlan(_)
            | RuleAction::PopVlan
            | RuleAction::ModVlanVid(_)
            | RuleAction::ModVlanPcp(_)
            | RuleAction::SetField { .. }
            | RuleAction::Move { .. }
            | RuleAction::Push(_)
            | RuleAction::Pop(_)
            | RuleAction::DecTtl(_)
            | RuleAction::Resubmit { .. }
            | RuleAction::Clone(_)
            | RuleAction::Exit
            | RuleAction::DebugRecirc
            | RuleAction::Note(_)
            | RuleAction::Conjunction { .. } => Stage::Apply,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Stage::Apply => "other actions",
            Stage::Clear => "clear_actions",
            Stage::Write => "write_actions",
            Stage::Metadata => "write_metadata",
            Stage::Goto => "goto_table",
        }
    }
}

/// Where a list of actions stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind `actions=`.
    Rule,
    /// In `apply_actions(...)`.
    Apply,
    /// In `clone(...)`.
    Clone,
    /// In `write_actions(...)`.
    Set,
}

/// Actions that stand in a rule alone.
const INSTRUCTIONS: [&str; 5] =
    ["apply_actions", "clear_actions", "goto_table", "write_actions", "write_metadata"];

/// How deep copies of packets may lie in copies.
const MAX_NESTING: usize = 16;

/// The actions that `text` describes, for packets of `matching` in `table`, if that is known.
///
/// # Errors
/// One of them is no action, stands where it cannot, or changes what packets cannot have.
pub(super) fn actions_of(
    text: Piece<'_>,
    table: Option<u8>,
    matching: &Match,
    names: &dyn PortNames,
) -> Result<Box<[RuleAction]>, TextError> {
    let mut list = List::new(table, names, Known::of(matching), 0);
    list.read(text, Place::Rule)?;
    Ok(list.actions.into_boxed_slice())
}

/// A list of actions in the making.
struct List<'a> {
    table: Option<u8>,
    names: &'a dyn PortNames,
    /// What is known of packets behind the actions so far.
    known: Known,
    stage: Stage,
    actions: Vec<RuleAction>,
    /// How many lists this one lies in.
    depth: usize,
}

impl<'a> List<'a> {
    fn new(table: Option<u8>, names: &'a dyn PortNames, known: Known, depth: usize) -> Self {
        Self { table, names, known, stage: Stage::Apply, actions: Vec::new(), depth }
    }

    /// Bound: a list lies in others to [`MAX_NESTING`], however a text nests its parentheses.
    fn read(&mut self, text: Piece<'_>, place: Place) -> Result<(), TextError> {
        let items = Items::of(text).collect::<Result<Vec<_>, _>>()?;
        for item in &items {
            let name = item.name.text().to_ascii_lowercase();
            if place != Place::Rule && INSTRUCTIONS.contains(&name.as_str()) {
                return Err(item.whole.error("an action, no instruction"));
            }
            match name.as_str() {
                "drop" => {
                    item.bare()?;
                    if items.len() > 1 {
                        return Err(item.whole.error("no drop beside other actions"));
                    }
                }
                "apply_actions" if self.stage == Stage::Apply => {
                    self.read(item.argument("apply_actions(output:1)")?, Place::Apply)?;
                }
                "apply_actions" => {
                    return Err(item.whole.error(format!("apply_actions before {}", self.stage.name())));
                }
                "write_actions" => {
                    let set = self.nested(item, "write_actions(output:1)", Place::Set)?;
                    self.push(RuleAction::WriteActions(set), item, place)?;
                }
                "clone" => {
                    let steps = self.nested(item, "clone(output:1)", Place::Clone)?;
                    self.push(RuleAction::Clone(steps), item, place)?;
                }
                _ => {
                    let step = Step { table: self.table, names: self.names, known: &self.known };
                    self.push(step.read(item)?, item, place)?;
                }
            }
        }
        Ok(())
    }

    /// The list in the parentheses of an item.
    fn nested(&self, item: &Item<'_>, example: &str, place: Place) -> Result<Box<[RuleAction]>, TextError> {
        let text = item.argument(example)?;
        if self.depth == MAX_NESTING {
            return Err(item.whole.error(format!("at most {MAX_NESTING} lists of actions in each other")));
        }
        let mut list = List::new(None, self.names, self.known, self.depth + 1);
        list.read(text, place)?;
        Ok(list.actions.into_boxed_slice())
    }

    /// Adds an action, if it may stand here, and follows what it does to packets.
    fn push(&mut self, action: RuleAction, item: &Item<'_>, place: Place) -> Result<(), TextError> {
        let stage = Stage::of(&action);
        if stage < self.stage {
            return Err(item.whole.error(format!("{} before {}", stage.name(), self.stage.name())));
        }
        if stage == self.stage && stage != Stage::Apply {
            return Err(item.whole.error(format!("{} once only", stage.name())));
        }
        self.check_company(&action, item, place)?;
        if place == Place::Set {
            check_in_set(&action, item)?;
        }
        self.stage = stage;
        self.known.follow(&action);
        self.actions.push(action);
        Ok(())
    }

    /// A rule that is a part of conjunctions is never carried out, so that nothing else has a meaning in it.
    fn check_company(&self, action: &RuleAction, item: &Item<'_>, place: Place) -> Result<(), TextError> {
        let is_note = |action: &RuleAction| matches!(action, RuleAction::Note(_));
        let others = self.actions.iter().filter(|other| !is_note(other));
        let mut all = others.chain([action].into_iter().filter(|action| !is_note(action)));
        let is_part = action.is_conjunction() || self.actions.iter().any(RuleAction::is_conjunction);
        if is_part && !matches!(place, Place::Rule | Place::Apply) {
            return Err(item.whole.error("conjunction(ID,K/N) in a rule's own list of actions"));
        }
        if is_part && !all.all(RuleAction::is_conjunction) {
            return Err(item
                .whole
                .error("no action beside conjunction(ID,K/N) but others of its kind and note"));
        }
        Ok(())
    }
}

/// Makes sure that an action has a place in the order of an action set.
fn check_in_set(action: &RuleAction, item: &Item<'_>) -> Result<(), TextError> {
    match action {
        RuleAction::Output(OutputTo::Subfield(_)) => {
            Err(item.whole.error("outputs to ports in an action set, not to the number in a field"))
        }
        RuleAction::Enqueue { .. }
        | RuleAction::PopQueue
        | RuleAction::Push(_)
        | RuleAction::Pop(_)
        | RuleAction::Clone(_)
        | RuleAction::Exit
        | RuleAction::DebugRecirc
        | RuleAction::Note(_)
        | RuleAction::Conjunction { .. } => {
            Err(item.whole.error("an action that has a place in the order of an action set"))
        }
        RuleAction::Output(OutputTo::Port(_))
        | RuleAction::SetQueue(_)
        | RuleAction::Controller { .. }
        | RuleAction::PushVlan(_)
        | RuleAction::PopVlan
        | RuleAction::ModVlanVid(_)
        | RuleAction::ModVlanPcp(_)
        | RuleAction::SetField { .. }
        | RuleAction::Move { .. }
        | RuleAction::DecTtl(_)
        | RuleAction::Resubmit { .. }
        | RuleAction::WriteMetadata { .. }
        | RuleAction::ClearActions
        | RuleAction::WriteActions(_)
        | RuleAction::GotoTable(_) => Ok(()),
    }
}
