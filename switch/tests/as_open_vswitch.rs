//! Rules and packets in the words of Open vSwitch's users, and what becomes of the packets.
//!
//! Each case is a small rule set with packets, every one a line of text as `ovs-ofctl` and `ofproto/trace` take it. What
//! Open vSwitch does with such packets was worked out from its manuals and seen on it.

use std::fmt::Write;

use vsteer_switch::action::{Action, Actions, Verdict};
use vsteer_switch::bridge::config::{PortVlan, SwitchConfig};
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::flow::fields::Fields;
use vsteer_switch::flow::key::FlowKey;
use vsteer_switch::port::PortId;
use vsteer_switch::rule::edit::Edit;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::set::RuleSet;
use vsteer_switch::rule::text::{PortNames, parse_packet, parse_rules};
use vsteer_switch::slow_path::translate;
use vsteer_switch::state::SwitchState;

/// Ports `p0` to `p9`.
struct Ports;

impl PortNames for Ports {
    fn number(&self, name: &str) -> Option<PortId> {
        let number = name.strip_prefix('p')?.parse().ok()?;
        PortId::new(number).filter(|port| port.number() < 10)
    }

    fn name(&self, port: PortId) -> Option<String> {
        (port.number() < 10).then(|| format!("p{port}"))
    }
}

/// A rule set, and packets with what becomes of each.
struct Case {
    rules: &'static str,
    packets: &'static [(&'static str, &'static str)],
}

/// The fields that a rewrite changes, each `name=value`, and `/mask` if it changes a part of one.
fn rewritten(value: &FlowKey, mask: &FlowKey, eth_type: u16) -> String {
    let (value, mask) = (Fields::of_packet(*value), Fields::of_packet(*mask));
    let mut text = String::new();
    for &field in Field::NAMED {
        let whole =
            !matches!(field, Field::VlanVid | Field::VlanPcp | Field::InnerVlanVid | Field::InnerVlanPcp);
        let is_arp = matches!(eth_type, 0x806 | 0x8035);
        let fits = match field {
            Field::Ipv4Src | Field::Ipv4Dst => eth_type == 0x800,
            Field::Ipv6Src | Field::Ipv6Dst => eth_type == 0x86dd,
            Field::ArpOp | Field::ArpSpa | Field::ArpTpa | Field::ArpSha | Field::ArpTha => is_arp,
            Field::IpProto | Field::IpDscp | Field::IpEcn => false,
            Field::UdpSrc | Field::UdpDst | Field::SctpSrc | Field::SctpDst => false,
            Field::IcmpType | Field::IcmpCode | Field::Icmpv6Type | Field::Icmpv6Code => false,
            Field::NdSll | Field::NdTll => !is_arp,
            _ => true,
        };
        let bits = field.get(&mask);
        if bits == 0 || !whole || !fits {
            continue;
        }
        let _ = write!(text, " {}={:#x}", field.name(), field.get(&value));
        if bits != field.full_mask() {
            let _ = write!(text, "/{bits:#x}");
        }
    }
    format!("set({})", text.trim_start())
}

fn action_text(action: Action, actions: &Actions, eth_type: u16) -> String {
    match action {
        Action::Output(port) => port.to_string(),
        Action::PushVlan(tag) => format!("push({:#x},{:#x})", tag.tpid.get(), tag.tci.get()),
        Action::PopVlan => "pop".to_owned(),
        Action::SetVlan(vlan) => format!("vlan({vlan})"),
        Action::Rewrite(index) => {
            let rewrite = actions.rewrite(index).expect("a rewrite that is there");
            rewritten(rewrite.value(), rewrite.mask(), eth_type)
        }
        Action::Recirculate(_) => "recirc".to_owned(),
        Action::Punt(punt) => format!("punt({},{})", punt.id, punt.max_len),
        Action::Drop(reason) => format!("drop({})", reason.name()),
    }
}

/// What becomes of the packet `text` says, with port `local` as the local one.
fn fate(rules: &RuleSet, local: Option<u16>, text: &str) -> String {
    let port = |number| PortId::new(number).expect("a small number");
    let config = SwitchConfig::new(1, (0..10).map(|number| (port(number), PortVlan::default())));
    let config = config.with_local(local.map(port));
    let fdb = Fdb::new(8);
    let packet = parse_packet(text, &Ports).unwrap_or_else(|error| panic!("{text}: {error}"));
    let state = SwitchState { config: &config, fdb: &fdb, rules };
    match translate(&packet.key, &state, &mut ()).verdict {
        Verdict::Drop(reason) => format!("drop({})", reason.name()),
        Verdict::Forward(actions) => {
            let eth_type = packet.key.eth_type.get();
            let texts: Vec<String> =
                actions.iter().map(|&action| action_text(action, &actions, eth_type)).collect();
            texts.join(",")
        }
    }
}

fn rule_set(text: &str) -> RuleSet {
    let specs = parse_rules(text, &Ports).unwrap_or_else(|error| panic!("{text}: {error}"));
    let specs = specs.into_iter().map(|added| added.spec).collect();
    let edited = RuleSet::learning_switch(0).edit(&[Edit::Replace(specs)], 0);
    edited.expect("a small set").set
}

fn check(cases: &[Case]) {
    for case in cases {
        let rules = rule_set(case.rules);
        for (packet, expected) in case.packets {
            assert_eq!(fate(&rules, Some(9), packet), *expected, "{packet} under {}", case.rules);
        }
    }
}

#[test]
fn the_local_port_goes_by_its_name_and_by_its_number() {
    check(&[
        Case {
            rules: "in_port=LOCAL,actions=output:2\n in_port=65534,ip,priority=40000,actions=output:3\n in_port=1,actions=LOCAL",
            packets: &[
                ("in_port=p9", "2"),
                ("in_port=9,ip", "3"),
                ("in_port=1", "9"),
                ("in_port=2", "drop(no_rule)"),
            ],
        },
        Case {
            rules: "in_port=9,actions=output:65534,IN_PORT\n in_port=1,actions=output:9",
            packets: &[("in_port=9", "9"), ("in_port=1", "9")],
        },
        Case {
            rules: "actions=resubmit(LOCAL,1),resubmit(9,1),resubmit(2,1)\n table=1,in_port=LOCAL,actions=output:3\n \
                    table=1,in_port=2,actions=output:4",
            packets: &[("in_port=1", "3,3,4")],
        },
        Case {
            rules: "actions=load:0xfffe->NXM_OF_IN_PORT[],resubmit(,1)\n table=1,in_port=LOCAL,actions=IN_PORT",
            packets: &[("in_port=1", "9")],
        },
        // What a rule reads of the local port is its OpenFlow number.
        Case {
            rules: "actions=move:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15],load:2->in_port[],resubmit(,1)\n \
                    table=1,reg0=0xfffe,actions=output:reg0[]\n table=1,reg0=1,actions=output:3",
            packets: &[("in_port=9", "9"), ("in_port=1", "3"), ("in_port=2", "drop(no_rule)")],
        },
    ]);
}

#[test]
fn which_port_is_local_is_found_out_when_a_packet_meets_the_rule() {
    let rules =
        rule_set("in_port=LOCAL,actions=output:1\n in_port=2,actions=LOCAL\n actions=resubmit(LOCAL,0)");
    for (local, packet, expected) in [
        (Some(3), "in_port=3", "1"),
        (Some(4), "in_port=4", "1"),
        (Some(4), "in_port=3", "1"),
        (Some(4), "in_port=2", "4"),
        (None, "in_port=3", "1"),
        (None, "in_port=2", "drop(no_egress)"),
    ] {
        assert_eq!(fate(&rules, local, packet), expected, "{packet} with {local:?} as the local port");
    }
}

#[test]
fn numbers_that_stand_for_something_else_mean_it_wherever_a_port_may_stand() {
    check(&[Case {
        rules: "in_port=1,actions=output:65528\n in_port=2,actions=output:65533\n in_port=3,actions=output:2000\n \
                in_port=4,actions=load:0xfff8->reg0[],output:reg0\n in_port=5,actions=load:0xfffd->reg1[0..15],output:reg1[0..15]\n \
                in_port=6,actions=load:0xffff->reg2[],output:reg2[]\n in_port=7,actions=resubmit(ANY,1)\n \
                in_port=8,actions=set_field:5->in_port,TABLE\n table=1,in_port=65535,actions=output:2\n \
                in_port=2000,actions=drop",
        packets: &[
            ("in_port=1", "1"),
            ("in_port=2", "punt(0,65535)"),
            ("in_port=3", "drop(no_egress)"),
            ("in_port=4", "4"),
            ("in_port=5", "punt(0,65535)"),
            ("in_port=6", "drop(no_egress)"),
            ("in_port=7", "2"),
            ("in_port=8", "punt(0,65535)"),
        ],
    }]);
}

#[test]
fn a_conjunction_is_met_by_one_rule_of_each_dimension() {
    check(&[
        Case {
            rules: "conj_id=1,actions=output:3\n priority=100,ip,nw_src=10.0.0.1,actions=conjunction(1,1/2)\n \
                    priority=100,ip,nw_src=10.0.0.2,actions=conjunction(1,1/2)\n \
                    priority=100,ip,nw_dst=10.1.0.0/16,actions=conjunction(1,2/2)\n \
                    priority=100,ip,nw_src=10.0.0.1,nw_dst=10.1.0.9,actions=output:4\n priority=0,actions=output:5",
            packets: &[
                ("in_port=1,ip,nw_src=10.0.0.1,nw_dst=10.1.2.3", "3"),
                ("in_port=1,ip,nw_src=10.0.0.2,nw_dst=10.1.0.9", "3"),
                // A rule that is carried out wins over a conjunction of its priority.
                ("in_port=1,ip,nw_src=10.0.0.1,nw_dst=10.1.0.9", "4"),
                ("in_port=1,ip,nw_src=10.0.0.3,nw_dst=10.1.0.9", "5"),
                ("in_port=1,ip,nw_src=10.0.0.1,nw_dst=10.2.0.9", "5"),
                ("in_port=1", "5"),
            ],
        },
        // A rule may be a part of several, and dimensions may ask about anything.
        Case {
            rules: "conj_id=1,ip,actions=output:1\n conj_id=2,actions=output:2\n conj_id=3,actions=output:3\n \
                    priority=7,ip,nw_src=10.0.0.0/8,actions=conjunction(1,1/2),conjunction(2,1/3)\n \
                    priority=7,ip,nw_src=11.0.0.0/8,actions=conjunction(3,2/2)\n \
                    priority=7,ip,nw_dst=10.0.0.0/8,actions=conjunction(1,2/2)\n \
                    priority=7,ip,nw_dst=11.0.0.0/8,actions=conjunction(2,2/3),conjunction(3,1/2)\n \
                    priority=7,tcp,tp_dst=80,actions=conjunction(2,3/3)\n \
                    priority=7,tcp,tp_src=80,actions=conjunction(2,3/3)\n priority=1,actions=output:4",
            packets: &[
                ("in_port=9,ip,nw_src=10.0.0.1,nw_dst=10.0.0.2", "1"),
                ("in_port=9,tcp,nw_src=10.0.0.1,nw_dst=11.0.0.2,tp_dst=80", "2"),
                ("in_port=9,tcp,nw_src=10.0.0.1,nw_dst=11.0.0.2,tp_src=80", "2"),
                ("in_port=9,tcp,nw_src=10.0.0.1,nw_dst=11.0.0.2,tp_src=81", "4"),
                ("in_port=9,udp,nw_src=11.0.0.1,nw_dst=11.0.0.2,tp_src=80", "3"),
                ("in_port=9,ip,nw_src=11.0.0.1,nw_dst=10.0.0.2", "4"),
            ],
        },
        // Below a conjunction that is not met, or has no rule, others come into their own: also one with the same match.
        Case {
            rules: "conj_id=1,actions=output:1\n conj_id=3,actions=output:3\n \
                    priority=5,ip,nw_src=10.0.0.1,actions=conjunction(1,1/2)\n priority=5,ip,nw_dst=10.0.0.1,actions=conjunction(1,2/2)\n \
                    priority=4,ip,nw_src=10.0.0.4,nw_dst=10.0.0.2,actions=output:2\n \
                    priority=3,ip,nw_src=10.0.0.1,actions=conjunction(3,1/2)\n priority=3,ip,nw_src=10.0.0.4,actions=conjunction(3,1/2)\n \
                    priority=3,ip,nw_dst=10.0.0.2,actions=conjunction(3,2/2)\n priority=2,ip,nw_dst=10.0.0.1,actions=output:4\n \
                    priority=9,ip,nw_src=10.0.0.7,actions=conjunction(8,1/2)\n priority=9,ip,nw_dst=10.0.0.7,actions=conjunction(8,2/2)\n \
                    priority=0,actions=output:6",
            packets: &[
                ("in_port=5,ip,nw_src=10.0.0.1,nw_dst=10.0.0.1", "1"),
                ("in_port=5,ip,nw_src=10.0.0.4,nw_dst=10.0.0.2", "2"),
                ("in_port=5,ip,nw_src=10.0.0.1,nw_dst=10.0.0.2", "3"),
                ("in_port=5,ip,nw_src=10.0.0.4,nw_dst=10.0.0.1", "4"),
                ("in_port=5,ip,nw_src=10.0.0.7,nw_dst=10.0.0.7", "6"),
            ],
        },
        // In a later table, and with a rule of its own for a part of what meets it.
        Case {
            rules: "actions=resubmit(,2)\n table=2,priority=20,ip,actions=conjunction(7,1/2),note:01\n \
                    table=2,priority=20,in_port=1,actions=conjunction(7,2/2)\n table=2,conj_id=7,tcp,priority=1,actions=output:2\n \
                    table=2,conj_id=7,actions=resubmit(,3)\n table=3,conj_id=0,actions=output:3\n table=3,conj_id=7,actions=output:4",
            packets: &[
                ("in_port=1,tcp", "3"),
                ("in_port=1,arp", "drop(no_rule)"),
                ("in_port=2,tcp", "drop(no_rule)"),
            ],
        },
    ]);
}

#[test]
fn a_copy_leaves_the_packet_as_it_was() {
    check(&[
        Case {
            rules: "ip,actions=clone(set_field:10.0.0.9->nw_src,output:2),clone(mod_dl_dst:02:00:00:00:00:09),output:3",
            packets: &[("in_port=1,ip,nw_src=10.0.0.1", "set(nw_src=0xa000009),2,set(nw_src=0xa000001),3")],
        },
        // What is lost in the copy is undone only where somebody sees it.
        Case {
            rules: "ip,actions=clone(dec_ttl,output:2)",
            packets: &[
                ("in_port=1,ip,nw_ttl=9", "set(nw_ttl=0x8),2"),
                ("in_port=1,ip,nw_ttl=1", "drop(ttl_exceeded)"),
            ],
        },
        Case {
            rules: "ip,actions=clone(dec_ttl,output:2),output:3",
            packets: &[
                ("in_port=1,ip,nw_ttl=1", "3"),
                ("in_port=1,ip,nw_ttl=7", "set(nw_ttl=0x6),2,set(nw_ttl=0x7),3"),
            ],
        },
        Case {
            rules: "actions=push_vlan:0x8100,set_vlan_vid:5,clone(pop_vlan,output:2),output:3,clone(set_vlan_vid:6,output:4),output:5",
            packets: &[("in_port=1", "push(0x8100,0x5),pop,2,push(0x8100,0x5),3,vlan(6),4,vlan(5),5")],
        },
        Case {
            rules: "vlan_tci=0x1000/0x1000,actions=clone(pop_vlan,clone(output:2),push_vlan:0x88a8,push_vlan:0x8100,output:3),output:4",
            packets: &[(
                "in_port=1,dl_vlan=9,dl_vlan_pcp=2",
                "pop,2,push(0x88a8,0x0),push(0x8100,0x0),3,pop,pop,push(0x8100,0x4009),4",
            )],
        },
        // Registers, ingress port, action set and stack are the copy's own.
        Case {
            rules: "actions=load:4->reg0[],push:reg0[],clone(pop:reg1[],load:5->reg0[],load:6->in_port[],push:reg0[],output:reg0[],IN_PORT),\
                    pop:reg2[],output:reg0[],output:reg2[],IN_PORT",
            packets: &[("in_port=1", "5,6,4,4,1")],
        },
        Case {
            rules: "actions=resubmit(,2),goto_table:1\n table=1,actions=clone(resubmit(,3),output:5),output:4\n \
                    table=2,actions=write_actions(output:7)\n table=3,actions=write_actions(output:8)",
            packets: &[("in_port=1", "5,8,4,7")],
        },
    ]);
}

#[test]
fn exit_ends_everything_and_an_expired_packet_its_rule_alone() {
    check(&[
        Case { rules: "actions=output:2,exit,output:3", packets: &[("in_port=1", "2")] },
        Case {
            rules: "actions=resubmit(,1),output:4\n table=1,actions=output:3,exit,output:5",
            packets: &[("in_port=1", "3")],
        },
        Case { rules: "actions=clone(output:2,exit,output:3),output:4", packets: &[("in_port=1", "2")] },
        Case {
            rules: "actions=write_actions(output:2),goto_table:1\n table=1,priority=40000,ip,actions=exit\n table=1,actions=output:3",
            packets: &[("in_port=1,ip", "drop(rule_drop)"), ("in_port=1", "3,2")],
        },
        Case {
            rules: "ip,actions=resubmit(,1),output:4,write_actions(output:2)\n table=1,actions=dec_ttl,output:3",
            packets: &[("in_port=1,ip,nw_ttl=1", "4,2"), ("in_port=1,ip,nw_ttl=9", "set(nw_ttl=0x8),3,4,2")],
        },
        // A lookup that finds nothing leaves the action set as it is.
        Case { rules: "actions=write_actions(output:2),goto_table:1", packets: &[("in_port=1", "2")] },
    ]);
}

#[test]
fn the_stack_gives_back_what_was_pushed_last() {
    check(&[
        Case {
            rules: "actions=load:2->reg0[0..7],load:3->reg1[0..7],push:reg0[0..7],push:reg1[0..7],resubmit(,1),pop:reg3[],output:reg3[]\n \
                    table=1,actions=pop:reg2[0..15],output:reg2[0..15]",
            packets: &[("in_port=1", "3,2")],
        },
        // Popping from an empty stack changes nothing; a long number leaves its low bits.
        Case {
            rules: "actions=load:5->reg0[],pop:reg0[],output:reg0[],load:0x12345602->reg1[],push:reg1[],pop:reg2[0..7],output:reg2[]",
            packets: &[("in_port=1", "5,2")],
        },
        Case {
            rules: "ip,actions=push:OXM_OF_IN_PORT[0..31],output:2,pop:OXM_OF_IPV4_SRC[0..31],output:3",
            packets: &[
                ("in_port=1,ip,nw_src=10.0.0.1", "2,set(nw_src=0x1),3"),
                ("in_port=9,ip,nw_src=10.0.0.1", "2,set(nw_src=0xfffffffe),3"),
            ],
        },
    ]);
}

#[test]
fn actions_of_the_first_openflow_do_nothing_with_packets_that_lack_the_field() {
    check(&[Case {
        rules: "actions=mod_nw_src:10.0.0.9,mod_tp_dst:80,mod_nw_tos:8,dec_ttl(1,2),set_vlan_pcp:3,output:2",
        packets: &[
            ("in_port=1,arp", "2"),
            ("in_port=1,tcp,nw_ttl=9", "set(nw_src=0xa000009 nw_tos=0x8/0xfc nw_ttl=0x8 tcp_dst=0x50),2"),
            ("in_port=1,udp,nw_ttl=9,nw_frag=later", "set(nw_src=0xa000009 nw_tos=0x8/0xfc nw_ttl=0x8),2"),
            ("in_port=1,icmp6,nw_ttl=9", "set(nw_tos=0x8/0xfc nw_ttl=0x8),2"),
        ],
    }]);
}

#[test]
fn fields_and_registers_go_by_every_name_and_in_parts() {
    check(&[
        Case {
            rules: "tcp,tp_dst[0..7]=0x50,actions=output:2\n priority=5,ip6,actions=output:3\n priority=4,reg0[1]=0,eth_dst[40]=1,actions=output:4",
            packets: &[
                ("in_port=1,tcp,tp_dst=80", "2"),
                ("in_port=1,tcp,tp_dst=0x1150", "2"),
                ("in_port=1,tcp,tp_dst=81,dl_dst=01:00:00:00:00:02", "4"),
                ("in_port=1,udp6", "3"),
                ("in_port=1,tcp,tp_dst=81,dl_dst=02:00:00:00:00:02", "drop(no_rule)"),
            ],
        },
        Case {
            rules: "actions=load:0x0123456789abcdef->OXM_OF_PKT_REG15[],move:NXOXM_ET_REG30[0..7]->NXM_NX_REG16[0..7],resubmit(,1)\n \
                    table=1,reg16=0x67,reg31=0x89abcdef,xxreg7[32..63]=0x01234567,actions=output:2",
            packets: &[("in_port=1", "2")],
        },
        Case {
            rules: "arp,arp_op[0]=1,actions=move:NXM_OF_ARP_OP[]->NXM_NX_REG0[0..15],load:2->NXM_OF_ARP_OP[],output:reg0[]\n \
                    rarp,arp_spa=10.0.0.1,actions=set_field:10.0.0.2->arp_tpa,output:2",
            packets: &[
                ("in_port=2,arp,arp_op=1", "set(arp_op=0x2),1"),
                ("in_port=1,arp,arp_op=2", "drop(no_rule)"),
                ("in_port=1,rarp,arp_spa=10.0.0.1", "set(arp_tpa=0xa000002),2"),
            ],
        },
        Case {
            rules: "actset_output=UNSET,actions=write_actions(output:3),goto_table:1\n table=1,actset_output=3,actions=output:4",
            packets: &[("in_port=1", "4,3")],
        },
        Case {
            rules: "actions=enqueue:2:1,set_queue:3,enqueue(LOCAL,4),pop_queue,enqueue:IN_PORT:1",
            packets: &[("in_port=1", "2,9,1")],
        },
        // A new tag has VLAN 0 and priority 0, whatever is behind it.
        Case {
            rules: "actions=push_vlan:0x88a8,output:2",
            packets: &[("in_port=1,dl_vlan=5,dl_vlan_pcp=3", "push(0x88a8,0x0),2")],
        },
    ]);
}
