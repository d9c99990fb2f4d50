//! Learned and static addresses.

use vsteer_switch::bridge::fdb::FdbEntry;
use vsteer_switch::port::PortId;
use vsteer_switch::wire::vlan::VlanId;

use super::{Appliance, Refusal};

/// Which addresses are meant; `None` means any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddressFilter<'a> {
    /// Only those of the port of this name.
    pub port: Option<&'a str>,
    /// Only those of this VLAN.
    pub vlan: Option<VlanId>,
}

/// An address in the forwarding database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressReport {
    /// What is known of it.
    pub entry: FdbEntry,
    /// Seconds since it was last seen.
    pub age_s: u64,
}

impl Appliance {
    /// Learned and static addresses that match `filter`, by VLAN and address.
    ///
    /// # Errors
    /// The filter names a port that does not exist.
    pub fn addresses(&self, filter: AddressFilter<'_>) -> Result<Vec<AddressReport>, Refusal> {
        let port = self.filter_port(filter)?;
        let now_s = self.fabric.now_ms() / 1000;
        let mut addresses: Vec<_> = self
            .fabric
            .fdb
            .entries()
            .filter(|entry| port.is_none_or(|port| port == entry.port))
            .filter(|entry| filter.vlan.is_none_or(|vlan| vlan == entry.vlan))
            .map(|entry| AddressReport { age_s: now_s.saturating_sub(entry.seen_s), entry })
            .collect();
        addresses.sort_by_key(|address| (address.entry.vlan.number(), address.entry.mac));
        Ok(addresses)
    }

    /// Forgets the learned addresses that match `filter`; returns how many.
    ///
    /// # Errors
    /// The filter names a port that does not exist.
    pub fn forget_addresses(&self, filter: AddressFilter<'_>) -> Result<usize, Refusal> {
        let port = self.filter_port(filter)?;
        let removed = self.fabric.fdb.flush(port, filter.vlan);
        self.fabric.changes.ring_now();
        Ok(removed)
    }

    fn filter_port(&self, filter: AddressFilter<'_>) -> Result<Option<PortId>, Refusal> {
        filter.port.map(|name| self.ports.lock().find(name).map(|port| port.id)).transpose()
    }
}
