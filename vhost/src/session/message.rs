//! What a message of the protocol looks like: a header, a body, descriptors.
//!
//! Requests are read leniently, as the protocol's other back-ends read them. The version in the header is not looked at
//! (DPDK's vhost library and libvhost-user do not either), a body may be longer than what a message needs, and
//! descriptors that a message does not need are closed. What a message does need must be there.
//!
//! # Source
//! vhost-user "Message Specification". All numbers are in the machine's byte order.

use std::os::fd::OwnedFd;

use vhost::vhost_user::message::{
    FrontendReq, VhostUserConfig, VhostUserLog, VhostUserMemory, VhostUserMemoryRegion,
    VhostUserSingleMemoryRegion, VhostUserVringAddr, VhostUserVringState,
};
use vm_memory::ByteValued;

use crate::memory::MemoryFault;

/// Bytes of a header: request, flags and size, 32 bits each.
pub(super) const HEADER_BYTES: usize = 12;

/// Longest body that is read. The longest that means anything is a table of 127 memory regions.
pub(super) const MAX_BODY_BYTES: usize = 4096;

/// Flags of a reply: version 1, reply.
const REPLY: u32 = 1 | 1 << 2;

/// The front-end waits for an answer to a message that has none of its own.
const NEED_REPLY: u32 = 1 << 3;

/// In a message about a ring's descriptor: the number of the ring.
const RING_MASK: u64 = 0xff;

/// In a message about a ring's descriptor: there is none.
const NO_DESCRIPTOR: u64 = 1 << 8;

/// Why a message is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// A message that the protocol does not have.
    #[error("message {code} is unknown")]
    Unknown { code: u32 },
    /// A message of a feature that was not offered.
    #[error("{request:?} belongs to a feature that was not offered")]
    NotOffered { request: FrontendReq },
    /// The header says that the body is longer than any message.
    #[error("message {code} has {len} bytes, and no message has more than {MAX_BODY_BYTES}")]
    TooLong { code: u32, len: u32 },
    /// The body lacks something.
    #[error("{request:?} has {len} bytes and needs {needed}")]
    TooShort { request: FrontendReq, len: usize, needed: usize },
    /// Descriptors are missing.
    #[error("{request:?} came with {count} descriptors and needs {needed}")]
    Descriptors { request: FrontendReq, count: usize, needed: usize },
    /// Descriptors were lost on the way.
    #[error("the process had no room for the descriptors of a message; raise its limit of open files")]
    LostDescriptors,
    /// Features that were not offered are acknowledged.
    #[error("features {features:#x} were acknowledged and not offered")]
    Features { features: u64 },
    /// A virtqueue that is not there.
    #[error(
        "{request:?} is about virtqueue {queue}, and the port has {pairs} queue pairs (virtqueues 0 to {}); start the \
         front-end with queues={pairs} at most, or add the port with queues=N",
        2 * pairs - 1
    )]
    Queue { request: FrontendReq, queue: u32, pairs: usize },
    /// A size that no ring has.
    #[error("virtqueue {queue} cannot have {size} descriptors")]
    QueueSize { queue: usize, size: u32 },
    /// An MTU that no network has.
    #[error("an MTU of {mtu} bytes")]
    Mtu { mtu: u64 },
    /// Rings in big-endian order.
    #[error("virtqueue {queue} shall be big-endian, which is not offered")]
    BigEndian { queue: usize },
    /// Memory that cannot be used.
    #[error(transparent)]
    Memory(#[from] MemoryFault),
    /// A dirty log that cannot be used.
    #[error(transparent)]
    Log(#[from] crate::dirty_log::LogFault),
}

/// A message of the front-end.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) request: FrontendReq,
    body: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// The header of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) code: u32,
    flags: u32,
    pub(super) len: u32,
}

impl Header {
    pub(super) fn of_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { code: word(0), flags: word(4), len: word(8) }
    }

    pub(super) fn needs_reply(self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// The answer to the message: its header and `body`.
    pub(super) fn reply(self, body: &[u8]) -> Vec<u8> {
        #[allow(clippy::cast_possible_truncation, reason = "at most MAX_BODY_BYTES")]
        let words = [self.code, REPLY, body.len() as u32];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend_from_slice(body);
        bytes
    }
}

impl Message {
    /// A whole message.
    ///
    /// # Errors
    /// The protocol has no such message.
    pub(super) fn new(header: Header, body: Vec<u8>, descriptors: Vec<OwnedFd>) -> Result<Self, Refusal> {
        let code = header.code;
        let request = FrontendReq::try_from(code).map_err(|_| Refusal::Unknown { code })?;
        Ok(Self { request, body, descriptors })
    }

    /// The first bytes of the body, as a value; what follows is ignored.
    fn read<T: ByteValued + Default>(&self) -> Result<T, Refusal> {
        read_at(&self.body, 0).ok_or(Refusal::TooShort {
            request: self.request,
            len: self.body.len(),
            needed: size_of::<T>(),
        })
    }

    /// A number.
    pub(super) fn number(&self) -> Result<u64, Refusal> {
        self.read::<u64>()
    }

    /// A ring and a number that is about it.
    pub(super) fn ring_state(&self) -> Result<(u32, u32), Refusal> {
        let state: VhostUserVringState = self.read()?;
        Ok((state.index, state.num))
    }

    /// A ring. GET_VRING_BASE says nothing else, whatever its length.
    pub(super) fn ring(&self) -> Result<u32, Refusal> {
        self.read::<u32>()
    }

    /// A ring and the front-end's addresses of its parts.
    pub(super) fn ring_addresses(&self) -> Result<VhostUserVringAddr, Refusal> {
        self.read()
    }

    /// A ring and its new descriptor, or that it has none.
    ///
    /// # Errors
    /// The descriptor is missing, and the message does not say that it is.
    pub(super) fn ring_descriptor(&mut self) -> Result<(u32, Option<OwnedFd>), Refusal> {
        let value = self.number()?;
        #[allow(clippy::cast_possible_truncation, reason = "eight bits")]
        let ring = (value & RING_MASK) as u32;
        if value & NO_DESCRIPTOR != 0 {
            return Ok((ring, None));
        }
        self.descriptor().map(|descriptor| (ring, Some(descriptor)))
    }

    /// The one descriptor that the message needs.
    pub(super) fn descriptor(&mut self) -> Result<OwnedFd, Refusal> {
        let mut needed = self.needed_descriptors(1)?;
        // PANICS: one was needed, so one is there.
        Ok(needed.pop().expect("one descriptor"))
    }

    /// The first `needed` descriptors.
    fn needed_descriptors(&mut self, needed: usize) -> Result<Vec<OwnedFd>, Refusal> {
        let count = self.descriptors.len();
        if count < needed {
            return Err(Refusal::Descriptors { request: self.request, count, needed });
        }
        Ok(self.descriptors.drain(..needed).collect())
    }

    /// Memory regions and the descriptors of their files. The message may have room for more regions than it has: user-mode
    /// Linux always sends two places.
    pub(super) fn memory_table(&mut self) -> Result<Vec<(VhostUserMemoryRegion, OwnedFd)>, Refusal> {
        let count = self.read::<VhostUserMemory>()?.num_regions as usize;
        let at = |index: usize| size_of::<VhostUserMemory>() + index * size_of::<VhostUserMemoryRegion>();
        let regions: Option<Vec<VhostUserMemoryRegion>> =
            (0..count).map(|index| read_at(&self.body, at(index))).collect();
        let len = self.body.len();
        let regions = regions.ok_or(Refusal::TooShort { request: self.request, len, needed: at(count) })?;
        Ok(regions.into_iter().zip(self.needed_descriptors(count)?).collect())
    }

    /// One memory region.
    pub(super) fn memory_region(&self) -> Result<VhostUserMemoryRegion, Refusal> {
        self.read::<VhostUserSingleMemoryRegion>().map(|region| *region)
    }

    /// Where a dirty log lies in its file.
    pub(super) fn log(&self) -> Result<VhostUserLog, Refusal> {
        self.read()
    }

    /// A piece of the configuration space.
    pub(super) fn configuration(&self) -> Result<VhostUserConfig, Refusal> {
        self.read()
    }

    /// The address of a network interface.
    pub(super) fn mac(&self) -> Result<[u8; 6], Refusal> {
        let [b0, b1, b2, b3, b4, b5, _, _] = self.number()?.to_ne_bytes();
        Ok([b0, b1, b2, b3, b4, b5])
    }
}

fn read_at<T: ByteValued + Default>(bytes: &[u8], at: usize) -> Option<T> {
    let from = bytes.get(at..)?.get(..size_of::<T>())?;
    let mut value = T::default();
    value.as_mut_slice().copy_from_slice(from);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(request: FrontendReq, body: &[u8], descriptors: usize) -> Message {
        let descriptors = (0..descriptors).map(|_| OwnedFd::from(std::io::pipe().unwrap().0)).collect();
        let header = Header { code: request.into(), flags: 1, len: 0 };
        Message::new(header, body.to_vec(), descriptors).unwrap()
    }

    #[test]
    fn memory_table_may_have_room_for_more_regions_than_it_has() {
        let mut body = vec![1, 0, 0, 0, 0, 0, 0, 0];
        body.extend([7; 64]);
        let mut message = message(FrontendReq::SET_MEM_TABLE, &body, 1);
        let table = message.memory_table().unwrap();
        assert_eq!(table.len(), 1);
        assert_eq!({ table[0].0.guest_phys_addr }, 0x0707_0707_0707_0707);
    }

    #[test]
    fn memory_table_without_its_regions_or_descriptors_is_refused() {
        let body = |count: u8, regions: usize| {
            let mut body = vec![count, 0, 0, 0, 0, 0, 0, 0];
            body.extend(vec![7; 32 * regions]);
            body
        };
        let refusal = |body: &[u8], fds| {
            message(FrontendReq::SET_MEM_TABLE, body, fds).memory_table().err().unwrap().to_string()
        };
        assert_eq!(refusal(&body(2, 1), 2), "SET_MEM_TABLE has 40 bytes and needs 72");
        assert_eq!(refusal(&body(2, 2), 1), "SET_MEM_TABLE came with 1 descriptors and needs 2");
        assert_eq!(refusal(&[255; 8], 2), "SET_MEM_TABLE has 8 bytes and needs 137438953448");
    }

    #[test]
    fn descriptors_of_rings_are_there_or_said_to_be_missing() {
        let descriptor = |value: u64, fds| {
            let mut message = message(FrontendReq::SET_VRING_KICK, &value.to_ne_bytes(), fds);
            message.ring_descriptor().map(|(ring, descriptor)| (ring, descriptor.is_some()))
        };
        assert_eq!(descriptor(3, 1).unwrap(), (3, true));
        assert_eq!(descriptor(0x103, 0).unwrap(), (3, false));
        assert_eq!(descriptor(0x103, 1).unwrap(), (3, false));
        assert_eq!(descriptor(3, 2).unwrap(), (3, true));
        assert!(descriptor(3, 0).is_err());
    }

    #[test]
    fn replies_carry_the_request_and_the_reply_flag() {
        let header = Header { code: 1, flags: 9, len: 0 };
        let expected: Vec<u8> = [1u32, 5, 8, 7, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(header.reply(&7u64.to_ne_bytes()), expected);
    }
}
