//! `[flow-cache]`: how many megaflows there may be, and for how long they stay unused.
//!
//! ```toml
//! [flow-cache]
//! max-flows = 200000            # of one worker
//! max-idle-ms = 10000
//! ```

use super::error::Problem;

/// Keys of the table.
pub(super) const KEYS: [&str; 2] = ["max-flows", "max-idle-ms"];

/// Fewest megaflows that can be asked for.
const LEAST_FLOWS: usize = 64;

/// Most megaflows that can be asked for: with their tables they take about 8 GB.
const MOST_FLOWS: usize = 1 << 24;

/// Bounds of the idle time: a worker takes flows out in moments, and nobody should find traces of last week.
const IDLE_MS: (u64, u64) = (100, 3_600_000);

/// Bounds of the flow cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowCacheConfig {
    /// Most megaflows of one worker. There are fewer if the machine is too slow to keep so many right.
    pub max_flows: usize,
    /// A megaflow without packets for this long is removed; sooner when they become many.
    pub max_idle_ms: u64,
}

impl Default for FlowCacheConfig {
    /// As in Open vSwitch.
    fn default() -> Self {
        Self { max_flows: 200_000, max_idle_ms: 10_000 }
    }
}

impl FlowCacheConfig {
    /// Sets `key`, one of [`KEYS`], from its text.
    pub(super) fn set(&mut self, key: &str, text: &str) -> Result<(), Problem> {
        match key {
            "max-flows" => self.max_flows = number(text, LEAST_FLOWS, MOST_FLOWS)?,
            "max-idle-ms" => self.max_idle_ms = number(text, IDLE_MS.0, IDLE_MS.1)?,
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
