//! TCP and UDP segmentation for ports that cannot segment themselves.
//!
//! The head of the frame is copied to the scratch buffer once; each segment then has its varying header fields patched
//! there and takes its payload as the next part of the frame's tail, which is summed but not copied. Where headers end
//! before the head does, the first payload bytes follow them in the scratch buffer: as they lie for the first segment,
//! and, when segments are shorter than that rest, moved up for those after it. So each payload byte is copied at most
//! once here, and only if it was in the head, of which there are fewer than two hundred in a frame of up to 64 KiB.
//!
//! What varies: IPv4 total length, identification and header checksum, IPv6 payload length, TCP sequence, checksum, FIN
//! and PSH (last segment only) and CWR (first only), UDP length and checksum. IPv4 options, extension headers and TCP
//! options repeat as they are.
//!
//! # Source
//! virtio 1.3 §5.1.6.2.1 (what a sender promises), RFC 3168 §6.1.2 (CWR once per window).

use zerocopy::FromBytes;

use super::checksum::Sum;
use super::{Finisher, OffloadCaps, copy_head, never_zero};
use crate::drop_reason::DropReason;
use crate::packet::{Checksum, Frame, GsoKind, MAX_FRAME_BYTES, Offload};
use crate::wire::layers::{IpVersion, Layers};
use crate::wire::{Missing, ipv4, ipv6, tcp, udp};

/// Most segments that one frame is cut into: 64 KiB of the shortest payload that Linux cuts to, 8 bytes, which is the least
/// maximum segment size that it takes from a peer, 48, less 40 bytes of TCP options. Without the bound, a guest could turn
/// each of its frames into 65,000 of ours.
pub const MAX_SEGMENTS: usize = 8192;

/// Why a frame cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoPlan {
    /// Its offload state does not fit it.
    BadOffload,
    /// Its headers do not end in its head.
    HeadTooShort,
}

impl From<Missing> for NoPlan {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Malformed => NoPlan::BadOffload,
            Missing::Beyond => NoPlan::HeadTooShort,
        }
    }
}

/// What the segments are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn protocol(self) -> u8 {
        match self {
            Transport::Tcp => tcp::PROTOCOL,
            Transport::Udp => udp::PROTOCOL,
        }
    }

    fn checksum_offset(self) -> u16 {
        match self {
            Transport::Tcp => tcp::CHECKSUM_OFFSET,
            Transport::Udp => udp::CHECKSUM_OFFSET,
        }
    }

    fn fixed_header_len(self) -> usize {
        match self {
            Transport::Tcp => size_of::<tcp::Header>(),
            Transport::Udp => size_of::<udp::Header>(),
        }
    }
}

/// How a frame is to be cut, checked against the frame.
///
/// # Invariants
/// 1. `network < transport < headers_len <= head.len()` of the frame, and the fixed parts of the IP header and of that of
///    `kind` lie at `network` and `transport`.
/// 2. `1 <= gso_size`, and the payload is cut into at most [`MAX_SEGMENTS`].
struct Plan {
    version: IpVersion,
    kind: Transport,
    network: usize,
    transport: usize,
    headers_len: usize,
    payload_len: usize,
    gso_size: usize,
}

impl Plan {
    fn new(frame: &Frame<'_>) -> Result<Self, NoPlan> {
        let offload = frame.offload;
        let layers = Layers::locate(frame.head, frame.extent())?;
        let kind = match (offload.gso, layers.version) {
            (GsoKind::TcpV4, IpVersion::V4) | (GsoKind::TcpV6, IpVersion::V6) => Transport::Tcp,
            (GsoKind::Udp, IpVersion::V4 | IpVersion::V6) => Transport::Udp,
            (GsoKind::None | GsoKind::TcpV4 | GsoKind::TcpV6, _) => return Err(NoPlan::BadOffload),
        };
        if layers.protocol != kind.protocol() || layers.end != frame.len() || layers.fragment != 0 {
            return Err(NoPlan::BadOffload);
        }
        match offload.checksum {
            Checksum::Verified => {}
            Checksum::Partial { start, offset }
                if usize::from(start) == layers.transport && offset == kind.checksum_offset() => {}
            Checksum::Unknown | Checksum::Partial { .. } => return Err(NoPlan::BadOffload),
        }
        let headers_len = headers_len(frame, &layers, kind)?;
        let payload_len = frame.len() - headers_len;
        let gso_size = usize::from(offload.gso_size);
        if gso_size == 0 || payload_len.div_ceil(gso_size) > MAX_SEGMENTS {
            return Err(NoPlan::BadOffload);
        }
        let Layers { network, transport, .. } = layers;
        Ok(Self { version: layers.version, kind, network, transport, headers_len, payload_len, gso_size })
    }

    /// Bytes in the longest segment, headers included.
    fn longest(&self) -> usize {
        self.headers_len + self.gso_size.min(self.payload_len)
    }
}

/// Bytes up to the payload; they lie in the head.
fn headers_len(frame: &Frame<'_>, layers: &Layers, kind: Transport) -> Result<usize, NoPlan> {
    let fixed = layers.transport + kind.fixed_header_len();
    if frame.head.len() < fixed.min(frame.len()) {
        return Err(NoPlan::HeadTooShort);
    }
    let bytes = frame.head.get(layers.transport..).unwrap_or_default();
    let len = layers.end - layers.transport;
    match kind {
        Transport::Tcp => {
            let header = tcp::Header::parse(bytes, len).ok_or(NoPlan::BadOffload)?;
            let headers_len = layers.transport + header.header_len();
            if frame.head.len() < headers_len { Err(NoPlan::HeadTooShort) } else { Ok(headers_len) }
        }
        Transport::Udp => {
            let (header, _) = udp::Header::ref_from_prefix(bytes).map_err(|_| NoPlan::BadOffload)?;
            // A datagram without payload has nothing to cut, and one with another length has no right one for its segments.
            if usize::from(header.len.get()) == len && len > size_of::<udp::Header>() {
                Ok(fixed)
            } else {
                Err(NoPlan::BadOffload)
            }
        }
    }
}

/// Bytes of a head at first, and then, if its headers still do not end in it.
const LONGER_HEADS: [usize; 2] = [2048, MAX_FRAME_BYTES];

impl Finisher {
    /// Cuts `frame` into segments and emits them in order.
    ///
    /// # Errors
    /// As [`finish`](Finisher::finish).
    #[inline(never)]
    pub(super) fn segment(
        &mut self,
        frame: &Frame<'_>,
        caps: OffloadCaps,
        max_frame_bytes: usize,
        emit: &mut impl FnMut(&Frame<'_>) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        match Plan::new(frame) {
            Ok(plan) => self.cut(frame, &plan, caps, max_frame_bytes, emit),
            Err(NoPlan::BadOffload) => Err(DropReason::BadOffload),
            Err(NoPlan::HeadTooShort) => {
                let mut buffer = std::mem::take(&mut self.longer_head);
                let result = self.segment_longer(&mut buffer, frame, caps, max_frame_bytes, emit);
                self.longer_head = buffer;
                result
            }
        }
    }

    /// The same for a frame whose headers do not end in its head, with a longer copy of its head in `buffer`.
    #[cold]
    fn segment_longer(
        &mut self,
        buffer: &mut [u8],
        frame: &Frame<'_>,
        caps: OffloadCaps,
        max_frame_bytes: usize,
        emit: &mut impl FnMut(&Frame<'_>) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        for len in LONGER_HEADS {
            let mut tail = frame.tail;
            let head = &*copy_head(frame.head, &mut tail, len, buffer)?;
            let frame = Frame { head, tail, offload: frame.offload };
            match Plan::new(&frame) {
                Ok(plan) => return self.cut(&frame, &plan, caps, max_frame_bytes, emit),
                Err(NoPlan::BadOffload) => break,
                Err(NoPlan::HeadTooShort) => {}
            }
        }
        Err(DropReason::BadOffload)
    }

    fn cut(
        &mut self,
        frame: &Frame<'_>,
        plan: &Plan,
        caps: OffloadCaps,
        max_frame_bytes: usize,
        emit: &mut impl FnMut(&Frame<'_>) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        if plan.longest() > max_frame_bytes {
            return Err(DropReason::TooLong);
        }
        self.head.get_mut(..frame.head.len()).ok_or(DropReason::TooLong)?.copy_from_slice(frame.head);
        let original = Original::read(&self.head, plan).ok_or(DropReason::BadOffload)?;
        let mut head_rest = &frame.head[plan.headers_len..];
        let mut tail = frame.tail;
        let mut at = 0;
        // Ends after at most MAX_SEGMENTS rounds (Plan invariant 2); a frame without payload is one segment.
        loop {
            let len = plan.gso_size.min(plan.payload_len - at);
            // 1. Payload: first what was in the head, then from the tail.
            let (from_head, after) = head_rest.split_at(len.min(head_rest.len()));
            head_rest = after;
            let head_len = plan.headers_len + from_head.len();
            self.head[plan.headers_len..head_len].copy_from_slice(from_head);
            let payload = tail.split_to(len - from_head.len());
            // 2. Headers, with the sum of the pseudo-header in the checksum field.
            let last = at + len == plan.payload_len;
            original.patch(&mut self.head, plan, at, len, last).ok_or(DropReason::BadOffload)?;
            // 3. The checksum, or the order to compute it.
            let checksum = partial_checksum(plan)?;
            let offload = Offload { checksum, ..Offload::default() };
            let segment = Frame { head: &self.head[..head_len], tail: payload, offload: &offload };
            if caps.checksum {
                emit(&segment)?;
            } else {
                emit(&self.complete_segment(plan, head_len, payload))?;
            }
            at += len;
            if last {
                return Ok(());
            }
        }
    }

    /// The segment in the scratch buffer with its transport checksum completed in place.
    fn complete_segment<'a>(
        &'a mut self,
        plan: &Plan,
        head_len: usize,
        payload: crate::packet::Tail<'a>,
    ) -> Frame<'a> {
        let mut sum = Sum::new();
        sum.add(&self.head[plan.transport..head_len]);
        sum.add_tail(payload, &mut self.bounce);
        let field = plan.transport + usize::from(plan.kind.checksum_offset());
        self.head[field..field + 2].copy_from_slice(&never_zero(sum.checksum()).to_be_bytes());
        Frame { head: &self.head[..head_len], tail: payload, offload: &Offload::NONE }
    }
}

/// The checksum state that leaves the sum to the port.
fn partial_checksum(plan: &Plan) -> Result<Checksum, DropReason> {
    let start = u16::try_from(plan.transport).map_err(|_| DropReason::HeadersTooLong)?;
    Ok(Checksum::Partial { start, offset: plan.kind.checksum_offset() })
}

/// The header fields of the frame from which those of each segment are derived.
struct Original {
    id: u16,
    transport: OriginalTransport,
    /// Sum of the addresses and the protocol: the part of the pseudo-header that is the same for each segment.
    pseudo: Sum,
}

/// The fields of the transport header from which those of each segment are derived.
enum OriginalTransport {
    Tcp { sequence: u32, offset_flags: u16 },
    Udp,
}

impl Original {
    fn read(head: &[u8], plan: &Plan) -> Option<Self> {
        let (network, transport) = (head.get(plan.network..)?, head.get(plan.transport..)?);
        let transport = match plan.kind {
            Transport::Tcp => {
                let (tcp, _) = tcp::Header::ref_from_prefix(transport).ok()?;
                OriginalTransport::Tcp { sequence: tcp.sequence.get(), offset_flags: tcp.offset_flags.get() }
            }
            Transport::Udp => OriginalTransport::Udp,
        };
        let mut pseudo = Sum::new();
        pseudo.add_u16(u16::from(plan.kind.protocol()));
        let id = match plan.version {
            IpVersion::V4 => {
                let (ip, _) = ipv4::Header::ref_from_prefix(network).ok()?;
                pseudo.add(&ip.src);
                pseudo.add(&ip.dst);
                ip.id.get()
            }
            IpVersion::V6 => {
                let (ip, _) = ipv6::Header::ref_from_prefix(network).ok()?;
                pseudo.add(&ip.src);
                pseudo.add(&ip.dst);
                0
            }
        };
        Some(Self { id, transport, pseudo })
    }

    /// Writes the headers of the segment whose payload starts `at` bytes into the frame's and is `len` bytes long. `None` only
    /// if the headers are not where the plan says.
    fn patch(&self, head: &mut [u8], plan: &Plan, at: usize, len: usize, last: bool) -> Option<()> {
        let transport_len = u16::try_from(plan.headers_len - plan.transport + len).ok()?;
        let ip_header_len = plan.transport - plan.network;
        let network = head.get_mut(plan.network..plan.transport)?;
        match plan.version {
            IpVersion::V4 => {
                let (ip, _) = ipv4::Header::mut_from_prefix(network).ok()?;
                ip.total_len.set(u16::try_from(ip_header_len).ok()?.checked_add(transport_len)?);
                // Truncation is modulo 2^16, which is how identifications wrap.
                #[allow(clippy::cast_possible_truncation, reason = "below MAX_SEGMENTS")]
                ip.id.set(self.id.wrapping_add((at / plan.gso_size) as u16));
                ip.checksum.set(0);
                let mut sum = Sum::new();
                sum.add(network);
                let (ip, _) = ipv4::Header::mut_from_prefix(network).ok()?;
                ip.checksum.set(sum.checksum());
            }
            IpVersion::V6 => {
                let extensions = u16::try_from(ip_header_len - ipv6::HEADER_LEN).ok()?;
                let (ip, _) = ipv6::Header::mut_from_prefix(network).ok()?;
                ip.payload_len.set(extensions.checked_add(transport_len)?);
            }
        }
        let mut pseudo = self.pseudo;
        pseudo.add_u16(transport_len);
        let transport = head.get_mut(plan.transport..)?;
        match self.transport {
            OriginalTransport::Tcp { sequence, mut offset_flags } => {
                let (tcp, _) = tcp::Header::mut_from_prefix(transport).ok()?;
                tcp.sequence.set(sequence.wrapping_add(u32::try_from(at).ok()?));
                if !last {
                    offset_flags &= !(tcp::FIN | tcp::PSH);
                }
                if at > 0 {
                    offset_flags &= !tcp::CWR;
                }
                tcp.offset_flags.set(offset_flags);
                tcp.checksum.set(pseudo.folded());
            }
            OriginalTransport::Udp => {
                let (udp, _) = udp::Header::mut_from_prefix(transport).ok()?;
                udp.len.set(transport_len);
                udp.checksum.set(pseudo.folded());
            }
        }
        Some(())
    }
}
