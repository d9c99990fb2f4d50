//! Any frame, in any pieces, with any offload state: extraction, tag edits and egress work keep their promises.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/extract.rs"]
mod extract;

fuzz_target!(|input: &[u8]| {
    extract::run(input);
});
