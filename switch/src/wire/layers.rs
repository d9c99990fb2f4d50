//! Where the layers of an IP frame lie, for work that rewrites headers rather than matches on them.

use super::{Extent, FRAG_LATER, Missing, Upper, ethernet, ipv4, ipv6};

/// Version of the network layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where the layers of an IP frame lie, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// Version of the network layer.
    pub version: IpVersion,
    /// Where the IP header starts; the fixed part of it lies in the head.
    pub network: usize,
    /// Where the transport header starts, past options and extension headers; may lie beyond the head.
    pub transport: usize,
    /// Where the IP packet ends; at most the frame's length, and shorter if the frame is padded.
    pub end: usize,
    /// Protocol at `transport`.
    pub protocol: u8,
    /// [`FRAG_ANY`](super::FRAG_ANY) and [`FRAG_LATER`].
    pub fragment: u8,
    /// An IPv6 routing header names further stations, so that the destination is not the last one.
    pub is_routed: bool,
}

impl Layers {
    /// Finds the layers of the frame that starts with `head`, behind all of its tags. `frame` is how much of it there is.
    ///
    /// # Errors
    /// The frame does not hold a well-formed IP packet, or its extension headers lie beyond the head.
    pub fn locate(head: &[u8], frame: Extent) -> Result<Self, Missing> {
        let (eth_type, link_len) = ethernet::behind_all_tags(head, frame.len)?;
        Self::locate_behind(head, frame, eth_type, link_len)
    }

    /// The same for a frame whose link layer is `link_len` bytes long and ends in `eth_type`.
    ///
    /// # Errors
    /// As [`locate`](Self::locate).
    pub fn locate_behind(
        head: &[u8],
        frame: Extent,
        eth_type: u16,
        link_len: usize,
    ) -> Result<Self, Missing> {
        let bytes = head.get(link_len..).ok_or(Missing::Malformed)?;
        let len = frame.len.checked_sub(link_len).ok_or(Missing::Malformed)?;
        let extent = Extent { len, ..frame };
        if !extent.is_network_in(bytes) {
            return Err(Missing::Beyond);
        }
        let (version, upper) = match eth_type {
            ethernet::TYPE_IPV4 => {
                let header = ipv4::Header::parse(bytes, extent).ok_or(Missing::Malformed)?;
                (IpVersion::V4, header.upper(extent))
            }
            ethernet::TYPE_IPV6 => {
                let header = ipv6::Header::parse(bytes, extent).ok_or(Missing::Malformed)?;
                (IpVersion::V6, header.upper(bytes, extent)?)
            }
            _ => return Err(Missing::Malformed),
        };
        let Upper { protocol, fragment, is_routed, offset, end } = upper;
        Ok(Self {
            version,
            network: link_len,
            transport: link_len + offset,
            end: link_len + end,
            protocol,
            fragment,
            is_routed,
        })
    }

    /// The transport header and what follows it, as far as it lies in `head`; empty for later fragments.
    pub fn transport_bytes<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        if self.fragment & FRAG_LATER != 0 {
            return &[];
        }
        head.get(self.transport..self.end.min(head.len())).unwrap_or_default()
    }
}
