//! Where kernel, initramfs, QEMU, host tools and the binary under test come from.
//!
//! `guests/get-guest.sh` fetches and builds all but the last, once per machine. Host tools are the guest's own
//! programs, started through the guest's own dynamic loader, so that the host needs none of them installed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::failure::{Context, Failure, Result};
use crate::process;

/// First fetch over a slow line, packages and all.
const FETCH_LIMIT: Duration = Duration::from_secs(600);

/// The folder that `get-guest.sh` filled.
#[derive(Debug)]
pub struct Assets {
    folder: PathBuf,
}

impl Assets {
    /// The assets, fetched by the first caller.
    pub fn get() -> Result<&'static Assets> {
        static ASSETS: OnceLock<std::result::Result<Assets, String>> = OnceLock::new();
        ASSETS
            .get_or_init(|| Assets::fetch().map_err(|failure| failure.to_string()))
            .as_ref()
            .map_err(Failure::new)
    }

    fn fetch() -> Result<Assets> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/get-guest.sh");
        let finished = process::run("get-guest.sh", Command::new(script), FETCH_LIMIT, None)?;
        crate::ensure!(finished.status.success(), "no guest to boot: {}", finished.stderr);
        Ok(Assets { folder: finished.stdout.trim().into() })
    }

    /// The guest's kernel.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The guest's initial file system.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs")
    }

    /// A static busybox.
    pub fn busybox(&self) -> PathBuf {
        self.folder.join("root/bin/busybox")
    }

    /// The QEMU to run.
    pub fn qemu(&self) -> PathBuf {
        self.folder.join("qemu")
    }

    /// A program of the guest's image, for the host: one of its own binaries, else a busybox applet.
    pub fn tool(&self, name: &str) -> Command {
        let root = self.folder.join("root");
        let own = ["usr/bin", "bin"]
            .map(|bin| root.join(bin).join(name))
            .into_iter()
            .find(|path| !path.is_symlink() && path.exists());
        match own {
            Some(path) => {
                let mut command = Command::new(root.join("lib/ld-linux-x86-64.so.2"));
                command.arg("--library-path").arg(root.join("lib")).arg(path);
                command
            }
            None => {
                let mut command = Command::new(root.join("bin/busybox"));
                command.arg(name);
                command
            }
        }
    }
}

/// The switch under test: `VSTEER_BIN`, else the release build, else the debug build of this workspace.
pub fn vsteer() -> Result<PathBuf> {
    if let Some(path) = env::var_os("VSTEER_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe().context("path of the running program")?;
    own.ancestors()
        .flat_map(|folder| ["release/vsteer", "debug/vsteer"].map(|binary| folder.join(binary)))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Failure::new("no vsteer binary: run `cargo build --release`, or name one in VSTEER_BIN")
        })
}
