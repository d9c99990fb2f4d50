//! Why a packet was dropped.
//!
//! A drop is a packet's fate, not an error: a reason is a small copyable value that indexes a counter. Reasons that are
//! found before a verdict count at the ingress port, those found while transmitting at the egress port.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])* $variant:ident => $name:literal,)*) => {
        /// Why a packet was dropped; indexes the drop counters of a port.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])* $variant,)*
        }

        impl DropReason {
            /// Every reason, in counter order.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// Number of reasons, the length of a table of drop counters.
            pub const COUNT: usize = Self::ALL.len();

            /// The reason's name in statistics, `snake_case`.
            pub fn name(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)*
                }
            }

            /// What the reason means, in a sentence that begins with where it counts: `Ingress: ...` or `Egress: ...`.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(DropReason::$variant => concat!($($doc),*).trim_ascii(),)*
                }
            }

            /// The reason's index in a table of [`COUNT`](Self::COUNT) drop counters.
            pub fn index(self) -> usize {
                self as usize
            }
        }
    };
}

drop_reasons! {
    /// Ingress: the frame is shorter than an Ethernet header.
    FrameTooShort => "frame_too_short",
    /// Ingress: the virtio-net header asks for an offload that does not fit its frame, such as a checksum that would be
    /// written over a header that rules may look at.
    BadOffload => "bad_offload",
    /// Ingress: the queue is started but disabled; its packets are drained and discarded.
    QueueDisabled => "queue_disabled",
    /// Ingress: the frame's VLAN is not a member of the port.
    VlanNotMember => "vlan_not_member",
    /// Ingress: the source address is a group address or zero.
    BadSource => "bad_source",
    /// Ingress: the destination is a link-local reserved address (IEEE 802.1D), never forwarded.
    ReservedDestination => "reserved_destination",
    /// Ingress: the destination was learned at the port the frame came from.
    Hairpin => "hairpin",
    /// Ingress: the decision left no port to send to.
    NoEgress => "no_egress",
    /// Ingress: the rules say so: the packet matched, and no rule sends it anywhere.
    RuleDrop => "rule_drop",
    /// Ingress: no rule of a table matches.
    NoRule => "no_rule",
    /// Ingress: the packet is a fragment, and the switch drops these (`fragments` is `drop`).
    Fragment => "fragment",
    /// Ingress: the time to live is used up.
    TtlExceeded => "ttl_exceeded",
    /// Ingress: rules resubmit the packet in circles: more than 64 of them wait for each other.
    ResubmitTooDeep => "resubmit_too_deep",
    /// Ingress: rules resubmit the packet more than 4096 times.
    TooManyResubmits => "too_many_resubmits",
    /// Ingress: rules send the packet through the switch more than 16 times, or make more than 1024 copies of a burst's packets
    /// that go through it again.
    TooManyPasses => "too_many_passes",
    /// Ingress: rules push more than 4096 numbers onto the packet's stack.
    StackTooDeep => "stack_too_deep",
    /// Ingress: the rules do more with the packet than a verdict holds.
    TooManyActions => "too_many_actions",
    /// Ingress: the frame came in by a port that is reserved for mirrored frames.
    MirrorPort => "mirror_port",
    /// Ingress: the port sent more packets without a megaflow than its budget of upcalls allows.
    UpcallBudget => "upcall_budget",
    /// Ingress: the port's `fault=` says that packets vanish at random.
    InjectedRx => "injected_rx",
    /// Egress: the port's `fault=` says that packets vanish at random.
    InjectedTx => "injected_tx",
    /// Egress: the port was removed after the decision.
    PortGone => "port_gone",
    /// Egress: the guest is not connected, or has not started the queue.
    NotConnected => "not_connected",
    /// Egress: the guest has given no buffers.
    NoGuestBuffer => "no_guest_buffer",
    /// Egress: the guest's buffers are too small for the frame and cannot be merged.
    GuestBufferTooSmall => "guest_buffer_too_small",
    /// Egress: the frame is longer than the port takes.
    TooLong => "too_long",
    /// Egress: the headers do not fit the packet head, so that they cannot be rewritten or segmented.
    HeadersTooLong => "headers_too_long",
    /// Egress: a header that the rules rewrite is malformed.
    CannotRewrite => "cannot_rewrite",
    /// Egress: the host interface refused the frame.
    HostRefused => "host_refused",
    /// Egress: the queue towards the host is full: that of its interface, or of a file that is written.
    HostQueueFull => "host_queue_full",
    /// Egress: the port's ring broke and is stopped.
    RingBroken => "ring_broken",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meaning_says_where_a_reason_counts() {
        for reason in DropReason::ALL {
            let meaning = reason.meaning();
            assert!(meaning.starts_with("Ingress: ") || meaning.starts_with("Egress: "), "{meaning}");
            assert!(meaning.ends_with('.'), "{meaning}");
        }
        assert_eq!(DropReason::Hairpin.meaning().split(": ").next(), Some("Ingress"));
    }
}
