//! The learning switch: a VLAN-aware bridge, which is what `NORMAL` stands for.
//!
//! It goes by the packet as the rules have made it so far: its present VLAN, addresses and ingress port. The edits of the
//! tag that its outputs need are its own; rules that go on after it see the packet as before.

use crate::action::Action;
use crate::bridge::vlan::Tagging;
use crate::drop_reason::DropReason;
use crate::flow::key::{KeyTag, VLAN_PRESENT};
use crate::megaflow::Source;
use crate::port::PortId;
use crate::wire::vlan::VlanId;

use super::Translator;
use super::trace::{Note, Observer};
use super::view::{TagEdit, View};

/// How a frame with `tag` must be changed to leave as a frame of `vlan`.
pub(super) fn edit(tag: KeyTag, vlan: VlanId, tagging: Tagging) -> Option<TagEdit> {
    let tagged = tag.is_present();
    let priority_only = tag.tci.get() == VLAN_PRESENT;
    match tagging {
        Tagging::Untagged => tagged.then_some(TagEdit::Pop),
        Tagging::Native => (tagged && !priority_only).then_some(TagEdit::Pop),
        Tagging::Tagged if priority_only => Some(TagEdit::Set(vlan)),
        Tagging::Tagged => (!tagged).then_some(TagEdit::Push(vlan)),
    }
}

impl<O: Observer> Translator<'_, O> {
    /// Sends the packet where a learning switch would.
    pub(super) fn normal(&mut self) {
        match self.admit() {
            Ok((source, tag)) => {
                self.note(Note::InVlan(source.vlan));
                // The first one teaches: a packet that goes through the switch twice, with two sources, is none of a
                // station's.
                self.learn.get_or_insert(source);
                self.forward(source, tag);
            }
            Err(reason) => self.held_back(reason),
        }
    }

    /// The ingress half: which VLAN the packet is in, and whether its addresses may pass at all.
    fn admit(&mut self) -> Result<(Source, KeyTag), DropReason> {
        let config = self.state.config;
        let view: &mut View = &mut self.view;
        let port = view.in_port().ok_or(DropReason::NoEgress)?;
        let vlan_of_port = config.port(port).ok_or(DropReason::NoEgress)?;
        if config.is_mirror_output(port) {
            return Err(DropReason::MirrorPort);
        }
        let tag = view.outer_tag();
        let vlan = vlan_of_port.mode.classify(tag).ok_or(DropReason::VlanNotMember)?;
        if view.source_is_group() {
            return Err(DropReason::BadSource);
        }
        if view.destination_is_reserved() {
            return Err(DropReason::ReservedDestination);
        }
        let mac = view.source();
        if mac == [0; 6] {
            return Err(DropReason::BadSource);
        }
        Ok((Source { vlan, mac, port }, tag))
    }

    /// The egress half: to the port where the destination was learned, else to every member of the VLAN.
    fn forward(&mut self, source: Source, tag: KeyTag) {
        let Source { vlan, port: in_port, .. } = source;
        let config = self.state.config;
        let destination = self.view.destination();
        if destination[0] & 1 == 0 {
            let known = self.state.fdb.lookup(vlan, destination);
            if known == Some(in_port) {
                return self.held_back(DropReason::Hairpin);
            }
            // An address at a port that left the VLAN is as good as unknown.
            if let Some(port) = known.filter(|&port| !config.is_mirror_output(port))
                && let Some(tagging) = config.port(port).and_then(|port| port.mode.tagging(vlan))
            {
                self.note(Note::Known(port));
                return self.outputs(tag, vlan, [(port, tagging)].into_iter());
            }
        }
        self.note(Note::Flooded);
        let members = config.members(vlan).filter(move |&(port, _)| port != in_port);
        self.held_back_unless_sent(|this| this.outputs(tag, vlan, members));
    }

    /// Sends a frame with `tag` to `egress`: first as it is, so that the ports that need no edit share the batches of other
    /// packets, then with another VLAN in its tag, then without the tag, then with a new one. A frame never needs both of
    /// the last two, so no edit has to be undone.
    fn outputs(
        &mut self,
        tag: KeyTag,
        vlan: VlanId,
        egress: impl Iterator<Item = (PortId, Tagging)> + Clone,
    ) {
        let before = self.plan.actions().len();
        let edits = [None, Some(TagEdit::Set(vlan)), Some(TagEdit::Pop), Some(TagEdit::Push(vlan))];
        let mut is_committed = false;
        for wanted in edits {
            let mut ports =
                egress.clone().filter(|&(_, tagging)| edit(tag, vlan, tagging) == wanted).peekable();
            if ports.peek().is_none() {
                continue;
            }
            if !is_committed {
                self.view.commit(&mut self.plan);
                is_committed = true;
            }
            if let Some(edit) = wanted {
                self.view.edit_tag(edit, &mut self.plan);
            }
            ports.for_each(|(port, _)| self.plan.deliver(Action::Output(port)));
        }
        self.show_from(before);
        if !self.state.config.mirrors().is_empty() {
            egress.for_each(|(port, _)| self.mirror(port, true, Some(vlan)));
        }
    }
}
