//! Opens what a port specification asks for, and keeps it open.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use parking_lot::Mutex;
use vsteer_switch::egress::OffloadCaps;
use vsteer_switch::port::PortId;
use vsteer_vhost::net::features::OffloadOptions;
use vsteer_vhost::net::port::{VhostOptions, VhostPort};
use vsteer_vhost::session::endpoint::Endpoint;
use vsteer_vhost::session::server::Server;

use crate::config::{InheritedSocket, PortKind, PortSpec, VhostUserSpec};
use crate::port::tap::{Tap, TapConfig, TapError};
use crate::port::{Driver, Port, TapPort};
use crate::socket_file::{SocketFile, SocketFileError};

/// A port and what keeps it alive; dropping it ends the session, then removes the socket.
#[derive(Debug)]
pub struct OpenPort {
    /// The port.
    pub port: Arc<Port>,
    _server: Option<Server>,
    _socket: Option<SocketFile>,
}

/// Why a port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The socket file cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketFileError),
    /// The TAP interface cannot be had.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The system has no threads or descriptors left, or no folder for temporary files.
    #[error(
        "the session cannot be started: {0}; raise the limits of threads and open files, or set TMPDIR to a folder that \
         can be written"
    )]
    System(#[from] std::io::Error),
}

impl OpenPort {
    /// Says so if a port as `spec` asks for would get in the way of this one.
    pub fn conflict(&self, spec: &PortSpec) -> Option<String> {
        let mine = self.port.spec();
        if mine.name == spec.name {
            return Some(format!("port {}: the name is taken; choose another", spec.name));
        }
        if mine.local && spec.local {
            return Some(format!(
                "port {}: {} is the local port already; drop local=on",
                spec.name, mine.name
            ));
        }
        (mine.identity() == spec.identity()).then(|| {
            format!("port {}: {} is already port {}; choose another", spec.name, spec.address(), mine.name)
        })
    }
}

impl fmt::Display for OpenPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.port.spec().name.fmt(f)
    }
}

/// Opens the port numbered `id` for `workers` workers.
///
/// # Errors
/// What the operator can do about it.
pub fn open(id: PortId, spec: PortSpec, workers: usize) -> Result<OpenPort, OpenError> {
    match spec.kind.clone() {
        PortKind::VhostUser(kind) => open_guest(id, spec, &kind, workers),
        PortKind::Tap { interface } => open_tap(id, spec, interface, workers),
    }
}

fn open_guest(
    id: PortId,
    spec: PortSpec,
    kind: &VhostUserSpec,
    workers: usize,
) -> Result<OpenPort, OpenError> {
    let offloads = OffloadOptions { checksum: spec.offloads.csum, segmentation: spec.offloads.tso };
    let options = VhostOptions { queue_pairs: spec.queue_pairs, offloads };
    let guest = Arc::new(VhostPort::new(id, options));
    let (endpoint, socket) = match kind {
        VhostUserSpec::Server { path, owner, perm } => {
            let socket = SocketFile::listen(path, *perm, *owner)?;
            (Endpoint::Listen(socket.listener().try_clone()?), Some(socket))
        }
        VhostUserSpec::Client { path } => (Endpoint::Connect(path.clone()), None),
        VhostUserSpec::Inherited(inherited) => (inherited_endpoint(inherited)?, None),
    };
    let server = Server::start(&spec.name, Arc::clone(&guest), endpoint)?;
    let port = Arc::new(Port::new(id, spec, Driver::VhostUser(guest), workers));
    Ok(OpenPort { port, _server: Some(server), _socket: socket })
}

fn inherited_endpoint(socket: &InheritedSocket) -> std::io::Result<Endpoint> {
    let fd = socket.as_fd().try_clone_to_owned()?;
    Ok(if socket.is_listening() { Endpoint::Listen(fd.into()) } else { Endpoint::Connected(fd.into()) })
}

fn open_tap(id: PortId, spec: PortSpec, interface: String, workers: usize) -> Result<OpenPort, OpenError> {
    let config = TapConfig {
        queues: spec.queue_pairs,
        offload: spec.offloads.csum && spec.offloads.tso,
        mtu: spec.mtu.map(u32::from),
        ..TapConfig::new(interface)
    };
    let tap = Tap::open(&config)?;
    let (checksum, tso) = (tap.checksum(), tap.tso());
    let caps = OffloadCaps { checksum, tso4: tso, tso6: tso, ecn: tso };
    let (receivers, transmitters): (Vec<_>, Vec<_>) =
        tap.into_queues().into_iter().map(|queue| (queue.receiver, queue.transmitter)).unzip();
    let driver = Driver::Tap(TapPort {
        receivers: receivers.into_iter().map(Mutex::new).collect(),
        transmitters: transmitters.into(),
        caps,
        failed: AtomicI32::new(0),
    });
    Ok(OpenPort { port: Arc::new(Port::new(id, spec, driver, workers)), _server: None, _socket: None })
}
