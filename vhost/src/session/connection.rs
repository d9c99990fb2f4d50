//! One front-end's socket: messages in, answers out, without ever waiting for either.
//!
//! A front-end that sends half a message, or reads no answers, holds up only itself: what it sent so far lies here, and so
//! do the answers that its socket does not take. Until they are gone, nothing more is read from it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::message::{HEADER_BYTES, Header, MAX_BODY_BYTES, Message, Refusal};
use super::protocol::{Answer, Conversation};
use super::socket::{self, Received};
use crate::net::port::VhostPort;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The front-end has gone.
    #[error("gone")]
    Gone,
    /// It sent what cannot be served.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl From<io::Error> for End {
    /// A socket that breaks is one whose other end has gone.
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// What there is to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Serve this.
    Message(Header, Result<Message, Refusal>),
    /// Wait for more.
    Wait,
    /// Wait for room for descriptors.
    NoRoom,
}

/// A front-end's connection.
pub(super) struct Connection {
    /// Its number, for as long as the port lives.
    pub(super) id: u64,
    socket: UnixStream,
    pub(super) conversation: Conversation,
    /// The message that is being received.
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    /// Answers that were not sent yet.
    unsent: Vec<u8>,
    /// A message that waits until the port is free.
    pub(super) held: Option<(Header, Message)>,
    /// Descriptors are waiting for which there was no room.
    pub(super) lacks_room: bool,
    /// Messages that were refused and answered so.
    pub(super) refused: u32,
}

impl Connection {
    pub(super) fn new(id: u64, socket: UnixStream, port: Arc<VhostPort>) -> Self {
        Self {
            id,
            socket,
            conversation: Conversation::new(port),
            bytes: Vec::new(),
            descriptors: Vec::new(),
            unsent: Vec::new(),
            held: None,
            lacks_room: false,
            refused: 0,
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the next message may be read.
    pub(super) fn wants_to_read(&self) -> bool {
        self.unsent.is_empty() && self.held.is_none() && !self.lacks_room
    }

    /// Whether answers wait to be sent.
    pub(super) fn wants_to_write(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The next message, as far as it is there.
    ///
    /// # Errors
    /// The front-end has gone, or what it sends is no message.
    pub(super) fn next(&mut self) -> Result<Next, End> {
        loop {
            let missing = self.missing()?;
            if missing == 0 {
                return Ok(self.take_message());
            }
            let mut bytes = [0; HEADER_BYTES + MAX_BODY_BYTES];
            match socket::receive(self.socket.as_fd(), &mut bytes[..missing], &mut self.descriptors)? {
                Received::Bytes(len) => self.bytes.extend_from_slice(&bytes[..len]),
                Received::Nothing => return Ok(Next::Wait),
                Received::End => return Err(End::Gone),
                Received::NoRoom => return Ok(Next::NoRoom),
                Received::Lost => return Err(Refusal::LostDescriptors.into()),
            }
        }
    }

    /// Bytes that the message, or its header, still lacks.
    fn missing(&self) -> Result<usize, Refusal> {
        let Some(header) = self.header() else { return Ok(HEADER_BYTES - self.bytes.len()) };
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        if len > MAX_BODY_BYTES {
            return Err(Refusal::TooLong { code: header.code, len: header.len });
        }
        Ok(HEADER_BYTES + len - self.bytes.len())
    }

    fn header(&self) -> Option<Header> {
        self.bytes.first_chunk().map(Header::of_bytes)
    }

    fn take_message(&mut self) -> Next {
        let bytes = std::mem::take(&mut self.bytes);
        let descriptors = std::mem::take(&mut self.descriptors);
        // PANICS: nothing is missing, so the header is there.
        let header = Header::of_bytes(bytes.first_chunk().expect("a header"));
        Next::Message(header, Message::new(header, bytes[HEADER_BYTES..].to_vec(), descriptors))
    }

    /// Answers the message with the header `header`, as far as it wants an answer.
    ///
    /// # Errors
    /// The front-end has gone.
    pub(super) fn answer(&mut self, header: Header, answer: &Answer) -> Result<(), End> {
        match answer {
            Answer::Body(body) => self.unsent.extend(header.reply(body)),
            Answer::Done if header.needs_reply() => {
                self.unsent.extend(header.reply(&0u64.to_ne_bytes()));
            }
            Answer::Done => return Ok(()),
        }
        self.flush()
    }

    /// Tells the front-end that its message was not served.
    ///
    /// # Errors
    /// The front-end has gone.
    pub(super) fn refuse(&mut self, header: Header) -> Result<(), End> {
        self.refused = self.refused.saturating_add(1);
        self.unsent.extend(header.reply(&1u64.to_ne_bytes()));
        self.flush()
    }

    /// Sends what can be sent.
    ///
    /// # Errors
    /// The front-end has gone.
    pub(super) fn flush(&mut self) -> Result<(), End> {
        let sent = socket::send_some(self.socket.as_fd(), &self.unsent)?;
        self.unsent.drain(..sent);
        Ok(())
    }
}
