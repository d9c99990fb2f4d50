//! Which features are offered, and what the negotiated ones mean.

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::virtio_config::{VIRTIO_F_NOTIFY_ON_EMPTY, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VLAN,
    VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vsteer_switch::egress::OffloadCaps;

use crate::ring::RingFeatures;

/// `VHOST_F_LOG_ALL`: the back-end logs every page it writes.
const VHOST_F_LOG_ALL: u32 = 26;
/// `VIRTIO_F_ANY_LAYOUT`: headers and data may share descriptors, which our code never cared about.
const VIRTIO_F_ANY_LAYOUT: u32 = 27;

/// What every guest is offered whatever its options.
///
/// QEMU serves the control queue itself and hides from its guest whatever of these bits a back-end does not offer, so they
/// must be offered here. Front-ends that hand a guest's queues through as they are (user-mode Linux) get a control queue
/// from us: see `control.rs`.
const ALWAYS: &[u32] = &[
    VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_STATUS,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_VLAN,
    VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_CTRL_MAC_ADDR,
    VIRTIO_F_NOTIFY_ON_EMPTY,
    VHOST_F_LOG_ALL,
    VIRTIO_F_ANY_LAYOUT,
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_F_VERSION_1,
];

const CHECKSUM: &[u32] = &[VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM];

const SEGMENTATION: &[u32] = &[
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
];

fn bits(features: &[u32]) -> u64 {
    features.iter().fold(0, |all, bit| all | 1 << bit)
}

/// Which offloads a port may offer to its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffloadOptions {
    /// Checksum offload, both ways.
    pub checksum: bool,
    /// TCP and UDP segmentation offload, both ways; needs `checksum`.
    pub segmentation: bool,
}

impl Default for OffloadOptions {
    fn default() -> Self {
        Self { checksum: true, segmentation: true }
    }
}

/// What only means something where the front-end keeps the device's configuration itself, as QEMU does: an MTU that an
/// operator gave it, and a status by which it asks the guest to announce itself.
const OF_OWN_CONFIGURATION: &[u32] = &[VIRTIO_NET_F_MTU, VIRTIO_NET_F_GUEST_ANNOUNCE];

/// Who keeps the configuration space that the guest's driver reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Configuration {
    /// The front-end. QEMU complains when a network back-end offers one of its own.
    Own,
    /// We, if the front-end asks.
    Ours,
}

/// The virtio features that a front-end is told of.
pub(crate) fn told(options: OffloadOptions, configuration: Configuration) -> u64 {
    match configuration {
        Configuration::Own => offered(options),
        Configuration::Ours => offered(options) & !bits(OF_OWN_CONFIGURATION),
    }
}

/// The virtio features that a port takes.
pub(crate) fn offered(options: OffloadOptions) -> u64 {
    let mut features = bits(ALWAYS) | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    if options.checksum {
        features |= bits(CHECKSUM);
        if options.segmentation {
            features |= bits(SEGMENTATION);
        }
    }
    features
}

/// The protocol features that a front-end is told of.
///
/// Without RESET_DEVICE: a guest's reset stops the rings one by one, which is all there is to reset. BACKEND_REQ is a channel
/// by which we send nothing, but user-mode Linux (`arch/um/drivers/virtio_uml.c` in Linux 6.1) gets the interrupt of its
/// queues with it, and finds no device without.
pub(crate) fn told_protocol(configuration: Configuration) -> VhostUserProtocolFeatures {
    let always = VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::RARP
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
    match configuration {
        Configuration::Own => always,
        Configuration::Ours => {
            always | VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::BACKEND_REQ
        }
    }
}

/// The features that a front-end acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Negotiated(pub u64);

impl Negotiated {
    fn has(self, feature: u32) -> bool {
        self.0 >> feature & 1 != 0
    }

    /// The front-end enables rings by a message; otherwise they start enabled.
    pub(crate) fn rings_start_disabled(self) -> bool {
        self.0 & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0
    }

    /// The guest's driver has a control queue.
    pub(crate) fn control_queue(self) -> bool {
        self.has(VIRTIO_NET_F_CTRL_VQ)
    }

    /// The guest's driver knows of several queue pairs.
    pub(crate) fn multiqueue(self) -> bool {
        self.has(VIRTIO_NET_F_MQ)
    }

    /// Receive buffers can be merged for one frame.
    pub fn mergeable(self) -> bool {
        self.has(VIRTIO_NET_F_MRG_RXBUF)
    }

    /// Bytes of the virtio-net header before each frame.
    pub(crate) fn header_len(self) -> usize {
        if self.has(VIRTIO_F_VERSION_1) || self.mergeable() { 12 } else { 10 }
    }

    /// The guest may send frames without a checksum.
    pub(crate) fn guest_sends_partial(self) -> bool {
        self.has(VIRTIO_NET_F_CSUM)
    }

    /// The guest may send TCP/IPv4 frames to be segmented.
    pub(crate) fn guest_sends_tso4(self) -> bool {
        self.has(VIRTIO_NET_F_HOST_TSO4)
    }

    /// The guest may send TCP/IPv6 frames to be segmented.
    pub(crate) fn guest_sends_tso6(self) -> bool {
        self.has(VIRTIO_NET_F_HOST_TSO6)
    }

    /// The guest may send UDP frames to be segmented, over IPv4 and IPv6.
    pub(crate) fn guest_sends_uso(self) -> bool {
        self.has(VIRTIO_NET_F_HOST_USO)
    }

    /// The guest takes frames without a checksum.
    pub(crate) fn guest_takes_partial(self) -> bool {
        self.has(VIRTIO_NET_F_GUEST_CSUM)
    }

    /// The offloads that the guest takes. The header of an unsegmented UDP frame does not tell IPv4 from IPv6, so a guest gets
    /// such frames if it takes both.
    #[inline]
    pub fn guest_takes(self) -> OffloadCaps {
        OffloadCaps {
            checksum: self.guest_takes_partial(),
            tso4: self.has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: self.has(VIRTIO_NET_F_GUEST_TSO6),
            uso: self.has(VIRTIO_NET_F_GUEST_USO4) && self.has(VIRTIO_NET_F_GUEST_USO6),
            ecn: self.has(VIRTIO_NET_F_GUEST_ECN),
        }
    }

    pub(crate) fn ring_features(self) -> RingFeatures {
        RingFeatures {
            event_idx: self.has(VIRTIO_RING_F_EVENT_IDX),
            indirect: self.has(VIRTIO_RING_F_INDIRECT_DESC),
            notify_on_empty: self.has(VIRTIO_F_NOTIFY_ON_EMPTY),
            logging: self.has(VHOST_F_LOG_ALL),
        }
    }

    /// Names of the features that matter to an operator, in bit order.
    pub fn names(self) -> Vec<&'static str> {
        const NAMES: &[(u32, &str)] = &[
            (VIRTIO_NET_F_CSUM, "csum"),
            (VIRTIO_NET_F_GUEST_CSUM, "guest_csum"),
            (VIRTIO_NET_F_MTU, "mtu"),
            (VIRTIO_NET_F_GUEST_TSO4, "guest_tso4"),
            (VIRTIO_NET_F_GUEST_TSO6, "guest_tso6"),
            (VIRTIO_NET_F_GUEST_ECN, "guest_ecn"),
            (VIRTIO_NET_F_HOST_TSO4, "host_tso4"),
            (VIRTIO_NET_F_HOST_TSO6, "host_tso6"),
            (VIRTIO_NET_F_HOST_ECN, "host_ecn"),
            (VIRTIO_NET_F_MRG_RXBUF, "mrg_rxbuf"),
            (VIRTIO_NET_F_STATUS, "status"),
            (VIRTIO_NET_F_CTRL_VQ, "ctrl_vq"),
            (VIRTIO_NET_F_GUEST_ANNOUNCE, "guest_announce"),
            (VIRTIO_NET_F_MQ, "mq"),
            (VHOST_F_LOG_ALL, "log_all"),
            (VIRTIO_RING_F_INDIRECT_DESC, "indirect_desc"),
            (VIRTIO_RING_F_EVENT_IDX, "event_idx"),
            (VIRTIO_F_VERSION_1, "version_1"),
            (VIRTIO_NET_F_GUEST_USO4, "guest_uso4"),
            (VIRTIO_NET_F_GUEST_USO6, "guest_uso6"),
            (VIRTIO_NET_F_HOST_USO, "host_uso"),
        ];
        NAMES.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| *name).collect()
    }
}
