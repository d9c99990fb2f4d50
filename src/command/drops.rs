//! `vsteer ctl drops`: why packets were dropped, at which ports, and what to do about it.
//!
//! The counters are those of `port show`, turned round: by reason, the most frequent first, with what each reason means.

use std::collections::HashMap;
use std::fmt::Write as _;

use clap::Args;
use serde::{Deserialize, Serialize};
use vsteer_switch::drop_reason::DropReason;

use super::ctl::CtlError;
use super::entry::{Command, Entry, Family, Sending};
use super::table::{count, printable};
use crate::appliance::Appliance;
use crate::appliance::refusal::Refusal;
use crate::port::report::PortReport;

pub(super) const FAMILY: Family = Family::Single(Entry::call::<Drops>());

/// Show why packets were dropped, at which ports, and what to do about it
///
/// The most frequent reason comes first. A reason that is found before it is decided where a packet goes counts at the port
/// that the packet came from (ingress), any other at the port that it was to leave by (egress). Ports that are gone have
/// taken their counters with them.
#[derive(Debug, Default, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Drops {
    /// Only drops at this port
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    /// Also show the reasons for which nothing was dropped
    #[arg(long)]
    all: bool,
}

/// A reason, and what was dropped for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DropInfo {
    /// Its name, as in the counters of a port.
    reason: String,
    /// What it means, and at which side it counts.
    meaning: String,
    /// What to do about it, where that is not plain.
    advice: Option<String>,
    /// Packets dropped for it.
    packets: u64,
    /// The same by port, most first.
    ports: Vec<PortDrops>,
}

/// What was dropped at one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PortDrops {
    /// The port's name.
    name: String,
    /// Packets.
    packets: u64,
}

/// What to do about packets that are dropped for `reason`.
fn advice(reason: DropReason) -> Option<&'static str> {
    Some(match reason {
        DropReason::QueueDisabled => "ends by itself once the guest's driver enables the queue",
        DropReason::VlanNotMember => "see vsteer ctl port show for the port's VLANs, or correct the guest's",
        DropReason::Hairpin => {
            "two addresses behind one port need no switch; a loop behind it shows like this, too"
        }
        DropReason::NoEgress => "see vsteer ctl trace; often there is no other port in the VLAN",
        DropReason::RuleDrop | DropReason::NoRule => {
            "see vsteer ctl flow dump-flows for the rules that count, vsteer ctl trace for one packet"
        }
        DropReason::Fragment => "if fragments are wanted, run the switch with --fragments normal or nx-match",
        DropReason::ResubmitTooDeep
        | DropReason::TooManyResubmits
        | DropReason::TooManyPasses
        | DropReason::StackTooDeep
        | DropReason::TooManyActions => "see vsteer ctl trace for the circle, and correct the rules",
        DropReason::MirrorPort => "the port of a mirror's output takes part in nothing else",
        DropReason::UpcallBudget => {
            "a scan or a storm of new connections; if they are wanted, raise upcalls-per-s in [flow-cache]"
        }
        DropReason::NotConnected => {
            "see vsteer ctl port show; the guest is off, or its driver has not started"
        }
        DropReason::NoGuestBuffer => {
            "the guest does not keep up: give it more CPU time, more queue pairs or longer rings (rx_queue_size)"
        }
        DropReason::GuestBufferTooSmall => "let the guest's driver use mergeable buffers (mrg_rxbuf=on)",
        DropReason::TooLong => "give the ports the same MTU (mtu=N), or let path MTU discovery through",
        DropReason::HostRefused => "see that the interface is up, and the log of the host",
        DropReason::HostQueueFull => {
            "the host does not keep up: raise the interface's txqueuelen, or see that the file's disk is fast and has room"
        }
        DropReason::InjectedRx | DropReason::InjectedTx => "add the port without fault= to end this",
        DropReason::RingBroken => {
            "see vsteer ctl port show for the rule that was broken; the guest's driver must start anew"
        }
        DropReason::FrameTooShort
        | DropReason::BadOffload
        | DropReason::BadSource
        | DropReason::ReservedDestination
        | DropReason::TtlExceeded
        | DropReason::PortGone
        | DropReason::HeadersTooLong
        | DropReason::CannotRewrite => return None,
    })
}

impl DropInfo {
    /// Every reason, with what was dropped for it at `ports`; the most frequent first, then in counter order.
    fn of(ports: &[PortReport]) -> Vec<Self> {
        let mut by_reason: HashMap<DropReason, Vec<PortDrops>> = HashMap::new();
        for port in ports {
            for (reason, packets) in port.counters.drops() {
                let name = port.spec.name.clone();
                by_reason.entry(reason).or_default().push(PortDrops { name, packets });
            }
        }
        let reasons = DropReason::ALL.iter().map(|reason| {
            let mut ports = by_reason.remove(reason).unwrap_or_default();
            ports.sort_by_key(|port| std::cmp::Reverse(port.packets));
            Self {
                reason: reason.name().to_owned(),
                meaning: reason.meaning().to_owned(),
                advice: advice(*reason).map(str::to_owned),
                packets: ports.iter().map(|port| port.packets).sum(),
                ports,
            }
        });
        let mut reasons: Vec<_> = reasons.collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.packets));
        reasons
    }
}

impl Command for Drops {
    const WORD: &'static str = "drops";
    const METHOD: &'static str = "drops";
    type Params = Self;
    type Reply = Vec<DropInfo>;

    fn params(self) -> Result<Self, CtlError> {
        Ok(self)
    }

    fn carry_out(appliance: &Appliance, params: Self) -> Result<Sending<Self::Reply>, Refusal> {
        let ports = match &params.port {
            Some(name) => vec![appliance.port(name)?],
            None => appliance.ports(),
        };
        let reasons = DropInfo::of(&ports).into_iter();
        Ok(Sending::rows(reasons.filter(move |reason| params.all || reason.packets > 0)))
    }

    fn text(_: &Self, reasons: &Self::Reply) -> String {
        if reasons.is_empty() {
            return "nothing was dropped\n".to_owned();
        }
        let width = reasons.iter().map(|reason| count(reason.packets).len()).max().unwrap_or(0);
        let indent = " ".repeat(width);
        let mut text = String::new();
        for DropInfo { reason, meaning, advice, packets, ports } in reasons {
            let ports = ports.iter().map(|port| format!("{} {}", port.name, count(port.packets)));
            let ports = ports.collect::<Vec<_>>().join(", ");
            let line = format!("{:>width$}  {reason}  {ports}", count(*packets));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", printable(line).trim_end());
            let _ = writeln!(text, "{indent}    {}", printable(meaning.clone()));
            if let Some(advice) = advice.as_ref().filter(|_| *packets > 0) {
                let _ = writeln!(text, "{indent}    -> {}", printable(advice.clone()));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vsteer_switch::counters::PortCounters;
    use vsteer_switch::port::PortId;

    use super::*;
    use crate::config::PortSpec;
    use crate::port::report::{CounterSums, DriverStatus};

    fn port(name: &str, drops: &[(DropReason, u64)]) -> PortReport {
        let counters = PortCounters::default();
        drops.iter().for_each(|&(reason, packets)| counters.dropped(reason, packets));
        PortReport {
            id: PortId::ZERO,
            spec: Arc::new(PortSpec::parse("test", &format!("{name}=tap:{name}")).unwrap()),
            queues: 1,
            status: DriverStatus::default(),
            counters: CounterSums::of(&[counters]),
        }
    }

    #[test]
    fn most_frequent_reason_and_port_come_first_with_what_to_do() {
        let reasons = DropInfo::of(&[
            port("vm0", &[(DropReason::BadSource, 7), (DropReason::NoGuestBuffer, 34)]),
            port("vm1", &[(DropReason::NoGuestBuffer, 1200)]),
        ]);
        assert_eq!(reasons.len(), DropReason::COUNT);
        assert_eq!(reasons[2].packets, 0);
        assert_eq!(
            Drops::text(&Drops::default(), &reasons[..2].to_vec()),
            "\
1 234  no_guest_buffer  vm1 1 200, vm0 34
         Egress: the guest has given no buffers.
         -> the guest does not keep up: give it more CPU time, more queue pairs or longer rings (rx_queue_size)
    7  bad_source  vm0 7
         Ingress: the source address is a group address or zero.
"
        );
        let unseen = Drops::text(&Drops::default(), &reasons[2..3].to_vec());
        assert_eq!(
            unseen,
            "0  frame_too_short\n     Ingress: the frame is shorter than an Ethernet header.\n"
        );
        assert_eq!(Drops::text(&Drops::default(), &vec![]), "nothing was dropped\n");
    }
}
