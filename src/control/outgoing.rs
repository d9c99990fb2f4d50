//! Replies to a client, which has to take them.
//!
//! A reply may be longer than anybody's patience for a fixed time, and may be made only while it is sent. What counts is
//! the time for which the client lets the server wait: it has a credit of that, which grows with what it takes.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Bytes a second that a client must take in the long run.
const LEAST_RATE: u64 = 1024 * 1024;

/// The way to a client.
pub(super) struct Outgoing<'a> {
    stream: &'a UnixStream,
    credit: Credit,
}

/// How long a client may keep us waiting.
#[derive(Debug)]
struct Credit {
    left: Duration,
    most: Duration,
}

impl Credit {
    fn new(most: Duration) -> Self {
        Self { left: most, most }
    }

    /// Notes that the client took `bytes` after it had kept us waiting for `waited`.
    fn took(&mut self, bytes: usize, waited: Duration) {
        let earned = Duration::from_micros(bytes as u64 * 1_000_000 / LEAST_RATE);
        self.left = (self.left.saturating_sub(waited) + earned).min(self.most);
    }
}

impl<'a> Outgoing<'a> {
    /// The way to the client at `stream`, which may keep us waiting for `patience` at one time.
    pub(super) fn new(stream: &'a UnixStream, patience: Duration) -> Self {
        Self { stream, credit: Credit::new(patience) }
    }
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.credit.left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_write_timeout(Some(self.credit.left))?;
        let begun = Instant::now();
        let sent = self.stream.write(bytes);
        self.credit.took(*sent.as_ref().unwrap_or(&0), begun.elapsed());
        sent
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_of_a_client_that_takes_much_may_add_up() {
        let mut credit = Credit::new(Duration::from_secs(5));
        for _ in 0..100 {
            credit.took(1024 * 1024, Duration::from_secs(1));
            assert_eq!(credit.left, Duration::from_secs(5));
        }
        credit.took(0, Duration::from_secs(4));
        assert_eq!(credit.left, Duration::from_secs(1));
        credit.took(64, Duration::from_secs(1));
        assert!(credit.left < Duration::from_millis(1), "little earns little");
        credit.took(0, Duration::from_secs(9));
        assert_eq!(credit.left, Duration::ZERO);
    }

    #[test]
    fn client_that_takes_nothing_is_given_up() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut out = Outgoing::new(&ours, Duration::from_millis(50));
        let error = out.write_all(&vec![0; 16 * 1024 * 1024]).unwrap_err();
        let is_over = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        assert!(is_over, "{error}");
    }
}
