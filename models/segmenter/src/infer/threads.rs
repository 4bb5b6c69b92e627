//! How many threads multiply. Rows are shared out whole, so the number changes no bit of a result.

use std::cell::Cell;
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

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on this thread and no other, whatever [`set_threads`] said: for what must not be in the way of another
/// graph. A thread of the pool that waits for its part takes whatever work comes in, a whole run of the other graph too.
pub fn alone<R>(work: impl FnOnce() -> R) -> R {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _before = Before(ALONE.replace(true));
    work()
}

fn pool() -> Option<&'static ThreadPool> {
    POOL.get()?.as_ref().filter(|_| !ALONE.get())
}

/// Runs `work`, which calls [`for_chunks`] often, on one of the threads: the one that asks is put to sleep once and
/// not for every call.
pub(super) fn on_one<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    match pool() {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

/// Calls `work` for every `size` values of `out` with their number, and with something of its own for each thread.
pub(super) fn for_chunks<S>(
    out: &mut [f32],
    size: usize,
    own: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, usize, &mut [f32]) + Sync + Send,
) {
    if let Some(pool) = pool() {
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
