//! QEMU guests and the commands that run inside them.
//!
//! A guest is one QEMU with a virtio-net device per vhost-user socket. Its console, the agent's socket and QEMU's
//! monitor are files in a folder of its own. The agent (`guests/init`) runs one shell command at a time; longer work is
//! a `Job` inside the guest. `Guest::spawn` returns at once, so that several guests boot side by side;
//! `Guest::wait_ready` then waits for each.

use std::env;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::assets::Assets;
use crate::failure::{Context, Result};
use crate::measure::{Ping, Throughput};
use crate::process::{Process, read_lossy};
use crate::qmp::Qmp;
use crate::{ensure, fail, wait};

/// From QEMU's start to the agent: 4 s alone under TCG, 12 s beside three others on two cores.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// The usual limit of a command in the guest.
const COMMAND_LIMIT: Duration = Duration::from_secs(15);

/// One virtio-net device.
#[derive(Debug, Clone)]
pub struct Nic {
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// QEMU creates the socket and the switch connects; otherwise QEMU connects, again and again.
    pub qemu_listens: bool,
    /// Pause between QEMU's attempts to connect.
    pub reconnect_ms: u32,
    /// Queue pairs.
    pub queues: u32,
    /// Address of the interface in the guest, with its prefix length; none leaves it down.
    pub address: Option<String>,
    /// Further properties of the device, each as `name=value`.
    pub properties: Vec<String>,
}

impl Nic {
    /// A device with one queue pair that connects to `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Nic {
            socket,
            qemu_listens: false,
            reconnect_ms: 200,
            queues: 1,
            address: None,
            properties: Vec::new(),
        }
    }

    /// Sets the interface up with this address.
    pub fn address(mut self, address: &str) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Sets the number of queue pairs.
    pub fn queues(mut self, queues: u32) -> Self {
        self.queues = queues;
        self
    }

    /// Makes QEMU the one that creates the socket.
    pub fn qemu_listens(mut self) -> Self {
        self.qemu_listens = true;
        self
    }
}

/// How to boot a guest.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// The name in messages; also decides the MAC addresses.
    pub name: String,
    /// Devices, eth0 first.
    pub nics: Vec<Nic>,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory.
    pub memory_mib: u32,
    /// MTU of all interfaces.
    pub mtu: Option<u32>,
    /// Start without booting, and wait for a migration on this socket.
    pub incoming: Option<PathBuf>,
}

impl GuestSpec {
    /// A guest with one processor and one device.
    pub fn new(name: &str, nic: Nic) -> Self {
        let vcpus = nic.queues;
        GuestSpec { name: name.into(), nics: vec![nic], vcpus, memory_mib: 192, mtu: None, incoming: None }
    }

    /// Locally administered, the same for the same name and index, and unlike for the names of one test.
    fn mac(&self, nic: usize) -> String {
        let hash = self.name.bytes().fold(0u16, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let [high, low] = hash.to_be_bytes();
        format!("52:54:00:{high:02x}:{low:02x}:{nic:02x}")
    }

    fn command_line(&self) -> String {
        let mut words = String::from("console=ttyS0 quiet mitigations=off");
        for (index, nic) in self.nics.iter().enumerate() {
            if let Some(address) = &nic.address {
                words += &format!(" t.ip{index}={address}");
            }
        }
        if let Some(mtu) = self.mtu {
            words += &format!(" t.mtu={mtu}");
        }
        words
    }

    fn qemu(&self, folder: &Path) -> Result<Command> {
        let assets = Assets::get()?;
        let accel = match accelerator()? {
            "tcg" => "tcg,thread=multi",
            other => other,
        };
        let memory = self.memory_mib;
        let mut qemu = Command::new(assets.qemu());
        qemu.args(["-name", &self.name, "-M", "q35,memory-backend=mem", "-accel", accel]);
        qemu.args(["-smp", &self.vcpus.to_string(), "-m", &memory.to_string()]);
        qemu.args(["-object", &format!("memory-backend-memfd,id=mem,size={memory}M,share=on")]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        qemu.arg("-kernel").arg(assets.kernel()).arg("-initrd").arg(assets.initramfs());
        qemu.args(["-append", &self.command_line()]);
        let path = |name: &str| folder.join(name).display().to_string();
        qemu.args([
            "-chardev",
            &format!("file,id=console,path={}", path("console")),
            "-serial",
            "chardev:console",
        ]);
        qemu.args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", path("agent"))]);
        qemu.args(["-serial", "chardev:agent"]);
        qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))]);
        for (index, nic) in self.nics.iter().enumerate() {
            let socket = nic.socket.display();
            let role = match nic.qemu_listens {
                true => "server=on,wait=off".into(),
                false => format!("reconnect-ms={}", nic.reconnect_ms),
            };
            qemu.args(["-chardev", &format!("socket,id=chr{index},path={socket},{role}")]);
            qemu.args([
                "-netdev",
                &format!("vhost-user,id=net{index},chardev=chr{index},queues={}", nic.queues),
            ]);
            let mut device = format!("virtio-net-pci,netdev=net{index},mac={},romfile=", self.mac(index));
            if nic.queues > 1 {
                device += &format!(",mq=on,vectors={}", 2 * nic.queues + 2);
            }
            for property in &nic.properties {
                device += &format!(",{property}");
            }
            qemu.args(["-device", &device]);
        }
        if let Some(socket) = &self.incoming {
            qemu.args(["-incoming", &format!("unix:{}", socket.display())]);
        }
        Ok(qemu)
    }
}

/// What a command in the guest wrote, and its exit status.
#[derive(Debug)]
pub struct Output {
    /// Exit status; 143 when the command ran into its limit.
    pub status: i32,
    /// Standard output and error.
    pub text: String,
}

/// A command that runs in the guest beside the agent.
#[derive(Debug)]
pub struct Job {
    id: u32,
    command: String,
}

/// A running guest, killed when dropped.
#[derive(Debug)]
pub struct Guest {
    spec: GuestSpec,
    folder: PathBuf,
    qemu: Process,
    agent: Option<UnixStream>,
    requests: u32,
}

impl Guest {
    /// Starts QEMU; its files go to a folder of its own inside `folder`.
    pub fn spawn(spec: GuestSpec, folder: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(&spec.name).tempdir_in(folder)?.keep();
        let qemu = Process::spawn(&spec.name, spec.qemu(&folder)?, &folder.join("qemu.log"), None)?;
        Ok(Guest { spec, folder, qemu, agent: None, requests: 0 })
    }

    /// The guest's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How it was booted.
    pub fn spec(&self) -> &GuestSpec {
        &self.spec
    }

    /// The QEMU process.
    pub fn qemu(&mut self) -> &mut Process {
        &mut self.qemu
    }

    /// What the guest's kernel and init wrote.
    pub fn console(&self) -> String {
        read_lossy(&self.folder.join("console"))
    }

    /// How often the guest came up so far.
    pub fn boots(&self) -> usize {
        self.console().matches("@@AGENT").count()
    }

    /// Waits until the agent listens for the first time.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_boot(1)
    }

    /// Waits until the guest came up `count` times.
    pub fn wait_boot(&mut self, count: usize) -> Result<()> {
        let what = format!("guest {} to boot", self.spec.name);
        wait::until(&what, BOOT_LIMIT, || {
            if let Some(status) = self.qemu.ended()? {
                fail!("QEMU of guest {} ended: {status}", self.spec.name);
            }
            let console = self.console();
            if let Some(line) =
                console.lines().find(|line| line.contains("@@FAIL") || line.contains("Kernel panic"))
            {
                fail!("guest {}: {line}", self.spec.name);
            }
            Ok((console.matches("@@AGENT").count() >= count).then_some(()))
        })
    }

    /// Runs a shell command; its output, or a failure if its status is not 0.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.run_for(command, COMMAND_LIMIT)
    }

    /// [`run`](Self::run) with a limit.
    pub fn run_for(&mut self, command: &str, limit: Duration) -> Result<String> {
        let output = self.attempt(command, limit)?;
        ensure!(
            output.status == 0,
            "guest {}: {command}: status {}\n{}",
            self.spec.name,
            output.status,
            output.text
        );
        Ok(output.text)
    }

    /// Runs a shell command that may fail.
    pub fn attempt(&mut self, command: &str, limit: Duration) -> Result<Output> {
        ensure!(!command.contains('\n'), "one line a command: {command:?}");
        self.requests += 1;
        let id = self.requests;
        let request = format!("{id} {} {command}\n", limit.as_secs().max(1));
        let what = format!("guest {}: {command}", self.spec.name);
        // The guest ends the command itself; a guest that does not even do that gets a few seconds more.
        let deadline = Instant::now() + limit + Duration::from_secs(5);
        let agent = self.agent()?;
        agent.write_all(request.as_bytes()).context(&what)?;
        let (mut answer, mark) = (Vec::new(), format!("\n@@RC {id} "));
        loop {
            let text = String::from_utf8_lossy(&answer);
            if let Some((output, status)) = text.split_once(&mark)
                && let Some((status, _)) = status.split_once('\n')
            {
                return Ok(Output { status: status.trim().parse().context(&what)?, text: output.into() });
            }
            ensure!(Instant::now() < deadline, "{what}: no answer, only {text:?}");
            let mut buffer = [0; 4096];
            match agent.read(&mut buffer) {
                Ok(0) => fail!("{what}: QEMU closed the agent's line"),
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context(&what),
            }
        }
    }

    /// Starts a shell command that runs on while others do.
    pub fn start(&mut self, command: &str) -> Result<Job> {
        let id = self.requests;
        self.run(&format!(
            "{{ {command} ; echo $? >/run/{id}.tmp; mv /run/{id}.tmp /run/{id}.rc; }} >/run/{id}.out 2>&1 &"
        ))?;
        Ok(Job { id, command: command.into() })
    }

    /// Waits for the end of a job.
    pub fn collect(&mut self, job: &Job, limit: Duration) -> Result<Output> {
        let what = format!("guest {}: {} to end", self.spec.name, job.command);
        let status = wait::until(&what, limit, || {
            let status = self.attempt(&format!("cat /run/{}.rc", job.id), COMMAND_LIMIT)?;
            Ok((status.status == 0).then_some(status.text))
        })?;
        let text = self.run(&format!("cat /run/{}.out", job.id))?;
        Ok(Output { status: status.trim().parse()?, text })
    }

    /// Pings `address` `count` times, `interval` seconds apart.
    pub fn ping(&mut self, address: &str, count: u32, interval: f64) -> Result<Ping> {
        let limit = Duration::from_secs_f64(f64::from(count) * interval + 12.0);
        Ping::parse(&self.attempt(&format!("ping -c {count} -i {interval} -W 2 {address}"), limit)?.text)
    }

    /// Waits until a ping to `address` is answered; how long that took.
    pub fn wait_reachable(&mut self, address: &str, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        let what = format!("{address} to answer guest {}", self.spec.name);
        wait::until(&what, limit, || {
            // Ping ends with the first reply, or at the latest after the second that -w gives it.
            let output = self.attempt(&format!("ping -c 1 -A -w 1 {address}"), COMMAND_LIMIT)?;
            Ok((output.status == 0).then(|| start.elapsed()))
        })
    }

    /// Runs iperf3 as a client with these further options.
    pub fn iperf(&mut self, server: &str, seconds: u32, options: &str) -> Result<Throughput> {
        let limit = Duration::from_secs(u64::from(seconds) + 20);
        let output = self.attempt(&format!("iperf3 -c {server} -t {seconds} {options} -J"), limit)?;
        Throughput::parse(&output.text).context(format!("guest {} to {server}, {options}", self.spec.name))
    }

    /// Connects to QEMU's monitor.
    pub fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.folder.join("qmp"))
    }

    /// Console and QEMU's messages, for a failure.
    pub fn diagnosis(&self) -> String {
        let (name, console, qemu) = (&self.spec.name, self.console(), self.qemu.output());
        format!(
            "--- console of guest {name}\n{}\n--- QEMU of guest {name}\n{}\n",
            last_lines(&console),
            last_lines(&qemu)
        )
    }

    fn agent(&mut self) -> Result<&mut UnixStream> {
        let stream = match self.agent.take() {
            Some(stream) => stream,
            None => {
                let stream = UnixStream::connect(self.folder.join("agent")).context("agent of the guest")?;
                stream.set_read_timeout(Some(Duration::from_millis(100)))?;
                stream
            }
        };
        Ok(self.agent.insert(stream))
    }
}

/// What runs the guests' processors: `tcg` or `kvm`, from `VSTEER_ACCEL`.
pub fn accelerator() -> Result<&'static str> {
    match env::var("VSTEER_ACCEL").as_deref() {
        Err(_) | Ok("tcg") => Ok("tcg"),
        Ok("kvm") => Ok("kvm"),
        Ok(other) => fail!("VSTEER_ACCEL={other}: say tcg or kvm"),
    }
}

/// The end of a log: what one screen shows.
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
