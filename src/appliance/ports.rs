//! Ports: adding, removing, and how they do.

use std::sync::Arc;

use super::{Appliance, Refusal};
use crate::config::PortSpec;
use crate::port::report::PortReport;
use crate::port::{OpenPort, Port};
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
        let port = self.add_ports(&[spec])?;
        Ok(port[0].report())
    }

    /// Adds ports, all at once: none moves a packet before all are there. Returns them in the same order.
    ///
    /// # Errors
    /// As with one; then none is added.
    pub(super) fn add_ports(&self, specs: &[PortSpec]) -> Result<Vec<Arc<Port>>, Refusal> {
        let mut table = self.ports.lock();
        let mut numbers = PortNumbers::clone(&table.numbers);
        let mut opened: Vec<OpenPort> = Vec::new();
        for spec in specs {
            if let Some(taken) = table.open.iter().chain(&opened).find_map(|open| open.conflict(spec)) {
                return Err(Refusal::taken(taken));
            }
            let id = self.claim(&mut numbers, &spec.name)?;
            opened.push(OpenPort::open(id, spec.clone(), self.workers.len()).map_err(Refusal::failed)?);
        }
        let ports: Vec<_> = opened.iter().map(|open| Arc::clone(&open.port)).collect();
        table.numbers = Arc::new(numbers);
        table.open.extend(opened);
        self.publish_ports(&table);
        for spec in specs {
            tracing::info!(port = spec.name, kind = spec.type_name(), address = spec.address(), "port added");
        }
        Ok(ports)
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
