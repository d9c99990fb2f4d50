//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// Pause between two looks at a condition: short beside anything that is timed here.
const POLL: Duration = Duration::from_millis(10);

/// Calls `look` until it yields a value, at most for `limit`. `what` completes the sentence "waited for ...".
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            return Err(Failure::new(format!("waited {:.1} s for {what}", start.elapsed().as_secs_f64())));
        }
        thread::sleep(POLL);
    }
}
