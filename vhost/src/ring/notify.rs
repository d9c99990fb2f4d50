//! Kicks (guest to us) and calls (us to guest): who wants to be told.
//!
//! Both directions are a store to one's own index, a full barrier, and a load of the other side's wish. Without the
//! barrier both could miss each other and the ring would sleep for ever (virtio 1.3 §2.7.7.1, §2.7.10.1).

use std::sync::atomic::{Ordering, fence};

use super::layout::RingLayout;

/// Up to where the guest was called.
#[derive(Debug, Default)]
pub(super) struct CallState {
    /// The used index at the last question; `None` before the first, which always calls.
    asked_at: Option<u16>,
}

impl CallState {
    /// Whether the guest wants a call now that the used index is `used`.
    #[inline]
    pub(super) fn needed(&mut self, layout: &RingLayout, event_idx: bool, used: u16) -> bool {
        // SeqCst: the used index is out before the wish is read; partner: the driver's barrier between its wish and its
        // last look at the used index.
        fence(Ordering::SeqCst);
        let before = self.asked_at.replace(used);
        if !event_idx {
            return !layout.avail_no_interrupt();
        }
        before.is_none_or(|before| passes(layout.used_event(), before, used))
    }
}

/// Whether an index that went from `before` to `now` has passed `event`.
fn passes(event: u16, before: u16, now: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
}

/// Asks the guest to kick for the chain after `next_avail`. The caller looks at the available index afterwards.
pub(super) fn request_kick(layout: &RingLayout, event_idx: bool, next_avail: u16) {
    if event_idx {
        layout.set_avail_event(next_avail);
    } else {
        layout.set_used_no_notify(false);
    }
    // SeqCst: the wish is out before the available index is read again; partner: the driver's barrier between its index
    // and its look at the wish.
    fence(Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn event_is_passed_only_by_the_step_that_crosses_it() {
        assert!(passes(5, 5, 6));
        assert!(passes(5, 0, 10));
        assert!(!passes(5, 6, 10));
        assert!(!passes(10, 5, 10));
        assert!(passes(u16::MAX, u16::MAX, 0));
        assert!(passes(2, u16::MAX, 3));
        assert!(!passes(2, u16::MAX, 2));
    }
}
