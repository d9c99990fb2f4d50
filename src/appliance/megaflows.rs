//! The megaflows of all workers.

use std::sync::Arc;

use vsteer_switch::megaflow::Megaflow;

use super::Appliance;
use crate::port_numbers::PortNumbers;

/// Megaflows, the busiest of all.
#[derive(Debug, Clone)]
pub struct MegaflowsReport {
    /// Those with the most packets, these first.
    pub flows: Vec<Arc<Megaflow>>,
    /// How many more there are.
    pub left_out: usize,
    /// What ports are called.
    pub numbers: Arc<PortNumbers>,
    /// When this was so, on the clock of the flows' times.
    pub now_ms: u64,
}

impl Appliance {
    /// The megaflows with the most packets, `limit` at most.
    pub fn megaflows(&self, limit: usize) -> MegaflowsReport {
        let now_ms = self.fabric.now_ms();
        let (flows, left_out) = self.revalidator.flows.busiest(limit);
        MegaflowsReport { flows, left_out, numbers: self.port_numbers(), now_ms }
    }

    /// Megaflows that there are, as of the revalidator's last pass.
    pub fn megaflow_count(&self) -> usize {
        self.revalidator.flows.live()
    }
}
