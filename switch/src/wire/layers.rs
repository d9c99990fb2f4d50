//! Where the layers of an IP frame lie, for work that rewrites headers rather than matches on them.

use super::ethernet::{self, Link};
use super::{FRAG_LATER, Upper, ipv4, ipv6};

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
    /// Protocol at `transport`; an extension header's number where the walk over them ended early.
    pub protocol: u8,
    /// [`FRAG_ANY`](super::FRAG_ANY) and [`FRAG_LATER`].
    pub fragment: u8,
}

impl Layers {
    /// Finds the layers of the frame that starts with `head` and is `frame_len` bytes long; `None` if it does not hold a
    /// well-formed IP header.
    pub fn locate(head: &[u8], frame_len: usize) -> Option<Self> {
        let link = Link::parse(head)?;
        Self::locate_behind(head, frame_len, link.eth_type, link.len)
    }

    /// The same for a frame whose link layer is `link_len` bytes long and ends in `eth_type`.
    pub fn locate_behind(head: &[u8], frame_len: usize, eth_type: u16, link_len: usize) -> Option<Self> {
        let bytes = head.get(link_len..)?;
        let available = frame_len.checked_sub(link_len)?;
        let (version, upper) = match eth_type {
            ethernet::TYPE_IPV4 => (IpVersion::V4, ipv4::Header::parse(bytes, available)?.upper()),
            ethernet::TYPE_IPV6 => (IpVersion::V6, ipv6::Header::parse(bytes, available)?.upper(bytes)),
            _ => return None,
        };
        let Upper { protocol, fragment, offset, end } = upper;
        Some(Self {
            version,
            network: link_len,
            transport: link_len + offset,
            end: link_len + end,
            protocol,
            fragment,
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
