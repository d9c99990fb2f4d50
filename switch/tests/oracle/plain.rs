//! A packet as plain numbers: how fields read and change, and which bytes they make.
//!
//! Written against the standards, not against the switch: nothing here uses its headers, keys or checksums.

use vsteer_switch::port::PortId;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::needs::Needs;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const RARP: u16 = 0x8035;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

const PRESENT: u16 = 0x1000;
/// OpenFlow's number of the local port.
const LOCAL: u32 = 0xfffe;

/// A tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) tpid: u16,
    pub(crate) pcp: u16,
    pub(crate) vid: u16,
}

impl Tag {
    /// The tag as it stands in a frame.
    pub(crate) fn bytes(&self) -> [u8; 4] {
        let ([t0, t1], [c0, c1]) = (self.tpid.to_be_bytes(), (self.pcp << 13 | self.vid).to_be_bytes());
        [t0, t1, c0, c1]
    }
}

/// A packet. Fields that it lacks are zero, and fields of different protocols that share a place share it here, too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plain {
    /// Number of the ingress port; that of `LOCAL` if rules said so and no port is local.
    pub(crate) in_port: u32,
    /// The port that is local.
    pub(crate) local: Option<u32>,
    pub(crate) eth_dst: u64,
    pub(crate) eth_src: u64,
    /// The outermost first.
    pub(crate) tags: Vec<Tag>,
    /// What stands between the tags and the Ethernet type and is passed over: SNAP, tags of VLAN 0.
    pub(crate) between: Vec<u8>,
    pub(crate) eth_type: u16,
    /// What the frame carries if its type says nothing that is known here.
    pub(crate) payload: Vec<u8>,
    /// IP protocol, or ARP operation.
    pub(crate) proto: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    /// 0 for whole packets, 1 for first fragments, 3 for later ones.
    pub(crate) frag: u8,
    /// IPv6 extension headers before what is carried, of eight bytes each.
    pub(crate) extensions: usize,
    pub(crate) label: u32,
    pub(crate) src: u128,
    pub(crate) dst: u128,
    pub(crate) tp_src: u16,
    pub(crate) tp_dst: u16,
    pub(crate) flags: u16,
    pub(crate) nd_target: u128,
    pub(crate) hw_src: u64,
    pub(crate) hw_dst: u64,
    /// The link-layer address option of a neighbour message: 1 source, 2 target.
    pub(crate) nd_option: u8,
    /// The sender left the sum of a UDP datagram out.
    pub(crate) no_sum: bool,
    pub(crate) metadata: u64,
    pub(crate) registers: [u32; 32],
    /// The conjunction that is met while its rule is looked up.
    pub(crate) conj_id: u32,
    /// Where the action set sends the packet.
    pub(crate) actset_output: u32,
}

/// The part of a number that a field's bits fill.
fn merge(old: u128, value: u128, mask: u128) -> u128 {
    old & !mask | value & mask
}

impl Plain {
    pub(crate) fn port(&self) -> PortId {
        u16::try_from(self.in_port).ok().and_then(PortId::new).expect("packets come from ports")
    }

    fn is_from_local(&self) -> bool {
        self.in_port == LOCAL || Some(self.in_port) == self.local
    }

    /// The number of the ingress port as rules read it.
    pub(crate) fn ingress_number(&self) -> u128 {
        if self.is_from_local() { LOCAL.into() } else { self.in_port.into() }
    }

    /// Makes the packet one that came from this port.
    pub(crate) fn come_from(&mut self, port: u32) {
        self.in_port = if port == LOCAL { self.local.unwrap_or(LOCAL) } else { port };
    }

    /// Whether it has become something that a switch which reads `limit` tags takes for another packet when it comes back:
    /// the tags that it looks at hide what is behind more of them, with fewer of them it sees one that was hidden, and a
    /// message about neighbours is one only while its hop limit says that no router has passed it on.
    pub(crate) fn is_misread_when_it_returns(&self, limit: usize) -> bool {
        let is_tag = |eth_type: [u8; 2]| matches!(eth_type, [0x81, 0] | [0x88, 0xa8]);
        let next = self.between.first_chunk().copied().unwrap_or(self.eth_type.to_be_bytes());
        self.tags.len() > limit
            || self.tags.len() < limit && is_tag(next)
            || self.nd_option != 0 && self.ttl != 255
    }

    fn tci(&self, nth: usize) -> u128 {
        self.tags.get(nth).map_or(0, |tag| u128::from(PRESENT | tag.pcp << 13 | tag.vid))
    }

    fn register(&self, first: usize, count: usize) -> u128 {
        self.registers[first..first + count].iter().fold(0, |wide, &part| wide << 32 | u128::from(part))
    }

    fn set_register(&mut self, first: usize, count: usize, value: u128) {
        for (nth, part) in self.registers[first..first + count].iter_mut().rev().enumerate() {
            *part = u32::try_from(value >> (32 * nth) & 0xffff_ffff).expect("32 bits");
        }
    }

    pub(crate) fn read(&self, field: Field) -> u128 {
        match field {
            Field::InPort => self.in_port.into(),
            Field::FromLocal => self.is_from_local().into(),
            Field::EthSrc => self.eth_src.into(),
            Field::EthDst => self.eth_dst.into(),
            Field::EthType => self.eth_type.into(),
            Field::VlanTci => self.tci(0),
            Field::VlanVid => self.tci(0) & 0x1fff,
            Field::VlanPcp => self.tci(0) >> 13,
            Field::InnerVlanTci => self.tci(1),
            Field::InnerVlanVid => self.tci(1) & 0x1fff,
            Field::InnerVlanPcp => self.tci(1) >> 13,
            Field::Ipv4Src | Field::ArpSpa => self.src & 0xffff_ffff,
            Field::Ipv4Dst | Field::ArpTpa => self.dst & 0xffff_ffff,
            Field::Ipv6Src => self.src,
            Field::Ipv6Dst => self.dst,
            Field::Ipv6Label => self.label.into(),
            Field::IpProto | Field::ArpOp => self.proto.into(),
            Field::IpTos => self.tos.into(),
            Field::IpDscp => u128::from(self.tos) >> 2,
            Field::IpEcn => u128::from(self.tos) & 3,
            Field::IpTtl => self.ttl.into(),
            Field::IpFrag => self.frag.into(),
            Field::ArpSha | Field::NdSll => self.hw_src.into(),
            Field::ArpTha | Field::NdTll => self.hw_dst.into(),
            Field::TcpSrc | Field::UdpSrc | Field::SctpSrc => self.tp_src.into(),
            Field::TcpDst | Field::UdpDst | Field::SctpDst => self.tp_dst.into(),
            Field::TcpFlags => self.flags.into(),
            Field::TpSrc => self.tp_src.into(),
            Field::TpDst => self.tp_dst.into(),
            Field::InPortOxm => {
                self.ingress_number() | if self.ingress_number() < 0xff00 { 0 } else { 0xffff_0000 }
            }
            Field::ConjId => self.conj_id.into(),
            Field::ActsetOutput => self.actset_output.into(),
            Field::IcmpType | Field::Icmpv6Type => u128::from(self.tp_src) & 0xff,
            Field::IcmpCode | Field::Icmpv6Code => u128::from(self.tp_dst) & 0xff,
            Field::NdTarget => self.nd_target,
            Field::Metadata => self.metadata.into(),
            Field::Reg(n) => self.register(n.into(), 1),
            Field::Xreg(n) => self.register(2 * usize::from(n), 2),
            Field::Xxreg(n) => self.register(4 * usize::from(n), 4),
        }
    }

    pub(crate) fn has(&self, needs: Needs) -> bool {
        let ip = self.eth_type == IPV4 || self.eth_type == IPV6;
        let carries = |proto| self.proto == proto && self.frag < 2;
        let neighbour =
            |kind| self.eth_type == IPV6 && carries(ICMPV6) && (self.tp_src, self.tp_dst) == (kind, 0);
        match needs {
            Needs::Nothing => true,
            Needs::Vlan => !self.tags.is_empty(),
            Needs::InnerVlan => self.tags.len() > 1,
            Needs::Arp => matches!(self.eth_type, ARP | RARP),
            Needs::Ipv4 => self.eth_type == IPV4,
            Needs::Ipv6 => self.eth_type == IPV6,
            Needs::Ip => ip,
            Needs::Tcp => ip && carries(TCP),
            Needs::Udp => ip && carries(UDP),
            Needs::Sctp => ip && carries(SCTP),
            Needs::Ports => ip && [TCP, UDP, SCTP].into_iter().any(carries),
            Needs::Icmp => self.eth_type == IPV4 && carries(ICMP),
            Needs::Icmpv6 => self.eth_type == IPV6 && carries(ICMPV6),
            Needs::Nd => neighbour(135) || neighbour(136),
            Needs::NdSolicit => neighbour(135),
            Needs::NdAdvert => neighbour(136),
        }
    }

    /// Overwrites bits of a field that the packet has.
    #[allow(clippy::cast_possible_truncation, reason = "the numbers are as wide as their fields")]
    pub(crate) fn write(&mut self, field: Field, value: u128, mask: u128) {
        let mask = mask & field.full_mask();
        let new = merge(self.read(field), value, mask);
        match field {
            Field::InPort | Field::InPortOxm => {
                self.come_from(merge(self.ingress_number(), value, mask) as u32 & 0xffff);
            }
            Field::EthSrc => self.eth_src = new as u64,
            Field::EthDst => self.eth_dst = new as u64,
            Field::VlanTci | Field::VlanVid => self.write_tci(0, value as u16, mask as u16),
            Field::VlanPcp => self.write_tci(0, (value << 13) as u16, (mask << 13) as u16),
            Field::InnerVlanTci | Field::InnerVlanVid => self.write_tci(1, value as u16, mask as u16),
            Field::InnerVlanPcp => self.write_tci(1, (value << 13) as u16, (mask << 13) as u16),
            Field::Ipv4Src | Field::ArpSpa => self.src = new,
            Field::Ipv4Dst | Field::ArpTpa => self.dst = new,
            Field::Ipv6Src => self.src = new,
            Field::Ipv6Dst => self.dst = new,
            Field::Ipv6Label => self.label = new as u32,
            Field::ArpOp => self.proto = new as u8,
            Field::IpTos => self.tos = new as u8,
            Field::IpDscp => self.tos = self.tos & 3 | (new as u8) << 2,
            Field::IpEcn => self.tos = self.tos & !3 | new as u8,
            Field::IpTtl => self.ttl = new as u8,
            Field::ArpSha | Field::NdSll => self.hw_src = new as u64,
            Field::ArpTha | Field::NdTll => self.hw_dst = new as u64,
            Field::TcpSrc
            | Field::UdpSrc
            | Field::SctpSrc
            | Field::TpSrc
            | Field::IcmpType
            | Field::Icmpv6Type => {
                self.tp_src = new as u16;
            }
            Field::TcpDst
            | Field::UdpDst
            | Field::SctpDst
            | Field::TpDst
            | Field::IcmpCode
            | Field::Icmpv6Code => {
                self.tp_dst = new as u16;
            }
            Field::NdTarget => self.nd_target = new,
            Field::Metadata => self.metadata = new as u64,
            Field::Reg(n) => self.set_register(n.into(), 1, new),
            Field::Xreg(n) => self.set_register(2 * usize::from(n), 2, new),
            Field::Xxreg(n) => self.set_register(4 * usize::from(n), 4, new),
            Field::FromLocal
            | Field::EthType
            | Field::IpProto
            | Field::IpFrag
            | Field::TcpFlags
            | Field::ConjId
            | Field::ActsetOutput => {
                unreachable!("not writable")
            }
        }
    }

    fn write_tci(&mut self, nth: usize, value: u16, mask: u16) {
        let is_there = self.tags.len() > nth;
        let stays = if mask & PRESENT == 0 { is_there } else { value & PRESENT != 0 };
        if nth == 1 && stays != is_there {
            return;
        }
        if is_there && !stays {
            self.tags.remove(0);
            return;
        }
        if !is_there && stays {
            self.tags.insert(0, Tag { tpid: 0x8100, pcp: 0, vid: 0 });
        }
        if let Some(tag) = self.tags.get_mut(nth) {
            let new = merge(u128::from(tag.pcp << 13 | tag.vid), value.into(), mask.into());
            let new = u16::try_from(new).expect("16 bits");
            (tag.pcp, tag.vid) = (new >> 13, new & 0xfff);
        }
    }

    pub(crate) fn set_vlan(&mut self, vid: u16) {
        self.write_tci(0, PRESENT | vid, PRESENT | 0xfff);
    }

    pub(crate) fn set_priority(&mut self, pcp: u16) {
        self.write_tci(0, PRESENT | pcp << 13, PRESENT | 0xe000);
    }

    pub(crate) fn push_tag(&mut self, tpid: u16) {
        self.tags.insert(0, Tag { tpid, pcp: 0, vid: 0 });
    }

    /// The frame, with every checksum worked out from scratch.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut frame = self.eth_dst.to_be_bytes()[2..].to_vec();
        frame.extend(&self.eth_src.to_be_bytes()[2..]);
        frame.extend(self.tags.iter().flat_map(Tag::bytes));
        frame.extend(&self.between);
        frame.extend(self.eth_type.to_be_bytes());
        match self.eth_type {
            IPV4 => frame.extend(self.ipv4()),
            IPV6 => frame.extend(self.ipv6()),
            ARP | RARP => frame.extend(self.arp()),
            _ => frame.extend(&self.payload),
        }
        frame
    }

    fn arp(&self) -> Vec<u8> {
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, self.proto];
        bytes.extend(&self.hw_src.to_be_bytes()[2..]);
        bytes.extend(&self.src.to_be_bytes()[12..]);
        bytes.extend(&self.hw_dst.to_be_bytes()[2..]);
        bytes.extend(&self.dst.to_be_bytes()[12..]);
        bytes
    }

    fn ipv4(&self) -> Vec<u8> {
        let upper = self.upper();
        let mut bytes = vec![0x46, self.tos];
        bytes.extend(length(24 + upper.len()));
        let fragment: u16 = [0x4000, 0x2000, 0, 0x0010][usize::from(self.frag)];
        bytes.extend([0xab, 0xcd]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([self.ttl, self.proto, 0, 0]);
        bytes.extend(&self.src.to_be_bytes()[12..]);
        bytes.extend(&self.dst.to_be_bytes()[12..]);
        bytes.extend([1, 1, 1, 0]);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(upper);
        bytes
    }

    fn ipv6(&self) -> Vec<u8> {
        let upper = self.upper();
        // Destination options come before what is carried, or before the header of a fragment.
        let fragment = if self.frag == 0 { 0 } else { 8 };
        let last = if fragment == 0 { self.proto } else { 44 };
        let mut bytes = (6 << 28 | u32::from(self.tos) << 20 | self.label).to_be_bytes().to_vec();
        bytes.extend(length(8 * self.extensions + fragment + upper.len()));
        bytes.extend([if self.extensions == 0 { last } else { 60 }, self.ttl]);
        bytes.extend(self.src.to_be_bytes());
        bytes.extend(self.dst.to_be_bytes());
        for nth in 1..=self.extensions {
            bytes.extend([if nth == self.extensions { last } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        match self.frag {
            0 => {}
            1 => bytes.extend([self.proto, 0, 0, 1, 1, 2, 3, 4]),
            // Of a later one rules know no protocol but that of its header.
            _ => bytes.extend([17, 0, 0, 8, 1, 2, 3, 4]),
        }
        bytes.extend(upper);
        bytes
    }

    fn pseudo(&self, len: usize) -> Vec<u8> {
        let mut bytes = if self.eth_type == IPV4 {
            [&self.src.to_be_bytes()[12..], &self.dst.to_be_bytes()[12..]].concat()
        } else {
            [self.src.to_be_bytes(), self.dst.to_be_bytes()].concat()
        };
        bytes.extend(length(len));
        bytes.extend([0, self.proto]);
        bytes
    }

    /// What the IP header carries.
    fn upper(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = [self.tp_src.to_be_bytes(), self.tp_dst.to_be_bytes()].concat();
        let at = match (self.eth_type, self.proto) {
            _ if self.frag == 3 => return vec![0x33; 24],
            (_, TCP) => {
                bytes.extend([1, 2, 3, 4, 5, 6, 7, 8]);
                bytes.extend((0x5000 | self.flags).to_be_bytes());
                bytes.extend([0x20, 0, 0, 0, 0, 0, 9, 8, 7]);
                16
            }
            (_, UDP) => {
                bytes.extend(length(8 + 11));
                bytes.extend([0, 0]);
                bytes.extend([0x77; 11]);
                6
            }
            (_, SCTP) => {
                bytes.extend([9, 9, 9, 9, 0, 0, 0, 0, 3, 2, 1]);
                let crc = crc32c(&bytes);
                bytes[8..12].copy_from_slice(&crc.to_le_bytes());
                return bytes;
            }
            (IPV4, ICMP) | (IPV6, ICMPV6) => {
                bytes =
                    vec![self.tp_src.to_be_bytes()[1], self.tp_dst.to_be_bytes()[1], 0, 0, 0x12, 0x34, 0, 1];
                if self.nd_option != 0 {
                    bytes.extend(self.nd_target.to_be_bytes());
                    bytes.extend([self.nd_option, 1]);
                    let address = if self.nd_option == 1 { self.hw_src } else { self.hw_dst };
                    bytes.extend(&address.to_be_bytes()[2..]);
                }
                2
            }
            _ => return vec![0x99; 20],
        };
        if self.no_sum {
            return bytes;
        }
        let covered = if (self.eth_type, self.proto) == (IPV4, ICMP) {
            bytes.clone()
        } else {
            [self.pseudo(bytes.len()), bytes.clone()].concat()
        };
        let sum = match checksum(&covered) {
            0 if self.proto == UDP => 0xffff,
            sum => sum,
        };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

fn length(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("a short packet").to_be_bytes()
}

/// RFC 1071 §4.1.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("the carries are folded in")
}

/// RFC 9260 appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
