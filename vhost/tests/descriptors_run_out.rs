//! A process that has no descriptors left: a front-end that comes then is turned away, the next one is served. The only test
//! of its process, whose limit it lowers.

#![allow(unsafe_code, reason = "limits are set by a system call")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::io::Read;
use std::os::unix::net::UnixStream;

use common::*;

fn limit() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit
}

fn set_limit(limit: libc::rlimit) {
    // SAFETY: setrlimit reads one rlimit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

#[test]
fn front_end_that_comes_without_descriptors_left_is_turned_away_and_the_next_is_served() {
    let mut host = Host::new();
    serves_the_next(&mut host);
    let before = limit();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    // One for the client's side, one for ours, and then no more.
    for spare in 1..8 {
        set_limit(libc::rlimit { rlim_cur: (open + spare) as u64, ..before });
        let Ok(mut client) = UnixStream::connect(&host.path) else { continue };
        client.set_read_timeout(Some(PATIENCE / 20)).unwrap();
        // Turned away, left waiting in the backlog, or served: whatever it is, it must not be the last.
        let _ = client.read(&mut [0]);
        drop(client);
        set_limit(before);
        wait_until("the session ends", || !host.port.status().connected);
        serves_the_next(&mut host);
    }
}
