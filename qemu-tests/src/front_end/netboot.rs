//! Firmware with its own virtio-net drivers, booting from the network: SeaBIOS with iPXE's option ROM, and UEFI with EDK
//! II's driver or with iPXE's.
//!
//! These drivers are small and old in their ways: rings without event indices, few buffers, polling without interrupts, a
//! device that is reset and started again by the next stage. DHCP and TFTP come from dnsmasq in the host's namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::assets::Assets;
use crate::failure::{Context, Result};
use crate::guest::{accelerator, last_lines};
use crate::namespace::Namespace;
use crate::process::{Process, read_lossy};
use crate::{ensure, wait};

/// Where Debian's packages keep firmware.
const OVMF: &str = "/usr/share/OVMF";
const IPXE_ROMS: &str = "/usr/lib/ipxe/qemu";
const IPXE_EFI: &str = "/boot/ipxe.efi";

/// What the last stage prints when it has got its script.
const ARRIVED: &str = "@@BOOTED";

/// Which firmware boots, and whose driver it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, which has no driver of its own, with iPXE from the card's option ROM.
    BiosIpxe,
    /// UEFI with EDK II's VirtioNetDxe; it fetches iPXE, which goes on over UEFI's driver.
    UefiEdk2,
    /// UEFI with iPXE from the card's option ROM, which fetches a second iPXE with a driver of its own.
    UefiIpxe,
}

impl Firmware {
    fn is_uefi(self) -> bool {
        self != Firmware::BiosIpxe
    }

    fn rom(self) -> String {
        match self {
            Firmware::BiosIpxe => format!("{IPXE_ROMS}/pxe-virtio.rom"),
            Firmware::UefiEdk2 => String::new(),
            Firmware::UefiIpxe => format!("{IPXE_ROMS}/efi-virtio.rom"),
        }
    }
}

/// DHCP and TFTP on `interface` of the host's namespace, until dropped.
#[derive(Debug)]
pub struct BootServer {
    dnsmasq: Process,
}

impl BootServer {
    /// Serves addresses from 10.0.0.10 on, iPXE to firmware, and a script to iPXE.
    pub fn start(host: &Namespace, interface: &str, folder: &Path) -> Result<Self> {
        let files = folder.join("tftp");
        fs::create_dir(&files)?;
        fs::copy(IPXE_EFI, files.join("ipxe.efi")).context("no iPXE: install Debian's package ipxe")?;
        // It stays there until it is killed; the firmware would go on to the next boot device otherwise.
        let script = format!("#!ipxe\necho {ARRIVED} ${{net0/ip}}\nprompt\n");
        fs::write(files.join("boot.ipxe"), script)?;
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--user=root",
            "--pid-file=",
        ]);
        command.args(["--log-facility=-", "--log-dhcp", "--bind-interfaces", "--enable-tftp"]);
        command.arg(format!("--interface={interface}"));
        command.arg(format!("--tftp-root={}", files.display()));
        command.arg(format!("--dhcp-leasefile={}", folder.join("leases").display()));
        command.args(["--dhcp-range=10.0.0.10,10.0.0.99,255.255.255.0"]);
        command.args(["--dhcp-userclass=set:ipxe,iPXE", "--dhcp-match=set:uefi,option:client-arch,7"]);
        command.args(["--dhcp-boot=tag:!ipxe,tag:uefi,ipxe.efi", "--dhcp-boot=tag:ipxe,boot.ipxe"]);
        let dnsmasq = Process::spawn("dnsmasq", command, &folder.join("dnsmasq.log"), Some(host))
            .context("install Debian's package dnsmasq-base")?;
        Ok(BootServer { dnsmasq })
    }

    /// What it handed out, for a failure.
    pub fn diagnosis(&self) -> String {
        format!("--- dnsmasq\n{}\n", last_lines(&self.dnsmasq.output()))
    }
}

/// A machine that boots from the network, killed when dropped.
#[derive(Debug)]
pub struct NetbootMachine {
    qemu: Process,
    console: PathBuf,
}

impl NetbootMachine {
    /// Starts it on the vhost-user socket `socket`; its files go to `folder`.
    pub fn spawn(firmware: Firmware, socket: &Path, folder: &Path) -> Result<Self> {
        let console = folder.join("console");
        let mut qemu = Command::new(Assets::get()?.qemu());
        qemu.args(["-M", "q35,graphics=off,memory-backend=mem", "-accel", accelerator()?, "-m", "256"]);
        qemu.args(["-object", "memory-backend-memfd,id=mem,size=256M,share=on"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.args(["-serial", &format!("file:{}", console.display())]);
        if firmware.is_uefi() {
            let variables = folder.join("variables");
            fs::copy(format!("{OVMF}/OVMF_VARS_4M.fd"), &variables)
                .context("no UEFI: install Debian's package ovmf")?;
            let code = format!("if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd");
            qemu.args(["-drive", &code]);
            qemu.args(["-drive", &format!("if=pflash,format=raw,file={}", variables.display())]);
        }
        qemu.args(["-chardev", &format!("socket,id=c0,path={},reconnect-ms=200", socket.display())]);
        qemu.args(["-netdev", "vhost-user,id=n0,chardev=c0"]);
        // The ROM is for the modern device only.
        let device = "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,disable-legacy=on,bootindex=1";
        qemu.args(["-device", &format!("{device},romfile={}", firmware.rom())]);
        let qemu = Process::spawn("QEMU", qemu, &folder.join("qemu.log"), None)?;
        Ok(NetbootMachine { qemu, console })
    }

    /// Waits until iPXE has run the script that it got over the network; returns the address that it then had.
    pub fn wait_booted(&mut self, limit: Duration) -> Result<String> {
        wait::until("iPXE to run its script", limit, || {
            let ended = self.qemu.ended()?;
            ensure!(ended.is_none(), "QEMU ended\n{}", self.diagnosis());
            let console = read_lossy(&self.console);
            Ok(console
                .split_once(ARRIVED)
                .and_then(|(_, rest)| Some(rest.split_whitespace().next()?.to_owned())))
        })
    }

    /// Console and QEMU's messages, for a failure.
    pub fn diagnosis(&self) -> String {
        let console = last_lines(&read_lossy(&self.console));
        format!("--- console\n{console}\n--- QEMU\n{}\n", last_lines(&self.qemu.output()))
    }
}
