//! Neighbour solicitations and advertisements with their link-layer address options.
//!
//! A message that a receiver must discard has none of these fields, so that a rule which guards against forged
//! neighbours cannot be passed by a message that is malformed.
//!
//! # Source
//! RFC 4861 §4.3, §4.4, §4.6.1, §7.1.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::{MacAddr, icmp};

/// ICMPv6 type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// Hop limit that proves a message was not routed.
pub const HOP_LIMIT: u8 = 255;
/// Most options that are looked at; a message with more counts as malformed. Real ones carry one or two.
pub const MAX_OPTIONS: usize = 8;

/// Option: the sender's link-layer address.
pub const SOURCE_LINK_LAYER: u8 = 1;
/// Option: the target's link-layer address.
pub const TARGET_LINK_LAYER: u8 = 2;
/// Where the options start in a solicitation or advertisement.
pub const OPTIONS: usize = size_of::<Message>();

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Message {
    icmp: icmp::Header,
    flags: [u8; 4],
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

impl Neighbour {
    /// Reads the ICMPv6 message at the start of `bytes`, which came with `hop_limit`; `None` if it is no solicitation or
    /// advertisement, or one that a receiver discards: not from this link, with a code, or with bad options. An
    /// option that is given twice also makes it bad: which of the two a receiver believes is anyone's guess.
    pub fn parse(bytes: &[u8], hop_limit: u8) -> Option<Self> {
        let (message, mut options) = Message::ref_from_prefix(bytes).ok()?;
        let is_neighbour = matches!(message.icmp.kind, SOLICITATION | ADVERTISEMENT);
        if !is_neighbour || message.icmp.code != 0 || hop_limit != HOP_LIMIT {
            return None;
        }
        let (mut source, mut target) = (None, None);
        for _ in 0..MAX_OPTIONS {
            let &[kind, units, ..] = options else { break };
            let (option, rest) = options.split_at_checked(usize::from(units) * 8)?;
            // The shortest option is one unit; this also catches the zero length.
            let address = option.get(2..8)?.first_chunk::<6>()?;
            let seen = match kind {
                SOURCE_LINK_LAYER => source.replace(*address),
                TARGET_LINK_LAYER => target.replace(*address),
                _ => None,
            };
            if seen.is_some() {
                return None;
            }
            options = rest;
        }
        options.is_empty().then(|| Neighbour {
            target: message.target,
            source_mac: source.unwrap_or_default(),
            target_mac: target.unwrap_or_default(),
        })
    }
}
