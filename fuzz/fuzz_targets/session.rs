//! Any conversation of a front-end, over rings of any content: the session and the data path keep their promises.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/session.rs"]
mod session;

fuzz_target!(|input: &[u8]| {
    session::run(input);
});
