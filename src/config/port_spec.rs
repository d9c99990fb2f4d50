//! One port as the operator describes it: `NAME=TYPE:ADDRESS[,OPTION=VALUE...]`.
//!
//! The configuration file says the same with the same words, see `file.rs`; both feed `PortDraft`, which knows the options
//! that all ports have and asks the port's kind about all others. A `PortSpec` displays as the text that parses to it, unless
//! its socket was inherited.

use std::fmt;
use std::path::PathBuf;

use vsteer_switch::bridge::vlan::PriorityTags;

use super::error::{ConfigError, Problem};
use super::inherited_socket::InheritedSocket;
use super::vlan::{VlanDraft, VlanSpec, priority_tags_word};
use super::words::{check_name, parse_number, parse_switch, set_once};
use crate::port::driver::{Exclusive, KindDraft, KindSpec, kinds, use_types};
use crate::port::fault::FaultSpec;
use crate::port::trace;
use crate::port::words::Words;

/// Addresses learned at a port unless `mac-limit` says otherwise.
pub const DEFAULT_MAC_LIMIT: u32 = 4096;

const MAX_MAC_LIMIT: u32 = 65_536;
const MIN_MTU: u16 = 68;

/// A port that the switch shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Unique name: 1 to [`MAX_NAME_BYTES`](super::MAX_NAME_BYTES) letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// What stands behind the port.
    pub kind: KindSpec,
    /// VLAN membership.
    pub vlan: VlanSpec,
    /// Which frames leave with a priority tag.
    pub priority_tags: PriorityTags,
    /// Largest number of addresses learned at the port; 0 learns none.
    pub mac_limit: u32,
    /// MTU told to the guest or set on the interface, 68 to 65535; `None` says nothing.
    pub mtu: Option<u16>,
    /// Whether rules mean this port by `LOCAL`; at most one port is.
    pub local: bool,
    /// Where what passes the port is recorded.
    pub trace: Option<PathBuf>,
    /// What goes wrong at the port on purpose.
    pub fault: Option<FaultSpec>,
}

impl PortSpec {
    /// Reads `NAME=TYPE:ADDRESS[,OPTION=VALUE...]`. Commas end words, so a path with a comma needs the configuration
    /// file.
    ///
    /// # Errors
    /// The text breaks a rule; the error quotes it after `option`, the words it was introduced with (`--port`).
    pub fn parse(option: &str, text: &str) -> Result<Self, ConfigError> {
        Self::from_text(text).map_err(|problem| ConfigError::new(format!("{option} {text}"), problem))
    }

    fn from_text(text: &str) -> Result<Self, Problem> {
        let Some((name, rest)) = text.split_once('=') else {
            return Err("no \"=\" after the port's name; write NAME=TYPE:ADDRESS[,OPTION=VALUE...]".into());
        };
        let mut words = rest.split(',');
        let (kind, address) = parse_kind(words.next().unwrap_or_default())?;
        let mut draft = PortDraft::new(name, kind)?;
        draft.set_address(address)?;
        words.try_for_each(|word| draft.set_word(word))?;
        draft.finish()
    }

    /// The guest's port `name` on an inherited socket, with the comma-separated options `options`.
    pub(crate) fn inherited(name: &str, socket: InheritedSocket, options: &str) -> Result<Self, Problem> {
        let mut draft = PortDraft::new(name, KindDraft::guest_on(socket))?;
        draft.set_words(options)?;
        draft.finish()
    }

    /// The guest's port `name` on a socket at `path`, with the comma-separated options `options`.
    pub(crate) fn vhost_user(name: &str, path: &str, options: &str) -> Result<Self, Problem> {
        let mut draft = PortDraft::new(name, KindDraft::guest())?;
        draft.set_address(path)?;
        draft.set_words(options)?;
        draft.finish()
    }

    /// Whether a port that is as `self` says can go on as `other` says without being opened again.
    pub fn is_same_driver(&self, other: &PortSpec) -> bool {
        let PortSpec { name, kind, vlan: _, priority_tags: _, mac_limit: _, mtu, local: _, trace, fault } =
            self;
        (name, kind, mtu, trace, fault) == (&other.name, &other.kind, &other.mtu, &other.trace, &other.fault)
    }

    /// The port's type in the operator's word.
    pub fn type_name(&self) -> &'static str {
        self.kind.words().type_name
    }

    /// What follows the type: a path, an interface, or `fd N`.
    pub fn address(&self) -> String {
        self.kind.address()
    }

    /// What no two ports may share, if there is such a thing.
    pub fn exclusive(&self) -> Option<Exclusive> {
        self.kind.exclusive()
    }

    /// What both ports would have to have alone.
    pub fn shared_with(&self, other: &PortSpec) -> Option<Exclusive> {
        let mine = self.exclusive()?;
        (other.exclusive()? == mine).then_some(mine)
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:{}", self.name, self.type_name(), self.address())?;
        self.kind.fmt_address_options(f)?;
        self.vlan.fmt_options(f)?;
        if self.priority_tags != PriorityTags::Never {
            write!(f, ",priority-tags={}", priority_tags_word(self.priority_tags))?;
        }
        write!(f, ",mac-limit={}", self.mac_limit)?;
        self.kind.fmt_options(f)?;
        self.mtu.map_or(Ok(()), |mtu| write!(f, ",mtu={mtu}"))?;
        f.write_str(if self.local { ",local=on" } else { "" })?;
        self.trace.as_ref().map_or(Ok(()), |file| write!(f, ",trace={}", file.display()))?;
        self.fault.as_ref().map_or(Ok(()), |fault| write!(f, ",fault={fault}"))
    }
}

/// Splits `TYPE:ADDRESS`.
fn parse_kind(word: &str) -> Result<(KindDraft, &str), Problem> {
    match word.split_once(':') {
        Some((kind, address)) => Ok((KindDraft::of_type(kind)?, address)),
        None => Err(format!("no \":\" in {word:?}; {}", use_types()).into()),
    }
}

type Setter = fn(&mut PortDraft, &str) -> Result<(), Problem>;

/// Every option that all ports have beside those of VLANs, with the reader of its value.
const OPTIONS: [(&str, Setter); 5] = [
    ("mac-limit", |draft, text| set_once(&mut draft.mac_limit, parse_number(text, 0, MAX_MAC_LIMIT)?)),
    ("mtu", |draft, text| set_once(&mut draft.mtu, parse_number(text, MIN_MTU, u16::MAX)?)),
    ("local", |draft, text| set_once(&mut draft.local, parse_switch(text)?)),
    ("trace", |draft, text| set_once(&mut draft.trace, trace::parse(text)?)),
    ("fault", |draft, text| set_once(&mut draft.fault, FaultSpec::parse(text)?)),
];

/// A port whose words are still being read.
#[derive(Debug)]
pub(super) struct PortDraft {
    name: String,
    kind: KindDraft,
    vlan: VlanDraft,
    mac_limit: Option<u32>,
    mtu: Option<u16>,
    local: Option<bool>,
    trace: Option<PathBuf>,
    fault: Option<FaultSpec>,
}

impl PortDraft {
    /// A port named `name` with nothing else said.
    pub(super) fn new(name: &str, kind: KindDraft) -> Result<Self, Problem> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            kind,
            vlan: VlanDraft::default(),
            mac_limit: None,
            mtu: None,
            local: None,
            trace: None,
            fault: None,
        })
    }

    /// What the port's kind is called and has.
    pub(super) fn words(&self) -> &'static Words {
        self.kind.words()
    }

    /// Sets what follows the type.
    pub(super) fn set_address(&mut self, address: &str) -> Result<(), Problem> {
        self.kind.set_address(address)
    }

    /// Sets the option `key`, which the port has, from the text `value`.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), Problem> {
        if let Some(done) = self.vlan.set(key, value) {
            return done;
        }
        match OPTIONS.iter().find(|(name, _)| *name == key) {
            Some((_, setter)) => setter(self, value),
            None => self.kind.set(key, value),
        }
    }

    /// Names of all options of the port.
    pub(super) fn option_names(&self) -> impl Iterator<Item = &'static str> + Clone {
        let own = VlanDraft::option_names().chain(OPTIONS.iter().map(|&(name, _)| name));
        own.chain(self.words().options.iter().copied())
    }

    /// Why the port has no option `key`; `other_keys` are what might stand in its place beside options.
    pub(super) fn no_option(&self, key: &str, other_keys: &[&'static str]) -> Problem {
        let owners: Vec<&str> =
            kinds().filter(|kind| kind.options.contains(&key)).map(|kind| kind.type_name).collect();
        if owners.is_empty() {
            let keys = other_keys.iter().copied().chain(self.option_names());
            return Problem::unknown("option", key, keys);
        }
        let mine = self.words().type_name;
        format!("{key:?} is an option of {} ports, and this is a {mine} port; drop it", owners.join(" and "))
            .into()
    }

    fn set_words(&mut self, words: &str) -> Result<(), Problem> {
        words.split(',').filter(|word| !word.is_empty()).try_for_each(|word| self.set_word(word))
    }

    /// Sets one `key=value`.
    fn set_word(&mut self, word: &str) -> Result<(), Problem> {
        let (key, value) =
            word.split_once('=').ok_or_else(|| format!("no \"=\" in option {word:?}; write OPTION=VALUE"))?;
        if !self.option_names().any(|name| name == key) {
            return Err(self.no_option(key, &[]));
        }
        self.set(key, value).map_err(|problem| problem.of(word))
    }

    /// The port, if its words make sense together.
    pub(super) fn finish(self) -> Result<PortSpec, Problem> {
        let (vlan, priority_tags) = self.vlan.finish()?;
        Ok(PortSpec {
            vlan,
            priority_tags,
            kind: self.kind.finish()?,
            name: self.name,
            mac_limit: self.mac_limit.unwrap_or(DEFAULT_MAC_LIMIT),
            mtu: self.mtu,
            local: self.local.unwrap_or(false),
            trace: self.trace,
            fault: self.fault,
        })
    }
}

#[cfg(test)]
mod tests {
    use vsteer_vhost::net::port::MAX_QUEUE_PAIRS;

    use vsteer_switch::wire::vlan::VlanId;

    use super::*;
    use crate::config::owner::{MAX_SOCKET_PATH_BYTES, Owner};
    use crate::config::vlan::VlanSet;
    use crate::port::guest::{GuestSpec, SocketSpec};
    use crate::port::tap::TapSpec;
    use crate::port::words::Offloads;

    fn parse(text: &str) -> PortSpec {
        PortSpec::parse("--port", text).unwrap()
    }

    fn error(text: &str) -> String {
        PortSpec::parse("--port", text).unwrap_err().to_string()
    }

    #[test]
    fn defaults_of_a_guest_port() {
        let spec = parse("vm0=vhost-user:/run/vm0.sock");
        let socket = SocketSpec::Server { path: "/run/vm0.sock".into(), owner: Owner::default(), perm: None };
        let offloads = Offloads { csum: true, tso: true };
        assert_eq!(
            spec,
            PortSpec {
                name: "vm0".into(),
                kind: KindSpec::VhostUser(GuestSpec { socket, queue_pairs: 16, offloads }),
                vlan: VlanSpec::Trunk { trunks: None, native: None },
                priority_tags: PriorityTags::Never,
                mac_limit: DEFAULT_MAC_LIMIT,
                mtu: None,
                local: false,
                trace: None,
                fault: None,
            }
        );
    }

    #[test]
    fn defaults_of_a_tap_port() {
        let spec = parse("host=tap:vsteer0");
        let offloads = Offloads { csum: true, tso: true };
        assert_eq!(spec.kind, KindSpec::Tap(TapSpec { interface: "vsteer0".into(), queues: 1, offloads }));
    }

    #[test]
    fn every_option_is_read() {
        let spec = parse(
            "a.b-c_1=vhost-user:/s=1,owner=root:0,perm=0600,trunks=20-29+10,trunk=30,native=7,mac-limit=9,queues=128,\
             csum=off,mtu=9000,mode=server,local=on,trace=/t,priority-tags=always",
        );
        let owner = Owner { uid: Some(0), gid: Some(0) };
        let socket = SocketSpec::Server { path: "/s=1".into(), owner, perm: Some(0o600) };
        let offloads = Offloads { csum: false, tso: false };
        assert_eq!(
            spec,
            PortSpec {
                name: "a.b-c_1".into(),
                kind: KindSpec::VhostUser(GuestSpec { socket, queue_pairs: MAX_QUEUE_PAIRS, offloads }),
                vlan: VlanSpec::Trunk {
                    trunks: Some(VlanSet::parse("10+20-30").unwrap()),
                    native: VlanId::new(7)
                },
                priority_tags: PriorityTags::Always,
                mac_limit: 9,
                mtu: Some(9000),
                local: true,
                trace: Some("/t".into()),
                fault: None,
            }
        );
    }

    #[test]
    fn display_parses_to_the_same_port() {
        for text in [
            "vm0=vhost-user:/run/vm0.sock,vlan=10,owner=1000:107,perm=0660",
            "vm0=vhost-user:/run/vm0.sock,owner=:107,tso=off",
            "vm1=vhost-user:/run/vm1.sock,mode=client,trunks=10+20-29,native=1,mtu=68",
            "host=tap:vsteer0,queues=4,csum=off,mac-limit=0,local=on",
            "vm2=tap:t,trunks=10,native=1,vlan-mode=native-untagged,priority-tags=if-nonzero",
            "vm3=tap:t,native=1,vlan-mode=native-tagged,trunk=10,trunk=20",
            "vm4=tap:t,vlan=7,vlan-mode=dot1q-tunnel,cvlans=0+10-20,qinq-ethtype=802.1q",
            "vm5=tap:t,vlan=7,vlan-mode=access,priority-tags=no",
            "vm6=tap:t,vlan-mode=trunk,trunks=0-9",
            "f=tap:t,fault=drop:1%+corrupt:0.05%+delay:100%:20ms+seed:7,trace=/tmp/t",
            "cap=pcap:in.pcap,out=/tmp/out.pcap,rate=1000,vlan=7",
        ] {
            let spec = parse(text);
            assert_eq!(parse(&spec.to_string()), spec);
        }
        assert_eq!(
            parse("h=tap:t0,vlan=5,mtu=1500").to_string(),
            "h=tap:t0,vlan=5,mac-limit=4096,queues=1,csum=on,tso=on,mtu=1500"
        );
    }

    #[test]
    fn errors_name_the_option_the_value_and_what_to_try() {
        let not_access = "vlan= makes an access port, trunks= and native= a trunk; for a trunk with untagged frames in a \
                          VLAN, use native= in place of vlan=";
        let known = "vlan, trunks, trunk, native, vlan-mode, priority-tags, cvlans, qinq-ethtype, mac-limit, mtu, local, trace, fault, queues, csum, tso";
        for (text, problem) in [
            ("vm0", "no \"=\" after the port's name; write NAME=TYPE:ADDRESS[,OPTION=VALUE...]".to_owned()),
            (
                "vm0=vhost-usr:/x",
                "unknown port type \"vhost-usr\"; use vhost-user:PATH, tap:IFNAME or pcap:FILE".to_owned(),
            ),
            ("vm0=/x", "no \":\" in \"/x\"; use vhost-user:PATH, tap:IFNAME or pcap:FILE".to_owned()),
            ("vm0=vhost-user:", "the socket's path is empty; use vhost-user:PATH".to_owned()),
            (
                "v m=tap:t",
                "port name \"v m\" does not fit; use 1 to 15 of letters, digits, _ . and -".to_owned(),
            ),
            (
                "sixteen-letters-=tap:t",
                "port name \"sixteen-letters-\" does not fit; use 1 to 15 of letters, digits, _ . and -"
                    .to_owned(),
            ),
            (
                "h=tap:a/b",
                "interface name \"a/b\" does not fit; use 1 to 15 characters without / : % and space"
                    .to_owned(),
            ),
            ("h=tap:t,vlan", "no \"=\" in option \"vlan\"; write OPTION=VALUE".to_owned()),
            ("h=tap:t,vlna=1", "unknown option \"vlna\"; did you mean \"vlan\"?".to_owned()),
            ("h=tap:t,speed=1", format!("unknown option \"speed\"; use one of {known}")),
            ("h=tap:t,vlan=0", "vlan=0: \"0\" is no VLAN; use a number from 1 to 4094".to_owned()),
            ("h=tap:t,native=x", "native=x: \"x\" is no VLAN; use a number from 1 to 4094".to_owned()),
            ("h=tap:t,trunks=5-", "trunks=5-: \"\" is no VLAN; use a number from 0 to 4094".to_owned()),
            ("h=tap:t,vlan=1,vlan=2", "vlan=2: given twice; keep one".to_owned()),
            ("h=tap:t,vlan=1,native=2", not_access.to_owned()),
            ("h=tap:t,trunk=1,vlan=2", not_access.to_owned()),
            ("h=tap:t,vlan=1,vlan-mode=native-tagged", not_access.to_owned()),
            (
                "h=tap:t,vlan-mode=native-tagged",
                "the port needs the VLAN of its untagged frames; add native=VLAN".to_owned(),
            ),
            ("h=tap:t,vlan-mode=access", "an access port needs its VLAN; add vlan=VLAN".to_owned()),
            (
                "h=tap:t,vlan-mode=native",
                "vlan-mode=native: unknown value \"native\"; use one of access, trunk, native-tagged, \
                 native-untagged, dot1q-tunnel"
                    .to_owned(),
            ),
            (
                "h=tap:t,native=1,vlan-mode=trunk",
                "native= makes the mode native-untagged; drop vlan-mode=trunk".to_owned(),
            ),
            (
                "h=tap:t,native=1,trunks=0-9",
                "native= puts untagged frames into a VLAN, and VLAN 0 in trunks= is that of untagged frames; drop one \
                 of them"
                    .to_owned(),
            ),
            (
                "h=tap:t,vlan=1,cvlans=2",
                "cvlans= and qinq-ethtype= are for tunnels; add vlan-mode=dot1q-tunnel, or drop them".to_owned(),
            ),
            (
                "h=tap:t,vlan=1,trunks=2,vlan-mode=dot1q-tunnel",
                "a tunnel carries one VLAN, that of vlan=; drop trunks= and native= (cvlans= names the customer's \
                 VLANs)"
                    .to_owned(),
            ),
            (
                "h=tap:t,priority-tags=on",
                "priority-tags=on: unknown value \"on\"; did you mean \"no\"?".to_owned(),
            ),
            ("h=tap:t,queues=0", "queues=0: \"0\" is out of range; use a number from 1 to 128".to_owned()),
            (
                "h=tap:t,queues=129",
                "queues=129: \"129\" is out of range; use a number from 1 to 128".to_owned(),
            ),
            (
                "h=tap:t,mac-limit=-1",
                "mac-limit=-1: \"-1\" is out of range; use a number from 0 to 65536".to_owned(),
            ),
            ("h=tap:t,mtu=67", "mtu=67: \"67\" is out of range; use a number from 68 to 65535".to_owned()),
            ("h=tap:t,csum=yes", "csum=yes: unknown value \"yes\"; use on or off".to_owned()),
            (
                "h=tap:t,mode=server",
                "\"mode\" is an option of vhost-user ports, and this is a tap port; drop it".to_owned(),
            ),
            (
                "h=tap:t,fault=drop:1",
                "fault=drop:1: \"1\" is no probability; use one from 0.0001% to 100%, such as 1% or 0.05%".to_owned(),
            ),
            (
                "h=tap:t,fault=delay:1%",
                "fault=delay:1%: no time; write it behind the probability, as in delay:5%:20ms".to_owned(),
            ),
            ("h=tap:t,fault=seed:1", "fault=seed:1: no fault; name one of drop, corrupt and delay".to_owned()),
            (
                "h=tap:t,csum=off,tso=on",
                "tso=on needs partial checksums; drop csum=off, or use tso=off".to_owned(),
            ),
            (
                "v=vhost-user:/x,mode=listen",
                "mode=listen: unknown value \"listen\"; use client or server".to_owned(),
            ),
            (
                "v=vhost-user:/x,mode=client,perm=0600",
                "with mode=client the socket file is the front-end's; drop perm=".to_owned(),
            ),
            (
                "v=vhost-user:/x,perm=9",
                "perm=9: \"9\" is no usable mode; write octal digits such as 0660 or 0600".to_owned(),
            ),
            (
                "v=vhost-user:/x,owner=nosuchuser",
                "owner=nosuchuser: no user \"nosuchuser\" on this machine; create it, or use a number"
                    .to_owned(),
            ),
        ] {
            assert_eq!(error(text), format!("--port {text}: {problem}"));
        }
    }

    #[test]
    fn vlan_limit_and_local_need_no_new_driver() {
        let old = parse("h=tap:t0,vlan=5,mac-limit=1");
        assert!(old.is_same_driver(&parse("h=tap:t0,trunks=7,local=on")));
        for other in [
            "h=tap:t1",
            "h=tap:t0,mtu=1400",
            "h=tap:t0,queues=2",
            "h=tap:t0,tso=off",
            "h=tap:t0,trace=t",
            "g=tap:t0",
        ] {
            assert!(!old.is_same_driver(&parse(other)), "{other}");
        }
    }

    #[test]
    fn long_socket_paths_are_refused() {
        let path = format!("/{}", "x".repeat(MAX_SOCKET_PATH_BYTES));
        let text = format!("v=vhost-user:{path}");
        assert!(error(&text).ends_with("the socket's path has 108 bytes; use one of at most 107"));
        parse(&format!("v=vhost-user:{}", &path[1..]));
    }
}
