//! Mirrors: adding, removing, and how they become part of a snapshot.

use vsteer_switch::bridge::mirror::{MAX_MIRRORS, Mirror, MirroredPorts};
use vsteer_switch::port::PortId;

use super::{Appliance, PortTable, Refusal};
use crate::config::{MirrorPorts, MirrorSpec, VlanSet};

/// A mirror, and whether it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorReport {
    /// What the operator asked for.
    pub spec: MirrorSpec,
    /// Whether the output port is there. Without it nothing is mirrored.
    pub is_active: bool,
}

impl Appliance {
    /// All mirrors.
    pub fn mirrors(&self) -> Vec<MirrorReport> {
        let table = self.ports.lock();
        table.mirrors.iter().map(|mirror| mirror_report(mirror, &table)).collect()
    }

    /// Adds a mirror.
    ///
    /// # Errors
    /// Its name is in use, there are too many, or it names a port that does not exist.
    pub fn add_mirror(&self, spec: MirrorSpec) -> Result<MirrorReport, Refusal> {
        let mut table = self.ports.lock();
        if table.mirrors.iter().any(|mirror| mirror.name == spec.name) {
            return Err(Refusal::taken(format!(
                "there is a mirror {:?} already; delete it first, or choose another name",
                spec.name
            )));
        }
        if table.mirrors.len() >= MAX_MIRRORS {
            let full = format!("there are {MAX_MIRRORS} mirrors already; delete one first");
            return Err(Refusal::taken(full));
        }
        spec.port_names().try_for_each(|name| table.find(name).map(drop))?;
        let report = mirror_report(&spec, &table);
        tracing::info!(mirror = %spec, "mirror added");
        table.mirrors.push(spec);
        self.publish_ports(&table);
        Ok(report)
    }

    /// Removes the mirror `name`.
    ///
    /// # Errors
    /// There is no such mirror.
    pub fn delete_mirror(&self, name: &str) -> Result<(), Refusal> {
        let mut table = self.ports.lock();
        let Some(at) = table.mirrors.iter().position(|mirror| mirror.name == name) else {
            return Err(Refusal::not_found(format!("no mirror {name:?}; see mirror list")));
        };
        table.mirrors.remove(at);
        self.publish_ports(&table);
        tracing::info!(mirror = name, "mirror deleted");
        Ok(())
    }
}

fn mirror_report(spec: &MirrorSpec, table: &PortTable) -> MirrorReport {
    MirrorReport { spec: spec.clone(), is_active: table.open_id(&spec.output).is_some() }
}

/// The mirrors as the slow path knows them: those whose output is there, with what is there of their ports.
pub(super) fn switch_mirrors(table: &PortTable) -> impl Iterator<Item = Mirror> {
    table.mirrors.iter().filter_map(|spec| {
        Some(Mirror {
            name: spec.name.clone(),
            sources: mirrored(&spec.src, table),
            destinations: mirrored(&spec.dst, table),
            vlans: spec.vlans.iter().flat_map(VlanSet::iter).collect(),
            output: table.open_id(&spec.output)?,
        })
    })
}

fn mirrored(ports: &MirrorPorts, table: &PortTable) -> MirroredPorts {
    match ports {
        MirrorPorts::All => MirroredPorts::All,
        MirrorPorts::Named(names) => {
            let ids: Box<[PortId]> = names.iter().filter_map(|name| table.open_id(name)).collect();
            MirroredPorts::These(ids)
        }
    }
}
