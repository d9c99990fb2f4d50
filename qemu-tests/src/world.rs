//! A switch, its guests and their namespace, booted together.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::control::Control;
use crate::failure::{Context, Result};
use crate::guest::{Guest, GuestSpec, Nic};
use crate::namespace::Namespace;
use crate::processor;
use crate::switch::Switch;

/// Everything that a group of steps shares. Guests end before the switch, the switch before its namespace.
#[derive(Debug)]
pub struct World {
    /// The guests, in the order in which they were booted.
    pub guests: Vec<Guest>,
    /// The switch under test.
    pub switch: Switch,
    /// Where the switch and its TAPs live.
    pub host: Namespace,
    /// Sockets and logs.
    pub folder: TempDir,
}

impl World {
    /// Starts the switch with these ports. In a port, `{}` stands for the folder of the sockets.
    pub fn start(ports: &[&str]) -> Result<Self> {
        World::start_with(&["--poll", "adaptive"], ports)
    }

    /// [`start`](Self::start) with further options, which say how workers run.
    pub fn start_with(options: &[&str], ports: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("vsteer").tempdir()?;
        let host = Namespace::new()?;
        let place = folder.path().display().to_string();
        let ports: Vec<_> = ports.iter().map(|port| port.replace("{}", &place)).collect();
        let switch = Switch::start_with(options, &ports, folder.path(), &host)?;
        Ok(World { guests: Vec::new(), switch, host, folder })
    }

    /// Starts the switch with one worker that polls on processor 1, before all that is not real-time, and a vhost-user port
    /// of each of these names.
    pub fn busy(ports: &[&str]) -> Result<Self> {
        let ports: Vec<_> = ports.iter().map(|name| format!("{name}=vhost-user:{{}}/{name}.sock")).collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let mut world = World::start_with(&["--poll", "busy", "--workers", "1"], &ports)?;
        processor::prefer(world.switch.process());
        Ok(world)
    }

    /// Connects to the control socket.
    pub fn control(&self) -> Result<Control> {
        Control::connect(&self.folder.path().join("ctl.sock"))
    }

    /// A device on the socket `NAME.sock` of the folder.
    pub fn nic(&self, name: &str) -> Nic {
        Nic::new(self.socket(name))
    }

    /// The path of the socket called `name`.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.sock"))
    }

    /// Boots guests side by side.
    pub fn boot(&mut self, specs: Vec<GuestSpec>) -> Result<()> {
        let first = self.guests.len();
        for spec in specs {
            self.guests.push(Guest::spawn(spec, self.folder.path())?);
        }
        let ready = self.guests[first..].iter_mut().try_for_each(Guest::wait_ready);
        ready.map_err(|failure| format!("{failure}\n{}", self.diagnosis())).context("boot")
    }

    /// Logs and consoles, for a failure.
    pub fn diagnosis(&self) -> String {
        self.guests.iter().fold(self.switch.diagnosis(), |text, guest| text + &guest.diagnosis())
    }
}
