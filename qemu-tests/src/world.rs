//! A switch, its guests and their namespace, booted together.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::failure::{Context, Result};
use crate::guest::{Guest, GuestSpec, Nic};
use crate::namespace::Namespace;
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
        let folder = tempfile::Builder::new().prefix("vsteer").tempdir()?;
        let host = Namespace::new()?;
        let place = folder.path().display().to_string();
        let ports: Vec<_> = ports.iter().map(|port| port.replace("{}", &place)).collect();
        let switch = Switch::start(&ports, folder.path(), &host)?;
        Ok(World { guests: Vec::new(), switch, host, folder })
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
