//! Where packets leave: the pipeline's view of the ports.
//!
//! A batch for one egress port arrives here with the offload state of each packet. What the port does not take is finished
//! in software on the way (`vsteer_switch::egress`); the rest goes as it is.

use arrayvec::ArrayVec;
use vsteer_switch::action::Punt;
use vsteer_switch::counters::PortCounters;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::egress::Finisher;
use vsteer_switch::egress::rss::rss_hash;
use vsteer_switch::packet::{BURST, Burst, Frame};
use vsteer_switch::pipeline::Transmit;
use vsteer_switch::port::PortId;
use vsteer_vhost::net::port::{Scratch, VhostPort};

use crate::port::tap::TxOutcome;
use crate::port::{Driver, Port, TapPort, guest_caps};
use crate::punt::Punts;
use crate::topology::Topology;

/// A worker's space to transmit in.
#[derive(Debug, Default)]
pub(super) struct EgressScratch {
    pub(super) vhost: Scratch,
    finisher: Finisher,
}

/// The ports, as one worker transmits to them during one burst.
#[derive(Debug)]
pub(super) struct Egress<'a> {
    pub(super) topology: &'a Topology,
    pub(super) worker: usize,
    pub(super) now_ms: u64,
    pub(super) punts: &'a Punts,
    pub(super) scratch: &'a mut EgressScratch,
}

impl Transmit for Egress<'_> {
    #[inline]
    fn transmit(&mut self, id: PortId, burst: &Burst, indices: &[u8]) {
        let Some(port) = self.topology.port(id) else {
            // The port went after the decision. Nobody has its counters any more: the packets count where they came in.
            if let Some(packet) = burst.packets().first() {
                self.dropped(packet.in_port, DropReason::PortGone, indices.len() as u64);
            }
            return;
        };
        match &port.driver {
            Driver::VhostUser(guest) => match guest.live_receiveqs() {
                0 | 1 => self.send_to_guest(port, guest, 0, burst, indices),
                queues => self.spread(port, guest, queues, burst, indices),
            },
            Driver::Tap(tap) => self.send_to_host(port, tap, burst, indices),
        }
    }

    fn punt(&mut self, in_port: PortId, frame: &Frame<'_>, punt: Punt) {
        self.punts.hand_out(self.worker, self.now_ms, in_port, frame, punt);
    }

    fn dropped(&mut self, id: PortId, reason: DropReason, pkts: u64) {
        if let Some(port) = self.topology.port(id) {
            port.counters[self.worker].dropped(reason, pkts);
        }
    }
}

impl Egress<'_> {
    /// Spreads packets over a guest's `queues` receiveqs by flow, keeping the order within each flow.
    fn spread(&mut self, port: &Port, guest: &VhostPort, queues: u32, burst: &Burst, indices: &[u8]) {
        let mut queue_of = [0; BURST];
        for &index in indices {
            let hash = rss_hash(&burst.frame(usize::from(index)));
            #[allow(clippy::cast_possible_truncation, reason = "below `queues`, as the hash is below 2^32")]
            {
                queue_of[usize::from(index)] = ((u64::from(hash) * u64::from(queues)) >> 32) as u32;
            }
        }
        let mut left: ArrayVec<u8, BURST>;
        let mut rest = indices;
        // Bound: each round sends at least the first packet that is left. Most batches are of one queue and take one.
        while let Some(&first) = rest.first() {
            let queue = queue_of[usize::from(first)];
            let goes = |index: &u8| queue_of[usize::from(*index)] == queue;
            if rest.iter().all(goes) {
                return self.send_to_guest(port, guest, queue, burst, rest);
            }
            let (now, later): (ArrayVec<u8, BURST>, ArrayVec<u8, BURST>) =
                rest.iter().copied().partition(goes);
            self.send_to_guest(port, guest, queue, burst, &now);
            left = later;
            rest = &left;
        }
    }

    fn send_to_guest(&mut self, port: &Port, guest: &VhostPort, hash: u32, burst: &Burst, indices: &[u8]) {
        let counters = &port.counters[self.worker];
        let mut transmitter = match guest.transmit(hash) {
            Ok(transmitter) => transmitter,
            Err(reason) => return counters.dropped(reason, indices.len() as u64),
        };
        let caps = guest_caps(guest);
        let EgressScratch { vhost, finisher } = &mut *self.scratch;
        let takes = |&index: &u8| caps.takes(&burst.frame(usize::from(index)), port.max_frame_bytes);
        let mut left = indices;
        // Frames leave in order: first those that go as they are, then one that software finishes, and so on.
        // Bound: each round takes at least one frame off `left`, or it is the last.
        loop {
            let whole = left.iter().take_while(|index| takes(index)).count();
            let (now, later) = left.split_at(whole);
            if !now.is_empty() {
                transmitter.send(now.iter().map(|&index| burst.frame(usize::from(index))), vhost, counters);
            }
            let Some((&index, later)) = later.split_first() else { break };
            let result =
                finisher.finish(&burst.frame(usize::from(index)), caps, port.max_frame_bytes, |finished| {
                    transmitter.send(std::iter::once(*finished), vhost, counters);
                    Ok(())
                });
            if let Err(reason) = result {
                counters.dropped(reason, 1);
            }
            left = later;
        }
        transmitter.finish();
    }

    fn send_to_host(&mut self, port: &Port, tap: &TapPort, burst: &Burst, indices: &[u8]) {
        let counters = &port.counters[self.worker];
        let transmitter = &tap.transmitters[self.worker % tap.transmitters.len()];
        for &index in indices {
            let frame = burst.frame(usize::from(index));
            let result = self.scratch.finisher.finish(&frame, tap.caps, port.max_frame_bytes, |finished| {
                count_sent(&transmitter.transmit(&[*finished]), counters);
                Ok(())
            });
            if let Err(reason) = result {
                counters.dropped(reason, 1);
            }
        }
    }
}

/// Counts what a transmission to the host did.
fn count_sent(outcome: &TxOutcome, counters: &PortCounters) {
    counters.tx_pkts.add(outcome.pkts.into());
    counters.tx_bytes.add(outcome.bytes);
    for (reason, pkts) in outcome.drops() {
        if pkts > 0 {
            counters.dropped(reason, pkts.into());
        }
    }
}
