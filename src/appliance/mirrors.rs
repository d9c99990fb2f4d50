//! Mirrors: what `ctl mirror` does to them, and how they become part of a snapshot.

use vsteer_switch::bridge::mirror::{MAX_MIRRORS, Mirror, MirroredPorts};
use vsteer_switch::port::PortId;

use super::{Appliance, PortTable};
use crate::config::{MirrorPorts, MirrorSpec, VlanSet};
use crate::control::protocol::{ErrorKind, MirrorInfo, OperationError};

impl Appliance {
    pub(super) fn list_mirrors(&self) -> Vec<MirrorInfo> {
        let table = self.ports.lock();
        table.mirrors.iter().map(|mirror| mirror_info(mirror, &table)).collect()
    }

    pub(super) fn add_mirror(&self, spec: MirrorSpec) -> Result<MirrorInfo, OperationError> {
        let mut table = self.ports.lock();
        if table.mirrors.iter().any(|mirror| mirror.name == spec.name) {
            let taken =
                format!("there is a mirror {:?} already; delete it first, or choose another name", spec.name);
            return Err(OperationError::new(ErrorKind::Exists, taken));
        }
        if table.mirrors.len() >= MAX_MIRRORS {
            let full = format!("there are {MAX_MIRRORS} mirrors already; delete one first");
            return Err(OperationError::new(ErrorKind::Exists, full));
        }
        spec.port_names().try_for_each(|name| table.find(name).map(drop))?;
        let info = mirror_info(&spec, &table);
        tracing::info!(mirror = %spec, "mirror added");
        table.mirrors.push(spec);
        self.publish_ports(&table);
        Ok(info)
    }

    pub(super) fn delete_mirror(&self, name: &str) -> Result<(), OperationError> {
        let mut table = self.ports.lock();
        let Some(at) = table.mirrors.iter().position(|mirror| mirror.name == name) else {
            let message = format!("no mirror {name:?}; see mirror list");
            return Err(OperationError::new(ErrorKind::NotFound, message));
        };
        table.mirrors.remove(at);
        self.publish_ports(&table);
        tracing::info!(mirror = name, "mirror deleted");
        Ok(())
    }
}

fn mirror_info(spec: &MirrorSpec, table: &PortTable) -> MirrorInfo {
    MirrorInfo {
        name: spec.name.clone(),
        src: spec.src.to_string(),
        dst: spec.dst.to_string(),
        vlans: spec.vlans.as_ref().map(ToString::to_string),
        output: spec.output.clone(),
        active: table.open_id(&spec.output).is_some(),
    }
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
