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
