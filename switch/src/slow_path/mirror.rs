//! Copies for mirrors: of a frame as it came in, before any rule, and of a frame as it goes out.
//!
//! A mirror gets one copy of a packet at most, whatever selects it, and one more of what rules have made of the packet if that
//! is selected too: it shows what came and what left. The copy carries the tag that the frame's VLAN has at
//! the mirror's port, as any frame would; at a port that is no member of that VLAN it goes as it is. A frame is never
//! mirrored to the port that it came from, nor is a copy mirrored again.

use crate::action::Action;
use crate::port::PortId;

use super::Translator;
use super::tags::{Inside, Shape};
use super::trace::{Note, Observer};

impl<O: Observer> Translator<'_, O> {
    /// Sends copies of the packet as it is now, which came in by `port` or goes out by it, to the mirrors that select it.
    /// `inside` says which VLAN it is in, if that was found out already.
    pub(super) fn mirror(&mut self, port: PortId, is_egress: bool, inside: Option<&Inside>) {
        let config = self.state.config;
        for (nth, mirror) in config.mirrors_of(port, is_egress) {
            let output = mirror.output;
            let Some(at_output) = config.port(output) else { continue };
            let copy = (self.view.version(), nth);
            if self.mirrored.contains(&copy) || output == port || Some(output) == self.view.in_port() {
                continue;
            }
            let arrived = || config.port(port).and_then(|port| self.view.arrive(&port.mode));
            let Some(inside) = inside.copied().or_else(arrived) else { continue };
            if !mirror.vlans.is_empty() && !mirror.vlans.contains(&inside.vlan) {
                continue;
            }
            self.mirrored.insert(copy);
            self.note(Note::Mirrored(&mirror.name));
            let before = self.plan.actions().len();
            self.view.commit(&mut self.plan);
            let shape = self.view.shape_at(&inside, at_output);
            self.view.reshape(&inside, Shape::AsIs, shape, &mut self.plan);
            self.plan.push(Action::Output(output));
            self.show_from(before);
        }
    }
}
