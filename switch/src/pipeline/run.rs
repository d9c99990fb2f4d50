//! Carrying out a verdict: the actions of one packet, in order.

use super::Transmit;
use super::batches::Batches;
use crate::action::{Action, Actions};
use crate::drop_reason::DropReason;
use crate::edit::vlan::{outer_vlan, pop_vlan, push_vlan, set_vlan};
use crate::packet::{Burst, Packet};
use crate::port::PortId;
use crate::wire::vlan::{VlanId, VlanTag};

/// Runs the actions of one packet.
#[inline]
pub(super) fn run(
    actions: &Actions,
    at: usize,
    burst: &mut Burst,
    batches: &mut Batches,
    out: &mut impl Transmit,
) {
    for (step, action) in actions.iter().enumerate() {
        if let Action::Output(port) = *action {
            batches.push(port, at, burst, out);
            continue;
        }
        if let Err(reason) = run_other(*action, actions, at, burst, batches, out) {
            return give_up(&actions[step..], reason, burst.packets()[at].in_port, out);
        }
    }
}

/// Runs an action that is no output.
fn run_other(
    action: Action,
    actions: &Actions,
    at: usize,
    burst: &mut Burst,
    batches: &mut Batches,
    out: &mut impl Transmit,
) -> Result<(), DropReason> {
    // Batches share the head: what waits for it must leave before it changes.
    if batches.holds(at) && !matches!(action, Action::Punt(_) | Action::Drop(_)) {
        batches.flush(burst, out);
    }
    let packet = &mut burst.packets_mut()[at];
    match action {
        Action::Output(_) => Ok(()),
        Action::PushVlan(tag) => push_vlan(packet, tag),
        Action::PopVlan => pop_vlan(packet).map(|_| ()).ok_or(DropReason::HeadersTooLong),
        Action::SetVlan(vlan) => change_vlan(packet, vlan).ok_or(DropReason::HeadersTooLong),
        Action::Rewrite(index) => match actions.rewrite(index) {
            Some(rewrite) => rewrite.apply(burst, at),
            None => Err(DropReason::CannotRewrite),
        },
        Action::Punt(punt) => {
            let in_port = packet.in_port;
            batches.punts += 1;
            out.punt(in_port, &burst.frame(at), punt);
            Ok(())
        }
        Action::Drop(reason) => {
            out.dropped(packet.in_port, reason, 1);
            Ok(())
        }
    }
}

/// Counts a packet that cannot be changed as the rest of its actions need it: at each port that it would have left by, or
/// where it came in if there is none.
#[cold]
fn give_up(rest: &[Action], reason: DropReason, in_port: PortId, out: &mut impl Transmit) {
    let mut is_counted = false;
    for action in rest {
        if let Action::Output(port) = *action {
            out.dropped(port, reason, 1);
            is_counted = true;
        }
    }
    if !is_counted {
        out.dropped(in_port, reason, 1);
    }
}

/// Puts the outer tag into another VLAN; `None` if there is no tag.
fn change_vlan(packet: &mut Packet, vlan: VlanId) -> Option<()> {
    let VlanTag { tpid, tci } = outer_vlan(packet)?;
    let tci = (tci.get() & !0xfff | vlan.number()).into();
    set_vlan(packet, VlanTag { tpid, tci }).map(|_| ())
}
