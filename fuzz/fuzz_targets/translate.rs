//! Any rules and any frame: extraction, translation and execution keep their promises.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/translate.rs"]
mod translate;

fuzz_target!(|input: &[u8]| {
    translate::run(input);
});
