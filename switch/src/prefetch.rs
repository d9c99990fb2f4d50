//! Asking the processor for a cache line before it is needed.

#![allow(unsafe_code, reason = "the prefetch instruction is an unsafe intrinsic")]

/// Starts to load the cache line at `to`.
#[inline(always)]
pub(crate) fn prefetch<T>(to: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint that never faults and changes no memory; SSE is part of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(to).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = to;
}
