//! A libvirt daemon of the test's own, and its domains.
//!
//! The daemon runs as root in mount and process namespaces of its own: its state lies in memory there, nothing of the
//! machine's libvirt is touched, and all that it started ends with it. Commands for it go through a shell inside these
//! namespaces.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::assets::Assets;
use crate::failure::{Context, Result};
use crate::guest::last_lines;
use crate::process::{Process, read_lossy};
use crate::{ensure, wait};

/// From the daemon's start to its first answer; it asks QEMU for all it can do.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Prepares the namespaces and starts the daemon. Users that Debian's package libvirt-daemon-system would make stand in
/// copies of the user tables.
const SET_UP: &str = r#"
cp /etc/passwd /etc/group "$FOLDER"
echo 'libvirt-qemu:x:64055:64055::/:/bin/false' >>"$FOLDER/passwd"
printf 'libvirt-qemu:x:64055:\nlibvirt:x:64056:\n' >>"$FOLDER/group"
mount --bind "$FOLDER/passwd" /etc/passwd
mount --bind "$FOLDER/group" /etc/group
for place in /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt; do
  mkdir -p $place && mount -t tmpfs none $place
done
cat >/etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
stdio_handler = "file"
cgroup_controllers = []
namespaces = []
END
printf 'auth_unix_ro = "none"\nauth_unix_rw = "none"\n' >/etc/libvirt/libvirtd.conf
libvirtd >"$FOLDER/libvirtd.log" 2>&1 &
"#;

/// Who creates the vhost-user socket, in libvirt's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketMode {
    /// The switch does, and QEMU connects, again and again.
    Client,
    /// QEMU does.
    Server,
}

/// A running daemon; ends with all of its domains when dropped.
#[derive(Debug)]
pub struct Libvirt {
    shell: Process,
    folder: std::path::PathBuf,
    commands: u32,
}

impl Libvirt {
    /// Starts a daemon; its files go to `folder`.
    pub fn start(folder: &Path) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        command.arg("sh").env("FOLDER", folder);
        let mut shell = Process::spawn("libvirt's shell", command, &folder.join("libvirt.log"), None)?;
        shell.write(SET_UP)?;
        let mut libvirt = Libvirt { shell, folder: folder.into(), commands: 0 };
        libvirt.run("while ! virsh -c qemu:///system list; do sleep 0.2; done", START_LIMIT).context(
            "install Debian's packages libvirt-daemon, libvirt-daemon-driver-qemu and libvirt-clients",
        )?;
        Ok(libvirt)
    }

    /// Starts a domain with the test guest's kernel, whose interface is 10.0.0.1 on the vhost-user socket `socket`.
    pub fn create(&mut self, name: &str, socket: &Path, mode: SocketMode) -> Result<()> {
        let assets = Assets::get()?;
        let (socket, folder) = (socket.display(), self.folder.display());
        let source = match mode {
            SocketMode::Client => {
                format!(
                    "<source type='unix' path='{socket}' mode='client'><reconnect enabled='yes' timeout='1'/></source>"
                )
            }
            SocketMode::Server => format!("<source type='unix' path='{socket}' mode='server'/>"),
        };
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>192</memory>
             <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel><initrd>{}</initrd>
             <cmdline>console=ttyS0 quiet mitigations=off t.ip0=10.0.0.1/24</cmdline></os>
             <features><acpi/><apic/></features><cpu mode='custom' match='minimum'><model>qemu64</model></cpu>
             <devices><emulator>{}</emulator>
             <interface type='vhostuser'><mac address='52:54:00:00:00:01'/>{source}<model type='virtio'/></interface>
             <serial type='file'><source path='{folder}/{name}.console'/><target port='0'/></serial>
             <serial type='unix'><source mode='bind' path='{folder}/{name}.agent'/><target port='1'/></serial>
             <memballoon model='none'/></devices></domain>",
            assets.kernel().display(),
            assets.initramfs().display(),
            assets.qemu().display(),
        );
        let path = self.folder.join(format!("{name}.xml"));
        std::fs::write(&path, xml)?;
        self.run(&format!("virsh -c qemu:///system create {}", path.display()), Duration::from_secs(60))
            .map(drop)
    }

    /// Ends a domain at once.
    pub fn destroy(&mut self, name: &str) -> Result<()> {
        self.run(&format!("virsh -c qemu:///system destroy {name}"), Duration::from_secs(30)).map(drop)
    }

    /// What the guest of a domain wrote.
    pub fn console(&self, name: &str) -> String {
        read_lossy(&self.folder.join(format!("{name}.console")))
    }

    /// The daemon's messages, for a failure.
    pub fn diagnosis(&self) -> String {
        let daemon = read_lossy(&self.folder.join("libvirtd.log"));
        format!("--- libvirtd\n{}\n--- virsh\n{}\n", last_lines(&daemon), last_lines(&self.shell.output()))
    }

    /// Runs a command in the namespaces; its output is in the shell's log.
    fn run(&mut self, command: &str, limit: Duration) -> Result<()> {
        self.commands += 1;
        let mark = format!("@@DONE {}", self.commands);
        self.shell.write(&format!("{command}\necho \"{mark} $?\"\n"))?;
        let result = wait::until(command, limit, || {
            ensure!(self.shell.ended()?.is_none(), "libvirt's shell ended");
            let output = self.shell.output();
            Ok(output.split_once(&mark).and_then(|(_, rest)| Some(rest.lines().next()?.trim().to_owned())))
        });
        let status = result.context(self.diagnosis())?;
        ensure!(status == "0", "{command}: status {status}\n{}", self.diagnosis());
        Ok(())
    }
}
