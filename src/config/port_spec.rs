//! One port as the operator describes it: `NAME=TYPE:ADDRESS[,OPTION=VALUE...]`.
//!
//! The configuration file says the same with the same words, see `file.rs`; both feed `PortDraft`, which knows the
//! options and refuses combinations that mean nothing. A `PortSpec` displays as the text that parses to it, unless its
//! socket was inherited.

use std::fmt;
use std::path::PathBuf;

use vsteer_switch::wire::vlan::VlanId;

use super::error::{ConfigError, Problem};
use super::inherited_socket::InheritedSocket;
use super::owner::{Owner, parse_perm};
use super::vlan::{VlanSet, VlanSpec, parse_vlan};

/// Longest name of a port, in bytes.
pub const MAX_NAME_BYTES: usize = 15;
/// Largest number of queue pairs of a port.
pub const MAX_QUEUE_PAIRS: u16 = 128;
/// Addresses learned at a port unless `mac-limit` says otherwise.
pub const DEFAULT_MAC_LIMIT: u32 = 4096;
/// Longest path of a unix socket, in bytes: `sun_path` less its final zero.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

const MAX_MAC_LIMIT: u32 = 65_536;
const MIN_MTU: u16 = 68;
const VHOST_USER: &str = "vhost-user";
const TAP: &str = "tap";
const USE_TYPES: &str = "use vhost-user:PATH or tap:IFNAME";

/// A port that the switch shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Unique name: 1 to [`MAX_NAME_BYTES`] letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// What stands behind the port.
    pub kind: PortKind,
    /// VLAN membership.
    pub vlan: VlanSpec,
    /// Largest number of addresses learned at the port; 0 learns none.
    pub mac_limit: u32,
    /// Queue pairs offered, 1 to [`MAX_QUEUE_PAIRS`].
    pub queue_pairs: u16,
    /// Offloads that the port may use.
    pub offloads: Offloads,
    /// MTU told to the guest or set on the interface, 68 to 65535; `None` says nothing.
    pub mtu: Option<u16>,
    /// Whether rules mean this port by `LOCAL`; at most one port is.
    pub local: bool,
}

/// What stands behind a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortKind {
    /// A guest, reached over the vhost-user protocol.
    VhostUser(VhostUserSpec),
    /// A TAP interface of the host.
    Tap {
        /// Name of the interface; created when it does not exist.
        interface: String,
    },
}

/// How the front-end of a vhost-user port is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VhostUserSpec {
    /// We listen at a path and the front-end connects.
    Server {
        /// The socket file.
        path: PathBuf,
        /// Owner to give the file.
        owner: Owner,
        /// Permission bits to give the file; `None` leaves them to the umask.
        perm: Option<u32>,
    },
    /// The front-end listens at a path and we connect, again whenever the connection ends.
    Client {
        /// The front-end's socket file.
        path: PathBuf,
    },
    /// The program that started us opened the socket.
    Inherited(InheritedSocket),
}

/// Offloads that a port may use; what is off is neither offered to a guest nor asked of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Partial checksums.
    pub csum: bool,
    /// TCP frames larger than the MTU; implies `csum`.
    pub tso: bool,
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

    /// The port `name` on an inherited socket, with the comma-separated options `options`.
    pub(crate) fn inherited(name: &str, socket: InheritedSocket, options: &str) -> Result<Self, Problem> {
        let mut draft = PortDraft::new(name, KindWord::VhostUser)?;
        draft.socket = Some(socket);
        draft.set_words(options)?;
        draft.finish()
    }

    /// The port `name` on a vhost-user socket at `path`, with the comma-separated options `options`.
    pub(crate) fn vhost_user(name: &str, path: &str, options: &str) -> Result<Self, Problem> {
        let mut draft = PortDraft::new(name, KindWord::VhostUser)?;
        draft.set_address(path)?;
        draft.set_words(options)?;
        draft.finish()
    }

    /// Whether a port that is as `self` says can go on as `other` says without being opened again.
    pub fn is_same_driver(&self, other: &PortSpec) -> bool {
        let PortSpec { name, kind, vlan: _, mac_limit: _, queue_pairs, offloads, mtu, local: _ } = self;
        (name, kind, queue_pairs, offloads, mtu)
            == (&other.name, &other.kind, &other.queue_pairs, &other.offloads, &other.mtu)
    }

    /// The port's type in the operator's word.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            PortKind::VhostUser(_) => VHOST_USER,
            PortKind::Tap { .. } => TAP,
        }
    }

    /// What follows the type: a path, an interface, or `fd N`.
    pub fn address(&self) -> String {
        match &self.kind {
            PortKind::VhostUser(VhostUserSpec::Server { path, .. } | VhostUserSpec::Client { path }) => {
                path.display().to_string()
            }
            PortKind::VhostUser(VhostUserSpec::Inherited(socket)) => format!("fd {}", socket.number()),
            PortKind::Tap { interface } => interface.clone(),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:{}", self.name, self.type_name(), self.address())?;
        match &self.kind {
            PortKind::VhostUser(VhostUserSpec::Client { .. }) => f.write_str(",mode=client")?,
            PortKind::VhostUser(VhostUserSpec::Server { owner, perm, .. }) => {
                write_owner(f, owner)?;
                perm.map_or(Ok(()), |perm| write!(f, ",perm={perm:04o}"))?;
            }
            PortKind::VhostUser(VhostUserSpec::Inherited(_)) | PortKind::Tap { .. } => (),
        }
        match &self.vlan {
            VlanSpec::Access { vlan } => write!(f, ",vlan={vlan}")?,
            VlanSpec::Trunk { trunks, native } => {
                trunks.as_ref().map_or(Ok(()), |set| write!(f, ",trunks={set}"))?;
                native.map_or(Ok(()), |vlan| write!(f, ",native={vlan}"))?;
            }
        }
        write!(f, ",mac-limit={},queues={}", self.mac_limit, self.queue_pairs)?;
        write!(f, ",csum={},tso={}", on_off(self.offloads.csum), on_off(self.offloads.tso))?;
        self.mtu.map_or(Ok(()), |mtu| write!(f, ",mtu={mtu}"))?;
        f.write_str(if self.local { ",local=on" } else { "" })
    }
}

fn write_owner(f: &mut fmt::Formatter<'_>, owner: &Owner) -> fmt::Result {
    match (owner.uid, owner.gid) {
        (None, None) => Ok(()),
        (Some(uid), None) => write!(f, ",owner={uid}"),
        (None, Some(gid)) => write!(f, ",owner=:{gid}"),
        (Some(uid), Some(gid)) => write!(f, ",owner={uid}:{gid}"),
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// A port's type before its address is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KindWord {
    VhostUser,
    Tap,
}

impl KindWord {
    pub(super) fn parse(word: &str) -> Result<Self, Problem> {
        match word {
            VHOST_USER => Ok(KindWord::VhostUser),
            TAP => Ok(KindWord::Tap),
            _ => Err(format!("unknown port type {word:?}; {USE_TYPES}").into()),
        }
    }
}

/// Splits `TYPE:ADDRESS`.
fn parse_kind(word: &str) -> Result<(KindWord, &str), Problem> {
    match word.split_once(':') {
        Some((kind, address)) => Ok((KindWord::parse(kind)?, address)),
        None => Err(format!("no \":\" in {word:?}; {USE_TYPES}").into()),
    }
}

type Setter = fn(&mut PortDraft, &str) -> Result<(), Problem>;

/// Every option, with the reader of its value.
const OPTIONS: [(&str, Setter); 13] = [
    ("vlan", |draft, text| set_once(&mut draft.vlan, parse_vlan(text)?)),
    ("trunks", PortDraft::add_trunks),
    ("trunk", PortDraft::add_trunks),
    ("native", |draft, text| set_once(&mut draft.native, parse_vlan(text)?)),
    ("mac-limit", |draft, text| set_once(&mut draft.mac_limit, parse_number(text, 0, MAX_MAC_LIMIT)?)),
    ("queues", |draft, text| set_once(&mut draft.queue_pairs, parse_number(text, 1, MAX_QUEUE_PAIRS)?)),
    ("mode", |draft, text| set_once(&mut draft.client, parse_choice(text, ["server", "client"])?)),
    ("owner", |draft, text| set_once(&mut draft.owner, Owner::parse(text)?)),
    ("perm", |draft, text| set_once(&mut draft.perm, parse_perm(text)?)),
    ("csum", |draft, text| set_once(&mut draft.csum, parse_choice(text, ["off", "on"])?)),
    ("tso", |draft, text| set_once(&mut draft.tso, parse_choice(text, ["off", "on"])?)),
    ("mtu", |draft, text| set_once(&mut draft.mtu, parse_number(text, MIN_MTU, u16::MAX)?)),
    ("local", |draft, text| set_once(&mut draft.local, parse_choice(text, ["off", "on"])?)),
];

/// A port whose words are still being read.
#[derive(Debug)]
pub(super) struct PortDraft {
    name: String,
    kind: KindWord,
    address: Option<String>,
    socket: Option<InheritedSocket>,
    vlan: Option<VlanId>,
    trunks: Option<VlanSet>,
    native: Option<VlanId>,
    mac_limit: Option<u32>,
    queue_pairs: Option<u16>,
    client: Option<bool>,
    owner: Option<Owner>,
    perm: Option<u32>,
    csum: Option<bool>,
    tso: Option<bool>,
    mtu: Option<u16>,
    local: Option<bool>,
}

impl PortDraft {
    /// A port named `name` with nothing else said.
    pub(super) fn new(name: &str, kind: KindWord) -> Result<Self, Problem> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            kind,
            address: None,
            socket: None,
            vlan: None,
            trunks: None,
            native: None,
            mac_limit: None,
            queue_pairs: None,
            client: None,
            owner: None,
            perm: None,
            csum: None,
            tso: None,
            mtu: None,
            local: None,
        })
    }

    /// Sets what follows the type.
    pub(super) fn set_address(&mut self, address: &str) -> Result<(), Problem> {
        match self.kind {
            KindWord::VhostUser => check_socket_path(address)?,
            KindWord::Tap => check_interface(address)?,
        }
        set_once(&mut self.address, address.to_owned())
    }

    /// Sets the option `key` from the text `value`.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), Problem> {
        match OPTIONS.iter().find(|(name, _)| *name == key) {
            Some((_, setter)) => setter(self, value),
            None => Err(Problem::unknown("option", key, Self::option_names())),
        }
    }

    /// Names of all options.
    pub(super) fn option_names() -> impl Iterator<Item = &'static str> + Clone {
        OPTIONS.iter().map(|&(name, _)| name)
    }

    fn set_words(&mut self, words: &str) -> Result<(), Problem> {
        words.split(',').filter(|word| !word.is_empty()).try_for_each(|word| self.set_word(word))
    }

    /// Sets one `key=value`.
    fn set_word(&mut self, word: &str) -> Result<(), Problem> {
        let (key, value) =
            word.split_once('=').ok_or_else(|| format!("no \"=\" in option {word:?}; write OPTION=VALUE"))?;
        if !Self::option_names().any(|name| name == key) {
            return self.set(key, value);
        }
        self.set(key, value).map_err(|problem| problem.of(word))
    }

    fn add_trunks(&mut self, text: &str) -> Result<(), Problem> {
        self.trunks.get_or_insert_default().unite(VlanSet::parse(text)?);
        Ok(())
    }

    /// The port, if its words make sense together.
    pub(super) fn finish(mut self) -> Result<PortSpec, Problem> {
        let queue_pairs = self.queue_pairs.unwrap_or(match self.kind {
            KindWord::VhostUser => 16,
            KindWord::Tap => 1,
        });
        Ok(PortSpec {
            vlan: self.finish_vlan()?,
            offloads: self.finish_offloads()?,
            kind: self.finish_kind()?,
            name: self.name,
            mac_limit: self.mac_limit.unwrap_or(DEFAULT_MAC_LIMIT),
            queue_pairs,
            mtu: self.mtu,
            local: self.local.unwrap_or(false),
        })
    }

    fn finish_vlan(&mut self) -> Result<VlanSpec, Problem> {
        match (self.vlan, self.trunks.take(), self.native) {
            (Some(vlan), None, None) => Ok(VlanSpec::Access { vlan }),
            (Some(_), _, _) => Err(
                "vlan= makes an access port, trunks= and native= a trunk; for a trunk with untagged frames in a \
                 VLAN, use native= in place of vlan="
                    .into(),
            ),
            (None, trunks, native) => Ok(VlanSpec::Trunk { trunks, native }),
        }
    }

    fn finish_offloads(&self) -> Result<Offloads, Problem> {
        let csum = self.csum.unwrap_or(true);
        match self.tso {
            Some(true) if !csum => {
                Err("tso=on needs partial checksums; drop csum=off, or use tso=off".into())
            }
            tso => Ok(Offloads { csum, tso: tso.unwrap_or(csum) }),
        }
    }

    fn finish_kind(&mut self) -> Result<PortKind, Problem> {
        match self.kind {
            KindWord::VhostUser => self.finish_vhost_user().map(PortKind::VhostUser),
            KindWord::Tap => {
                self.refuse_socket_options("a tap port has no socket")?;
                let interface = self.address.take().ok_or("no interface; use interface = \"NAME\"")?;
                Ok(PortKind::Tap { interface })
            }
        }
    }

    fn finish_vhost_user(&mut self) -> Result<VhostUserSpec, Problem> {
        if let Some(socket) = self.socket.take() {
            self.refuse_socket_options("the socket was opened by the program that passed it")?;
            return Ok(VhostUserSpec::Inherited(socket));
        }
        let path = PathBuf::from(self.address.take().ok_or("no socket; use path = \"PATH\"")?);
        if self.client.take() == Some(true) {
            self.refuse_socket_options("with mode=client the socket file is the front-end's")?;
            return Ok(VhostUserSpec::Client { path });
        }
        Ok(VhostUserSpec::Server { path, owner: self.owner.unwrap_or_default(), perm: self.perm })
    }

    fn refuse_socket_options(&self, why: &str) -> Result<(), Problem> {
        let given =
            [("mode", self.client.is_some()), ("owner", self.owner.is_some()), ("perm", self.perm.is_some())];
        match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(format!("{why}; drop {option}=").into()),
            None => Ok(()),
        }
    }
}

pub(super) fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), Problem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("given twice; keep one".into()),
    }
}

fn parse_number<T>(text: &str, least: T, most: T) -> Result<T, Problem>
where
    T: std::str::FromStr + PartialOrd + fmt::Display + Copy,
{
    match text.parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("{text:?} is out of range; use a number from {least} to {most}").into()),
    }
}

/// Whether `text` is the second of two words.
fn parse_choice(text: &str, [no, yes]: [&str; 2]) -> Result<bool, Problem> {
    match text {
        _ if text == yes => Ok(true),
        _ if text == no => Ok(false),
        _ => Err(format!("unknown value {text:?}; use {yes} or {no}").into()),
    }
}

pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(format!("port name {name:?} does not fit; use 1 to {MAX_NAME_BYTES} of letters, digits, _ . and -")
        .into())
}

/// Refuses paths that no unix socket can have.
pub(super) fn check_socket_path(path: &str) -> Result<(), Problem> {
    match path.len() {
        0 => Err("the socket's path is empty; use vhost-user:PATH".into()),
        1..=MAX_SOCKET_PATH_BYTES if !path.contains('\0') => Ok(()),
        1..=MAX_SOCKET_PATH_BYTES => Err("the socket's path holds a zero byte; use another".into()),
        len => {
            Err(format!("the socket's path has {len} bytes; use one of at most {MAX_SOCKET_PATH_BYTES}")
                .into())
        }
    }
}

/// Refuses names that Linux gives no interface.
fn check_interface(name: &str) -> Result<(), Problem> {
    let fits = (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(format!("interface name {name:?} does not fit; use 1 to 15 characters without / : % and space")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> PortSpec {
        PortSpec::parse("--port", text).unwrap()
    }

    fn error(text: &str) -> String {
        PortSpec::parse("--port", text).unwrap_err().to_string()
    }

    #[test]
    fn defaults_of_a_guest_port() {
        let spec = parse("vm0=vhost-user:/run/vm0.sock");
        let server =
            VhostUserSpec::Server { path: "/run/vm0.sock".into(), owner: Owner::default(), perm: None };
        assert_eq!(
            spec,
            PortSpec {
                name: "vm0".into(),
                kind: PortKind::VhostUser(server),
                vlan: VlanSpec::Trunk { trunks: None, native: None },
                mac_limit: DEFAULT_MAC_LIMIT,
                queue_pairs: 16,
                offloads: Offloads { csum: true, tso: true },
                mtu: None,
                local: false,
            }
        );
    }

    #[test]
    fn defaults_of_a_tap_port() {
        let spec = parse("host=tap:vsteer0");
        assert_eq!(spec.kind, PortKind::Tap { interface: "vsteer0".into() });
        assert_eq!(spec.queue_pairs, 1);
    }

    #[test]
    fn every_option_is_read() {
        let spec = parse(
            "a.b-c_1=vhost-user:/s=1,owner=root:0,perm=0600,trunks=20-29+10,trunk=30,native=7,mac-limit=9,queues=128,\
             csum=off,mtu=9000,mode=server,local=on",
        );
        let owner = Owner { uid: Some(0), gid: Some(0) };
        let server = VhostUserSpec::Server { path: "/s=1".into(), owner, perm: Some(0o600) };
        assert_eq!(
            spec,
            PortSpec {
                name: "a.b-c_1".into(),
                kind: PortKind::VhostUser(server),
                vlan: VlanSpec::Trunk {
                    trunks: Some(VlanSet::parse("10+20-30").unwrap()),
                    native: VlanId::new(7)
                },
                mac_limit: 9,
                queue_pairs: 128,
                offloads: Offloads { csum: false, tso: false },
                mtu: Some(9000),
                local: true,
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
        let known =
            "vlan, trunks, trunk, native, mac-limit, queues, mode, owner, perm, csum, tso, mtu, local";
        for (text, problem) in [
            ("vm0", "no \"=\" after the port's name; write NAME=TYPE:ADDRESS[,OPTION=VALUE...]".to_owned()),
            (
                "vm0=vhost-usr:/x",
                "unknown port type \"vhost-usr\"; use vhost-user:PATH or tap:IFNAME".to_owned(),
            ),
            ("vm0=/x", "no \":\" in \"/x\"; use vhost-user:PATH or tap:IFNAME".to_owned()),
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
            ("h=tap:t,trunks=5-", "trunks=5-: \"\" is no VLAN; use a number from 1 to 4094".to_owned()),
            ("h=tap:t,vlan=1,vlan=2", "vlan=2: given twice; keep one".to_owned()),
            ("h=tap:t,vlan=1,native=2", not_access.to_owned()),
            ("h=tap:t,trunk=1,vlan=2", not_access.to_owned()),
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
            ("h=tap:t,mode=server", "a tap port has no socket; drop mode=".to_owned()),
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
        for other in ["h=tap:t1", "h=tap:t0,mtu=1400", "h=tap:t0,queues=2", "h=tap:t0,tso=off", "g=tap:t0"] {
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
