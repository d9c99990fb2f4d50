//! From a head descriptor to the pieces of memory its chain describes.
//!
//! The guest writes the chain, and can lengthen, loop or misplace it. Each descriptor is read once; the number of
//! descriptors is bounded; every piece is checked against the memory table before it leaves this file.

use super::fault::RingFault;
use super::layout::{DESCRIPTOR_BYTES, Descriptor, RingLayout};
use crate::memory::{GuestAddr, Span};

/// Longest chain, indirect table included. The standard allows as many descriptors as the queue has; Linux guests put
/// more into an indirect table of a small queue.
const CHAIN_LIMIT: u16 = 1024;

/// What the back-end does with a chain's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The guest transmits: buffers are read.
    Read,
    /// The guest receives: buffers are written.
    Write,
}

/// Where the next descriptor comes from.
#[derive(Debug, Clone, Copy)]
enum Table {
    /// The ring's own table.
    Ring,
    /// An indirect table of `count` descriptors.
    Indirect { addr: GuestAddr, count: u16 },
}

/// Walks one chain.
#[derive(Debug)]
pub(crate) struct ChainReader<'a> {
    layout: &'a RingLayout,
    table: Table,
    next: Option<Descriptor>,
    indirect_allowed: bool,
    /// Descriptors that may still come: the bound of the walk.
    budget: u16,
}

impl<'a> ChainReader<'a> {
    #[inline]
    pub(super) fn new(layout: &'a RingLayout, first: Descriptor, indirect_allowed: bool) -> Self {
        Self { layout, table: Table::Ring, next: Some(first), indirect_allowed, budget: CHAIN_LIMIT }
    }

    /// Calls `each` with every piece of memory of the chain, in order, until the chain ends or `each` has enough (returns
    /// false).
    ///
    /// # Errors
    /// The first rule that the chain breaks.
    #[inline]
    pub(crate) fn for_each(
        self,
        access: Access,
        mut each: impl FnMut(Span) -> bool,
    ) -> Result<(), RingFault> {
        self.walk(Some(access), |span, _| each(span))
    }

    /// The same for a chain whose pieces go in both directions; `each` learns in which.
    ///
    /// # Errors
    /// The first rule that the chain breaks.
    pub(crate) fn for_each_of_both(self, each: impl FnMut(Span, Access) -> bool) -> Result<(), RingFault> {
        self.walk(None, each)
    }

    #[inline]
    fn walk(
        mut self,
        only: Option<Access>,
        mut each: impl FnMut(Span, Access) -> bool,
    ) -> Result<(), RingFault> {
        // Bound: `budget` descriptors; each gives at most one piece per memory region it touches, and it advances in each.
        while let Some(descriptor) = self.next {
            if descriptor.is_indirect() {
                self.enter_indirect(&descriptor)?;
                continue;
            }
            let access = if descriptor.is_writable() { Access::Write } else { Access::Read };
            if only.is_some_and(|only| only != access) {
                return Err(RingFault::WrongDirection { addr: descriptor.addr });
            }
            if !self.pieces(&descriptor, &mut |span| each(span, access))? {
                return Ok(());
            }
            self.next = self.follow(&descriptor)?;
        }
        Ok(())
    }

    #[inline]
    fn pieces(
        &self,
        descriptor: &Descriptor,
        each: &mut impl FnMut(Span) -> bool,
    ) -> Result<bool, RingFault> {
        let Descriptor { mut addr, mut len, .. } = *descriptor;
        if len == 0 {
            return Err(RingFault::ZeroLength { addr });
        }
        while len > 0 {
            let span = self
                .layout
                .memory()
                .span(GuestAddr(addr), len)
                .ok_or(RingFault::OutsideMemory { addr: descriptor.addr, len: descriptor.len })?;
            #[allow(clippy::cast_possible_truncation, reason = "a span is no longer than the u32 asked for")]
            let here = span.len() as u32;
            if !each(span) {
                return Ok(false);
            }
            len -= here;
            // No overflow: regions do not wrap, so the next address is at most the end of one.
            addr += u64::from(here);
        }
        Ok(true)
    }

    fn enter_indirect(&mut self, descriptor: &Descriptor) -> Result<(), RingFault> {
        let nested = matches!(self.table, Table::Indirect { .. });
        if !self.indirect_allowed || nested || descriptor.has_next() {
            return Err(RingFault::UnexpectedIndirect);
        }
        let len = descriptor.len;
        if len == 0 || !len.is_multiple_of(DESCRIPTOR_BYTES) {
            return Err(RingFault::IndirectLength { len });
        }
        let count = u16::try_from(len / DESCRIPTOR_BYTES)
            .ok()
            .filter(|&count| count <= CHAIN_LIMIT)
            .ok_or(RingFault::ChainTooLong { limit: CHAIN_LIMIT })?;
        self.table = Table::Indirect { addr: GuestAddr(descriptor.addr), count };
        self.next = Some(self.fetch(0)?);
        Ok(())
    }

    #[inline]
    fn follow(&mut self, descriptor: &Descriptor) -> Result<Option<Descriptor>, RingFault> {
        if !descriptor.has_next() {
            return Ok(None);
        }
        self.fetch(descriptor.next).map(Some)
    }

    fn fetch(&mut self, index: u16) -> Result<Descriptor, RingFault> {
        self.budget = self
            .budget
            .checked_sub(1)
            .filter(|&left| left > 0)
            .ok_or(RingFault::ChainTooLong { limit: CHAIN_LIMIT })?;
        match self.table {
            Table::Ring => self
                .layout
                .descriptor(index)
                .ok_or(RingFault::DescriptorIndex { index, size: self.layout.size() }),
            Table::Indirect { count, .. } if index >= count => {
                Err(RingFault::DescriptorIndex { index, size: count })
            }
            Table::Indirect { addr, .. } => self
                .layout
                .indirect_descriptor(addr, index)
                .ok_or(RingFault::OutsideMemory { addr: addr.0, len: DESCRIPTOR_BYTES }),
        }
    }
}
