//! The control socket's server: one thread accepts, one thread per client reads lines and answers them.
//!
//! A client may be slow or hostile and must cost nothing but its own connection:
//! - a line is bounded (`MAX_LINE_BYTES`) and must be whole within `PATIENCE` of its first byte; all unfinished lines
//!   together are bounded too (`MAX_PENDING_BYTES`);
//! - a reply, and each item of a stream, must be taken within `PATIENCE`;
//! - at most `MAX_CLIENTS` are connected; one more ends the connection that has been silent for longest, so that an
//!   operator gets in however many connections somebody else holds.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tracing::{debug, warn};

use super::protocol::{ErrorKind, Hello, OperationError, PROTOCOL, Request};
use super::{Operations, Stream};
use crate::config::{MirrorSpec, Owner, PortSpec};
use crate::socket_file::{SocketFile, SocketFileError};

/// Longest request, without its newline: room for a hundred thousand rules.
pub const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;
/// Most bytes of all requests that are not whole yet.
pub const MAX_PENDING_BYTES: usize = 4 * MAX_LINE_BYTES;
/// Bytes of unfinished requests that every client may have whatever the others do.
const FREE_BYTES: usize = 64 * 1024;
/// How soon a stream notices that its client went.
const STREAM_LOOK: Duration = Duration::from_millis(100);
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
    /// Bytes that unfinished requests hold beyond what each client may have.
    pending_bytes: AtomicUsize,
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
            pending_bytes: AtomicUsize::new(0),
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
            if let Err(error) = serve(&stream, operations.as_ref(), &shared, id) {
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

/// Answers the lines of client `id` until it goes or breaks a rule.
fn serve(stream: &UnixStream, operations: &dyn Operations, shared: &Shared, id: u64) -> io::Result<()> {
    let pending = Pending { total: &shared.pending_bytes, taken: 0 };
    let mut lines = Lines { stream, buffer: Vec::new(), scanned: 0, pending };
    loop {
        let line = match lines.next_line() {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let refusal = OperationError::new(ErrorKind::InvalidRequest, error.to_string());
                return send(stream, &error_reply(&Value::Null, &refusal));
            }
            Err(error) => return Err(error),
        };
        shared.heard(id);
        let (reply, stream_of) = answer(&line, operations);
        drop(line);
        if let Some(reply) = reply {
            send(stream, &reply)?;
        }
        if let Some((method, mut items)) = stream_of {
            // Bound: ends with the client's connection or its next request, and `Server::drop` ends the connection.
            while !lines.has_input()? {
                if let Some(item) = items.next(STREAM_LOOK) {
                    send(stream, &format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{item}}}"#))?;
                    shared.heard(id);
                }
            }
        }
    }
}

/// What one client's unfinished request takes of the memory that all may have.
struct Pending<'a> {
    total: &'a AtomicUsize,
    taken: usize,
}

impl Pending<'_> {
    /// Asks for as much as an unfinished request of `len` bytes takes; false if there is not as much.
    fn hold(&mut self, len: usize) -> bool {
        let wanted = len.saturating_sub(FREE_BYTES);
        // Relaxed: only the sum matters.
        if wanted <= self.taken {
            self.total.fetch_sub(self.taken - wanted, Ordering::Relaxed);
        } else {
            let more = wanted - self.taken;
            if self.total.fetch_add(more, Ordering::Relaxed) + more > MAX_PENDING_BYTES {
                self.total.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        }
        self.taken = wanted;
        true
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.hold(0);
    }
}

/// Lines from a client, bounded in length and time.
struct Lines<'a> {
    stream: &'a UnixStream,
    /// Bytes received and not yet returned.
    buffer: Vec<u8>,
    /// Leading bytes of `buffer` known to hold no newline.
    scanned: usize,
    pending: Pending<'a>,
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
            let refuse = |problem: String| Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            if self.buffer.len() > MAX_LINE_BYTES {
                return refuse(format!("line longer than {MAX_LINE_BYTES} bytes; send one request a line"));
            }
            if !self.pending.hold(self.buffer.len()) {
                return refuse("too many large requests at one time; try again".to_owned());
            }
            if self.receive(deadline)? == 0 {
                return Ok(None);
            }
            deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
    }

    /// Whether a line has begun or the client has gone.
    fn has_input(&self) -> io::Result<bool> {
        if !self.buffer.is_empty() {
            return Ok(true);
        }
        match recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
            Ok(_) => Ok(true),
        }
    }

    fn receive(&mut self, deadline: Option<Instant>) -> io::Result<usize> {
        self.stream.set_read_timeout(deadline.map(time_left).transpose()?)?;
        let mut chunk = [0; 16 * 1024];
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

/// Sends `line`, which has no newline yet.
fn send(mut stream: &UnixStream, line: &str) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for part in [line.as_bytes(), b"\n"] {
        let mut rest = part;
        // Bound: each round sends at least one byte or ends at the deadline.
        while !rest.is_empty() {
            stream.set_write_timeout(Some(time_left(deadline)?))?;
            match stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// A stream of notifications and the method they are sent as.
type Notifications = (&'static str, Box<dyn Stream>);

/// The reply to one line, if one is wanted, and the stream that follows it, if one was asked for.
fn answer(line: &[u8], operations: &dyn Operations) -> (Option<String>, Option<Notifications>) {
    if line.iter().all(u8::is_ascii_whitespace) {
        return (None, None);
    }
    let refuse = |error: &OperationError| (Some(error_reply(&Value::Null, error)), None);
    let mut envelope = match serde_json::from_slice(line) {
        Ok(Value::Object(envelope)) => envelope,
        Ok(_) => {
            return refuse(&invalid_request(
                "not an object; send {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":...}",
            ));
        }
        Err(error) => {
            return refuse(&OperationError::new(ErrorKind::NotJson, format!("not JSON: {error}")));
        }
    };
    let id = envelope.remove("id");
    if let Some(Value::Object(_) | Value::Array(_) | Value::Bool(_)) = id {
        return refuse(&invalid_request("\"id\" is neither a number nor text; use a number"));
    }
    let done = read_request(envelope).and_then(|request| carry_out(request, operations));
    // What nobody waits for is not streamed either.
    let Some(id) = id else { return (None, None) };
    match done {
        Ok(Done { result, stream }) => {
            (Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)), stream)
        }
        Err(error) => (Some(error_reply(&id, &error)), None),
    }
}

fn invalid_request(problem: &str) -> OperationError {
    OperationError::new(ErrorKind::InvalidRequest, problem)
}

fn error_reply(id: &Value, error: &OperationError) -> String {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": error.kind.code(), "message": error.message}})
        .to_string()
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

/// What a request led to.
struct Done {
    /// The result as JSON.
    result: String,
    stream: Option<Notifications>,
}

fn carry_out(request: Request, operations: &dyn Operations) -> Result<Done, OperationError> {
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
        Request::RuleAdd(rules) => to_result(&operations.rule_add(&rules)?),
        Request::RuleReplace(rules) => to_result(&operations.rule_replace(&rules)?),
        Request::RuleModify(change) => to_result(&operations.rule_modify(&change)?),
        Request::RuleDelete(change) => to_result(&operations.rule_delete(&change)?),
        Request::RuleDump(filter) => to_result(&operations.rule_dump(&filter)?),
        Request::TableDump => to_result(&operations.table_dump()?),
        Request::MirrorList => to_result(&operations.mirror_list()?),
        Request::MirrorAdd(mirror) => {
            let spec = MirrorSpec::parse("mirror add", &mirror.spec)
                .map_err(|error| OperationError::invalid(error.to_string()))?;
            to_result(&operations.mirror_add(spec)?)
        }
        Request::MirrorDel(mirror) => to_result(&operations.mirror_del(&mirror.name)?),
        Request::FlowDump(filter) => to_result(&operations.flow_dump(&filter)?),
        Request::CacheShow => to_result(&operations.cache_show()?),
        Request::Trace(query) => to_result(&operations.trace(&query)?),
        Request::Monitor(filter) => to_stream("monitor", operations.monitor(&filter)?),
        Request::Top(query) => to_stream("top", operations.top(&query)?),
        Request::Reload => to_result(&operations.reload()?),
        Request::Stats => to_result(&operations.stats()?),
    }
}

fn to_result<T: Serialize>(reply: &T) -> Result<Done, OperationError> {
    let result = serde_json::to_string(reply).map_err(OperationError::failed)?;
    Ok(Done { result, stream: None })
}

fn to_stream(method: &'static str, stream: Box<dyn Stream>) -> Result<Done, OperationError> {
    Ok(Done { stream: Some((method, stream)), ..to_result(&())? })
}
