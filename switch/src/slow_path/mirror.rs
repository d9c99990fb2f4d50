//! Copies for mirrors: of a frame as it came in, before any rule, and of a frame as it goes out.
//!
//! A mirror gets one copy of a packet at most, whatever selects it. The copy carries the tag that the frame's VLAN has at
//! the mirror's port, as any frame would; at a port that is no member of that VLAN it goes as it is. A frame is never
//! mirrored to the port that it came from, nor is a copy mirrored again.

use crate::action::Action;
use crate::bridge::config::PortVlan;
use crate::flow::key::{KeyTag, VLAN_PRESENT};
use crate::port::PortId;
use crate::wire::vlan::VlanId;

use super::Translator;
use super::normal::edit;
use super::trace::{Note, Observer};

/// The VLAN of a frame with `tag` at a port, whether or not the port is a member of it.
fn vlan_at(port: Option<&PortVlan>, tag: KeyTag) -> Option<VlanId> {
    let own = || VlanId::new(tag.tci.get() & !VLAN_PRESENT);
    port.and_then(|port| port.mode.classify(tag)).or_else(own)
}

impl<O: Observer> Translator<'_, O> {
    /// Sends copies of the packet as it is now, which came in by `port` or goes out by it, to the mirrors that select it.
    /// `vlan` is its VLAN, if that was found out already.
    pub(super) fn mirror(&mut self, port: PortId, is_egress: bool, vlan: Option<VlanId>) {
        let config = self.state.config;
        for (nth, mirror) in config.mirrors_of(port, is_egress) {
            let output = mirror.output;
            let Some(at_output) = config.port(output) else { continue };
            if self.mirrored >> nth & 1 == 1 || output == port || Some(output) == self.view.in_port() {
                continue;
            }
            let tag = self.view.outer_tag();
            let vlan = vlan.or_else(|| vlan_at(config.port(port), tag));
            if !mirror.vlans.is_empty() && vlan.is_none_or(|vlan| !mirror.vlans.contains(&vlan)) {
                continue;
            }
            self.mirrored |= 1 << nth;
            self.note(Note::Mirrored(&mirror.name));
            let before = self.plan.actions().len();
            self.view.commit(&mut self.plan);
            let tagging = vlan.and_then(|vlan| Some((vlan, at_output.mode.tagging(vlan)?)));
            if let Some(edit) = tagging.and_then(|(vlan, tagging)| edit(tag, vlan, tagging)) {
                self.view.edit_tag(edit, &mut self.plan);
            }
            self.plan.push(Action::Output(output));
            self.show_from(before);
        }
    }
}
