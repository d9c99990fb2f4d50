use super::*;
use crate::flow::fields::Fields;
use crate::rule::action::{OutputTo, Reason, RuleAction, Subfield};
use crate::rule::entry::{Remarks, RuleSpec};
use crate::rule::field::Field;
use crate::rule::matching::Match;
use crate::rule::port::RulePort;
use crate::rule::selector::Selector;

/// Ports `vm0` to `vm3`, numbered so, some with awkward names, and some tables with names.
pub(super) struct Ports;

const PORTS: [&str; 7] = ["vm0", "vm1", "vm2", "up-link.7", "all", "17", "reg0"];

impl PortNames for Ports {
    fn number(&self, name: &str) -> Option<PortId> {
        PORTS.iter().position(|port| *port == name).and_then(|at| PortId::new(at.try_into().ok()?))
    }

    fn name(&self, port: PortId) -> Option<String> {
        PORTS.get(port.index()).map(|name| (*name).to_owned())
    }

    fn table(&self, name: &str) -> Option<u8> {
        TABLES.iter().find(|(_, own)| *own == name).map(|&(table, _)| table)
    }

    fn table_name(&self, table: u8) -> Option<String> {
        TABLES.iter().find(|(own, _)| *own == table).map(|&(_, name)| name.to_owned())
    }
}

/// High numbers, so that tests can say low ones without meeting a name; some of the names mean something elsewhere.
const TABLES: [(u8, &str); 5] = [(200, "acl"), (201, "nat.in-1"), (202, "vm1"), (203, "ct"), (204, "1st")];

fn rule(text: &str) -> RuleSpec {
    parse_rule(text, &Ports).unwrap_or_else(|error| panic!("{text}: {error}")).spec
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
        ("in_port=2000", &[(InPort, 2000, ALL)], "in_port=2000"),
        ("in_port=local", &[(FromLocal, 1, ALL)], "in_port=LOCAL"),
        ("in_port=65534", &[(FromLocal, 1, ALL)], "in_port=LOCAL"),
        ("in_port=65530", &[(InPort, 65530, ALL)], "in_port=NORMAL"),
        ("in_port=ANY", &[(InPort, 65535, ALL)], "in_port=ANY"),
        ("in_port=*", &[], ""),
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
        (
            "rarp,arp_op=3,arp_sha=02:00:00:00:00:01,nw_dst=10.0.0.1",
            &[
                (EthType, 0x8035, ALL),
                (ArpOp, 3, ALL),
                (ArpSha, 0x0200_0000_0001, ALL),
                (ArpTpa, 0x0a00_0001, ALL),
            ],
            "rarp,arp_op=3,arp_tpa=10.0.0.1,arp_sha=02:00:00:00:00:01",
        ),
        (
            "tcp,nw_frag=later,tp_dst=0",
            &[IPV4, TCP, (IpFrag, 3, 3), (TcpDst, 0, ALL)],
            "tcp,nw_frag=later,tcp_dst=0",
        ),
        ("ip6,nw_proto=6,tp_dst=22", &[IPV6, TCP, (TcpDst, 22, ALL)], "tcp6,tcp_dst=22"),
        ("eth,ip4", &[IPV4], "ip"),
        ("icmpv6,icmpv6_code=0", &[IPV6, (IpProto, 58, ALL), (Icmpv6Code, 0, ALL)], "icmp6,icmpv6_code=0"),
        ("tcp,tp_src[6..10]=19", &[IPV4, TCP, (TcpSrc, 19 << 6, 0x7c0)], "tcp,tcp_src=0x4c0/0x7c0"),
        ("tcp,tp_src[5]=1", &[IPV4, TCP, (TcpSrc, 0x20, 0x20)], "tcp,tcp_src=0x20/0x20"),
        ("reg0[0..3]=2,reg0[8]=1", &[(Reg(0), 0x102, 0x10f)], "reg0=0x102/0x10f"),
        ("NXM_NX_REG0[1]=1,reg3[]=0x3", &[(Reg(0), 2, 2), (Reg(3), 3, ALL)], "reg0=0x2/0x2,reg3=0x3"),
        ("eth_dst[40]=1", &[(EthDst, 1 << 40, 1 << 40)], "eth_dst=01:00:00:00:00:00/01:00:00:00:00:00"),
        ("vlan_tci[12]=1", &[(VlanTci, 0x1000, 0x1000)], "vlan_tci=0x1000/0x1000"),
        ("xxreg7[96..127]=7,xreg15[0..31]=4", &[(Reg(28), 7, ALL), (Reg(31), 4, ALL)], "reg28=0x7,reg31=0x4"),
        (
            "NXOXM_ET_REG16=5,OXM_OF_PKT_REG15=6",
            &[(Reg(16), 5, ALL), (Xreg(15), 6, ALL)],
            "reg16=0x5,reg30=0x0,reg31=0x6",
        ),
        ("in_port_oxm=LOCAL,conj_id=7", &[(FromLocal, 1, ALL), (ConjId, 7, ALL)], "in_port=LOCAL,conj_id=7"),
        ("NXM_OF_IN_PORT[]=1", &[(InPort, 1, ALL)], "in_port=vm1"),
        ("actset_output=1", &[(ActsetOutput, 1, ALL)], "actset_output=vm1"),
        ("actset_output=unset", &[(ActsetOutput, 0xffff_fff7, ALL)], "actset_output=UNSET"),
        ("arp,NXM_OF_ARP_OP[]=2,arp_op[0]=0", &[(EthType, 0x806, ALL), (ArpOp, 2, ALL)], "arp,arp_op=2"),
        (
            "in_port(1) nw_src:10.0.0.1\tip",
            &[IPV4, (InPort, 1, ALL), (Ipv4Src, 0x0a00_0001, ALL)],
            "ip,in_port=vm1,nw_src=10.0.0.1",
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

fn port_named(name: &str) -> RulePort {
    Ports.number(name).unwrap().into()
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
    let punt = |max_len, id| RuleAction::Controller { max_len, id, reason: Reason::Action };
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
            "normal,FLOOD,all,local,in_port,output:NORMAL,output:in_port,TABLE,65529,output:2000",
            vec![
                to(OutputTo::Port(RulePort::NORMAL)),
                to(OutputTo::Port(RulePort::FLOOD)),
                to(OutputTo::Port(RulePort::ALL)),
                to(OutputTo::Port(RulePort::LOCAL)),
                to(OutputTo::Port(RulePort::IN_PORT)),
                to(OutputTo::Port(RulePort::NORMAL)),
                to(OutputTo::Port(RulePort::IN_PORT)),
                to(OutputTo::Port(RulePort::TABLE)),
                to(OutputTo::Port(RulePort::TABLE)),
                to(OutputTo::Port(RulePort::new(2000).unwrap())),
            ],
            "NORMAL,FLOOD,ALL,LOCAL,IN_PORT,NORMAL,IN_PORT,TABLE,TABLE,output:2000",
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
            "output(1),output=2,Output:0,mod_vlan_vid(5),mod_dl_dst(02:00:00:00:00:0a),resubmit=1",
            vec![
                output("vm1"),
                output("vm2"),
                output("vm0"),
                RuleAction::ModVlanVid(5),
                set(EthDst, 0x0200_0000_000a),
                resubmit(Some(port_named("vm1")), None),
            ],
            "output:vm1,output:vm2,output:vm0,mod_vlan_vid:5,mod_dl_dst:02:00:00:00:00:0a,resubmit:vm1",
        ),
        (
            "",
            "enqueue:1:2,enqueue(LOCAL,0x3),set_queue:4,pop_queue",
            vec![
                RuleAction::Enqueue { port: port_named("vm1"), queue: 2 },
                RuleAction::Enqueue { port: RulePort::LOCAL, queue: 3 },
                RuleAction::SetQueue(4),
                RuleAction::PopQueue,
            ],
            "enqueue:vm1:2,enqueue:LOCAL:3,set_queue:4,pop_queue",
        ),
        (
            "",
            "dec_ttl,dec_ttl(1,2),mod_nw_src:10.0.0.1,mod_nw_ecn:2,mod_tp_src:5,set_vlan_vid:6,set_vlan_pcp:7",
            vec![
                RuleAction::DecTtl([].into()),
                RuleAction::DecTtl([1, 2].into()),
                set(Ipv4Src, 0x0a00_0001),
                set(IpEcn, 2),
                set(TpSrc, 5),
                set(VlanVid, 0x1006),
                set(VlanPcp, 7),
            ],
            "dec_ttl,dec_ttl(1,2),mod_nw_src:10.0.0.1,mod_nw_ecn:2,mod_tp_src:5,set_vlan_vid:6,set_vlan_pcp:7",
        ),
        (
            "",
            "push:NXM_NX_REG0[0..7],push(OXM_OF_IN_PORT[]),pop:reg16[],exit",
            vec![
                RuleAction::Push(run(Reg(0), 0, 8)),
                RuleAction::Push(run(InPortOxm, 0, 32)),
                RuleAction::Pop(run(Reg(16), 0, 32)),
                RuleAction::Exit,
            ],
            "push:reg0[0..7],push:in_port_oxm[],pop:reg16[],exit",
        ),
        (
            "ip,",
            "clone(set_field:1.2.3.4->ip_src,clone(vm1),2),clone(),note:41.42.43,note",
            vec![
                RuleAction::Clone(
                    [set(Ipv4Src, 0x0102_0304), RuleAction::Clone([output("vm1")].into()), output("vm2")]
                        .into(),
                ),
                RuleAction::Clone([].into()),
                RuleAction::Note([0x41, 0x42, 0x43, 0, 0, 0].into()),
                RuleAction::Note([0; 6].into()),
            ],
            "clone(mod_nw_src:1.2.3.4,clone(output:vm1),output:vm2),clone(drop),note:41.42.43.00.00.00,\
             note:00.00.00.00.00.00",
        ),
        (
            "",
            "conjunction(3,1/2),note:0102,conjunction(4294967295, 64/64)",
            vec![
                RuleAction::Conjunction { id: 3, dimension: 0, dimensions: 2 },
                RuleAction::Note([1, 2, 0, 0, 0, 0].into()),
                RuleAction::Conjunction { id: u32::MAX, dimension: 63, dimensions: 64 },
            ],
            "conjunction(3,1/2),note:01.02.00.00.00.00,conjunction(4294967295,64/64)",
        ),
        (
            "arp,",
            "move:NXM_OF_ARP_OP[]->NXM_NX_REG0[0..15],load:2->NXM_OF_ARP_OP[]",
            vec![RuleAction::Move { from: run(ArpOp, 0, 16), to: run(Reg(0), 0, 16) }, set(ArpOp, 2)],
            "move:arp_op[]->reg0[0..15],set_field:2->arp_op",
        ),
        (
            "",
            "controller(reason=invalid_ttl,max_len=12,id=5),controller(id=7),write_actions(resubmit(,1),controller)",
            vec![
                RuleAction::Controller { max_len: 12, id: 5, reason: Reason::InvalidTtl },
                punt(u16::MAX, 7),
                RuleAction::WriteActions([resubmit(None, Some(1)), punt(u16::MAX, 0)].into()),
            ],
            "controller(reason=invalid_ttl,max_len=12,id=5),controller(id=7),\
             write_actions(resubmit(,1),CONTROLLER:65535)",
        ),
        (
            "",
            "controller,CONTROLLER:128,controller(max_len=100,id=3),output:controller,65533",
            vec![punt(u16::MAX, 0), punt(128, 0), punt(100, 3), punt(u16::MAX, 0), punt(u16::MAX, 0)],
            "CONTROLLER:65535,CONTROLLER:128,controller(max_len=100,id=3),CONTROLLER:65535,CONTROLLER:65535",
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
            "push_vlan:0x88a8,set_vlan_vid:5,push_vlan:0x8100,set_vlan_vid:7,set_vlan_pcp:3,pop_vlan",
        ),
        (
            "",
            "mod_vlan_vid:10,mod_vlan_pcp:7,set_field:11->vlan_vid",
            vec![RuleAction::ModVlanVid(10), RuleAction::ModVlanPcp(7), set(VlanVid, 0x100b)],
            "mod_vlan_vid:10,mod_vlan_pcp:7,set_vlan_vid:11",
        ),
        (
            "",
            "mod_dl_src:02:00:00:00:00:01,mod_dl_dst:02:00:00:00:00:02",
            vec![set(EthSrc, 0x0200_0000_0001), set(EthDst, 0x0200_0000_0002)],
            "mod_dl_src:02:00:00:00:00:01,mod_dl_dst:02:00:00:00:00:02",
        ),
        (
            "udp,",
            "mod_nw_src:10.0.0.1,mod_nw_dst:10.0.0.2,mod_nw_tos:184,mod_nw_ttl:9,mod_tp_src:7,mod_tp_dst:8,dec_ttl",
            vec![
                set(Ipv4Src, 0x0a00_0001),
                set(Ipv4Dst, 0x0a00_0002),
                RuleAction::SetField { field: IpTos, value: 184, mask: 0xfc },
                set(IpTtl, 9),
                set(TpSrc, 7),
                set(TpDst, 8),
                RuleAction::DecTtl([].into()),
            ],
            "mod_nw_src:10.0.0.1,mod_nw_dst:10.0.0.2,mod_nw_tos:184,mod_nw_ttl:9,mod_tp_src:7,mod_tp_dst:8,dec_ttl",
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
            "set_field:vm1->in_port,load:0->NXM_OF_IN_PORT[],load:3->in_port[4..7],set_field:LOCAL->in_port",
            vec![
                set(InPort, 1),
                set(InPort, 0),
                RuleAction::SetField { field: InPort, value: 0x30, mask: 0xf0 },
                set(InPort, 0xfffe),
            ],
            "set_field:vm1->in_port,set_field:vm0->in_port,load:0x3->in_port[4..7],set_field:LOCAL->in_port",
        ),
        (
            "table=2,",
            "resubmit:vm1,resubmit(2,3),resubmit(,4),resubmit(in_port,5),resubmit(\"all\",255),resubmit(LOCAL,1)",
            vec![
                resubmit(Some(port_named("vm1")), None),
                resubmit(Some(port_named("vm2")), Some(3)),
                resubmit(None, Some(4)),
                resubmit(None, Some(5)),
                resubmit(Some(port_named("all")), None),
                resubmit(Some(RulePort::LOCAL), Some(1)),
            ],
            "resubmit:vm1,resubmit(vm2,3),resubmit(,4),resubmit(,5),resubmit:\"all\",resubmit(LOCAL,1)",
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

#[test]
fn wrong_lines_are_refused_with_place_and_advice() {
    let rows: &[(&str, &str)] = &[
        (
            "tpdst=80,tcp,actions=drop",
            "column 1: found \"tpdst\", expected a field or keyword; did you mean \"tp_dst\"?",
        ),
        ("tpc,actions=drop", "column 1: found \"tpc\", expected a field or keyword; did you mean \"tcp\"?"),
        (
            "tp_dst=80,actions=drop",
            "column 1: found \"tp_dst\", expected one of tcp, udp, sctp or icmp (tcp6 ... for IPv6) in the match",
        ),
        (
            "ipv6,tp_dst=80,actions=drop",
            "column 6: found \"tp_dst\", expected one of tcp6, udp6, sctp6 or icmp6 in the match",
        ),
        ("ip,tcp_dst=80,actions=drop", "column 4: found \"tcp_dst\", expected tcp or tcp6 in the match"),
        (
            "ipv6,nw_src=10.0.0.1,actions=drop",
            "column 6: found \"nw_src\", expected ip or one of its protocols (the names for IPv6 begin with ipv6_) in the match",
        ),
        (
            "nd_target=::1,icmp6,actions=drop",
            "column 1: found \"nd_target\", expected icmp6 and icmp_type=135 or icmp_type=136 in the match",
        ),
        (
            "icmp6,icmp_type=136,nd_sll=02:00:00:00:00:01,actions=drop",
            "column 21: found \"nd_sll\", expected icmp6 and icmp_type=135 in the match",
        ),
        (
            "nw_src=10.0.0.1,actions=drop",
            "column 1: found \"nw_src\", expected ip or one of its protocols (the names for IPv6 begin with ipv6_) in the match",
        ),
        (
            "tp_dst=22,actions=drop",
            "column 1: found \"tp_dst\", expected one of tcp, udp, sctp or icmp (tcp6 ... for IPv6) in the match",
        ),
        (
            "udp,icmp_type=8,actions=drop",
            "column 5: found \"icmp_type\", expected icmp (icmp6 for IPv6) in the match",
        ),
        ("arp_tpa=10.0.0.1,actions=drop", "column 1: found \"arp_tpa\", expected arp or rarp in the match"),
        (
            "nw_ttl=64,actions=drop",
            "column 1: found \"nw_ttl\", expected ip, ipv6 or one of their protocols in the match",
        ),
        (
            "tcp,tp_dst=65536,actions=drop",
            "column 12: found \"65536\", expected a number from 0 to 65535 or, after 0x, in hexadecimal",
        ),
        ("tcp,tp_dst=,actions=drop", "column 12: found nothing, expected a value, as in tp_dst=VALUE"),
        ("tcp,tp_dst,actions=drop", "column 5: found \"tp_dst\", expected a value, as in tp_dst=VALUE"),
        (
            "tcp,tp_dst=80,tcp_dst=80,actions=drop",
            "column 15: found \"tcp_dst=80\", expected tcp_dst once only",
        ),
        ("tcp=1,actions=drop", "column 1: found \"tcp=1\", expected tcp without a value"),
        (
            "tcp,udp,actions=drop",
            "column 5: found \"udp\", expected no other protocol than the one given before",
        ),
        (
            "tcp,nw_proto=17,actions=drop",
            "column 5: found \"nw_proto=17\", expected no other protocol than the one given before",
        ),
        ("tcp6,ip,actions=drop", "column 6: found \"ip\", expected no other type than the one given before"),
        (
            "ip,nw_tos=184,ip_dscp=1,actions=drop",
            "column 15: found \"ip_dscp=1\", expected no contradiction to an earlier condition on the same bits (ip_dscp)",
        ),
        (
            "reg0=1,xreg0=1,actions=drop",
            "column 8: found \"xreg0=1\", expected no contradiction to an earlier condition on the same bits (xreg0)",
        ),
        (
            "ip,nw_src=10.0.0.0/33,actions=drop",
            "column 20: found \"33\", expected the length of a prefix, at most 32, or a mask written as an address",
        ),
        (
            "ip,nw_src=10.0.0,actions=drop",
            "column 11: found \"10.0.0\", expected an address such as 10.0.0.1",
        ),
        (
            "ipv6,ipv6_dst=fd00::1::2,actions=drop",
            "column 15: found \"fd00::1::2\", expected an address such as fd00::1",
        ),
        (
            "dl_src=02:00:00:00:00,actions=drop",
            "column 8: found \"02:00:00:00:00\", expected an address such as 02:00:00:00:00:01",
        ),
        (
            "dl_vlan=4096,actions=drop",
            "column 9: found \"4096\", expected a VLAN from 0 to 4095, or 0xffff for packets without a tag",
        ),
        (
            "vlan_pcp=8,actions=drop",
            "column 10: found \"8\", expected a number from 0 to 7 or, after 0x, in hexadecimal",
        ),
        (
            "ip,nw_frag=some,actions=drop",
            "column 12: found \"some\", expected one of no, yes, first, later and not_later",
        ),
        (
            "tcp,tcp_flags=+syn-foo,actions=drop",
            "column 15: found \"+syn-foo\", expected flags such as +syn-ack or a number below 0x1000; they are fin, syn, rst, psh, ack, urg, ece, cwr, ns",
        ),
        (
            "tcp,tcp_flags=0x1000,actions=drop",
            "column 15: found \"0x1000\", expected flags such as +syn-ack or a number below 0x1000; they are fin, syn, rst, psh, ack, urg, ece, cwr, ns",
        ),
        (
            "in_port=vm7,actions=drop",
            "column 9: found \"vm7\", expected a port's name or number; did you mean \"vm0\"?",
        ),
        ("in_port=nic,actions=drop", "column 9: found \"nic\", expected the name or number of a port"),
        (
            "in_port=65300,actions=drop",
            "column 9: found \"65300\", expected a port's name, its number below 65280, or a number that stands for a name such as LOCAL",
        ),
        (
            "in_port=1/1,actions=drop",
            "column 11: found \"1\", expected no mask, as a port is either meant or not",
        ),
        (
            "tun_id=5,actions=drop",
            "column 1: found \"tun_id\", expected a field or keyword that this switch has; Open vSwitch's tun_id is not supported",
        ),
        (
            "mpls,actions=drop",
            "column 1: found \"mpls\", expected a field or keyword that this switch has; Open vSwitch's mpls is not supported",
        ),
        (
            "NXM_NX_CT_MARK=1,actions=drop",
            "column 1: found \"NXM_NX_CT_MARK\", expected a field or keyword that this switch has; Open vSwitch's NXM_NX_CT_MARK is not supported",
        ),
        (
            "reg0=0x100000000,actions=drop",
            "column 6: found \"0x100000000\", expected a number from 0 to 4294967295 or, after 0x, in hexadecimal",
        ),
        (
            "priority=65536,actions=drop",
            "column 10: found \"65536\", expected a number from 0 to 65535 or, after 0x, in hexadecimal",
        ),
        (
            "priority=1,priority=2,actions=drop",
            "column 12: found \"priority=2\", expected priority once only",
        ),
        (
            "table=255,actions=drop",
            "column 7: found \"255\", expected a number from 0 to 254 or, after 0x, in hexadecimal",
        ),
        (
            "cookie=1/1,actions=drop",
            "column 8: found \"1/1\", expected a cookie from 0 to 18446744073709551615 without a mask",
        ),
        (
            "cookie=1,cookie=1,actions=drop",
            "column 10: found \"cookie=1\", expected one cookie, or in a change one to give and one with a mask to look for",
        ),
        (
            "out_port=1,actions=drop",
            "column 1: found \"out_port=1\", expected no out_port in a rule; write actions=output:PORT",
        ),
        (
            "idle_timeout=010,actions=drop",
            "column 14: found \"010\", expected a number from 0 to 65535 or, after 0x, in hexadecimal",
        ),
        ("actions", "column 1: found \"actions\", expected actions=ACTION,..."),
        ("priority=5", "column 11: found nothing, expected actions=ACTION,...; actions=drop drops"),
        ("", "column 1: found nothing, expected actions=ACTION,...; actions=drop drops"),
        ("=5,actions=drop", "column 1: found \"=\", expected a name before it"),
        ("tcp,actions=drop,output:1", "column 13: found \"drop\", expected no drop beside other actions"),
        (
            "actions=outptu:1",
            "column 9: found \"outptu\", expected an action or a port; did you mean \"output\"?",
        ),
        (
            "actions=wibble",
            "column 9: found \"wibble\", expected an action, as ovs-actions(7) lists them, or a port",
        ),
        ("actions=drop(1)", "column 9: found \"drop(1)\", expected drop without a value"),
        (
            "actions=ct(commit)",
            "column 9: found \"ct(commit)\", expected an action that this switch has; Open vSwitch's ct is not supported: connections are not tracked",
        ),
        (
            "actions=group:1",
            "column 9: found \"group:1\", expected an action that this switch has; Open vSwitch's group is not supported: there are no groups",
        ),
        (
            "actions=output:vm9",
            "column 16: found \"vm9\", expected a port's name or number; did you mean \"vm0\"?",
        ),
        ("actions=output:NONE", "column 16: found \"NONE\", expected a port; to send nowhere, write drop"),
        ("actions=output:reg0[0..32]", "column 24: found \"32\", expected a bit of reg0, from 0 to 31"),
        ("actions=output:reg0[5..3]", "column 21: found \"5..3\", expected the lower bit first"),
        ("actions=output:reg0[", "column 21: found nothing, expected a closing \"]\""),
        ("actions=output:tcp_dst[]", "column 16: found \"tcp_dst[]\", expected tcp or tcp6 in the match"),
        (
            "actions=output(port=1,max_len=5)",
            "column 16: found \"port=1,max_len=5\", expected a port; packets are not cut short here, other than for controller(max_len=BYTES)",
        ),
        ("actions=push_vlan:0x9100", "column 19: found \"0x9100\", expected 0x8100 or 0x88a8"),
        ("actions=pop_vlan:1", "column 9: found \"pop_vlan:1\", expected pop_vlan without a value"),
        (
            "actions=mod_vlan_vid:4096",
            "column 22: found \"4096\", expected a number from 0 to 4095 or, after 0x, in hexadecimal",
        ),
        (
            "actions=set_field:5->inner_vlan_vid",
            "column 22: found \"inner_vlan_vid\", expected inner_vlan_vid or inner_vlan_tci=0x1000/0x1000 in the match",
        ),
        (
            "ip,actions=mod_nw_tos:5",
            "column 23: found \"5\", expected a multiple of 4, as the two low bits are ECN's (nw_ecn)",
        ),
        (
            "tcp,nw_frag=later,actions=mod_tp_dst:5",
            "column 27: found \"mod_tp_dst:5\", expected no nw_frag=later in the match, as later fragments have no such field",
        ),
        (
            "icmp6,nw_frag=later,actions=set_field:1->icmpv6_type",
            "column 42: found \"icmpv6_type\", expected no nw_frag=later in the match, as later fragments have no such field",
        ),
        (
            "icmp6,icmp_type=135,icmp_code=1,actions=set_field:fd00::1->nd_target",
            "column 60: found \"nd_target\", expected icmp_code=0, or none, in the match",
        ),
        (
            "ip,actions=set_field:5->nw_proto",
            "column 25: found \"nw_proto\", expected a field that can be changed, which nw_proto cannot",
        ),
        (
            "actions=set_field:5->reg0[0..3]",
            "column 27: found \"0..3]\", expected a whole field; write load:VALUE->FIELD[FIRST..LAST] for a part of it",
        ),
        ("actions=set_field:5", "column 19: found \"5\", expected set_field:VALUE->FIELD"),
        ("actions=set_field:5/0->reg0", "column 21: found \"0\", expected a mask with a bit in it"),
        (
            "actions=load:16->reg0[0..3]",
            "column 14: found \"16\", expected a number from 0 to 15 or, after 0x, in hexadecimal",
        ),
        (
            "actions=move:reg0->reg1[0..3]",
            "column 20: found \"reg1[0..3]\", expected 32 bits, as many as are moved",
        ),
        (
            "actions=move:reg0",
            "column 14: found \"reg0\", expected move:FIELD[FIRST..LAST]->FIELD[FIRST..LAST]",
        ),
        (
            "actions=resubmit",
            "column 9: found \"resubmit\", expected resubmit(PORT,TABLE), resubmit(,TABLE) or resubmit:PORT",
        ),
        (
            "actions=resubmit(in_port,255)",
            "column 9: found \"resubmit(in_port,255)\", expected another port or table than the packet's own, or it would go round for ever",
        ),
        (
            "actions=resubmit(,1,ct)",
            "column 21: found \"ct\", expected a port and a table at most, as connections are not tracked here",
        ),
        (
            "actions=resubmit(vmx,1)",
            "column 18: found \"vmx\", expected a port's name or number; did you mean \"vm0\"?",
        ),
        (
            "table=3,actions=goto_table:3",
            "column 28: found \"3\", expected a later table than the rule's own, which is 3",
        ),
        (
            "actions=goto_table:3,output:1",
            "column 22: found \"output:1\", expected other actions before goto_table",
        ),
        (
            "actions=goto_table:3,write_actions(output:1)",
            "column 22: found \"write_actions(output:1)\", expected write_actions before goto_table",
        ),
        (
            "actions=goto_table:3,goto_table:4",
            "column 22: found \"goto_table:4\", expected goto_table once only",
        ),
        (
            "actions=clear_actions,apply_actions(output:1)",
            "column 23: found \"apply_actions(output:1)\", expected apply_actions before clear_actions",
        ),
        (
            "actions=apply_actions(apply_actions(output:1))",
            "column 23: found \"apply_actions(output:1)\", expected an action, no instruction",
        ),
        (
            "actions=write_actions(goto_table:1)",
            "column 23: found \"goto_table:1\", expected an action, no instruction",
        ),
        (
            "actions=write_actions(output:reg0[])",
            "column 23: found \"output:reg0[]\", expected outputs to ports in an action set, not to the number in a field",
        ),
        (
            "actions=controller:70000",
            "column 20: found \"70000\", expected a number from 0 to 65535 or, after 0x, in hexadecimal",
        ),
        ("actions=output:1)", "column 17: found \")\", expected no closing bracket without an opening one"),
        ("actions=write_actions(output:1", "column 31: found nothing, expected a closing \")\""),
        ("actions=output:\"vm0", "column 20: found nothing, expected a closing \""),
        (
            "actions=write_actions(output:1)x",
            "column 22: found \"(output:1)x\", expected arguments in one pair of parentheses",
        ),
        (
            "actions=write_metadata:0x1/zz",
            "column 28: found \"zz\", expected a number from 0 to 18446744073709551615 or, after 0x, in hexadecimal",
        ),
        (
            "tcp, größe=1,actions=drop",
            "column 6: found \"größe\", expected a field or keyword, as ovs-fields(7) lists them",
        ),
        (
            "reg32=1,actions=drop",
            "column 1: found \"reg32\", expected reg0 to reg31, xreg0 to xreg15 or xxreg0 to xxreg7",
        ),
        (
            "check_overlap=1,actions=drop",
            "column 1: found \"check_overlap=1\", expected check_overlap without a value",
        ),
        (
            "vlan_tci=0,actions=set_vlan_vid:5",
            "column 20: found \"set_vlan_vid:5\", expected dl_vlan or vlan_tci=0x1000/0x1000 in the match",
        ),
        (
            "actions=set_field:5->vlan_vid",
            "column 22: found \"vlan_vid\", expected dl_vlan or vlan_tci=0x1000/0x1000 in the match, or push_vlan or mod_vlan_vid before it",
        ),
        (
            "arp,actions=mod_nw_src:10.0.0.1",
            "column 13: found \"mod_nw_src:10.0.0.1\", expected ip or one of its protocols (the names for IPv6 begin with ipv6_) in the match",
        ),
        (
            "icmp,actions=mod_tp_dst:5",
            "column 14: found \"mod_tp_dst:5\", expected tcp, udp or sctp (tcp6 ... for IPv6) in the match",
        ),
        (
            "arp,actions=dec_ttl",
            "column 13: found \"dec_ttl\", expected ip, ipv6 or one of their protocols in the match",
        ),
        (
            "actions=dec_ttl(a)",
            "column 17: found \"a\", expected a number from 0 to 65535 or, after 0x, in hexadecimal",
        ),
        (
            "actions=set_field:1.2.3.4->nw_src",
            "column 28: found \"nw_src\", expected ip or one of its protocols (the names for IPv6 begin with ipv6_) in the match",
        ),
        (
            "actions=write_actions(exit)",
            "column 23: found \"exit\", expected an action that has a place in the order of an action set",
        ),
        (
            "actions=write_actions(clone(output:1))",
            "column 23: found \"clone(output:1)\", expected an action that has a place in the order of an action set",
        ),
        (
            "actions=clone(goto_table:1)",
            "column 15: found \"goto_table:1\", expected an action, no instruction",
        ),
        ("actions=clone(output:1", "column 23: found nothing, expected a closing \")\""),
        (
            "actions=conjunction(1,1/1)",
            "column 25: found \"1\", expected at least 2 dimensions; with one, other rules can do without a conjunction",
        ),
        (
            "actions=conjunction(1,1/65)",
            "column 25: found \"65\", expected a number from 0 to 64 or, after 0x, in hexadecimal",
        ),
        ("actions=conjunction(1,0/2)", "column 23: found \"0\", expected a dimension from 1 to 2"),
        ("actions=conjunction(1,3/2)", "column 23: found \"3\", expected a dimension from 1 to 2"),
        ("actions=conjunction(1)", "column 21: found \"1\", expected conjunction(ID,K/N): dimension K of N"),
        (
            "actions=output:1,conjunction(3,1/2)",
            "column 18: found \"conjunction(3,1/2)\", expected no action beside conjunction(ID,K/N) but others of its kind and note",
        ),
        (
            "actions=conjunction(3,1/2),output:1",
            "column 28: found \"output:1\", expected no action beside conjunction(ID,K/N) but others of its kind and note",
        ),
        (
            "actions=clone(conjunction(3,1/2))",
            "column 15: found \"conjunction(3,1/2)\", expected conjunction(ID,K/N) in a rule's own list of actions",
        ),
        ("actions=note:4x", "column 14: found \"4x\", expected bytes in hexadecimal, as in note:41.42.43"),
        ("actions=exit(1)", "column 9: found \"exit(1)\", expected exit without a value"),
        (
            "actions=enqueue:1",
            "column 17: found \"1\", expected a port and a queue, as in enqueue(PORT,QUEUE)",
        ),
        (
            "actions=enqueue:vm9:1",
            "column 17: found \"vm9\", expected a port's name or number; did you mean \"vm0\"?",
        ),
        (
            "actions=controller(reason=none)",
            "column 27: found \"none\", expected one of no_match, action, invalid_ttl, action_set, group, packet_out",
        ),
        (
            "actions=controller(userdata=01.02)",
            "column 20: found \"userdata=01.02\", expected no userdata, as listeners get packets alone",
        ),
        (
            "actions=controller(pause)",
            "column 20: found \"pause\", expected no pause, as no listener can resume a packet",
        ),
        (
            "actions=controller(meter_id=1)",
            "column 20: found \"meter_id=1\", expected no meter_id, as there are no meters",
        ),
        (
            "actions=learn(table=1)",
            "column 9: found \"learn(table=1)\", expected an action that this switch has; Open vSwitch's learn is not supported: rules do not make rules",
        ),
        (
            "actions=push:nw_src[]",
            "column 14: found \"nw_src[]\", expected ip or one of its protocols (the names for IPv6 begin with ipv6_) in the match",
        ),
        (
            "actions=pop:eth_type[]",
            "column 13: found \"eth_type[]\", expected a field that can be changed, which eth_type cannot",
        ),
        ("actions=push:reg0[0..32]", "column 22: found \"32\", expected a bit of reg0, from 0 to 31"),
        (
            "reg0[0..3]=16,actions=drop",
            "column 12: found \"16\", expected a number from 0 to 15 or, after 0x, in hexadecimal",
        ),
        ("reg0[3..0]=1,actions=drop", "column 6: found \"3..0\", expected the lower bit first"),
        ("reg0[0..3=1,actions=drop", "column 25: found nothing, expected a closing \"]\""),
        (
            "in_port[0..3]=1,actions=drop",
            "column 1: found \"in_port[0..3]\", expected all of the port's number, as a port is either meant or not",
        ),
        (
            "arp,arp_op=256,actions=drop",
            "column 12: found \"256\", expected a number from 0 to 255 or, after 0x, in hexadecimal",
        ),
        (
            "arp,actions=load:0x100->NXM_OF_ARP_OP[]",
            "column 18: found \"0x100\", expected a value of arp_op from 0 to 255",
        ),
        (
            "tp_src[0..3]=1,actions=drop",
            "column 1: found \"tp_src\", expected one of tcp, udp, sctp or icmp (tcp6 ... for IPv6) in the match",
        ),
        (
            "reg0[0..3]=1,reg0[0]=0,actions=drop",
            "column 14: found \"reg0[0]=0\", expected no contradiction to an earlier condition on the same bits (reg0)",
        ),
        (
            "conj_id=1,actions=load:1->conj_id[]",
            "column 27: found \"conj_id[]\", expected a field that can be changed, which conj_id cannot",
        ),
        (
            "out_group=5,actions=drop",
            "column 1: found \"out_group=5\", expected no out_group in a rule, and there are no groups",
        ),
    ];
    for (line, expected) in rows {
        let error = parse_rule(line, &Ports).expect_err(line);
        assert_eq!(error.to_string(), format!("line 1, {expected}"), "{line}");
    }
}

#[test]
fn words_that_stand_alone_say_how_a_rule_is_added_and_kept() {
    let text = "check_overlap,send_flow_rem,importance=5 no_byte_counts,ip,reset_counts,no_packet_counts actions=drop";
    let added = parse_rule(text, &Ports).unwrap();
    assert!(added.check_overlap && added.reset_counts);
    let kept = Remarks { importance: 5, send_flow_rem: true, no_packet_counts: true, no_byte_counts: true };
    assert_eq!((added.spec.remarks, &added.spec.matching), (kept, &matching(&[IPV4])));
    let printed =
        "table=0,importance=5,send_flow_rem,no_packet_counts,no_byte_counts,priority=32768,ip actions=drop";
    assert_eq!(rule_text(&added.spec, &Ports), printed);
    assert!(parse_modification("reset_counts,actions=drop", false, &Ports).unwrap().reset_counts);
    assert_eq!(parse_selector("out_group=any", false, &Ports).unwrap(), Selector::ALL);
    for (text, expected) in [
        ("check_overlap", "no check_overlap, which is for rules that are added"),
        ("out_group=1", "any, as there are no groups"),
    ] {
        assert_eq!(parse_selector(text, false, &Ports).unwrap_err().expected, expected, "{text}");
    }
}

#[test]
fn file_is_read_line_by_line_and_its_first_error_names_the_line() {
    let text = "# a comment\n\n  priority=1,actions=drop # another\r\n\ttable=1 actions=NORMAL\n";
    let rules = parse_rules(text, &Ports).unwrap();
    let specs: Vec<RuleSpec> = rules.into_iter().map(|addition| addition.spec).collect();
    assert_eq!(specs, [rule("priority=1,actions=drop"), rule("table=1,actions=normal")]);
    assert_eq!(parse_rules("#\n", &Ports).unwrap(), []);
    let error = parse_rules("actions=drop\n\n  in_port=ö,actions=drop\nbad", &Ports).unwrap_err();
    assert_eq!((error.line, error.column, error.found.as_str()), (3, 11, "ö"));
}

#[test]
fn selector_is_what_stands_before_actions() {
    let text = "table=1,cookie=0x5/0xf,out_port=vm1,tcp,tp_dst=22";
    let selector = parse_selector(text, false, &Ports).unwrap();
    let expected = Selector {
        table: Some(1),
        cookie: (5, 15),
        priority: None,
        matching: matching(&[IPV4, TCP, (Field::TcpDst, 22, ALL)]),
        out_port: Some(port_named("vm1")),
    };
    assert_eq!(selector, expected);
    assert_eq!(parse_selector("", false, &Ports).unwrap(), Selector::ALL);
    assert_eq!(parse_selector("out_port=any", true, &Ports).unwrap(), Selector::ALL);
    assert_eq!(parse_selector("cookie=0x7/-1", false, &Ports).unwrap().cookie, (7, u64::MAX));
    assert_eq!(parse_selector("cookie=7", false, &Ports).unwrap().cookie, (7, u64::MAX));
    assert_eq!(parse_selector("priority=9", true, &Ports).unwrap().priority, Some(9));
    for (text, strict, expected) in [
        ("priority=9", false, "no priority unless the choice is strict (--strict)"),
        ("actions=drop", false, "no actions, as rules are chosen by what they match"),
        ("idle_timeout=5", true, "no idle_timeout, as a rule keeps the one it was added with"),
        ("out_port=vmx", false, "a port's name or number; did you mean \"vm0\"?"),
        ("duration=5s", false, "a field or keyword, as ovs-fields(7) lists them"),
    ] {
        assert_eq!(parse_selector(text, strict, &Ports).unwrap_err().expected, expected, "{text}");
    }
}

#[test]
fn modification_has_actions_and_perhaps_a_new_cookie() {
    let read = |text| parse_modification(text, false, &Ports);
    let both = read("cookie=1/3,cookie=8,ip,actions=dec_ttl,vm1").unwrap();
    assert_eq!((both.selector.cookie, both.cookie), ((1, 3), Some(8)));
    assert_eq!(both.selector.matching, matching(&[IPV4]));
    assert_eq!(*both.actions, [RuleAction::DecTtl([].into()), output("vm1")]);
    assert_eq!(read("actions=drop").unwrap().cookie, None);
    assert_eq!(*read("table=1,actions=goto_table:2").unwrap().actions, [RuleAction::GotoTable(2)]);
    let error = read("actions=goto_table:2").unwrap_err();
    assert_eq!(error.expected, "table=TABLE beside it, as it must lead to a later one");
    assert_eq!(read("ip").unwrap_err().column, 3);
}

#[test]
fn packet_has_what_is_said_and_nothing_else() {
    let text =
        "in_port=vm1,tcp,dl_vlan=10,nw_src=10.0.0.1,nw_tos=185,nw_ttl=64,tp_dst=22,tcp_flags=+syn-ack,reg1=7";
    let packet = parse_packet(text, &Ports).unwrap();
    let mut expected = Fields::NONE;
    for (field, value) in [
        (Field::InPort, 1),
        (Field::EthType, 0x800),
        (Field::VlanTci, 0x100a),
        (Field::IpProto, 6),
        (Field::Ipv4Src, 0x0a00_0001),
        (Field::IpTos, 185),
        (Field::IpTtl, 64),
        (Field::TcpDst, 22),
        (Field::TcpFlags, 2),
        (Field::Reg(1), 7),
    ] {
        field.set(&mut expected, value, ALL);
    }
    expected.key.vlan[0].tpid.set(0x8100);
    expected.key.eth_src = UNNAMED_SOURCE;
    assert_eq!(packet, expected);
    let from_zero = parse_packet("in_port=vm1,eth_src=00:00:00:00:00:00", &Ports).unwrap();
    assert_eq!(from_zero.key.eth_src, [0; 6], "said, so it stays");
    let apart = parse_packet("in_port=vm1,ip,nw_tos=184,nw_ecn=1", &Ports).unwrap();
    assert_eq!(Field::IpTos.get(&apart), 185, "as Open vSwitch prints it");
    assert_eq!(parse_packet("tcp", &Ports).unwrap().key.in_port, 0xffff, "from no port");
    for (text, column) in [("in_port=vm1,ip,nw_src=10.0.0.0/8", 23), ("in_port=1,nw_ttl=*", 18)] {
        assert_eq!(parse_packet(text, &Ports).unwrap_err().column, column, "{text}");
    }
}

/// A packet in the words of a datapath is the one that is described in the words of a match.
#[test]
fn packet_may_be_described_as_a_datapath_has_it() {
    let rows = [
        (
            "in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),\
             ipv4(src=10.0.0.1,dst=10.0.0.2,proto=6,tos=0,ttl=64,frag=no),tcp(src=8,dst=9),tcp_flags(0x012)",
            "in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_ttl=64,\
             tp_src=8,tp_dst=9,tcp_flags=syn|ack",
        ),
        (
            "recirc_id(0),in_port(vm1),eth_type(0x8100),vlan(vid=12,pcp=3),encap(eth_type(0x86dd),ipv6(src=fd00::1,\
             dst=fd00::2,label=0x12,proto=58,tclass=0x70,hlimit=255,frag=no),icmpv6(type=135,code=0),\
             nd(target=fd00::3,sll=02:00:00:00:00:07))",
            "in_port=vm1,icmp6,dl_vlan=12,dl_vlan_pcp=3,ipv6_src=fd00::1,ipv6_dst=fd00::2,ipv6_label=0x12,nw_tos=112,\
             nw_ttl=255,icmp_type=135,nd_target=fd00::3,nd_sll=02:00:00:00:00:07",
        ),
        // As dumps here have it, with masks and without `encap`.
        (
            "in_port(vm0),eth(dst=01:00:00:00:00:00/01:00:00:00:00:00),vlan(vid=10,pcp=0/0x0),vlan(vid=7),\
             eth_type(0x0800),ipv4(src=10.0.0.0/255.0.0.0),skb_priority(5)",
            "in_port=vm0,dl_dst=01:00:00:00:00:00,dl_vlan=10,inner_vlan_vid=7,ip,nw_src=10.0.0.0",
        ),
        (
            "in_port(2),vlan(none),eth_type(0x0806),arp(sip=10.0.0.1,tip=10.0.0.2,op=1,sha=02:00:00:00:00:01,tha=00:00:00:00:00:00)",
            "in_port=2,arp,arp_spa=10.0.0.1,arp_tpa=10.0.0.2,arp_op=1,arp_sha=02:00:00:00:00:01",
        ),
        ("in_port(1),eth(src=02:00:00:00:00:01)", "in_port=1,eth_src=02:00:00:00:00:01,eth_type=0x5ff"),
        (
            "in_port(1),eth_type(0x0800),ipv4(proto=17,frag=first),udp(dst=53)",
            "in_port=1,udp,nw_frag=first,udp_dst=53",
        ),
    ];
    for (datapath, flow) in rows {
        assert_eq!(
            parse_packet(datapath, &Ports).unwrap(),
            parse_packet(flow, &Ports).unwrap(),
            "{datapath}"
        );
    }
    let odd =
        "in_port(1),eth_type(0x88a8),vlan(vid=5),encap(eth_type(0x8100),vlan(vid=6),encap(eth_type(0x9999)))";
    let odd = parse_packet(odd, &Ports).unwrap();
    assert_eq!(odd.key.vlan.map(|tag| (tag.tpid.get(), tag.tci.get())), [(0x88a8, 0x1005), (0x8100, 0x1006)]);
    for (text, expected) in [
        (
            "in_port(1),ipv4(src=10.0.0.1)",
            "column 21: found \"10.0.0.1\", expected a value of what packets have whose eth_type, proto and frag are those given",
        ),
        ("in_port(1),eth(source=1)", "column 16: found \"source\", expected one of src, dst"),
        (
            "recirc_id(0x1),in_port(1)",
            "column 1: found \"recirc_id(0x1)\", expected recirc_id(0), a packet on its first pass; describe the packet as it \
             came, and the later passes follow",
        ),
        (
            "in_port(1),encap(eth_type(0x0800))",
            "column 12: found \"encap(eth_type(0x0800))\", expected vlan(...) before encap(...)",
        ),
        (
            "in_port(1),vlan(vid=1),encap(encap(encap(vlan(vid=2))))",
            "column 30: found \"encap(encap(vlan(vid=2)))\", expected vlan(...) before encap(...)",
        ),
        (
            "in_port(1),vlan(vid=1),vlan(vid=2),vlan(vid=3)",
            "column 41: found \"vid=3\", expected two tags at most, as rules see no more of them",
        ),
        ("in_port(1),vlan(vlan=1)", "column 17: found \"vlan\", expected one of tpid, vid, pcp, cfi"),
        (
            "in_port(1),vlan(vid=1),encap(mpls(label=1))",
            "column 30: found \"mpls\", expected a group of fields that this switch has",
        ),
    ] {
        assert_eq!(
            parse_packet(text, &Ports).unwrap_err().to_string(),
            format!("line 1, {expected}"),
            "{text}"
        );
    }
}

#[test]
fn tables_go_by_name_wherever_they_go_by_number() {
    let rows = [
        ("table=acl,actions=drop", "table=200,actions=drop"),
        ("table=\"acl\",actions=drop", "table=200,actions=drop"),
        ("table(acl),actions=drop", "table=200,actions=drop"),
        ("table=1st,actions=drop", "table=204,actions=drop"),
        ("actions=resubmit(,acl)", "actions=resubmit(,200)"),
        ("actions=resubmit(vm1,vm1)", "actions=resubmit(1,202)"),
        ("actions=resubmit(, \"nat.in-1\" )", "actions=resubmit(,201)"),
        ("actions=resubmit(LOCAL,ct)", "actions=resubmit(LOCAL,203)"),
        ("actions=goto_table:acl", "actions=goto_table:200"),
        ("actions=goto_table(acl)", "actions=goto_table:200"),
        ("actions=goto_table=\"acl\"", "actions=goto_table:200"),
        ("table=acl,actions=goto_table:nat.in-1", "table=200,actions=goto_table:201"),
        ("actions=clone(resubmit(,acl))", "actions=clone(resubmit(,200))"),
    ];
    for (named, numbered) in rows {
        let spec = rule(named);
        assert_eq!(spec, rule(numbered), "{named}");
        assert_eq!(rule(&rule_text(&spec, &Ports)), spec, "{named}");
    }
    let spec = rule("table=200 actions=resubmit(1,202),goto_table:201");
    assert_eq!(
        rule_text(&spec, &Ports),
        "table=acl,priority=32768 actions=resubmit(vm1,vm1),goto_table:nat.in-1"
    );

    assert_eq!(parse_selector("table=acl,tcp", false, &Ports).unwrap().table, Some(200));
    assert_eq!(parse_selector("table=acl", true, &Ports).unwrap().table, Some(200));
    let change = parse_modification("table=acl,actions=goto_table:vm1", false, &Ports).unwrap();
    assert_eq!((change.selector.table, &*change.actions), (Some(200), &[RuleAction::GotoTable(202)][..]));
}

#[test]
fn unknown_names_of_tables_are_told_with_the_nearest_known_one() {
    for (text, error) in [
        (
            "table=alc,actions=drop",
            "column 7: found \"alc\", expected a table's number or name; did you mean \"acl\"?",
        ),
        (
            "table=ACL,actions=drop",
            "column 7: found \"ACL\", expected a table's number, from 0 to 254, or its name",
        ),
        (
            "actions=resubmit(,nat.in-2)",
            "column 19: found \"nat.in-2\", expected a table's number or name; did you mean \"nat.in-1\"?",
        ),
        (
            "actions=goto_table:\"200\"",
            "column 20: found \"\\\"200\\\"\", expected a table's number, from 0 to 254, or its name",
        ),
        (
            "table=all,actions=drop",
            "column 7: found \"all\", expected a number from 0 to 254 or, after 0x, in hexadecimal",
        ),
        (
            "table=vm1,actions=goto_table:acl",
            "column 30: found \"acl\", expected a later table than the rule's own, which is vm1",
        ),
    ] {
        let found = parse_rule(text, &Ports).unwrap_err();
        assert_eq!(found.to_string(), format!("line 1, {error}"), "{text}");
    }
    struct Unnamed;
    impl PortNames for Unnamed {
        fn number(&self, _: &str) -> Option<PortId> {
            None
        }

        fn name(&self, _: PortId) -> Option<String> {
            None
        }
    }
    let error = parse_selector("table=acl", false, &Unnamed).unwrap_err();
    assert_eq!(
        error.expected,
        "a table's number, from 0 to 254, as no table has a name (--table NUMBER=NAME gives one)"
    );
}

#[test]
fn names_of_tables_are_words_of_rules_and_no_numbers() {
    let longest = "a".repeat(MAX_TABLE_NAME_BYTES);
    for name in ["acl", "1st", "a-1", "_", "nat.in", "classifier_0", "normal", longest.as_str()] {
        assert!(is_table_name(name), "{name}");
    }
    let too_long = "a".repeat(MAX_TABLE_NAME_BYTES + 1);
    for name in [
        "", "7", "007", "-1", "0x10", "0Xa", "-", "all", "ALL", "a b", "a,b", "a=b", "a(b", "\"a\"", "a#b",
        "ä", &too_long,
    ] {
        assert!(!is_table_name(name), "{name}");
    }
}
