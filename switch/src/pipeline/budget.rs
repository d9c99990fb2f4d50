//! How many packets of an ingress port may take the slow path.

use super::PipelineConfig;

/// A budget that refills with time.
#[derive(Debug)]
pub(super) struct TokenBucket {
    millitokens: u64,
    refilled_ms: u64,
}

impl TokenBucket {
    /// A full one.
    pub(super) fn new(limits: &PipelineConfig) -> Self {
        Self { millitokens: u64::from(limits.upcall_burst_pkts) * 1000, refilled_ms: 0 }
    }

    /// Takes one token if there is one.
    pub(super) fn take(&mut self, now_ms: u64, limits: &PipelineConfig) -> bool {
        let full = u64::from(limits.upcall_burst_pkts) * 1000;
        let elapsed_ms = now_ms.saturating_sub(self.refilled_ms);
        let refill = elapsed_ms.saturating_mul(u64::from(limits.upcalls_per_s));
        self.millitokens = self.millitokens.saturating_add(refill).min(full);
        self.refilled_ms = now_ms;
        let has_one = self.millitokens >= 1000;
        if has_one {
            self.millitokens -= 1000;
        }
        has_one
    }
}
