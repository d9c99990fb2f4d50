//! Requests from a client, bounded in length and time.
//!
//! A short line takes memory that every client may have. Once a line is longer than that it needs a place for a whole one,
//! of which there are few for all clients; until one is free nothing more is read from this client, which waits in its
//! write.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::budget::{Budget, Share};
use super::protocol::{ErrorKind, RequestError};
use super::server::{Limits, Seat};

/// Bytes of a line that every client may have whatever the others do.
const FREE_BYTES: usize = 64 * 1024;

/// Lines from a client.
pub(super) struct Lines<'a> {
    stream: &'a UnixStream,
    limits: Limits,
    places: &'a Budget,
    seat: &'a Seat,
    /// Bytes received and not yet returned.
    buffer: Vec<u8>,
    /// Leading bytes of `buffer` known to hold no newline.
    scanned: usize,
    /// The place of a line longer than [`FREE_BYTES`].
    place: Option<Share<'a>>,
}

/// What comes next from a client.
pub(super) enum Next<'a> {
    /// A line.
    Line(Line<'a>),
    /// A line that is not taken. What is left of it has not been read.
    Refused(RequestError),
    /// Nothing more.
    End,
}

/// A line without its newline, and the place it takes.
pub(super) struct Line<'a> {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    _place: Option<Share<'a>>,
}

impl<'a> Lines<'a> {
    /// Lines from `stream`; long ones take their place in `places`.
    pub(super) fn new(stream: &'a UnixStream, limits: Limits, places: &'a Budget, seat: &'a Seat) -> Self {
        Self { stream, limits, places, seat, buffer: Vec::new(), scanned: 0, place: None }
    }

    /// The next line.
    ///
    /// # Errors
    /// The connection failed, or the line was not whole in time.
    pub(super) fn next(&mut self) -> io::Result<Next<'a>> {
        let mut deadline = (!self.buffer.is_empty()).then(|| Instant::now() + self.limits.patience);
        // Bound: each round takes at least one byte, and the longest line ends it.
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(self.scanned + at + 1);
                let mut bytes = std::mem::replace(&mut self.buffer, rest);
                bytes.pop();
                self.scanned = 0;
                self.seat.set_sending(false);
                return Ok(Next::Line(Line { bytes, _place: self.place.take() }));
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > self.limits.line_bytes {
                return Ok(Next::Refused(self.too_long()));
            }
            if self.buffer.len() > FREE_BYTES && self.place.is_none() {
                let asked = Instant::now();
                self.seat.set_sending(true);
                self.place = self.places.take(self.limits.line_bytes, self.limits.turn, &self.seat.is_out);
                if self.place.is_none() {
                    return Ok(Next::Refused(busy()));
                }
                // The client could not send meanwhile.
                deadline = deadline.map(|deadline| deadline + asked.elapsed());
            }
            if self.receive(deadline)? == 0 {
                return Ok(Next::End);
            }
            deadline.get_or_insert_with(|| Instant::now() + self.limits.patience);
        }
    }

    /// Whether a line has begun or the client has gone.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) fn has_input(&self) -> io::Result<bool> {
        if !self.buffer.is_empty() {
            return Ok(true);
        }
        match recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
            Ok(_) => Ok(true),
        }
    }

    fn too_long(&self) -> RequestError {
        let limit = self.limits.line_bytes;
        RequestError::new(
            ErrorKind::InvalidRequest,
            format!("line longer than {limit} bytes; send one request a line, and a large one in parts"),
        )
    }

    fn receive(&mut self, deadline: Option<Instant>) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let count = read(self.stream, &mut chunk, deadline)?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }
}

/// The answer to a client whose turn did not come.
pub(super) fn busy() -> RequestError {
    RequestError::new(
        ErrorKind::Busy,
        "large requests of other clients take all the memory that requests may take; try again",
    )
}

/// Reads what `stream` has and forgets it, until its end, or for `patience`: a client that is refused in the middle of its
/// sending looks for the reason only when it has sent everything.
pub(super) fn discard(stream: &UnixStream, patience: Duration) {
    let deadline = Instant::now() + patience;
    let mut chunk = [0; 16 * 1024];
    // Bound: the deadline.
    while read(stream, &mut chunk, Some(deadline)).is_ok_and(|count| count > 0) {}
}

fn read(mut stream: &UnixStream, chunk: &mut [u8], deadline: Option<Instant>) -> io::Result<usize> {
    stream.set_read_timeout(deadline.map(time_left).transpose()?)?;
    // Bound: a signal in each round; they are few.
    loop {
        match stream.read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            result => return result,
        }
    }
}

/// Time until `deadline`, or an error after it.
fn time_left(deadline: Instant) -> io::Result<Duration> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}
