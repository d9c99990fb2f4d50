//! The control socket: how a running switch is asked and told.
//!
//! JSON-RPC 2.0, one JSON object per line, over a unix stream socket. What can be asked is not known here: the server hands
//! requests to a `Service`, which is `command` and the appliance behind it. Anybody who may open the socket may
//! reconfigure the switch, but must not be able to hold it up or to use up its memory; the server therefore bounds lines,
//! connections, patience, and the memory of all requests together.

/// The envelope: requests, replies and errors as they stand on the wire.
pub mod protocol;

/// Memory that requests may take, all clients together.
mod budget;

/// Requests from a client, bounded in length and time.
mod lines;

/// Replies to a client, which has to take them.
mod outgoing;

/// The socket's server side.
pub mod server;

/// The socket's client side.
pub mod client;

use std::fmt;
use std::io;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use self::protocol::RequestError;

/// What answers requests.
///
/// # Concurrency
/// Called from one thread per client, several at once.
pub trait Service: Send + Sync + 'static {
    /// Every method, for those who look for another one.
    fn methods(&self) -> Vec<&'static str>;

    /// The request for `method`, its parameters read and nothing carried out yet; `None` if there is no such method.
    ///
    /// # Errors
    /// The parameters make no sense.
    fn prepare(
        &self,
        method: &str,
        params: Option<&RawValue>,
    ) -> Option<Result<Box<dyn Prepared>, RequestError>>;
}

/// A request that can be carried out.
pub trait Prepared {
    /// About how many bytes of memory that takes until the reply has been sent, beside the request's own.
    fn weight(&self) -> usize;

    /// Carries it out.
    ///
    /// # Errors
    /// The switch refuses.
    fn carry_out(self: Box<Self>) -> Result<Answer, RequestError>;
}

/// What a request is answered by.
pub enum Answer {
    /// A result.
    Reply(Box<dyn Reply>),
    /// A result that is `null`, and notifications from then on.
    Stream(Box<dyn Stream>),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answer::Reply(_) => "Reply",
            Answer::Stream(_) => "Stream",
        })
    }
}

/// A result that is turned into JSON while it is sent, so that a long one never is in memory as a whole.
pub trait Reply: Send {
    /// Writes it.
    ///
    /// # Errors
    /// Those of `out`.
    fn write_json(&self, out: &mut dyn io::Write) -> io::Result<()>;
}

impl<T: Serialize + Send> Reply for T {
    fn write_json(&self, out: &mut dyn io::Write) -> io::Result<()> {
        Ok(serde_json::to_writer(out, self)?)
    }
}

/// What a client is sent one after the other until it goes.
pub trait Stream: Send {
    /// The next item as JSON; waits for it no longer than `wait`.
    fn next(&mut self, wait: Duration) -> Option<String>;
}

#[cfg(test)]
mod tests;
