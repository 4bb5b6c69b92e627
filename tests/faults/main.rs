//! The daemon's promise against a real mosquitto: whatever dies, every accepted image ends published,
//! and an independent subscriber has received each result at least once with one job id.
//!
//! SCANSIDE_LONG=1 runs the long versions (`README.md`). Without mosquitto the tests print SKIPPED;
//! with SCANSIDE_REQUIRE_PEERS they fail.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail by panic and say what they skip"
)]

mod aborts;
mod bad_models;
mod broker;
mod clock;
mod cstore;
mod full;
mod harness;
mod http;
mod https;
mod limited_brokers;
mod link;
mod models;
mod no_images;
mod operators;
mod outage;
mod power;
mod privacy;
mod quarantine;
mod replay;
mod requests;
mod rights;
mod routes;
mod seg;
mod soak;
mod systemd;
mod tls;

/// Whether the long versions of the faults run: more of them, for longer.
fn long() -> bool {
    std::env::var_os("SCANSIDE_LONG").is_some()
}

#[test]
fn the_program_starts_with_the_glibc_that_the_readme_names() {
    tests::glibc::assert_starts(env!("CARGO_BIN_EXE_scansided"));
}
