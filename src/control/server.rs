//! The control socket's server: one thread accepts, one thread per client reads lines and answers them.
//!
//! A client may be slow or hostile and must cost nothing but its own connection:
//! - a line is bounded in length, and in time from its first byte on; of long lines only a few are read at one time
//!   (`lines.rs`);
//! - what requests take while they are carried out and answered is bounded for all together: one that needs much waits
//!   for its turn and is refused if that does not come, one that needs little passes;
//! - a result is made while it is sent, and a client that does not take it is given up (`outgoing.rs`);
//! - at most `MAX_CLIENTS` are connected; one more ends the connection of whoever does least, and of those the one that has
//!   been silent for longest, so that an operator gets in however many connections somebody else holds.
//!
//! A client that is refused in the middle of its sending learns the reason: what it still sends is taken and forgotten, so
//! that it comes to read the reply.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde_json::value::RawValue;
use tracing::{debug, info, warn};

use super::budget::{Budget, Share};
use super::lines::{Line, Lines, Next, busy, discard};
use super::outgoing::Outgoing;
use super::protocol::{ErrorKind, HELLO, Hello, NoParams, PROTOCOL, Request, RequestError, read_params};
use super::{Answer, Prepared, Service};
use crate::config::Owner;
use crate::socket_file::{Reserved, SocketFile, SocketFileError};

/// Longest request, without its newline: room for a hundred thousand rules.
pub const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;
/// Most clients at one time.
pub const MAX_CLIENTS: usize = 64;
/// How soon a stream notices that its client went.
const STREAM_LOOK: Duration = Duration::from_millis(100);
/// How long a client that has just come has to ask for something, before it counts as one that never will.
const RECENT: Duration = Duration::from_secs(1);
/// Pauses between attempts to accept a client while descriptors or memory are short.
const SHORTAGE_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// Longest wait for requests under way when the server is dropped.
const PARTING: Duration = Duration::from_millis(500);
/// Permission bits of the socket: whoever opens it may reconfigure the switch.
pub const SOCKET_PERM: u32 = 0o660;
/// What carrying out a request may take of the memory that every client has.
const FREE_WORK_BYTES: usize = 1024 * 1024;
/// A reply goes out in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;

/// What clients may take.
///
/// In all that is memory of `places` long lines, as they came and as parameters, `work_bytes`, and little more than a
/// megabyte for each of [`MAX_CLIENTS`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest request, without its newline.
    pub line_bytes: usize,
    /// Long requests that are read at one time.
    pub places: usize,
    /// Memory of all requests that are carried out or answered at one time.
    pub work_bytes: usize,
    /// Time for a client to finish a line that it began, and to take a part of a reply.
    pub patience: Duration,
    /// Longest wait of a large request for its turn: for a place to be read, and again for memory to be carried out.
    pub turn: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes: MAX_LINE_BYTES,
            places: 4,
            work_bytes: 512 * 1024 * 1024,
            patience: Duration::from_secs(5),
            turn: Duration::from_secs(20),
        }
    }
}

/// A running server; dropping it removes the socket, ends all connections, and lets go of the service.
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
    limits: Limits,
    /// For long lines.
    lines: Budget,
    /// For requests that are carried out.
    work: Budget,
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
    /// Shared with the client's thread: a client takes one descriptor, so that one can be served when there are no more.
    stream: Arc<UnixStream>,
    doing: Doing,
    last_heard: Instant,
    seat: Arc<Seat>,
}

/// What a client's thread and whoever turns clients out tell each other.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// The client is turned out: its thread waits for nothing any more.
    pub(super) is_out: AtomicBool,
    is_sending: AtomicBool,
}

impl Seat {
    /// Notes whether the client is in the middle of a long request.
    pub(super) fn set_sending(&self, is_sending: bool) {
        // Relaxed: it is a hint.
        self.is_sending.store(is_sending, Ordering::Relaxed);
    }

    fn is_sending(&self) -> bool {
        self.is_sending.load(Ordering::Relaxed)
    }
}

/// What a client is at. Whoever does least is turned out first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// It has never asked for anything.
    Nothing,
    /// It has asked and was answered.
    Pausing,
    /// It is sending a long request, its request is carried out, or its answer is sent.
    Busy,
}

impl Connected {
    /// Who has the lowest is turned out first: of those who do the same, whoever has been silent for longest.
    fn rank(&self) -> (Doing, Instant) {
        let doing = match self.doing {
            _ if self.seat.is_sending() => Doing::Busy,
            // It may have come to ask. Those who are busy are kept rather than it.
            Doing::Nothing if self.last_heard.elapsed() < RECENT => Doing::Pausing,
            doing => doing,
        };
        (doing, self.last_heard)
    }
}

impl Server {
    /// The socket at `path`, for a server that is to [`start`](Self::start) on it. It is not there before, so that whoever waits
    /// for it finds a switch with all its ports.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub fn reserve(path: &Path) -> Result<Reserved, SocketFileError> {
        SocketFile::reserve(path, Some(SOCKET_PERM), Owner::default())
    }

    /// Finds what would keep [`reserve`](Self::reserve) from succeeding now, and changes nothing.
    ///
    /// # Errors
    /// As for `reserve`.
    pub fn check(path: &Path) -> Result<(), SocketFileError> {
        SocketFile::check(path, Owner::default())
    }

    /// Answers on `socket` from `service`, within `limits`.
    ///
    /// # Errors
    /// The socket cannot listen, or no thread can be started.
    pub fn start(
        socket: Reserved,
        service: Arc<dyn Service>,
        limits: Limits,
    ) -> Result<Self, SocketFileError> {
        let socket = socket.listen()?;
        let shared = Arc::new(Shared {
            socket,
            stopping: AtomicBool::new(false),
            clients: Mutex::default(),
            left: Condvar::new(),
            limits,
            lines: Budget::new(limits.places * limits.line_bytes),
            work: Budget::new(limits.work_bytes),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("control".into()).spawn(move || accept_clients(&shared, &service))
        };
        let accepting = accepting.map_err(|error| {
            SocketFileError::refused(
                shared.socket.path(),
                "start a thread",
                "raise the limit of threads",
                error,
            )
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
        self.shared.lines.close();
        self.shared.work.close();
        // The threads hold the service, whose owner expects to be the last to do so.
        let deadline = Instant::now() + PARTING;
        while clients.threads > 0 && !self.shared.left.wait_until(&mut clients, deadline).timed_out() {}
    }
}

fn end(stream: &UnixStream) {
    // Fails only where the other side has gone, which is what is wanted.
    let _ = stream.shutdown(Shutdown::Both);
}

fn accept_clients(shared: &Arc<Shared>, service: &Arc<dyn Service>) {
    let (mut is_short, mut pause) = (false, SHORTAGE_PAUSE.0);
    loop {
        // The kernel sets a descriptor aside before it waits: who comes when there are no more is still accepted.
        match shared.socket.listener().accept() {
            Ok((stream, _)) => {
                pause = SHORTAGE_PAUSE.0;
                serve_in_thread(shared, service, stream);
            }
            // Acquire: pairs with the release in `Server::drop`.
            Err(_) if shared.stopping.load(Ordering::Acquire) => return,
            Err(error) => {
                if !is_short {
                    warn!(%error, "the control socket takes no more clients for now; the next wait");
                    is_short = true;
                }
                thread::sleep(pause);
                pause = (pause * 2).min(SHORTAGE_PAUSE.1);
            }
        }
        // A descriptor that can be had shows that the shortage is over.
        if is_short && File::open("/dev/null").is_ok() {
            info!("the control socket takes clients again");
            is_short = false;
        }
    }
}

/// Serves a client in a thread of its own; a client for which there is none learns why.
fn serve_in_thread(shared: &Arc<Shared>, service: &Arc<dyn Service>, stream: UnixStream) {
    let stream = Arc::new(stream);
    let (id, seat) = shared.enter(Arc::clone(&stream));
    let spawned = {
        let (stream, shared, service) = (Arc::clone(&stream), Arc::clone(shared), Arc::clone(service));
        thread::Builder::new().name("control-client".into()).spawn(move || {
            if let Err(error) = serve(&stream, service.as_ref(), &shared, id, &seat) {
                debug!(%error, "a control client's connection ends");
            }
            drop((service, stream));
            shared.leave(id);
        })
    };
    if let Err(error) = spawned {
        warn!(%error, "a control client is turned away");
        let reason = format!("the switch has no thread for another client: {error}; try again");
        // A client that has gone needs no reason.
        let _ = send(&stream, PARTING, &RequestError::new(ErrorKind::Busy, reason).reply("null"));
        shared.leave(id);
    }
}

impl Shared {
    /// Notes a client, turning out another where there are too many. Returns its number and its seat.
    fn enter(&self, stream: Arc<UnixStream>) -> (u64, Arc<Seat>) {
        let mut clients = self.clients.lock();
        if clients.connected.len() >= MAX_CLIENTS {
            let least = clients.connected.iter().min_by_key(|(_, client)| client.rank()).map(|(&id, _)| id);
            if let Some(client) = least.and_then(|id| clients.connected.remove(&id)) {
                warn!(most = MAX_CLIENTS, "too many control clients: the one that does least is turned out");
                client.seat.is_out.store(true, Ordering::SeqCst);
                end(&client.stream);
                self.lines.look();
                self.work.look();
            }
        }
        let id = clients.next_id;
        clients.next_id += 1;
        clients.threads += 1;
        let seat = Arc::<Seat>::default();
        let (doing, last_heard) = (Doing::Nothing, Instant::now());
        clients.connected.insert(id, Connected { stream, doing, last_heard, seat: Arc::clone(&seat) });
        (id, seat)
    }

    /// Notes what a client is at.
    fn note(&self, id: u64, doing: Doing) {
        if let Some(client) = self.clients.lock().connected.get_mut(&id) {
            client.doing = doing;
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

/// Answers the lines of client `id` until it goes, breaks a rule, or is turned out of its seat.
fn serve(
    stream: &UnixStream,
    service: &dyn Service,
    shared: &Shared,
    id: u64,
    seat: &Seat,
) -> io::Result<()> {
    let patience = shared.limits.patience;
    let mut lines = Lines::new(stream, shared.limits, &shared.lines, seat);
    loop {
        let line = match lines.next()? {
            Next::Line(line) => line,
            Next::End => return Ok(()),
            Next::Refused(error) => {
                send(stream, patience, &error.reply("null"))?;
                stream.shutdown(Shutdown::Write)?;
                discard(stream, patience);
                return Ok(());
            }
        };
        shared.note(id, Doing::Busy);
        let Some(Answered { id: request, method, answer, share }) = answer(line, service, shared, seat)
        else {
            shared.note(id, Doing::Pausing);
            continue;
        };
        match answer {
            Err(error) => send(stream, patience, &error.reply(&request))?,
            Ok(Answer::Reply(reply)) => {
                let mut out = BufWriter::with_capacity(PIECE_BYTES, Outgoing::new(stream, patience));
                write!(out, r#"{{"jsonrpc":"2.0","id":{request},"result":"#)?;
                reply.write_json(&mut out)?;
                out.write_all(b"}\n")?;
                out.flush()?;
            }
            Ok(Answer::Stream(mut items)) => {
                drop(share);
                send(stream, patience, &format!(r#"{{"jsonrpc":"2.0","id":{request},"result":null}}"#))?;
                // Bound: ends with the client's connection or its next request, and `Server::drop` ends the connection.
                while !lines.has_input()? {
                    if let Some(item) = items.next(STREAM_LOOK) {
                        let line = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{item}}}"#);
                        send(stream, patience, &line)?;
                        shared.note(id, Doing::Busy);
                    }
                }
            }
        }
        shared.note(id, Doing::Pausing);
    }
}

/// Sends `line`, which has no newline yet.
fn send(stream: &UnixStream, patience: Duration, line: &str) -> io::Result<()> {
    let mut out = Outgoing::new(stream, patience);
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")
}

/// What a client gets for a line.
struct Answered<'a> {
    /// The request's id.
    id: String,
    method: String,
    answer: Result<Answer, RequestError>,
    /// The memory that the answer takes until it is sent.
    share: Option<Share<'a>>,
}

/// Carries out what stands in a line; `None` if nobody waits for an answer.
fn answer<'a>(
    line: Line<'_>,
    service: &dyn Service,
    shared: &'a Shared,
    seat: &Seat,
) -> Option<Answered<'a>> {
    if line.bytes.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    let mut method = String::new();
    let request = match Request::read(&line.bytes) {
        Ok(request) => request,
        Err(error) => {
            return Some(Answered { id: "null".to_owned(), method, answer: Err(error), share: None });
        }
    };
    let id = request.id.map(str::to_owned);
    let prepared = request.call().and_then(|call| {
        method = call.method;
        prepare(&method, call.params, service, shared)
    });
    let work = prepared.and_then(|prepared| take_share(prepared, shared, &seat.is_out));
    // Before it is carried out: the parameters have left the line, and the share is for what they take.
    drop(line);
    let (answer, share) = match work {
        Ok((prepared, share)) => (prepared.carry_out(), share),
        Err(error) => (Err(error), None),
    };
    // What nobody waits for is not streamed either.
    id.map(|id| Answered { id, method, answer, share })
}

fn prepare(
    method: &str,
    params: Option<&RawValue>,
    service: &dyn Service,
    shared: &Shared,
) -> Result<Box<dyn Prepared>, RequestError> {
    if method == HELLO {
        let NoParams {} = read_params(params)?;
        return Ok(Box::new(Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            max_request_bytes: Some(shared.limits.line_bytes as u64),
        }));
    }
    service.prepare(method, params).unwrap_or_else(|| {
        let known = [&[HELLO], &service.methods()[..]].concat();
        Err(RequestError::unknown_method(method, &known))
    })
}

impl Prepared for Hello {
    fn weight(&self) -> usize {
        0
    }

    fn carry_out(self: Box<Self>) -> Result<Answer, RequestError> {
        Ok(Answer::Reply(self))
    }
}

/// The memory that a request needs to be carried out, when its turn has come.
type Work<'a> = (Box<dyn Prepared>, Option<Share<'a>>);

fn take_share<'a>(
    prepared: Box<dyn Prepared>,
    shared: &'a Shared,
    is_out: &AtomicBool,
) -> Result<Work<'a>, RequestError> {
    let weight = prepared.weight();
    if weight <= FREE_WORK_BYTES {
        return Ok((prepared, None));
    }
    let total = shared.work.total();
    if weight > total {
        let megabytes = |bytes: usize| bytes.div_ceil(1024 * 1024);
        return Err(RequestError::new(
            ErrorKind::Failed,
            format!(
                "this needs about {} MiB of memory, and requests may take {} MiB; ask for less at one time, or give \
                 it in parts",
                megabytes(weight),
                megabytes(total)
            ),
        ));
    }
    match shared.work.take(weight, shared.limits.turn, is_out) {
        Some(share) => Ok((prepared, Some(share))),
        None => Err(busy()),
    }
}
