//! What a guest did wrong with a ring. A fault stops the guest's own port, which says why; it never reaches another.

use std::fmt;

/// One of the three parts of a split ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingPart {
    /// The descriptor table.
    Descriptors,
    /// The available ring.
    Avail,
    /// The used ring.
    Used,
}

impl fmt::Display for RingPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RingPart::Descriptors => "descriptor table",
            RingPart::Avail => "available ring",
            RingPart::Used => "used ring",
        })
    }
}

/// The rule that a guest broke, with the value that broke it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The queue size is zero or no power of two.
    #[error("queue size {size} is not a power of two")]
    BadQueueSize {
        /// The size.
        size: u16,
    },
    /// A part of the ring is not all inside one memory region.
    #[error("the {part} at guest address {addr:#x} does not lie in one memory region")]
    RingOutsideMemory {
        /// Which part.
        part: RingPart,
        /// Its guest-physical address.
        addr: u64,
    },
    /// A part of the ring is in no memory region that the front-end shares.
    #[error(
        "the {part} at front-end address {addr:#x} lies in no memory region; the queue waits for one that has it"
    )]
    RingUnmapped {
        /// Which part.
        part: RingPart,
        /// Its address in the front-end's own address space.
        addr: u64,
    },
    /// A part of the ring is not aligned as virtio 1.3 §2.7 asks.
    #[error("the {part} at guest address {addr:#x} is not aligned")]
    RingMisaligned {
        /// Which part.
        part: RingPart,
        /// Its guest-physical address.
        addr: u64,
    },
    /// The available index moved by more than the ring holds.
    #[error("the available index jumped from {from} to {to} in a ring of {size}")]
    AvailIndexJump {
        /// The index up to which chains were taken.
        from: u16,
        /// The index that the guest wrote.
        to: u16,
        /// Descriptors in the ring.
        size: u16,
    },
    /// A head or next index is beyond its table.
    #[error("descriptor index {index} is outside a table of {size}")]
    DescriptorIndex {
        /// The index.
        index: u16,
        /// Descriptors in the table.
        size: u16,
    },
    /// A chain has more descriptors than allowed, which is also how a loop shows.
    #[error("a descriptor chain is longer than {limit} descriptors, or loops")]
    ChainTooLong {
        /// The bound.
        limit: u16,
    },
    /// A descriptor has no bytes.
    #[error("a descriptor at guest address {addr:#x} has length zero")]
    ZeroLength {
        /// The descriptor's buffer.
        addr: u64,
    },
    /// A buffer is outside guest memory.
    #[error("a buffer of {len} bytes at guest address {addr:#x} is outside guest memory")]
    OutsideMemory {
        /// Guest-physical address.
        addr: u64,
        /// Bytes.
        len: u32,
    },
    /// A buffer goes in the wrong direction: writable in the transmitq, or read-only in the receiveq.
    #[error("a buffer at guest address {addr:#x} goes in the wrong direction for its queue")]
    WrongDirection {
        /// Guest-physical address.
        addr: u64,
    },
    /// An indirect descriptor stands inside an indirect table, has a next, or was never negotiated.
    #[error("an indirect descriptor stands where none is allowed")]
    UnexpectedIndirect,
    /// An indirect table is empty, or its length is no multiple of a descriptor's.
    #[error("an indirect table of {len} bytes is empty or not a whole number of descriptors")]
    IndirectLength {
        /// Bytes.
        len: u32,
    },
    /// A chain is shorter than the virtio-net header.
    #[error("a descriptor chain of {len} bytes is shorter than the {header}-byte virtio-net header")]
    HeaderMissing {
        /// Bytes in the chain.
        len: u32,
        /// Bytes in the header.
        header: u16,
    },
    /// The file behind guest memory was truncated while it was in use.
    #[error("guest memory shrank while it was in use")]
    MemoryShrank,
}
