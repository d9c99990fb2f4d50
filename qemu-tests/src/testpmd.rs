//! DPDK's testpmd as a front-end, and as a reference back-end.
//!
//! virtio_user is a vhost-user front-end written apart from both QEMU and this switch, and it counts every packet.
//! As a reference back-end testpmd forwards between two sockets and looks nothing up: where guests fail on it too, the
//! fault is not the switch's. Memory is a plain memfd (`--no-huge`), so no hugepages need to be reserved.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::failure::{Context, Failure, Result};
use crate::process::Process;
use crate::wait;

const START_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How a virtio_user port drives its ring.
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    /// Queue pairs.
    pub queues: u32,
    /// Descriptors of each ring.
    pub size: u32,
    /// Whether VIRTIO_NET_F_MRG_RXBUF may be negotiated.
    pub mergeable: bool,
}

/// What testpmd counted on its port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Packets that it received.
    pub received: u64,
    /// Packets that it put on its rings.
    pub sent: u64,
}

/// A running testpmd, killed when dropped.
#[derive(Debug)]
pub struct Testpmd {
    process: Process,
    read: usize,
}

impl Testpmd {
    /// A virtio_user front-end on `socket`, its port started and forwarding stopped. `mode` is a testpmd forward mode.
    pub fn front_end(name: &str, socket: &Path, ring: Ring, mode: &str, folder: &Path) -> Result<Self> {
        Testpmd::virtio_user(name, socket, ring, mode, folder, false)
    }

    /// The same with a socket that virtio_user listens on; back-ends come and go.
    pub fn listening(name: &str, socket: &Path, ring: Ring, mode: &str, folder: &Path) -> Result<Self> {
        Testpmd::virtio_user(name, socket, ring, mode, folder, true)
    }

    fn virtio_user(
        name: &str,
        socket: &Path,
        ring: Ring,
        mode: &str,
        folder: &Path,
        listens: bool,
    ) -> Result<Self> {
        if listens && socket.exists() {
            // DPDK does not replace the socket of a process that was killed.
            fs::remove_file(socket).context(socket.display())?;
        }
        let device = format!(
            "net_virtio_user0,path={},queues={},queue_size={},mrg_rxbuf={}{}",
            socket.display(),
            ring.queues,
            ring.size,
            u8::from(ring.mergeable),
            if listens { ",server=1" } else { "" },
        );
        let queues = format!("--rxq={0} --txq={0} --rxd={1} --txd={1}", ring.queues, ring.size);
        Testpmd::start(name, &[device], &format!("{queues} --no-flush-rx --forward-mode={mode}"), folder)
    }

    /// A vhost back-end that forwards between two sockets, which it creates (or, as a client, connects to).
    pub fn back_end(sockets: [&Path; 2], client: bool, folder: &Path) -> Result<Self> {
        for socket in sockets.iter().filter(|socket| !client && socket.exists()) {
            // DPDK does not replace the socket of a process that was killed.
            fs::remove_file(socket).context(socket.display())?;
        }
        let devices: Vec<_> = (sockets.iter().enumerate())
            .map(|(n, path)| {
                format!("net_vhost{n},iface={},queues=1,client={}", path.display(), u8::from(client))
            })
            .collect();
        Testpmd::start("testpmd", &devices, "--auto-start", folder)
    }

    fn start(name: &str, devices: &[String], options: &str, folder: &Path) -> Result<Self> {
        // Two processes with one prefix would share their memory files.
        static PREFIX: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("vsteer{}-{}", std::process::id(), PREFIX.fetch_add(1, Ordering::Relaxed));
        // Line by line: what was printed must not wait behind the prompt, which bypasses the buffer.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd"]);
        // Two threads, neither pinned: with fewer processors than busy threads the scheduler must be free to choose.
        let processors = allowed_processors()?;
        command.arg(format!("--lcores=0@({processors}),1@({processors})"));
        command.args(["--no-pci", "--no-huge", "--no-telemetry", "-m", "256"]);
        command.args(["--no-shconf", "--file-prefix", &prefix]);
        for device in devices {
            command.args(["--vdev", device]);
        }
        command
            .args(["--", "-i", "--nb-cores=1", "--total-num-mbufs=16384"])
            .args(options.split_whitespace());
        let log = unique_log(folder, name);
        let process = Process::spawn(name, command, &log, None).context("needs Debian's package dpdk-dev")?;
        let mut testpmd = Testpmd { process, read: 0 };
        testpmd.answer("its prompt", START_LIMIT)?;
        Ok(testpmd)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Gives a command and returns what is printed until the next prompt.
    pub fn command(&mut self, command: &str) -> Result<String> {
        self.process.write(&format!("{command}\n"))?;
        self.answer(command, ANSWER_LIMIT)
    }

    /// Reads the port's counters.
    pub fn counters(&mut self) -> Result<Counters> {
        let text = self.command("show port stats 0")?;
        let count = |label: &str| {
            let (_, rest) =
                text.split_once(label).ok_or_else(|| Failure::new(format!("no {label} in {text}")))?;
            rest.split_whitespace().next().unwrap_or_default().parse::<u64>().context(label)
        };
        Ok(Counters { received: count("RX-packets:")?, sent: count("TX-packets:")? })
    }

    fn answer(&mut self, what: &str, limit: Duration) -> Result<String> {
        let Testpmd { process, read } = self;
        let answer = wait::until(&format!("testpmd to answer {what}"), limit, || {
            if let Some(status) = process.ended()? {
                crate::fail!("testpmd ended: {status}");
            }
            let output = process.output();
            Ok(output[*read..].find("testpmd>").map(|end| {
                let answer = output[*read..*read + end].to_owned();
                *read += end + "testpmd>".len();
                answer
            }))
        });
        answer.map_err(|failure| Failure::new(format!("{failure}\n{}", process.output())))
    }
}

/// The processors that this process may use, as a list of ranges.
fn allowed_processors() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Ok(list.ok_or_else(|| Failure::new("/proc/self/status lists no processors"))?.trim().into())
}

fn unique_log(folder: &Path, name: &str) -> PathBuf {
    (0..).map(|n| folder.join(format!("{name}.{n}.log"))).find(|path| !path.exists()).unwrap_or_default()
}
