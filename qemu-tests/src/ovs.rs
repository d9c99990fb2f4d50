//! Open vSwitch with DPDK as a reference back-end: the switch that operators would run otherwise.
//!
//! It is started with a database, sockets and logs of its own, in a network namespace of its own, so an Open vSwitch of
//! the machine is not touched. Its ports are `dpdkvhostuserclient`, the kind that Open vSwitch recommends: QEMU creates
//! the sockets. The bridge runs NORMAL, which learns MAC addresses. One PMD thread polls on CPU 1.
//!
//! Only Open vSwitch's own memory is on hugepages (see `bench/setup.sh`); guests keep their ordinary memfd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::failure::{Context, Result};
use crate::guest::last_lines;
use crate::namespace::Namespace;
use crate::process::{self, Process};
use crate::{ensure, fail, wait};

/// The processor of the polling thread; all other threads of Open vSwitch are on processor 0.
pub const PMD_CPU: u32 = 1;

const VSWITCHD: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// Hugepages for Open vSwitch's packet buffers, as `dpdk-socket-mem` counts them.
const MEMORY_MIB: u32 = 1024;

const START_LIMIT: Duration = Duration::from_secs(20);
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// A running Open vSwitch, killed when dropped: the daemon before its database.
#[derive(Debug)]
pub struct Ovs {
    vswitchd: Process,
    database: Process,
    tools: Tools,
}

impl Ovs {
    /// Starts a bridge between two sockets. With `tso`, ports offer segmentation offload (`userspace-tso-enable`).
    pub fn start(sockets: [&Path; 2], tso: bool, folder: &Path, namespace: &Namespace) -> Result<Self> {
        let tools = Tools { folder: folder.into() };
        let database = tools.start_database()?;
        tools.vsctl(&["--no-wait", "init"])?;
        tools.configure(tso)?;
        let vswitchd = tools.start_vswitchd(namespace)?;
        let mut ovs = Ovs { vswitchd, database, tools };
        ovs.wait_ready()?;
        ovs.tools.make_bridge(sockets).context(ovs.diagnosis())?;
        Ok(ovs)
    }

    /// Changes settings of the whole switch, each as `name=value` of `other_config`.
    pub fn set(&self, settings: &[&str]) -> Result<()> {
        let settings = settings.iter().map(|setting| format!("other_config:{setting}"));
        settings
            .into_iter()
            .try_for_each(|setting| self.tools.vsctl(&["set", "Open_vSwitch", ".", &setting]).map(drop))
    }

    /// Puts these rules, one a line, in place of all others. Its ports are called `vm0` and `vm1`.
    pub fn replace_rules(&self, rules: &str) -> Result<()> {
        let file = self.tools.folder.join("rules");
        fs::write(&file, rules)?;
        let mut command = self.tools.command("ovs-ofctl");
        command.args(["-OOpenFlow13", "--bundle", "replace-flows"]).arg(self.tools.bridge()).arg(file);
        let finished = process::run("ovs-ofctl", command, COMMAND_LIMIT, None)?;
        ensure!(finished.status.success(), "ovs-ofctl: {}", finished.stderr);
        Ok(())
    }

    /// Asks the daemon, as `ovs-appctl` does.
    pub fn appctl(&self, words: &[&str]) -> Result<String> {
        let mut command = self.tools.command("ovs-appctl");
        command.arg("-t").arg(self.tools.folder.join("vswitchd.ctl")).args(words);
        let finished = process::run("ovs-appctl", command, COMMAND_LIMIT, None)?;
        ensure!(finished.status.success(), "ovs-appctl {}: {}", words.join(" "), finished.stderr);
        Ok(finished.stdout)
    }

    /// The daemon that forwards.
    pub fn process(&mut self) -> &mut Process {
        &mut self.vswitchd
    }

    /// What it logged, for a failure.
    pub fn diagnosis(&self) -> String {
        let (vswitchd, database) = (self.vswitchd.output(), self.database.output());
        format!("--- ovs-vswitchd\n{}\n--- ovsdb-server\n{}\n", last_lines(&vswitchd), last_lines(&database))
    }

    fn wait_ready(&mut self) -> Result<()> {
        let ready = wait::until("Open vSwitch to start DPDK", START_LIMIT, || {
            if let Some(status) = self.vswitchd.ended()? {
                fail!(
                    "ovs-vswitchd ended at once ({status}); are hugepages reserved? bench/setup.sh does it"
                );
            }
            let answer = self.tools.vsctl(&["--no-wait", "get", "Open_vSwitch", ".", "dpdk_initialized"])?;
            Ok((answer.trim() == "true").then_some(()))
        });
        ready.map_err(|failure| format!("{failure}\n{}", self.diagnosis())).context("Open vSwitch")
    }
}

/// The programs of Open vSwitch, all bound to the files of one folder.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Database, sockets and logs.
    pub(crate) folder: PathBuf,
}

impl Tools {
    pub(crate) fn start_database(&self) -> Result<Process> {
        let mut create = self.command("ovsdb-tool");
        create.arg("create").arg(self.folder.join("conf.db")).arg(SCHEMA);
        let finished = process::run("ovsdb-tool", create, COMMAND_LIMIT, None)
            .context("needs Debian's package openvswitch-switch-dpdk")?;
        ensure!(finished.status.success(), "ovsdb-tool: {}", finished.stderr);

        let mut server = self.command("ovsdb-server");
        server.arg(self.folder.join("conf.db")).arg(format!("--remote=p{}", self.database()));
        server.arg(self.unixctl("ovsdb.ctl")).args(["-vconsole:info", "-vsyslog:off"]);
        let server = Process::spawn("ovsdb-server", server, &self.folder.join("ovsdb.log"), None)?;
        let socket = self.folder.join("db.sock");
        wait::until("ovsdb-server's socket", START_LIMIT, || Ok(socket.exists().then_some(())))?;
        Ok(server)
    }

    /// What must stand in the database before the daemon reads it.
    fn configure(&self, tso: bool) -> Result<()> {
        let mut settings = vec![
            "dpdk-init=true".to_owned(),
            "dpdk-lcore-mask=0x1".into(),
            format!("pmd-cpu-mask={:#x}", 1 << PMD_CPU),
            format!("dpdk-socket-mem={MEMORY_MIB}"),
            "dpdk-extra=\"--in-memory --no-pci\"".into(),
        ];
        if tso {
            settings.push("userspace-tso-enable=true".into());
        }
        for setting in settings {
            self.vsctl(&["--no-wait", "set", "Open_vSwitch", ".", &format!("other_config:{setting}")])?;
        }
        Ok(())
    }

    fn start_vswitchd(&self, namespace: &Namespace) -> Result<Process> {
        let mut vswitchd = self.command(VSWITCHD);
        vswitchd.arg(self.database()).arg(self.unixctl("vswitchd.ctl"));
        vswitchd.args(["-vconsole:info", "-vsyslog:off"]);
        let log = self.folder.join("vswitchd.log");
        Process::spawn("ovs-vswitchd", vswitchd, &log, Some(namespace))
            .context("needs Debian's package openvswitch-switch-dpdk")
    }

    /// Without `--no-wait` ovs-vsctl returns when the daemon has taken the change over.
    fn make_bridge(&self, sockets: [&Path; 2]) -> Result<()> {
        self.vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
        for (n, socket) in sockets.iter().enumerate() {
            let (port, path) = (format!("vm{n}"), format!("options:vhost-server-path={}", socket.display()));
            let kind = "type=dpdkvhostuserclient";
            self.vsctl(&["add-port", "br0", &port, "--", "set", "Interface", &port, kind, &path])?;
            let error = self.vsctl(&["get", "Interface", &port, "error"])?;
            ensure!(error.trim() == "[]", "port {port}: {error}");
        }
        Ok(())
    }

    pub(crate) fn vsctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command("ovs-vsctl");
        command.arg(format!("--db={}", self.database())).arg("--timeout=15").args(arguments);
        let finished = process::run("ovs-vsctl", command, COMMAND_LIMIT, None)?;
        ensure!(finished.status.success(), "ovs-vsctl {}: {}", arguments.join(" "), finished.stderr);
        Ok(finished.stdout)
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, &self.folder);
        }
        command
    }

    /// Where the bridge `br0` takes OpenFlow.
    pub(crate) fn bridge(&self) -> String {
        format!("unix:{}", self.folder.join("br0.mgmt").display())
    }

    pub(crate) fn database(&self) -> String {
        format!("unix:{}", self.folder.join("db.sock").display())
    }

    pub(crate) fn unixctl(&self, name: &str) -> String {
        format!("--unixctl={}", self.folder.join(name).display())
    }
}
