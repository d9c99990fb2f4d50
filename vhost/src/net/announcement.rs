//! The frame by which the switch, and every switch behind it, learns that a guest is at another port now.
//!
//! A guest that migrated goes on where it was and has nothing to say, so its neighbours' tables lead to where it left. A
//! guest with VIRTIO_NET_F_GUEST_ANNOUNCE tells them itself; for any other, its front-end asks the back-end to
//! (vhost-user SEND_RARP). What is sent is a reverse ARP request with the guest's address, broadcast: nobody answers it,
//! and every switch learns the address. It enters the switch as if the guest had sent it, with the next burst of its
//! transmitq, as in DPDK's vhost library.
//!
//! # Source
//! RFC 903.

#![allow(unsafe_code, reason = "a segment of our own memory")]

use vsteer_switch::counters::PortCounters;
use vsteer_switch::packet::{Burst, HEAD_CAPACITY, Offload, Segment};
use vsteer_switch::port::PortId;

/// Bytes of the shortest Ethernet frame, without its checksum.
const FRAME_BYTES: usize = 60;

/// A reverse ARP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement([u8; FRAME_BYTES]);

impl Announcement {
    /// Announces the guest whose address is `mac`.
    pub(crate) fn new(mac: [u8; 6]) -> Self {
        let mut frame = [0; FRAME_BYTES];
        // Ethernet: to everybody, reverse ARP.
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&mac);
        frame[12..14].copy_from_slice(&[0x80, 0x35]);
        // Ethernet and IPv4 addresses, 6 and 4 bytes long; request reverse.
        frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 3]);
        // Sender and target are the guest; neither knows its IPv4 address.
        frame[22..28].copy_from_slice(&mac);
        frame[32..38].copy_from_slice(&mac);
        Self(frame)
    }

    /// Puts the frame into `burst` as received from `in_port`, and counts it.
    pub(crate) fn enter(&self, in_port: PortId, burst: &mut Burst, counters: &PortCounters) {
        const { assert!(FRAME_BYTES <= HEAD_CAPACITY) };
        #[allow(clippy::cast_possible_truncation, reason = "60")]
        // SAFETY: the bytes are readable for as long as `self`, which outlives the call of `push`. A piece that fits a head is
        // copied by that call, and no tail is left that points here.
        let segment = unsafe { Segment::new(self.0.as_ptr(), FRAME_BYTES as u32) };
        burst.push(in_port, Offload::NONE, &[segment]);
        counters.rx_pkts.add(1);
        counters.rx_bytes.add(FRAME_BYTES as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcement_is_a_reverse_arp_request_of_the_guest() {
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        let mut expected = vec![0xff; 6];
        expected.extend(mac);
        expected.extend([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
        expected.extend(mac);
        expected.extend([0; 4]);
        expected.extend(mac);
        expected.resize(60, 0);
        assert_eq!(Announcement::new(mac).0.to_vec(), expected);
    }
}
