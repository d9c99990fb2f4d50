//! The slow path: a VLAN-aware learning switch that says what it looked at.
//!
//! A packet that no cache knows is translated here, on its worker, from its whole key. The translation yields the
//! verdict and the mask of every bit that the verdict rests on, which together become a megaflow. Translating reads and
//! changes nothing, so that the revalidator can do it again; learning is a step of its own.
//!
//! The mask is the contract: two keys that agree under it get the same verdict and the same mask. A bit too many makes
//! more megaflows than needed, a bit too few misroutes. Hence the order of the questions below: those that look at
//! little and end in a drop come first, and every function that looks at a field adds it to the mask by itself.
//!
//! Left out on purpose: spanning tree and storm control.

use crate::action::{Action, Actions, Verdict};
use crate::drop_reason::DropReason;
use crate::fdb::{Fdb, Learned};
use crate::flow::key::{FlowKey, Mask, VlanTag};
use crate::megaflow::Source;
use crate::port::PortId;
use crate::vlan::{SwitchConfig, TPID_8021Q, Tagging, VlanId};

/// What the slow path decided about a packet, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// Its fate.
    pub verdict: Verdict,
    /// Every bit of its key that was looked at.
    pub mask: Mask,
    /// The address it teaches, if it teaches one.
    pub learn: Option<Source>,
}

/// The VLAN bits of a tag: the question "which VLAN?" looks at these and at the tag's presence.
const VID_BITS: u16 = 0xfff;

/// A key of which it is noted which bits were looked at.
struct Looked<'a> {
    key: &'a FlowKey,
    mask: Mask,
}

impl Looked<'_> {
    fn in_port(&mut self) -> Option<PortId> {
        self.mask.0.in_port = u32::MAX;
        u16::try_from(self.key.in_port).ok().and_then(PortId::new)
    }

    /// The outer tag without its priority.
    fn outer_tag(&mut self) -> VlanTag {
        self.mask.0.vlan[0] = VlanTag { tpid: u16::MAX.into(), tci: VID_BITS.into() };
        let VlanTag { tpid, tci } = self.key.vlan[0];
        VlanTag { tpid, tci: (tci.get() & VID_BITS).into() }
    }

    fn source_is_group(&mut self) -> bool {
        self.mask.0.eth_src[0] |= 1;
        self.key.eth_src[0] & 1 != 0
    }

    fn source(&mut self) -> [u8; 6] {
        self.mask.0.eth_src = [0xff; 6];
        self.key.eth_src
    }

    /// Whether the destination is one of the sixteen that no bridge forwards (IEEE 802.1Q table 8-1).
    fn destination_is_reserved(&mut self) -> bool {
        for (mask, bits) in self.mask.0.eth_dst.iter_mut().zip([0xff, 0xff, 0xff, 0xff, 0xff, 0xf0]) {
            *mask |= bits;
        }
        let [a, b, c, d, e, f] = self.key.eth_dst;
        [a, b, c, d, e, f & 0xf0] == [0x01, 0x80, 0xc2, 0, 0, 0]
    }

    fn destination(&mut self) -> [u8; 6] {
        self.mask.0.eth_dst = [0xff; 6];
        self.key.eth_dst
    }
}

/// Decides about the packet with this key, filled to the last depth.
pub fn translate(key: &FlowKey, config: &SwitchConfig, fdb: &Fdb) -> Translation {
    let mut looked = Looked { key, mask: Mask::default() };
    let mut learn = None;
    let verdict = match admit(&mut looked, config) {
        Ok((source, tag)) => {
            learn = Some(source);
            forward(&mut looked, source, tag, config, fdb)
        }
        Err(reason) => Verdict::Drop(reason),
    };
    Translation { verdict, mask: looked.mask, learn }
}

/// The ingress half: which VLAN the packet is in, and whether its addresses may pass at all.
fn admit(looked: &mut Looked<'_>, config: &SwitchConfig) -> Result<(Source, VlanTag), DropReason> {
    let port = looked.in_port().ok_or(DropReason::NoEgress)?;
    let vlan_of_port = config.port(port).ok_or(DropReason::NoEgress)?;
    let tag = looked.outer_tag();
    let vlan = vlan_of_port.mode.classify(tag).ok_or(DropReason::VlanNotMember)?;
    if looked.source_is_group() {
        return Err(DropReason::BadSource);
    }
    if looked.destination_is_reserved() {
        return Err(DropReason::ReservedDestination);
    }
    let mac = looked.source();
    if mac == [0; 6] {
        return Err(DropReason::BadSource);
    }
    Ok((Source { vlan, mac, port }, tag))
}

/// The egress half: to the port where the destination was learned, else to every member of the VLAN.
fn forward(
    looked: &mut Looked<'_>,
    source: Source,
    tag: VlanTag,
    config: &SwitchConfig,
    fdb: &Fdb,
) -> Verdict {
    let Source { vlan, port: in_port, .. } = source;
    let destination = looked.destination();
    if destination[0] & 1 == 0 {
        let known = fdb.lookup(vlan, destination);
        if known == Some(in_port) {
            return Verdict::Drop(DropReason::Hairpin);
        }
        // An address at a port that left the VLAN is as good as unknown.
        if let Some(port) = known
            && let Some(tagging) = config.port(port).and_then(|port| port.mode.tagging(vlan))
        {
            return outputs(tag, vlan, [(port, tagging)].into_iter());
        }
    }
    outputs(tag, vlan, config.members(vlan).filter(|&(port, _)| port != in_port))
}

/// The tag of `vlan` goes on, at the lowest priority.
fn push(vlan: VlanId) -> Action {
    Action::PushVlan(VlanTag { tpid: TPID_8021Q.into(), tci: vlan.number().into() })
}

/// How a frame with `tag` must be changed to leave as a frame of `vlan`.
fn edit(tag: VlanTag, vlan: VlanId, tagging: Tagging) -> Option<Action> {
    let tagged = tag.tpid.get() != 0;
    let priority_only = tagged && tag.tci.get() == 0;
    match tagging {
        Tagging::Untagged => tagged.then_some(Action::PopVlan),
        Tagging::Native => (tagged && !priority_only).then_some(Action::PopVlan),
        Tagging::Tagged if priority_only => Some(Action::SetVlan(vlan)),
        Tagging::Tagged => (!tagged).then_some(push(vlan)),
    }
}

/// Sends a frame with `tag` to `egress`: first as it is, so that the ports that need no edit share the batches of other
/// packets, then with another VLAN in its tag, then without the tag, then with a new one. A frame never needs both of
/// the last two, so no edit has to be undone.
fn outputs(tag: VlanTag, vlan: VlanId, egress: impl Iterator<Item = (PortId, Tagging)> + Clone) -> Verdict {
    let edits = [None, Some(Action::SetVlan(vlan)), Some(Action::PopVlan), Some(push(vlan))];
    let mut actions = Vec::new();
    for wanted in edits {
        let mut ports = egress.clone().filter(|&(_, tagging)| edit(tag, vlan, tagging) == wanted).peekable();
        if ports.peek().is_some() {
            actions.extend(wanted);
            actions.extend(ports.map(|(port, _)| Action::Output(port)));
        }
    }
    match Actions::new(&actions) {
        Some(actions) => Verdict::Forward(actions),
        None => Verdict::Drop(DropReason::NoEgress),
    }
}

/// Notes where a packet came from, within the limit of its port.
pub fn learn(source: Source, now_ms: u64, config: &SwitchConfig, fdb: &Fdb) -> Learned {
    let limit = config.port(source.port).map_or(0, |port| port.mac_limit);
    fdb.learn(source.vlan, source.mac, source.port, now_ms, limit)
}

#[cfg(test)]
mod tests;
