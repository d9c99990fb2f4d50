//! Packets that go through the switch again.
//!
//! The last action of a packet sends the packet itself, which stays where it is in the burst. An action before the last sends
//! a copy, as the packet has yet to go on: its head lies in a burst of copies, its tail where the packet's lies. Bursts
//! of copies are switched when the burst that they come from is done with, one after the other.
//!
//! Rules decide how often and how many times over a packet goes again, so both are bounded, for each burst of a port.

#![allow(unsafe_code, reason = "copies share the tails of packets, which lie in memory of others")]

use std::collections::VecDeque;
use std::sync::Arc;

use crate::packet::{BURST, Burst};
use crate::recirculation::Recirculation;

/// Passes of a packet, the first included. Open vSwitch's datapath takes a packet through six more than the first.
pub const MAX_PASSES: usize = 16;

/// Copies that go again, of all packets of a burst and of the copies themselves.
pub(super) const MAX_COPIES: usize = 1024;

/// Packets of one burst that came back for the same.
pub(super) type Group = (Arc<Recirculation>, u32);

/// Copies that are on the same pass.
#[derive(Debug)]
pub(super) struct Copies {
    pub(super) burst: Burst,
    /// The pass that they are to take, the first being 0.
    pub(super) pass: usize,
    pub(super) groups: Vec<Group>,
}

/// What goes through the switch again.
#[derive(Debug)]
pub(super) struct Again {
    /// Packets of the burst that is being switched.
    groups: Vec<Group>,
    /// An empty list, for its memory.
    pub(super) spare: Vec<Group>,
    copies: VecDeque<Copies>,
    /// Bursts for copies, without packets.
    free: Vec<Copies>,
    /// Copies since the port's burst began.
    made: usize,
    /// The pass that what is sent again will take.
    pub(super) next_pass: usize,
}

impl Again {
    pub(super) fn new() -> Self {
        Self {
            groups: Vec::with_capacity(BURST),
            spare: Vec::with_capacity(BURST),
            copies: VecDeque::new(),
            free: Vec::new(),
            made: 0,
            next_pass: 1,
        }
    }

    /// Whether there is nothing.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.copies.is_empty()
    }

    /// Sends the packet at a position again.
    pub(super) fn push(&mut self, at: usize, recirculation: &Arc<Recirculation>) {
        add(&mut self.groups, at, recirculation);
    }

    /// Sends a copy of the packet at a position again; false, and nothing done, if there are too many.
    pub(super) fn push_copy(&mut self, burst: &Burst, at: usize, recirculation: &Arc<Recirculation>) -> bool {
        if self.made == MAX_COPIES {
            return false;
        }
        let has_room =
            |copies: &Copies| copies.pass == self.next_pass && copies.burst.has_room_for_copy(burst, at);
        if !self.copies.back().is_some_and(has_room) {
            let mut copies = self.free.pop().unwrap_or_else(Copies::new);
            copies.pass = self.next_pass;
            self.copies.push_back(copies);
        }
        let Some(copies) = self.copies.back_mut() else { return false };
        // SAFETY: `Pipeline::further_passes` takes every burst of copies and clears it, by `reuse_copies`, before `process`
        // returns, which borrows the port's burst until then (condition 1).
        unsafe { copies.burst.push_copy(burst, at) };
        self.made += 1;
        add(&mut copies.groups, copies.burst.len() - 1, recirculation);
        true
    }

    /// Gives out the packets of the burst that go again, for an empty list.
    pub(super) fn swap_groups(&mut self, groups: &mut Vec<Group>) {
        debug_assert!(groups.is_empty());
        std::mem::swap(&mut self.groups, groups);
    }

    /// A burst of copies to switch.
    pub(super) fn take_copies(&mut self) -> Option<Copies> {
        self.copies.pop_front()
    }

    /// Gives a burst of copies back, which are done with.
    pub(super) fn reuse_copies(&mut self, mut copies: Copies) {
        copies.burst.clear();
        copies.groups.clear();
        self.free.push(copies);
    }

    /// Ends the passes of a port's burst.
    pub(super) fn end(&mut self) {
        debug_assert!(self.is_empty());
        (self.made, self.next_pass) = (0, 1);
    }
}

impl Copies {
    fn new() -> Self {
        Self { burst: Burst::new(), pass: 0, groups: Vec::new() }
    }
}

fn add(groups: &mut Vec<Group>, at: usize, recirculation: &Arc<Recirculation>) {
    // Packets of one stretch come one after the other, and there are few groups.
    match groups.iter_mut().rev().find(|(known, _)| known.id() == recirculation.id()) {
        Some((_, positions)) => *positions |= 1 << at,
        None => groups.push((Arc::clone(recirculation), 1 << at)),
    }
}
