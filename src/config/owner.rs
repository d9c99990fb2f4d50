//! Path, owner and mode of socket files, as an address, `owner=USER[:GROUP]` and `perm=0660` give them.
//!
//! Names are looked up when the option is read, so that a missing user is an error at start and not when a guest
//! connects.

use std::fmt;

use nix::unistd::{Group, User};

use super::error::Problem;

/// Longest path of a unix socket, in bytes: `sun_path` less its final zero.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Refuses paths that no unix socket can have.
pub(crate) fn check_socket_path(path: &str) -> Result<(), Problem> {
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

/// Who owns a socket file; what is `None` stays as it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// Numeric user.
    pub uid: Option<u32>,
    /// Numeric group.
    pub gid: Option<u32>,
}

impl Owner {
    /// Reads `USER`, `USER:GROUP` or `:GROUP`, each a name or a number.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if text.is_empty() || group == Some("") {
            return Err("names nobody; write USER, USER:GROUP or :GROUP".into());
        }
        let uid = (!user.is_empty()).then(|| resolve("user", user, lookup_user)).transpose()?;
        let gid = group.map(|group| resolve("group", group, lookup_group)).transpose()?;
        Ok(Self { uid, gid })
    }
}

impl fmt::Display for Owner {
    /// As `owner=` takes it, in numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uid.map_or(Ok(()), |uid| write!(f, "{uid}"))?;
        self.gid.map_or(Ok(()), |gid| write!(f, ":{gid}"))
    }
}

fn lookup_user(name: &str) -> nix::Result<Option<u32>> {
    Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
}

fn lookup_group(name: &str) -> nix::Result<Option<u32>> {
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

fn resolve(what: &str, name: &str, lookup: fn(&str) -> nix::Result<Option<u32>>) -> Result<u32, Problem> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match lookup(name) {
        Ok(Some(number)) => Ok(number),
        Ok(None) => Err(format!("no {what} {name:?} on this machine; create it, or use a number").into()),
        Err(errno) => Err(format!("looking up {what} {name:?} failed: {errno}; use a number").into()),
    }
}

/// Reads permission bits as `chmod` takes them.
pub(crate) fn parse_perm(text: &str) -> Result<u32, Problem> {
    match u32::from_str_radix(text, 8) {
        Ok(perm) if perm <= 0o777 && perm & 0o600 == 0o600 => Ok(perm),
        _ => Err(format!("{text:?} is no usable mode; write octal digits such as 0660 or 0600").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_resolved() {
        let owner = |uid, gid| Ok(Owner { uid, gid });
        assert_eq!(Owner::parse("root"), owner(Some(0), None));
        assert_eq!(Owner::parse("root:root"), owner(Some(0), Some(0)));
        assert_eq!(Owner::parse("1000:107"), owner(Some(1000), Some(107)));
        assert_eq!(Owner::parse(":107"), owner(None, Some(107)));
    }

    #[test]
    fn unknown_names_say_so() {
        let error = |text| Owner::parse(text).unwrap_err().to_string();
        assert_eq!(error("nosuchuser"), "no user \"nosuchuser\" on this machine; create it, or use a number");
        assert_eq!(
            error("root:nosuchgroup"),
            "no group \"nosuchgroup\" on this machine; create it, or use a number"
        );
        assert_eq!(error("root:"), "names nobody; write USER, USER:GROUP or :GROUP");
    }

    #[test]
    fn modes_are_octal_and_leave_the_owner_in() {
        assert_eq!(parse_perm("0660"), Ok(0o660));
        assert_eq!(parse_perm("666"), Ok(0o666));
        for bad in ["0880", "066", "7777", "rw-rw----", ""] {
            assert!(parse_perm(bad).is_err(), "{bad}");
        }
    }
}
