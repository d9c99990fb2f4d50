//! The control queue, and the configuration space beside it, for front-ends that have neither.
//!
//! QEMU serves the guest's control queue and configuration itself and shows us data queues only. Front-ends that hand a
//! driver's queues through as they are (user-mode Linux, crosvm) do not: a driver that negotiated VIRTIO_NET_F_CTRL_VQ
//! sets up a queue behind the data queues and waits for an answer on it. The session thread gives the answers; a command
//! is rare and no packet waits for one.
//!
//! Nearly every command is a wish that the switch meets anyway: it delivers what is addressed to a guest by what it
//! learned, whatever filters the guest's driver sets.
//!
//! # Source
//! virtio 1.3 §5.1.2, §5.1.4, §5.1.6.5.

use crate::memory::Span;
use crate::ring::{Access, RingFault, SplitRing};

/// Commands are a class, a command and a few bytes; a table of addresses is longer, and what is in it does not matter.
const COMMAND_BYTES: usize = 4;

const CLASS_RX: u8 = 0;
const CLASS_MAC: u8 = 1;
const CLASS_VLAN: u8 = 2;
const CLASS_ANNOUNCE: u8 = 3;
const CLASS_MQ: u8 = 4;

const MQ_VQ_PAIRS_SET: u8 = 0;

const OK: u8 = 0;
const ERR: u8 = 1;

/// VIRTIO_NET_S_LINK_UP.
const LINK_UP: u16 = 1;

/// Bytes of the configuration space up to and with the MTU; what follows is for features that are not offered.
const CONFIG_BYTES: usize = 12;

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Nothing that is not so already.
    Granted,
    /// This many queue pairs shall be used.
    Pairs(u16),
    /// Something unknown.
    Refused,
}

/// The `len` bytes of the configuration space from `offset` on, of a device with `pairs` queue pairs. What lies behind the
/// space reads as zero.
pub(crate) fn configuration(pairs: u16, offset: usize, len: usize) -> Vec<u8> {
    let mut space = [0; CONFIG_BYTES];
    // No address: VIRTIO_NET_F_MAC is not offered, the driver makes its own.
    space[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
    space[8..10].copy_from_slice(&pairs.to_le_bytes());
    (offset..offset.saturating_add(len)).map(|at| space.get(at).copied().unwrap_or(0)).collect()
}

/// Rounds of [`answer`]: a driver waits for the answer to one command before it sends the next.
const ROUNDS: usize = 16;

/// Answers every command that is available in `ring`; `grant` says whether it can be done. True if there were any and the
/// driver wants to be called.
///
/// # Errors
/// The first rule that the guest broke.
pub(crate) fn answer(ring: &mut SplitRing, mut grant: impl FnMut(Wish) -> bool) -> Result<bool, RingFault> {
    let mut any = false;
    for _ in 0..ROUNDS {
        while ring.look_ahead(1)? > 0 {
            answer_one(ring, &mut grant)?;
            any |= ring.flush_used();
        }
        // The next command comes with a kick, unless it came meanwhile.
        if !ring.request_kick()? {
            break;
        }
    }
    Ok(any && ring.needs_call())
}

fn answer_one(ring: &mut SplitRing, grant: &mut impl FnMut(Wish) -> bool) -> Result<(), RingFault> {
    let Some(chain) = ring.peek() else { return Ok(()) };
    let (mut command, mut filled) = ([0; COMMAND_BYTES], 0);
    let mut status: Option<Span> = None;
    ring.walk(&chain).for_each_of_both(|span, access| {
        match access {
            Access::Read => {
                let take = span.len().min(command.len() - filled);
                span.truncate(take).read(&mut command[filled..filled + take]);
                filled += take;
            }
            Access::Write => status = Some(span),
        }
        status.is_none()
    })?;
    let done = grant(wish(&command[..filled]));
    if let Some(status) = status {
        status.truncate(1).write(&[if done { OK } else { ERR }]);
        ring.log_write(&status, 1);
    }
    ring.stage_used(chain.head, u32::from(status.is_some()));
    Ok(())
}

fn wish(command: &[u8]) -> Wish {
    match *command {
        [CLASS_MQ, MQ_VQ_PAIRS_SET, low, high] => Wish::Pairs(u16::from_le_bytes([low, high])),
        [CLASS_RX | CLASS_MAC | CLASS_VLAN | CLASS_ANNOUNCE, _, ..] => Wish::Granted,
        _ => Wish::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_says_that_the_link_is_up_and_how_many_pairs_there_are() {
        assert_eq!(configuration(3, 0, 14), [0, 0, 0, 0, 0, 0, 1, 0, 3, 0, 0, 0, 0, 0]);
        assert_eq!(configuration(0x102, 8, 2), [2, 1]);
        assert_eq!(configuration(1, usize::MAX, 3), [0; 0]);
    }

    #[test]
    fn commands_are_told_apart() {
        assert_eq!(wish(&[0, 0, 1]), Wish::Granted);
        assert_eq!(wish(&[1, 1, 2, 0]), Wish::Granted);
        assert_eq!(wish(&[4, 0, 2, 1]), Wish::Pairs(0x102));
        for unknown in [&[4, 0, 2][..], &[4, 1, 2, 0], &[5, 0, 0, 0], &[0], &[]] {
            assert_eq!(wish(unknown), Wish::Refused, "{unknown:?}");
        }
    }
}
