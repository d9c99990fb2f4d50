//! The memory regions that a front-end shares, as it changes them.
//!
//! A front-end changes its table whole (SET_MEM_TABLE) or region by region. QEMU does the latter while rings run: where a
//! guest's firmware or a new memory module splits a region anew, it first removes the old one and then adds its parts.
//! Between the two messages the guest knows nothing of it and goes on to use that memory, so a region that is removed
//! stays in use for a moment (`LINGER`): added parts of it are the same pages, and whatever else is added takes its
//! place at once.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::VhostUserMemoryRegion;

use crate::dirty_log::LogMemory;
use crate::mapping::Mapping;
use crate::memory::{FrontendAddr, GuestAddr, MAX_REGIONS, MemoryFault, RegionTable, SharedRegion};

/// How long a removed region stays in use, unless something takes its place.
pub(super) const LINGER: Duration = Duration::from_millis(100);

/// The regions of one front-end.
///
/// # Invariants
/// 1. The regions do not overlap each other in guest addresses, nor do those that linger.
#[derive(Debug, Default)]
pub(super) struct MemoryMap {
    regions: Vec<Arc<SharedRegion>>,
    lingering: Vec<Arc<SharedRegion>>,
    /// When what lingers goes.
    until: Option<Instant>,
}

impl MemoryMap {
    /// Replaces all regions.
    ///
    /// # Errors
    /// One of them cannot be used; nothing is changed.
    pub(super) fn replace(
        &mut self,
        table: Vec<(VhostUserMemoryRegion, OwnedFd)>,
    ) -> Result<(), MemoryFault> {
        let mut new = Self::default();
        for (region, file) in table {
            new.add(&region, file)?;
        }
        *self = new;
        Ok(())
    }

    /// Adds a region.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) fn add(&mut self, said: &VhostUserMemoryRegion, file: OwnedFd) -> Result<(), MemoryFault> {
        let region = share(said, File::from(file))?;
        if let Some(other) = self.regions.iter().find(|other| overlap(other, &region)) {
            return Err(MemoryFault::Overlap { start: region.start.0, other: other.start.0 });
        }
        if self.regions.len() >= MAX_REGIONS {
            return Err(MemoryFault::TooManySlots);
        }
        self.lingering.retain(|old| !overlap(old, &region) || is_part(&region, old));
        self.regions.push(Arc::new(region));
        Ok(())
    }

    /// Removes a region, which lingers from `now` on if `linger`.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn remove(
        &mut self,
        said: &VhostUserMemoryRegion,
        now: Instant,
        linger: bool,
    ) -> Result<(), MemoryFault> {
        // The protocol names a region by these three; the offset and a descriptor, if there is one, do not matter.
        let name = (said.guest_phys_addr, said.memory_size, said.user_addr);
        let found =
            self.regions.iter().position(|region| (region.start.0, region.len, region.frontend.0) == name);
        let unknown = MemoryFault::Unknown { start: said.guest_phys_addr, len: said.memory_size };
        let region = self.regions.remove(found.ok_or(unknown)?);
        if linger {
            self.lingering.retain(|old| !overlap(old, &region));
            self.lingering.push(region);
            self.until = Some(now + LINGER);
        }
        Ok(())
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Lets go of what lingers; true if anything did.
    pub(super) fn expire(&mut self) -> bool {
        self.lingering.clear();
        self.until.take().is_some()
    }

    /// The memory that rings may use now.
    ///
    /// # Errors
    /// More regions than can be watched.
    pub(super) fn table(&self, log: Option<Arc<LogMemory>>) -> Result<RegionTable, MemoryFault> {
        let settled =
            self.regions.iter().filter(|region| !self.lingering.iter().any(|old| overlap(old, region)));
        RegionTable::new(settled.chain(&self.lingering).map(Arc::clone), log)
    }

    /// The guest's address of what the front-end knows as `addr`.
    pub(super) fn translate(&self, addr: FrontendAddr) -> Option<GuestAddr> {
        self.regions.iter().chain(&self.lingering).find_map(|region| {
            let offset = addr.0.checked_sub(region.frontend.0).filter(|&offset| offset < region.len)?;
            // No overflow (SharedRegion invariant 1).
            Some(GuestAddr(region.start.0 + offset))
        })
    }
}

/// Maps what the front-end said.
fn share(said: &VhostUserMemoryRegion, file: File) -> Result<SharedRegion, MemoryFault> {
    let (start, len, frontend, offset) =
        (said.guest_phys_addr, said.memory_size, said.user_addr, said.mmap_offset);
    if len == 0 || start.checked_add(len).is_none() || frontend.checked_add(len).is_none() {
        return Err(MemoryFault::BadRegion { start, len });
    }
    let mapping = Mapping::new(file, offset, len).map_err(|fault| MemoryFault::File { start, fault })?;
    Ok(SharedRegion { start: GuestAddr(start), len, frontend: FrontendAddr(frontend), offset, mapping })
}

/// Whether two regions have guest addresses in common.
fn overlap(one: &SharedRegion, other: &SharedRegion) -> bool {
    one.start.0 < other.start.0 + other.len && other.start.0 < one.start.0 + one.len
}

/// Whether `part` is the same pages at the same addresses as `whole` has there.
fn is_part(part: &SharedRegion, whole: &SharedRegion) -> bool {
    let Some(skip) = part.start.0.checked_sub(whole.start.0) else { return false };
    part.mapping.file() == whole.mapping.file()
        && skip.checked_add(part.len).is_some_and(|end| end <= whole.len)
        && whole.frontend.0.checked_add(skip) == Some(part.frontend.0)
        && whole.offset.checked_add(skip) == Some(part.offset)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn file(len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    }

    fn said(start: u64, len: u64, offset: u64) -> VhostUserMemoryRegion {
        VhostUserMemoryRegion::new(start, len, start + (1 << 40), offset)
    }

    fn copy(file: &File) -> OwnedFd {
        file.as_fd().try_clone_to_owned().unwrap()
    }

    fn has(map: &MemoryMap, addr: u64) -> bool {
        map.table(None).unwrap().whole(GuestAddr(addr), 1).is_some()
    }

    #[test]
    fn region_that_is_split_anew_is_in_use_all_the_while() {
        let (file, now) = (file(4 * MIB), Instant::now());
        let mut map = MemoryMap::default();
        map.add(&said(0, 4 * MIB, 0), copy(&file)).unwrap();
        map.remove(&said(0, 4 * MIB, 0), now, true).unwrap();
        assert!(has(&map, 3 * MIB));
        map.add(&said(0, MIB, 0), copy(&file)).unwrap();
        assert!(has(&map, MIB / 2) && has(&map, 3 * MIB));
        map.add(&said(2 * MIB, 2 * MIB, 2 * MIB), copy(&file)).unwrap();
        assert!(has(&map, MIB / 2) && has(&map, 3 * MIB));
        assert_eq!(map.until(), Some(now + LINGER));
        assert!(map.expire() && !map.expire());
        assert!(has(&map, MIB / 2) && has(&map, 3 * MIB));
        assert!(!has(&map, MIB), "the hole between the parts");
        assert_eq!(map.translate(FrontendAddr((1 << 40) + 3 * MIB)), Some(GuestAddr(3 * MIB)));
        assert_eq!(map.translate(FrontendAddr((1 << 40) + MIB)), None);
    }

    #[test]
    fn other_pages_take_the_place_of_a_region_at_once() {
        let (old, new) = (file(MIB), file(2 * MIB));
        for (region, file) in [
            (said(0, MIB, 0), &new),
            (said(0, 2 * MIB, 0), &new),
            (said(4096, MIB - 4096, 0), &old),
            (VhostUserMemoryRegion::new(0, MIB, 7 << 40, 0), &old),
        ] {
            let mut map = MemoryMap::default();
            map.add(&said(0, MIB, 0), copy(&old)).unwrap();
            map.remove(&said(0, MIB, 0), Instant::now(), true).unwrap();
            map.add(&region, copy(file)).unwrap();
            assert!(map.lingering.is_empty(), "{:#x}", { region.guest_phys_addr });
        }
    }

    #[test]
    fn regions_that_overlap_wrap_or_are_not_there_are_refused() {
        let file = file(MIB);
        let mut map = MemoryMap::default();
        map.add(&said(MIB, MIB, 0), copy(&file)).unwrap();
        let overlap = MemoryFault::Overlap { start: MIB + 4096, other: MIB };
        assert_eq!(map.add(&said(MIB + 4096, 4096, 0), copy(&file)).unwrap_err(), overlap);
        for region in [
            said(0, 0, 0),
            VhostUserMemoryRegion::new(u64::MAX - 4095, MIB, 0, 0),
            VhostUserMemoryRegion::new(0, MIB, u64::MAX - 4095, 0),
        ] {
            let fault = map.add(&region, copy(&file)).unwrap_err();
            assert!(matches!(fault, MemoryFault::BadRegion { .. }), "{fault}");
        }
        for region in [said(0, MIB, 0), said(MIB, 4096, 0), VhostUserMemoryRegion::new(MIB, MIB, 1, 0)] {
            let fault = map.remove(&region, Instant::now(), true).unwrap_err();
            assert!(matches!(fault, MemoryFault::Unknown { .. }), "{fault}");
        }
        assert!(map.replace(vec![(said(0, MIB, 1), copy(&file))]).is_err());
        assert!(has(&map, MIB), "a table that cannot be used changes nothing");
        map.replace(vec![(said(0, 4096, 7), copy(&file))]).unwrap();
        assert!(has(&map, 1) && !has(&map, MIB));
    }
}
