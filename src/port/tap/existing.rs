//! Whether an interface could be opened, without opening it.
//!
//! Attaching to an interface changes its carrier, which others on the host act on, and making one tells the whole system of
//! it. So this only looks: at the device file, at our rights, and at what `/sys/class/net` says of an interface that exists.
//! Where that shows the interfaces of another network namespace than ours, an interface that exists is not judged: opening it
//! tells.
//!
//! # Source
//! Linux, drivers/net/tun.c: `tun_set_iff`, `tun_not_capable`, `tun_attach`.

use std::fs;
use std::io;
use std::path::Path;

use nix::unistd::{getegid, geteuid, getgroups};

use super::interface::{
    MAX_MTU, MIN_MTU, TapConfig, TapError, check_config, index_of, not_permitted, open_device, wrong_kind,
};

/// `CAP_NET_ADMIN` as a bit of a set of capabilities.
const NET_ADMIN: u64 = 1 << 12;

/// An interface that exists, as `/sys/class/net` shows it.
#[derive(Debug, Default)]
struct Existing {
    /// Its `IFF_` flags as a TUN or TAP interface; `None` if it is neither.
    tun_flags: Option<i32>,
    /// The user that may attach to it; `None` if that is anybody.
    owner: Option<u32>,
    /// The group that may.
    group: Option<u32>,
    mtu: Option<u32>,
    is_up: bool,
    /// Whether a process is attached to it. An interface that is down does not tell.
    has_carrier: bool,
}

/// Finds what would keep [`Tap::open`](super::interface::Tap::open) from succeeding now, and changes nothing.
pub(super) fn check(config: &TapConfig) -> Result<(), TapError> {
    check_config(config)?;
    open_device(&config.name, config.queues > 1)?;
    if let Some(mtu) = config.mtu.filter(|mtu| !(MIN_MTU..=MAX_MTU).contains(mtu)) {
        let source = io::Error::from_raw_os_error(libc::EINVAL);
        return Err(TapError::BadMtu { name: config.name.clone(), mtu, source });
    }
    let index = index_of(&config.name)?;
    match index {
        None if is_admin() => Ok(()),
        None => Err(not_permitted(&config.name, config.queues > 1, denied())),
        Some(index) => match Existing::look(&config.name, index) {
            Some(existing) => existing.check(config),
            None => Ok(()),
        },
    }
}

impl Existing {
    /// The interface `name`, if `/sys` shows the one that has this index.
    fn look(name: &str, index: i32) -> Option<Self> {
        let folder = Path::new("/sys/class/net").join(name);
        let text = |file: &str| Some(fs::read_to_string(folder.join(file)).ok()?.trim().to_owned());
        let hex = |file: &str| i32::from_str_radix(text(file)?.strip_prefix("0x")?, 16).ok();
        if text("ifindex")?.parse() != Ok(index) {
            return None;
        }
        Some(Self {
            tun_flags: hex("tun_flags"),
            // -1 is nobody in particular.
            owner: text("owner").and_then(|id| id.parse().ok()),
            group: text("group").and_then(|id| id.parse().ok()),
            mtu: text("mtu").and_then(|mtu| mtu.parse().ok()),
            is_up: hex("flags").is_some_and(|flags| flags & libc::IFF_UP != 0),
            has_carrier: text("carrier").as_deref() == Some("1"),
        })
    }

    /// The questions that the kernel asks, in its order.
    fn check(&self, config: &TapConfig) -> Result<(), TapError> {
        let (name, multi_queue) = (&config.name, config.queues > 1);
        let is_fit = self.tun_flags.is_some_and(|flags| {
            flags & libc::IFF_TAP != 0 && (flags & libc::IFF_MULTI_QUEUE != 0) == multi_queue
        });
        if !is_fit {
            return Err(wrong_kind(name, multi_queue, io::Error::from_raw_os_error(libc::EINVAL)));
        }
        if !is_admin() && !self.is_ours() {
            return Err(not_permitted(name, multi_queue, denied()));
        }
        if self.has_carrier && !multi_queue {
            let source = io::Error::from_raw_os_error(libc::EBUSY);
            return Err(TapError::InUse { name: name.clone(), source });
        }
        let keeps_mtu = config.mtu.is_none() || self.mtu.is_none() || config.mtu == self.mtu;
        match is_admin() || (keeps_mtu && self.is_up) {
            true => Ok(()),
            false if keeps_mtu => Err(TapError::NotUp { name: name.clone(), source: denied() }),
            false => {
                let mtu = config.mtu.unwrap_or_default();
                Err(TapError::OtherMtu { name: name.clone(), mtu, source: denied() })
            }
        }
    }

    fn is_ours(&self) -> bool {
        let is_in = |group| {
            getegid().as_raw() == group
                || getgroups().is_ok_and(|groups| groups.iter().any(|id| id.as_raw() == group))
        };
        self.owner.is_none_or(|owner| owner == geteuid().as_raw()) && self.group.is_none_or(is_in)
    }
}

fn denied() -> io::Error {
    io::Error::from_raw_os_error(libc::EPERM)
}

/// Whether this process may make and change interfaces. A process that cannot tell finds out when it tries.
fn is_admin() -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return true };
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_none_or(|set| set & NET_ADMIN != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(flags: i32) -> Existing {
        Existing { tun_flags: Some(libc::IFF_TAP | flags), is_up: true, ..Existing::default() }
    }

    fn config(queues: u16) -> TapConfig {
        TapConfig { queues, ..TapConfig::new("t0") }
    }

    #[test]
    fn interfaces_of_another_kind_and_those_in_use_are_told_apart() {
        tap(0).check(&config(1)).unwrap();
        tap(libc::IFF_MULTI_QUEUE).check(&config(2)).unwrap();
        let other = Existing { tun_flags: None, is_up: true, ..Existing::default() };
        let tun = Existing { tun_flags: Some(libc::IFF_TUN), is_up: true, ..Existing::default() };
        for (existing, queues) in [(other, 1), (tun, 1), (tap(0), 2), (tap(libc::IFF_MULTI_QUEUE), 1)] {
            let error = existing.check(&config(queues)).unwrap_err();
            assert!(matches!(error, TapError::WrongKind { .. }), "{error}");
        }
        let busy = Existing { has_carrier: true, ..tap(0) };
        assert!(matches!(busy.check(&config(1)).unwrap_err(), TapError::InUse { .. }));
        // More processes may have queues of such an interface.
        let shared = Existing { has_carrier: true, ..tap(libc::IFF_MULTI_QUEUE) };
        shared.check(&config(2)).unwrap();
    }

    #[test]
    fn mtu_that_no_interface_has_is_found() {
        let config = TapConfig { mtu: Some(MAX_MTU + 1), ..config(1) };
        match check(&config) {
            Err(TapError::BadMtu { mtu, .. }) => assert_eq!(mtu, MAX_MTU + 1),
            // Without the device that is found first.
            Err(TapError::NoDriver { .. } | TapError::NotPermitted { .. }) => (),
            other => panic!("{other:?}"),
        }
    }
}
