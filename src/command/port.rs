//! `vsteer ctl port`: list, show, add, del.

use std::collections::BTreeMap;
use std::fmt;

use clap::Args;
use serde::{Deserialize, Serialize};
use vsteer_switch::wire::vlan::VlanId;

use super::ctl::CtlError;
use super::entry::{Command, Entry, Family, Sending};
use super::table::{Table, bytes, count};
use crate::appliance::Appliance;
use crate::appliance::refusal::Refusal;
use crate::config::{PortSpec, VlanSet, VlanSpec, priority_tags_word};
use crate::control::protocol::NoParams;
use crate::port::report::{CounterSums, Link, PortReport};

pub(super) const FAMILY: Family = Family::Group {
    word: "port",
    about: "Ports",
    commands: &[Entry::call::<List>(), Entry::call::<Show>(), Entry::call::<Add>(), Entry::call::<Del>()],
};

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortInfo {
    /// Its name.
    pub(super) name: String,
    /// Its number in flows.
    pub(super) id: u16,
    /// The type, as in a specification.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// What follows the type: a path, an interface, a descriptor.
    pub(super) address: String,
    /// Whether packets can pass.
    pub(super) state: PortState,
    /// Why the port was stopped.
    pub(super) fault: Option<String>,
    /// What it is at, where it is not just moving packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) activity: Option<String>,
    /// Features in use, by their names in the virtio specification.
    pub(super) features: Vec<String>,
    /// Queue pairs that the other side uses.
    pub(super) queue_pairs_enabled: u16,
    /// Queue pairs that it may use.
    pub(super) queue_pairs_offered: u16,
    /// VLAN membership.
    pub(super) vlan: Vlan,
    /// Which frames leave with a priority tag: `never`, `if-nonzero` or `always`.
    pub(super) priority_tags: String,
    /// Largest number of learned addresses.
    pub(super) mac_limit: u32,
    /// MTU, where one was set.
    pub(super) mtu: Option<u16>,
    /// Whether rules mean it by `LOCAL`.
    #[serde(default)]
    pub(super) local: bool,
    /// Packets and drops.
    pub(super) counters: PortCounters,
}

/// Whether packets can pass a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PortState {
    /// They can.
    Connected,
    /// Nobody is at the other side yet, or again.
    Waiting,
    /// The other side broke a rule, or the interface is gone: see [`PortInfo::fault`].
    Stopped,
}

impl From<Link> for PortState {
    fn from(link: Link) -> Self {
        match link {
            Link::Up => PortState::Connected,
            Link::Waiting => PortState::Waiting,
            Link::Stopped => PortState::Stopped,
        }
    }
}

impl PortState {
    fn name(self) -> &'static str {
        let link = match self {
            PortState::Connected => Link::Up,
            PortState::Waiting => Link::Waiting,
            PortState::Stopped => Link::Stopped,
        };
        link.name()
    }
}

/// VLAN membership of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub(super) enum Vlan {
    /// The port is in one VLAN and sees no tags.
    Access {
        /// The VLAN.
        vlan: u16,
    },
    /// The port sees tags.
    Trunk {
        /// VLANs it carries with a tag, written `10+20-29`; `None` is all.
        trunks: Option<String>,
        /// VLAN of untagged frames.
        native: Option<u16>,
    },
    /// The port sees tags, also those of the VLAN that untagged frames are in.
    NativeTagged {
        /// VLANs it carries, written `10+20-29`; `None` is all.
        trunks: Option<String>,
        /// VLAN of untagged frames.
        native: u16,
    },
    /// The port is the edge of a VLAN that carries a customer's frames.
    #[serde(rename = "dot1q-tunnel")]
    Dot1qTunnel {
        /// The VLAN.
        vlan: u16,
        /// VLANs of the customer that pass, written `0+10`; `None` is all.
        cvlans: Option<String>,
        /// Protocol of the VLAN's tag, `802.1ad` or `802.1q`.
        qinq_ethtype: String,
    },
}

impl From<&VlanSpec> for Vlan {
    fn from(spec: &VlanSpec) -> Self {
        let text = |set: &Option<VlanSet>| set.as_ref().map(ToString::to_string);
        match spec {
            VlanSpec::Access { vlan } => Vlan::Access { vlan: vlan.number() },
            VlanSpec::Trunk { trunks, native } => {
                Vlan::Trunk { trunks: text(trunks), native: native.map(VlanId::number) }
            }
            VlanSpec::NativeTagged { trunks, native } => {
                Vlan::NativeTagged { trunks: text(trunks), native: native.number() }
            }
            VlanSpec::Dot1qTunnel { vlan, cvlans, qinq_ethtype } => Vlan::Dot1qTunnel {
                vlan: vlan.number(),
                cvlans: text(cvlans),
                qinq_ethtype: qinq_ethtype.word().to_owned(),
            },
        }
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Vlan::Access { vlan } => write!(f, "access {vlan}"),
            Vlan::Trunk { trunks, native } => {
                write!(f, "trunk {}", trunks.as_deref().unwrap_or("all"))?;
                native.map_or(Ok(()), |vlan| write!(f, " native {vlan}"))
            }
            Vlan::NativeTagged { trunks, native } => {
                write!(f, "trunk {} native-tagged {native}", trunks.as_deref().unwrap_or("all"))
            }
            Vlan::Dot1qTunnel { vlan, cvlans, qinq_ethtype: _ } => {
                write!(f, "dot1q-tunnel {vlan}")?;
                cvlans.as_ref().map_or(Ok(()), |set| write!(f, " cvlans {set}"))
            }
        }
    }
}

/// Counters of a port. `rx` is what the switch received from the port, `tx` what it sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct PortCounters {
    /// Packets received from the port.
    pub(super) rx_pkts: u64,
    /// Bytes received from the port.
    pub(super) rx_bytes: u64,
    /// Packets sent to the port.
    pub(super) tx_pkts: u64,
    /// Bytes sent to the port.
    pub(super) tx_bytes: u64,
    /// Packets dropped, by [`DropReason`](vsteer_switch::drop_reason::DropReason) name; zeros may be left out.
    pub(super) drops: BTreeMap<String, u64>,
}

impl PortCounters {
    fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }

    /// Lines that name them.
    pub(super) fn lines(&self, mut line: impl FnMut(&str, String)) {
        line("received", traffic(self.rx_pkts, self.rx_bytes));
        line("sent", traffic(self.tx_pkts, self.tx_bytes));
        line("dropped", format!("{} packets", count(self.dropped())));
        for (reason, &dropped) in self.drops.iter().filter(|&(_, &dropped)| dropped > 0) {
            line(&format!("  {reason}"), count(dropped));
        }
    }
}

fn traffic(packets: u64, byte_count: u64) -> String {
    format!("{} packets, {}", count(packets), bytes(byte_count))
}

impl From<CounterSums> for PortCounters {
    fn from(sums: CounterSums) -> Self {
        Self {
            rx_pkts: sums.rx_pkts,
            rx_bytes: sums.rx_bytes,
            tx_pkts: sums.tx_pkts,
            tx_bytes: sums.tx_bytes,
            drops: sums.drops().map(|(reason, count)| (reason.name().to_owned(), count)).collect(),
        }
    }
}

impl From<PortReport> for PortInfo {
    fn from(port: PortReport) -> Self {
        let (spec, status) = (port.spec, port.status);
        let count = |queues: usize| u16::try_from(queues).unwrap_or(u16::MAX);
        Self {
            name: spec.name.clone(),
            id: port.id.number(),
            kind: spec.type_name().to_owned(),
            address: spec.address(),
            state: status.link.into(),
            fault: status.fault,
            activity: status.activity,
            features: status.features.into_iter().map(str::to_owned).collect(),
            queue_pairs_enabled: count(status.live_queues),
            queue_pairs_offered: count(port.queues),
            vlan: Vlan::from(&spec.vlan),
            priority_tags: priority_tags_word(spec.priority_tags).to_owned(),
            mac_limit: spec.mac_limit,
            mtu: spec.mtu,
            local: spec.local,
            counters: port.counters.into(),
        }
    }
}

/// List all ports
#[derive(Debug, Args)]
struct List {}

impl Command for List {
    const WORD: &'static str = "list";
    const METHOD: &'static str = "port_list";
    type Params = NoParams;
    type Reply = Vec<PortInfo>;

    fn params(self) -> Result<NoParams, CtlError> {
        Ok(NoParams {})
    }

    fn carry_out(appliance: &Appliance, _: NoParams) -> Result<Sending<Self::Reply>, Refusal> {
        Ok(Sending::rows(appliance.ports().into_iter().map(PortInfo::from)))
    }

    fn text(_: &NoParams, ports: &Self::Reply) -> String {
        table(ports)
    }
}

/// Show one port in full
#[derive(Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Show {
    /// The port's name
    name: String,
}

impl Command for Show {
    const WORD: &'static str = "show";
    const METHOD: &'static str = "port_show";
    type Params = Self;
    type Reply = PortInfo;

    fn params(self) -> Result<Self, CtlError> {
        Ok(self)
    }

    fn carry_out(appliance: &Appliance, Self { name }: Self) -> Result<Sending<PortInfo>, Refusal> {
        Ok(PortInfo::from(appliance.port(&name)?).into())
    }

    fn text(_: &Self, port: &PortInfo) -> String {
        in_full(port)
    }
}

/// Add a port
#[derive(Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    /// The port, as in run --port; relative paths are the switch's
    spec: String,
}

impl Command for Add {
    const WORD: &'static str = "add";
    const METHOD: &'static str = "port_add";
    type Params = Self;
    type Reply = PortInfo;

    fn params(self) -> Result<Self, CtlError> {
        Ok(self)
    }

    fn carry_out(appliance: &Appliance, Self { spec }: Self) -> Result<Sending<PortInfo>, Refusal> {
        let spec = PortSpec::parse("port add", &spec).map_err(|error| Refusal::invalid(error.to_string()))?;
        Ok(PortInfo::from(appliance.add_port(spec)?).into())
    }

    fn text(_: &Self, port: &PortInfo) -> String {
        in_full(port)
    }
}

/// Remove a port
#[derive(Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Del {
    /// The port's name
    name: String,
}

impl Command for Del {
    const WORD: &'static str = "del";
    const METHOD: &'static str = "port_del";
    type Params = Self;
    type Reply = ();

    fn params(self) -> Result<Self, CtlError> {
        Ok(self)
    }

    fn carry_out(appliance: &Appliance, Self { name }: Self) -> Result<Sending<()>, Refusal> {
        appliance.delete_port(&name).map(Sending::from)
    }

    fn text(Self { name }: &Self, (): &()) -> String {
        format!("port {name} removed\n")
    }
}

/// Ports, one a line.
pub(super) fn table(ports: &[PortInfo]) -> String {
    let mut table =
        Table::new(["NAME", "ID", "TYPE", "ADDRESS", "STATE", "QUEUES", "VLAN", ">RX", ">TX", ">DROPPED"]);
    for port in ports {
        table.row([
            port.name.clone(),
            port.id.to_string(),
            port.kind.clone(),
            port.address.clone(),
            state(port),
            format!("{}/{}", port.queue_pairs_enabled, port.queue_pairs_offered),
            port.vlan.to_string(),
            count(port.counters.rx_pkts),
            count(port.counters.tx_pkts),
            count(port.counters.dropped()),
        ]);
    }
    table.finish("no ports; add one with vsteer ctl port add SPEC")
}

fn state(port: &PortInfo) -> String {
    match &port.fault {
        Some(fault) => format!("{}: {fault}", port.state.name()),
        None => port.state.name().to_owned(),
    }
}

/// One port in full, a property a line.
fn in_full(port: &PortInfo) -> String {
    let mut table = Table::plain();
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
    line("name", port.name.clone());
    line("id", port.id.to_string());
    line("type", port.kind.clone());
    line("address", port.address.clone());
    line("state", state(port));
    if let Some(activity) = &port.activity {
        line("activity", activity.clone());
    }
    line("queue pairs", format!("{} of {} enabled", port.queue_pairs_enabled, port.queue_pairs_offered));
    line("vlan", port.vlan.to_string());
    line("priority tags", port.priority_tags.clone());
    line("mac limit", port.mac_limit.to_string());
    line("mtu", port.mtu.map_or("not set".to_owned(), |mtu| mtu.to_string()));
    if port.local {
        line("role", "the local port".to_owned());
    }
    line("features", if port.features.is_empty() { "none".to_owned() } else { port.features.join(" ") });
    port.counters.lines(line);
    table.finish("")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A port as a switch would describe it.
    pub(in super::super) fn port_info(name: &str) -> PortInfo {
        PortInfo {
            name: name.into(),
            id: 1,
            kind: "vhost-user".into(),
            address: format!("/run/{name}"),
            state: PortState::Connected,
            fault: None,
            activity: None,
            features: vec!["VERSION_1".into(), "MRG_RXBUF".into()],
            queue_pairs_enabled: 1,
            queue_pairs_offered: 16,
            vlan: Vlan::Access { vlan: 10 },
            priority_tags: "never".into(),
            mac_limit: 4096,
            mtu: Some(9000),
            local: false,
            counters: PortCounters {
                rx_pkts: 1234,
                rx_bytes: 99_500,
                tx_pkts: 5,
                tx_bytes: 300,
                drops: BTreeMap::from([("no_guest_buffer".into(), 6), ("too_long".into(), 0)]),
            },
        }
    }

    #[test]
    fn table_is_aligned() {
        let mut stopped = port_info("vm10");
        stopped.state = PortState::Stopped;
        stopped.fault = Some("bad\ndescriptor".into());
        stopped.counters.rx_pkts = 7;
        assert_eq!(
            table(&[port_info("vm0"), stopped]),
            "\
NAME  ID  TYPE        ADDRESS    STATE                    QUEUES  VLAN          RX  TX  DROPPED
vm0   1   vhost-user  /run/vm0   connected                1/16    access 10  1 234   5        6
vm10  1   vhost-user  /run/vm10  stopped: bad?descriptor  1/16    access 10      7   5        6
"
        );
        let trunk = |trunks, native| Vlan::Trunk { trunks, native }.to_string();
        assert_eq!(trunk(None, None), "trunk all");
        assert_eq!(trunk(Some("10+20-29".into()), Some(5)), "trunk 10+20-29 native 5");
        let native_tagged = Vlan::NativeTagged { trunks: None, native: 5 };
        assert_eq!(native_tagged.to_string(), "trunk all native-tagged 5");
        let tunnel =
            Vlan::Dot1qTunnel { vlan: 7, cvlans: Some("0+10".into()), qinq_ethtype: "802.1q".into() };
        assert_eq!(tunnel.to_string(), "dot1q-tunnel 7 cvlans 0+10");
        let json = r#"{"mode":"dot1q-tunnel","vlan":7,"cvlans":"0+10","qinq_ethtype":"802.1q"}"#;
        assert_eq!(serde_json::to_string(&tunnel).unwrap(), json);
        assert_eq!(table(&[]), "no ports; add one with vsteer ctl port add SPEC\n");
    }

    #[test]
    fn port_in_full_shows_drops_by_reason() {
        assert_eq!(
            in_full(&port_info("vm0")),
            "\
name               vm0
id                 1
type               vhost-user
address            /run/vm0
state              connected
queue pairs        1 of 16 enabled
vlan               access 10
priority tags      never
mac limit          4096
mtu                9000
features           VERSION_1 MRG_RXBUF
received           1 234 packets, 99.5 kB
sent               5 packets, 300 B
dropped            6 packets
  no_guest_buffer  6
"
        );
    }
}
