//! The learning switch: a VLAN-aware bridge, which is what `NORMAL` stands for.
//!
//! It goes by the packet as the rules have made it so far: its present VLAN, addresses and ingress port. The edits of the
//! tag that its outputs need are its own; rules that go on after it see the packet as before.

use crate::action::Action;
use crate::drop_reason::DropReason;
use crate::megaflow::Source;
use crate::port::PortId;

use super::Translator;
use super::tags::{Inside, Shape};
use super::trace::{Note, Observer};
use super::view::View;

impl<O: Observer> Translator<'_, O> {
    /// Sends the packet where a learning switch would.
    pub(super) fn normal(&mut self) {
        match self.admit() {
            Ok((source, inside)) => {
                self.note(Note::InVlan(source.vlan));
                // The first one teaches: a packet that goes through the switch twice, with two sources, is none of a
                // station's.
                self.learn.get_or_insert(source);
                self.forward(source, inside);
            }
            Err(reason) => self.held_back(reason),
        }
    }

    /// The ingress half: which VLAN the packet is in, and whether its addresses may pass at all.
    fn admit(&mut self) -> Result<(Source, Inside), DropReason> {
        let config = self.state.config;
        let view: &mut View = &mut self.view;
        let port = view.in_port().ok_or(DropReason::NoEgress)?;
        let vlan_of_port = config.port(port).ok_or(DropReason::NoEgress)?;
        if config.is_mirror_output(port) {
            return Err(DropReason::MirrorPort);
        }
        let inside = view.arrive(&vlan_of_port.mode).ok_or(DropReason::VlanNotMember)?;
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
        Ok((Source { vlan: inside.vlan, mac, port }, inside))
    }

    /// The egress half: to the port where the destination was learned, else to every member of the VLAN.
    fn forward(&mut self, source: Source, inside: Inside) {
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
                && let Some(vlan_of_port) = config.port(port)
                && vlan_of_port.mode.carries(vlan)
            {
                self.note(Note::Known(port));
                return match self.view.may_leave(&inside, &vlan_of_port.mode) {
                    true => {
                        let shape = self.view.shape_at(&inside, vlan_of_port);
                        self.outputs(&inside, &mut [(port, shape)]);
                    }
                    false => self.held_back(DropReason::NoEgress),
                };
            }
        }
        self.note(Note::Flooded);
        let mut egress = Vec::new();
        for (port, vlan_of_port) in config.members(vlan).filter(|&(port, _)| port != in_port) {
            if self.view.may_leave(&inside, &vlan_of_port.mode) {
                egress.push((port, self.view.shape_at(&inside, vlan_of_port)));
            }
        }
        self.held_back_unless_sent(|this| this.outputs(&inside, &mut egress));
    }

    /// Sends a frame to `egress`: first as it is, so that the ports that need no edit share the batches of other packets.
    fn outputs(&mut self, inside: &Inside, egress: &mut [(PortId, Shape)]) {
        let before = self.plan.actions().len();
        if !egress.is_empty() {
            self.view.commit(&mut self.plan);
        }
        egress.sort_by_key(|(_, shape)| shape.place());
        let mut now = Shape::AsIs;
        for &(port, shape) in &*egress {
            if shape != now {
                self.view.reshape(inside, now, shape, &mut self.plan);
                now = shape;
            }
            self.plan.deliver(Action::Output(port));
        }
        self.show_from(before);
        if !self.state.config.mirrors().is_empty() {
            for (port, _) in egress {
                self.mirror(*port, true, Some(inside));
            }
        }
    }
}
