use super::*;
use crate::rule::action::{OutputTo, RuleAction, Subfield};
use crate::rule::entry::RuleSpec;
use crate::rule::field::Field;
use crate::rule::matching::Match;

/// Ports `vm0` to `vm3`, numbered so, and some with awkward names.
pub(super) struct Ports;

const PORTS: [&str; 7] = ["vm0", "vm1", "vm2", "up-link.7", "all", "17", "reg0"];

impl PortNames for Ports {
    fn number(&self, name: &str) -> Option<PortId> {
        PORTS.iter().position(|port| *port == name).and_then(|at| PortId::new(at.try_into().ok()?))
    }

    fn name(&self, port: PortId) -> Option<String> {
        PORTS.get(port.index()).map(|name| (*name).to_owned())
    }
}

fn rule(text: &str) -> RuleSpec {
    parse_rule(text, &Ports).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A field, its value and its mask.
type Condition = (Field, u128, u128);

fn matching(conditions: &[Condition]) -> Match {
    let mut matching = Match::ANY;
    for &(field, value, mask) in conditions {
        matching.require(field, value, mask);
    }
    matching
}

const ALL: u128 = u128::MAX;
const IPV4: Condition = (Field::EthType, 0x800, ALL);
const IPV6: Condition = (Field::EthType, 0x86dd, ALL);
const TCP: Condition = (Field::IpProto, 6, ALL);

/// Conditions as Open vSwitch's manuals describe them, and what they ask for.
#[test]
fn conditions_ask_for_what_the_manuals_say() {
    use Field::*;
    let vm1 = u128::from(Ports.number("vm1").unwrap().number());
    let rows: &[(&str, &[Condition], &str)] = &[
        ("", &[], ""),
        ("in_port=vm1", &[(InPort, vm1, ALL)], "in_port=vm1"),
        ("in_port=1", &[(InPort, 1, ALL)], "in_port=vm1"),
        ("in_port=\"17\"", &[(InPort, 5, ALL)], "in_port=\"17\""),
        ("in_port=17", &[(InPort, 17, ALL)], "in_port=17"),
        ("in_port=up-link.7", &[(InPort, 3, ALL)], "in_port=up-link.7"),
        ("dl_src=2:0:0:0:0:1", &[(EthSrc, 0x0200_0000_0001, ALL)], "eth_src=02:00:00:00:00:01"),
        (
            "eth_dst=01:00:00:00:00:00/01:00:00:00:00:00",
            &[(EthDst, 1 << 40, 1 << 40)],
            "eth_dst=01:00:00:00:00:00/01:00:00:00:00:00",
        ),
        ("dl_type=0x88cc", &[(EthType, 0x88cc, ALL)], "dl_type=0x88cc"),
        ("dl_type=2048", &[IPV4], "ip"),
        ("rarp", &[(EthType, 0x8035, ALL)], "rarp"),
        ("dl_vlan=10", &[(VlanTci, 0x100a, 0x1fff)], "dl_vlan=10"),
        ("dl_vlan=0", &[(VlanTci, 0x1000, 0x1fff)], "dl_vlan=0"),
        ("dl_vlan=0xffff", &[(VlanTci, 0, 0xffff)], "vlan_tci=0x0"),
        ("vlan_vid=10", &[(VlanTci, 0x100a, 0x1fff)], "dl_vlan=10"),
        ("vlan_vid=0x100a", &[(VlanTci, 0x100a, 0x1fff)], "dl_vlan=10"),
        ("vlan_vid=0x1000/0x1000", &[(VlanTci, 0x1000, 0x1000)], "vlan_tci=0x1000/0x1000"),
        ("vlan_vid=0", &[(VlanTci, 0, 0x1fff)], "vlan_tci=0x0/0x1fff"),
        ("dl_vlan_pcp=3", &[(VlanTci, 0x7000, 0xf000)], "dl_vlan_pcp=3"),
        ("dl_vlan=10,vlan_pcp=3", &[(VlanTci, 0x700a, 0xffff)], "dl_vlan=10,dl_vlan_pcp=3"),
        ("vlan_tci=0x1123/0x1fff", &[(VlanTci, 0x1123, 0x1fff)], "dl_vlan=291"),
        ("vlan_tci=5/0xf", &[(VlanTci, 5, 0xf)], "vlan_tci=0x5/0xf"),
        (
            "dl_vlan=10,inner_vlan_vid=20,inner_vlan_pcp=1",
            &[(VlanTci, 0x100a, 0x1fff), (InnerVlanTci, 0x3014, 0xffff)],
            "dl_vlan=10,inner_vlan_vid=20,inner_vlan_pcp=1",
        ),
        ("inner_vlan_vid=0x1000", &[(InnerVlanTci, 0x1000, 0x1fff)], "inner_vlan_tci=0x1000/0x1fff"),
        ("ip,nw_src=10.0.0.1", &[IPV4, (Ipv4Src, 0x0a00_0001, ALL)], "ip,nw_src=10.0.0.1"),
        ("nw_dst=10.1.2.3/8,tcp", &[IPV4, TCP, (Ipv4Dst, 0x0a00_0000, 0xff00_0000)], "tcp,nw_dst=10.0.0.0/8"),
        (
            "ip,ip_src=10.0.0.1/255.0.255.255",
            &[IPV4, (Ipv4Src, 0x0a00_0001, 0xff00_ffff)],
            "ip,nw_src=10.0.0.1/255.0.255.255",
        ),
        ("ip,nw_src=1.2.3.4/0", &[IPV4], "ip"),
        ("ip,nw_src=*", &[IPV4], "ip"),
        (
            "ipv6,ipv6_src=fd00::1,ipv6_dst=fd00::/64",
            &[IPV6, (Ipv6Src, 0xfd << 120 | 1, ALL), (Ipv6Dst, 0xfd << 120, ALL << 64)],
            "ipv6,ipv6_src=fd00::1,ipv6_dst=fd00::/64",
        ),
        (
            "tcp6,ipv6_dst=fd00::ff/ffff::ff",
            &[IPV6, TCP, (Ipv6Dst, 0xfd << 120 | 0xff, 0xffff << 112 | 0xff)],
            "tcp6,ipv6_dst=fd00::ff/ffff::ff",
        ),
        ("ipv6,ipv6_label=0x12345", &[IPV6, (Ipv6Label, 0x12345, ALL)], "ipv6,ipv6_label=0x12345"),
        ("ip,nw_proto=89", &[IPV4, (IpProto, 89, ALL)], "ip,nw_proto=89"),
        ("ip,nw_proto=6", &[IPV4, TCP], "tcp"),
        ("ip,nw_tos=185", &[IPV4, (IpTos, 184, 0xfc)], "ip,nw_tos=184"),
        ("ip,nw_tos=0xb9/0xff", &[IPV4, (IpTos, 184, 0xfc)], "ip,nw_tos=184"),
        ("ip,ip_dscp=46,nw_ecn=1", &[IPV4, (IpTos, 185, 0xff)], "ip,nw_tos=184,nw_ecn=1"),
        ("ip,ip_dscp=0x20/0x30", &[IPV4, (IpTos, 0x80, 0xc0)], "ip,ip_dscp=0x20/0x30"),
        ("ip,nw_ttl=64", &[IPV4, (IpTtl, 64, ALL)], "ip,nw_ttl=64"),
        ("ip,nw_frag=no", &[IPV4, (IpFrag, 0, 3)], "ip,nw_frag=no"),
        ("ip,nw_frag=yes", &[IPV4, (IpFrag, 1, 1)], "ip,nw_frag=yes"),
        ("ip,ip_frag=first", &[IPV4, (IpFrag, 1, 3)], "ip,nw_frag=first"),
        ("ipv6,nw_frag=later", &[IPV6, (IpFrag, 3, 3)], "ipv6,nw_frag=later"),
        ("ip,nw_frag=not_later", &[IPV4, (IpFrag, 0, 2)], "ip,nw_frag=not_later"),
        ("tcp,tp_dst=22", &[IPV4, TCP, (TcpDst, 22, ALL)], "tcp,tcp_dst=22"),
        ("tp_src=0x50/0xfff0,tcp6", &[IPV6, TCP, (TcpSrc, 0x50, 0xfff0)], "tcp6,tcp_src=0x50/0xfff0"),
        ("udp,tp_dst=53", &[IPV4, (IpProto, 17, ALL), (UdpDst, 53, ALL)], "udp,udp_dst=53"),
        ("sctp6,sctp_src=9", &[IPV6, (IpProto, 132, ALL), (SctpSrc, 9, ALL)], "sctp6,sctp_src=9"),
        (
            "icmp,tp_src=8,icmp_code=0",
            &[IPV4, (IpProto, 1, ALL), (IcmpType, 8, ALL), (IcmpCode, 0, ALL)],
            "icmp,icmp_type=8,icmp_code=0",
        ),
        (
            "icmp6,icmp_type=135,nd_target=fe80::1,nd_sll=02:00:00:00:00:01",
            &[
                IPV6,
                (IpProto, 58, ALL),
                (Icmpv6Type, 135, ALL),
                (NdTarget, 0xfe80 << 112 | 1, ALL),
                (NdSll, 0x0200_0000_0001, ALL),
            ],
            "icmp6,icmpv6_type=135,nd_target=fe80::1,nd_sll=02:00:00:00:00:01",
        ),
        (
            "nd_tll=02:00:00:00:00:02,icmp6,icmpv6_type=136",
            &[IPV6, (IpProto, 58, ALL), (Icmpv6Type, 136, ALL), (NdTll, 0x0200_0000_0002, ALL)],
            "icmp6,icmpv6_type=136,nd_tll=02:00:00:00:00:02",
        ),
        ("tcp,tcp_flags=+syn-ack", &[IPV4, TCP, (TcpFlags, 0x02, 0x12)], "tcp,tcp_flags=+syn-ack"),
        ("tcp,tcp_flags=syn|ack", &[IPV4, TCP, (TcpFlags, 0x12, ALL)], "tcp,tcp_flags=0x012"),
        ("tcp,tcp_flags=0x2/0xe02", &[IPV4, TCP, (TcpFlags, 2, 0xe02)], "tcp,tcp_flags=0x002/0xe02"),
        (
            "arp,nw_src=10.0.0.1,nw_proto=1,arp_tha=00:00:00:00:00:00,arp_tpa=10.0.0.0/24",
            &[
                (EthType, 0x806, ALL),
                (ArpSpa, 0x0a00_0001, ALL),
                (ArpOp, 1, ALL),
                (ArpTha, 0, ALL),
                (ArpTpa, 0x0a00_0000, 0xffff_ff00),
            ],
            "arp,arp_op=1,arp_spa=10.0.0.1,arp_tpa=10.0.0.0/24,arp_tha=00:00:00:00:00:00",
        ),
        ("metadata=5/7", &[(Metadata, 5, 7)], "metadata=0x5/0x7"),
        ("reg0=1,reg15=0x2/0x2", &[(Reg(0), 1, ALL), (Reg(15), 2, 2)], "reg0=0x1,reg15=0x2/0x2"),
        ("xreg1=0x500000006", &[(Reg(2), 5, ALL), (Reg(3), 6, ALL)], "reg2=0x5,reg3=0x6"),
        ("xxreg3=1", &[(Xxreg(3), 1, ALL)], "reg12=0x0,reg13=0x0,reg14=0x0,reg15=0x1"),
        (
            "NXM_OF_ETH_TYPE=0x800,NXM_OF_IP_PROTO=6,OXM_OF_TCP_DST=80,NXM_NX_REG1=7",
            &[IPV4, TCP, (TcpDst, 80, ALL), (Reg(1), 7, ALL)],
            "tcp,reg1=0x7,tcp_dst=80",
        ),
    ];
    for (text, conditions, printed) in rows {
        let spec = rule(&format!("{text} actions=drop"));
        assert_eq!(spec.matching, matching(conditions), "{text}");
        assert_eq!(match_text(&spec.matching, &Ports), *printed, "{text}");
        assert_eq!(rule(&format!("{printed},actions=drop")).matching, spec.matching, "{printed}");
    }
}

fn set(field: Field, value: u128) -> RuleAction {
    RuleAction::SetField { field, value, mask: field.full_mask() }
}

fn port_named(name: &str) -> PortId {
    Ports.number(name).unwrap()
}

fn output(name: &str) -> RuleAction {
    RuleAction::Output(OutputTo::Port(port_named(name)))
}

/// Actions as Open vSwitch's manuals describe them, behind a match that allows them.
#[test]
fn actions_do_what_the_manuals_say() {
    use Field::*;
    let run = |field, offset, bits| Subfield { field, offset, bits };
    let to = RuleAction::Output;
    let punt = |max_len, id| RuleAction::Controller { max_len, id };
    let resubmit = |in_port, table| RuleAction::Resubmit { in_port, table };
    let rows: &[(&str, &str, Vec<RuleAction>, &str)] = &[
        ("", "drop", vec![], "drop"),
        ("", "", vec![], "drop"),
        (
            "",
            "vm1,2,output:vm0,output:up-link.7",
            vec![output("vm1"), output("vm2"), output("vm0"), output("up-link.7")],
            "output:vm1,output:vm2,output:vm0,output:up-link.7",
        ),
        (
            "",
            "\"all\",output:\"17\",output:\"reg0\"",
            vec![output("all"), output("17"), output("reg0")],
            "output:\"all\",output:\"17\",output:\"reg0\"",
        ),
        (
            "",
            "normal,FLOOD,all,local,in_port,output:NORMAL,output:in_port",
            vec![
                to(OutputTo::Normal),
                to(OutputTo::Flood),
                to(OutputTo::All),
                to(OutputTo::Local),
                to(OutputTo::InPort),
                to(OutputTo::Normal),
                to(OutputTo::InPort),
            ],
            "NORMAL,FLOOD,ALL,LOCAL,IN_PORT,NORMAL,IN_PORT",
        ),
        (
            "",
            "output:reg1[0..15],output:NXM_NX_REG2[],output:reg3,output:reg3[4]",
            vec![
                to(OutputTo::Subfield(run(Reg(1), 0, 16))),
                to(OutputTo::Subfield(run(Reg(2), 0, 32))),
                to(OutputTo::Subfield(run(Reg(3), 0, 32))),
                to(OutputTo::Subfield(run(Reg(3), 4, 1))),
            ],
            "output:reg1[0..15],output:reg2[],output:reg3[],output:reg3[4]",
        ),
        (
            "",
            "controller,CONTROLLER:128,controller(max_len=100,id=3)",
            vec![punt(u16::MAX, 0), punt(128, 0), punt(100, 3)],
            "CONTROLLER:65535,CONTROLLER:128,controller(max_len=100,id=3)",
        ),
        (
            "",
            "push_vlan:0x88a8,set_vlan_vid:5,push_vlan:0x8100,set_field:4103->vlan_vid,set_vlan_pcp:3,strip_vlan",
            vec![
                RuleAction::PushVlan(0x88a8),
                set(VlanVid, 0x1005),
                RuleAction::PushVlan(0x8100),
                set(VlanVid, 0x1007),
                set(VlanPcp, 3),
                RuleAction::PopVlan,
            ],
            "push_vlan:0x88a8,set_field:0x1005->vlan_vid,push_vlan:0x8100,set_field:0x1007->vlan_vid,\
             set_field:3->vlan_pcp,pop_vlan",
        ),
        (
            "",
            "mod_vlan_vid:10,mod_vlan_pcp:7,set_field:11->vlan_vid",
            vec![RuleAction::ModVlanVid(10), RuleAction::ModVlanPcp(7), set(VlanVid, 0x100b)],
            "mod_vlan_vid:10,mod_vlan_pcp:7,set_field:0x100b->vlan_vid",
        ),
        (
            "",
            "mod_dl_src:02:00:00:00:00:01,mod_dl_dst:02:00:00:00:00:02",
            vec![set(EthSrc, 0x0200_0000_0001), set(EthDst, 0x0200_0000_0002)],
            "set_field:02:00:00:00:00:01->eth_src,set_field:02:00:00:00:00:02->eth_dst",
        ),
        (
            "udp,",
            "mod_nw_src:10.0.0.1,mod_nw_dst:10.0.0.2,mod_nw_tos:184,mod_nw_ttl:9,mod_tp_src:7,mod_tp_dst:8,dec_ttl",
            vec![
                set(Ipv4Src, 0x0a00_0001),
                set(Ipv4Dst, 0x0a00_0002),
                RuleAction::SetField { field: IpTos, value: 184, mask: 0xfc },
                set(IpTtl, 9),
                set(UdpSrc, 7),
                set(UdpDst, 8),
                RuleAction::DecTtl,
            ],
            "set_field:10.0.0.1->nw_src,set_field:10.0.0.2->nw_dst,set_field:184->nw_tos,set_field:9->nw_ttl,\
             set_field:7->udp_src,set_field:8->udp_dst,dec_ttl",
        ),
        (
            "tcp6,",
            "set_field:fd00::1/64->ipv6_dst,set_field:80->tp_dst,set_field:0x1f/0xff->nw_tos",
            vec![
                RuleAction::SetField { field: Ipv6Dst, value: 0xfd << 120, mask: ALL << 64 },
                set(TcpDst, 80),
                RuleAction::SetField { field: IpTos, value: 0x1f, mask: 0xff },
            ],
            "set_field:fd00::/64->ipv6_dst,set_field:80->tcp_dst,set_field:31/0xff->nw_tos",
        ),
        (
            "arp,",
            "move:eth_src[]->eth_dst[],load:2->NXM_OF_ARP_OP[],move:arp_sha->arp_tha,set_field:1.2.3.4->nw_src",
            vec![
                RuleAction::Move { from: run(EthSrc, 0, 48), to: run(EthDst, 0, 48) },
                set(ArpOp, 2),
                RuleAction::Move { from: run(ArpSha, 0, 48), to: run(ArpTha, 0, 48) },
                set(ArpSpa, 0x0102_0304),
            ],
            "move:eth_src[]->eth_dst[],set_field:2->arp_op,move:arp_sha[]->arp_tha[],set_field:1.2.3.4->arp_spa",
        ),
        (
            "",
            "load:0x5->reg0[8..15],set_field:0x1/0x3->reg1,move:reg0[0..15]->reg1[16..31],load:1->reg2[31]",
            vec![
                RuleAction::SetField { field: Reg(0), value: 0x500, mask: 0xff00 },
                RuleAction::SetField { field: Reg(1), value: 1, mask: 3 },
                RuleAction::Move { from: run(Reg(0), 0, 16), to: run(Reg(1), 16, 16) },
                RuleAction::SetField { field: Reg(2), value: 1 << 31, mask: 1 << 31 },
            ],
            "set_field:0x500/0xff00->reg0,set_field:0x1/0x3->reg1,move:reg0[0..15]->reg1[16..31],\
             set_field:0x80000000/0x80000000->reg2",
        ),
        (
            "",
            "set_field:vm1->in_port,load:0->NXM_OF_IN_PORT[],load:3->in_port[4..7]",
            vec![
                set(InPort, 1),
                set(InPort, 0),
                RuleAction::SetField { field: InPort, value: 0x30, mask: 0xf0 },
            ],
            "set_field:vm1->in_port,set_field:vm0->in_port,load:0x3->in_port[4..7]",
        ),
        (
            "table=2,",
            "resubmit:vm1,resubmit(2,3),resubmit(,4),resubmit(in_port,5),resubmit:in_port,resubmit(\"all\",255)",
            vec![
                resubmit(Some(port_named("vm1")), None),
                resubmit(Some(port_named("vm2")), Some(3)),
                resubmit(None, Some(4)),
                resubmit(None, Some(5)),
                resubmit(None, None),
                resubmit(Some(port_named("all")), None),
            ],
            "resubmit:vm1,resubmit(vm2,3),resubmit(,4),resubmit(,5),resubmit:in_port,resubmit:\"all\"",
        ),
        (
            "table=2,",
            "apply_actions(vm1),clear_actions,write_actions(set_field:1->reg0,output:vm2),write_metadata:0x5/0x7,\
             goto_table:3",
            vec![
                output("vm1"),
                RuleAction::ClearActions,
                RuleAction::WriteActions(Box::new([set(Reg(0), 1), output("vm2")])),
                RuleAction::WriteMetadata { value: 5, mask: 7 },
                RuleAction::GotoTable(3),
            ],
            "output:vm1,clear_actions,write_actions(set_field:0x1->reg0,output:vm2),write_metadata:0x5/0x7,\
             goto_table:3",
        ),
        (
            "",
            "write_actions(drop),write_metadata:9",
            vec![
                RuleAction::WriteActions(Box::new([])),
                RuleAction::WriteMetadata { value: 9, mask: u64::MAX },
            ],
            "write_actions(drop),write_metadata:0x9",
        ),
    ];
    for (conditions, text, actions, printed) in rows {
        let spec = rule(&format!("{conditions}actions={text}"));
        assert_eq!(&*spec.actions, &**actions, "{text}");
        assert_eq!(actions_text(&spec.actions, &Ports), *printed, "{text}");
        assert_eq!(rule(&format!("{conditions}actions={printed}")), spec, "{printed}");
    }
}

#[test]
fn what_is_said_of_a_rule_is_kept_and_the_rest_has_its_default() {
    let spec = rule("table=3,priority=7,cookie=0x1f,idle_timeout=60,hard_timeout=3600 actions=NORMAL");
    assert_eq!((spec.table, spec.priority, spec.cookie), (3, 7, 0x1f));
    assert_eq!((spec.idle_timeout_s, spec.hard_timeout_s), (60, 3600));
    let printed = "table=3,cookie=0x1f,idle_timeout=60,hard_timeout=3600,priority=7 actions=NORMAL";
    assert_eq!(rule_text(&spec, &Ports), printed);
    assert_eq!(rule(printed), spec);
    let plain = rule("actions=drop");
    assert_eq!((plain.table, plain.priority, plain.cookie), (0, 32768, 0));
    assert_eq!(rule_text(&plain, &Ports), "table=0,priority=32768 actions=drop");
    // As ovs-ofctl dumps a flow.
    let dumped =
        " cookie=0x0, duration=2.5s, table=0, n_packets=1, n_bytes=60, idle_age=2, ip actions=NORMAL";
    assert_eq!(rule_text(&rule(dumped), &Ports), "table=0,priority=32768,ip actions=NORMAL");
}
