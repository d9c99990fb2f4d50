//! Flow keys, masks and their extraction from packet heads.

/// The key of a flow: the header fields that rules and caches match on.
pub mod key;

/// Extraction of keys from packet heads.
pub mod extract;

/// What rules match and change: a key, metadata and registers.
pub mod fields;
