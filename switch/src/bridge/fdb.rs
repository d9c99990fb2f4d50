//! The forwarding database: at which port each address was last seen, per VLAN.
//!
//! One table serves all workers. The slow path looks destinations up and learns sources; the revalidator refreshes
//! entries whose packets only the caches see; control lists and flushes. Nothing here is touched by a packet that hits
//! a cache.
//!
//! # Source
//! IEEE 802.1Q §8.7 (learning), §8.8 (filtering database).

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::hash::{GOLDEN, fold};
use crate::port::{MAX_PORTS, PortId};
use crate::wire::MacAddr;
use crate::wire::vlan::VlanId;

/// Entries in a bucket: one cache line.
const WAYS: usize = 4;

/// Places for each address of the capacity. With half of the places taken, an address in 20 does not lie in its home
/// bucket; with more taken, ever more lie ever further away.
const PLACES_PER_ADDRESS: usize = 2;

/// A reach that stands for the whole table: a distance does not fit into its byte.
const REACH_ALL: u8 = u8::MAX;

/// Bit of a key word that tells a used entry from an empty one.
const VALID: u64 = 1 << 63;

/// An address in a VLAN, as the key word of an entry.
fn key_of(vlan: VlanId, mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac;
    VALID | u64::from(vlan.number()) << 48 | u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// The value word of an entry: `tenure` (19 bits), static (1), last seen in seconds (28), port (16).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value(u64);

impl Value {
    const SEEN_SHIFT: u32 = 16;
    const SEEN_MAX: u64 = (1 << 28) - 1;
    const STATIC: u64 = 1 << 44;
    const TENURE_SHIFT: u32 = 45;

    fn new(tenure: u64, is_static: bool, seen_s: u64, port: PortId) -> Self {
        Self(
            tenure << Self::TENURE_SHIFT
                | if is_static { Self::STATIC } else { 0 }
                | seen_s.min(Self::SEEN_MAX) << Self::SEEN_SHIFT
                | u64::from(port.number()),
        )
    }

    fn tenure(self) -> u64 {
        self.0 >> Self::TENURE_SHIFT
    }

    fn is_static(self) -> bool {
        self.0 & Self::STATIC != 0
    }

    fn seen_s(self) -> u64 {
        self.0 >> Self::SEEN_SHIFT & Self::SEEN_MAX
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low 16 bits are meant")]
    fn port(self) -> PortId {
        PortId::new(self.0 as u16).unwrap_or_default()
    }

    /// The same entry, seen at `seen_s` unless it was seen later already.
    fn refreshed(self, seen_s: u64) -> Self {
        let seen_s = seen_s.min(Self::SEEN_MAX).max(self.seen_s());
        Self(self.0 & !(Self::SEEN_MAX << Self::SEEN_SHIFT) | seen_s << Self::SEEN_SHIFT)
    }
}

#[derive(Default)]
struct Slot {
    key: AtomicU64,
    value: AtomicU64,
}

#[derive(Default)]
#[repr(align(64))]
struct Bucket([Slot; WAYS]);

/// What came of learning an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// It was known at this port.
    Refreshed,
    /// It is new.
    New,
    /// It was known at another port, and now is known at this one.
    Moved,
    /// It is pinned to another port and stays there.
    Pinned,
    /// The port has as many addresses as it may.
    LimitReached,
    /// The table has no place for it.
    TableFull,
}

impl Learned {
    /// Whether verdicts that rest on the table may have changed.
    pub fn changed(self) -> bool {
        match self {
            Learned::New | Learned::Moved => true,
            Learned::Refreshed | Learned::Pinned | Learned::LimitReached | Learned::TableFull => false,
        }
    }
}

/// An address of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbEntry {
    /// The VLAN.
    pub vlan: VlanId,
    /// The address.
    pub mac: MacAddr,
    /// Where it was last seen.
    pub port: PortId,
    /// When, in whole seconds of the caller's clock.
    pub seen_s: u64,
    /// Whether it is pinned: never ages, never moves.
    pub is_static: bool,
}

impl FdbEntry {
    /// What the two words of an entry say; `None` if it is empty.
    fn of_words(key: u64, value: Value) -> Option<Self> {
        let [_, _, a, b, c, d, e, f] = key.to_be_bytes();
        let [vlan_high, vlan_low, ..] = (key & !VALID).to_be_bytes();
        let vlan = VlanId::new(u16::from_be_bytes([vlan_high, vlan_low])).filter(|_| key & VALID != 0)?;
        Some(Self {
            vlan,
            mac: [a, b, c, d, e, f],
            port: value.port(),
            seen_s: value.seen_s(),
            is_static: value.is_static(),
        })
    }
}

/// The forwarding database.
///
/// An address has a *home* bucket, which its hash names, and lies in the first bucket from there on (the first comes after
/// the last) that had a free entry when it came. There are more entries than the capacity, so there always is one: the
/// table refuses an address only when it holds as many as its capacity. It never moves an address, so a reader cannot miss
/// one on its way. Of each bucket the table notes the *reach*: how many buckets further on addresses lie whose home it is.
/// A reader looks that far and no further; mostly that is the home bucket alone. A reach that is too long costs time, one
/// that is too short hides addresses.
///
/// Fixed in size from the start: two entries of 16 bytes and half a byte of reach for each address of the capacity, which
/// is rounded up to a power of two: 1 MiB and 16 KiB for 32 768 addresses.
///
/// The hash is keyed with 128 random bits and mixes twice, so that nobody can choose addresses that share a home: an
/// address that a guest makes up lengthens the way to another's no more than a random one would.
///
/// # Concurrency
/// Any thread reads, learns and refreshes; nobody holds a lock while reading. Two words make an entry, and a reader must
/// not pair the key of one address with the port of another:
/// - Only holders of `writer` give an entry to an address or take it away. Between the two lies the entry's *tenure*,
///   numbered in the value word. The value with the new number is stored before the key (release), the key is cleared
///   before the next tenure's value is stored.
/// - A reader loads value, key, value again (acquire). If the key is the one it looks for and both values carry the same
///   number, then that number's tenure covers the moment at which it saw the key: the first load bounds the number from
///   above, the second from below. So the value is that address's. Otherwise the entry changed hands meanwhile, and the
///   reader looks again. (Numbers wrap after 2^19 tenures of one entry, far more than fit between two loads.)
/// - Refreshing is a compare-exchange of the value word, which fails if the tenure or the port changed.
///
/// Only holders of `writer` change a reach. It is raised (release) before the address that needs it is stored, and lowered
/// after the last address that needed it was taken away. A reader loads it (acquire) before each step away from home: when
/// it loads one that is too short for an address, that address does not lie that far out at that moment, and was not in the
/// nearer buckets when the reader looked there. So there was a moment at which it was not in the table.
///
/// `generation` is raised after each change of what a lookup returns, with release. Who loads it (acquire) before it
/// looks things up, and finds it unchanged later, has seen nothing that changed in between; if a change comes after the
/// load, the number tells. Being told of a change that was already seen is merely slow.
pub struct Fdb {
    buckets: Box<[Bucket]>,
    /// How far addresses lie from their home, by the home's bucket; the furthest counts.
    reach: Box<[AtomicU8]>,
    seed: [u64; 2],
    capacity: usize,
    /// Addresses in the table; changed by holders of the lock.
    writer: Mutex<usize>,
    learned_at: Box<[AtomicU32]>,
    generation: AtomicU64,
}

impl fmt::Debug for Fdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fdb")
            .field("len", &self.len())
            .field("capacity", &self.capacity)
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

impl Fdb {
    /// An empty table for `capacity` addresses.
    pub fn new(capacity: usize) -> Self {
        let random = RandomState::new();
        Self::with_seed(capacity, [random.hash_one(0), random.hash_one(1)])
    }

    fn with_seed(capacity: usize, seed: [u64; 2]) -> Self {
        let buckets = (capacity.max(1) * PLACES_PER_ADDRESS).div_ceil(WAYS).next_power_of_two();
        Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            reach: (0..buckets).map(|_| AtomicU8::new(0)).collect(),
            seed,
            capacity,
            writer: Mutex::new(0),
            learned_at: (0..MAX_PORTS).map(|_| AtomicU32::new(0)).collect(),
            generation: AtomicU64::new(0),
        }
    }

    /// The bucket in which the search for `key` begins.
    fn home(&self, key: u64) -> usize {
        let [first, second] = self.seed;
        #[allow(clippy::cast_possible_truncation, reason = "only the low bits choose the bucket")]
        let hash = fold(fold(key ^ first, GOLDEN) ^ second, second | 1) as usize;
        hash & (self.buckets.len() - 1)
    }

    /// The bucket that lies `distance` after `home`.
    fn bucket_at(&self, home: usize, distance: usize) -> &Bucket {
        &self.buckets[home.wrapping_add(distance) & (self.buckets.len() - 1)]
    }

    /// The largest distance from `home` at which addresses of that home lie.
    fn reach(&self, home: usize) -> usize {
        match self.reach[home].load(Ordering::Acquire) {
            REACH_ALL => self.buckets.len() - 1,
            reach => usize::from(reach),
        }
    }

    /// Notes the largest distance from `home` at which addresses of that home lie. The caller holds the lock.
    fn set_reach(&self, home: usize, distance: usize) {
        let reach = u8::try_from(distance).unwrap_or(REACH_ALL);
        self.reach[home].store(reach, Ordering::Release);
    }

    /// The entry of `key`: its slot and a value of the tenure during which the slot was seen to hold the key.
    fn find(&self, key: u64) -> Option<(&Slot, Value)> {
        let home = self.home(key);
        // Each round that does not end found an entry that was given away and back meanwhile; a writer made progress.
        'again: loop {
            let mut distance = 0;
            loop {
                for slot in &self.bucket_at(home, distance).0 {
                    let before = Value(slot.value.load(Ordering::Acquire));
                    if slot.key.load(Ordering::Acquire) == key {
                        let after = Value(slot.value.load(Ordering::Acquire));
                        if before.tenure() != after.tenure() {
                            continue 'again;
                        }
                        return Some((slot, after));
                    }
                }
                // Asked for only here: most addresses that are known lie at home.
                if distance >= self.reach(home) {
                    return None;
                }
                distance += 1;
            }
        }
    }

    /// The entry of an address.
    pub fn entry(&self, vlan: VlanId, mac: MacAddr) -> Option<FdbEntry> {
        let key = key_of(vlan, mac);
        self.find(key).and_then(|(_, value)| FdbEntry::of_words(key, value))
    }

    /// The port of an address.
    pub fn lookup(&self, vlan: VlanId, mac: MacAddr) -> Option<PortId> {
        self.find(key_of(vlan, mac)).map(|(_, value)| value.port())
    }

    /// Notes that an address was seen at `port`; `limit` is the number of addresses that may be learned there.
    pub fn learn(&self, vlan: VlanId, mac: MacAddr, port: PortId, now_ms: u64, limit: u32) -> Learned {
        if self.touch(vlan, mac, port, now_ms) {
            return Learned::Refreshed;
        }
        let key = key_of(vlan, mac);
        let mut used = self.writer.lock();
        let Some((slot, value)) = self.find(key) else {
            if self.learned_at(port) >= limit {
                return Learned::LimitReached;
            }
            return match self.insert(&mut used, key, false, now_ms, port) {
                true => Learned::New,
                false => Learned::TableFull,
            };
        };
        if value.is_static() {
            return Learned::Pinned;
        }
        if value.port() == port {
            // Another thread learned it since the touch.
            return Learned::Refreshed;
        }
        if self.learned_at(port) >= limit {
            return Learned::LimitReached;
        }
        self.replace(slot, value, Value::new(value.tenure(), false, now_ms / 1000, port));
        Learned::Moved
    }

    /// Pins an address to `port`: it never ages and never moves. False if the table has no place for it.
    pub fn pin(&self, vlan: VlanId, mac: MacAddr, port: PortId, now_ms: u64) -> bool {
        let key = key_of(vlan, mac);
        let mut used = self.writer.lock();
        match self.find(key) {
            Some((slot, value)) => {
                self.replace(slot, value, Value::new(value.tenure(), true, now_ms / 1000, port));
                true
            }
            None => self.insert(&mut used, key, true, now_ms, port),
        }
    }

    /// Notes that an address known at `port` was seen there. False, and nothing done, if it is not known there.
    pub fn touch(&self, vlan: VlanId, mac: MacAddr, port: PortId, now_ms: u64) -> bool {
        let Some((slot, mut value)) = self.find(key_of(vlan, mac)) else {
            return false;
        };
        let tenure = value.tenure();
        while value.tenure() == tenure && value.port() == port {
            let fresh = value.refreshed(now_ms / 1000);
            if fresh == value {
                return true;
            }
            match slot.value.compare_exchange(value.0, fresh.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(other) => value = Value(other),
            }
        }
        false
    }

    /// Forgets every learned address that was last seen more than `max_age_ms` before `now_ms`.
    pub fn expire(&self, now_ms: u64, max_age_ms: u64, forgotten: impl FnMut(FdbEntry)) {
        let oldest_s = now_ms.saturating_sub(max_age_ms) / 1000;
        self.remove_where(|entry| !entry.is_static && entry.seen_s < oldest_s, forgotten);
    }

    /// Forgets the learned addresses of a port, of a VLAN, of both at once or (with neither) all; returns how many.
    pub fn flush(&self, port: Option<PortId>, vlan: Option<VlanId>) -> usize {
        let mut count = 0;
        self.remove_where(
            |entry| {
                !entry.is_static
                    && port.is_none_or(|port| port == entry.port)
                    && vlan.is_none_or(|vlan| vlan == entry.vlan)
            },
            |_| count += 1,
        );
        count
    }

    /// Forgets everything about a port that is gone, pinned addresses too; returns how many addresses that was.
    pub fn remove_port(&self, port: PortId) -> usize {
        let mut count = 0;
        self.remove_where(|entry| entry.port == port, |_| count += 1);
        count
    }

    /// The entries, in no order. Entries that come or go meanwhile may or may not be among them.
    pub fn entries(&self) -> impl Iterator<Item = FdbEntry> + '_ {
        self.buckets.iter().flat_map(|bucket| &bucket.0).filter_map(|slot| {
            let key = slot.key.load(Ordering::Acquire);
            let (_, value) = (key & VALID != 0).then(|| self.find(key)).flatten()?;
            FdbEntry::of_words(key, value)
        })
    }

    /// Addresses in the table.
    pub fn len(&self) -> usize {
        *self.writer.lock()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Addresses known at a port.
    pub fn learned_at(&self, port: PortId) -> u32 {
        self.learned_at[port.index()].load(Ordering::Relaxed)
    }

    /// Raised by every change of what a lookup returns; see the type for what it promises.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Gives a free slot to `key`, unless the table holds as many addresses as it may. The caller holds the lock and has
    /// seen that the key is not in the table.
    fn insert(&self, used: &mut usize, key: u64, is_static: bool, now_ms: u64, port: PortId) -> bool {
        if *used >= self.capacity {
            return false;
        }
        let home = self.home(key);
        let is_free = |slot: &&Slot| slot.key.load(Ordering::Relaxed) == 0;
        let (distance, slot) = (0..self.buckets.len())
            .find_map(|distance| Some((distance, self.bucket_at(home, distance).0.iter().find(is_free)?)))
            // PANICS: no, there are more places than the capacity, and fewer than that are taken.
            .expect("a table below its capacity has a free place");
        if distance > self.reach(home) {
            self.set_reach(home, distance);
        }
        let tenure = Value(slot.value.load(Ordering::Relaxed)).tenure() + 1;
        slot.value.store(Value::new(tenure, is_static, now_ms / 1000, port).0, Ordering::Release);
        slot.key.store(key, Ordering::Release);
        *used += 1;
        self.learned_at[port.index()].fetch_add(1, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
        true
    }

    /// Shortens the reach of `home` to what its addresses need, now that one in `bucket` has gone. The caller holds the lock.
    fn shorten_reach(&self, home: usize, bucket: usize) {
        let distance = bucket.wrapping_sub(home) & (self.buckets.len() - 1);
        let reach = self.reach[home].load(Ordering::Relaxed);
        if reach == 0 || distance < usize::from(reach) {
            return;
        }
        let is_of_home = |slot: &Slot| match slot.key.load(Ordering::Relaxed) {
            0 => false,
            key => self.home(key) == home,
        };
        let furthest =
            (1..=self.reach(home)).rev().find(|&at| self.bucket_at(home, at).0.iter().any(is_of_home));
        self.set_reach(home, furthest.unwrap_or(0));
    }

    /// Gives the tenant of a slot another value. The caller holds the lock; refreshes may come in between, and a fresher
    /// time that is lost to the change is no loss, as the change is at least as fresh.
    fn replace(&self, slot: &Slot, old: Value, new: Value) {
        slot.value.store(new.0, Ordering::Release);
        self.learned_at[old.port().index()].fetch_sub(1, Ordering::Relaxed);
        self.learned_at[new.port().index()].fetch_add(1, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn remove_where(&self, is_over: impl Fn(&FdbEntry) -> bool, mut removed: impl FnMut(FdbEntry)) {
        let slots = self
            .buckets
            .iter()
            .enumerate()
            .flat_map(|(at, bucket)| bucket.0.iter().map(move |slot| (at, slot)));
        for (bucket, slot) in slots {
            // A look without the lock first: most entries stay, and learners should not wait for a walk of the table.
            let read = || {
                let key = slot.key.load(Ordering::Acquire);
                let entry = FdbEntry::of_words(key, Value(slot.value.load(Ordering::Acquire)))?;
                is_over(&entry).then_some((key, entry))
            };
            if read().is_none() {
                continue;
            }
            let mut used = self.writer.lock();
            let Some((key, entry)) = read() else { continue };
            slot.key.store(0, Ordering::Release);
            self.shorten_reach(self.home(key), bucket);
            *used -= 1;
            self.learned_at[entry.port.index()].fetch_sub(1, Ordering::Relaxed);
            self.generation.fetch_add(1, Ordering::Release);
            drop(used);
            removed(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    const V: VlanId = VlanId::UNTAGGED;

    fn port(number: u16) -> PortId {
        PortId::new(number).unwrap()
    }

    fn mac(number: u16) -> MacAddr {
        let [a, b] = number.to_be_bytes();
        [2, 0, 0, 0, a, b]
    }

    #[test]
    fn addresses_are_known_where_they_were_seen_last_and_per_vlan() {
        let fdb = Fdb::new(16);
        let other = VlanId::new(7).unwrap();
        assert_eq!(fdb.learn(V, mac(1), port(1), 1000, 9), Learned::New);
        assert_eq!(fdb.learn(V, mac(1), port(1), 2000, 9), Learned::Refreshed);
        assert_eq!(fdb.lookup(V, mac(1)), Some(port(1)));
        assert_eq!(fdb.lookup(other, mac(1)), None);
        let before = fdb.generation();
        assert_eq!(fdb.learn(V, mac(1), port(2), 3000, 9), Learned::Moved);
        assert!(fdb.generation() > before);
        assert_eq!((fdb.learned_at(port(1)), fdb.learned_at(port(2)), fdb.len()), (0, 1, 1));
        let entry = FdbEntry { vlan: V, mac: mac(1), port: port(2), seen_s: 3, is_static: false };
        assert_eq!(fdb.entry(V, mac(1)), Some(entry));
        assert_eq!(fdb.entries().collect::<Vec<_>>(), [entry]);
    }

    #[test]
    fn entry_keeps_vlan_and_address_apart() {
        let fdb = Fdb::new(16);
        let vlan = VlanId::new(4094).unwrap();
        let mac = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];
        fdb.learn(vlan, mac, port(1023), u64::MAX, 9);
        let entry = fdb.entries().next().unwrap();
        assert_eq!((entry.vlan, entry.mac, entry.port, entry.seen_s), (vlan, mac, port(1023), (1 << 28) - 1));
    }

    #[test]
    fn refreshing_is_no_change_and_never_goes_back_in_time() {
        let fdb = Fdb::new(16);
        fdb.learn(V, mac(1), port(1), 9000, 9);
        let before = fdb.generation();
        assert!(fdb.touch(V, mac(1), port(1), 20_000));
        assert!(fdb.touch(V, mac(1), port(1), 10_000));
        assert!(!fdb.touch(V, mac(1), port(2), 30_000));
        assert!(!fdb.touch(V, mac(2), port(1), 30_000));
        assert_eq!(fdb.entry(V, mac(1)).unwrap().seen_s, 20);
        assert_eq!(fdb.generation(), before);
    }

    #[test]
    fn port_learns_no_more_than_its_limit_and_the_table_no_more_than_its_capacity() {
        let fdb = Fdb::new(8);
        for n in 0..4 {
            assert_eq!(fdb.learn(V, mac(n), port(1), 0, 4), Learned::New);
        }
        assert_eq!(fdb.learn(V, mac(9), port(1), 0, 4), Learned::LimitReached);
        assert_eq!(fdb.learn(V, mac(3), port(1), 0, 4), Learned::Refreshed);
        for n in 10..14 {
            assert_eq!(fdb.learn(V, mac(n), port(2), 0, 99), Learned::New);
        }
        assert_eq!(fdb.learn(V, mac(10), port(1), 0, 4), Learned::LimitReached, "a move counts, too");
        assert_eq!(fdb.learn(V, mac(14), port(2), 0, 99), Learned::TableFull);
        assert_eq!((fdb.learned_at(port(1)), fdb.learned_at(port(2)), fdb.len()), (4, 4, 8));
        assert_eq!(fdb.flush(Some(port(1)), None), 4);
        assert_eq!(fdb.learn(V, mac(14), port(1), 0, 4), Learned::New);
    }

    /// Seed `number`: those without structure, and between them some with as much as there can be.
    fn seed(number: u64) -> [u64; 2] {
        match number % 8 {
            0 => [number, number],
            1 => [number << 48, 0],
            2 => [u64::MAX - number, 1 << (number % 64)],
            _ => [fold(number + 1, GOLDEN), fold(number + 2, GOLDEN)],
        }
    }

    /// Address `number` of a set in a manner that drivers, hypervisors or attackers number theirs.
    fn address(manner: u64, number: u32) -> (VlanId, MacAddr) {
        let [a, b, c, d] = number.to_be_bytes();
        let in_vlan = VlanId::new(u16::try_from(number & 0xfff).unwrap().min(4094)).unwrap();
        match manner % 6 {
            0 => (V, [2, 0, a, b, c, d]),
            1 => (V, [2, d, c, b, a, 0]),
            2 => (in_vlan, [2, 0, 0, a, b, c]),
            3 => (in_vlan, [0x52, d, 0x54, c, b, a]),
            4 => (V, [2, a, c ^ c >> 1, 0, d, b]),
            _ => {
                let [.., a, b, c, d] = fold(u64::from(number) << 20 | 1, GOLDEN).to_be_bytes();
                (V, [2, number.to_be_bytes()[2], a, b, c, d])
            }
        }
    }

    /// Fills a table to its capacity with different addresses, and tells the longest reach.
    fn fill(capacity: u32, number: u64) -> u8 {
        let fdb = Fdb::with_seed(capacity as usize, seed(number));
        let manner = number / 8;
        let mut taken = 0;
        for (vlan, mac) in (0..).map(|number| address(manner, number)) {
            match fdb.learn(vlan, mac, port(1), 0, u32::MAX) {
                Learned::New => taken += 1,
                // One manner of numbering repeats itself.
                Learned::Refreshed => (),
                other => panic!("{other:?} after {taken} of {capacity} addresses, seed {number}"),
            }
            if taken == capacity {
                break;
            }
        }
        assert_eq!(fdb.learn(V, [0xfe; 6], port(1), 0, u32::MAX), Learned::TableFull, "seed {number}");
        let known = (0..)
            .map(|number| address(manner, number))
            .take_while(|&(vlan, mac)| fdb.lookup(vlan, mac).is_some());
        assert!(known.count() >= capacity as usize, "seed {number}");
        assert_eq!(fdb.entries().count(), capacity as usize, "seed {number}");
        fdb.reach.iter().map(|reach| reach.load(Ordering::Relaxed)).max().unwrap()
    }

    #[test]
    fn every_address_up_to_the_capacity_finds_a_place_whatever_the_seed() {
        let longest = (0..384).map(|number| fill(16_384, number)).max().unwrap();
        assert!(longest <= 24, "nobody has to look into {longest} buckets more");
        for capacity in 1..=192 {
            for number in 0..48 {
                fill(capacity, number);
            }
        }
    }

    /// All addresses of one home, as if the hash were known.
    #[test]
    fn addresses_of_one_home_find_their_places_all_the_same() {
        let fdb = Fdb::with_seed(2048, seed(3));
        let of_home = |fdb: &Fdb| {
            let shared = fdb.home(key_of(V, [2; 6]));
            (0..)
                .map(|number| address(0, number))
                .filter(|&(vlan, mac)| fdb.home(key_of(vlan, mac)) == shared)
                .take(2048)
                .collect::<Vec<_>>()
        };
        let addresses = of_home(&fdb);
        for &(vlan, mac) in &addresses {
            assert_eq!(fdb.learn(vlan, mac, port(1), 0, u32::MAX), Learned::New);
        }
        assert!(addresses.iter().all(|&(vlan, mac)| fdb.lookup(vlan, mac) == Some(port(1))));
        assert_eq!(fdb.reach.iter().filter(|reach| reach.load(Ordering::Relaxed) == REACH_ALL).count(), 1);
        assert_eq!(fdb.flush(None, None), 2048);
        assert!(
            fdb.reach.iter().all(|reach| reach.load(Ordering::Relaxed) == 0),
            "what has gone is not searched for"
        );
    }

    #[test]
    fn table_agrees_with_a_plain_map_while_addresses_come_and_go() {
        for number in 0..64 {
            let fdb = Fdb::with_seed(64, seed(number));
            let mut plain = HashMap::new();
            let mut random = number;
            for _ in 0..2000 {
                random = fold(random ^ GOLDEN, GOLDEN | number);
                let [kind, a, b, ..] = random.to_be_bytes();
                let (n, at) = (u16::from(a) % 96, port(u16::from(b) % 4));
                if kind < 16 {
                    assert_eq!(
                        fdb.remove_port(at),
                        plain.len() - {
                            plain.retain(|_, known| *known != at);
                            plain.len()
                        }
                    );
                    continue;
                }
                let learned = fdb.learn(V, mac(n), at, 0, u32::MAX);
                let expected = match plain.get(&n) {
                    Some(known) if *known == at => Learned::Refreshed,
                    Some(_) => Learned::Moved,
                    None if plain.len() == 64 => Learned::TableFull,
                    None => Learned::New,
                };
                assert_eq!(learned, expected, "seed {number}");
                if learned != Learned::TableFull {
                    plain.insert(n, at);
                }
                for n in 0..96 {
                    assert_eq!(fdb.lookup(V, mac(n)), plain.get(&n).copied(), "seed {number}");
                }
            }
        }
    }

    #[test]
    fn only_what_was_not_seen_for_long_enough_expires_and_pinned_addresses_stay() {
        let fdb = Fdb::new(16);
        fdb.learn(V, mac(1), port(1), 0, 9);
        fdb.learn(V, mac(2), port(1), 0, 9);
        assert!(fdb.pin(V, mac(3), port(1), 0));
        fdb.touch(V, mac(2), port(1), 5000);
        let before = fdb.generation();
        let mut gone = Vec::new();
        fdb.expire(304_000, 300_000, |entry| gone.push(entry.mac));
        assert_eq!(gone, [mac(1)]);
        assert!(fdb.generation() > before);
        assert_eq!(fdb.learn(V, mac(3), port(2), 0, 9), Learned::Pinned);
        assert_eq!(fdb.flush(None, None), 1);
        assert_eq!(fdb.lookup(V, mac(3)), Some(port(1)));
        assert_eq!(fdb.remove_port(port(1)), 1);
        assert!(fdb.is_empty());
        assert_eq!(fdb.learned_at(port(1)), 0);
    }

    /// Each address belongs to one port only, but all share few slots that are given away all the time.
    #[test]
    fn readers_never_pair_an_address_with_the_port_of_another() {
        let fdb = Fdb::new(8);
        let is_over = AtomicBool::new(false);
        let mut hits = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..60_000_u16 {
                    let n = round.wrapping_mul(7) % 32;
                    fdb.learn(V, mac(n), port(n + 1), 0, u32::MAX);
                    fdb.flush(Some(port(round.wrapping_mul(13) % 32 + 1)), None);
                }
                is_over.store(true, Ordering::Relaxed);
            });
            while !is_over.load(Ordering::Relaxed) {
                for n in 0..32 {
                    if let Some(found) = fdb.lookup(V, mac(n)) {
                        assert_eq!(found, port(n + 1));
                        hits += 1;
                    }
                    fdb.touch(V, mac(n), port(n + 1), u64::from(n));
                }
            }
        });
        assert!(hits > 0);
        assert_eq!(fdb.entries().count(), fdb.len());
    }

    /// Addresses that come and go lengthen and shorten the ways to those that stay, while somebody looks for these.
    #[test]
    fn readers_always_find_an_address_that_stays() {
        let fdb = Fdb::new(16);
        for n in 0..8 {
            // Those that go lie before those that stay as often as behind them.
            fdb.learn(V, mac(100 + n), port(2), 0, u32::MAX);
            assert!(fdb.pin(V, mac(n), port(1), 0));
        }
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..60_000_u16 {
                    fdb.learn(V, mac(100 + round % 64), port(2), 0, u32::MAX);
                    if round % 5 == 0 {
                        fdb.flush(None, None);
                    }
                }
                is_over.store(true, Ordering::Relaxed);
            });
            while !is_over.load(Ordering::Relaxed) {
                (0..8).for_each(|n| assert_eq!(fdb.lookup(V, mac(n)), Some(port(1))));
            }
        });
    }
}
