//! The control socket's server: one thread accepts, one thread per client reads lines and answers them.
//!
//! A client may be slow or hostile and must cost nothing but its own connection:
//! - a line is bounded (`MAX_LINE_BYTES`) and must be whole within `PATIENCE` of its first byte;
//! - a reply must be taken within `PATIENCE`;
//! - at most `MAX_CLIENTS` are connected; one more ends the connection that has been silent for longest, so that an
//!   operator gets in however many connections somebody else holds.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tracing::{debug, warn};

use super::Operations;
use super::protocol::{ErrorKind, Hello, OperationError, PROTOCOL, Request};
use crate::config::{Owner, PortSpec};
use crate::socket_file::{SocketFile, SocketFileError};

/// Longest request, without its newline.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// Most clients at one time.
pub const MAX_CLIENTS: usize = 32;
/// Time for a client to finish a line that it began, and to take a reply.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for requests under way when the server is dropped.
const PARTING: Duration = Duration::from_millis(500);
/// Permission bits of the socket: whoever opens it may reconfigure the switch.
pub const SOCKET_PERM: u32 = 0o660;

/// A running server; dropping it removes the socket, ends all connections, and lets go of the operations.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// What the accepting thread, the clients' threads and the owner of the server share.
#[derive(Debug)]
struct Shared {
    socket: SocketFile,
    stopping: AtomicBool,
    clients: Mutex<Clients>,
    /// A client's thread ended.
    left: Condvar,
}

#[derive(Debug, Default)]
struct Clients {
    next_id: u64,
    /// Threads, those of clients that were turned out included.
    threads: usize,
    connected: HashMap<u64, Connected>,
}

#[derive(Debug)]
struct Connected {
    stream: UnixStream,
    last_heard: Instant,
}

impl Server {
    /// Listens at `path` and answers from `operations`.
    ///
    /// # Errors
    /// The socket cannot be had, or no thread can be started.
    pub fn start(path: &Path, operations: Arc<dyn Operations>) -> Result<Self, SocketFileError> {
        let socket = SocketFile::listen(path, Some(SOCKET_PERM), Owner::default())?;
        let shared = Arc::new(Shared {
            socket,
            stopping: AtomicBool::new(false),
            clients: Mutex::default(),
            left: Condvar::new(),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("control".into()).spawn(move || accept_clients(&shared, &operations))
        };
        let accepting = accepting.map_err(|source| SocketFileError::Refused {
            path: path.to_owned(),
            step: "start a thread",
            hint: "raise the limit of threads",
            source,
        })?;
        Ok(Self { shared, accepting: Some(accepting) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Release: pairs with the acquire in `accept_clients`, which must see the flag once `accept` fails.
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.socket.close();
        if let Some(accepting) = self.accepting.take() {
            // A panic there has been reported by the panic hook already.
            let _ = accepting.join();
        }
        self.shared.socket.remove();
        let mut clients = self.shared.clients.lock();
        for client in clients.connected.values() {
            end(&client.stream);
        }
        // The threads hold `operations`, whose owner expects to be the last to do so.
        let deadline = Instant::now() + PARTING;
        while clients.threads > 0 && !self.shared.left.wait_until(&mut clients, deadline).timed_out() {}
    }
}

fn end(stream: &UnixStream) {
    // Fails only where the other side has gone, which is what is wanted.
    let _ = stream.shutdown(Shutdown::Both);
}

fn accept_clients(shared: &Arc<Shared>, operations: &Arc<dyn Operations>) {
    loop {
        match shared.socket.listener().accept() {
            Ok((stream, _)) => {
                if let Err(error) = serve_in_thread(shared, operations, stream) {
                    warn!(%error, "a control client is turned away");
                }
            }
            // Acquire: pairs with the release in `Server::drop`.
            Err(_) if shared.stopping.load(Ordering::Acquire) => return,
            Err(error) => {
                // Out of descriptors or memory: the client waits in the backlog, and we must not spin.
                warn!(%error, "the control socket cannot accept a client");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn serve_in_thread(
    shared: &Arc<Shared>,
    operations: &Arc<dyn Operations>,
    stream: UnixStream,
) -> io::Result<()> {
    let id = shared.enter(stream.try_clone()?);
    let spawned = {
        let (shared, operations) = (Arc::clone(shared), Arc::clone(operations));
        thread::Builder::new().name("control-client".into()).spawn(move || {
            let heard = || shared.heard(id);
            if let Err(error) = serve(stream, operations.as_ref(), heard) {
                debug!(%error, "a control client's connection ends");
            }
            drop(operations);
            shared.leave(id);
        })
    };
    spawned.map(drop).inspect_err(|_| shared.leave(id))
}

impl Shared {
    /// Notes a client, ending the one silent for longest where there are too many.
    fn enter(&self, stream: UnixStream) -> u64 {
        let mut clients = self.clients.lock();
        if clients.connected.len() >= MAX_CLIENTS {
            let silent =
                clients.connected.iter().min_by_key(|(_, client)| client.last_heard).map(|(&id, _)| id);
            if let Some(client) = silent.and_then(|id| clients.connected.remove(&id)) {
                end(&client.stream);
            }
        }
        let id = clients.next_id;
        clients.next_id += 1;
        clients.threads += 1;
        clients.connected.insert(id, Connected { stream, last_heard: Instant::now() });
        id
    }

    fn heard(&self, id: u64) {
        if let Some(client) = self.clients.lock().connected.get_mut(&id) {
            client.last_heard = Instant::now();
        }
    }

    fn leave(&self, id: u64) {
        let mut clients = self.clients.lock();
        clients.connected.remove(&id);
        clients.threads -= 1;
        self.left.notify_all();
    }
}

/// Answers the lines of one client until it goes or breaks a rule; calls `heard` for each whole line.
fn serve(stream: UnixStream, operations: &dyn Operations, heard: impl Fn()) -> io::Result<()> {
    let mut lines = Lines { stream: &stream, buffer: Vec::new(), scanned: 0 };
    loop {
        let line = match lines.next_line() {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let refusal = OperationError::new(ErrorKind::InvalidRequest, error.to_string());
                return send(&stream, &error_reply(&Value::Null, &refusal));
            }
            Err(error) => return Err(error),
        };
        heard();
        if let Some(reply) = answer(&line, operations) {
            send(&stream, &reply)?;
        }
    }
}

/// Lines from a client, bounded in length and time.
struct Lines<'a> {
    stream: &'a UnixStream,
    /// Bytes received and not yet returned.
    buffer: Vec<u8>,
    /// Leading bytes of `buffer` known to hold no newline.
    scanned: usize,
}

impl Lines<'_> {
    /// The next line without its newline; `None` at the end of the stream.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut deadline = (!self.buffer.is_empty()).then(|| Instant::now() + PATIENCE);
        // Bound: each round takes at least one byte, and `MAX_LINE_BYTES` ends it.
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(self.scanned + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.scanned = 0;
                return Ok(Some(line));
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > MAX_LINE_BYTES {
                let problem = format!("line longer than {MAX_LINE_BYTES} bytes; send one request a line");
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
            if self.receive(deadline)? == 0 {
                return Ok(None);
            }
            deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
    }

    fn receive(&mut self, deadline: Option<Instant>) -> io::Result<usize> {
        self.stream.set_read_timeout(deadline.map(time_left).transpose()?)?;
        let mut chunk = [0; 4096];
        let count = loop {
            match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                result => break result?,
            }
        };
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }
}

/// Time until `deadline`, or an error after it.
fn time_left(deadline: Instant) -> io::Result<Duration> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn send(mut stream: &UnixStream, reply: &Value) -> io::Result<()> {
    let mut text = reply.to_string().into_bytes();
    text.push(b'\n');
    let deadline = Instant::now() + PATIENCE;
    let mut rest = &text[..];
    // Bound: each round sends at least one byte or ends at the deadline.
    while !rest.is_empty() {
        stream.set_write_timeout(Some(time_left(deadline)?))?;
        match stream.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The reply to one line; `None` where none is wanted.
fn answer(line: &[u8], operations: &dyn Operations) -> Option<Value> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    let mut envelope = match serde_json::from_slice(line) {
        Ok(Value::Object(envelope)) => envelope,
        Ok(_) => {
            let error = invalid_request("not an object; send {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":...}");
            return Some(error_reply(&Value::Null, &error));
        }
        Err(error) => {
            let error = OperationError::new(ErrorKind::NotJson, format!("not JSON: {error}"));
            return Some(error_reply(&Value::Null, &error));
        }
    };
    let id = envelope.remove("id");
    if let Some(Value::Object(_) | Value::Array(_) | Value::Bool(_)) = id {
        let error = invalid_request("\"id\" is neither a number nor text; use a number");
        return Some(error_reply(&Value::Null, &error));
    }
    let result = read_request(envelope).and_then(|request| carry_out(request, operations));
    let id = id?;
    Some(match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(error) => error_reply(&id, &error),
    })
}

fn invalid_request(problem: &str) -> OperationError {
    OperationError::new(ErrorKind::InvalidRequest, problem)
}

fn error_reply(id: &Value, error: &OperationError) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": error.kind.code(), "message": error.message}})
}

fn read_request(mut envelope: Map<String, Value>) -> Result<Request, OperationError> {
    if envelope.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(invalid_request("no \"jsonrpc\":\"2.0\"; add it"));
    }
    let Some(Value::String(method)) = envelope.remove("method") else {
        return Err(invalid_request("no \"method\"; add one, such as \"port_list\""));
    };
    Request::from_parts(&method, envelope.remove("params").unwrap_or(Value::Null))
}

fn carry_out(request: Request, operations: &dyn Operations) -> Result<Value, OperationError> {
    match request {
        Request::Hello => {
            to_result(&Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() })
        }
        Request::PortList => to_result(&operations.port_list()?),
        Request::PortShow(port) => to_result(&operations.port_show(&port.name)?),
        Request::PortAdd(port) => {
            let spec = PortSpec::parse("port add", &port.spec)
                .map_err(|error| OperationError::invalid(error.to_string()))?;
            to_result(&operations.port_add(spec)?)
        }
        Request::PortDel(port) => to_result(&operations.port_del(&port.name)?),
        Request::FdbShow(filter) => to_result(&operations.fdb_show(&filter)?),
        Request::FdbFlush(filter) => to_result(&operations.fdb_flush(&filter)?),
        Request::FlowDump => to_result(&operations.flow_dump()?),
        Request::Stats => to_result(&operations.stats()?),
    }
}

fn to_result<T: Serialize>(reply: &T) -> Result<Value, OperationError> {
    serde_json::to_value(reply).map_err(OperationError::failed)
}
