//! Which worker receives from which queue.

use std::sync::Arc;

use crate::port::Port;
use crate::port::queue_set::QueueSet;

/// The queues of one port that one worker receives from.
#[derive(Debug, Clone)]
pub struct RxPort {
    /// The port.
    pub port: Arc<Port>,
    /// Its queues.
    pub queues: QueueSet,
}

/// What each of `workers` workers receives from, by the worker's index.
///
/// Queue `q` of the `n`th port goes to worker `n + q`, so the first queues of the ports, often their only live ones,
/// spread over all workers, as do the queues of one busy port.
pub fn deal_out(ports: &[Arc<Port>], workers: usize) -> Vec<Vec<RxPort>> {
    let mut assignments = vec![Vec::new(); workers];
    for (nth, port) in ports.iter().enumerate() {
        for (index, assigned) in assignments.iter_mut().enumerate() {
            let queues: QueueSet =
                (0..port.driver.queues()).filter(|queue| (nth + queue) % workers == index).collect();
            if !queues.is_empty() {
                assigned.push(RxPort { port: Arc::clone(port), queues });
            }
        }
    }
    assignments
}
