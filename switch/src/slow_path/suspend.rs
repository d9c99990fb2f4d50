//! Ending a translation early, to go on when the packet comes back through the switch, and going on.
//!
//! A copy of a packet that goes again takes only its own steps along; its original goes on at once.

use std::sync::Arc;

use crate::flow::fields::Fields;
use crate::flow::key::FlowKey;
use crate::recirculation::{Recirculation, SuspendedSteps, Suspension};
use crate::state::SwitchState;

use super::trace::Observer;
use super::{Running, Steps, Translation, Translator};

/// Goes on with `suspension` for the packet with this key, filled to the last depth, that came back for it.
pub fn resume(
    key: &FlowKey,
    suspension: &Suspension,
    state: &SwitchState<'_>,
    observer: &mut impl Observer,
) -> Translation {
    let mut translator = Translator::new(Fields { key: *key, ..*suspension.fields }, state, observer);
    translator.view.come_from(suspension.fields.key.in_port);
    translator.action_set.add(&suspension.action_set);
    translator.view.set_actset_output(translator.action_set.output());
    translator.stack = suspension.stack.to_vec();
    let version = translator.view.version();
    translator.mirrored.extend(suspension.mirrored.iter().map(|&nth| (version, nth)));
    for SuspendedSteps { steps, table } in &suspension.waiting {
        translator.waiting.push(Running::new(steps, *table, false));
    }
    let result = translator.finish(suspension.set_table);
    translator.into_translation(result)
}

impl<O: Observer> Translator<'_, O> {
    /// Has the packet, or the copy of it that steps are taken with, go through the switch again with what is left to do.
    pub(super) fn suspend(&mut self) {
        self.commit();
        let copy = self.waiting.iter().rposition(|running| running.original.is_some());
        let mut waiting = self.waiting.split_off(copy.unwrap_or(0));
        self.depth -= waiting.iter().filter(|running| running.deepens).count();
        let set_table = waiting.first().filter(|_| copy.is_some()).map_or(0, |running| running.table);
        let had_its_turn = waiting.iter().any(|running| matches!(running.steps, Steps::Set(_)));
        let original = waiting.first_mut().and_then(|running| running.original.take());
        let suspended = waiting.iter_mut().map(|running| SuspendedSteps {
            steps: std::iter::from_fn(|| running.steps.next()).cloned().collect(),
            table: running.table,
        });
        let version = self.view.version();
        let suspension = Suspension {
            waiting: suspended.filter(|left| !left.steps.is_empty()).collect(),
            action_set: self.action_set.take().into_iter().cloned().collect(),
            set_table: (!had_its_turn).then_some(set_table),
            stack: std::mem::take(&mut self.stack).into(),
            fields: Box::new(self.view.own_fields()),
            mirrored: self
                .mirrored
                .range((version, 0)..=(version, usize::MAX))
                .map(|&(_, nth)| nth)
                .collect(),
        };
        let id = self.observer.suspended(self.view.fields(), &suspension);
        let before = self.plan.actions().len();
        self.plan.recirculate(Arc::new(Recirculation::new(id, suspension)));
        self.show_from(before);
        if let Some(original) = original {
            self.take_back(*original);
        }
    }
}
