//! Nothing but benchmarks: `cargo bench -p benches`.
