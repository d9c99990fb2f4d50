//! A guest's port: vhost-user.
//!
//! `vsteer-vhost` moves the packets and serves the front-end; here are the port's words, its socket, and how a batch is spread
//! over the guest's receive queues. A queue of this port is a pair of the guest's queues.

use std::fmt;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use arrayvec::ArrayVec;
use vsteer_switch::counters::PortCounters;
use vsteer_switch::egress::rss::rss_hash;
use vsteer_switch::egress::{Finisher, OffloadCaps};
use vsteer_switch::packet::{BURST, Burst, Frame};
use vsteer_vhost::net::features::OffloadOptions;
use vsteer_vhost::net::port::{Rest, Transmitter, VhostOptions, VhostPort};
use vsteer_vhost::net::queue::KickPoller;
use vsteer_vhost::session::endpoint::{Endpoint, Gone};
use vsteer_vhost::session::server::Server;

use super::batch::{Batch, Sink};
use super::driver::{Identity, Opened};
use super::queue_set::QueueSet;
use super::report::{DriverStatus, Link, News};
use super::words::{Offloads, OffloadsDraft, Words, parse_queues};
use crate::config::error::Problem;
use crate::config::inherited_socket::InheritedSocket;
use crate::config::owner::{Owner, check_socket_path, parse_perm};
use crate::config::words::{parse_choice, set_once};
use crate::notify;
use crate::socket_file::{self, SocketFile, SocketFileError};

pub use vsteer_vhost::net::port::{Received, Scratch};

/// What these ports are called.
pub(super) const WORDS: Words = Words {
    type_name: "vhost-user",
    address: "PATH",
    address_key: "path",
    options: &["mode", "owner", "perm", "queues", "csum", "tso"],
};

/// Queue pairs that are offered unless `queues=` says otherwise.
const DEFAULT_QUEUE_PAIRS: u16 = 16;

/// What a guest's port has beside what all ports have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestSpec {
    /// How the front-end is reached.
    pub socket: SocketSpec,
    /// Queue pairs offered.
    pub queue_pairs: u16,
    /// Offloads offered.
    pub offloads: Offloads,
}

/// How the front-end of a vhost-user port is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketSpec {
    /// We listen at a path and the front-end connects.
    Server {
        /// The socket file.
        path: PathBuf,
        /// Owner to give the file.
        owner: Owner,
        /// Permission bits to give the file; `None` leaves them to the umask.
        perm: Option<u32>,
    },
    /// The front-end listens at a path and we connect, again whenever the connection ends.
    Client {
        /// The front-end's socket file.
        path: PathBuf,
    },
    /// The program that started us opened the socket.
    Inherited(InheritedSocket),
}

impl GuestSpec {
    /// The path, or `fd N`.
    pub(super) fn address(&self) -> String {
        match &self.socket {
            SocketSpec::Server { path, .. } | SocketSpec::Client { path } => path.display().to_string(),
            SocketSpec::Inherited(socket) => format!("fd {}", socket.number()),
        }
    }

    /// What no other port may have: the path, in one form however it is written, or the descriptor.
    pub(super) fn identity(&self) -> PathBuf {
        match &self.socket {
            SocketSpec::Server { path, .. } | SocketSpec::Client { path } => socket_file::identity_of(path),
            SocketSpec::Inherited(_) => self.address().into(),
        }
    }

    pub(super) fn fmt_socket_options(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            SocketSpec::Client { .. } => f.write_str(",mode=client"),
            SocketSpec::Server { owner, perm, .. } => {
                if *owner != Owner::default() {
                    write!(f, ",owner={owner}")?;
                }
                perm.map_or(Ok(()), |perm| write!(f, ",perm={perm:04o}"))
            }
            SocketSpec::Inherited(_) => Ok(()),
        }
    }

    pub(super) fn fmt_options(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ",queues={}{}", self.queue_pairs, self.offloads)
    }
}

/// A guest's port whose words are still being read.
#[derive(Debug, Default)]
pub struct GuestDraft {
    path: Option<String>,
    inherited: Option<InheritedSocket>,
    is_client: Option<bool>,
    owner: Option<Owner>,
    perm: Option<u32>,
    queue_pairs: Option<u16>,
    offloads: OffloadsDraft,
}

impl GuestDraft {
    /// A port on a socket that the program which started us opened.
    pub(super) fn on(socket: InheritedSocket) -> Self {
        Self { inherited: Some(socket), ..Self::default() }
    }

    pub(super) fn set_address(&mut self, path: &str) -> Result<(), Problem> {
        check_socket_path(path)?;
        set_once(&mut self.path, path.to_owned())
    }

    pub(super) fn set(&mut self, option: &str, text: &str) -> Result<(), Problem> {
        match option {
            "mode" => set_once(&mut self.is_client, parse_choice(text, ["server", "client"])?),
            "owner" => set_once(&mut self.owner, Owner::parse(text)?),
            "perm" => set_once(&mut self.perm, parse_perm(text)?),
            "queues" => set_once(&mut self.queue_pairs, parse_queues(text)?),
            "csum" => self.offloads.set_csum(text),
            "tso" => self.offloads.set_tso(text),
            _ => Err(Problem::unknown("option", option, WORDS.options.iter().copied())),
        }
    }

    pub(super) fn finish(mut self) -> Result<GuestSpec, Problem> {
        Ok(GuestSpec {
            socket: self.finish_socket()?,
            queue_pairs: self.queue_pairs.unwrap_or(DEFAULT_QUEUE_PAIRS),
            offloads: self.offloads.finish()?,
        })
    }

    fn finish_socket(&mut self) -> Result<SocketSpec, Problem> {
        if let Some(socket) = self.inherited.take() {
            self.refuse_socket_options("the socket was opened by the program that passed it")?;
            return Ok(SocketSpec::Inherited(socket));
        }
        let path = PathBuf::from(self.path.take().ok_or("no socket; use path = \"PATH\"")?);
        if self.is_client.take() == Some(true) {
            self.refuse_socket_options("with mode=client the socket file is the front-end's")?;
            return Ok(SocketSpec::Client { path });
        }
        Ok(SocketSpec::Server { path, owner: self.owner.unwrap_or_default(), perm: self.perm })
    }

    fn refuse_socket_options(&self, why: &str) -> Result<(), Problem> {
        let given = [
            ("mode", self.is_client.is_some()),
            ("owner", self.owner.is_some()),
            ("perm", self.perm.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(format!("{why}; drop {option}=").into()),
            None => Ok(()),
        }
    }
}

/// Why a guest's port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The socket file cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketFileError),
    /// The system has no threads or descriptors left.
    #[error("the session cannot be started: {0}; raise the limits of threads and open files")]
    System(#[from] std::io::Error),
}

/// What serves the front-ends of a port. Dropping it ends the session, then removes the socket.
#[derive(Debug)]
struct Session {
    _server: Server,
    _socket: Option<SocketFile>,
}

/// A guest, as workers see it.
#[derive(Debug)]
pub struct Guest(Arc<VhostPort>);

/// Finds what would keep [`open`] from succeeding now, and changes nothing. Of the sockets only those that we make can fail:
/// a front-end that listens may come later, and a socket that was passed to us was looked at when it was taken.
pub(super) fn check(spec: &GuestSpec) -> Result<(), GuestError> {
    match &spec.socket {
        SocketSpec::Server { path, owner, .. } => Ok(SocketFile::check(path, *owner)?),
        SocketSpec::Client { .. } | SocketSpec::Inherited(_) => Ok(()),
    }
}

/// Opens the socket and starts to serve it.
pub(super) fn open(spec: &GuestSpec, port: &Identity<'_>) -> Result<Opened<Guest>, GuestError> {
    let Offloads { csum, tso } = spec.offloads;
    let offloads = OffloadOptions { checksum: csum, segmentation: tso };
    let guest = Arc::new(VhostPort::new(port.id, VhostOptions { queue_pairs: spec.queue_pairs, offloads }));
    let (endpoint, socket) = match &spec.socket {
        SocketSpec::Server { path, owner, perm } => {
            let socket = SocketFile::listen(path, *perm, *owner)?;
            (Endpoint::Listen(socket.listener().try_clone()?), Some(socket))
        }
        SocketSpec::Client { path } => (Endpoint::Connect(path.clone()), None),
        SocketSpec::Inherited(inherited) => (inherited_endpoint(inherited)?, None),
    };
    let server = Server::start(port.name, Arc::clone(&guest), endpoint)?;
    let session = Session { _server: server, _socket: socket };
    Ok(Opened { driver: Guest(guest), keeper: Some(Box::new(session)) })
}

fn inherited_endpoint(socket: &InheritedSocket) -> std::io::Result<Endpoint> {
    let fd = socket.as_fd().try_clone_to_owned()?;
    if socket.is_listening() {
        return Ok(Endpoint::Listen(fd.into()));
    }
    // Nobody else can ever connect: a switch that serves one VM has served it.
    let number = socket.number();
    let gone = Gone::new(move || {
        tracing::info!("the VM behind --fd={number} has gone");
        notify::end();
    });
    Ok(Endpoint::Connected { stream: fd.into(), gone })
}

// Data path: called by workers.
impl Guest {
    #[inline]
    pub(super) fn queues(&self) -> usize {
        self.0.queue_pairs()
    }

    /// The queues among `assigned` that the guest has started: the others are not worth a look.
    #[inline]
    pub(super) fn live_queues(&self, assigned: QueueSet) -> QueueSet {
        assigned.and(self.0.started_transmitqs())
    }

    #[inline]
    pub(super) fn receive<'a>(
        &'a self,
        queue: usize,
        burst: &mut Burst,
        scratch: &mut Scratch,
        counters: &PortCounters,
    ) -> Option<Received<'a>> {
        self.0.receive(queue, burst, scratch, counters)
    }

    #[inline]
    pub(super) fn look_ahead(&self, queue: usize) {
        self.0.look_ahead(queue);
    }

    /// Spreads a batch over the guest's receive queues by flow, keeping the order within each flow.
    #[inline]
    pub(super) fn transmit(&self, batch: Batch<'_>, scratch: &mut Scratch, finisher: &mut Finisher) {
        match self.0.live_receiveqs() {
            0 | 1 => self.send(0, batch, scratch, finisher),
            queues => self.spread(queues, batch, scratch, finisher),
        }
    }

    fn spread(&self, queues: u32, batch: Batch<'_>, scratch: &mut Scratch, finisher: &mut Finisher) {
        let mut queue_of = [0; BURST];
        for &index in batch.indices {
            let hash = rss_hash(&batch.burst.frame(usize::from(index)));
            #[allow(clippy::cast_possible_truncation, reason = "below `queues`, as the hash is below 2^32")]
            {
                queue_of[usize::from(index)] = ((u64::from(hash) * u64::from(queues)) >> 32) as u32;
            }
        }
        let mut left: ArrayVec<u8, BURST>;
        let mut rest = batch.indices;
        // Bound: each round sends at least the first packet that is left. Most batches are of one queue and take one.
        while let Some(&first) = rest.first() {
            let queue = queue_of[usize::from(first)];
            let goes = |index: &u8| queue_of[usize::from(*index)] == queue;
            if rest.iter().all(goes) {
                return self.send(queue, batch.with(rest), scratch, finisher);
            }
            let (now, later): (ArrayVec<u8, BURST>, ArrayVec<u8, BURST>) =
                rest.iter().copied().partition(goes);
            self.send(queue, batch.with(&now), scratch, finisher);
            left = later;
            rest = &left;
        }
    }

    fn send(&self, hash: u32, batch: Batch<'_>, scratch: &mut Scratch, finisher: &mut Finisher) {
        let counters = batch.counters;
        let transmitter = match self.0.transmit(hash) {
            Ok(transmitter) => transmitter,
            Err(reason) => return counters.dropped(reason, batch.indices.len() as u64),
        };
        let mut receiveq = Receiveq { transmitter, scratch, counters };
        batch.finish(self.caps(), finisher, &mut receiveq);
        receiveq.transmitter.finish();
    }

    /// The offloads that the guest takes.
    #[inline]
    fn caps(&self) -> OffloadCaps {
        self.0.negotiated().guest_takes()
    }

    /// Asks for kicks.
    pub(super) fn arm(&self, assigned: QueueSet) -> Rest {
        // Every queue is asked, whatever the one before it said.
        self.live_queues(assigned).iter().map(|queue| self.0.request_kick(queue)).min().unwrap_or(Rest::Long)
    }

    pub(super) fn resume(&self, assigned: QueueSet) {
        self.live_queues(assigned).iter().for_each(|queue| self.0.suppress_kicks(queue));
    }
}

// Control.
impl Guest {
    pub(super) fn attach(&self, queue: usize, poller: &Arc<dyn KickPoller>) {
        self.0.set_poller(queue, Arc::clone(poller));
    }

    pub(super) fn detach(&self, queue: usize, poller: &Arc<dyn KickPoller>) {
        self.0.release_poller(queue, poller);
    }

    pub(super) fn status(&self) -> DriverStatus {
        let status = self.0.status();
        let link = match (&status.fault, status.connected) {
            (Some(_), true) => Link::Stopped,
            (None, true) => Link::Up,
            (_, false) => Link::Waiting,
        };
        DriverStatus {
            link,
            fault: status.fault.map(|fault| fault.to_string()),
            activity: None,
            features: status.negotiated.names(),
            live_queues: status.live_pairs.into(),
        }
    }

    pub(super) fn take_news(&self) -> Option<News> {
        let fault = self.0.take_unreported_fault()?;
        Some(News::Stopped(format!("{fault}; it goes on when the guest's driver or front-end starts anew")))
    }
}

/// A guest's receiveq while a batch is sent.
struct Receiveq<'a> {
    transmitter: Transmitter<'a>,
    scratch: &'a mut Scratch,
    counters: &'a PortCounters,
}

impl Sink for Receiveq<'_> {
    #[inline]
    fn send<'f>(&mut self, frames: impl ExactSizeIterator<Item = Frame<'f>>) {
        self.transmitter.send(frames, self.scratch, self.counters);
    }

    #[inline]
    fn show(&mut self) {
        self.transmitter.show();
    }
}
