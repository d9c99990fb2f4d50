//! Carrying out a verdict: the actions of one packet, in order.

use super::Transmit;
use super::again::Again;
use super::batches::Batches;
use crate::action::{Action, Actions};
use crate::drop_reason::DropReason;
use crate::edit::vlan::{outer_vlan, pop_vlan, push_vlan, set_vlan};
use crate::packet::{Burst, Packet};
use crate::port::PortId;
use crate::wire::vlan::{VlanId, VlanTag};

/// Where actions lead a packet.
pub(super) struct Ways<'a, T> {
    pub(super) batches: &'a mut Batches,
    pub(super) again: &'a mut Again,
    pub(super) out: &'a mut T,
}

/// Runs the actions of one packet.
#[inline]
pub(super) fn run(actions: &Actions, at: usize, burst: &mut Burst, ways: &mut Ways<'_, impl Transmit>) {
    for (step, action) in actions.iter().enumerate() {
        if let Action::Output(port) = *action {
            ways.batches.push(port, at, burst, ways.out);
            continue;
        }
        if let Err(reason) = run_other(step, actions, at, burst, ways) {
            return give_up(&actions[step..], reason, burst.packets()[at].in_port, ways.out);
        }
    }
}

/// Runs an action that is no output.
fn run_other(
    step: usize,
    actions: &Actions,
    at: usize,
    burst: &mut Burst,
    ways: &mut Ways<'_, impl Transmit>,
) -> Result<(), DropReason> {
    let Ways { batches, again, out } = ways;
    let action = actions[step];
    // Batches share the head: what waits for it must leave before it changes.
    let stays = matches!(action, Action::Punt(_) | Action::Drop(_) | Action::Recirculate(_));
    if batches.holds(at) && !stays {
        batches.flush(burst, *out);
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
        Action::Recirculate(index) => {
            let Some(recirculation) = actions.recirculation(index) else { return Ok(()) };
            // Before the last action it is a copy that goes again, as the packet has yet to go on.
            if step + 1 == actions.len() {
                again.push(at, recirculation);
            } else if !again.push_copy(burst, at, recirculation) {
                out.dropped(burst.packets()[at].in_port, DropReason::TooManyPasses, 1);
            }
            Ok(())
        }
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
