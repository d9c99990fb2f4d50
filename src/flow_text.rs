//! What a megaflow matches, as text in the manner of ovs-dpctl: `in_port(vm0),eth(dst=52:54:00:00:00:01),vlan(vid=10)`.
//!
//! Only fields that the mask looks at are shown. A field of which every bit matters stands alone, one of which some bits
//! matter stands as `value/mask`. A VLAN tag whose absence matters is `vlan(none)`, one of which only that it is there
//! `vlan(present)`.
//!
//! # Source
//! ovs-dpctl(8) and ovs-fields(7).

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use vsteer_switch::action::{Action, Verdict};
use vsteer_switch::flow::key::{FlowKey, KeyTag, Mask, VLAN_PRESENT};
use vsteer_switch::wire::ethernet::{TYPE_ARP, TYPE_IPV4, TYPE_IPV6, TYPE_RARP};
use vsteer_switch::wire::vlan::TYPE_CUSTOMER;
use vsteer_switch::wire::{FRAG_ANY, FRAG_LATER, MacAddr, icmp, sctp, tcp, udp};

use crate::hex;

/// The text of what `mask` looks at in `key`; `port_name` names ports, those it does not know are shown as numbers.
pub fn match_text(key: &FlowKey, mask: &Mask, port_name: impl Fn(u32) -> Option<String>) -> String {
    match_text_as(Kind::of(&mask.apply(key)), key, mask, port_name)
}

/// Which packets a text is about: fields of the network and the transport layer are called as theirs are.
#[derive(Debug, Clone, Copy)]
struct Kind {
    eth_type: u16,
    ip_proto: u8,
}

impl Kind {
    fn of(key: &FlowKey) -> Self {
        Self { eth_type: key.eth_type.get(), ip_proto: key.ip_proto }
    }
}

/// The same, with the fields called as in packets of this kind.
fn match_text_as(
    kind: Kind,
    key: &FlowKey,
    mask: &Mask,
    port_name: impl Fn(u32) -> Option<String>,
) -> String {
    let mask = &mask.0;
    let mut text = Text::default();
    // Every field is named, so that none can be missed that a key will have.
    let FlowKey {
        in_port,
        recirc_id,
        eth_dst,
        eth_src,
        eth_type: eth_type_mask,
        reserved1: _,
        vlan: tags,
        // Of the network layer, see `arp` and `ip`.
        ip_proto: _,
        ip_tos: _,
        ip_ttl: _,
        ip_frag: _,
        ipv6_label: _,
        ip_src: _,
        ip_dst: _,
        // Of the transport layer, see `transport`.
        tp_src: _,
        tp_dst: _,
        tcp_flags: _,
        reserved2: _,
        nd_target,
        hw_src,
        hw_dst,
        reserved3: _,
        // See `connection`.
        ct_state: _,
        ct_zone: _,
        ct_mark: _,
        ct_label: _,
        // See `tunnel`.
        tun_id: _,
        tun_src: _,
        tun_dst: _,
        tun_flags: _,
        tun_tos: _,
        tun_ttl: _,
        reserved4: _,
    } = *mask;
    // Every megaflow looks at it, most of them to see that it is zero.
    if key.recirc_id.get() & recirc_id.get() != 0 {
        text.group("recirc_id", vec![format!("{:#x}", key.recirc_id.get())]);
    }
    connection(&mut text, key, mask);
    text.group("tunnel", tunnel(key, mask));
    if in_port != 0 {
        let port = port_name(key.in_port).unwrap_or_else(|| key.in_port.to_string());
        text.group("in_port", vec![port]);
    }
    text.group("eth", fields([("src", mac(key.eth_src, eth_src)), ("dst", mac(key.eth_dst, eth_dst))]));
    for (tag, tag_mask) in key.vlan.iter().zip(&tags) {
        text.group("vlan", vlan(tag, tag_mask));
    }
    text.group("eth_type", hex(key.eth_type.get(), eth_type_mask.get()).into_iter().collect());
    match kind.eth_type {
        TYPE_ARP | TYPE_RARP => text.group("arp", arp(key, mask)),
        TYPE_IPV4 => text.group("ipv4", ip(key, mask, ipv4)),
        TYPE_IPV6 => text.group("ipv6", ip(key, mask, ipv6)),
        _ => text.group("ip", ip(key, mask, ipv6)),
    }
    transport(&mut text, kind, key, mask);
    if !matches!(kind.eth_type, TYPE_ARP | TYPE_RARP) {
        let target = ipv6(key.nd_target, nd_target);
        text.group(
            "nd",
            fields([("target", target), ("sll", mac(key.hw_src, hw_src)), ("tll", mac(key.hw_dst, hw_dst))]),
        );
    }
    text.0
}

/// The text of what happens to a megaflow's packets, of which `of` is one: `vm1,push_vlan(vid=10,pcp=0),up`, or
/// `drop(hairpin)`.
pub fn verdict_text(verdict: &Verdict, of: &FlowKey, port_name: impl Fn(u32) -> Option<String>) -> String {
    let actions = match verdict {
        Verdict::Drop(reason) => return format!("drop({})", reason.name()),
        Verdict::Forward(actions) => actions,
    };
    let texts = actions.iter().map(|action| match action {
        Action::Output(port) => port_name(u32::from(port.number())).unwrap_or_else(|| port.to_string()),
        Action::PushVlan(tag) => {
            let mask = KeyTag { tpid: u16::MAX.into(), tci: u16::MAX.into() };
            format!("push_vlan({})", vlan(&KeyTag::of_frame(*tag), &mask).join(","))
        }
        Action::PopVlan => "pop_vlan".to_owned(),
        Action::SetVlan(vlan) => format!("set_vlan(vid={vlan})"),
        Action::Rewrite(index) => {
            let bits = actions
                .rewrite(*index)
                .map(|bits| match_text_as(Kind::of(of), bits.value(), &Mask(*bits.mask()), |_| None));
            format!("set({})", bits.unwrap_or_default())
        }
        Action::Recirculate(index) => {
            format!("recirc({:#x})", actions.recirculation(*index).map_or(0, |to| to.id()))
        }
        Action::Punt(punt) => format!("controller(id={},max_len={})", punt.id, punt.max_len),
        Action::Drop(reason) => format!("drop({})", reason.name()),
    });
    texts.collect::<Vec<_>>().join(",")
}

/// The text of what `mask` looks at: `in_port,eth_dst,vlan/0x1fff,ip_dst/24`. Of a field that it does not look at as a whole
/// it names the prefix length, or the bits.
pub fn mask_text(mask: &Mask) -> String {
    // An IPv4 address lies in the last four bytes; a mask that looks at these alone is of one.
    let address = |bytes: [u8; 16]| bytes[if bytes[..12] == [0; 12] { 12 } else { 0 }..].to_vec();
    // Every field is named, so that none can be missed that a key will have.
    let FlowKey {
        in_port,
        recirc_id,
        eth_dst,
        eth_src,
        eth_type,
        reserved1: _,
        vlan: [outer, inner],
        ip_proto,
        ip_tos,
        ip_ttl,
        ip_frag,
        ipv6_label,
        ip_src,
        ip_dst,
        tp_src,
        tp_dst,
        tcp_flags,
        reserved2: _,
        nd_target,
        hw_src,
        hw_dst,
        reserved3: _,
        ct_state,
        ct_zone,
        ct_mark,
        ct_label,
        tun_id,
        tun_src,
        tun_dst,
        tun_flags,
        tun_tos,
        tun_ttl,
        reserved4: _,
    } = mask.0;
    let parts = [
        ("in_port", in_port.to_be_bytes().to_vec()),
        ("recirc_id", recirc_id.to_bytes().to_vec()),
        ("eth_src", eth_src.to_vec()),
        ("eth_dst", eth_dst.to_vec()),
        ("eth_type", eth_type.to_bytes().to_vec()),
        ("vlan", outer.tci.to_bytes().to_vec()),
        ("tpid", outer.tpid.to_bytes().to_vec()),
        ("inner_vlan", inner.tci.to_bytes().to_vec()),
        ("inner_tpid", inner.tpid.to_bytes().to_vec()),
        ("ip_proto", vec![ip_proto]),
        ("ip_tos", vec![ip_tos]),
        ("ip_ttl", vec![ip_ttl]),
        ("ip_frag", vec![ip_frag]),
        ("ipv6_label", ipv6_label.to_bytes().to_vec()),
        ("ip_src", address(ip_src)),
        ("ip_dst", address(ip_dst)),
        ("tp_src", tp_src.to_bytes().to_vec()),
        ("tp_dst", tp_dst.to_bytes().to_vec()),
        ("tcp_flags", tcp_flags.to_bytes().to_vec()),
        ("nd_target", nd_target.to_vec()),
        ("hw_src", hw_src.to_vec()),
        ("hw_dst", hw_dst.to_vec()),
        ("ct_state", ct_state.to_bytes().to_vec()),
        ("ct_zone", ct_zone.to_bytes().to_vec()),
        ("ct_mark", ct_mark.to_bytes().to_vec()),
        ("ct_label", ct_label.to_vec()),
        ("tun_id", tun_id.to_bytes().to_vec()),
        ("tun_src", address(tun_src)),
        ("tun_dst", address(tun_dst)),
        ("tun_flags", tun_flags.to_bytes().to_vec()),
        ("tun_tos", vec![tun_tos]),
        ("tun_ttl", vec![tun_ttl]),
    ];
    let texts: Vec<String> = parts.iter().filter_map(|(name, bits)| part_text(name, bits)).collect();
    texts.join(",")
}

/// `name`, `name/prefix` or `name/bits` of the part of a mask in `bytes`; nothing if there is no bit.
fn part_text(name: &str, bytes: &[u8]) -> Option<String> {
    let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    let whole: u32 = bytes.iter().take_while(|&&byte| byte == 0xff).map(|byte| byte.count_ones()).sum();
    let rest = bytes.iter().find(|&&byte| byte != 0xff);
    let prefix = whole + rest.map_or(0, |byte| byte.leading_ones());
    let has_all = rest.is_none();
    let is_address = matches!(name, "ip_src" | "ip_dst" | "nd_target" | "tun_src" | "tun_dst");
    match ones {
        0 => None,
        _ if has_all => Some(name.to_owned()),
        _ if is_address && prefix == ones => Some(format!("{name}/{prefix}")),
        _ => Some(format!("{name}/0x{}", hex::text(bytes))),
    }
}

/// An Ethernet address as `52:54:00:00:00:01`.
pub fn mac_text(mac: MacAddr) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Groups `name(field,field)` separated by commas.
#[derive(Default)]
struct Text(String);

impl Text {
    fn group(&mut self, name: &str, fields: Vec<String>) {
        if fields.is_empty() {
            return;
        }
        let separator = if self.0.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{separator}{name}({})", fields.join(","));
    }
}

/// `name=value` for each field that has a value.
fn fields<const N: usize>(fields: [(&str, Option<String>); N]) -> Vec<String> {
    fields.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}"))).collect()
}

fn arp(key: &FlowKey, mask: &FlowKey) -> Vec<String> {
    fields([
        ("sip", ipv4(key.ip_src, mask.ip_src)),
        ("tip", ipv4(key.ip_dst, mask.ip_dst)),
        ("op", decimal(key.ip_proto.into(), mask.ip_proto.into(), 0xff)),
        ("sha", mac(key.hw_src, mask.hw_src)),
        ("tha", mac(key.hw_dst, mask.hw_dst)),
    ])
}

type AddressText = fn([u8; 16], [u8; 16]) -> Option<String>;

fn ip(key: &FlowKey, mask: &FlowKey, address: AddressText) -> Vec<String> {
    fields([
        ("src", address(key.ip_src, mask.ip_src)),
        ("dst", address(key.ip_dst, mask.ip_dst)),
        ("label", hex_wide(key.ipv6_label.get(), mask.ipv6_label.get())),
        ("proto", decimal(key.ip_proto.into(), mask.ip_proto.into(), 0xff)),
        ("tos", decimal(key.ip_tos.into(), mask.ip_tos.into(), 0xff)),
        ("ttl", decimal(key.ip_ttl.into(), mask.ip_ttl.into(), 0xff)),
        ("frag", (mask.ip_frag != 0).then(|| frag(key.ip_frag).to_owned())),
    ])
}

fn connection(text: &mut Text, key: &FlowKey, mask: &FlowKey) {
    let label = (mask.ct_label != [0; 16]).then(|| {
        let [value, bits] = [key.ct_label, mask.ct_label].map(u128::from_be_bytes);
        if bits == u128::MAX { format!("{value:#x}") } else { format!("{value:#x}/{bits:#x}") }
    });
    for (name, value) in [
        ("ct_state", hex(key.ct_state.get(), mask.ct_state.get())),
        ("ct_zone", hex(key.ct_zone.get(), mask.ct_zone.get())),
        ("ct_mark", wide(key.ct_mark.get(), mask.ct_mark.get())),
        ("ct_label", label),
    ] {
        text.group(name, value.into_iter().collect());
    }
}

fn tunnel(key: &FlowKey, mask: &FlowKey) -> Vec<String> {
    // As for a packet's own addresses: those of IPv4 have nothing but zeros before them.
    let is_ipv4 = [key.tun_src, key.tun_dst].iter().all(|address| address[..12] == [0; 12]);
    let address = if is_ipv4 { ipv4 } else { ipv6 };
    let id = match mask.tun_id.get() {
        0 => None,
        u64::MAX => Some(format!("{:#x}", key.tun_id.get())),
        bits => Some(format!("{:#x}/{bits:#x}", key.tun_id.get())),
    };
    fields([
        ("tun_id", id),
        ("src", address(key.tun_src, mask.tun_src)),
        ("dst", address(key.tun_dst, mask.tun_dst)),
        ("tos", decimal(key.tun_tos.into(), mask.tun_tos.into(), 0xff)),
        ("ttl", decimal(key.tun_ttl.into(), mask.tun_ttl.into(), 0xff)),
        ("flags", hex(key.tun_flags.get(), mask.tun_flags.get())),
    ])
}

fn frag(bits: u8) -> &'static str {
    match (bits & FRAG_ANY != 0, bits & FRAG_LATER != 0) {
        (false, _) => "no",
        (true, false) => "first",
        (true, true) => "later",
    }
}

fn transport(text: &mut Text, kind: Kind, key: &FlowKey, mask: &FlowKey) {
    let (name, [src, dst]) = match kind.ip_proto {
        icmp::PROTOCOL_V4 => ("icmp", ["type", "code"]),
        tcp::PROTOCOL => ("tcp", ["src", "dst"]),
        udp::PROTOCOL => ("udp", ["src", "dst"]),
        icmp::PROTOCOL_V6 => ("icmpv6", ["type", "code"]),
        sctp::PROTOCOL => ("sctp", ["src", "dst"]),
        _ => ("tp", ["src", "dst"]),
    };
    let port = |port: u16, mask: u16| decimal(port, mask, 0xffff);
    let ports =
        [(src, port(key.tp_src.get(), mask.tp_src.get())), (dst, port(key.tp_dst.get(), mask.tp_dst.get()))];
    text.group(name, fields(ports));
    text.group("tcp_flags", hex(key.tcp_flags.get(), mask.tcp_flags.get()).into_iter().collect());
}

fn vlan(tag: &KeyTag, mask: &KeyTag) -> Vec<String> {
    let (tci, tci_mask) = (tag.tci.get(), mask.tci.get());
    let is_absent = tci & VLAN_PRESENT == 0 && tci_mask & VLAN_PRESENT != 0;
    if is_absent || mask.tpid.get() != 0 && tag.tpid.get() == 0 {
        return vec!["none".to_owned()];
    }
    if (tci_mask, mask.tpid.get()) == (VLAN_PRESENT, 0) {
        return vec!["present".to_owned()];
    }
    let odd_tpid = mask.tpid.get() != 0 && tag.tpid.get() != TYPE_CUSTOMER;
    fields([
        ("tpid", odd_tpid.then(|| hex(tag.tpid.get(), mask.tpid.get())).flatten()),
        ("vid", decimal(tci & 0xfff, tci_mask & 0xfff, 0xfff)),
        ("pcp", decimal(tci >> 13, tci_mask >> 13, 7)),
    ])
}

fn decimal(value: u16, mask: u16, full: u16) -> Option<String> {
    match mask {
        0 => None,
        mask if mask == full => Some(value.to_string()),
        mask => Some(format!("{value}/{mask:#x}")),
    }
}

fn hex(value: u16, mask: u16) -> Option<String> {
    match mask {
        0 => None,
        u16::MAX => Some(format!("{value:#06x}")),
        mask => Some(format!("{value:#06x}/{mask:#06x}")),
    }
}

fn wide(value: u32, mask: u32) -> Option<String> {
    match mask {
        0 => None,
        u32::MAX => Some(format!("{value:#x}")),
        mask => Some(format!("{value:#x}/{mask:#x}")),
    }
}

/// A 20-bit flow label.
fn hex_wide(value: u32, mask: u32) -> Option<String> {
    match mask {
        0 => None,
        0xf_ffff | u32::MAX => Some(format!("{value:#07x}")),
        mask => Some(format!("{value:#07x}/{mask:#07x}")),
    }
}

fn mac(value: MacAddr, mask: MacAddr) -> Option<String> {
    masked(mask, mac_text(value), mac_text)
}

fn ipv4(value: [u8; 16], mask: [u8; 16]) -> Option<String> {
    let last = |bytes: [u8; 16]| [bytes[12], bytes[13], bytes[14], bytes[15]];
    masked(last(mask), Ipv4Addr::from(last(value)).to_string(), |mask| Ipv4Addr::from(mask).to_string())
}

fn ipv6(value: [u8; 16], mask: [u8; 16]) -> Option<String> {
    masked(mask, Ipv6Addr::from(value).to_string(), |mask| Ipv6Addr::from(mask).to_string())
}

fn masked<const N: usize>(
    mask: [u8; N],
    value: String,
    mask_text: impl Fn([u8; N]) -> String,
) -> Option<String> {
    match mask {
        mask if mask == [0; N] => None,
        mask if mask == [0xff; N] => Some(value),
        mask => Some(format!("{value}/{}", mask_text(mask))),
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::byteorder::big_endian::U16;

    use super::*;

    fn text(key: &FlowKey, mask: &FlowKey) -> String {
        match_text(key, &Mask(*mask), |port| (port == 3).then(|| "vm0".to_owned()))
    }

    fn switched_key() -> FlowKey {
        FlowKey {
            in_port: 3,
            eth_src: [0x52, 0x54, 0, 0, 0, 1],
            eth_dst: [0x52, 0x54, 0, 0, 0, 2],
            vlan: [KeyTag { tpid: U16::new(0x8100), tci: U16::new(0xa00a) }, KeyTag::default()],
            eth_type: U16::new(TYPE_IPV4),
            ip_proto: 6,
            ip_src: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1],
            tp_dst: U16::new(80),
            ..Default::default()
        }
    }

    #[test]
    fn every_bit_of_a_key_is_shown() {
        let reserved = {
            let mut key = FlowKey::default();
            (key.reserved1, key.reserved2, key.reserved3, key.reserved4) =
                (u16::MAX, u16::MAX, u32::MAX, u32::MAX);
            key
        };
        for (word, reserved) in reserved.words().iter().enumerate() {
            for bit in (0..64).filter(|bit| reserved >> bit & 1 == 0) {
                let mut mask = Mask::default();
                mask.0.words_mut()[word] = 1 << bit;
                assert_ne!(mask_text(&mask), "", "word {word}, bit {bit}");
                let kind = Kind { eth_type: TYPE_IPV6, ip_proto: tcp::PROTOCOL };
                assert_ne!(match_text_as(kind, &mask.0, &mask, |_| None), "", "word {word}, bit {bit}");
            }
        }
    }

    #[test]
    fn learning_switch_looks_at_link_layer_only() {
        let mask = FlowKey {
            in_port: u32::MAX,
            eth_src: [0xff; 6],
            eth_dst: [0xff; 6],
            vlan: [KeyTag { tpid: U16::MAX_VALUE, tci: U16::new(0x0fff) }, KeyTag::default()],
            ..Default::default()
        };
        let mut key = switched_key();
        assert_eq!(
            text(&key, &mask),
            "in_port(vm0),eth(src=52:54:00:00:00:01,dst=52:54:00:00:00:02),vlan(vid=10)"
        );
        key.vlan[0] = KeyTag::default();
        key.in_port = 9;
        assert_eq!(
            text(&key, &mask),
            "in_port(9),eth(src=52:54:00:00:00:01,dst=52:54:00:00:00:02),vlan(none)"
        );
    }

    #[test]
    fn partly_masked_fields_show_their_mask() {
        let mut ip_src = [0; 16];
        ip_src[12..15].fill(0xff);
        let mask = FlowKey {
            eth_dst: [1, 0, 0, 0, 0, 0],
            vlan: [KeyTag { tpid: U16::ZERO, tci: U16::new(0xe000) }, KeyTag::default()],
            eth_type: U16::MAX_VALUE,
            ip_proto: 0xff,
            ip_frag: 0xff,
            ip_src,
            tp_dst: U16::new(0xfff0),
            ..Default::default()
        };
        assert_eq!(
            text(&switched_key(), &mask),
            "eth(dst=52:54:00:00:00:02/01:00:00:00:00:00),vlan(pcp=5),eth_type(0x0800),\
             ipv4(src=10.0.0.1/255.255.255.0,proto=6,frag=no),tcp(dst=80/0xfff0)"
        );
    }

    #[test]
    fn rewritten_fields_are_called_as_in_packets_of_the_flow() {
        let (mut value, mut mask) = (FlowKey::default(), FlowKey::default());
        value.ip_src[12..].copy_from_slice(&[10, 0, 0, 1]);
        mask.ip_src[12..].fill(0xff);
        let text = |eth_type, ip_proto, mask| {
            match_text_as(Kind { eth_type, ip_proto }, &value, &Mask(mask), |_| None)
        };
        assert_eq!(text(TYPE_IPV4, 0, mask), "ipv4(src=10.0.0.1)");
        assert_eq!(text(TYPE_ARP, 0, mask), "arp(sip=10.0.0.1)");
        assert_eq!(text(TYPE_IPV6, 0, mask), "ipv6(src=::a00:1/::ffff:ffff)");
        let mask = FlowKey { tp_src: U16::MAX_VALUE, ..FlowKey::default() };
        assert_eq!(text(TYPE_IPV4, tcp::PROTOCOL, mask), "tcp(src=0)");
        assert_eq!(text(TYPE_IPV4, udp::PROTOCOL, mask), "udp(src=0)");
        assert_eq!(text(TYPE_IPV6, icmp::PROTOCOL_V6, mask), "icmpv6(type=0)");
    }

    #[test]
    fn arp_and_neighbour_discovery_use_their_own_words() {
        let mut key =
            FlowKey { eth_type: U16::new(TYPE_ARP), ip_proto: 1, hw_src: [2; 6], ..Default::default() };
        key.ip_dst[12..].copy_from_slice(&[10, 0, 0, 9]);
        let mut mask =
            FlowKey { eth_type: U16::MAX_VALUE, ip_proto: 0xff, hw_src: [0xff; 6], ..Default::default() };
        mask.ip_dst = [0xff; 16];
        assert_eq!(text(&key, &mask), "eth_type(0x0806),arp(tip=10.0.0.9,op=1,sha=02:02:02:02:02:02)");

        let key = FlowKey {
            eth_type: U16::new(TYPE_IPV6),
            ip_proto: 58,
            tp_src: U16::new(135),
            nd_target: [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            ..Default::default()
        };
        let mask = FlowKey {
            eth_type: U16::MAX_VALUE,
            ip_proto: 0xff,
            tp_src: U16::MAX_VALUE,
            nd_target: [0xff; 16],
            ..Default::default()
        };
        assert_eq!(text(&key, &mask), "eth_type(0x86dd),ipv6(proto=58),icmpv6(type=135),nd(target=fe80::1)");
    }

    #[test]
    fn masks_name_fields_prefixes_and_bits() {
        let mut mask = FlowKey {
            in_port: u32::MAX,
            eth_src: [1, 0, 0, 0, 0, 0],
            eth_type: U16::MAX_VALUE,
            tp_dst: U16::MAX_VALUE,
            ..FlowKey::default()
        };
        mask.vlan[0].tci = U16::new(0x1fff);
        mask.ip_src = [0xff; 16];
        mask.ip_dst[12..].copy_from_slice(&[0xff, 0xff, 0xf0, 0]);
        assert_eq!(
            mask_text(&Mask(mask)),
            "in_port,eth_src/0x010000000000,eth_type,vlan/0x1fff,ip_src,ip_dst/20,tp_dst"
        );
        assert_eq!(mask_text(&Mask::default()), "");
    }

    #[test]
    fn looking_at_nothing_is_empty() {
        assert_eq!(text(&switched_key(), &FlowKey::default()), "");
    }
}
