//! `trainer`: parse, log, run, exit code.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use trainer::{cli::Cli, train};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tensors of many MB come and go with every operation. An allocator that returns their pages to the
/// kernel has them cleared each time, which took a fifth of a training step.
fn keep_freed_memory() {
    /// `mi_option_purge_delay` of mimalloc.h; -1: never.
    const PURGE_DELAY: std::ffi::c_int = 15;
    #[expect(unsafe_code, reason = "mimalloc's options have a C interface only")]
    // SAFETY: called once, before any other thread exists.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
}

fn main() -> ExitCode {
    keep_freed_memory();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let cli = Cli::parse();
    // The first Ctrl-C lets the loop save; the second one stops at once.
    let handler = || {
        if train::INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::abort();
        }
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::warn!(%error, "ctrl-c will not save");
    }
    match trainer::run(cli) {
        Ok(code) => code,
        Err(error) => {
            tracing::debug!(?error, "failed");
            trainer::report::complain(&error);
            ExitCode::FAILURE
        }
    }
}
