//! A file of the front-end's in our address space: which files are taken, and how they are mapped.
//!
//! Workers touch mapped pages, and a page that must first be fetched keeps whoever touches it waiting inside the kernel,
//! where no signal ends it. So a file is taken only if its pages come from this machine's own memory or disk: a file
//! system whose server is another process or another machine could stop a worker for good. What is asked of a file here
//! may wait for such a server as well; it is asked by the session thread, without a lock, before anything is mapped.
//!
//! # Source
//! vhost-user SET_MEM_TABLE, SET_LOG_BASE. libvhost-user and DPDK's vhost library map files from their first byte on,
//! since a file of huge pages takes no other offset than whole pages of its own; here the offset is rounded down to one.

#![allow(unsafe_code, reason = "a pointer to mapped memory crosses threads")]

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::statfs::fstatfs;
use vm_memory::{FileOffset, MmapRegion};

use crate::sigbus;

/// Why a file cannot be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    /// The file ends before the mapping does; touching the rest would raise SIGBUS.
    #[error("wants {wanted} bytes of a file that has {present}: the front-end truncated its memfd")]
    TooShort {
        /// Bytes of the file that are needed.
        wanted: u64,
        /// Bytes that the file has.
        present: u64,
    },
    /// The pages come from another process or another machine.
    #[error(
        "lies in a file on {file_system}, whose pages others deliver whenever they like; use a memfd, /dev/shm, huge \
         pages or a local disk"
    )]
    Remote {
        /// What the file lies on.
        file_system: &'static str,
    },
    /// The descriptor is no file of memory at all.
    #[error("comes with a descriptor that is no memory; use a memfd, /dev/shm, huge pages or /dev/dax")]
    NoMemory,
    /// Offset and length wrap around.
    #[error("has an offset of {offset:#x} and {len} bytes, which wraps around")]
    Wraps {
        /// Where in the file.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The system refused.
    #[error("cannot be mapped: {}", io::Error::from_raw_os_error(*errno))]
    Refused {
        /// Its reason.
        errno: i32,
    },
}

/// The file systems whose pages come from elsewhere, by the magic numbers of statfs(2).
const REMOTE: &[(i64, &str)] = &[
    (0x6573_5546, "FUSE"),
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x517b, "SMB"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
];

/// Which file it is, whatever the descriptor.
pub(crate) type FileId = (u64, u64);

/// Bytes of a file, mapped readable and writable, for as long as this lives.
///
/// # Invariants
/// 1. `host..host + len` lies inside `region`, which owns the mapping.
#[derive(Debug)]
pub(crate) struct Mapping {
    region: MmapRegion<()>,
    host: NonNull<u8>,
    file: FileId,
}

// SAFETY: the pointer is to shared memory that `region` keeps mapped, and is only read here.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset` on.
    ///
    /// # Errors
    /// The file is none that can be mapped, or the system refuses.
    pub(crate) fn new(file: File, offset: u64, len: u64) -> Result<Self, FileFault> {
        let wraps = FileFault::Wraps { offset, len };
        let end = offset.checked_add(len).filter(|&end| end <= i64::MAX as u64 && len > 0).ok_or(wraps)?;
        let about = examine(&file, end)?;
        let start = offset - offset % about.unit;
        let map_end = end.checked_next_multiple_of(about.unit).ok_or(wraps)?;
        let file = Arc::new(file);
        let map = |from: u64| {
            let bytes = usize::try_from(map_end - from).map_err(|_| wraps)?;
            let file = FileOffset::from_arc(Arc::clone(&file), from);
            let flags = libc::MAP_NORESERVE | libc::MAP_SHARED;
            let region = MmapRegion::build(Some(file), bytes, libc::PROT_READ | libc::PROT_WRITE, flags);
            region.map(|region| (region, offset - from)).map_err(|error| refused(&error))
        };
        // A device's pages may be larger than it says: from its first byte on it can always be mapped.
        let (region, skip) = map(start).or_else(|fault| if start > 0 { map(0) } else { Err(fault) })?;
        let skip = usize::try_from(skip).map_err(|_| wraps)?;
        let host = NonNull::new(region.as_ptr().wrapping_add(skip)).ok_or(wraps)?;
        Ok(Self { region, host, file: about.id })
    }

    /// The first byte that was asked for.
    pub(crate) fn host(&self) -> NonNull<u8> {
        self.host
    }

    /// Which file it is.
    pub(crate) fn file(&self) -> FileId {
        self.file
    }

    /// Has `shrank` set when the file turns out to be shorter than the mapping; `None` when too many are watched already.
    pub(crate) fn watch(&self, shrank: Arc<AtomicBool>) -> Option<sigbus::Watch> {
        sigbus::Watch::new(NonNull::new(self.region.as_ptr())?, self.region.size(), shrank)
    }
}

/// What must be known of a file to map it.
struct About {
    id: FileId,
    /// Mappings begin and end at multiples of this: a power of two, a page at least.
    unit: u64,
}

/// Looks at `file`, of which the bytes before `end` are wanted.
fn examine(file: &File, end: u64) -> Result<About, FileFault> {
    let errno = |errno: nix::errno::Errno| FileFault::Refused { errno: errno as i32 };
    // Only shared memory and huge pages know seals, and the kernel asks nobody for them.
    if fcntl(file, FcntlArg::F_GET_SEALS).is_err() {
        let magic = fstatfs(file).map_err(errno)?.filesystem_type().0;
        #[allow(clippy::unnecessary_cast, reason = "the type depends on the C library")]
        let magic = magic as i64 & 0xffff_ffff;
        if let Some(&(_, file_system)) = REMOTE.iter().find(|(remote, _)| *remote == magic) {
            return Err(FileFault::Remote { file_system });
        }
    }
    let metadata = file
        .metadata()
        .map_err(|error| FileFault::Refused { errno: error.raw_os_error().unwrap_or(libc::EIO) })?;
    if metadata.is_file() {
        if metadata.len() < end {
            return Err(FileFault::TooShort { wanted: end, present: metadata.len() });
        }
    } else if !metadata.file_type().is_char_device() {
        // A character device (/dev/dax) has no length to go by: its driver refuses what it does not have.
        return Err(FileFault::NoMemory);
    }
    let block = metadata.blksize();
    let unit = if block.is_power_of_two() { block.max(page_bytes()) } else { page_bytes() };
    Ok(About { id: (metadata.dev(), metadata.ino()), unit })
}

fn page_bytes() -> u64 {
    // PANICS: the system knows the size of its pages.
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().expect("page size");
    page.unsigned_abs()
}

fn refused(error: &vm_memory::mmap::MmapRegionError) -> FileFault {
    let errno = match error {
        vm_memory::mmap::MmapRegionError::Mmap(error) => error.raw_os_error(),
        _ => None,
    };
    FileFault::Refused { errno: errno.unwrap_or(libc::EINVAL) }
}
