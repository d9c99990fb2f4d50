//! The control socket's client: one request, one reply, and the stream that may follow it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::protocol::{ErrorKind, HELLO, Hello, NoParams, PROTOCOL, RequestError};
use super::server::MAX_LINE_BYTES;

/// Time in which the switch must say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Time in which the switch must begin to answer: large requests wait for each other, twice for up to 20 seconds, and
/// hundreds of thousands of rules take some.
const REPLY_TIMEOUT: Duration = Duration::from_secs(90);

/// A connection to a running switch.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    last_id: u64,
    max_request_bytes: u64,
}

/// The stream that a request began.
#[derive(Debug)]
pub struct Items<'a> {
    client: &'a mut Client,
    /// The method that is answered by it.
    method: String,
    /// The beginning of an item.
    partial: Vec<u8>,
}

/// Why the switch gave no result.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody can be reached at the socket.
    #[error("--socket {path}: {source}; is vsteer running there? name its control socket with --socket PATH")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection failed before the reply was there.
    #[error("--socket {path}: the connection failed: {source}; see the log of vsteer run, and try again")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The reply is not one of ours.
    #[error("--socket {path}: {problem}; use the vsteer that runs the switch, or another socket")]
    NotVsteer {
        /// The socket.
        path: PathBuf,
        /// What is odd about it.
        problem: String,
    },
    /// The request is longer than the switch takes. Nothing was sent.
    #[error("the request has {bytes} bytes, and the switch takes {limit} at most; give it in parts")]
    TooLong {
        /// Bytes of the request.
        bytes: u64,
        /// Bytes of a request at most.
        limit: u64,
    },
    /// The switch refused.
    #[error(transparent)]
    Refused(#[from] RequestError),
}

/// What a switch that ends the connection leaves behind.
const CUT_SHORT: &str = "it ended in the middle of a reply";
const ENDED: &str = "the switch ended it";

/// A reply, or an item of a stream, as it is in the envelope.
#[derive(Debug, Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    id: Option<u64>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "super::protocol::present")]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<WireError>,
}

/// An error as it stands on the wire.
#[derive(Debug, Deserialize)]
struct WireError {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: Option<String>,
}

impl From<WireError> for ClientError {
    fn from(error: WireError) -> Self {
        let message = error.message.unwrap_or("refused without a reason".to_owned());
        RequestError::new(ErrorKind::from_code(error.code), message).into()
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Client {
    /// Connects to the switch whose control socket is at `path`, and makes sure that it speaks our protocol.
    ///
    /// # Errors
    /// Nobody answers there, or in another protocol.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(unreachable)?;
        stream.set_read_timeout(Some(HELLO_TIMEOUT)).map_err(unreachable)?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT)).map_err(unreachable)?;
        let mut client = Self {
            stream: BufReader::new(stream),
            path: path.to_owned(),
            last_id: 0,
            max_request_bytes: MAX_LINE_BYTES as u64,
        };
        let result = client.call(HELLO, &NoParams {})?;
        let hello: Hello = client.read(&result)?;
        if hello.protocol != PROTOCOL {
            let problem = format!(
                "vsteer {} speaks control protocol {}, this one speaks {PROTOCOL}",
                hello.version, hello.protocol
            );
            return Err(client.not_vsteer(problem));
        }
        client.max_request_bytes = hello.max_request_bytes.unwrap_or(client.max_request_bytes);
        client.stream.get_ref().set_read_timeout(Some(REPLY_TIMEOUT)).map_err(unreachable)?;
        Ok(client)
    }

    /// Sends a request for `method` and waits for its result.
    ///
    /// # Errors
    /// The request is too long, the switch refuses, or the connection fails.
    pub fn call(&mut self, method: &str, params: &impl Serialize) -> Result<Box<RawValue>, ClientError> {
        self.last_id += 1;
        let request = self.request(method, params)?;
        let line = self
            .exchange(&request)
            .map_err(|source| ClientError::Broken { path: self.path.clone(), source })?;
        let reply: Envelope<'_> = serde_json::from_slice(&line)
            .map_err(|error| self.not_vsteer(format!("the reply is none of JSON-RPC ({error})")))?;
        if let Some(error) = reply.error {
            return Err(error.into());
        }
        if reply.method.is_some() || reply.id != Some(self.last_id) {
            return Err(self.not_vsteer("the reply is to another request".to_owned()));
        }
        match reply.result {
            Some(result) => Ok(result.to_owned()),
            None => Err(self.not_vsteer("the reply has no result".to_owned())),
        }
    }

    /// Sends a request for `method`, which is answered by a stream.
    ///
    /// # Errors
    /// Those of [`call`](Self::call); or the method has a result and no stream.
    pub fn watch(&mut self, method: &str, params: &impl Serialize) -> Result<Items<'_>, ClientError> {
        let result = self.call(method, params)?;
        if result.get() != "null" {
            return Err(self.not_vsteer(format!("{method} is answered by a result, not by a stream")));
        }
        Ok(Items { client: self, method: method.to_owned(), partial: Vec::new() })
    }

    /// Reads a result as the type that its request promises.
    ///
    /// # Errors
    /// The result has another shape.
    pub fn read<T: DeserializeOwned>(&self, result: &RawValue) -> Result<T, ClientError> {
        serde_json::from_str(result.get())
            .map_err(|error| self.not_vsteer(format!("the reply is odd ({error})")))
    }

    fn request(&self, method: &str, params: &impl Serialize) -> Result<String, ClientError> {
        // Our own types have no keys that are not text, and nothing else fails.
        let params = serde_json::to_string(params).map_err(|error| self.not_vsteer(error.to_string()))?;
        let id = self.last_id;
        let mut request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
        let (bytes, limit) = (request.len() as u64, self.max_request_bytes);
        if bytes > limit {
            return Err(ClientError::TooLong { bytes, limit });
        }
        request.push('\n');
        Ok(request)
    }

    fn exchange(&mut self, request: &str) -> io::Result<Vec<u8>> {
        let sent = self.stream.get_mut().write_all(request.as_bytes());
        let mut line = Vec::new();
        // A switch that hangs up in the middle of a request has left its reason.
        let received = self.stream.read_until(b'\n', &mut line);
        match (sent, received) {
            (Ok(()), Ok(0)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, ENDED)),
            (Ok(()), Err(error)) if is_timeout(&error) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "no reply came in time"))
            }
            (Ok(()), Err(error)) => Err(error),
            (Err(error), Ok(0) | Err(_)) => Err(error),
            _ if line.ends_with(b"\n") => Ok(line),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, CUT_SHORT)),
        }
    }

    fn not_vsteer(&self, problem: String) -> ClientError {
        ClientError::NotVsteer { path: self.path.clone(), problem }
    }
}

impl Items<'_> {
    /// The next item; `None` if none came within `wait`.
    ///
    /// # Errors
    /// The connection failed or ended, the switch says that the stream is over, or what came is no item of it.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Box<RawValue>>, ClientError> {
        let Self { client, method, partial } = self;
        let broken = |source| ClientError::Broken { path: client.path.clone(), source };
        client.stream.get_ref().set_read_timeout(Some(wait)).map_err(broken)?;
        // What came of a line before the time was over is kept for the next call.
        match client.stream.read_until(b'\n', partial) {
            Err(error) if is_timeout(&error) => return Ok(None),
            Err(error) => return Err(broken(error)),
            Ok(_) if partial.ends_with(b"\n") => (),
            Ok(_) => {
                let what = if partial.is_empty() { ENDED } else { CUT_SHORT };
                return Err(broken(io::Error::new(io::ErrorKind::UnexpectedEof, what)));
            }
        }
        let line = std::mem::take(partial);
        let item: Envelope<'_> = serde_json::from_slice(&line)
            .map_err(|error| client.not_vsteer(format!("an item is none of JSON-RPC ({error})")))?;
        if let Some(error) = item.error {
            return Err(error.into());
        }
        let name = item.method.map(RawValue::get).unwrap_or_default();
        if name.trim_matches('"') != method {
            let what = if name.is_empty() { "no item" } else { name };
            return Err(client.not_vsteer(format!("{what} came in the stream of {method}")));
        }
        match item.params {
            Some(params) => Ok(Some(params.to_owned())),
            None => Err(client.not_vsteer("an item has no params".to_owned())),
        }
    }

    /// Reads an item as the type that its request promises.
    ///
    /// # Errors
    /// The item has another shape.
    pub fn read<T: DeserializeOwned>(&self, item: &RawValue) -> Result<T, ClientError> {
        self.client.read(item)
    }
}
