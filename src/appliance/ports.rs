//! Ports: adding, removing, and how they do.

use std::sync::Arc;

use super::{Appliance, Refusal};
use crate::config::PortSpec;
use crate::port::OpenPort;
use crate::port::report::PortReport;
use crate::port_numbers::PortNumbers;

impl Appliance {
    /// All ports, in the order of their numbers.
    pub fn ports(&self) -> Vec<PortReport> {
        let topology = self.fabric.topology.load();
        topology.ports.iter().flatten().map(|port| port.report()).collect()
    }

    /// The port `name`.
    ///
    /// # Errors
    /// There is no such port.
    pub fn port(&self, name: &str) -> Result<PortReport, Refusal> {
        let port = self.ports.lock().find(name)?;
        Ok(port.report())
    }

    /// Adds a port.
    ///
    /// # Errors
    /// Its name, socket or interface is in use, there is no room, or the system refuses.
    pub fn add_port(&self, spec: PortSpec) -> Result<PortReport, Refusal> {
        let mut table = self.ports.lock();
        if let Some(taken) = table.open.iter().find_map(|open| open.conflict(&spec)) {
            return Err(Refusal::taken(taken));
        }
        let mut numbers = PortNumbers::clone(&table.numbers);
        let id = self.claim(&mut numbers, &spec.name)?;
        let open = OpenPort::open(id, spec, self.workers.len()).map_err(Refusal::failed)?;
        let port = Arc::clone(&open.port);
        let spec = port.spec();
        table.numbers = Arc::new(numbers);
        table.open.push(open);
        self.publish_ports(&table);
        tracing::info!(port = spec.name, kind = spec.type_name(), address = spec.address(), "port added");
        Ok(port.report())
    }

    /// Removes the port `name`.
    ///
    /// # Errors
    /// There is no such port.
    pub fn delete_port(&self, name: &str) -> Result<(), Refusal> {
        let mut table = self.ports.lock();
        let port = table.find(name)?;
        let (gone, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut table.open).into_iter().partition(|open| Arc::ptr_eq(&open.port, &port));
        table.open = left;
        Arc::make_mut(&mut table.numbers).release(port.id);
        drop(port);
        self.publish_ports(&table);
        self.retire_ports(gone);
        tracing::info!(port = name, "port deleted");
        Ok(())
    }
}
