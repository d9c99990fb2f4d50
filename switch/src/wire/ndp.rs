//! Neighbour solicitations and advertisements with their link-layer address options.
//!
//! The options of a message are read up to the first one that is malformed, where receivers discard the message. Of options
//! that are given twice the first counts, as it does for Linux and FreeBSD. A guard against forged neighbours must see what
//! its guests would believe, so no message is passed over for being odd. (Open vSwitch takes one with doubled options for
//! one without a target.)
//!
//! # Source
//! RFC 4861 §4.3, §4.4, §4.6.1.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::{MacAddr, icmp};

/// ICMPv6 type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;

/// Option: the sender's link-layer address.
pub const SOURCE_LINK_LAYER: u8 = 1;
/// Option: the target's link-layer address.
pub const TARGET_LINK_LAYER: u8 = 2;

/// Bytes of an option with an Ethernet address, which is also the unit in which options count their length.
const OPTION_LEN: usize = 8;

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Message {
    icmp: icmp::Header,
    target: [u8; 16],
}

/// What a solicitation or advertisement says; addresses are zero when absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Neighbour {
    /// The address that is looked for or announced.
    pub target: [u8; 16],
    /// Source link-layer address.
    pub source_mac: MacAddr,
    /// Target link-layer address.
    pub target_mac: MacAddr,
}

/// Whether an ICMPv6 message that starts so is a solicitation or advertisement.
#[inline]
pub fn is_neighbour(header: &icmp::Header) -> bool {
    matches!(header.kind, SOLICITATION | ADVERTISEMENT) && header.code == 0
}

/// Where the link-layer addresses lie in the options of the whole message `bytes`, which starts at the ICMPv6 header:
/// source and target.
pub fn link_layer_addresses(bytes: &[u8]) -> [Option<usize>; 2] {
    let (mut source, mut target) = (None, None);
    let mut at = size_of::<Message>();
    // Bound: each round passes at least eight bytes of the message.
    while let Some(&[kind, units, ..]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<OPTION_LEN>()) {
        let len = usize::from(units) * OPTION_LEN;
        if len == 0 || len > bytes.len() - at {
            break;
        }
        match kind {
            SOURCE_LINK_LAYER if len == OPTION_LEN => source = source.or(Some(at + 2)),
            TARGET_LINK_LAYER if len == OPTION_LEN => target = target.or(Some(at + 2)),
            _ => {}
        }
        at += len;
    }
    [source, target]
}

impl Neighbour {
    /// Where the target lies in a message.
    pub const TARGET: std::ops::Range<usize> = size_of::<icmp::Header>()..size_of::<Message>();

    /// Reads the whole ICMPv6 message `bytes`; `None` if it is no solicitation or advertisement, or is cut short.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (message, _) = Message::ref_from_prefix(bytes).ok()?;
        if !is_neighbour(&message.icmp) {
            return None;
        }
        let [source_mac, target_mac] = link_layer_addresses(bytes)
            .map(|at| at.and_then(|at| bytes.get(at..)?.first_chunk().copied()).unwrap_or_default());
        Some(Neighbour { target: message.target, source_mac, target_mac })
    }
}
