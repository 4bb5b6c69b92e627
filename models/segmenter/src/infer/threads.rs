//! How many threads multiply. Rows are shared out whole, so the number changes no bit of a result.

use std::num::NonZero;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// None where one thread is enough.
static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();

/// Lets every graph of this process use `threads`; 0: as many as the CPU has. Without it they use one. What is said
/// first counts; the number that holds is returned.
pub fn set_threads(threads: usize) -> Result<usize, ThreadPoolBuildError> {
    let wanted = match threads {
        0 => available_parallelism().map_or(1, NonZero::get),
        threads => threads,
    };
    let pool = (wanted > 1)
        .then(|| {
            ThreadPoolBuilder::new()
                .num_threads(wanted)
                .thread_name(|index| format!("multiply-{index}"))
                .build()
        })
        .transpose()?;
    let holds = POOL.get_or_init(|| pool);
    Ok(holds.as_ref().map_or(1, ThreadPool::current_num_threads))
}

/// Runs `work`, which calls [`for_chunks`] often, on one of the threads, so that none is woken for every call.
pub(super) fn on_one<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    match POOL.get() {
        Some(Some(pool)) => pool.install(work),
        _ => work(),
    }
}

/// Calls `work` for every `size` values of `out` with their number, and with something of its own for each thread.
pub(super) fn for_chunks<S>(
    out: &mut [f32],
    size: usize,
    own: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, usize, &mut [f32]) + Sync + Send,
) {
    if let Some(Some(pool)) = POOL.get() {
        pool.install(|| {
            out.par_chunks_mut(size)
                .enumerate()
                .for_each_init(own, |own, (index, chunk)| work(own, index, chunk));
        });
        return;
    }
    let mut own = own();
    for (index, chunk) in out.chunks_mut(size).enumerate() {
        work(&mut own, index, chunk);
    }
}
