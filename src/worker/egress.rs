//! Where packets leave: the pipeline's view of the ports.

use vsteer_switch::action::Punt;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::packet::{Burst, Frame};
use vsteer_switch::pipeline::Transmit;
use vsteer_switch::port::PortId;

use crate::port::driver::Scratch;
use crate::punt::Punts;
use crate::topology::Topology;

/// The ports, as one worker transmits to them during one burst.
#[derive(Debug)]
pub(super) struct Egress<'a> {
    pub(super) topology: &'a Topology,
    pub(super) worker: usize,
    pub(super) now_ms: u64,
    pub(super) punts: &'a Punts,
    pub(super) scratch: &'a mut Scratch,
}

impl Transmit for Egress<'_> {
    #[inline]
    fn transmit(&mut self, id: PortId, burst: &Burst, indices: &[u8]) {
        match self.topology.port(id) {
            Some(port) => port.transmit(burst, indices, self.worker, self.scratch),
            // The port went after the decision. Nobody has its counters any more: the packets count where they came in.
            None => {
                if let Some(packet) = burst.packets().first() {
                    self.dropped(packet.in_port, DropReason::PortGone, indices.len() as u64);
                }
            }
        }
    }

    fn punt(&mut self, in_port: PortId, frame: &Frame<'_>, punt: Punt) {
        self.punts.hand_out(self.worker, self.now_ms, in_port, frame, punt);
    }

    fn dropped(&mut self, id: PortId, reason: DropReason, pkts: u64) {
        if let Some(port) = self.topology.port(id) {
            port.counters(self.worker).dropped(reason, pkts);
        }
    }
}
