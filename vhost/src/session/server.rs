//! The thread that serves a port's front-ends.
//!
//! It waits for all of its sockets at once and for none of them alone. Any number of programs may connect to a port's
//! socket; the first that says something about the device is the port's front-end (`protocol::claims`), and another that does so
//! meanwhile waits. So a connection that is silent, sends half a message, or only asks what a port offers, keeps nobody
//! out. When the front-end goes, for whatever reason, every ring is stopped and the guest's memory let go; the next one
//! starts from nothing. What the guest had put into its rings is still there and goes on where the used index stands.
//!
//! Whatever is asked of a descriptor that a front-end sent is asked by this thread, without a lock, so a front-end that
//! makes it wait holds up nobody but itself. Even then the port can be deleted: see `Server`.
//!
//! What the process runs short of (descriptors, memory) is tried again, and said once. The thread waits by poll, which
//! needs no descriptor of its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use parking_lot::{Condvar, Mutex};
use vhost::vhost_user::message::FrontendReq;

use super::connection::{Connection, End, Next};
use super::device::Device;
use super::endpoint::{Endpoint, Gone};
use super::message::{Header, Message, Refusal};
use super::protocol::{Answer, can_be_refused, claims, is_needed};
use crate::net::notifier::Detour;
use crate::net::port::{PortFault, VhostPort};

/// How long to wait before trying again: to connect to a front-end that does not listen, or what the process had no
/// descriptors for.
const RETRY: Duration = Duration::from_millis(200);

/// Longest wait before connecting again to a front-end that got nowhere time after time.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Longest time for which a front-end that comes is left waiting because those before it left over the number of queue pairs.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Connections at once: a front-end, and programs that are none or wait to be. One more takes the place of the oldest that
/// is none.
const MAX_CONNECTIONS: usize = 16;

/// Messages that one connection is served in a row.
const MESSAGES: usize = 64;

/// Refusals of one connection that are logged.
const LOGGED_REFUSALS: u32 = 4;

/// Longest wait for the thread when its port goes.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves the front-ends of one port; stops its thread when dropped.
///
/// The thread ends at once, unless a front-end has it wait inside a file of the front-end's own (a pipe, FUSE). Then it is
/// left behind after a second, and ends when the front-end lets it; the rings are stopped already.
#[derive(Debug)]
pub struct Server {
    name: String,
    port: Arc<VhostPort>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// How the thread is told to stop, and tells that it has.
#[derive(Debug)]
struct Stop {
    is_requested: AtomicBool,
    detour: Arc<Detour>,
    has_ended: Mutex<bool>,
    ended: Condvar,
}

impl Stop {
    fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::SeqCst)
    }
}

/// Tells the owner that the thread is over, however it ends.
struct Ending(Arc<Stop>);

impl Drop for Ending {
    fn drop(&mut self) {
        *self.0.has_ended.lock() = true;
        self.0.ended.notify_all();
    }
}

impl Server {
    /// Starts to serve `port` at `endpoint`, in a thread named after `name`.
    ///
    /// # Errors
    /// The thread or its event descriptor cannot be made.
    pub fn start(name: &str, port: Arc<VhostPort>, endpoint: Endpoint) -> io::Result<Self> {
        let detour = Arc::new(Detour::new()?);
        let stop = Arc::new(Stop {
            is_requested: AtomicBool::new(false),
            detour: Arc::clone(&detour),
            has_ended: Mutex::new(false),
            ended: Condvar::new(),
        });
        if let Endpoint::Listen(listener) = &endpoint {
            // A front-end that goes before it is accepted must not leave us waiting.
            listener.set_nonblocking(true)?;
        }
        let session = Session::new(name, Arc::clone(&port), Arc::clone(&stop), endpoint);
        let ending = Ending(Arc::clone(&stop));
        let thread = thread::Builder::new().name(format!("vu-{name}")).spawn(move || {
            let _ending = ending;
            session.run();
        })?;
        Ok(Self { name: name.to_owned(), port, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.is_requested.store(true, Ordering::SeqCst);
        self.stop.detour.wake();
        let Some(thread) = self.thread.take() else { return };
        let has_ended = {
            let mut has_ended = self.stop.has_ended.lock();
            let deadline = Instant::now() + STOP_TIMEOUT;
            while !*has_ended && !self.stop.ended.wait_until(&mut has_ended, deadline).timed_out() {}
            *has_ended
        };
        if has_ended {
            // A panic there was our own bug and is already on stderr; the port is going anyway.
            let _ = thread.join();
        } else {
            self.port.disconnected(None);
            tracing::warn!(
                port = self.name,
                "the front-end keeps the port's thread waiting in a file of its own; the thread is left behind"
            );
        }
    }
}

/// Where front-ends come from.
enum Door {
    Listen(UnixListener),
    Connect(PathBuf),
    /// One that came already, and no other.
    Connected {
        stream: Option<UnixStream>,
        gone: Gone,
    },
}

/// What a front-end cannot be served for at present, said once each time it begins.
#[derive(Default)]
struct Shortage {
    said: Option<Errno>,
}

/// Front-ends that went without ever starting a ring, one after the other. They may come back many times a second, and
/// what was wrong with them is told once.
#[derive(Default)]
struct Fruitless {
    count: u32,
    /// What was wrong with the last of them.
    said: Option<PortFault>,
}

impl Fruitless {
    /// When to connect again.
    fn retry(&self) -> Duration {
        (RETRY * 2u32.saturating_pow(self.count.saturating_sub(1).min(8))).min(LONGEST_RETRY)
    }
}

/// The port's front-end.
struct FrontEnd {
    /// Which of the connections it is.
    id: u64,
    device: Device,
}

/// What a wait found.
#[derive(Default)]
struct Ready {
    errands: bool,
    door: bool,
    control: bool,
    /// Of each connection: something to read, room to write, the other end gone.
    connections: Vec<(u64, PollFlags)>,
}

/// What the thread works with.
struct Session {
    name: String,
    port: Arc<VhostPort>,
    stop: Arc<Stop>,
    door: Door,
    /// In the order in which they came. The port's front-end is one of them.
    connections: Vec<Connection>,
    next_id: u64,
    front_end: Option<FrontEnd>,
    /// What was tried in vain (to connect, to accept, to receive descriptors) is not tried again before this.
    retry_at: Option<Instant>,
    shortage: Shortage,
    fruitless: Fruitless,
}

impl Session {
    fn new(name: &str, port: Arc<VhostPort>, stop: Arc<Stop>, endpoint: Endpoint) -> Self {
        let door = match endpoint {
            Endpoint::Listen(listener) => Door::Listen(listener),
            Endpoint::Connect(path) => Door::Connect(path),
            Endpoint::Connected { stream, gone } => Door::Connected { stream: Some(stream), gone },
        };
        Self {
            name: name.to_owned(),
            port,
            stop,
            door,
            connections: Vec::new(),
            next_id: 0,
            front_end: None,
            retry_at: None,
            shortage: Shortage::default(),
            fruitless: Fruitless::default(),
        }
    }

    fn run(mut self) {
        loop {
            // A panic is our own bug. It ends what the front-ends began; the next ones are served.
            let served = catch_unwind(AssertUnwindSafe(|| self.serve_until_stopped()));
            let fault =
                served.is_err().then(|| PortFault::Protocol("the session failed, which is a bug".into()));
            let front_end = self.front_end.take();
            if front_end.is_some() {
                self.port.disconnected(fault);
            }
            drop(front_end);
            self.connections.clear();
            if served.is_ok() {
                break;
            }
        }
        if let (Door::Connected { gone, .. }, false) = (self.door, self.stop.is_requested()) {
            gone.call();
        }
    }

    fn serve_until_stopped(&mut self) {
        while !self.stop.is_requested() {
            self.open_door();
            if self.is_over() {
                break;
            }
            let ready = self.wait().unwrap_or_else(|errno| {
                self.run_short(errno, "the port's sockets cannot be waited for");
                thread::sleep(RETRY);
                Ready::default()
            });
            if self.stop.is_requested() {
                break;
            }
            if ready.errands {
                self.run_errands();
            }
            if ready.door {
                self.accept();
            }
            if let (true, Some(front_end)) = (ready.control, &mut self.front_end) {
                front_end.device.serve_control();
            }
            self.keep_time();
            for (id, flags) in ready.connections {
                if let Err(end) = self.attend(id, flags) {
                    self.end(id, end);
                }
            }
        }
    }

    /// Whether the one front-end that there was to be has gone.
    fn is_over(&self) -> bool {
        matches!(self.door, Door::Connected { stream: None, .. }) && self.connections.is_empty()
    }

    // Waiting.

    /// Waits until there is something to do.
    ///
    /// # Errors
    /// The system has no memory for it at present.
    fn wait(&self) -> nix::Result<Ready> {
        let now = Instant::now();
        let is_paused = self.is_paused(now);
        let mut fds = vec![PollFd::new(self.stop.detour.event(), PollFlags::POLLIN)];
        for connection in &self.connections {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, connection.wants_to_read());
            flags.set(PollFlags::POLLOUT, connection.wants_to_write());
            fds.push(PollFd::new(connection.socket(), flags));
        }
        let door = match &self.door {
            Door::Listen(listener) if !is_paused => {
                fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
                Some(fds.len() - 1)
            }
            _ => None,
        };
        let control =
            self.front_end.as_ref().and_then(|front_end| front_end.device.control_kick()).map(|kick| {
                fds.push(PollFd::new(kick, PollFlags::POLLIN));
                fds.len() - 1
            });
        match poll(&mut fds, self.timeout(now)) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno),
        }
        let seen = |index: usize| fds[index].revents().unwrap_or(PollFlags::empty());
        Ok(Ready {
            errands: !seen(0).is_empty(),
            door: door.is_some_and(|index| !seen(index).is_empty()),
            control: control.is_some_and(|index| !seen(index).is_empty()),
            connections: (1..)
                .zip(&self.connections)
                .map(|(at, connection)| (connection.id, seen(at)))
                .collect(),
        })
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| at > now)
    }

    /// How long to wait at most.
    fn timeout(&self, now: Instant) -> PollTimeout {
        let deadline = self.front_end.as_ref().and_then(|front_end| front_end.device.deadline());
        let Some(first) = [self.retry_at, deadline].into_iter().flatten().min() else {
            return PollTimeout::NONE;
        };
        // One more: what is left of a millisecond would be waited for in a loop.
        let ms = first.saturating_duration_since(now).as_millis() + 1;
        PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
    }

    /// Does what was put off until now.
    fn keep_time(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some() && !self.is_paused(now) {
            self.retry_at = None;
            self.connections.iter_mut().for_each(|connection| connection.lacks_room = false);
        }
        let Some(front_end) = &mut self.front_end else { return };
        if front_end.device.deadline().is_some_and(|deadline| deadline <= now)
            && let Err(refusal) = front_end.device.expire_memory()
        {
            let id = front_end.id;
            self.end(id, End::Refused(refusal));
        }
    }

    /// What the process runs short of is tried again a little later; an operator learns of it once.
    fn run_short(&mut self, errno: Errno, what: &'static str) {
        self.retry_at = Some(Instant::now() + RETRY);
        if self.shortage.said.replace(errno) != Some(errno) {
            let error = errno.desc();
            tracing::warn!(
                port = self.name,
                error,
                "{what}, and it is tried again until it works; if it lasts, raise the limits of open files and memory"
            );
        }
    }

    fn has_enough(&mut self) {
        if self.shortage.said.take().is_some() {
            tracing::info!(port = self.name, "front-ends can be served again");
        }
    }

    // Front-ends that come.

    /// Makes the connection that is made from here, if it is time for it.
    fn open_door(&mut self) {
        let now = Instant::now();
        match &mut self.door {
            Door::Listen(_) => {}
            Door::Connected { stream, .. } => {
                if let Some(stream) = stream.take() {
                    self.add(stream);
                }
            }
            Door::Connect(path)
                if self.connections.is_empty() && self.retry_at.is_none_or(|at| at <= now) =>
            {
                match try_connect(path) {
                    Ok(stream) => {
                        self.retry_at = None;
                        self.has_enough();
                        self.add(stream);
                    }
                    // A front-end that does not listen yet is no fault.
                    Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::EAGAIN) => {
                        self.retry_at = Some(now + RETRY);
                    }
                    Err(errno) => self.run_short(errno, "the front-end's socket cannot be connected to"),
                }
            }
            Door::Connect(_) => {}
        }
    }

    /// Accepts one front-end. Others that wait are accepted in the next rounds: what each of them says is heard before it
    /// makes room for one that comes later.
    fn accept(&mut self) {
        let Door::Listen(listener) = &self.door else { return };
        match listener.accept() {
            Ok((stream, _)) => {
                self.has_enough();
                self.make_room();
                self.add(stream);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {
                }
                _ => {
                    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                    self.run_short(errno, "a front-end cannot be accepted");
                }
            },
        }
    }

    fn add(&mut self, stream: UnixStream) {
        self.next_id += 1;
        self.connections.push(Connection::new(self.next_id, stream, Arc::clone(&self.port)));
    }

    /// Ends the oldest connection that is nobody, if there are as many as there can be.
    fn make_room(&mut self) {
        if self.connections.len() < MAX_CONNECTIONS {
            return;
        }
        let front_end = self.front_end.as_ref().map(|front_end| front_end.id);
        let is_nobody =
            |connection: &Connection| Some(connection.id) != front_end && connection.held.is_none();
        // If all wait to be the front-end, the last of them has waited least.
        let goes = self.connections.iter().position(is_nobody).unwrap_or(MAX_CONNECTIONS - 1);
        self.connections.remove(goes);
    }

    // Messages.

    fn connection(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    /// Serves what a connection has sent, and sends what it takes.
    fn attend(&mut self, id: u64, flags: PollFlags) -> Result<(), End> {
        let Some(connection) = self.connection(id) else { return Ok(()) };
        if flags.contains(PollFlags::POLLOUT) {
            connection.flush()?;
        }
        let is_gone = flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        if !connection.wants_to_read() {
            // What it still has to say can neither be heard now nor answered later.
            return if is_gone { Err(End::Gone) } else { Ok(()) };
        }
        if !is_gone && !flags.contains(PollFlags::POLLIN) {
            return Ok(());
        }
        // Bound: MESSAGES; what else was sent is served in the next round.
        for _ in 0..MESSAGES {
            if self.stop.is_requested() {
                break;
            }
            let Some(connection) = self.connection(id).filter(|connection| connection.wants_to_read()) else {
                break;
            };
            match connection.next()? {
                Next::Wait => break,
                Next::NoRoom => {
                    connection.lacks_room = true;
                    self.run_short(Errno::EMFILE, "a front-end's descriptors cannot be received");
                    break;
                }
                Next::Message(header, Ok(message)) => self.serve(id, header, message)?,
                Next::Message(header, Err(refusal)) => self.respond(id, header, Err(refusal), None)?,
            }
        }
        Ok(())
    }

    /// Serves one message, or keeps it until the port is free.
    fn serve(&mut self, id: u64, header: Header, mut message: Message) -> Result<(), End> {
        let is_front_end = self.front_end.as_ref().is_some_and(|front_end| front_end.id == id);
        if claims(message.request) && !is_front_end {
            if self.front_end.is_some() {
                tracing::info!(port = self.name, "another front-end waits until the present one has gone");
                if let Some(connection) = self.connection(id) {
                    connection.held = Some((header, message));
                }
                return Ok(());
            }
            self.become_front_end(id);
        }
        if !message.descriptors.is_empty() {
            self.has_enough();
        }
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else {
            return Ok(());
        };
        let answer = match connection.conversation.answer(&message) {
            Some(answer) => answer,
            None => match &mut self.front_end {
                Some(front_end) => connection.conversation.serve(&mut message, &mut front_end.device),
                None => return Ok(()),
            },
        };
        self.respond(id, header, answer, Some(message.request))
    }

    fn become_front_end(&mut self, id: u64) {
        let device = Device::new(Arc::clone(&self.port), Arc::clone(&self.stop.detour));
        self.front_end = Some(FrontEnd { id, device });
        self.port.connected();
        if self.fruitless.said.is_none() {
            tracing::info!(port = self.name, "front-end connected");
        } else {
            tracing::debug!(port = self.name, "front-end connected");
        }
    }

    /// Answers a message, which is `None` if it is unknown. What is refused without the front-end learning of it ends the
    /// connection.
    fn respond(
        &mut self,
        id: u64,
        header: Header,
        answer: Result<Answer, Refusal>,
        request: Option<FrontendReq>,
    ) -> Result<(), End> {
        let is_front_end = self.front_end.as_ref().is_some_and(|front_end| front_end.id == id);
        let (port, name) = (Arc::clone(&self.port), self.name.clone());
        let Some(connection) = self.connection(id) else { return Ok(()) };
        match answer {
            Ok(answer) => connection.answer(header, &answer),
            Err(refusal) if header.needs_reply() && request.is_none_or(can_be_refused) => {
                if connection.refused < LOGGED_REFUSALS {
                    tracing::warn!(port = name, %refusal, "a message of the front-end is refused, and it is told so");
                }
                if is_front_end && request.is_some_and(is_needed) {
                    port.complain(fault_of(refusal));
                }
                connection.refuse(header)
            }
            Err(refusal) => Err(End::Refused(refusal)),
        }
    }

    /// Writes where workers may not.
    fn run_errands(&mut self) {
        let errands = self.stop.detour.take();
        let Some(front_end) = &mut self.front_end else { return };
        errands.into_iter().for_each(|errand| front_end.device.run(errand));
    }

    // Front-ends that go.

    /// Ends a connection, and gives the port to whoever waits for it.
    fn end(&mut self, id: u64, end: End) {
        let mut ended = Some((id, end));
        // Bound: each round ends a connection.
        while let Some((id, end)) = ended.take() {
            let Some(at) = self.connections.iter().position(|connection| connection.id == id) else { return };
            let connection = self.connections.remove(at);
            let fault = match end {
                End::Gone if connection.conversation.is_told_pairs => {
                    Some(PortFault::FewPairs { pairs: self.port.queue_pairs() })
                }
                End::Gone => None,
                End::Refused(refusal) => Some(fault_of(refusal)),
            };
            match self.front_end.take_if(|front_end| front_end.id == id) {
                Some(front_end) => self.front_end_goes(front_end, fault),
                None => self.visitor_goes(fault),
            }
            if self.front_end.is_none() {
                let waiting = self.connections.iter_mut().find_map(|connection| {
                    connection.held.take().map(|(header, message)| (connection.id, header, message))
                });
                if let Some((id, header, message)) = waiting
                    && let Err(end) = self.serve(id, header, message)
                {
                    ended = Some((id, end));
                }
            }
        }
    }

    fn front_end_goes(&mut self, front_end: FrontEnd, fault: Option<PortFault>) {
        // Workers let go of everything first; then files are closed and memory is unmapped, which may take a while.
        self.port.disconnected(fault.clone());
        let is_fruitless = !front_end.device.has_started();
        drop(front_end);
        match &fault {
            Some(fault) if is_fruitless && self.fruitless.said.as_ref() == Some(fault) => {
                tracing::debug!(port = self.name, %fault, "front-end cut off");
            }
            Some(fault) => tracing::warn!(port = self.name, %fault, "front-end cut off"),
            None => tracing::info!(port = self.name, "front-end disconnected"),
        }
        self.fruitless = match is_fruitless {
            true => Fruitless { count: self.fruitless.count.saturating_add(1), said: fault },
            false => Fruitless::default(),
        };
        self.pause();
    }

    /// Puts off the next front-end for longer each time one gets nowhere. One that comes by itself is put off only if it will
    /// surely leave again, and for a shorter time: it may be another.
    fn pause(&mut self) {
        let retry = self.fruitless.retry();
        let pause = match (&self.door, &self.fruitless.said) {
            (Door::Connect(_), _) => retry,
            (Door::Listen(_), Some(PortFault::FewPairs { .. })) => retry.min(LONGEST_PAUSE),
            (Door::Listen(_) | Door::Connected { .. }, _) => return,
        };
        self.retry_at = Some(Instant::now() + pause);
    }

    /// A connection goes that was never the port's front-end.
    fn visitor_goes(&mut self, fault: Option<PortFault>) {
        let Some(fault) = fault else {
            tracing::debug!(port = self.name, "a connection went that said nothing about the device");
            return;
        };
        if self.front_end.is_none() {
            self.port.complain(fault.clone());
        }
        if self.fruitless.said.as_ref() == Some(&fault) {
            tracing::debug!(port = self.name, %fault, "connection cut off");
        } else {
            tracing::warn!(port = self.name, %fault, "connection cut off");
            self.fruitless.said = Some(fault);
        }
        self.pause();
    }
}

/// What a refusal says of the port.
fn fault_of(refusal: Refusal) -> PortFault {
    match refusal {
        Refusal::Memory(fault) => PortFault::Memory(fault),
        other => PortFault::Protocol(other.to_string()),
    }
}

/// Connects without waiting: a front-end that listens but accepts nobody must not keep us.
fn try_connect(path: &Path) -> nix::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}
