//! The fields that rules name: where each lies in a `Fields`, how wide it is, and what a packet needs to have it.
//!
//! A field is at most 128 bits wide and is read and written as one number in wire order, whatever it stands for; text
//! gives it its notation. Several names may lie on the same bits, as `nw_src` and `arp_spa` do: which of them a packet has
//! follows from its type, as `needs.rs` has it.
//!
//! # Source
//! ovs-fields(7) for names, widths and prerequisites. The `inner_vlan` fields are ours: Open vSwitch has no name for them.

use std::mem::offset_of;

use crate::flow::fields::{FROM_LOCAL, Fields};
use crate::flow::key::{FlowKey, KeyTag};

use super::needs::Needs;
use super::port::RulePort;

/// How a field is written in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    /// A decimal number; hexadecimal with `0x` is understood.
    Decimal,
    /// A hexadecimal number; decimal is understood.
    Hex,
    /// `aa:bb:cc:dd:ee:ff`.
    Mac,
    /// `10.0.0.1`.
    Ipv4,
    /// `fd00::1`.
    Ipv6,
    /// The name or number of a port.
    Port,
    /// `no`, `yes`, `first`, `later`, `not_later`.
    Frag,
    /// `+syn-ack`, or a number.
    TcpFlags,
}

/// Where a field lies: `bits` bits of the big-endian number at bytes `byte..`, counted from the bit `shift` up.
#[derive(Debug, Clone, Copy)]
struct Place {
    byte: usize,
    shift: u8,
    bits: u8,
}

impl Place {
    /// Bytes that the field touches.
    const fn bytes(self) -> usize {
        (self.shift as usize + self.bits as usize).div_ceil(8)
    }

    /// Overwrites the bits of `mask` with those of `value`.
    #[allow(clippy::cast_possible_truncation, reason = "the bytes are cut out on purpose")]
    fn set(self, bytes: &mut [u8], value: u128, mask: u128) {
        let (value, mask) = ((value & mask) << self.shift, mask << self.shift);
        for (at, byte) in bytes[self.byte..self.byte + self.bytes()].iter_mut().rev().enumerate() {
            let (value, mask) = ((value >> (8 * at)) as u8, (mask >> (8 * at)) as u8);
            *byte = *byte & !mask | value;
        }
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $(| $alias:literal)* at ($byte:expr, $shift:literal, $bits:literal)
        needs $needs:ident, $notation:ident, $writable:literal;)*) => {
        /// A field that rules match or change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Field {
            $($(#[$doc])* $variant,)*
            /// Whether the packet came from the local port, 1 bit; text has it as `in_port=LOCAL`.
            FromLocal,
            /// Number of the ingress port in the 32 bits of OpenFlow 1.1. Actions alone name it; a match on `in_port_oxm`
            /// is one on the field of 16 bits.
            InPortOxm,
            /// Source port of whichever protocol has ports; text has it as `mod_tp_src`.
            TpSrc,
            /// Destination port of whichever protocol has ports; text has it as `mod_tp_dst`.
            TpDst,
            /// One of the 32-bit registers, `0..32`.
            Reg(u8),
            /// Two neighbouring registers as one of 64 bits, `0..16`.
            Xreg(u8),
            /// Four neighbouring registers as one of 128 bits, `0..8`.
            Xxreg(u8),
        }

        impl Field {
            /// Every field that a match asks about by a name of its own, other than registers.
            pub const NAMED: &'static [Field] = &[$(Field::$variant,)*];

            /// The field called `name`, by its own name or another one that users know.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name $(| $alias)* => Some(Field::$variant),)*
                    "in_port_oxm" | "OXM_OF_IN_PORT" => Some(Field::InPortOxm),
                    _ => Self::register(name),
                }
            }

            /// Its own name; of a register the part before its number.
            fn stem(self) -> &'static str {
                match self {
                    $(Field::$variant => $name,)*
                    Field::FromLocal => "in_port",
                    Field::InPortOxm => "in_port_oxm",
                    Field::TpSrc => "tp_src",
                    Field::TpDst => "tp_dst",
                    Field::Reg(_) => "reg",
                    Field::Xreg(_) => "xreg",
                    Field::Xxreg(_) => "xxreg",
                }
            }

            const fn place(self) -> Place {
                match self {
                    $(Field::$variant => Place { byte: $byte, shift: $shift, bits: $bits },)*
                    Field::FromLocal => Place { byte: IN_PORT, shift: 0, bits: 1 },
                    Field::InPortOxm => Place { byte: IN_PORT, shift: 0, bits: 32 },
                    Field::TpSrc => Place { byte: TP_SRC, shift: 0, bits: 16 },
                    Field::TpDst => Place { byte: TP_DST, shift: 0, bits: 16 },
                    Field::Reg(n) => register_place(n, 32),
                    Field::Xreg(n) => register_place(n, 64),
                    Field::Xxreg(n) => register_place(n, 128),
                }
            }

            /// What a packet must be to have it.
            pub fn needs(self) -> Needs {
                match self {
                    $(Field::$variant => Needs::$needs,)*
                    Field::TpSrc | Field::TpDst => Needs::Ports,
                    Field::FromLocal | Field::InPortOxm | Field::Reg(_) | Field::Xreg(_) | Field::Xxreg(_) => {
                        Needs::Nothing
                    }
                }
            }

            /// How it is written.
            pub fn notation(self) -> Notation {
                match self {
                    $(Field::$variant => Notation::$notation,)*
                    Field::InPortOxm => Notation::Port,
                    Field::TpSrc | Field::TpDst => Notation::Decimal,
                    Field::FromLocal | Field::Reg(_) | Field::Xreg(_) | Field::Xxreg(_) => Notation::Hex,
                }
            }

            /// Whether actions may change it.
            pub fn is_writable(self) -> bool {
                match self {
                    $(Field::$variant => $writable,)*
                    Field::FromLocal => false,
                    Field::InPortOxm | Field::TpSrc | Field::TpDst => true,
                    Field::Reg(_) | Field::Xreg(_) | Field::Xxreg(_) => true,
                }
            }
        }
    };
}

const IN_PORT: usize = offset_of!(FlowKey, in_port);
const VLAN: usize = offset_of!(FlowKey, vlan);
const TCI: usize = VLAN + offset_of!(KeyTag, tci);
const INNER_TCI: usize = TCI + size_of::<KeyTag>();
const SRC: usize = offset_of!(FlowKey, ip_src);
const DST: usize = offset_of!(FlowKey, ip_dst);
const TP_SRC: usize = offset_of!(FlowKey, tp_src);
const TP_DST: usize = offset_of!(FlowKey, tp_dst);
const HW_SRC: usize = offset_of!(FlowKey, hw_src);
const HW_DST: usize = offset_of!(FlowKey, hw_dst);
const TOS: usize = offset_of!(FlowKey, ip_tos);

fields! {
    /// Number of the ingress port.
    InPort = "in_port" | "NXM_OF_IN_PORT" at (IN_PORT, 0, 16) needs Nothing, Port, true;
    /// Ethernet source.
    EthSrc = "eth_src" | "dl_src" | "NXM_OF_ETH_SRC" | "OXM_OF_ETH_SRC" at (offset_of!(FlowKey, eth_src), 0, 48) needs Nothing, Mac, true;
    /// Ethernet destination.
    EthDst = "eth_dst" | "dl_dst" | "NXM_OF_ETH_DST" | "OXM_OF_ETH_DST" at (offset_of!(FlowKey, eth_dst), 0, 48) needs Nothing, Mac, true;
    /// Ethernet type after all VLAN tags.
    EthType = "eth_type" | "dl_type" | "NXM_OF_ETH_TYPE" | "OXM_OF_ETH_TYPE" at (offset_of!(FlowKey, eth_type), 0, 16) needs Nothing, Hex, false;
    /// Tag control of the outer tag, with the present bit; zero without a tag.
    VlanTci = "vlan_tci" | "NXM_OF_VLAN_TCI" at (TCI, 0, 16) needs Nothing, Hex, true;
    /// VLAN of the outer tag (12 bits) below the present bit.
    VlanVid = "vlan_vid" | "OXM_OF_VLAN_VID" at (TCI, 0, 13) needs Nothing, Hex, true;
    /// Priority of the outer tag.
    VlanPcp = "vlan_pcp" | "OXM_OF_VLAN_PCP" at (TCI, 13, 3) needs Vlan, Decimal, true;
    /// Tag control of the inner tag, with the present bit; zero without one.
    InnerVlanTci = "inner_vlan_tci" at (INNER_TCI, 0, 16) needs Nothing, Hex, true;
    /// VLAN of the inner tag (12 bits) below the present bit.
    InnerVlanVid = "inner_vlan_vid" at (INNER_TCI, 0, 13) needs Nothing, Hex, true;
    /// Priority of the inner tag.
    InnerVlanPcp = "inner_vlan_pcp" at (INNER_TCI, 13, 3) needs InnerVlan, Decimal, true;
    /// IPv4 source.
    Ipv4Src = "nw_src" | "ip_src" | "NXM_OF_IP_SRC" | "OXM_OF_IPV4_SRC" at (SRC + 12, 0, 32) needs Ipv4, Ipv4, true;
    /// IPv4 destination.
    Ipv4Dst = "nw_dst" | "ip_dst" | "NXM_OF_IP_DST" | "OXM_OF_IPV4_DST" at (DST + 12, 0, 32) needs Ipv4, Ipv4, true;
    /// IPv6 source.
    Ipv6Src = "ipv6_src" | "NXM_NX_IPV6_SRC" | "OXM_OF_IPV6_SRC" at (SRC, 0, 128) needs Ipv6, Ipv6, true;
    /// IPv6 destination.
    Ipv6Dst = "ipv6_dst" | "NXM_NX_IPV6_DST" | "OXM_OF_IPV6_DST" at (DST, 0, 128) needs Ipv6, Ipv6, true;
    /// IPv6 flow label.
    Ipv6Label = "ipv6_label" | "NXM_NX_IPV6_LABEL" | "OXM_OF_IPV6_FLABEL" at (offset_of!(FlowKey, ipv6_label) + 1, 0, 20) needs Ipv6, Hex, true;
    /// IP protocol.
    IpProto = "nw_proto" | "ip_proto" | "NXM_OF_IP_PROTO" | "OXM_OF_IP_PROTO" at (offset_of!(FlowKey, ip_proto), 0, 8) needs Ip, Decimal, false;
    /// DSCP and ECN together.
    IpTos = "nw_tos" | "NXM_OF_IP_TOS" at (TOS, 0, 8) needs Ip, Decimal, true;
    /// DSCP, without the bits of ECN.
    IpDscp = "ip_dscp" | "OXM_OF_IP_DSCP" at (TOS, 2, 6) needs Ip, Decimal, true;
    /// ECN.
    IpEcn = "nw_ecn" | "ip_ecn" | "NXM_NX_IP_ECN" | "OXM_OF_IP_ECN" at (TOS, 0, 2) needs Ip, Decimal, true;
    /// Time to live or hop limit.
    IpTtl = "nw_ttl" | "NXM_NX_IP_TTL" at (offset_of!(FlowKey, ip_ttl), 0, 8) needs Ip, Decimal, true;
    /// Whether the packet is a fragment, and a later one.
    IpFrag = "nw_frag" | "ip_frag" | "NXM_NX_IP_FRAG" at (offset_of!(FlowKey, ip_frag), 0, 2) needs Ip, Frag, false;
    /// ARP operation; above 255 a packet has 0.
    ArpOp = "arp_op" | "NXM_OF_ARP_OP" | "OXM_OF_ARP_OP" at (offset_of!(FlowKey, ip_proto), 0, 8) needs Arp, Decimal, true;
    /// ARP sender protocol address.
    ArpSpa = "arp_spa" | "NXM_OF_ARP_SPA" | "OXM_OF_ARP_SPA" at (SRC + 12, 0, 32) needs Arp, Ipv4, true;
    /// ARP target protocol address.
    ArpTpa = "arp_tpa" | "NXM_OF_ARP_TPA" | "OXM_OF_ARP_TPA" at (DST + 12, 0, 32) needs Arp, Ipv4, true;
    /// ARP sender hardware address.
    ArpSha = "arp_sha" | "NXM_NX_ARP_SHA" | "OXM_OF_ARP_SHA" at (HW_SRC, 0, 48) needs Arp, Mac, true;
    /// ARP target hardware address.
    ArpTha = "arp_tha" | "NXM_NX_ARP_THA" | "OXM_OF_ARP_THA" at (HW_DST, 0, 48) needs Arp, Mac, true;
    /// TCP source port.
    TcpSrc = "tcp_src" | "NXM_OF_TCP_SRC" | "OXM_OF_TCP_SRC" at (TP_SRC, 0, 16) needs Tcp, Decimal, true;
    /// TCP destination port.
    TcpDst = "tcp_dst" | "NXM_OF_TCP_DST" | "OXM_OF_TCP_DST" at (TP_DST, 0, 16) needs Tcp, Decimal, true;
    /// TCP flags.
    TcpFlags = "tcp_flags" | "NXM_NX_TCP_FLAGS" | "OXM_OF_TCP_FLAGS" at (offset_of!(FlowKey, tcp_flags), 0, 12) needs Tcp, TcpFlags, false;
    /// UDP source port.
    UdpSrc = "udp_src" | "NXM_OF_UDP_SRC" | "OXM_OF_UDP_SRC" at (TP_SRC, 0, 16) needs Udp, Decimal, true;
    /// UDP destination port.
    UdpDst = "udp_dst" | "NXM_OF_UDP_DST" | "OXM_OF_UDP_DST" at (TP_DST, 0, 16) needs Udp, Decimal, true;
    /// SCTP source port.
    SctpSrc = "sctp_src" | "OXM_OF_SCTP_SRC" at (TP_SRC, 0, 16) needs Sctp, Decimal, true;
    /// SCTP destination port.
    SctpDst = "sctp_dst" | "OXM_OF_SCTP_DST" at (TP_DST, 0, 16) needs Sctp, Decimal, true;
    /// ICMP type.
    IcmpType = "icmp_type" | "NXM_OF_ICMP_TYPE" | "OXM_OF_ICMPV4_TYPE" at (TP_SRC + 1, 0, 8) needs Icmp, Decimal, true;
    /// ICMP code.
    IcmpCode = "icmp_code" | "NXM_OF_ICMP_CODE" | "OXM_OF_ICMPV4_CODE" at (TP_DST + 1, 0, 8) needs Icmp, Decimal, true;
    /// ICMPv6 type.
    Icmpv6Type = "icmpv6_type" | "NXM_NX_ICMPV6_TYPE" | "OXM_OF_ICMPV6_TYPE" at (TP_SRC + 1, 0, 8) needs Icmpv6, Decimal, true;
    /// ICMPv6 code.
    Icmpv6Code = "icmpv6_code" | "NXM_NX_ICMPV6_CODE" | "OXM_OF_ICMPV6_CODE" at (TP_DST + 1, 0, 8) needs Icmpv6, Decimal, true;
    /// Neighbour discovery target.
    NdTarget = "nd_target" | "NXM_NX_ND_TARGET" | "OXM_OF_IPV6_ND_TARGET" at (offset_of!(FlowKey, nd_target), 0, 128) needs Nd, Ipv6, true;
    /// Source link-layer address option.
    NdSll = "nd_sll" | "NXM_NX_ND_SLL" | "OXM_OF_IPV6_ND_SLL" at (HW_SRC, 0, 48) needs NdSolicit, Mac, true;
    /// Target link-layer address option.
    NdTll = "nd_tll" | "NXM_NX_ND_TLL" | "OXM_OF_IPV6_ND_TLL" at (HW_DST, 0, 48) needs NdAdvert, Mac, true;
    /// The conjunction that the packet meets.
    ConjId = "conj_id" | "NXM_NX_CONJ_ID" at (offset_of!(Fields, conj_id), 0, 32) needs Nothing, Decimal, false;
    /// Where the action set sends the packet.
    ActsetOutput = "actset_output" | "ONFOXM_ET_ACTSET_OUTPUT" | "OXM_OF_ACTSET_OUTPUT" at (offset_of!(Fields, actset_output), 0, 32) needs Nothing, Port, false;
    /// OpenFlow metadata.
    Metadata = "metadata" | "OXM_OF_METADATA" at (offset_of!(Fields, metadata), 0, 64) needs Nothing, Hex, true;
}

const fn register_place(number: u8, bits: u8) -> Place {
    let byte = offset_of!(Fields, registers) + number as usize * (bits as usize / 8);
    Place { byte, shift: 0, bits }
}

impl Field {
    /// The register called `name`.
    fn register(name: &str) -> Option<Self> {
        let number = |prefix: &str, count: u8| {
            let digits = name.strip_prefix(prefix)?;
            let number: u8 = digits.parse().ok()?;
            (number < count && digits == number.to_string()).then_some(number)
        };
        // Open vSwitch has the upper half of them under other names.
        let first = |names: [&str; 3], count| names.into_iter().find_map(|name| number(name, count));
        first(["reg", "NXM_NX_REG", "NXOXM_ET_REG"], 32)
            .map(Field::Reg)
            .or_else(|| first(["xreg", "OXM_OF_PKT_REG", "NXOXM_ET_XREG"], 16).map(Field::Xreg))
            .or_else(|| first(["xxreg", "NXM_NX_XXREG", "NXOXM_ET_XXREG"], 8).map(Field::Xxreg))
    }

    /// Its name, as text is printed with it.
    pub fn name(self) -> String {
        match self {
            Field::Reg(number) | Field::Xreg(number) | Field::Xxreg(number) => {
                format!("{}{number}", self.stem())
            }
            _ => self.stem().to_owned(),
        }
    }

    /// Width in bits, `1..=128`.
    pub const fn bits(self) -> u8 {
        self.place().bits
    }

    /// Width in bits as OpenFlow numbers them: that of the field, but for ARP's operation, of which a key has one byte.
    pub fn width(self) -> u8 {
        match self {
            Field::ArpOp => 16,
            _ => self.bits(),
        }
    }

    /// A one for each bit of the field.
    pub const fn full_mask(self) -> u128 {
        u128::MAX >> (128 - self.bits() as u32)
    }

    /// The field's value, or its mask if `fields` is one.
    pub fn get(self, fields: &Fields) -> u128 {
        // The ingress port never was on a wire and lies in the order of the processor.
        match self {
            Field::InPort => return u128::from(fields.key.in_port) & self.full_mask(),
            Field::FromLocal => return u128::from(fields.key.in_port & FROM_LOCAL != 0),
            Field::InPortOxm => {
                let number = fields.key.in_port & 0xffff;
                return RulePort::new(number).map_or(number, RulePort::number_oxm).into();
            }
            _ => {}
        }
        let place = self.place();
        let bytes = &zerocopy::IntoBytes::as_bytes(fields)[place.byte..place.byte + place.bytes()];
        let number = bytes.iter().fold(0, |number: u128, &byte| number << 8 | u128::from(byte));
        number >> place.shift & self.full_mask()
    }

    /// Overwrites the bits of the field that `mask` names with those of `value`. Bits beyond the width are ignored.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the bytes and the port number are cut out on purpose"
    )]
    pub fn set(self, fields: &mut Fields, value: u128, mask: u128) {
        let mask = mask & self.full_mask();
        let ingress = match self {
            Field::InPort => Some((value & mask, mask)),
            Field::InPortOxm => Some((value & mask & 0xffff, mask & 0xffff)),
            Field::FromLocal => {
                Some(((value & mask) * u128::from(FROM_LOCAL), mask * u128::from(FROM_LOCAL)))
            }
            _ => None,
        };
        if let Some((value, mask)) = ingress {
            fields.key.in_port = fields.key.in_port & !(mask as u32) | value as u32;
            return;
        }
        self.place().set(zerocopy::IntoBytes::as_mut_bytes(fields), value, mask);
    }

    /// Adds the bits of a header field that `bits` names to `mask`. It is one of those that [`FlowKey`] has.
    pub(crate) fn look_at_key(self, mask: &mut FlowKey, bits: u128) {
        self.place().set(zerocopy::IntoBytes::as_mut_bytes(mask), u128::MAX, bits & self.full_mask());
    }

    /// Adds the bits of the field that `bits` names to `mask`.
    pub fn look_at(self, mask: &mut Fields, bits: u128) {
        self.set(mask, u128::MAX, bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Field> {
        let registers =
            (0..32).map(Field::Reg).chain((0..16).map(Field::Xreg)).chain((0..8).map(Field::Xxreg));
        Field::NAMED.iter().copied().chain(registers)
    }

    #[test]
    fn every_field_is_found_by_its_name_and_reads_back_what_was_written() {
        for field in all() {
            assert_eq!(Field::from_name(&field.name()), Some(field));
            let pattern = 0x0123_4567_89ab_cdef_1357_9bdf_0246_8ace_u128;
            let mut fields = Fields::NONE;
            field.set(&mut fields, pattern, u128::MAX);
            assert_eq!(field.get(&fields), pattern & field.full_mask(), "{field:?}");
            let ones: u32 = fields.words().iter().map(|word| word.count_ones()).sum();
            assert_eq!(
                ones,
                (pattern & field.full_mask()).count_ones(),
                "{field:?} touches its own bits alone"
            );
            field.set(&mut fields, 0, 1);
            assert_eq!(field.get(&fields), pattern & field.full_mask() & !1, "{field:?}");
        }
        for name in ["reg32", "reg01", "xreg16", "xxreg8", "nw_source", ""] {
            assert_eq!(Field::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn wide_registers_are_their_neighbours_in_order() {
        let mut fields = Fields::NONE;
        Field::Reg(2).set(&mut fields, 0x1111_2222, u128::MAX);
        Field::Reg(3).set(&mut fields, 0x3333_4444, u128::MAX);
        assert_eq!(Field::Xreg(1).get(&fields), 0x1111_2222_3333_4444);
        assert_eq!(Field::Xxreg(0).get(&fields), 0x1111_2222_3333_4444);
        assert_eq!(fields.registers[2].get(), 0x1111_2222);
    }

    #[test]
    fn parts_of_one_header_field_lie_over_the_whole() {
        let mut fields = Fields::NONE;
        Field::IpDscp.set(&mut fields, 46, u128::MAX);
        Field::IpEcn.set(&mut fields, 3, u128::MAX);
        assert_eq!(Field::IpTos.get(&fields), 46 << 2 | 3);
        Field::VlanVid.set(&mut fields, 0x1000 | 10, u128::MAX);
        Field::VlanPcp.set(&mut fields, 5, u128::MAX);
        assert_eq!(Field::VlanTci.get(&fields), 0xb00a);
        Field::IcmpType.set(&mut fields, 8, u128::MAX);
        assert_eq!(fields.key.tp_src.get(), 8);
        Field::Ipv6Label.set(&mut fields, 0xf_1234, u128::MAX);
        assert_eq!(fields.key.ipv6_label.get(), 0xf_1234);
        Field::TcpFlags.set(&mut fields, 0x812, u128::MAX);
        assert_eq!(fields.key.tcp_flags.get(), 0x812);
    }

    #[test]
    fn fields_narrower_than_their_place_in_the_key_are_its_low_bits() {
        let mut fields = Fields::NONE;
        Field::Ipv6Label.set(&mut fields, 0x12345, u128::MAX);
        assert_eq!(fields.key.ipv6_label.get(), 0x12345);
        Field::TcpFlags.set(&mut fields, 0x012, u128::MAX);
        assert_eq!(fields.key.tcp_flags.get(), 0x012);
        Field::Icmpv6Code.set(&mut fields, 4, u128::MAX);
        assert_eq!(fields.key.tp_dst.get(), 4);
    }
}
