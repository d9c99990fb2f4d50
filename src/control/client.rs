//! The control socket's client: one request, one reply, and the stream that may follow it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use super::protocol::{ErrorKind, Hello, OperationError, PROTOCOL, Request};

/// Time in which the switch must begin to answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a running switch.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    last_id: u64,
    /// The beginning of a stream's item.
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
    #[error("--socket {path}: the connection failed: {source}; try again, and see the log of vsteer run")]
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
    /// The switch refused.
    #[error(transparent)]
    Refused(#[from] OperationError),
}

impl Client {
    /// Connects to the switch whose control socket is at `path`, and makes sure that it speaks our protocol.
    ///
    /// # Errors
    /// Nobody answers there, or in another protocol.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(unreachable)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(unreachable)?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT)).map_err(unreachable)?;
        let mut client =
            Self { stream: BufReader::new(stream), path: path.to_owned(), last_id: 0, partial: Vec::new() };
        let result = client.call(&Request::Hello)?;
        let hello: Hello = client.read(&result)?;
        if hello.protocol != PROTOCOL {
            let problem = format!(
                "vsteer {} speaks control protocol {}, this one speaks {PROTOCOL}",
                hello.version, hello.protocol
            );
            return Err(client.not_vsteer(problem));
        }
        Ok(client)
    }

    /// Sends `request` and waits for its result.
    ///
    /// # Errors
    /// The switch refuses, or the connection fails.
    pub fn call(&mut self, request: &Request) -> Result<Value, ClientError> {
        self.last_id += 1;
        let line = self
            .exchange(&request.to_json(self.last_id))
            .map_err(|source| ClientError::Broken { path: self.path.clone(), source })?;
        let mut reply: Value = serde_json::from_str(&line)
            .map_err(|error| self.not_vsteer(format!("the reply is no JSON ({error})")))?;
        if let Some(error) = reply.get("error") {
            let kind = ErrorKind::from_code(error["code"].as_i64().unwrap_or_default());
            let message = error["message"].as_str().unwrap_or("refused without a reason");
            return Err(OperationError::new(kind, message).into());
        }
        if reply["id"].as_u64() != Some(self.last_id) {
            return Err(self.not_vsteer("the reply is to another request".to_owned()));
        }
        match reply.as_object_mut().and_then(|reply| reply.remove("result")) {
            Some(result) => Ok(result),
            None => Err(self.not_vsteer("the reply has no result".to_owned())),
        }
    }

    /// The next item of the stream that the last call began; `None` if none came within `wait`.
    ///
    /// # Errors
    /// The connection failed or ended.
    pub fn next_item(&mut self, wait: Duration) -> Result<Option<Value>, ClientError> {
        let broken = |source| ClientError::Broken { path: self.path.clone(), source };
        self.stream.get_ref().set_read_timeout(Some(wait)).map_err(broken)?;
        // What came of a line before the time was over is kept for the next call.
        match self.stream.read_until(b'\n', &mut self.partial) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(broken(error)),
            Ok(0) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => (),
        }
        let line = std::mem::take(&mut self.partial);
        let mut item: Value = serde_json::from_slice(&line)
            .map_err(|error| self.not_vsteer(format!("an item is no JSON ({error})")))?;
        match item.as_object_mut().and_then(|item| item.remove("params")) {
            Some(params) => Ok(Some(params)),
            None => Err(self.not_vsteer("an item has no params".to_owned())),
        }
    }

    /// Reads a result as the type that its request promises.
    ///
    /// # Errors
    /// The result has another shape.
    pub fn read<T: DeserializeOwned>(&self, result: &Value) -> Result<T, ClientError> {
        T::deserialize(result).map_err(|error| self.not_vsteer(format!("the reply is odd ({error})")))
    }

    fn exchange(&mut self, request: &Value) -> io::Result<String> {
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    fn not_vsteer(&self, problem: String) -> ClientError {
        ClientError::NotVsteer { path: self.path.clone(), problem }
    }
}
