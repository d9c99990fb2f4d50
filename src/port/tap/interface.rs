//! TAP interfaces: the host itself as a neighbour on the switch.
//!
//! A TAP interface is an ordinary network interface to the host, whose wire is a descriptor that we read and write.
//! This file opens one, by making it or by attaching to a persistent one, and sets it up; `queue.rs` then moves
//! packets. It is called by whoever adds a port, on a control thread.
//!
//! With several queues the kernel spreads flows over them by hash and remembers, for each flow, the queue that we
//! last wrote it to. An interface that we made vanishes when the last of its queues is dropped; a persistent one
//! stays.
//!
//! What is left to the operator: addresses, routes and bridges on the host's side (`ip addr add ... dev NAME`).
//!
//! Read first: Documentation/networking/tuntap.rst in Linux.

#![allow(unsafe_code, reason = "interfaces are set up by ioctl")]

use std::ffi::{c_int, c_short, c_uint};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;

use thiserror::Error;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};

use super::queue::TapQueue;
use crate::port::vnet_header;

const TUN_DEVICE: &str = "/dev/net/tun";

/// Largest number of queues of an interface, a limit of Linux.
pub const MAX_QUEUES: u16 = 256;

/// Smallest and largest MTU of a TAP interface, limits of Linux: IPv4's least, and 65 535 less the Ethernet header.
pub(super) const MIN_MTU: u32 = 68;
pub(super) const MAX_MTU: u32 = 65_521;

/// Longest interface name in bytes, a limit of Linux.
pub const MAX_NAME_LEN: usize = libc::IFNAMSIZ - 1;

/// What to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapConfig {
    /// The interface's name; one `%d` in it stands for the first free number.
    pub name: String,
    /// Number of queues, `1..=MAX_QUEUES`.
    pub queues: u16,
    /// Whether checksums and TCP and UDP segmentation are left to the far end, in both directions.
    pub offload: bool,
    /// The MTU to set, if not the one that the interface has.
    pub mtu: Option<u32>,
}

impl TapConfig {
    /// An interface with one queue, offloads, and the kernel's default MTU.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), queues: 1, offload: true, mtu: None }
    }
}

/// Why a TAP interface could not be opened.
#[derive(Debug, Error)]
pub enum TapError {
    /// The name is none that Linux gives to interfaces.
    #[error("tap: `{name}` is not an interface name: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The number of queues is out of range.
    #[error("tap {name}: {queues} queues; choose 1 to {MAX_QUEUES}")]
    BadQueueCount {
        /// The interface.
        name: String,
        /// The number asked for.
        queues: u16,
    },
    /// The kernel has no TUN/TAP driver, or its device file is missing.
    #[error(
        "tap {name}: {TUN_DEVICE} is missing; load the driver with `modprobe tun`, or pass the device into the container"
    )]
    NoDriver {
        /// The interface.
        name: String,
        /// What opening the device file said.
        source: io::Error,
    },
    /// The process or the system has no descriptors left.
    #[error("tap {name}: {source}; raise the limit of open files (LimitNOFILE= of systemd, ulimit -n)")]
    NoDescriptors {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// We may not open the device file, make the interface or attach to it.
    #[error(
        "tap {name}: needs CAP_NET_ADMIN; run as root, or make it beforehand with \
         `ip tuntap add dev {name} mode tap user USER{multi_queue}`"
    )]
    NotPermitted {
        /// The interface.
        name: String,
        /// The words that `ip tuntap` needs for several queues.
        multi_queue: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process has the interface open.
    #[error(
        "tap {name}: in use by another process (`grep -lw 'iff:.{name}' /proc/*/fdinfo/*` shows which); end it or choose \
         another name"
    )]
    InUse {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An interface of that name exists and is not what was asked for.
    #[error(
        "tap {name}: an interface of that name exists and is not a TAP with {wanted}; choose another name, or remove \
         it with `ip link del {name}`"
    )]
    WrongKind {
        /// The interface.
        name: String,
        /// How its queues would have to be.
        wanted: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The MTU was refused.
    #[error("tap {name}: MTU {mtu} refused ({source}); choose {MIN_MTU} to {MAX_MTU}")]
    BadMtu {
        /// The interface.
        name: String,
        /// The MTU.
        mtu: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface has another MTU, and we may not set it.
    #[error(
        "tap {name}: may not set the MTU {mtu} ({source}); run as root, or set it beforehand with \
         `ip link set {name} mtu {mtu}`"
    )]
    OtherMtu {
        /// The interface.
        name: String,
        /// The MTU.
        mtu: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface is down, and we may not bring it up.
    #[error(
        "tap {name}: may not bring the interface up ({source}); run as root, or do it beforehand with \
         `ip link set {name} up`"
    )]
    NotUp {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A step of setting up failed for a reason without advice.
    #[error("tap {name}: cannot {step}: {source}")]
    Setup {
        /// The interface.
        name: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An open TAP interface that is up.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<TapQueue>,
    checksum: bool,
    tso: bool,
    uso: bool,
}

impl Tap {
    /// Makes the interface, or attaches to it if it exists, and brings it up.
    ///
    /// # Errors
    /// What the operator can do about it.
    pub fn open(config: &TapConfig) -> Result<Self, TapError> {
        check_config(config)?;
        let multi_queue = config.queues > 1;
        let (first, name) = open_queue(&config.name, multi_queue)?;
        let uso = set_up_frames(&first, &name, config.offload)?;
        let mut queues = vec![TapQueue::new(OwnedFd::from(first))];
        for _ in 1..config.queues {
            let (file, _) = open_queue(&name, multi_queue)?;
            queues.push(TapQueue::new(OwnedFd::from(file)));
        }
        set_up_interface(&name, config.mtu)?;
        Ok(Self { name, queues, checksum: config.offload, tso: config.offload, uso })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether frames may be transmitted with a partial checksum.
    pub fn checksum(&self) -> bool {
        self.checksum
    }

    /// Whether TCP frames may be transmitted unsegmented, over IPv4 and IPv6, with and without ECN.
    pub fn tso(&self) -> bool {
        self.tso
    }

    /// Whether UDP frames may be transmitted unsegmented, over IPv4 and IPv6: where offloads are left to the host at all, and its
    /// kernel is Linux 6.2 or later.
    pub fn uso(&self) -> bool {
        self.uso
    }

    /// The queues, each to be received from by one worker.
    pub fn into_queues(self) -> Vec<TapQueue> {
        self.queues
    }
}

/// Refuses names and numbers of queues that no interface has.
pub(super) fn check_config(config: &TapConfig) -> Result<(), TapError> {
    check_name(&config.name)?;
    match (1..=MAX_QUEUES).contains(&config.queues) {
        true => Ok(()),
        false => Err(TapError::BadQueueCount { name: config.name.clone(), queues: config.queues }),
    }
}

/// Refuses what Linux would refuse, with the rule that it does not tell.
pub(super) fn check_name(name: &str) -> Result<(), TapError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME_LEN {
        "it has more than 15 bytes"
    } else if name == "." || name == ".." {
        "it would be a path"
    } else if name.contains(['/', ':', '\0']) || name.contains(|c: char| c.is_whitespace()) {
        "`/`, `:` and white space are not allowed"
    } else if name.replacen("%d", "", 1).contains('%') {
        "`%` is only allowed as one `%d`"
    } else {
        return Ok(());
    };
    Err(TapError::BadName { name: name.to_owned(), reason })
}

/// Opens the device file, which belongs to no interface yet.
pub(super) fn open_device(name: &str, multi_queue: bool) -> Result<File, TapError> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN_DEVICE);
    opened.map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            TapError::NoDriver { name: name.to_owned(), source }
        }
        Some(libc::EACCES | libc::EPERM) => not_permitted(name, multi_queue, source),
        Some(libc::EMFILE | libc::ENFILE) => TapError::NoDescriptors { name: name.to_owned(), source },
        _ => TapError::Setup { name: name.to_owned(), step: "open /dev/net/tun", source },
    })
}

pub(super) fn not_permitted(name: &str, multi_queue: bool, source: io::Error) -> TapError {
    let multi_queue = if multi_queue { " multi_queue" } else { "" };
    TapError::NotPermitted { name: name.to_owned(), multi_queue, source }
}

pub(super) fn wrong_kind(name: &str, multi_queue: bool, source: io::Error) -> TapError {
    let wanted = if multi_queue { "several queues (`multi_queue`)" } else { "a single queue" };
    TapError::WrongKind { name: name.to_owned(), wanted, source }
}

/// Opens a queue of the interface and says what the interface is called.
fn open_queue(name: &str, multi_queue: bool) -> Result<(File, String), TapError> {
    let owned_name = || name.to_owned();
    let file = open_device(name, multi_queue)?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = interface_request(name);
    #[allow(clippy::cast_possible_truncation, reason = "the flags are below 0x8000")]
    {
        request.ifr_ifru.ifru_flags = flags as c_short;
    }
    // SAFETY: TUNSETIFF reads and writes an ifreq, which `request` is, and keeps no pointer to it.
    let result = unsafe { ioctl_with_mut_ref(&file, libc::TUNSETIFF, &mut request) };
    checked(result).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => not_permitted(name, multi_queue, source),
        Some(libc::EBUSY) => TapError::InUse { name: owned_name(), source },
        Some(libc::EINVAL) => wrong_kind(name, multi_queue, source),
        _ => TapError::Setup { name: owned_name(), step: "make the interface", source },
    })?;
    Ok((file, interface_name(&request)))
}

/// Sets how frames are laid out on all queues, and which offloads the host may leave to us. Says whether UDP segmentation is
/// one of them.
fn set_up_frames(file: &File, name: &str, offload: bool) -> Result<bool, TapError> {
    let error = |step| move |source| TapError::Setup { name: name.to_owned(), step, source };

    // A persistent interface keeps what an earlier owner set, so each is set even where it is the kernel's default.
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a small constant")]
    let header_len = vnet_header::LEN as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads an int and keeps no pointer to it.
    let result = unsafe { ioctl_with_ref(file, libc::TUNSETVNETHDRSZ, &header_len) };
    checked(result).map_err(error("set the length of the virtio-net header"))?;

    let little_endian: c_int = 0;
    // SAFETY: TUNSETVNETLE reads an int and keeps no pointer to it.
    let result = unsafe { ioctl_with_ref(file, libc::TUNSETVNETLE, &little_endian) };
    checked(result).map_err(error("set the byte order of the virtio-net header"))?;

    if !offload {
        return set_offloads(file, 0).map(|()| false).map_err(error("set offloads"));
    }
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    match set_offloads(file, tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6) {
        Ok(()) => Ok(true),
        // An older kernel refuses the whole set for a bit that it does not know.
        Err(refused) if refused.raw_os_error() == Some(libc::EINVAL) => {
            set_offloads(file, tcp).map(|()| false).map_err(error("set offloads"))
        }
        Err(other) => Err(error("set offloads")(other)),
    }
}

/// Says which frames the host may hand to us unfinished.
fn set_offloads(file: &File, offloads: c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    checked(unsafe { ioctl_with_val(file, libc::TUNSETOFFLOAD, offloads.into()) })
}

/// Sets the MTU and brings the interface up, where it is not so already: the user that a persistent interface was
/// made for may attach to it, but not change it.
fn set_up_interface(name: &str, mtu: Option<u32>) -> Result<(), TapError> {
    let error = |step| move |source| TapError::Setup { name: name.to_owned(), step, source };
    let socket = UnixDatagram::unbound().map_err(error("open a socket for interface settings"))?;
    let mut request = interface_request(name);

    if let Some(mtu) = mtu {
        let refused = |source| TapError::BadMtu { name: name.to_owned(), mtu, source };
        let wanted = c_int::try_from(mtu).map_err(|_| refused(io::Error::from_raw_os_error(libc::EINVAL)))?;
        // SAFETY: SIOCGIFMTU reads and writes an ifreq and keeps no pointer to it.
        let result = unsafe { ioctl_with_mut_ref(&socket, libc::SIOCGIFMTU, &mut request) };
        checked(result).map_err(error("read the MTU"))?;
        // SAFETY: SIOCGIFMTU has just written this member.
        if unsafe { request.ifr_ifru.ifru_mtu } != wanted {
            request.ifr_ifru.ifru_mtu = wanted;
            // SAFETY: SIOCSIFMTU reads an ifreq and keeps no pointer to it.
            let result = unsafe { ioctl_with_ref(&socket, libc::SIOCSIFMTU, &request) };
            checked(result).map_err(|source| match source.raw_os_error() {
                Some(libc::EINVAL) => refused(source),
                Some(libc::EPERM) => TapError::OtherMtu { name: name.to_owned(), mtu, source },
                _ => error("set the MTU")(source),
            })?;
        }
    }

    // SAFETY: SIOCGIFFLAGS reads and writes an ifreq and keeps no pointer to it.
    let result = unsafe { ioctl_with_mut_ref(&socket, libc::SIOCGIFFLAGS, &mut request) };
    checked(result).map_err(error("read the interface's flags"))?;
    #[allow(clippy::cast_possible_truncation, reason = "IFF_UP is 1")]
    let up = libc::IFF_UP as c_short;
    // SAFETY: SIOCGIFFLAGS has just written this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    if flags & up == 0 {
        request.ifr_ifru.ifru_flags = flags | up;
        // SAFETY: SIOCSIFFLAGS reads an ifreq and keeps no pointer to it.
        let result = unsafe { ioctl_with_ref(&socket, libc::SIOCSIFFLAGS, &request) };
        checked(result).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => TapError::NotUp { name: name.to_owned(), source },
            _ => error("bring the interface up")(source),
        })?;
    }
    Ok(())
}

/// The number of the interface `name`; `None` if there is none in our network namespace.
pub(super) fn index_of(name: &str) -> Result<Option<i32>, TapError> {
    let error = |step| move |source| TapError::Setup { name: name.to_owned(), step, source };
    let socket = UnixDatagram::unbound().map_err(error("open a socket for interface settings"))?;
    let mut request = interface_request(name);
    // SAFETY: SIOCGIFINDEX reads and writes an ifreq and keeps no pointer to it.
    let result = unsafe { ioctl_with_mut_ref(&socket, libc::SIOCGIFINDEX, &mut request) };
    match checked(result) {
        // SAFETY: SIOCGIFINDEX has just written this member.
        Ok(()) => Ok(Some(unsafe { request.ifr_ifru.ifru_ifindex })),
        Err(source) if source.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(source) => Err(error("look for the interface")(source)),
    }
}

/// A request about the interface `name`, which has passed [`check_name`] or came from the kernel.
fn interface_request(name: &str) -> libc::ifreq {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name[..MAX_NAME_LEN].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_newname: [0; libc::IFNAMSIZ] };
    libc::ifreq { ifr_name, ifr_ifru }
}

/// The name that the kernel wrote into a request.
fn interface_name(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|c| c.cast_unsigned()).take_while(|&b| b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The result of an ioctl, with its errno.
fn checked(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
