//! User-mode Linux, a kernel that is a process and its own vhost-user front-end.
//!
//! Its driver (`arch/um/drivers/virtio_uml.c`) is unlike QEMU's: it has no control queue and no reconnection, and sends
//! memory tables with room for more regions than they name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::assets::Assets;
use crate::failure::{Context, Failure, Result};
use crate::process::{self, Process};
use crate::{ensure, wait};

/// Where Debian's package user-mode-linux keeps kernel and modules.
const KERNEL: &str = "/usr/bin/linux.uml";
const MODULES: &str = "/usr/lib/uml/modules";

/// Drivers that the guest loads, in this order.
const DRIVERS: [&str; 3] = ["failover", "net_failover", "virtio_net"];

/// A running guest, killed when dropped.
#[derive(Debug)]
pub struct Uml {
    process: Process,
}

impl Uml {
    /// Boots a guest on the vhost-user socket `socket`; its files go to `folder`.
    pub fn spawn(socket: &Path, folder: &Path) -> Result<Self> {
        let initramfs = make_initramfs(&folder.join("uml"))?;
        // Its userspace consists of processes, which would outlive it if it were killed; the namespace ends them with it.
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", KERNEL]);
        command.args(["mem=128M", "rdinit=/init", "con=null", "con0=fd:0,fd:1", "quiet"]);
        command.arg(format!("initrd={}", initramfs.display()));
        command.arg(format!("virtio_uml.device={}:1", socket.display()));
        // Its memory is a file there.
        command.env("TMPDIR", folder);
        Ok(Uml { process: Process::spawn("user-mode Linux", command, &folder.join("uml.log"), None)? })
    }

    /// Waits until the guest has said `@@WORD`, and returns what stands behind it.
    pub fn wait_for(&mut self, word: &str, limit: Duration) -> Result<String> {
        let mark = format!("@@{word}");
        wait::until(&format!("user-mode Linux to say {mark}"), limit, || {
            let console = self.console();
            let line =
                |start: &str| console.lines().find_map(|line| line.split_once(start)).map(|(_, rest)| rest);
            if let Some(failure) = line("@@FAIL") {
                return Err(Failure::new(format!("user-mode Linux: {failure}\n{console}")));
            }
            let ended = self.process.ended()?;
            ensure!(ended.is_none(), "user-mode Linux ended\n{console}");
            Ok(line(&mark).map(|rest| rest.trim().to_owned()))
        })
    }

    /// What it wrote so far.
    pub fn console(&self) -> String {
        self.process.output()
    }
}

/// Packs busybox, the drivers and `guests/uml-init`.
fn make_initramfs(folder: &Path) -> Result<PathBuf> {
    let place = |name: &str| folder.join("root").join(name);
    for name in ["bin", "modules", "proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir_all(place(name))?;
    }
    fs::copy(Assets::get()?.busybox(), place("bin/busybox")).context("busybox")?;
    let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/uml-init");
    fs::copy(init, place("init")).context("uml-init")?;
    let version = fs::read_dir(MODULES)
        .context("no user-mode Linux: install Debian's package user-mode-linux")?
        .next()
        .ok_or_else(|| Failure::new(format!("{MODULES} is empty")))??;
    for driver in DRIVERS {
        let mut find = Command::new("find");
        find.arg(version.path()).args(["-name", &format!("{driver}.ko")]);
        let found = process::run("find", find, Duration::from_secs(10), None)?.stdout;
        fs::copy(found.trim(), place(&format!("modules/{driver}.ko"))).context(driver)?;
    }
    let archive = folder.join("initramfs");
    let script = format!("find . | bin/busybox cpio -o -H newc >{}", archive.display());
    let mut pack = Command::new("sh");
    pack.args(["-c", &script]).current_dir(folder.join("root"));
    let packed = process::run("cpio", pack, Duration::from_secs(30), None)?;
    ensure!(packed.status.success(), "cpio: {}", packed.stderr);
    Ok(archive)
}
