//! Which rules a change or a listing is about.

use super::action::{OutputTo, RuleAction};
use super::entry::RuleSpec;
use super::matching::Match;
use super::port::RulePort;

/// The priority of a rule whose text gives none, and of a strict selector without one.
pub const DEFAULT_PRIORITY: u16 = 0x8000;

/// A condition on rules. The default one selects every rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// In this table; else in any.
    pub table: Option<u8>,
    /// Value and mask of the cookie's bits.
    pub cookie: (u64, u64),
    /// Strict selection alone: with this priority, else [`DEFAULT_PRIORITY`].
    pub priority: Option<u16>,
    /// The match: the rule's own if the selection is strict, else one that the rule's lies within.
    pub matching: Match,
    /// With an output to this port among its actions.
    pub out_port: Option<RulePort>,
}

impl Selector {
    /// Every rule.
    pub const ALL: Selector =
        Selector { table: None, cookie: (0, 0), priority: None, matching: Match::ANY, out_port: None };

    /// Whether it selects this rule.
    pub fn selects(&self, rule: &RuleSpec, strict: bool) -> bool {
        let agrees = if strict {
            rule.priority == self.strict_priority() && rule.matching == self.matching
        } else {
            rule.matching.is_within(&self.matching)
        };
        agrees
            && self.table.is_none_or(|table| table == rule.table)
            && (self.cookie.0 ^ rule.cookie) & self.cookie.1 == 0
            && self.out_port.is_none_or(|port| outputs_to(&rule.actions, port))
    }

    /// The priority that strict selection asks for.
    pub fn strict_priority(&self) -> u16 {
        self.priority.unwrap_or(DEFAULT_PRIORITY)
    }
}

/// Whether an output to `port` is among the actions, those of the action set included.
fn outputs_to(actions: &[RuleAction], port: RulePort) -> bool {
    actions.iter().any(|action| match action {
        RuleAction::Output(to) => *to == OutputTo::Port(port),
        RuleAction::Enqueue { port: to, .. } => *to == port,
        RuleAction::WriteActions(steps) | RuleAction::Clone(steps) => outputs_to(steps, port),
        RuleAction::Controller { .. } => port == RulePort::CONTROLLER,
        RuleAction::PushVlan(_)
        | RuleAction::PopVlan
        | RuleAction::ModVlanVid(_)
        | RuleAction::ModVlanPcp(_)
        | RuleAction::SetField { .. }
        | RuleAction::Move { .. }
        | RuleAction::DecTtl(_)
        | RuleAction::SetQueue(_)
        | RuleAction::PopQueue
        | RuleAction::Push(_)
        | RuleAction::Pop(_)
        | RuleAction::Exit
        | RuleAction::DebugRecirc
        | RuleAction::Note(_)
        | RuleAction::Conjunction { .. }
        | RuleAction::Resubmit { .. }
        | RuleAction::WriteMetadata { .. }
        | RuleAction::ClearActions
        | RuleAction::GotoTable(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::field::Field;

    fn rule() -> RuleSpec {
        let mut matching = Match::ANY;
        matching.require(Field::EthType, 0x800, u128::MAX);
        matching.require(Field::Ipv4Dst, 0x0a00_0001, u128::MAX);
        let output = RuleAction::Output(OutputTo::Port(RulePort::new(3).unwrap()));
        RuleSpec {
            table: 2,
            priority: 7,
            cookie: 0xab,
            idle_timeout_s: 0,
            hard_timeout_s: 0,
            remarks: Default::default(),
            matching,
            actions: Box::new([RuleAction::WriteActions(Box::new([output]))]),
        }
    }

    #[test]
    fn every_condition_of_a_selector_counts() {
        let rule = rule();
        let mut wide = Match::ANY;
        wide.require(Field::EthType, 0x800, u128::MAX);
        let all = Selector::default;
        let port = RulePort::new;
        let cases = [
            (all(), true),
            (Selector { table: Some(2), ..all() }, true),
            (Selector { table: Some(3), ..all() }, false),
            (Selector { cookie: (0xfb, 0x0f), ..all() }, true),
            (Selector { cookie: (0xfb, 0xff), ..all() }, false),
            (Selector { matching: wide, priority: Some(1), ..all() }, true),
            (Selector { out_port: port(3), ..all() }, true),
            (Selector { out_port: port(4), ..all() }, false),
        ];
        for (selector, expected) in cases {
            assert_eq!(selector.selects(&rule, false), expected, "{selector:?}");
        }
    }

    #[test]
    fn strict_selection_asks_for_the_same_match_and_priority() {
        let mut rule = rule();
        let own = Selector { matching: rule.matching.clone(), priority: Some(7), ..Selector::default() };
        assert!(own.selects(&rule, true));
        assert!(!Selector { matching: Match::ANY, ..own.clone() }.selects(&rule, true));
        let unsaid = Selector { priority: None, ..own };
        assert!(!unsaid.selects(&rule, true));
        rule.priority = DEFAULT_PRIORITY;
        assert!(unsaid.selects(&rule, true));
    }
}
