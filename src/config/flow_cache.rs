//! `[flow-cache]`: how many megaflows there may be, for how long they stay unused, and how fast new ones come.
//!
//! ```toml
//! [flow-cache]
//! max-flows = 200000            # of one worker
//! max-idle-ms = 10000
//! max-masks-per-port = 1024     # in each worker; packets that need another are translated one by one
//! upcalls-per-s = 100000        # of one port, in each worker; more packets are dropped
//! ```

use vsteer_switch::classifier::MOST_MASKS;
use vsteer_switch::pipeline::PipelineConfig;

use super::error::Problem;

/// Keys of the table.
pub(super) const KEYS: [&str; 4] = ["max-flows", "max-idle-ms", "max-masks-per-port", "upcalls-per-s"];

/// Fewest megaflows that can be asked for.
const LEAST_FLOWS: usize = 64;

/// Most megaflows that can be asked for: with their tables they take about 8 GB.
const MOST_FLOWS: usize = 1 << 24;

/// Bounds of the idle time: a worker takes flows out in moments, and nobody should find traces of last week.
const IDLE_MS: (u64, u64) = (100, 3_600_000);

/// Bounds of the masks of one port.
const MASKS: (usize, usize) = (1, MOST_MASKS);

/// Bounds of the upcalls: more than a worker can do is no limit.
const UPCALLS_PER_S: (u32, u32) = (10, 10_000_000);

/// Bounds of the flow cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowCacheConfig {
    /// Most megaflows of one worker. There are fewer if the machine is too slow to keep so many right.
    pub max_flows: usize,
    /// A megaflow without packets for this long is removed; sooner when they become many.
    pub max_idle_ms: u64,
    /// Most different masks among the megaflows of one ingress port, in each worker.
    pub max_masks_per_port: usize,
    /// Packets of one ingress port that may be translated in a second, in each worker; those beyond it are dropped.
    pub upcalls_per_s: u32,
}

impl Default for FlowCacheConfig {
    /// Flows and idle time as in Open vSwitch, the rest as in any pipeline.
    fn default() -> Self {
        let PipelineConfig { max_masks_per_port, upcalls_per_s, .. } = PipelineConfig::default();
        Self { max_flows: 200_000, max_idle_ms: 10_000, max_masks_per_port, upcalls_per_s }
    }
}

impl FlowCacheConfig {
    /// Sets `key`, one of [`KEYS`], from its text.
    pub(super) fn set(&mut self, key: &str, text: &str) -> Result<(), Problem> {
        match key {
            "max-flows" => self.max_flows = number(text, LEAST_FLOWS, MOST_FLOWS)?,
            "max-idle-ms" => self.max_idle_ms = number(text, IDLE_MS.0, IDLE_MS.1)?,
            "max-masks-per-port" => self.max_masks_per_port = number(text, MASKS.0, MASKS.1)?,
            "upcalls-per-s" => self.upcalls_per_s = number(text, UPCALLS_PER_S.0, UPCALLS_PER_S.1)?,
            other => return Err(Problem::unknown("key", other, KEYS.into_iter())),
        }
        Ok(())
    }
}

fn number<T>(text: &str, least: T, most: T) -> Result<T, Problem>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    text.parse()
        .ok()
        .filter(|number| (&least..=&most).contains(&number))
        .ok_or_else(|| format!("{text:?} is no number from {least} to {most}; use one of these").into())
}
