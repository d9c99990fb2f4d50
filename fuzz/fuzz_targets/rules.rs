//! Any text: reading rules never panics, errors lie where they say, and what is printed is read back.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/rules.rs"]
mod rules;

fuzz_target!(|input: &[u8]| {
    rules::run(input);
});
