//! What an image of 512 x 512 px takes from the heap beside the graph, once everything is loaded: a test of its own,
//! because the allocator that counts is the whole program's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use contract::Image;
use segmenter::Segmenter;
use segmenter::decode::{Spacing, SpacingFrom};
use segmenter::infer::Graph;
use segmenter::result::instances;

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

fn note(bytes: usize) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "an allocator is an unsafe trait")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls and bytes of one run of `work`, after a first one.
fn taken<T>(mut work: impl FnMut() -> T) -> (usize, usize) {
    drop(work());
    let before = (CALLS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    let result = work();
    let after = (CALLS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    drop(result);
    (after.0 - before.0, after.1 - before.1)
}

const SIDE: usize = 512;

/// A bright disc with something like noise, and a dark rim.
fn image() -> Image {
    let value = |at: usize| {
        let (y, x) = ((at / SIDE) as f32 - 256.0, (at % SIDE) as f32 - 256.0);
        let noise = (at * 7919 % 101) as f32;
        (1500.0 - 5.0 * x.hypot(y)).max(0.0) + noise
    };
    Image {
        rows: SIDE,
        cols: SIDE,
        channels: 1,
        data: (0..SIDE * SIDE).map(value).collect(),
    }
}

#[test]
fn an_image_takes_little_beside_the_graph() {
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/cardiac-lv-vit_t-256");
    let segmenter = Segmenter::open(&bundle).unwrap();
    let manifest = segmenter.manifest();
    let image = image();
    let contract::manifest::Kind::Automatic { graph, .. } = &manifest.kind;
    let graph = Graph::open(&segmenter.path(graph), manifest).unwrap();
    let (chw, placement) = manifest.input.prepare(&image);
    let logits = graph.run(&chw).unwrap();
    let mut labels = placement.labels_from_logits(&logits);
    // The network sees no heart in a disc; what is encoded has one.
    for (at, label) in labels.data.iter_mut().enumerate() {
        let (y, x) = ((at / SIDE) as f32 - 260.0, (at % SIDE) as f32 - 240.0);
        *label = u8::from(x.hypot(y) < 45.0);
    }
    let pixels = SIDE * SIDE;
    let spacing = Spacing::uniform([1.0, 1.0], SpacingFrom::PixelSpacing, 1);
    let input = 3 * manifest.input.size * manifest.input.size * size_of::<f32>();
    let stages = [
        (
            "preprocess",
            taken(|| manifest.input.prepare(&image)),
            // The network's input, bytes of the window, counts of the percentiles, two passes of the resize.
            (20, input + 4 * pixels),
        ),
        (
            "postprocess",
            taken(|| placement.labels_from_logits(&logits)),
            (20, pixels + 64 * 1024),
        ),
        (
            "encode",
            taken(|| {
                let found = instances(std::slice::from_ref(&labels), manifest, &spacing);
                serde_json::to_string(&found).unwrap()
            }),
            (30, 16 * 1024),
        ),
    ];
    let (calls, bytes) = taken(|| graph.run(&chw).unwrap());
    println!("graph: {calls} allocations, {bytes} bytes");
    for (stage, (calls, bytes), (most_calls, most_bytes)) in stages {
        println!("{stage}: {calls} allocations, {bytes} bytes");
        assert!(
            calls <= most_calls && bytes <= most_bytes,
            "{stage} takes {calls} allocations of {bytes} bytes, at most {most_calls} of {most_bytes}"
        );
    }
}
