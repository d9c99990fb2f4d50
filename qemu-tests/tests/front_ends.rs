//! Front-ends with other drivers and other manners than QEMU with a Linux guest: each boots and reaches the host.

use std::process::Command;
use std::time::{Duration, Instant};

use vsteer_qemu_tests::assets::Assets;
use vsteer_qemu_tests::ensure;
use vsteer_qemu_tests::failure::{Failure, Result};
use vsteer_qemu_tests::front_end::libvirt::{Libvirt, SocketMode};
use vsteer_qemu_tests::front_end::netboot::{BootServer, Firmware, NetbootMachine};
use vsteer_qemu_tests::front_end::uml::Uml;
use vsteer_qemu_tests::process::{self, Process};
use vsteer_qemu_tests::switch::settles;
use vsteer_qemu_tests::wait;
use vsteer_qemu_tests::world::World;

/// Network boots take up to 30 s on an idle machine; UEFI's own start is half of it.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// How long the switch must hold the same to be taken as done with a front-end.
const SETTLED: Duration = Duration::from_millis(500);

/// A switch with a guest's port and the host, which is 10.0.0.100.
fn world(guest_options: &str) -> Result<World> {
    let guest = format!("vm0=vhost-user:{{}}/vm0.sock{guest_options}");
    let world = World::start(&[&guest, "host=tap:vsteer0"])?;
    world.host.run("ip addr add 10.0.0.100/24 dev vsteer0")?;
    world.host.run("ip link set vsteer0 up")?;
    Ok(world)
}

fn ping_guest(world: &World) -> Result<()> {
    let output = world.host.run("ping -c 5 -i 0.2 -W 2 10.0.0.1")?;
    ensure!(output.contains(" 0% packet loss"), "host to guest: {output}");
    Ok(())
}

#[test]
fn user_mode_linux_boots_and_transfers() -> Result<()> {
    let world = world("")?;
    let folder = world.folder.path();
    let blob: Vec<u8> = (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    std::fs::write(folder.join("blob"), &blob)?;
    let mut httpd = Assets::get()?.tool("httpd");
    httpd.args(["-f", "-p", "8000", "-h"]).arg(folder);
    let _httpd = Process::spawn("httpd", httpd, &folder.join("httpd.log"), Some(&world.host))?;
    let mut guest = Uml::spawn(&world.socket("vm0"), folder)?;
    let with_evidence = |guest: &Uml| format!("{}\n{}", guest.console(), world.diagnosis());
    guest
        .wait_for("PING", BOOT_LIMIT)
        .map_err(|error| Failure::new(format!("{error}\n{}", with_evidence(&guest))))?;
    let sum = guest
        .wait_for("SUM", BOOT_LIMIT)
        .map_err(|error| Failure::new(format!("{error}\n{}", with_evidence(&guest))))?;
    let mut md5 = Command::new("md5sum");
    md5.arg(folder.join("blob"));
    let expected = process::run("md5sum", md5, Duration::from_secs(10), None)?.stdout;
    ensure!(sum.split_whitespace().next() == expected.split_whitespace().next(), "{sum} for {expected}");
    ping_guest(&world)
}

fn network_boot(firmware: Firmware) -> Result<()> {
    let world = world("")?;
    let server = BootServer::start(&world.host, "vsteer0", world.folder.path())?;
    let mut machine = NetbootMachine::spawn(firmware, &world.socket("vm0"), world.folder.path())?;
    let booted = machine.wait_booted(BOOT_LIMIT);
    let evidence = || machine.diagnosis() + &server.diagnosis() + &world.diagnosis();
    let address = booted.map_err(|error| Failure::new(format!("{error}\n{}", evidence())))?;
    ensure!(address.starts_with("10.0.0."), "address {address}");
    println!("{firmware:?}: {address}");
    Ok(())
}

#[test]
fn bios_boots_from_the_network_by_ipxe() -> Result<()> {
    network_boot(Firmware::BiosIpxe)
}

#[test]
fn uefi_boots_from_the_network_by_its_own_driver() -> Result<()> {
    network_boot(Firmware::UefiEdk2)
}

#[test]
fn uefi_boots_from_the_network_by_ipxe() -> Result<()> {
    network_boot(Firmware::UefiIpxe)
}

fn libvirt_domain(mode: SocketMode) -> Result<()> {
    let mut world = world(if mode == SocketMode::Server { ",mode=client" } else { "" })?;
    let mut libvirt = Libvirt::start(world.folder.path())?;
    // The first domain leaves behind what the switch keeps for good; the second must leave nothing more.
    let mut before = None;
    for _ in 0..2 {
        libvirt.create("vm0", &world.socket("vm0"), mode)?;
        // Consoles are appended to by the next round.
        let is_up = || libvirt.console("vm0").contains("@@AGENT");
        let booted = wait::until("the domain to boot", BOOT_LIMIT, || Ok(is_up().then_some(())));
        booted.map_err(|error| {
            Failure::new(format!("{error}\n{}", libvirt.diagnosis() + &world.diagnosis()))
        })?;
        ping_guest(&world).map_err(|error| Failure::new(format!("{error}\n{}", world.diagnosis())))?;
        let connected = world.switch.process().holdings()?;
        libvirt.destroy("vm0")?;
        std::fs::remove_file(world.folder.path().join("vm0.console"))?;
        let process = world.switch.process();
        match before {
            None => {
                let (mut last, mut since) = (connected, Instant::now());
                before = Some(wait::until("the front-end to be gone", Duration::from_secs(30), || {
                    let now = process.holdings()?;
                    if now != last {
                        (last, since) = (now, Instant::now());
                    }
                    let is_less = now.fds < connected.fds && now.mappings < connected.mappings;
                    Ok((is_less && since.elapsed() > SETTLED).then_some(now))
                })?);
            }
            Some(before) => settles(process, before, Duration::from_secs(10))?,
        }
    }
    Ok(())
}

#[test]
fn libvirt_runs_a_domain_as_client() -> Result<()> {
    libvirt_domain(SocketMode::Client)
}

#[test]
fn libvirt_runs_a_domain_as_server() -> Result<()> {
    libvirt_domain(SocketMode::Server)
}
